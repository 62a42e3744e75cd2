#!/bin/sh
# Puerta from the shell with redis-cli: sh redis-cli.sh [HOST [PORT]]
set -eu

# As with one plain Redis; the environment's REDISCLI_AUTH is the password, if Puerta has one.
host=${1:-127.0.0.1} port=${2:-6379}
cli() { redis-cli -h "$host" -p "$port" "$@"; }

# Keys of all nodes of the cluster, in one request.
cli mset example:greeting Hello example:name cluster
cli mget example:greeting example:name

# Many requests in one go: --pipe sends what it reads, and counts the answers.
for i in 0 1 2 3 4; do printf 'INCRBY example:%s %s\r\n' $i $i; done | cli --pipe

# All keys of all nodes, deleted in one request.
cli --scan --pattern 'example:*' | xargs redis-cli -h "$host" -p "$port" del
