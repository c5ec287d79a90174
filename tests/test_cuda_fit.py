"""A fit by the default on a device: by Triton's interpreter, with a CPU under another name in the device's place."""

import numpy as np
import polars as pl
import pytest
import torch

import fastncf
from fastncf import plan as plan_module
from fastncf.errors import DivergedError
from fastncf.trainers import cuda_mlp, cuda_next_item
from tests.checkpoints.stops import Stops, require_same

pytest.importorskip("triton")


KINDS = {
    "cuda_next_item": {"loss": "softmax", "history": "sequence", "num_negatives": 16, "batch_size": 13, "dropout": 0.1},
    "cuda_other_items": {"loss": "softmax", "history": "bag", "num_negatives": 16, "batch_size": 13, "dropout": 0.1},
    "cuda_mlp": {"model": "mlp", "layers": (16, 16), "optimizer": "adam", "dim": 8, "batch_size": 12},
}


@pytest.fixture
def _device_in_place(monkeypatch):
    """Let ``auto`` be the device "cpu:0", which no trainer for CPUs takes; a graph and a plan have few steps."""
    monkeypatch.setattr(plan_module, "may_have_device", lambda: True)
    monkeypatch.setattr("fastncf.device.find_device", lambda name: torch.device("cpu:0"))
    for module in (cuda_next_item, cuda_mlp):
        monkeypatch.setattr(module, "has_tf32", lambda device: True)
        monkeypatch.setattr(module, "_why_no_launch", lambda *_: None)
        monkeypatch.setattr(module, "_STEPS_PER_GRAPH", 2)
    monkeypatch.setattr(cuda_next_item.CUDANextItem, "batches_per_plan", 2)
    monkeypatch.setattr("fastncf.kernels.cuda.batches.BLOCK_TOKENS", 4)


def histories() -> pl.DataFrame:
    random = np.random.default_rng(0)
    rows = [(user, item, time) for user in range(10) for time, item in enumerate(random.permutation(14)[:6])]
    return pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")


@pytest.mark.usefixtures("_device_in_place")
def test_a_fit_on_a_device_is_that_on_a_cpu(tmp_path):
    settings = {"dim": 5, "epochs": 1, "num_negatives": 64, "history": "sequence", "num_candidates": 3}
    ours = fastncf.fit(histories(), **settings)
    theirs = fastncf.fit(histories(), device="cpu", **settings)
    assert (ours.plan.final.trainer, ours.plan.final.device) == ("cuda_next_item", "cpu:0")
    assert theirs.plan.final.trainer == "next_item"
    assert ours.plan.reasons[0]["loss"] == theirs.plan.reasons[0]["loss"]  # both were compared with bce
    assert isinstance(ours.trained, torch.nn.Module)
    assert ours.training_log[0]["loss"] == pytest.approx(theirs.training_log[0]["loss"], rel=1e-5)
    assert ours.metrics == pytest.approx(theirs.metrics)
    history = pl.DataFrame({"user": ["x", "x", "y"], "item": [1, 5, 3]})
    new = pl.DataFrame({"user": [0, 99], "item": [13, 2], "time": [50, 51]})
    ours.save(tmp_path)
    loaded = fastncf.load(tmp_path)
    for recommender in (ours, loaded):
        for asked in ({"users": [0, 3]}, {"history": history}):
            found, expected = recommender.recommend(**asked, k=4), theirs.recommend(**asked, k=4)
            assert found.drop("score").equals(expected.drop("score"))
            np.testing.assert_allclose(found["score"], expected["score"], atol=1e-5)
    ours.update(new)
    theirs.update(new)
    np.testing.assert_allclose(ours.recommend(99)["score"], theirs.recommend(99)["score"], atol=1e-5)


def fit(name: str, **changes) -> fastncf.Recommender:
    settings = {"dim": 5, "epochs": 2, "num_negatives": 2, "num_candidates": 3, "precision": "bfloat16"} | KINDS[name]
    rec = fastncf.fit(histories(), **settings | changes)
    assert (rec.plan.final.trainer, rec.plan.final.device) == (name, "cpu:0")
    return rec


@pytest.mark.usefixtures("_device_in_place")
@pytest.mark.parametrize("name", KINDS)
def test_stops_within_an_epoch_leave_no_trace(name, tmp_path, monkeypatch):
    """At the first boundary of the first epoch, and one in the second, after a snapshot of the middle of an epoch."""
    stops = Stops(monkeypatch)
    expected = fit(name, checkpoint=tmp_path / "undisturbed")
    per_epoch, rest = divmod(stops.num_boundaries, 2)
    assert per_epoch > 1
    assert not rest
    found = stops.run(lambda **given: fit(name, **given), tmp_path / "stopped", [0, per_epoch])
    require_same(found, expected)


@pytest.mark.usefixtures("_device_in_place")
@pytest.mark.filterwarnings("ignore:.*encountered in")  # of NumPy, by which the interpreter computes
@pytest.mark.parametrize("name", KINDS)
def test_a_training_on_a_device_that_diverges_is_one_sentence(name):
    with pytest.raises(DivergedError, match=r"^training of m\w+ diverged in epoch 1 \(loss .*expected: a smaller"):
        fit(name, learning_rate=1e6)
