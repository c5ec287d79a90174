"""The items with the highest scores of a matrix factorization for a few users, from a quarter of the bytes.

The scores of one user with a large catalogue take as long as its vectors take to come from memory. Here they are read
as codes of 8 bits, which give each score up to a bound of the error. An exact score is computed only where the upper
bound is above the k-th highest exact score so far, so that the answers have the bits of
:func:`fastncf.kernels.cpu.topk.top_rows`. Scanning quantized vectors before exact scores is usual in the search for
nearest neighbours, as in the vector approximation file of Weber, Schek and Blott (1998).
"""

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastncf.kernels.cpu.compiling import njit
from fastncf.kernels.cpu.csr import lowest_bit, seen_rows
from fastncf.kernels.cpu.factors import Factors
from fastncf.kernels.cpu.simd import LANES, VectorBuilder, aligned_zeros, borrow, offset, pointer
from fastncf.kernels.cpu.topk import Best, LeftOut, Request, flatten_best, keep_item, load_user, sort_best

GROUP = 64
"""Items whose bounds are compared at once, one for each bit of a mask."""

_TOGETHER = 8
_HIGHEST_CODE = 127
_HIGHEST_PAIR = 2**15 - 1
_SMALL = 1e-30
_LARGEST = 1e15
_LEAST = 1e-36
_INFINITY = np.float32(np.inf)
_LOWEST = np.finfo(np.float32).min
_ROUNDING = 2.0**-22


class Bounds(NamedTuple):
    """Numbers of the items by which codes bound scores.

    Attributes:
        scale: (G * GROUP,) float32, the number that a code of 1 stands for.
        bias: (G * GROUP,) float32, at least the bias, with room for rounding.
        radius: (G * GROUP,) float32, at least the length of what the codes leave out of the vector, with room for
            rounding and for what the codes of a user leave out; infinite where numbers are very large or NaN.
    """

    scale: np.ndarray
    bias: np.ndarray
    radius: np.ndarray


class QuantizedItems(NamedTuple):
    """Vectors and biases of the items, and codes of the vectors by which their scores are bounded.

    The score of item i for a user with vector u and bias b is at most ``scale[i] * (codes of i) @ u + bias[i] + b +
    radius[i] * ||u||``, since by Cauchy and Schwarz the product of u with what the codes leave out is at most that of
    the lengths.

    Attributes:
        codes: (G, P, 2 * GROUP) int8; columns 2 * j and 2 * j + 1 of row p of group g are of terms 2 * p and 2 * p + 1
            of the vector of item ``g * GROUP + j``. P is D / 2, rounded up; codes of no term and of no item are 0.
        bounds: see :class:`Bounds`.
        rows: (I, D) float32, the vectors.
        row_bias: (I,) float32, the biases.
    """

    codes: np.ndarray
    bounds: Bounds
    rows: np.ndarray
    row_bias: np.ndarray


class User(NamedTuple):
    """A user of a request.

    Attributes:
        vector: pointer to D float32.
        bias: float32.
        codes: pointer to 2 * P int16, of the terms of the vector and 0.
        scale: float32, the number that a code of 1 stands for.
        bias_bound: float32, at least the bias, with room for rounding.
        length: float32, at least the length of the vector; infinite where it is very large or not a number.
    """

    vector: Any
    bias: Any
    codes: Any
    scale: Any
    bias_bound: Any
    length: Any


def quantize_items(factors: Factors) -> QuantizedItems:
    """Return the items of a matrix factorization with codes of 8 bits, whose memory is a quarter of the vectors'."""
    rows, row_bias = np.ascontiguousarray(factors.item_vectors), np.ascontiguousarray(factors.item_bias)
    num_items, dim = rows.shape
    num_groups = -(-num_items // GROUP)
    codes = np.zeros((num_groups, (dim + 1) // 2, 2 * GROUP), dtype=np.int8)
    items = QuantizedItems(codes, Bounds(*(aligned_zeros(num_groups * GROUP) for _ in range(3))), rows, row_bias)
    _quantize(items)
    return items


@njit(nogil=True, cache=True)
def _quantize(items):
    """Write the codes and bounds of :class:`QuantizedItems`.

    A score in float32 is rounded D + 1 times, and its bound some times more, each time by at most 2**-24 of the sum of
    both biases and of the product of both lengths. ``_ROUNDING`` leaves room for four times as much.
    """
    codes, (scales, biases, radii), rows, row_bias = items
    dim = rows.shape[1]
    rounding, user_error = (dim + 8) * _ROUNDING, np.sqrt(dim) / (2 * _highest_user_code(dim))
    for item in range(len(rows)):
        largest, squares = 0.0, 0.0
        for term in range(dim):
            largest = max(largest, abs(np.float64(rows[item, term])))
            squares += np.float64(rows[item, term]) ** 2
        bias = np.float64(row_bias[item])
        biases[item] = bias + abs(bias) * rounding + _LEAST
        if not (squares <= _LARGEST**2 and abs(bias) <= _LARGEST):
            radii[item] = _INFINITY
            continue
        scale = np.float32(largest / _HIGHEST_CODE)
        error = 0.0
        for term in range(dim):
            number = np.float64(rows[item, term])
            code = min(max(np.rint(number / scale), -_HIGHEST_CODE), _HIGHEST_CODE) if scale > 0 else 0.0
            codes[item // GROUP, term // 2, 2 * (item % GROUP) + term % 2] = np.int8(code)
            error += (number - code * scale) ** 2
        scales[item] = scale
        radii[item] = (np.sqrt(error) + (rounding + user_error) * (np.sqrt(squares) + np.sqrt(error))) * (1 + rounding)


@njit(nogil=True, cache=True)
def top_few(items, request, best):
    """Find the best items of the users of a request, with the bits of :func:`fastncf.kernels.cpu.topk.top_rows`.

    Args:
        items: :class:`QuantizedItems`.
        request: :class:`~fastncf.kernels.cpu.topk.Request`.
        best: :class:`~fastncf.kernels.cpu.topk.Best`, written.
    """
    items, request, best = borrow(items), borrow(request), borrow(best)
    dim, num_pairs, k = items.rows.shape[1], items.codes.shape[1], best.items.shape[1]
    vector_owner, codes_owner = np.empty(dim + 1, dtype=np.float32), np.zeros(dim + 1, dtype=np.int16)
    found_owner, scores_owner = np.empty(GROUP, dtype=np.int64), np.empty(GROUP, dtype=np.float32)
    for row in range(len(request.user_ids)):
        vector, found, scores = borrow(vector_owner), borrow(found_owner), borrow(scores_owner)
        load_user(request.user_ids[row], request, vector)
        user = _user(vector, borrow(codes_owner), dim)
        kept_items, kept = best.items[row], best.scores[row]
        entry, end, count = request.left_out.indptr[row], request.left_out.indptr[row + 1], 0
        for group in range(len(items.codes)):
            mask = ~np.uint64(0)
            if count == k:
                codes = offset(pointer(items.codes), group * num_pairs * 2 * GROUP)
                mask = _mask_above(codes, num_pairs, group * GROUP, items.bounds, user, kept[0])
            if mask == 0:
                continue
            entry, num_found = _list_items(group, mask, len(items.rows), request.left_out, (entry, end), found)
            _score_items(items, user, found, num_found, scores)
            for position in range(num_found):
                score = scores[position] if scores[position] >= _LOWEST else _LOWEST  # also for NaN
                count = keep_item(kept_items, kept, count, np.int32(found[position]), score)
        best.counts[row] = count
        sort_best(kept_items, kept, count)


@njit(nogil=True, cache=True)
def answer_few(users, seen, leaves_out, is_open, items, k):
    """Return the best items of a few users, in one call: each takes microseconds from Python.

    Args:
        users: user_ids (B,), user_vectors and user_bias, as in :class:`~fastncf.kernels.cpu.topk.Request`.
        seen: :class:`~fastncf.kernels.cpu.csr.SeenSource`.
        leaves_out: whether what users have seen is left out, bool.
        is_open: as in :class:`~fastncf.kernels.cpu.topk.LeftOut`.
        items: :class:`QuantizedItems`.
        k: at most I, int64.

    Returns:
        What :func:`~fastncf.kernels.cpu.topk.flatten_best` writes.
    """
    user_ids, user_vectors, user_bias = users
    indptr, indices = np.zeros(len(user_ids) + 1, dtype=np.int64), np.empty(0, dtype=np.int32)
    if leaves_out:
        indptr, indices = seen_rows(user_ids, seen)
    best = Best(
        np.empty(len(user_ids), dtype=np.int64),
        np.empty((len(user_ids), k), dtype=np.int32),
        np.empty((len(user_ids), k), dtype=np.float32),
    )
    top_few(items, Request(user_ids, user_vectors, user_bias, LeftOut(indptr, indices, is_open)), best)
    size = best.counts.sum()
    users_out, found, ranks = np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, np.int32)
    scores = np.empty(size, np.float32)
    flatten_best(user_ids, best, users_out, found, scores, ranks)
    return users_out, found, scores, ranks


@njit(nogil=True, cache=True)
def _user(vector, codes, dim):
    """Return the :class:`User` whose vector, and behind it the bias, are in ``vector`` (D + 1,).

    Args:
        vector: float32.
        codes: (2 * P,) int16, written.
        dim: D.
    """
    largest, squares = 0.0, 0.0
    for term in range(dim):
        largest = max(largest, abs(np.float64(vector[term])))
        squares += np.float64(vector[term]) ** 2
    bias = np.float64(vector[dim])
    rounding = (dim + 8) * _ROUNDING
    is_bounded = squares <= _LARGEST**2 and abs(bias) <= _LARGEST and (largest >= _SMALL or squares == 0)
    length = np.float32(np.sqrt(squares) * (1 + rounding)) if is_bounded else _INFINITY
    scale = largest / _highest_user_code(dim) if is_bounded else 0.0
    for term in range(dim):
        codes[term] = np.int16(np.rint(vector[term] / scale)) if scale > 0 else 0
    bias_bound = np.float32(bias + abs(bias) * rounding)
    return User(pointer(vector), vector[dim], pointer(codes), np.float32(scale), bias_bound, length)


@njit(nogil=True, cache=True)
def _highest_user_code(dim):
    """Return the largest code of a user's vector, for which sums of products do not leave int32."""
    return min(_HIGHEST_PAIR, (2**31 - 1) // (_HIGHEST_CODE * max(dim, 1)))


@njit(nogil=True, cache=True)
def _list_items(group, mask, num_items, left_out, entries, found):
    """Write the items of a group that are in a mask and not left out to ``found`` (GROUP,) int64, ascending.

    Args:
        group: int64.
        mask: uint64, one bit for each item of the group.
        num_items: I.
        left_out: :class:`~fastncf.kernels.cpu.topk.LeftOut`.
        entries: range of ``left_out.indices`` that is the user's and belongs to this group or to later ones, int64.
        found: written.

    Returns:
        The first entry behind the last item of the mask, and the number of items.
    """
    entry, end = entries
    num_found = 0
    while mask:
        item = group * GROUP + np.int64(lowest_bit(mask))
        mask &= mask - np.uint64(1)
        if item >= num_items:
            break
        while entry < end and left_out.indices[entry] < item:
            entry += 1
        is_left_out = entry < end and left_out.indices[entry] == item
        if not is_left_out and (len(left_out.is_open) == 0 or left_out.is_open[item]):
            found[num_found] = item
            num_found += 1
    return entry, num_found


@njit(nogil=True, cache=True)
def _score_items(items, user, found, num_found, scores):
    """Write the exact scores of ``num_found`` items to ``scores`` (GROUP,) float32.

    Args:
        items: :class:`QuantizedItems`.
        user: :class:`User`.
        found: (GROUP,) int64, items; the last one is repeated up to a multiple of ``_TOGETHER``.
        num_found: int64.
        scores: written.
    """
    dim = items.rows.shape[1]
    for first in range(0, num_found, _TOGETHER):
        for position in range(num_found, first + _TOGETHER):
            found[position] = found[num_found - 1]
        for position in range(first, first + _TOGETHER):
            scores[position] = items.row_bias[found[position]]
        _add_products(pointer(items.rows), offset(pointer(found), first), dim, user, offset(pointer(scores), first))


@intrinsic
def _add_products(typingctx, rows, found, dim, user, scores):
    """Add the products of a user's vector and of ``_TOGETHER`` rows to scores, in the order of the terms, and the bias.

    The terms of several rows are added in turns, since each has to wait for the sum before it.
    """

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        rows, found, dim, user, scores = vec.arguments
        starts, sums = [], []
        for number in range(_TOGETHER):
            at = ir.Constant(dim.type, number)
            starts.append(builder.gep(rows, [builder.mul(vec.load_scalar(found, at), dim)]))
            sums.append(cgutils.alloca_once_value(builder, vec.load_scalar(scores, at)))
        with cgutils.for_range(builder, dim) as term:
            factor = vec.load_scalar(user.vector, term.index)
            for start, total in zip(starts, sums, strict=True):
                product = vec.mul(factor, vec.load_scalar(start, term.index))
                builder.store(vec.add(builder.load(total), product), total)
        for number, total in enumerate(sums):
            score = builder.fadd(builder.load(total), user.bias)
            builder.store(score, builder.gep(scores, [ir.Constant(dim.type, number)]))
        return context.get_dummy_value()

    return types.void(rows, found, dim, user, scores), generate


@intrinsic
def _mask_above(typingctx, codes, num_pairs, at, bounds, user, threshold):
    """Return uint64 whose bit j says that item j of a group may have a score above a threshold.

    Args:
        codes: pointer to the (P, 2 * GROUP) int8 of the group.
        num_pairs: P, int64.
        at: number of the group's first item, int64.
        bounds: :class:`Bounds`.
        user: :class:`User`.
        threshold: float32.
    """

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        codes, num_pairs, at, bounds, user, threshold = vec.arguments
        products = _code_products(vec, codes, num_pairs, user.codes)
        length, unit, bias, threshold = map(vec.splat, (user.length, user.scale, user.bias_bound, threshold))
        word = ir.IntType(GROUP)
        mask = ir.Constant(word, 0)
        for first, product in zip(range(0, GROUP, LANES), products, strict=True):
            scale, item_bias, radius = (vec.load(x, builder.add(at, ir.Constant(at.type, first))) for x in bounds)
            bound = vec.add(vec.add(item_bias, bias), vec.mul(radius, length))
            bound = vec.add(bound, vec.mul(scale, vec.mul(product, unit)))
            is_above = builder.fcmp_unordered(">", bound, threshold)  # also where the bound is NaN
            bits = builder.zext(builder.bitcast(is_above, ir.IntType(LANES)), word)
            mask = builder.or_(mask, builder.shl(bits, ir.Constant(word, first)))
        return mask

    return types.uint64(codes, num_pairs, at, bounds, user, threshold), generate


def _code_products(vec, codes, num_pairs, user_codes):
    """Write the instructions that multiply the codes of a group with those of a user.

    Args:
        vec: :class:`~fastncf.kernels.cpu.simd.VectorBuilder`.
        codes: pointer to the (P, 2 * GROUP) int8 of the group.
        num_pairs: P, int64.
        user_codes: pointer to 2 * P int16.

    Returns:
        A list of vectors of float32: the dot products of the items, in their order.
    """
    builder, number = vec.builder, num_pairs.type
    zero = ir.Constant(vec.integers, [0] * LANES)
    sums = [cgutils.alloca_once_value(builder, zero) for _ in range(GROUP // LANES)]
    with cgutils.for_range(builder, num_pairs) as pair:
        factors = vec.splat_pair(user_codes, builder.mul(pair.index, ir.Constant(number, 2)))
        row = builder.mul(pair.index, ir.Constant(number, 2 * GROUP))
        for part, total in enumerate(sums):
            numbers = vec.load_pairs(codes, builder.add(row, ir.Constant(number, 2 * LANES * part)))
            builder.store(builder.add(builder.load(total), vec.multiply_pairs(numbers, factors)), total)
    return [builder.sitofp(builder.load(total), vec.vector) for total in sums]
