"""Distributions that negatives are drawn from, as entries of one table."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from fastncf.errors import ConfigError

if TYPE_CHECKING:
    from fastncf.kernels.cpu.alias import AliasTable


def popularity_weights(item_counts: np.ndarray, exponent: float) -> np.ndarray:
    """Return ``max(item_counts, 1) ** exponent``; Mikolov et al. (2013) take the power of 0.75.

    Args:
        item_counts: (I,) int64, training interactions of each item.
        exponent: at least 0; 0 makes all weights equal, 1 makes them proportional to the interactions.
    """
    with np.errstate(over="ignore"):  # infinite weights are refused by alias_table()
        return np.maximum(item_counts, 1).astype(np.float64) ** exponent


DISTRIBUTIONS: dict[str, Callable[[np.ndarray, float], np.ndarray | None]] = {
    "uniform": lambda item_counts, exponent: None,
    "popularity": popularity_weights,
}
"""Functions of the items' training interactions (I,) int64 and an exponent that return the items' weights (I,) float64.

Weights are finite and at least 0, and need not sum to 1; a function that returns None draws all items alike. Since some
trainers draw from a part of the catalogue at a time and pass the counts of that part only, a weight must follow from
the item's own count. To add a distribution, also from outside the package, add an entry to this table: its name is then
a value of the setting ``negatives``.
"""


def alias_table(name: str, item_counts: np.ndarray, exponent: float) -> "AliasTable | None":
    """Return the alias table of a distribution, or None where it is uniform.

    Args:
        name: an entry of :data:`DISTRIBUTIONS`.
        item_counts: (I,) int64, training interactions of each item.
        exponent: second argument of the function of the distribution.

    Raises:
        ConfigError: there is no distribution of that name, or its weights have another shape than ``item_counts``, are
            negative, all 0, or not finite.
    """
    if name not in DISTRIBUTIONS:
        raise ConfigError(f"negatives={name!r}: expected {' or '.join(map(repr, DISTRIBUTIONS))}")
    weights = DISTRIBUTIONS[name](item_counts, exponent)
    if weights is None:
        return None
    weights = np.asarray(weights, dtype=np.float64)
    if weights.shape != item_counts.shape or weights.min() < 0 or not 0 < weights.sum() < np.inf:
        raise ConfigError(
            f"negatives={name!r}, negatives_exponent={exponent}: expected {len(item_counts)} weights of at least 0 "
            f"with a sum that is positive and finite"
        )
    from fastncf.kernels.cpu.alias import make_alias_table  # compiled code is not needed to look a distribution up

    return make_alias_table(weights)
