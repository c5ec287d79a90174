"""Write the results of the benchmark suite as JSON, as a table of ``RESULTS.md``, and as a picture.

    pytest benchmarks --shape ml-20m --benchmark-json raw.json
    python -m benchmarks.report raw.json

writes ``results/ml-20m.json`` (medians, machine, versions, date), ``results/ml-20m.svg`` (speed-ups on a logarithmic
scale) and the lines between the markers ``suite ml-20m`` of ``RESULTS.md``.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cpuinfo
import matplotlib.pyplot as plt
import numpy as np

from fastncf.threads import num_threads

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parent / "RESULTS.md"
PACKAGES = ("numba", "numpy", "pandas", "polars", "torch")

Summary = dict[str, Any]


def summary(raw: Summary) -> Summary:
    """Return the part of pytest-benchmark's JSON that is kept: no single timings and no name of the machine."""
    machine = raw["machine_info"]
    return {
        "date": raw["datetime"][:10],
        "machine": f"{machine['cpu']['brand_raw']}, {machine['cpu']['count']} cores, {machine['system']}",
        "versions": {
            "python": machine["python_version"],
            **{package: importlib.metadata.version(package) for package in PACKAGES},
        },
        "shape": raw["benchmarks"][0]["extra_info"]["shape"],
        "benchmarks": [
            {
                **{name: value for name, value in bench["extra_info"].items() if name != "shape"},
                **{name: bench["stats"][name] for name in ("min", "median", "max", "rounds")},
            }
            for bench in raw["benchmarks"]
        ],
    }


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, in the plural unless the number is 1."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def machine(*packages: str) -> Summary:
    """Return the date, the CPU and the versions of this run, those of ``packages`` among them."""
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{cpuinfo.get_cpu_info()['brand_raw']}, {counted(num_threads(), 'core')}, {platform.system()}",
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in (*PACKAGES, *packages)},
        },
    }


def load_average() -> float:
    """Return how many processes have had or wanted a core in the last 5 minutes, on average."""
    return round(os.getloadavg()[1], 1)


def pairs(found: Summary) -> dict[str, dict[str, Summary]]:
    """Return the benchmarks of each pair by side, each with its ``rate``: units per second at the median."""
    table: dict[str, dict[str, Summary]] = {}
    for bench in found["benchmarks"]:
        if "side" in bench:
            rate = bench["units"] / bench["median"]
            table.setdefault(bench["pair"], {})[bench["side"]] = {**bench, "rate": rate}
    return table


def lines(found: Summary) -> Iterable[str]:
    """Yield the lines of ``RESULTS.md``: a table of the pairs that have a usual loop, and a list of the rest."""
    yield (
        f"Medians of one run on {found['date']} at the shape {found['shape']}: {found['machine']}, "
        + ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        + "."
    )
    yield ""
    yield "| what | usual loop | fastncf | ratio | beside a ceiling measured in the same run |"
    yield "|---|---|---|---|---|"
    for pair, sides in pairs(found).items():
        if "loop" not in sides:
            continue
        ours, theirs = sides["fastncf"], sides["loop"]
        yield (
            f"| {pair} | {quantity(theirs['rate'])} {theirs['unit']}/s: {theirs['what']} "
            f"| {quantity(ours['rate'])} {ours['unit']}/s | **{times(ours['rate'] / theirs['rate'])}** "
            f"| {_share(sides)} |"
        )
    yield ""
    for pair, sides in pairs(found).items():
        if "loop" not in sides:
            ours, share = sides["fastncf"], _share(sides)
            rate = f" ({quantity(ours['rate'])} {ours['unit']}/s)" if ours["units"] > 1 else ""
            yield f"- {pair}: {duration(ours['median'])}{rate}: {ours['what']}" + (f"; {share}" if share else "")
    for bench in found["benchmarks"]:
        yield from _bullets(bench)


def _share(sides: dict[str, Summary]) -> str:
    """Return which share of a ceiling's rate fastncf reaches, and what the ceiling is; empty where there is none."""
    if "ceiling" not in sides:
        return ""
    ceiling = sides["ceiling"]
    return f"{sides['fastncf']['rate'] / ceiling['rate']:.0%} of the rate of {ceiling['what']}"


def _bullets(bench: Summary) -> Iterable[str]:
    """Yield the line of a benchmark that is no pair."""
    if "of_ceiling" in bench:
        yield (
            f"- {bench['pair']}: {duration(np.median(bench['seconds']))}, {np.median(bench['of_ceiling']):.2f} times "
            f"as long as {bench['ceiling']} alone; peak memory {bench['peak'] / 1e9:.2f} GB, {bench['ceiling']} "
            f"{bench['ceiling_peak'] / 1e9:.2f} GB"
        )
    if "ratios" in bench:
        low, middle, high = np.quantile(bench["ratios"], [0.25, 0.5, 0.75])
        yield f"- {bench['pair']}: {middle:.1%} of the time (quartiles {low:.1%}, {high:.1%})"
    if "growth" in bench:
        costs = ", ".join(
            f"{np.median(costs) * 1e9:.2f} ns at {quantity(int(size))}" for size, costs in bench["growth"].items()
        )
        yield f"- {bench['pair']}: {costs}"


def quantity(number: float) -> str:
    """Return a number with three digits and a prefix: 1234567 -> 1.23 M."""
    for factor, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if number >= factor:
            return f"{number / factor:.3g}{prefix}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """Return seconds with three digits: 1.234 -> 1.23 s, 0.01234 -> 12.3 ms."""
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def times(ratio: float) -> str:
    """Return a speed-up with two digits or more: 1.234 -> 1.2 x, 1234 -> 1,234 x."""
    return f"{ratio:,.0f} x" if ratio >= 20 else f"{ratio:.1f} x"


def draw(found: Summary, path: Path) -> None:
    """Draw the speed-ups as bars on a logarithmic scale."""
    ratios = {
        pair: sides["fastncf"]["rate"] / sides["loop"]["rate"]
        for pair, sides in pairs(found).items()
        if "loop" in sides
    }
    names = sorted(ratios, key=lambda name: ratios[name])
    plt.rcParams.update({"svg.hashsalt": "fastncf", "svg.fonttype": "none"})
    figure, axes = plt.subplots(figsize=(9, 0.7 + 0.5 * len(names)), layout="constrained")
    bars = axes.barh(names, [ratios[name] for name in names], color="#3b6ea5", log=True)
    axes.bar_label(bars, [times(ratios[name]) for name in names], padding=4)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlim(0.8, max(ratios.values()) * 4)
    axes.set_xlabel(f"times as fast as the usual loop, {found['shape']}, {found['date']}")
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def write_between(path: Path, name: str, text: str) -> None:
    """Replace the lines between ``<!-- name -->`` and ``<!-- /name -->``.

    Raises:
        SystemExit: the file does not have exactly one such pair of markers.
    """
    begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    old = path.read_text(encoding="utf-8")
    new, found = re.subn(f"{begin}.*?{end}", lambda _: f"{begin}\n{text}\n{end}", old, flags=re.DOTALL)
    if found != 1:
        raise SystemExit(f"{path}: expected one {begin} ... {end}, found {found}")
    path.write_text(new, encoding="utf-8")


def publish(name: str, found: Summary, shown: Iterable[str]) -> None:
    """Write results to ``results/NAME.json``, and their lines between the markers NAME of ``RESULTS.md``."""
    (RESULTS / f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    write_between(PAGE, name, "\n".join(shown))


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, help="JSON that pytest-benchmark wrote")
    options = parser.parse_args()
    found = summary(json.loads(options.raw.read_text(encoding="utf-8")))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{found['shape']}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(found, RESULTS / f"{found['shape']}.svg")
    write_between(PAGE, f"suite {found['shape']}", "\n".join(lines(found)))
    print("\n".join(lines(found)))


if __name__ == "__main__":
    main()
