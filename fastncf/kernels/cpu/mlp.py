"""Training of a multilayer perceptron over two vectors, batch by batch, by threads that stay for many batches.

A batch is cut into chunks of whole interactions. Each thread has its share of them, so that it knows what comes next,
and takes others' when it is through. A chunk goes through in tiles of some dozens of samples, forward and backward, in
memory that stays in a core's cache: only rows come from further away, and they are asked for ahead of their use. Which
rows a batch needs is listed while the batch before it is trained. Each chunk sums the gradients of the layers by
itself; these sums are added up in the order of the chunks, by one thread each. A row that a batch needs once is read
and written with its tile; the gradients of the others are added up in the order of their samples, by one thread each.
The bits do not depend on how many threads there are.

What a tile works on is behind pointers, since numba counts the references to an array, for all threads in one place.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from fastncf.kernels.cpu.barrier import fetch_add, meet
from fastncf.kernels.cpu.gemm import COLUMN_MAJOR, COLUMNS, MASKED, PLAIN, RECTIFIED, ROW_MAJOR, ROWS, multiply
from fastncf.kernels.cpu.hashing import mix64
from fastncf.kernels.cpu.lazy_adam import (
    Table,
    ask_for_mark,
    is_marked,
    make_step,
    mark,
    point_to,
    read_row,
    slot_of,
    write_row,
)
from fastncf.kernels.cpu.losses import LossBuffers, batch_loss_gradients
from fastncf.kernels.cpu.rows import (
    BETA_1,
    BETA_2,
    adam_step,
    add_row,
    add_rows,
    copy_row,
    dot,
    dot_of_three,
    drop,
    multiply_rows,
    spread_product,
    spread_slopes,
)
from fastncf.kernels.cpu.simd import LANES, get, offset, pointer, prefetch, prefetch_to_read, put

CHUNKS = 32
_ARRIVALS = 0
_LINE = 16  # numbers, so that what threads write is on cache lines of their own
_SAMPLES_A_TILE = 40
_AHEAD = 1 << 17
_IDS_AHEAD, _SEEN_AHEAD, _ROWS_AHEAD, _MARKS_AHEAD, _SUMS_AHEAD = 16, 16, 6, 16, 4
_AT_ONCE = 1_024
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
        loss: code of the loss, see :mod:`fastncf.kernels.cpu.losses`.
        num_terms: terms of the loss of an interaction.
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
    loss: int
    num_terms: int
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
        rows, steps: (R * stride,) float32 and, the same memory, int32: see :class:`~fastncf.kernels.cpu.lazy_adam.Table`.
        dense: (3 * n,) float32: values, means and mean squares of the layers' parameters.
        mirrored: (n,) float32: their values, by ``mirror``.
        needed: (min(2 * batch, N) * (2 + K),) int32, or more: the rows that a batch needs, and those of the next one,
            interaction after interaction: the user's, the positive's, the negatives'; -1 once a row has its step.
        slopes: (a * (2 + K) * P,) float32, for a piece: the gradients of those that the batch needs more than once.
        seen: (R,) int32: twice the step in which a row was last needed, and 1 if more than once.
        gradients: (CHUNKS * n,) float32: the layers'.
        losses: (CHUNKS,) float64.
        counters: (:func:`num_counters`,) int64: 0 at the start.
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
    needed: Any
    slopes: Any
    seen: Any
    gradients: Any
    losses: Any
    counters: Any
    room: Any


class _Course(NamedTuple):
    """What a thread trains later; interactions are counted within their batch.

    Attributes:
        ahead: how many interactions before their use rows are asked for.
        end: the thread's share of a piece ends there.
        after, limit: its share of the next piece starts there, and that one's batch ends there.
        here, there: where the rows of the batch, and of the next piece's, start among those that are needed.
    """

    ahead: int
    end: int
    after: int
    limit: int
    here: int
    there: int


class _Room(NamedTuple):
    """A thread's own memory: pointers to float32.

    Attributes:
        users, items: (G, P) and (S, P): the vectors of a tile.
        half: (G, W): the users' part of the first layer; later the gradients of it.
        activations: (S, W) of layer after layer: what a layer gives; later the gradients of what it got.
        gradients: (G + S, P): of the vectors of a tile.
        zeros: as many as any row has.
        own: (sizes.own, P): gradients of the rows that are the thread's.
    """

    users: Any
    items: Any
    half: Any
    activations: Any
    gradients: Any
    zeros: Any
    own: Any


def num_counters(threads: int) -> int:
    """Numbers that threads count with: how many have arrived, and chunks that were taken of each one's share."""
    return _LINE * (1 + threads)


@njit(inline="always")
def _cut(groups, per_tile):
    """Interactions in a chunk of a piece, whole tiles, and how many chunks it has."""
    per_chunk = ((groups + CHUNKS - 1) // CHUNKS + per_tile - 1) // per_tile * per_tile
    return per_chunk, (groups + per_chunk - 1) // per_chunk


@njit(nogil=True, cache=True)
def groups_a_tile(num_negatives):
    """Interactions in a tile, a multiple of ``ROWS``."""
    return ROWS * max(1, round(_SAMPLES_A_TILE / (ROWS * (1 + num_negatives))))


def room_of_thread(sizes: Sizes, widest: int) -> np.ndarray:
    """Where the parts of a :class:`_Room` start in a thread's memory, and where it ends; (8,) int64.

    Args:
        sizes: what is asked for.
        widest: the largest of the layers' widths.
    """
    groups, vector = groups_a_tile(sizes.num_negatives), sizes.product + sizes.width
    rows = groups * (1 + sizes.num_negatives)
    layers, zeros = rows * sizes.activations, max(widest, vector)
    parts = groups * vector, rows * vector, groups * widest, layers, (groups + rows) * vector, zeros
    return np.cumsum([0, *parts, sizes.own * vector])


@njit(inline="always")
def owner(row, threads):
    """The thread that a row belongs to."""
    mixed = (np.uint64(row) // np.uint64(_LINE) * np.uint64(0x9E3779B1)) & np.uint64(0xFFFFFFFF)
    return np.int64((mixed * np.uint64(threads)) >> np.uint64(32))


@njit(nogil=True, cache=True)
def owners(rows, threads):
    """The threads (rows,) that rows belong to."""
    return np.array([owner(row, threads) for row in range(rows)])


@njit(nogil=True, cache=True, error_model="numpy")
def train_batches(thread, threads, first_batch, last_batch, steps_before, stride, sizes, arrays, pace, memory, own):
    """Train some batches of an epoch; all threads are called with the same arguments, but for their own.

    Args:
        thread, threads: which of how many.
        first_batch, last_batch: range of batches.
        steps_before: steps before batch 0.
        stride: of a row.
        sizes, arrays, pace: see :class:`Sizes`, :class:`Arrays` and :class:`~fastncf.kernels.cpu.lazy_adam.AdamSchedule`.
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
        pointer(arrays.needed),
        pointer(arrays.slopes),
        pointer(arrays.seen),
        pointer(arrays.gradients),
        pointer(arrays.losses),
        0,
        0,
    )
    table, given, owned = Table(at.rows, at.steps, length, stride), point_to(pace), pointer(own)
    parts, first = arrays.room, pointer(memory)
    room = _Room(
        offset(first, parts[0]),
        offset(first, parts[1]),
        offset(first, parts[2]),
        offset(first, parts[3]),
        offset(first, parts[4]),
        offset(first, parts[5]),
        offset(first, parts[6]),
    )
    per_tile = groups_a_tile(sizes.num_negatives)
    scores = np.zeros((per_tile * (1 + sizes.num_negatives) + LANES - 1) // LANES * LANES, dtype=np.float32)
    times, losses = np.zeros(len(scores), dtype=np.float32), np.zeros(LANES, dtype=np.float32)
    found = np.zeros(_AT_ONCE, dtype=np.int32)
    share = (sizes.parameters // COLUMNS + threads - 1) // threads * COLUMNS
    part = min(thread * share, sizes.parameters), min((thread + 1) * share, sizes.parameters)
    ahead = max(1, min(4, _AHEAD // (4 * stride * (1 + sizes.num_negatives) * per_tile))) * per_tile
    per = 2 + sizes.num_negatives
    claims, meetings = np.zeros(threads, dtype=np.int64), np.int64(2 * threads)
    _list(thread, threads, first_batch, interactions, sizes, at)
    meet(counters, _ARRIVALS, np.int64(threads))
    _look(thread, threads, first_batch, interactions, steps_before + first_batch + 1, sizes, at, found)
    meet(counters, _ARRIVALS, meetings)
    for batch in range(first_batch, last_batch):
        in_batch, in_next = _size(batch, interactions, sizes), _size(batch + 1, interactions, sizes)
        here, there = batch % 2 * sizes.batch * per, (batch + 1) % 2 * sizes.batch * per
        step = make_step(steps_before + batch + 1, given)
        touched, chunks = np.int64(0), np.int64(0)
        if batch + 1 < last_batch:
            _list(thread, threads, batch + 1, interactions, sizes, at)
        for begin in range(0, in_batch, sizes.piece):
            groups = min(sizes.piece, in_batch - begin)
            per_chunk, parts = _cut(groups, per_tile)
            chunks = max(chunks, parts)
            after, limit, where = begin + sizes.piece, in_batch, here
            if after >= in_batch:
                after, limit, where = 0, in_next, there
            per_later, parts_later = _cut(max(min(sizes.piece, limit - after), 1), per_tile)
            after += parts_later * thread // threads * per_later
            for turn in range(threads):  # its own chunks, then what others have not yet begun
                whose = (thread + turn) % threads
                lowest, end = parts * whose // threads, parts * (whose + 1) // threads
                course = _Course(ahead, begin + min(end * per_chunk, groups), after, limit, here, where)
                while True:
                    chunk = lowest + fetch_add(counters, _LINE * (1 + whose)) - claims[whose]
                    if chunk >= end:
                        break
                    if begin == 0:  # matrices are written by the first tile, to what is behind them all tiles add
                        for place in range(get(at.biases, 0), sizes.parameters):
                            put(at.gradients, chunk * sizes.parameters + place, _ZERO)
                    for first in range(chunk * per_chunk, min((chunk + 1) * per_chunk, groups), per_tile):
                        last = min(first + per_tile, groups)
                        _train_tile(
                            chunk,
                            first,
                            last,
                            begin,
                            course,
                            in_batch,
                            begin == 0 and first == chunk * per_chunk,
                            step,
                            sizes,
                            at,
                            table,
                            given,
                            room,
                            scores,
                            times,
                            losses,
                        )
                claims[whose] += end - lowest + threads
            meetings += threads
            meet(counters, _ARRIVALS, meetings)
            touched = _gather(
                thread, threads, here + begin * per, groups * per, step.number, touched, at, table, room, owned, found
            )
            if begin + groups == in_batch:
                for place in range(touched):
                    if place + 4 < touched:
                        prefetch(at.rows, get(owned, place + 4) * stride, stride)
                    row = get(owned, place)
                    values = at.rows, row * stride
                    read_row(values, table, row, step.number - 1, step.before, given)
                    write_row(table, row, step, values, (room.own, place * length), given)
                if part[1] > part[0]:
                    _write_layers(part[0], part[1], chunks, step, sizes, at)
                if batch + 1 < last_batch:
                    _look(thread, threads, batch + 1, interactions, step.number + 1, sizes, at, found)
            meetings += threads
            meet(counters, _ARRIVALS, meetings)


@njit(inline="always")
def _size(batch, interactions, sizes):
    """Interactions in a batch."""
    return max(min(sizes.batch, interactions - batch * sizes.batch), 0)


@njit(nogil=True, cache=True, error_model="numpy")
def _list(thread, threads, batch, interactions, sizes, at):
    """List the rows that a thread's share of a batch needs."""
    num_negatives, size = sizes.num_negatives, _size(batch, interactions, sizes)
    first, last = size * thread // threads, size * (thread + 1) // threads
    to = (batch % 2 * sizes.batch + first) * (2 + num_negatives)
    for group in range(batch * sizes.batch + first, batch * sizes.batch + last):
        if group + _IDS_AHEAD < interactions:
            place = np.int64(get(at.order, group + _IDS_AHEAD))
            prefetch_to_read(at.user, place, _LINE)
            prefetch_to_read(at.positive, place, _LINE)
            prefetch_to_read(at.negatives, place * num_negatives, (num_negatives + _LINE - 1) // _LINE * _LINE)
        place = np.int64(get(at.order, group))
        put(at.needed, to, get(at.user, place))
        put(at.needed, to + 1, np.int32(get(at.positive, place) + sizes.num_users))
        for k in range(num_negatives):
            item = get(at.negatives, place * num_negatives + k)
            put(at.needed, to + 2 + k, np.int32(item + sizes.num_users))
        to += 2 + num_negatives


@njit(inline="always")
def _find_own(thread, threads, first, last, at, found):
    """Put side by side the places of a thread's own rows that still have no step; returns how many they are."""
    count = 0
    for place in range(first, last):
        row = get(at.needed, place)
        found[count] = place
        count += (row >= 0) & (owner(row, threads) == thread)  # a branch would be foretold wrongly half of the time
    return count


@njit(nogil=True, cache=True, error_model="numpy")
def _look(thread, threads, batch, interactions, step, sizes, at, found):
    """Note which of a thread's rows a batch needs, and which of them more than once."""
    start = batch % 2 * sizes.batch * (2 + sizes.num_negatives)
    stop = start + _size(batch, interactions, sizes) * (2 + sizes.num_negatives)
    for first in range(start, stop, len(found)):
        count = _find_own(thread, threads, first, min(first + len(found), stop), at, found)
        for which in range(count):
            if which + _SEEN_AHEAD < count:
                prefetch(at.seen, np.int64(get(at.needed, found[which + _SEEN_AHEAD])), _LINE)
            row = np.int64(get(at.needed, found[which]))
            put(at.seen, row, np.int32(2 * step + (get(at.seen, row) >= 2 * step)))


@njit(inline="always")
def _look_ahead(group, course, per, at, table):
    """Ask for the rows of an interaction that comes later."""
    later, start, limit = group + course.ahead, course.here, course.end
    if later >= course.end:
        later, start, limit = course.after + later - course.end, course.there, course.limit
    if later < limit:
        for place in range(start + later * per, start + (later + 1) * per):
            prefetch_to_read(at.rows, np.int64(get(at.needed, place)) * table.stride, table.stride)


@njit(nogil=True, cache=True, error_model="numpy")
def _gather(thread, threads, start, count, step, touched, at, table, room, owned, found):
    """Sum the gradients of the rows that are a thread's own, in the order of the samples; returns how many they are."""
    length, stop = table.width, start + count
    for first in range(start, stop, len(found)):
        own = _find_own(thread, threads, first, min(first + len(found), stop), at, found)
        for which in range(own):
            if which + _MARKS_AHEAD < own:
                ask_for_mark(table, np.int64(get(at.needed, found[which + _MARKS_AHEAD])))
            if which + _SUMS_AHEAD < own:
                later = np.int64(get(at.needed, found[which + _SUMS_AHEAD]))
                if is_marked(table, later, step):
                    prefetch(room.own, slot_of(table, later) * length, length)
            place = np.int64(found[which])
            row, what = np.int64(get(at.needed, place)), (at.slopes, (place - start) * length)
            if is_marked(table, row, step):
                add_row((room.own, slot_of(table, row) * length), what, _ONE, length)
            else:
                mark(table, row, step, touched)
                copy_row((room.own, touched * length), what, length)
                put(owned, touched, row)
                touched += 1
    return touched


@njit(nogil=True, cache=True, error_model="numpy")
def _write_layers(start, stop, chunks, step, sizes, at):
    """Sum the chunks' gradients of a part of the layers' parameters, and take the step."""
    size, width = sizes.parameters, stop - start
    gradient = at.gradients, start
    add_rows(gradient, (at.gradients, size + start), size, chunks - 1, width)
    adam_step((at.dense, start), (at.dense, start), gradient, size, width, _KEEP, step.rate, step.root)
    for place in range(start, stop):
        put(at.mirrored, np.int64(get(at.mirror, place)), get(at.dense, place))


@njit(nogil=True, cache=True, error_model="numpy")
def _read_rows(first, last, course, step, sizes, at, table, pace, room):
    """Vectors of a batch's interactions ``first`` to ``last``; what is left of a tile's room becomes 0."""
    num_negatives, length, count, per = sizes.num_negatives, table.width, last - first, 2 + sizes.num_negatives
    end = course.here + last * per
    for group in range(count):
        _look_ahead(first + group, course, per, at, table)
        for k in range(per):
            place = course.here + (first + group) * per + k
            if place + _ROWS_AHEAD < end:  # it was asked for long ago, but may have gone by now
                later = np.int64(get(at.needed, place + _ROWS_AHEAD))
                prefetch_to_read(at.rows, later * table.stride, table.stride)
            to = (room.items, (group * (per - 1) + k - 1) * length) if k else (room.users, group * length)
            row = np.int64(get(at.needed, place))
            prefetch_to_read(at.seen, row, _LINE)  # for when it is written
            read_row(to, table, row, step.number - 1, step.before, pace)
    for more in range(count, (count + ROWS - 1) // ROWS * ROWS):
        multiply_rows((room.users, more * length), (room.zeros, 0), (room.zeros, 0), length)
        for k in range(more * (1 + num_negatives), (more + 1) * (1 + num_negatives)):
            copy_row((room.items, k * length), (room.zeros, 0), length)


@njit(nogil=True, cache=True, error_model="numpy")
def _train_tile(
    chunk, first, last, begin, course, in_batch, fresh, step, sizes, at, table, pace, room, scores, times, losses
):
    """Forward and backward over the interactions ``first`` to ``last`` of a piece that starts at ``begin``.

    What is ``fresh`` is the first tile of a chunk: nothing is there yet that the matrices' gradients are added to. A
    user's half of the first layer is computed once for its 1 + K samples, in both directions.
    """
    count, per = last - first, 1 + sizes.num_negatives
    groups = (count + ROWS - 1) // ROWS * ROWS
    samples, rows = count * per, groups * per
    product, inputs, length = sizes.product, sizes.width, table.width
    dense, acts = at.dense, room.activations
    gradients = offset(at.gradients, chunk * sizes.parameters)
    start = np.int64(0)  # a literal would have multiply compiled anew
    zeros = room.zeros, start, start
    _read_rows(begin + first, begin + last, course, step, sizes, at, table, pace, room)

    # Forward.
    wide, user_weights, user_bias = get(at.layers, 0), get(at.weights, 0), get(at.biases, 0)
    item_weights = user_weights + inputs * wide
    half, bottom = (room.half, start, wide), (acts, start, wide)
    users, items = (room.users, product, length), (room.items, product, length)
    of_users, of_items = (dense, user_weights, wide), (dense, item_weights, wide)
    multiply(groups, wide, inputs, users, ROW_MAJOR, of_users, (dense, user_bias, start), half, PLAIN, acts, _ONE)
    for g in range(groups):
        for s in range(g * per, (g + 1) * per):
            copy_row((acts, s * wide), (room.half, g * wide), wide)
    multiply(rows, wide, inputs, items, ROW_MAJOR, of_items, bottom, bottom, RECTIFIED, acts, _ONE)
    noise = mix64(mix64(sizes.seed + np.uint64(step.number)) + np.uint64(begin + first))
    if sizes.dropout:
        drop((acts, 0), rows * wide, sizes.dropout, noise)
    for layer in range(1, sizes.depth):
        below, own = get(at.layers, layer - 1), get(at.layers, layer)
        x = acts, rows * get(at.places, layer - 1), below
        y = acts, rows * get(at.places, layer), own
        matrix, bias = (dense, get(at.weights, layer), own), (dense, get(at.biases, layer), start)
        multiply(rows, own, below, x, ROW_MAJOR, matrix, bias, y, RECTIFIED, acts, _ONE)
        if sizes.dropout:
            drop((acts, y[1]), rows * own, sizes.dropout, mix64(noise + np.uint64(layer)))
    top, top_at = get(at.layers, sizes.depth - 1), rows * get(at.places, sizes.depth - 1)
    of_product, of_top = (dense, sizes.output), (dense, sizes.output + product)
    bias_at = sizes.output + product + top
    for g in range(count):
        for s in range(g * per, (g + 1) * per):
            score = get(dense, bias_at) + dot((acts, top_at + s * top), of_top, top)
            if product:
                user, item = (room.users, g * length), (room.items, s * length)
                score += dot_of_three(user, item, of_product, product)
            scores[s] = score
    buffers = LossBuffers(pointer(scores), pointer(times), pointer(losses), np.int64(len(scores)))
    scale = np.float32(1 / (in_batch * sizes.num_terms))
    loss = batch_loss_gradients(buffers, count, per, scale, sizes.loss)
    put(at.losses, chunk, get(at.losses, chunk) + loss)

    # Backward.
    gain = np.float32(1 / (1 - sizes.dropout))
    of_scores = pointer(scores), start
    spread_slopes((acts, top_at), of_top, of_scores, rows, top, gain, (gradients, sizes.output + product))
    total = get(gradients, bias_at)
    for s in range(samples):
        total += scores[s]
    put(gradients, bias_at, total)
    for layer in range(sizes.depth - 1, 0, -1):
        below, own = get(at.layers, layer - 1), get(at.layers, layer)
        x_at, y_at, matrix_at = rows * get(at.places, layer - 1), rows * get(at.places, layer), get(at.weights, layer)
        add_rows((gradients, get(at.biases, layer)), (acts, y_at), own, rows, own)
        to = gradients, matrix_at, own
        before = zeros if fresh else to
        multiply(below, own, rows, (acts, x_at, below), COLUMN_MAJOR, (acts, y_at, own), before, to, PLAIN, acts, _ONE)
        y, matrix, x = (acts, y_at, own), (at.mirrored, matrix_at, below), (acts, x_at, below)
        multiply(rows, below, own, y, ROW_MAJOR, matrix, zeros, x, MASKED, acts, gain)
    for g in range(groups):
        copy_row((room.half, g * wide), (room.zeros, 0), wide)
        add_rows((room.half, g * wide), (acts, g * per * wide), wide, per, wide)
    add_rows((gradients, user_bias), (room.half, 0), wide, groups, wide)
    to, users = (gradients, user_weights, wide), (room.users, product, length)
    multiply(inputs, wide, groups, users, COLUMN_MAJOR, half, zeros if fresh else to, to, PLAIN, acts, _ONE)
    to, items = (gradients, item_weights, wide), (room.items, product, length)
    multiply(
        inputs, wide, rows, items, COLUMN_MAJOR, (acts, start, wide), zeros if fresh else to, to, PLAIN, acts, _ONE
    )
    of_rows, of_item = room.gradients, groups * length
    matrix, to = (at.mirrored, user_weights, inputs), (of_rows, product, length)
    multiply(groups, inputs, wide, half, ROW_MAJOR, matrix, zeros, to, PLAIN, acts, _ONE)
    matrix, to = (at.mirrored, item_weights, inputs), (of_rows, of_item + product, length)
    multiply(rows, inputs, wide, (acts, start, wide), ROW_MAJOR, matrix, zeros, to, PLAIN, acts, _ONE)
    if product:
        for g in range(count):
            user, item = (room.users, g * length), (room.items, g * per * length)
            to = of_rows, g * length, of_item + g * per * length, gradients, sizes.output
            spread_product(user, item, of_product, (pointer(scores), g * per), per, length, product, to)
    if sizes.l2:
        share = 2 * sizes.l2 / in_batch
        add_row((of_rows, 0), (room.users, 0), np.float32(share), count * length)
        add_row((of_rows, of_item), (room.items, 0), np.float32(share / per), samples * length)
    start = course.here + (begin + first) * (1 + per)
    _write_rows(start, first * (1 + per), count, of_item, step, at, table, pace, room, per)


@njit(nogil=True, cache=True, error_model="numpy")
def _write_rows(start, to, count, of_item, step, at, table, pace, room, samples):
    """Take the step of the rows that no other sample of the batch needs; keep the gradients of the others.

    Args:
        start: of the tile's rows among those that are needed.
        to: of their gradients among those that are kept.
        count: interactions.
        of_item: where the items' gradients start in the tile's.
        step, at, table, pace, room: see :func:`train_batches`.
        samples: of an interaction.
    """
    length = table.width
    for group in range(count):
        for k in range(1 + samples):
            place = group * (1 + samples) + k
            row, item = np.int64(get(at.needed, start + place)), (group * samples + k - 1) * length
            values = (room.items, item) if k else (room.users, group * length)
            gradient = (room.gradients, of_item + item) if k else (room.gradients, group * length)
            if get(at.seen, row) == 2 * step.number:
                write_row(table, row, step, values, gradient, pace)
                put(at.needed, start + place, np.int32(-1))
            else:
                copy_row((at.slopes, (to + place) * length), gradient, length)
