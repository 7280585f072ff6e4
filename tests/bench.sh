#!/usr/bin/env bash
# Times the stages of the embedded image, from nothing, and then the build that has nothing left
# to do; beside mmdebstrap, where it is installed, on the same packages of the same architecture.
# Only ratios inside one run mean anything: machines and mirrors differ.
#
#   tests/bench.sh PROGRAM [ARCHITECTURE]     default: the host's own
set -euo pipefail
cd "$(dirname "$0")/.."

program=$(readlink -f "${1:?usage: tests/bench.sh PROGRAM [ARCHITECTURE]}")
architecture=${2:-$(dpkg --print-architecture)}
folder=$(mktemp -d -p "${TREESTRAP_TESTS_DIR:-/var/tmp}" treestrap-bench-XXXXXX)
trap 'rm -rf "$folder"' EXIT
chmod 755 "$folder"
cp "$program" "$folder/treestrap"
sed "s/^arch .*/arch = \"$architecture\"/" examples/embedded/treestrap.toml >"$folder/treestrap.toml"

# root measures what an ordinary account gets
as_user=()
if [ "$(id -u)" = 0 ]; then
    chown -R treestrap-test: "$folder"
    as_user=(setpriv --reuid treestrap-test --regid treestrap-test --init-groups --inh-caps=-all --)
fi

declare -A took
measure() {
    local name=$1 start=${EPOCHREALTIME/[.,]/}
    shift
    (cd "$folder" && HOME=$folder "${as_user[@]}" "$@" >"$folder/output" 2>&1) || {
        tail -n 20 "$folder/output" >&2
        echo "bench: $name failed" >&2
        exit 1
    }
    took[$name]=$(((${EPOCHREALTIME/[.,]/} - start) / 1000))
    printf '%-28s %9d ms\n' "$name" "${took[$name]}"
}

echo "bench: examples/embedded for $architecture, $(nproc) processors, $(uname -r)"
total=0
for stage in lock fetch compose configure; do
    measure "$stage" ./treestrap "$stage"
    total=$((total + took[$stage]))
done
measure "build, nothing to do" ./treestrap build
printf '%-28s %9d ms\n' "treestrap, all of it" "$total"
if command -v mmdebstrap >/dev/null; then
    packages=$(sed -n '/^packages/,/\]/p' "$folder/treestrap.toml" | grep -o '"[^"]*"' | tr -d '"' | paste -sd,)
    measure "mmdebstrap" mmdebstrap --quiet --mode=unshare --variant=essential --architectures="$architecture" \
        --include="$packages" bookworm image.tar
    awk -v ours="$total" -v theirs="${took[mmdebstrap]}" 'BEGIN { printf "%-28s %9.2f\n", "treestrap / mmdebstrap", ours / theirs }'
else
    echo "bench: mmdebstrap is not installed: nothing to compare with"
fi
