"""Servers of our own for the tests, for what no real server can be made to do: mongos.py stands for a mongos of a sharded cluster."""
