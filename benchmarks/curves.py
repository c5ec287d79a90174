"""Draw NDCG@10 over the time of the training: ``python -m benchmarks.curves --data ml-1m=ml-1m-sas.txt ...``.

fastncf and its peers are trained one after the other on all but the last item of each user, on one thread each, and
give the ten best unseen items of the whole catalogue at times that grow by two fifths. The time is that of the fit,
without imports, preparation of the data and lists. The settings of a peer are those that :mod:`benchmarks.peers` has
chosen on validation items, the last but one of each user; those of fastncf are its defaults. Nothing is chosen by the
curves, which are of the test items: their ends are the figures of the test.

Data sets and systems add up: what ``benchmarks/results/curves.json`` has is not measured again unless ``--again`` says
so. ``--write`` writes the table of ``RESULTS.md`` and the picture.
"""

import argparse
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from benchmarks.peers.__main__ import data_set
from benchmarks.peers.campaign import FitFailedError, Limits, questions, run_curve, warm_up
from benchmarks.peers.environments import EnvironmentFailedError, python_of
from benchmarks.peers.evaluator import K
from benchmarks.peers.reading import read_histories
from benchmarks.peers.systems import SYSTEMS
from benchmarks.report import RESULTS, machine, publish

COMPARED = "fastncf", "fastncf-bce", "implicit-als", "implicit-bpr", "rectools-sasrec"
TIMES = 1, 3, 10, 30, 100, 300
"""Seconds that the table looks at."""

_METRIC = f"full/ndcg@{K}"


def chosen(name: str, key: str) -> dict[str, Any]:
    """Return the settings of a system that validation items of a data set have chosen; the first ones without."""
    place = RESULTS / "peers.json"
    found = json.loads(place.read_text(encoding="utf-8"))["data"] if place.exists() else {}
    settings: dict[str, Any] = found.get(name, {"results": {}})["results"].get(key, {}).get("settings")
    return SYSTEMS[key].trials[0] if settings is None else settings


def measure(
    name: str, path: Path, environments: Path, limits: Limits, keys: Sequence[str]
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield systems with their curves on a data set, or why there is none."""
    _, asked = questions(read_histories(path), 0, seed=0)
    for key in keys:
        system, folder = SYSTEMS[key], environments / "jobs" / "curves" / name / key
        settings = chosen(name, key)
        try:
            python = python_of(system, environments)
            if system.environment is None:
                warm_up(system, python, folder, limits)
            curve = run_curve(system, python, settings, asked, folder, seconds=limits.fit, limits=limits)
        except (EnvironmentFailedError, FitFailedError) as error:
            curve = {"failed": str(error), "load": os.getloadavg()[0]}
        end = curve.get("failed") or {k: round(value, 4) for k, value in curve["points"][-1].items()}
        print(f"{name} {system.label}: {end}", flush=True)
        yield key, curve | {"settings": settings, "limit": limits.fit, "date": time.strftime("%Y-%m-%d")}


def at_time(curve: dict[str, Any], seconds: float) -> float | None:
    """Return the metric of the last point that is no later; None where the first one is later."""
    reached = [point[_METRIC] for point in curve["points"] if point["processor_seconds"] <= seconds]
    return reached[-1] if reached else None


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of ``RESULTS.md``."""
    yield (
        f"Several runs until {found['date']}: {found['machine']}. NDCG@10 of the test items in the whole catalogue "
        "after seconds of the processor, one thread each; at the end ± its standard error over users."
    )
    for name, data in found["data"].items():
        yield ""
        limits = ", ".join(f"{limit:g} s" for limit in sorted({curve["limit"] for curve in data.values()}))
        yield f"**{name}**; limit of the training: {limits}:"
        yield ""
        yield "| system | " + " | ".join(f"{seconds} s" for seconds in TIMES) + " | at the end | after, s | load | |"
        yield "|" + "---|" * (len(TIMES) + 5)
        for key, curve in sorted(data.items(), key=_rank):
            if "failed" in curve:
                yield (
                    f"| {SYSTEMS[key].label} |" + " |" * len(TIMES) + f" {curve['failed']} | | {curve['load']:.0f} | |"
                )
                continue
            values = [at_time(curve, seconds) for seconds in TIMES]
            cells = " | ".join("" if value is None else f"{value:.4f}" for value in values)
            end = curve["points"][-1]
            yield (
                f"| {SYSTEMS[key].label} | {cells} | {end[_METRIC]:.4f} ± {end[_METRIC + ' error']:.4f} | "
                f"{end['processor_seconds']:.1f} | {curve['load']:.0f} | {curve['done']} |"
            )


def _rank(entry: tuple[str, dict[str, Any]]) -> float:
    """Return what curves are sorted by: the ends, the best first, and those that failed last."""
    points = entry[1].get("points")
    return -points[-1][_METRIC] if points else 0.0


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw the curves, a panel for each data set."""
    plt.rcParams.update({"svg.hashsalt": "fastncf", "svg.fonttype": "none"})
    figure, all_axes = plt.subplots(
        1, len(found["data"]), figsize=(5.5 * len(found["data"]), 4.5), layout="constrained", squeeze=False
    )
    for axes, (name, data) in zip(all_axes[0], found["data"].items(), strict=True):
        for key, curve in data.items():
            points = curve.get("points", [])
            at = [point["processor_seconds"] for point in points], [point[_METRIC] for point in points]
            label = SYSTEMS[key].label.replace("`", "")
            axes.plot(*at, marker="o", markersize=3, label=label, linewidth=2 if key == "fastncf" else 1)
        axes.set_xscale("log")
        axes.set_ylim(bottom=0)
        axes.set_xlabel("processor time of the training, s")
        axes.set_ylabel("NDCG@10, whole catalogue")
        axes.set_title(name)
        axes.spines[["top", "right"]].set_visible(False)
    all_axes[0][0].legend(fontsize=8)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=data_set, action="append", required=True, metavar="NAME=PATH")
    parser.add_argument("--environments", type=Path, required=True, help="folder that environments are made in")
    parser.add_argument("--fit", type=float, default=600, help="seconds of processor time for the training of a system")
    parser.add_argument("--answers", type=float, default=1200, help="the same for imports, preparation and lists")
    parser.add_argument("--again", action="store_true", help="measure also what the results have")
    parser.add_argument("--write", action="store_true", help="write the table of RESULTS.md and the picture")
    options = parser.parse_args()
    place, limits = RESULTS / "curves.json", Limits(0, options.fit, options.answers, 1)
    found = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {**machine(), "data": {}}
    for name, path in options.data:
        curves = found["data"].setdefault(name, {})
        keys = [key for key in COMPARED if options.again or key not in curves]
        for key, curve in measure(name, path, options.environments, limits, keys):
            curves[key] = curve
            found |= machine()
            place.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print("\n".join(table(found)))
    if options.write:
        publish("curves", found, table(found))
        draw(found, RESULTS / "curves.svg")


if __name__ == "__main__":
    main()
