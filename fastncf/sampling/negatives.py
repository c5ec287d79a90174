"""Sampling of negatives and of evaluation candidates from the items that a user has not seen.

The draws are exact, run in parallel, and are the same bits for any number of threads, since (seed, epoch, row, slot)
alone determines each of them. Slot k of row n has the position p = n * K + k. Attempt a hashes p to 32 bits and scales
them to an item (Lemire 2019, "Fast random integer generation in an interval", whose rejection step makes it exactly
uniform); with an alias table, the 32 bits are looked up in the table. An item that the user has seen is rejected. After
``ATTEMPTS`` rejections, and at once for a user who has seen more than three quarters of the catalogue, the draw is the
r-th unseen item for a uniform r, found by binary search in the sorted row; with an alias table, the unseen item whose
probability covers a uniform position among the probabilities of the unseen items. Both ways have the same
distribution, that of the items under the condition that the user has not seen them, and so has the mixture.
"""

from collections.abc import Iterable

import numpy as np

from fastncf.errors import DataError, counted
from fastncf.kernels.cpu.alias import AliasTable
from fastncf.kernels.cpu.negatives import (
    ATTEMPTS,
    UNIFORM,
    SeenItems,
    WeightedDraws,
    is_dense,
    sample_candidate_rows,
    sample_rows,
    sample_weighted_rows,
)
from fastncf.rng import LOWBIAS_1, LOWBIAS_2, Stream, key
from fastncf.threads import even_ranges, run_ranges

MAX_ITEMS = 2**31 - 64
"""Largest catalogue that negatives are drawn from: items, and one more, are int32 in whole words of a bitset."""

_MASK = (1 << 32) - 1


def sample_negatives(
    indptr: np.ndarray,
    indices: np.ndarray,
    num_items: int,
    num_negatives: int,
    *,
    seed: int,
    epoch: int,
    out: np.ndarray | None = None,
    alias_table: AliasTable | None = None,
    rows: tuple[int, int] | None = None,
) -> np.ndarray:
    """Draw negatives for each training interaction from the items that its user has not seen in training.

    Args:
        indptr: (U + 1,) int64.
        indices: (N,) int32, ascending and unique in each row.
        num_items: I, size of the catalogue.
        num_negatives: K.
        seed: determines all draws together with ``epoch``.
        epoch: number of the epoch; each epoch has its own draws.
        out: (N, K) int32, C-contiguous, written and returned; a new array where it is None.
        alias_table: distribution of the draws over all items; uniform where it is None.
        rows: range of interactions to draw for; all of them where it is None. Other rows of ``out`` are left as they
            are.

    Returns:
        (N, K) int32; row n belongs to the n-th training interaction in CSR order.

    Raises:
        DataError: a user has seen all items, there are more than ``MAX_ITEMS`` items, or ``out`` has another shape or
            dtype.
    """
    shape = (len(indices), num_negatives)
    if out is None:
        out = np.empty(shape, dtype=np.int32)
    elif out.shape != shape or out.dtype != np.int32 or not out.flags.c_contiguous:
        raise DataError(f"out: expected a C-contiguous int32 array of shape {shape}, got {out.dtype} {out.shape}")
    require_unseen_items(indptr, num_items)
    keys = position_keys(seed, Stream.NEGATIVES, epoch, positions=out.size)
    seen_items, table, flat = SeenItems(indptr, indices, num_items), alias_table or UNIFORM, out.reshape(-1)
    start, stop = rows or (0, len(indices))
    run_ranges(
        lambda first, last: sample_rows(first, last, seen_items, keys, table, num_negatives, flat),
        start + even_ranges(stop - start),
    )
    return out


def sample_negatives_reference(
    indptr: np.ndarray,
    indices: np.ndarray,
    num_items: int,
    num_negatives: int,
    *,
    seed: int,
    epoch: int,
    alias_table: AliasTable | None = None,
) -> np.ndarray:
    """Return what :func:`sample_negatives` returns for the same arguments, one draw at a time in plain Python."""
    out = np.empty((len(indices), num_negatives), dtype=np.int32)
    keys = position_keys(seed, Stream.NEGATIVES, epoch, positions=out.size)
    for user in range(len(indptr) - 1):
        seen = set(indices[indptr[user] : indptr[user + 1]].tolist())
        unseen = [item for item in range(num_items) if item not in seen]
        attempts = 0 if is_dense(len(seen), num_items) else ATTEMPTS
        for row in range(indptr[user], indptr[user + 1]):
            for slot in range(num_negatives):
                position = int(row) * num_negatives + slot
                out[row, slot] = draw_reference(position, keys, attempts, num_items, seen, unseen, alias_table)
    return out


def draw_reference(
    position: int,
    keys: np.ndarray,
    attempts: int,
    num_items: int,
    seen: set[int],
    unseen: list[int],
    alias_table: AliasTable | None,
) -> int:
    """Return the item that a position draws.

    Args:
        position: n * K + k for slot k of row n.
        keys: of :func:`position_keys`.
        attempts: how often an item is drawn before the unseen items are searched.
        num_items: I.
        seen: items that the user has seen.
        unseen: all other items, ascending.
        alias_table: distribution of the draws over all items; uniform where it is None.
    """
    for attempt in range(attempts):
        number = _hash(position, keys, attempt)
        item, exact = _scale(number, num_items) if alias_table is None else (alias_table.item(number), True)
        if exact and item not in seen:
            return item
    lengths = [1] * num_items if alias_table is None else np.diff(alias_table.cumulative).tolist()
    attempt = ATTEMPTS
    while True:
        offset, exact = _scale(_hash(position, keys, attempt), sum(lengths[item] for item in unseen))
        if exact:
            return _item_at(offset, unseen, lengths)
        attempt += 1


def _item_at(offset: int, items: Iterable[int], lengths: list[int]) -> int:
    """Return the item that covers an offset, where items lie end to end, each as long as its entry in ``lengths``."""
    for item in items:
        offset -= lengths[item]
        if offset < 0:
            return item
    raise IndexError(offset)


def _scale(x: int, size: int) -> tuple[int, bool]:
    """Scale a 32-bit number to a number below ``size``; return that, and whether taking it is exactly uniform."""
    product = x * size
    return product >> 32, (product & _MASK) >= (1 << 32) % size


def _hash(position: int, keys: np.ndarray, attempt: int) -> int:
    """Return the 32-bit hash of an attempt; those from ``ATTEMPTS`` on are the repeated draws of the search."""
    first, second = (int(half) for half in keys[position >> 32, min(attempt, ATTEMPTS)])
    x = (position ^ first) & _MASK
    x ^= x >> 16
    x = (x * LOWBIAS_1) & _MASK
    x ^= x >> 15
    x = (x + (second ^ max(attempt - ATTEMPTS, 0))) & _MASK
    x = (x * LOWBIAS_2) & _MASK
    return x ^ (x >> 16)


def sample_candidates(
    indptr: np.ndarray,
    indices: np.ndarray,
    num_items: int,
    users: np.ndarray,
    num_candidates: int,
    *,
    seed_key: int,
    distinct: bool = True,
    alias_table: AliasTable | None = None,
) -> np.ndarray:
    """Draw evaluation candidates for some users from the items that they have not seen.

    Args:
        indptr: (U + 1,) int64 of all items that a user has seen, held-out items included.
        indices: (N,) int32, ascending and unique in each row.
        num_items: I.
        users: (T,) int32.
        num_candidates: C.
        seed_key: 64-bit key of the draws.
        distinct: draw without replacement; a user with fewer than C unseen items gets all of them, and -1 after them.
        alias_table: distribution of the draws over all items; uniform where it is None. Without replacement, each draw
            is by the probabilities among the items that are left.

    Returns:
        (T, C) int32.

    Raises:
        DataError: one of the users has seen all items.
    """
    degrees = np.diff(indptr)[users]
    if (full := np.flatnonzero(degrees == num_items)).size:
        raise DataError(
            f"user {int(users[full[0]])} has seen all {counted(num_items, 'item')}: expected an unseen item "
            f"to draw as a candidate"
        )
    out = np.full((len(users), num_candidates), -1, dtype=np.int32)
    seen_items, kernel_key = SeenItems(indptr, indices, num_items), np.uint64(seed_key)
    if alias_table is not None:
        draws = WeightedDraws(alias_table, kernel_key, distinct)
        run_ranges(lambda a, b: sample_weighted_rows(a, b, seen_items, users, draws, out), even_ranges(len(users)))
        return out
    run_ranges(
        lambda first, last: sample_candidate_rows(first, last, seen_items, users, kernel_key, distinct, out),
        even_ranges(len(users)),
    )
    return out


def require_unseen_items(indptr: np.ndarray, num_items: int) -> None:
    """Check that negatives can be drawn for each user.

    Args:
        indptr: (U + 1,) int64.
        num_items: I.

    Raises:
        DataError: a user has seen all items, or there are more than ``MAX_ITEMS`` items.
    """
    degrees = np.diff(indptr)
    if len(degrees) and degrees.max() >= num_items:
        raise DataError(
            f"user {int(degrees.argmax())} has seen all {counted(num_items, 'item')}: expected at most "
            f"{num_items - 1}, so that an item is left to draw as a negative"
        )
    if num_items > MAX_ITEMS:
        raise DataError(f"num_items={num_items}: expected at most {MAX_ITEMS}")


def position_keys(seed: int, stream: Stream, epoch: int, positions: int) -> np.ndarray:
    """Return the keys of the 32-bit hash for some positions.

    Args:
        seed: determines the keys together with ``stream`` and ``epoch``.
        stream: purpose of the draws.
        epoch: number of the epoch.
        positions: number of positions.

    Returns:
        (blocks, ATTEMPTS + 1, 2) uint32: two halves of a 64-bit key for each block of 2**32 positions and each attempt;
        the last key is that of the search.
    """
    blocks = range((positions >> 32) + 1)
    keys = [[key(seed, stream, epoch, block, attempt) for attempt in range(ATTEMPTS + 1)] for block in blocks]
    return np.array([[(k & _MASK, k >> 32) for k in block] for block in keys], dtype=np.uint32)
