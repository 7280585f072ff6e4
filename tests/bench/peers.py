"""The other systems: what each is told, so that all make the same set from the same mirror, and leave a folder.

A folder, since a tar would cost mmdebstrap a second or two more, and the removal of the tree that it packs would slow
whoever comes next (see measure.py). Where a system cannot do without root it has root; services that scripts start stay
in a process namespace of their own.
"""
import pathlib

import machine
from measure import Step
from sets import SETS, SUITE

MULTISTRAP = """[General]
noauth=false
unpack=true
bootstrap=Debian
aptsources=Debian
setupscript={place}/policy
[Debian]
packages={packages}
source={mirror}
suite={suite}
keyring=debian-archive-keyring
omitdebsrc=true
"""

# Scripts that start services have to be told not to, where the tool itself does not care.
POLICY = '#!/bin/sh\nprintf "#!/bin/sh\\nexit 101\\n" >"$1/usr/sbin/policy-rc.d"\nchmod 755 "$1/usr/sbin/policy-rc.d"\n'

# What a chroot needs, in a mount namespace: scripts look at /proc and write to /dev/null.
CHROOT = """root=$1; shift
mkdir -p "$root/proc" "$root/dev" "$root/tmp" "$root/run"
mount -t proc proc "$root/proc"
mount -t tmpfs dev "$root/dev"
for node in null zero full random urandom tty; do touch "$root/dev/$node"; mount --bind "/dev/$node" "$root/dev/$node"; done
ln -s /proc/self/fd "$root/dev/fd"
exec chroot "$root" "$@"
"""

# multistrap's manual: the second stage of a foreign folder begins with the scripts that others need done, and the
# packages that configuring for the first time leaves out for want of others are done by the second.
SECOND_STAGE = """[ ! -x /var/lib/dpkg/info/dash.preinst ] || /var/lib/dpkg/info/dash.preinst install
dpkg --configure -a || dpkg --configure -a
"""

# What apt2ostree does before it starts dpkg: accounts that scripts look up, dash's preinst, no services, no insserv, awk.
# It starts dpkg once, which is not enough for bookworm: base-files and nginx-common want base-passwd's groups before it is
# their turn.
APT2OSTREE = """root=$1
echo root:x:0:0:root:/root:/bin/bash >"$root/etc/passwd"
echo root:x:0: >"$root/etc/group"
printf '#!/bin/sh\\nexit 101\\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
ln -sf mawk "$root/usr/bin/awk"
"""
APT2OSTREE_STAGE = """[ ! -x /var/lib/dpkg/info/dash.preinst ] || /var/lib/dpkg/info/dash.preinst install
dpkg-divert --local --rename --add /usr/lib/insserv/insserv
mkdir -p /usr/lib/insserv
ln -sf ../../../bin/true /usr/lib/insserv/insserv
ln -sf ../bin/true /sbin/insserv
dpkg --configure -a || dpkg --configure -a
rm -f /etc/machine-id
"""
COMMIT = """tar -C "$1" --exclude=./proc/* --exclude=./dev/* -c . |
    ostree --repo="$2" commit --branch="$3" --no-bindings --orphan --timestamp=0 --tree=tar=/dev/stdin"""


def shell(script, *arguments):
    return ["sh", "-euc", script, "sh", *arguments]


def alone(*command):
    """In namespaces of its own: no process of it stays."""
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", *command]


def chroot(root, *command):
    return ["unshare", "--mount", "--pid", "--fork", "--kill-child", *shell(CHROOT, root, *command)]


class Peer:
    """A system; `steps` is what it does for a set and an architecture in a folder, and leaves in its `root`."""

    name, package, needs_root = "", "", True

    def __init__(self, bench):
        self.bench, self.mirror = bench, bench.mirror.address

    def missing(self):
        """Why it cannot be measured here."""
        if not machine.has(self.package):
            return f"{self.package} is not installed"
        if self.needs_root and not machine.is_root():
            return "needs root"
        return None

    def foreign(self, architecture):
        return architecture != self.bench.host

    def steps(self, packages, architecture, place):
        raise NotImplementedError


class Mmdebstrap(Peer):
    """apt in a user namespace."""

    name, package, needs_root = "mmdebstrap", "mmdebstrap", False

    def steps(self, packages, architecture, place):
        command = ["mmdebstrap", "--quiet", "--mode=unshare", "--variant=apt", "--format=directory", f"--architectures={architecture}"]
        # usr-is-merged, which embedded has, does not unpack into a /usr that is not.
        command += ["--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr", "--include=" + ",".join(packages), SUITE]
        return [Step("all", [*command, place / "root", f"deb {self.mirror} {SUITE} main"])]


class Multistrap(Peer):
    """apt into a folder, and dpkg in a chroot of it."""

    name, package = "multistrap", "multistrap"

    def steps(self, packages, architecture, place):
        policy = place / "policy"
        policy.write_text(POLICY)
        policy.chmod(0o755)
        configuration = place / "multistrap.conf"
        configuration.write_text(MULTISTRAP.format(place=place, packages=" ".join(packages), mirror=self.mirror, suite=SUITE))
        steps = [Step("stage 1", alone("multistrap", "-f", configuration, "-a", architecture, "-d", place / "root"), root=True)]
        if self.foreign(architecture):
            steps.append(Step("stage 2", chroot(place / "root", *shell(SECOND_STAGE)), root=True))
        else:
            steps[0].name = "all"
        return steps


class Debootstrap(Peer):
    """wget, ar and dpkg, from a shell script."""

    name, package = "debootstrap", "debootstrap"

    def command(self, packages, architecture):
        # It knows no Provides: what polkitd means by "logind" has to be named.
        more = ["libpam-systemd"] if "systemd-sysv" in packages else []
        return ["debootstrap", "--variant=minbase", f"--arch={architecture}", "--include=" + ",".join([*packages, *more])]

    def steps(self, packages, architecture, place):
        command = self.command(packages, architecture)
        target = [SUITE, place / "root", self.mirror]
        if not self.foreign(architecture):
            return [Step("all", alone(*command, *target), root=True)]
        second = chroot(place / "root", "/debootstrap/debootstrap", "--second-stage")
        return [Step("stage 1", alone(*command, "--foreign", *target), root=True), Step("stage 2", second, root=True)]

    def download(self, packages, architecture, place):
        """Its choice of packages is its own: this fills the mirror with it."""
        command = [*self.command(packages, architecture), "--download-only", SUITE, place / "root", self.mirror]
        return [Step("download", alone(*command), root=True)]


class Apt2ostree(Peer):
    """The second stage of apt2ostree, on what treestrap composed: checkout, dpkg in a chroot, tar, commit."""

    name, package = "apt2ostree's stage 2", "ostree"

    def __init__(self, bench, repositories):
        super().__init__(bench)
        self.repositories = repositories  # architecture → a repository with the unpacked image

    def steps(self, packages, architecture, place):
        root, repository, image = place / "root", place / "repo", "deb/images/embedded"
        # A repository of its own, which has no object of an earlier result.
        prepare = 'ostree --repo="$1" init --mode=bare-user; ostree --repo="$1" pull-local "$2" "$3"'
        ref = f"{image}/unpacked"
        checkout = ["ostree", f"--repo={repository}", "checkout", "--force-copy", ref, root]
        return [
            Step("prepare", shell(prepare, repository, self.repositories[architecture], ref), root=True, counted=False),
            Step("checkout", checkout, root=True),
            Step("stand-ins", shell(APT2OSTREE, root), root=True),
            Step("dpkg", chroot(root, *shell(APT2OSTREE_STAGE)), root=True),
            Step("commit", shell(COMMIT, root, repository, f"{image}/configured"), root=True),
        ]


def packages(root):
    """How many packages a folder has, and how many of them are not configured; None where it cannot be read."""
    try:
        text = pathlib.Path(root, "var/lib/dpkg/status").read_text(errors="replace")
    except OSError:
        return None, None
    states = [line for line in text.splitlines() if line.startswith("Status: ")]
    return len(states), sum(line != "Status: install ok installed" for line in states)


ALL = (Mmdebstrap, Multistrap, Debootstrap)
assert "apt" in SETS["embedded"]  # what --variant=apt and minbase have anyway, the others have to be told
