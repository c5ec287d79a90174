"""Adam over the rows of a large table of which each batch uses few, with the result of a step over all rows.

Adam also moves a row without a gradient, by the decayed mean of its earlier gradients. A step would have to read and
write the whole table. Here a row stays as it is until a batch uses it, or until the epoch ends, and then catches up:
all steps that it missed are taken at once. For this a row is stored together with its moments, with the number of the
step that it was last written in, and with a summary of what Adam would subtract from it after that step.

The summary (:func:`remaining_update`) is the sum over j from 1 on of ``rate(step + j) * beta_1 ** j * mean / (root(step
+ j) * beta_2 ** (j / 2) * sqrt(square) + epsilon)``: weights ``beta_1 ** j`` times a smooth function of j. Gauss's rule
with two nodes for these weights gives it to the accuracy of float32, as long as the bias corrections in rate and root
change slowly; rows that were written in the first ``EXACT_STEPS`` steps take their missed steps one after the other.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastncf.kernels.cpu.compiling import njit
from fastncf.kernels.cpu.rows import (
    BETA_1,
    BETA_2,
    AdamCoefficients,
    adam_step,
    copy_row,
    missed_steps,
    pointers,
    zero_gradient_step,
)
from fastncf.kernels.cpu.simd import get, offset, pointer, prefetch, put

EXACT_STEPS = 256
"""Rows that were written in an earlier step take the steps that they miss one after the other."""

_POWERS = 16_384
_LINE = 16  # float32 in a cache line
_STEP, _GRADIENT_STEP, _GRADIENT_SLOT, _REMAINING = 0, 1, 2, 4  # offsets behind the moments of a row


class AdamSchedule(NamedTuple):
    """Learning rates of all steps, and tables of powers and bias corrections.

    The rate of step s, from 1, is ``rate - rate_decrement * (s - 1)``.

    Attributes:
        rate: learning rate of step 1.
        rate_decrement: difference between the rates of two steps that follow each other.
        nodes: node, weight, node, weight of Gauss's rule with two nodes for the weights beta_1 ** j, j from 1 on.
        rate_corrections: (S,) float64, ``1 / (1 - beta_1 ** step)``.
        root_corrections: (S,) float64, ``1 / sqrt(1 - beta_2 ** step)``.
        mean_decays: (S,) float32, ``beta_1 ** gap``: decay of a mean over that many steps.
        root_decays: (S,) float32, ``beta_2 ** (gap / 2)``: decay of the root of a mean square.
    """

    rate: float
    rate_decrement: float
    nodes: tuple[float, float, float, float]
    rate_corrections: NDArray[np.float64]
    root_corrections: NDArray[np.float64]
    mean_decays: NDArray[np.float32]
    root_decays: NDArray[np.float32]


def make_schedule(rate: float, rate_decrement: float) -> AdamSchedule:
    """Return the :class:`AdamSchedule` of a learning rate that falls by ``rate_decrement`` with every step.

    Nodes and weights of Gauss's rule follow from the mean, the variance and the third central moment of j.
    """
    total = BETA_1 / (1 - BETA_1)
    mean, second, third = 1 / (1 - BETA_1), BETA_1 / (1 - BETA_1) ** 2, BETA_1 * (1 + BETA_1) / (1 - BETA_1) ** 3
    middle = third / second / 2
    half = (middle**2 + second) ** 0.5
    low, high = middle - half, middle + half
    nodes = mean + low, total * high / (high - low), mean + high, -total * low / (high - low)
    step = np.arange(_POWERS)
    with np.errstate(divide="ignore"):  # there is no step 0
        corrections = 1 / (1 - BETA_1**step), 1 / np.sqrt(1 - BETA_2**step)
    decays = (BETA_1**step).astype(np.float32), (BETA_2 ** (step / 2)).astype(np.float32)
    return AdamSchedule(rate, rate_decrement, nodes, *corrections, *decays)


def stride_of(width: int) -> int:
    """Return the number of float32 from one row of a :class:`LazyTable` to the next, whole cache lines."""
    return -(-(3 * width + 8) // _LINE) * _LINE


class LazyTable(NamedTuple):
    """Rows with their moments.

    A row has ``width`` values, ``width`` means of gradients, ``width`` means of squared gradients, and 8 numbers more:
    the step that the row was last written in, from 1, or 0 before the first (int32); the step that a slot for its
    gradient was last assigned in, and that slot (int32, int32, see :func:`assign_slot`); one unused; and the four
    numbers of :func:`remaining_update` (float32).

    Attributes:
        rows: (R * stride,) float32.
        ints: (R * stride,) int32, the same memory.
        width: numbers in a vector, a multiple of 8.
        stride: of :func:`stride_of`.
    """

    rows: NDArray[np.float32]
    ints: NDArray[np.int32]
    width: int
    stride: int


def steps_of(table: LazyTable) -> NDArray[np.int32]:
    """Return the steps (R,) int32 that the rows of a table of arrays were last written in, a view of the table."""
    return table.ints.reshape(-1, table.stride)[:, 3 * table.width + _STEP]


class AdamStep(NamedTuple):
    """Coefficients of one step, the same for all rows.

    Attributes:
        number: counted from 1.
        remaining_before: :func:`remaining_update` of the step before.
        remaining: :func:`remaining_update` of the step.
        rate: float32, see :class:`~fastncf.kernels.cpu.rows.AdamCoefficients`.
        root: float32, likewise.
    """

    number: int
    remaining_before: tuple[Any, Any, Any, Any]
    remaining: tuple[Any, Any, Any, Any]
    rate: Any
    root: Any


@njit(inline="always")
def remaining_update(step, schedule):
    """Return coefficients of the sum that Adam would still subtract from a row after a step if no gradient followed.

    Returns:
        Rate and root, rate and root, float32, of two steps as in
        :func:`~fastncf.kernels.cpu.rows.zero_gradient_step` whose sum that is.
    """
    node, weight, other_node, other_weight = schedule.nodes
    one, other = step + node, step + other_node
    return (
        np.float32((schedule.rate - schedule.rate_decrement * (one - 1)) * weight),
        np.float32(BETA_2 ** (node / 2) / np.sqrt(1 - BETA_2**one)),
        np.float32((schedule.rate - schedule.rate_decrement * (other - 1)) * other_weight),
        np.float32(BETA_2 ** (other_node / 2) / np.sqrt(1 - BETA_2**other)),
    )


@njit(inline="always")
def make_step(number, schedule):
    """Return the :class:`AdamStep` of a number, counted from 1."""
    rate, root = schedule.rate - schedule.rate_decrement * (number - 1), 1.0
    if number < _POWERS:
        rate, root = rate * get(schedule.rate_corrections, number), get(schedule.root_corrections, number)
    remaining_before, remaining = remaining_update(number - 1, schedule), remaining_update(number, schedule)
    return AdamStep(number, remaining_before, remaining, np.float32(rate), np.float32(root))


@njit(inline="always")
def _header(table, row):
    """Return the offset of the 8 numbers behind the moments of a row."""
    return row * table.stride + 3 * table.width


@njit(inline="always")
def _missed(table, row, now):
    """Return the number of steps up to ``now`` that a row has missed; none before it is written for the first time."""
    written = np.int64(get(table.ints, _header(table, row) + _STEP))
    return now - written if written else 0


@njit(inline="always")
def read_row(to, table, row, now, remaining_now, schedule):
    """Compute the values of a row after all steps up to ``now``; the table is left as it is.

    Args:
        to: pointer to (width,) float32 that are written; it may be the row itself.
        table: :class:`LazyTable`.
        row: number of the row.
        now: number of a step, not before the one that the row was written in.
        remaining_now: :func:`remaining_update` of ``now``.
        schedule: :class:`AdamSchedule`.

    Returns:
        The number of steps that the row has missed.
    """
    width, values = table.width, offset(table.rows, row * table.stride)
    moments = offset(values, width)
    gap = _missed(table, row, now)
    written = now - gap
    if gap == 0:
        copy_row(to, values, width)
    elif written >= EXACT_STEPS:
        near = min(gap, _POWERS - 1)
        decay = get(schedule.mean_decays, near), get(schedule.root_decays, near)
        remaining = offset(values, 3 * width + _REMAINING)
        missed_steps(to, values, moments, width, remaining, remaining_now, decay)
    else:
        for j in range(1, min(gap, EXACT_STEPS) + 1):
            step = written + j
            rate = schedule.rate - schedule.rate_decrement * (step - 1)
            rate = rate * get(schedule.rate_corrections, step) * get(schedule.mean_decays, j)
            root = get(schedule.root_decays, j) * get(schedule.root_corrections, step)
            zero_gradient_step(to, values, moments, width, np.float32(rate), np.float32(root))
            values = to
    return gap


@njit(inline="always")
def _decays(gap, schedule):
    """Return the decays of the mean and of the mean square over ``gap`` steps without a gradient, float64."""
    if gap < _POWERS:
        return np.float64(get(schedule.mean_decays, gap)), np.float64(get(schedule.root_decays, gap)) ** 2
    return 0.0, np.exp(gap * np.log(BETA_2))


@njit(inline="always")
def _write_header(table, row, step, remaining):
    """Write the number of a step, and its :func:`remaining_update`, to the header of a row."""
    header = _header(table, row)
    put(table.ints, header + _STEP, np.int32(step))
    for number in range(4):
        put(table.rows, header + _REMAINING + number, remaining[number])


@njit(inline="always")
def write_row(table, row, step, values, gradient, schedule):
    """Take a step with a gradient.

    Args:
        table: :class:`LazyTable`.
        row: number of the row.
        step: :class:`AdamStep`.
        values: pointer to the values of the row after the step before, as :func:`read_row` computes them.
        gradient: pointer to (width,) float32.
        schedule: :class:`AdamSchedule`.
    """
    mean, square = _decays(_missed(table, row, step.number - 1), schedule)
    coefficients = AdamCoefficients(np.float32(BETA_1 * mean), np.float32(BETA_2 * square), step.rate, step.root)
    to = offset(table.rows, row * table.stride)
    adam_step(to, values, gradient, table.width, table.width, coefficients)
    _write_header(table, row, step.number, step.remaining)


@njit(nogil=True, cache=True, error_model="numpy")
def catch_up(first, last, now, table, schedule):
    """Compute values and moments of rows after step ``now``, in place.

    Args:
        first, last: range of rows.
        now: number of a step, not before any that a row was written in.
        table: :class:`LazyTable` of arrays.
        schedule: :class:`AdamSchedule` of arrays.
    """
    table, schedule = pointers(table), pointers(schedule)
    remaining = remaining_update(now, schedule)
    for row in range(first, last):
        values = offset(table.rows, row * table.stride)
        gap = read_row(values, table, row, now, remaining, schedule)
        if gap:
            mean, square = _decays(gap, schedule)
            for at in range(table.width, 2 * table.width):
                put(values, at, get(values, at) * np.float32(mean))
                put(values, at + table.width, get(values, at + table.width) * np.float32(square))
            _write_header(table, row, now, remaining)


@njit(nogil=True, cache=True, error_model="numpy")
def read_rows(first, last, rows, now, table, schedule, values):
    """Compute the values of some rows after all steps up to ``now``; the table is left as it is.

    Args:
        first, last: range of ``rows``.
        rows: (n,) int64, numbers of rows.
        now: number of a step, not before any that a row was written in.
        table: :class:`LazyTable` of arrays.
        schedule: :class:`AdamSchedule` of arrays.
        values: (n * width,) float32, written.
    """
    table, schedule, values = pointers(table), pointers(schedule), pointer(values)
    remaining = remaining_update(now, schedule)
    for place in range(first, last):
        read_row(offset(values, place * table.width), table, rows[place], now, remaining, schedule)


@njit(nogil=True, cache=True, error_model="numpy")
def step_rows(first, last, rows, number, table, schedule, values, gradients):
    """Take a step with gradients for some rows.

    Args:
        first, last: range of ``rows``.
        rows: (n,) int64, numbers of rows, each once.
        number: of the step, counted from 1.
        table: :class:`LazyTable` of arrays.
        schedule: :class:`AdamSchedule` of arrays.
        values: (n * width,) float32, the rows after the step before, see :func:`read_rows`.
        gradients: (n * width,) float32.
    """
    table, schedule = pointers(table), pointers(schedule)
    values, gradients = pointer(values), pointer(gradients)
    step = make_step(number, schedule)
    for place in range(first, last):
        at = place * table.width
        write_row(table, rows[place], step, offset(values, at), offset(gradients, at), schedule)


@njit(nogil=True, cache=True, error_model="numpy")
def restore_steps(first, last, steps, table, schedule):
    """Set the steps in which rows were last written; values and moments are left as they are.

    Args:
        first, last: range of rows.
        steps: (R,) int32, numbers of steps; 0 for a row that was never written.
        table: :class:`LazyTable` of arrays.
        schedule: :class:`AdamSchedule` of arrays.
    """
    table, schedule = pointers(table), pointers(schedule)
    for row in range(first, last):
        step = np.int64(steps[row])
        _write_header(table, row, step, remaining_update(step, schedule))
        assign_slot(table, row, 0, 0)


# A row that a batch uses more than once has a slot among the gradients that are summed up. Which one is noted in the
# row itself, whose cache line is needed anyway.


@njit(inline="always")
def prefetch_slot(table, row):
    """Prefetch the memory that :func:`has_slot` and :func:`slot_of` read."""
    prefetch(table.rows, _header(table, row), _LINE)


@njit(inline="always")
def has_slot(table, row, step):
    """Return whether a row was assigned a slot in the step of a number."""
    return get(table.ints, _header(table, row) + _GRADIENT_STEP) == step


@njit(inline="always")
def assign_slot(table, row, step, slot):
    """Assign a row the slot of its gradient in the step of a number."""
    header = _header(table, row)
    put(table.ints, header + _GRADIENT_STEP, np.int32(step))
    put(table.ints, header + _GRADIENT_SLOT, np.int32(slot))


@njit(inline="always")
def slot_of(table, row):
    """Return the slot that a row was assigned last."""
    return np.int64(get(table.ints, _header(table, row) + _GRADIENT_SLOT))
