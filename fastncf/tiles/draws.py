"""Orders and negatives drawn on a CUDA device by Triton: the same bits as :mod:`fastncf.permutation` and
:mod:`fastncf.sampler` draw on the CPU.
"""

import triton
import triton.language as tl
from torch import Tensor

from fastncf.hashing import LOWBIAS_1, LOWBIAS_2

_FIRST = tl.constexpr(LOWBIAS_1)
_SECOND = tl.constexpr(LOWBIAS_2)
_BLOCK = 512


def fill_order(order: Tensor, a: int, b: int, keys: list[int]) -> None:
    """Fill an order as :func:`fastncf.permutation.permutation` does, by a network over pairs below (a, b).

    Args:
        order: (N,) int32 or int64.
        a: number of left halves.
        b: number of right halves.
        keys: four keys of 32 bits.
    """
    signed = [key - (1 << 32) if key >> 31 else key for key in keys]  # else each key's size would ask for a compilation
    _fill_order[(triton.cdiv(len(order), _BLOCK),)](order, len(order), a, b, *signed, BLOCK=_BLOCK)


def fill_negatives(
    out: Tensor, owner: Tensor, indptr: Tensor, indices: Tensor, keys: Tensor, num_items: int, longest: int
) -> None:
    """Fill an epoch's negatives as :func:`fastncf.sampler.sample_negatives` draws them without weights.

    Args:
        out: (N, K) int32.
        owner: (N,) int32, the user of each training interaction.
        indptr: (U + 1,) int64.
        indices: (N,) int32, ascending and unique in each row.
        keys: of :func:`fastncf.sampler.position_keys`, as (blocks, ATTEMPTS + 1, 2) int32 of the same bits.
        num_items: I.
        longest: items of the longest row.
    """
    _fill_negatives[(triton.cdiv(out.numel(), _BLOCK),)](
        out,
        owner,
        indptr,
        indices,
        keys,
        out.numel(),
        num_items,
        (1 << 32) % num_items,
        longest.bit_length(),
        NEGATIVES=out.shape[1],
        ATTEMPTS=keys.shape[1] - 1,
        BLOCK=_BLOCK,
    )


@triton.jit
def _mixed(x):  # type: ignore[no-untyped-def]
    """The first round of the 32-bit mixer."""
    x = x ^ (x >> 16)
    x = x * _FIRST
    return x ^ (x >> 15)


@triton.jit
def _finished(x):  # type: ignore[no-untyped-def]
    """The second round."""
    x = x * _SECOND
    return x ^ (x >> 16)


@triton.jit
def _moved(half, other, key, size):  # type: ignore[no-untyped-def]
    """A half of a pair, moved by a hash of the other, modulo its own size."""
    x = _finished(_mixed((other ^ key).to(tl.uint32)))
    moved = half + ((x.to(tl.int64) * size) >> 32)
    return tl.where(moved >= size, moved - size, moved)


@triton.jit
def _place(x, a, b, key_0, key_1, key_2, key_3):  # type: ignore[no-untyped-def]
    left, right = x // b, x % b
    left = _moved(left, right, key_0, a)
    right = _moved(right, left, key_1, b)
    left = _moved(left, right, key_2, a)
    right = _moved(right, left, key_3, b)
    return left * b + right


@triton.jit(do_not_specialize=["size", "a", "b", "key_0", "key_1", "key_2", "key_3"])
def _fill_order(order, size, a, b, key_0, key_1, key_2, key_3, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    x = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = x < size
    place = _place(x, a, b, key_0, key_1, key_2, key_3)
    while tl.max((inside & (place >= size)).to(tl.int32), 0) > 0:
        place = tl.where(place >= size, _place(place, a, b, key_0, key_1, key_2, key_3), place)
    tl.store(order + x, place.to(order.dtype.element_ty), mask=inside)


@triton.jit
def _hash(position, first, second):  # type: ignore[no-untyped-def]
    return _finished(_mixed(position ^ first) + second)


@triton.jit(do_not_specialize=["positions", "num_items", "threshold", "depth"])
def _fill_negatives(  # type: ignore[no-untyped-def]
    out,
    owner,
    indptr,
    indices,
    keys,
    positions,
    num_items,
    threshold,
    depth,
    NEGATIVES: tl.constexpr,
    ATTEMPTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    position = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = position < positions
    user = tl.load(owner + position // NEGATIVES, mask=inside, other=0)
    start = tl.load(indptr + user, mask=inside, other=0)
    stop = tl.load(indptr + user + 1, mask=inside, other=0)
    touched = stop - start
    key = keys + (position >> 32) * (2 * (ATTEMPTS + 1))
    drawn = tl.zeros([BLOCK], dtype=tl.int64)
    # A user who has touched most of the catalogue is left to the search at once.
    unsettled = inside
    trying = inside & (4 * touched <= 3 * num_items)
    attempt = 0
    while (attempt < ATTEMPTS) & (tl.max(trying.to(tl.int32), 0) > 0):
        first = tl.load(key + 2 * attempt, mask=trying, other=0).to(tl.uint32, bitcast=True)
        second = tl.load(key + 2 * attempt + 1, mask=trying, other=0).to(tl.uint32, bitcast=True)
        product = _hash(position.to(tl.uint32), first, second).to(tl.int64) * num_items
        item = product >> 32
        low, high = start, tl.where(trying, stop, start)
        halved = 0
        while halved < depth:
            middle = (low + high) >> 1
            searching = low < high
            below = tl.load(indices + middle, mask=searching, other=0) < item
            low = tl.where(searching & below, middle + 1, low)
            high = tl.where(searching & ~below, middle, high)
            halved += 1
        is_touched = tl.load(indices + low, mask=trying & (low < stop), other=-1) == item
        settled = trying & ((product & 0xFFFFFFFF) >= threshold) & ~is_touched
        drawn = tl.where(settled, item, drawn)
        unsettled = unsettled & ~settled
        trying = trying & ~settled
        attempt += 1
    if tl.max(unsettled.to(tl.int32), 0) > 0:
        free = tl.where(unsettled, num_items - touched, 1)
        first = tl.load(key + 2 * ATTEMPTS, mask=unsettled, other=0).to(tl.uint32, bitcast=True)
        second = tl.load(key + 2 * ATTEMPTS + 1, mask=unsettled, other=0).to(tl.uint32, bitcast=True)
        too_low = 4294967296 % free
        product = _hash(position.to(tl.uint32), first, second).to(tl.int64) * free
        again = unsettled & ((product & 0xFFFFFFFF) < too_low)
        step = 1
        while tl.max(again.to(tl.int32), 0) > 0:
            other = _hash(position.to(tl.uint32), first, second ^ step).to(tl.int64) * free
            product = tl.where(again, other, product)
            again = again & ((product & 0xFFFFFFFF) < too_low)
            step += 1
        rank = product >> 32
        low, high = start, tl.where(unsettled, stop, start)
        halved = 0
        while halved < depth:
            middle = (low + high) >> 1
            searching = low < high
            before = tl.load(indices + middle, mask=searching, other=0) - (middle - start) <= rank
            low = tl.where(searching & before, middle + 1, low)
            high = tl.where(searching & ~before, middle, high)
            halved += 1
        drawn = tl.where(unsettled, rank + low - start, drawn)
    tl.store(out + position, drawn.to(tl.int32), mask=inside)
