"""Rank items of any files by the default and by peers: ``python -m benchmarks.other_datasets A.csv B.csv``.

The peers are implicit's ALS and BPR, EASE and popularity. The test item of a user is the latest one, or a random one
where a file has no times; it is ranked against 99 drawn items. fastncf is fitted with nothing set. Of each peer several
settings are fitted, and compared on second items that are held out for this purpose; the best setting is then fitted
again for each seed, and ranked once on the test items. Needs ``pip install 'fastncf[compare]'``. ``--write`` writes
``results/other_datasets.json`` and the table of ``RESULTS.md``.
"""

import argparse
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import fastncf
from benchmarks.mf_vs_als import als
from benchmarks.quality import bpr, ease
from benchmarks.report import machine, publish
from fastncf.data.interactions import read_interactions
from fastncf.data.split import Split
from fastncf.errors import UnusedSettingWarning
from fastncf.evaluation.candidates import CandidateSpec, held_out_lists
from fastncf.evaluation.metrics import metrics
from fastncf.evaluation.ranking import candidate_ranks
from fastncf.models.mf import MF
from fastncf.rng import Stream

EASE_AT_MOST = 13_000
"""Number of items up to which EASE is fitted: it inverts a matrix (I, I)."""


def tuned_als(split: Split, seed: int, regularization: float, alpha: float) -> nn.Module:
    """Return implicit's ALS after 15 iterations."""
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        return MF.from_factors(next(als(split, seed, [15], regularization, alpha))[1])


PEERS: dict[str, tuple[Callable[..., nn.Module], list[tuple[float, ...]]]] = {
    "implicit's ALS": (tuned_als, list(product((0.1, 10.0), (1.0, 5.0, 40.0)))),
    "implicit's BPR": (bpr, list(product((0.01, 0.05), (50, 150)))),
    "EASE": (lambda split, _, regularization: ease(split, regularization), [(100.0,), (300.0,), (1000.0,)]),
}


def measure(path: Path, seeds: int) -> dict[str, Any]:
    """Return HR@10 and NDCG@10 of each model and seed, and the settings that were chosen for the peers."""
    holdout: Any = "latest" if read_interactions(path, needs_time=False).time is not None else "random"
    with warnings.catch_warnings():  # the split alone is used, in which a second item of each user is held out
        warnings.simplefilter("ignore", UnusedSettingWarning)
        earlier = fastncf.fit(path, model="popularity", validation=True, split=holdout)
    users = np.flatnonzero(earlier.split.validation_item >= 0).astype(np.int32)
    positives = earlier.split.validation_item[users]
    lists = held_out_lists(earlier.split, CandidateSpec(99, distinct=True, seed=0), users, positives, Stream.CANDIDATES)
    chosen = {}
    for name, (fitted_with, choices) in PEERS.items():
        if name != "EASE" or earlier.split.num_items <= EASE_AT_MOST:
            models = (fitted_with(earlier.split, 0, *one) for one in choices)
            ndcg = [metrics(candidate_ranks(model, lists), 10)["ndcg@10"] for model in models]
            chosen[name] = choices[int(np.argmax(ndcg))]
    rows: dict[str, list[dict[str, float]]] = {}
    fitted: dict[str, nn.Module] = {}
    for seed in range(seeds):
        ours = fastncf.fit(path, seed=seed, split=holdout)
        rows.setdefault("fastncf's default", []).append(ours.metrics)
        rows.setdefault("popularity", []).append(
            fastncf.fit(path, seed=seed, split=holdout, model="popularity").metrics
        )
        for name, choice in chosen.items():
            if name != "EASE" or seed == 0 or holdout == "random":  # it draws nothing, only the split may differ
                fitted[name] = PEERS[name][0](ours.split, seed, *choice)
            rows.setdefault(name, []).append(replace(ours, trained=fitted[name]).evaluate().metrics)
    assert all(0 < one["ndcg@10"] <= one["hr@10"] <= 1 for of_model in rows.values() for one in of_model)
    shape = len(ours.split.indices), ours.split.num_users, ours.split.num_items
    names = ("history", "dim", "epochs", "l2", "negatives")
    settings = {"split": holdout, **{name: getattr(ours.plan.final, name) for name in names}}
    return {"shape": shape, "settings": settings, "chosen": chosen, "rows": rows}


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of ``RESULTS.md``: one row per file, one column per model."""
    names = max((list(one["rows"]) for one in found["files"].values()), key=len)
    yield f"One run on {found['date']}, means over {found['seeds']} seeds; HR@10, NDCG@10."
    yield ""
    yield f"| file | interactions, users, items | history | {' | '.join(names)} |"
    yield "|" + "---|" * (3 + len(names))
    for file, one in found["files"].items():
        means = {
            name: tuple(float(np.mean([metric[kind] for metric in of_model])) for kind in ("hr@10", "ndcg@10"))
            for name, of_model in one["rows"].items()
        }
        best = max(means.values(), key=lambda pair: pair[1])
        cells = []
        for name in names:
            if name not in means:
                cells.append("")
                continue
            text = ", ".join(f"{mean:.4f}"[1:] for mean in means[name])
            cells.append(f"**{text}**" if means[name] == best else text)
        shape = ", ".join(f"{number:,}" for number in one["shape"])
        yield f"| {file} | {shape} | {one['settings']['history']} | {' | '.join(cells)} |"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    found: dict[str, Any] = {**machine("implicit"), "seeds": options.seeds, "files": {}}
    for path in options.files:
        found["files"][path.stem] = measure(path, options.seeds)
        print("\n".join(table(found)), flush=True)
        if options.write:
            publish("other_datasets", found, table(found))


if __name__ == "__main__":
    main()
