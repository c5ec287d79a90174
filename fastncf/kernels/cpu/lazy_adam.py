"""Adam over rows of a table of which a batch touches few, as if every step had moved every row.

Adam moves a row that has no gradient by what is left of its mean, so that a step over a batch would read and write the
whole table. Here a row is brought up to date when it is next touched. A row lies together with its moments and with
the number of the step that it was last written in.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from fastncf.kernels.cpu.rows import BETA_1, BETA_2, adam_step, copy_row, late_step, late_steps
from fastncf.kernels.cpu.simd import get, pointer, prefetch, put

_EXACT = 256
_POWERS = 16_384
_LINE = 16
_STEP, _MARK, _SLOT, _TAIL = 0, 1, 2, 4  # of a row, behind its numbers


class AdamSchedule(NamedTuple):
    """Learning rates, and what is needed to make up for steps without a gradient.

    Attributes:
        rate: of step 1.
        fall: what each step's is lower by than the one before.
        points: two pairs of a point and its weight: of Gauss's rule for the weights beta_1 ** j, j from 1 on.
        first: (n,) float64: 1 / (1 - beta_1 ** step).
        second: (n,) float64: 1 / sqrt(1 - beta_2 ** step).
        means: (n,) float32: beta_1 ** gap.
        roots: (n,) float32: beta_2 ** (gap / 2).
    """

    rate: float
    fall: float
    points: tuple[float, float, float, float]
    first: Any
    second: Any
    means: Any
    roots: Any


def make_schedule(rate: float, fall: float) -> AdamSchedule:
    """The :class:`AdamSchedule` of some learning rates.

    Points and weights follow from the mean, the variance and the third central moment of j.
    """
    total = BETA_1 / (1 - BETA_1)
    mean, second, third = 1 / (1 - BETA_1), BETA_1 / (1 - BETA_1) ** 2, BETA_1 * (1 + BETA_1) / (1 - BETA_1) ** 3
    middle = third / second / 2
    half = (middle**2 + second) ** 0.5
    low, high = middle - half, middle + half
    points = mean + low, total * high / (high - low), mean + high, -total * low / (high - low)
    step = np.arange(_POWERS)
    with np.errstate(divide="ignore"):  # there is no step 0
        corrections = 1 / (1 - BETA_1**step), 1 / np.sqrt(1 - BETA_2**step)
    powers = (BETA_1**step).astype(np.float32), (BETA_2 ** (step / 2)).astype(np.float32)
    return AdamSchedule(rate, fall, points, *corrections, *powers)


def stride(width: int) -> int:
    """Numbers from one row to the next, whole cache lines: see :class:`Table`."""
    return -(-(3 * width + 8) // _LINE) * _LINE


class Table(NamedTuple):
    """Rows for kernels.

    Attributes:
        rows: pointer to (R, stride) float32: values, means and mean squares, each of ``width``, then 8 more: the step
            that the row was last written in, an int32 counted from 1, 0 before the first; two int32 for the use of
            others; and from the fifth on what :func:`tail` is for that step.
        steps: the same memory, as int32.
        width: numbers in a row, a multiple of 8.
        stride: from one row to the next.
    """

    rows: Any
    steps: Any
    width: int
    stride: int


@njit(inline="always")
def tail(step, pace):
    """All that Adam would take after a step, were there no other gradient, as two of its steps: see ``late_steps``.

    It is a sum over j of beta_1 ** j times a smooth function of j, which two points of Gauss's rule for these weights
    give to float32's accuracy, unless Adam's corrections still change quickly.
    """
    point, weight, other_point, other_weight = pace.points
    one, other = step + point, step + other_point
    return (
        np.float32((pace.rate - pace.fall * (one - 1)) * weight),
        np.float32(BETA_2 ** (point / 2) / np.sqrt(1 - BETA_2**one)),
        np.float32((pace.rate - pace.fall * (other - 1)) * other_weight),
        np.float32(BETA_2 ** (other_point / 2) / np.sqrt(1 - BETA_2**other)),
    )


@njit(inline="always")
def _gap(table, row, now):
    """How many steps up to ``now`` a row has missed."""
    written = np.int64(get(table.steps, row * table.stride + 3 * table.width + _STEP))
    return now - written if written else 0


@njit(inline="always")
def read_row(to, table, row, now, tail_now, pace):
    """Put a row's values after all steps up to ``now`` at ``to`` (data, at); returns how many steps it had missed.

    What they take is what would be taken ever after the step in which the row was written, less what would be taken
    ever after ``now``. In the first steps it is summed term by term.
    """
    at, width = row * table.stride, table.width
    values, moments = (table.rows, at), (table.rows, at + width)
    behind = at + 3 * width
    gap = _gap(table, row, now)
    written = now - gap
    if gap == 0:
        copy_row(to, values, width)
    elif written >= _EXACT:
        near = min(gap, _POWERS - 1)
        kept = get(pace.means, near), get(pace.roots, near)
        late_steps(to, values, moments, width, (table.rows, behind + _TAIL), tail_now, kept)
    else:
        for j in range(1, min(gap, _EXACT) + 1):
            step = written + j
            rate = (pace.rate - pace.fall * (step - 1)) * get(pace.first, step) * get(pace.means, j)
            late_step(
                to, values, moments, width, np.float32(rate), np.float32(get(pace.roots, j) * get(pace.second, step))
            )
            values = to
    return gap


class Step(NamedTuple):
    """A step of Adam.

    Attributes:
        number: counted from 1.
        before, after: what :func:`tail` is for the step before it, and for itself.
        rate, root: float32, see :func:`~fastncf.kernels.cpu.rows.adam_step`.
    """

    number: int
    before: tuple[Any, Any, Any, Any]
    after: tuple[Any, Any, Any, Any]
    rate: Any
    root: Any


@njit(inline="always")
def make_step(number, pace):
    """The :class:`Step` of a number."""
    rate, root = pace.rate - pace.fall * (number - 1), 1.0
    if number < _POWERS:
        rate, root = rate * get(pace.first, number), get(pace.second, number)
    return Step(number, tail(number - 1, pace), tail(number, pace), np.float32(rate), np.float32(root))


@njit(inline="always")
def _kept(gap, pace):
    """Shares of the mean and the mean square that are left after some steps without a gradient."""
    if gap < _POWERS:
        return np.float64(get(pace.means, gap)), np.float64(get(pace.roots, gap)) ** 2
    return 0.0, np.exp(gap * np.log(BETA_2))


@njit(inline="always")
def write_row(table, row, step, values, gradient, pace):
    """Take a step with a gradient (data, at), from the values (data, at) that are a row's after the step before."""
    at, width = row * table.stride, table.width
    mean, square = _kept(_gap(table, row, step.number - 1), pace)
    keep = np.float32(BETA_1 * mean), np.float32(BETA_2 * square)
    adam_step((table.rows, at), values, gradient, width, width, keep, step.rate, step.root)
    behind = at + 3 * width
    put(table.steps, behind + _STEP, np.int32(step.number))
    for number in range(4):
        put(table.rows, behind + _TAIL + number, step.after[number])


@njit(nogil=True, cache=True, error_model="numpy")
def settle(first, last, now, rows, steps, width, stride, pace):
    """Bring the rows ``first`` to ``last`` to where they are after step ``now``.

    rows and steps (R * stride,) are the same memory, as float32 and int32; see :class:`Table`.
    """
    table, given = Table(pointer(rows), pointer(steps), width, stride), point_to(pace)
    tail_now = tail(now, pace)
    for row in range(first, last):
        at = row * stride
        gap = read_row((table.rows, at), table, row, now, tail_now, given)
        if gap:
            mean, square = _kept(gap, given)
            for column in range(at + width, at + 2 * width):
                rows[column] *= np.float32(mean)
                rows[column + width] *= np.float32(square)
            behind = at + 3 * width
            steps[behind + _STEP] = now
            for number in range(4):
                rows[behind + _TAIL + number] = tail_now[number]


@njit(inline="always")
def ask_for_mark(table, row):
    """Ask for what :func:`is_marked` reads ahead of its use."""
    prefetch(table.rows, row * table.stride + 3 * table.width, _LINE)


@njit(inline="always")
def is_marked(table, row, step):
    """Whether :func:`mark` was called for a row with a step."""
    return get(table.steps, row * table.stride + 3 * table.width + _MARK) == step


@njit(inline="always")
def mark(table, row, step, slot):
    """Note in a row in which step it was touched last, and where its gradient is."""
    behind = row * table.stride + 3 * table.width
    put(table.steps, behind + _MARK, np.int32(step))
    put(table.steps, behind + _SLOT, np.int32(slot))


@njit(inline="always")
def slot_of(table, row):
    """What was noted of where a row's gradient is."""
    return np.int64(get(table.steps, row * table.stride + 3 * table.width + _SLOT))


@njit(inline="always")
def point_to(pace):
    """A pace with pointers, as the functions of this module take it within a kernel."""
    return AdamSchedule(
        pace.rate,
        pace.fall,
        pace.points,
        pointer(pace.first),
        pointer(pace.second),
        pointer(pace.means),
        pointer(pace.roots),
    )
