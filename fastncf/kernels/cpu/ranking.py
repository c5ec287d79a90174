"""Dot products and ranks of many lists, without the passes over memory that a chain of tensor operations makes.

The compiler may reorder the terms of a dot product; NaN and infinity keep their meaning.
"""

from typing import NamedTuple

import numpy as np

from fastncf.kernels.cpu.compiling import REORDER, njit
from fastncf.kernels.cpu.factors import Factors
from fastncf.kernels.cpu.gemm import ROW_COLUMN_MULTIPLE, Matrix, gemm_row
from fastncf.kernels.cpu.simd import offset, pointer
from fastncf.kernels.cpu.topk import BLOCK_ROWS, GROUP_ROWS, TILE, LeftOut, Request, load_user, score_tile, tile_items
from fastncf.threads import even_ranges, run_ranges


class _Candidates(NamedTuple):
    """Arguments of :func:`rank_lists`."""

    user_ids: np.ndarray
    positives: np.ndarray
    bounds: np.ndarray
    negatives: np.ndarray


class _Positives(NamedTuple):
    """Arguments of :func:`rank_by_tiles`."""

    positives: np.ndarray
    bounds: np.ndarray
    indptr: np.ndarray
    indices: np.ndarray


class _Catalogue(NamedTuple):
    """Arguments of :func:`count_not_lower`."""

    scores: np.ndarray
    user_ids: np.ndarray
    positives: np.ndarray
    bounds: np.ndarray
    indptr: np.ndarray
    indices: np.ndarray


def dot_lists(
    user_ids: np.ndarray, item_ids: np.ndarray, user_vectors: np.ndarray, item_vectors: np.ndarray, out: np.ndarray
) -> None:
    """Compute the dot product of each user's vector with those of its list of items.

    Args:
        user_ids: (B,) int32.
        item_ids: (B, C) int32.
        user_vectors: (U, D) float32.
        item_vectors: (I, D) float32.
        out: (B, C) float32, written.
    """
    run_ranges(
        lambda a, b: _dot_rows(a, b, user_ids, item_ids, user_vectors, item_vectors, out), even_ranges(len(user_ids), 1)
    )


def rank_lists(
    user_ids: np.ndarray,
    positives: tuple[np.ndarray, np.ndarray],
    negatives: np.ndarray,
    factors: Factors,
    miss: int,
    ranks: np.ndarray,
) -> None:
    """Rank each user's positives within its list by a matrix factorization; see :mod:`fastncf.evaluation.ranking`.

    Args:
        user_ids: (B,) int32.
        positives: (R,) int32, and their bounds (B + 1,) int64: those of row b are ``items[bounds[b]:bounds[b + 1]]``.
        negatives: (B, C) int32, -1 where a list is shorter.
        factors: parameters that the scores are computed from.
        miss: rank of a positive whose score is not finite.
        ranks: (R,) int64, written: the negatives that are not lower, and no other positive.
    """
    lists = _Candidates(user_ids, *positives, negatives)
    run_ranges(lambda a, b: _rank_rows(a, b, lists, factors, miss, ranks), even_ranges(len(user_ids), 1))


def rank_by_tiles(
    user_ids: np.ndarray,
    positives: tuple[np.ndarray, np.ndarray],
    seen: tuple[np.ndarray, np.ndarray],
    factors: Factors,
    miss: int,
    ranks: np.ndarray,
) -> None:
    """Rank each user's positives among all items that the user has not seen, by a matrix factorization.

    Args:
        user_ids: (B,) int32.
        positives: as in :func:`rank_lists`.
        seen: CSR of the seen items, which do not hold the positives: (U + 1,) int64 and (N,) int32.
        factors: parameters that the scores are computed from.
        miss: rank of a positive whose score is not finite.
        ranks: (R,) int64, written.
    """
    tiles = tile_items(factors)
    left_out = LeftOut(*seen, np.empty(0, dtype=np.bool_))
    users = Request(user_ids, factors.user_vectors, factors.user_bias, left_out)
    lists = _Positives(*positives, *seen)
    run_ranges(lambda a, b: _rank_by_tiles(a, b, tiles, users, lists, miss, ranks), even_ranges(len(user_ids), 1))


def count_not_lower(
    scores: np.ndarray,
    user_ids: np.ndarray,
    positives: tuple[np.ndarray, np.ndarray],
    seen: tuple[np.ndarray, np.ndarray],
    miss: int,
    ranks: np.ndarray,
) -> None:
    """Rank each user's positives among all items that the user has not seen; see :mod:`fastncf.evaluation.ranking`.

    Args:
        scores: (B, I) float32 or float64.
        user_ids: (B,) int32.
        positives: as in :func:`rank_lists`.
        seen: CSR of the seen items, which do not hold the positives: (U + 1,) int64 and (N,) int32.
        miss: rank of a positive whose score is not finite.
        ranks: (R,) int64, written.
    """
    catalogue = _Catalogue(scores, user_ids, *positives, *seen)
    run_ranges(lambda a, b: _count_rows(a, b, catalogue, miss, ranks), even_ranges(len(user_ids), 1))


@njit(nogil=True, cache=True, fastmath=REORDER)
def _dot(a, b):
    """Return the dot product of two vectors (D,) float32."""
    total = np.float32(0)
    for at in range(len(a)):
        total += a[at] * b[at]
    return total


@njit(nogil=True, cache=True)
def _dot_rows(first, last, user_ids, item_ids, user_vectors, item_vectors, out):
    """Compute rows ``first`` to ``last`` of :func:`dot_lists`."""
    for row in range(first, last):
        user = user_vectors[user_ids[row]]
        for at in range(item_ids.shape[1]):
            out[row, at] = _dot(user, item_vectors[item_ids[row, at]])


@njit(nogil=True, cache=True)
def _rank_rows(first, last, lists, factors, miss, ranks):
    """Compute the ranks of rows ``first`` to ``last`` of :func:`rank_lists`: each row is scored once."""
    user_ids, positives, bounds, negatives = lists
    user_vectors, item_vectors, user_bias, item_bias = factors
    scores = np.empty(negatives.shape[1], dtype=np.float32)
    for row in range(first, last):
        user, bias, items = user_vectors[user_ids[row]], user_bias[user_ids[row]], negatives[row]
        for at in range(len(items)):
            item = items[at]
            scores[at] = -np.inf if item < 0 else _dot(user, item_vectors[item]) + (bias + item_bias[item])
        for place in range(bounds[row], bounds[row + 1]):
            positive = positives[place]
            threshold = _dot(user, item_vectors[positive]) + (bias + item_bias[positive])
            if not np.isfinite(threshold):
                ranks[place] = miss
                continue
            rank = np.int32(0)
            for at in range(len(items)):
                rank += np.int32(not scores[at] < threshold) & np.int32(items[at] != positive)
            ranks[place] = rank


@njit(nogil=True, cache=True)
def _rank_by_tiles(first, last, tiles, users, lists, miss, ranks):
    """Compute the ranks of rows ``first`` to ``last`` of :func:`rank_by_tiles`: each row is scored once."""
    positives, bounds, indptr, indices = lists
    depth = tiles.vectors.shape[1]
    vectors = np.zeros((BLOCK_ROWS, depth), dtype=np.float32)
    scores, own = np.empty((GROUP_ROWS, TILE), dtype=np.float32), np.empty(ROW_COLUMN_MULTIPLE, dtype=np.float32)
    next_seen = np.empty(BLOCK_ROWS, dtype=np.int64)
    for start in range(first, last, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, last)
        origin = bounds[start]
        thresholds = np.empty(bounds[stop] - origin, dtype=np.float32)
        for row in range(start, stop):
            load_user(users.user_ids[row], users, vectors[row - start])
            next_seen[row - start] = indptr[users.user_ids[row]]
            for place in range(bounds[row], bounds[row + 1]):
                tile, column = positives[place] // TILE, positives[place] % TILE
                column -= column % ROW_COLUMN_MULTIPLE
                b = Matrix(offset(pointer(tiles.vectors), tile * depth * TILE + column), TILE)
                a = Matrix(offset(pointer(vectors), (row - start) * depth), depth)
                bias = Matrix(offset(pointer(tiles.bias), tile * TILE + column), 0)
                gemm_row((ROW_COLUMN_MULTIPLE, depth), a, b, bias, Matrix(pointer(own), ROW_COLUMN_MULTIPLE))
                thresholds[place - origin] = own[positives[place] % TILE - column]
                ranks[place] = 0
        for tile in range(len(tiles.bias)):
            begin, width = tile * TILE, min(TILE, tiles.num_items - tile * TILE)
            for group in range(start, stop, GROUP_ROWS):
                rows = min(GROUP_ROWS, stop - group)
                score_tile(vectors, group - start, rows, tiles.vectors[tile], tiles.bias[tile], scores)
                for row in range(group, group + rows):
                    since, end, found = next_seen[row - start], indptr[users.user_ids[row] + 1], scores[row - group]
                    until = since
                    while until < end and indices[until] < begin + width:
                        until += 1
                    next_seen[row - start] = until
                    for place in range(bounds[row], bounds[row + 1]):
                        threshold, lower = thresholds[place - origin], np.int32(0)
                        for column in range(width):
                            lower += np.int32(found[column] < threshold)
                        counted = width - lower
                        for at in range(since, until):
                            counted -= not found[indices[at] - begin] < threshold
                        ranks[place] += counted
        for row in range(start, stop):
            leave_out_positives(thresholds[bounds[row] - origin : bounds[row + 1] - origin], miss, ranks[bounds[row] :])


@njit(nogil=True, cache=True)
def leave_out_positives(scores, miss, ranks):
    """Take the positives of a row out of the ranks among all items; the scores are those of the positives.

    Args:
        scores: (P,) float32 or float64.
        miss: rank of a positive whose score is not finite.
        ranks: (P,) int64 or longer, changed in place.
    """
    for at in range(len(scores)):
        if not np.isfinite(scores[at]):
            ranks[at] = miss
            continue
        for other in scores:  # it is not lower than itself
            ranks[at] -= not other < scores[at]


@njit(nogil=True, cache=True)
def _count_rows(first, last, catalogue, miss, ranks):
    """Compute the ranks of rows ``first`` to ``last`` of :func:`count_not_lower`."""
    scores, user_ids, positives, bounds, indptr, indices = catalogue
    for row in range(first, last):
        own = scores[row][positives[bounds[row] : bounds[row + 1]]]
        for place in range(bounds[row], bounds[row + 1]):
            threshold, lower = own[place - bounds[row]], np.int32(0)
            for score in scores[row]:
                lower += np.int32(score < threshold)
            excluded = 0
            for item in indices[indptr[user_ids[row]] : indptr[user_ids[row] + 1]]:
                excluded += not scores[row, item] < threshold
            ranks[place] = scores.shape[1] - lower - excluded
        leave_out_positives(own, miss, ranks[bounds[row] :])
