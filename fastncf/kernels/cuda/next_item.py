"""Training of states that run through histories by softmax, on a CUDA device by Triton.

It computes what :mod:`fastncf.kernels.cpu.next_item` computes, from the same draws: negatives and dropout are hashes of
a position and have the same bits there and here. A batch is eight kernels:

1. Each item that the batch uses catches up with the steps that it has missed (:mod:`fastncf.kernels.cuda.lazy_adam`).
2. Windows of histories run forward. The linear recurrence is a scan over a block of tokens by doubling (Kogge and Stone
   1973), and goes from block to block.
3. Softmax (:mod:`fastncf.kernels.cuda.sampled_softmax`), tile by tile.
4. The parts of the softmax are put together for each position.
5. Gradients of the negatives.
6. Windows run backward.
7. Update: each item adds up the gradients of all its uses in their order, and takes a step of Adam.
8. Step of the recurrence's own parameters, and sum of the losses.

There are no atomic operations: a sum has one owner and one order, so that each run on one device gives the same bits.

Sizes are those of :mod:`fastncf.kernels.cuda.batches`.
"""

import triton
import triton.language as tl
from torch import Tensor

from fastncf.kernels.cuda import batches
from fastncf.kernels.cuda.batch_draws import _is_kept, dropout_arguments
from fastncf.kernels.cuda.batch_fields import (
    _FIRST_POSITION,
    _FIRST_TOKEN,
    _FIRST_WINDOW,
    _NUM_FIELDS,
    _NUM_POSITIONS,
    _NUM_WINDOWS,
    _NUMBER,
    _PLAN_POSITION,
)
from fastncf.kernels.cuda.batches import Batch, Histories, Parameters, Training
from fastncf.kernels.cuda.lazy_adam import _adam, catch_up, take_steps
from fastncf.kernels.cuda.sampled_softmax import _BLOCK_LOSSES, _add_losses, _grad_states, run_softmax

_BLOCK_COLUMNS = 32
_BLOCK_WINDOWS = 64


def train_batch(training: Training, offset: int) -> None:
    """Train the batch that is ``offset`` rows behind ``plan.row``."""
    parameters, plan, numbers, sizes = training.parameters, training.plan, training.numbers, training.sizes
    batch = plan.batches, plan.row, offset
    catch_up(training, batch, has_inputs=True)
    histories, buffers = training.histories, training.buffers
    windows = histories.starts, histories.contexts, histories.tokens, histories.positions, histories.items
    recurrence = parameters.recurrence, parameters.decays, parameters.is_mean
    constants = {
        "WIDTH": sizes.width,
        "NUM_FEATURES": sizes.num_features,
        "BLOCK_TOKENS": batches.BLOCK_TOKENS,
        "BLOCK_COLUMNS": min(_BLOCK_COLUMNS, sizes.width),
        **dropout_arguments(numbers, sizes),
    }
    grid = sizes.max_windows, triton.cdiv(sizes.width, _BLOCK_COLUMNS)
    _forward_kernel[grid](
        *batch, buffers.states, buffers.carries, *windows, parameters.inputs, *recurrence, **constants
    )
    run_softmax(training, batch)
    _backward_kernel[grid](
        *batch,
        *(buffers.grad_tokens, buffers.partial_recurrence, buffers.carries, buffers.log_sums, buffers.coefficients),
        *(buffers.highest, buffers.weighted, plan.targets),
        *windows,
        *(parameters.inputs, parameters.outputs),
        *recurrence,
        max_positions=sizes.max_positions,
        num_shares=sizes.shares[0],
        **constants,
    )
    take_steps(training, batch)
    _step_recurrence(training, batch)


def _step_recurrence(training: Training, batch: Batch) -> None:
    """Take a step for gains and decays, and add up the losses."""
    parameters, buffers, sizes = training.parameters, training.buffers, training.sizes
    _recurrence_kernel[(triton.cdiv(sizes.num_features * sizes.width, _BLOCK_COLUMNS),)](
        *batch,
        *(parameters.recurrence, parameters.decays, parameters.is_mean, buffers.partial_recurrence),
        *(training.numbers.steps, training.numbers.total, buffers.losses),
        SIZE=sizes.num_features * sizes.width,
        WIDTH=sizes.width,
        BLOCK_WINDOWS=_BLOCK_WINDOWS,
        BLOCK_COLUMNS=_BLOCK_COLUMNS,
        BLOCK_SIZE=_BLOCK_LOSSES,
    )


def write_states(out: Tensor, histories: Histories, parameters: Parameters, longest: int) -> None:
    """Write the states of all users after their whole history; 0 for a user without one.

    Args:
        out: (U, D) float32, overwritten.
        histories: of the users.
        parameters: of the recurrence, and history vectors.
        longest: number of the latest items that a state is made of.
    """
    num_features, width = parameters.decays.shape
    _state_kernel[(len(out), triton.cdiv(width, _BLOCK_COLUMNS))](
        *(out, histories.indptr, histories.items),
        *(parameters.inputs, parameters.recurrence, parameters.decays, parameters.is_mean),
        longest,
        dim=out.shape[1],
        WIDTH=width,
        NUM_FEATURES=num_features,
        BLOCK_TOKENS=batches.BLOCK_TOKENS,
        BLOCK_COLUMNS=min(_BLOCK_COLUMNS, width),
    )


@triton.jit
def _shifted(x, by, BLOCK_TOKENS: tl.constexpr):
    """Return row ``r + by`` of a tile (BLOCK_TOKENS, C, columns) in row r; 0 where there is none."""
    source = tl.arange(0, BLOCK_TOKENS)[:, None, None] + by
    is_row = (source >= 0) & (source < BLOCK_TOKENS)
    index = tl.broadcast_to(tl.where(is_row, source, 0), x.shape)
    return tl.where(is_row, tl.gather(x, index, 0), 0.0)


@triton.jit
def _scan(x, decay, direction: tl.constexpr, BLOCK_TOKENS: tl.constexpr):
    """Return ``y[r] = x[r] + decay * y[r + direction]`` of a tile (BLOCK_TOKENS, C, columns), direction 1 or -1."""
    power = decay[None, :, :]
    for doubling in tl.static_range(0, 8):
        if (1 << doubling) < BLOCK_TOKENS:
            x += power * _shifted(x, direction * (1 << doubling), BLOCK_TOKENS)
            power *= power
    return x


@triton.jit
def _features(items_ptr, inputs_ptr, start, token, count, at, carry, decay, SIZE: tl.constexpr,
              BLOCK_TOKENS: tl.constexpr):  # fmt: skip
    """Return the features (BLOCK_TOKENS, C, columns) after each of a block of tokens.

    Args:
        start: where the tokens' items begin in ``items``.
        token: numbers of the tokens (BLOCK_TOKENS,); those from ``count`` on have vectors of 0.
        at: places (C, columns) in an item's history vectors.
        carry: features (C, columns) before the block.
    """
    is_token = token < count
    item = tl.load(items_ptr + start + token, mask=is_token, other=0).to(tl.int64)
    x_ptr = inputs_ptr + item[:, None, None] * SIZE + at[None, :, :]
    x = tl.load(x_ptr, mask=is_token[:, None, None], other=0)
    is_first = tl.arange(0, BLOCK_TOKENS)[:, None, None] == 0
    return _scan(x + tl.where(is_first, (decay * carry)[None, :, :], 0.0), decay, -1, BLOCK_TOKENS)


@triton.jit
def _row_of(x, row, BLOCK_TOKENS: tl.constexpr):
    """Return a row (C, columns) of a tile (BLOCK_TOKENS, C, columns)."""
    return tl.sum(tl.where(tl.arange(0, BLOCK_TOKENS)[:, None, None] == row, x, 0.0), 0)


@triton.jit
def _weights(token, is_mean):
    """Return what features (tokens, C) are multiplied by after each token: 1, or 1 / number of tokens for a mean."""
    return tl.where(is_mean[None, :] != 0, 1.0 / (token[:, None] + 1).to(tl.float32), 1.0)


@triton.jit(do_not_specialize=["offset", "threshold", "hash_width"])
def _forward_kernel(
    batches_ptr, row_ptr, offset, states_ptr, carries_ptr, starts_ptr, contexts_ptr, tokens_ptr, positions_ptr,
    items_ptr, inputs_ptr, recurrence_ptr, decays_ptr, is_mean_ptr, keys_ptr, threshold, scale, hash_width,
    WIDTH: tl.constexpr, NUM_FEATURES: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
    DROPOUT: tl.constexpr,
):  # fmt: skip
    """Write the states of a window, ``BLOCK_COLUMNS`` columns in each program, and the features before each block.

    Tensors as in :class:`Buffers`, :class:`Histories` and :class:`Parameters`; the other arguments are those of
    :func:`~fastncf.kernels.cuda.batch_draws.dropout_arguments`.
    """
    batch_ptr = batches_ptr + (tl.load(row_ptr) + offset) * _NUM_FIELDS
    own = tl.program_id(0)
    if own >= tl.load(batch_ptr + _NUM_WINDOWS):
        return
    window = tl.load(batch_ptr + _FIRST_WINDOW) + own
    start, context = tl.load(starts_ptr + window), tl.load(contexts_ptr + window)
    first_token = tl.load(tokens_ptr + window)
    count = (tl.load(tokens_ptr + window + 1) - first_token).to(tl.int32)
    first_position = (tl.load(positions_ptr + window) - tl.load(batch_ptr + _FIRST_POSITION)).to(tl.int32)
    block = ((first_token - tl.load(batch_ptr + _FIRST_TOKEN)) // BLOCK_TOKENS).to(tl.int32) + own
    feature = tl.arange(0, NUM_FEATURES)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    at = feature[:, None] * WIDTH + column[None, :]
    gain, decay, is_mean = tl.load(recurrence_ptr + at), tl.load(decays_ptr + at), tl.load(is_mean_ptr + feature)
    carry = tl.zeros([NUM_FEATURES, BLOCK_COLUMNS], dtype=tl.float32)
    first = 0
    while first < count:
        tl.store(carries_ptr + block * (NUM_FEATURES * WIDTH) + at, carry)
        token = first + tl.arange(0, BLOCK_TOKENS)
        features = _features(
            items_ptr, inputs_ptr, start, token, count, at, carry, decay, NUM_FEATURES * WIDTH, BLOCK_TOKENS
        )  # fmt: skip
        carry = _row_of(features, BLOCK_TOKENS - 1, BLOCK_TOKENS)
        state = tl.sum(_weights(token, is_mean)[:, :, None] * (gain[None, :, :] * features), 1)
        position = first_position + token - context
        if DROPOUT:
            is_kept = _is_kept(batch_ptr, position, column, keys_ptr, threshold, hash_width)
            state = tl.where(is_kept, state * scale, 0.0)
        is_position = (token >= context) & (token < count)
        tl.store(states_ptr + position[:, None] * WIDTH + column[None, :], state, mask=is_position[:, None])
        first += BLOCK_TOKENS
        block += 1


@triton.jit(do_not_specialize=["longest", "dim"])
def _state_kernel(
    out_ptr, indptr_ptr, items_ptr, inputs_ptr, recurrence_ptr, decays_ptr, is_mean_ptr, longest, dim,
    WIDTH: tl.constexpr, NUM_FEATURES: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the state of one user after ``longest`` items at most, ``BLOCK_COLUMNS`` columns in each program.

    Tensors as in :func:`write_states`; ``dim`` is D.
    """
    user = tl.program_id(0).to(tl.int64)
    stop = tl.load(indptr_ptr + user + 1)
    start = tl.maximum(tl.load(indptr_ptr + user), stop - longest)
    count = (stop - start).to(tl.int32)
    feature = tl.arange(0, NUM_FEATURES)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    at = feature[:, None] * WIDTH + column[None, :]
    gain, decay, is_mean = tl.load(recurrence_ptr + at), tl.load(decays_ptr + at), tl.load(is_mean_ptr + feature)
    carry = tl.zeros([NUM_FEATURES, BLOCK_COLUMNS], dtype=tl.float32)
    first = 0
    while first < count:
        token = first + tl.arange(0, BLOCK_TOKENS)
        features = _features(
            items_ptr, inputs_ptr, start, token, count, at, carry, decay, NUM_FEATURES * WIDTH, BLOCK_TOKENS
        )  # fmt: skip
        carry = _row_of(features, tl.minimum(BLOCK_TOKENS, count - first) - 1, BLOCK_TOKENS)
        first += BLOCK_TOKENS
    weight = tl.where(is_mean != 0, 1.0 / tl.maximum(count, 1).to(tl.float32), 1.0)
    state = tl.sum(weight[:, None] * (gain * carry), 0)
    tl.store(out_ptr + user * dim + column, state, mask=column < dim)


@triton.jit(do_not_specialize=["offset", "threshold", "max_positions", "num_shares", "hash_width"])
def _backward_kernel(
    batches_ptr, row_ptr, offset, grad_tokens_ptr, partial_ptr, carries_ptr, log_sums_ptr, coefficients_ptr,
    highest_ptr, weighted_ptr, targets_ptr, starts_ptr, contexts_ptr, tokens_ptr, positions_ptr, items_ptr, inputs_ptr,
    outputs_ptr, recurrence_ptr, decays_ptr, is_mean_ptr, keys_ptr, threshold, scale, hash_width, max_positions,
    num_shares, WIDTH: tl.constexpr, NUM_FEATURES: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """Write the gradients of a window's tokens, gains and decays, ``BLOCK_COLUMNS`` columns in each program.

    Tensors as in :class:`Buffers`, :class:`Plan`, :class:`Histories` and :class:`Parameters`; the other arguments as
    for :func:`_forward_kernel`. ``partial`` is ``partial_recurrence``.
    """
    batch_ptr = batches_ptr + (tl.load(row_ptr) + offset) * _NUM_FIELDS
    own = tl.program_id(0)
    if own >= tl.load(batch_ptr + _NUM_WINDOWS):
        return
    window = tl.load(batch_ptr + _FIRST_WINDOW) + own
    start, context = tl.load(starts_ptr + window), tl.load(contexts_ptr + window)
    own_token = (tl.load(tokens_ptr + window) - tl.load(batch_ptr + _FIRST_TOKEN)).to(tl.int32)
    count = (tl.load(tokens_ptr + window + 1) - tl.load(tokens_ptr + window)).to(tl.int32)
    first_position = (tl.load(positions_ptr + window) - tl.load(batch_ptr + _FIRST_POSITION)).to(tl.int32)
    num_positions = tl.load(batch_ptr + _NUM_POSITIONS)
    feature = tl.arange(0, NUM_FEATURES)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    at = feature[:, None] * WIDTH + column[None, :]
    gain, decay, is_mean = tl.load(recurrence_ptr + at), tl.load(decays_ptr + at), tl.load(is_mean_ptr + feature)
    carry = tl.zeros([NUM_FEATURES, BLOCK_COLUMNS], dtype=tl.float32)  # gradient of the features behind a block
    grad_gains = tl.zeros([NUM_FEATURES, BLOCK_COLUMNS], dtype=tl.float32)
    grad_decays = tl.zeros([NUM_FEATURES, BLOCK_COLUMNS], dtype=tl.float32)
    row = tl.arange(0, BLOCK_TOKENS)[:, None, None]
    block = (count - 1) // BLOCK_TOKENS
    while block >= 0:
        carry_at = own_token // BLOCK_TOKENS + own + block
        before_block = tl.load(carries_ptr + carry_at * (NUM_FEATURES * WIDTH) + at)
        token = block * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
        features = _features(
            items_ptr, inputs_ptr, start, token, count, at, before_block, decay, NUM_FEATURES * WIDTH, BLOCK_TOKENS
        )  # fmt: skip
        position = first_position + token - context
        is_position = (token >= context) & (token < count)
        grad_state = _grad_states(
            position, tl.load(batch_ptr + _PLAN_POSITION) + position, is_position, column, num_positions, log_sums_ptr,
            coefficients_ptr, highest_ptr, weighted_ptr, targets_ptr, outputs_ptr, max_positions, num_shares, WIDTH,
        )  # fmt: skip
        if DROPOUT:
            is_kept = _is_kept(batch_ptr, position, column, keys_ptr, threshold, hash_width)
            grad_state = tl.where(is_kept, grad_state * scale, 0.0)
        by_feature = _weights(token, is_mean)[:, :, None] * grad_state[:, None, :]
        grad_gains += tl.sum(by_feature * features, 0)
        from_behind = tl.where(row == BLOCK_TOKENS - 1, (decay * carry)[None, :, :], 0.0)
        gradient = _scan(by_feature * gain[None, :, :] + from_behind, decay, 1, BLOCK_TOKENS)
        carry = _row_of(gradient, 0, BLOCK_TOKENS)
        before = _shifted(features, -1, BLOCK_TOKENS) + tl.where(row == 0, before_block[None, :, :], 0.0)
        grad_decays += tl.sum(gradient * before, 0)
        to_ptr = grad_tokens_ptr + (own_token + token)[:, None, None] * (NUM_FEATURES * WIDTH) + at[None, :, :]
        tl.store(to_ptr, gradient, mask=(token < count)[:, None, None])
        block -= 1
    partial_ptr += own * (2 * NUM_FEATURES * WIDTH) + at
    tl.store(partial_ptr, grad_gains)
    tl.store(partial_ptr + NUM_FEATURES * WIDTH, grad_decays)


@triton.jit(do_not_specialize=["offset"])
def _recurrence_kernel(
    batches_ptr, row_ptr, offset, recurrence_ptr, decays_ptr, is_mean_ptr, partial_ptr, step_numbers_ptr, total_ptr,
    losses_ptr, SIZE: tl.constexpr, WIDTH: tl.constexpr, BLOCK_WINDOWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    """Take a step of ``BLOCK_COLUMNS`` gains and as many decays in each program; the first adds up the losses.

    Tensors as in :class:`Parameters`, :class:`Buffers` and :class:`EpochNumbers`; ``partial`` is
    ``partial_recurrence`` and ``SIZE`` is C W. A batch without positions takes no step.
    """
    batch_ptr = batches_ptr + (tl.load(row_ptr) + offset) * _NUM_FIELDS
    num_positions, num_windows = tl.load(batch_ptr + _NUM_POSITIONS), tl.load(batch_ptr + _NUM_WINDOWS)
    if num_positions == 0:
        return
    at = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    grad_gains = tl.zeros([BLOCK_COLUMNS], dtype=tl.float32)
    grad_decays = tl.zeros([BLOCK_COLUMNS], dtype=tl.float32)
    first = 0
    while first < num_windows:
        window = first + tl.arange(0, BLOCK_WINDOWS)[:, None]
        from_ptr = partial_ptr + window * (2 * SIZE) + at[None, :]
        grad_gains += tl.sum(tl.load(from_ptr, mask=window < num_windows, other=0), 0)
        grad_decays += tl.sum(tl.load(from_ptr + SIZE, mask=window < num_windows, other=0), 0)
        first += BLOCK_WINDOWS
    number = tl.load(batch_ptr + _NUMBER) + 1
    rate, root_correction = tl.load(step_numbers_ptr + 6 * number), tl.load(step_numbers_ptr + 6 * number + 1)
    decay = tl.load(decays_ptr + at)
    _adam(recurrence_ptr + at, 2 * SIZE, grad_gains, rate, root_correction)
    grad_logits = grad_decays * decay * (1.0 - decay)
    logit = _adam(recurrence_ptr + SIZE + at, 2 * SIZE, grad_logits, rate, root_correction)
    is_mean = tl.load(is_mean_ptr + at // WIDTH) != 0
    tl.store(decays_ptr + at, tl.where(is_mean, 1.0, 1.0 / (1.0 + tl.exp(-logit))))
    if tl.program_id(0) == 0:
        _add_losses(batch_ptr, total_ptr, losses_ptr, BLOCK_SIZE)
