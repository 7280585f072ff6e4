#!/bin/sh
# fetch.sh FOLDER SUITE ARCHITECTURE [--only] PACKAGE…
#
# Downloads packages of a suite, with all that they need, to FOLDER/debs; with --only just these
# packages, those that there are. The archive is the one that apt is set up for on this machine, and
# apt's are the choice and the checks. Nothing of the machine's own apt is changed.
#
# Security updates are left out: they do not reach all architectures at the same time.
set -eu
export LC_ALL=C
folder=$1 suite=$2 architecture=$3
shift 3
mkdir -p "$folder/debs" "$folder/state/lists/partial" "$folder/archives/partial" "$folder/etc"
: > "$folder/state/status"
apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' | sort -u | grep -v security |
    while read -r uri; do
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $uri $suite main"
    done > "$folder/etc/sources.list"
cat > "$folder/apt.conf" << END
Dir::Etc::sourcelist "$folder/etc/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
Dir::State "$folder/state";
Dir::State::status "$folder/state/status";
Dir::Cache::archives "$folder/archives";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
APT::Architecture "$architecture";
APT::Architectures { "$architecture"; };
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Debug::NoLocking "true";
END
export APT_CONFIG="$folder/apt.conf"
apt-get -qq update
if [ "$1" = --only ]; then
    shift
    apt-cache pkgnames | sort > "$folder/known"
    cd "$folder/debs"
    for package; do echo "$package"; done | sort | comm -12 - "$folder/known" | xargs apt-get -qq download
else
    apt-get -qq -y --download-only install '?essential' "$@"
    mv "$folder"/archives/*.deb "$folder/debs/"
fi
