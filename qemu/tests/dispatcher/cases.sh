# Runs inside the namespaces, with the test's folder as working directory. What it prints is
# compared line by line. `foreign` has a twin, `alone` has none, `lost` one that is not there.
set -e
mount -t binfmt_misc binfmt_misc /proc/sys/fs/binfmt_misc
# An ELF file for a machine that there never was.
printf ':test:M:18:\\xed\\xfe::%s:POCF\n' "$PWD/interpreter" > /proc/sys/fs/binfmt_misc/register
rm interpreter # F: it's open already
here=$PWD
run() { echo "$1:"; shift; "$@" || echo "  status $?"; }

run absolute "$here/foreign" one 'two words' ''
run relative ./foreign
run environment env TWIN=is-told ./foreign
run argv0 bash -c 'exec -a -login ./foreign x'
ln -s foreign link && run link ./link
ln foreign hard && run hard-link ./hard
cp foreign moved && run renamed ./moved
printf '#!%s -option\n' "$here/foreign" > script && chmod +x script && run script ./script argument | sed "s:$here:HERE:g"
mkdir folder && (cd folder && PATH=$here && run path foreign)
cp foreign doomed && exec 9<doomed && rm doomed && run deleted /proc/self/fd/9 && exec 9<&-
run without-twin ./alone a b
run twin-missing ./lost x
cp foreign changed && printf x >> changed && run changed ./changed
cp foreign changed && printf x | dd of=changed bs=1 seek=100 conv=notrunc status=none && run patched ./changed
mkdir root && cp foreign root/ && run chroot chroot root /foreign in-chroot
mkdir root/old && run pivot-root unshare -m sh -c 'mount --bind root root; cd root; pivot_root . old; exec /foreign pivoted'
run self ./foreign self
run no-arguments ./start without-arguments ./foreign
run no-arguments-in-qemu ./start without-arguments ./alone
run in-folder ./start in-folder "$here" foreign
run descriptor ./start descriptor ./foreign
run descriptor-in-qemu ./start descriptor ./alone
run closing-descriptor ./start closing-descriptor ./foreign 2>&1
printf '#!%s\n' "$here/alone" > script && run script-in-qemu ./script argument
chmod 111 alone && run unreadable ./alone
run blocked-signal env --block-signal=CHLD ./alone
run end-of-output sh -c '(./alone linger seen &) | cat; touch seen; ls nobody* 2>/dev/null'
run exec-of-twin ./alone exec ./foreign after
run killed ./alone die 9 2>&1
# Those of programs that have ended go; one may not have its name yet.
drain() { sleep 0.2; while grep -q treestrap-watch /proc/[0-9]*/comm 2>/dev/null; do sleep 0.01; done; }
drain
# The watcher has the program's process and the log open, pid 1 as its parent, and no arguments.
./alone linger never > /dev/null &
until grep -q treestrap-watch /proc/[0-9]*/comm; do sleep 0.01; done
sleep 0.1
echo watcher:
for process in /proc/[0-9]*; do
    test "$(cat "$process/comm")" = treestrap-watch || continue
    echo "  $(ls "$process/fd" | wc -l) descriptors, child of $(cut -d' ' -f4 "$process/stat"), $(tr -d '\0' < "$process/cmdline" | wc -c) bytes of arguments, in $(readlink "$process/cwd")"
done
touch never
if [ "$MAPPED" = many ]; then
    cp foreign setuid && chmod 4755 setuid && chmod 755 . && run set-id setpriv --reuid 33 --regid 33 --clear-groups ./setuid
    cp foreign setother && chown 34 setother && chmod 4755 setother && run set-other-id setpriv --reuid 33 --regid 33 --clear-groups ./setother
    cp foreign capable && ./start give-capability capable && run capable setpriv --reuid 33 --regid 33 --clear-groups ./capable
    run no-process setpriv --reuid 33 --regid 33 --clear-groups prlimit --nproc=1 ./alone
    run unreadable-to-others setpriv --reuid 33 --regid 33 --clear-groups ./alone
fi
# The last watchers have to write before pid 1, this shell, ends.
drain
