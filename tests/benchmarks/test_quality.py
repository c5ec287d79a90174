"""Check the quality benchmark: EASE by its definition, and a run over all systems on little data."""

import numpy as np
import pytest
import torch

from benchmarks import quality
from fastncf.data.interactions import read_interactions
from fastncf.data.split import leave_one_out
from fastncf.data.synthetic import synthetic_movielens


@pytest.fixture(scope="module")
def frame():
    return synthetic_movielens(120, 130, 4_000).select("userId", "movieId", "timestamp").collect()


def test_ease_solves_its_least_squares_problem(frame):
    """Each item's column of weights is the ridge regression of the item on all others (Steck 2019, eq. 5)."""
    pytest.importorskip("scipy")
    split = leave_one_out(read_interactions(frame))
    seen = np.zeros((split.num_users, split.num_items))
    seen[np.repeat(np.arange(split.num_users), np.diff(split.indptr)), split.indices] = 1
    item, users = 7, torch.arange(split.num_users)
    others = np.delete(seen, item, axis=1)
    weights = np.linalg.solve(others.T @ others + 50 * np.eye(split.num_items - 1), others.T @ seen[:, item])
    scores = quality.ease(split, 50)(users, torch.full_like(users, item))
    np.testing.assert_allclose(scores.numpy(), others @ weights, atol=1e-4)


def test_a_run_has_every_system(frame, monkeypatch):
    pytest.importorskip("implicit")
    monkeypatch.setattr(quality, "OURS", {"`mf`": {"epochs": 1, "l2": 0.001}, "`popularity`": {"model": "popularity"}})
    rows = quality.measure({"train": frame}, 50, seeds=1)
    assert [row["model"] for row in rows] == [
        "fastncf `mf`",
        "fastncf `popularity`",
        "implicit's ALS",
        "implicit's BPR",
        "EASE, lambda 50",
    ]
    assert all(0 < row["ndcg"][0] <= row["hr"][0] <= 1 for row in rows)
