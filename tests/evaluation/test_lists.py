"""Metrics of recommended lists beside their definitions, one user at a time."""

import math

import numpy as np
import pytest

import fastncf
from fastncf.evaluation.lists import (
    ItemLists,
    coverage,
    gini,
    jackknife_error,
    mean_popularity,
    measure_lists,
    similarity,
)
from tests.conftest import checkerboard


def random_lists(seed: int, users: int = 12, items: int = 15, k: int = 5) -> ItemLists:
    generator = np.random.default_rng(seed)
    rows = np.full((users, k), -1, dtype=np.int32)
    for row in rows:
        size = generator.integers(0 if seed % 2 else 2, k + 1)
        row[:size] = np.minimum(generator.permutation(items)[:size], items - 1)
    vectors = generator.normal(size=(items, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[3] = 0
    return ItemLists(rows, generator.integers(0, 50, items), vectors)


def plain_gini(times: list[int]) -> float:
    n, total = len(times), sum(times)
    return sum(abs(a - b) for a in times for b in times) / (2 * n * total)


def times_of(rows: np.ndarray, items: int) -> list[int]:
    return [int((rows == item).sum()) for item in range(items)]


@pytest.mark.parametrize("seed", range(6))
def test_lists_equal_their_definitions(seed):
    lists = random_lists(seed)
    rows = [[item for item in row.tolist() if item >= 0] for row in lists.items]
    without = [np.delete(lists.items, user, axis=0) for user in range(12)]
    covered = coverage(lists)
    assert covered.value == pytest.approx(len({item for row in rows for item in row}) / 15)
    shares = np.array([len({item for item in part.ravel().tolist() if item >= 0}) / 15 for part in without])
    assert covered.error == pytest.approx(math.sqrt(11 / 12 * ((shares - shares.mean()) ** 2).sum()))
    index = gini(lists)
    assert index.value == pytest.approx(plain_gini(times_of(lists.items, 15)))
    assert index.error == pytest.approx(jackknife_error(np.array([plain_gini(times_of(part, 15)) for part in without])))
    means = np.array([np.mean([lists.counts[item] for item in row]) for row in rows if row])
    assert mean_popularity(lists).value == pytest.approx(means.mean())
    assert mean_popularity(lists).error == pytest.approx(means.std(ddof=1) / math.sqrt(len(means)))
    cosines = np.array(
        [
            np.mean([float(lists.vectors[a] @ lists.vectors[b]) for a in row for b in row if a != b])
            for row in rows
            if len(row) > 1
        ]
    )
    assert similarity(lists).value == pytest.approx(cosines.mean(), abs=1e-6)
    assert similarity(lists).error == pytest.approx(cosines.std(ddof=1) / math.sqrt(len(cosines)), abs=1e-6)


def test_the_same_list_for_all_is_as_unequal_as_can_be():
    lists = ItemLists(np.tile(np.arange(2, dtype=np.int32), (9, 1)), np.arange(10), None)
    found = measure_lists(lists, 2)
    assert list(found) == ["coverage@2", "popularity@2", "gini@2", "similarity@2"]
    assert found["coverage@2"] == (0.2, 0)
    assert found["gini@2"].value == pytest.approx(0.8)
    assert found["popularity@2"] == (0.5, 0)
    assert math.isnan(found["similarity@2"].value)
    assert gini(ItemLists(np.arange(10, dtype=np.int32)[:, None], np.arange(10), None)).value == 0


def test_lists_of_a_fitted_model():
    rec = fastncf.fit(checkerboard(), budget="fast", epochs=2, k=3)
    found = rec.evaluate(lists=True)
    assert found.protocol == f"{rec.protocol}; lists: the best items of each tested user without training items"
    split, factors = rec.split, rec.trained
    scores = factors.user_vectors @ factors.item_vectors.T + factors.item_bias
    scores[np.repeat(np.arange(60), np.diff(split.indptr)), split.indices] = -np.inf
    best = np.argsort(-scores, axis=1)[:, :3]
    assert found.metrics["coverage@3"] == len(np.unique(best)) / 40
    assert found.metrics["popularity@3"] == pytest.approx(split.item_counts()[best].mean())
    assert set(found.errors) == set(found.metrics) == set(found.popularity)
    assert found.popularity["coverage@3"] < found.metrics["coverage@3"]
    assert -1 <= found.metrics["similarity@3"] <= 1
    assert "coverage@3" not in rec.evaluate().metrics
