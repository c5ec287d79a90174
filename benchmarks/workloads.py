"""Workloads that :mod:`benchmarks.compare_commits` runs with two versions of fastncf, each in a process of its own.

This file is run as a script, with the version that is measured on ``PYTHONPATH``. So it may use only the public API
that both versions have, in the spelling that both accept. It answers each line of its standard input, the name of a
workload, by a line of JSON with seconds and results.
"""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastncf

MF = {"model": "mf", "optimizer": "sgd", "epochs": 3, "dim": 64, "num_negatives": 8, "l2": 0.005}
LAYERS = {"optimizer": "adam", "epochs": 3, "dim": 32, "layers": (64, 32), "num_negatives": 4, "batch_size": 1024}
SAMPLER = {"model": "mlp", "optimizer": "adam", "epochs": 1, "dim": 8, "layers": (8,), "batch_size": 8192}

FITS: dict[str, tuple[str, dict[str, Any]]] = {
    "uniform negatives": ("large", {**SAMPLER, "num_negatives": 4, "negatives": "uniform"}),
    "negatives by popularity": ("large", {**SAMPLER, "num_negatives": 4, "negatives": "popularity"}),
    "mf without histories": ("large", {**MF, "history": "none"}),
    "mf with sequences": ("large", {**MF, "history": "recent"}),
    "mlp": ("small", {**LAYERS, "model": "mlp"}),
    "neumf": ("small", {**LAYERS, "model": "neumf"}),
    "ingest": ("large", {"model": "popularity"}),
}
"""For each workload its generated file and its settings. ``recent`` is the older name of ``sequence``."""

EVALUATIONS = {"mf without histories": "evaluation of mf", "mlp": "evaluation of mlp"}
"""Fits whose evaluation, 99 candidates per user drawn and ranked, is a measure of its own."""


def run(name: str, folder: Path) -> dict[str, Any]:
    """Run one fit.

    Args:
        name: a workload of ``FITS``.
        folder: holds the generated files.

    Returns:
        ``seconds``: by measure; ``results``: what has to be the same for both versions.
    """
    file, settings = FITS[name]
    rec = fastncf.fit(folder / f"{file}.csv", device="cpu", seed=1, **settings)
    epochs = rec.history
    if name == "ingest":
        seconds = {f"{name}: {stage}": rec.seconds[stage] for stage in ("read", "split")}
    elif settings["epochs"] == 1:
        seconds = {name: rec.seconds["sample"]}  # the draws of the first epoch, before any training
    else:
        seconds = {name: min(epoch["seconds"] for epoch in epochs)}
    if name in EVALUATIONS:
        seconds[EVALUATIONS[name]] = rec.seconds["evaluate"]
    results = {
        "losses": [epoch["loss"] for epoch in epochs],
        "parameters": digest(rec),
        "metrics": rec.metrics,
        "counts": [rec.data[count] for count in ("users", "items", "interactions")],
    }
    return {"seconds": seconds, "results": results}


def digest(rec: "fastncf.Recommender") -> str:
    """Return a hash of all parameters of a model, whatever their names."""
    parts = [hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for tensor in rec.model.state_dict().values()]
    return hashlib.sha256("".join(sorted(parts)).encode()).hexdigest()


def serve(folder: Path, answer: Callable[[dict[str, Any]], None]) -> None:
    """Answer the lines of the standard input until it ends."""
    answer({"package": str(Path(fastncf.__file__).resolve().parent)})
    for line in sys.stdin:
        answer(run(line.strip(), folder))


def main() -> None:
    """Answer on the standard output, and let everything else that is printed go to the standard error."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        serve(Path(sys.argv[1]), lambda values: print(json.dumps(values), file=out, flush=True))


if __name__ == "__main__":
    main()
