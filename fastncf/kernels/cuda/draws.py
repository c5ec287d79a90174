"""Orders and negatives drawn on a CUDA device by Triton: the same bits as :mod:`fastncf.sampling.permutation` and
:mod:`fastncf.sampling.negatives` draw on the CPU.
"""

from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from fastncf.kernels.cpu.alias import AliasTable
from fastncf.rng import LOWBIAS_1, LOWBIAS_2

_FIRST = tl.constexpr(LOWBIAS_1)
_SECOND = tl.constexpr(LOWBIAS_2)
_BLOCK = 512


def fill_order(order: Tensor, a: int, b: int, keys: list[int]) -> None:
    """Fill an order as :func:`fastncf.sampling.permutation.permutation` does, by a network over pairs below (a, b).

    Args:
        order: (N,) int32 or int64.
        a: number of left halves.
        b: number of right halves.
        keys: four keys of 32 bits.
    """
    signed = [key - (1 << 32) if key >> 31 else key for key in keys]  # else each key's size would ask for a compilation
    _fill_order[(triton.cdiv(len(order), _BLOCK),)](order, len(order), a, b, *signed, BLOCK=_BLOCK)


class Parts(NamedTuple):
    """:class:`~fastncf.kernels.cpu.alias.AliasTable` on a device, beside what the users of a CSR have touched.

    Attributes:
        mass: (I + 1,) int64.
        cells: (2**bits,) int32 of the same bits.
        bits: as many as the number of the last item has.
        touched: (N + 1,) int64, running sum of the parts of the CSR's items, from 0.
    """

    mass: Tensor
    cells: Tensor
    bits: int
    touched: Tensor

    @classmethod
    def of(cls, weights: AliasTable, indices: Tensor) -> "Parts":
        """Those of a CSR's items (N,) int32, on their device."""
        mass = torch.from_numpy(weights.cumulative.view(np.int64)).to(indices.device)
        touched = torch.zeros(len(indices) + 1, dtype=torch.int64, device=indices.device)
        torch.cumsum(mass.diff().index_select(0, indices), 0, out=touched[1:])
        cells = torch.from_numpy(weights.alias_cells.view(np.int32)).to(indices.device)
        return cls(mass, cells, int(weights.num_bits), touched)


def fill_negatives(
    out: Tensor,
    owner: Tensor,
    indptr: Tensor,
    indices: Tensor,
    keys: Tensor,
    num_items: int,
    longest: int,
    parts: Parts | None = None,
) -> None:
    """Fill an epoch's negatives as :func:`fastncf.sampling.negatives.sample_negatives` draws them.

    Args:
        out: (N, K) int32.
        owner: (N,) int32, the user of each training interaction.
        indptr: (U + 1,) int64.
        indices: (N,) int32, ascending and unique in each row.
        keys: of :func:`fastncf.sampling.negatives.position_keys`, as (blocks, ATTEMPTS + 1, 2) int32 of the same bits.
        num_items: I.
        longest: items of the longest row.
        parts: how often each item is drawn; all alike where it is not given.
    """
    mass, cells, bits, touched = parts or (indptr, indices, 0, indptr)  # what takes their place is not read
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
        mass,
        cells,
        bits,
        touched,
        WEIGHTED=parts is not None,
        NEGATIVES=out.shape[1],
        ATTEMPTS=keys.shape[1] - 1,
        BLOCK=_BLOCK,
    )


@triton.jit
def _mixed(x):
    """The first round of the 32-bit mixer."""
    x = x ^ (x >> 16)
    x = x * _FIRST
    return x ^ (x >> 15)


@triton.jit
def _finished(x):
    """The second round."""
    x = x * _SECOND
    return x ^ (x >> 16)


@triton.jit
def _moved(half, other, key, size):
    """A half of a pair, moved by a hash of the other, modulo its own size."""
    x = _finished(_mixed((other ^ key).to(tl.uint32)))
    moved = half + ((x.to(tl.int64) * size) >> 32)
    return tl.where(moved >= size, moved - size, moved)


@triton.jit
def _place(x, a, b, key_0, key_1, key_2, key_3):
    left, right = x // b, x % b
    left = _moved(left, right, key_0, a)
    right = _moved(right, left, key_1, b)
    left = _moved(left, right, key_2, a)
    right = _moved(right, left, key_3, b)
    return left * b + right


@triton.jit(do_not_specialize=["size", "a", "b", "key_0", "key_1", "key_2", "key_3"])
def _fill_order(order, size, a, b, key_0, key_1, key_2, key_3, BLOCK: tl.constexpr):
    x = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = x < size
    place = _place(x, a, b, key_0, key_1, key_2, key_3)
    while tl.max((inside & (place >= size)).to(tl.int32), 0) > 0:
        place = tl.where(place >= size, _place(place, a, b, key_0, key_1, key_2, key_3), place)
    tl.store(order + x, place.to(order.dtype.element_ty), mask=inside)


@triton.jit
def _hash(position, first, second):
    return _finished(_mixed(position ^ first) + second)


@triton.jit
def _scaled(number, size):
    """Upper and lower half of the product of a number of 32 bits and a size below 2**32."""
    size = size.to(tl.uint32)
    return tl.umulhi(number, size).to(tl.int64), (number * size).to(tl.int64)


@triton.jit
def _look_up(number, cells, bits, mask):
    """The item that a number of 32 bits draws."""
    number = number.to(tl.int64)
    below = 32 - bits
    own = number >> below
    cell = tl.load(cells + own, mask=mask, other=0).to(tl.uint32, bitcast=True).to(tl.int64)
    other = cell - ((cell >> bits) << bits)
    return tl.where(number - (own << below) < (cell >> bits), own, other)


@triton.jit(do_not_specialize=["positions", "num_items", "threshold", "depth", "bits"])
def _fill_negatives(
    out,
    owner,
    indptr,
    indices,
    keys,
    positions,
    num_items,
    threshold,
    depth,
    mass,
    cells,
    bits,
    touched,
    WEIGHTED: tl.constexpr,
    NEGATIVES: tl.constexpr,
    ATTEMPTS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    position = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = position < positions
    user = tl.load(owner + position // NEGATIVES, mask=inside, other=0)
    start = tl.load(indptr + user, mask=inside, other=0)
    stop = tl.load(indptr + user + 1, mask=inside, other=0)
    key = keys + (position >> 32) * (2 * (ATTEMPTS + 1))
    drawn = tl.zeros([BLOCK], dtype=tl.int64)
    # A user who has touched most of the catalogue is left to the search at once.
    unsettled = inside
    trying = inside & (4 * (stop - start) <= 3 * num_items)
    attempt = 0
    while (attempt < ATTEMPTS) & (tl.max(trying.to(tl.int32), 0) > 0):
        first = tl.load(key + 2 * attempt, mask=trying, other=0).to(tl.uint32, bitcast=True)
        second = tl.load(key + 2 * attempt + 1, mask=trying, other=0).to(tl.uint32, bitcast=True)
        number = _hash(position.to(tl.uint32), first, second)
        settled = trying
        if WEIGHTED:
            item = _look_up(number, cells, bits, trying)
        else:
            item, rest = _scaled(number, num_items)
            settled = settled & (rest >= threshold)
        low, high = start, tl.where(trying, stop, start)
        halved = 0
        while halved < depth:
            middle = (low + high) >> 1
            searching = low < high
            below = tl.load(indices + middle, mask=searching, other=0) < item
            low = tl.where(searching & below, middle + 1, low)
            high = tl.where(searching & ~below, middle, high)
            halved += 1
        settled = settled & (tl.load(indices + low, mask=trying & (low < stop), other=-1) != item)
        drawn = tl.where(settled, item, drawn)
        unsettled = unsettled & ~settled
        trying = trying & ~settled
        attempt += 1
    if tl.max(unsettled.to(tl.int32), 0) > 0:
        before_row = start  # what is touched before the row: items, or their parts
        free = num_items - (stop - start)
        if WEIGHTED:
            before_row = tl.load(touched + start, mask=unsettled, other=0)
            free = tl.load(mass + num_items) - (tl.load(touched + stop, mask=unsettled, other=0) - before_row)
        free = tl.where(unsettled, free, 1)
        first = tl.load(key + 2 * ATTEMPTS, mask=unsettled, other=0).to(tl.uint32, bitcast=True)
        second = tl.load(key + 2 * ATTEMPTS + 1, mask=unsettled, other=0).to(tl.uint32, bitcast=True)
        too_low = 4294967296 % free
        rank, rest = _scaled(_hash(position.to(tl.uint32), first, second), free)
        again = unsettled & (rest < too_low)
        step = 1
        while tl.max(again.to(tl.int32), 0) > 0:
            other, rest = _scaled(_hash(position.to(tl.uint32), first, second ^ step), free)
            rank = tl.where(again, other, rank)
            again = again & (rest < too_low)
            step += 1
        low, high = start, tl.where(unsettled, stop, start)
        halved = 0
        while halved < depth:
            middle = (low + high) >> 1
            searching = low < high
            item = tl.load(indices + middle, mask=searching, other=0)
            if WEIGHTED:
                of_all = tl.load(mass + item, mask=searching, other=0)
                of_row = tl.load(touched + middle, mask=searching, other=0) - before_row
            else:
                of_all = item.to(tl.int64)
                of_row = middle - before_row
            before = of_all - of_row <= rank
            low = tl.where(searching & before, middle + 1, low)
            high = tl.where(searching & ~before, middle, high)
            halved += 1
        if WEIGHTED:
            place = rank + tl.load(touched + low, mask=unsettled, other=0) - before_row
            item = tl.load(indices + low - 1, mask=unsettled & (low > start), other=-1).to(tl.int64) + 1
            end = tl.load(indices + low, mask=unsettled & (low < stop), other=-1).to(tl.int64)
            end = tl.where(end < 0, num_items, end)
            halved = 0
            while halved < bits:
                middle = (item + end) >> 1
                searching = unsettled & (item + 1 < end)
                before = tl.load(mass + middle, mask=searching, other=0) <= place
                item = tl.where(searching & before, middle, item)
                end = tl.where(searching & ~before, middle, end)
                halved += 1
        else:
            item = rank + low - start
        drawn = tl.where(unsettled, item, drawn)
    tl.store(out + position, drawn.to(tl.int32), mask=inside)
