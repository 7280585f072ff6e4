"""Runs one thing and notes what it took: wall time, processor time, memory, bytes from the mirror.

A run is a folder of its own and a list of steps. ext4 without a journal passes over inodes that were removed within the
last minute or more, at a cost of up to a third of the processor time of whoever creates files next: so nothing big is
removed before the end, and each run begins after a sync.
"""
import dataclasses
import json
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import time

import machine

# A child that says nothing for so long is stuck: an hour is six times the slowest.
LIMIT = 3600


def say(text):
    print(f"bench: {text}", file=sys.stderr, flush=True)


@dataclasses.dataclass
class Step:
    """A command of a run; as root where it must be, not counted where it only prepares."""

    name: str
    command: list
    root: bool = False
    counted: bool = True


class Bench:
    """Where everything is, and what has been measured."""

    def __init__(self, folder, program, mirror, options):
        self.folder, self.mirror, self.options = folder, mirror, options
        self.runs = folder / "runs"
        self.clear()  # of a bench that was killed
        self.runs.mkdir(mode=0o755)
        self.program = self.runs / "treestrap"
        # The program may be below a folder that the account cannot enter.
        shutil.copy(program, self.program)
        self.program.chmod(0o755)
        self.count = 0
        self.failures = []

    def place(self, name):
        """A folder for one run."""
        self.count += 1
        place = self.runs / f"{self.count:03}-{re.sub('[^a-z0-9]+', '-', name.lower())}"
        place.mkdir(mode=0o755)
        if machine.is_root():
            os.chown(place, *machine.account())
        return place

    def environment(self, place, root=False):
        """No proxy: all go to the mirror on this machine."""
        common = {"PATH": machine.PATH, "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", "no_proxy": "127.0.0.1,localhost"}
        if root:  # multistrap takes its own notes in TMPDIR for the image's, where there is one
            return common | {"HOME": "/root"}
        return common | {"HOME": str(place), "TMPDIR": str(place)}

    def run(self, place, steps, environment=None, may_fail=False):
        """Runs the steps in a folder; the record says how it went. `may_fail` is for questions, not for measurements."""
        record = {"seconds": 0.0, "processor": 0.0, "rss": 0, "steps": {}}
        os.sync()
        with self.mirror.counting(record):
            for step in steps:
                if failure := self.step(place, step, record, environment or {}):
                    record["failed"] = failure
                    if may_fail:
                        break
                    self.failures.append(f"{place.name}: {step.name}")
                    say(f"{place.name}: {step.name} failed:\n{failure}")
                    break
        return record

    def step(self, place, step, record, environment):
        log, usage = place / "log", place / "usage"
        usage.touch()
        # A process of Python's would count Python's own memory: ru_maxrss outlives execve(2).
        timed = ["/usr/bin/time", "-q", "-o", str(usage), "-f", "%U %S %M"]
        before = [] if step.root else machine.as_account()
        command = [*timed, *before, *map(str, step.command)]
        environment = self.environment(place, step.root) | environment
        with open(log, "ab") as errors, open(place / "stdout", "wb") as out:
            errors.write(f"$ {' '.join(command)}\n".encode())
            errors.flush()
            began = time.monotonic()
            child = subprocess.Popen(
                command, cwd=place, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=errors, start_new_session=True
            )
            try:
                status = child.wait(LIMIT)
            except BaseException as error:  # a bench that is stopped leaves nothing running either
                os.killpg(child.pid, signal.SIGTERM)
                child.wait()
                if not isinstance(error, subprocess.TimeoutExpired):
                    raise
                status = f"nothing after {LIMIT} s"
            seconds = time.monotonic() - began
        record["steps"][step.name] = seconds
        if step.counted:
            user, system, rss = (usage.read_text().split() or ["0", "0", "0"])[-3:]
            record["seconds"] += seconds
            record["processor"] += float(user) + float(system)
            record["rss"] = max(record["rss"], int(rss) * 1024)
        if status != 0:
            return self.last(place, status)
        return None

    def last(self, place, status):
        """The end of what a step said, without the names of this machine's folders."""
        lines = (place / "log").read_text(errors="replace").split("$ /usr/bin/time")[-1].splitlines()[1:]
        errors = [event for event in events(place) if event["event"] == "error"]
        output = [": ".join(event["messages"]) for event in errors]
        lines += output or (place / "stdout").read_text(errors="replace").splitlines()[-5:]
        text = "\n".join([line for line in lines[-12:] if line.strip()] + [f"exit status {status}"])
        return text.replace(str(place), "…").replace(str(self.folder), "…").replace(self.mirror.address, "http://mirror.example/debian")

    def clear(self):
        """Removes all runs; an ordinary user's have files of subordinate ids."""
        unshare = [] if machine.is_root() else ["unshare", "--user", "--map-root-user", "--map-auto"]
        subprocess.run([*unshare, "rm", "-rf", self.runs], check=False)


def events(place):
    """What treestrap --json wrote to standard output."""
    found = []
    for line in (place / "stdout").read_text(errors="replace").splitlines():
        if line.startswith("{"):
            found.append(json.loads(line))
    return found


def stages(place):
    """Seconds of each stage, and its summary, from the events."""
    seconds, summaries = {}, {}
    for event in events(place):
        if event["event"] == "finished":
            seconds[event["stage"]] = seconds.get(event["stage"], 0) + event["seconds"]
            summaries[event["stage"]] = event["summary"]
    return seconds, summaries


def number(pattern, text):
    """A number in a summary; None where there is none."""
    match = re.search(pattern, text or "")
    return float(match[1]) if match else None


def bytes_on_disk(folder):
    """What the files below a folder take up, links counted once."""
    seen, total = set(), 0
    for parent, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(pathlib.Path(parent, name))
            if status.st_ino not in seen:
                seen.add(status.st_ino)
                total += status.st_blocks * 512
    return total


def spread(values):
    """Median, least and most."""
    values = [value for value in values if value is not None]
    if not values:
        return None
    return {"median": statistics.median(values), "least": min(values), "most": max(values), "count": len(values)}
