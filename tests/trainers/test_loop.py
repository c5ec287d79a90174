"""Epoch after epoch: a training that diverges."""

import json
import math
from importlib import import_module

import numpy as np
import pytest
import torch
from torch import nn

import fastncf
from fastncf import cli
from fastncf.cli.output import print_json
from fastncf.errors import ConfigError, DivergedError
from fastncf.kernels.cpu.factors import Factors
from fastncf.trainers.loop import FiniteParameters
from tests.conftest import checkerboard

SMALL = {"dim": 8, "num_negatives": 2}
DIVERGING = {
    "rate": {"learning_rate": 10},
    "l2": {"l2": 1000.0, "epochs": 1},
    "both without histories": {"learning_rate": 10, "l2": 10, "history": "none", "model": "gmf"},
    "bpr": {"learning_rate": 100, "l2": 10, "loss": "bpr", "history": "bag"},
}


class Explodes(nn.Module):
    """A module whose parameter becomes some value in an epoch, while its loss stays finite."""

    def __init__(self, epoch: int, value: float) -> None:
        super().__init__()
        self.user, self.item, self.scale = nn.Embedding(60, 4), nn.Embedding(40, 4), nn.Parameter(torch.ones(()))
        self.register_buffer("num_calls", torch.zeros((), dtype=torch.int64))
        self.epoch, self.value = epoch, value

    def forward(self, users, items):
        if self.training and torch.is_grad_enabled():
            self.num_calls += 1
            if self.num_calls == self.epoch:
                with torch.no_grad():
                    self.scale.fill_(self.value)
        return (self.user(users) * self.item(items)).sum(-1) + 0 * self.scale.clamp(-1, 1).nan_to_num()


@pytest.mark.parametrize("name", DIVERGING)
def test_a_training_that_diverges_is_an_error_that_says_what_to_change(name):
    settings = DIVERGING[name]
    with pytest.raises(DivergedError, match=r"diverged in epoch \d+ \(.*expected: a smaller learning_rate") as error:
        fastncf.fit(checkerboard(), **(SMALL | settings))
    assert isinstance(error.value, ArithmeticError)
    assert error.value.recommender is None  # it diverged in the first epoch


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e19, -1e30])
@pytest.mark.parametrize("epochs", [3, 5])
def test_parameters_of_the_last_finite_epoch_are_kept(value, epochs):
    settings = {"epochs": epochs, "batch_size": 10**6, "num_negatives": 2, "schedule": "constant"}
    torch.manual_seed(0)
    module, same = Explodes(3, value), Explodes(0, value)
    same.load_state_dict(module.state_dict())
    told = []
    with pytest.raises(DivergedError, match=r"^training of Explodes diverged in epoch 3 \(") as error:
        fastncf.fit(checkerboard(), model=module, callback=told.append, **settings)
    fastncf.fit(checkerboard(), model=same, callback=lambda news: news.stage == "epoch" and news.epoch == 2, **settings)
    kept = error.value.recommender
    assert kept.model is module
    assert not module.training
    assert kept.metrics == {}
    assert [entry["epoch"] for entry in kept.training_log] == [1, 2]
    assert [news.epoch for news in told if news.stage == "epoch"] == [1, 2]
    assert all(math.isfinite(news.loss) for news in told if news.stage == "epoch")
    for name, tensor in same.state_dict().items():
        assert torch.equal(module.state_dict()[name], tensor), name
    assert np.isfinite(kept.recommend(1)["score"].to_numpy()).all()


def test_a_stage_that_diverges_before_the_last_one_leaves_no_model(monkeypatch):
    from fastncf.trainers import history_sgd

    epoch = history_sgd.HistorySGD.epoch
    monkeypatch.setattr(
        history_sgd.HistorySGD, "epoch", lambda self, number: epoch(self, number) if number < 2 else math.nan
    )
    with pytest.raises(DivergedError, match="training of mf diverged in epoch 3") as error:
        fastncf.fit(checkerboard(), model="mlp", layers=(8, 4), l2=0.01, **SMALL)
    assert error.value.recommender is None
    with pytest.raises(DivergedError) as error:
        fastncf.fit(checkerboard(), l2=0.01, validation=True, patience=9, **SMALL)
    assert [len(error.value.recommender.training_log), error.value.recommender.metrics] == [2, {}]


@pytest.mark.parametrize(
    ("place", "loss"), [("history_sgd:HistorySGD", "bce"), ("next_item:NextItem", "softmax")], ids=["sgd", "states"]
)
def test_a_training_that_diverged_leaves_no_encoder_of_histories_and_says_so(place, loss, monkeypatch):
    module, name = place.split(":")
    trainer = getattr(import_module(f"fastncf.trainers.{module}"), name)
    epoch = trainer.epoch
    monkeypatch.setattr(trainer, "epoch", lambda self, number: epoch(self, number) if number < 2 else math.nan)
    with pytest.raises(DivergedError, match="training of mf diverged in epoch 3") as error:
        fastncf.fit(checkerboard(), loss=loss, history="sequence", epochs=4, dim=4, device="cpu")
    kept = error.value.recommender
    assert kept.recommend(1, k=2).height == 2
    for request in (lambda: kept.recommend(history=[2]), lambda: kept.update(checkerboard())):
        with pytest.raises(ConfigError, match="no encoder of histories, as after a training that diverged"):
            request()


def test_an_l2_whose_trial_diverges_is_not_chosen(monkeypatch):
    monkeypatch.setattr("fastncf.tuning.L2_FACTORS", (1, 1e6, 1e8))
    rec = fastncf.fit(checkerboard(), epochs=2, **SMALL)
    assert rec.plan.final.l2 == rec.plan.stages[0].l2 < 1
    assert math.isfinite(rec.training_log[-1]["loss"])


def test_scores_that_are_not_finite_are_no_metrics():
    rec = fastncf.fit(checkerboard(), epochs=1, **SMALL)
    rec.model.item_bias.data.fill_(math.nan)
    with pytest.raises(DivergedError, match=r"^evaluate: no held-out item has a finite score") as error:
        rec.evaluate()
    assert error.value.recommender is rec


def test_the_copy_of_factors_and_of_tensors_is_restored():
    arrays = Factors(*(np.ones(shape, dtype=np.float32) for shape in ((3, 2), (4, 2), 3, 4)))
    finite = FiniteParameters(arrays)
    finite.restore()  # nothing is kept yet
    finite.keep()
    arrays.item_bias[:] = 5
    finite.keep()
    for array in arrays:
        array[:] = np.nan
    finite.restore()
    assert [float(array.sum()) for array in arrays] == [6, 8, 3, 20]


def test_the_command_line_leaves_a_good_model_alone(tmp_path, capsys):
    ratings, model = tmp_path / "ratings.csv", tmp_path / "model"
    checkerboard().write_csv(ratings)
    with pytest.raises(SystemExit):
        cli.main(["fit", str(ratings), "--out", str(model), "--epochs", "1", "--dim", "4"])
    before = {path.name: path.read_bytes() for path in model.iterdir()}
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        cli.main(["fit", str(ratings), "--out", str(model), "--json", "--learning-rate", "10", "--l2", "10"])
    out, err = capsys.readouterr()
    assert stopped.value.code == 1
    assert out == ""
    assert err.startswith("fastncf: training of mf diverged in epoch 1 (loss nan)")
    assert err.count("\n") == 1
    assert {path.name: path.read_bytes() for path in model.iterdir()} == before


def test_json_has_no_nan(capsys):
    print_json({"a": [1.5, math.nan, (math.inf, "x")], "b": {"c": -math.inf, "d": None, "e": 3}})
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == {
        "a": [1.5, None, [None, "x"]],
        "b": {"c": None, "d": None, "e": 3},
    }
