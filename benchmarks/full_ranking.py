"""Measure rankings of the whole catalogue beside published ones: ``python -m benchmarks.full_ranking SEQUENCES``.

SEQUENCES is a folder with ``beauty.txt``, ``toys.txt`` and ``ml-1m-sas.txt``, or some of them, in the form that papers
on sequential recommendation use: a line for each user, ``user item item ...`` in the order of time. The last item of a
user is the test item, ranked among all items that the user has not seen before, and among 100 of these drawn
uniformly; positives lose ties. All settings were chosen on the second last items. ``--write`` writes
``results/full_ranking.json`` and the table of ``RESULTS.md``.
"""

import argparse
import math
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import polars as pl

import fastncf
from benchmarks.report import machine, publish

SETTINGS: dict[str, dict[str, Any]] = {
    "`mf`, the default": {},
    "`mf`, `epochs=10`": {"epochs": 10},
    '`mf`, `budget="fast"`': {"budget": "fast"},
    '`mf`, `loss="bce"`': {"loss": "bce"},
    "`popularity`": {"model": "popularity"},
}
PUBLISHED = {
    "ml-1m-sas": [
        ("SASRec, cross entropy over 3,000 negatives", 0.3159, 0.1857, "blondered/transformer_benchmark"),
        ("gSASRec", 0.3003, 0.1726, "asash/gSASRec"),
        ("BERT4Rec", 0.2821, 0.1516, "asash/bert4rec_repro"),
    ],
    "beauty": [
        ("BSARec", 0.1002, 0.0610, "MTandHJ/RecBoard"),
        ("SASRec, cross entropy", 0.0921, 0.0531, "MTandHJ/RecBoard"),
    ],
    "toys": [
        ("BSARec", 0.1078, 0.0663, "MTandHJ/RecBoard"),
        ("SASRec, cross entropy", 0.0970, 0.0580, "MTandHJ/RecBoard"),
    ],
}
"""Published figures for each file: system, HR@10, NDCG@10, source."""


def read_sequences(path: Path) -> pl.DataFrame:
    """Return the interactions of a file, with their places in the lines as times."""
    lines = [line.split() for line in path.read_text(encoding="ascii").splitlines()]
    frame = pl.DataFrame(
        {"user": [int(line[0]) for line in lines], "item": [list(map(int, line[1:])) for line in lines]}
    )
    places = pl.int_ranges(pl.col("item").list.len())
    return frame.with_columns(time=places).explode("item", "time")


def measure(path: Path, seeds: int) -> list[dict[str, Any]]:
    """Return the metrics and seconds of each setting: lists over the seeds."""
    frame, rows = read_sequences(path), []
    for name, settings in SETTINGS.items():
        row: dict[str, Any] = {"model": name}
        for seed in range(seeds):
            fitted = fastncf.fit(frame, full_ranking=True, num_candidates=100, seed=seed, **settings)
            found = fitted.metrics | {"seconds": fitted.seconds["tune"] + fitted.seconds["train"]}
            assert found["full/ndcg@10"] <= found["full/hr@10"] <= found["hr@10"] <= 1
            for key, value in found.items():
                row.setdefault(key, []).append(value)
        rows.append(row | {"users": len(fitted.users), "loss": fitted.plan.final.loss})
        print(
            path.stem, name, {key: round(fmean(value), 4) for key, value in row.items() if key != "model"}, flush=True
        )
    return rows


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of ``RESULTS.md``: the systems of a file, the best first."""
    yield f"One run on {found['date']}: {found['machine']}. HR@10 ± its standard error over users, NDCG@10."
    yield ""
    yield "| file | system | HR@10, whole catalogue | NDCG@10 | HR@10, 1 + 100 | NDCG@10 | source |"
    yield "|---|---|---|---|---|---|---|"
    for name, rows in found["full_ranking"].items():
        lines = [
            (ndcg, f"{system} | {hr:.4f} | {ndcg:.4f} | | | {source}, not measured here |")
            for system, hr, ndcg, source in PUBLISHED[name]
        ]
        for row in rows:
            keys = "full/hr@10", "full/ndcg@10", "hr@10", "ndcg@10", "seconds"
            hr, ndcg, sampled_hr, sampled_ndcg, seconds = (fmean(row[key]) for key in keys)
            error = math.sqrt(hr * (1 - hr) / row["users"])
            figures = f"**{hr:.4f}** ± {error:.4f} | **{ndcg:.4f}** | {sampled_hr:.4f} | {sampled_ndcg:.4f}"
            source = f"{len(row['hr@10'])} seeds, {seconds:.1f} s of training each"
            lines.append((ndcg, f"fastncf {row['model']} | {figures} | {source} |"))
        for at, (_, line) in enumerate(sorted(lines, reverse=True)):
            yield f"| {f'`{name}.txt`' if at == 0 else ''} | {line}"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequences", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    paths = {name: options.sequences / f"{name}.txt" for name in PUBLISHED}
    measured = {name: measure(path, options.seeds) for name, path in paths.items() if path.exists()}
    found = {**machine(), "full_ranking": measured}
    print("\n".join(table(found)))
    if options.write:
        publish("full_ranking", found, table(found))


if __name__ == "__main__":
    main()
