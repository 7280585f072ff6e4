"""The package sets: of the example, of a minimal system, those that grow, and the leaves of similar images.

All are of one suite, so that all systems see one set of indexes, and are found again in the same way every time.
"""
import lzma
import pathlib
import re
import tomllib
import urllib.request

import treestrap

SUITE = "bookworm"
FOREIGN = "armhf"
EMBEDDED = tomllib.loads((pathlib.Path(__file__).parents[2] / "examples/embedded/treestrap.toml").read_text())["images"]["embedded"]["packages"]
# What `mmdebstrap --variant=apt` and `debootstrap --variant=minbase` make: Essential packages and apt.
SETS = {"embedded": EMBEDDED, "minimal": ["apt"]}
# Real tools with few dependencies that embedded has not got already.
LEAVES = (
    "htop tree jq nano rsync strace lsof file socat tcpdump screen zip unzip bc mtr-tiny ethtool iperf3 picocom i2c-tools usbutils"
).split()
# How many packages the locks of the two large sets have, about.
TARGETS = (800, 2000)
# Modules that no image without running services can configure, by any system.
EXCLUDED = {
    "libchado-perl": "its script makes a database, for which PostgreSQL has to run",
}
# So many names are tried at once while the sets are looked for.
CHUNK = 128


def perl_modules(mirror, architecture):
    """Names of all Perl modules without code of an architecture: many small packages that hardly depend on each other."""
    with urllib.request.urlopen(f"{mirror.address}/dists/{SUITE}/main/binary-{architecture}/Packages.xz") as answer:
        text = lzma.decompress(answer.read()).decode()
    names = set()
    for stanza in text.split("\n\n"):
        if "\nArchitecture: all" in stanza and (match := re.match(r"Package: (lib\S+-perl)\n", stanza)):
            names.add(match[1])
    return sorted(names - EXCLUDED.keys())


def growing(bench, architecture, targets=TARGETS):
    """Sets for the host that grow: name → packages. The large ones are embedded and the first Perl modules by name
    that reach a number of packages in the lock, without those that cannot be had together with the ones before."""
    found = {"minimal": SETS["minimal"], "embedded": EMBEDDED}
    if not targets:
        return found
    project = treestrap.Project(bench, bench.place("sets"))

    def count(names):
        return project.count(EMBEDDED + names, architecture)

    chosen, size = [], 0

    def add(names):
        """Takes those of the names that can be had."""
        nonlocal size
        if size >= targets[-1]:
            return
        if packages := count(chosen + names):
            chosen.extend(names)
            size = packages
        elif len(names) > 1:
            middle = len(names) // 2
            add(names[:middle])
            add(names[middle:])

    modules = perl_modules(bench.mirror, architecture)
    for start in range(0, len(modules), CHUNK):
        add(modules[start : start + CHUNK])
    for target in targets:
        low, high = 0, len(chosen)
        while low < high:  # the fewest that reach the target
            middle = (low + high) // 2
            if (count(chosen[:middle]) or 0) >= target:
                high = middle
            else:
                low = middle + 1
        found[str(target)] = EMBEDDED + chosen[:low]
    return found
