"""Adam for the rows that a batch uses, exact and late (:mod:`fastncf.kernels.cpu.lazy_adam`), and sums of gradients.

A dense step would read and write the whole table, which takes longer than everything else in a batch. The uses of a
batch are sorted by item beforehand: the first use of each item owns its row.
"""

import math

import torch
import triton
import triton.language as tl

from fastncf.kernels.cpu.lazy_adam import EXACT_STEPS
from fastncf.kernels.cpu.rows import BETA_1, BETA_2, EPSILON
from fastncf.kernels.cuda.batch_fields import _FIRST_USE, _NUM_FIELDS, _NUM_USES, _NUMBER
from fastncf.kernels.cuda.batches import NUM_FIELDS, Batch, EpochNumbers, Parameters, Sizes, Training

_BLOCK_USES = 8

_EPSILON = tl.constexpr(EPSILON)
_BETA_1 = tl.constexpr(BETA_1)
_BETA_2 = tl.constexpr(BETA_2)
_LOG_BETA_1 = tl.constexpr(math.log(BETA_1))
_LOG_BETA_2 = tl.constexpr(math.log(BETA_2))


def catch_up(training: Training, batch: Batch, has_inputs: bool) -> None:
    """Let each item that a batch uses catch up with the steps of Adam that it has missed.

    Args:
        training: has the parameters.
        batch: plan, its next row, and how far behind it the batch is.
        has_inputs: whether history vectors are trained; otherwise they stay as they are.
    """
    rows = training.parameters, training.numbers, training.sizes
    _launch_catch_up(batch, rows, training.plan.use_items, training.sizes.max_uses, has_inputs, is_listed=True)


def take_steps(training: Training, batch: Batch) -> None:
    """Add up the gradients of the items of a batch, and take a step of Adam."""
    parameters, plan, numbers = training.parameters, training.plan, training.numbers
    buffers, sizes = training.buffers, training.sizes
    _update_kernel[(sizes.max_uses,)](
        *batch,
        *(parameters.inputs, parameters.outputs, parameters.biases, parameters.steps),
        *(plan.use_items, plan.uses),
        *(buffers.grad_tokens, buffers.states, buffers.coefficients),
        *(buffers.partial_negatives, buffers.partial_biases),
        *(numbers.first_step, numbers.steps, sizes.num_items),
        num_negatives=sizes.num_negatives,
        max_tokens=sizes.max_tokens,
        num_shares=sizes.shares[2],
        SIZE=sizes.num_vectors * sizes.width,
        WIDTH=sizes.width,
        BLOCK_USES=_BLOCK_USES,
    )


def catch_up_all(
    parameters: Parameters, numbers: EpochNumbers, sizes: Sizes, num_batches: int, has_inputs: bool = True
) -> None:
    """Bring all rows to the state after an epoch of ``num_batches`` steps; ``has_inputs`` as for :func:`catch_up`."""
    batch = torch.zeros((1, NUM_FIELDS), dtype=torch.int64, device=parameters.steps.device)
    batch[0, _NUMBER.value].fill_(num_batches)
    rows = parameters, numbers, sizes
    _launch_catch_up((batch, batch, 0), rows, parameters.steps, sizes.num_items, has_inputs, is_listed=False)


def _launch_catch_up(
    batch: Batch,
    rows: tuple[Parameters, EpochNumbers, Sizes],
    use_items: torch.Tensor,
    num_programs: int,
    has_inputs: bool,
    *,
    is_listed: bool,
) -> None:
    """Start a program for each row that catches up: those of ``use_items`` if they are listed, else all items."""
    parameters, numbers, sizes = rows
    _catch_up_kernel[(num_programs,)](
        *batch,
        *(parameters.inputs, parameters.outputs, parameters.biases, parameters.steps, use_items),
        *(numbers.first_step, numbers.steps, sizes.num_items),
        SIZE=sizes.num_vectors * sizes.width,
        WIDTH=sizes.width,
        LISTED=is_listed,
        HAS_INPUTS=has_inputs,
        EXACT=EXACT_STEPS,
    )


@triton.jit
def _late_steps(value, mean, square, steps_ptr, written_at, gap, is_early, EXACT: tl.constexpr):
    """Return values after ``gap`` steps of Adam without a gradient, and the moments.

    Args:
        value, mean, square: of the step ``written_at``, any shape.
        steps_ptr: see :class:`EpochNumbers`.
        written_at: row of ``steps``.
        gap: int, at least 1.
        is_early: whether the step is one of the first ``EXACT``, whose followers are taken one after the other.
    """
    root = tl.sqrt(square)
    mean_decay = tl.exp(gap.to(tl.float32) * _LOG_BETA_1)
    root_decay = tl.exp(gap.to(tl.float32) * (0.5 * _LOG_BETA_2))
    if is_early:
        step = 1
        while step <= tl.minimum(gap, EXACT):
            at = steps_ptr + 6 * (written_at + step)
            rate = tl.load(at) * tl.exp(step * _LOG_BETA_1)
            correction = tl.load(at + 1) * tl.exp(step * (0.5 * _LOG_BETA_2))
            value -= rate * mean / (correction * root + _EPSILON)
            step += 1
    else:
        at, now = steps_ptr + 6 * written_at, steps_ptr + 6 * (written_at + gap)
        for node in tl.static_range(2, 6, 2):
            value -= tl.load(at + node) * mean / (tl.load(at + node + 1) * root + _EPSILON)
            rate, correction = tl.load(now + node) * mean_decay, tl.load(now + node + 1) * root_decay
            value += rate * mean / (correction * root + _EPSILON)
    return value, mean * mean_decay, square * (root_decay * root_decay)


@triton.jit
def _catch_up(value_ptr, moment, steps_ptr, written_at, gap, is_early, EXACT: tl.constexpr):
    """Bring numbers and their moments, ``moment`` and twice as many numbers further on, to a later step in place.

    The other arguments are those of :func:`_late_steps`.
    """
    mean_ptr, square_ptr = value_ptr + moment, value_ptr + 2 * moment
    value, mean, square = _late_steps(
        tl.load(value_ptr), tl.load(mean_ptr), tl.load(square_ptr), steps_ptr, written_at, gap, is_early, EXACT
    )
    tl.store(value_ptr, value)
    tl.store(mean_ptr, mean)
    tl.store(square_ptr, square)


@triton.jit(do_not_specialize=["offset", "num_items"])
def _catch_up_kernel(
    batches_ptr, row_ptr, offset, inputs_ptr, outputs_ptr, biases_ptr, steps_ptr, use_items_ptr, first_step_ptr,
    step_numbers_ptr, num_items, SIZE: tl.constexpr, WIDTH: tl.constexpr, LISTED: tl.constexpr,
    HAS_INPUTS: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Bring one row in each program to the state before the step of a batch: that of a first use, or row p.

    Tensors as in :class:`Parameters`, :class:`Plan` and :class:`EpochNumbers`. ``SIZE`` is F W. ``LISTED`` says whether
    the rows are those that the batch uses, ``HAS_INPUTS`` whether history vectors catch up as well.
    """
    batch_ptr = batches_ptr + (tl.load(row_ptr) + offset) * _NUM_FIELDS
    program = tl.program_id(0).to(tl.int64)
    item = program
    if LISTED:
        if program >= tl.load(batch_ptr + _NUM_USES):
            return
        use_ptr = use_items_ptr + tl.load(batch_ptr + _FIRST_USE) + program
        item = tl.load(use_ptr).to(tl.int64)
        if tl.load(use_ptr - 1, mask=program > 0, other=-1) == item:
            return
    number = tl.load(batch_ptr + _NUMBER)
    now = tl.load(first_step_ptr) + number
    size = num_items.to(tl.int64)
    if HAS_INPUTS:
        written = tl.load(steps_ptr + 2 * item).to(tl.int64)
        gap = now - written
        if (written != 0) & (gap != 0):
            input_ptr = inputs_ptr + item * SIZE + tl.arange(0, SIZE)
            _catch_up(input_ptr, size * SIZE, step_numbers_ptr, number - gap, gap, written < EXACT, EXACT)
            tl.store(steps_ptr + 2 * item, now.to(tl.int32))
    written = tl.load(steps_ptr + 2 * item + 1).to(tl.int64)
    gap = now - written
    if (written != 0) & (gap != 0):
        output_ptr = outputs_ptr + item * WIDTH + tl.arange(0, WIDTH)
        _catch_up(output_ptr, size * WIDTH, step_numbers_ptr, number - gap, gap, written < EXACT, EXACT)
        _catch_up(biases_ptr + item, size, step_numbers_ptr, number - gap, gap, written < EXACT, EXACT)
        tl.store(steps_ptr + 2 * item + 1, now.to(tl.int32))


@triton.jit
def _adam(value_ptr, moment, gradient, rate, root_correction):
    """Take a step of Adam (Kingma and Ba 2015) in place, and return the new values.

    Means and mean squares are ``moment`` and twice as many numbers further on.
    """
    mean_ptr, square_ptr = value_ptr + moment, value_ptr + 2 * moment
    mean = tl.load(mean_ptr) * _BETA_1 + gradient * (1 - _BETA_1)
    square = tl.load(square_ptr) * _BETA_2 + gradient * gradient * (1 - _BETA_2)
    value = tl.load(value_ptr) - rate * mean / (root_correction * tl.sqrt(square) + _EPSILON)
    tl.store(mean_ptr, mean)
    tl.store(square_ptr, square)
    tl.store(value_ptr, value)
    return value


@triton.jit(do_not_specialize=["offset", "num_items", "num_negatives", "max_tokens", "num_shares"])
def _update_kernel(
    batches_ptr, row_ptr, offset, inputs_ptr, outputs_ptr, biases_ptr, steps_ptr, use_items_ptr, uses_ptr,
    grad_tokens_ptr, states_ptr, coefficients_ptr, partial_ptr, partial_biases_ptr, first_step_ptr, step_numbers_ptr,
    num_items, num_negatives, max_tokens, num_shares, SIZE: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_USES: tl.constexpr,
):  # fmt: skip
    """Add up the gradients of an item and take its step, in the program of its first use.

    Tensors as in :class:`Parameters`, :class:`Plan`, :class:`Buffers` and :class:`EpochNumbers`. ``SIZE`` is F W.
    """
    batch_ptr = batches_ptr + (tl.load(row_ptr) + offset) * _NUM_FIELDS
    program = tl.program_id(0)
    num_uses = tl.load(batch_ptr + _NUM_USES)
    if program >= num_uses:
        return
    use_items_ptr += tl.load(batch_ptr + _FIRST_USE)
    uses_ptr += tl.load(batch_ptr + _FIRST_USE)
    item = tl.load(use_items_ptr + program)
    if tl.load(use_items_ptr + program - 1, mask=program > 0, other=-1) == item:
        return
    place, column = tl.arange(0, SIZE), tl.arange(0, WIDTH)
    grad_history = tl.zeros([SIZE], dtype=tl.float32)
    grad_output = tl.zeros([WIDTH], dtype=tl.float32)
    grad_bias = 0.0
    first_use = tl.load(uses_ptr + program)
    num_inputs, num_outputs = 0, (first_use < num_negatives).to(tl.int32)
    if first_use < num_negatives:
        share = 0
        while share < num_shares:
            at = share * num_negatives + first_use
            grad_output += tl.load(partial_ptr + at * WIDTH + column)
            grad_bias += tl.load(partial_biases_ptr + at)
            share += 1
    at = program + tl.arange(0, BLOCK_USES)
    num_own = BLOCK_USES
    while num_own == BLOCK_USES:
        is_own = at < num_uses
        is_own = is_own & (tl.load(use_items_ptr + at, mask=is_own, other=-1) == item)
        num_own = tl.sum(is_own.to(tl.int32), 0)
        token = tl.load(uses_ptr + at, mask=is_own, other=0) - num_negatives
        position = token - max_tokens
        is_token = (token >= 0) & (position < 0)
        num_inputs += tl.sum(is_token.to(tl.int32), 0)
        num_outputs += tl.sum((position >= 0).to(tl.int32), 0)
        token_at = token[:, None] * SIZE + place[None, :]
        grad_history += tl.sum(tl.load(grad_tokens_ptr + token_at, mask=is_token[:, None], other=0), 0)
        coefficient = tl.load(coefficients_ptr + position, mask=position >= 0, other=0)
        state_at = position[:, None] * WIDTH + column[None, :]
        states = tl.load(states_ptr + state_at, mask=(position >= 0)[:, None], other=0)
        grad_output += tl.sum(coefficient[:, None] * states, 0)
        grad_bias += tl.sum(coefficient, 0)
        at += BLOCK_USES
    number = tl.load(batch_ptr + _NUMBER) + 1
    rate, root_correction = tl.load(step_numbers_ptr + 6 * number), tl.load(step_numbers_ptr + 6 * number + 1)
    row, size = item.to(tl.int64), num_items.to(tl.int64)
    step = (tl.load(first_step_ptr) + number).to(tl.int32)
    if num_inputs > 0:
        _adam(inputs_ptr + row * SIZE + place, size * SIZE, grad_history, rate, root_correction)
        tl.store(steps_ptr + 2 * row, step)
    if num_outputs > 0:
        _adam(outputs_ptr + row * WIDTH + column, size * WIDTH, grad_output, rate, root_correction)
        _adam(biases_ptr + item, num_items, grad_bias, rate, root_correction)
        tl.store(steps_ptr + 2 * row + 1, step)
