import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import fastncf
from fastncf.evaluation.metrics import METRICS, MISS, Metric, metric_means, metrics, named_metrics
from tests.conftest import checkerboard

RANKS = st.lists(st.one_of(st.integers(0, 200), st.just(MISS)), min_size=1, max_size=50)


def test_metrics_by_hand():
    result = metrics(np.array([0, 1, 9, 10, MISS]), 10)
    assert result["hr@10"] == pytest.approx(3 / 5)
    assert result["ndcg@10"] == pytest.approx((1 + 1 / math.log2(3) + 1 / math.log2(11)) / 5)
    assert result["mrr"] == pytest.approx((1 + 1 / 2 + 1 / 10 + 1 / 11) / 5)
    assert list(metrics(np.array([0]), 3)) == ["hr@3", "ndcg@3", "mrr"]


@given(RANKS, st.integers(1, 30))
def test_arrays_and_tensors_have_the_same_values(ranks, k):
    array, tensor = np.array(ranks), torch.tensor(ranks)
    for metric in METRICS.values():
        values = metric(array, k)
        assert values.shape == array.shape
        np.testing.assert_allclose(metric(tensor, k).double().numpy(), values, rtol=1e-15)
    means = metric_means(tensor, k)
    assert means.dtype == torch.float64
    np.testing.assert_allclose(means, list(metrics(array, k).values()), rtol=1e-12)


@given(RANKS, st.integers(1, 30))
def test_the_values_are_those_of_whole_numbers(ranks, k):
    """The floats that the metrics always had, computed from the integers."""
    ranks = np.array(ranks)
    expected = (ranks < k).mean(), ((ranks < k) / np.log2(ranks + 2.0)).mean(), (1 / (ranks + 1.0)).mean()
    assert tuple(metrics(ranks, k).values()) == expected


def test_a_metric_that_is_added_appears_in_all_results(monkeypatch):
    monkeypatch.setitem(METRICS, "precision", Metric(lambda ranks, k: (ranks < k) / k, has_cutoff=True))
    monkeypatch.setitem(METRICS, "last", Metric(lambda ranks, k: ranks == 4, has_cutoff=False))
    ranks = np.array([0, 4, 9, MISS])
    assert list(metrics(ranks, 5)) == ["hr@5", "ndcg@5", "mrr", "precision@5", "last"]
    assert metrics(ranks, 5)["precision@5"] == 0.1
    assert named_metrics(metric_means(torch.from_numpy(ranks), 5).tolist(), 5)["last"] == 0.25
    rec = fastncf.fit(checkerboard(), model="mlp", dim=4, epochs=1, validation=True, full_ranking=True)
    names = {"hr@10", "ndcg@10", "mrr", "precision@10", "last"}
    assert set(rec.metrics) == names | {f"full/{name}" for name in names}
    assert names < set(rec.history[0])
    assert rec.metrics["precision@10"] == pytest.approx(rec.metrics["hr@10"] / 10)


def test_torch_is_not_imported_with_the_metrics():
    code = "import sys, fastncf.evaluation.metrics, fastncf.evaluation.ranking; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert found.stdout.strip() == "False"
