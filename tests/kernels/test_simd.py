"""Operations on vectors of float32 against NumPy."""

from typing import NamedTuple

import numpy as np
import pytest
from numba import njit, types
from numba.extending import intrinsic

from fastncf.kernels.cpu import simd
from fastncf.kernels.cpu.simd import (
    CACHE_LINE,
    LANES,
    VectorBuilder,
    aligned_copies,
    aligned_zeros,
    axpby,
    borrow,
    get,
    offset,
    pointer,
    prefetch,
    prefetch_to_read,
    put,
)


def on_vectors(operation):
    """Return a function of a pointer to (LANES,) float32 that replaces them by what ``operation(vec, x)`` makes."""

    @intrinsic
    def apply(typingctx, data):
        def generate(context, builder, signature, arguments):
            vec = VectorBuilder(context, builder, signature, arguments)
            at = context.get_constant(types.int64, 0)
            vec.store(operation(vec, vec.load(vec.arguments[0], at)), vec.arguments[0], at)
            return context.get_dummy_value()

        return types.void(data), generate

    @njit
    def apply_to_chunks(x):
        for first in range(0, len(x), LANES):
            apply(offset(pointer(x), first))

    return apply_to_chunks


@pytest.mark.parametrize("instruction", ["of the machine", "narrower", "none"])
def test_products_of_pairs_are_those_of_numpy(monkeypatch, instruction):
    if instruction == "none":
        monkeypatch.setattr(simd, "_PAIR_PRODUCTS", None)
    elif instruction == "narrower" and simd._PAIR_PRODUCTS:  # the instruction of a machine with wider vectors
        monkeypatch.setattr(simd, "_PAIR_PRODUCTS", ("llvm.x86.avx2.pmadd.wd", 16))

    @intrinsic
    def multiply(typingctx, codes, factors, out):
        def generate(context, builder, signature, arguments):
            vec = VectorBuilder(context, builder, signature, arguments)
            codes, factors, out = vec.arguments
            at = context.get_constant(types.int64, 0)
            products = vec.multiply_pairs(vec.load_pairs(codes, at), vec.splat_pair(factors, at))
            vec.store(builder.sitofp(products, vec.vector), out, at)
            return context.get_dummy_value()

        return types.void(codes, factors, out), generate

    @njit
    def multiplied(codes, factors, out):
        multiply(pointer(codes), pointer(factors), pointer(out))

    generator = np.random.default_rng(3)
    codes = generator.integers(-127, 128, 2 * LANES).astype(np.int8)
    factors, out = np.array([-32767, 411], dtype=np.int16), np.empty(LANES, dtype=np.float32)
    multiplied(codes, factors, out)
    expected = (codes.astype(np.int64) * np.tile(factors.astype(np.int64), LANES)).reshape(-1, 2).sum(axis=1)
    assert out.tolist() == expected.tolist()


def test_exp_has_the_documented_error():
    x = np.linspace(-87, 0, 1000 * LANES).astype(np.float32)
    found = x.copy()
    on_vectors(VectorBuilder.exp)(found)
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(found / exact - 1) < (2 + np.abs(x)) * 1e-7).all()


def test_log1p_has_the_documented_error():
    x = np.linspace(0, 1, 1000 * LANES).astype(np.float32)
    found = x.copy()
    on_vectors(VectorBuilder.log1p)(found)
    assert np.abs(found - np.log1p(x.astype(np.float64))).max() < 2e-7


@intrinsic
def sums(typingctx, rows, single, four):
    """Write the sums over the lanes of four vectors, each by itself and all at once."""

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        rows, single, four = vec.arguments
        places = [context.get_constant(types.int64, at) for at in range(4)]
        firsts = [context.get_constant(types.int64, at * LANES) for at in range(4)]
        vectors = [vec.load(rows, first) for first in firsts]
        for place, vector in zip(places, vectors, strict=True):
            builder.store(vec.reduce_add(vector), builder.gep(single, [place]))
        totals = vec.reduce_add_four(vectors)
        builder.store(totals, builder.bitcast(four, totals.type.as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(rows, single, four), generate


def test_sums_over_lanes_add_halves_and_have_the_same_bits_four_at_once():
    rows = np.random.default_rng(0).standard_normal((4, LANES)).astype(np.float32)
    single, four = np.zeros(4, np.float32), np.zeros(4, np.float32)
    njit(lambda a, b, c: sums(pointer(a), pointer(b), pointer(c)))(rows, single, four)
    expected = rows
    while expected.shape[1] > 1:
        low, high = np.split(expected, 2, axis=1)
        expected = low + high
    np.testing.assert_array_equal(single, expected[:, 0])
    np.testing.assert_array_equal(four, single)


@njit
def call_axpby(a, x, b, y, width):
    axpby(a, pointer(x), b, pointer(y), width)


@pytest.mark.parametrize("width", [LANES, 5 * LANES, 2 * LANES + 3])
def test_axpby_leaves_out_what_is_no_whole_vector(width):
    x, y = np.random.default_rng(width).standard_normal((2, width)).astype(np.float32)
    before, whole = y.copy(), width // LANES * LANES
    call_axpby(np.float32(0.5), x, np.float32(-2), y, width)
    np.testing.assert_allclose(y[:whole], 0.5 * x[:whole] - 2 * before[:whole], rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(y[whole:], before[whole:])


@njit
def copy_shifted(source, target, by):
    """Write ``source[by:]`` to the front of ``target``; rows that are asked for ahead change nothing."""
    first, to = offset(pointer(source), by), pointer(target)
    for at in range(len(source) - by):
        prefetch(first, at, LANES)
        prefetch_to_read(source, at, LANES)
        put(to, at, get(first, at))


def test_pointers_read_and_write_the_numbers_of_an_array():
    source, target = np.arange(40), np.zeros(40, np.int64)
    copy_shifted(source, target, 7)
    np.testing.assert_array_equal(target[:33], source[7:])
    assert not target[33:].any()


class Nested(NamedTuple):
    """Arrays at two depths, and a number."""

    pair: tuple[np.ndarray, np.ndarray]
    single: np.ndarray
    number: int


@njit
def sum_borrowed(nested):
    lent = borrow(nested)
    first, second = lent.pair
    first[0] += 1
    return first.sum() + second[1:].sum() + lent.single.sum() + lent.number


def test_borrowed_arrays_are_those_of_the_owner():
    nested = Nested((np.ones(3), np.arange(4.0)), np.full(2, 10.0), 5)
    assert sum_borrowed(nested) == 4 + 6 + 20 + 5
    assert nested.pair[0][0] == 2


def test_aligned_memory_begins_at_a_cache_line():
    for rows in range(1, 30):
        zeros, copies = aligned_zeros((rows, 3)), aligned_copies(np.full((rows, LANES), 2, np.float32), 2)
        assert zeros.shape == (rows, 3)
        assert copies.shape == (2, rows, LANES)
        assert not zeros.any()
        assert (copies == 2).all()
        for array in (zeros, *copies):
            assert array.ctypes.data % CACHE_LINE == 0
            assert array.flags.c_contiguous
