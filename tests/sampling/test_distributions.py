import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastncf
from fastncf.errors import ConfigError
from fastncf.kernels.cpu.alias import fill_alias_table, make_alias_table
from fastncf.sampling.distributions import DISTRIBUTIONS, alias_table, popularity_weights
from fastncf.sampling.negatives import sample_negatives
from tests.conftest import random_csr


def parts_of_cells(table) -> np.ndarray:
    """Units of 2**-32 that the cells of a table give to each index (2**num_bits,) int64."""
    bits = int(table.num_bits)
    assert len(table.alias_cells) == 2**bits
    kept = (table.alias_cells >> np.uint32(bits)).astype(np.int64)
    drawn = kept.copy()
    np.add.at(drawn, table.alias_cells & np.uint32(2**bits - 1), 2 ** (32 - bits) - kept)
    return drawn


@pytest.mark.parametrize("num_items", [1, 2, 3, 4, 5, 64, 1000, 100_000])
@pytest.mark.parametrize("exponent", [0.0, 0.75, 2.0])
def test_probabilities_are_whole_units_that_the_cells_give_exactly(num_items, exponent):
    counts = np.random.default_rng().integers(0, 70_000, num_items)
    table = alias_table("popularity", counts, exponent)
    units = np.diff(table.cumulative).astype(np.int64)
    assert units.sum() == 2**32
    assert units.min() >= 1
    drawn = parts_of_cells(table)
    np.testing.assert_array_equal(drawn[:num_items], units)
    assert not drawn[num_items:].any()
    weights = np.maximum(counts, 1).astype(np.float64) ** exponent
    np.testing.assert_allclose(units / 2**32, weights / weights.sum(), rtol=0.01, atol=2**-31 + num_items * 2**-32)


def test_item_is_where_its_cell_says():
    table = alias_table("popularity", np.array([5, 0, 900, 17, 3]), 1.0)
    numbers = np.random.default_rng(0).integers(0, 2**32, 20_000)
    observed = np.bincount([table.item(int(number)) for number in numbers], minlength=5) / len(numbers)
    np.testing.assert_allclose(observed, np.diff(table.cumulative) / 2**32, atol=0.02)


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_table_of_floats_gives_each_item_its_probability(size):
    probabilities = np.random.default_rng().gamma(0.3, size=size)
    probabilities /= probabilities.sum()
    given = probabilities.copy()
    thresholds, aliases = np.empty(size, np.uint32), np.empty(size, np.int32)
    fill_alias_table(probabilities, thresholds, aliases)
    np.testing.assert_array_equal(probabilities, given)
    kept = np.where(aliases == np.arange(size), 1.0, thresholds / 2**32)
    drawn = kept.copy()
    np.add.at(drawn, aliases, 1 - kept)
    np.testing.assert_allclose(drawn / size, probabilities, atol=1e-9)


def test_whole_units_and_floats_are_paired_alike():
    """One builder: with 2**n items both tables hold the same items in the same cells."""
    table = make_alias_table(np.random.default_rng().gamma(0.3, size=256))
    thresholds, aliases = np.empty(256, np.uint32), np.empty(256, np.int32)
    fill_alias_table(np.diff(table.cumulative) / 2**32, thresholds, aliases)
    np.testing.assert_array_equal(table.alias_cells & np.uint32(255), aliases)
    shared = aliases != np.arange(256)
    np.testing.assert_array_equal((table.alias_cells >> np.uint32(8))[shared], (thresholds >> np.uint32(8))[shared])


def test_uniform_has_no_table():
    assert alias_table("uniform", np.arange(5), 0.75) is None


def test_popularity_counts_an_item_without_interactions_as_one():
    weights = popularity_weights(np.array([0, 1, 16]), 0.5)
    assert weights.dtype == np.float64
    np.testing.assert_array_equal(weights, [1, 1, 4])


def test_a_distribution_may_be_registered(monkeypatch):
    monkeypatch.setitem(DISTRIBUTIONS, "even_items", lambda counts, exponent: 1.0 - np.arange(len(counts)) % 2)
    indptr, indices = random_csr(np.random.default_rng(), 200, 40, 15)
    table = alias_table("even_items", np.bincount(indices, minlength=40), 1.0)
    drawn = sample_negatives(indptr, indices, 40, 5, seed=0, epoch=0, alias_table=table)
    assert (drawn % 2 == 0).all()  # an odd item has a probability of 2**-32
    assert len(np.unique(drawn)) == 20
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="negatives='even_items': expected 'uniform' or 'popularity'"):
        alias_table("even_items", np.arange(5), 1.0)


@pytest.mark.parametrize(
    "weights", [np.ones(4), np.zeros(5), np.array([1, 1, -1, 1, 1]), np.full(5, np.inf), np.full(5, np.nan)]
)
def test_unusable_weights_are_refused(monkeypatch, weights):
    monkeypatch.setitem(DISTRIBUTIONS, "mine", lambda counts, exponent: weights)
    with pytest.raises(ConfigError, match=r"negatives_exponent=2\.0: expected 5 weights of at least 0"):
        alias_table("mine", np.arange(5), 2.0)


@pytest.mark.parametrize("exponent", [309.0, 1000.0, 1e300, 1.7976931348623157e308])
def test_powers_beyond_float64_draw_the_most_popular_item(exponent):
    """For any exponent the weights are finite, and the table holds every item."""
    counts = np.array([10, 1, 0, 10, 9])
    assert np.isfinite(popularity_weights(counts, exponent)).all()
    table = alias_table("popularity", counts, exponent)
    shares = np.diff(table.cumulative) / 2**32
    np.testing.assert_allclose(shares[[0, 3]], 0.5, rtol=1e-6)
    assert (shares > 0).all()
    items = {table.item(int(number)) for number in np.linspace(0, 2**32 - 1, 1000)}
    assert items <= set(range(5))


def test_powers_within_float64_are_those_of_the_counts():
    counts = np.array([0, 3, 70])
    np.testing.assert_array_equal(popularity_weights(counts, 150.0), np.array([1.0, 3.0, 70.0]) ** 150.0)


def test_finite_weights_whose_sum_is_not_are_taken(monkeypatch):
    monkeypatch.setitem(DISTRIBUTIONS, "mine", lambda counts, exponent: np.array([1.5e308, 1.5e308, 0.0]))
    shares = np.diff(alias_table("mine", np.arange(3), 1.0).cumulative) / 2**32
    np.testing.assert_allclose(shares, [0.5, 0.5, 0], atol=1e-9)


@pytest.mark.parametrize("weights", ["text", ["a", "b", "c", "d", "e"], [[1], [1, 2]], object(), np.ones(5) * 1j])
def test_weights_that_are_no_numbers_are_refused(monkeypatch, weights):
    monkeypatch.setitem(DISTRIBUTIONS, "mine", lambda counts, exponent: weights)
    with pytest.raises(ConfigError, match="negatives='mine': expected 5 real numbers as weights"):
        alias_table("mine", np.arange(5), 2.0)


def test_a_distribution_is_looked_up_without_compiled_code():
    code = "import sys, fastncf.sampling.distributions; sys.exit('numba' in sys.modules or 'torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(fastncf.__file__).parents[1])
