"""Operations on rows of float32 whose widths are multiples of 16: softmax, products and decaying sums.

Rows are given as in :mod:`fastncf.kernels.cpu.rows`. Every function is an intrinsic that loops over the row a vector of
:data:`fastncf.kernels.cpu.simd.LANES` numbers at a time, in one fixed order.
"""

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastncf.kernels.cpu.simd import VectorBuilder


@intrinsic
def row_max(typingctx, row, count):
    """Return the greatest of ``count`` float32, a multiple of 16."""

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        row, count = vec.arguments
        best = vec.alloca()
        builder.store(vec.constant(-3e38), best)
        with vec.for_each_vector(count) as (at, _):
            x, old = vec.load(row, at), builder.load(best)
            builder.store(vec.select(x, ">", old, x, old), best)
        vector, lanes = builder.load(best), vec.lanes
        numbers = [builder.extract_element(vector, ir.Constant(ir.IntType(32), lane)) for lane in range(lanes)]
        while len(numbers) > 1:
            half = len(numbers) // 2
            numbers = [
                builder.select(builder.fcmp_ordered(">", a, b), a, b)
                for a, b in zip(numbers[:half], numbers[half:], strict=True)
            ]
        return numbers[0]

    return types.float32(row, count), generate


@intrinsic
def exp_sum(typingctx, row, count, highest):
    """Replace ``count`` float32 x by ``exp(x - highest)``, 0 where x is below -1e29, and return their sum.

    ``highest`` is not smaller than any of them; differences below -87 count as -87.
    """

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        row, count, highest = vec.arguments
        highest, least, zero, masked = vec.splat(highest), vec.constant(-87.0), vec.constant(0.0), vec.constant(-1e29)
        total = vec.alloca()
        builder.store(zero, total)
        with vec.for_each_vector(count) as (at, _):
            x = vec.load(row, at)
            difference = builder.fsub(x, highest)
            power = vec.exp(vec.select(difference, "<", least, least, difference))
            power = vec.select(x, "<", masked, zero, power)
            vec.store(power, row, at)
            builder.store(builder.fadd(builder.load(total), power), total)
        return vec.reduce_add(builder.load(total))

    return types.float32(row, count, highest), generate


@intrinsic
def scale_row(typingctx, row, count, factor):
    """Multiply ``count`` float32, a multiple of 16, by a factor, in place."""

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        row, count, factor = vec.arguments
        factor = vec.splat(factor)
        with vec.for_each_vector(count) as (at, _):
            vec.store(builder.fmul(vec.load(row, at), factor), row, at)
        return context.get_dummy_value()

    return types.void(row, count, factor), generate


@intrinsic
def multiply_row(typingctx, to, row, width):
    """Multiply a row by another, number by number: ``to = to * row``."""

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        to, row, width = vec.arguments
        with vec.for_each_vector(width) as (at, _):
            vec.store(builder.fmul(vec.load(to, at), vec.load(row, at)), to, at)
        return context.get_dummy_value()

    return types.void(to, row, width), generate


@intrinsic
def add_product(typingctx, to, scale, a, b, width):
    """Add a scaled product of rows: ``to += scale * a * b``, number by number; scale float32."""

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        to, scale, a, b, width = vec.arguments
        scale = vec.splat(scale)
        with vec.for_each_vector(width) as (at, _):
            product = builder.fmul(scale, builder.fmul(vec.load(a, at), vec.load(b, at)))
            vec.store(builder.fadd(vec.load(to, at), product), to, at)
        return context.get_dummy_value()

    return types.void(to, scale, a, b, width), generate


@intrinsic
def decay_row(typingctx, to, decay, row, width):
    """Take an item into a decaying sum: ``to = decay * to + row``, number by number."""

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        to, decay, row, width = vec.arguments
        with vec.for_each_vector(width) as (at, _):
            kept = builder.fmul(vec.load(to, at), vec.load(decay, at))
            vec.store(builder.fadd(kept, vec.load(row, at)), to, at)
        return context.get_dummy_value()

    return types.void(to, decay, row, width), generate
