"""What this machine is and what it lends: versions, processors, the file system, who works, the host's binfmt_misc.

Peers need a registered emulator for foreign images, which treestrap does not: it is registered only while they run.
"""
import contextlib
import datetime
import os
import pathlib
import platform
import pwd
import shutil
import subprocess

PATH = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The account that tests/setup.sh makes: what a root's bench measures is what an ordinary account gets.
ACCOUNT = "treestrap-test"
PACKAGES = ("apt", "dpkg", "mmdebstrap", "multistrap", "debootstrap", "ostree", "qemu-user-static", "uidmap")
BINFMT = pathlib.Path("/proc/sys/fs/binfmt_misc")
EMULATORS = {"armhf": "arm", "armel": "arm", "arm64": "aarch64", "riscv64": "riscv64", "ppc64el": "ppc64le", "s390x": "s390x"}


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def has(program):
    return shutil.which(program, path=PATH) is not None


def is_root():
    return os.geteuid() == 0


def account():
    """User and group of who works without root."""
    if not is_root():
        return os.getuid(), os.getgid()
    entry = pwd.getpwnam(ACCOUNT)
    return entry.pw_uid, entry.pw_gid


def as_account():
    """What stands before a command that runs without root."""
    if not is_root():
        return []
    user, group = map(str, account())
    return ["setpriv", "--reuid", user, "--regid", group, "--init-groups", "--inh-caps=-all", "--"]


def versions(program):
    """Of treestrap and every other program that is measured, by the name of its package."""
    found = {"treestrap": output(program, "--version").removeprefix("treestrap ")}
    for package in PACKAGES:
        done = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", package], capture_output=True, text=True)
        found[package] = done.stdout.strip() or "not installed"
    return found


def describe(folder):
    """What is printed beside the numbers."""
    model = [line.split(":", 1)[1].strip() for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    memory = int(pathlib.Path("/proc/meminfo").read_text().split()[1])
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d"),
        "kernel": platform.release().split("-")[0],
        "processors": os.cpu_count(),
        "model": model[0] if model else platform.machine(),
        "memory_gib": round(memory / (1 << 20)),
        "file_system": output("stat", "-f", "-c", "%T", folder).replace("ext2/ext3", "ext4"),
        "architecture": output("dpkg", "--print-architecture"),
        "load": os.getloadavg()[0],
    }


@contextlib.contextmanager
def emulator(architecture):
    """While this lasts, the host's kernel starts programs of `architecture`; says why not where it cannot.

    What was mounted and registered here is gone afterwards, what was there before stays."""
    reason, mounted, entry = None, False, BINFMT / f"qemu-{EMULATORS[architecture]}"
    try:
        if not is_root():
            reason = "registering an emulator needs root"
        elif not (line := registration(entry.name)):
            reason = "qemu-user-static is not installed"
        else:
            if not (BINFMT / "register").exists():
                subprocess.run(["mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT], check=True, capture_output=True, text=True)
                mounted = True
            if entry.exists():
                entry = None
            else:
                (BINFMT / "register").write_text(line)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = f"the kernel takes no emulator: {getattr(error, 'stderr', None) or error}".strip()
    try:
        yield reason
    finally:
        if entry and not reason and entry.exists():
            entry.write_text("-1")
        if mounted:
            subprocess.run(["umount", BINFMT], check=False)


def registration(name):
    """The line for the kernel that qemu-user-static brings along, for systemd-binfmt."""
    path = pathlib.Path(f"/usr/lib/binfmt.d/{name}.conf")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line for line in lines if line.startswith(f":{name}:")), None)
