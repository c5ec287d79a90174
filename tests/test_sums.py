"""Sums of losses and metrics over many samples are exact; ``make nightly`` adds up a hundred times as many."""

from fractions import Fraction

import numpy as np
import pytest
import torch

from fastncf.evaluation import metrics
from fastncf.models.losses import LOSSES
from tests import sums

SHARP = 1e-11
"""Relative error of a sum of 10^6 numbers at most; sums in float32 have errors above 1e-9."""


def test_sums_of_all_trainers_and_metrics_over_a_million_samples():
    errors = {name: sums.error(*found) for name, found in sums.all_sums(10**6).items()}
    assert max(errors.values()) < SHARP, errors


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("is_weighted", [False, True])
def test_losses_for_autograd_add_up_in_float64(name, is_weighted):
    random = np.random.default_rng(0)
    positive, negatives = (torch.from_numpy(random.normal(size=s).astype(np.float32)) for s in ((3001,), (3001, 5)))
    weights = torch.from_numpy(random.integers(0, 9, 3001).astype(np.float32))
    loss = LOSSES[name]
    found = loss.function(positive, negatives, *[weights] * is_weighted)
    exact = loss.function(positive.double(), negatives.double(), *[weights.double()] * is_weighted)
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(float(exact), rel=2e-7)  # as far as each term is exact


def test_a_metric_in_float32_has_an_exact_mean(monkeypatch):
    monkeypatch.setitem(
        metrics.METRICS, "short", metrics.Metric(lambda ranks, _: (1 / (ranks + 3)).astype(np.float32), False)
    )
    ranks = np.random.default_rng(0).integers(0, 999, 10**5)
    values = (1 / (ranks + 3.0)).astype(np.float32)
    exact = float(sum(map(Fraction, values.tolist())) / len(values))
    assert metrics.metrics(ranks, 10)["short"] == pytest.approx(exact, rel=SHARP)
