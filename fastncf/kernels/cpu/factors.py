"""Stochastic gradient descent on a matrix factorization, interaction by interaction, user by user.

:func:`train_block` is the kernel of :class:`fastncf.trainers.block_sgd.BlockSGD`. Its parts, from drawing the samples
of a user's interactions to the step of one interaction, also serve :mod:`fastncf.kernels.cpu.histories`. The structures
that are made once for a call hold arrays; those that are made for an interaction hold pointers, see
:func:`fastncf.kernels.cpu.simd.pointer`.
"""

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastncf.errors import counted
from fastncf.kernels.cpu.alias import AliasTable
from fastncf.kernels.cpu.compiling import njit
from fastncf.kernels.cpu.losses import LossBuffers, add_loss_sums, loss_gradients
from fastncf.kernels.cpu.negatives import SamplerScratch, make_sampler_scratch, sample_row
from fastncf.kernels.cpu.simd import (
    CACHE_LINE,
    LANES,
    VectorBuilder,
    aligned_zeros,
    borrow,
    get,
    offset,
    pointer,
    prefetch,
    put,
)

_ZERO, _ONE = np.float32(0), np.float32(1)


class Factors(NamedTuple):
    """Parameters of a matrix factorization, all float32 and C-contiguous.

    Attributes:
        user_vectors: (U, D).
        item_vectors: (I, D).
        user_bias: (U,).
        item_bias: (I,).
    """

    user_vectors: np.ndarray
    item_vectors: np.ndarray
    user_bias: np.ndarray
    item_bias: np.ndarray

    def __repr__(self) -> str:
        """Return the sizes in one line, without the arrays."""
        (num_users, dim), num_items = self.user_vectors.shape, len(self.item_vectors)
        return f"Factors({counted(num_users, 'user')}, {counted(num_items, 'item')}, dim {dim})"


def pad_to_lanes(factors: Factors) -> Factors:
    """Return factors whose vectors have columns of 0 up to a multiple of ``LANES`` and begin at a cache line.

    Training leaves the columns at 0. Vectors that need no padding are returned as they are, and so are the biases.
    """
    user_vectors, item_vectors = (_padded(table) for table in factors[:2])
    return factors._replace(user_vectors=user_vectors, item_vectors=item_vectors)


def _padded(table: np.ndarray) -> np.ndarray:
    """Return a table (R, D) in the form of :func:`pad_to_lanes`, itself where it has that form."""
    rows, dim = table.shape
    if dim % LANES == 0 and table.ctypes.data % CACHE_LINE == 0:
        return table
    padded = aligned_zeros((rows, -(-dim // LANES) * LANES))
    padded[:, :dim] = table
    return padded


def unpad_into(padded: Factors, factors: Factors) -> None:
    """Copy vectors that :func:`pad_to_lanes` returned back to the factors that it was given."""
    for source, target in zip(padded[:2], factors[:2], strict=True):
        if source is not target:
            target[:] = source[:, : target.shape[1]]


class SGDStep(NamedTuple):
    """Coefficients of a step.

    Attributes:
        learning_rate: the gradient of an interaction's loss is multiplied by it, float32.
        user_scale: a step multiplies the user's vector by it: 1 less the weight decay, float32.
        item_decay: share of an item's vector that a step subtracts for each time that the item was drawn, float32.
        loss: code of the loss, see :mod:`fastncf.kernels.cpu.losses`, int64.
    """

    learning_rate: np.float32
    user_scale: np.float32
    item_decay: np.float32
    loss: int


class NegativeSampling(NamedTuple):
    """Settings of the draws of an epoch's negatives.

    Attributes:
        items: (n,) int32, the items that positives and negatives are from.
        num_negatives: K, int64.
        keys: see :func:`fastncf.kernels.cpu.negatives.sample_row`.
        alias_table: distribution of the draws over ``items``, or ``UNIFORM``.
        weight: weight of a negative in the loss, float32; that of a positive is 1.
    """

    items: np.ndarray
    num_negatives: int
    keys: np.ndarray
    alias_table: AliasTable
    weight: np.float32


class Block(NamedTuple):
    """Interactions of a range of users with one part of the items.

    Attributes:
        first_user, last_user: range of users, int64.
        part: number of the part among G, int64.
        bounds: (U, G + 1) int64; the interactions of user u are rows ``bounds[u, part]`` to ``bounds[u, part + 1]``.
        positions: (N,) int32, by row: position of the item among the items of its part, ascending for each user.
        interaction_weights: (N,) float32, by row: what the loss of the interaction is multiplied by; empty if all are
            1.
    """

    first_user: int
    last_user: int
    part: int
    bounds: np.ndarray
    positions: np.ndarray
    interaction_weights: np.ndarray


class Samples(NamedTuple):
    """Distinct samples of each of a user's interactions, the positive first.

    Attributes:
        items: (n, 1 + K) int32.
        starts: (n, 1 + K) int64, where their vectors start in the table of items.
        multiplicity: (n, P) float32, how often each was drawn times its weight, then zeros; P is 1 + K rounded up to
            whole vectors.
        sizes: (n,) int64, number of distinct samples.
        last_row: (m,) int64, for each of the m items that are drawn from the last row of the data that has it, or -1.
    """

    items: np.ndarray
    starts: np.ndarray
    multiplicity: np.ndarray
    sizes: np.ndarray
    last_row: np.ndarray


class Workspace(NamedTuple):
    """Memory of a thread, for users with at most n interactions.

    Attributes:
        sampler: of :func:`fastncf.kernels.cpu.negatives.sample_row`.
        negatives: (n * K,) int32, in the order of their draws.
        samples: of the user.
        scores: (P,) float32, of an interaction; later the gradient of its loss.
        loss_sums: (LANES,) float64, see :class:`fastncf.kernels.cpu.losses.LossBuffers`.
    """

    sampler: SamplerScratch
    negatives: np.ndarray
    samples: Samples
    scores: np.ndarray
    loss_sums: np.ndarray


class ItemTable(NamedTuple):
    """Vectors and biases of the items; pointers to float32.

    Attributes:
        vectors: (I * D,).
        bias: (I,).
        width: D, a multiple of ``LANES``, int64.
    """

    vectors: Any
    bias: Any
    width: int


class SamplePointers(NamedTuple):
    """Pointers to the samples of a user's interactions, see :class:`Samples`, and to where losses are computed.

    Attributes:
        items: (n, 1 + K) int32.
        starts: (n, 1 + K) int64.
        multiplicity: (n, P) float32.
        sizes: (n,) int64.
        scores: (P,) float32.
        loss_sums: (LANES,) float64.
        stride: 1 + K, int64.
        lanes: P, int64.
    """

    items: Any
    starts: Any
    multiplicity: Any
    sizes: Any
    scores: Any
    loss_sums: Any
    stride: int
    lanes: int


class Interaction(NamedTuple):
    """Distinct samples of one interaction, the positive first; pointers.

    Attributes:
        items: (size,) int32.
        starts: (size,) int64, where their vectors start in the table of items.
        size: number of samples, int64.
        buffers: their multiplicity, and where their scores and gradients are computed.
    """

    items: Any
    starts: Any
    size: int
    buffers: LossBuffers


@njit(nogil=True, cache=True)
def train_block(block, factors, sampling, step):
    """Take a step for each interaction of a block; its negatives are from the same items, drawn anew.

    Args:
        block: :class:`Block`.
        factors: :class:`Factors` of a width that is a multiple of ``LANES``, changed in place: of the users only those
            of the block, of the items only those of ``sampling``.
        sampling: :class:`NegativeSampling`.
        step: :class:`SGDStep`.

    Returns:
        The loss, summed over the samples (``BCE``) or pairs (``BPR``), float64.
    """
    block, factors, sampling = borrow(block), borrow(factors), borrow(sampling)
    longest = 0
    for u in range(block.first_user, block.last_user):
        longest = max(longest, block.bounds[u, block.part + 1] - block.bounds[u, block.part])
    owner = make_workspace(longest, len(sampling.items), sampling.num_negatives)
    total, no_weights = 0.0, block.interaction_weights[:0]
    for u in range(block.first_user, block.last_user):
        start, stop = block.bounds[u, block.part], block.bounds[u, block.part + 1]
        if start < stop:
            workspace = borrow(owner)
            draw_samples(start, stop, block.positions, sampling, factors.item_vectors.shape[1], workspace)
            weights = block.interaction_weights[start:stop] if len(block.interaction_weights) else no_weights
            total += _train_user(u, stop - start, weights, factors, step, workspace)
            total = add_loss_sums(total, pointer(workspace.loss_sums))
    return total


@njit(nogil=True, cache=True)
def _train_user(u, count, weights, factors, step, workspace):
    """Take a step for each of the ``count`` interactions of user ``u`` that the workspace has samples of.

    Args:
        weights: (count,) float32, or empty; see :class:`Block`.

    Returns:
        The weighted loss, float64; 0 without weights: it is then in the sums of the workspace.
    """
    width = factors.item_vectors.shape[1]
    table = ItemTable(pointer(factors.item_vectors), pointer(factors.item_bias), width)
    samples = sample_pointers(workspace)
    vector = offset(pointer(factors.user_vectors), u * width)
    bias, loss = factors.user_bias[u], 0.0
    for row in range(count):
        if row + 1 < count:
            prefetch_interaction(table, interaction_at(samples, row + 1))
        weight = weights[row] if len(weights) else _ONE
        bias = train_interaction(table, interaction_at(samples, row), vector, bias, step, weight)
        if len(weights):
            loss += weight * add_loss_sums(0.0, samples.loss_sums)
    factors.user_bias[u] = bias
    return loss


@njit(nogil=True, cache=True)
def make_workspace(longest, num_items, num_negatives):
    """Return a :class:`Workspace`.

    Args:
        longest: n, as many interactions as a user has at most, int64.
        num_items: number of items that negatives are drawn from, int64.
        num_negatives: K, int64.
    """
    lanes = (num_negatives + LANES) // LANES * LANES
    samples = Samples(
        np.empty((longest, 1 + num_negatives), dtype=np.int32),
        np.empty((longest, 1 + num_negatives), dtype=np.int64),
        np.empty((longest, lanes), dtype=np.float32),
        np.empty(longest, dtype=np.int64),
        np.full(num_items, -1, dtype=np.int64),
    )
    return Workspace(
        make_sampler_scratch(num_items, longest),
        np.empty(longest * num_negatives, dtype=np.int32),
        samples,
        _aligned(np.zeros(lanes + CACHE_LINE // 4, dtype=np.float32), lanes),
        _aligned(np.zeros(LANES + CACHE_LINE // 8, dtype=np.float64), LANES),
    )


@njit(inline="always")
def _aligned(memory, count):
    """Return ``count`` numbers of an array that begin at a cache line, see :func:`aligned_zeros`."""
    first = -memory.ctypes.data % CACHE_LINE // memory.itemsize
    return memory[first : first + count]


@njit(nogil=True, cache=True)
def draw_samples(start, stop, positions, sampling, width, workspace):
    """Draw the negatives of a user's interactions, and put the samples of each into the workspace.

    Args:
        start, stop: rows of the user's interactions, int64.
        positions: (N,) int32, by row: position of the item in ``sampling.items``, ascending for each user.
        sampling: :class:`NegativeSampling`; a user with all of its items gets no negatives.
        width: D, int64.
        workspace: :class:`Workspace`.
    """
    num_items = len(sampling.items)
    num_negatives = sampling.num_negatives if stop - start < num_items else 0
    negatives = workspace.negatives[: (stop - start) * num_negatives]
    seen = positions[start:stop]
    sample_row(start * num_negatives, seen, sampling.keys, sampling.alias_table, workspace.sampler, negatives)
    _merge_repeats(start, stop, positions, negatives, sampling, width, workspace.samples)


@njit(nogil=True, cache=True)
def _merge_repeats(start, stop, positions, negatives, sampling, width, samples):
    """Fill ``samples`` with a user's positives and their negatives, each item of an interaction once."""
    items, weight = sampling.items, sampling.weight
    sample_items, starts, multiplicity, sizes, last_row = samples
    num_negatives = len(negatives) // (stop - start)
    for at in range(stop - start):
        for k in range(multiplicity.shape[1]):
            multiplicity[at, k] = _ZERO
        sample_items[at, 0] = items[np.uint32(positions[start + at])]
        multiplicity[at, 0] = _ONE
        row = start + at
        size = np.uint64(1)  # unsigned: Numba would otherwise look for negative indices at every access
        for k in range(at * num_negatives, (at + 1) * num_negatives):
            position = np.uint32(negatives[k])
            if last_row[position] != row:
                last_row[position] = row
                sample_items[at, size] = items[position]
                multiplicity[at, size] = weight
                size += np.uint64(1)
            else:
                which = np.uint64(1)
                while sample_items[at, which] != items[position]:
                    which += np.uint64(1)
                multiplicity[at, which] += weight
        sizes[at] = size
        for k in range(size):
            starts[at, k] = np.int64(sample_items[at, k]) * width


@njit(inline="always")
def sample_pointers(workspace):
    """Return the :class:`SamplePointers` of a workspace, which has to outlive them."""
    samples = workspace.samples
    return SamplePointers(
        pointer(samples.items),
        pointer(samples.starts),
        pointer(samples.multiplicity),
        pointer(samples.sizes),
        pointer(workspace.scores),
        pointer(workspace.loss_sums),
        samples.items.shape[1],
        len(workspace.scores),
    )


@njit(inline="always")
def interaction_at(samples, row):
    """Return the :class:`Interaction` in a row of :class:`SamplePointers`."""
    multiplicity = offset(samples.multiplicity, row * samples.lanes)
    return Interaction(
        offset(samples.items, row * samples.stride),
        offset(samples.starts, row * samples.stride),
        get(samples.sizes, row),
        LossBuffers(samples.scores, multiplicity, samples.loss_sums, samples.lanes),
    )


@njit(inline="always")
def prefetch_interaction(table, interaction):
    """Load the vectors of an interaction's items into the cache."""
    for k in range(interaction.size):
        prefetch(table.vectors, get(interaction.starts, k), table.width)


@njit(inline="always")
def train_interaction(table, interaction, vector, bias, step, weight):
    """Take the step of one interaction.

    Args:
        table: :class:`ItemTable`, changed in place.
        interaction: :class:`Interaction`.
        vector: pointer to the user's vector, changed in place.
        bias: the user's bias.
        step: :class:`SGDStep`.
        weight: what the loss of the interaction is multiplied by, float32; the weight decay is not.

    Returns:
        The user's new bias, float32.
    """
    scores, rate = interaction.buffers.scores, step.learning_rate * weight
    batched_dot(table, interaction, vector, scores)
    for k in range(interaction.size):
        put(scores, k, get(scores, k) + (bias + get(table.bias, get(interaction.items, k))))
    bias -= rate * loss_gradients(interaction.buffers, interaction.size, step.loss)
    for k in range(interaction.size):
        change = get(scores, k) * rate
        put(scores, k, change)
        item = get(interaction.items, k)
        put(table.bias, item, get(table.bias, item) - change)
    sgd_step(table, interaction, vector, step)
    return bias


@intrinsic
def batched_dot(typingctx, table, interaction, vector, out):
    """Write the dot product of ``vector`` with the vector of sample k to ``out[k]``; pointers to float32."""

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        table, interaction, vector, out = vec.arguments
        count = interaction.size

        def sums(first, many):
            """Return the vectors whose lanes sum to the products of ``many`` rows, side by side as each add waits."""
            rows = [builder.add(first, ir.Constant(first.type, which)) for which in range(many)]
            starts = [vec.load_scalar(interaction.starts, row) for row in rows]
            partial = [vec.alloca() for _ in rows]
            for one in partial:
                builder.store(vec.constant(0.0), one)
            with vec.for_each_vector(table.width) as (at, _):
                own = vec.load(vector, at)
                for start, one in zip(starts, partial, strict=True):
                    product = vec.mul(own, vec.load(table.vectors, builder.add(start, at)))
                    builder.store(vec.add(builder.load(one), product), one)
            return [builder.load(one) for one in partial]

        fours = builder.and_(count, ir.Constant(count.type, -4))
        zero, step = ir.Constant(count.type, 0), ir.Constant(count.type, 4)
        with cgutils.for_range_slice(builder, zero, fours, step, inc=True) as (row, _):
            totals = vec.reduce_add_four(sums(row, 4))
            address = builder.bitcast(builder.gep(out, [row]), totals.type.as_pointer())
            builder.store(totals, address, align=4)
        with cgutils.for_range_slice(builder, fours, count, ir.Constant(count.type, 1), inc=True) as (row, _):
            builder.store(vec.reduce_add(*sums(row, 1)), builder.gep(out, [row]))
        return context.get_dummy_value()

    return types.void(table, interaction, vector, out), generate


@intrinsic
def sgd_step(typingctx, table, interaction, vector, step):
    """Take a step along the gradient of the scores ``dot(vector, row k)`` with respect to both sides.

    ``g = interaction.buffers.scores`` are the derivatives of the loss times the learning rate. With both sides as they
    were before, ``row k -= item_decay * multiplicity[k] * row k + g[k] * vector`` and ``vector = user_scale * vector -
    sum of g[k] * row k``. The rows are distinct.
    """

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        table, interaction, vector, step = vec.arguments
        buffers = interaction.buffers
        scale, decay = vec.splat(step.user_scale), vec.splat(builder.fneg(step.item_decay))
        changed = vec.alloca()
        with vec.for_each_vector(table.width) as (at, _):
            old = vec.load(vector, at)
            builder.store(vec.mul(old, scale), changed)
            with cgutils.for_range(builder, interaction.size) as sample:
                start = builder.add(vec.load_scalar(interaction.starts, sample.index), at)
                row = vec.load(table.vectors, start)
                change = vec.splat(vec.load_scalar(buffers.scores, sample.index))
                count = vec.splat(vec.load_scalar(buffers.multiplicity, sample.index))
                builder.store(vec.sub(builder.load(changed), vec.mul(change, row)), changed)
                new = vec.add(row, vec.mul(builder.fmul(decay, count), row))
                vec.store(vec.sub(new, vec.mul(change, old)), table.vectors, start)
            vec.store(builder.load(changed), vector, at)
        return context.get_dummy_value()

    return types.void(table, interaction, vector, step), generate


class ItemParts(NamedTuple):
    """Assignment of the items to parts.

    Attributes:
        part: (I,) uint8, the part of each item.
        position: (I,) int32, its position among the items of the part.
    """

    part: np.ndarray
    position: np.ndarray


class GroupedRows(NamedTuple):
    """Interactions of all users in the order of their items' parts, see :class:`Block`."""

    bounds: np.ndarray
    positions: np.ndarray
    interaction_weights: np.ndarray


@njit(nogil=True, cache=True)
def group_by_part(first_user, last_user, indptr, indices, interaction_weights, parts, grouped):
    """Put the interactions of a range of users in the order of their items' parts.

    Args:
        first_user, last_user: range of users, int64.
        indptr, indices: training CSR: (U + 1,) int64 and (N,) int32.
        interaction_weights: (N,) float32, by row of the CSR, or empty.
        parts: :class:`ItemParts`.
        grouped: :class:`GroupedRows`, written.
    """
    bounds, positions, grouped_weights = grouped
    num_parts = bounds.shape[1] - 1
    part_of, position_of = parts
    ends = np.empty(num_parts + 1, dtype=np.int64)
    for u in range(first_user, last_user):
        ends[:] = 0
        for row in range(indptr[u], indptr[u + 1]):
            ends[part_of[indices[row]] + 1] += 1
        ends[0] = indptr[u]
        for part in range(num_parts):
            ends[part + 1] += ends[part]
        for part in range(num_parts + 1):  # assigning a slice would compile a message for unequal shapes
            bounds[u, part] = ends[part]
        for row in range(indptr[u], indptr[u + 1]):
            part = part_of[indices[row]]
            positions[ends[part]] = position_of[indices[row]]
            if len(interaction_weights):
                grouped_weights[ends[part]] = interaction_weights[row]
            ends[part] += 1
