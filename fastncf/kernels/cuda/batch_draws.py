"""Draws of a batch: shared negatives, and dropout of states: hashes of a position, with the bits of the CPU."""

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from fastncf.kernels.cpu.next_item import CHUNK
from fastncf.kernels.cuda.batch_fields import _NUMBER, _POSITIONS_BEFORE
from fastncf.kernels.cuda.batches import EpochNumbers, Histories, Plan, Sizes
from fastncf.kernels.cuda.draws import _hash_position, _is_unseen
from fastncf.rng import GOLDEN, MIX_1, MIX_2

_BLOCK_DRAWS = 512

_CHUNK = tl.constexpr(CHUNK)
_GOLDEN = tl.constexpr(GOLDEN)
_MIX_1 = tl.constexpr(MIX_1)
_MIX_2 = tl.constexpr(MIX_2)


def draw_shared_negatives(out: Tensor, numbers: EpochNumbers, first_batch: int, num_items: int) -> None:
    """Draw the negatives of batches, one from each of K parts of the catalogue: the bits of the CPU.

    Args:
        out: (R, K) int32, overwritten.
        numbers: has the key.
        first_batch: number in the epoch of the batch of row 0.
        num_items: I, at least K.
    """
    _draw_shared_kernel[(triton.cdiv(out.numel(), _BLOCK_DRAWS),)](
        out, numbers.keys, first_batch, out.numel(), num_items, num_negatives=out.shape[1], BLOCK_SIZE=_BLOCK_DRAWS
    )


def fill_masks(plan: Plan, histories: Histories, rows: Tensor, first_window: int) -> None:
    """Write ``plan.masks`` of windows.

    Args:
        plan: its negatives are read.
        histories: windows and what their users have seen.
        rows: (n,) int32, row of the negatives of each of n windows.
        first_window: the first of them.
    """
    num_negatives = plan.negatives.shape[1]
    _fill_masks_kernel[(len(rows), triton.cdiv(num_negatives, _BLOCK_DRAWS))](
        plan.masks,
        plan.negatives,
        rows,
        histories.users,
        histories.indptr,
        histories.seen,
        first_window,
        histories.longest.bit_length(),
        num_negatives=num_negatives,
        BLOCK_SIZE=_BLOCK_DRAWS,
    )


def dropout_arguments(numbers: EpochNumbers, sizes: Sizes) -> dict[str, Any]:
    """Return the arguments of kernels that apply dropout to states.

    Returns:
        ``keys_ptr``: see :class:`EpochNumbers`. ``threshold``: a number is dropped if its 32 random bits are below; the
        CPU cuts off the threshold's fraction too. ``scale``: factor of the numbers that are kept. ``hash_width``: see
        :class:`Sizes`. ``DROPOUT``: whether there is any.
    """
    return {
        "keys_ptr": numbers.keys,
        "threshold": int(sizes.dropout * 2**32),
        "scale": 1 / (1 - sizes.dropout),
        "hash_width": sizes.hash_width,
        "DROPOUT": sizes.dropout > 0,
    }


@triton.jit
def _mix64(x):
    """Return :func:`fastncf.rng.mix` of uint64 numbers."""
    x = (x ^ (x >> 30)) * _MIX_1
    x = (x ^ (x >> 27)) * _MIX_2
    return x ^ (x >> 31)


@triton.jit(do_not_specialize=["first_batch", "n_draws", "num_items", "num_negatives"])
def _draw_shared_kernel(
    out_ptr, keys_ptr, first_batch, n_draws, num_items, num_negatives, BLOCK_SIZE: tl.constexpr
):  # fmt: skip
    """Draw ``BLOCK_SIZE`` of the ``n_draws`` negatives of ``out`` (R, num_negatives) in each program."""
    at = tl.program_id(0).to(tl.int64) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    k = at % num_negatives
    first, last = k * num_items // num_negatives, (k + 1) * num_items // num_negatives
    place = (at + first_batch.to(tl.int64) * num_negatives).to(tl.uint64)
    bits = _mix64(tl.load(keys_ptr).to(tl.uint64, bitcast=True) + place * _GOLDEN) >> 32
    drawn = (bits * (last - first).to(tl.uint64)) >> 32
    tl.store(out_ptr + at, (first + drawn.to(tl.int64)).to(tl.int32), mask=at < n_draws)


@triton.jit(do_not_specialize=["first_window", "num_halvings", "num_negatives"])
def _fill_masks_kernel(
    masks_ptr, negatives_ptr, rows_ptr, users_ptr, indptr_ptr, seen_ptr, first_window, num_halvings,
    num_negatives, BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    """Write ``BLOCK_SIZE`` masks of one window in each program, see :func:`fill_masks`."""
    window = tl.program_id(0).to(tl.int64)
    k = tl.program_id(1) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    mask = k < num_negatives
    row = tl.load(rows_ptr + window).to(tl.int64)
    user = tl.load(users_ptr + first_window + window)
    start, stop = tl.load(indptr_ptr + user), tl.load(indptr_ptr + user + 1)
    item = tl.load(negatives_ptr + row * num_negatives + k, mask=mask, other=0)
    zeros = tl.zeros([BLOCK_SIZE], dtype=tl.int64)
    is_unseen = _is_unseen(item, zeros + start, zeros + stop, mask, seen_ptr, num_halvings)
    tl.store(masks_ptr + window * num_negatives + k, (~is_unseen).to(tl.int8), mask=mask)


@triton.jit
def _is_kept(batch_ptr, position, column, keys_ptr, threshold, hash_width):
    """Return which numbers (positions, columns) of the states of a batch dropout keeps: the bits of the CPU.

    Positions of a chunk have a key in common, under which a number's place in the chunk is hashed.
    """
    number = tl.load(batch_ptr + _NUMBER)
    position += tl.load(batch_ptr + _POSITIONS_BEFORE)
    key = _mix64(tl.load(keys_ptr + 1).to(tl.uint64, bitcast=True) + number.to(tl.uint64) * _GOLDEN)
    key = _mix64(key + (position // _CHUNK).to(tl.uint64) * _GOLDEN)
    low, high = key.to(tl.uint32), (key >> 32).to(tl.uint32)
    place = ((position % _CHUNK)[:, None] * hash_width + column[None, :]).to(tl.uint32)
    return _hash_position(place, low[:, None], high[:, None]) >= threshold.to(tl.uint32)
