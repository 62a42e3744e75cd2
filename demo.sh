#!/bin/sh
# A short live tour: a Redis Cluster of 3 masters and 3 replicas (real redis-server processes, temporary folder, free ports), Puerta in
# front of it. Runs until Ctrl-C, which leaves nothing behind.
#
#     sh demo.sh           the tour, then stays up to be tried
#     sh demo.sh --once    the tour, checks its own results, exits 0 or 1
#     sh demo.sh mongo [--once]    the same for MongoDB mode: three scripted mongos before a FerretDB (tests/demo_mongo.py)
set -u
cd "$(dirname "$0")" || exit 1
. ./tests/setup.sh

once=
mode=redis
for argument in "$@"; do
    case $argument in
        --once) once=yes ;;
        mongo) mode=mongo ;;
        *) say "usage: sh demo.sh [mongo] [--once]"; exit 64 ;;
    esac
done

if [ $mode = mongo ]; then
    mkdir -p build
    INSTALL_LOG=build/install.log
    need_build
    need_haproxy
    need python3 "runs the tour and the scripted mongos" python3 python3 python3 python3 python3
    have python3 && python3 -c 'import venv, ensurepip' 2>/dev/null || need_package "python3-venv" "holds the test libraries in build/venv" python3-venv py3-pip python3-pip - -
    install_needed
    make_command
    [ -x build/venv/bin/python ] || python3 -m venv build/venv || fail "no build/venv"
    build/venv/bin/python -c 'import pymongo' 2>/dev/null || build/venv/bin/python -m pip install -q pymongo || fail "pymongo could not be installed into build/venv"
    need_ferretdb
    $MAKE -s all || fail "the build failed"
    PYTHONPATH=tests PYTHONDONTWRITEBYTECODE=1 exec build/venv/bin/python tests/demo_mongo.py ${once:+--once}
fi

need_build
need_redis
install_needed
make_command

dir=$(mktemp -d "${TMPDIR:-/tmp}/puerta-demo.XXXXXX") || exit 1
pids=
bad=0

cleanup() {
    trap '' INT TERM
    for pid in $pids; do kill -TERM "$pid" 2>/dev/null; done
    # A node that saves nothing ends at once; whatever has not after a second is killed.
    tries=0
    for pid in $pids; do
        while kill -0 "$pid" 2>/dev/null && [ $tries -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
        kill -KILL "$pid" 2>/dev/null
    done
    wait 2>/dev/null
    rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

head_line() { printf '\n--- %s\n' "$*"; }
good() { say "    ok: $*"; }
wrong() { say "    WRONG: $*"; bad=$((bad + 1)); }
give_up() {
    say "demo.sh: $*" >&2
    [ ! -f "$dir/puerta.log" ] || tail -20 "$dir/puerta.log" >&2
    exit 1
}

# Waits until a command says yes, 0.1 s at a time, so many times at most.
until_true() {
    left=$1
    shift
    while ! "$@" >/dev/null 2>&1; do
        left=$((left - 1))
        [ "$left" -gt 0 ] || return 1
        sleep 0.1
    done
}

seed=$$
random_port() {
    seed=$(awk -v s="$seed" 'BEGIN { srand(s); print int(rand() * 1000000) }')
    port=$((11000 + seed % 10000))
}

is_ours() { redis-cli -p "$1" info server 2>/dev/null | grep -q "process_id:$2"; }
dead_or_ours() { ! kill -0 "$2" 2>/dev/null || is_ours "$1" "$2"; }

# Starts a node on some free port; leaves port and pid.
start_node() {
    attempts=0
    while [ $attempts -lt 20 ]; do
        attempts=$((attempts + 1))
        random_port
        mkdir "$dir/$port" 2>/dev/null || continue
        redis-server --port "$port" --bind 127.0.0.1 --dir "$dir/$port" --cluster-enabled yes --cluster-node-timeout 2000 --save '' \
            --appendonly no --daemonize no --cluster-replica-validity-factor 0 --repl-diskless-sync yes --repl-diskless-sync-delay 0 \
            >"$dir/$port/log" 2>&1 &
        pid=$!
        until_true 100 dead_or_ours "$port" "$pid"
        if is_ours "$port" "$pid"; then
            pids="$pids $pid"
            return 0
        fi
        # The port belongs to somebody else.
        kill -KILL "$pid" 2>/dev/null
    done
    give_up "no redis-server could be started; see: $(tail -3 "$dir/$port/log" 2>/dev/null)"
}

field() { redis-cli -p "$1" info "$2" | tr -d '\r' | sed -n "s/^$3://p"; }
is_master() { [ "$(field "$1" replication role)" = master ]; }
all_linked() {
    for p in $ports; do
        [ "$(redis-cli -p "$p" cluster info | tr -d '\r' | sed -n 's/^cluster_state://p')" = ok ] || return 1
        is_master "$p" || [ "$(field "$p" replication master_link_status)" = up ] || return 1
    done
}
caught_up() { [ "$(field "$1" replication master_repl_offset)" = "$(field "$2" replication slave_repl_offset)" ]; }
serves() { [ "$(redis-cli -p "$1" set demo:ready 1 2>/dev/null)" = OK ]; }
answered() { [ "$(load_count)" -ge "$1" ]; }
load_count() { sed -n 's/.*answers \([0-9]*\).*/\1/p' "$dir/load" | tail -1 | grep . || say 0; }
load_figure() { sed -n "s/^answers .*$1 \([0-9]*\).*/\1/p;s/^\($1\) \([0-9]*\) .*/\2/p" "$dir/load" | head -1; }

start_load() {
    # shellcheck disable=SC2086
    build/tests/load -a "127.0.0.1:$front" -c 20 -n 1000000000 -m 120 -b 65536 -v -w "$dir/missing" $1 >"$dir/load" 2>&1 &
    load=$!
    pids="$pids $load"
    until_true 300 answered 5000 || give_up "the load got no answers: $(tail -5 "$dir/load")"
}

end_load() {
    more=$(($(load_count) + 5000))
    until_true 300 answered $more || wrong "the load got no further answers"
    kill -TERM "$load"
    wait "$load"
    load_status=$?
    grep -E '^(error|readback|slowest|answers)' "$dir/load" | sed 's/^/    /'
}

head_line "building"
$MAKE -s all load || give_up "the build failed"
say "    $(ls -l build/puerta | awk '{ print $5 }') bytes: build/puerta"

head_line "a Redis Cluster: 3 masters, 3 replicas"
ports=
for i in 1 2 3 4 5 6; do
    start_node
    ports="$ports $port"
    eval "pid_$port=$pid"
done
addresses=
for p in $ports; do addresses="$addresses 127.0.0.1:$p"; done
# shellcheck disable=SC2086
redis-cli --cluster create $addresses --cluster-replicas 1 --cluster-yes >"$dir/create" 2>&1 || give_up "$(tail -5 "$dir/create")"
until_true 300 all_linked || give_up "the cluster did not become whole"
first=$(say "$addresses" | awk '{ print $1 }')
redis-cli -p "${first#*:}" cluster nodes | awk '{ sub(/@.*/, "", $2); sub(/myself,/, "", $3); printf "    %-16s %-7s %s\n", $2, $3, $9 }'

head_line "Puerta in front"
attempts=0
while :; do
    attempts=$((attempts + 1))
    [ $attempts -lt 10 ] || give_up "puerta could not be started"
    random_port
    front=$port
    cat >"$dir/puerta.conf" <<CONF
[puerta]
chunks = 1024

[redis demo]
listen = 127.0.0.1:$front
nodes = $(say "$addresses" | sed 's/^ //;s/ /, /g')
failover_wait = 15s
CONF
    build/puerta -c "$dir/puerta.conf" 2>"$dir/puerta.log" &
    puerta=$!
    until_true 100 serves "$front" && break
    kill -TERM "$puerta" 2>/dev/null
    wait "$puerta" 2>/dev/null
done
pids="$puerta $pids"
say "    build/puerta -c $dir/puerta.conf"

head_line "keys on different nodes, one address"
some=${first#*:}
for pair in color=green city=Lima fruit=mango bird=condor river=Rimac; do
    key=${pair%%=*}
    value=${pair#*=}
    redis-cli -p "$front" set "$key" "$value" >/dev/null
    printf '    %-6s asked of %s: %-32s through Puerta: %s\n' "$key" "$some" "$(redis-cli -p "$some" get "$key")" "$(redis-cli -p "$front" get "$key")"
done
all=$(redis-cli -p "$front" mget river bird fruit city color | tr '\n' ' ')
say "    MGET over all of them: $all"
[ "$all" = "Rimac condor mango Lima green " ] && good "five keys, one MGET, in order" || wrong "MGET answered: $all"

head_line "slots move while 20 clients pipeline"
start_load ''
to=$(redis-cli -p "$some" cluster nodes | awk '/master/ && !/myself/ { print $1; exit }')
from=$(redis-cli -p "$some" cluster myid)
slots=200
redis-cli --cluster reshard "$first" --cluster-from "$from" --cluster-to "$to" --cluster-slots $slots --cluster-yes >"$dir/reshard" 2>&1 ||
    wrong "redis-cli: $(tail -3 "$dir/reshard")"
say "    $slots slots moved by redis-cli --cluster reshard"
end_load
if [ $load_status = 0 ]; then good "no error, nothing wrong, nothing missing"; else wrong "see above"; fi

head_line "a master is killed while 20 clients pipeline"
start_load -e
replica=$(redis-cli -p "$some" cluster nodes | awk -v m="$from" '$4 == m { sub(/@.*/, "", $2); sub(/.*:/, "", $2); print $2; exit }')
# Redis replicates behind its answers. Its replica may catch up first, so that every acknowledged write has to be found afterwards.
redis-cli -p "$some" client pause 60000 write >/dev/null
until_true 100 caught_up "$some" "$replica" || wrong "the replica did not catch up"
eval "victim=\$pid_$some"
kill -KILL "$victim"
say "    killed the master on port $some; its replica is on port $replica"
if until_true 300 is_master "$replica"; then good "the replica was promoted"; else wrong "the replica was not promoted"; fi
end_load
if [ $load_status = 0 ]; then good "nothing wrong, every acknowledged write is there"; else wrong "see above"; fi
odd=$(grep '^error ' "$dir/load" | grep -v -e 'outcome unknown' -e 'not executed' -e 'no answer: ' -e 'lost in the middle')
[ -z "$odd" ] && good "errors only of the named kinds" || wrong "$odd"
for key in color city fruit bird river; do
    [ "$(redis-cli -p "$front" set "$key" "after" 2>&1)" = OK ] || wrong "SET $key fails after the failover"
done

head_line "what it takes: puerta -t"
build/puerta -t -c "$dir/puerta.conf" >"$dir/report" || wrong "puerta -t failed"
sed -n '/^# memory/,$p' "$dir/report" | sed 's/^/    /'
grep -q '^# total' "$dir/report" && good "known before the first client connects" || wrong "no total in the report"

kill -0 "$puerta" 2>/dev/null || wrong "puerta has ended"
if [ $bad -gt 0 ]; then tail -20 "$dir/puerta.log"; fi
if [ -n "$once" ]; then
    kill -TERM "$puerta"
    wait "$puerta"
    status=$?
    [ $status = 0 ] || wrong "puerta ended with $status"
    head_line "$bad results wrong"
    [ $bad = 0 ]
    exit
fi

head_line "try it (Ctrl-C ends everything)"
say "    redis-cli -p $front"
say "    redis-benchmark -p $front -t get,set -P 16 -q"
say "    build/tests/load -a 127.0.0.1:$front -n 100000 -v"
say "    the log: $dir/puerta.log"
trap 'say; say "ended; nothing is left"; exit 0' INT
while kill -0 "$puerta" 2>/dev/null; do sleep 1; done
give_up "puerta has ended"
