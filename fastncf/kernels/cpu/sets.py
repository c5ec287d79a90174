"""States of sets: each item of a user is predicted from the user's other items, whose order says nothing.

The state of a position is the sum of the history vectors of the other items of its window, times the factor that gives
it the length ``state_length``. Scores are then the products of unit vectors and the items' output vectors, times that
length, which is the inverse of a temperature. The mean in place of the sum would give the same states.

Sources: Koren 2008, "Factorization meets the neighborhood", for users as means of their items; Kabbur et al. 2013,
"FISM", for the item that is left out; Mao et al. 2021, "SimpleX", for states of one length.

The functions are phases 2 and 4 of :mod:`fastncf.kernels.cpu.next_item` for windows of sets, which have a position for
each token.
"""

import numpy as np

from fastncf.kernels.cpu.compiling import njit
from fastncf.kernels.cpu.rows import axpy, copy_row, dot
from fastncf.kernels.cpu.simd import get, offset

SET_ROWS = 3
"""Rows of D float32 that the functions need for themselves."""

_TINY = np.float32(1e-12)  # added to squared lengths: a vector of zeros has no direction
_ONE = np.float32(1)


@njit(inline="always")
def _row_of(shared, batch, token):
    """Return a pointer to the history vector of a token."""
    slot = np.int64(get(batch.token_slots, token))
    return offset(shared.buffers.inputs, slot * shared.inputs.width)


@njit(inline="always")
def _sum_window(shared, batch, w, total):
    """Write the sum of the history vectors of a window, and return its first token, first position and size."""
    width = shared.settings.width
    first, last = np.int64(get(batch.window_tokens, w)), np.int64(get(batch.window_tokens, w + 1))
    copy_row(total, shared.buffers.zeros, width)
    for token in range(first, last):
        axpy(total, _ONE, _row_of(shared, batch, token), width)
    return first, np.int64(get(batch.window_positions, w)), last - first


@njit(inline="always")
def _write_direction(shared, batch, token, total, others, to):
    """Write the sum over the other tokens with the length 1 to ``to``, and return the inverse of its own length.

    Args:
        total: pointer to the sum over all tokens (D,).
        others: memory for D float32.
    """
    width = shared.settings.width
    copy_row(others, total, width)
    axpy(others, -_ONE, _row_of(shared, batch, token), width)
    inverse = _ONE / np.sqrt(dot(others, others, width) + _TINY)
    copy_row(to, shared.buffers.zeros, width)
    axpy(to, inverse, others, width)
    return inverse


@njit(inline="always")
def forward_set(shared, batch, w, scratch):
    """Write the states of the positions of a window.

    Args:
        shared, batch, w: see :func:`fastncf.kernels.cpu.next_item.train_batches`.
        scratch: memory for ``SET_ROWS`` rows.
    """
    width = shared.settings.width
    others, direction = offset(scratch, width), offset(scratch, 2 * width)
    token, position, count = _sum_window(shared, batch, w, scratch)
    for j in range(count):
        state = offset(shared.buffers.states, (position + j) * width)
        _write_direction(shared, batch, token + j, scratch, others, direction)
        copy_row(state, shared.buffers.zeros, width)
        axpy(state, shared.settings.state_length, direction, width)


@njit(inline="always")
def backward_set(shared, batch, part, w, scratch):
    """Write the gradients of the history vectors of a window's tokens; those of its states are overwritten.

    Args:
        shared, batch, w, scratch: see :func:`forward_set`.
        part: positions that count, :class:`~fastncf.kernels.cpu.next_item.Part`.
    """
    width, zeros = shared.settings.width, shared.buffers.zeros
    others, direction = offset(scratch, width), offset(scratch, 2 * width)
    token, position, count = _sum_window(shared, batch, w, scratch)
    first, last = max(part.first_position - position, 0), min(part.last_position - position, count)
    for j in range(first, last):
        grad = offset(shared.buffers.grad_states, (position + j) * width)
        inverse = _write_direction(shared, batch, token + j, scratch, others, direction)
        axpy(grad, -dot(grad, direction, width), direction, width)
        copy_row(others, grad, width)
        copy_row(grad, zeros, width)
        axpy(grad, inverse * shared.settings.state_length, others, width)
    copy_row(others, zeros, width)
    for j in range(first, last):
        axpy(others, _ONE, offset(shared.buffers.grad_states, (position + j) * width), width)
    for j in range(count):
        to = offset(shared.buffers.grad_tokens, (token + j) * width)
        copy_row(to, others, width)
        if first <= j < last:
            axpy(to, -_ONE, offset(shared.buffers.grad_states, (position + j) * width), width)
