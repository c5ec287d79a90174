"""Stochastic gradient descent on a matrix factorization, one interaction after the other, user by user."""

from typing import NamedTuple

import numpy as np
from numba import njit

from fastncf.kernels.cpu.negatives import make_sampler_scratch, sample_row
from fastncf.kernels.cpu.simd import LANES, descend, dots, prefetch, softplus

_ONE = np.float32(1)


class Factors(NamedTuple):
    """A model's own parameters: vectors (U, D) and (I, D), biases (U,) and (I,), all float32 and C-contiguous."""

    user: np.ndarray
    item: np.ndarray
    user_bias: np.ndarray
    item_bias: np.ndarray


def pad_to_lanes(factors: Factors) -> Factors:
    """The factors with columns of 0, which stay 0, up to a multiple of ``LANES``; the same ones where D is that."""
    columns = -factors.user.shape[1] % LANES
    if not columns:
        return factors
    return factors._replace(
        **{name: np.pad(getattr(factors, name), ((0, 0), (0, columns))) for name in ("user", "item")}
    )


def unpad_into(padded: Factors, factors: Factors) -> None:
    """Copy what :func:`pad_to_lanes` has copied back to where it came from."""
    if padded is not factors:
        dim = factors.user.shape[1]
        factors.user[:], factors.item[:] = padded.user[:, :dim], padded.item[:, :dim]


class Step(NamedTuple):
    """How far a step goes, all float32.

    Attributes:
        rate: what a sample's gradient is multiplied by.
        keep_user: what is left of the user's vector.
        lose_item: what is taken of an item's vector each time it was drawn.
    """

    rate: np.float32
    keep_user: np.float32
    lose_item: np.float32


@njit(nogil=True, cache=True)
def train_users(
    first_user, last_user, part, bounds, places, items, factors, num_negatives, pairwise, step, keys, weights
):
    """One step for each interaction of some users with the items of one part of the catalogue.

    Its negatives are drawn from the same part, so that nothing outside the part and the users is read or written.

    Args:
        first_user, last_user: range of users.
        part: number of the part.
        bounds: (U, parts + 1) int64; ``places[bounds[u, part]:bounds[u, part + 1]]`` are the user's interactions.
        places: (N,) int32, positions in ``items``, ascending for each user and part.
        items: (n,) int32, the items of the part.
        factors: moved in place; their width is a multiple of ``LANES``.
        num_negatives: K.
        pairwise: whether the loss is bpr; otherwise it is bce.
        step: rates.
        keys: of the draws, see :func:`fastncf.kernels.cpu.negatives.sample_row`.
        weights: of the draws, over ``items``.

    Returns:
        The loss of each sample, or of each pair, summed.
    """
    user_vectors, item_vectors, user_bias, item_bias = factors
    width = user_vectors.shape[1]
    table = item_vectors.reshape(-1)
    longest = 0
    for u in range(first_user, last_user):
        longest = max(longest, bounds[u, part + 1] - bounds[u, part])
    scratch = make_sampler_scratch(len(items), longest)
    drawn = np.empty(longest * num_negatives, dtype=np.int32)
    samples = make_samples(longest, num_negatives, len(items))
    scores = np.zeros(samples.times.shape[1], dtype=np.float32)
    losses = np.zeros(LANES, dtype=np.float32)
    vector = np.empty(width, dtype=np.float32)
    loss = 0.0
    for u in range(first_user, last_user):
        start, stop = bounds[u, part], bounds[u, part + 1]
        if start == stop:
            continue
        count = num_negatives if stop - start < len(items) else 0  # of a part that is touched throughout none is drawn
        negatives = drawn[: (stop - start) * count]
        sample_row(start * count, places[start:stop], keys, weights, scratch, negatives)
        gather(start, stop, places, negatives, items, width, samples)
        for at in range(width):
            vector[at] = user_vectors[u, at]
        user_bias[u] = _visit(
            stop - start, samples, table, width, vector, user_bias[u], item_bias, pairwise, step, scores, losses
        )
        for at in range(width):
            user_vectors[u, at] = vector[at]
        for lane in range(LANES):
            loss += losses[lane]
            losses[lane] = 0
    return loss


class Samples(NamedTuple):
    """Items of a user's interactions, each once, the positive first.

    Attributes:
        item: (rows, 1 + K) int32.
        start: (rows, 1 + K) int64, where their vectors start in the table.
        times: (rows, P) float32, how often each was drawn, then zeros; P is 1 + K rounded up to whole lanes.
        size: (rows,) int64, how many they are.
        last: (n,) int64, the last row of the data that each item of the part was met in.
    """

    item: np.ndarray
    start: np.ndarray
    times: np.ndarray
    size: np.ndarray
    last: np.ndarray


@njit(nogil=True, cache=True)
def make_samples(longest, num_negatives, num_items):
    """Room for a user's interactions, at most ``longest`` of them."""
    return Samples(
        np.empty((longest, 1 + num_negatives), dtype=np.int32),
        np.empty((longest, 1 + num_negatives), dtype=np.int64),
        np.empty((longest, (num_negatives + LANES) // LANES * LANES), dtype=np.float32),
        np.empty(longest, dtype=np.int64),
        np.full(num_items, -1, dtype=np.int64),
    )


@njit(nogil=True, cache=True)
def gather(start, stop, places, negatives, items, width, samples):
    """Fill ``samples`` with a user's interactions and what was drawn for them."""
    item, begin, times, size, last = samples
    count = len(negatives) // (stop - start)
    for at in range(stop - start):
        for k in range(times.shape[1]):
            times[at, k] = np.float32(0)
        item[at, 0] = items[np.uint32(places[start + at])]
        times[at, 0] = _ONE
        row = start + at
        found = np.uint64(1)
        for k in range(at * count, (at + 1) * count):
            place = np.uint32(negatives[k])
            if last[place] != row:
                last[place] = row
                item[at, found] = items[place]
                times[at, found] = _ONE
                found += np.uint64(1)
            else:
                which = np.uint64(1)
                while item[at, which] != items[place]:
                    which += np.uint64(1)
                times[at, which] += _ONE
        size[at] = found
        for k in range(found):
            begin[at, k] = np.int64(item[at, k]) * width


# Called, not inlined: an array that is taken out of a tuple, or handed to what is inlined, is counted, by a locked
# instruction. This is done for a user and not for an interaction, so the step stands in here and in histories._visit.
@njit(nogil=True, cache=True)
def _visit(count, samples, table, width, vector, bias, item_bias, pairwise, step, scores, losses):
    """Step after step for one user; returns its bias."""
    items, starts, times, sizes, _ = samples
    for at in range(count):
        size = sizes[at]
        if at + 1 < count:
            for k in range(sizes[at + 1]):
                prefetch(table, starts[at + 1, k], width)
        dots(table, starts, at, size, width, vector, scores)
        for k in range(size):
            scores[k] += bias + item_bias[np.uint32(items[at, k])]
        bias -= step.rate * slopes(scores, size, times, at, pairwise, losses)
        for k in range(size):
            scores[k] *= step.rate
            item_bias[np.uint32(items[at, k])] -= scores[k]
        descend(table, starts, at, size, width, vector, scores, times, step.keep_user, step.lose_item)
    return bias


@njit(inline="always")
def slopes(scores, size, times, at, pairwise, losses):
    """Replace scores by the slopes of the loss in them, the positive's first; returns their sum."""
    if pairwise:
        for k in range(1, size):
            scores[k] -= scores[0]
        times[at, 0] = np.float32(0)  # the positive has no loss of its own
        scores[0] = -softplus(scores, times, at, losses)
        times[at, 0] = _ONE
        return np.float32(0)
    scores[0] = -scores[0]  # -log sigmoid(x) is softplus(-x)
    total = softplus(scores, times, at, losses)
    scores[0] = -scores[0]
    return total + scores[0] + scores[0]


@njit(nogil=True, cache=True)
def group_by_part(first_user, last_user, indptr, indices, part_of, place_of, places, bounds):
    """Put each user's interactions in the order of their items' parts; see :func:`train_users` for what comes out."""
    parts = bounds.shape[1] - 1
    ends = np.empty(parts + 1, dtype=np.int64)
    for u in range(first_user, last_user):
        ends[:] = 0
        for row in range(indptr[u], indptr[u + 1]):
            ends[part_of[indices[row]] + 1] += 1
        ends[0] = indptr[u]
        for part in range(parts):
            ends[part + 1] += ends[part]
        for part in range(parts + 1):  # one array into another compiles a message for unequal shapes, as in split.py
            bounds[u, part] = ends[part]
        for row in range(indptr[u], indptr[u + 1]):
            part = part_of[indices[row]]
            places[ends[part]] = place_of[indices[row]]
            ends[part] += 1
