"""fastncf: from a ratings file to a neural collaborative filtering model, fast and exact.

>>> import fastncf
>>> rec = fastncf.fit("ratings.csv")        # doctest: +SKIP
>>> rec.recommend([1, 7, 42], k=10)         # doctest: +SKIP
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastncf.config import Config
from fastncf.errors import ConfigError, DataError, DataNotFoundError, DeviceError, FastNCFError

if TYPE_CHECKING:
    from fastncf.persistence import load
    from fastncf.recommender import Recommender
    from fastncf.train import fit
    from fastncf.trainers.loop import Progress

__version__ = "0.1.0"
__all__ = [
    "Config",
    "ConfigError",
    "DataError",
    "DataNotFoundError",
    "DeviceError",
    "FastNCFError",
    "Progress",
    "Recommender",
    "fit",
    "load",
]

_LAZY = {"fit": "train", "Progress": "trainers.loop", "Recommender": "recommender", "load": "persistence"}


def __getattr__(name: str) -> Any:
    """Heavy libraries are imported with the first name that needs them."""
    if name in _LAZY:
        return getattr(import_module(f"fastncf.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'fastncf' has no attribute {name!r}")
