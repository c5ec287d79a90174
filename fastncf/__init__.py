"""fastncf: from a file of interactions to a collaborative filtering model, fast and exact.

>>> import fastncf
>>> rec = fastncf.fit("ratings.csv")        # doctest: +SKIP
>>> rec.recommend([1, 7, 42], k=10)         # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastncf import processes as _processes  # noqa: F401 (notices forks from now on)
from fastncf.config import Config
from fastncf.errors import (
    ConfigError,
    DataError,
    DataNotFoundError,
    DeviceError,
    DivergedError,
    FastNCFError,
    ForkError,
    InsufficientMemoryError,
    UnusedSettingWarning,
)

if TYPE_CHECKING:
    from fastncf import datasets
    from fastncf.comparison import Comparison, compare
    from fastncf.evaluation.metrics import safe_names
    from fastncf.plan import Plan
    from fastncf.recommender import Recommender, load
    from fastncf.repetitions import Repetitions, repeat
    from fastncf.search.result import Tuned
    from fastncf.search.study import tune
    from fastncf.train import fit, plan_fit
    from fastncf.trainers.loop import Progress

__version__ = "0.1.0"
__all__ = [
    "Comparison",
    "Config",
    "ConfigError",
    "DataError",
    "DataNotFoundError",
    "DeviceError",
    "DivergedError",
    "FastNCFError",
    "ForkError",
    "InsufficientMemoryError",
    "Plan",
    "Progress",
    "Recommender",
    "Repetitions",
    "Tuned",
    "UnusedSettingWarning",
    "compare",
    "datasets",
    "fit",
    "load",
    "plan_fit",
    "repeat",
    "safe_names",
    "tune",
]

_LAZY = {
    "Comparison": "comparison",
    "Plan": "plan",
    "Progress": "trainers.loop",
    "Recommender": "recommender",
    "Repetitions": "repetitions",
    "Tuned": "search.result",
    "compare": "comparison",
    "fit": "train",
    "load": "recommender",
    "plan_fit": "train",
    "repeat": "repetitions",
    "safe_names": "evaluation.metrics",
    "tune": "search.study",
}


def __getattr__(name: str) -> Any:
    """Import heavy libraries with the first name that needs them."""
    if name == "datasets":
        return import_module("fastncf.datasets")
    if name in _LAZY:
        from fastncf.memory import require_libraries

        require_libraries()
        return getattr(import_module(f"fastncf.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'fastncf' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, those that are imported late included."""
    return sorted([*__all__, "__version__"])
