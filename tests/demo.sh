#!/usr/bin/env bash
# Makes the ARMv7 image of examples/embedded/treestrap.toml as an unprivileged user, from the
# archive that this machine's apt sources name, runs a command in it, and says what was made and
# how long each stage took.
#
#   tests/demo.sh PROGRAM     the treestrap program to use
set -euo pipefail
cd "$(dirname "$0")/.."

program=$(readlink -f "${1:?usage: tests/demo.sh PROGRAM}")
example=examples/embedded
image=embedded

# Root only prepares; the image is made by an account that has no privilege at all.
if [ "$(id -u)" = 0 ]; then
    user=treestrap-test
    home=$(getent passwd $user | cut -d: -f6)
    folder=$home/demo
    # the tree may be below a folder that the account cannot enter
    rm -f "$folder/treestrap"
    install -d -o $user -g $user "$folder"
    install -m 0755 "$program" "$folder/treestrap"
    install -m 0644 -o $user -g $user -t "$folder" $example/*
    program=$folder/treestrap
    as_user() {
        (cd "$folder" && setpriv --reuid $user --regid $user --init-groups --inh-caps=-all --reset-env env \
            "HOME=$home" LANG=C.UTF-8 "PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin" "${proxies[@]}" "$@")
    }
else
    user=$(id -un)
    folder=$PWD/target/demo
    mkdir -p "$folder"
    cp $example/* "$folder"
    as_user() { (cd "$folder" && "$@"); }
fi
# a proxy that root was told of is the account's way out too
proxies=()
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY all_proxy; do
    [ -z "${!name:-}" ] || proxies+=("$name=${!name}")
done

# The example names suites alone: apt's sources say where they are. Where those name another
# release only, its mirrors have this one too.
if command -v apt-get >/dev/null; then
    apt_sources=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null | sort -u)
    for suite in bookworm bookworm-security; do
        case $suite in *-security) archive=-security ;; *) archive= ;; esac
        if ! grep -q "^$suite " <<<"$apt_sources"; then
            uri=$(sed -n "s|^[a-z]*$archive \(.*\)/\$|\1|p" <<<"$apt_sources" | head -n 1)
            [ -z "$uri" ] || sed -i "/^suites *= *\[\"$suite\"/i uris = [\"$uri\"]" "$folder/treestrap.toml"
        fi
    done
fi

printf 'demo: making the image %s as %s in %s\n' $image "$user" "$folder"
table=()
stage() {
    local start=${EPOCHREALTIME/[.,]/}
    as_user "$program" "$@" || { local status=$?; echo "demo: treestrap $* failed" >&2; exit $status; }
    table+=("$(printf '%-10s %8.1f s' "$1" "$(((${EPOCHREALTIME/[.,]/} - start) / 100000))e-1")")
}
stage lock $image
stage fetch $image
stage compose $image
stage configure $image

printf '\ndemo: inside the image\n'
as_user "$program" run $image -- sh -c 'uname -m; dpkg -l | wc -l'

printf '\ndemo: what was made\n'
printf '%-10s %s\n' \
    user "$user (uid $(id -u "$user"))" \
    lock "$folder/$image.lock, $(grep -c '^Package:' "$folder/$image.lock") packages" \
    repository "$folder/.treestrap/repo, $(du -sh "$folder/.treestrap/repo" | cut -f1)" \
    refs "deb/images/$image/unpacked, deb/images/$image/configured" \
    image "$(as_user "$program" build $image 2>/dev/null)"
printf '\ndemo: how long it took\n'
printf '%s\n' "${table[@]}"
