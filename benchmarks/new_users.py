"""Compare new users without training with retraining: ``python -m benchmarks.new_users SEQUENCES``.

SEQUENCES is a folder with ``beauty.txt`` and ``ml-1m-sas.txt``, see :mod:`benchmarks.full_ranking`. A tenth of the
users is drawn. Their last items are the test items, ranked among all items that the user has not seen before. One
model is fitted without these users and then told their histories (``recommend(history=)``). It then takes the histories
up (``update``) and is trained again on everything by the same plan (``refit``), so that both answers come from the same
settings and the same catalogue. ``--write`` writes ``results/new_users.json`` and the table of ``RESULTS.md``.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import polars as pl

import fastncf
from benchmarks.full_ranking import read_sequences
from benchmarks.report import machine, publish

SETTINGS: dict[str, dict[str, Any]] = {
    "`mf`, the default": {},
    '`mf`, `loss="bce"`': {"loss": "bce"},
    '`mf`, `history="none"`': {"history": "none"},
    "`mlp`": {"model": "mlp"},
    "`neumf`": {"model": "neumf"},
}

FILES = {"beauty": 3, "ml-1m-sas": 3}
"""Each file of sequences, and the seeds of its rows."""

SLOW = {("ml-1m-sas", "`mf`, the default"), ("ml-1m-sas", "`neumf`")}
"""Rows of one seed, whose fits take minutes of a core."""


def ndcg(found: pl.DataFrame, last: pl.DataFrame) -> float:
    """Return the mean NDCG@10 of the last items (user, item) in recommendations (user, item, score, rank)."""
    ranks = last.join(found, on=["user", "item"], how="left")["rank"]
    gains = 1 / (ranks + 1).log(2)
    return float(gains.fill_null(0).sum()) / len(last)


def measure(path: Path, settings: dict[str, Any], seed: int) -> tuple[float, float]:
    """Return NDCG@10 of new users without training, and after training with their histories by the same plan."""
    frame = read_sequences(path)
    users = frame["user"].unique().sort()
    drawn = users.sample(len(users) // 10, seed=seed)
    is_last = pl.col("time") == pl.col("time").max().over("user")
    ours = frame.filter(pl.col("user").is_in(drawn.implode()))
    last, histories = ours.filter(is_last).select("user", "item"), ours.filter(~is_last)
    others = frame.filter(~pl.col("user").is_in(drawn.implode()))
    model = fastncf.fit(others, holdout=None, seed=seed, **settings)
    told = model.recommend(history=histories, k=10, unknown="skip")
    model.update(histories, unknown="skip").refit()
    retrained = model.recommend(histories["user"].unique().to_list(), k=10)
    return ndcg(told, last), ndcg(retrained, last)


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of ``RESULTS.md``."""
    yield (
        f"One run on {found['date']}: {found['machine']}; NDCG@10 in the whole catalogue, means over the seeds. "
        f"Retrained: by `update` and `refit`, with the same plan."
    )
    yield ""
    yield "| file | model | without training | retrained | share | seeds |"
    yield "|---|---|---|---|---|---|"
    for row in found["new_users"]:
        told, trained = fmean(row["told"]), fmean(row["trained"])
        means = f"{told:.4f} | {trained:.4f} | **{told / trained:.1%}** | {len(row['told'])}"
        yield f"| `{row['file']}.txt` | {row['model']} | {means} |"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sequences", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    rows = []
    for name, most in FILES.items():
        for model, settings in SETTINGS.items():
            seeds = range(1 if (name, model) in SLOW else most)
            pairs = [measure(options.sequences / f"{name}.txt", settings, seed) for seed in seeds]
            assert np.min(pairs) > 0
            told, trained = zip(*pairs, strict=True)
            rows.append({"file": name, "model": model, "told": told, "trained": trained})
            print(rows[-1], flush=True)
    found = {**machine(), "new_users": rows}
    print("\n".join(table(found)))
    if options.write:
        publish("new_users", found, table(found))


if __name__ == "__main__":
    main()
