"""Paired differences: intervals, p-values and their correction, compared with plain loops and with exact values."""

from itertools import product
from math import comb

import numpy as np
import pytest

from fastncf.evaluation.paired import flipped_means, holm, paired_difference, resampled_means


def generator() -> np.random.Generator:
    return np.random.default_rng(0)


@pytest.mark.parametrize("num_distinct", [3, 400])
def test_draws_for_values_and_draws_for_users_have_the_same_distribution(num_distinct: int) -> None:
    """Few different values are drawn with their counts, many are drawn for each user."""
    values = np.random.default_rng(1).choice(np.linspace(-0.2, 0.8, num_distinct), 400)
    found = resampled_means(values, 20_000, generator())
    plain = values[np.random.default_rng(2).integers(0, 400, (20_000, 400))].mean(axis=1)
    error = values.std() / 400**0.5
    for share in (0.025, 0.5, 0.975):
        assert np.quantile(found, share) == pytest.approx(np.quantile(plain, share), abs=0.08 * error)
    assert found.mean() == pytest.approx(values.mean(), abs=0.05 * error)
    assert found.std() == pytest.approx(error, rel=0.03)
    flipped = flipped_means(values, 20_000, generator())
    assert flipped.mean() == pytest.approx(0, abs=0.03 * np.sqrt((values**2).mean() / 400))
    assert flipped.std() == pytest.approx(np.sqrt((values**2).mean() / 400), rel=0.03)


def test_p_values_are_those_of_all_sign_flips() -> None:
    differences = np.array([0.5, 1.0, -0.25, 0.75, 0.0, 0.3, 0.3, -0.1])
    all_means = [np.mean(differences * signs) for signs in product((-1, 1), repeat=len(differences))]
    exact = np.mean(np.abs(all_means) >= abs(differences.mean()) - 1e-12)
    found = paired_difference(differences, 0 * differences, confidence=0.9, samples=50_000, seed=1)
    assert found.p == pytest.approx(exact, abs=0.005)
    assert found.mean == pytest.approx(differences.mean())
    assert found.low < found.mean < found.high


def test_hits_give_the_sign_test() -> None:
    """With values 0 and 1 the test is the exact binomial test of the users whose values differ (McNemar)."""
    first, second = np.zeros(200), np.zeros(200)
    first[:12], second[12:17] = 1, 1
    exact = 2 * sum(comb(17, n) for n in range(12, 18)) / 2**17
    found = paired_difference(first, second, confidence=0.95, samples=100_000, seed=3)
    assert found.p == pytest.approx(exact, abs=0.005)


def test_intervals_contain_the_truth_as_often_as_they_say() -> None:
    random, inside = np.random.default_rng(4), 0
    for trial in range(300):
        first = random.random(150) < 0.5
        second = random.random(150) < 0.4
        found = paired_difference(first, second, confidence=0.8, samples=500, seed=trial)
        inside += found.low <= 0.1 <= found.high
    assert 0.7 < inside / 300 < 0.9


def test_equal_values_and_a_single_user() -> None:
    same = np.array([0.3, 0.7])
    assert paired_difference(same, same, confidence=0.95, samples=100, seed=0) == (0.0, 0.0, 0.0, 1.0)
    assert paired_difference(np.ones(1), np.zeros(1), confidence=0.95, samples=100, seed=0) == (1.0, 1.0, 1.0, 1.0)


def test_draws_are_determined_by_the_seed_and_made_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = np.random.default_rng(5).random((2, 50))
    ask = {"confidence": 0.95, "samples": 300}
    found = paired_difference(first, second, **ask, seed=1)
    assert found == paired_difference(first, second, **ask, seed=1) != paired_difference(first, second, **ask, seed=2)
    monkeypatch.setattr("fastncf.evaluation.paired._DRAWS_AT_ONCE", 1000)
    in_parts = paired_difference(first, second, **ask, seed=1)
    assert in_parts.low == pytest.approx(found.low, abs=0.02)


def test_holm_is_the_step_down_rule() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.005, 0.9])
    assert holm(p).tolist() == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.9])
    assert holm(np.array([0.6, 0.7])).tolist() == [1.0, 1.0]
