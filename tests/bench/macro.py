"""Whole images: treestrap beside its peers, in turn.

In each round every system makes every set once, in an order that is another in each round: what else the machine does
then, and what it has grown into, meets all of them. What runs in an emulator takes minutes and has fewer rounds.
"""
import dataclasses
import typing

import machine
import peers
import treestrap
from measure import say
from sets import FOREIGN, SETS


@dataclasses.dataclass
class Task:
    """One bar: a system, and what it makes of what."""

    system: str
    set: str
    architecture: str
    make: typing.Callable
    emulated: bool = False
    missing: typing.Optional[str] = None

    @property
    def name(self):
        return f"{self.system} {self.set} {self.architecture}"


class Macro:
    """All tasks, and their records."""

    def __init__(self, bench, repositories):
        self.bench, self.records, self.left_out = bench, [], []
        self.quick = bench.options.quick
        self.tasks = list(self.plan(repositories))

    def plan(self, repositories):
        host = self.bench.host
        sets = ["minimal"] if self.quick else list(SETS)
        for name in sets:
            for architecture in (host, FOREIGN):
                yield Task("treestrap", name, architecture, self.treestrap)
        if not self.quick:
            yield Task("treestrap, not accelerated", "embedded", FOREIGN, self.treestrap, emulated=True)
        systems = [peer(self.bench) for peer in peers.ALL]
        for system in systems:
            for name in sets:
                yield self.peer(system, name, host)
                # The slowest say nothing more of a second set than mmdebstrap does.
                if not self.quick and (name == "embedded" or system.name == "mmdebstrap"):
                    yield self.peer(system, name, FOREIGN)
        if not self.quick:
            system = peers.Apt2ostree(self.bench, repositories)
            yield self.peer(system, "embedded", host)
            yield self.peer(system, "embedded", FOREIGN)

    def peer(self, system, name, architecture):
        def make(task):
            place = self.bench.place(task.name)
            steps = system.steps(SETS[task.set], task.architecture, place)
            if not task.emulated:
                record = self.bench.run(place, steps)
            else:
                with machine.emulator(task.architecture) as reason:
                    if reason:
                        self.leave_out(task, reason)
                        return
                    record = self.bench.run(place, steps)
            record["packages"], record["unconfigured"] = peers.packages(place / "root")
            self.add(task, record)

        return Task(system.name, name, architecture, make, architecture != self.bench.host, system.missing())

    def treestrap(self, task):
        """From nothing; then with nothing to do; then an image with one package more."""
        project = treestrap.Project(self.bench, self.bench.place(task.name))
        project.manifest(SETS[task.set], task.architecture)
        options = ["--accelerate", "off"] if task.emulated else []
        record = project.run("build", *options, "embedded")
        self.add(task, record)
        if "failed" in record or task.emulated:
            return
        self.add(task, project.run("build", "embedded", name="again"), "nothing changed")
        project.manifest(SETS[task.set], task.architecture, variants={"leaf": ["htop"]})
        self.add(task, project.run("build", "leaf", name="leaf"), "one package more")

    def add(self, task, record, what="all"):
        known = {"system": task.system, "set": task.set, "architecture": task.architecture, "what": what, "round": self.round}
        self.records.append(known | record)
        state = "failed" if "failed" in record else f"{record['seconds']:.2f} s"
        say(f"round {self.round}: {task.name}, {what}: {state}")

    def leave_out(self, task, reason):
        entry = {"system": task.system, "set": task.set, "architecture": task.architecture, "reason": reason}
        if entry not in self.left_out:
            self.left_out.append(entry)
            say(f"{task.name} is left out: {reason}")

    def run(self):
        rounds = self.bench.options.rounds
        for self.round in range(1, rounds + 1):
            tasks = [task for task in self.tasks if not task.emulated or self.round <= self.bench.options.slow_rounds]
            turn = (self.round - 1) * len(tasks) // rounds
            for task in tasks[turn:] + tasks[:turn]:
                if task.missing:
                    self.leave_out(task, task.missing)
                else:
                    task.make(task)
        return {"records": self.records, "left_out": self.left_out}
