"""apt on indexes of its own, which is what choosing packages is compared with, and what fills the mirror beforehand.

Its root has no package and takes nothing from this machine's configuration.
"""
import concurrent.futures
import os
import re
import urllib.request

import machine
import peers
import treestrap
from measure import Step, say
from sets import FOREIGN, LEAVES, SETS, SUITE

CONFIGURATION = """Dir "{place}/";
Dir::Etc::parts "/dev/null";
Dir::Etc::main "/dev/null";
Dir::State::status "{place}/status";
Dir::Bin::methods "/usr/lib/apt/methods";
APT::Architecture "{architecture}";
APT::Architectures {{ "{architecture}"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "";
Acquire::Languages "none";
Dir::Log::Terminal "";
"""
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
URI = re.compile(r"^'([^']+)' ", re.MULTILINE)


class Apt:
    """apt for one architecture."""

    def __init__(self, bench, architecture):
        self.bench, self.place = bench, bench.place(f"apt {architecture}")
        for folder in ("etc/apt/preferences.d", "etc/apt/trusted.gpg.d", "var/lib/apt/lists/partial", "var/cache/apt/archives/partial"):
            (self.place / folder).mkdir(parents=True)
        (self.place / "status").touch()
        (self.place / "apt.conf").write_text(CONFIGURATION.format(place=self.place, architecture=architecture))
        sources = f"deb [signed-by={KEYRING}] {bench.mirror.address} {SUITE} main\n"
        (self.place / "etc/apt/sources.list").write_text(sources)
        if machine.is_root():
            user = ":".join(map(str, machine.account()))
            machine.output("chown", "-R", user, self.place)
        self.run("update")

    def translations(self):
        """Descriptions in other languages, which multistrap's apt downloads and nothing else."""
        self.run("-o", "Acquire::Languages=en", "update")
        self.run("update")

    def run(self, *arguments, may_fail=False):
        step = Step("apt-get", ["apt-get", *arguments])
        return self.bench.run(self.place, [step], {"APT_CONFIG": str(self.place / "apt.conf")}, may_fail)

    def simulate(self, packages, cache=True):
        """Chooses, and says what it would do: what `lock` is compared with. `cache` is apt's of parsed indexes."""
        options = [] if cache else ["-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="]
        return self.run("-s", "-qq", *options, "install", "?essential", *packages)

    def uris(self, packages):
        """What a system with all that policy calls required would download, too."""
        record = self.run("-y", "-qq", "--print-uris", "install", "?essential", "?priority(required)", *packages, may_fail=True)
        text = (self.place / "stdout").read_text()
        return [] if "failed" in record else URI.findall(text)


def warm(bench, parts):
    """Fills the mirror, so that no timed run waits for the network; returns repositories with embedded for each architecture."""
    repositories = {}
    sets = {"minimal": SETS["minimal"]} if bench.options.quick else SETS
    for architecture in (bench.host, FOREIGN):
        apt = Apt(bench, architecture)
        apt.translations()
        found = set()
        for packages in sets.values():
            found.update(apt.uris([*packages, "htop"]))
            if "images" in parts and architecture == bench.host:
                found.update(apt.uris([*packages, *LEAVES]))
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(get, sorted(found)))
        if not {"macro", "pairs"}.intersection(parts):
            continue
        for name, packages in sets.items():
            say(f"filling the mirror: {name} {architecture}, {len(found)} packages so far")
            project = treestrap.Project(bench, bench.place(f"warm {name} {architecture}"))
            project.manifest(packages, architecture)
            record = project.run("build", "embedded")
            if name == "embedded" and "failed" not in record:
                repositories[architecture] = project.repository
            debootstrap = peers.Debootstrap(bench)
            if "macro" in parts and not debootstrap.missing():
                place = bench.place(f"warm debootstrap {name} {architecture}")
                bench.run(place, debootstrap.download(packages, architecture, place), may_fail=True)
    return repositories


def get(uri):
    with urllib.request.urlopen(uri) as answer:
        while answer.read(1 << 20):
            pass


def without_proxy():
    """The driver's own requests to the mirror take no proxy either; those to the upstream do."""
    for name in ("no_proxy", "NO_PROXY"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"]))
