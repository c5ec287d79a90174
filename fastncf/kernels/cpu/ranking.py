"""Dot products and ranks of many lists, without the passes over memory that a chain of tensor operations makes.

Only the order of a sum is left to the compiler: NaN and infinity keep their meaning.
"""

import numpy as np
from numba import njit

from fastncf.kernels.cpu.factors import Factors
from fastncf.threads import even_ranges, run_ranges

_REORDER = {"reassoc", "contract"}


def dot_lists(
    users: np.ndarray, items: np.ndarray, user_vectors: np.ndarray, item_vectors: np.ndarray, out: np.ndarray
) -> None:
    """Dot product of each user's vector with those of its list of items.

    Args:
        users: (B,) int32.
        items: (B, C) int32.
        user_vectors: (U, D) float32.
        item_vectors: (I, D) float32.
        out: (B, C) float32, filled.
    """
    run_ranges(lambda a, b: _dot_rows(a, b, users, items, user_vectors, item_vectors, out), even_ranges(len(users), 1))


def rank_lists(
    users: np.ndarray, positives: np.ndarray, negatives: np.ndarray, factors: Factors, miss: int, ranks: np.ndarray
) -> None:
    """Rank of each user's positive within its list by a matrix factorization; see :mod:`fastncf.evaluation.ranking`.

    Args:
        users: (B,) int32.
        positives: (B,) int32.
        negatives: (B, C) int32, -1 where a list is shorter.
        factors: what scores.
        miss: the rank of a positive whose score is not finite.
        ranks: (B,) int64, filled.
    """
    run_ranges(
        lambda a, b: _rank_rows(a, b, users, positives, negatives, factors, miss, ranks), even_ranges(len(users), 1)
    )


def count_not_lower(
    scores: np.ndarray,
    users: np.ndarray,
    positives: np.ndarray,
    indptr: np.ndarray,
    indices: np.ndarray,
    miss: int,
    ranks: np.ndarray,
) -> None:
    """Rank of each user's positive in the whole catalogue without what the user has touched; see rank_catalogue().

    Args:
        scores: (B, I) float32 or float64.
        users: (B,) int32.
        positives: (B,) int32.
        indptr: (U + 1,) int64 of what is left out.
        indices: (N,) int32.
        miss: the rank of a positive whose score is not finite.
        ranks: (B,) int64, filled.
    """
    run_ranges(
        lambda a, b: _count_rows(a, b, scores, users, positives, indptr, indices, miss, ranks),
        even_ranges(len(users), 1),
    )


@njit(nogil=True, cache=True, fastmath=_REORDER)
def _dot(a, b):
    total = np.float32(0)
    for at in range(len(a)):
        total += a[at] * b[at]
    return total


@njit(nogil=True, cache=True)
def _dot_rows(first, last, users, items, user_vectors, item_vectors, out):
    for row in range(first, last):
        user = user_vectors[users[row]]
        for at in range(items.shape[1]):
            out[row, at] = _dot(user, item_vectors[items[row, at]])


@njit(nogil=True, cache=True)
def _rank_rows(first, last, users, positives, negatives, factors, miss, ranks):
    for row in range(first, last):
        user, bias, own = factors.user_vectors[users[row]], factors.user_bias[users[row]], positives[row]
        positive = _dot(user, factors.item_vectors[own]) + (bias + factors.item_bias[own])
        if not np.isfinite(positive):
            ranks[row] = miss
            continue
        rank = 0
        for item in negatives[row]:
            if item >= 0 and item != own:
                rank += not _dot(user, factors.item_vectors[item]) + (bias + factors.item_bias[item]) < positive
        ranks[row] = rank


@njit(nogil=True, cache=True)
def _count_rows(first, last, scores, users, positives, indptr, indices, miss, ranks):
    for row in range(first, last):
        positive = scores[row, positives[row]]
        if not np.isfinite(positive):
            ranks[row] = miss
            continue
        lower = np.int32(0)
        for score in scores[row]:
            lower += np.int32(score < positive)
        excluded = 0
        for item in indices[indptr[users[row]] : indptr[users[row] + 1]]:
            excluded += not scores[row, item] < positive
        ranks[row] = scores.shape[1] - lower - excluded - 1  # - 1: the positive is not lower than itself
