"""Contents of a page, beside naive versions."""

import numpy as np
import pytest

from fastncf.data.split import leave_one_out
from fastncf.evaluation.metrics import RankLists
from fastncf.report import measure
from tests.conftest import random_interactions


@pytest.fixture
def split():
    return leave_one_out(random_interactions(np.random.default_rng(5)), validation=False, random=False, seed=0)


def test_curves_are_means_with_confidence_intervals():
    ranks = np.random.default_rng(0).integers(0, 30, 200)
    for name, value in (("hr", lambda rank: 1.0), ("ndcg", lambda rank: 1 / np.log2(rank + 2))):
        curve = measure.metric_curve(name, RankLists.single(ranks), 100)
        assert curve.k.tolist() == list(range(1, 21))
        for k, mean, margin in zip(*curve, strict=True):
            values = [value(rank) if rank < k else 0.0 for rank in ranks]
            assert mean == pytest.approx(np.mean(values))
            assert margin == pytest.approx(1.96 * np.std(values, ddof=1) / len(values) ** 0.5)


@pytest.mark.parametrize(("length", "last"), [(2, 2), (20, 20), (21, 20)])
def test_curves_end_with_the_lists(length, last):
    curve = measure.metric_curve("hr", RankLists.single(np.array([0, 1])), length)
    assert curve.k[-1] == last
    assert curve.mean[-1] == 1


def test_a_single_held_out_item_has_no_interval():
    assert not measure.metric_curve("ndcg", RankLists.single(np.array([3])), 100).margin.any()


def test_most_popular(split):
    counts, seen = split.item_counts(), split.seen()
    users = np.array([0, 3, 7])
    expected = []
    for user in users:
        own = set(seen[1][seen[0][user] : seen[0][user + 1]].tolist())
        left = [item for item in range(split.num_items) if item not in own]
        expected += sorted(left, key=lambda item: -counts[item])[:6]
    assert measure.most_popular(split, users, 6).tolist() == expected


def test_share_of_most_popular():
    generator = np.random.default_rng(1)
    counts = generator.integers(0, 50, 100)
    items = generator.integers(0, 100, 500)
    order = sorted(range(100), key=lambda item: -counts[item])
    shares = measure.share_of_most_popular(items, counts)
    assert len(shares) == measure.NUM_SHARES
    for share, at in zip(shares, np.linspace(0, 100, len(shares)), strict=True):
        assert share == pytest.approx(np.isin(items, order[: round(at)]).mean())


@pytest.mark.parametrize("shape", [(50, 8), (50, 1), (3, 8), (1, 4)])
def test_project_finds_the_principal_components(shape):
    vectors = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    points = measure.project(vectors)
    assert points.shape == (shape[0], 2)
    directions = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    singular = np.linalg.svd(directions - directions.mean(axis=0), compute_uv=False)
    expected = np.zeros(2)
    expected[: min(2, len(singular))] = singular[:2]
    assert np.linalg.norm(points, axis=0) == pytest.approx(expected, abs=1e-6)
    assert (points.max(axis=0) >= -points.min(axis=0)).all()


def test_vectors_of_zero_stay_zero():
    assert not measure.normalized(np.zeros((2, 3), dtype=np.float32)).any()
    assert np.isfinite(measure.project(np.zeros((4, 3), dtype=np.float32))).all()
