"""Rows that take their steps late, against a dense Adam in float64."""

import numpy as np
import pytest
from numba import njit

from fastncf.kernels.cpu.lazy_adam import (
    LazyTable,
    catch_up,
    make_schedule,
    make_step,
    read_row,
    read_rows,
    restore_steps,
    step_rows,
    steps_of,
    stride_of,
    write_row,
)
from fastncf.kernels.cpu.rows import pointers
from fastncf.kernels.cpu.simd import offset, pointer
from tests import reference

RATE, WIDTH = 0.002, 8


@njit
def take_steps(first, last, which, gradients, table, schedule):
    """Take the steps ``first`` to ``last`` with the gradients (S, W) of one row of a table each."""
    table, schedule = pointers(table), pointers(schedule)
    for number in range(first, last):
        step, row = make_step(number, schedule), which[number - 1]
        values = offset(table.rows, row * table.stride)
        read_row(values, table, row, number - 1, step.remaining_before, schedule)
        write_row(table, row, step, values, offset(pointer(gradients), (number - 1) * table.width), schedule)


def random_steps(num_rows, num_steps):
    """Return a table (R, W) of rows with a few large values, and for each step a row and its gradient (S, W).

    Some rows have a gradient at nearly every step, most have one or none.
    """
    random = np.random.default_rng()
    # larger values are rounded by more, in torch's float32 as well, than the bound below leaves to all errors together
    start = random.uniform(-1, 1, size=(num_rows, WIDTH)).astype(np.float32)
    chances = np.arange(1, num_rows + 1) ** -1.2
    which = random.choice(num_rows, size=num_steps, p=chances / chances.sum())
    gradients = random.normal(size=(num_steps, WIDTH)) * 10 ** random.uniform(-6, 0, size=(num_steps, 1))
    return start, which, gradients.astype(np.float32)


def make_table(start):
    rows = np.zeros((len(start), stride_of(WIDTH)), dtype=np.float32)
    rows[:, :WIDTH] = start
    flat = rows.reshape(-1)
    return rows, LazyTable(flat, flat.view(np.int32), WIDTH, rows.shape[1])


@pytest.mark.parametrize("rate_decrement", [0.0, 1e-6])
def test_late_steps_are_those_of_a_dense_adam(rate_decrement):
    num_rows = num_steps = 1_500
    start, which, gradients = random_steps(num_rows, num_steps)
    rows, table = make_table(start)
    schedule = make_schedule(RATE, rate_decrement)
    take_steps(1, num_steps + 1, which, gradients, table, schedule)
    catch_up(0, num_rows, num_steps, table, schedule)

    exact = {"rows": start.astype(np.float64)}
    means, squares = reference.zeros_like(exact), reference.zeros_like(exact)
    for step in range(num_steps):
        dense = np.zeros_like(exact["rows"])
        dense[which[step]] = gradients[step]
        rate = RATE - rate_decrement * step
        exact, means, squares = reference.adam_step(exact, {"rows": dense}, means, squares, step + 1, rate)
    used, unused = np.unique(which), np.setdiff1d(np.arange(num_rows), which)
    error, moved = rows[:, :WIDTH] - exact["rows"], exact["rows"] - start
    assert (np.abs(error[used]) <= 1e-4 * np.abs(moved[used]) + 3e-6).all()
    np.testing.assert_array_equal(rows[unused, :WIDTH], start[unused])
    np.testing.assert_allclose(rows[:, WIDTH : 2 * WIDTH], means["rows"], rtol=1e-3, atol=1e-7)
    np.testing.assert_array_equal(steps_of(table)[used], num_steps)
    np.testing.assert_array_equal(steps_of(table)[unused], 0)


def test_restored_rows_continue_with_the_same_bits():
    num_rows, num_steps = 300, 600
    start, which, gradients = random_steps(num_rows, num_steps)
    rows, table = make_table(start)
    schedule = make_schedule(RATE, 1e-6)
    take_steps(1, 400, which, gradients, table, schedule)
    copy, other = make_table(start)
    copy[:, : 3 * WIDTH] = rows[:, : 3 * WIDTH]
    restore_steps(0, num_rows, steps_of(table).copy(), other, schedule)
    for one in (table, other):
        take_steps(400, num_steps + 1, which, gradients, one, schedule)
        catch_up(0, num_rows, num_steps, one, schedule)
    np.testing.assert_array_equal(copy[:, : 3 * WIDTH], rows[:, : 3 * WIDTH])


def test_steps_of_some_rows_are_those_of_one_after_the_other():
    start, which, gradients = random_steps(40, 300)
    (rows, table), (others, other_table) = make_table(start), make_table(start)
    schedule = make_schedule(RATE, 1e-6)
    take_steps(1, 301, which, gradients, table, schedule)
    for number, row in enumerate(which.tolist(), start=1):
        chosen, values = np.array([row, (row + 1) % 40]), np.empty((2, WIDTH), dtype=np.float32)
        read_rows(0, 2, chosen, number - 1, other_table, schedule, values.reshape(-1))
        step_rows(0, 1, chosen, number, other_table, schedule, values.reshape(-1), gradients[number - 1])
    np.testing.assert_array_equal(rows, others)
    values = np.empty((40, WIDTH), dtype=np.float32)
    read_rows(0, 40, np.arange(40), 300, other_table, schedule, values.reshape(-1))
    catch_up(0, 40, 300, table, schedule)
    np.testing.assert_array_equal(rows[:, :WIDTH], values)
