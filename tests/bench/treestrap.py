"""How the program under test is driven: its manifest, its command lines, what its events say."""
import json
import os

import measure
from measure import Step

REPOSITORY = """[repos.debian]
uris = ["{mirror}"]
suites = ["bookworm"]
components = ["main"]
"""
IMAGE = """
[images.{name}]
arch = "{architecture}"
packages = {packages}
"""
# Continues from the configured image; architecture, repositories and settings are its.
VARIANT = """
[images.{name}]
from = "{base}"
packages = {packages}
"""


class Project:
    """A folder with a manifest, its repository, its own cache and home."""

    def __init__(self, bench, place, cache=None):
        self.bench, self.place = bench, place
        self.repository = place / ".treestrap/repo"
        # Where indexes are to be there already, several projects have one cache.
        self.environment = {"XDG_CACHE_HOME": str(cache)} if cache else {}

    def manifest(self, packages, architecture, name="embedded", variants=None):
        """Writes the manifest of one image, and of variants of it by name."""
        text = REPOSITORY.format(mirror=self.bench.mirror.address)
        text += IMAGE.format(name=name, architecture=architecture, packages=json.dumps(packages))
        for variant, leaves in (variants or {}).items():
            text += VARIANT.format(name=variant, base=name, packages=json.dumps(leaves))
        (self.place / "treestrap.toml").write_text(text)

    def step(self, name, *arguments):
        return Step(name, [self.bench.program, "--json", *arguments])

    def run(self, *arguments, name=None, may_fail=False):
        """One call; the record has the stages' seconds and summaries."""
        record = self.bench.run(self.place, [self.step(name or arguments[0], *arguments)], self.environment, may_fail)
        record["stages"], record["summaries"] = measure.stages(self.place)
        record["packages"] = measure.number(r"(\d+) packages", record["summaries"].get("compose") or record["summaries"].get("lock"))
        record["changes"] = measure.number(r"(\d+) changes", record["summaries"].get("commit"))
        return record

    def count(self, packages, architecture):
        """How many packages a lock would have; None where it cannot be had. That is no failure of the bench."""
        self.manifest(packages, architecture)
        (self.place / "embedded.lock").unlink(missing_ok=True)
        record = self.run("lock", "embedded", may_fail=True)
        return None if "failed" in record else int(record["packages"])

    def size(self):
        return measure.bytes_on_disk(self.repository)

    def files(self):
        return sum(len(names) for _, _, names in os.walk(self.repository / "objects"))
