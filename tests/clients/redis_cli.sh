#!/bin/sh
# The common set of operations, by redis-cli: redis_cli.sh HOST:PORT plain|cluster [PASSWORD]     (cluster: with -c)
#
# Speaks RESP2, or with RESP=3 in the environment RESP3. Prints "ok N operations" and exits with 0, or prints the first one that failed and exits
# with 1. redis_py.py, ioredis.js and node_redis.js do the same, in the same order, and more: what a connection holds. Its keys begin with a prefix
# of its own and are deleted in the end. REDIS_CLI names another redis-cli.
set -u

if [ $# -lt 2 ] || [ $# -gt 3 ]; then echo "usage: redis_cli.sh HOST:PORT plain|cluster [PASSWORD]" >&2; exit 64; fi
host=${1%:*}
port=${1##*:}
case $2 in
    plain) dash_c= ;;
    cluster) dash_c=-c ;;
    *) echo "redis_cli.sh: the mode is plain or cluster" >&2; exit 64 ;;
esac
password=${3:-}

prefix=redis_cli:$$:
tag="{$prefix}" # keys of one slot
numbers=$(i=0; while [ $i -lt 100 ]; do echo $i; i=$((i + 1)); done)
many=$(for i in $numbers; do echo "${prefix}many:$i"; done) # keys of many slots
count=0
dir=$(mktemp -d "${TMPDIR:-/tmp}/redis_cli.XXXXXX") || exit 1

# One command, or what comes from stdin, a command a line.
talk() {
    if [ -n "$password" ]; then REDISCLI_AUTH=$password; export REDISCLI_AUTH; else unset REDISCLI_AUTH; fi
    "${REDIS_CLI:-redis-cli}" ${RESP:+-$RESP} $dash_c -h "$host" -p "$port" "$@"
}
cli() { talk "$@" </dev/null 2>&1; }
# The same command on each of the keys: "{}" stands for the key.
on_all() { for key in $many; do printf '%s\n' "$1" | sed "s/{}/$key/g"; done | talk 2>&1; }

cleanup() {
    exec 3>&-
    cli --scan --pattern "*$prefix*" | sed 's/^/del /' | talk >/dev/null
    rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

failed() { printf 'failed: %s\n' "$*" | tr '\n' ' ' | cut -c1-600; exit 1; }
check() { # WHAT GOT WANTED
    [ "$2" = "$3" ] || failed "$1: got $2, wanted $3"
    count=$((count + 1))
}
check_like() { # WHAT GOT PATTERN
    # shellcheck disable=SC2254
    case $2 in $3) count=$((count + 1)) ;; *) failed "$1: got $2, wanted $3" ;; esac
}
check_that() { # WHAT COMMAND...
    what=$1
    shift
    "$@" || failed "$what: not so: $*"
    count=$((count + 1))
}
repeat() { for i in $numbers; do printf '%s\n' "$1"; done; }
together() { tr '\n' ' ' | sed 's/ *$//'; }

# ---- strings ----
check "SET" "$(cli set "${prefix}string" one)" OK
check "GET" "$(cli get "${prefix}string")" one
check "SET NX of a key that is there" "$(cli set "${prefix}string" two nx)" ""
check "SET GET" "$(cli set "${prefix}string" two get)" one
check "APPEND" "$(cli append "${prefix}string" +three)" 9
check "GETRANGE" "$(cli getrange "${prefix}string" 4 -1)" three
printf 'a\r\nb\0c\377' >"$dir/bytes"
talk -x set "${prefix}string" <"$dir/bytes" >/dev/null
cli get "${prefix}string" >"$dir/got"
echo >>"$dir/bytes"
check_that "line ends and zeros in a value" cmp -s "$dir/bytes" "$dir/got"

# ---- counters ----
check "INCR" "$(cli incr "${prefix}counter")" 1
check "INCRBY" "$(cli incrby "${prefix}counter" 41)" 42
check "DECR" "$(cli decr "${prefix}counter")" 41
check "INCRBYFLOAT" "$(cli incrbyfloat "${prefix}counter" 0.5)" 41.5

# ---- expiry ----
cli set "${prefix}expiry" v ex 100 >/dev/null
ttl=$(cli ttl "${prefix}expiry")
check_that "SET EX and TTL" [ $((ttl > 90 && ttl <= 100)) = 1 ]
check "PERSIST" "$(cli persist "${prefix}expiry") $(cli ttl "${prefix}expiry")" "1 -1"
cli pexpireat "${prefix}expiry" 1 >/dev/null
check "PEXPIREAT in the past" "$(cli get "${prefix}expiry")" ""

# ---- hashes ----
check "HSET" "$(cli hset "${prefix}hash" a 1 b 2)" 2
check "HGETALL" "$(cli hgetall "${prefix}hash" | together)" "a 1 b 2"
check "HMGET" "$(cli hmget "${prefix}hash" b none)" 2
check "HINCRBY" "$(cli hincrby "${prefix}hash" a 5)" 6
check "HDEL" "$(cli hdel "${prefix}hash" a b)" 2

# ---- lists ----
check "RPUSH" "$(cli rpush "${tag}list" a b c)" 3
check "LRANGE" "$(cli lrange "${tag}list" 0 -1 | together)" "a b c"
check "LPOP of two" "$(cli lpop "${tag}list" 2 | together)" "a b"
check "LMOVE" "$(cli lmove "${tag}list" "${tag}list2" left right) $(cli llen "${tag}list")" "c 0"

# ---- sets ----
check "SADD" "$(cli sadd "${tag}set" a b c)" 3
check "SMEMBERS" "$(cli smembers "${tag}set" | sort | together)" "a b c"
cli sadd "${tag}set2" b >/dev/null
check "SINTER" "$(cli sinter "${tag}set" "${tag}set2")" b

# ---- sorted sets ----
check "ZADD" "$(cli zadd "${prefix}zset" 1 a 2 b 3 c)" 3
check "ZRANGE WITHSCORES" "$(cli zrange "${prefix}zset" 0 -1 withscores | together)" "a 1 b 2 c 3"
check "ZINCRBY" "$(cli zincrby "${prefix}zset" 9 a)" 10
check "ZRANGEBYSCORE" "$(cli zrangebyscore "${prefix}zset" 2 3 | together)" "b c"

# ---- other types ----
cli setbit "${prefix}bits" 7 1 >/dev/null
check "SETBIT and BITCOUNT" "$(cli bitcount "${prefix}bits")" 1
cli pfadd "${prefix}hll" a b a >/dev/null
check "PFADD and PFCOUNT" "$(cli pfcount "${prefix}hll")" 2
added=$(cli xadd "${prefix}stream" '*' field value)
check "XADD and XRANGE" "$(cli xrange "${prefix}stream" - + | together)" "$added field value"

# ---- many slots ----
# shellcheck disable=SC2046,SC2086
{
    check "MSET over slots" "$(cli mset $(for k in $many; do echo "$k v$k"; done))" OK
    check "MGET over slots" "$(cli mget $many)" "$(for k in $many; do echo "v$k"; done)"
    check "EXISTS over slots" "$(cli exists $many)" 100
    check "TOUCH over slots" "$(cli touch $many)" 100
    check "UNLINK over slots" "$(cli unlink $(echo "$many" | head -50))" 50
    check "DEL over slots" "$(cli del $many)" 50
    check "MGET of keys that are gone" "$(cli mget $many)" ""
}

# ---- names ----
cli set "${tag}old" v >/dev/null
check "RENAME" "$(cli rename "${tag}old" "${tag}new")" OK
check "COPY" "$(cli copy "${tag}new" "${tag}copy")" 1
check "TYPE" "$(cli type "${tag}copy")" string

# ---- pipelines: --pipe sends all, and counts the answers ----
# shellcheck disable=SC2086
set -- $many
said=$(for k in $many; do printf 'SET %s 1\r\nINCR %s\r\nGET %s\r\n' "$k" "$k" "$k"; done | talk --pipe 2>&1)
check_like "a pipeline over slots" "$said $(cli mget "$@" | sort -u)" "*errors: 0, replies: 300 2"
check_like "an error within a pipeline" "$(printf 'GET %s\r\nLPUSH %s x\r\nGET %s\r\n' "$1" "$2" "$3" | talk --pipe 2>&1)" "*WRONGTYPE*errors: 1, replies: 3"

# ---- the whole keyspace: MANY are there again ----
echo "$many" | sort >"$dir/many"
cli --scan | sort -u >"$dir/all"
check "SCAN of all keys" "$(comm -23 "$dir/many" "$dir/all")" ""
check "SCAN MATCH" "$(cli --scan --pattern "${prefix}many:*" | sort -u)" "$(cat "$dir/many")"
check "KEYS" "$(cli keys "${prefix}many:*" | sort)" "$(cat "$dir/many")"
check_that "DBSIZE" [ "$(cli dbsize)" -ge 100 ]
# shellcheck disable=SC2046
cli hset "${prefix}wide" $(i=0; while [ $i -lt 1000 ]; do echo "$i $i"; i=$((i + 1)); done) >/dev/null
cursor=
: >"$dir/fields"
while [ "$cursor" != 0 ]; do
    cli hscan "${prefix}wide" "${cursor:-0}" count 400 >"$dir/part"
    cursor=$(head -1 "$dir/part")
    sed 1d "$dir/part" >>"$dir/fields"
    case $cursor in '' | *[!0-9]*) break ;; esac
done
check "HSCAN" "$(sort -u "$dir/fields" | wc -l | tr -d ' ')" 1000

# ---- scripts: the helper is --eval, which sends EVAL ----
check "EVAL" "$(cli eval 'return {KEYS[1], ARGV[1]}' 1 "$1" x | together)" "$1 x"
echo "return redis.call('INCRBY', KEYS[1], ARGV[1]) -- $prefix" >"$dir/helper.lua"
check "the script helper, a new script" "$(cli --eval "$dir/helper.lua" "$1" , 8)" 10
sha=$(cli script load "$(cat "$dir/helper.lua")")
shift
check "the script helper on all nodes" "$(for k in "$@"; do echo "evalsha $sha 1 $k 8"; done | talk)" "$(repeat 10 | sed 1d)"
sha=$(cli script load "return 'loaded' -- $prefix")
check "SCRIPT LOAD and EVALSHA" "$(on_all "evalsha $sha 1 {}")" "$(repeat loaded)"
unknown=0000000000000000000000000000000000000000
check "SCRIPT EXISTS" "$(cli script exists "$sha" $unknown | together)" "1 0"
check_like "EVALSHA of an unknown script" "$(cli evalsha $unknown 1 "$1")" "NOSCRIPT *"

# ---- functions ----
name=redis_cli_$$_
check "FUNCTION LOAD" "$(cli function load "#!lua name=$name
redis.register_function{function_name='${name}get', callback=function(k) return redis.call('GET', k[1]) end, flags={'no-writes'}}")" $name
check "FCALL on all nodes" "$(on_all "fcall ${name}get 1 {}")" "$(repeat 10)"
check "FCALL_RO" "$(cli fcall_ro ${name}get 1 "$1")" 10
check_like "FUNCTION LIST" "$(cli function list libraryname $name)" "*$name*"
check "FUNCTION DELETE" "$(cli function delete $name)" OK

# ---- about the server ----
check_like "INFO" "$(cli info server)" "*redis_version:[789].*"
check "CLIENT SETNAME and GETNAME" "$(printf 'client setname redis_cli\nclient getname\n' | talk | together)" "OK redis_cli"
check_like "CLIENT LIST" "$(printf 'client setname redis_cli\nclient list\n' | talk)" "*name=redis_cli *"
check "CONFIG GET" "$(cli config get maxmemory-policy | together)" "maxmemory-policy noeviction"
check_that "COMMAND COUNT" [ "$(cli command count)" -gt 200 ]

# ---- large values ----
yes "$(printf '%07d' $$)" | head -n 524288 >"$dir/large"
check "SET of 4 MiB" "$(talk -x set "${prefix}large" <"$dir/large")" OK
cli get "${prefix}large" >"$dir/got"
{ cat "$dir/large"; echo; } >"$dir/wanted"
check_that "GET of 4 MiB" cmp -s "$dir/wanted" "$dir/got"
check "STRLEN" "$(cli strlen "${prefix}large")" 4194304
for i in 1 2 3; do head -n 131072 "$dir/large" | talk -x rpush "${prefix}large:list" >/dev/null; done
check "LRANGE of 3 x 1 MiB" "$(cli lrange "${prefix}large:list" 0 -1 | sed '/^$/d' | wc -l | tr -d ' ')" 393216

# ---- errors ----
check "WRONGTYPE" "$(cli lpush "$1" x)" "WRONGTYPE Operation against a key holding the wrong kind of value"
check "CROSSSLOT" "$(cli rename "$1" "$2")" "CROSSSLOT Keys in request don't hash to the same slot"
check_like "an unknown command" "$(cli nosuch "$1")" "ERR unknown command 'nosuch'*"
check_like "a wrong number of arguments" "$(cli get "$1" x)" "ERR wrong number of arguments*"

# ---- reconnect: one redis-cli, which hears from here what to say next ----
mkfifo "$dir/say"
talk <"$dir/say" >"$dir/heard" 2>&1 &
exec 3>"$dir/say"
echo "client id" >&3
tries=0
until [ -s "$dir/heard" ] || [ $tries = 100 ]; do sleep 0.1; tries=$((tries + 1)); done
before=$(head -1 "$dir/heard")
# It notices the closed connection by the PING, says so, and connects again for what follows.
printf 'client kill id %s skipme no\nping\nget %s\nclient id\n' "$before" "$1" >&3
exec 3>&-
wait $!
check "CLIENT KILL of itself" "$(sed -n 2p "$dir/heard")" 1
check "the next command, on a new connection" "$(tail -2 "$dir/heard" | head -1)" 10
check_that "CLIENT ID is another" [ "$(tail -1 "$dir/heard")" -ne "$before" ]

# ---- passwords ----
if [ -n "$password" ]; then
    key=$1
    right=$password dash=$dash_c dash_c=
    password=
    check_like "no password" "$(cli get "$key")" "*NOAUTH *uthenticat*" # RESP3 begins with HELLO, which has a text of its own
    password=wrong
    check_like "a wrong password" "$(cli get "$key")" "*WRONGPASS invalid username-password pair*"
    dash_c=$dash
    check_like "a wrong password, by the mode's client" "$(cli get "$key")" "*NOAUTH *uthenticat*"
    password=$right
fi

echo "ok $count operations"
