"""Many similar images: embedded with one leaf package each, as products have them.

treestrap continues each from the configured base; mmdebstrap makes each from the beginning, which is measured twice and
multiplied.
"""
import measure
import peers
import sets
import treestrap
from measure import say


def run(bench):
    quick = bench.options.quick
    base = sets.SETS["minimal" if quick else "embedded"]
    leaves = sets.LEAVES[:2] if quick else sets.LEAVES
    steps = (1, 2) if quick else (1, 5, 20)
    variants = {f"variant{number}": [leaf] for number, leaf in enumerate(leaves, 1)}
    result = {"architecture": bench.host, "variants": len(variants), "leaves": leaves}

    project = treestrap.Project(bench, bench.place("images cold"))
    project.manifest(base, bench.host, variants=variants)
    record = project.run("build")
    result["cold"] = record | {"repository": project.size()}

    project = treestrap.Project(bench, bench.place("images with base"))
    project.manifest(base, bench.host)
    built = project.run("build", "embedded")
    result["base"] = built | {"repository": project.size()}
    project.manifest(base, bench.host, variants=variants)
    result["growth"] = []
    if "failed" not in built:
        for count in steps:
            record = project.run("build", *list(variants)[:count], name=f"{count} variants")
            result["growth"].append(record | {"images": count, "repository": project.size()})
            if "failed" in record:
                break
            say(f"images: {count} variants: {record['seconds']:.2f} s, {result['growth'][-1]['repository'] / 1e6:.0f} MB")

    mmdebstrap = peers.Mmdebstrap(bench)
    result["mmdebstrap"] = []
    result["left_out"] = mmdebstrap.missing()
    if not result["left_out"]:
        for leaf in leaves[:2]:
            place = bench.place(f"images mmdebstrap {leaf}")
            record = bench.run(place, mmdebstrap.steps([*base, leaf], bench.host, place))
            result["mmdebstrap"].append(record | {"folder": measure.bytes_on_disk(place / "root")})
    return result
