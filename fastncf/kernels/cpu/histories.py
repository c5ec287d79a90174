"""Stochastic gradient descent on a matrix factorization whose user vectors include the users' histories.

:func:`train_histories` and :func:`compose_users` are the kernels of :class:`fastncf.trainers.history_sgd.HistorySGD`.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import types
from numba.extending import intrinsic

from fastncf.kernels.cpu.compiling import njit
from fastncf.kernels.cpu.factors import (
    ItemTable,
    SGDStep,
    draw_samples,
    interaction_at,
    make_workspace,
    prefetch_interaction,
    sample_pointers,
    train_interaction,
)
from fastncf.kernels.cpu.losses import add_loss_sums
from fastncf.kernels.cpu.simd import VectorBuilder, axpby, borrow, get, offset, pointer, put

_ZERO, _ONE = np.float32(0), np.float32(1)
_NUM_VECTORS = 5
"""Vectors of a :class:`_UserState` beside the user's own row and the updates."""


class HistoryFactors(NamedTuple):
    """Parameters, all float32 and C-contiguous; D is a multiple of ``LANES``.

    Attributes:
        user_vectors: (U, D), each user's own vector, without the history.
        user_bias: (U,).
        item_vectors: (I, D).
        item_bias: (I,).
        history_vectors: (I, D), vectors whose weighted sum over a history is added to the user's vector.
    """

    user_vectors: np.ndarray
    user_bias: np.ndarray
    item_vectors: np.ndarray
    item_bias: np.ndarray
    history_vectors: np.ndarray


class HistoryWeights(NamedTuple):
    """Weights of the items in a user's history, all float32.

    Attributes:
        mean: weight of the mean over all items.
        recent: weight of the latest item, beside that.
        decay: weight of each item before that one, relative to the item after it.
    """

    mean: np.float32
    recent: np.float32
    decay: np.float32


class Histories(NamedTuple):
    """Histories of all users.

    Attributes:
        indptr, indices: training CSR: (U + 1,) int64 and (N,) int32.
        order: (N,) int32, positions within each user's row, oldest first; empty where ``weights.recent`` is 0.
        weights: of the items.
        interaction_weights: (N,) float32, by row of the CSR: what the loss of the interaction is multiplied by; empty
            if all are 1.
    """

    indptr: np.ndarray
    indices: np.ndarray
    order: np.ndarray
    weights: HistoryWeights
    interaction_weights: np.ndarray


class _History(NamedTuple):
    """History of one user; pointers.

    Attributes:
        items: (length,) int32.
        order: (length,) int32, if ``is_ordered``.
        is_ordered: whether there is an order; otherwise the items are visited in that of ``items``.
        length: number of items, int64.
        vectors: (I * D,) float32, see :class:`HistoryFactors`.
        width: D, int64.
    """

    items: Any
    order: Any
    is_ordered: bool
    length: int
    vectors: Any
    width: int


class _UserState(NamedTuple):
    """Vectors of one user during the passes over its history; pointers to float32, (D,) unless said otherwise.

    Attributes:
        own: the row of ``HistoryFactors.user_vectors``.
        vector: own vector and history, as an interaction sees them; after its step the change of that vector.
        history_sum: sum of the vectors of all items in the history.
        recent: decayed sum of the vectors of the items so far.
        update_sum: sum of the changes so far.
        later_updates: decayed sum of the changes by later interactions, in the backward pass.
        updates: (length, D), the change by each interaction.
        width: D, int64.
    """

    own: Any
    vector: Any
    history_sum: Any
    recent: Any
    update_sum: Any
    later_updates: Any
    updates: Any
    width: int


@njit(nogil=True, cache=True)
def train_histories(users, histories, factors, sampling, step):
    """Take a step for each interaction of some users, then one for the vectors of each user's history.

    The vector of a user before interaction t of n is ``user_vectors[u] + mean / (n - 1) * (sum of history_vectors[j]
    over the n - 1 other items) + recent * (sum of decay**(t - 1 - s) * history_vectors[j] over the items at s < t)``.

    Args:
        users: (n,) int32, in the order of their visits.
        histories: :class:`Histories`.
        factors: :class:`HistoryFactors`, changed in place; of the users only the rows of ``users``.
        sampling: :class:`~fastncf.kernels.cpu.factors.NegativeSampling` over all items.
        step: :class:`~fastncf.kernels.cpu.factors.SGDStep`; its ``user_scale`` also applies to the history vectors.

    Returns:
        The loss, summed over the samples (``BCE``) or pairs (``BPR``), float64.
    """
    histories, factors, sampling = borrow(histories), borrow(factors), borrow(sampling)
    width, longest = factors.item_vectors.shape[1], 0
    for u in users:
        longest = max(longest, histories.indptr[u + 1] - histories.indptr[u])
    owner = make_workspace(longest, len(sampling.items), sampling.num_negatives)
    vectors = np.empty((_NUM_VECTORS + longest, width), dtype=np.float32)
    total = 0.0
    for u in users:
        start, stop = histories.indptr[u], histories.indptr[u + 1]
        if start < stop:
            workspace = borrow(owner)
            draw_samples(start, stop, histories.indices, sampling, width, workspace)
            total += _train_user(np.int64(u), histories, factors, step, pointer(vectors), workspace)
            total = add_loss_sums(total, pointer(workspace.loss_sums))
    return total


@njit(nogil=True, cache=True)
def _train_user(u, histories, factors, step, vectors, workspace):
    """Train each interaction of user ``u``, oldest first, then each of its history vectors, latest first.

    Returns:
        The weighted loss, float64; 0 without weights: it is then in the sums of the workspace.
    """
    history = _history_of(u, histories, factors)
    width, weights = history.width, histories.weights
    loss, interaction_weights, start = 0.0, histories.interaction_weights, histories.indptr[u]
    state = _user_state(u, factors, vectors)
    for at in range(history.length):
        item = offset(history.vectors, np.int64(get(history.items, at)) * width)
        axpby(_ONE, item, _ONE, state.history_sum, width)
    mean = weights.mean / np.float32(history.length - 1) if history.length > 1 else _ZERO
    table = ItemTable(pointer(factors.item_vectors), pointer(factors.item_bias), width)
    samples = sample_pointers(workspace)
    change_only = SGDStep(step.learning_rate, _ZERO, step.item_decay, step.loss)
    bias = factors.user_bias[u]
    for t in range(history.length):
        if t + 1 < history.length:
            prefetch_interaction(table, interaction_at(samples, _position(history, t + 1)))
        position, item = _position(history, t), offset(history.vectors, _item_offset(history, t))
        compose_user(state, item, mean)
        weight = interaction_weights[start + position] if len(interaction_weights) else _ONE
        bias = train_interaction(table, interaction_at(samples, position), state.vector, bias, change_only, weight)
        if len(interaction_weights):
            loss += weight * add_loss_sums(0.0, samples.loss_sums)
        history_forward(state, item, offset(state.updates, t * width), step.user_scale, weights)
    factors.user_bias[u] = bias
    for t in range(history.length - 1, -1, -1):
        item, update = offset(history.vectors, _item_offset(history, t)), offset(state.updates, t * width)
        history_backward(state, item, update, step.user_scale, mean, weights)
    return loss


@njit(inline="always")
def _history_of(u, histories, factors):
    """Return the :class:`_History` of a user."""
    start, stop = histories.indptr[u], histories.indptr[u + 1]
    items, order = offset(pointer(histories.indices), start), offset(pointer(histories.order), start)
    width = factors.history_vectors.shape[1]
    return _History(items, order, len(histories.order) > 0, stop - start, pointer(factors.history_vectors), width)


@njit(inline="always")
def _user_state(u, factors, vectors):
    """Return the :class:`_UserState` of a user, in memory for ``_NUM_VECTORS`` vectors and the updates; sums are 0."""
    width = factors.item_vectors.shape[1]
    for at in range(_NUM_VECTORS * width):
        put(vectors, at, _ZERO)
    return _UserState(
        offset(pointer(factors.user_vectors), u * width),
        vectors,
        offset(vectors, width),
        offset(vectors, 2 * width),
        offset(vectors, 3 * width),
        offset(vectors, 4 * width),
        offset(vectors, _NUM_VECTORS * width),
        width,
    )


@njit(inline="always")
def _position(history, t):
    """Return the position in the user's row of interaction t, counted from the oldest."""
    return np.int64(get(history.order, t)) if history.is_ordered else np.int64(t)


@njit(inline="always")
def _item_offset(history, t):
    """Return where the vector of interaction t's item begins in ``history.vectors``."""
    return np.int64(get(history.items, _position(history, t))) * history.width


@intrinsic
def compose_user(typingctx, state, item, mean):
    """Compute a user's vector without an item: ``vector = own + mean * (history_sum - item) + recent``.

    Args:
        state: :class:`_UserState`.
        item: pointer to the item's vector (D,) float32.
        mean: weight of each of the other items, float32.
    """

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        state, item, mean = vec.arguments
        with vec.for_each_vector(state.width) as (at, _):
            others = vec.sub(vec.load(state.history_sum, at), vec.load(item, at))
            own = vec.add(vec.load(state.own, at), vec.load(state.recent, at))
            vec.store(vec.add(own, vec.mul(vec.splat(mean), others)), state.vector, at)
        return context.get_dummy_value()

    return types.void(state, item, mean), generate


@intrinsic
def history_forward(typingctx, state, item, update, user_scale, weights):
    """Advance to the next interaction after a step that has changed the user's vector by ``change = state.vector``.

    ``own = user_scale * own + change``, ``update = change``, ``update_sum += change`` and
    ``recent = decay * recent + weights.recent * item``.

    Args:
        state: :class:`_UserState`.
        item: pointer to the vector (D,) float32 of the interaction's item.
        update: pointer to (D,) float32, written.
        user_scale: float32.
        weights: :class:`HistoryWeights`.
    """

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        state, item, update, user_scale, weights = vec.arguments
        with vec.for_each_vector(state.width) as (at, _):
            change = vec.load(state.vector, at)
            vec.store(vec.add(vec.mul(vec.load(state.own, at), vec.splat(user_scale)), change), state.own, at)
            vec.store(change, update, at)
            vec.store(vec.add(vec.load(state.update_sum, at), change), state.update_sum, at)
            latest = vec.mul(vec.load(item, at), vec.splat(weights.recent))
            kept = vec.mul(vec.load(state.recent, at), vec.splat(weights.decay))
            vec.store(vec.add(kept, latest), state.recent, at)
        return context.get_dummy_value()

    return types.void(state, item, update, user_scale, weights), generate


@intrinsic
def history_backward(typingctx, state, item, update, user_scale, mean, weights):
    """Take the step of the history vector of an interaction's item, and return to the interaction before.

    All other interactions' updates reach the vector by the mean, later ones also by the recent part:
    ``item = user_scale * item + mean * (update_sum - update) + weights.recent * later_updates``, then
    ``later_updates = decay * later_updates + update``. Arguments are those of :func:`history_forward`.
    """

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        state, item, update, user_scale, mean, weights = vec.arguments
        with vec.for_each_vector(state.width) as (at, _):
            own, later = vec.load(update, at), vec.load(state.later_updates, at)
            others = vec.mul(vec.sub(vec.load(state.update_sum, at), own), vec.splat(mean))
            changed = vec.add(vec.mul(vec.load(item, at), vec.splat(user_scale)), others)
            vec.store(vec.add(changed, vec.mul(later, vec.splat(weights.recent))), item, at)
            vec.store(vec.add(vec.mul(later, vec.splat(weights.decay)), own), state.later_updates, at)
        return context.get_dummy_value()

    return types.void(state, item, update, user_scale, mean, weights), generate


@njit(nogil=True, cache=True)
def compose_users(first_user, last_user, histories, factors, out):
    """Write the vectors of a range of users after their whole history.

    Args:
        first_user, last_user: range of users, int64.
        histories: :class:`Histories`.
        factors: :class:`HistoryFactors`.
        out: (U, D) float32, rows ``first_user`` to ``last_user`` are written.
    """
    width, weights = factors.user_vectors.shape[1], histories.weights
    recent, history_sum = np.zeros(width, dtype=np.float32), np.zeros(width, dtype=np.float32)
    for u in range(first_user, last_user):
        history = _history_of(u, histories, factors)
        recent[:] = _ZERO
        history_sum[:] = _ZERO
        for t in range(history.length):
            item = offset(history.vectors, _item_offset(history, t))
            axpby(_ONE, item, _ONE, pointer(history_sum), width)
            axpby(weights.recent, item, weights.decay, pointer(recent), width)
        own, vector = offset(pointer(factors.user_vectors), u * width), offset(pointer(out), u * width)
        axpby(_ONE, own, _ZERO, vector, width)
        axpby(weights.mean / np.float32(max(history.length, 1)), pointer(history_sum), _ONE, vector, width)
        axpby(_ONE, pointer(recent), _ONE, vector, width)


@njit(nogil=True, cache=True)
def combine_updates(shared, copies, first, last):
    """Add what each copy has changed to the numbers ``first`` to ``last`` of ``shared``, and copy the results back.

    Args:
        shared: (n,) float32, as all copies were before.
        copies: (C, n) float32.
        first, last: range of numbers, int64.
    """
    for at in range(first, last):
        old = shared[at]
        new = old
        for copy in range(len(copies)):
            new += copies[copy, at] - old
        shared[at] = new
    for copy in range(len(copies)):
        for at in range(first, last):
            copies[copy, at] = shared[at]
