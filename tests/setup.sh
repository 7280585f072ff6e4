#!/usr/bin/env bash
# Prepares a Debian machine: installs the packages that are missing and makes the accounts that
# the tests run as. It says what it does and why, does nothing (and needs no root) where nothing
# is missing, and asks nothing.
#
#   tests/setup.sh build      what compiling needs
#   tests/setup.sh demo       … and what making an image as an unprivileged user needs
#   tests/setup.sh tests      … and what the tests compare with, and run as
#   tests/setup.sh bench      … and what the bench measures beside it
set -euo pipefail
cd "$(dirname "$0")/.."

purpose=${1:-tests}
case $purpose in
build | demo | tests | bench) ;;
*) echo "usage: tests/setup.sh build|demo|tests|bench" >&2; exit 2 ;;
esac

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 3; }
has() { command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || [ -x "/sbin/$1" ]; }

# Root is needed only from here on, and only where something is missing.
as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif has sudo; then
        # without a terminal sudo cannot ask for a password: fail at once, do not hang
        if [ -t 0 ]; then sudo -- "$@"; else sudo -n -- "$@"; fi
    else
        die "this needs root, and there is no sudo: run 'make setup' as root, once"
    fi
}

missing=()
# need PACKAGE "WHY" CHECK…: the package is missing unless the check succeeds.
need() {
    local package=$1 why=$2
    shift 2
    "$@" >/dev/null 2>&1 && return
    say "missing: $package ($why)"
    missing+=("$package")
}

static_libc() { [ -e "$(cc -print-file-name=libc.a)" ] || [ -e "/usr/lib/$(uname -m)-linux-gnu/libc.a" ]; }
tests() { [ "$purpose" = tests ] || [ "$purpose" = bench ]; }
headers() { echo '#include <stdio.h>' | cc -E - ; }

need gcc            "the linker, and the C parts of the compression libraries" has cc
need libc6-dev      "C headers, and the static libc of the binfmt dispatcher"  eval 'headers && static_libc'
need pkg-config     "finds libostree"                                          has pkg-config
need libostree-dev  "the library that reads and writes OSTree repositories"    pkg-config --exists ostree-1
if [ "$purpose" != build ]; then
    need uidmap     "newuidmap: maps the subordinate ids of an unprivileged user" has newuidmap
fi
if tests; then
    need ostree      "oracle: ostree fsck, ls and checkout"                  has ostree
    need gpgv        "oracle: verifies the miniature archive's signatures"   has gpgv
    need libcap2-bin "setcap and getcap: file capabilities in the tests"     has setcap
    need strace      "proof that compose opens no file object"               has strace
    need mmdebstrap  "oracle: an image by apt and dpkg, to compare with"      has mmdebstrap
    need multistrap  "makes folders that are finished here, and whole ones"  has multistrap
    need debootstrap "likewise"                                              has debootstrap
    need fakeroot    "both run in it, as an ordinary user"                   has fakeroot
    need apparmor    "oracle: takes the profile for Ubuntu"                  has apparmor_parser
    need ninja-build "oracle: drives a build by what treestrap ninja writes"  has ninja
    need python3     "what compares images with those"                       has python3
fi
if [ "$purpose" = bench ]; then
    need time             "processor time and memory of what is measured"           [ -x /usr/bin/time ]
    need qemu-user-static "runs the scripts of other systems' foreign images"       has qemu-arm-static
    need arch-test        "mmdebstrap asks it whether foreign images can be made"   has arch-test
fi

if [ ${#missing[@]} -gt 0 ]; then
    has apt-get || die "this is not a Debian machine: install the equivalents of ${missing[*]}"
    say "installing: ${missing[*]}"
    install_missing() {
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends "${missing[@]}" >&2
    }
    # the indexes that are there may do, unless they name versions that are gone from the mirror
    if ! compgen -G '/var/lib/apt/lists/*_Packages*' >/dev/null || ! install_missing; then
        as_root apt-get update -qq >&2 && install_missing || die "apt could not install: ${missing[*]}"
    fi
fi

# Rust is not installed for you: which one, and whose, is for the user to decide.
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
cargo=${CARGO:-cargo}
if ! command -v "$cargo" >/dev/null; then
    die "missing: cargo (Rust $wanted or newer). Either 'apt-get install rustup && rustup default stable' (Debian 13 and later), or the installer that https://rustup.rs describes"
fi
have=$("$cargo" --version | sed -n 's/^cargo \([0-9]*\.[0-9]*\).*/\1/p')
if [ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -n 1)" != "$wanted" ]; then
    die "cargo is $have, and treestrap needs Rust $wanted or newer: 'rustup update stable'"
fi

# has_range USER: whether /etc/subuid and /etc/subgid give the user 65536 ids to map.
has_range() {
    local file
    for file in /etc/subuid /etc/subgid; do
        awk -F: -v user="$1" -v id="$(id -u "$1")" \
            '($1 == user || $1 == id) && $3 >= 65536 { found = 1 } END { exit !found }' "$file" 2>/dev/null || return 1
    done
}

# give_range USER: adds a range behind all that are given out already.
give_range() {
    local start
    start=$(cat /etc/subuid /etc/subgid 2>/dev/null |
        awk -F: 'BEGIN { next_free = 100000 } $2 + $3 > next_free { next_free = $2 + $3 } END { print next_free }')
    say "giving $1 the subordinate ids $start-$((start + 65535)) (/etc/subuid, /etc/subgid)"
    as_root usermod --add-subuids "$start-$((start + 65535))" --add-subgids "$start-$((start + 65535))" "$1"
}

# account NAME "WHY": an account that nobody can log in to.
account() {
    getent passwd "$1" >/dev/null && return
    say "creating the account $1 ($2)"
    as_root useradd --create-home --shell /bin/sh --comment "$2" "$1"
}

if [ "$purpose" != build ]; then
    if [ "$(id -u)" = 0 ]; then
        account treestrap-test "makes images without root"
        has_range treestrap-test || give_range treestrap-test
        if tests; then
            account treestrap-nosub "has no subordinate ids, for the tests"
            # useradd hands out a range to every new account: this one is here for having none
            for file in /etc/subuid /etc/subgid; do
                if grep -qs '^treestrap-nosub:' "$file"; then
                    sed -i '/^treestrap-nosub:/d' "$file"
                fi
            done
        fi
    else
        has_range "$(id -un)" || give_range "$(id -un)"
    fi
fi
