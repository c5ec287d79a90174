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
"""

import numpy as np

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
    assign_slot,
    has_slot,
    make_step,
    prefetch_slot,
    read_row,
    slot_of,
    write_row,
)
from fastncf.kernels.cpu.losses import batch_loss_gradients
from fastncf.kernels.cpu.microbatches import (
    chunk_size,
    chunk_start,
    interactions_of,
    make_batch,
    make_microbatch,
    num_chunks_of,
    plan_prefetch,
    rows_start_of,
    shard_starts_of,
    slot_of_chunk,
)
from fastncf.kernels.cpu.mlp_structures import CHUNKS, FOUND, LINE, PrefetchPlan, Tile, tile_size
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
from fastncf.kernels.cpu.shards import add_pairs, add_to_sum, begin_sum, end_sum, sum_of
from fastncf.kernels.cpu.simd import get, offset, pointer, prefetch, prefetch_to_read, put

_IDS_AHEAD, _USES_AHEAD, _ROWS_AHEAD, _SLOTS_AHEAD, _SUMS_AHEAD, _OWNED_AHEAD = 16, 16, 6, 16, 4, 4
_ONE, _ZERO = np.float32(1), np.float32(0)
_NO_STRIDE = np.int64(0)  # a literal would have gemm compiled anew


@njit(inline="always")
def owner_of(row, num_threads):
    """Return the thread that adds up the gradients of a row: the same one for all rows whose uses share a line."""
    mixed = (np.uint64(row) // np.uint64(LINE) * np.uint64(0x9E3779B1)) & np.uint64(0xFFFFFFFF)
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
        batch = make_batch(number, steps_before, shared)
        if number + 1 < last_batch:
            list_rows(thread, number + 1, shared)
        start, num_owned = np.int64(0), np.int64(0)
        while start < batch.size:
            microbatch = make_microbatch(number, start, shared)
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
def _claims(thread):
    """Return which counter has the chunks that were taken of a thread's share."""
    return LINE * (1 + thread)


# Before a batch: its rows, and which of them it uses more than once.


@njit(nogil=True, cache=True, error_model="numpy")
def list_rows(thread, number, shared):
    """Write the rows that a thread's share of a batch uses to ``BatchRows.rows``."""
    data, num_negatives, num_users = shared.data, shared.settings.num_negatives, shared.settings.num_users
    rows, size = shared.batch_rows.rows, interactions_of(number, shared)
    before = number * shared.settings.batch_size
    first, last = size * thread // shared.num_threads, size * (thread + 1) // shared.num_threads
    to = rows_start_of(number, shared) + first * (2 + num_negatives)
    for at in range(before + first, before + last):
        if at + _IDS_AHEAD < data.size:
            later = np.int64(get(data.order, at + _IDS_AHEAD))
            prefetch_to_read(data.user, later, LINE)
            prefetch_to_read(data.positive, later, LINE)
            prefetch_to_read(data.negatives, later * num_negatives, (num_negatives + LINE - 1) // LINE * LINE)
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
    start = rows_start_of(number, shared)
    stop = start + interactions_of(number, shared) * (2 + shared.settings.num_negatives)
    for first in range(start, stop, FOUND):
        count = _find_owned(thread, first, min(first + FOUND, stop), shared, found)
        for which in range(count):
            if which + _USES_AHEAD < count:
                prefetch(last_use, np.int64(get(rows, np.int64(get(found, which + _USES_AHEAD)))), LINE)
            row = np.int64(get(rows, np.int64(get(found, which))))
            put(last_use, row, np.int32(2 * step + (get(last_use, row) >= 2 * step)))


# A microbatch: tiles go forward and backward.


@njit(inline="always")
def train_microbatch(thread, microbatch, batch, shared, workspace):
    """Train the chunks of a thread's share of a microbatch, then chunks that others have not begun."""
    num_threads, per_tile = shared.num_threads, tile_size(shared.settings.num_negatives)
    num_chunks = num_chunks_of(microbatch, per_tile, shared)
    plan = plan_prefetch(thread, microbatch, batch, per_tile, shared)
    for turn in range(num_threads):
        other = (thread + turn) % num_threads
        first_chunk, last_chunk = num_chunks * other // num_threads, num_chunks * (other + 1) // num_threads
        stop = chunk_start(last_chunk, microbatch, per_tile, shared)
        plan = PrefetchPlan(plan.distance, stop, plan.next_start, plan.next_size, plan.rows_start, plan.next_rows_start)
        while True:
            chunk = first_chunk + fetch_add(offset(shared.counters, _claims(other)))
            if chunk >= last_chunk:
                break
            first = chunk_start(chunk, microbatch, per_tile, shared)
            last = chunk_start(chunk + 1, microbatch, per_tile, shared)
            slot = slot_of_chunk(chunk, microbatch, shared)
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
            prefetch_to_read(shared.batch_rows.last_use, row, LINE)  # for write_rows
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
    starts = shard_starts_of(batch.number, shared)
    first_at, stop = batch.rows_start + microbatch.start * per, batch.rows_start + microbatch.stop * per
    for first in range(first_at, stop, FOUND):
        count = _find_owned(thread, first, min(first + FOUND, stop), shared, found)
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
    per_tile, starts = tile_size(shared.settings.num_negatives), shard_starts_of(batch.number, shared)
    share = (size // COLUMN_MULTIPLE + shared.num_threads - 1) // shared.num_threads * COLUMN_MULTIPLE
    start = min(thread * share, size)
    width = min(start + share, size) - start
    if width:
        sums, stride = offset(shared.layers.gradients, start), CHUNKS // num_shards * size
        for shard in range(num_shards):
            interactions = np.int64(get(starts, shard + 1)) - np.int64(get(starts, shard))
            per_chunk = chunk_size(batch.number, shard, per_tile, shared)
            count = (min(interactions, shared.settings.microbatch_size) + per_chunk - 1) // per_chunk
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
    batch, width = make_batch(0, step - 1, shared), shared.table.width
    list_rows(thread, 0, shared)
    wait(counters, num_threads)
    start, stop = rows_start_of(0, shared), batch.size * (2 + shared.settings.num_negatives)
    for at in range(start + stop * thread // num_threads, start + stop * (thread + 1) // num_threads):
        row = np.int64(get(shared.batch_rows.rows, at))
        put(shared.batch_rows.last_use, row, np.int32(2 * step + 1))  # as if used again: no tile takes its step
    wait(counters, num_threads)
    at, num_owned = np.int64(0), np.int64(0)
    while at < batch.size:
        microbatch = make_microbatch(np.int64(0), at, shared)
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
