#!/usr/bin/env bash
# Fuzzes every target for a while, one after the other; stops at the first that crashes.
#
#   fuzz/run.sh [SECONDS [TARGET…]]
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:-60}
shift || true
if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "fuzz: cargo-fuzz is missing: 'cargo install cargo-fuzz', and 'rustup toolchain install nightly'" >&2
    exit 3
fi
if [ $# -eq 0 ]; then
    mapfile -t targets < <(sed -n 's|^path = "targets/\(.*\)\.rs"|\1|p' Cargo.toml)
    set -- "${targets[@]}"
fi

# The seeds of the binary targets are made, not kept: a deb per compression, by dpkg itself.
seed_debs() {
    local folder compression
    command -v dpkg-deb >/dev/null || return 0
    folder=$(mktemp -d)
    mkdir -p "$folder/seed/DEBIAN" "$folder/seed/usr/share/seed" "$folder/seed/etc"
    printf 'Package: seed\nVersion: 1.0\nArchitecture: all\nMaintainer: x <x@mirror.example>\nDescription: x\n' \
        >"$folder/seed/DEBIAN/control"
    echo /etc/seed.conf >"$folder/seed/DEBIAN/conffiles"
    echo x >"$folder/seed/etc/seed.conf"
    echo x >"$folder/seed/usr/share/seed/one"
    ln "$folder/seed/usr/share/seed/one" "$folder/seed/usr/share/seed/two"
    ln -s one "$folder/seed/usr/share/seed/three"
    for compression in none gzip xz zstd; do
        dpkg-deb --root-owner-group "-Z$compression" --build "$folder/seed" "$1/$compression.deb" >/dev/null 2>&1 || true
    done
    rm -r "$folder"
}

for target in "$@"; do
    mkdir -p "corpus/$target"
    case $target in
    deb | ingest) seed_debs "corpus/$target" ;;
    *) cp -n "seeds/$target"/* "corpus/$target/" 2>/dev/null || true ;;
    esac
    echo "fuzz: $target for $seconds s"
    cargo +nightly fuzz run --fuzz-dir . "$target" -- -max_total_time="$seconds" -rss_limit_mb=2048 -timeout=20 -verbosity=0
done
echo "fuzz: $# targets, no crash"
