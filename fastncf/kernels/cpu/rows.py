"""Operations on rows of float32: copies, sums, dot products and their gradients, dropout, and steps of Adam.

A row is given by a pointer to its first number (:func:`fastncf.kernels.cpu.simd.pointer`) and by its width, an int64
multiple of 8. Every function is an intrinsic that loops over the row 8 numbers at a time, in one fixed order, so that
the bits of the result depend neither on the CPU nor on the number of threads.
"""

from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastncf.kernels.cpu.simd import VectorBuilder
from fastncf.rng import LOWBIAS_1, LOWBIAS_2

_LANES = 8  # numbers in a vector here: half of simd.LANES, since widths are multiples of 8 only
BETA_1, BETA_2 = 0.9, 0.999
"""Decay rates of Adam's first and second moment, torch's defaults, for all of Adam in the CPU kernels."""

EPSILON = 1e-8


@intrinsic
def pointers(typingctx, structure):
    """Return a named tuple with a pointer in place of each array, also in the named tuples within it.

    Numba counts the references to an array whenever it is taken out of a tuple: a locked instruction on one address,
    which all threads would wait for. A pointer is not counted; the caller keeps the arrays alive.
    """

    def converted(kind):
        if isinstance(kind, types.Array):
            return types.CPointer(kind.dtype)
        if isinstance(kind, types.BaseNamedTuple):
            return types.BaseTuple.from_types([converted(part) for part in kind.types], kind.instance_class)
        return kind

    def convert(context, builder, kind, value):
        if isinstance(kind, types.Array):
            return context.make_array(kind)(context, builder, value).data
        if isinstance(kind, types.BaseNamedTuple):
            parts = zip(kind.types, cgutils.unpack_tuple(builder, value), strict=True)
            return context.make_tuple(builder, converted(kind), [convert(context, builder, *part) for part in parts])
        return value

    def generate(context, builder, signature, arguments):
        return convert(context, builder, signature.args[0], arguments[0])

    return converted(structure)(structure), generate


def _for_each_block(context, builder, signature, arguments, width):
    """Loop over a row whose width is argument number ``width``: first four vectors at a time, then one.

    Sums of four vectors do not wait for each other. Yields the code of either loop and the offset of its first number.
    """
    width, wide = arguments[width], 4 * _LANES
    limit = builder.and_(width, ir.Constant(width.type, -wide))
    for lanes, start, stop in ((wide, ir.Constant(width.type, 0), limit), (_LANES, limit, width)):
        step = ir.Constant(width.type, lanes)
        with cgutils.for_range_slice(builder, start, stop, step, inc=True) as (at, _):
            yield VectorBuilder(context, builder, signature, arguments, lanes), at


@intrinsic
def copy_row(typingctx, to, row, width):
    """Copy a row: ``to = row``."""

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments, _LANES)
        to, row, width = vec.arguments
        with vec.for_each_vector(width) as (at, _):
            vec.store(vec.load(row, at), to, at)
        return context.get_dummy_value()

    return types.void(to, row, width), generate


@intrinsic
def axpy(typingctx, to, scale, row, width):
    """Add a multiple of a row: ``to += scale * row``, scale float32."""

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments, _LANES)
        to, scale, row, width = vec.arguments
        scale = vec.splat(scale)
        with vec.for_each_vector(width) as (at, _):
            vec.store(vec.add(vec.load(to, at), vec.mul(scale, vec.load(row, at))), to, at)
        return context.get_dummy_value()

    return types.void(to, scale, row, width), generate


@intrinsic
def add_rows(typingctx, to, rows, stride, count, width):
    """Add rows one after the other, ``to += rows[0] + ... + rows[count - 1]``; they lie ``stride`` numbers apart."""

    def generate(context, builder, signature, arguments):
        for vec, at in _for_each_block(context, builder, signature, arguments, 4):
            to, rows, stride, count, _ = vec.arguments
            total, first = vec.alloca(), builder.gep(rows, [at])
            builder.store(vec.load(to, at), total)
            with cgutils.for_range(builder, count) as row:
                value = vec.load(first, builder.mul(row.index, stride))
                builder.store(builder.fadd(builder.load(total), value), total)
            vec.store(builder.load(total), to, at)
        return context.get_dummy_value()

    return types.void(to, rows, stride, count, width), generate


@intrinsic
def dot(typingctx, a, b, width):
    """Return the sum of ``a * b``, float32."""

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments, _LANES)
        a, b, width = vec.arguments
        total = vec.alloca()
        builder.store(vec.constant(0.0), total)
        with vec.for_each_vector(width) as (at, _):
            builder.store(vec.add(builder.load(total), vec.mul(vec.load(a, at), vec.load(b, at))), total)
        return vec.reduce_add(builder.load(total))

    return types.float32(a, b, width), generate


@intrinsic
def weighted_dot(typingctx, a, b, weights, width):
    """Return the sum of ``a * b * weights``, float32: a score of GMF without its bias (He et al. 2017, eq. 8-9)."""

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments, _LANES)
        a, b, weights, width = vec.arguments
        total = vec.alloca()
        builder.store(vec.constant(0.0), total)
        with vec.for_each_vector(width) as (at, _):
            product = builder.fmul(vec.load(a, at), vec.load(b, at))
            builder.store(vec.add(builder.load(total), vec.mul(product, vec.load(weights, at))), total)
        return vec.reduce_add(builder.load(total))

    return types.float32(a, b, weights, width), generate


class WeightedDot(NamedTuple):
    """Operands of ``weighted_dot(user, items[k], weights)`` for the items k of one user, or gradients of them.

    Attributes:
        user: pointer to (width,) float32.
        items: pointer to the first of some (width,) float32 that lie a stride apart.
        weights: pointer to (width,) float32.
    """

    user: Any
    items: Any
    weights: Any


@intrinsic
def weighted_dot_backward(typingctx, x, grad_x, grad_scores, count, stride, width):
    """Compute the gradients of the sum of ``grad_scores[k] * weighted_dot(user, items[k], weights)`` over k.

    Args:
        x: :class:`WeightedDot` of the operands.
        grad_x: :class:`WeightedDot` of their gradients: of the user and of the items they are written, of the weights
            they are added to.
        grad_scores: pointer to (count,) float32.
        count: number of items, int64.
        stride: numbers from one item, and from the gradient of one item, to the next, int64.
        width: of a row.
    """

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments, _LANES)
        (user, items, weights), (grad_user, grad_items, grad_weights), grad_scores, count, stride, width = vec.arguments
        total = vec.alloca()
        with vec.for_each_vector(width) as (at, _):
            user_vector, weight = vec.load(user, at), vec.load(weights, at)
            product = builder.fmul(user_vector, weight)
            first, grad_first = builder.gep(items, [at]), builder.gep(grad_items, [at])
            builder.store(vec.constant(0.0), total)
            with cgutils.for_range(builder, count) as row:
                grad_score = vec.splat(vec.load_scalar(grad_scores, row.index))
                offset = builder.mul(row.index, stride)
                item = vec.load(first, offset)
                vec.store(builder.fmul(grad_score, product), grad_first, offset)
                builder.store(vec.add(builder.load(total), vec.mul(grad_score, item)), total)
            weighted_items = builder.load(total)
            vec.store(builder.fmul(weighted_items, weight), grad_user, at)
            vec.store(vec.add(vec.load(grad_weights, at), vec.mul(weighted_items, user_vector)), grad_weights, at)
        return context.get_dummy_value()

    return types.void(x, grad_x, grad_scores, count, stride, width), generate


@intrinsic
def output_backward(typingctx, activations, weights, grad_scores, count, width, scale, grad_weights):
    """Compute the gradients of the sum of ``grad_scores[s] * dot(activations[s], weights)`` over s.

    Args:
        activations: pointer to (count, width) float32: what ReLU and dropout returned; replaced by the gradients with
            respect to what ReLU was given.
        weights: pointer to (width,) float32.
        grad_scores: pointer to (count,) float32.
        count: number of samples, int64.
        width: of a row.
        scale: float32, what dropout multiplies by what it keeps.
        grad_weights: pointer to (width,) float32, added to.
    """

    def generate(context, builder, signature, arguments):
        for vec, at in _for_each_block(context, builder, signature, arguments, 4):
            activations, weights, grad_scores, count, width, scale, grad_weights = vec.arguments
            total, zero = vec.alloca(), vec.constant(0.0)
            weight = builder.fmul(vec.load(weights, at), vec.splat(scale))
            first = builder.gep(activations, [at])
            builder.store(vec.load(grad_weights, at), total)
            with cgutils.for_range(builder, count) as row:
                grad_score = vec.splat(vec.load_scalar(grad_scores, row.index))
                offset = builder.mul(row.index, width)
                active = vec.load(first, offset)
                builder.store(vec.add(builder.load(total), vec.mul(grad_score, active)), total)
                vec.store(vec.select(active, ">", zero, builder.fmul(grad_score, weight), zero), first, offset)
            vec.store(builder.load(total), grad_weights, at)
        return context.get_dummy_value()

    return types.void(activations, weights, grad_scores, count, width, scale, grad_weights), generate


@intrinsic
def dropout(typingctx, x, count, probability, key):
    """Set numbers to 0 with a probability and divide the others by 1 - probability (Srivastava et al. 2014), in place.

    Each number has a draw of its own: a hash of its position (Wellons' "lowbias32" mixer, 2018), one half of the key
    before it and the other between its two rounds.

    Args:
        x: pointer to (count,) float32.
        count: int64, a multiple of 8.
        probability: float64 from 0 below 1.
        key: uint64.
    """

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments, _LANES)
        x, count, probability, key = vec.arguments
        word = ir.IntType(32)

        def constant(number):
            return ir.Constant(vec.integers, [number] * _LANES)

        def splat(number):
            first = builder.insert_element(ir.Constant(vec.integers, ir.Undefined), number, ir.Constant(word, 0))
            return builder.shuffle_vector(first, first, constant(0))

        def mixed(bits, factor, shift):
            bits = builder.mul(bits, constant(factor))
            return builder.xor(bits, builder.lshr(bits, constant(shift)))

        low, high = (splat(builder.trunc(half, word)) for half in (key, builder.lshr(key, ir.Constant(key.type, 32))))
        limit = splat(builder.fptoui(builder.fmul(probability, ir.Constant(probability.type, 2.0**32)), word))
        one = ir.Constant(probability.type, 1.0)
        scale = vec.splat(builder.fptrunc(builder.fdiv(one, builder.fsub(one, probability)), ir.FloatType()))
        lanes = ir.Constant(vec.integers, list(range(_LANES)))
        with vec.for_each_vector(count) as (at, _):
            bits = builder.xor(builder.add(splat(builder.trunc(at, word)), lanes), low)
            bits = mixed(builder.xor(bits, builder.lshr(bits, constant(16))), LOWBIAS_1, 15)
            bits = mixed(builder.add(bits, high), LOWBIAS_2, 16)
            is_kept = builder.icmp_unsigned(">=", bits, limit)
            number = builder.fmul(vec.load(x, at), scale)
            vec.store(builder.select(is_kept, number, vec.constant(0.0)), x, at)
        return context.get_dummy_value()

    return types.void(x, count, probability, key), generate


def _sqrt(vec, vector):
    """Return the square roots of a vector."""
    name = f"llvm.sqrt.v{vec.lanes}f32"
    kind = ir.FunctionType(vec.vector, [vec.vector])
    return vec.builder.call(cgutils.get_or_insert_function(vec.builder.module, kind, name), [vector])


class AdamCoefficients(NamedTuple):
    """Factors of one step of Adam for one row, all float32.

    Attributes:
        mean_decay: what the mean of the gradients is multiplied by; beta_1 where the step before has updated it too.
        square_decay: likewise of the mean of the squared gradients; beta_2.
        rate: learning rate / (1 - beta_1 ** step).
        root: 1 / sqrt(1 - beta_2 ** step).
    """

    mean_decay: Any
    square_decay: Any
    rate: Any
    root: Any


@intrinsic
def adam_step(typingctx, row, values, gradient, stride, width, coefficients):
    """Take one step of Adam (Kingma and Ba 2015, algorithm 1) with a gradient.

    ``mean = mean_decay * mean + (1 - beta_1) * gradient``, ``square = square_decay * square + (1 - beta_2) * gradient
    ** 2``, and the values become ``values - rate * mean / (root * sqrt(square) + 1e-8)``.

    Args:
        row: pointer to the new values (width,) float32; mean and square lie ``stride`` and ``2 * stride`` behind.
        values: pointer to the values before the step, which may be ``row``.
        gradient: pointer to (width,) float32.
        stride, width: int64.
        coefficients: :class:`AdamCoefficients`.
    """

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments, _LANES)
        row, values, gradients, stride, width, coefficients = vec.arguments
        mean_decay, square_decay, rate, root = (vec.splat(number) for number in coefficients)
        means = builder.gep(row, [stride])
        squares = builder.gep(means, [stride])
        with vec.for_each_vector(width) as (at, _):
            # The order of the loads says which of two products LLVM fuses with a sum, and so the last bits.
            value, mean, square = vec.load(values, at), vec.load(means, at), vec.load(squares, at)
            gradient = vec.load(gradients, at)
            mean = vec.add(vec.mul(mean, mean_decay), vec.mul(gradient, vec.constant(1 - BETA_1)))
            new = vec.mul(builder.fmul(gradient, gradient), vec.constant(1 - BETA_2))
            square = vec.add(vec.mul(square, square_decay), new)
            divisor = vec.add(vec.mul(_sqrt(vec, square), root), vec.constant(EPSILON))
            value = builder.fsub(value, builder.fdiv(builder.fmul(rate, mean), divisor))
            for number, to in ((value, row), (mean, means), (square, squares)):
                vec.store(number, to, at)
        return context.get_dummy_value()

    return types.void(row, values, gradient, stride, width, coefficients), generate


@intrinsic
def zero_gradient_step(typingctx, to, values, moments, width, rate, root):
    """Take one step of Adam whose gradient is 0: ``to = values - rate * mean / (root * sqrt(square) + 1e-8)``.

    Args:
        to, values: pointers to (width,) float32; they may be the same.
        moments: pointer to the mean (width,) float32; the mean square is ``width`` behind. They are left as they are.
        width: int64.
        rate: float32, the learning rate over its bias correction, times the decay of the mean.
        root: float32, the bias correction of the root, times the decay of that root.
    """

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments, _LANES)
        to, values, means, width, rate, root = vec.arguments
        rate, root, squares = vec.splat(rate), vec.splat(root), builder.gep(means, [width])
        with vec.for_each_vector(width) as (at, _):
            divisor = vec.add(vec.mul(_sqrt(vec, vec.load(squares, at)), root), vec.constant(EPSILON))
            update = builder.fdiv(builder.fmul(rate, vec.load(means, at)), divisor)
            vec.store(builder.fsub(vec.load(values, at), update), to, at)
        return context.get_dummy_value()

    return types.void(to, values, moments, width, rate, root), generate


@intrinsic
def missed_steps(typingctx, to, values, moments, width, at_write, now, decay):
    """Take many steps of Adam whose gradients are 0 at once: ``to = values - update(at_write) + decayed update(now)``.

    An update is the sum of two steps as in :func:`zero_gradient_step`, given by (rate, root, rate, root): all that Adam
    would still subtract from a row after a step, see :func:`fastncf.kernels.cpu.lazy_adam.remaining_update`.

    Args:
        to, values, moments, width: as for :func:`zero_gradient_step`.
        at_write: pointer to the four numbers of the step in which the row was written, float32.
        now: the four numbers of the last of the missed steps, float32.
        decay: decays up to now of the mean and of the root of the mean square, float32.
    """

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments, _LANES)
        to, values, means, width, at_write, now, decay = vec.arguments
        squares = builder.gep(means, [width])
        numbers = [vec.load_scalar(at_write, ir.Constant(width.type, n)) for n in range(4)]
        numbers += [builder.fneg(builder.fmul(now[0], decay[0])), builder.fmul(now[1], decay[1])]
        numbers += [builder.fneg(builder.fmul(now[2], decay[0])), builder.fmul(now[3], decay[1])]
        rates, roots = ([vec.splat(number) for number in numbers[start::2]] for start in (0, 1))
        epsilon = vec.constant(EPSILON)
        with vec.for_each_vector(width) as (at, _):
            mean, square_root = vec.load(means, at), _sqrt(vec, vec.load(squares, at))
            divisors = [vec.add(vec.mul(square_root, root), epsilon) for root in roots]
            updates = []
            for one in (0, 2):  # one division for two: a / b + c / d = (a d + c b) / (b d)
                upper = vec.add(vec.mul(rates[one], divisors[one + 1]), vec.mul(rates[one + 1], divisors[one]))
                updates.append(builder.fdiv(upper, builder.fmul(divisors[one], divisors[one + 1])))
            vec.store(vec.sub(vec.load(values, at), vec.mul(mean, builder.fadd(*updates))), to, at)
        return context.get_dummy_value()

    return types.void(to, values, moments, width, at_write, now, decay), generate
