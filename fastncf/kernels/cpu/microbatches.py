"""Batches of MLP and NeuMF, their microbatches, and the chunks of these, see :mod:`fastncf.kernels.cpu.mlp`."""

import numpy as np

from fastncf.kernels.cpu.compiling import njit
from fastncf.kernels.cpu.lazy_adam import make_step
from fastncf.kernels.cpu.mlp_structures import CHUNKS, BatchStep, Microbatch, PrefetchPlan
from fastncf.kernels.cpu.simd import get, offset

_PREFETCHED_BYTES = 1 << 17


@njit(inline="always")
def interactions_of(number, shared):
    """Return the number of interactions in a batch, 0 behind the last."""
    size = shared.settings.batch_size
    return max(min(size, shared.data.size - number * size), 0)


@njit(inline="always")
def rows_start_of(number, shared):
    """Return where the rows of a batch start in ``BatchRows.rows``."""
    return number % 2 * shared.settings.batch_size * (2 + shared.settings.num_negatives)


@njit(inline="always")
def make_batch(number, steps_before, shared):
    """Return the :class:`BatchStep` of a batch."""
    size = interactions_of(number, shared)
    return BatchStep(
        number,
        number * shared.settings.batch_size,
        size,
        max(size, shared.data.whole_size),
        interactions_of(number + 1, shared),
        rows_start_of(number, shared),
        rows_start_of(number + 1, shared),
        make_step(steps_before + number + 1, shared.schedule),
    )


@njit(inline="always")
def shard_starts_of(number, shared):
    """Return a pointer to where the interactions of each shard of a batch start."""
    return offset(shared.data.shard_starts, number * (shared.settings.num_shards + 1))


@njit(inline="always")
def make_microbatch(number, start, shared):
    """Return the :class:`Microbatch` that starts at an interaction of a batch, counted within it."""
    starts, size, shard = shard_starts_of(number, shared), shared.settings.microbatch_size, np.int64(0)
    while get(starts, shard + 1) <= start:
        shard += 1
    is_first, last = get(starts, shard) == start, shard + 1
    stop = np.int64(get(starts, last))
    if (not is_first) | (stop - start > size):
        return Microbatch(number, start, min(start + size, stop), shard, last, is_first)
    while (last < shared.settings.num_shards) and (get(starts, last + 1) - start <= size):
        last += 1
    return Microbatch(number, start, np.int64(get(starts, last)), shard, last, is_first)


@njit(inline="always")
def chunk_size(number, shard, per_tile, shared):
    """Return how many interactions the chunks of a shard have in a batch, whole tiles, but for the last of each part.

    It is that of the shard's first part, so that no later part has more chunks.
    """
    starts, most = shard_starts_of(number, shared), CHUNKS // shared.settings.num_shards
    size = min(np.int64(get(starts, shard + 1)) - np.int64(get(starts, shard)), shared.settings.microbatch_size)
    return max(((size + most - 1) // most + per_tile - 1) // per_tile * per_tile, per_tile)


@njit(inline="always")
def num_chunks_of(microbatch, per_tile, shared):
    """Return the number of chunks of a microbatch; of more than one shard, each has the most that it may have."""
    if microbatch.last_shard - microbatch.first_shard == 1:
        size = chunk_size(microbatch.batch, microbatch.first_shard, per_tile, shared)
        return (microbatch.stop - microbatch.start + size - 1) // size
    return (microbatch.last_shard - microbatch.first_shard) * (CHUNKS // shared.settings.num_shards)


@njit(inline="always")
def slot_of_chunk(chunk, microbatch, shared):
    """Return the number of a microbatch's chunk among those of a batch: which gradients of layers are its own."""
    return microbatch.first_shard * (CHUNKS // shared.settings.num_shards) + chunk


@njit(inline="always")
def chunk_start(chunk, microbatch, per_tile, shared):
    """Return the first interaction of a chunk of a microbatch, counted within the batch; it ends where the next starts.

    Args:
        chunk: counted within the microbatch, up to the number of its chunks.
    """
    per_shard = CHUNKS // shared.settings.num_shards
    shard = microbatch.first_shard + chunk // per_shard
    if shard >= microbatch.last_shard:
        return microbatch.stop
    starts = shard_starts_of(microbatch.batch, shared)
    first = max(np.int64(get(starts, shard)), microbatch.start)
    last = min(np.int64(get(starts, shard + 1)), microbatch.stop)
    return min(first + chunk % per_shard * chunk_size(microbatch.batch, shard, per_tile, shared), last)


@njit(inline="always")
def plan_prefetch(thread, microbatch, batch, per_tile, shared):
    """Return the :class:`PrefetchPlan` of a thread for a microbatch; its ``stop`` is still 0."""
    tile_bytes = 4 * shared.table.stride * (1 + shared.settings.num_negatives) * per_tile
    distance = max(1, min(4, _PREFETCHED_BYTES // tile_bytes)) * per_tile
    number, start, next_size, next_rows_start = batch.number, microbatch.stop, batch.size, batch.rows_start
    if start == batch.size:
        number, start, next_size, next_rows_start = number + 1, np.int64(0), batch.next_size, batch.next_rows_start
    if next_size:
        behind = make_microbatch(number, start, shared)
        chunk = num_chunks_of(behind, per_tile, shared) * thread // shared.num_threads
        start = chunk_start(chunk, behind, per_tile, shared)
    return PrefetchPlan(distance, np.int64(0), start, next_size, batch.rows_start, next_rows_start)
