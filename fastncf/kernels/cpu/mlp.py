"""Training of MLP and NeuMF by Adam, batch by batch, on threads that are started once for many batches.

Forward and backward passes are those of He et al. 2017 ("Neural collaborative filtering", eq. 10 and 12), Adam is that
of Kingma and Ba 2015; ``tests/reference.py`` has the same step in NumPy. fastncf/kernels/README.md has a drawing of it.

A batch is cut into microbatches, a microbatch into at most ``CHUNKS`` chunks, a chunk into tiles of some dozens of
samples. Where several processes may share out the users, a batch is sorted by shards of users, see
:mod:`fastncf.kernels.cpu.shards`: a shard has chunks of its own, and a microbatch has whole shards or a part of one. A
tile goes forward and backward in memory that stays in a core's cache: only the rows of embedding tables come from main
memory, and are prefetched. A thread has a share of the chunks, so that it knows which rows it needs next; when its
share is done, it takes chunks from the shares of other threads.

The bits do not depend on the number of threads. A chunk sums the gradients of the layers by itself, in the order of its
tiles; one thread for each part of the parameters adds the sums of a shard's chunks in their order. A row that a batch
uses once takes its step with its tile. The gradients of a row that is used more often are kept, and added in the order
of the samples of a shard by the one thread that owns the row. The sums of shards are added in pairs.

The steps of a tile, from forward to backward, are inlined into :func:`train_tile`: otherwise each of them, with the
products of matrices in it, is compiled by itself and again within every function around it, which takes a second more.

The structures below hold arrays for the caller. Within the kernels the same structures hold pointers, see
:func:`fastncf.kernels.cpu.rows.pointers`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastncf.kernels.cpu.barrier import fetch_add, wait
from fastncf.kernels.cpu.compiling import njit
from fastncf.kernels.cpu.gemm import (
    COLUMN_MULTIPLE,
    NONE,
    RELU,
    RELU_BACKWARD,
    ROW_MULTIPLE,
    Matrix,
    Transposed,
    gemm,
)
from fastncf.kernels.cpu.hashing import mix64
from fastncf.kernels.cpu.lazy_adam import (
    AdamSchedule,
    AdamStep,
    LazyTable,
    assign_slot,
    has_slot,
    make_step,
    prefetch_slot,
    read_row,
    slot_of,
    write_row,
)
from fastncf.kernels.cpu.losses import LossBuffers, batch_loss_gradients
from fastncf.kernels.cpu.rows import (
    BETA_1,
    BETA_2,
    AdamCoefficients,
    WeightedDot,
    adam_step,
    add_rows,
    axpy,
    copy_row,
    dot,
    dropout,
    output_backward,
    pointers,
    weighted_dot,
    weighted_dot_backward,
)
from fastncf.kernels.cpu.shards import PairSums, add_pairs, add_to_sum, begin_sum, depth_of, end_sum, sum_of
from fastncf.kernels.cpu.simd import LANES, aligned_zeros, get, offset, pointer, prefetch, prefetch_to_read, put

CHUNKS = 32
"""Chunks of a microbatch at most, each with gradients of the layers of its own; a multiple of the number of shards."""

_LINE = 16  # 4-byte numbers in a cache line, the unit that two threads should not both write to
_TILE_SAMPLES = 40
_PREFETCHED_BYTES = 1 << 17
_IDS_AHEAD, _USES_AHEAD, _ROWS_AHEAD, _SLOTS_AHEAD, _SUMS_AHEAD, _OWNED_AHEAD = 16, 16, 6, 16, 4, 4
_FOUND = 1_024
_ONE, _ZERO = np.float32(1), np.float32(0)
_NO_STRIDE = np.int64(0)  # a literal would have gemm compiled anew


class Settings(NamedTuple):
    """Settings of a training run.

    Attributes:
        num_users: U; rows of users come first in the table.
        num_negatives: K.
        batch_size: B, interactions in a batch.
        microbatch_size: interactions whose gradients of rows are kept at a time, a multiple of :func:`tile_size`.
        num_shards: shards that batches are sorted by; 1 where they keep their order.
        loss: code of the loss, see :mod:`fastncf.kernels.cpu.losses`.
        num_terms: terms of the loss of an interaction.
        l2: weight of the mean squared norms of the embedding vectors in a batch.
        dropout: probability that an activation is set to 0.
        dropout_key: key of the draws of dropout, hashed together with step, position and layer.
    """

    num_users: int
    num_negatives: int
    batch_size: int
    microbatch_size: int
    num_shards: int
    loss: int
    num_terms: int
    l2: float
    dropout: float
    dropout_key: np.uint64


class Network(NamedTuple):
    """Widths of a model and offsets of its parameters; all widths are multiples of 8, padded by zeros.

    A row of the table has the vector of GMF first, then the vector of MLP. The matrix of a layer is (inputs, outputs)
    in row-major order, that of the first layer has the inputs from the user first.

    Attributes:
        product_width: width of the vectors that are multiplied with each other; 0 without GMF.
        input_width: width of each of the two vectors that enter the first layer.
        num_layers: L, hidden layers.
        num_parameters: n, numbers in ``LayerParameters``, padding included.
        output_offset: where the weights of the output start: those of the product, those of the last layer, the bias.
        widths: (L,) int64, outputs of each layer.
        weight_offsets: (L,) int64, where the matrix of each layer starts.
        bias_offsets: (L,) int64, where the bias of each layer starts; all lie behind all matrices.
        activation_offsets: (L,) int64, sum of the widths of the layers before.
    """

    product_width: int
    input_width: int
    num_layers: int
    num_parameters: int
    output_offset: int
    widths: NDArray[np.int64]
    weight_offsets: NDArray[np.int64]
    bias_offsets: NDArray[np.int64]
    activation_offsets: NDArray[np.int64]


class LayerParameters(NamedTuple):
    """Parameters of the layers and of the output, side by side.

    Attributes:
        values: (3 * n,) float32: values, means and mean squares of gradients.
        transposed: (n,) float32, the values with matrices (outputs, inputs).
        transpose_index: (n,) int32, where each value is in ``transposed``.
        gradients: (CHUNKS * n,) float32, gradients that each chunk has summed; after a batch, their sum comes first.
    """

    values: NDArray[np.float32]
    transposed: NDArray[np.float32]
    transpose_index: NDArray[np.int32]
    gradients: NDArray[np.float32]


class EpochData(NamedTuple):
    """Interactions of an epoch.

    Attributes:
        size: N.
        order: (N,) int32 or int64, positions of the interactions in the order of training.
        user: (N,) int32.
        positive: (N,) int32.
        negatives: (N * K,) int32.
        interaction_weights: (N,) float32, what the loss of each interaction is multiplied by; empty if all are 1.
        has_weights: whether they are not empty.
        shard_starts: (batches * (shards + 1),) int32, where the interactions of each shard start in a batch, and its
            size.
        whole_size: interactions of a batch of which this process has a part; 0 where it has all.
        place: where the part starts in the batch.
    """

    size: int
    order: NDArray[np.int32] | NDArray[np.int64]
    user: NDArray[np.int32]
    positive: NDArray[np.int32]
    negatives: NDArray[np.int32]
    interaction_weights: NDArray[np.float32]
    has_weights: bool
    shard_starts: NDArray[np.int32]
    whole_size: int
    place: int


class BatchRows(NamedTuple):
    """Rows of the table that a batch uses: for each interaction those of the user, the positive and the negatives.

    Attributes:
        rows: (2 * B * (2 + K),) int32, of the current and of the next batch, which take turns with the halves; or (N *
            (2 + K),) where an epoch is one batch. -1 once a row has taken its step.
        last_use: (R,) int32, twice the step of the last batch that uses a row, plus 1 if it uses it more than once.
        gradients: (M * (2 + K) * V,) float32 for the M interactions of a microbatch and vectors of V numbers: gradients
            of the rows that are used more than once.
    """

    rows: NDArray[np.int32]
    last_use: NDArray[np.int32]
    gradients: NDArray[np.float32]


class SharedState(NamedTuple):
    """Everything that the threads share.

    Attributes:
        num_threads: number of threads.
        counters: (:func:`num_counters`,) int64, zeros before the first call: arrivals at the barrier, and of each
            thread's share of a microbatch the chunks that were taken.
        losses: (CHUNKS,) float64, sums of losses, added to.
        settings, network, layers, data, table, batch_rows, schedule: see their classes.
    """

    num_threads: int
    counters: NDArray[np.int64]
    losses: NDArray[np.float64]
    settings: Settings
    network: Network
    layers: LayerParameters
    data: EpochData
    table: LazyTable
    batch_rows: BatchRows
    schedule: AdamSchedule


class Workspace(NamedTuple):
    """Memory of one thread. G are the interactions of a tile, S = G * (1 + K) its samples, V the width of a vector.

    Attributes:
        users: (G, V) float32, vectors of a tile's users.
        items: (S, V) float32, vectors of its items.
        user_half: (G, H) float32 for the widest layer H: the users' part of the first layer, then its gradient.
        activations: (S, H) float32 for one layer after the other: its outputs, then the gradients
            with respect to the inputs of ReLU.
        gradients: (G + S, V) float32, gradients of users and items.
        zeros: float32, as many as the widest row has.
        loss: scores (S,), multiplicity and sums of losses, see :class:`~fastncf.kernels.cpu.losses.LossBuffers`.
        owned_rows: (O,) int64, rows of the thread that the batch uses more than once.
        owned_gradients: sums of their gradients.
        found: (_FOUND,) int32, positions of rows of the thread in ``BatchRows.rows``.
    """

    users: NDArray[np.float32]
    items: NDArray[np.float32]
    user_half: NDArray[np.float32]
    activations: NDArray[np.float32]
    gradients: NDArray[np.float32]
    zeros: NDArray[np.float32]
    loss: LossBuffers
    owned_rows: NDArray[np.int64]
    owned_gradients: PairSums
    found: NDArray[np.int32]


class BatchStep(NamedTuple):
    """A batch and its step.

    Attributes:
        number: of the batch in the epoch.
        start: its first interaction, counted in the order of training.
        size: interactions.
        whole_size: those of all processes.
        next_size: interactions of the batch behind it.
        rows_start: where its rows start in ``BatchRows.rows``.
        next_rows_start: likewise of the batch behind it.
        step: :class:`~fastncf.kernels.cpu.lazy_adam.AdamStep`.
    """

    number: int
    start: int
    size: int
    whole_size: int
    next_size: int
    rows_start: int
    next_rows_start: int
    step: AdamStep


class Microbatch(NamedTuple):
    """Interactions whose gradients of rows are kept at a time: those of whole shards, or a part of one shard.

    Attributes:
        batch: number of the batch in the epoch.
        start, stop: its interactions, counted within the batch.
        first_shard, last_shard: range of its shards.
        is_first: whether it has the first interactions of its shards.
    """

    batch: int
    start: int
    stop: int
    first_shard: int
    last_shard: int
    is_first: bool


class PrefetchPlan(NamedTuple):
    """Interactions that a thread trains later, counted within their batch.

    Attributes:
        distance: interactions between the prefetch of rows and their use.
        stop: end of the share of the current microbatch.
        next_start: start of the thread's share of the next microbatch.
        next_size: interactions of the batch that the next microbatch is part of.
        rows_start: where the rows of the current batch start in ``BatchRows.rows``.
        next_rows_start: where the rows of the batch of the next microbatch start.
    """

    distance: int
    stop: int
    next_start: int
    next_size: int
    rows_start: int
    next_rows_start: int


class Tile(NamedTuple):
    """Interactions that go forward and backward together.

    Attributes:
        chunk: number of the chunk.
        start: first interaction, counted within the batch.
        kept_start: the same, counted within the microbatch.
        size: number of interactions.
        is_first: whether the tile is the first one of its chunk in the batch, whose gradients of matrices are written
            where those of later tiles are added.
    """

    chunk: int
    start: int
    kept_start: int
    size: int
    is_first: bool


def num_counters(num_threads: int) -> int:
    """Return the number of counters of a training: one for the barrier and one a thread, each on a cache line."""
    return _LINE * (1 + num_threads)


@njit(nogil=True, cache=True)
def tile_size(num_negatives):
    """Return the number of interactions in a tile, a multiple of ``ROW_MULTIPLE``."""
    return ROW_MULTIPLE * max(1, round(_TILE_SAMPLES / (ROW_MULTIPLE * (1 + num_negatives))))


def make_workspace(num_negatives: int, network: Network, num_owned: int, num_shards: int) -> Workspace:
    """Return the memory of a thread that may own ``num_owned`` rows of a batch of some shards."""
    vector, widest = network.product_width + network.input_width, int(network.widths.max())
    groups = int(tile_size(num_negatives))
    samples = groups * (1 + num_negatives)
    padded = -(-samples // LANES) * LANES
    depth = depth_of(num_shards)
    sums = num_owned * depth * vector
    return Workspace(
        users=aligned_zeros(groups * vector),
        items=aligned_zeros(samples * vector),
        user_half=aligned_zeros(groups * widest),
        activations=aligned_zeros(samples * int(network.widths.sum())),
        gradients=aligned_zeros((groups + samples) * vector),
        zeros=aligned_zeros(max(widest, vector)),
        loss=LossBuffers(
            aligned_zeros(padded), aligned_zeros(padded), aligned_zeros(2 * LANES).view(np.float64), padded
        ),
        owned_rows=np.zeros(num_owned, dtype=np.int64),
        owned_gradients=PairSums(depth, vector, np.zeros(num_owned, dtype=np.int32), aligned_zeros(sums)),
        found=np.zeros(_FOUND, dtype=np.int32),
    )


@njit(inline="always")
def owner_of(row, num_threads):
    """Return the thread that adds up the gradients of a row: the same one for all rows whose uses share a line."""
    mixed = (np.uint64(row) // np.uint64(_LINE) * np.uint64(0x9E3779B1)) & np.uint64(0xFFFFFFFF)
    return np.int64((mixed * np.uint64(num_threads)) >> np.uint64(32))


@njit(nogil=True, cache=True)
def row_owners(num_rows, num_threads):
    """Return the threads (R,) int64 that own the rows of a table."""
    return np.array([owner_of(row, num_threads) for row in range(num_rows)])


@njit(nogil=True, cache=True, error_model="numpy")
def train_batches(thread, first_batch, last_batch, steps_before, shared, workspace):
    """Train a range of batches of an epoch; all threads are called with the same arguments, except for their own.

    Args:
        thread: number of the thread.
        first_batch, last_batch: range of batches.
        steps_before: number of steps before batch 0.
        shared: :class:`SharedState` of arrays.
        workspace: :class:`Workspace` of arrays, the thread's own.
    """
    shared, workspace = pointers(shared), pointers(workspace)
    counters, num_threads = shared.counters, shared.num_threads
    list_rows(thread, first_batch, shared)
    wait(counters, num_threads)
    count_uses(thread, first_batch, steps_before + first_batch + 1, shared, workspace)
    wait(counters, num_threads)
    for number in range(first_batch, last_batch):
        batch = _make_batch(number, steps_before, shared)
        if number + 1 < last_batch:
            list_rows(thread, number + 1, shared)
        start, num_owned = np.int64(0), np.int64(0)
        while start < batch.size:
            microbatch = _make_microbatch(number, start, shared)
            train_microbatch(thread, microbatch, batch, shared, workspace)
            wait(counters, num_threads)
            put(counters, _claims(thread), np.int64(0))
            num_owned = sum_row_gradients(thread, microbatch, batch, num_owned, shared, workspace)
            start = microbatch.stop
            if start == batch.size:
                update_owned_rows(num_owned, batch.step, shared, workspace)
                update_layers(thread, batch, shared)
                if number + 1 < last_batch:
                    count_uses(thread, number + 1, batch.step.number + 1, shared, workspace)
            wait(counters, num_threads)


@njit(inline="always")
def _batch_size(number, shared):
    """Return the number of interactions in a batch, 0 behind the last."""
    size = shared.settings.batch_size
    return max(min(size, shared.data.size - number * size), 0)


@njit(inline="always")
def _rows_start(number, shared):
    """Return where the rows of a batch start in ``BatchRows.rows``."""
    return number % 2 * shared.settings.batch_size * (2 + shared.settings.num_negatives)


@njit(inline="always")
def _make_batch(number, steps_before, shared):
    """Return the :class:`BatchStep` of a batch."""
    size = _batch_size(number, shared)
    return BatchStep(
        number,
        number * shared.settings.batch_size,
        size,
        max(size, shared.data.whole_size),
        _batch_size(number + 1, shared),
        _rows_start(number, shared),
        _rows_start(number + 1, shared),
        make_step(steps_before + number + 1, shared.schedule),
    )


@njit(inline="always")
def _claims(thread):
    """Return which counter has the chunks that were taken of a thread's share."""
    return _LINE * (1 + thread)


# Before a batch: its rows, and which of them it uses more than once.


@njit(nogil=True, cache=True, error_model="numpy")
def list_rows(thread, number, shared):
    """Write the rows that a thread's share of a batch uses to ``BatchRows.rows``."""
    data, num_negatives, num_users = shared.data, shared.settings.num_negatives, shared.settings.num_users
    rows, size = shared.batch_rows.rows, _batch_size(number, shared)
    before = number * shared.settings.batch_size
    first, last = size * thread // shared.num_threads, size * (thread + 1) // shared.num_threads
    to = _rows_start(number, shared) + first * (2 + num_negatives)
    for at in range(before + first, before + last):
        if at + _IDS_AHEAD < data.size:
            later = np.int64(get(data.order, at + _IDS_AHEAD))
            prefetch_to_read(data.user, later, _LINE)
            prefetch_to_read(data.positive, later, _LINE)
            prefetch_to_read(data.negatives, later * num_negatives, (num_negatives + _LINE - 1) // _LINE * _LINE)
        interaction = np.int64(get(data.order, at))
        put(rows, to, get(data.user, interaction))
        put(rows, to + 1, np.int32(get(data.positive, interaction) + num_users))
        for k in range(num_negatives):
            item = get(data.negatives, interaction * num_negatives + k)
            put(rows, to + 2 + k, np.int32(item + num_users))
        to += 2 + num_negatives


@njit(inline="always")
def _find_owned(thread, first, last, shared, found):
    """Write the positions of a thread's rows that have not taken their step to ``found``; return their number."""
    count = 0
    for at in range(first, last):
        row = get(shared.batch_rows.rows, at)
        put(found, count, np.int32(at))
        is_owned = (row >= 0) & (owner_of(row, shared.num_threads) == thread)
        count += is_owned  # a branch would be mispredicted half of the time
    return count


@njit(nogil=True, cache=True, error_model="numpy")
def count_uses(thread, number, step, shared, workspace):
    """Note in ``last_use`` which of a thread's rows a batch uses, and which of them more than once."""
    rows, last_use, found = shared.batch_rows.rows, shared.batch_rows.last_use, workspace.found
    start = _rows_start(number, shared)
    stop = start + _batch_size(number, shared) * (2 + shared.settings.num_negatives)
    for first in range(start, stop, _FOUND):
        count = _find_owned(thread, first, min(first + _FOUND, stop), shared, found)
        for which in range(count):
            if which + _USES_AHEAD < count:
                prefetch(last_use, np.int64(get(rows, np.int64(get(found, which + _USES_AHEAD)))), _LINE)
            row = np.int64(get(rows, np.int64(get(found, which))))
            put(last_use, row, np.int32(2 * step + (get(last_use, row) >= 2 * step)))


# A microbatch: tiles go forward and backward.


@njit(inline="always")
def _shard_starts(number, shared):
    """Return a pointer to where the interactions of each shard of a batch start."""
    return offset(shared.data.shard_starts, number * (shared.settings.num_shards + 1))


@njit(inline="always")
def _make_microbatch(number, start, shared):
    """Return the :class:`Microbatch` that starts at an interaction of a batch, counted within it."""
    starts, size, shard = _shard_starts(number, shared), shared.settings.microbatch_size, np.int64(0)
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
def _cut(size, per_tile, shared):
    """Return how many interactions each chunk of a shard has, whole tiles, and the number of its chunks."""
    most = CHUNKS // shared.settings.num_shards
    per_chunk = ((size + most - 1) // most + per_tile - 1) // per_tile * per_tile
    return max(per_chunk, 1), (size + per_chunk - 1) // max(per_chunk, 1)


@njit(inline="always")
def _num_chunks(microbatch, per_tile, shared):
    """Return the number of chunks of a microbatch; of more than one shard, each has the most that it may have."""
    if microbatch.last_shard - microbatch.first_shard == 1:
        return _cut(microbatch.stop - microbatch.start, per_tile, shared)[1]
    return (microbatch.last_shard - microbatch.first_shard) * (CHUNKS // shared.settings.num_shards)


@njit(inline="always")
def _slot_of_chunk(chunk, microbatch, shared):
    """Return the number of a microbatch's chunk among those of a batch: which gradients of layers are its own."""
    return microbatch.first_shard * (CHUNKS // shared.settings.num_shards) + chunk


@njit(inline="always")
def _chunk_start(chunk, microbatch, per_tile, shared):
    """Return the first interaction of a chunk of a microbatch, counted within the batch; it ends where the next starts.

    Args:
        chunk: counted within the microbatch, up to the number of its chunks.
    """
    per_shard = CHUNKS // shared.settings.num_shards
    shard = microbatch.first_shard + chunk // per_shard
    if shard >= microbatch.last_shard:
        return microbatch.stop
    starts = _shard_starts(microbatch.batch, shared)
    first = max(np.int64(get(starts, shard)), microbatch.start)
    last = min(np.int64(get(starts, shard + 1)), microbatch.stop)
    per_chunk, _ = _cut(last - first, per_tile, shared)
    return min(first + chunk % per_shard * per_chunk, last)


@njit(inline="always")
def _plan_prefetch(thread, microbatch, batch, per_tile, shared):
    """Return the :class:`PrefetchPlan` of a thread for a microbatch; its ``stop`` is still 0."""
    tile_bytes = 4 * shared.table.stride * (1 + shared.settings.num_negatives) * per_tile
    distance = max(1, min(4, _PREFETCHED_BYTES // tile_bytes)) * per_tile
    number, start, next_size, next_rows_start = batch.number, microbatch.stop, batch.size, batch.rows_start
    if start == batch.size:
        number, start, next_size, next_rows_start = number + 1, np.int64(0), batch.next_size, batch.next_rows_start
    if next_size:
        behind = _make_microbatch(number, start, shared)
        chunk = _num_chunks(behind, per_tile, shared) * thread // shared.num_threads
        start = _chunk_start(chunk, behind, per_tile, shared)
    return PrefetchPlan(distance, np.int64(0), start, next_size, batch.rows_start, next_rows_start)


@njit(inline="always")
def train_microbatch(thread, microbatch, batch, shared, workspace):
    """Train the chunks of a thread's share of a microbatch, then chunks that others have not begun."""
    num_threads, per_tile = shared.num_threads, tile_size(shared.settings.num_negatives)
    num_chunks = _num_chunks(microbatch, per_tile, shared)
    plan = _plan_prefetch(thread, microbatch, batch, per_tile, shared)
    for turn in range(num_threads):
        other = (thread + turn) % num_threads
        first_chunk, last_chunk = num_chunks * other // num_threads, num_chunks * (other + 1) // num_threads
        stop = _chunk_start(last_chunk, microbatch, per_tile, shared)
        plan = PrefetchPlan(plan.distance, stop, plan.next_start, plan.next_size, plan.rows_start, plan.next_rows_start)
        while True:
            chunk = first_chunk + fetch_add(offset(shared.counters, _claims(other)))
            if chunk >= last_chunk:
                break
            first = _chunk_start(chunk, microbatch, per_tile, shared)
            last = _chunk_start(chunk + 1, microbatch, per_tile, shared)
            slot = _slot_of_chunk(chunk, microbatch, shared)
            if microbatch.is_first:
                _clear_gradients(slot, shared)
            for start in range(first, last, per_tile):
                is_first = microbatch.is_first & (start == first)
                count = min(per_tile, last - start)
                tile = Tile(slot, start, start - microbatch.start, count, is_first)
                train_tile(tile, batch, plan, shared, workspace)


@njit(inline="always")
def _clear_gradients(chunk, shared):
    """Set the gradients that all tiles of a chunk add to, those behind the matrices, to 0."""
    network = shared.network
    for at in range(get(network.bias_offsets, 0), network.num_parameters):
        put(shared.layers.gradients, chunk * network.num_parameters + at, _ZERO)


@njit(inline="always")
def _round_up(size):
    """Return the number of interactions of a tile with those that fill it up to a multiple of ``ROW_MULTIPLE``."""
    return (size + ROW_MULTIPLE - 1) // ROW_MULTIPLE * ROW_MULTIPLE


@njit(nogil=True, cache=True, error_model="numpy")
def train_tile(tile, batch, plan, shared, workspace):
    """Forward and backward over a tile; the rows that the batch uses once take their step."""
    settings = shared.settings
    read_rows(tile, batch, plan, shared, workspace)
    hidden_forward(tile, batch.step.number, shared, workspace)
    output_forward(tile, shared, workspace)
    scale = np.float32(1 / (batch.whole_size * settings.num_terms))
    read_weights(tile, batch, shared, workspace)
    loss = batch_loss_gradients(workspace.loss, tile.size, 1 + settings.num_negatives, scale, settings.loss)
    put(shared.losses, tile.chunk, get(shared.losses, tile.chunk) + loss)
    output_and_hidden_backward(tile, shared, workspace)
    first_layer_backward(tile, shared, workspace)
    vectors_backward(tile, batch.whole_size, shared, workspace)
    write_rows(tile, batch, shared, workspace)


@njit(inline="always")
def _prefetch_rows(interaction, plan, shared):
    """Prefetch the rows of the interaction that comes ``plan.distance`` behind another."""
    per, table = 2 + shared.settings.num_negatives, shared.table
    later, start, limit = interaction + plan.distance, plan.rows_start, plan.stop
    if later >= plan.stop:
        later, start, limit = plan.next_start + later - plan.stop, plan.next_rows_start, plan.next_size
    if later < limit:
        for at in range(start + later * per, start + (later + 1) * per):
            prefetch_to_read(table.rows, np.int64(get(shared.batch_rows.rows, at)) * table.stride, table.stride)


@njit(nogil=True, cache=True, error_model="numpy")
def read_rows(tile, batch, plan, shared, workspace):
    """Read the vectors of a tile, as they are after the step before; set those that fill it up to 0."""
    table, rows, step = shared.table, shared.batch_rows.rows, batch.step
    per, width = 2 + shared.settings.num_negatives, table.width
    start, stop = batch.rows_start + tile.start * per, batch.rows_start + (tile.start + tile.size) * per
    for group in range(tile.size):
        _prefetch_rows(tile.start + group, plan, shared)
        for k in range(per):
            at = start + group * per + k
            if at + _ROWS_AHEAD < stop:  # prefetched long ago, but it may have left the cache by now
                later = np.int64(get(rows, at + _ROWS_AHEAD))
                prefetch_to_read(table.rows, later * table.stride, table.stride)
            row = np.int64(get(rows, at))
            prefetch_to_read(shared.batch_rows.last_use, row, _LINE)  # for write_rows
            item = offset(workspace.items, (group * (per - 1) + k - 1) * width)
            to = item if k else offset(workspace.users, group * width)
            read_row(to, table, row, step.number - 1, step.remaining_before, shared.schedule)
    for group in range(tile.size, _round_up(tile.size)):
        copy_row(offset(workspace.users, group * width), workspace.zeros, width)
        for sample in range(group * (per - 1), (group + 1) * (per - 1)):
            copy_row(offset(workspace.items, sample * width), workspace.zeros, width)


@njit(inline="always")
def _num_samples(tile, shared):
    """Return the number of samples of a tile with those that fill it up."""
    return _round_up(tile.size) * (1 + shared.settings.num_negatives)


@njit(inline="always")
def _activations(layer, num_samples, shared, workspace):
    """Return the activations of a layer as a :class:`~fastncf.kernels.cpu.gemm.Matrix`."""
    network = shared.network
    start = num_samples * get(network.activation_offsets, layer)
    return Matrix(offset(workspace.activations, start), get(network.widths, layer))


@njit(inline="always")
def _user_inputs(shared, workspace):
    """Return the vectors of a tile's users that enter the first layer."""
    return Matrix(offset(workspace.users, shared.network.product_width), shared.table.width)


@njit(inline="always")
def _item_inputs(shared, workspace):
    """Return the vectors of a tile's items that enter the first layer."""
    return Matrix(offset(workspace.items, shared.network.product_width), shared.table.width)


@njit(inline="always")
def hidden_forward(tile, step, shared, workspace):
    """Compute the activations of all layers; the users' part of the first is computed once for their 1 + K samples."""
    network, values, probability = shared.network, shared.layers.values, shared.settings.dropout
    groups, samples, per = _round_up(tile.size), _num_samples(tile, shared), 1 + shared.settings.num_negatives
    x = _activations(0, samples, shared, workspace)
    width, inputs = x.stride, network.input_width
    user_weights = offset(values, get(network.weight_offsets, 0))
    item_weights = Matrix(offset(user_weights, inputs * width), width)
    bias, half = Matrix(offset(values, get(network.bias_offsets, 0)), _NO_STRIDE), Matrix(workspace.user_half, width)
    users, items = _user_inputs(shared, workspace), _item_inputs(shared, workspace)
    gemm((groups, width, inputs), users, Matrix(user_weights, width), bias, half, NONE, _ONE)
    for group in range(groups):
        for sample in range(group * per, (group + 1) * per):
            copy_row(offset(x.data, sample * width), offset(half.data, group * width), width)
    gemm((samples, width, inputs), items, item_weights, x, x, RELU, _ONE)
    key = mix64(mix64(shared.settings.dropout_key + np.uint64(step)) + np.uint64(shared.data.place + tile.start))
    if probability:
        dropout(x.data, samples * width, probability, key)
    for layer in range(1, network.num_layers):
        y = _activations(layer, samples, shared, workspace)
        weights = Matrix(offset(values, get(network.weight_offsets, layer)), y.stride)
        bias = Matrix(offset(values, get(network.bias_offsets, layer)), _NO_STRIDE)
        gemm((samples, y.stride, x.stride), x, weights, bias, y, RELU, _ONE)
        if probability:
            dropout(y.data, samples * y.stride, probability, mix64(key + np.uint64(layer)))
        x = y


@njit(inline="always")
def _output_weights(data, shared):
    """Return pointers to the output's weights of the GMF product, those of the last layer, and its bias."""
    network = shared.network
    product_weights = offset(data, network.output_offset)
    last_weights = offset(product_weights, network.product_width)
    return product_weights, last_weights, offset(last_weights, get(network.widths, network.num_layers - 1))


@njit(inline="always")
def output_forward(tile, shared, workspace):
    """Compute the scores of a tile."""
    per, width, product_width = 1 + shared.settings.num_negatives, shared.table.width, shared.network.product_width
    top = _activations(shared.network.num_layers - 1, _num_samples(tile, shared), shared, workspace)
    product_weights, last_weights, bias = _output_weights(shared.layers.values, shared)
    for group in range(tile.size):
        for sample in range(group * per, (group + 1) * per):
            score = get(bias, 0) + dot(offset(top.data, sample * top.stride), last_weights, top.stride)
            if product_width:
                user, item = offset(workspace.users, group * width), offset(workspace.items, sample * width)
                score += weighted_dot(user, item, product_weights, product_width)
            put(workspace.loss.scores, sample, score)


@njit(inline="always")
def read_weights(tile, batch, shared, workspace):
    """Write the weight of its interaction as the multiplicity of each sample of a tile."""
    per, data = 1 + shared.settings.num_negatives, shared.data
    for group in range(tile.size):
        weight = _ONE
        if data.has_weights:
            interaction = np.int64(get(data.order, batch.start + tile.start + group))
            weight = get(data.interaction_weights, interaction)
        for sample in range(group * per, (group + 1) * per):
            put(workspace.loss.multiplicity, sample, weight)


@njit(inline="always")
def _gradients(tile, shared):
    """Return where the gradients of a tile's chunk start."""
    return offset(shared.layers.gradients, tile.chunk * shared.network.num_parameters)


@njit(inline="always")
def _add_weight_gradient(shape, x, grad_y, grad_weights, tile, workspace):
    """Add x.T @ grad_y to the gradient of a layer's matrix, which nothing was written to before the first tile."""
    start = Matrix(workspace.zeros, _NO_STRIDE) if tile.is_first else grad_weights
    gemm(shape, x, grad_y, start, grad_weights, NONE, _ONE)


@njit(inline="always")
def output_and_hidden_backward(tile, shared, workspace):
    """Compute the gradients of the output and of all layers but the first, and of the inputs of each layer's ReLU."""
    network, transposed = shared.network, shared.layers.transposed
    samples, gradients = _num_samples(tile, shared), _gradients(tile, shared)
    scale, zeros = np.float32(1 / (1 - shared.settings.dropout)), Matrix(workspace.zeros, _NO_STRIDE)
    grad_y = _activations(network.num_layers - 1, samples, shared, workspace)
    _, last_weights, _ = _output_weights(shared.layers.values, shared)
    _, grad_last_weights, grad_bias = _output_weights(gradients, shared)
    output_backward(grad_y.data, last_weights, workspace.loss.scores, samples, grad_y.stride, scale, grad_last_weights)
    total = get(grad_bias, 0)
    for sample in range(tile.size * (1 + shared.settings.num_negatives)):
        total += get(workspace.loss.scores, sample)
    put(grad_bias, 0, total)
    for layer in range(network.num_layers - 1, 0, -1):
        x, matrix = _activations(layer - 1, samples, shared, workspace), get(network.weight_offsets, layer)
        add_rows(
            offset(gradients, get(network.bias_offsets, layer)), grad_y.data, grad_y.stride, samples, grad_y.stride
        )
        grad_weights, shape = Matrix(offset(gradients, matrix), grad_y.stride), (x.stride, grad_y.stride, samples)
        _add_weight_gradient(shape, Transposed(x.data, x.stride), grad_y, grad_weights, tile, workspace)
        weights = Matrix(offset(transposed, matrix), x.stride)
        gemm((samples, x.stride, grad_y.stride), grad_y, weights, zeros, x, RELU_BACKWARD, scale)
        grad_y = x  # its activations were replaced by the gradient


@njit(inline="always")
def first_layer_backward(tile, shared, workspace):
    """Compute the gradients of the first layer, and those of the vectors that enter it."""
    network, transposed, width = shared.network, shared.layers.transposed, shared.table.width
    groups, samples, per = _round_up(tile.size), _num_samples(tile, shared), 1 + shared.settings.num_negatives
    gradients, zeros = _gradients(tile, shared), Matrix(workspace.zeros, _NO_STRIDE)
    grad_y = _activations(0, samples, shared, workspace)
    outputs, inputs, user_matrix = grad_y.stride, network.input_width, get(network.weight_offsets, 0)
    grad_half = Matrix(workspace.user_half, outputs)
    for group in range(groups):
        half = offset(grad_half.data, group * outputs)
        copy_row(half, workspace.zeros, outputs)
        add_rows(half, offset(grad_y.data, group * per * outputs), outputs, per, outputs)
    add_rows(offset(gradients, get(network.bias_offsets, 0)), grad_half.data, outputs, groups, outputs)
    item_matrix = user_matrix + inputs * outputs
    users, items = _user_inputs(shared, workspace), _item_inputs(shared, workspace)
    grad_weights = Matrix(offset(gradients, user_matrix), outputs)
    x = Transposed(users.data, width)
    _add_weight_gradient((inputs, outputs, groups), x, grad_half, grad_weights, tile, workspace)
    grad_weights = Matrix(offset(gradients, item_matrix), outputs)
    x = Transposed(items.data, width)
    _add_weight_gradient((inputs, outputs, samples), x, grad_y, grad_weights, tile, workspace)
    grad_users = Matrix(offset(workspace.gradients, network.product_width), width)
    grad_items = Matrix(offset(grad_users.data, groups * width), width)
    weights = Matrix(offset(transposed, user_matrix), inputs)
    gemm((groups, inputs, outputs), grad_half, weights, zeros, grad_users, NONE, _ONE)
    weights = Matrix(offset(transposed, item_matrix), inputs)
    gemm((samples, inputs, outputs), grad_y, weights, zeros, grad_items, NONE, _ONE)


@njit(inline="always")
def vectors_backward(tile, batch_size, shared, workspace):
    """Compute the gradients of the vectors of GMF and of its weights; add the l2 term to those of all vectors."""
    width, product_width, l2 = shared.table.width, shared.network.product_width, shared.settings.l2
    groups, per = _round_up(tile.size), 1 + shared.settings.num_negatives
    grad_users, grad_items = workspace.gradients, offset(workspace.gradients, groups * width)
    if product_width:
        product_weights, _, _ = _output_weights(shared.layers.values, shared)
        grad_product_weights, _, _ = _output_weights(_gradients(tile, shared), shared)
        for group in range(tile.size):
            user, items = group * width, group * per * width
            x = WeightedDot(offset(workspace.users, user), offset(workspace.items, items), product_weights)
            grad_x = WeightedDot(offset(grad_users, user), offset(grad_items, items), grad_product_weights)
            grad_scores = offset(workspace.loss.scores, group * per)
            weighted_dot_backward(x, grad_x, grad_scores, per, width, product_width)
    if l2:
        scale = 2 * l2 / batch_size
        axpy(grad_users, np.float32(scale), workspace.users, tile.size * width)
        axpy(grad_items, np.float32(scale / per), workspace.items, tile.size * per * width)


@njit(nogil=True, cache=True, error_model="numpy")
def write_rows(tile, batch, shared, workspace):
    """Take the step of the rows that the batch uses once; keep the gradients of the others."""
    table, batch_rows, step = shared.table, shared.batch_rows, batch.step
    per, width = 2 + shared.settings.num_negatives, table.width
    grad_items = offset(workspace.gradients, _round_up(tile.size) * width)
    start, kept_start = batch.rows_start + tile.start * per, tile.kept_start * per
    for group in range(tile.size):
        for k in range(per):
            at = group * per + k
            row, item = np.int64(get(batch_rows.rows, start + at)), (group * (per - 1) + k - 1) * width
            values = offset(workspace.items, item) if k else offset(workspace.users, group * width)
            gradient = offset(grad_items, item) if k else offset(workspace.gradients, group * width)
            if get(batch_rows.last_use, row) == 2 * step.number:
                write_row(table, row, step, values, gradient, shared.schedule)
                put(batch_rows.rows, start + at, np.int32(-1))
            else:
                copy_row(offset(batch_rows.gradients, (kept_start + at) * width), gradient, width)


# Behind a microbatch: the rows that were used more than once; behind a batch: their steps, and that of the layers.


@njit(nogil=True, cache=True, error_model="numpy")
def sum_row_gradients(thread, microbatch, batch, num_owned, shared, workspace):
    """Add the kept gradients of a thread's rows in a microbatch, in the order of the samples.

    Args:
        num_owned: number of rows with a slot among ``owned_gradients`` so far in the batch.

    Returns:
        The number of rows with a slot now.
    """
    table, rows, kept = shared.table, shared.batch_rows.rows, shared.batch_rows.gradients
    step, found, pairs = batch.step.number, workspace.found, workspace.owned_gradients
    per, width, shard = 2 + shared.settings.num_negatives, table.width, microbatch.first_shard
    starts = _shard_starts(batch.number, shared)
    first_at, stop = batch.rows_start + microbatch.start * per, batch.rows_start + microbatch.stop * per
    for first in range(first_at, stop, _FOUND):
        count = _find_owned(thread, first, min(first + _FOUND, stop), shared, found)
        for which in range(count):
            if which + _SLOTS_AHEAD < count:
                prefetch_slot(table, np.int64(get(rows, np.int64(get(found, which + _SLOTS_AHEAD)))))
            if which + _SUMS_AHEAD < count:
                later = np.int64(get(rows, np.int64(get(found, which + _SUMS_AHEAD))))
                if has_slot(table, later, step):
                    prefetch(sum_of(pairs, slot_of(table, later)), np.int64(0), width)
            at = np.int64(get(found, which))
            while at >= batch.rows_start + np.int64(get(starts, shard + 1)) * per:
                shard += 1
            row, gradient = np.int64(get(rows, at)), offset(kept, (at - first_at) * width)
            if has_slot(table, row, step):
                add_to_sum(pairs, slot_of(table, row), shard, gradient)
            else:
                assign_slot(table, row, step, num_owned)
                begin_sum(pairs, num_owned, shard, gradient)
                put(workspace.owned_rows, num_owned, row)
                num_owned += 1
    return num_owned


@njit(inline="always")
def update_owned_rows(num_owned, step, shared, workspace):
    """Take the step of a thread's rows that the batch uses more than once."""
    table, owned_rows, pairs = shared.table, workspace.owned_rows, workspace.owned_gradients
    for slot in range(num_owned):
        if slot + _OWNED_AHEAD < num_owned:
            prefetch(table.rows, get(owned_rows, slot + _OWNED_AHEAD) * table.stride, table.stride)
        row = get(owned_rows, slot)
        end_sum(pairs, slot)
        values = offset(table.rows, row * table.stride)
        read_row(values, table, row, step.number - 1, step.remaining_before, shared.schedule)
        write_row(table, row, step, values, sum_of(pairs, slot), shared.schedule)


@njit(nogil=True, cache=True, error_model="numpy")
def update_layers(thread, batch, shared):
    """Add the chunks' gradients of a thread's part of the layers' parameters, and take its step."""
    start, width = _sum_layers(thread, batch, shared)
    if width:
        _step_layers(start, width, batch.step, shared)


@njit(inline="always")
def _sum_layers(thread, batch, shared):
    """Add the chunks' gradients of a thread's part of the layers' parameters; return where it starts, and its size."""
    size, num_shards = shared.network.num_parameters, shared.settings.num_shards
    per_tile, starts = tile_size(shared.settings.num_negatives), _shard_starts(batch.number, shared)
    share = (size // COLUMN_MULTIPLE + shared.num_threads - 1) // shared.num_threads * COLUMN_MULTIPLE
    start = min(thread * share, size)
    width = min(start + share, size) - start
    if width:
        sums, stride = offset(shared.layers.gradients, start), CHUNKS // num_shards * size
        for shard in range(num_shards):
            interactions = np.int64(get(starts, shard + 1)) - np.int64(get(starts, shard))
            _, count = _cut(min(interactions, shared.settings.microbatch_size), per_tile, shared)
            total = offset(sums, shard * stride)
            add_rows(total, offset(total, size), size, count - 1, width)
        add_pairs(sums, stride, width, starts, num_shards)
    return start, width


@njit(inline="always")
def _step_layers(start, width, step, shared):
    """Take the step of a part of the layers' parameters, whose gradients are those of chunk 0."""
    layers, size = shared.layers, shared.network.num_parameters
    values, gradient = offset(layers.values, start), offset(layers.gradients, start)
    coefficients = AdamCoefficients(np.float32(BETA_1), np.float32(BETA_2), step.rate, step.root)
    adam_step(values, values, gradient, size, width, coefficients)
    for at in range(start, start + width):
        put(layers.transposed, np.int64(get(layers.transpose_index, at)), get(layers.values, at))


# A step that several processes share out: one computes the gradients of its part of a batch, and takes the step later.


@njit(nogil=True, cache=True, error_model="numpy")
def sum_gradients(thread, step, shared, workspace, gradients):
    """Sum up the gradients of a part of a batch, on one of the threads that all call this function.

    Those of the layers are in the first chunk of ``LayerParameters.gradients`` afterwards.

    Args:
        thread: number of the thread, int64.
        step: number of the step, counted from 1, int64; each is asked for once.
        shared: :class:`SharedState` of arrays. The rows of its table are those that the interactions use, and have the
            values before the step.
        workspace: :class:`Workspace` of arrays, the thread's own.
        gradients: (rows * V,) float32, written: gradients of the rows.
    """
    shared, workspace, gradients = pointers(shared), pointers(workspace), pointer(gradients)
    counters, num_threads = shared.counters, shared.num_threads
    batch, width = _make_batch(0, step - 1, shared), shared.table.width
    list_rows(thread, 0, shared)
    wait(counters, num_threads)
    start, stop = _rows_start(0, shared), batch.size * (2 + shared.settings.num_negatives)
    for at in range(start + stop * thread // num_threads, start + stop * (thread + 1) // num_threads):
        row = np.int64(get(shared.batch_rows.rows, at))
        put(shared.batch_rows.last_use, row, np.int32(2 * step + 1))  # as if used again: no tile takes its step
    wait(counters, num_threads)
    at, num_owned = np.int64(0), np.int64(0)
    while at < batch.size:
        microbatch = _make_microbatch(np.int64(0), at, shared)
        train_microbatch(thread, microbatch, batch, shared, workspace)
        wait(counters, num_threads)
        put(counters, _claims(thread), np.int64(0))
        num_owned = sum_row_gradients(thread, microbatch, batch, num_owned, shared, workspace)
        at = microbatch.stop
        wait(counters, num_threads)
    for slot in range(num_owned):
        end_sum(workspace.owned_gradients, slot)
        to = offset(gradients, get(workspace.owned_rows, slot) * width)
        copy_row(to, sum_of(workspace.owned_gradients, slot), width)
    _sum_layers(thread, batch, shared)


@njit(nogil=True, cache=True, error_model="numpy")
def step_layers(step, shared):
    """Take the step of a number for all parameters of the layers, by the gradients that :func:`sum_gradients` left."""
    shared = pointers(shared)
    _step_layers(np.int64(0), shared.network.num_parameters, make_step(step, shared.schedule), shared)
