"""Rows of float32 whose width is a multiple of 8: sums, products, and Adam with steps that come late."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastncf.kernels.cpu.simd import VectorBuilder
from fastncf.rng import LOWBIAS_1, LOWBIAS_2

LANES = 8
BETA_1, BETA_2 = 0.9, 0.999  # torch's defaults, as all of Adam here
_EPSILON = 1e-8


def _blocks(context, builder, signature, arguments, width):
    """Loops over a row, as wide as argument ``width`` says: four vectors at a time, whose sums do not wait for each
    other, then one. Yields the code, and the first lane, of either."""
    width, wide = arguments[width], 4 * LANES
    most = builder.and_(width, ir.Constant(width.type, -wide))
    for lanes, start, stop in ((wide, ir.Constant(width.type, 0), most), (LANES, most, width)):
        step = ir.Constant(width.type, lanes)
        with cgutils.for_range_slice(builder, start, stop, step, inc=True) as (at, _):
            yield VectorBuilder(context, builder, signature, arguments, lanes), at


@intrinsic
def add_row(typingctx, to, what, share, width):
    """``to += share * what``; both (data, at), share float32."""

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments, LANES)
        (to, to_at), (what, what_at), share, width = vec.arguments
        share = vec.splat(share)
        with vec.for_each_vector(width) as (at, _):
            place = builder.add(to_at, at)
            added = vec.mul(share, vec.load(what, builder.add(what_at, at)))
            vec.store(vec.add(vec.load(to, place), added), to, place)
        return context.get_dummy_value()

    return types.void(to, what, share, width), generate


@intrinsic
def copy_row(typingctx, to, what, width):
    """``to = what``; both (data, at)."""

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments, LANES)
        (to, to_at), (what, what_at), width = vec.arguments
        with vec.for_each_vector(width) as (at, _):
            vec.store(vec.load(what, builder.add(what_at, at)), to, builder.add(to_at, at))
        return context.get_dummy_value()

    return types.void(to, what, width), generate


@intrinsic
def multiply_rows(typingctx, to, a, b, width):
    """``to = a * b`` by element; all (data, at)."""

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments, LANES)
        (to, to_at), (a, a_at), (b, b_at), width = vec.arguments
        with vec.for_each_vector(width) as (at, _):
            product = builder.fmul(vec.load(a, builder.add(a_at, at)), vec.load(b, builder.add(b_at, at)))
            vec.store(product, to, builder.add(to_at, at))
        return context.get_dummy_value()

    return types.void(to, a, b, width), generate


@intrinsic
def dot(typingctx, a, b, width):
    """Dot product of two rows (data, at)."""

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments, LANES)
        (a, a_at), (b, b_at), width = vec.arguments
        total = vec.alloca()
        builder.store(vec.constant(0.0), total)
        with vec.for_each_vector(width) as (at, _):
            product = vec.mul(vec.load(a, builder.add(a_at, at)), vec.load(b, builder.add(b_at, at)))
            builder.store(vec.add(builder.load(total), product), total)
        return vec.reduce_add(builder.load(total))

    return types.float32(a, b, width), generate


@intrinsic
def dot_of_three(typingctx, a, b, c, width):
    """Sum of ``a * b * c`` by element; all are rows (data, at)."""

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments, LANES)
        (a, a_at), (b, b_at), (c, c_at), width = vec.arguments
        total = vec.alloca()
        builder.store(vec.constant(0.0), total)
        with vec.for_each_vector(width) as (at, _):
            product = builder.fmul(vec.load(a, builder.add(a_at, at)), vec.load(b, builder.add(b_at, at)))
            sum_ = vec.add(builder.load(total), vec.mul(product, vec.load(c, builder.add(c_at, at))))
            builder.store(sum_, total)
        return vec.reduce_add(builder.load(total))

    return types.float32(a, b, c, width), generate


@intrinsic
def spread_product(typingctx, user, items, weights, slopes, count, length, width, to):
    """Gradients of ``slopes[k] * (sum of user * items[k] * weights)``, k from 0 to ``count``.

    Args:
        user, weights: (data, at).
        items: (data, at): the first of rows that lie ``length`` apart.
        slopes: (data, at) float32.
        count, length, width: int64.
        to: (data, at of the user's, at of the items', as far apart as the items, gradients, at of the weights'): the
            last is added on to.
    """

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments, LANES)
        (user, user_at), (items, items_at), (weights, weights_at), (slopes, slopes_at), count, length, width, to = (
            vec.arguments
        )
        rows, of_user, of_items, gradients, of_weights = to
        total = vec.alloca()
        with vec.for_each_vector(width) as (at, _):
            own, weight = vec.load(user, builder.add(user_at, at)), vec.load(weights, builder.add(weights_at, at))
            product = builder.fmul(own, weight)
            first, first_to = builder.add(items_at, at), builder.add(of_items, at)
            builder.store(vec.constant(0.0), total)
            with cgutils.for_range(builder, count) as row:
                slope = vec.splat(vec.load_scalar(slopes, builder.add(slopes_at, row.index)))
                moved = builder.mul(row.index, length)
                item = vec.load(items, builder.add(first, moved))
                vec.store(builder.fmul(slope, product), rows, builder.add(first_to, moved))
                builder.store(vec.add(builder.load(total), vec.mul(slope, item)), total)
            sum_, place = builder.load(total), builder.add(of_weights, at)
            vec.store(builder.fmul(sum_, weight), rows, builder.add(of_user, at))
            vec.store(vec.add(vec.load(gradients, place), vec.mul(sum_, own)), gradients, place)
        return context.get_dummy_value()

    return types.void(user, items, weights, slopes, count, length, width, to), generate


@intrinsic
def spread_slopes(typingctx, rows, weights, slopes, count, width, gain, to):
    """Gradients of ``slopes[s] *`` (dot product of row s and ``weights``), s from 0 to ``count``, in the rows' place.

    Args:
        rows: (data, at): of what a ReLU gave, ``width`` apart. Then the gradients of what it got, times ``gain``.
        weights: (data, at).
        slopes: (data, at) float32.
        count, width: int64.
        gain: float32.
        to: (data, at): the weights' gradients, which are added on to.
    """

    def generate(context, builder, signature, arguments):
        for vec, at in _blocks(context, builder, signature, arguments, 4):
            (rows, rows_at), (weights, weights_at), (slopes, slopes_at), count, width, gain, (to, to_at) = vec.arguments
            total, zero = vec.alloca(), vec.constant(0.0)
            weight = builder.fmul(vec.load(weights, builder.add(weights_at, at)), vec.splat(gain))
            first, to_place = builder.add(rows_at, at), builder.add(to_at, at)
            builder.store(vec.load(to, to_place), total)
            with cgutils.for_range(builder, count) as row:
                slope = vec.splat(vec.load_scalar(slopes, builder.add(slopes_at, row.index)))
                place = builder.add(first, builder.mul(row.index, width))
                active = vec.load(rows, place)
                builder.store(vec.add(builder.load(total), vec.mul(slope, active)), total)
                vec.store(vec.select(active, ">", zero, builder.fmul(slope, weight), zero), rows, place)
            vec.store(builder.load(total), to, to_place)
        return context.get_dummy_value()

    return types.void(rows, weights, slopes, count, width, gain, to), generate


@intrinsic
def add_rows(typingctx, to, rows, length, count, width):
    """Add ``count`` rows that lie ``length`` apart from (data, at) on to the row ``to`` (data, at)."""

    def generate(context, builder, signature, arguments):
        for vec, at in _blocks(context, builder, signature, arguments, 4):
            (to, to_at), (rows, rows_at), length, count, _ = vec.arguments
            total, place, first = vec.alloca(), builder.add(to_at, at), builder.add(rows_at, at)
            builder.store(vec.load(to, place), total)
            with cgutils.for_range(builder, count) as row:
                number = vec.load(rows, builder.add(first, builder.mul(row.index, length)))
                builder.store(builder.fadd(builder.load(total), number), total)
            vec.store(builder.load(total), to, place)
        return context.get_dummy_value()

    return types.void(to, rows, length, count, width), generate


def _root(vec, vector):
    name = f"llvm.sqrt.v{vec.lanes}f32"
    kind = ir.FunctionType(vec.vector, [vec.vector])
    return vec.builder.call(cgutils.get_or_insert_function(vec.builder.module, kind, name), [vector])


@intrinsic
def late_step(typingctx, to, values, moments, width, rate, root):
    """``to = values`` less a step of Adam without a gradient.

    to and values are rows (data, at), moments likewise: the mean, and the mean square ``width`` further on; the step
    is ``rate * mean / (sqrt(square) * root + epsilon)``, factors float32.
    """

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments, LANES)
        (to, to_at), (values, values_at), (moments, moments_at), width, rate, root = vec.arguments
        rate, root = vec.splat(rate), vec.splat(root)
        with vec.for_each_vector(width) as (at, _):
            place = builder.add(moments_at, at)
            mean, square_root = vec.load(moments, place), _root(vec, vec.load(moments, builder.add(place, width)))
            lower = vec.add(vec.mul(square_root, root), vec.constant(_EPSILON))
            value = builder.fsub(
                vec.load(values, builder.add(values_at, at)), builder.fdiv(builder.fmul(rate, mean), lower)
            )
            vec.store(value, to, builder.add(to_at, at))
        return context.get_dummy_value()

    return types.void(to, values, moments, width, rate, root), generate


@intrinsic
def late_steps(typingctx, to, values, moments, width, then, now, kept):
    """``to = values`` less what two steps as in :func:`late_step` take, plus what two others take.

    Args:
        to, values, moments, width: as in :func:`late_step`.
        then: (data, at): rate and root of the two steps.
        now: (rate, root, rate, root) float32, of the two others.
        kept: shares that are left of the mean, and of the root of the mean square, before the two others.
    """

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments, LANES)
        (to, to_at), (values, values_at), (moments, moments_at), width, then, now, kept = vec.arguments
        numbers = [vec.load_scalar(then[0], builder.add(then[1], ir.Constant(then[1].type, n))) for n in range(4)]
        numbers += [builder.fneg(builder.fmul(now[0], kept[0])), builder.fmul(now[1], kept[1])]
        numbers += [builder.fneg(builder.fmul(now[2], kept[0])), builder.fmul(now[3], kept[1])]
        rates, roots = ([vec.splat(number) for number in numbers[start::2]] for start in (0, 1))
        epsilon = vec.constant(_EPSILON)
        with vec.for_each_vector(width) as (at, _):
            place = builder.add(moments_at, at)
            mean, square_root = vec.load(moments, place), _root(vec, vec.load(moments, builder.add(place, width)))
            lower = [vec.add(vec.mul(square_root, root), epsilon) for root in roots]
            taken = []
            for one in (0, 2):  # one division for two: a / b + c / d = (a d + c b) / (b d)
                upper = vec.add(vec.mul(rates[one], lower[one + 1]), vec.mul(rates[one + 1], lower[one]))
                taken.append(builder.fdiv(upper, builder.fmul(lower[one], lower[one + 1])))
            value = vec.load(values, builder.add(values_at, at))
            value = vec.sub(value, vec.mul(mean, builder.fadd(*taken)))
            vec.store(value, to, builder.add(to_at, at))
        return context.get_dummy_value()

    return types.void(to, values, moments, width, then, now, kept), generate


@intrinsic
def adam_step(typingctx, row, values, gradient, length, width, keep, rate, root):
    """One step of Adam (Kingma and Ba 2015), as torch takes it.

    Args:
        row: (data, at): what the values become; mean and mean square follow, each ``length`` further on.
        values, gradient: (data, at): values before.
        length, width: int64.
        keep: (of the mean, of the mean square) float32: what is left of them since they were last written.
        rate, root: float32: the step is ``rate * mean / (sqrt(square) * root + epsilon)``.
    """

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments, LANES)
        (row, row_at), values, gradients, length, width, keep, rate, root = vec.arguments
        keep_mean, keep_square = (vec.splat(number) for number in keep)
        rate, root = vec.splat(rate), vec.splat(root)
        with vec.for_each_vector(width) as (at, _):
            places = [builder.add(row_at, at)]
            for _ in range(2):
                places.append(builder.add(places[-1], length))
            value = vec.load(values[0], builder.add(values[1], at))
            mean, square = (vec.load(row, place) for place in places[1:])
            gradient = vec.load(gradients[0], builder.add(gradients[1], at))
            mean = vec.add(vec.mul(mean, keep_mean), vec.mul(gradient, vec.constant(1 - BETA_1)))
            new = vec.mul(builder.fmul(gradient, gradient), vec.constant(1 - BETA_2))
            square = vec.add(vec.mul(square, keep_square), new)
            lower = vec.add(vec.mul(_root(vec, square), root), vec.constant(_EPSILON))
            value = builder.fsub(value, builder.fdiv(builder.fmul(rate, mean), lower))
            for number, place in zip((value, mean, square), places, strict=True):
                vec.store(number, row, place)
        return context.get_dummy_value()

    return types.void(row, values, gradient, length, width, keep, rate, root), generate


@intrinsic
def drop(typingctx, numbers, count, share, key):
    """Set a share of some numbers to 0, and the others to what keeps the mean: dropout.

    numbers (data, at) float32, count int64, a multiple of 8, share float64, key uint64. A number's place in the range
    makes its own draw, by a hash (Wellons' "lowbias32") that takes half of the key before and half in between.
    """

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments, LANES)
        (numbers, numbers_at), count, share, key = vec.arguments
        word = ir.IntType(32)

        def all_of(number):
            return ir.Constant(vec.integers, [number] * LANES)

        def everywhere(number):
            first = builder.insert_element(ir.Constant(vec.integers, ir.Undefined), number, ir.Constant(word, 0))
            return builder.shuffle_vector(first, first, ir.Constant(vec.integers, [0] * LANES))

        def mixed(x, factor, shift):
            x = builder.mul(x, all_of(factor))
            return builder.xor(x, builder.lshr(x, all_of(shift)))

        low, high = (everywhere(builder.trunc(x, word)) for x in (key, builder.lshr(key, ir.Constant(key.type, 32))))
        limit = everywhere(builder.fptoui(builder.fmul(share, ir.Constant(share.type, 2.0**32)), word))
        one = ir.Constant(share.type, 1.0)
        gain = vec.splat(builder.fptrunc(builder.fdiv(one, builder.fsub(one, share)), ir.FloatType()))
        lanes = ir.Constant(vec.integers, list(range(LANES)))
        with vec.for_each_vector(count) as (at, _):
            x = builder.xor(builder.add(everywhere(builder.trunc(at, word)), lanes), low)
            x = mixed(builder.xor(x, builder.lshr(x, all_of(16))), LOWBIAS_1, 15)
            x = mixed(builder.add(x, high), LOWBIAS_2, 16)
            kept = builder.icmp_unsigned(">=", x, limit)
            place = builder.add(numbers_at, at)
            number = builder.fmul(vec.load(numbers, place), gain)
            vec.store(builder.select(kept, number, vec.constant(0.0)), numbers, place)
        return context.get_dummy_value()

    return types.void(numbers, count, share, key), generate
