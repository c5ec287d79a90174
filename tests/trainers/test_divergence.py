"""Trainings that diverge: one sentence by every trainer, and no metric of what is not finite."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import fastncf
from fastncf.errors import MAX_MESSAGE_LENGTH, ConfigError, DivergedError
from fastncf.evaluation.metrics import METRICS, MISS, Metric, RankLists, measure, metrics
from fastncf.models.losses import LOSSES
from fastncf.search.trial import Examination, TrialEndedError, run_trial
from fastncf.trainers.divergence import describe, has_diverged, largest_parameter
from tests.conftest import checkerboard
from tests.stages import make_stage


class Products(nn.Module):
    """A module of one's own, whose scores are multiplied by a number outside of training."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.user, self.item, self.factor = nn.Embedding(60, 4), nn.Embedding(40, 4), factor

    def forward(self, users, items):
        scores = (self.user(users) * self.item(items)).sum(-1)
        return scores if self.training else scores * self.factor


KINDS = {
    "history_sgd": {"loss": "bce", "history": "sequence"},
    "history_sgd by bpr": {"loss": "bpr", "history": "bag"},
    "block_sgd": {"model": "gmf", "loss": "bce", "history": "none"},
    "next_item": {"loss": "softmax", "history": "sequence"},
    "next_item of a gmf": {"model": "gmf", "loss": "softmax", "history": "sequence"},
    "other_items": {"loss": "softmax", "history": "bag"},
    "cpu_mlp": {"model": "mlp", "optimizer": "adam", "layers": (8, 4)},
    "cpu_mlp by bpr": {"model": "mlp", "layers": (8, 4), "loss": "bpr"},
    "cpu_mlp of a neumf": {"model": "neumf", "layers": (8,), "optimizer": "adam"},
    "autograd": {"optimizer": "adam", "history": "none", "loss": "bce"},
    "autograd by softmax": {"optimizer": "adam", "history": "none", "loss": "softmax"},
    "autograd in bfloat16": {"model": "mlp", "optimizer": "adam", "layers": (8, 4), "precision": "bfloat16"},
    "autograd of one's own": {"model": Products, "optimizer": "adam"},
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("rate", [1e5, 1e6])
def test_every_trainer_says_that_a_training_diverged(name, rate):
    settings = {"num_negatives": 2, "epochs": 2, "learning_rate": rate, "device": "cpu"} | KINDS[name]
    settings |= {"dim": 4} if isinstance(settings.get("model", ""), str) else {"model": settings["model"]()}
    with pytest.raises(DivergedError, match=r"^training of \w+ diverged in epoch \d+ \(.*expected: a smaller") as error:
        fastncf.fit(checkerboard(), **settings)
    assert len(str(error.value)) <= MAX_MESSAGE_LENGTH
    assert "\n" not in str(error.value)
    kept = error.value.recommender
    assert kept is None or all(np.isfinite(kept.recommend(1)["score"].to_numpy()))


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, 2e5, -2e5])
def test_losses_and_parameters_from_which_no_training_goes_on(loss):
    stage = make_stage()
    assert has_diverged(stage, loss, 1.0)
    assert not has_diverged(stage, 900.0, 1e17)
    for largest in (math.nan, math.inf, 2e18):
        assert has_diverged(stage, 0.5, largest)
        assert f"(a parameter of {largest:g})" in describe(stage, 3, 0.5, largest)
    assert f"in epoch 3 (loss {loss:g})" in describe(stage, 3, loss, 1.0)


def test_a_loss_of_ones_own_may_have_any_scale(monkeypatch):
    monkeypatch.setitem(
        LOSSES, "own", LOSSES["bce"].__class__(lambda p, n: 1e9 * (p - n.mean(1)).square().mean(), "pair")
    )
    assert not has_diverged(make_stage(loss="own"), 1e12, 1.0)
    assert has_diverged(make_stage(loss="own"), math.inf, 1.0)


def test_the_largest_parameter_of_a_module_is_one_that_is_trained():
    module = Products()
    module.frozen = nn.Parameter(torch.full((3,), 1e30), requires_grad=False)
    with torch.no_grad():
        module.item.weight[3, 2] = -77
    assert largest_parameter(module).tolist() == [77]
    with torch.no_grad():
        module.user.weight[0, 0] = math.nan
    assert math.isnan(largest_parameter(module).item())


@pytest.mark.parametrize("factor", [math.nan, math.inf, -math.inf])
def test_scores_of_ones_own_that_are_not_finite_are_no_metrics(factor):
    """A module that trains well and scores badly: by fit, by evaluate, and where models are compared."""
    good = fastncf.fit(checkerboard(), dim=4, epochs=1, loss="bce", l2=0.01)
    with pytest.raises((DivergedError, ConfigError), match=r"finite|NaN") as error:
        fastncf.fit(checkerboard(), model=Products(factor), epochs=1)
    if (kept := getattr(error.value, "recommender", None)) is not None:
        assert kept.metrics == {}
    rec = fastncf.fit(checkerboard(), model=Products(), epochs=1)
    rec.model.factor = factor
    with pytest.raises(DivergedError, match="no held-out item has a finite score"):
        rec.evaluate()

    class Scorer:
        def score(self, users, items):
            return np.where(items % 2, factor, factor * np.ones(len(users)))

    for other in (rec, Scorer()):
        with pytest.raises(DivergedError, match=r"^compare: \w+ has no finite score for any held-out item"):
            fastncf.compare(good, other)


def test_a_user_without_a_finite_score_counts_as_missed():
    rec = fastncf.fit(checkerboard(), dim=4, epochs=3, loss="bce", l2=0.01)
    before = rec.evaluate(k=40)
    rec.trained.user_bias[:30] = math.nan
    after = rec.evaluate(k=40)
    assert all(map(math.isfinite, after.metrics.values()))
    assert (before.metrics["hr@40"], after.metrics["hr@40"]) == (1, 0.5)


def test_a_trial_whose_parameters_are_not_finite_ends(monkeypatch):

    rec = fastncf.fit(checkerboard(), dim=4, epochs=2, loss="bce", l2=0.01)
    examination = Examination.of(rec.split, rec.order, 10, 0)
    monkeypatch.setattr("fastncf.search.trial.largest_parameter", lambda _: math.nan)
    with pytest.raises(TrialEndedError, match="the training diverged"):
        run_trial(rec.plan, examination, lambda *_: None, lambda *_: None)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_of_ones_own_that_is_not_finite_is_refused(value, monkeypatch):
    monkeypatch.setitem(METRICS, "odd", Metric(lambda ranks, _: np.where(ranks == 3, value, 1.0), has_cutoff=False))
    assert metrics(np.array([1, 2, MISS]), 10)["odd"] == 1
    with pytest.raises(ConfigError, match=r"^metrics: odd is not finite for 1 of 3 lists; expected a function"):
        measure(RankLists.single(np.array([1, 2, 3])), 10)


def test_a_metric_that_lists_do_not_have_is_left_out():
    rec = fastncf.fit(checkerboard(), dim=4, epochs=1, loss="bce", l2=0.01)
    found = rec.evaluate(k=1, lists=True)
    assert "similarity@1" not in found.metrics
    assert all(map(math.isfinite, {**found.metrics, **found.popularity}.values()))
    assert "similarity@2" in rec.evaluate(k=2, lists=True).metrics
