#!/bin/sh
# Everything the CI runs. Installs what is missing (tests/setup.sh says what and why), builds with several compilers and in several
# variants, and runs the tests of each. The last line is "N passed, N failed, N skipped"; exit code 1 if anything failed.
#
#     sh check.sh          about half an hour on two cores
#     sh check.sh --all    the longer form: ten failovers of each kind, 2,000 slots, all faults, ten minutes of fuzzing per target
#     sh check.sh NAME...  only the steps whose name holds one of these words, and what they need to be built
set -u
cd "$(dirname "$0")" || exit 1
. ./tests/setup.sh

all=
only=
fuzz_seconds=30
fuzz_seed=-seed=1 # what CI looks at is the same each time; --all looks elsewhere
for argument in "$@"; do
    case $argument in
        --all) all=yes; fuzz_seconds=600; fuzz_seed= ;;
        -*) say "usage: sh check.sh [--all] [STEP...]"; exit 64 ;;
        *) only="$only $argument" ;;
    esac
done
[ -z "$all" ] || { PUERTA_LONG=1; export PUERTA_LONG; }
PYTHONDONTWRITEBYTECODE=1
export PYTHONDONTWRITEBYTECODE

passed=0
failed=0
skipped=0
started=$(date +%s)
logs=build/check
mkdir -p $logs || exit 1

# What runs in the background ends with this shell, or with the subshell that began it.
end_together() {
    background=
    trap 'for pid in $background; do kill "$pid" 2>/dev/null && wait "$pid"; done' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
}
end_together

# Runs a command so that a signal to the shell ends both at once; without this the shell would hear it only when the command is over.
apart() {
    before_it=$background
    "$@" &
    background="$before_it $!"
    wait $!
    status=$?
    background=$before_it
    return $status
}

# A word that is in no name is told of at the end (never_met()).
met=
chosen() {
    [ -n "$only" ] || return 0
    is_chosen=1
    for word in $only; do case $1 in *"$word"*) is_chosen=0 met="$met $word" ;; esac; done
    return $is_chosen
}

never_met() {
    for word in $only; do case " $met " in *" $word "*) ;; *) say "$word" ;; esac; done
}

# Adds what a step's output says of itself: the last line that holds counts.
counts() {
    awk '/[0-9]+ (passed|failed|skipped|errors?)/ { line = $0 }
         END {
             p = f = s = 0
             n = split(line, w, /[ ,]+/)
             for (i = 2; i <= n; i++) {
                 if (w[i] ~ /^passed/) p += w[i - 1]
                 else if (w[i] ~ /^(failed|error)/) f += w[i - 1]
                 else if (w[i] ~ /^(skipped|xfailed|xpassed|deselected)/) s += (w[i] ~ /^deselected/) ? 0 : w[i - 1]
             }
             print p, f, s
         }' "$1"
}

# step NAME COMMAND...: one thing that passes or fails.
# tests NAME COMMAND...: a run of tests that counts itself.
# beside NAME COMMAND...: the same, in the background as soon as a lane is free, and told when it is over; joined() waits for them all.
step() { run_step one "$@"; }
tests() { run_step many "$@"; }

log_of() { printf '%s' "$logs/$(printf '%s' "$1" | tr -c 'a-zA-Z0-9_\n' '-').log"; }

run_step() {
    kind=$1
    name=$2
    shift 2
    chosen "$name" || return 0
    printf '== %s\n' "$name"
    begun=$(date +%s)
    log=$(log_of "$name")
    "$@" >"$log" 2>&1
    status=$?
    took=$(($(date +%s) - begun))
    told
}

# A lane has one step at a time, which has files of its own (pytest() below) and ports of its own (free_port() in tests/harness.py), their
# cluster buses 10000 above: nothing else opens ports until the lanes have joined.
lanes="1 2 3"
name_1='' name_2='' name_3='' pid_1='' pid_2='' pid_3=''

beside() {
    chosen "$1" || return 0
    free_lane $lanes
    name=$1
    log=$(log_of "$name")
    shift
    rm -f "$log.took"
    (
        end_together
        side=-$lane
        PUERTA_PORTS=$((7200 + lane * 3300))-$((10500 + lane * 3300))
        export PUERTA_PORTS
        begun=$(date +%s)
        "$@"
        status=$?
        say $(($(date +%s) - begun)) >"$log.took"
        exit $status
    ) >"$log" 2>&1 &
    eval "name_$lane=\$name pid_$lane=$!"
    background="$pid_1 $pid_2 $pid_3"
}

# free_lane LANE...: waits until one of these has no step, and names it in `lane`; the step that it had is told. What is over is seen by the
# file that it leaves: its process is there, as a zombie, until it is waited for.
free_lane() {
    while :; do
        for lane in "$@"; do
            eval "name=\$name_$lane pid=\$pid_$lane"
            [ -n "$name" ] || return 0
            log=$(log_of "$name")
            if [ -e "$log.took" ]; then
                wait "$pid"
                status=$?
                eval "name_$lane='' pid_$lane=''"
                background="$pid_1 $pid_2 $pid_3"
                printf '== %s\n' "$name"
                took=$(cat "$log.took")
                kind=many
                told
                return 0
            fi
        done
        sleep 1
    done
}

joined() {
    for one in $lanes; do free_lane "$one"; done
}

# Tells how a step went, and counts it.
told() {
    p=0 f=0 s=0
    if [ $kind = many ]; then
        # shellcheck disable=SC2046
        set -- $(counts "$log")
        p=$1 f=$2 s=$3
    elif [ $status = 0 ]; then
        p=1
    fi
    # A run that fails without a count, or counts nothing, has failed.
    if [ $status != 0 ] && [ "$f" = 0 ]; then f=1; fi
    if [ "$p" = 0 ] && [ "$f" = 0 ] && [ "$s" = 0 ]; then f=1; fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
    if [ "$f" != 0 ]; then
        say "   FAILED after $took s ($p passed, $f failed, $s skipped); the end of $log:"
        tail -60 "$log" | cut -c1-600 | sed 's/^/   | /'
    else
        say "   ok, $took s ($p passed, $s skipped)"
        grep 'needed a second try$' "$log" | sed 's/^/   /'
    fi
}

skip() {
    chosen "$1" || return 0
    printf '== %s\n   SKIPPED: %s\n' "$1" "$2"
    skipped=$((skipped + 1))
}

# ---- what is needed ----

fuzzer_works() {
    printf '%s\n' '#include <stddef.h>' '#include <stdint.h>' 'int LLVMFuzzerTestOneInput(const uint8_t *d, size_t n);' \
        'int LLVMFuzzerTestOneInput(const uint8_t *d, size_t n) { (void)d; (void)n; return 0; }' >$logs/try.c
    clang -fsanitize=fuzzer,address,undefined -o $logs/try $logs/try.c >/dev/null 2>&1
}

sanitizer_works() {
    printf 'int main(void) { return 0; }\n' >$logs/try.c
    cc -fsanitize=address,undefined -o $logs/try $logs/try.c >/dev/null 2>&1 && $logs/try
}

mongo_step="mongo servers"
page_step="the page in a browser"
# What runs against clusters and databases, with every client there is.
long_steps="integration, with filtered system calls, asan, without a heap after the seal: Redis, MongoDB, operators; every Nth socket call fails; $mongo_step"

# Playwright's library is for glibc, and for systems whose package managers bring no browser.
browser_here() { [ "$MANAGER" = apt-get ] || [ "$MANAGER" = dnf ]; }

need_page() {
    have chromium-browser || need chromium "shows the page of the admin listener" chromium - chromium - -
    need node "runs axe-core's installer" nodejs nodejs nodejs node node
    need npm "installs axe-core" npm npm nodejs-npm node npm
}

need_page_libraries() {
    if ! build/venv/bin/python -c 'import playwright' 2>/dev/null; then
        say "installing playwright (from PyPI) into build/venv: it drives the browser"
        build/venv/bin/python -m pip install -q --disable-pip-version-check playwright || fail "playwright could not be installed into build/venv"
    fi
    if ! [ -e build/node/node_modules/axe-core/axe.min.js ]; then
        say "installing axe-core (from npm) into build/node: it looks for what keeps people out"
        npm_install axe-core@4 >$logs/npm-axe.log 2>&1 || { tail -20 $logs/npm-axe.log; fail "axe-core could not be installed into build/node"; }
    fi
}

prepare() {
    INSTALL_LOG=$logs/install.log
    need_build
    need_redis
    need clang "the second compiler, and the fuzzer" clang clang clang llvm llvm
    need python3 "runs the integration tests" python3 python3 python3 python3 python3
    need ps "the tests look for child processes" procps procps procps-ng - -
    need mandoc "looks at the man pages" mandoc mandoc mandoc mandoc mandoc
    need shellcheck "looks at the service files" shellcheck shellcheck ShellCheck shellcheck hs-ShellCheck
    if [ "$(uname)" = Linux ]; then need setpriv "the tests begin as another user" util-linux setpriv util-linux - -; fi
    if chosen "$long_steps"; then
        need_haproxy
        # Debian's npm brings some 350 small packages, 26 MB: about two minutes.
        need node "runs ioredis, one of the clients that are tried" nodejs nodejs nodejs node node
        need npm "installs ioredis" npm npm nodejs-npm node npm
        # Where no package brings it, that one test is left out.
        case $MANAGER in apt-get) need promtool "checks what /metrics says" prometheus - - - - ;; brew) need promtool "checks what /metrics says" - - - prometheus - ;; esac
    fi
    if chosen "$page_step" && browser_here; then need_page; fi
    have python3 && python3 -c 'import venv, ensurepip' 2>/dev/null || need_package "python3-venv" "holds the test libraries in build/venv" python3-venv py3-pip python3-pip - -
    install_needed
    if ! fuzzer_works; then
        major=$(clang -dumpversion | cut -d. -f1)
        need_package "clang's run-time library" "libFuzzer and the sanitizers" "libclang-rt-$major-dev" compiler-rt compiler-rt - -
        install_needed
    fi
    if ! sanitizer_works && [ "$MANAGER" = dnf ]; then
        need_package "gcc's sanitizers" "AddressSanitizer" - - "libasan libubsan" - -
        install_needed
    fi
    if ! build/venv/bin/python -c 'import pytest, redis' 2>/dev/null; then
        say "installing pytest and redis (from PyPI) into build/venv: the integration tests use them"
        python3 -m venv build/venv && build/venv/bin/pip install -q pytest redis || fail "pytest and redis could not be installed into build/venv"
    fi
    if chosen "$long_steps" && ! NODE_PATH=$PWD/build/node/node_modules node -e 'require("ioredis"); require("redis")' 2>/dev/null; then
        say "installing ioredis and redis (from npm) into build/node: the clients' tests use it"
        npm_install ioredis@5 redis@5 >$logs/npm.log 2>&1 || { tail -20 $logs/npm.log; fail "ioredis and redis could not be installed into build/node"; }
    fi
    if chosen "$long_steps" || chosen "$page_step"; then
        need_mongo_drivers $logs/npm-mongo.log
        need_ferretdb
    fi
    if chosen "$page_step" && browser_here; then need_page_libraries; fi
}

prepare
make_command
MAKE="$MAKE -j$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)"
python=build/venv/bin/python
glibc=
printf '#include <stdio.h>\n__GLIBC__\n' | cc -E - 2>/dev/null | tail -1 | grep -q '^[0-9]' && glibc=yes

# ---- builds ----

for compiler in gcc clang; do
    if have $compiler; then
        step "build with $compiler, warnings are errors" $MAKE -s BUILD=build/$compiler CC=$compiler WERROR=1 all load crowd unit-build
    else
        skip "build with $compiler" "there is no $compiler on this system"
    fi
done
step "build as it is installed" sh -c "$MAKE -s all load && rm -rf build/root && $MAKE -s install DESTDIR=\$PWD/build/root PREFIX=/usr &&
    build/root/usr/bin/puerta -V && $MAKE -s uninstall DESTDIR=\$PWD/build/root PREFIX=/usr && test -z \"\$(find build/root -type f | grep -v etc)\""
$MAKE -s all load crowd >/dev/null 2>&1
sanitizers=
if sanitizer_works; then
    sanitizers=yes
    step "build asan" $MAKE -s VARIANT=asan all unit-build
fi
[ -z "$glibc" ] || step "build noheap" $MAKE -s VARIANT=noheap all
step "build faults" $MAKE -s VARIANT=faults all
step "build without MongoDB mode" sh -c "$MAKE -s BUILD=build/no-mongo NO_MONGO=1 WERROR=1 all && build/no-mongo/puerta -t redis 127.0.0.1 &&
    ! build/no-mongo/puerta -t mongo 127.0.0.1"
step "build without Redis mode" sh -c "$MAKE -s BUILD=build/no-redis NO_REDIS=1 WERROR=1 all && build/no-redis/puerta -t mongo 127.0.0.1 &&
    ! build/no-redis/puerta -t redis 127.0.0.1"
step "build without the listener of operators" sh -c "$MAKE -s BUILD=build/no-admin NO_ADMIN=1 WERROR=1 all && build/no-admin/puerta -t redis 127.0.0.1 &&
    ! build/no-admin/puerta -t redis 127.0.0.1 admin=127.0.0.1:9180"

# ---- what needs no server ----

tests "tidy" $python tests/tidy.py
tests "unit" $MAKE -s unit
if [ -n "$sanitizers" ]; then
    tests "unit asan" $MAKE -s VARIANT=asan unit
    step "replay of the fuzz corpus, asan" $MAKE -s VARIANT=asan replay
else
    skip "unit asan" "the compiler has no sanitizers here"
    step "replay of the fuzz corpus" $MAKE -s replay
fi

# Two at a time, each in a copy of its corpus so that the tree stays as it is. What they find stands in build/fuzz/NAME.crash-*.
fuzz_all() {
    $MAKE -s fuzz || return 1
    good=0 bad=0
    # shellcheck disable=SC2046
    set -- $(ls tests/fuzz/fuzz_*.c | sed 's,.*/fuzz_,,;s,\.c$,,')
    while [ $# -gt 0 ]; do
        one=$1
        two=${2:-}
        shift
        [ -z "$two" ] || shift
        fuzz_one "$one" & first=$!
        background=$first
        if [ -n "$two" ]; then fuzz_one "$two" & second=$!; background="$first $second"; fi
        if wait $first; then good=$((good + 1)); else bad=$((bad + 1)); tail -40 "$logs/fuzz-$one.log"; fi
        [ -z "$two" ] || if wait $second; then good=$((good + 1)); else bad=$((bad + 1)); tail -40 "$logs/fuzz-$two.log"; fi
        background=
    done
    say "$good passed, $bad failed"
    [ $bad = 0 ] && [ $good -gt 0 ]
}

fuzz_one() {
    rm -rf "build/fuzz/corpus-$1"
    cp -R "tests/fuzz/corpus/$1" "build/fuzz/corpus-$1" || return 1
    exec "build/fuzz/fuzz_$1" $fuzz_seed -max_total_time=$fuzz_seconds -timeout=10 -rss_limit_mb=2048 -artifact_prefix="build/fuzz/$1." -print_final_stats=1 \
        "build/fuzz/corpus-$1" >"$logs/fuzz-$1.log" 2>&1
}

if fuzzer_works; then
    tests "fuzz, $fuzz_seconds s each" fuzz_all
else
    skip "fuzz" "clang has no libFuzzer here"
fi

# ---- against a real cluster ----

# What fails is run once more, by name and for all to see: these tests share two cores with a cluster and a load, and a machine that
# stands still for a second breaks a deadline in one of hundreds now and then. A bug breaks it again.
side=
pytest() {
    cache=$logs/cache$side first=$logs/first$side.log second=$logs/second$side.log
    rm -rf "$cache"
    apart $python -m pytest -q -o cache_dir="$PWD/$cache" --durations=5 -rfE "$@" >"$first" 2>&1
    status=$?
    cat "$first"
    [ $status = 1 ] || return $status
    say "== once more, what failed:"
    apart $python -m pytest -q -o cache_dir="$PWD/$cache" --lf -rfE "$@" >"$second" 2>&1
    status=$?
    cat "$second"
    # shellcheck disable=SC2046
    set -- $(counts "$first") $(counts "$second")
    say "$2 needed a second try"
    say "$(($1 + $4)) passed, $5 failed, $(($3 + $6)) skipped"
    return $status
}
with() { # VARIANT FACTOR TESTS...: the integration tests of one variant
    variant=$1 factor=$2
    shift 2
    PUERTA=$PWD/build/$variant/puerta PUERTA_LOAD=$PWD/build/tests/load PUERTA_SLOW=$factor pytest "$@"
}

# What serves clients in every way, in both modes, by a worker that may make no other system calls than those it needs.
filtered() {
    more=
    [ -z "$all" ] || more="tests/test_redis_pubsub.py tests/test_redis_blocking.py tests/test_mongo.py tests/test_mongo_pooled.py"
    # shellcheck disable=SC2086
    PUERTA_OPTIONS="seccomp=yes" pytest tests/test_redis_core.py tests/test_redis_local.py tests/test_mongo_login.py tests/test_mongo_greet.py $more
}

# files_of KIND: what every variant runs, in parts; the drivers, and what is nearest to daily use; or all of it.
files_of() {
    ls tests/test_*.py | grep -v -e test_tools -e test_docs -e test_fake -e test_faults -e test_million -e test_page | case $1 in
        Redis) grep test_redis ;;
        MongoDB) grep test_mongo | grep -v drivers ;;
        operators) grep -v -e test_redis -e test_mongo -e test_clients -e command_table ;;
        daily) grep -e test_clients -e command_table -e drivers -e redis_core -e redis_moves ;;
        all) cat ;;
    esac
}

# The long runs go side by side, since each waits for most of its time: the longest first, so that the lanes end together. Where the guard
# stands, the build that has it runs everything but the drivers: it is the program as it is, and aborts at a heap call after the seal. The
# program without it then runs the drivers, and what is nearest to daily use.
# shellcheck disable=SC2046
for kind_of in Redis MongoDB operators; do
    if [ -n "$sanitizers" ]; then
        beside "integration asan: $kind_of" with asan 3 $(files_of $kind_of)
    else
        skip "integration asan: $kind_of" "the compiler has no sanitizers here"
    fi
    if [ -n "$glibc" ]; then
        beside "integration without a heap after the seal: $kind_of" with noheap 1 $(files_of $kind_of)
    else
        skip "integration without a heap after the seal: $kind_of" "the guard stands on glibc"
    fi
done
if [ "$MANAGER" = apt-get ]; then
    beside "builds for other systems" apart sh tests/cross.sh
else
    skip "builds for other systems" "qemu-user-static is Debian's"
fi
daily=daily
if [ -z "$glibc" ] || [ -n "$all" ]; then daily=all; fi
# shellcheck disable=SC2046
beside "integration" pytest $(files_of $daily)
# The page is the same for each build; behind it is the one that aborts at a heap call, where there is that.
page_variant=$([ ! -x build/noheap/puerta ] || say noheap)
if browser_here; then
    beside "$page_step" with "$page_variant" 2 tests/test_page.py
else
    skip "$page_step" "Playwright has no library for this system"
fi
beside "every Nth socket call fails" with faults 1 tests/test_faults.py tests/test_faults_mongo.py
if [ "$(uname)" = Linux ]; then
    beside "integration with filtered system calls" filtered
else
    skip "integration with filtered system calls" "seccomp is of Linux"
fi
beside "$mongo_step" pytest tests/test_fake_mongos.py
beside "a million answers" pytest tests/test_million.py
beside "tests of the tools" pytest tests/test_tools.py
beside "documents" pytest tests/test_docs.py
joined
step "demo" sh demo.sh --once
step "demo of MongoDB mode" sh demo.sh mongo --once

for word in $(never_met); do
    say "no step has \"$word\" in its name"
    failed=$((failed + 1))
done
say "took $(($(date +%s) - started)) s"
say "$passed passed, $failed failed, $skipped skipped"
[ $failed = 0 ] && [ $passed -gt 0 ]
