"""Stages for the tests of what is trained by stages."""

from typing import Any

from fastncf.stage import Stage

DEFAULTS: dict[str, Any] = {
    "model": "mf",
    "trainer": "",
    "optimizer": "adam",
    "device": "cpu",
    "dim": 4,
    "layers": (8, 4),
    "dropout": 0.0,
    "init_std": 0.1,
    "loss": "bce",
    "num_negatives": 3,
    "negatives": "uniform",
    "negatives_exponent": 0.75,
    "history": "none",
    "epochs": 5,
    "batch_size": 160,
    "learning_rate": 0.01,
    "schedule": "linear",
    "l2": 0.01,
    "shuffle": True,
    "precision": "float32",
    "deterministic": False,
    "seed": 0,
}


def make_stage(**changes: Any) -> Stage:
    """Return a small stage with some settings of its own."""
    settings = DEFAULTS | changes
    return Stage(**{"mlp_dim": settings["dim"]} | settings)
