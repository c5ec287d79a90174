"""Products of small matrices against NumPy in float64."""

import numpy as np
import pytest
from numba import njit

from fastncf.kernels.cpu.gemm import (
    COLUMN_MULTIPLE,
    NONE,
    RELU,
    RELU_BACKWARD,
    ROW_MULTIPLE,
    Matrix,
    Transposed,
    gemm,
)
from fastncf.kernels.cpu.simd import pointer


def compiled(epilogue, is_transposed):
    """Return a function of arrays that calls ``gemm`` with an epilogue; a (k, m) if it is to be transposed."""
    left = Transposed if is_transposed else Matrix

    @njit
    def product(a, b, start, c, scale):
        first, second = left(pointer(a), a.shape[1]), Matrix(pointer(b), b.shape[1])
        before, out = Matrix(pointer(start), start.shape[1]), Matrix(pointer(c), c.shape[1])
        gemm((len(c), b.shape[1], len(b)), first, second, before, out, epilogue, scale)

    return product


EPILOGUES = {
    NONE: lambda x, activations, scale: x,
    RELU: lambda x, activations, scale: np.maximum(x, 0),
    RELU_BACKWARD: lambda x, activations, scale: np.where(activations > 0, scale * x, 0),
}


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("epilogue", EPILOGUES)
def test_products_of_all_shapes(epilogue, is_transposed):
    random, product = np.random.default_rng(), compiled(epilogue, is_transposed)
    for columns in range(COLUMN_MULTIPLE, 80, COLUMN_MULTIPLE):
        rows, depth = ROW_MULTIPLE * int(random.integers(1, 20)), int(random.integers(0, 70))
        a, b, start, c = (
            random.normal(size=shape).astype(np.float32)
            for shape in ((rows, depth), (depth, columns), (rows, columns), (rows, columns))
        )
        expected = EPILOGUES[epilogue](start + a.astype(np.float64) @ b, c, 0.75)
        product(np.ascontiguousarray(a.T) if is_transposed else a, b, start, c, np.float32(0.75))
        np.testing.assert_allclose(c, expected, rtol=1e-4, atol=1e-4, err_msg=f"{rows} x {columns} x {depth}")


def test_relu_keeps_nan():
    start, c = np.full((ROW_MULTIPLE, COLUMN_MULTIPLE), np.nan, dtype=np.float32), np.zeros((4, 8), dtype=np.float32)
    a, b = np.zeros((ROW_MULTIPLE, 1), dtype=np.float32), np.zeros((1, COLUMN_MULTIPLE), dtype=np.float32)
    compiled(RELU, False)(a, b, start, c, np.float32(1))
    assert np.isnan(c).all()
