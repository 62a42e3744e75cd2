"""Puerta from Python with redis-py (pip install redis): python redis-py.py [HOST [PORT]]"""
import sys

import redis

host = sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1"
port = int(sys.argv[2]) if len(sys.argv) > 2 else 6379

# As with one plain Redis; add password="..." if Puerta has one.
r = redis.Redis(host=host, port=port, decode_responses=True)

# Keys of all nodes of the cluster, in one request.
r.mset({"example:greeting": "Hello", "example:name": "cluster"})
print(" ".join(r.mget("example:greeting", "example:name")))

# Many requests in one go. transaction=False because the keys of a transaction share a slot.
with r.pipeline(transaction=False) as pipe:
    for i in range(5):
        pipe.incrby("example:%d" % i, i)
    print(pipe.execute())

keys = sorted(r.scan_iter(match="example:*"))
print(keys, r.delete(*keys))
