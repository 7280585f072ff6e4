#!/usr/bin/env bash
# Kills `treestrap configure` (SIGKILL, which nothing can catch) at random moments of a real stage 2, and
# looks each time for what it left: processes, mounts, folders. Then the image is made once more.
#
#   tests/killed.sh PROGRAM FOLDER [MOMENTS]    FOLDER has a treestrap.toml whose first image is built
#                                               already, and belongs to the account that is to run it
#
# For root, who sees the mounts of every process. SEED=… repeats the moments of an earlier run. OPTIONS=…
# are more options of `configure`.
set -euo pipefail
program=$(readlink -f "${1:?usage: tests/killed.sh PROGRAM FOLDER [MOMENTS]}")
folder=$(readlink -f "${2:?usage: tests/killed.sh PROGRAM FOLDER [MOMENTS]}")
moments=${3:-20}
[ "$(id -u)" = 0 ] || { echo "killed: only root sees the mounts of every process" >&2; exit 2; }
RANDOM=${SEED:=$(date +%s)}
user=$(stat -c %U "$folder")
scratch=$(mktemp -d -p "${TREESTRAP_TESTS_DIR:-/var/tmp}" treestrap-killed-XXXXXX)
chown "$user:" "$scratch"
trap 'rm -rf "$scratch"' EXIT
cd "$folder"
image=$(sed -n 's/^\[images\.\(.*\)\]/\1/p' treestrap.toml | head -n 1)
repo=$folder/.treestrap/repo
# With a folder of its own for temporary files, and a state folder beside it.
as_user=(setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups --inh-caps=-all
    env -i "HOME=$(getent passwd "$user" | cut -d: -f6)" "PATH=$PATH" "TMPDIR=$scratch/tmp" "XDG_STATE_HOME=$scratch/state")
"${as_user[@]}" mkdir "$scratch/tmp" "$scratch/state"
read -r -a options <<<"${OPTIONS:-}"
configure=("${as_user[@]}" "$program" -q configure "${options[@]}" "$image")

# PID/START of a process and all below it: a number alone may be another's by now.
family() {
    local pid children
    for pid in "$@"; do
        echo "$pid/$(started "$pid")"
        children=$(cat "/proc/$pid/task/"*/children 2>/dev/null || true)
        # shellcheck disable=SC2086 # numbers, as words
        family $children
    done
}
started() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20 || true; }
alive() {
    local one
    for one in "$@"; do
        [ "$(started "${one%/*}")" != "${one#*/}" ] || [ "${one#*/}" = "" ] || echo "${one%/*}"
    done
}
mounts() { cat /proc/[0-9]*/mountinfo 2>/dev/null | grep -cF "$repo" || true; }
# .lock stays: it keeps a sweep apart from who makes a folder.
folders() { find "$repo/extensions/treestrap/work" "$scratch/tmp" -mindepth 1 -maxdepth 1 ! -name .lock 2>/dev/null || true; }

before=$(date +%s%N)
expected=$("${configure[@]}")
length=$((($(date +%s%N) - before) / 1000000))
echo "$expected, in $length ms; killed at $moments moments, SEED=$SEED"
failed=0
printf '%8s %10s %10s %10s %8s %8s\n' 'at, ms' processes 'gone, ms' left mounts folders
for _ in $(seq "$moments"); do
    moment=$(((RANDOM * 32768 + RANDOM) % length))
    # A process group of its own, so that nothing but the signal below reaches it.
    setsid "${configure[@]}" >/dev/null 2>&1 &
    process=$!
    sleep "$(printf '%d.%03d' $((moment / 1000)) $((moment % 1000)))"
    mapfile -t members < <(family "$process")
    kill -KILL "$process" 2>/dev/null || true
    killed=$(date +%s%N)
    { wait "$process" || true; } 2>/dev/null # which says that it was killed
    # What is killed goes away in its own time: the kernel takes mounts and processes down.
    for _ in $(seq 100); do
        left=$(alive "${members[@]}")
        [ -n "$left$(folders)" ] || [ "$(mounts)" != 0 ] || break
        sleep 0.05
    done
    gone=$((($(date +%s%N) - killed) / 1000000))
    left_mounts=$(mounts) left_folders=$(folders | wc -l)
    printf '%8d %10d %10d %10d %8d %8d\n' "$moment" "${#members[@]}" "$gone" "$(wc -w <<<"$left")" "$left_mounts" "$left_folders"
    [ -z "$left" ] && [ "$left_mounts" = 0 ] && [ "$left_folders" = 0 ] || { failed=1; folders >&2; }
done
again=$("${configure[@]}")
[ "$again" = "$expected" ] || { echo "killed: made again it is another image: $again" >&2; failed=1; }
staged=$(find "$repo/tmp" -mindepth 1 -maxdepth 1 -name 'staging-*' ! -name '*-lock' | wc -l)
echo "made again: $again; staging folders of killed runs in the repository: $staged"
[ "$failed" = 0 ] || { echo "killed: something was left" >&2; exit 1; }
