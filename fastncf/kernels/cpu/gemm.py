"""Products of small float32 matrices on one thread, with an epilogue in the same pass.

A layer of 64 x 32 over some dozens of samples is too small for a BLAS to reach its speed. Each element is summed in the
order of its terms, whatever the size of the blocks that registers hold, so that its bits do not depend on the CPU.
"""

from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastncf.kernels.cpu.compiling import njit
from fastncf.kernels.cpu.simd import VectorBuilder

ROW_MULTIPLE = 4
"""Numbers of rows of a product are multiples of it."""

COLUMN_MULTIPLE = 8
"""Numbers of columns of a product are multiples of it."""

NONE, RELU, RELU_BACKWARD = range(3)
"""Epilogues, applied to an element x before it is written: x itself; max(x, 0), where NaN stays NaN; or ``scale * x``
where the element of ``c`` that x replaces, an activation, is above 0, and 0 elsewhere."""

_TALL, _WIDE, _LONG = (12, 32, 192) if llvm.get_host_cpu_features().get("avx512f") else (6, 16, 64)

ROW_COLUMN_MULTIPLE = 192
"""Numbers of columns of :func:`gemm_row` are multiples of it."""


class Matrix(NamedTuple):
    """A matrix in row-major order: element (i, j) is ``data[i * stride + j]``; a stride of 0 repeats one row.

    Attributes:
        data: pointer to float32.
        stride: int64.
    """

    data: Any
    stride: Any


class Transposed(NamedTuple):
    """Transpose of a :class:`Matrix`: element (i, j) is ``data[j * stride + i]``.

    Attributes:
        data: pointer to float32.
        stride: int64.
    """

    data: Any
    stride: Any


def _make_block(rows, columns):
    """Return the intrinsic that computes ``rows`` x ``columns`` elements of a product in registers."""
    lanes = min(columns, 16)
    vectors = range(columns // lanes)

    @intrinsic(prefer_literal=True)
    def block(typingctx, depth, operands, row, column, epilogue, scale):
        """Compute the block from (row, column) on, int64; the other arguments are those of :func:`gemm`."""

        def generate(context, builder, signature, arguments):
            vec = VectorBuilder(context, builder, signature, arguments, lanes)
            depth, ((a, a_stride), (b, b_stride), start, (c, c_stride)), row, column, _, scale = vec.arguments
            is_transposed = signature.args[1][0].instance_class is Transposed

            def offset(stride, number, vector=0):
                """Return the offset of a vector in row ``number`` of the block."""
                line = builder.add(row, ir.Constant(row.type, number))
                at = builder.add(builder.mul(line, stride), column)
                return builder.add(at, ir.Constant(at.type, vector * lanes))

            sums = [(number, vector, vec.alloca()) for number in range(rows) for vector in vectors]
            for number, vector, total in sums:
                builder.store(vec.load(start[0], offset(start[1], number, vector)), total)
            firsts = []
            for number in range(rows):
                line = builder.add(row, ir.Constant(row.type, number))
                firsts.append(builder.gep(a, [line if is_transposed else builder.mul(line, a_stride)]))
            with cgutils.for_range(builder, depth) as term:
                line = builder.add(builder.mul(term.index, b_stride), column)
                factors = [vec.load(b, builder.add(line, ir.Constant(line.type, v * lanes))) for v in vectors]
                step = builder.mul(term.index, a_stride) if is_transposed else term.index
                numbers = [vec.splat(vec.load_scalar(first, step)) for first in firsts]
                for number, vector, total in sums:
                    builder.store(vec.add(builder.load(total), vec.mul(numbers[number], factors[vector])), total)
            zero, scale = vec.constant(0.0), vec.splat(scale)
            for number, vector, total in sums:
                x, at = builder.load(total), offset(c_stride, number, vector)
                if epilogue.literal_value == RELU:
                    x = vec.select(x, "<", zero, zero, x)
                elif epilogue.literal_value == RELU_BACKWARD:
                    x = vec.select(vec.load(c, at), ">", zero, builder.fmul(x, scale), zero)
                vec.store(x, c, at)
            return context.get_dummy_value()

        return types.void(depth, operands, row, column, epilogue, scale), generate

    return block


_tall_wide, _low_wide = _make_block(_TALL, _WIDE), _make_block(ROW_MULTIPLE, _WIDE)
_tall_middle, _low_middle = _make_block(_TALL, 16), _make_block(ROW_MULTIPLE, 16)
_tall_narrow, _low_narrow = _make_block(8, COLUMN_MULTIPLE), _make_block(ROW_MULTIPLE, COLUMN_MULTIPLE)
_row = _make_block(1, _LONG)


@njit(nogil=True, cache=True)
def gemm(shape, a, b, start, c, epilogue, scale):
    """Compute ``c = epilogue(start + a @ b)``.

    Args:
        shape: (m, n, k) int64: c is m x n, a is m x k, b is k x n. m is a multiple of ``ROW_MULTIPLE``, n of
            ``COLUMN_MULTIPLE``, and k is any number.
        a: :class:`Matrix` or :class:`Transposed`; compiled for either.
        b: :class:`Matrix`.
        start: :class:`Matrix` that the products are added to; it may be c.
        c: :class:`Matrix` that is written.
        epilogue: ``NONE``, ``RELU`` or ``RELU_BACKWARD``, a constant of the calling function; compiled for each.
        scale: float32, used by ``RELU_BACKWARD`` only.
    """
    rows, columns, depth = shape
    operands = a, b, start, c
    column = 0
    while column < columns:
        width = _WIDE if column + _WIDE <= columns else 16 if column + 16 <= columns else COLUMN_MULTIPLE
        row = 0
        while row < rows:
            left = rows - row
            height = 8 if width == COLUMN_MULTIPLE else _TALL
            tall = left >= height and left != height + 2  # 2 rows could not be covered by low blocks
            if width == COLUMN_MULTIPLE:
                if tall:
                    _tall_narrow(depth, operands, row, column, epilogue, scale)
                else:
                    _low_narrow(depth, operands, row, column, epilogue, scale)
            elif width == _WIDE:
                if tall:
                    _tall_wide(depth, operands, row, column, epilogue, scale)
                else:
                    _low_wide(depth, operands, row, column, epilogue, scale)
            elif tall:
                _tall_middle(depth, operands, row, column, epilogue, scale)
            else:
                _low_middle(depth, operands, row, column, epilogue, scale)
            row += height if tall else ROW_MULTIPLE
        column += width


@njit(nogil=True, cache=True)
def gemm_row(shape, a, b, start, c):
    """Compute ``c = start + a @ b`` for one row, with the bits that :func:`gemm` gives to each of its rows.

    Args:
        shape: (n, k) int64: c is 1 x n, a is 1 x k, b is k x n. n is a multiple of ``ROW_COLUMN_MULTIPLE``.
        a, b, start, c: as in :func:`gemm`, each a :class:`Matrix`.
    """
    columns, depth = shape
    operands = a, b, start, c
    for column in range(0, columns, _LONG):
        _row(depth, operands, 0, column, NONE, np.float32(0))
