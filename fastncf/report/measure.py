"""Contents of a page about a model: metrics over k, popularity and coverage of recommendations, and a map of items."""

from typing import NamedTuple

import numpy as np

from fastncf.data.split import Split
from fastncf.evaluation.metrics import RankLists, measure
from fastncf.evaluation.task import RankingTask
from fastncf.kernels.cpu.encoder import LONGEST, HistoryEncoder

MAX_K = 20
"""Length of the longest ranking that is shown."""

NUM_SHARES = 51
"""Number of points of a curve over the catalogue."""

_NORMAL_95 = 1.96
"""Quantile of the standard normal distribution: so many standard errors on both sides cover 95 %."""


class HeldOut(NamedTuple):
    """Held-out items and where a model ranks them.

    Attributes:
        task: held-out items of T users with their candidates.
        ranks: their ranks.
    """

    task: RankingTask
    ranks: RankLists


class Curve(NamedTuple):
    """A metric over k.

    Attributes:
        k: (K,) lengths of the ranking.
        mean: (K,) means over all held-out items.
        margin: (K,) half widths of the confidence intervals of 95 % of the means; 0 for a single user.
    """

    k: np.ndarray
    mean: np.ndarray
    margin: np.ndarray


def metric_curve(name: str, ranks: RankLists, list_length: int) -> Curve:
    """Return a metric over k, from 1 to :data:`MAX_K` or to the length of the lists.

    Args:
        name: one of :data:`~fastncf.evaluation.metrics.METRICS` that depends on k.
        ranks: held-out items of at least one user.
        list_length: number of items that are ranked in a list.
    """
    lengths = np.arange(1, min(MAX_K, list_length) + 1)
    table = measure(ranks, lengths.tolist(), [name])
    errors = np.nan_to_num(np.array(list(table.errors().values())))
    return Curve(lengths, np.array(list(table.means().values())), _NORMAL_95 * errors)


def most_popular(split: Split, users: np.ndarray, k: int) -> np.ndarray:
    """Return the k most popular items that each user has not seen, one user after the other, (n,) int64.

    Args:
        split: what each user has seen.
        users: (B,) indices.
        k: items for each user; fewer where fewer are left.
    """
    order = np.argsort(-split.item_counts(), kind="stable")
    indptr, indices = split.seen()
    chosen = []
    for user in users:
        is_left = np.ones(split.num_items, dtype=bool)
        is_left[indices[indptr[user] : indptr[user + 1]]] = False
        chosen.append(order[is_left[order]][:k])
    return np.concatenate(chosen)


def share_of_most_popular(items: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return which share of some items are among the most popular ones of the catalogue.

    Args:
        items: (n,) indices of items, with n at least 1.
        counts: (I,) training interactions of each item.

    Returns:
        (P,) shares, rising from 0 to 1, for the most popular 0, 1 / (P - 1), ..., 1 of all items, where P is
        :data:`NUM_SHARES`.
    """
    place = np.empty(len(counts), dtype=np.int64)
    place[np.argsort(-counts, kind="stable")] = np.arange(len(counts))
    by_place = np.bincount(place[items], minlength=len(counts))
    cumulative = np.concatenate([[0], np.cumsum(by_place)]) / len(items)
    at = np.linspace(0, len(counts), NUM_SHARES)
    return np.interp(at, np.arange(len(counts) + 1), cumulative)


def project(vectors: np.ndarray) -> np.ndarray:
    """Return the two principal components (I, 2) of the directions of vectors (I, D), float64.

    Each component points to where its largest entry is positive, so that the same vectors give the same map.
    """
    directions = normalized(vectors).astype(np.float64)
    directions -= directions.mean(axis=0)
    _, axes = np.linalg.eigh(directions.T @ directions)
    axes = axes[:, ::-1][:, :2]
    points = np.zeros((len(vectors), 2))
    points[:, : axes.shape[1]] = directions @ axes
    largest = points[np.abs(points).argmax(axis=0), [0, 1]]
    return points * np.where(largest < 0, -1.0, 1.0)


def mean_encoder(vectors: np.ndarray) -> HistoryEncoder:
    """Return the encoder whose state is the mean of the vectors (I, D) of a history."""
    ones = np.ones((1, vectors.shape[1]), dtype=np.float32)
    return HistoryEncoder(vectors, ones, ones, np.array([True]), LONGEST)


def normalized(vectors: np.ndarray) -> np.ndarray:
    """Return vectors (I, D) divided by their lengths, as ``similar_items`` does; vectors of 0 stay 0."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(lengths, np.float32(1e-12))
