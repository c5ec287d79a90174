"""A fit by the default on a device: by Triton's interpreter, with a CPU under another name in the device's place."""

import numpy as np
import polars as pl
import pytest
import torch

import fastncf
from fastncf import plan as plan_module
from fastncf.trainers import cuda_next_item

pytest.importorskip("triton")


@pytest.fixture
def _device_in_place(monkeypatch):
    """Let ``auto`` be the device "cpu:0", which no trainer for CPUs takes."""
    monkeypatch.setattr(plan_module, "may_have_device", lambda: True)
    monkeypatch.setattr("fastncf.device.find_device", lambda name: torch.device("cpu:0"))
    monkeypatch.setattr(cuda_next_item, "has_tf32", lambda device: True)
    monkeypatch.setattr(cuda_next_item, "_why_no_launch", lambda stage: None)
    monkeypatch.setattr("fastncf.kernels.cuda.next_item.BLOCK_TOKENS", 4)


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
