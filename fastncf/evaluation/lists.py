"""Metrics of recommended lists beyond accuracy: coverage, popularity, inequality, similarity of the items of a list.

A metric is a row of :data:`LIST_METRICS`. Means over users have the standard error of a mean. Coverage and the Gini
index belong to all lists together; their standard error is that of the jackknife, which leaves out one user at a time
(Efron and Stein 1981, "The jackknife estimate of variance").
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from fastncf.evaluation.metrics import standard_error


class ItemLists(NamedTuple):
    """Recommended items of T users, and what is known of the items.

    Attributes:
        items: (T, k) int32, the best items of each user, distinct in each row, -1 at the end of rows that are shorter.
        counts: (I,) int64, training interactions of each item.
        vectors: (I, D) float32, of length 1 or 0, or None where the model has none.
    """

    items: np.ndarray
    counts: np.ndarray
    vectors: np.ndarray | None

    @property
    def recommended(self) -> np.ndarray:
        """Number of users that each item is recommended to, (I,) int64."""
        return np.bincount(self.items[self.items >= 0], minlength=len(self.counts))


class Estimate(NamedTuple):
    """A value and its standard error over users, NaN for a single user."""

    value: float
    error: float


def coverage(lists: ItemLists) -> Estimate:
    """Return the share of the catalogue that is recommended to anyone."""
    times = lists.recommended
    num_items = len(times)
    value = float((times > 0).mean())
    is_alone = np.append(times == 1, False)[lists.items]  # -1 is the place behind the last item
    return Estimate(value, jackknife_error(value - is_alone.sum(axis=1) / num_items))


def gini(lists: ItemLists) -> Estimate:
    """Return the Gini index of how often each item of the catalogue is recommended: 0 for all alike, near 1 for few.

    With n items that are recommended x_1 <= ... <= x_n times it is sum_i (2 i - n - 1) x_i / (n sum_i x_i).
    """
    times = lists.recommended
    num_items, total = len(times), int(times.sum())
    if not total:
        return Estimate(float("nan"), float("nan"))
    ascending = np.sort(times)
    weights = 2 * np.arange(1, num_items + 1) - num_items - 1
    numerator = int((weights * ascending).sum())
    # without a user, each of the user's items is recommended once less. In ascending order these decreases take the
    # first places among items that are recommended as often.
    taken = np.append(times, 0)[lists.items]
    taken = np.where(lists.items >= 0, taken, -1)
    taken = np.sort(taken, axis=1)
    is_same = np.zeros_like(taken, dtype=np.int64)
    for place in range(1, taken.shape[1]):
        is_same[:, place] = np.where(taken[:, place] == taken[:, place - 1], is_same[:, place - 1] + 1, 0)
    first = np.searchsorted(ascending, taken, side="left") + is_same
    lost = np.where(taken >= 0, weights[np.minimum(first, num_items - 1)], 0).sum(axis=1)
    left = total - (taken >= 0).sum(axis=1)
    without = np.where(left > 0, (numerator - lost) / (num_items * np.maximum(left, 1)), np.nan)
    return Estimate(numerator / (num_items * total), jackknife_error(without))


def mean_popularity(lists: ItemLists) -> Estimate:
    """Return the mean over users of the mean number of training interactions of a user's items."""
    is_item = lists.items >= 0
    values = np.append(lists.counts, 0)[lists.items] * is_item
    means = values.sum(axis=1) / np.maximum(is_item.sum(axis=1), 1)
    means = means[is_item.any(axis=1)]
    return _mean(means)


def similarity(lists: ItemLists) -> Estimate:
    """Return the mean over users of the mean cosine of two different items of a user's list (Ziegler et al. 2005).

    Lists of fewer than two items, and models without item vectors, have none.
    """
    if lists.vectors is None:
        return Estimate(float("nan"), float("nan"))
    is_item = lists.items >= 0
    size = is_item.sum(axis=1)
    total, own = np.empty(len(size)), np.empty(len(size))
    step = max(1, 4_000_000 // max(1, lists.items.shape[1] * lists.vectors.shape[1]))
    for first in range(0, len(size), step):
        part = slice(first, first + step)
        vectors = lists.vectors[np.maximum(lists.items[part], 0)].astype(np.float64) * is_item[part, :, None]
        own[part] = (vectors**2).sum(axis=(1, 2))
        total[part] = (vectors.sum(axis=1) ** 2).sum(axis=1)
    has_pairs = size >= 2
    pairs = size[has_pairs] * (size[has_pairs] - 1)
    return _mean((total - own)[has_pairs] / pairs)


def jackknife_error(without: np.ndarray) -> float:
    """Return the standard error of a statistic of T users from its values (T,) without each of them; NaN for one."""
    size = len(without)
    if size < 2:
        return float("nan")
    return float(np.sqrt((size - 1) / size * ((without - without.mean()) ** 2).sum()))


def _mean(values: np.ndarray) -> Estimate:
    """Return the mean of values (T,) with its standard error."""
    return (
        Estimate(float(values.mean()), standard_error(values)) if len(values) else Estimate(float("nan"), float("nan"))
    )


LIST_METRICS: dict[str, Callable[[ItemLists], Estimate]] = {
    "coverage": coverage,
    "popularity": mean_popularity,
    "gini": gini,
    "similarity": similarity,
}
"""Each metric of lists by its name."""


def measure_lists(lists: ItemLists, k: int) -> dict[str, Estimate]:
    """Return each metric of lists of at most k items by a label such as ``coverage@10``."""
    return {f"{name}@{k}": metric(lists) for name, metric in LIST_METRICS.items()}
