"""Distributions that negatives are drawn from, as entries of one table."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastncf.errors import ConfigError

if TYPE_CHECKING:
    from fastncf.kernels.cpu.alias import AliasTable


def popularity_weights(item_counts: np.ndarray, exponent: float) -> np.ndarray:
    """Return ``max(item_counts, 1) ** exponent``; Mikolov et al. (2013) take the power of 0.75.

    Where a power or their sum is too large for float64, all are divided by the largest power.

    Args:
        item_counts: (I,) int64, training interactions of each item.
        exponent: at least 0; 0 makes all weights equal, 1 makes them proportional to the interactions.
    """
    counts = np.maximum(item_counts, 1).astype(np.float64)
    with np.errstate(over="ignore", under="ignore"):
        weights = counts**exponent
        if np.isfinite(weights.sum()):
            return weights
        return (counts / counts.max()) ** exponent


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
        ConfigError: there is no distribution of that name, or its weights are no numbers, have another shape than
            ``item_counts``, are negative, all 0, or not finite.
    """
    if name not in DISTRIBUTIONS:
        raise ConfigError(f"negatives={name!r}: expected {' or '.join(map(repr, DISTRIBUTIONS))}")
    weights = DISTRIBUTIONS[name](item_counts, exponent)
    if weights is None:
        return None
    weights = _as_numbers(name, weights, len(item_counts))
    with np.errstate(over="ignore"):
        if weights.shape == item_counts.shape and np.isfinite(weights).all() and not np.isfinite(weights.sum()):
            weights = weights / weights.max()
    if weights.shape != item_counts.shape or not weights.min() >= 0 or not 0 < weights.sum() < np.inf:
        raise ConfigError(
            f"negatives={name!r}, negatives_exponent={exponent}: expected {len(item_counts)} weights of at least 0 "
            f"with a sum that is positive and finite"
        )
    from fastncf.kernels.cpu.alias import make_alias_table  # compiled code is not needed to look a distribution up

    return make_alias_table(weights)


def _as_numbers(name: str, weights: Any, num_items: int) -> np.ndarray:
    """Return the weights of a distribution as float64.

    Raises:
        ConfigError: they are no real numbers.
    """
    try:
        numbers = np.asarray(weights)
        if numbers.dtype.kind in "biuf":
            return numbers.astype(np.float64)
    except ValueError:  # rows of different lengths
        pass
    raise ConfigError(f"negatives={name!r}: expected {num_items} real numbers as weights, got {type(weights).__name__}")
