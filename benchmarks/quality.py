"""Measure ranking quality beside published figures: ``python -m benchmarks.quality MOVIELENS``.

MOVIELENS is a folder with ``ml-1m-ncf`` (the three files of He et al. 2017) and ``ml-100k/u.data``. Every model is
fitted with its defaults, once for each seed, and ranked once on the test items. ALS, BPR and EASE are ranked on the
same lists. ``neumf`` and BPR take most of the time. Needs ``pip install 'fastncf[compare]'``. ``--write`` writes
``results/quality.json`` and the table of ``RESULTS.md``.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fastncf
from benchmarks.mf_vs_als import als, factors, interaction_matrix
from benchmarks.report import machine, publish
from fastncf.config import Config
from fastncf.data.split import Split
from fastncf.models.mf import MF

OURS: dict[str, dict[str, Any]] = {
    "`mf`, the default": {},
    '`mf`, `loss="bce"`': {"loss": "bce"},
    '`mf`, `loss="bce"`, `budget="fast"`': {"loss": "bce", "budget": "fast"},
    '`mf`, `history="bag"`': {"history": "bag"},
    '`mf`, `history="none"`': {"history": "none"},
    "`gmf`": {"model": "gmf"},
    '`gmf`, `history="none"`': {"model": "gmf", "history": "none"},
    "`mlp`": {"model": "mlp"},
    '`mlp`, `history="none"`': {"model": "mlp", "history": "none"},
    "`neumf`": {"model": "neumf"},
    "`popularity`": {"model": "popularity"},
    "the notebook's recipe, all users": {"config": Config.notebook(user_fraction=1.0, distinct_candidates=True)},
}
REGULARIZATION = (1000, 300)
"""EASE's lambda for each protocol: the best on MovieLens-1M, and the best of 20, 100 and 300 on the validation items of
MovieLens-100K."""
DACREMA = "Ferrari Dacrema et al. 2021"
OTHERS: dict[str, list[tuple[str, float, float, str]]] = {
    "MovieLens-1M, He et al.'s test items and 99 negatives": [
        ("MF with a dot product, 192 dimensions", 0.7294, 0.4523, "Rendle et al. 2020, quoted from memory"),
        ("NeuMF, pre-trained", 0.730, 0.447, "He et al. 2017, as a reproduction quotes it"),
        ("SLIM", 0.7161, 0.4470, DACREMA),
        ("NeuMF, tuned by others", 0.7120, 0.4369, DACREMA),
        ("PureSVD", 0.6896, 0.4294, DACREMA),
        ("RP3beta", 0.6715, 0.3991, DACREMA),
        ("UserKNN", 0.6705, 0.3908, DACREMA),
        ("ItemKNN", 0.6596, 0.3900, DACREMA),
    ],
    "MovieLens-100K, latest held out, 99 distinct uniform negatives": [
        ("NeuMF of RecBole 1.2.1 after 5 epochs", 0.625, 0.352, "measured elsewhere in November 2026"),
    ],
}
"""Published figures of each protocol: system, HR@10, NDCG@10, source."""


class Scores(torch.nn.Module):
    """A model that looks scores up in a table (U, I)."""

    table: torch.Tensor

    def __init__(self, table: np.ndarray) -> None:
        super().__init__()
        self.register_buffer("table", torch.from_numpy(table))

    def forward(self, user_ids: torch.Tensor, item_ids: torch.Tensor) -> torch.Tensor:
        """Return the scores of pairs."""
        return self.table[user_ids.long(), item_ids.long()]


def ease(split: Split, regularization: float) -> Scores:
    """Return the scores of EASE (Steck 2019, "Embarrassingly shallow autoencoders for sparse data", eq. 8)."""
    seen = interaction_matrix(split)
    inverse = np.linalg.inv((seen.T @ seen).toarray() + regularization * np.eye(split.num_items, dtype=np.float32))
    weights = (inverse / -np.diag(inverse)).astype(np.float32)
    np.fill_diagonal(weights, 0)
    return Scores(seen @ weights)


def bpr(split: Split, seed: int, learning_rate: float, iterations: int) -> MF:
    """Return implicit's BPR with 63 factors and a bias."""
    from implicit.cpu.bpr import BayesianPersonalizedRanking

    fitted = BayesianPersonalizedRanking(
        factors=63, learning_rate=learning_rate, regularization=0.02, iterations=iterations, random_state=seed
    )
    fitted.fit(interaction_matrix(split), show_progress=False)
    return MF.from_factors(factors(fitted.user_factors, fitted.item_factors))


def peers(split: Split, seed: int, regularization: float) -> Iterator[tuple[str, Callable[[], torch.nn.Module]]]:
    """Yield the name of each peer and its fit; ALS and BPR have the settings that are best on MovieLens-1M."""
    from threadpoolctl import threadpool_limits

    def fit_als() -> MF:
        """Return implicit's ALS."""
        with threadpool_limits(1, user_api="blas"):
            return MF.from_factors(next(als(split, seed, budgets=[15]))[1])

    yield "implicit's ALS", fit_als
    yield "implicit's BPR", partial(bpr, split, seed, 0.05, 150)
    yield f"EASE, lambda {regularization}", partial(ease, split, regularization)


def sources(folder: Path) -> list[dict[str, Any]]:
    """Return the data to fit for each protocol of ``OTHERS``, as arguments of :func:`fastncf.fit`."""
    paper = folder / "ml-1m-ncf"
    given = {"test": paper / "ml-1m.test.rating", "candidates": paper / "ml-1m.test.negative"}
    return [{"train": paper / "ml-1m.train.rating", **given}, {"train": folder / "ml-100k" / "u.data"}]


def measure(source: dict[str, Any], regularization: float, seeds: int) -> list[dict[str, Any]]:
    """Return HR@10, NDCG@10 and seconds of the processor for the whole fit of each model and seed.

    The peers are ranked on the lists of fastncf.
    """
    rows: dict[str, dict[str, Any]] = {}

    def note(name: str, found: dict[str, float], seconds: float, users: int) -> None:
        assert found["ndcg@10"] <= found["hr@10"] <= 1
        row = rows.setdefault(name, {"model": name, "hr": [], "ndcg": [], "cpu_seconds": [], "users": users})
        for kind, value in (("hr", found["hr@10"]), ("ndcg", found["ndcg@10"]), ("cpu_seconds", seconds)):
            row[kind].append(value)

    for seed in range(seeds):
        for name, settings in OURS.items():
            start = time.process_time()
            fitted = fastncf.fit(**source, seed=seed, **settings)
            note(f"fastncf {name}", fitted.metrics, time.process_time() - start, len(fitted.users))
        for name, fit in peers(fitted.split, seed, regularization):
            start = time.process_time()
            model = fit()
            seconds = time.process_time() - start
            note(name, replace(fitted, trained=model).evaluate().metrics, seconds, len(fitted.users))
    return list(rows.values())


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of ``RESULTS.md``: the systems of a protocol, the best first."""
    yield (
        f"One run on {found['date']}: {found['machine']}; HR@10 ± its standard error over users, NDCG@10. CPU seconds "
        f"of the whole fit, reading and evaluation included for fastncf."
    )
    yield ""
    yield "| protocol | system | HR@10 | NDCG@10 | source |"
    yield "|---|---|---|---|---|"
    for protocol, rows in found["quality"].items():
        lines = [
            (hr, f"{name} | {hr:.4f} | {ndcg:.4f} | {source}, not measured here |")
            for name, hr, ndcg, source in OTHERS[protocol]
        ]
        for row in rows:
            hr, ndcg, seconds = (float(np.mean(row[kind])) for kind in ("hr", "ndcg", "cpu_seconds"))
            error = math.sqrt(hr * (1 - hr) / row["users"])
            source = f"{len(row['hr'])} seeds, {seconds:.1f} s of CPU each"
            lines.append((hr, f"{row['model']} | **{hr:.4f}** ± {error:.3f} | **{ndcg:.4f}** | {source} |"))
        for at, (_, line) in enumerate(sorted(lines, reverse=True)):
            yield f"| {protocol if at == 0 else ''} | {line}"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("movielens", type=Path)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    measured = [
        measure(source, regularization, options.seeds)
        for source, regularization in zip(sources(options.movielens), REGULARIZATION, strict=True)
    ]
    found = {**machine("implicit"), "quality": dict(zip(OTHERS, measured, strict=True))}
    print("\n".join(table(found)))
    if options.write:
        publish("quality", found, table(found))


if __name__ == "__main__":
    main()
