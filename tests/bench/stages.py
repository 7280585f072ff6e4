"""Each stage by itself, as the number of packages grows, for the host's own architecture.

The stages' seconds are those of the program's own events; lock and the sandbox's start are timed from outside, since
what they compare with is a program's whole run, too.
"""
import time

import archive
import machine
import measure
import sets
import treestrap
from measure import Step, say

# Programs that are started in the loop that says how many there are in a second.
STARTS = 500
LOOP = f'a=$(date +%s%N); i=0; while [ $i -lt {STARTS} ]; do /bin/true; i=$((i+1)); done; b=$(date +%s%N); echo $((b-a))'
# Runs of what takes milliseconds.
OFTEN = 10
# From so many packages on there are two repetitions at most: they take a minute each.
LARGE = 1500


class Growth:
    """One set: its repetitions, and what came out."""

    def __init__(self, bench, apt, name, packages, cache):
        self.bench, self.apt, self.name, self.packages, self.cache = bench, apt, name, packages, cache
        self.values, self.failure = {}, None

    def note(self, key, value):
        self.values.setdefault(key, []).append(value)

    def project(self):
        project = treestrap.Project(self.bench, self.bench.place(f"stages {self.name}"), self.cache)
        project.manifest(self.packages, self.bench.host)
        return project

    def lock(self, project):
        """With indexes that are here, beside apt with the same."""
        (project.place / "embedded.lock").unlink(missing_ok=True)
        record = project.run("--offline", "lock", "embedded")
        if "failed" in record:
            self.failure = record["failed"]
            return None
        self.note("lock", record["seconds"])
        self.note("lock rss", record["rss"])
        for key, cache in (("apt-get -s", True), ("apt-get -s, without its cache", False)):
            theirs = self.apt.simulate(self.packages, cache)
            if "failed" not in theirs:
                self.note(key, theirs["seconds"])
        return int(record["packages"])

    def repetition(self, project):
        """From the lock to the commit."""
        for verb in ("fetch", "compose", "configure"):
            record = project.run(verb, "embedded")
            if "failed" in record:
                self.failure = record["failed"]
                return False
            for stage, seconds in record["stages"].items():
                self.note(stage, seconds)
            self.note(f"{verb} rss", record["rss"])
            if verb == "fetch":
                self.note("MB/s", record["served"] / 1e6 / record["stages"]["fetch"])
                self.note("downloaded", record["served"])
            if verb == "configure":
                self.note("changes", record["changes"])
        self.note("repository", project.size())
        return True

    def sandbox(self, project):
        """How long it takes to start, and how fast programs start in it."""
        for _ in range(OFTEN):
            began = time.time_ns()
            inside = self.output(project, ["date", "+%s%N"])
            if inside is None:
                return
            self.note("start", (int(inside) - began) / 1e9)
            record = self.inside(project, ["true"])
            self.note("true", record["seconds"])
        for _ in range(3):
            if inside := self.output(project, ["sh", "-c", LOOP]):
                self.note("starts inside", STARTS / (int(inside) / 1e9))
            record = self.bench.run(project.place, [Step("loop", ["sh", "-c", LOOP])])
            outside = (project.place / "stdout").read_text()
            if "failed" not in record:
                self.note("starts outside", STARTS / (int(outside) / 1e9))

    def inside(self, project, command):
        step = Step("run", [self.bench.program, "--quiet", "run", "embedded", "--", *command])
        return self.bench.run(project.place, [step], project.environment)

    def output(self, project, command):
        record = self.inside(project, command)
        return None if "failed" in record else (project.place / "stdout").read_text().strip()

    def run(self):
        rounds = self.bench.options.rounds
        project = self.project()
        locked = None
        for _ in range(rounds):
            locked = self.lock(project)
            if not locked:
                return {"name": self.name, "packages": None, "failed": self.failure}
        for repetition in range(min(rounds, 2) if locked > LARGE else rounds):
            if repetition:
                lock = (project.place / "embedded.lock").read_text()
                project = self.project()
                (project.place / "embedded.lock").write_text(lock)
            if not self.repetition(project):
                return {"name": self.name, "packages": locked, "failed": self.failure, "values": self.summary()}
        self.sandbox(project)
        say(f"stages: {locked} packages: " + ", ".join(f"{key} {value['median']:.3g}" for key, value in self.summary().items()))
        return {"name": self.name, "packages": locked, "values": self.summary()}

    def summary(self):
        return {key: measure.spread(values) for key, values in self.values.items()}


def run(bench):
    apt = archive.Apt(bench, bench.host)
    cache = bench.place("cache of indexes")
    warm = treestrap.Project(bench, bench.place("warm stages"), cache)
    say("looking for the sets that grow")
    found = sets.growing(bench, bench.host, () if bench.options.quick else sets.TARGETS)
    # The largest has all packages of the smaller ones: their debs are in the mirror afterwards.
    warm.manifest(list(found.values())[-1], bench.host)
    warm.run("lock", "embedded")
    warm.run("fetch", "embedded")
    results = [Growth(bench, apt, name, packages, cache).run() for name, packages in found.items()]
    return {"architecture": bench.host, "sets": results, "root": machine.is_root()}
