"""The default recipe on any files, beside ALS, BPR, EASE and popularity: ``python -m benchmarks.files A.csv B.csv``.

Of each user's interactions the latest is the test item, or any where a file has no times, among 99 that were drawn. The
peers get what ours does without: each is fitted with several settings, the best of which on second items that are held
out is then fitted again, with a seed, and looked at once on the test items. Needs ``pip install 'fastncf[compare]'``.
``--write`` writes ``results/files.json`` and the README's table.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

import fastncf
from benchmarks.factorization import als
from benchmarks.quality import bpr, ease
from benchmarks.report import machine, publish
from fastncf.data.interactions import read_interactions
from fastncf.data.split import Split
from fastncf.evaluation.candidates import CandidateSpec, held_out_lists
from fastncf.evaluation.metrics import metrics
from fastncf.evaluation.ranking import candidate_ranks
from fastncf.models.mf import MF
from fastncf.rng import Stream

EASE_AT_MOST = 13_000
"""Items up to which EASE is fitted: it inverts a matrix of so many rows and columns."""


def tuned_als(split: Split, seed: int, regularization: float, alpha: float) -> nn.Module:
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):
        return MF.from_factors(next(als(split, seed, [15], regularization, alpha))[1])


PEERS: dict[str, tuple[Callable[..., nn.Module], list[tuple[float, ...]]]] = {
    "implicit's ALS": (tuned_als, list(product((0.1, 10.0), (1.0, 5.0, 40.0)))),
    "implicit's BPR": (bpr, list(product((0.01, 0.05), (50, 150)))),
    "EASE": (lambda split, _, regularization: ease(split, regularization), [(100.0,), (300.0,), (1000.0,)]),
}


def measure(path: Path, seeds: int) -> dict[str, Any]:
    """HR@10 and NDCG@10 of each model and seed, and the settings that were chosen for the peers."""
    rule: Any = "latest" if read_interactions(path, needs_time=False).time is not None else "random"
    earlier = fastncf.fit(path, model="popularity", validation=True, split=rule)
    users = np.flatnonzero(earlier.split.validation_item >= 0).astype(np.int32)
    positives = earlier.split.validation_item[users]
    spec = CandidateSpec(num_candidates=99, distinct=True, seed=earlier.config.seed)
    lists = held_out_lists(earlier.split, spec, users, positives, Stream.CANDIDATES)
    chosen = {}
    for name, (fitted_with, choices) in PEERS.items():
        if name != "EASE" or earlier.split.num_items <= EASE_AT_MOST:
            models = (fitted_with(earlier.split, 0, *one) for one in choices)
            ndcg = [metrics(candidate_ranks(model, lists), 10)["ndcg@10"] for model in models]
            chosen[name] = choices[int(np.argmax(ndcg))]
    rows: dict[str, list[dict[str, float]]] = {}
    fitted: dict[str, nn.Module] = {}
    for seed in range(seeds):
        ours = fastncf.fit(path, seed=seed, split=rule)
        rows.setdefault("fastncf's default", []).append(ours.metrics)
        rows.setdefault("popularity", []).append(fastncf.fit(path, seed=seed, split=rule, model="popularity").metrics)
        for name, settings in chosen.items():
            if name != "EASE" or seed == 0 or rule == "random":  # nothing in it is drawn but perhaps the split
                fitted[name] = PEERS[name][0](ours.split, seed, *settings)
            rows.setdefault(name, []).append(replace(ours, trained=fitted[name]).evaluate().metrics)
    assert all(0 < one["ndcg@10"] <= one["hr@10"] <= 1 for of_model in rows.values() for one in of_model)
    shape = len(ours.split.indices), ours.split.num_users, ours.split.num_items
    recipe = {name: getattr(ours.config, name) for name in ("split", "history", "dim", "epochs", "l2", "negatives")}
    return {"shape": shape, "recipe": recipe, "chosen": chosen, "rows": rows}


def table(found: dict[str, Any]) -> Iterator[str]:
    """The README's lines: a file each, a model a column."""
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
        yield f"| {file} | {shape} | {one['recipe']['history']} | {' | '.join(cells)} |"


def main() -> None:
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
            publish("files", found, table(found))


if __name__ == "__main__":
    main()
