"""Vectors of float32 in LLVM's intermediate language, and pointers to the numbers of arrays.

Numba vectorises a sum only where it may reorder the terms, in an order that depends on the CPU, and it makes one pass
over memory for each array that is written. The operations on rows here fix the order of every sum and make one pass.
They are intrinsics: Numba functions whose ``generate`` writes the instructions by a :class:`VectorBuilder`.

Rows are given by :func:`pointer`; what remains of a width beyond a multiple of ``LANES`` is left out, so that widths
are padded, see :func:`fastncf.kernels.cpu.factors.pad_to_lanes`.
"""

import math

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

LANES = 16
"""Numbers in a vector of the SGD kernels: one register of AVX-512, two of AVX2, four of NEON."""

CACHE_LINE = 64
"""Bytes, as many as ``LANES`` float32 have."""

_INT32 = ir.IntType(32)
_FUSED = ("contract",)
"""Flags of operations that LLVM may fuse to a multiply-add; it may not reorder them."""

_CPU_FEATURES = llvm.get_host_cpu_features()
_PAIR_PRODUCTS = (
    ("llvm.x86.avx512.pmaddw.d.512", 32)
    if _CPU_FEATURES.get("avx512bw")
    else ("llvm.x86.avx2.pmadd.wd", 16)
    if _CPU_FEATURES.get("avx2")
    else None
)
"""Instruction that :meth:`VectorBuilder.multiply_pairs` uses, and the int16 that it takes; None where there is none."""

_EXP2_SERIES = [math.log(2) ** power / math.factorial(power) for power in range(6, -1, -1)]


def _lane_numbers(*lanes):
    """Return a constant vector of lane numbers, as a shuffle takes them."""
    return ir.Constant(ir.VectorType(_INT32, len(lanes)), list(lanes))


def aligned_zeros(shape: int | tuple[int, ...]) -> np.ndarray:
    """Return float32 zeros that begin at a cache line, so that no vector of a row lies across two of them.

    Loading a vector from two lines takes twice as long; NumPy places an array at any multiple of 16 bytes.
    """
    count, excess = math.prod((shape,) if isinstance(shape, int) else shape), CACHE_LINE // 4
    memory = np.zeros(count + excess, dtype=np.float32)
    first = -memory.ctypes.data % CACHE_LINE // 4
    return memory[first : first + count].reshape(shape)


def aligned_copies(table: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` copies (count, ...) of a float32 table, aligned as those of :func:`aligned_zeros`."""
    copies = aligned_zeros((count, *table.shape))
    copies[:] = table
    return copies


class VectorBuilder:
    """Writes operations on vectors of ``lanes`` float32 into the body of an intrinsic.

    Attributes:
        builder: llvmlite's builder at the place where the intrinsic is called.
        lanes: numbers in a vector.
        vector, integers: LLVM types of vectors of float32 and of int32.
        pairs: LLVM type of vectors of twice as many int16.
        arguments: the intrinsic's arguments: the data pointer of an array of one dimension; (data pointer, length of a
            row) of one with two dimensions; a list of its elements for a tuple, or a named tuple for a named one;
            anything else as it is.
    """

    def __init__(self, context, builder, signature, arguments, lanes=LANES):
        self.builder = builder
        self.lanes = lanes
        self.vector = ir.VectorType(ir.FloatType(), lanes)
        self.integers = ir.VectorType(_INT32, lanes)
        self.pairs = ir.VectorType(ir.IntType(16), 2 * lanes)
        self.arguments = [
            self._unpacked(context, kind, value) for kind, value in zip(signature.args, arguments, strict=True)
        ]

    def _unpacked(self, context, kind, value):
        """Return an argument in the form that the class documents."""
        if isinstance(kind, types.BaseTuple):
            values = cgutils.unpack_tuple(self.builder, value)
            unpacked = [self._unpacked(context, *part) for part in zip(kind, values, strict=True)]
            return kind.instance_class(*unpacked) if isinstance(kind, types.BaseNamedTuple) else unpacked
        if not isinstance(kind, types.Array):
            return value
        array = context.make_array(kind)(context, self.builder, value)
        if kind.ndim == 1:
            return array.data
        return array.data, cgutils.unpack_tuple(self.builder, array.shape)[1]

    def _address(self, data, at):
        """Return a pointer to a vector that begins ``at`` numbers behind a pointer to a number."""
        return self.builder.bitcast(self.builder.gep(data, [at]), self.vector.as_pointer())

    def load(self, data, at):
        """Return the vector that begins ``at`` numbers behind a pointer."""
        return self.builder.load(self._address(data, at), align=4)

    def store(self, vector, data, at):
        """Write a vector to where :meth:`load` would read it."""
        self.builder.store(vector, self._address(data, at), align=4)

    def constant(self, number):
        """Return a vector of a constant in all lanes."""
        return ir.Constant(self.vector, [number] * self.lanes)

    def load_scalar(self, data, at):
        """Return the number that lies ``at`` numbers behind a pointer."""
        return self.builder.load(self.builder.gep(data, [at]))

    def splat(self, number):
        """Return a vector of a computed number in all lanes."""
        first = self.builder.insert_element(ir.Constant(self.vector, ir.Undefined), number, ir.Constant(_INT32, 0))
        return self.builder.shuffle_vector(first, first, _lane_numbers(*[0] * self.lanes))

    def splat_pair(self, data, at):
        """Return a vector of int16 in which two numbers, ``at`` numbers behind a pointer to int16, take turns."""
        address = self.builder.bitcast(self.builder.gep(data, [at]), _INT32.as_pointer())
        pair = self.builder.load(address, align=2)
        first = self.builder.insert_element(ir.Constant(self.integers, ir.Undefined), pair, ir.Constant(_INT32, 0))
        repeated = self.builder.shuffle_vector(first, first, _lane_numbers(*[0] * self.lanes))
        return self.builder.bitcast(repeated, self.pairs)

    def load_pairs(self, data, at):
        """Return the vector of int16 whose ``2 * lanes`` numbers begin ``at`` numbers behind a pointer to int8."""
        kind = ir.VectorType(ir.IntType(8), 2 * self.lanes)
        address = self.builder.bitcast(self.builder.gep(data, [at]), kind.as_pointer())
        return self.builder.sext(self.builder.load(address, align=1), self.pairs)

    def multiply_pairs(self, a, b):
        """Return ``a[2 * j] * b[2 * j] + a[2 * j + 1] * b[2 * j + 1]`` for each lane j, int32; a and b are of int16.

        One instruction does so where there is one, which LLVM does not choose by itself.
        """
        builder, all_numbers = self.builder, range(2 * self.lanes)
        if _PAIR_PRODUCTS is None:
            products = []
            for parity in (0, 1):
                lanes = _lane_numbers(*all_numbers[parity::2])
                halves = (builder.sext(builder.shuffle_vector(x, x, lanes), self.integers) for x in (a, b))
                products.append(builder.mul(*halves))
            return builder.add(*products)
        name, width = _PAIR_PRODUCTS
        kind = ir.FunctionType(ir.VectorType(_INT32, width // 2), [ir.VectorType(ir.IntType(16), width)] * 2)
        function = cgutils.get_or_insert_function(builder.module, kind, name)
        slices = [_lane_numbers(*all_numbers[first : first + width]) for first in all_numbers[::width]]
        parts = [builder.call(function, [builder.shuffle_vector(x, x, one) for x in (a, b)]) for one in slices]
        while len(parts) > 1:
            together = _lane_numbers(*range(parts[0].type.count * 2))
            parts = [builder.shuffle_vector(*both, together) for both in zip(parts[::2], parts[1::2], strict=True)]
        return parts[0]

    def mul(self, a, b):
        """Return a * b, which may be fused with a sum."""
        return self.builder.fmul(a, b, flags=_FUSED)

    def add(self, a, b):
        """Return a + b, which may be fused with a product."""
        return self.builder.fadd(a, b, flags=_FUSED)

    def sub(self, a, b):
        """Return a - b, which may be fused with a product."""
        return self.builder.fsub(a, b, flags=_FUSED)

    def reduce_add(self, vector):
        """Return the sum over the lanes: the upper half is added to the lower one until one number is left."""
        lanes = self.lanes // 2
        while lanes:
            low = self.builder.shuffle_vector(vector, vector, _lane_numbers(*range(lanes)))
            high = self.builder.shuffle_vector(vector, vector, _lane_numbers(*range(lanes, 2 * lanes)))
            vector = self.builder.fadd(low, high)
            lanes //= 2
        return self.builder.extract_element(vector, ir.Constant(_INT32, 0))

    def reduce_add_four(self, vectors):
        """Return the sums over the lanes of four vectors, as a vector of four; each has the bits of :meth:`reduce_add`.

        Four sums at once take fewer instructions than one after the other.
        """
        builder = self.builder
        parts, lanes = vectors, self.lanes
        while lanes > 4:
            lanes //= 2
            low, high = _lane_numbers(*range(lanes)), _lane_numbers(*range(lanes, 2 * lanes))
            parts = [builder.fadd(*(builder.shuffle_vector(one, one, half) for half in (low, high))) for one in parts]
        a, b, c, d = parts  # a0 + a2, a1 + a3, b0 + b2, b1 + b3; then both sums of each
        pairs = []
        for one, other in ((a, b), (c, d)):
            low, high = _lane_numbers(0, 1, 4, 5), _lane_numbers(2, 3, 6, 7)
            pairs.append(builder.fadd(*(builder.shuffle_vector(one, other, half) for half in (low, high))))
        even, odd = _lane_numbers(0, 2, 4, 6), _lane_numbers(1, 3, 5, 7)
        return builder.fadd(*(builder.shuffle_vector(*pairs, half) for half in (even, odd)))

    def select(self, a, comparison, b, then, otherwise):
        """Return, by lane, ``then`` where the comparison of a and b holds, which it never does for NaN."""
        return self.builder.select(self.builder.fcmp_ordered(comparison, a, b), then, otherwise)

    def exp(self, x):
        """Return exp(x) for x in [-87, 0]: a power of two times the Taylor series of 2 ** f for a fraction f.

        The relative error is below (2 + |x|) * 1e-7, as x log2(e) is rounded to float32.
        """
        t = self.mul(x, self.constant(1.4426950408889634))
        shift = self.constant(1.5 * 2**23)  # float32 holds no fractions from 2**23 on, so that the sum is rounded
        whole = self.builder.fsub(self.builder.fadd(t, shift), shift)
        fraction = self.builder.fsub(t, whole)
        series = self.constant(_EXP2_SERIES[0])
        for coefficient in _EXP2_SERIES[1:]:
            series = self.add(self.mul(series, fraction), self.constant(coefficient))
        bias, mantissa_bits = (ir.Constant(self.integers, [number] * self.lanes) for number in (127, 23))
        exponent = self.builder.add(self.builder.fptosi(whole, self.integers), bias)
        scale = self.builder.shl(exponent, mantissa_bits)
        return self.builder.fmul(series, self.builder.bitcast(scale, self.vector))

    def log1p(self, e):
        """Return log(1 + e) for e in [0, 1], with an error below 2e-7: twice the series of artanh(e / (2 + e))."""
        s = self.builder.fdiv(e, self.builder.fadd(e, self.constant(2.0)))
        square = self.builder.fmul(s, s)
        series = self.constant(1 / 13)
        for odd in (11, 9, 7, 5, 3, 1):
            series = self.add(self.mul(series, square), self.constant(1 / odd))
        return self.builder.fmul(self.builder.fadd(s, s), series)

    def alloca(self):
        """Return memory for one vector on the stack, which LLVM turns into a register."""
        return cgutils.alloca_once(self.builder, self.vector)

    def for_each_vector(self, width):
        """Return a loop, as a context manager, over the first lanes of the whole vectors in ``width`` numbers."""
        zero, step = ir.Constant(width.type, 0), ir.Constant(width.type, self.lanes)
        whole = self.builder.and_(width, ir.Constant(width.type, -self.lanes))
        return cgutils.for_range_slice(self.builder, zero, whole, step, inc=True)


@intrinsic
def pointer(typingctx, array):
    """Return a pointer to the first number of an array, which has to outlive the pointer.

    Numba counts the references to an array that is taken out of a tuple or handed on, by an instruction that locks the
    count for all threads. Pointers are not counted.
    """

    def generate(context, builder, signature, arguments):
        return context.make_array(signature.args[0])(context, builder, arguments[0]).data

    return types.CPointer(array.dtype)(array), generate


@intrinsic
def borrow(typingctx, value):
    """Return an array, or a tuple of arrays, whose references are not counted; see :func:`pointer` for what that saves.

    The owner has to outlive what is borrowed. Arguments belong to a kernel's caller and outlive it. An array of the
    kernel's own is freed behind the last line that names it: a loop borrows it anew in each turn.
    """

    def borrowed(context, builder, kind, value):
        if isinstance(kind, types.BaseTuple):
            values = zip(kind, cgutils.unpack_tuple(builder, value), strict=True)
            return context.make_tuple(builder, kind, [borrowed(context, builder, *part) for part in values])
        if not isinstance(kind, types.Array):
            return value
        array = context.make_array(kind)(context, builder, value)
        array.meminfo = cgutils.get_null_value(array.meminfo.type)
        array.parent = cgutils.get_null_value(array.parent.type)
        return array._getvalue()

    def generate(context, builder, signature, arguments):
        return borrowed(context, builder, signature.args[0], arguments[0])

    return value(value), generate


@intrinsic
def offset(typingctx, data, by):
    """Return a :func:`pointer` to the number that lies ``by`` numbers behind the first."""

    def generate(context, builder, signature, arguments):
        return builder.gep(arguments[0], [arguments[1]])

    return data(data, by), generate


@intrinsic
def get(typingctx, data, at):
    """Return the number that lies ``at`` numbers behind the first of a :func:`pointer`."""

    def generate(context, builder, signature, arguments):
        return builder.load(builder.gep(arguments[0], [arguments[1]]))

    return data.dtype(data, at), generate


@intrinsic
def put(typingctx, data, at, number):
    """Write a number, which has the pointer's type, to where :func:`get` would read it."""

    def generate(context, builder, signature, arguments):
        builder.store(arguments[2], builder.gep(arguments[0], [arguments[1]]))
        return context.get_dummy_value()

    return types.void(data, at, data.dtype), generate


def _prefetch(to_write, table, start, width):
    """Return the signature and the code generator of a prefetch; ``to_write`` is 1 or 0."""

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        table, start, width = vec.arguments
        byte = ir.IntType(8).as_pointer()
        kind = ir.FunctionType(ir.VoidType(), [byte, _INT32, _INT32, _INT32])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        write, near, data = (ir.Constant(_INT32, number) for number in (to_write, 3, 1))
        with vec.for_each_vector(width) as (at, _):
            address = builder.gep(table, [builder.add(start, at)])
            builder.call(function, [builder.bitcast(address, byte), write, near, data])
        return context.get_dummy_value()

    return types.void(table, start, width), generate


@intrinsic
def prefetch(typingctx, table, start, width):
    """Load ``width`` numbers of an array or pointer, from ``start`` on, into the cache, to be written."""
    return _prefetch(1, table, start, width)


@intrinsic
def prefetch_to_read(typingctx, table, start, width):
    """Load numbers into the cache as :func:`prefetch` does; other cores may keep copies of them."""
    return _prefetch(0, table, start, width)


@intrinsic
def axpby(typingctx, a, x, b, y, width):
    """Replace y by ``a * x + b * y``; x and y are pointers to ``width`` float32, a and b float32."""

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        a, x, b, y, width = vec.arguments
        with vec.for_each_vector(width) as (at, _):
            other, kept = vec.load(x, at), vec.mul(vec.load(y, at), vec.splat(b))
            vec.store(vec.add(kept, vec.mul(other, vec.splat(a))), y, at)
        return context.get_dummy_value()

    return types.void(a, x, b, y, width), generate
