"""Best items by codes of 8 bits against the scores of all items, bit by bit."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastncf.kernels.cpu.factors import Factors
from fastncf.kernels.cpu.quantized import GROUP, quantize_items, top_few
from fastncf.kernels.cpu.topk import Best, LeftOut, Request, tile_items, top_rows

_NUM_USERS = 6


def random_factors(generator: np.random.Generator, num_items: int, dim: int) -> Factors:
    """Vectors of one of several kinds: of normal, very large or small size, equal ones, and numbers that are none."""
    kind = generator.integers(6)
    shapes = (_NUM_USERS, dim), (num_items, dim), (_NUM_USERS,), (num_items,)
    sizes = generator.choice([1e-38, 1e-30, 1e-5, 1, 1e9, 1e16, 1e30], 4) if kind == 1 else [1, 1, 1, 1]
    arrays = (generator.normal(size=shape) * size for shape, size in zip(shapes, sizes, strict=True))
    factors = Factors(*(array.astype(np.float32) for array in arrays))
    if kind == 2:  # scores that differ by less than the codes can tell
        factors.item_vectors[:] = factors.item_vectors[0] + 1e-6 * factors.item_vectors
        factors.item_bias[:] = 0
    if kind == 3:  # ties
        factors.item_vectors[:] = factors.item_vectors[generator.integers(0, min(5, num_items), num_items)]
        factors.item_bias[:] = 1
    if kind == 4:
        odd = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-40, 0], dtype=np.float32)
        for table in factors:
            is_odd = generator.random(table.shape) < generator.choice([0.01, 0.3])
            table[is_odd] = generator.choice(odd, int(is_odd.sum()))
    if kind == 5:
        factors.user_vectors[:3] = 0
        factors.item_vectors[::3] = 0
    return factors


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    num_items=st.sampled_from([1, GROUP - 1, GROUP, GROUP + 1, 1000, 3000]),
    dim=st.sampled_from([0, 1, 2, 7, 64, 600]),
    k=st.sampled_from([1, 10, 200]),
)
def test_the_best_items_by_codes_have_the_bits_of_those_by_all_scores(seed, num_items, dim, k):
    generator = np.random.default_rng(seed)
    factors = random_factors(generator, num_items, dim)
    is_open = generator.random(num_items) < 0.5 if seed % 3 == 0 else np.empty(0, dtype=np.bool_)
    rows = [np.flatnonzero(generator.random(num_items) < generator.choice([0, 0.02, 1])) for _ in range(_NUM_USERS)]
    indptr = np.cumsum([0, *map(len, rows)])
    left_out = LeftOut(indptr, np.concatenate(rows).astype(np.int32), is_open)
    request = Request(np.arange(_NUM_USERS, dtype=np.int32), factors.user_vectors, factors.user_bias, left_out)
    expected, found = (Best.empty(_NUM_USERS, min(k, num_items)) for _ in range(2))
    top_rows(0, _NUM_USERS, tile_items(factors), request, expected)
    top_few(quantize_items(factors), request, found)
    assert found.counts.tolist() == expected.counts.tolist()
    for row, count in enumerate(expected.counts):
        assert found.items[row, :count].tolist() == expected.items[row, :count].tolist()
        assert found.scores[row, :count].tobytes() == expected.scores[row, :count].tobytes()


@pytest.mark.parametrize("dim", [3, 64])
def test_codes_leave_out_little_of_a_vector(dim):
    """Bounds that were far above the scores would leave every score to be computed."""
    generator = np.random.default_rng(dim)
    vectors = generator.normal(size=(500, dim)).astype(np.float32)
    nothing = np.zeros(500, dtype=np.float32)
    bounds = quantize_items(Factors(vectors, vectors, nothing, nothing)).bounds
    assert (bounds.radius[:500] < 0.02 * np.linalg.norm(vectors, axis=1)).all()
