"""Structures that the kernels of MLP and NeuMF share, see :mod:`fastncf.kernels.cpu.mlp`.

They hold arrays for the caller. Within the kernels the same structures hold pointers, see
:func:`fastncf.kernels.cpu.rows.pointers`.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastncf.kernels.cpu.compiling import njit
from fastncf.kernels.cpu.gemm import ROW_MULTIPLE
from fastncf.kernels.cpu.lazy_adam import AdamSchedule, AdamStep, LazyTable
from fastncf.kernels.cpu.losses import LossBuffers
from fastncf.kernels.cpu.shards import PairSums, depth_of
from fastncf.kernels.cpu.simd import LANES, aligned_zeros

CHUNKS = 32
"""Chunks of a microbatch at most, each with gradients of the layers of its own; a multiple of the number of shards."""

LINE = 16
"""4-byte numbers in a cache line, the unit that two threads should not both write to."""

FOUND = 1_024
"""Positions that a thread looks for its rows at a time."""

_TILE_SAMPLES = 40


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
        found: (FOUND,) int32, positions of rows of the thread in ``BatchRows.rows``.
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
    return LINE * (1 + num_threads)


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
        found=np.zeros(FOUND, dtype=np.int32),
    )
