#!/bin/sh
# Notes in the folder which script ran, with which arguments, and which owners it saw.
set -e
folder=$1
shift
case $folder in
    /*/) ;;
    *) echo "not a whole path with a slash at its end: $folder" >&2; exit 9 ;;
esac
status=$folder/var/lib/dpkg/status
{
    echo "${0##*/} $*"
    for path in etc/shadow var/mail usr/bin/wall usr/bin/chage usr/bin/ssh-agent tmp; do
        [ -e "$folder$path" ] && stat -c '    %u:%g %a %n' "$folder$path" | sed "s#$folder##"
    done
    for state in unpacked installed; do
        echo "    $state: $(grep -c "^Status: install ok $state\$" "$status" || :)"
    done
    (cd "$folder" && find etc/apt/sources.list.d tmp/preseeds -type f -size +0) | sort | sed 's/^/    /'
} >>"$folder/var/log/scripts.log"
