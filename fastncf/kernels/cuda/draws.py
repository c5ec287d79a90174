"""Order of an epoch and its negatives, drawn on a CUDA device by Triton: the same bits as on the CPU.

Orders come from the Feistel network (Luby and Rackoff 1988) of :mod:`fastncf.sampling.permutation`, negatives from the
rejection sampling of :mod:`fastncf.sampling.negatives`. Draws are hashes of a position by "lowbias32" (Wellons 2018).
Uniform integers below n are made of them as in Lemire 2019, items by popularity with an alias table (Walker 1977).
"""

from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from fastncf.kernels.cpu.alias import AliasTable
from fastncf.rng import LOWBIAS_1, LOWBIAS_2

_MULTIPLIER_1 = tl.constexpr(LOWBIAS_1)
_MULTIPLIER_2 = tl.constexpr(LOWBIAS_2)
_BLOCK_SIZE = 512


class DeviceCSR(NamedTuple):
    """Training interactions on a device, ordered by user: U users, I items, N interactions.

    Attributes:
        user_ids: (N,) int32, the user of each interaction.
        indptr: (U + 1,) int64, where each user's row of ``indices`` begins; the last value is N.
        indices: (N,) int32, the item of each interaction, ascending and unique in each row.
        num_items: I.
        max_row_length: number of items in the longest row.
    """

    user_ids: Tensor
    indptr: Tensor
    indices: Tensor
    num_items: int
    max_row_length: int


class DeviceAliasTable(NamedTuple):
    """An :class:`~fastncf.kernels.cpu.alias.AliasTable` on a device, and the weights of a CSR's items.

    Attributes:
        cumulative: (I + 1,) int64, running sum of the items' weights, from 0 to 2**32.
        alias_cells: (2**num_bits,) int32 of the same bits as the uint32 of the CPU.
        num_bits: number of bits of the largest item id.
        seen_cumulative: (N + 1,) int64, running sum of the weights of the CSR's items, from 0.
    """

    cumulative: Tensor
    alias_cells: Tensor
    num_bits: int
    seen_cumulative: Tensor

    @classmethod
    def from_table(cls, table: AliasTable, indices: Tensor) -> "DeviceAliasTable":
        """Return a table on the device of a CSR's ``indices`` (N,) int32."""
        cumulative = torch.from_numpy(table.cumulative.view(np.int64)).to(indices.device)
        seen = torch.zeros(len(indices) + 1, dtype=torch.int64, device=indices.device)
        torch.cumsum(cumulative.diff().index_select(0, indices), 0, out=seen[1:])
        alias_cells = torch.from_numpy(table.alias_cells.view(np.int32)).to(indices.device)
        return cls(cumulative, alias_cells, int(table.num_bits), seen)


def fill_order(order: Tensor, num_left: int, num_right: int, round_keys: list[int]) -> None:
    """Fill an order with the permutation that :func:`fastncf.sampling.permutation.permutation` computes.

    The Feistel network permutes pairs (left, right) with ``left < num_left`` and ``right < num_right``.

    Args:
        order: (N,) int32 or int64, overwritten.
        num_left: number of left halves.
        num_right: number of right halves; ``num_left * num_right`` is at least N.
        round_keys: four keys of 32 bits.
    """
    signed = [key - (1 << 32) if key >> 31 else key for key in round_keys]  # one integer type, so one compilation
    grid = (triton.cdiv(len(order), _BLOCK_SIZE),)
    _fill_order_kernel[grid](order, len(order), num_left, num_right, *signed, BLOCK_SIZE=_BLOCK_SIZE)


def fill_negatives(out: Tensor, csr: DeviceCSR, keys: Tensor, table: DeviceAliasTable | None = None) -> None:
    """Draw an epoch's negatives as :func:`fastncf.sampling.negatives.sample_negatives` draws them.

    Args:
        out: (N, K) int32, overwritten.
        csr: the training interactions; no user has interacted with all items.
        keys: (blocks, attempts + 1, 2) int32 of the same bits as the uint32 that
            :func:`fastncf.sampling.negatives.position_keys` returns.
        table: how often each item is drawn; None draws all items alike.
    """
    # The uniform draw reads no table: any tensors take its place.
    weights = table or DeviceAliasTable(csr.indptr, csr.indices, 0, csr.indptr)
    _fill_negatives_kernel[(triton.cdiv(out.numel(), _BLOCK_SIZE),)](
        out,
        csr.user_ids,
        csr.indptr,
        csr.indices,
        keys,
        out.numel(),
        csr.num_items,
        (1 << 32) % csr.num_items,
        csr.max_row_length.bit_length(),
        weights.cumulative,
        weights.alias_cells,
        weights.num_bits,
        weights.seen_cumulative,
        WEIGHTED=table is not None,
        NUM_NEGATIVES=out.shape[1],
        NUM_ATTEMPTS=keys.shape[1] - 1,
        BLOCK_SIZE=_BLOCK_SIZE,
    )


@triton.jit
def _mix_first_round(x):
    """Return the first of the two rounds of lowbias32 of uint32 numbers."""
    x = x ^ (x >> 16)
    x = x * _MULTIPLIER_1
    return x ^ (x >> 15)


@triton.jit
def _mix_second_round(x):
    """Return the second round of lowbias32."""
    x = x * _MULTIPLIER_2
    return x ^ (x >> 16)


@triton.jit
def _feistel_round(half, other_half, round_key, num_values):
    """Return one half of a pair plus a hash of the other half, modulo the number of its values."""
    x = _mix_second_round(_mix_first_round((other_half ^ round_key).to(tl.uint32)))
    moved = half + ((x.to(tl.int64) * num_values) >> 32)
    return tl.where(moved >= num_values, moved - num_values, moved)


@triton.jit
def _feistel(x, num_left, num_right, key_0, key_1, key_2, key_3):
    """Return the permutation of numbers below ``num_left * num_right`` by four rounds."""
    left, right = x // num_right, x % num_right
    left = _feistel_round(left, right, key_0, num_left)
    right = _feistel_round(right, left, key_1, num_right)
    left = _feistel_round(left, right, key_2, num_left)
    right = _feistel_round(right, left, key_3, num_right)
    return left * num_right + right


@triton.jit(do_not_specialize=["n_order", "num_left", "num_right", "key_0", "key_1", "key_2", "key_3"])
def _fill_order_kernel(
    order_ptr, n_order, num_left, num_right, key_0, key_1, key_2, key_3, BLOCK_SIZE: tl.constexpr
):  # fmt: skip
    """Write ``BLOCK_SIZE`` values of ``order`` (n_order,) in each program.

    A value that is not below ``n_order`` goes through the network again until it is ("cycle walking", Black and Rogaway
    2002).
    """
    x = tl.program_id(0).to(tl.int64) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    mask = x < n_order
    value = _feistel(x, num_left, num_right, key_0, key_1, key_2, key_3)
    while tl.max((mask & (value >= n_order)).to(tl.int32), 0) > 0:
        value = tl.where(value >= n_order, _feistel(value, num_left, num_right, key_0, key_1, key_2, key_3), value)
    tl.store(order_ptr + x, value.to(order_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _hash_position(position, key_1, key_2):
    """Return 32 random bits of a position (uint32), by two keys."""
    return _mix_second_round(_mix_first_round(position ^ key_1) + key_2)


@triton.jit
def _multiply_high_low(number, size):
    """Return the upper and the lower 32 bits of the product of a number of 32 bits and a size below 2**32."""
    size = size.to(tl.uint32)
    return tl.umulhi(number, size).to(tl.int64), (number * size).to(tl.int64)


@triton.jit
def _draw_from_table(number, alias_cells_ptr, num_bits, mask):
    """Return the item that 32 random bits draw, see :class:`fastncf.kernels.cpu.alias.AliasTable`."""
    number = number.to(tl.int64)
    num_low_bits = 32 - num_bits
    own_item = number >> num_low_bits
    cell = tl.load(alias_cells_ptr + own_item, mask=mask, other=0).to(tl.uint32, bitcast=True).to(tl.int64)
    other_item = cell - ((cell >> num_bits) << num_bits)
    return tl.where(number - (own_item << num_low_bits) < (cell >> num_bits), own_item, other_item)


@triton.jit
def _is_unseen(item, start, stop, mask, indices_ptr, num_halvings):
    """Return whether an item is not in ``indices[start:stop]``, by binary search."""
    low, high = start, tl.where(mask, stop, start)
    halving = 0
    while halving < num_halvings:
        middle = (low + high) >> 1
        searching = low < high
        is_below = tl.load(indices_ptr + middle, mask=searching, other=0) < item
        low = tl.where(searching & is_below, middle + 1, low)
        high = tl.where(searching & ~is_below, middle, high)
        halving += 1
    return tl.load(indices_ptr + low, mask=mask & (low < stop), other=-1) != item


@triton.jit
def _draw_rank(position, key_1, key_2, size, mask):
    """Return uniform numbers below ``size`` (Lemire 2019): draws that would be biased are repeated with other keys."""
    threshold = 4294967296 % size
    rank, rest = _multiply_high_low(_hash_position(position.to(tl.uint32), key_1, key_2), size)
    rejected = mask & (rest < threshold)
    redraws = 1
    while tl.max(rejected.to(tl.int32), 0) > 0:
        other, rest = _multiply_high_low(_hash_position(position.to(tl.uint32), key_1, key_2 ^ redraws), size)
        rank = tl.where(rejected, other, rank)
        rejected = rejected & (rest < threshold)
        redraws += 1
    return rank


@triton.jit
def _count_seen_below(
    rank, start, stop, seen_before_row, mask, indices_ptr, cumulative_ptr, seen_cumulative_ptr, num_halvings,
    WEIGHTED: tl.constexpr,
):  # fmt: skip
    """Return the index in ``indices`` of the first item of a row that lies behind the unseen item of a rank.

    An unseen item's rank is the weight (or the number) of the unseen items before it.
    """
    low, high = start, tl.where(mask, stop, start)
    halving = 0
    while halving < num_halvings:
        middle = (low + high) >> 1
        searching = low < high
        item = tl.load(indices_ptr + middle, mask=searching, other=0)
        if WEIGHTED:
            below_item = tl.load(cumulative_ptr + item, mask=searching, other=0)
            seen_below_item = tl.load(seen_cumulative_ptr + middle, mask=searching, other=0) - seen_before_row
        else:
            below_item = item.to(tl.int64)
            seen_below_item = middle - seen_before_row
        is_below = below_item - seen_below_item <= rank
        low = tl.where(searching & is_below, middle + 1, low)
        high = tl.where(searching & ~is_below, middle, high)
        halving += 1
    return low


@triton.jit
def _find_item(weight, seen_index, start, stop, mask, num_items, indices_ptr, cumulative_ptr, num_bits):
    """Return the last item whose cumulative weight is at most ``weight``, between two neighbours in a row.

    The item lies between ``indices[seen_index - 1]`` and ``indices[seen_index]``, where the row has them.
    """
    item = tl.load(indices_ptr + seen_index - 1, mask=mask & (seen_index > start), other=-1).to(tl.int64) + 1
    end = tl.load(indices_ptr + seen_index, mask=mask & (seen_index < stop), other=-1).to(tl.int64)
    end = tl.where(end < 0, num_items, end)
    halving = 0
    while halving < num_bits:
        middle = (item + end) >> 1
        searching = mask & (item + 1 < end)
        is_below = tl.load(cumulative_ptr + middle, mask=searching, other=0) <= weight
        item = tl.where(searching & is_below, middle, item)
        end = tl.where(searching & ~is_below, middle, end)
        halving += 1
    return item


@triton.jit
def _draw_unseen(
    position, key_ptr, start, stop, mask, num_items, indices_ptr, num_halvings, cumulative_ptr, num_bits,
    seen_cumulative_ptr, WEIGHTED: tl.constexpr,
):  # fmt: skip
    """Return items that are not in ``indices[start:stop]``, each by a uniform rank among them."""
    seen_before_row = start  # number of interactions, or their weight
    num_unseen = num_items - (stop - start)  # number of items, or their weight
    if WEIGHTED:
        seen_before_row = tl.load(seen_cumulative_ptr + start, mask=mask, other=0)
        total = tl.load(cumulative_ptr + num_items)
        num_unseen = total - (tl.load(seen_cumulative_ptr + stop, mask=mask, other=0) - seen_before_row)
    num_unseen = tl.where(mask, num_unseen, 1)
    key_1 = tl.load(key_ptr, mask=mask, other=0).to(tl.uint32, bitcast=True)
    key_2 = tl.load(key_ptr + 1, mask=mask, other=0).to(tl.uint32, bitcast=True)
    rank = _draw_rank(position, key_1, key_2, num_unseen, mask)
    seen_index = _count_seen_below(
        rank, start, stop, seen_before_row, mask, indices_ptr, cumulative_ptr, seen_cumulative_ptr, num_halvings,
        WEIGHTED,
    )  # fmt: skip
    if WEIGHTED:
        weight = rank + tl.load(seen_cumulative_ptr + seen_index, mask=mask, other=0) - seen_before_row
        item = _find_item(weight, seen_index, start, stop, mask, num_items, indices_ptr, cumulative_ptr, num_bits)
    else:
        item = rank + seen_index - start
    return item


@triton.jit(do_not_specialize=["n_draws", "num_items", "bias_threshold", "num_halvings", "num_bits"])
def _fill_negatives_kernel(
    out_ptr, user_ids_ptr, indptr_ptr, indices_ptr, keys_ptr, n_draws, num_items, bias_threshold, num_halvings,
    cumulative_ptr, alias_cells_ptr, num_bits, seen_cumulative_ptr, WEIGHTED: tl.constexpr,
    NUM_NEGATIVES: tl.constexpr, NUM_ATTEMPTS: tl.constexpr, BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    """Draw ``BLOCK_SIZE`` negatives in each program; tensors as in :func:`fill_negatives`, weights in 2**32ths.

    Args:
        n_draws: N * K.
        bias_threshold: 2**32 modulo I; products whose lower half is below would be biased.
        num_halvings: steps of a binary search in the longest row.
        WEIGHTED: whether items are drawn from the alias table.
        NUM_NEGATIVES: K.
        NUM_ATTEMPTS: number of draws that may be rejected before the item is drawn by its rank among the unseen ones.
    """
    position = tl.program_id(0).to(tl.int64) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    mask = position < n_draws
    user = tl.load(user_ids_ptr + position // NUM_NEGATIVES, mask=mask, other=0)
    start = tl.load(indptr_ptr + user, mask=mask, other=0)
    stop = tl.load(indptr_ptr + user + 1, mask=mask, other=0)
    key_ptr = keys_ptr + (position >> 32) * (2 * (NUM_ATTEMPTS + 1))
    negative = tl.zeros([BLOCK_SIZE], dtype=tl.int64)
    undrawn = mask
    trying = mask & (4 * (stop - start) <= 3 * num_items)  # the rank is faster where most items are seen
    attempt = 0
    while (attempt < NUM_ATTEMPTS) & (tl.max(trying.to(tl.int32), 0) > 0):
        key_1 = tl.load(key_ptr + 2 * attempt, mask=trying, other=0).to(tl.uint32, bitcast=True)
        key_2 = tl.load(key_ptr + 2 * attempt + 1, mask=trying, other=0).to(tl.uint32, bitcast=True)
        number = _hash_position(position.to(tl.uint32), key_1, key_2)
        accepted = trying
        if WEIGHTED:
            item = _draw_from_table(number, alias_cells_ptr, num_bits, trying)
        else:
            item, rest = _multiply_high_low(number, num_items)
            accepted = accepted & (rest >= bias_threshold)
        accepted = accepted & _is_unseen(item, start, stop, trying, indices_ptr, num_halvings)
        negative = tl.where(accepted, item, negative)
        undrawn = undrawn & ~accepted
        trying = trying & ~accepted
        attempt += 1
    if tl.max(undrawn.to(tl.int32), 0) > 0:
        item = _draw_unseen(
            position, key_ptr + 2 * NUM_ATTEMPTS, start, stop, undrawn, num_items, indices_ptr, num_halvings,
            cumulative_ptr, num_bits, seen_cumulative_ptr, WEIGHTED,
        )  # fmt: skip
        negative = tl.where(undrawn, item, negative)
    tl.store(out_ptr + position, negative.to(tl.int32), mask=mask)
