"""Rank several held-out items of each user without an order: ``python -m benchmarks.sets SETS``.

SETS is a folder with ``gowalla-train.txt``, ``gowalla-test.txt``, ``ml-1m-lcfn-train.txt`` and ``ml-1m-lcfn-test.txt``,
or one of the pairs: a line for each user, ``user item item ...``. Published systems take the items for a set, and so do
all rows but two: Gowalla's lines have an order, which the default finds. All test items of a user are ranked
among the items that are not in the user's training line; Recall@20 and NDCG@20 are those of LightGCN (He et al. 2020),
means over the users who have test items. All settings were chosen on items held out of the training lines, and the
test items are looked at once. ``--write`` writes ``results/sets.json`` and the table of ``RESULTS.md``.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import polars as pl

import fastncf
from benchmarks.full_ranking import read_sequences
from benchmarks.report import RESULTS, machine, publish
from fastncf.evaluation.metrics import measure
from fastncf.evaluation.task import RankingTask, rank_task

IN_ORDER = frozenset({"gowalla"})
"""Files whose training lines have an order, by fastncf's own test, though they are published as sets."""

DEFAULT = "`mf`, the default, lines in their order"
HORIZON = "`mf`, `horizon=0.25`, lines in their order"
SETTINGS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    HORIZON: {
        "loss": "softmax",
        "horizon": 0.25,
        "dim": 256,
        "num_negatives": 1_024,
        "dropout": 0.8,
        "epochs": 20,
    },
    '`mf`, `loss="softmax"`': {"loss": "softmax"},
    '`mf`, `loss="bce"`': {"loss": "bce"},
    "`popularity`": {"model": "popularity"},
}
PUBLISHED = {
    "gowalla": [
        ("MF, BSL (settings chosen on test items)", 0.1882, 0.1584, "BSL paper, Wu et al. 2024"),
        ("LightGCN", 0.1820, 0.1547, "quoted"),
        ("EASE", 0.1765, 0.1467, "quoted"),
        ("MF, BPR", 0.1627, 0.1378, "quoted"),
    ],
    "ml-1m-lcfn": [
        ("MF, BSL (settings chosen on test items)", 0.2809, 0.2662, "BSL paper, Wu et al. 2024"),
        ("LightGCN, BSL (settings chosen on test items)", 0.2790, 0.2605, "BSL paper, Wu et al. 2024"),
        ("MF, BPR", 0.2532, 0.2440, "quoted"),
    ],
}
"""Published figures for each pair of files: system, Recall@20, NDCG@20, source."""

K = 20


def task_of(fitted: fastncf.Recommender, test: pl.DataFrame) -> RankingTask:
    """Return the task of ranking all test items of each user among the items that the user was not trained on."""
    rows = pl.DataFrame({"user": fitted.users.encode(test["user"]), "item": fitted.items.encode(test["item"])})
    rows = rows.unique().sort("user", "item")
    assert rows.min().row(0) >= (0, 0)
    users, counts = np.unique(rows["user"].to_numpy(), return_counts=True)
    return RankingTask(
        users=users.astype(np.int32),
        indptr=np.concatenate([[0], np.cumsum(counts)]),
        positives=rows["item"].to_numpy().astype(np.int32),
        num_items=len(fitted.items),
        negatives=None,
        excluded=(fitted.split.indptr, fitted.split.indices),
    )


def measure_files(folder: Path, name: str, seeds: int, only: list[str] | None = None) -> list[dict[str, Any]]:
    """Return Recall@20, NDCG@20 and the seconds of each setting, or of some by their names: lists over the seeds."""
    train, test = (read_sequences(folder / f"{name}-{part}.txt") for part in ("train", "test"))
    rows = []
    for model, settings in SETTINGS.items():
        if (model in (DEFAULT, HORIZON) and name not in IN_ORDER) or model not in (only or SETTINGS):
            continue
        row: dict[str, Any] = {"model": model, "recall": [], "ndcg": [], "seconds": [], "cpu_seconds": []}
        for seed in range(seeds):
            begin, cpu = time.perf_counter(), time.process_time()
            frame = train if model in (DEFAULT, HORIZON) else train.drop("time")
            fitted = fastncf.fit(frame, holdout=None, seed=seed, **settings)
            row["seconds"].append(time.perf_counter() - begin)
            row["cpu_seconds"].append(time.process_time() - cpu)
            found = measure(rank_task(fitted.trained, task_of(fitted, test)), K, ("recall", "ndcg")).means()
            row["recall"].append(found[f"recall@{K}"])
            row["ndcg"].append(found[f"ndcg@{K}"])
            assert 0 < row["recall"][-1] <= 1
        rows.append(row)
        print(name, row, flush=True)
    return rows


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of ``RESULTS.md``: the systems of a pair of files, the best first."""
    yield f"One run on {found['date']}: {found['machine']}. Means over users; CPU seconds of the whole fit."
    yield ""
    yield f"| files | system | Recall@{K} | NDCG@{K} | source |"
    yield "|---|---|---|---|---|"
    for name, rows in found["sets"].items():
        lines = [
            (recall, f"{system} | {recall:.4f} | {ndcg:.4f} | {source}, not measured here |")
            for system, recall, ndcg, source in PUBLISHED[name]
        ]
        for row in rows:
            recall, ndcg, seconds = (fmean(row[key]) for key in ("recall", "ndcg", "cpu_seconds"))
            source = f"{len(row['recall'])} seed{'s' if len(row['recall']) > 1 else ''}, {seconds:.0f} s of CPU each"
            lines.append((recall, f"fastncf {row['model']} | **{recall:.4f}** | **{ndcg:.4f}** | {source} |"))
        for at, (_, line) in enumerate(sorted(lines, reverse=True)):
            yield f"| {f'`{name}`' if at == 0 else ''} | {line}"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sets", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--only", action="append", choices=SETTINGS, help="measure this row; the others stay as they are"
    )
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    place = RESULTS / "sets.json"
    former = json.loads(place.read_text(encoding="utf-8"))["sets"] if options.only else {}
    found: dict[str, Any] = {**machine(), "sets": former}
    for name in PUBLISHED:
        if (options.sets / f"{name}-train.txt").exists():
            rows = measure_files(options.sets, name, options.seeds, options.only)
            kept = [row for row in former.get(name, []) if row["model"] not in options.only]
            found["sets"][name] = [*kept, *rows]
    print("\n".join(table(found)))
    if options.write:
        publish("sets", found, table(found))


if __name__ == "__main__":
    main()
