"""Rows of a table against one vector, 16 float32 at a time, written for LLVM.

Numba would vectorise such loops only where sums may be reordered, in an order that depends on the CPU, and would make a
pass for each side that moves. Here the order of the sums is fixed. What remains of a width beyond a multiple of
``LANES`` is left out.
"""

import math

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
_LANE = ir.IntType(32)
_FUSED = ("contract",)
_EXPONENTIAL = [math.log(2) ** power / math.factorial(power) for power in range(6, -1, -1)]


def _lanes(*places):
    return ir.Constant(ir.VectorType(_LANE, len(places)), list(places))


class VectorBuilder:
    """What the intrinsics have in common: a builder, and the arguments: of an array its data, of one in lines also how
    long they are, of a tuple a list. Vectors are of ``lanes`` float32."""

    def __init__(self, context, builder, signature, arguments, lanes=LANES):
        self.builder = builder
        self.lanes = lanes
        self.vector = ir.VectorType(ir.FloatType(), lanes)
        self.integers = ir.VectorType(_LANE, lanes)
        self.arguments = [
            self._unpacked(context, kind, value) for kind, value in zip(signature.args, arguments, strict=True)
        ]

    def _unpacked(self, context, kind, value):
        if isinstance(kind, types.BaseTuple):
            values = cgutils.unpack_tuple(self.builder, value)
            return [self._unpacked(context, *part) for part in zip(kind, values, strict=True)]
        if not isinstance(kind, types.Array):
            return value
        array = context.make_array(kind)(context, self.builder, value)
        if kind.ndim == 1:
            return array.data
        return array.data, cgutils.unpack_tuple(self.builder, array.shape)[1]

    def _place(self, data, at):
        return self.builder.bitcast(self.builder.gep(data, [at]), self.vector.as_pointer())

    def load(self, data, at):
        return self.builder.load(self._place(data, at), align=4)

    def store(self, vector, data, at):
        self.builder.store(vector, self._place(data, at), align=4)

    def constant(self, number):
        """A constant in all lanes."""
        return ir.Constant(self.vector, [number] * self.lanes)

    def load_scalar(self, data, at):
        return self.builder.load(self.builder.gep(data, [at]))

    def splat(self, number):
        """A number in all lanes."""
        first = self.builder.insert_element(ir.Constant(self.vector, ir.Undefined), number, ir.Constant(_LANE, 0))
        return self.builder.shuffle_vector(first, first, _lanes(*[0] * self.lanes))

    def mul(self, a, b):
        return self.builder.fmul(a, b, flags=_FUSED)

    def add(self, a, b):
        return self.builder.fadd(a, b, flags=_FUSED)

    def sub(self, a, b):
        return self.builder.fsub(a, b, flags=_FUSED)

    def reduce_add(self, vector):
        """The sum over the lanes: halves added to each other."""
        lanes = self.lanes // 2
        while lanes:
            low = self.builder.shuffle_vector(vector, vector, _lanes(*range(lanes)))
            high = self.builder.shuffle_vector(vector, vector, _lanes(*range(lanes, 2 * lanes)))
            vector = self.builder.fadd(low, high)
            lanes //= 2
        return self.builder.extract_element(vector, ir.Constant(_LANE, 0))

    def reduce_add_four(self, vectors):
        """The sums over the lanes of four vectors, as a vector of four: each added up as :meth:`reduce_add` does it."""
        builder = self.builder
        parts, lanes = vectors, self.lanes
        while lanes > 4:
            lanes //= 2
            low, high = _lanes(*range(lanes)), _lanes(*range(lanes, 2 * lanes))
            parts = [builder.fadd(*(builder.shuffle_vector(one, one, half) for half in (low, high))) for one in parts]
        a, b, c, d = parts  # a0 + a2, a1 + a3, b0 + b2, b1 + b3; then both sums of each
        pairs = []
        for one, other in ((a, b), (c, d)):
            low, high = _lanes(0, 1, 4, 5), _lanes(2, 3, 6, 7)
            pairs.append(builder.fadd(*(builder.shuffle_vector(one, other, half) for half in (low, high))))
        even, odd = _lanes(0, 2, 4, 6), _lanes(1, 3, 5, 7)
        return builder.fadd(*(builder.shuffle_vector(*pairs, half) for half in (even, odd)))

    def select(self, a, comparison, b, then, otherwise):
        """By lane: ``then`` where the comparison holds, which it never does for NaN."""
        return self.builder.select(self.builder.fcmp_ordered(comparison, a, b), then, otherwise)

    def exp(self, x):
        """exp(x) for x in [-87, 0]: a power of two times the series of exp(f log 2) for a fraction f.

        Off by less than (2 + |x|) * 1e-7 of itself, as x log2(e) is rounded to a float32.
        """
        t = self.mul(x, self.constant(1.4426950408889634))
        shift = self.constant(1.5 * 2**23)  # float32 holds no fractions from 2**23 on, so the sum is rounded
        whole = self.builder.fsub(self.builder.fadd(t, shift), shift)
        fraction = self.builder.fsub(t, whole)
        series = self.constant(_EXPONENTIAL[0])
        for factor in _EXPONENTIAL[1:]:
            series = self.add(self.mul(series, fraction), self.constant(factor))
        bias, places = (ir.Constant(self.integers, [number] * self.lanes) for number in (127, 23))
        exponent = self.builder.add(self.builder.fptosi(whole, self.integers), bias)
        scale = self.builder.shl(exponent, places)
        return self.builder.fmul(series, self.builder.bitcast(scale, self.vector))

    def log1p(self, e):
        """log(1 + e) for e in [0, 1], to 2e-7: twice the series of the inverse tanh of e / (2 + e)."""
        s = self.builder.fdiv(e, self.builder.fadd(e, self.constant(2.0)))
        square = self.builder.fmul(s, s)
        series = self.constant(1 / 13)
        for odd in (11, 9, 7, 5, 3, 1):
            series = self.add(self.mul(series, square), self.constant(1 / odd))
        return self.builder.fmul(self.builder.fadd(s, s), series)

    def alloca(self):
        return cgutils.alloca_once(self.builder, self.vector)

    def for_each_vector(self, width):
        """A loop over the first lane of each whole chunk of a row."""
        zero, step = ir.Constant(width.type, 0), ir.Constant(width.type, self.lanes)
        whole = self.builder.and_(width, ir.Constant(width.type, -self.lanes))
        return cgutils.for_range_slice(self.builder, zero, whole, step, inc=True)


@intrinsic
def pointer(typingctx, array):
    """Where the data of an array are: for tuples, since an array in one is counted, by all threads in one place."""

    def generate(context, builder, signature, arguments):
        return context.make_array(signature.args[0])(context, builder, arguments[0]).data

    return types.CPointer(array.dtype)(array), generate


@intrinsic
def offset(typingctx, data, by):
    """Return a :func:`pointer` to the number that lies ``by`` numbers behind the first."""

    def generate(context, builder, signature, arguments):
        return builder.gep(arguments[0], [arguments[1]])

    return data(data, by), generate


@intrinsic
def get(typingctx, data, at):
    """A number behind a :func:`pointer`."""

    def generate(context, builder, signature, arguments):
        return builder.load(builder.gep(arguments[0], [arguments[1]]))

    return data.dtype(data, at), generate


@intrinsic
def put(typingctx, data, at, number):
    """Write a number, which has the right type, behind a :func:`pointer`."""

    def generate(context, builder, signature, arguments):
        builder.store(arguments[2], builder.gep(arguments[0], [arguments[1]]))
        return context.get_dummy_value()

    return types.void(data, at, data.dtype), generate


@intrinsic
def dots(typingctx, table, starts, line, count, width, vector, out):
    """``out[k]``: dot product of ``vector`` with the row of ``table`` that begins at ``starts[line, k]``.

    table (R * width,), vector (width,) and out (count,) float32, starts (L, S) int64; line, count and width int64.
    """

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        table, (starts, length), line, count, width, vector, out = vec.arguments
        first = builder.mul(line, length)

        def sums(row, many):
            """The products of some rows from ``row`` on, added up over the chunks: side by side, as each add waits."""
            rows = [builder.add(row, ir.Constant(row.type, which)) for which in range(many)]
            begins = [vec.load_scalar(starts, builder.add(first, one)) for one in rows]
            partial = [vec.alloca() for _ in rows]
            for one in partial:
                builder.store(vec.constant(0.0), one)
            with vec.for_each_vector(width) as (at, _):
                own = vec.load(vector, at)
                for begin, one in zip(begins, partial, strict=True):
                    product = vec.mul(own, vec.load(table, builder.add(begin, at)))
                    builder.store(vec.add(builder.load(one), product), one)
            return [builder.load(one) for one in partial]

        fours = builder.and_(count, ir.Constant(count.type, -4))
        zero, step = ir.Constant(count.type, 0), ir.Constant(count.type, 4)
        with cgutils.for_range_slice(builder, zero, fours, step, inc=True) as (row, _):
            totals = vec.reduce_add_four(sums(row, 4))
            place = builder.bitcast(builder.gep(out, [row]), totals.type.as_pointer())
            builder.store(totals, place, align=4)
        with cgutils.for_range_slice(builder, fours, count, ir.Constant(count.type, 1), inc=True) as (row, _):
            builder.store(vec.reduce_add(*sums(row, 1)), builder.gep(out, [row]))
        return context.get_dummy_value()

    return types.void(table, starts, line, count, width, vector, out), generate


@intrinsic
def descend(typingctx, table, starts, line, count, width, vector, steps, times, keep, lose):
    """One step down the gradient of ``steps[k] *`` (dot product of row k and ``vector``), summed over k.

    Both sides move from where they were: ``row -= lose * times[line, k] * row + steps[k] * vector``, and ``vector =
    keep * vector`` minus the sum of ``steps[k] * row``. The rows differ. Arrays as for :func:`dots`, steps (count,) and
    times (L, P) float32, both factors float32.
    """

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        table, (starts, length), line, count, width, vector, steps, (times, times_length), keep, lose = vec.arguments
        first, first_time = builder.mul(line, length), builder.mul(line, times_length)
        keep, lose = vec.splat(keep), vec.splat(builder.fneg(lose))
        moved = vec.alloca()
        with vec.for_each_vector(width) as (at, _):
            old = vec.load(vector, at)
            builder.store(vec.mul(old, keep), moved)
            with cgutils.for_range(builder, count) as row:
                place = builder.add(vec.load_scalar(starts, builder.add(first, row.index)), at)
                own = vec.load(table, place)
                step = vec.splat(vec.load_scalar(steps, row.index))
                often = vec.splat(vec.load_scalar(times, builder.add(first_time, row.index)))
                builder.store(vec.sub(builder.load(moved), vec.mul(step, own)), moved)
                new = vec.add(own, vec.mul(builder.fmul(lose, often), own))
                vec.store(vec.sub(new, vec.mul(step, old)), table, place)
            vec.store(builder.load(moved), vector, at)
        return context.get_dummy_value()

    return types.void(table, starts, line, count, width, vector, steps, times, keep, lose), generate


def _prefetch(to_write, table, start, width):
    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        table, start, width = vec.arguments
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, _LANE, _LANE, _LANE])
        ask = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        write, near, data = (ir.Constant(_LANE, number) for number in (to_write, 3, 1))
        with vec.for_each_vector(width) as (at, _):
            place = builder.gep(table, [builder.add(start, at)])
            builder.call(ask, [builder.bitcast(place, byte), write, near, data])
        return context.get_dummy_value()

    return types.void(table, start, width), generate


@intrinsic
def prefetch(typingctx, table, start, width):
    """Ask for a row of ``table`` ahead of its use, to write in it."""
    return _prefetch(1, table, start, width)


@intrinsic
def prefetch_to_read(typingctx, table, start, width):
    """Ask for a row of ``table`` ahead of its use, which other cores may read too."""
    return _prefetch(0, table, start, width)


@intrinsic
def blend(typingctx, to, to_at, keep, what, what_at, share, width):
    """``to = keep * to + share * what`` for ``width`` numbers from ``to_at`` and ``what_at`` on.

    Here and below tables are arrays or their :func:`pointer`, float32 and without gaps; places and width are int64,
    factors float32. Rows do not overlap.
    """

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        to, to_at, keep, what, what_at, share, width = vec.arguments

        with vec.for_each_vector(width) as (at, _):
            place, other = builder.add(to_at, at), vec.load(what, builder.add(what_at, at))
            kept = vec.mul(vec.load(to, place), vec.splat(keep))
            vec.store(vec.add(kept, vec.mul(other, vec.splat(share))), to, place)
        return context.get_dummy_value()

    return types.void(to, to_at, keep, what, what_at, share, width), generate


@intrinsic
def put_together(typingctx, out, user, user_at, whole, recent, history, heard, mean, width):
    """``out = user + mean * (whole - history) + recent``: ``user`` from ``user_at``, ``history`` from ``heard`` on."""

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        out, user, user_at, whole, recent, history, heard, mean, width = vec.arguments

        with vec.for_each_vector(width) as (at, _):
            others = vec.sub(vec.load(whole, at), vec.load(history, builder.add(heard, at)))
            own = vec.add(vec.load(user, builder.add(user_at, at)), vec.load(recent, at))
            vec.store(vec.add(own, vec.mul(vec.splat(mean), others)), out, at)
        return context.get_dummy_value()

    return types.void(out, user, user_at, whole, recent, history, heard, mean, width), generate


@intrinsic
def go_on(typingctx, move, user, user_at, keep, moves, moves_at, moved, recent, decay, history, heard, share, width):
    """After a step by ``move``: ``user = keep * user + move``, ``moves = move``, ``moved += move``, and
    ``recent = decay * recent + share * history``; of the tables from ``user_at``, ``moves_at`` and ``heard`` on.
    """

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        move, user, user_at, keep, moves, moves_at, moved, recent, decay, history, heard, share, width = vec.arguments

        with vec.for_each_vector(width) as (at, _):
            step, place = vec.load(move, at), builder.add(user_at, at)
            vec.store(vec.add(vec.mul(vec.load(user, place), vec.splat(keep)), step), user, place)
            vec.store(step, moves, builder.add(moves_at, at))
            vec.store(vec.add(vec.load(moved, at), step), moved, at)
            last = vec.mul(vec.load(history, builder.add(heard, at)), vec.splat(share))
            vec.store(vec.add(vec.mul(vec.load(recent, at), vec.splat(decay)), last), recent, at)
        return context.get_dummy_value()

    parts = (move, user, user_at, keep, moves, moves_at, moved, recent, decay, history, heard, share, width)
    return types.void(*parts), generate


@intrinsic
def go_back(typingctx, history, heard, keep, moved, mean, later, decay, share, moves, moves_at, width):
    """``history = keep * history + mean * (moved - moves) + share * later``, then ``later = decay * later + moves``."""

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        history, heard, keep, moved, mean, later, decay, share, moves, moves_at, width = vec.arguments

        with vec.for_each_vector(width) as (at, _):
            place, own, after = (
                builder.add(heard, at),
                vec.load(moves, builder.add(moves_at, at)),
                vec.load(later, at),
            )
            others = vec.mul(vec.sub(vec.load(moved, at), own), vec.splat(mean))
            sum_ = vec.add(vec.mul(vec.load(history, place), vec.splat(keep)), others)
            vec.store(vec.add(sum_, vec.mul(after, vec.splat(share))), history, place)
            vec.store(vec.add(vec.mul(after, vec.splat(decay)), own), later, at)
        return context.get_dummy_value()

    return types.void(history, heard, keep, moved, mean, later, decay, share, moves, moves_at, width), generate
