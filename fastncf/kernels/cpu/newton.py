"""Products and linear equations of Newton's method for one user, computed by the calling thread alone.

A BLAS divides products of this size among threads of its own. Where other threads or processes compute at the same
time, its threads wait for each other, and a product took a hundred times as long (measured in ``benchmarks/LOG.md``).
"""

import math

import numpy as np

from fastncf.kernels.cpu.compiling import REORDER, njit

_LEAST_PIVOT = np.finfo(np.float64).eps
"""Least share of a diagonal element that is left of it, so that rounding gives no root of a negative number."""


@njit(nogil=True, cache=True, fastmath=REORDER)
def multiply_transposed(a, b, out):
    """Compute ``out = a @ b[:, :D].T``.

    Args:
        a: (P, D) float64.
        b: (S, at least D) float64.
        out: (P, S) float64, written.
    """
    for p in range(len(a)):
        for s in range(len(b)):
            total = 0.0
            for d in range(a.shape[1]):
                total += a[p, d] * b[s, d]
            out[p, s] = total


@njit(nogil=True, cache=True, fastmath=REORDER)
def add_derivatives(columns, gradients, hessians, gradient, hessian):
    """Compute ``gradient += columns.T @ gradients`` and ``hessian += columns.T * hessians @ columns``.

    Args:
        columns: (S, W) float64.
        gradients: (S,) float64, first derivatives of the loss by the scores.
        hessians: (S,) float64, second derivatives of the loss by the scores.
        gradient: (W,) float64, added to.
        hessian: (W, W) float64, on and below the diagonal added to.
    """
    count, width = columns.shape
    whole = count // 4 * 4
    for s in range(0, whole, 4):  # four at a time, so that a row of the Hessian is read and written less often
        a, b, c, d = columns[s], columns[s + 1], columns[s + 2], columns[s + 3]
        for i in range(width):
            gradient[i] += gradients[s] * a[i] + gradients[s + 1] * b[i]
            gradient[i] += gradients[s + 2] * c[i] + gradients[s + 3] * d[i]
            row = hessian[i]
            of_a, of_b = hessians[s] * a[i], hessians[s + 1] * b[i]
            of_c, of_d = hessians[s + 2] * c[i], hessians[s + 3] * d[i]
            for j in range(i + 1):
                row[j] += of_a * a[j] + of_b * b[j] + of_c * c[j] + of_d * d[j]
    for s in range(whole, count):
        a = columns[s]
        for i in range(width):
            gradient[i] += gradients[s] * a[i]
            row, of_a = hessian[i], hessians[s] * a[i]
            for j in range(i + 1):
                row[j] += of_a * a[j]


@njit(nogil=True, cache=True, fastmath=REORDER)
def solve_positive(matrix, vector):
    """Solve ``matrix @ x = vector`` by Cholesky's decomposition.

    Args:
        matrix: (W, W) float64, positive definite; read on and below the diagonal, and overwritten there.
        vector: (W,) float64, overwritten by the solution.
    """
    width = len(vector)
    for i in range(width):
        for j in range(i + 1):
            total = matrix[i, j]
            for d in range(j):
                total -= matrix[i, d] * matrix[j, d]
            if i == j:
                matrix[i, i] = math.sqrt(max(total, _LEAST_PIVOT * matrix[i, i]))
            else:
                matrix[i, j] = total / matrix[j, j]
    for i in range(width):
        total = vector[i]
        for d in range(i):
            total -= matrix[i, d] * vector[d]
        vector[i] = total / matrix[i, i]
    for i in range(width - 1, -1, -1):
        vector[i] /= matrix[i, i]
        for d in range(i):
            vector[d] -= matrix[i, d] * vector[i]


def product(columns: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """Return ``columns @ vector``, (S,) float64, see :func:`multiply_transposed`."""
    out = np.empty((1, len(columns)))
    multiply_transposed(vector[None], columns, out)
    return out[0]
