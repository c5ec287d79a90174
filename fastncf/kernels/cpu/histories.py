"""Stochastic gradient descent on a matrix factorization whose users are known by their histories as well."""

from typing import NamedTuple

import numpy as np
from numba import njit

from fastncf.kernels.cpu.factors import gather, make_samples, slopes
from fastncf.kernels.cpu.negatives import make_sampler_scratch, sample_row
from fastncf.kernels.cpu.simd import LANES, blend, descend, dots, get, go_back, go_on, pointer, prefetch, put_together

_NOTHING = np.float32(0)
_ONE = np.float32(1)


class Tables(NamedTuple):
    """What is learned, all float32 and C-contiguous; D is a multiple of ``LANES``.

    Attributes:
        user: (U, D), what is left of a user beside the history.
        user_bias: (U,).
        item: (I, D).
        item_bias: (I,).
        history: (I, D), what an item in the history adds to a user.
    """

    user: np.ndarray
    user_bias: np.ndarray
    item: np.ndarray
    item_bias: np.ndarray
    history: np.ndarray


class HistoryWeights(NamedTuple):
    """How much an item in a user's history weighs, all float32.

    Attributes:
        mean: shared by all of them.
        recent: the one before the positive.
        decay: each one before that, relative to the one after it.
    """

    mean: np.float32
    recent: np.float32
    decay: np.float32


@njit(nogil=True, cache=True)
def train_histories(users, indptr, indices, order, items, tables, shares, num_negatives, pairwise, step, keys, weights):
    """One step for each interaction of some users; then one for the history's vectors of each of them.

    The vector of a user before interaction t of n is ``user[u] + mean / (n - 1) * (sum of history[j] over the n - 1
    others) + recent * (sum of decay**(t - 1 - s) * history[j] over those at s < t)``.

    Args:
        users: (n,) int32, in the order of their visits.
        indptr, indices: training CSR.
        order: (N,) int32, places within each user's row, oldest first; empty where ``recent`` is 0.
        items: (I,) int32, 0 to I - 1.
        tables: moved in place; of the users' rows only theirs.
        shares: weights of the history.
        num_negatives: K.
        pairwise: whether the loss is bpr; otherwise it is bce.
        step: rates; ``keep_user`` is for the history's vectors too.
        keys: of the draws, see :func:`fastncf.kernels.cpu.negatives.sample_row`.
        weights: of the draws, over all items.

    Returns:
        The loss of each sample, or of each pair, summed.
    """
    width = tables.item.shape[1]
    longest = 0
    for u in users:
        longest = max(longest, indptr[u + 1] - indptr[u])
    scratch = make_sampler_scratch(len(items), longest)
    drawn = np.empty(longest * num_negatives, dtype=np.int32)
    samples = make_samples(longest, num_negatives, len(items))
    scores = np.zeros(samples.times.shape[1], dtype=np.float32)
    losses = np.zeros(LANES, dtype=np.float32)
    vectors = np.empty((4, width), dtype=np.float32)
    moves = np.empty(longest * width, dtype=np.float32)
    loss = 0.0
    for u in users:
        start, stop = indptr[u], indptr[u + 1]
        if start == stop:
            continue
        own = order[start:stop] if len(order) else order
        negatives = drawn[: (stop - start) * num_negatives]
        sample_row(start * num_negatives, indices[start:stop], keys, weights, scratch, negatives)
        gather(start, stop, indices, negatives, items, width, samples)
        _visit(u, indices[start:stop], own, samples, tables, shares, pairwise, step, scores, losses, vectors, moves)
        for lane in range(LANES):
            loss += losses[lane]
            losses[lane] = 0
    return loss


# Called, not inlined: an array that is taken out of a tuple, or handed to what is inlined, is counted, by a locked
# instruction. This is done for a user and not for an interaction, so the step stands in here and in factors._visit.
@njit(nogil=True, cache=True)
def _visit(u, row, order, samples, tables, shares, pairwise, step, scores, losses, vectors, moves):
    """Step after step through a user's history, then back through it."""
    width = tables.item.shape[1]
    table, item_bias = tables.item.reshape(-1), tables.item_bias
    items, starts, times, sizes, _ = samples
    vector, sums = vectors[0], vectors[1:]
    sums[:] = _NOTHING
    move, whole, moved, recent = pointer(vectors[0]), pointer(vectors[1]), pointer(vectors[2]), pointer(vectors[3])
    users, history, kept = pointer(tables.user), pointer(tables.history), pointer(moves)
    places, ordered = pointer(order), len(order) > 0
    mean = _NOTHING
    if len(row) > 1:
        mean = shares.mean / np.float32(len(row) - 1)
    for item in row:
        blend(whole, 0, _ONE, history, np.int64(item) * width, _ONE, width)
    user = np.int64(u) * width
    bias = tables.user_bias[u]
    for t in range(len(row)):
        at = _place(places, ordered, t)
        heard = np.int64(row[at]) * width
        size = sizes[at]
        if t + 1 < len(row):
            later = _place(places, ordered, t + 1)
            for k in range(sizes[later]):
                prefetch(table, starts[later, k], width)
        put_together(move, users, user, whole, recent, history, heard, mean, width)
        dots(table, starts, at, size, width, vector, scores)
        for k in range(size):
            scores[k] += bias + item_bias[np.uint32(items[at, k])]
        bias -= step.rate * slopes(scores, size, times, at, pairwise, losses)
        for k in range(size):
            scores[k] *= step.rate
            item_bias[np.uint32(items[at, k])] -= scores[k]
        descend(table, starts, at, size, width, vector, scores, times, _NOTHING, step.lose_item)
        go_on(
            move,
            users,
            user,
            step.keep_user,
            kept,
            t * width,
            moved,
            recent,
            shares.decay,
            history,
            heard,
            shares.recent,
            width,
        )
    tables.user_bias[u] = bias
    vectors[3][:] = _NOTHING  # from here on: how the interactions later than t have moved
    for t in range(len(row) - 1, -1, -1):
        heard = np.int64(row[_place(places, ordered, t)]) * width
        go_back(
            history, heard, step.keep_user, moved, mean, recent, shares.decay, shares.recent, kept, t * width, width
        )


@njit(inline="always")
def _place(places, ordered, t):
    """Where in its row a user's interaction t is: by a pointer to the user's order, if there is one."""
    return np.int64(get(places, t)) if ordered else np.int64(t)


@njit(nogil=True, cache=True)
def user_vectors(first_user, last_user, indptr, indices, order, tables, shares, out):
    """The vectors of users after their whole history into ``out`` (U, D) float32."""
    width = tables.user.shape[1]
    users, history, known = tables.user.reshape(-1), tables.history.reshape(-1), out.reshape(-1)
    recent = np.zeros(width, dtype=np.float32)
    whole = np.zeros(width, dtype=np.float32)
    for u in range(first_user, last_user):
        row = indices[indptr[u] : indptr[u + 1]]
        places, ordered = pointer(order[indptr[u] : indptr[u + 1]]), len(order) > 0
        for column in range(width):
            recent[column] = whole[column] = _NOTHING
        for t in range(len(row)):
            heard = np.int64(row[_place(places, ordered, t)]) * width
            blend(whole, 0, _ONE, history, heard, _ONE, width)
            blend(recent, 0, shares.decay, history, heard, shares.recent, width)
        at = np.int64(u) * width
        blend(known, at, _NOTHING, users, at, _ONE, width)
        blend(known, at, _ONE, whole, 0, shares.mean / np.float32(max(len(row), 1)), width)
        blend(known, at, _ONE, recent, 0, _ONE, width)


@njit(nogil=True, cache=True)
def merge(shared, copies, first, last):
    """Add what each copy has changed to a range of ``shared`` (n,), in the order of ``copies`` (W, n), and copy it."""
    for at in range(first, last):
        old = shared[at]
        new = old
        for which in range(len(copies)):
            new += copies[which, at] - old
        shared[at] = new
    for which in range(len(copies)):
        for at in range(first, last):
            copies[which, at] = shared[at]
