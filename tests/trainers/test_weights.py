"""Weights of interactions in the loss: trainers by Adam against the reference in float64, and what a fit makes of them.

Epochs of SGD and of states with weights are in the files of those trainers.
"""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

import fastncf
from fastncf.data.holdout import Holdout
from fastncf.data.protocols import make_split
from fastncf.data.split import hold_out_nothing
from fastncf.data.weights import PairWeights, relative_weights
from fastncf.errors import ConfigError, DataError, UnusedSettingWarning
from fastncf.models import build
from fastncf.models.losses import LOSSES, Loss
from fastncf.trainers.autograd import AutogradTrainer
from fastncf.trainers.cpu_mlp import CPUMLPTrainer
from tests import reference
from tests.conftest import plain_split, random_csr, random_interactions
from tests.stages import make_stage
from tests.trainers.test_block_sgd import with_weights

KINDS = {
    "bce": {"loss": "bce", "history": "sequence"},
    "bpr": {"loss": "bpr", "history": "none"},
    "softmax": {"loss": "softmax", "history": "sequence"},
    "mlp": {"model": "mlp"},
}


def orders(seed: int = 0) -> pl.DataFrame:
    """Return interactions without repeated pairs, with quantities of which some are 0."""
    random = np.random.default_rng(seed)
    rows = {"user": random.integers(0, 40, 900), "item": random.integers(0, 30, 900), "time": np.arange(900)}
    frame = pl.DataFrame(rows).unique(["user", "item"], keep="last", maintain_order=True)
    return frame.with_columns(quantity=pl.Series(random.integers(0, 7, frame.height)))


def fitted(frame, **settings) -> fastncf.Recommender:
    return fastncf.fit(frame, epochs=2, progress=False, **settings)


def vectors(rec) -> list[np.ndarray]:
    return [frame["vector"].to_numpy() for frame in (rec.user_vectors(), rec.item_vectors())]


@pytest.mark.parametrize("trainer_class", [AutogradTrainer, CPUMLPTrainer])
@pytest.mark.parametrize("loss", ["bce", "bpr", "softmax"])
def test_a_step_has_the_gradients_of_the_reference(trainer_class, loss):
    if trainer_class is CPUMLPTrainer and LOSSES[loss].cpu_kernel is None:
        pytest.skip("no kernel")
    random = np.random.default_rng(1)
    split = with_weights(plain_split(*random_csr(random, 30, 50, 40), 50), 1)
    stage = make_stage(model="mlp", dim=5, layers=(7, 3), loss=loss, epochs=1, batch_size=10**6, has_weights=True)
    model = build(stage, split.num_users, split.num_items, torch.zeros(split.num_items))
    p = reference.parameters_of(model)
    with trainer_class(model, split, stage) as trainer:
        total = float(trainer.epoch(0))
        ((users, items),) = reference.batches(trainer.loader)
        weights = split.interaction_weights()[trainer.loader.order.numpy()].astype(np.float64)
        state = trainer.state_dict()
    value, expected = reference.gradients("mlp", p, users, items, loss, stage.l2, weights=weights)
    assert total == pytest.approx(value * len(users), rel=1e-5)
    for name, gradient in expected.items():  # Adam's first mean is a tenth of the gradient
        np.testing.assert_allclose(state[f"exp_avg.{name}"].numpy() / 0.1, gradient, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_weight_of_2_doubles_the_loss_of_its_interaction(loss):
    random = np.random.default_rng(2)
    scores = [torch.tensor(random.normal(size=shape), requires_grad=True) for shape in ((6,), (6, 3))]
    function, weights = LOSSES[loss].function, torch.tensor([2.0, 1, 0, 1, 1, 3], dtype=torch.float64)
    gradients = torch.autograd.grad(function(*scores, weights), scores)
    plain = torch.autograd.grad(function(*scores), scores)
    ones = torch.autograd.grad(function(*scores, torch.ones(6, dtype=torch.float64)), scores)
    torch.testing.assert_close(gradients, (plain[0] * weights, plain[1] * weights[:, None]))
    torch.testing.assert_close(ones, plain)


@pytest.mark.parametrize("kind", KINDS)
def test_equal_weights_are_no_weights_and_others_are_trained_alike_everywhere(kind, tmp_path):
    frame, settings = orders(), KINDS[kind]
    plain, ones = fitted(frame, **settings), fitted(frame.with_columns(one=pl.lit(1)), weight="one", **settings)
    assert [a.tobytes() for a in vectors(plain)] == [a.tobytes() for a in vectors(ones)]
    assert [entry["loss"] for entry in plain.training_log] == [entry["loss"] for entry in ones.training_log]
    assert ones.plan.passed_over == plain.plan.passed_over
    weighted = fitted(frame, weight="quantity", **settings)
    assert weighted.found["columns"]["weight"] == "quantity"
    assert [a.tobytes() for a in vectors(weighted)] != [a.tobytes() for a in vectors(plain)]
    scaled = fitted(frame.with_columns(pl.col("quantity") * 4), weight="quantity", **settings)
    assert [a.tobytes() for a in vectors(weighted)] == [a.tobytes() for a in vectors(scaled)]
    weighted.save(tmp_path / "model")
    loaded = fastncf.load(tmp_path / "model").refit(progress=False)
    whole = fitted(frame, weight="quantity", holdout=None, **settings)
    assert [a.tobytes() for a in vectors(loaded)] == [a.tobytes() for a in vectors(whole)]


def test_weights_of_repeated_pairs_are_added_up_and_stay_with_their_pairs():
    interactions = random_interactions(np.random.default_rng(3))
    weight = np.random.default_rng(4).random(len(interactions.user))
    pairs = list(zip(interactions.user.tolist(), interactions.item.tolist(), strict=True))
    expected: dict[tuple[int, int], float] = {}
    for pair, value in zip(pairs, weight.tolist(), strict=True):
        expected[pair] = expected.get(pair, 0) + value
    _, split = make_split(replace(interactions, weight=weight), Holdout(rule="latest"), validation=True)
    owners = np.repeat(np.arange(split.num_users), np.diff(split.indptr)).tolist()
    found = split.weights.of_pairs(split.indptr, split.indices)
    assert found == pytest.approx([expected[pair] for pair in zip(owners, split.indices.tolist(), strict=True)])
    assert relative_weights(found).mean() == pytest.approx(1, rel=1e-6)
    whole, _ = hold_out_nothing(split, None)
    assert len(whole.interaction_weights()) == len(whole.indices) == len(expected)


def test_extreme_weights_have_finite_ratios():
    assert relative_weights(np.array([1e308, 1e308, 0.0])).tolist() == pytest.approx([1.5, 1.5, 0])
    assert relative_weights(np.array([5e-324, 0.0])).tolist() == [2, 0]
    assert relative_weights(np.array([0.1] * 7)) is None
    overflown = PairWeights.of_rows(*(np.zeros(2, np.int32),) * 2, np.array([1e308, 1e308]), 1)
    assert np.isfinite(overflown.values).all()


def test_new_rows_have_weights_and_the_names_of_the_fit(tmp_path):
    frame = orders().rename({"user": "who", "item": "what"})
    old, new = frame.filter(pl.col("who") < 35), frame.filter(pl.col("who") > 30)
    names = {"user": "who", "item": "what", "weight": "quantity"}
    rec = fitted(old, **names, history="none")
    with pytest.raises(DataError, match=r"has no column 'quantity' for weight=; its columns are who, what, time"):
        rec.update(new.drop("quantity"))
    twice = new.filter(pl.col("who") == 32)
    before = rec.split.weights.values.sum()
    rec.update(new).update(twice, epochs=1, progress=False)
    added = int(new["quantity"].sum() + twice["quantity"].sum())
    assert rec.split.weights.values.sum() == pytest.approx(before + added)
    rec.save(tmp_path / "model")
    loaded = fastncf.load(tmp_path / "model").refit(progress=False)
    assert len(loaded.split.interaction_weights()) == len(loaded.split.indices)
    assert loaded.recommend(history=new.drop("quantity"), k=2).columns == ["user", "item", "score", "rank"]


def test_popularity_adds_the_weights_up():
    frame = orders()
    rec = fastncf.fit(frame, model="popularity", weight="quantity", holdout=None, progress=False)
    sums = dict(frame.group_by("item").agg(pl.col("quantity").sum()).iter_rows())
    scores = rec.score([0] * 5, [0, 1, 2, 3, 4])
    assert scores["score"].to_list() == [sums[item] for item in range(5)]


def test_refusals(tmp_path):
    frame = orders()
    with pytest.raises(DataError, match=r"column 'quantity' holds -1 in row 6; expected a weight, which is a finite"):
        fitted(frame.with_columns(quantity=pl.when(pl.row_index() == 5).then(-1).otherwise(1)), weight="quantity")
    with pytest.raises(DataError, match=r"column 'quantity' holds no weight above 0 of an interaction that is trained"):
        fitted(frame.with_columns(pl.col("quantity") * 0), weight="quantity")
    with pytest.raises(DataError, match=r"has no column 'plays' for weight="):
        fitted(frame, weight="plays")
    LOSSES["flat"] = Loss(lambda positive, negatives: negatives.mean() - positive.mean(), terms="pair")
    try:
        with pytest.raises(ConfigError, match=r"loss='flat' takes no weights; expected a function of positive, neg"):
            fitted(frame, weight="quantity", loss="flat", optimizer="adam")
    finally:
        del LOSSES["flat"]
    with pytest.warns(UnusedSettingWarning, match=r"rating='quantity': no effect, since ratings are read only to"):
        fastncf.plan_fit(frame, rating="quantity")
    kept = fastncf.fit(frame, rating="quantity", weight="quantity", min_rating=1, epochs=1, progress=False)
    assert kept.data["num_low_rated"] == int((frame["quantity"] == 0).sum())
    assert kept.split.weights.values.min() >= 1
