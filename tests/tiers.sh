#!/usr/bin/env bash
# Stage 2 of one image in every sandbox that this machine can make: as root, with a range of ids in each
# view, with one id, where set-id programs do nothing, and in a container that is a user namespace of its
# own. A table; all of them must give one commit.
#
#   tests/tiers.sh PROGRAM FOLDER IMAGE     FOLDER has a treestrap.toml, and IMAGE in its repository; it belongs
#                                           to an account that has a subuid range
#
# For root. /dev/fuse must be open to the account. The run as root works on a copy of the folder.
set -euo pipefail
program=$(readlink -f "${1:?usage: tests/tiers.sh PROGRAM FOLDER IMAGE}")
folder=$(readlink -f "${2:?usage: tests/tiers.sh PROGRAM FOLDER IMAGE}")
image=${3:?usage: tests/tiers.sh PROGRAM FOLDER IMAGE}
[ "$(id -u)" = 0 ] || { echo "tiers: for root, who can become the others" >&2; exit 2; }
user=$(stat -c %U "$folder")
scratch=$(mktemp -d -p "${TREESTRAP_TESTS_DIR:-/var/tmp}" treestrap-tiers-XXXXXX)
trap 'rm -rf "$scratch"' EXIT
as_user=(setpriv --reuid "$user" --regid "$(id -g "$user")" --init-groups --inh-caps=-all
    env -i "HOME=$(getent passwd "$user" | cut -d: -f6)" "PATH=$PATH")
: >"$scratch/checksums"
run() { # what, folder, command…
    local what=$1 before status=0 checksum
    cd "$2"
    shift 2
    before=$(date +%s%N)
    checksum=$("$@" "$image" 2>"$scratch/errors") || status=$?
    checksum=${checksum##* }
    printf '| %-44s | %6.1f | %s |\n' "$what" "$((($(date +%s%N) - before) / 1000000))e-3" "${checksum:0:16}…"
    [ "$status" = 0 ] || { tail -n 3 "$scratch/errors" >&2; exit 1; }
    echo "$checksum" >>"$scratch/checksums"
}
configure=("$program" -q configure)
printf '| %-44s | %6s | %s |\n|---|---:|---|\n' sandbox 's' commit
for view in redirect fuse checkout fuse-cow; do
    run "tier full, view $view" "$folder" "${as_user[@]}" "${configure[@]}" --require tier=full --view "$view"
done
for view in redirect fuse-cow; do
    run "tier single, view $view" "$folder" "${as_user[@]}" "${configure[@]}" --tier single --view "$view"
done
run "tier single, no_new_privs" "$folder" "${as_user[@]}" setpriv --no-new-privs "${configure[@]}"
run "in \`unshare -Ur\`" "$folder" "${as_user[@]}" unshare -Ur "${configure[@]}"
cp -a "$folder" "$scratch/root"
chown -R root: "$scratch/root"
run "root" "$scratch/root" "${configure[@]}" --require tier=full
[ "$(sort -u "$scratch/checksums" | wc -l)" = 1 ] || { echo "tiers: they do not give the same image" >&2; exit 1; }
echo "all: $(head -n 1 "$scratch/checksums")"
