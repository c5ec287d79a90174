"""Check the comparison with ALS on generated data: what is trained, and what a run yields."""

import argparse

import numpy as np
import pytest

from benchmarks import mf_vs_als
from fastncf.data.synthetic import write_synthetic_movielens


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    path = tmp_path_factory.mktemp("generated") / "ratings.csv"
    write_synthetic_movielens(path, 200, 100, 6_000)
    return mf_vs_als.load(argparse.Namespace(ratings=str(path), test=None, candidates=None))


def test_lists_have_a_test_item_and_99_candidates_of_each_user(loaded):
    split, _, lists = loaded
    assert (lists.positives == split.test_item[lists.users]).all()
    assert lists.negatives.shape == (split.num_users, 99)


@pytest.mark.parametrize("name", ["mf", "vectors"])
def test_a_run_trains_factors_that_differ_by_seed(loaded, name):
    split, order, _ = loaded
    first, again, other = (mf_vs_als.train(split, order, name, 4, seed)[0] for seed in (0, 0, 1))
    for one, same, different in zip(first, again, other, strict=True):
        assert np.isfinite(one).all()
        assert (one == same).all()
        assert (one != different).any()


def test_a_comparison_has_a_point_for_each_budget(loaded, monkeypatch):
    pytest.importorskip("implicit")
    limits = pytest.importorskip("threadpoolctl").threadpool_limits
    monkeypatch.setattr(mf_vs_als, "BUDGETS", {"mf": {2: {}}, "vectors": {4: {}}})
    with limits(1, user_api="blas"):
        curves = mf_vs_als.compare(*loaded, seeds=1)
    assert {name: [point["budget"] for point in points] for name, points in curves.items()} == {
        "ALS": list(mf_vs_als.ITERATIONS),
        "mf": [2],
        "vectors": [4],
    }
    for points in curves.values():
        assert all(0 < point["ndcg"][0] <= point["hr"][0] <= 1 and point["seconds"][0] > 0 for point in points)
