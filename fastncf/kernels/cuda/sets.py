"""Training of states of sets by softmax, on a CUDA device by Triton.

It computes what :mod:`fastncf.kernels.cpu.sets` says, from the same draws. All but the states is shared with
:mod:`fastncf.kernels.cuda.next_item`: rows that catch up, softmax and its gradients, and Adam. Each token of a window
is a position, whose state is the direction of the sum of the other tokens' history vectors, times the length of all
states. A program takes a window, whose vectors it reads once for the sum and once more for the differences from it.

Where states are fixed, a position has the state of its user's whole set, windows have no tokens, and history vectors
take no steps.
"""

import triton
import triton.language as tl
from torch import Tensor

from fastncf.kernels.cuda import batches
from fastncf.kernels.cuda.batch_draws import _is_kept, dropout_arguments
from fastncf.kernels.cuda.batch_fields import (
    _FIRST_POSITION,
    _FIRST_WINDOW,
    _NUM_FIELDS,
    _NUM_POSITIONS,
    _NUM_WINDOWS,
    _PLAN_POSITION,
)
from fastncf.kernels.cuda.batches import Histories, Parameters, Training
from fastncf.kernels.cuda.lazy_adam import catch_up, take_steps
from fastncf.kernels.cuda.sampled_softmax import _grad_states, add_losses, run_softmax

_WARPS = 8

_TINY = tl.constexpr(1e-12)  # added to squared lengths: a vector of zeros has no direction


def train_batch(training: Training, offset: int, state_length: float) -> None:
    """Train states and items by the batch that is ``offset`` rows behind ``plan.row``.

    Args:
        training: see :class:`~fastncf.kernels.cuda.batches.Training`.
        offset: of the batch.
        state_length: of all states.
    """
    histories, buffers, sizes = training.histories, training.buffers, training.sizes
    batch = training.plan.batches, training.plan.row, offset
    windows = histories.starts, histories.positions, histories.items, training.parameters.inputs
    constants = {
        "length": state_length,
        "WIDTH": sizes.width,
        "BLOCK_TOKENS": batches.BLOCK_TOKENS,
        "num_warps": _WARPS,
        **dropout_arguments(training.numbers, sizes),
    }
    catch_up(training, batch, has_inputs=True)
    _forward_set_kernel[(sizes.max_windows,)](*batch, buffers.states, *windows, **constants)
    run_softmax(training, batch)
    _backward_set_kernel[(sizes.max_windows,)](
        *batch,
        buffers.grad_tokens,
        *(buffers.log_sums, buffers.coefficients, buffers.highest, buffers.weighted),
        *(training.plan.targets, training.parameters.outputs),
        *windows,
        max_positions=sizes.max_positions,
        num_shares=sizes.shares[0],
        **constants,
    )
    take_steps(training, batch)
    add_losses(training, batch)


def train_items(training: Training, offset: int, fixed_states: Tensor) -> None:
    """Train items alone by the batch that is ``offset`` rows behind ``plan.row``, whose windows have no tokens.

    Args:
        training: see :class:`~fastncf.kernels.cuda.batches.Training`.
        offset: of the batch.
        fixed_states: (U, D) float32.
    """
    histories, sizes = training.histories, training.sizes
    batch = training.plan.batches, training.plan.row, offset
    catch_up(training, batch, has_inputs=False)
    _copy_states_kernel[(sizes.max_windows,)](
        *batch,
        *(training.buffers.states, fixed_states, histories.users, histories.positions),
        dim=fixed_states.shape[1],
        WIDTH=sizes.width,
        BLOCK_POSITIONS=batches.BLOCK_TOKENS,
        **dropout_arguments(training.numbers, sizes),
    )
    run_softmax(training, batch)
    take_steps(training, batch)
    add_losses(training, batch)


def write_states(out: Tensor, histories: Histories, parameters: Parameters, state_length: float) -> None:
    """Write the states of the whole sets of all users; 0 for a user without items.

    Args:
        out: (U, D) float32, overwritten.
        histories: its ``seen`` is read, whose order is the same in all epochs.
        parameters: history vectors.
        state_length: of all states.
    """
    _set_state_kernel[(len(out),)](
        *(out, histories.indptr, histories.seen, parameters.inputs),
        length=state_length,
        dim=out.shape[1],
        WIDTH=parameters.outputs.shape[2],
        BLOCK_TOKENS=batches.BLOCK_TOKENS,
        num_warps=_WARPS,
    )


@triton.jit
def _positions_of(window, batch_ptr, positions_ptr):
    """Return the first position of a window in its batch, and the number of its positions, both int32."""
    first = tl.load(positions_ptr + window)
    count = tl.load(positions_ptr + window + 1) - first
    return (first - tl.load(batch_ptr + _FIRST_POSITION)).to(tl.int32), count.to(tl.int32)


@triton.jit
def _vectors(items_ptr, inputs_ptr, start, token, count, WIDTH: tl.constexpr):
    """Return the history vectors (tokens, WIDTH) of tokens of a set; 0 from token ``count`` on.

    Args:
        start: where the set begins in ``items``.
    """
    is_token = token < count
    item = tl.load(items_ptr + start + token, mask=is_token, other=0).to(tl.int64)
    at = item[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    return tl.load(inputs_ptr + at, mask=is_token[:, None], other=0)


@triton.jit
def _sum_of_set(items_ptr, inputs_ptr, start, count, WIDTH: tl.constexpr, BLOCK_TOKENS: tl.constexpr):
    """Return the sum (WIDTH,) of the history vectors of a set of ``count`` tokens, which begins at ``start``."""
    total = tl.zeros([WIDTH], dtype=tl.float32)
    first = 0
    while first < count:
        token = first + tl.arange(0, BLOCK_TOKENS)
        total += tl.sum(_vectors(items_ptr, inputs_ptr, start, token, count, WIDTH), 0)
        first += BLOCK_TOKENS
    return total


@triton.jit
def _directions(vectors, total):
    """Return the sums over the other tokens with the length 1 (tokens, WIDTH), and the inverses of their own lengths.

    Args:
        vectors: (tokens, WIDTH), of the tokens that are left out.
        total: (WIDTH,), sum over all tokens.
    """
    others = total[None, :] - vectors
    inverse = 1.0 / tl.sqrt(tl.sum(others * others, 1) + _TINY)
    return others * inverse[:, None], inverse


@triton.jit(do_not_specialize=["offset", "threshold", "hash_width"])
def _forward_set_kernel(
    batches_ptr, row_ptr, offset, states_ptr, starts_ptr, positions_ptr, items_ptr, inputs_ptr, keys_ptr, threshold,
    scale, hash_width, length, WIDTH: tl.constexpr, BLOCK_TOKENS: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """Write the states of a window in each program.

    Tensors as in :class:`Buffers`, :class:`Histories` and :class:`Parameters`; ``length`` is that of states, and the
    others are those of :func:`~fastncf.kernels.cuda.batch_draws.dropout_arguments`.
    """
    batch_ptr = batches_ptr + (tl.load(row_ptr) + offset) * _NUM_FIELDS
    own = tl.program_id(0)
    if own >= tl.load(batch_ptr + _NUM_WINDOWS):
        return
    window = tl.load(batch_ptr + _FIRST_WINDOW) + own
    start = tl.load(starts_ptr + window)
    first_position, count = _positions_of(window, batch_ptr, positions_ptr)
    total = _sum_of_set(items_ptr, inputs_ptr, start, count, WIDTH, BLOCK_TOKENS)
    column = tl.arange(0, WIDTH)
    first = 0
    while first < count:
        token = first + tl.arange(0, BLOCK_TOKENS)
        vectors = _vectors(items_ptr, inputs_ptr, start, token, count, WIDTH)
        direction, _ = _directions(vectors, total)
        state = direction * length
        position = first_position + token
        if DROPOUT:
            is_kept = _is_kept(batch_ptr, position, column, keys_ptr, threshold, hash_width)
            state = tl.where(is_kept, state * scale, 0.0)
        tl.store(states_ptr + position[:, None] * WIDTH + column[None, :], state, mask=(token < count)[:, None])
        first += BLOCK_TOKENS


@triton.jit(do_not_specialize=["offset", "threshold", "max_positions", "num_shares", "hash_width"])
def _backward_set_kernel(
    batches_ptr, row_ptr, offset, grad_tokens_ptr, log_sums_ptr, coefficients_ptr, highest_ptr, weighted_ptr,
    targets_ptr, outputs_ptr, starts_ptr, positions_ptr, items_ptr, inputs_ptr, keys_ptr, threshold, scale, hash_width,
    max_positions, num_shares, length, WIDTH: tl.constexpr, BLOCK_TOKENS: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """Write the gradients of a window's tokens in each program: the sum of those of all sums, less that of its own.

    Tensors as in :class:`Buffers`, :class:`Plan`, :class:`Histories` and :class:`Parameters`; the other arguments as
    for :func:`_forward_set_kernel`. ``grad_tokens`` (T, W) holds the gradients of the sums in between.
    """
    batch_ptr = batches_ptr + (tl.load(row_ptr) + offset) * _NUM_FIELDS
    own = tl.program_id(0)
    if own >= tl.load(batch_ptr + _NUM_WINDOWS):
        return
    window = tl.load(batch_ptr + _FIRST_WINDOW) + own
    start = tl.load(starts_ptr + window)
    first_position, count = _positions_of(window, batch_ptr, positions_ptr)
    num_positions = tl.load(batch_ptr + _NUM_POSITIONS)
    total = _sum_of_set(items_ptr, inputs_ptr, start, count, WIDTH, BLOCK_TOKENS)
    column = tl.arange(0, WIDTH)
    grad_total = tl.zeros([WIDTH], dtype=tl.float32)
    first = 0
    while first < count:
        token = first + tl.arange(0, BLOCK_TOKENS)
        position, is_position = first_position + token, token < count
        gradient = _grad_states(
            position, tl.load(batch_ptr + _PLAN_POSITION) + position, is_position, column, num_positions, log_sums_ptr,
            coefficients_ptr, highest_ptr, weighted_ptr, targets_ptr, outputs_ptr, max_positions, num_shares, WIDTH,
        )  # fmt: skip
        if DROPOUT:
            is_kept = _is_kept(batch_ptr, position, column, keys_ptr, threshold, hash_width)
            gradient = tl.where(is_kept, gradient * scale, 0.0)
        vectors = _vectors(items_ptr, inputs_ptr, start, token, count, WIDTH)
        direction, inverse = _directions(vectors, total)
        gradient -= tl.sum(gradient * direction, 1)[:, None] * direction
        gradient = tl.where(is_position[:, None], gradient * (inverse * length)[:, None], 0.0)
        grad_total += tl.sum(gradient, 0)
        to_ptr = grad_tokens_ptr + position[:, None] * WIDTH + column[None, :]
        tl.store(to_ptr, gradient, mask=is_position[:, None])
        first += BLOCK_TOKENS
    tl.debug_barrier()  # other threads of the program may read what one has written
    first = 0
    while first < count:
        token = first + tl.arange(0, BLOCK_TOKENS)
        to_ptr = grad_tokens_ptr + (first_position + token)[:, None] * WIDTH + column[None, :]
        gradient = tl.load(to_ptr, mask=(token < count)[:, None], other=0)
        tl.store(to_ptr, grad_total[None, :] - gradient, mask=(token < count)[:, None])
        first += BLOCK_TOKENS


@triton.jit(do_not_specialize=["offset", "threshold", "hash_width", "dim"])
def _copy_states_kernel(
    batches_ptr, row_ptr, offset, states_ptr, fixed_ptr, users_ptr, positions_ptr, keys_ptr, threshold, scale,
    hash_width, dim, WIDTH: tl.constexpr, BLOCK_POSITIONS: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """Write the fixed state of its user for each position of a window, in each program.

    Tensors as in :class:`Buffers` and :class:`Histories`; ``fixed`` (U, dim) has the states.
    """
    batch_ptr = batches_ptr + (tl.load(row_ptr) + offset) * _NUM_FIELDS
    own = tl.program_id(0)
    if own >= tl.load(batch_ptr + _NUM_WINDOWS):
        return
    window = tl.load(batch_ptr + _FIRST_WINDOW) + own
    first_position, count = _positions_of(window, batch_ptr, positions_ptr)
    column = tl.arange(0, WIDTH)
    user = tl.load(users_ptr + window).to(tl.int64)
    fixed = tl.load(fixed_ptr + user * dim + column, mask=column < dim, other=0)
    first = 0
    while first < count:
        row = first + tl.arange(0, BLOCK_POSITIONS)
        position = first_position + row
        state = tl.broadcast_to(fixed[None, :], [BLOCK_POSITIONS, WIDTH])
        if DROPOUT:
            is_kept = _is_kept(batch_ptr, position, column, keys_ptr, threshold, hash_width)
            state = tl.where(is_kept, state * scale, 0.0)
        tl.store(states_ptr + position[:, None] * WIDTH + column[None, :], state, mask=(row < count)[:, None])
        first += BLOCK_POSITIONS


@triton.jit(do_not_specialize=["dim"])
def _set_state_kernel(
    out_ptr, indptr_ptr, seen_ptr, inputs_ptr, length, dim, WIDTH: tl.constexpr, BLOCK_TOKENS: tl.constexpr
):  # fmt: skip
    """Write the state of the whole set of a user in each program; tensors as in :func:`write_states`, ``dim`` is D."""
    user = tl.program_id(0).to(tl.int64)
    start = tl.load(indptr_ptr + user)
    count = (tl.load(indptr_ptr + user + 1) - start).to(tl.int32)
    mean = _sum_of_set(seen_ptr, inputs_ptr, start, count, WIDTH, BLOCK_TOKENS) / tl.maximum(count, 1).to(tl.float32)
    state = mean * (length / tl.maximum(tl.sqrt(tl.sum(mean * mean, 0)), _TINY))
    column = tl.arange(0, WIDTH)
    tl.store(out_ptr + user * dim + column, state, mask=column < dim)
