import numpy as np
import pytest

from fastncf.sampling.distributions import popularity_table


@pytest.mark.parametrize("num_items", [1, 2, 3, 4, 5, 1000, 100_000])
def test_weights_are_parts_of_2_to_the_32(num_items):
    counts = np.random.default_rng(num_items).integers(0, 70_000, num_items)
    parts = np.diff(popularity_table(counts, 0.75).cumulative)
    assert parts.sum() == 2**32
    assert parts.min() >= 1
    wanted = np.maximum(counts, 1) ** 0.75
    np.testing.assert_allclose(parts / 2**32, wanted / wanted.sum(), rtol=0.01, atol=2**-31)


@pytest.mark.parametrize("num_items", [1, 2, 3, 4, 5, 64, 1000, 100_000])
@pytest.mark.parametrize("exponent", [0.0, 0.75, 2.0])
def test_cells_give_each_item_its_part_exactly(num_items, exponent):
    counts = np.random.default_rng(num_items).integers(0, 70_000, num_items)
    weights = popularity_table(counts, exponent)
    bits, size = int(weights.num_bits), 2 ** (32 - int(weights.num_bits))
    assert len(weights.alias_cells) == 2**bits
    own = (weights.alias_cells >> np.uint32(bits)).astype(np.int64)
    other = weights.alias_cells & np.uint32(2**bits - 1)
    drawn = own.copy()
    np.add.at(drawn, other, size - own)
    np.testing.assert_array_equal(drawn[:num_items], np.diff(weights.cumulative).astype(np.int64))
    assert not drawn[num_items:].any()


def test_item_is_where_its_cell_says():
    weights = popularity_table(np.array([5, 0, 900, 17, 3]), 1.0)
    numbers = np.random.default_rng(0).integers(0, 2**32, 20_000)
    observed = np.bincount([weights.item(int(number)) for number in numbers], minlength=5) / len(numbers)
    np.testing.assert_allclose(observed, np.diff(weights.cumulative) / 2**32, atol=0.02)
