#!/bin/sh
# Compiles Puerta for systems that are not at hand, warnings being errors, and runs the unit tests on one of them: a big-endian machine of
# 32 bits, as many routers are. The compiler is zig's (clang, with the headers of all of these systems), from PyPI, in an environment of its own.
#
#     sh tests/cross.sh                 all of them
#     sh tests/cross.sh TARGET...       these, by zig's names
set -u
cd "$(dirname "$0")/.." || exit 1
. ./tests/setup.sh

need qemu-mips-static "runs the unit tests on another machine" qemu-user-static - - - -
install_needed
here=mips-linux-musleabi # and its unit tests run, by qemu
targets=${*:-"x86_64-openbsd-none x86_64-freebsd-none x86_64-netbsd-none aarch64-macos-none arm-linux-musleabihf riscv64-linux-musl $here"}
zig=build/zig/bin/python

if ! [ -x $zig ] || ! $zig -c 'import ziglang' 2>/dev/null; then
    say "installing ziglang (from PyPI) into build/zig: it compiles for other systems"
    python3 -m venv build/zig && build/zig/bin/pip install -q --disable-pip-version-check ziglang || fail "ziglang could not be installed into build/zig"
fi
zig="$PWD/$zig -m ziglang cc -target"
make_command
MAKE="$MAKE -s -j$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)"

good=0 bad=0
tell() { # STATUS NAME
    if [ "$1" = 0 ]; then good=$((good + 1)); say "ok   $2"; else bad=$((bad + 1)); say "FAIL $2"; fi
}

for target in $targets; do
    $MAKE BUILD="build/cross/$target" CC="$zig $target" CFLAGS=-O1 WERROR=1 objects
    tell $? "$target"
    [ "$target" = $here ] || continue
    $MAKE BUILD="build/cross/$target" CC="$zig $target" CFLAGS=-O1 LDFLAGS=-static unit-build
    tell $? "$target, unit tests"
    for one in build/cross/"$target"/unit/test_*; do
        case $one in
            *.d) continue ;;
            */test_guard | */test_net) continue ;; # qemu has no seccomp, and passes on this machine's error numbers in SO_ERROR
        esac
        qemu-mips-static "$one" >"build/cross/$target/unit.log" 2>&1
        status=$?
        tell $status "$one"
        [ $status = 0 ] || tail -20 "build/cross/$target/unit.log"
    done
done
say "$good passed, $bad failed"
[ $bad = 0 ] && [ $good -gt 0 ]
