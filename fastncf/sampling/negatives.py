"""Exact negatives from a sorted CSR, in parallel, the same bits for any number of threads.

What is drawn is fixed by (seed, epoch, row, slot) alone. Slot k of row n has the position p = n * K + k. Attempt a
hashes p to 32 bits and scales them to an item (Lemire 2019, "Fast random integer generation in an interval", whose
rejection step makes it exactly uniform). An item that the user has touched is rejected. After ``ATTEMPTS`` rejections,
and at once for a user who has touched more than three quarters of the catalogue, the draw is the r-th untouched item
for a uniform r, found in the sorted row by binary search. Each way is uniform over the untouched items, and so is the
mixture. With weights the 32 bits of an attempt are looked up in an alias table, and the search is one over masses.
"""

from collections.abc import Iterable

import numpy as np

from fastncf.errors import DataError
from fastncf.kernels.cpu.alias import AliasTable
from fastncf.kernels.cpu.negatives import ATTEMPTS, UNIFORM, is_dense, sample_candidate_rows, sample_rows
from fastncf.rng import LOWBIAS_1, LOWBIAS_2, Stream, key
from fastncf.threads import even_ranges, run_ranges

MAX_ITEMS = 2**31 - 64


def sample_negatives(
    indptr: np.ndarray,
    indices: np.ndarray,
    num_items: int,
    num_negatives: int,
    *,
    seed: int,
    epoch: int,
    out: np.ndarray | None = None,
    weights: AliasTable | None = None,
) -> np.ndarray:
    """Draw negatives for each training interaction from the items its user has not touched in training.

    Args:
        indptr: (U + 1,) int64.
        indices: (N,) int32, ascending and unique in each row.
        num_items: I, length of the catalogue.
        num_negatives: K.
        seed: determines all draws together with ``epoch``.
        epoch: number of the epoch; each has its own draws.
        out: (N, K) int32 C-contiguous, filled and returned; made where it is not given.
        weights: how often each item is drawn; all alike where it is not given.

    Returns:
        (N, K) int32; row n belongs to the n-th training interaction in CSR order.

    Raises:
        DataError: a user with interactions has touched every item, there are more than ``MAX_ITEMS`` items, or ``out``
            has another shape or type.
    """
    shape = (len(indices), num_negatives)
    if out is None:
        out = np.empty(shape, dtype=np.int32)
    elif out.shape != shape or out.dtype != np.int32 or not out.flags.c_contiguous:
        raise DataError(f"out: expected a C-contiguous int32 array of shape {shape}, got {out.dtype} {out.shape}")
    require_unseen_items(indptr, num_items)
    keys = position_keys(seed, Stream.NEGATIVES, epoch, positions=out.size)
    flat = out.reshape(-1)
    run_ranges(
        lambda a, b: sample_rows(a, b, indptr, indices, num_items, num_negatives, keys, *(weights or UNIFORM), flat),
        even_ranges(len(indices)),
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
    weights: AliasTable | None = None,
) -> np.ndarray:
    """What :func:`sample_negatives` draws, one draw at a time in plain Python."""
    out = np.empty((len(indices), num_negatives), dtype=np.int32)
    keys = position_keys(seed, Stream.NEGATIVES, epoch, positions=out.size)
    for user in range(len(indptr) - 1):
        touched = set(indices[indptr[user] : indptr[user + 1]].tolist())
        untouched = [item for item in range(num_items) if item not in touched]
        attempts = 0 if is_dense(len(touched), num_items) else ATTEMPTS
        for row in range(indptr[user], indptr[user + 1]):
            for slot in range(num_negatives):
                position = int(row) * num_negatives + slot
                out[row, slot] = _draw(position, keys, attempts, num_items, touched, untouched, weights)
    return out


def _draw(
    position: int,
    keys: np.ndarray,
    attempts: int,
    num_items: int,
    touched: set[int],
    untouched: list[int],
    weights: AliasTable | None,
) -> int:
    for attempt in range(attempts):
        number = _hash_reference(position, keys, attempt)
        item, exact = _scaled(number, num_items) if weights is None else (weights.item(number), True)
        if exact and item not in touched:
            return item
    parts = [1] * num_items if weights is None else np.diff(weights.cumulative).tolist()
    attempt = ATTEMPTS
    while True:
        rank, exact = _scaled(_hash_reference(position, keys, attempt), sum(parts[item] for item in untouched))
        if exact:
            return _in_whose_part(rank, untouched, parts)
        attempt += 1


def _in_whose_part(rank: int, items: Iterable[int], parts: list[int]) -> int:
    """The item in whose part a number lies, the parts of ``items`` laid end to end."""
    for item in items:
        rank -= parts[item]
        if rank < 0:
            return item
    raise IndexError(rank)


def _scaled(x: int, size: int) -> tuple[int, bool]:
    """32 random bits -> a number below ``size``, and whether keeping it is exactly uniform."""
    product = x * size
    return product >> 32, (product & 0xFFFFFFFF) >= (1 << 32) % size


def _hash_reference(position: int, keys: np.ndarray, attempt: int) -> int:
    mask = 0xFFFFFFFF
    first, second = (int(half) for half in keys[position >> 32, min(attempt, ATTEMPTS)])
    x = (position ^ first) & mask
    x ^= x >> 16
    x = (x * LOWBIAS_1) & mask
    x ^= x >> 15
    x = (x + (second ^ max(attempt - ATTEMPTS, 0))) & mask
    x = (x * LOWBIAS_2) & mask
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
        lambda a, b: sample_candidate_rows(a, b, indptr, indices, num_items, users, np.uint64(seed_key), distinct, out),
        even_ranges(len(users)),
    )
    return out


def require_unseen_items(indptr: np.ndarray, num_items: int) -> None:
    degrees = np.diff(indptr)
    if len(degrees) and degrees.max() >= num_items:
        raise DataError(
            f"user {int(degrees.argmax())} has touched all {num_items} items: there is no negative for it; "
            f"accepted: rows of at most {num_items - 1} items"
        )
    if num_items > MAX_ITEMS:
        raise DataError(f"num_items={num_items}: expected at most {MAX_ITEMS}")


def position_keys(seed: int, stream: Stream, epoch: int, positions: int) -> np.ndarray:
    """Keys of the hash for each 2**32 positions and attempt, rank-select's last: (blocks, ATTEMPTS + 1, 2) uint32."""
    blocks = range((positions >> 32) + 1)
    keys = [[key(seed, stream, epoch, block, attempt) for attempt in range(ATTEMPTS + 1)] for block in blocks]
    return np.array([[(k & 0xFFFFFFFF, k >> 32) for k in block] for block in keys], dtype=np.uint32)
