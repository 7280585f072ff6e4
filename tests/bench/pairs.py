"""The one ratio that has an aim: treestrap's foreign image beside mmdebstrap's for this machine, one right after the other.

The machine's pace differs by a fifth from one minute to the next. In the rounds of macro.py minutes lie between the two;
here they are together, first the one, then the other, and in the next pair the other way round.
"""
import peers
import treestrap
from measure import say
from sets import FOREIGN, SETS


def run(bench):
    """Three pairs a round."""
    system = peers.Mmdebstrap(bench)
    name = "minimal" if bench.options.quick else "embedded"

    def theirs():
        place = bench.place(f"pairs mmdebstrap {name}")
        return bench.run(place, system.steps(SETS[name], bench.host, place))

    def ours():
        project = treestrap.Project(bench, bench.place(f"pairs treestrap {name}"))
        project.manifest(SETS[name], FOREIGN)
        return project.run("build", "embedded")

    pairs = []
    for number in range(3 * bench.options.rounds):
        makers = [("mmdebstrap", theirs), ("treestrap", ours)]
        records = {who: make() for who, make in (makers if number % 2 == 0 else reversed(makers))}
        if all("failed" not in record for record in records.values()):
            pairs.append({who: record["seconds"] for who, record in records.items()})
            say(f"pair {number + 1}: {pairs[-1]['treestrap'] / pairs[-1]['mmdebstrap']:.2f}")
    return {"set": name, "pairs": pairs}
