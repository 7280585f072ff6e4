#!/usr/bin/env bash
# Times file-heavy work in each of the sandbox's views of one image, beside the same tree as a plain
# folder (an unshared chroot, no sandbox) and below fuse-overlayfs, where that is installed. A table
# of milliseconds, the least of all rounds: other work on the machine only ever adds.
#
#   tests/views.sh PROGRAM [FOLDER]     FOLDER has a treestrap.toml whose first image, for the host's
#                                       architecture, is built already; left out: the embedded example
#
# Run by root, it works as the account TREESTRAP_TEST_USER (default: treestrap-test), and measures with
# cold caches, too. /dev/fuse must be open to that account, or the views that need it are left out.
set -euo pipefail
cd "$(dirname "$0")/.."

program=$(readlink -f "${1:?usage: tests/views.sh PROGRAM [FOLDER]}")
rounds=${ROUNDS:-3}
scratch=$(mktemp -d -p "${TREESTRAP_TESTS_DIR:-/var/tmp}" treestrap-views-XXXXXX)
chmod 755 "$scratch"
user=${TREESTRAP_TEST_USER:-treestrap-test}
as_user=()
if [ "$(id -u)" = 0 ]; then
    as_user=(setpriv --reuid "$user" --regid "$user" --init-groups --inh-caps=-all env "HOME=$scratch")
fi
in_namespace=(unshare --user --map-root-user --map-auto --mount --pid --fork)
# files of mapped ids can be removed by who maps them
trap '"${as_user[@]}" "${in_namespace[@]}" rm -rf "$scratch"/plain "$scratch"/upper "$scratch"/work || true; rm -rf "$scratch"' EXIT

install -m 755 "$program" "$scratch/treestrap"
folder=${2:-$scratch/image}
if [ -z "${2:-}" ]; then
    mkdir "$folder"
    sed "s/^arch .*/arch = \"$(dpkg --print-architecture)\"/" examples/embedded/treestrap.toml >"$folder/treestrap.toml"
fi
[ "$(id -u)" != 0 ] || [ -n "${2:-}" ] || chown -R "$user:" "$scratch"
[ "$(id -u)" != 0 ] || chown "$user:" "$scratch"
cd "$folder"
image=$(sed -n 's/^\[images\.\(.*\)\]/\1/p' treestrap.toml | head -n 1)
treestrap() { "${as_user[@]}" "$scratch/treestrap" -q "$@"; }
[ -n "${2:-}" ] || treestrap build "$image" >/dev/null

# The same tree as a plain folder, with its owners.
"${as_user[@]}" mkdir "$scratch/plain" "$scratch/upper" "$scratch/work" "$scratch/merged"
treestrap export "$image" --tar - | "${as_user[@]}" "${in_namespace[@]}" tar -x --numeric-owner --xattrs -C "$scratch/plain" -f -

# Runs inside. Each measurement waits for a line, so that the caches can be emptied before it.
work='
measure() {
    name=$1; shift
    read -r go
    start=$(date +%s%N)
    sh -c "$1" >/dev/null 2>&1 || true
    end=$(date +%s%N)
    echo "$name $(((end - start) / 1000))"
}
echo "started $(date +%s%N)"
measure "find, cold" "find / -xdev -printf \"%s %u %m %p\\n\""
measure "find" "find / -xdev -printf \"%s %u %m %p\\n\""
measure "tar c, cold" "tar -C / --exclude=./proc --exclude=./sys --exclude=./dev --exclude=./run --exclude=./tmp -cf - . | cat"
measure "tar c" "tar -C / --exclude=./proc --exclude=./sys --exclude=./dev --exclude=./run --exclude=./tmp -cf - . | cat"
measure "dpkg -V, cold" "dpkg -V"
measure "dpkg -V" "dpkg -V"
measure "copy up /usr/bin" "touch /usr/bin/*"
measure "write 2000 files" "mkdir /root/new; cd /root/new; for i in \$(seq 2000); do echo \$i >\$i; done"
measure "remove them" "rm -rf /root/new"
measure "write 1 MiB with O_SYNC" "dd if=/bin/bash of=/root/synced bs=4k count=256 oflag=sync"
'
declare -A best
note() { # column row microseconds
    local key="$1/$2"
    if [ -z "${best[$key]:-}" ] || [ "$3" -lt "${best[$key]}" ]; then best[$key]=$3; fi
}
run() { # column command…
    local column=$1 line name value before
    shift
    before=$(date +%s%N)
    coproc INSIDE { "$@" sh -c "$work" 2>"$scratch/errors"; }
    local process=$INSIDE_PID input=${INSIDE[1]} output
    exec {output}<&"${INSIDE[0]}"
    while read -r line <&"$output"; do
        value=${line##* } name=${line% *}
        if [ "$name" = started ]; then
            note "$column" "start, to the first instruction" $(((value - before) / 1000))
        else
            note "$column" "$name" "$value"
        fi
        case $name in
        started | find | "tar c") [ "$(id -u)" != 0 ] || { sync; echo 3 >/proc/sys/vm/drop_caches; } ;;
        esac
        echo go >&"$input" 2>/dev/null || true
    done
    exec {output}<&-
    wait "$process" || { echo "views: $column: $(tail -n 2 "$scratch/errors")" >&2; return 0; }
}
# from nothing to the end of `true`
whole() { # column command…
    local column=$1 before
    shift
    before=$(date +%s%N)
    "$@" true 2>/dev/null || return 0
    note "$column" "true, start to end" $((($(date +%s%N) - before) / 1000))
}

plain=("${as_user[@]}" "${in_namespace[@]}" chroot "$scratch/plain")
overlay=("${as_user[@]}" "${in_namespace[@]}" sh -c '
    cd "$1"; shift
    fuse-overlayfs -o lowerdir=plain,upperdir=upper,workdir=work merged && exec chroot merged "$@"' sh "$scratch")
columns=(plain)
command -v fuse-overlayfs >/dev/null && columns+=(fuse-overlayfs)
columns+=(checkout redirect fuse fuse-cow)
for round in $(seq "$rounds"); do
    for column in "${columns[@]}"; do
        case $column in
        plain) command=("${plain[@]}") ;;
        fuse-overlayfs) command=("${overlay[@]}") ;;
        *) command=("${as_user[@]}" "$scratch/treestrap" -q run --view "$column" "$image" --) ;;
        esac
        whole "$column" "${command[@]}"
        run "$column" "${command[@]}"
        case $column in
        plain | fuse-overlayfs) ;;
        *)
            [ "$round" = 1 ] || continue # it takes longest
            before=$(date +%s%N)
            treestrap configure --view "$column" "$image" >>"$scratch/checksums" 2>/dev/null || continue
            note "$column" "stage 2" $((($(date +%s%N) - before) / 1000))
            ;;
        esac
    done
done

echo "$(date -u +%F), $(uname -r), $(nproc) processors, $(stat -f -c %T "$scratch"), the least of $rounds rounds, ms"
if [ "$(sort -u "$scratch/checksums" 2>/dev/null | wc -l)" -gt 1 ]; then
    echo "views: they do not give the same image" >&2
    exit 1
fi
printf '| %-31s |' ''
printf ' %14s |' "${columns[@]}"
printf '\n|%s|' "$(printf -- '-%.0s' {1..33})"
for _ in "${columns[@]}"; do printf -- '---------------:|'; done
printf '\n'
for row in "start, to the first instruction" "true, start to end" "find, cold" "find" "tar c, cold" "tar c" \
    "dpkg -V, cold" "dpkg -V" "copy up /usr/bin" "write 2000 files" "remove them" "write 1 MiB with O_SYNC" "stage 2"; do
    case $row in *cold) [ "$(id -u)" = 0 ] || continue ;; esac
    printf '| %-31s |' "$row"
    for column in "${columns[@]}"; do
        value=${best[$column/$row]:-}
        printf ' %14s |' "${value:+$((value / 1000))}"
    done
    printf '\n'
done
