"""Products and equations of one user against NumPy."""

import numpy as np
import pytest

from fastncf.kernels.cpu.newton import add_derivatives, multiply_transposed, product, solve_positive


@pytest.mark.parametrize(("count", "width"), [(1, 1), (3, 2), (4, 7), (30, 9), (101, 33)])
def test_numbers_are_those_of_numpy(count, width):
    random = np.random.default_rng()
    columns, states = random.normal(size=(count, width)), random.normal(size=(3, width - 1))
    gradients, hessians = random.normal(size=count), random.random(count)
    vector, ridge = random.normal(size=width), random.random(width) + 0.1

    np.testing.assert_allclose(product(columns, vector), columns @ vector, rtol=1e-9, atol=1e-12)
    out = np.empty((3, count))
    multiply_transposed(states, columns, out)
    np.testing.assert_allclose(out, states @ columns[:, :-1].T, rtol=1e-9, atol=1e-12)

    gradient, hessian = vector.copy(), np.diag(ridge)
    add_derivatives(columns, gradients, hessians, gradient, hessian)
    expected = np.diag(ridge) + columns.T * hessians @ columns
    np.testing.assert_allclose(gradient, vector + columns.T @ gradients, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(np.tril(hessian), np.tril(expected), rtol=1e-9, atol=1e-12)

    solve_positive(hessian, gradient)
    np.testing.assert_allclose(expected @ gradient, vector + columns.T @ gradients, rtol=1e-7, atol=1e-9)


def test_equations_that_rounding_makes_singular_have_a_finite_solution():
    for scale in (1.0, 1e-8, 1e8):
        column = np.array([[1.0, 1.0, 3.0]]) * scale
        gradient, hessian = np.ones(3), np.zeros((3, 3))
        add_derivatives(column, np.zeros(1), np.ones(1), gradient, hessian)
        solve_positive(hessian, gradient)
        assert np.isfinite(gradient).all()
