"""Plans: what is chosen for which settings and data, and why."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest
import torch
from torch import nn

import fastncf
from fastncf import accelerators
from fastncf import plan as plan_module
from fastncf.config import Config
from fastncf.data.facts import DataFacts
from fastncf.errors import ConfigError, InsufficientMemoryError
from fastncf.models.losses import LOSSES, Loss
from fastncf.models.mf import MF
from fastncf.plan import Plan, alternative_plan, likely_facts, make_plan, trial_of
from tests.conftest import checkerboard

DENSE = DataFacts(
    num_users=6_040,
    num_items=3_706,
    num_interactions=994_169,
    num_rows=1_000_209,
    has_order=True,
    order_reason="the order tells something",
    holdout="latest",
)
SPARSE = replace(DENSE, num_interactions=60_000)


class Net(nn.Module):
    """A module of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        self.item = nn.Embedding(40, 1)

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return self.item(items).squeeze(-1)


def planned(data: DataFacts = DENSE, module: nn.Module | None = None, **settings: object) -> Plan:
    return make_plan(Config(device="cpu", **settings), data, module)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "trainers"),
    [
        ({}, ["next_item"]),
        ({"loss": "bce"}, ["history_sgd"]),
        ({"history": "none"}, ["block_sgd"]),
        ({"model": "gmf"}, ["history_sgd"]),
        ({"model": "gmf", "dim": 2}, ["autograd"]),
        ({"optimizer": "adam"}, ["autograd"]),
        ({"model": "mlp"}, ["history_sgd", "cpu_mlp"]),
        ({"model": "mlp", "dim": 2}, ["cpu_mlp"]),
        ({"model": "neumf"}, ["history_sgd", "cpu_mlp", "untrained"]),
        ({"model": "neumf", "optimizer": "adam"}, ["cpu_mlp"]),
        ({"model": "mlp", "precision": "bfloat16"}, ["history_sgd", "autograd"]),
        ({"model": "popularity"}, ["untrained"]),
    ],
)
def test_the_first_trainer_without_an_objection_is_taken(settings, trainers):
    plan = planned(**settings)
    assert [stage.trainer for stage in plan.stages] == trainers
    for stage, reasons, passed_over in zip(plan.stages, plan.reasons, plan.passed_over, strict=True):
        assert reasons["trainer" if stage.epochs else "epochs"]
        assert stage.trainer not in passed_over


@pytest.mark.parametrize(
    ("data", "settings", "expected"),
    [
        (DENSE, {}, {"epochs": 16, "loss": "softmax", "l2": 0, "num_negatives": 1_024, "dim": 128, "dropout": 0.4}),
        (DENSE, {"loss": "bce"}, {"epochs": 16, "l2": 0.005, "negatives": "popularity", "dim": 64, "dropout": 0}),
        (
            DENSE,
            {"history": "bag"},
            {"epochs": 16, "loss": "softmax", "trainer": "other_items", "num_negatives": 2_048},
        ),
        (DENSE, {"history": "bag", "loss": "bce"}, {"epochs": 16, "l2": 0.0025, "negatives": "uniform"}),
        (DENSE, {"history": "bag", "budget": "fast"}, {"epochs": 6, "trainer": "other_items", "dim": 64}),
        (DENSE, {"history": "none"}, {"epochs": 20, "learning_rate": 0.05, "l2": 0.0025}),
        (DENSE, {"budget": "fast"}, {"epochs": 6, "num_negatives": 512, "dim": 64, "trainer": "next_item"}),
        (SPARSE, {"budget": "fast"}, {"epochs": 16, "num_negatives": 512, "dim": 64, "dropout": 0.5}),
        (replace(DENSE, num_interactions=200_000), {"budget": "fast"}, {"epochs": 11, "dropout": 0.2}),
        (replace(DENSE, num_interactions=20_000_000), {}, {"epochs": 3, "num_negatives": 512, "dim": 64}),
        (replace(DENSE, num_interactions=20_000_000), {"budget": "fast"}, {"epochs": 1, "num_negatives": 256}),
        (replace(DENSE, num_interactions=900_000_000), {}, {"epochs": 1, "trainer": "next_item"}),
        (DENSE, {"budget": "fast", "loss": "bpr"}, {"epochs": 6, "learning_rate": 0.1}),
        (SPARSE, {}, {"epochs": 16, "learning_rate": 0.002, "dropout": 0.7, "negatives": "uniform"}),
        (SPARSE, {"loss": "bce"}, {"epochs": 32, "l2": 0.015, "dim": 128, "init_std": 0.05}),
        (SPARSE, {"history": "bag", "loss": "bce"}, {"epochs": 32, "l2": 0.01, "negatives": "popularity"}),
        (SPARSE, {"budget": "fast", "loss": "bce"}, {"epochs": 12, "learning_rate": 0.1, "dim": 128}),
        (DENSE, {"optimizer": "adam"}, {"epochs": 20, "learning_rate": 0.005, "l2": 0.003, "init_std": 0.02}),
        (DENSE, {"model": "gmf", "optimizer": "adam"}, {"batch_size": 8_192, "init_std": 0.1, "history": "none"}),
        (DENSE, {"model": "mlp", "optimizer": "adam"}, {"epochs": 12, "learning_rate": 0.003, "batch_size": 1_024}),
        (DENSE, {"model": "mlp", "optimizer": "adam", "budget": "fast"}, {"epochs": 8, "batch_size": 2_048}),
        (DENSE, {"model": "mlp"}, {"epochs": 2, "learning_rate": 0.0005, "start": "pretrained", "init_std": 1.0}),
        (DENSE, {"dim": 7, "epochs": 3, "l2": 0.0}, {"dim": 7, "epochs": 3, "l2": 0.0}),
    ],
)
def test_what_is_left_out_follows_from_recipes(data, settings, expected):
    final = planned(data, **settings).final
    assert {name: getattr(final, name) for name in expected} == expected


def test_pretrained_models_are_put_together_from_smaller_ones():
    mf, mlp = planned(model="mlp", dim=8, epochs=5, init_std=0.5).stages
    assert (mf.model, mf.dim, mf.epochs, mf.init_std) == ("mf", 7, 16, 0.02)
    assert (mlp.model, mlp.dim, mlp.epochs, mlp.init_std) == ("mlp", 8, 5, 0.5)
    gmf, mlp, neumf = planned(model="neumf", dim=8, mlp_dim=12).stages
    assert (gmf.model, gmf.dim, mlp.dim, mlp.start) == ("gmf", 8, 12, "random")
    assert (neumf.dim, neumf.mlp_dim, neumf.start, neumf.epochs) == (8, 12, "joined", 0)


@pytest.mark.parametrize("budget", ["best", "fast"])
def test_an_mlp_that_starts_from_an_mf_takes_more_epochs_over_less(budget):
    at_least = 2 if budget == "best" else 1
    for interactions, times in ((0, 100), (1_000, 10), (8_000, 5), (125_000, 2), (1_000_000, 1), (20_000_000, 1)):
        data = replace(DENSE, num_interactions=interactions)
        assert planned(data, model="mlp", budget=budget).final.epochs == times * at_least
        assert planned(data, model="mlp", budget=budget, epochs=7).final.epochs == 7


def test_l2_is_searched_for_where_it_is_left_out_and_affordable():
    assert planned(loss="bce").l2_trials[0].epochs == 6  # by the fast recipe
    assert planned(replace(DENSE, num_interactions=50_000), loss="bce").l2_trials[0].epochs == 32
    assert planned(model="mlp", l2=0.1).l2_trials  # which is the l2 of the layers
    for settings in (
        {"l2": 0.1},
        {"loss": "softmax"},
        {"loss": "bce", "budget": "fast"},
        {"optimizer": "adam"},
        {"model": "popularity"},
    ):
        assert not planned(**settings).l2_trials
    assert not planned(replace(DENSE, num_interactions=2_000_001), loss="bce").l2_trials


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"history": "none"}, "history='none' was asked for"),
        ({"num_negatives": 4}, "num_negatives=4 are too few"),
        ({"negatives": "popularity"}, "negatives='popularity' was asked for"),
        ({"negatives_exponent": 0.5}, "negatives_exponent=0.5 was asked for"),
        ({"l2": 0.1}, "l2=0.1 was asked for"),
    ],
)
def test_softmax_is_not_chosen_beside_settings_that_it_cannot_use(settings, reason):
    plan = planned(**settings)
    assert (plan.final.optimizer, plan.final.loss) == ("sgd", "bce")
    assert reason in plan.passed_over[0]["next_item"]


def test_histories_without_an_order_are_trained_by_softmax_up_to_a_size():
    unordered = replace(DENSE, has_order=False)
    assert planned(unordered).final.trainer == planned(unordered, loss="softmax").final.trainer == "other_items"
    large = replace(unordered, num_interactions=2_000_001)
    plan = planned(large)
    assert (plan.final.trainer, plan.final.history) == ("history_sgd", "bag")
    assert "2,000,000 interactions" in plan.passed_over[0]["other_items"]
    assert planned(large, loss="softmax").final.trainer == "other_items"


def test_softmax_is_compared_with_bce_where_that_is_affordable():
    def compared(data=DENSE, **settings):
        config = Config(**settings)
        plan = make_plan(config, data)
        alternative = alternative_plan(config, plan)
        return alternative and tuple(trial_of(config, one) for one in (plan, alternative))

    small = replace(DENSE, num_interactions=50_000)
    for data, epochs in ((DENSE, (6, 6)), (small, (16, 32))):
        trials = compared(data)
        assert [trial.loss for trial in trials] == ["softmax", "bce"]
        assert tuple(trial.epochs for trial in trials) == epochs
    assert compared(epochs=3, dim=5)[0].epochs == 3
    assert [trial.history for trial in compared(history="bag")] == ["bag", "bag"]
    for settings in ({"loss": "softmax"}, {"loss": "bce"}, {"budget": "fast"}, {"history": "none"}, {"model": "mlp"}):
        assert compared(**settings) is None
    assert compared(replace(DENSE, num_interactions=2_000_001)) is None


@pytest.fixture
def _cuda(monkeypatch):
    """Let there be a CUDA device on which all kernels run."""
    monkeypatch.setattr(plan_module, "may_have_device", lambda: True)
    named = {"auto": "cuda:0", "cuda": "cuda"}
    monkeypatch.setattr("fastncf.device.find_device", lambda name: torch.device(named.get(name, name)))
    monkeypatch.setattr("fastncf.device.has_bfloat16", lambda device: device.type == "cuda")
    monkeypatch.setattr("fastncf.trainers.cuda_next_item.has_tf32", lambda device: device.type == "cuda")
    monkeypatch.setattr("fastncf.trainers.cuda_mlp.has_tf32", lambda device: False)
    monkeypatch.setattr("fastncf.trainers.cuda_next_item._why_no_launch", lambda maker, stage: None)


@pytest.mark.usefixtures("_cuda")
def test_states_are_trained_on_the_device_where_there_is_one(monkeypatch):
    plan = make_plan(Config(), DENSE)
    final = plan.final
    assert (final.trainer, final.device, final.precision) == ("cuda_next_item", "cuda:0", "bfloat16")
    assert plan.reasons[0]["device"] == "the fastest that is available"
    assert "is not the CPU" in plan.passed_over[0]["next_item"]
    on_cpu = planned().final
    assert replace(final, device="cpu", trainer="next_item", precision="float32") == on_cpu
    alternative = alternative_plan(Config(), plan)
    assert [trial_of(Config(), one).trainer for one in (plan, alternative)] == ["cuda_next_item", "history_sgd"]
    for settings in ({"device": "cuda"}, {"device": "cuda", "loss": "softmax", "optimizer": "adam"}):
        explicit = make_plan(Config(**settings), DENSE)
        assert (explicit.final.trainer, explicit.final.device) == ("cuda_next_item", "cuda")
        assert explicit.reasons[0]["device"] == "as asked for"
    for config in (Config(), Config(history="bag"), Config(device="cuda", loss="softmax", optimizer="adam")):
        without_order = make_plan(config, replace(DENSE, has_order=False)).final
        assert (without_order.trainer, without_order.history) == ("cuda_other_items", "bag")
    assert make_plan(Config(precision="float32"), DENSE).final.precision == "float32"
    assert make_plan(Config(device="cpu"), DENSE).final.trainer == "next_item"
    monkeypatch.setattr("fastncf.trainers.cuda_next_item._why_no_launch", lambda maker, stage: "no room on the device")
    plan = make_plan(Config(), DENSE)
    assert (plan.final.trainer, plan.final.device, plan.final.precision) == ("next_item", "cpu", "float32")
    assert "no room on the device" in plan.reasons[0]["device"]
    other = make_plan(Config(device="cuda"), DENSE)
    assert other.final.trainer == "autograd"
    assert "no room on the device" in other.passed_over[0]["next_item"]


def test_a_machine_without_another_device_trains_states_without_torch(monkeypatch):
    def fails(*args):
        raise AssertionError

    monkeypatch.setattr(plan_module, "_device", fails)
    monkeypatch.setattr(accelerators, "_has_driver", lambda: False)
    monkeypatch.delenv(accelerators.VARIABLE, raising=False)
    assert make_plan(Config(), DENSE).reasons[0]["device"] == "there is no other device"
    monkeypatch.setattr(accelerators, "_has_driver", lambda: True)
    monkeypatch.setenv(accelerators.VARIABLE, "cpu")
    assert make_plan(Config(), DENSE).final.trainer == "next_item"
    monkeypatch.setenv(accelerators.VARIABLE, "cuda:1")
    with pytest.raises(AssertionError):
        make_plan(Config(), DENSE)


def test_a_limit_of_memory_without_room_for_torch_leaves_states_to_the_cpu(monkeypatch):
    def fails(what, *, reads):
        raise InsufficientMemoryError("no room")

    monkeypatch.setattr(plan_module, "may_have_device", lambda: True)
    monkeypatch.setattr(plan_module, "require_torch", fails)
    plan = make_plan(Config(), DENSE)
    assert plan.final.trainer == "next_item"
    assert "limit of the memory" in plan.reasons[0]["device"]
    with pytest.raises(InsufficientMemoryError):
        make_plan(Config(device="cuda"), DENSE)


def test_a_loss_without_a_kernel_form_is_never_trained_by_a_kernel(monkeypatch):
    monkeypatch.setitem(LOSSES, "hinge", Loss(lambda p, n: (1 - p.unsqueeze(-1) + n).relu().mean(), terms="pair"))
    for model in ("mf", "gmf", "mlp", "neumf"):
        plan = planned(model=model, loss="hinge")
        assert [stage.trainer for stage in plan.stages] == ["autograd"]
        assert "hinge" in "".join(plan.passed_over[0].values())
    with pytest.raises(ConfigError, match=r"optimizer='sgd': .*hinge.*; expected 'pretrain' or 'adam'"):
        planned(loss="hinge", optimizer="sgd")


def test_modules_of_the_users_own():
    assert planned(module=Net()).final.trainer == "autograd"
    assert planned(module=MF(5, 40, 4)).final.trainer == "history_sgd"
    assert planned(module=MF(5, 40, 4).double()).final.trainer == "autograd"
    with pytest.raises(ConfigError, match=r"expected the name of a model or an nn\.Module"):
        make_plan(Config(), DENSE, module=object())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "mlp", "optimizer": "sgd"}, "optimizer='sgd': .*mlp.*; expected 'pretrain' or 'adam'"),
        ({"optimizer": "pretrain"}, "optimizer='pretrain': it trains mlp and neumf, not mf"),
        ({"model": "mlp", "dim": 2, "optimizer": "pretrain"}, "needs dim=3 or more, not 2"),
        ({"optimizer": "adam", "history": "bag", "loss": "bpr"}, "history='bag': needs optimizer='sgd'"),
        ({"model": "mlp", "optimizer": "adam", "history": "sequence"}, "history='sequence': needs optimizer='sgd'"),
    ],
)
def test_settings_that_exclude_each_other(settings, message):
    with pytest.raises(ConfigError, match=message):
        planned(**settings)


def test_former_values_are_taken():
    assert planned(history="recent") == planned(history="sequence")
    assert planned(history="all") == planned(history="bag")
    assert planned(model="mlp", optimizer="parts") == planned(model="mlp", optimizer="pretrain")


def test_a_plan_survives_json():
    for model in ("mf", "neumf", "popularity"):
        plan = planned(model=model)
        assert Plan.from_dict(json.loads(json.dumps(plan.to_dict()))) == plan


def test_plan_fit_is_the_plan_of_fit_but_for_the_chosen_l2():
    data = checkerboard()
    settings = {"dim": 8, "epochs": 2, "loss": "bce"}
    plan, rec = fastncf.plan_fit(data, **settings), fastncf.fit(data, **settings)
    assert rec.plan.l2_trials == ()
    assert "chosen among" in rec.plan.reasons[0]["l2"]
    assert replace(plan, stages=rec.plan.stages, reasons=rec.plan.reasons, l2_trials=()) == rec.plan
    assert replace(plan.final, l2=rec.plan.final.l2) == rec.plan.final


def test_data_decide_on_the_history():
    data = checkerboard()
    assert fastncf.plan_fit(data.drop("time"), split="random").final.history == "bag"
    plan = fastncf.plan_fit(data, history="sequence")
    assert plan.final.history == "sequence"
    assert plan.reasons[0]["history"] == "as asked for"
    with pytest.raises(ConfigError, match=r"history='sequence': .* has no times"):
        fastncf.plan_fit(
            data.drop("time"), split="latest", history="sequence", test=pl.DataFrame({"user": [0], "item": [1]})
        )


def test_it_reads_as_sentences():
    text = str(planned(model="neumf"))
    assert "stage 1 of 3: gmf by sgd, trainer history_sgd" in text
    assert "the default for sgd with histories in their order" in text
    assert "not by cuda_mlp: " in text
    assert "expect: about" in text
    assert all(len(line) < 160 for line in text.splitlines())


def test_likely_facts_are_of_dense_data():
    assert make_plan(Config(device="cpu"), likely_facts(Config())).final.epochs == 16


def test_the_page_of_defaults_is_made_from_the_plan():
    docs = Path(__file__).parents[1] / "docs"
    made = runpy.run_path(str(docs / "defaults.py"))["defaults_as_markdown"]()
    assert (docs / "defaults.md").read_text(encoding="utf-8").strip() == made.strip()
