"""Training of a multilayer perceptron over two vectors, batch by batch, by threads that stay for many batches.

A batch is cut into chunks of whole interactions, which threads take as they come free. A chunk goes through in tiles of
some dozens of samples, forward and backward, in memory that stays in a core's cache: only ids and rows come from
further away, and they are asked for ahead of their use. Each chunk sums the gradients of the layers by itself; these
sums are added up in the order of the chunks, and a row's in the order of its samples, by one thread each: the bits do
not depend on how many threads there are.

What a tile works on is behind pointers, since numba counts the references to an array, for all threads in one place.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from fastncf.hashing import mix64
from fastncf.kernels.late import Table, is_marked, mark, point_to, rate_and_root, read_row, slot_of, tail, write_row
from fastncf.kernels.matrix import COLUMNS, MASKED, PLAIN, RECTIFIED, ROWS, multiply
from fastncf.kernels.meeting import meet, take_number
from fastncf.kernels.rows import (
    BETA_1,
    BETA_2,
    adam_step,
    add_row,
    add_rows,
    copy_row,
    dot,
    drop,
    multiply_rows,
    spread_slope,
)
from fastncf.kernels.simd import LANES, get, moved, pointer, prefetch, prefetch_to_read, put, softplus

CHUNKS = 32
COUNTERS = 64
_CLAIMS, _ARRIVALS = 0, 32  # on cache lines of their own
_SAMPLES_A_TILE = 40
_AHEAD = 1 << 17
_ONE, _ZERO = np.float32(1), np.float32(0)
_KEEP = np.float32(BETA_1), np.float32(BETA_2)


class Sizes(NamedTuple):
    """What is asked for, and how much there is of it; widths are multiples of 8.

    Attributes:
        num_users: rows that are users', which come first.
        num_negatives: K.
        product: width of the vectors that are multiplied with each other, which come first in a row.
        width: width of the vectors that enter the layers, which come behind.
        depth: L, number of layers.
        activations: their widths, summed.
        parameters: of the layers, n.
        output: where the weights of the product start; those of the last layer and the bias follow.
        batch: interactions in a batch.
        piece: interactions whose gradients are kept at a time, a multiple of those of a tile.
        own: rows that a thread may have to keep gradients of.
        pairwise: whether the loss is bpr; otherwise it is bce.
        l2, dropout: see :class:`~fastncf.config.Config`.
        seed: of the dropout.
    """

    num_users: int
    num_negatives: int
    product: int
    width: int
    depth: int
    activations: int
    parameters: int
    output: int
    batch: int
    piece: int
    own: int
    pairwise: bool
    l2: float
    dropout: float
    seed: np.uint64


class Arrays(NamedTuple):
    """What the threads share.

    Attributes:
        layers: (L,) int64: widths.
        weights: (L,) int64: where (inputs, outputs) matrices start; the first has the user's half first.
        biases: (L,) int64: where they start.
        places: (L,) int64: the widths of the layers before.
        mirror: (n,) int32: where a parameter lies in the copy that has (outputs, inputs) matrices.
        order, user, positive, negatives: (N,), (N,), (N,) and (N * K,) int32: the epoch; the order may be int64.
        rows, steps: (R * stride,) float32 and, the same memory, int32: see :class:`~fastncf.kernels.late.Table`.
        dense: (3 * n,) float32: values, means and mean squares of the layers' parameters.
        mirrored: (n,) float32: their values, by ``mirror``.
        ids: (a * (2 + K),) int32, for a piece and a tile more: rows of users, then of items.
        slopes: (a * (2 + K) * P,) float32: their gradients.
        gradients: (CHUNKS * n,) float32: the layers'.
        losses: (CHUNKS,) float64.
        counters: (COUNTERS,) int64: 0 at the start.
        room: of :func:`room_of_thread`.
    """

    layers: Any
    weights: Any
    biases: Any
    places: Any
    mirror: Any
    order: Any
    user: Any
    positive: Any
    negatives: Any
    rows: Any
    steps: Any
    dense: Any
    mirrored: Any
    ids: Any
    slopes: Any
    gradients: Any
    losses: Any
    counters: Any
    room: Any


class _Room(NamedTuple):
    """A thread's own memory: pointers to float32.

    Attributes:
        users, items: (G, P) and (S, P): the vectors of a tile.
        half: (G, W): the users' part of the first layer; later the gradients of it.
        activations, slopes: (S, W) of layer after layer: what a layer gives, and the gradients of what it got.
        products: (S, D).
        zeros: as many as any row has.
        own: (sizes.own, P): gradients of the rows that are the thread's.
    """

    users: Any
    items: Any
    half: Any
    activations: Any
    slopes: Any
    products: Any
    zeros: Any
    own: Any


@njit(nogil=True, cache=True)
def groups_a_tile(num_negatives):  # type: ignore[no-untyped-def]
    """Interactions in a tile, a multiple of ``ROWS``."""
    return ROWS * max(1, round(_SAMPLES_A_TILE / (ROWS * (1 + num_negatives))))


def room_of_thread(sizes: Sizes, widest: int) -> np.ndarray:
    """Where the parts of a :class:`_Room` start in a thread's memory, and where it ends; (9,) int64.

    Args:
        sizes: what is asked for.
        widest: the largest of the layers' widths.
    """
    groups, vector = groups_a_tile(sizes.num_negatives), sizes.product + sizes.width
    rows = groups * (1 + sizes.num_negatives)
    layers, zeros = rows * sizes.activations, max(widest, vector)
    parts = groups * vector, rows * vector, groups * widest, layers, layers, rows * sizes.product, zeros
    return np.cumsum([0, *parts, sizes.own * vector])


@njit(inline="always")
def owner(row, threads):  # type: ignore[no-untyped-def]
    """The thread that a row belongs to."""
    mixed = (np.uint64(row) * np.uint64(0x9E3779B1)) & np.uint64(0xFFFFFFFF)
    return np.int64((mixed * np.uint64(threads)) >> np.uint64(32))


@njit(nogil=True, cache=True)
def owners(rows, threads):  # type: ignore[no-untyped-def]
    """The threads (rows,) that rows belong to."""
    return np.array([owner(row, threads) for row in range(rows)])


@njit(nogil=True, cache=True, error_model="numpy")
def train_batches(  # type: ignore[no-untyped-def]
    thread, threads, first_batch, last_batch, steps_before, stride, sizes, arrays, pace, memory, own
):
    """Train some batches of an epoch; all threads are called with the same arguments, but for their own.

    Args:
        thread, threads: which of how many.
        first_batch, last_batch: range of batches.
        steps_before: steps before batch 0.
        stride: of a row.
        sizes, arrays, pace: see :class:`Sizes`, :class:`Arrays` and :class:`~fastncf.kernels.late.Pace`.
        memory: float32, zeros, as many as ``arrays.room`` says: the thread's own.
        own: (sizes.own,) int64: the thread's own.
    """
    counters, interactions = arrays.counters, len(arrays.order)
    length = sizes.product + sizes.width
    at = Arrays(
        pointer(arrays.layers),
        pointer(arrays.weights),
        pointer(arrays.biases),
        pointer(arrays.places),
        pointer(arrays.mirror),
        pointer(arrays.order),
        pointer(arrays.user),
        pointer(arrays.positive),
        pointer(arrays.negatives),
        pointer(arrays.rows),
        pointer(arrays.steps),
        pointer(arrays.dense),
        pointer(arrays.mirrored),
        pointer(arrays.ids),
        pointer(arrays.slopes),
        pointer(arrays.gradients),
        pointer(arrays.losses),
        0,
        0,
    )
    table, given, owned = Table(at.rows, at.steps, length, stride), point_to(pace), pointer(own)
    parts, first = arrays.room, pointer(memory)
    room = _Room(
        moved(first, parts[0]),
        moved(first, parts[1]),
        moved(first, parts[2]),
        moved(first, parts[3]),
        moved(first, parts[4]),
        moved(first, parts[5]),
        moved(first, parts[6]),
        moved(first, parts[7]),
    )
    per_tile = groups_a_tile(sizes.num_negatives)
    scores = np.zeros((per_tile * (1 + sizes.num_negatives) + LANES - 1) // LANES * LANES, dtype=np.float32)
    times, losses = np.zeros((1, len(scores)), dtype=np.float32), np.zeros(LANES, dtype=np.float32)
    share = (sizes.parameters // COLUMNS + threads - 1) // threads * COLUMNS
    part = min(thread * share, sizes.parameters), min((thread + 1) * share, sizes.parameters)
    ahead = max(1, min(4 * threads, _AHEAD // (4 * stride * (1 + sizes.num_negatives) * per_tile))) * per_tile
    claims, meetings = np.int64(0), np.int64(0)
    for batch in range(first_batch, last_batch):
        start = batch * sizes.batch
        stop = min(start + sizes.batch, interactions)
        step = steps_before + batch + 1
        before, now = tail(step - 1, given), tail(step, given)
        rate, root = rate_and_root(step, given)
        touched, chunks = np.int64(0), np.int64(0)
        for begin in range(start, stop, sizes.piece):
            groups = min(sizes.piece, stop - begin)
            per_chunk = ((groups + CHUNKS - 1) // CHUNKS + per_tile - 1) // per_tile * per_tile
            parts = (groups + per_chunk - 1) // per_chunk
            chunks = max(chunks, parts)
            while True:
                chunk = take_number(counters, _CLAIMS) - claims
                if chunk >= parts:
                    break
                if begin == start:
                    for place in range(chunk * sizes.parameters, (chunk + 1) * sizes.parameters):
                        put(at.gradients, place, _ZERO)
                for first in range(chunk * per_chunk, min((chunk + 1) * per_chunk, groups), per_tile):
                    last = min(first + per_tile, groups)
                    _look_ahead(begin + first, begin + last, ahead, interactions, sizes, at, table)
                    _train_tile(
                        chunk,
                        first,
                        last,
                        begin,
                        stop - start,
                        step,
                        before,
                        sizes,
                        at,
                        table,
                        given,
                        room,
                        scores,
                        times,
                        losses,
                    )
            claims += parts + threads
            meetings += threads
            meet(counters, _ARRIVALS, meetings)
            touched = _gather(thread, threads, groups, step, touched, sizes, at, table, room, owned)
            if begin + groups == stop:
                for place in range(touched):
                    if place + 4 < touched:
                        prefetch(at.rows, get(owned, place + 4) * stride, stride)
                    write_row(
                        table, get(owned, place), step, (room.own, place * length), before, now, rate, root, given
                    )
                if part[1] > part[0]:
                    _write_layers(part[0], part[1], chunks, rate, root, sizes, at)
            meetings += threads
            meet(counters, _ARRIVALS, meetings)


@njit(inline="always")
def _look_ahead(first, last, ahead, interactions, sizes, at, table):  # type: ignore[no-untyped-def]
    """Ask for the ids of interactions that come later, and for the rows of those whose ids should have come."""
    num_negatives = sizes.num_negatives
    for group in range(first + 2 * ahead, min(last + 2 * ahead, interactions)):
        place = np.int64(get(at.order, group))
        prefetch_to_read(at.user, place, 16)
        prefetch_to_read(at.positive, place, 16)
        prefetch_to_read(at.negatives, place * num_negatives, (num_negatives + 15) // 16 * 16)
    for group in range(first + ahead, min(last + ahead, interactions)):
        _ask_for(np.int64(get(at.order, group)), sizes, at, table)


@njit(inline="always")
def _ask_for(place, sizes, at, table):  # type: ignore[no-untyped-def]
    """Ask for the rows of an interaction."""
    num_negatives, stride = sizes.num_negatives, table.stride
    prefetch_to_read(at.rows, np.int64(get(at.user, place)) * stride, stride)
    prefetch_to_read(at.rows, (np.int64(get(at.positive, place)) + sizes.num_users) * stride, stride)
    for k in range(place * num_negatives, (place + 1) * num_negatives):
        prefetch_to_read(at.rows, (np.int64(get(at.negatives, k)) + sizes.num_users) * stride, stride)


@njit(nogil=True, cache=True, error_model="numpy")
def _gather(thread, threads, groups, step, touched, sizes, at, table, room, owned):  # type: ignore[no-untyped-def]
    """Sum the gradients of the rows that are a thread's own, in the order of the samples; returns how many they are."""
    length = sizes.product + sizes.width
    for start, stop in ((0, groups), (sizes.piece, sizes.piece + groups * (1 + sizes.num_negatives))):
        for place in range(start, stop):
            row = np.int64(get(at.ids, place))
            if owner(row, threads) != thread:
                continue
            what = at.slopes, place * length
            if is_marked(table, row, step):
                add_row((room.own, slot_of(table, row) * length), what, _ONE, length)
            else:
                mark(table, row, step, touched)
                copy_row((room.own, touched * length), what, length)
                put(owned, touched, row)
                touched += 1
    return touched


@njit(nogil=True, cache=True, error_model="numpy")
def _write_layers(start, stop, chunks, rate, root, sizes, at):  # type: ignore[no-untyped-def]
    """Sum the chunks' gradients of a part of the layers' parameters, and take the step."""
    size, width = sizes.parameters, stop - start
    gradient = at.gradients, start
    add_rows(gradient, (at.gradients, size + start), size, chunks - 1, width)
    adam_step((at.dense, start), gradient, size, width, _KEEP, rate, root)
    for place in range(start, stop):
        put(at.mirrored, np.int64(get(at.mirror, place)), get(at.dense, place))


@njit(nogil=True, cache=True, error_model="numpy")
def _read_rows(first, last, begin, step, before, sizes, at, table, pace, room):  # type: ignore[no-untyped-def]
    """Ids and vectors of a tile's interactions; what is left of its room becomes 0."""
    num_negatives, length = sizes.num_negatives, table.width
    sample, to = 0, sizes.piece + first * (1 + num_negatives)
    for group in range(first, last):
        if group + 1 < last:  # it was asked for long ago, but another thread may have it by now
            _ask_for(np.int64(get(at.order, begin + group + 1)), sizes, at, table)
        place = np.int64(get(at.order, begin + group))
        put(at.ids, group, get(at.user, place))
        row = np.int64(get(at.user, place))
        read_row((room.users, (group - first) * length), table, row, step - 1, before, pace)
        for k in range(-1, num_negatives):
            item = get(at.positive, place) if k < 0 else get(at.negatives, place * num_negatives + k)
            row = np.int64(item) + sizes.num_users
            put(at.ids, to + sample, np.int32(row))
            read_row((room.items, sample * length), table, row, step - 1, before, pace)
            sample += 1
    count = last - first
    for more in range(count, (count + ROWS - 1) // ROWS * ROWS):
        multiply_rows((room.users, more * length), (room.zeros, 0), (room.zeros, 0), length)
        for k in range(more * (1 + num_negatives), (more + 1) * (1 + num_negatives)):
            copy_row((room.items, k * length), (room.zeros, 0), length)


@njit(nogil=True, cache=True, error_model="numpy")
def _train_tile(  # type: ignore[no-untyped-def]
    chunk, first, last, begin, in_batch, step, before, sizes, at, table, pace, room, scores, times, losses
):
    """Forward and backward over the interactions ``first`` to ``last`` of a piece that starts at ``begin``.

    A user's half of the first layer is computed once for its 1 + K samples, in both directions.
    """
    count, per = last - first, 1 + sizes.num_negatives
    groups = (count + ROWS - 1) // ROWS * ROWS
    samples, rows = count * per, groups * per
    product, inputs, length = sizes.product, sizes.width, table.width
    dense, acts, slopes = at.dense, room.activations, room.slopes
    gradients = moved(at.gradients, chunk * sizes.parameters)
    start, next_ = np.int64(0), np.int64(1)  # literals would have multiply compiled anew
    zeros = room.zeros, start, start
    _read_rows(first, last, begin, step, before, sizes, at, table, pace, room)

    # Forward.
    wide, user_weights, user_bias = get(at.layers, 0), get(at.weights, 0), get(at.biases, 0)
    item_weights = user_weights + inputs * wide
    half, bottom = (room.half, start, wide), (acts, start, wide)
    users, items = (room.users, product, length, next_), (room.items, product, length, next_)
    of_users, of_items = (dense, user_weights, wide), (dense, item_weights, wide)
    multiply(groups, wide, inputs, users, of_users, (dense, user_bias, start), half, PLAIN, acts, _ONE)
    for g in range(groups):
        for s in range(g * per, (g + 1) * per):
            copy_row((acts, s * wide), (room.half, g * wide), wide)
    multiply(rows, wide, inputs, items, of_items, bottom, bottom, RECTIFIED, acts, _ONE)
    noise = mix64(mix64(sizes.seed + np.uint64(step)) + np.uint64(begin + first))
    if sizes.dropout:
        drop((acts, 0), rows * wide, sizes.dropout, noise)
    for layer in range(1, sizes.depth):
        below, own = get(at.layers, layer - 1), get(at.layers, layer)
        x = acts, rows * get(at.places, layer - 1), below, next_
        y = acts, rows * get(at.places, layer), own
        matrix, bias = (dense, get(at.weights, layer), own), (dense, get(at.biases, layer), start)
        multiply(rows, own, below, x, matrix, bias, y, RECTIFIED, acts, _ONE)
        if sizes.dropout:
            drop((acts, y[1]), rows * own, sizes.dropout, mix64(noise + np.uint64(layer)))
    top, top_at = get(at.layers, sizes.depth - 1), rows * get(at.places, sizes.depth - 1)
    of_product, of_top = (dense, sizes.output), (dense, sizes.output + product)
    bias_at = sizes.output + product + top
    for g in range(count):
        for s in range(g * per, (g + 1) * per):
            score = get(dense, bias_at) + dot((acts, top_at + s * top), of_top, top)
            if product:
                own_product = room.products, s * product
                multiply_rows(own_product, (room.users, g * length), (room.items, s * length), product)
                score += dot(own_product, of_product, product)
            scores[s] = score
    loss = _slope_scores(count, per, sizes.pairwise, in_batch, scores, times, losses)
    put(at.losses, chunk, get(at.losses, chunk) + loss)

    # Backward.
    gain = np.float32(1 / (1 - sizes.dropout))
    for s in range(samples):
        activation, slope = (acts, top_at + s * top), scores[s]
        spread_slope((slopes, top_at + s * top), slope * gain, of_top, activation, top)
        add_row((gradients, sizes.output + product), activation, slope, top)
        if product:
            add_row((gradients, sizes.output), (room.products, s * product), slope, product)
        put(gradients, bias_at, get(gradients, bias_at) + slope)
    for s in range(samples, rows):
        copy_row((slopes, top_at + s * top), (room.zeros, 0), top)
    for layer in range(sizes.depth - 1, 0, -1):
        below, own = get(at.layers, layer - 1), get(at.layers, layer)
        x_at, y_at, matrix_at = rows * get(at.places, layer - 1), rows * get(at.places, layer), get(at.weights, layer)
        add_rows((gradients, get(at.biases, layer)), (slopes, y_at), own, rows, own)
        to = gradients, matrix_at, own
        multiply(below, own, rows, (acts, x_at, next_, below), (slopes, y_at, own), to, to, PLAIN, acts, _ONE)
        y, matrix, x = (slopes, y_at, own, next_), (at.mirrored, matrix_at, below), (slopes, x_at, below)
        multiply(rows, below, own, y, matrix, zeros, x, MASKED, acts, gain)
    for g in range(groups):
        copy_row((room.half, g * wide), (room.zeros, 0), wide)
        add_rows((room.half, g * wide), (slopes, g * per * wide), wide, per, wide)
    add_rows((gradients, user_bias), (room.half, 0), wide, groups, wide)
    to = gradients, user_weights, wide
    multiply(inputs, wide, groups, (room.users, product, next_, length), half, to, to, PLAIN, acts, _ONE)
    to = gradients, item_weights, wide
    multiply(inputs, wide, rows, (room.items, product, next_, length), (slopes, start, wide), to, to, PLAIN, acts, _ONE)
    user_at, item_at = first * length, (sizes.piece + first * per) * length
    matrix, to = (at.mirrored, user_weights, inputs), (at.slopes, user_at + product, length)
    multiply(groups, inputs, wide, (room.half, start, wide, next_), matrix, zeros, to, PLAIN, acts, _ONE)
    matrix, to = (at.mirrored, item_weights, inputs), (at.slopes, item_at + product, length)
    multiply(rows, inputs, wide, (slopes, start, wide, next_), matrix, zeros, to, PLAIN, acts, _ONE)
    if product:
        _spread_product(count, per, product, length, of_product, room, scores, (at.slopes, user_at, item_at))
    if sizes.l2:
        share = 2 * sizes.l2 / in_batch
        add_row((at.slopes, user_at), (room.users, 0), np.float32(share), count * length)
        add_row((at.slopes, item_at), (room.items, 0), np.float32(share / per), samples * length)


@njit(nogil=True, cache=True, error_model="numpy")
def _spread_product(count, per, product, length, weights, room, scores, to):  # type: ignore[no-untyped-def]
    """Gradients of the vectors that are multiplied with each other."""
    slopes, user_at, item_at = to
    for g in range(count):
        user, of_user = (room.users, g * length), (slopes, user_at + g * length)
        copy_row(of_user, (room.zeros, 0), product)
        for s in range(g * per, (g + 1) * per):
            of_item, part = (slopes, item_at + s * length), (room.products, s * product)
            multiply_rows(part, weights, user, product)
            copy_row(of_item, (room.zeros, 0), product)
            add_row(of_item, part, scores[s], product)
            multiply_rows(part, weights, (room.items, s * length), product)
            add_row(of_user, part, scores[s], product)


@njit(nogil=True, cache=True, error_model="numpy")
def _slope_scores(count, per, pairwise, in_batch, scores, times, losses):  # type: ignore[no-untyped-def]
    """Scores become the slopes of the batch's mean loss in them; returns the loss, summed."""
    samples = count * per
    for s in range(len(scores)):
        times[0, s] = _ONE if s < samples else _ZERO
        if s >= samples:
            scores[s] = _ZERO
    for first in range(0, samples, per):
        if pairwise:
            times[0, first] = _ZERO  # the positive has no loss of its own
            for s in range(first + 1, first + per):
                scores[s] -= scores[first]
        else:
            scores[first] = -scores[first]  # -log sigmoid(x) is softplus(-x)
    softplus(scores, times, 0, losses)
    share = np.float32(1 / (in_batch * (per - 1 if pairwise else per)))
    for first in range(0, samples, per):
        if pairwise:
            scores[first] = _ZERO
            for s in range(first + 1, first + per):
                scores[first] += scores[s]
        scores[first] = -scores[first]
        for s in range(first, first + per):
            scores[s] *= share
    loss = 0.0
    for lane in range(LANES):
        loss += losses[lane]
        losses[lane] = _ZERO
    return loss
