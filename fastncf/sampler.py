"""Exact negatives from a sorted CSR, in parallel, the same bits for any number of threads.

What is drawn is fixed by (seed, epoch, row, slot) alone. Slot k of row n has the position p = n * K + k. Attempt a
hashes p to 32 bits and scales them to an item (Lemire 2019, "Fast random integer generation in an interval", whose
rejection step makes it exactly uniform). An item that the user has touched is rejected. After ``ATTEMPTS`` rejections,
and at once for a user who has touched more than half of the catalogue, the draw is the r-th untouched item for a
uniform r, found by binary search. Each way is uniform over the untouched items, and so is the mixture.
"""

import numpy as np
from numba import njit

from fastncf.errors import DataError
from fastncf.hashing import GOLDEN, MIX_1, MIX_2, Stream, key
from fastncf.threads import num_threads, run_ranges

ATTEMPTS = 2
MAX_ITEMS = 2**31 - 64
_TILE = 2048
_SHIFT = np.uint64(32)


def sample_negatives(
    indptr: np.ndarray,
    indices: np.ndarray,
    num_items: int,
    num_negatives: int,
    *,
    seed: int,
    epoch: int,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Draw negatives for each training interaction, uniform over the items its user has not touched in training.

    Args:
        indptr: (U + 1,) int64.
        indices: (N,) int32, ascending and unique in each row.
        num_items: I, length of the catalogue.
        num_negatives: K.
        seed: determines all draws together with ``epoch``.
        epoch: number of the epoch; each has its own draws.
        out: (N, K) int32 C-contiguous, filled and returned; made where it is not given.

    Returns:
        (N, K) int32; row n belongs to the n-th training interaction in CSR order.

    Raises:
        DataError: a user with interactions has touched every item, or ``out`` has another shape or type.
    """
    shape = (len(indices), num_negatives)
    if out is None:
        out = np.empty(shape, dtype=np.int32)
    elif out.shape != shape or out.dtype != np.int32 or not out.flags.c_contiguous:
        raise DataError(f"out: expected a C-contiguous int32 array of shape {shape}, got {out.dtype} {out.shape}")
    _require_negatives(indptr, num_items)
    keys = _keys(seed, Stream.NEGATIVES, epoch, blocks=(out.size >> 32) + 1)
    flat = out.reshape(-1)
    run_ranges(
        lambda a, b: _sample_rows(a, b, indptr, indices, num_items, num_negatives, keys, flat),
        _even(len(indices)),
    )
    return out


def sample_negatives_reference(
    indptr: np.ndarray, indices: np.ndarray, num_items: int, num_negatives: int, *, seed: int, epoch: int
) -> np.ndarray:
    """What :func:`sample_negatives` draws, one draw at a time in plain Python."""
    out = np.empty((len(indices), num_negatives), dtype=np.int32)
    keys = _keys(seed, Stream.NEGATIVES, epoch, blocks=(out.size >> 32) + 1)
    for user in range(len(indptr) - 1):
        touched = set(indices[indptr[user] : indptr[user + 1]].tolist())
        untouched = [item for item in range(num_items) if item not in touched]
        attempts = 0 if 2 * len(touched) > num_items else ATTEMPTS
        for row in range(indptr[user], indptr[user + 1]):
            for slot in range(num_negatives):
                position = int(row) * num_negatives + slot
                out[row, slot] = _draw(position, keys, attempts, num_items, touched, untouched)
    return out


def _draw(
    position: int, keys: np.ndarray, attempts: int, num_items: int, touched: set[int], untouched: list[int]
) -> int:
    for attempt in range(attempts):
        item, exact = _scaled(_hash_reference(position, keys, attempt), num_items)
        if exact and item not in touched:
            return item
    attempt = ATTEMPTS
    while True:
        rank, exact = _scaled(_hash_reference(position, keys, attempt), len(untouched))
        if exact:
            return untouched[rank]
        attempt += 1


def _scaled(x: int, size: int) -> tuple[int, bool]:
    """32 random bits -> a number below ``size``, and whether keeping it is exactly uniform."""
    product = x * size
    return product >> 32, (product & 0xFFFFFFFF) >= (1 << 32) % size


def _hash_reference(position: int, keys: np.ndarray, attempt: int) -> int:
    mask = 0xFFFFFFFF
    first, second = (int(half) for half in keys[position >> 32, min(attempt, len(keys[0]) - 1)])
    step = max(attempt - len(keys[0]) + 1, 0)
    product = ((position ^ first) & mask) * _MULTIPLIER
    x = ((product >> 32) ^ product ^ second ^ step) & mask
    x = (x * _MULTIPLIER_1) & mask
    x ^= x >> 15
    x = (x * _MULTIPLIER_2) & mask
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
) -> np.ndarray:
    """Draw evaluation negatives for some users, uniform over the items they have not touched.

    Args:
        indptr: (U + 1,) int64 of everything that a user has touched, held-out items included.
        indices: (N,) int32, ascending and unique in each row.
        num_items: I.
        users: (T,) int32.
        num_candidates: C.
        seed_key: 64-bit key of the draws.
        distinct: without replacement. A user with fewer than C untouched items then gets all of them and -1 behind.

    Returns:
        (T, C) int32.

    Raises:
        DataError: one of the users has touched every item.
    """
    degrees = np.diff(indptr)[users]
    if (full := np.flatnonzero(degrees == num_items)).size:
        raise DataError(f"user {int(users[full[0]])} has touched all {num_items} items: there is no candidate for it")
    out = np.full((len(users), num_candidates), -1, dtype=np.int32)
    run_ranges(
        lambda a, b: _candidate_rows(a, b, indptr, indices, num_items, users, np.uint64(seed_key), distinct, out),
        _even(len(users)),
    )
    return out


def _require_negatives(indptr: np.ndarray, num_items: int) -> None:
    degrees = np.diff(indptr)
    if len(degrees) and degrees.max() >= num_items:
        raise DataError(
            f"user {int(degrees.argmax())} has touched all {num_items} items: there is no negative for it; "
            f"accepted: rows of at most {num_items - 1} items"
        )
    if num_items > MAX_ITEMS:
        raise DataError(f"num_items={num_items}: expected at most {MAX_ITEMS}")


def _even(rows: int, parts_per_thread: int = 4) -> np.ndarray:
    return np.linspace(0, rows, parts_per_thread * num_threads() + 1).astype(np.int64)


def _keys(seed: int, stream: Stream, epoch: int, blocks: int) -> np.ndarray:
    """(blocks, ATTEMPTS + 1, 2) uint32: the hash's keys for each 2**32 positions and each attempt."""
    keys = [[key(seed, stream, epoch, block, attempt) for attempt in range(ATTEMPTS + 1)] for block in range(blocks)]
    return np.array([[(k & 0xFFFFFFFF, k >> 32) for k in block] for block in keys], dtype=np.uint32)


# A 32-bit hash of a counter under a 64-bit key. The first step keeps both halves of a 64-bit product (as Philox does,
# Salmon et al. 2011), so that it is no bijection of the counter; the rest is Wellons' "lowbias32" mixer (2018).
_MULTIPLIER = 0xD2511F53
_MULTIPLIER_1 = 0x7FEB352D
_MULTIPLIER_2 = 0x846CA68B


@njit(inline="always")
def _hash(position, first, second):  # type: ignore[no-untyped-def]
    product = np.uint64(np.uint32(position) ^ first) * np.uint64(_MULTIPLIER)
    x = np.uint32(product >> _SHIFT) ^ np.uint32(product) ^ second
    x = np.uint32(x * np.uint32(_MULTIPLIER_1))
    x ^= x >> np.uint32(15)
    x = np.uint32(x * np.uint32(_MULTIPLIER_2))
    return x ^ (x >> np.uint32(16))


@njit(inline="always")
def _is_set(bits, item):  # type: ignore[no-untyped-def]
    return (bits[item >> 6] >> np.uint64(item & 63)) & np.uint64(1)


@njit(inline="always")
def _set(bits, item):  # type: ignore[no-untyped-def]
    bits[item >> 6] |= np.uint64(1) << np.uint64(item & 63)


@njit(nogil=True, cache=True)
def _untouched(indices, start, stop, rank):  # type: ignore[no-untyped-def]
    """The rank-th item (from 0) that is not in the sorted row indices[start:stop]."""
    low, high = start, stop
    while low < high:
        middle = (low + high) >> 1
        if indices[middle] - (middle - start) <= rank:
            low = middle + 1
        else:
            high = middle
    return rank + (low - start)


@njit(nogil=True, cache=True)
def _rank_select(position, keys, indices, start, stop, num_items):  # type: ignore[no-untyped-def]
    """A uniform untouched item without rejection of touched ones."""
    size = np.uint64(num_items - (stop - start))
    threshold = np.uint32((np.uint64(1) << _SHIFT) % size)
    first, second = keys[position >> 32, ATTEMPTS]
    step = np.uint32(0)
    while True:
        product = np.uint64(_hash(position, first, second ^ step)) * size
        if np.uint32(product) >= threshold:
            return _untouched(indices, start, stop, np.int64(product >> _SHIFT))
        step += np.uint32(1)


@njit(nogil=True, cache=True)
def _redraw(position, keys, bits, indices, start, stop, num_items, threshold):  # type: ignore[no-untyped-def]
    """The draw of a position whose attempt 0 was rejected."""
    for attempt in range(1, ATTEMPTS):
        first, second = keys[position >> 32, attempt]
        product = np.uint64(_hash(position, first, second)) * np.uint64(num_items)
        item = np.int64(product >> _SHIFT)
        if np.uint32(product) >= threshold and not _is_set(bits, item):
            return item
    return _rank_select(position, keys, indices, start, stop, num_items)


@njit(nogil=True, cache=True)
def _sample_rows(first_row, last_row, indptr, indices, num_items, num_negatives, keys, out):  # type: ignore[no-untyped-def]
    """Fill the draws of a range of rows; a user's sorted row is spread into a bitset, so that a test is one load."""
    words = (num_items + 63) >> 6
    bits = np.zeros(words + 1, dtype=np.uint64)
    never = words << 6  # stands for a draw that would not be exactly uniform: an item whose bit is always set
    bits[words] = np.uint64(1)
    threshold = np.uint32((np.uint64(1) << _SHIFT) % np.uint64(num_items))
    user = np.searchsorted(indptr, first_row, side="right") - 1
    row = first_row
    while row < last_row:
        start, stop = indptr[user], indptr[user + 1]
        user += 1
        if stop <= row:
            continue
        row_stop = min(stop, last_row)
        begin, end = row * num_negatives, row_stop * num_negatives
        row = row_stop
        if 2 * (stop - start) > num_items:
            for position in range(begin, end):
                out[position] = _rank_select(position, keys, indices, start, stop, num_items)
            continue
        for at in range(start, stop):
            _set(bits, indices[at])
        while begin < end:
            # A tile stays in cache, and within 2**32 positions the keys are constants of a loop that vectorises.
            tile = min(end, begin + _TILE, ((begin >> 32) + 1) << 32)
            _fill(begin, tile, keys[begin >> 32, 0, 0], keys[begin >> 32, 0, 1], num_items, threshold, never, out)
            for position in range(begin, tile):
                if _is_set(bits, out[position]):
                    out[position] = _redraw(position, keys, bits, indices, start, stop, num_items, threshold)
            begin = tile
        for at in range(start, stop):
            bits[indices[at] >> 6] = np.uint64(0)


@njit(nogil=True, cache=True)
def _fill(begin, end, first, second, num_items, threshold, never, out):  # type: ignore[no-untyped-def]
    size = np.uint64(num_items)
    for position in range(begin, end):
        product = np.uint64(_hash(position, first, second)) * size
        out[position] = np.int32(product >> _SHIFT) if np.uint32(product) >= threshold else np.int32(never)


@njit(nogil=True, cache=True)
def _candidate_rows(first_row, last_row, indptr, indices, num_items, users, seed_key, distinct, out):  # type: ignore[no-untyped-def]
    bits = np.zeros((num_items + 63) >> 6, dtype=np.uint64)
    wanted = out.shape[1]
    for row in range(first_row, last_row):
        user = users[row]
        start, stop = indptr[user], indptr[user + 1]
        free = num_items - (stop - start)
        if distinct and free <= wanted:
            for rank in range(free):
                out[row, rank] = _untouched(indices, start, stop, rank)
            continue
        for at in range(start, stop):
            _set(bits, indices[at])
        counter = np.uint64(user) << _SHIFT
        dense = 2 * (stop - start) > num_items
        size = np.uint64(free if dense else num_items)
        threshold = np.uint32((np.uint64(1) << _SHIFT) % size)
        drawn = 0
        while drawn < wanted:
            product = np.uint64(_hash64(counter, seed_key)) * size
            counter += np.uint64(1)
            if np.uint32(product) < threshold:
                continue
            item = np.int64(product >> _SHIFT)
            if dense:
                item = _untouched(indices, start, stop, item)
            if _is_set(bits, item):
                continue
            if distinct:
                _set(bits, item)
            out[row, drawn] = item
            drawn += 1
        for at in range(start, stop):
            bits[indices[at] >> 6] = np.uint64(0)
        for at in range(wanted):
            bits[out[row, at] >> 6] = np.uint64(0)


@njit(inline="always")
def _hash64(counter, seed_key):  # type: ignore[no-untyped-def]
    x = counter * np.uint64(GOLDEN) + seed_key
    x = (x ^ (x >> np.uint64(30))) * np.uint64(MIX_1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(MIX_2)
    return np.uint32(x >> _SHIFT)
