"""Training of states that run through histories, by softmax over sampled negatives, batch by batch.

The state of a user before an interaction is ``sum over c of gain[c] * feature[c]``, number by number: each feature is a
sum of history vectors of the items so far, whose weights decay with a rate of its own, or their mean (a linear
recurrence; compare Katharopoulos et al. 2020, "Transformers are RNNs"). An item has a history vector for each feature,
since what it says about the next item differs from what it says about the user. Every interaction but the first of a
history is predicted from the state before it. The loss is softmax cross entropy over the item itself and negatives that
all positions of a batch share, whose scores are corrected for how they were drawn (Bengio and Senecal 2008; Yi et al.
2019, "Sampling-bias-corrected neural modeling"); negatives that stand in the user's own history are left out. Adam is
exact and lazy, see :mod:`fastncf.kernels.cpu.lazy_adam`. ``tests/trainers/test_next_item.py`` has the same training by
autograd.

A batch has five phases, between which all threads wait:

1. Gather: the rows of all items of the batch catch up and are copied side by side, each to a *slot*.
2. States: each window of a history runs forward.
3. Softmax: chunks of ``CHUNK`` positions compute scores, softmax and gradients, in memory that stays in a core's cache.
4. Windows run backward.
5. Update: each slot adds up its gradients and takes a step of Adam.

The bits do not depend on the number of threads: what a phase divides among them is fixed by the data, and each sum has
one owner and one order.
"""

from typing import Any, NamedTuple

import numpy as np

from fastncf.kernels.cpu.barrier import fetch_add, wait
from fastncf.kernels.cpu.batch_plans import Plans
from fastncf.kernels.cpu.compiling import njit
from fastncf.kernels.cpu.gemm import NONE, ROW_MULTIPLE, Matrix, Transposed, gemm
from fastncf.kernels.cpu.hashing import mix64
from fastncf.kernels.cpu.lazy_adam import AdamSchedule, LazyTable, make_step, read_row, remaining_update, write_row
from fastncf.kernels.cpu.rows import (
    BETA_1,
    BETA_2,
    AdamCoefficients,
    adam_step,
    add_rows,
    axpy,
    copy_row,
    dot,
    dropout,
    pointers,
)
from fastncf.kernels.cpu.sets import backward_set, forward_set
from fastncf.kernels.cpu.simd import get, offset, pointer, put
from fastncf.kernels.cpu.wide_rows import add_product, decay_row, exp_sum, multiply_row, row_max, scale_row
from fastncf.rng import GOLDEN

CHUNK = 64
"""Positions of a chunk."""

PHASES = 5
"""Phases of a batch, each with a counter of its own."""

_SLOTS = 16  # slots that a thread takes at once
_MASKED = np.float32(-1e30)
_LEAST_EXPONENT = np.float32(-87)
_ZERO, _ONE = np.float32(0), np.float32(1)


class Settings(NamedTuple):
    """Sizes and settings.

    Attributes:
        width: D, a multiple of 16, int64.
        num_features: C, int64.
        num_negatives: K rounded up to a multiple of 16, the number of slots of negatives, int64.
        is_mean: (C,) int64, whether a feature is a mean, whose decay is 1, or a decaying sum.
        log_sizes: (K,) float32, logarithm of the number of items that a negative was drawn from; 0 if there is no item.
        dropout: probability that a number of a state is set to 0, float64.
        dropout_key: uint64, of the epoch.
        state_length: length of all states, float32, of sets, see :mod:`fastncf.kernels.cpu.sets`; 0 for states that run
            through histories, whose lengths differ.
        has_fixed_states: whether a position's state is the row of its user in ``fixed_states``, which is not trained.
    """

    width: int
    num_features: int
    num_negatives: int
    is_mean: Any
    log_sizes: Any
    dropout: float
    dropout_key: np.uint64
    state_length: Any
    has_fixed_states: bool


class Buffers(NamedTuple):
    """Memory that all threads share in a batch, float32 unless said otherwise.

    Attributes:
        inputs: (slots * C * D,), history vectors as they are before the step, of slots that tokens use.
        outputs: (slots * (D + 8),), output vectors and biases as they are before the step.
        negatives: (D * K,), output vectors of the negatives, a column each.
        biases: (K,), biases of the negatives plus the logarithms of their parts' sizes.
        states: (positions * D,), after dropout.
        grad_states: (positions * D,).
        coefficients: (positions,), gradients with respect to the scores of the targets.
        grad_tokens: (tokens * C * D,).
        partial: (chunks * K * D,), gradients of the negatives' vectors.
        partial_biases: (chunks * K,).
        decays: (C * D,), sigmoid of their parameters; 1 for means.
        partial_recurrence: (windows * 2 * C * D,), gradients of gains and decays.
        zeros: (D,).
        losses: (positions,) float64.
        fixed_states: (U * D,), or empty.
    """

    inputs: Any
    outputs: Any
    negatives: Any
    biases: Any
    states: Any
    grad_states: Any
    coefficients: Any
    grad_tokens: Any
    partial: Any
    partial_biases: Any
    decays: Any
    partial_recurrence: Any
    zeros: Any
    losses: Any
    fixed_states: Any


class Shared(NamedTuple):
    """Memory that the threads share.

    Attributes:
        num_threads: int64.
        barrier: (1,) int64.
        counters: (R * PHASES,) int64, tasks of each phase that were taken; 0 before the first batch.
        settings: :class:`Settings`.
        inputs: :class:`~fastncf.kernels.cpu.lazy_adam.LazyTable` of a row for each item: its history vectors (C, D).
        outputs: likewise: output vector (D,), bias, and 7 numbers that stay 0. Most items of a batch are negatives,
            whose history vectors stay as they are.
        recurrence: (3 * 2 * C * D,) float32: gains (C, D) and logits of the decays (C, D), their means, their mean
            squares.
        buffers: :class:`Buffers`.
        schedule: of the learning rate.
        total: (R,) float64, loss of each batch, written.
    """

    num_threads: int
    barrier: Any
    counters: Any
    settings: Settings
    inputs: LazyTable
    outputs: LazyTable
    recurrence: Any
    buffers: Buffers
    schedule: AdamSchedule
    total: Any


class Batch(NamedTuple):
    """Pointers to the plan of one batch, see :class:`Plans`, and its sizes."""

    windows: int
    tokens: int
    positions: int
    slots: int
    window_tokens: Any
    window_positions: Any
    token_slots: Any
    target_slots: Any
    position_windows: Any
    window_users: Any
    slot_items: Any
    input_indptr: Any
    input_tokens: Any
    target_indptr: Any
    target_positions: Any
    mask_indptr: Any
    mask_slots: Any
    target_weights: Any
    has_weights: bool


class Part(NamedTuple):
    """Part of a batch whose gradients a process computes: chunks of positions, and the windows that they lie in.

    Attributes:
        first_chunk, last_chunk: range of chunks of ``CHUNK`` positions.
        first_position, last_position: range of positions.
        first_window, last_window: range of windows, which may have positions outside of the part.
    """

    first_chunk: int
    last_chunk: int
    first_position: int
    last_position: int
    first_window: int
    last_window: int


@njit(inline="always")
def _clear(to, count):
    """Set ``count`` float32 to 0."""
    for at in range(count):
        put(to, at, _ZERO)


@njit(inline="always")
def _advance(features, before, item, decays, size):
    """Write the features (C, D), ``size`` numbers, after one more item (C, D): ``decay * before + item``."""
    copy_row(features, before, size)
    decay_row(features, decays, item, size)


@njit(inline="always")
def _weight(is_mean, c, count):
    """Return what feature ``c`` is multiplied by after ``count`` items: 1, or 1 / count for a mean."""
    return np.float32(1.0 / count) if get(is_mean, c) else _ONE


@njit(inline="always")
def _read_state(to, features, gains, is_mean, count, num_features, width):
    """Write the state after ``count`` items."""
    _clear(to, width)
    for c in range(num_features):
        weight = _weight(is_mean, c, count)
        add_product(to, weight, offset(gains, c * width), offset(features, c * width), width)


@njit(inline="always")
def _compute_decays(shared):
    """Write the decays of a batch."""
    settings = shared.settings
    size = settings.num_features * settings.width
    for c in range(settings.num_features):
        for d in range(settings.width):
            at = c * settings.width + d
            logit = np.float64(get(shared.recurrence, size + at))
            put(shared.buffers.decays, at, _ONE if get(settings.is_mean, c) else np.float32(1 / (1 + np.exp(-logit))))


@njit(inline="always")
def _count(indptr, slot):
    """Return the number of members of a slot in a CSR."""
    return get(indptr, slot + 1) - get(indptr, slot)


@njit(inline="always")
def _is_output(batch, slot, num_negatives):
    """Return whether the item of a slot is a negative or a target, whose output vector is used."""
    return slot < num_negatives or _count(batch.target_indptr, slot) > 0


@njit(inline="always")
def _gather(shared, batch, now, remaining, first, last):
    """Phase 1 for the slots of a range."""
    settings, buffers, inputs, outputs = shared.settings, shared.buffers, shared.inputs, shared.outputs
    width, num_negatives = settings.width, settings.num_negatives
    for slot in range(first, last):
        item = np.int64(get(batch.slot_items, slot))
        values = offset(buffers.outputs, slot * outputs.width)
        if item < 0:
            _clear(values, outputs.width)
        elif _is_output(batch, slot, num_negatives):
            read_row(values, outputs, item, now, remaining, shared.schedule)
        if _count(batch.input_indptr, slot):
            read_row(offset(buffers.inputs, slot * inputs.width), inputs, item, now, remaining, shared.schedule)
        if slot < num_negatives:
            for d in range(width):
                put(buffers.negatives, d * num_negatives + slot, get(values, d))
            bias = get(values, width) + get(settings.log_sizes, slot) if item >= 0 else _MASKED
            put(buffers.biases, slot, bias)


@njit(inline="always")
def _forward(shared, batch, w, features):
    """Phase 2 for a window: write the states of its positions."""
    settings, buffers = shared.settings, shared.buffers
    width, num_features = settings.width, settings.num_features
    size = num_features * width
    first, last = np.int64(get(batch.window_tokens, w)), np.int64(get(batch.window_tokens, w + 1))
    position, end = np.int64(get(batch.window_positions, w)), np.int64(get(batch.window_positions, w + 1))
    context = last - first - (end - position)
    _clear(features, size)
    for j in range(last - first):
        slot = np.int64(get(batch.token_slots, first + j))
        decay_row(features, buffers.decays, offset(buffers.inputs, slot * size), size)
        if j >= context:
            to = offset(buffers.states, (position + j - context) * width)
            _read_state(to, features, shared.recurrence, settings.is_mean, j + 1, num_features, width)


@njit(inline="always")
def _copy_states(shared, batch, w):
    """Phase 2 for a window of a user whose state is fixed: write it for each of its positions."""
    width = shared.settings.width
    state = offset(shared.buffers.fixed_states, np.int64(get(batch.window_users, w)) * width)
    for position in range(get(batch.window_positions, w), get(batch.window_positions, w + 1)):
        copy_row(offset(shared.buffers.states, position * width), state, width)


@njit(inline="always")
def _softmax(shared, batch, chunk, scores, dropout_key):
    """Phase 3 for a chunk of positions: loss, and gradients of states, targets and negatives.

    Args:
        shared: :class:`Shared` of pointers.
        batch: :class:`Batch`.
        chunk: int64.
        scores: memory for (CHUNK, K) float32.
        dropout_key: uint64, of the batch.
    """
    settings, buffers = shared.settings, shared.buffers
    width, count = settings.width, settings.num_negatives
    first = chunk * CHUNK
    size = min(CHUNK, batch.positions - first)
    rows = (size + ROW_MULTIPLE - 1) // ROW_MULTIPLE * ROW_MULTIPLE
    states, grad_states = offset(buffers.states, first * width), offset(buffers.grad_states, first * width)
    key = mix64(dropout_key + np.uint64(chunk) * np.uint64(GOLDEN))
    _clear(offset(states, size * width), (rows - size) * width)
    if settings.dropout > 0:
        dropout(states, rows * width, settings.dropout, key)
    a, b, start = Matrix(states, width), Matrix(buffers.negatives, count), Matrix(buffers.biases, np.int64(0))
    gemm((rows, count, width), a, b, start, Matrix(scores, count), NONE, _ONE)
    for row in range(size):
        _softmax_row(shared, batch, first + row, offset(scores, row * count))
    _clear(offset(scores, size * count), (rows - size) * count)
    a, b = Matrix(scores, count), Matrix(buffers.outputs, shared.outputs.width)
    zeros = Matrix(buffers.zeros, np.int64(0))
    gemm((rows, width, count), a, b, zeros, Matrix(grad_states, width), NONE, _ONE)
    for row in range(size):
        target = _target_of(shared, batch, first + row)
        axpy(offset(grad_states, row * width), get(buffers.coefficients, first + row), target, width)
    if settings.dropout > 0:
        dropout(grad_states, rows * width, settings.dropout, key)
    partial = Matrix(offset(buffers.partial, chunk * count * width), width)
    gemm((count, width, rows), Transposed(scores, count), Matrix(states, width), zeros, partial, NONE, _ONE)
    biases = offset(buffers.partial_biases, chunk * count)
    _clear(biases, count)
    add_rows(biases, scores, count, rows, count)


@njit(inline="always")
def _target_of(shared, batch, position):
    """Return a pointer to the output vector of a position's target, behind which is its bias."""
    slot = np.int64(get(batch.target_slots, position))
    return offset(shared.buffers.outputs, slot * shared.outputs.width)


@njit(inline="always")
def _softmax_row(shared, batch, position, scores):
    """Replace the scores (K,) of a position by the gradients of the mean loss; write its loss and its coefficient."""
    settings, buffers = shared.settings, shared.buffers
    width, count = settings.width, settings.num_negatives
    w = np.int64(get(batch.position_windows, position))
    for at in range(get(batch.mask_indptr, w), get(batch.mask_indptr, w + 1)):
        put(scores, np.int64(get(batch.mask_slots, at)), _MASKED)
    target = _target_of(shared, batch, position)
    positive = dot(offset(buffers.states, position * width), target, width) + get(target, width)
    highest = max(row_max(scores, count), positive)
    power = np.float32(np.exp(max(positive - highest, _LEAST_EXPONENT)))
    total = exp_sum(scores, count, highest) + power
    weight = get(batch.target_weights, position) if batch.has_weights else _ONE
    scale = np.float32(1.0 / batch.positions) * weight
    scale_row(scores, count, scale / total)
    put(buffers.coefficients, position, np.float32((power / total - _ONE) * scale))
    loss = np.log(np.float64(total)) - np.float64(positive - highest)
    put(buffers.losses, position, loss * np.float64(weight))


@njit(inline="always")
def _backward(shared, batch, part, w, features, grads):
    """Phase 4 for a window: write the gradients of its tokens' vectors, of the gains and of the decays.

    Args:
        part: :class:`Part`; positions outside of it have no gradients.
        features: memory for those before the first token and after each (tokens + 1, C, D).
        grads: memory for their gradients (C, D).
    """
    settings, buffers = shared.settings, shared.buffers
    width, num_features = settings.width, settings.num_features
    size = num_features * width
    first, last = np.int64(get(batch.window_tokens, w)), np.int64(get(batch.window_tokens, w + 1))
    position, end = np.int64(get(batch.window_positions, w)), np.int64(get(batch.window_positions, w + 1))
    context = last - first - (end - position)
    grad_gains = offset(buffers.partial_recurrence, w * 2 * size)
    grad_decays = offset(grad_gains, size)
    _clear(grad_gains, 2 * size)
    _clear(grads, size)
    _clear(features, size)
    for j in range(last - first):
        slot = np.int64(get(batch.token_slots, first + j))
        before = offset(features, j * size)
        _advance(offset(before, size), before, offset(buffers.inputs, slot * size), buffers.decays, size)
    for j in range(last - first - 1, -1, -1):
        before = offset(features, j * size)
        after = offset(before, size)
        for c in range(num_features):
            at = c * width
            if j >= context and part.first_position <= position + j - context < part.last_position:
                weight = _weight(settings.is_mean, c, j + 1)
                grad_state = offset(buffers.grad_states, (position + j - context) * width)
                add_product(offset(grad_gains, at), weight, grad_state, offset(after, at), width)
                add_product(offset(grads, at), weight, offset(shared.recurrence, at), grad_state, width)
        copy_row(offset(buffers.grad_tokens, (first + j) * size), grads, size)
        add_product(grad_decays, _ONE, grads, before, size)
        multiply_row(grads, buffers.decays, size)


@njit(inline="always")
def row_width(shared):
    """Return how many numbers the gradient of a slot has: those of its history vectors, output vector and bias."""
    return shared.inputs.width + shared.outputs.width


@njit(inline="always")
def _sum_gradient(shared, batch, part, slot, gradient):
    """Write the gradient of a slot's rows, summed over a part of the batch."""
    _clear(gradient, row_width(shared))
    _sum_input(shared, batch, part, slot, gradient)
    _sum_output(shared, batch, part, slot, offset(gradient, shared.inputs.width))


@njit(inline="always")
def _sum_input(shared, batch, part, slot, gradient):
    """Add up the gradients of the history vectors of a slot."""
    width = shared.inputs.width
    first_token = np.int64(get(batch.window_tokens, part.first_window))
    last_token = np.int64(get(batch.window_tokens, part.last_window))
    for at in range(get(batch.input_indptr, slot), get(batch.input_indptr, slot + 1)):
        token = np.int64(get(batch.input_tokens, at))
        if first_token <= token < last_token:
            axpy(gradient, _ONE, offset(shared.buffers.grad_tokens, token * width), width)


@njit(inline="always")
def _sum_output(shared, batch, part, slot, gradient):
    """Add up the gradients of the output vector and the bias of a slot."""
    settings, buffers = shared.settings, shared.buffers
    width, num_negatives = settings.width, settings.num_negatives
    bias = _ZERO
    for at in range(get(batch.target_indptr, slot), get(batch.target_indptr, slot + 1)):
        position = np.int64(get(batch.target_positions, at))
        if part.first_position <= position < part.last_position:
            coefficient = get(buffers.coefficients, position)
            axpy(gradient, coefficient, offset(buffers.states, position * width), width)
            bias += coefficient
    if slot < num_negatives:
        first = part.first_chunk * num_negatives
        partial = offset(buffers.partial, (first + slot) * width)
        add_rows(gradient, partial, num_negatives * width, part.last_chunk - part.first_chunk, width)
        for chunk in range(part.first_chunk, part.last_chunk):
            bias += get(buffers.partial_biases, chunk * num_negatives + slot)
    put(gradient, width, bias)


@njit(inline="always")
def _sum_recurrence(shared, part, gradient):
    """Write the gradients of gains and decays (2, C, D), summed over a part of the batch."""
    half = shared.settings.num_features * shared.settings.width
    size = 2 * half
    _clear(gradient, size)
    partial = offset(shared.buffers.partial_recurrence, part.first_window * size)
    add_rows(gradient, partial, size, part.last_window - part.first_window, size)
    for at in range(half):
        decay = get(shared.buffers.decays, at)
        put(gradient, half + at, get(gradient, half + at) * decay * (_ONE - decay))


@njit(inline="always")
def _sum_losses(shared, part):
    """Return the loss of a part of a batch."""
    total = 0.0
    for position in range(part.first_position, part.last_position):
        total += get(shared.buffers.losses, position)
    return total


@njit(inline="always")
def _step_row(shared, batch, step, slot, gradient):
    """Take a step for the rows of a slot that the batch uses."""
    buffers, inputs, outputs = shared.buffers, shared.inputs, shared.outputs
    item = np.int64(get(batch.slot_items, slot))
    if _count(batch.input_indptr, slot):
        write_row(inputs, item, step, offset(buffers.inputs, slot * inputs.width), gradient, shared.schedule)
    if _is_output(batch, slot, shared.settings.num_negatives):
        values, gradient = offset(buffers.outputs, slot * outputs.width), offset(gradient, inputs.width)
        write_row(outputs, item, step, values, gradient, shared.schedule)


@njit(inline="always")
def _step_recurrence(shared, step, gradient):
    """Take a step for gains and decays."""
    size = 2 * shared.settings.num_features * shared.settings.width
    coefficients = AdamCoefficients(np.float32(BETA_1), np.float32(BETA_2), step.rate, step.root)
    adam_step(shared.recurrence, shared.recurrence, gradient, size, size, coefficients)


def scratch_size(longest, state_size, num_slots, row_width):
    """Return how many float32 a thread needs for itself.

    Args:
        longest: tokens of a window at most.
        state_size: C * D.
        num_slots: K, see :class:`Settings`.
        row_width: see :func:`row_width`.
    """
    return state_size + CHUNK * num_slots + max(row_width, 2 * state_size) + (longest + 1) * state_size


class Scratch(NamedTuple):
    """Pointers to memory of one thread, see :func:`scratch_size`.

    Attributes:
        grads: (C * D,), gradients of the features of a window.
        scores: (CHUNK * K,).
        gradient: of a row, or of gains and decays.
        features: ((tokens + 1) * C * D,), of a window.
    """

    grads: Any
    scores: Any
    gradient: Any
    features: Any


@njit(inline="always")
def _scratch_of(shared, memory):
    """Return the :class:`Scratch` of a thread's memory."""
    state_size = shared.settings.num_features * shared.settings.width
    scores = offset(memory, state_size)
    gradient = offset(scores, CHUNK * shared.settings.num_negatives)
    return Scratch(memory, scores, gradient, offset(gradient, max(row_width(shared), 2 * state_size)))


@njit(inline="always")
def _compute_gradients(shared, batch, part, number, step, counters, scratch):
    """Phases 1 to 4 for a part of a batch; the last one ends with a barrier.

    Args:
        shared: :class:`Shared` of pointers.
        batch: :class:`Batch`.
        part: :class:`Part`.
        number: of the batch in the epoch, int64.
        step: :class:`~fastncf.kernels.cpu.lazy_adam.AdamStep`.
        counters: pointer to the counters of the batch.
        scratch: :class:`Scratch`.
    """
    dropout_key = mix64(shared.settings.dropout_key + np.uint64(number) * np.uint64(GOLDEN))
    remaining = remaining_update(step.number - 1, shared.schedule)
    task = fetch_add(counters)
    while task * _SLOTS < batch.slots:
        last = min((task + 1) * _SLOTS, batch.slots)
        _gather(shared, batch, step.number - 1, remaining, task * _SLOTS, last)
        if task == 0:
            _compute_decays(shared)
        task = fetch_add(counters)
    wait(shared.barrier, shared.num_threads)
    counters = offset(counters, 1)
    w = part.first_window + fetch_add(counters)
    while w < part.last_window:
        if shared.settings.has_fixed_states:
            _copy_states(shared, batch, w)
        elif shared.settings.state_length > 0:
            forward_set(shared, batch, w, scratch.features)
        else:
            _forward(shared, batch, w, scratch.features)
        w = part.first_window + fetch_add(counters)
    wait(shared.barrier, shared.num_threads)
    counters = offset(counters, 1)
    chunk = part.first_chunk + fetch_add(counters)
    while chunk < part.last_chunk:
        _softmax(shared, batch, chunk, scratch.scores, dropout_key)
        chunk = part.first_chunk + fetch_add(counters)
    wait(shared.barrier, shared.num_threads)
    counters = offset(counters, 1)
    w = part.first_window + fetch_add(counters)
    while w < part.last_window and not shared.settings.has_fixed_states:
        if shared.settings.state_length > 0:
            backward_set(shared, batch, part, w, scratch.features)
        else:
            _backward(shared, batch, part, w, scratch.features, scratch.grads)
        w = part.first_window + fetch_add(counters)
    wait(shared.barrier, shared.num_threads)


@njit(nogil=True, cache=True)
def train_batches(thread, num_batches, first_batch, first_step, plans, shared, scratch):
    """Train batches that are planned, on one of the threads that all call this function.

    Args:
        thread: number of the thread, int64.
        num_batches: number of rows of ``plans`` that are trained, int64.
        first_batch: number of the first of them in the epoch, int64.
        first_step: number of its step, counted from 1, int64.
        plans: :class:`Plans`.
        shared: :class:`Shared`.
        scratch: (n,) float32, memory of the thread alone, see :func:`scratch_size`.
    """
    owner_plans = plans
    shared, scratch = pointers(shared), pointer(scratch)
    scratch = _scratch_of(shared, scratch)
    for row in range(num_batches):
        batch = _batch_of(owner_plans, row)
        if batch.positions == 0:
            continue
        step = make_step(first_step + row, shared.schedule)
        counters = offset(shared.counters, row * PHASES)
        part = Part(0, (batch.positions + CHUNK - 1) // CHUNK, 0, batch.positions, 0, batch.windows)
        _compute_gradients(shared, batch, part, first_batch + row, step, counters, scratch)
        counters = offset(counters, PHASES - 1)
        task = fetch_add(counters)
        if task == 0:
            _sum_recurrence(shared, part, scratch.gradient)
            _step_recurrence(shared, step, scratch.gradient)
            put(shared.total, row, _sum_losses(shared, part))
        while (task - 1) * _SLOTS < batch.slots:
            if task > 0:
                for slot in range((task - 1) * _SLOTS, min(task * _SLOTS, batch.slots)):
                    if get(batch.slot_items, slot) >= 0:
                        _sum_gradient(shared, batch, part, slot, scratch.gradient)
                        _step_row(shared, batch, step, slot, scratch.gradient)
            task = fetch_add(counters)
        wait(shared.barrier, shared.num_threads)


@njit(nogil=True, cache=True)
def sum_gradients(thread, row, number, step, part, gradients, plans, shared, scratch):
    """Sum up the gradients of a part of one batch, on one of the threads that all call this function.

    Args:
        thread: number of the thread, int64.
        row: of the batch in ``plans``, int64.
        number: of the batch in the epoch, int64.
        step: number of the step, counted from 1, int64.
        part: :class:`Part`.
        gradients: (2 * C * D + slots * (C * D + D + 8),) float32, written: those of gains, decays and slots.
        plans: :class:`Plans`.
        shared: :class:`Shared`; ``counters`` (PHASES,) and ``total`` (1,) are those of this batch alone.
        scratch: (n,) float32, memory of the thread alone, see :func:`scratch_size`.
    """
    owner_plans = plans
    shared, scratch, gradients = pointers(shared), pointer(scratch), pointer(gradients)
    batch = _batch_of(owner_plans, row)
    scratch = _scratch_of(shared, scratch)
    _compute_gradients(shared, batch, part, number, make_step(step, shared.schedule), shared.counters, scratch)
    counters = offset(shared.counters, PHASES - 1)
    rows = offset(gradients, 2 * shared.settings.num_features * shared.settings.width)
    task = fetch_add(counters)
    if task == 0:
        _sum_recurrence(shared, part, gradients)
        put(shared.total, 0, _sum_losses(shared, part))
    while (task - 1) * _SLOTS < batch.slots:
        if task > 0:
            for slot in range((task - 1) * _SLOTS, min(task * _SLOTS, batch.slots)):
                _sum_gradient(shared, batch, part, slot, offset(rows, slot * row_width(shared)))
        task = fetch_add(counters)
    wait(shared.barrier, shared.num_threads)


@njit(nogil=True, cache=True)
def apply_gradients(first, last, row, step, gradients, plans, shared):
    """Take a step for the rows of a range of slots, and for gains and decays with the first.

    Args:
        first, last: range of slots, int64.
        row: of the batch in ``plans``, int64.
        step: number of the step, counted from 1, int64.
        gradients: see :func:`sum_gradients`; summed over all parts of the batch.
        plans: :class:`Plans`.
        shared: :class:`Shared`, as :func:`sum_gradients` has left it.
    """
    owner_plans = plans
    shared, gradients = pointers(shared), pointer(gradients)
    batch = _batch_of(owner_plans, row)
    step = make_step(step, shared.schedule)
    if first == 0:
        _step_recurrence(shared, step, gradients)
    rows = offset(gradients, 2 * shared.settings.num_features * shared.settings.width)
    for slot in range(first, last):
        if get(batch.slot_items, slot) >= 0:
            _step_row(shared, batch, step, slot, offset(rows, slot * row_width(shared)))


@njit(inline="always")
def _batch_of(plans, row):
    """Return the :class:`Batch` of a row of plans."""
    rows = pointers(
        Plans(
            plans.sizes[row],
            plans.window_tokens[row],
            plans.window_positions[row],
            plans.token_slots[row],
            plans.target_slots[row],
            plans.position_windows[row],
            plans.window_users[row],
            plans.slot_items[row],
            plans.input_indptr[row],
            plans.input_tokens[row],
            plans.target_indptr[row],
            plans.target_positions[row],
            plans.mask_indptr[row],
            plans.mask_slots[row],
            plans.target_weights[row],
        )
    )
    sizes = rows.sizes
    return Batch(
        get(sizes, 0),
        get(sizes, 1),
        get(sizes, 2),
        get(sizes, 3),
        rows.window_tokens,
        rows.window_positions,
        rows.token_slots,
        rows.target_slots,
        rows.position_windows,
        rows.window_users,
        rows.slot_items,
        rows.input_indptr,
        rows.input_tokens,
        rows.target_indptr,
        rows.target_positions,
        rows.mask_indptr,
        rows.mask_slots,
        rows.target_weights,
        plans.target_weights.shape[1] > 0,
    )
