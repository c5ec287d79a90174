"""Products of small matrices of float32 on one thread, by tiles that stay in registers.

A layer of 64 x 32 over some dozens of samples is too little for a BLAS to get up to speed. Each element is summed in
the order of its terms, so that it has the same bits whatever the size of the tiles.
"""

import llvmlite.binding as llvm
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from fastncf.kernels.cpu.simd import VectorBuilder

ROWS = 4
"""Numbers of rows are multiples of it."""

COLUMNS = 8
"""Numbers of columns are multiples of it."""

ROW_MAJOR, COLUMN_MAJOR = range(2)
"""Order of the left matrix; compiled for either, so that what lies side by side is read from one address."""

PLAIN, RECTIFIED, MASKED = range(3)
"""What becomes of an element: itself; 0 where it is below; 0 where the mask is not above 0, else ``gain`` times it."""

_TALL, _WIDE = (12, 32) if llvm.get_host_cpu_features().get("avx512f") else (6, 16)


def _tile(rows, columns):
    """What computes ``rows`` x ``columns`` elements; see :func:`multiply` for the arguments."""
    lanes = min(columns, 16)
    vectors = range(columns // lanes)

    @intrinsic(prefer_literal=True)
    def tile(typingctx, depth, a, order, b, start, c, end, mask, gain):
        def generate(context, builder, signature, arguments):
            vec = VectorBuilder(context, builder, signature, arguments, lanes)
            depth, (a, a_at, a_line), _, b, start, c, end, mask, gain = vec.arguments
            row_major = order.literal_value == ROW_MAJOR

            def place(at, length, row, vector=0):
                offset = builder.mul(length, ir.Constant(length.type, row))
                return builder.add(builder.add(at, offset), ir.Constant(at.type, vector * lanes))

            def is_end(number):
                return builder.icmp_signed("==", end, ir.Constant(end.type, number))

            sums = [(row, vector, vec.alloca()) for row in range(rows) for vector in vectors]
            for row, vector, total in sums:
                builder.store(vec.load(start[0], place(start[1], start[2], row, vector)), total)
            firsts = [place(a_at, a_line if row_major else ir.Constant(a_at.type, 1), row) for row in range(rows)]
            with cgutils.for_range(builder, depth) as term:
                line = builder.add(b[1], builder.mul(term.index, b[2]))
                others = [vec.load(b[0], place(line, b[2], 0, vector)) for vector in vectors]
                step = term.index if row_major else builder.mul(term.index, a_line)
                numbers = [vec.splat(vec.load_scalar(a, builder.add(first, step))) for first in firsts]
                for row, vector, total in sums:
                    builder.store(vec.add(builder.load(total), vec.mul(numbers[row], others[vector])), total)
            zero, low = vec.constant(0.0), vec.splat(builder.select(is_end(RECTIFIED), *_constants(0.0, float("-inf"))))
            gain = vec.splat(gain)
            with builder.if_else(is_end(MASKED)) as (masked, otherwise):
                with masked:
                    for row, vector, total in sums:
                        at = place(c[1], c[2], row, vector)
                        number = builder.fmul(builder.load(total), gain)
                        vec.store(vec.select(vec.load(mask, at), ">", zero, number, zero), c[0], at)
                with otherwise:
                    for row, vector, total in sums:
                        number = builder.load(total)
                        number = vec.select(number, "<", low, low, number)
                        vec.store(number, c[0], place(c[1], c[2], row, vector))
            return context.get_dummy_value()

        return types.void(depth, a, order, b, start, c, end, mask, gain), generate

    return tile


def _constants(*numbers):
    return [ir.Constant(ir.FloatType(), number) for number in numbers]


_tall_wide, _low_wide = _tile(_TALL, _WIDE), _tile(ROWS, _WIDE)
_tall_middle, _low_middle = _tile(_TALL, 16), _tile(ROWS, 16)
_tall_narrow, _low_narrow = _tile(8, COLUMNS), _tile(ROWS, COLUMNS)


@njit(nogil=True, cache=True)
def multiply(rows, columns, depth, a, order, b, start, c, end, mask, gain):
    """``c = start + a @ b``, a ``rows`` x ``columns`` matrix that sums ``depth`` terms.

    Args:
        rows, columns: multiples of ``ROWS`` and ``COLUMNS``.
        depth: any number.
        a: (data, at, line): element (i, j) is ``data[at + i * line + j]``, column-major ``data[at + j * line + i]``.
        order: ``ROW_MAJOR`` or ``COLUMN_MAJOR``, a literal.
        b, start, c: (data, at, row): element (i, j) is ``data[at + i * row + j]``; start may be c.
        end: what becomes of an element, see ``PLAIN``.
        mask: data that lie as those of c do; c's own where it is not used.
        gain: float32.
    """
    column = 0
    while column < columns:
        width = _WIDE if column + _WIDE <= columns else 16 if column + 16 <= columns else COLUMNS
        other = b[0], b[1] + column, b[2]
        row = 0
        while row < rows:
            left = rows - row
            height = 8 if width == COLUMNS else _TALL
            tall = left >= height and left != height + 2  # 2 could not be cut into low ones
            own = a[0], a[1] + row * (a[2] if order == ROW_MAJOR else 1), a[2]
            first = start[0], start[1] + row * start[2] + column, start[2]
            to = c[0], c[1] + row * c[2] + column, c[2]
            if width == COLUMNS:
                if tall:
                    _tall_narrow(depth, own, order, other, first, to, end, mask, gain)
                else:
                    _low_narrow(depth, own, order, other, first, to, end, mask, gain)
            elif width == _WIDE:
                if tall:
                    _tall_wide(depth, own, order, other, first, to, end, mask, gain)
                else:
                    _low_wide(depth, own, order, other, first, to, end, mask, gain)
            elif tall:
                _tall_middle(depth, own, order, other, first, to, end, mask, gain)
            else:
                _low_middle(depth, own, order, other, first, to, end, mask, gain)
            row += height if tall else ROWS
        column += width
