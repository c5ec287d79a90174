"""The items with the highest scores of a matrix factorization, for many users at once, without a table of all scores.

Scores are computed tile by tile, for some users and some hundred items at a time, and stay in the cache until the best
of them are in a heap of each user. Every score is summed in one order, whichever users are asked for together.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastncf.kernels.cpu.compiling import njit
from fastncf.kernels.cpu.csr import lowest_bit
from fastncf.kernels.cpu.factors import Factors
from fastncf.kernels.cpu.gemm import NONE, ROW_MULTIPLE, Matrix, gemm, gemm_row
from fastncf.kernels.cpu.simd import VectorBuilder, aligned_zeros, borrow, get, offset, pointer, put

TILE = 576
"""Items of a tile. Their vectors fit the second cache, and rows of so many numbers fall into different sets of it."""

GROUP_ROWS = 12
"""Users whose scores with a tile are computed at once; they fit the first cache."""

BLOCK_ROWS = 480
"""Users who are done with one tile before the next is loaded."""

_COLUMNS = 16
_MASK_BITS = 64
_LOWEST = float(np.finfo(np.float32).min)


class ItemTiles(NamedTuple):
    """Vectors and biases of the items, in the order in which they are read.

    Attributes:
        vectors: (T, D + 1, TILE) float32; column j of tile t belongs to item ``t * TILE + j``, and columns of no item
            are 0. The last row of a tile is 1, so that a user's bias is one more term of the dot product. Or
            (0, D + 1, TILE), where a kernel arranges each tile when it needs it.
        bias: (T, TILE) float32.
        num_items: I.
        rows: (I, D) float32, the vectors of the items.
    """

    vectors: np.ndarray
    bias: np.ndarray
    num_items: int
    rows: np.ndarray


class LeftOut(NamedTuple):
    """Items that are not recommended.

    Attributes:
        indptr: (B + 1,) int64; row b of the CSR is for user b of a request.
        indices: int32, items that are left out for the user, ascending and distinct in each row.
        is_open: (I,) bool, whether an item may be recommended at all; empty where all may be.
    """

    indptr: np.ndarray
    indices: np.ndarray
    is_open: np.ndarray


class Request(NamedTuple):
    """Users who get recommendations.

    Attributes:
        user_ids: (B,) int32.
        user_vectors: (U, D) float32.
        user_bias: (U,) float32.
        left_out: see :class:`LeftOut`.
    """

    user_ids: np.ndarray
    user_vectors: np.ndarray
    user_bias: np.ndarray
    left_out: LeftOut


class Best(NamedTuple):
    """The k items with the highest scores of each user, best first, equal scores in the order of the items.

    Attributes:
        counts: (B,) int64, number of items: fewer than k where fewer are left.
        items: (B, k) int32; entries beyond the number mean nothing.
        scores: (B, k) float32.
    """

    counts: np.ndarray
    items: np.ndarray
    scores: np.ndarray

    @classmethod
    def empty(cls, num_users: int, k: int) -> "Best":
        """Return arrays for B users, whose numbers have no meaning yet."""
        items, scores = np.empty((num_users, k), dtype=np.int32), np.empty((num_users, k), dtype=np.float32)
        return cls(np.empty(num_users, dtype=np.int64), items, scores)


def tile_items(factors: Factors, *, copied: bool = True) -> ItemTiles:
    """Return the item vectors and biases of a matrix factorization as tiles.

    Args:
        factors: parameters.
        copied: copy the vectors, which saves time, and takes the memory of the items once more.
    """
    num_items, dim = factors.item_vectors.shape
    num_tiles = -(-num_items // TILE)
    rows, bias = np.ascontiguousarray(factors.item_vectors), aligned_zeros((num_tiles, TILE))
    bias.reshape(-1)[:num_items] = factors.item_bias
    vectors = aligned_zeros((num_tiles if copied else 0, dim + 1, TILE))
    for number in range(len(vectors)):
        arrange_tile(rows, number, vectors[number])
    return ItemTiles(vectors, bias, num_items, rows)


@njit(nogil=True, cache=True)
def arrange_tile(rows, number, tile):
    """Write the vectors of a tile's items to its columns, see :class:`ItemTiles`.

    Args:
        rows: (I, D) float32.
        number: of the tile, int64.
        tile: (D + 1, TILE) float32, written.
    """
    begin, dim = number * TILE, rows.shape[1]
    width = min(TILE, len(rows) - begin)
    for start in range(0, width, _COLUMNS):  # so few that their rows stay in the first cache
        stop = min(start + _COLUMNS, width)
        own = offset(pointer(rows), (begin + start) * dim)
        for term in range(dim):
            out = offset(pointer(tile), term * TILE + start)
            for column in range(stop - start):
                put(out, column, get(own, column * dim + term))
    tile[:dim, width:] = 0
    tile[dim] = 1


@njit(nogil=True, cache=True)
def top_rows(first, last, tiles, request, best):
    """Find the best items of rows ``first`` to ``last`` of a request, best first, equal scores in the order of items.

    A score is the item's bias plus the terms of the dot product, in their order, plus the user's bias. One that is NaN
    or -inf counts as the lowest finite number, so that such items come last.

    Args:
        first, last: int64.
        tiles: :class:`ItemTiles`.
        request: :class:`Request`.
        best: :class:`Best`, written.
    """
    tiles, request, best = borrow(tiles), borrow(request), borrow(best)
    left_out = request.left_out
    # whole groups: the last one may have fewer users, and is computed for a multiple of ROW_MULTIPLE
    num_rows = min(BLOCK_ROWS, (last - first + GROUP_ROWS - 1) // GROUP_ROWS * GROUP_ROWS)
    users_owner, next_owner = np.zeros((num_rows, tiles.vectors.shape[1]), np.float32), np.empty(num_rows, np.int64)
    scores_owner = np.empty((GROUP_ROWS, TILE), dtype=np.float32)
    is_arranged = len(tiles.vectors) > 0
    tile_owner = np.empty((tiles.vectors.shape[1], 0 if is_arranged else TILE), dtype=np.float32)
    for start in range(first, last, BLOCK_ROWS):
        users, scores, next_left_out = borrow(users_owner), borrow(scores_owner), borrow(next_owner)
        stop = min(start + BLOCK_ROWS, last)
        for row in range(start, stop):
            load_user(request.user_ids[row], request, users[row - start])
            next_left_out[row - start] = left_out.indptr[row]
            best.counts[row] = 0
        for tile in range(len(tiles.bias)):
            columns = borrow(tile_owner)
            if is_arranged:
                columns = tiles.vectors[tile]
            else:
                arrange_tile(tiles.rows, tile, columns)
            for group in range(start, stop, GROUP_ROWS):
                rows = min(GROUP_ROWS, stop - group)
                score_tile(users, group - start, rows, columns, tiles.bias[tile], scores)
                for row in range(group, group + rows):
                    at = offset(pointer(scores), (row - group) * TILE)
                    entries = next_left_out[row - start], left_out.indptr[row + 1]
                    next_left_out[row - start] = _leave_out(entries, tile, tiles.num_items, left_out, at)
                    _keep_best(row, tile * TILE, at, best)
    for row in range(first, last):
        sort_best(best.items[row], best.scores[row], best.counts[row])


@njit(nogil=True, cache=True)
def flatten_best(user_ids, best, users, items, scores, ranks):
    """Write the best items of all users one after the other.

    Args:
        user_ids: (B,) int32.
        best: :class:`Best`.
        users, items, scores, ranks: (n,) int32, int32, float32 and int32, written; n is the sum of the counts, and
            ranks are from 1.
    """
    end = 0
    for row in range(len(user_ids)):
        for rank in range(best.counts[row]):
            users[end], items[end] = user_ids[row], best.items[row, rank]
            scores[end], ranks[end] = best.scores[row, rank], rank + 1
            end += 1


@njit(nogil=True, cache=True)
def load_user(user, request, out):
    """Write a user's vector and behind it the bias to ``out`` (D + 1,)."""
    for term in range(request.user_vectors.shape[1]):
        out[term] = request.user_vectors[user, term]
    out[request.user_vectors.shape[1]] = request.user_bias[user]


@njit(nogil=True, cache=True)
def score_tile(users, first, rows, columns, bias, scores):
    """Compute the scores (rows, TILE) of some users with a tile.

    Args:
        users: (BLOCK_ROWS, D + 1) float32.
        first, rows: rows of ``users``, int64.
        columns: (D + 1, TILE) float32, a tile of :class:`ItemTiles`.
        bias: (TILE,) float32, its biases.
        scores: (GROUP_ROWS, TILE) float32, written.
    """
    depth = users.shape[1]
    a = Matrix(offset(pointer(users), first * depth), depth)
    b = Matrix(pointer(columns), TILE)
    start, c = Matrix(pointer(bias), 0), Matrix(pointer(scores), TILE)
    if rows < ROW_MULTIPLE:
        for row in range(rows):
            a = Matrix(offset(pointer(users), (first + row) * depth), depth)
            gemm_row((TILE, depth), a, b, start, Matrix(offset(pointer(scores), row * TILE), TILE))
    else:
        padded_rows = (rows + ROW_MULTIPLE - 1) // ROW_MULTIPLE * ROW_MULTIPLE
        gemm((padded_rows, TILE, depth), a, b, start, c, NONE, np.float32(0))


@njit(nogil=True, cache=True)
def _leave_out(entries, tile, num_items, left_out, scores):
    """Set the scores of a tile that are of no item, or of one that is left out, to -inf, and others to a number.

    Args:
        entries: range of ``left_out.indices`` that is the user's and belongs to this tile or to later ones, int64.
        tile, num_items: int64.
        left_out: :class:`LeftOut`.
        scores: pointer to (TILE,) float32.

    Returns:
        The first entry of the later tiles.
    """
    at, end = entries
    begin = np.int32(tile * TILE)
    width = min(TILE, num_items - begin)
    _raise_to_lowest(scores, TILE)
    for column in range(width, TILE):
        put(scores, column, np.float32(-np.inf))
    if len(left_out.is_open):
        for column in range(width):
            put(scores, column, get(scores, column) if left_out.is_open[begin + column] else np.float32(-np.inf))
    indices, last = pointer(left_out.indices), begin + np.int32(TILE)
    while at < end and get(indices, at) < last:
        put(scores, get(indices, at) - begin, np.float32(-np.inf))
        at += 1
    return at


@njit(nogil=True, cache=True)
def _keep_best(row, begin, scores, best):
    """Take the scores of a tile that are among the k best so far into the heap of a row; see :class:`Best`.

    The worst of the best stands first: the lowest score, and among equal ones the last item.

    Args:
        row: int64.
        begin: first item of the tile, int64.
        scores: pointer to (TILE,) float32.
        best: :class:`Best`.
    """
    items, kept, count, k = best.items[row], best.scores[row], best.counts[row], best.items.shape[1]
    lowest = kept[0] if count == k else np.float32(-np.inf)
    for start in range(0, TILE, _MASK_BITS):
        above = _mask_above(scores, start, lowest)
        while above:
            column = start + np.int64(lowest_bit(above))
            above &= above - np.uint64(1)
            score = get(scores, column)
            count = keep_item(items, kept, count, np.int32(begin + column), score)
            if count == k:
                lowest = kept[0]
    best.counts[row] = count


@njit(nogil=True, cache=True)
def keep_item(items, kept, count, item, score):
    """Take an item into a heap of the best items if it is among them.

    Args:
        items: (k,) int32, the worst of the ``count`` items first.
        kept: (k,) float32, their scores.
        count: int64.
        item: int32, behind all items so far.
        score: float32.

    Returns:
        The number of items in the heap.
    """
    if count < len(items):
        _sift_up(items, kept, count, item, score)
        return count + 1
    if score > kept[0]:  # not so if a better one has come in
        _sift_down(items, kept, count, item, score)
    return count


@intrinsic
def _raise_to_lowest(typingctx, scores, width):
    """Replace NaN and -inf by the lowest finite number; scores is a pointer to ``width`` float32."""

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        scores, width = vec.arguments
        lowest = vec.constant(_LOWEST)
        with vec.for_each_vector(width) as (at, _):
            x = vec.load(scores, at)
            vec.store(vec.select(x, ">=", lowest, x, lowest), scores, at)
        return context.get_dummy_value()

    return types.void(scores, width), generate


@intrinsic
def _mask_above(typingctx, scores, at, threshold):
    """Return uint64 whose bit j says whether number ``at`` + j behind a pointer is above a threshold, float32."""

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        scores, at, threshold = vec.arguments
        threshold, word = vec.splat(threshold), ir.IntType(_MASK_BITS)
        mask = ir.Constant(word, 0)
        for first in range(0, _MASK_BITS, vec.lanes):
            x = vec.load(scores, builder.add(at, ir.Constant(at.type, first)))
            bits = builder.bitcast(builder.fcmp_ordered(">", x, threshold), ir.IntType(vec.lanes))
            mask = builder.or_(mask, builder.shl(builder.zext(bits, word), ir.Constant(word, first)))
        return mask

    return types.uint64(scores, at, threshold), generate


@njit(inline="always")
def _is_worse(score, item, other_score, other_item):
    """Return whether an item stands behind another one."""
    return score < other_score or (score == other_score and item > other_item)


@njit(nogil=True, cache=True)
def _sift_up(items, scores, count, item, score):
    """Add an item to a heap of ``count`` items."""
    at = count
    while at > 0:
        parent = (at - 1) >> 1
        if not _is_worse(score, item, scores[parent], items[parent]):
            break
        scores[at], items[at] = scores[parent], items[parent]
        at = parent
    scores[at], items[at] = score, item


@njit(nogil=True, cache=True)
def _sift_down(items, scores, count, item, score):
    """Replace the first of a heap of ``count`` items by another item."""
    at = 0
    while 2 * at + 1 < count:
        child = 2 * at + 1
        if child + 1 < count and _is_worse(scores[child + 1], items[child + 1], scores[child], items[child]):
            child += 1
        if not _is_worse(scores[child], items[child], score, item):
            break
        scores[at], items[at] = scores[child], items[child]
        at = child
    scores[at], items[at] = score, item


@njit(nogil=True, cache=True)
def sort_best(items, scores, count):
    """Sort a heap of ``count`` items, the best first."""
    for left in range(count - 1, 0, -1):
        worst_item, worst_score = items[0], scores[0]
        _sift_down(items, scores, left, items[left], scores[left])
        items[left], scores[left] = worst_item, worst_score
