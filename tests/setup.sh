# Sourced by check.sh and demo.sh: finds what they need and installs what is missing, saying what and why.
#
#     need COMMAND WHY APT APK DNF BREW PKG     notes the package that brings COMMAND on this system, if COMMAND is missing
#     install_needed                            installs all that was noted, in one go
#
# Packages come from the system's package manager only. Debian's redis-server package would start a service on port 6379 when it is
# installed: /usr/sbin/policy-rc.d, where nobody else has put one, keeps it from starting and is taken away again.

wanted=

say() { printf '%s\n' "$*"; }
fail() { printf '%s: %s\n' "$0" "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

manager() {
    for m in apt-get apk dnf brew pkg; do
        if have "$m"; then say "$m"; return; fi
    done
}
MANAGER=$(manager)

need() {
    have "$1" || need_package "$@"
}

need_package() {
    case $MANAGER in
        apt-get) package=$3 ;;
        apk) package=$4 ;;
        dnf) package=$5 ;;
        brew) package=$6 ;;
        pkg) package=$7 ;;
        *) fail "$1 is missing ($2), and no package manager known to this script is here: install it by hand" ;;
    esac
    [ "$package" = - ] && fail "$1 is missing ($2): install it by hand"
    say "missing: $1 ($2); will install: $package"
    wanted="$wanted $package"
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif have sudo; then sudo "$@"
    else fail "must be root (or have sudo) to run: $*"
    fi
}

install_apt() {
    policy=/usr/sbin/policy-rc.d
    made=
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' > "${TMPDIR:-/tmp}/policy-rc.d.$$"
        as_root install -m 755 "${TMPDIR:-/tmp}/policy-rc.d.$$" "$policy"
        rm -f "${TMPDIR:-/tmp}/policy-rc.d.$$"
        made=yes
    fi
    status=0
    as_root apt-get update -q >/dev/null || say "apt-get update failed; trying with what is known"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" || status=1
    [ -z "$made" ] || as_root rm -f "$policy"
    return $status
}

install_needed() {
    [ -n "$wanted" ] || return 0
    say "installing with $MANAGER:$wanted"
    # shellcheck disable=SC2086
    case $MANAGER in
        apt-get) install_apt $wanted ;;
        apk) as_root apk add --no-cache $wanted ;;
        dnf) as_root dnf install -y -q $wanted ;;
        brew) brew install -q $wanted ;;
        pkg) as_root env ASSUME_ALWAYS_YES=yes pkg install $wanted ;;
    esac >"${INSTALL_LOG:-/dev/null}" 2>&1 || { [ -z "${INSTALL_LOG:-}" ] || tail -20 "$INSTALL_LOG"; fail "the packages could not be installed:$wanted"; }
    wanted=
}

need_build() {
    need cc "compiles Puerta" gcc gcc gcc - -
    if [ "$MANAGER" = apt-get ] && ! [ -e /usr/include/stdio.h ]; then need_package libc6-dev "the C library's headers" libc6-dev - - - -; fi
    if [ "$MANAGER" = apk ] && ! [ -e /usr/include/stdio.h ]; then need_package musl-dev "the C library's headers" - musl-dev - - -; fi
    if [ "$MANAGER" = pkg ]; then need gmake "GNU make" - - - - gmake; else need make "builds it" make make make make -; fi
}

need_redis() {
    need redis-server "the nodes of the cluster that Puerta stands before" redis-server redis redis redis redis
    need redis-cli "talks to them" redis-tools redis redis redis redis
}

make_command() {
    if have gmake; then MAKE=gmake; else MAKE=make; fi
}
