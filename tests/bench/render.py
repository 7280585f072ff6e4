"""What was measured, as docs/benchmarks.md and its two plots.

All of the page is written anew but for what stands between the two marks, which people write. Where a run failed the
table has its last line in the place of a number, and where a system was left out the reason.
"""
import pathlib
import statistics

import plot
from measure import spread

BEGIN, END = "<!-- kept by the renderer: from here -->", "<!-- kept by the renderer: to here -->"
PLACEHOLDER = "## What bounds each stage now\n\nNothing has been written yet."
FOREIGN = "armhf"
MIB = 1 << 20


def write(results, folder):
    """The page and the plots, into a folder; what people wrote in the page that is there stays."""
    folder = pathlib.Path(folder)
    page = folder / "benchmarks.md"
    kept = PLACEHOLDER
    if page.exists() and BEGIN in (old := page.read_text()):
        kept = old.split(BEGIN, 1)[1].split(END, 1)[0].strip()
    picture = Page(results)
    for name, content in picture.plots().items():
        (folder / name).write_text(content)
    page.write_text(picture.text(kept))


def seconds(value):
    if value is None:
        return ""
    if value < 0.995:
        return f"{value:.3f}" if value < 0.0995 else f"{value:.2f}"
    return f"{value:.1f}" if value < 99.5 else f"{value:.0f}"


def ranged(found, form=seconds):
    """The median, and least to most where there are several."""
    if not found:
        return ""
    middle = form(found["median"])
    return f"{middle} ({form(found['least'])}–{form(found['most'])})" if found["count"] > 1 else middle


def table(head, rows):
    """Markdown; all columns but the first to the right."""
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows]


def last_line(failure):
    """What a failed run said, without exit status and bars."""
    lines = [line for line in failure.splitlines() if not line.startswith("exit status")]
    return (lines[-1] if lines else failure).replace("|", "/")[:160]


class Page:
    """The results, and what is calculated from them."""

    def __init__(self, results):
        self.results = results
        self.host = results["machine"]["architecture"]
        self.macro = results.get("macro", {}).get("records", [])
        self.growth = [entry for entry in results.get("stages", {}).get("sets", []) if entry.get("values")]
        self.images = results.get("images")
        self.pairs = results.get("pairs", {}).get("pairs", [])

    # Numbers.

    def records(self, system, name, architecture, what="all"):
        wanted = (system, name, architecture, what)
        return [record for record in self.macro if (record["system"], record["set"], record["architecture"], record["what"]) == wanted]

    def wall(self, *wanted, key="seconds"):
        return spread([record[key] for record in self.records(*wanted) if "failed" not in record])

    def median(self, *wanted, key="seconds"):
        found = self.wall(*wanted, key=key)
        return found and found["median"]

    def stage_two(self, architecture, system="treestrap"):
        """Stage 2 and its commit in whole builds of embedded."""
        found = [record.get("stages", {}) for record in self.records(system, "embedded", architecture) if "failed" not in record]
        return [stages["configure"] + stages["commit"] for stages in found if "configure" in stages and "commit" in stages]

    def stage(self, name, key, part="median"):
        entry = next((entry for entry in self.growth if entry["name"] == name), None)
        value = entry and entry["values"].get(key)
        return value and value[part]

    @staticmethod
    def ratio(ours, theirs):
        return ours / theirs if ours is not None and theirs else None

    # The page.

    def text(self, kept):
        parts = [self.opening(), self.budgets()]
        if self.macro:
            parts += [self.wholes(), self.wall_stages()]
        if self.pairs:
            parts.append(self.pair_by_pair())
        if self.growth:
            parts.append(self.grown())
        if self.images:
            parts.append(self.similar())
        parts += [self.failed(), [BEGIN, kept, END], self.how()]
        return "\n\n".join("\n".join(part) for part in parts if part) + "\n"

    def opening(self):
        machine, versions = self.results["machine"], self.results["versions"]
        about = (
            f"{machine['date']}: Linux {machine['kernel']}, {machine['processors']} processors ({machine['model']}), "
            f"{machine['memory_gib']} GiB, {machine['file_system']}, host {self.host}; {self.results['rounds']} rounds, of what runs "
            f"in an emulator {self.results['slow_rounds']}; {self.results['seconds'] / 60:.0f} minutes in all."
        )
        lines = [
            "# Benchmarks",
            "",
            "Only ratios inside one run mean anything: machines differ, and so does what else they are doing. `make bench`",
            "measures all of this again, other systems included, and `make bench-docs` writes this page from it. What was",
            "measured by hand is in [benchmarks-sandbox.md](benchmarks-sandbox.md): views, start, syncs, foreign beside native.",
            "",
            about,
        ]
        if self.results["quick"]:
            lines += ["", "**A quick run, on small sets, which tries the bench and says nothing else.**"]
        lines += ["", ", ".join(f"{name} {version}" for name, version in versions.items()) + "."]
        return lines

    def budgets(self):
        entries = [
            ("cold armhf build, all of it, against mmdebstrap for armhf", 1 / 8, "≤ 1/8", self.against(FOREIGN, FOREIGN)),
            (f"… against mmdebstrap for {self.host}", 0.8, "≤ 0.8", self.paired()),
            ("stage 2 armhf, accelerated, against stage 2 native", 1.2, "≤ 1.2", self.accelerated()),
            ("nothing changed", 0.2, "≤ 0.2 s", self.median("treestrap", "embedded", FOREIGN, "nothing changed")),
            ("compose, embedded", 0.3, "≤ 0.3 s", self.stage("embedded", "compose")),
            ("start of the sandbox, to the first line of `date`", 0.05, "≤ 50 ms", self.stage("embedded", "start")),
            ("commit of stage 2", 1, "≤ 1 s", self.stage("embedded", "commit")),
            ("lock with cached indexes against `apt-get -s`", 1, "≤ 1", self.ratio(self.stage("embedded", "lock"), self.stage("embedded", "apt-get -s"))),
            ("peak memory, embedded, the largest process, MiB", 300, "≤ 300 MiB", self.peak()),
        ]
        rows = []
        for what, limit, budget, value in entries:
            state = "not measured" if value is None else "yes" if value <= limit else "**no**"
            shown = "" if value is None else f"{value:.0f}" if limit > 10 else seconds(value)
            rows.append((what, budget, shown, state))
        return ["## Budgets", "", *table(("what", "budget", "measured", "kept"), rows)]

    def against(self, ours, theirs):
        return self.ratio(self.median("treestrap", "embedded", ours), self.median("mmdebstrap", "embedded", theirs))

    def accelerated(self):
        foreign, native = self.stage_two(FOREIGN), self.stage_two(self.host)
        return statistics.median(foreign) / statistics.median(native) if foreign and native else None

    def peak(self):
        found = [record["rss"] for record in self.macro if record["system"] == "treestrap" and record["set"] == "embedded"]
        return max(found) / MIB if found else None

    def wholes(self):
        lines = [
            "## Whole images",
            "",
            "Wall time in seconds: the median, and the least and the most of all rounds. Every system makes the set from the same",
            "mirror on this machine, into a folder (treestrap: into its repository), in turn, each in a new folder. The ratio is the system's time to",
            "treestrap's for the same set and architecture. Memory is that of the largest process. `minimal` is Essential",
            "packages and apt, `embedded` is [examples/embedded](../examples/embedded/treestrap.toml). Systems differ in what they add",
            "by themselves, hence the packages.",
            "",
            "![wall time by system](benchmarks.svg)",
        ]
        for name in ("embedded", "minimal"):
            for architecture in (self.host, FOREIGN):
                rows = list(self.systems(name, architecture))
                if rows:
                    head = ("system", "wall (s)", "ratio", "processor (s)", "memory (MiB)", "served (MB)", "packages")
                    lines += ["", f"### {name}, {architecture}", "", *table(head, rows)]
        lines += ["", *self.notes()]
        return lines

    def paired(self):
        """The foreign image against mmdebstrap's for this machine: one right after the other, where that was measured."""
        if not self.pairs or self.results["pairs"]["set"] != "embedded":
            return self.against(FOREIGN, self.host)
        return sum(pair["treestrap"] for pair in self.pairs) / sum(pair["mmdebstrap"] for pair in self.pairs)

    def pair_by_pair(self):
        name = self.results["pairs"]["set"]
        head = ("", f"mmdebstrap {self.host} (s)", f"treestrap {FOREIGN} (s)", "ratio")
        rows = [
            (str(number), seconds(pair["mmdebstrap"]), seconds(pair["treestrap"]), f"{pair['treestrap'] / pair['mmdebstrap']:.2f}")
            for number, pair in enumerate(self.pairs, 1)
        ]
        total = {who: sum(pair[who] for pair in self.pairs) for who in ("mmdebstrap", "treestrap")}
        rows.append(("all", seconds(total["mmdebstrap"]), seconds(total["treestrap"]), f"{total['treestrap'] / total['mmdebstrap']:.2f}"))
        return [
            f"### {name}, pair by pair",
            "",
            "The two one right after the other, and in every second pair the other way round, from nothing, each in a new folder: the",
            "machine's pace differs by a fifth from one minute to the next, and the rounds above have minutes between the two.",
            "",
            *table(head, rows),
        ]

    def systems(self, name, architecture):
        """Rows of one table; the ones that failed or were left out, too."""
        base = self.median("treestrap", name, architecture)
        seen = {}
        for record in self.macro:
            if (record["set"], record["architecture"]) == (name, architecture):
                seen.setdefault((record["system"], record["what"]), []).append(record)
        for (system, what), records in seen.items():
            label = system if what == "all" else f"{system}: {what}"
            good = [record for record in records if "failed" not in record]
            if not good:
                yield label, "failed: " + last_line(records[-1]["failed"]), "", "", "", "", ""
                continue
            found = spread([record["seconds"] for record in good])
            wall = ranged(found) + (f", {len(records) - len(good)} failed" if len(good) < len(records) else "")
            ratio = self.ratio(found["median"], base)
            # The second stage alone is no whole image.
            shown = "" if ratio is None or "stage 2" in system else f"{ratio:.2f}"
            processor, rss, served = (statistics.median(record[key] for record in good) for key in ("processor", "rss", "served"))
            count = good[-1].get("packages")
            count = f"{count:.0f}" if count else ""
            if unconfigured := good[-1].get("unconfigured"):
                count += f", {unconfigured} not configured"
            yield label, wall, shown, seconds(processor), f"{rss / MIB:.0f}", f"{served / 1e6:.1f}", count
        for entry in self.results["macro"]["left_out"]:
            if (entry["set"], entry["architecture"]) == (name, architecture):
                yield entry["system"], f"left out: {entry['reason']}", "", "", "", "", ""

    def notes(self):
        waited = {(record["system"], record["set"], record["architecture"]) for record in self.macro if record["fetched"] and "failed" not in record}
        if not waited:
            return ["No timed run waited for the network."]
        return ["In some runs the mirror had to fetch what it had not got yet: " + ", ".join(sorted(" ".join(entry) for entry in waited)) + "."]

    def wall_stages(self):
        """Where the time of whole builds goes."""
        rows, names = [], ("lock", "fetch", "compose", "configure", "commit")
        for system in ("treestrap", "treestrap, not accelerated"):
            for name in ("embedded", "minimal"):
                for architecture in (self.host, FOREIGN):
                    good = [record for record in self.records(system, name, architecture) if "failed" not in record]
                    if good:
                        found = [spread([record["stages"].get(stage) for record in good]) for stage in names]
                        rows.append((f"{system}, {name} {architecture}", *(ranged(value) for value in found)))
        steps = []
        for record in self.macro:
            if len(record["steps"]) > 1 and record["round"] == 1 and "failed" not in record:
                parts = ", ".join(f"{step} {seconds(value)}" for step, value in record["steps"].items() if step != "prepare")
                steps.append(f"- {record['system']}, {record['set']} {record['architecture']}: {parts}")
        lines = ["### Of it, by stage", "", "Of treestrap's cold builds, in seconds. Stages overlap, so that their sum may be more than the whole:", ""]
        lines += table(("", *names), rows)
        return lines + (["", "Of others that have steps, the first round:", "", *steps] if steps else [])

    def grown(self):
        head = ("", *(f"{entry['packages']:,}" for entry in self.growth))

        def row(label, key, form=seconds):
            return (label, *(ranged(entry["values"].get(key), form) for entry in self.growth))

        def megabytes(value):
            return f"{value / 1e6:.0f}"

        def memory(value):
            return f"{value / MIB:.0f}"

        def whole(value):
            return f"{value:,.0f}"

        rows = [
            row("lock, cached indexes (s)", "lock"),
            row("… `apt-get -s install` (s)", "apt-get -s"),
            row("… without its cache of indexes (s)", "apt-get -s, without its cache"),
            row("fetch: download and ingest (s)", "fetch"),
            row("… MB/s", "MB/s", whole),
            row("… MB downloaded", "downloaded", megabytes),
            row("compose (s)", "compose"),
            row("stage 2 (s)", "configure"),
            row("commit (s)", "commit"),
            row("… changes", "changes", whole),
            row("sandbox, to the first line of `date` (s)", "start"),
            row("… `run IMAGE -- true`, all of it (s)", "true"),
            row("programs started in a second, inside", "starts inside", whole),
            row("… on the host", "starts outside", whole),
            *(row(f"memory of {verb} (MiB)", f"{verb} rss", memory) for verb in ("lock", "fetch", "compose", "configure")),
            row("repository, on disk (MB)", "repository", megabytes),
        ]
        lines = [
            "## Each stage, as images grow",
            "",
            f"For {self.host}, each stage by itself, by the number of packages in the lock. The smallest system that configures itself is",
            "`minimal`; then `embedded`; then embedded and the first Perl modules by name (`lib*-perl`, Architecture: all) that",
            "reach a number of packages.",
            "",
            "![seconds of each stage by the number of packages](growth.svg)",
            "",
            *table(head, rows),
        ]
        for entry in self.results["stages"]["sets"]:
            if "failed" in entry:
                lines += ["", f"The set {entry['name']} failed: {last_line(entry['failed'])}"]
        return lines

    def similar(self):
        images, rows = self.images, []
        leaves = images["variants"]

        def row(label, record):
            if "failed" in record:
                return label, "failed: " + last_line(record["failed"]), "", ""
            size = record.get("repository", record.get("folder"))
            return label, seconds(record["seconds"]), f"{record['served'] / 1e6:.1f}", f"{size / 1e6:.0f}"

        rows.append(row(f"treestrap: base and {leaves} images, from nothing, one call", images["cold"]))
        rows.append(row("treestrap: the base alone, from nothing", images["base"]))
        earlier = 0
        for record in images["growth"]:
            first, earlier = earlier + 1, record["images"]
            which = f"image {first}" if first == earlier else f"images {first} to {earlier}"
            rows.append(row(f"… then {which}", record))
        good = [record for record in images["growth"] if "failed" not in record]
        if good and good[-1]["images"] == leaves:
            total = {"seconds": sum(record["seconds"] for record in good), "served": sum(record["served"] for record in good)}
            rows.append(row(f"treestrap: {leaves} images, base built", total | {"repository": good[-1]["repository"]}))
        theirs = [record for record in images["mmdebstrap"] if "failed" not in record]
        if theirs:
            all_of_them = {key: leaves * statistics.mean(record[key] for record in theirs) for key in ("seconds", "served", "folder")}
            rows.append(row(f"mmdebstrap: {leaves} images ({len(theirs)} measured, multiplied)", all_of_them))
        rows += [row("mmdebstrap", record) for record in images["mmdebstrap"] if "failed" in record]
        if images["left_out"]:
            rows.append(("mmdebstrap", f"left out: {images['left_out']}", "", ""))
        return [
            "## Many similar images",
            "",
            f"For {images['architecture']}: the base, and {leaves} images that are the base and one leaf package each, as `from = \"embedded\"`",
            "in the manifest. On disk: treestrap's is one repository with all that was fetched, mmdebstrap's are folders without",
            f"their archives. The leaves: {', '.join(images['leaves'])}.",
            "",
            *table(("", "wall (s)", "downloaded (MB)", "on disk (MB)"), rows),
        ]

    def failed(self):
        failures = self.results["failures"]
        return ["## Failed", "", *(f"- {failure}" for failure in failures)] if failures else []

    def how(self):
        return [
            "## How it is measured",
            "",
            "- All systems get packages and indexes from one mirror on this machine, which has fetched all of them before.",
            "- Systems take turns in every round, in an order that is another each time. What runs in an emulator has fewer rounds.",
            "- treestrap and mmdebstrap run as an ordinary account, the others as root, in namespaces of their own.",
            "- For peers' foreign images qemu-user is registered on the host while they run. treestrap needs no such thing.",
            "- Each run has a folder of its own and begins after a sync; nothing big is removed before the end, since ext4 without a",
            "  journal passes over inodes that were removed lately, which slows whoever creates files next. So peers leave folders: a tar",
            "  would cost mmdebstrap a second or two more.",
            "- The second stage of apt2ostree works on the tree that treestrap composed: `ostree checkout --force-copy`, its stand-ins, `dpkg",
            "  --configure -a` in a chroot, `tar | ostree commit`.",
            "- Processor time is that of all processes that were waited for.",
        ]

    # Plots.

    def plots(self):
        found = {}
        if groups := list(self.groups()):
            found["benchmarks.svg"] = plot.bars("Wall time of whole images", "seconds (line: least to most)", groups)
        names = (("lock", "lock"), ("fetch", "fetch"), ("compose", "compose"), ("configure", "stage 2"), ("commit", "commit"), ("start", "sandbox start"), ("apt-get -s", "apt-get -s"))
        series = []
        for key, label in names:
            points = [(entry["packages"], entry["values"][key]["median"]) for entry in self.growth if entry["values"].get(key)]
            if points:
                series.append((label, points))
        if series:
            found["growth.svg"] = plot.lines(f"Each stage as images grow ({self.host})", "packages in the lock", "seconds", series)
        return found

    def groups(self):
        systems = list(dict.fromkeys(record["system"] for record in self.macro))
        for name in ("embedded", "minimal"):
            for architecture in (self.host, FOREIGN):
                rows = []
                for system in systems:
                    if found := self.wall(system, name, architecture):
                        colour = 0 if system.startswith("treestrap") else 1
                        rows.append((system, found["median"], found["least"], found["most"], colour))
                if rows:
                    yield f"{name}, {architecture}", rows
