"""Time and memory to expect, measured by parts of a fit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fastncf
from fastncf import calibration
from fastncf.calibration import Clock, epoch_pace, seconds_of_process, with_start
from fastncf.cost import START_SECONDS, Cost
from fastncf.kernels.cpu import compiling
from fastncf.plan import Plan
from fastncf.trainers import get
from fastncf.trainers.other_items import OtherItems
from fastncf.trainers.stages import initial_model
from tests.conftest import checkerboard


class Time:
    """Stands for the module ``time``; a clock that stands still but for the work of trainers."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Steady:
    """Stands for a trainer whose first epoch reads kernels; an epoch takes ``least`` and the same for each group."""

    device = None

    def __init__(self, clock: Time, num_groups: int, least: float, seconds: float) -> None:
        self.clock, self.num_groups, self.least, self.seconds = clock, num_groups, least, seconds
        self.numbers: list[int] = []
        self.done = 0

    def skip_to(self, done: int) -> None:
        self.done = done

    def epoch(self, number: int) -> float:
        self.clock.now += (0.0 if self.numbers else 30.0) + self.least + (self.num_groups - self.done) * self.seconds
        self.numbers.append(number)
        return 0.0


@pytest.mark.parametrize("least", [0.0, 0.3, 8.0])
@pytest.mark.parametrize(("num_groups", "seconds"), [(1, 0.01), (7, 0.2), (100_000, 0.002), (3, 40.0)])
def test_the_seconds_of_an_epoch_are_those_of_its_groups_and_what_it_does_once(num_groups, seconds, least, monkeypatch):
    clock = Time()
    monkeypatch.setattr(calibration, "time", clock)
    trainer: Any = Steady(clock, num_groups, least, seconds)
    pace = epoch_pace(trainer, 5, Clock())
    assert pace.whole == pytest.approx(least + num_groups * seconds)
    assert pace.first == pytest.approx(30)
    assert trainer.numbers == list(range(5, 5 + len(trainer.numbers)))  # none is trained twice
    assert clock.now < 30 + 8 * least + 6 * seconds + 20 * calibration.SECONDS


def test_seconds_of_compilers_do_not_count(monkeypatch):
    clock = Time()
    monkeypatch.setattr(calibration, "time", clock)
    monkeypatch.setattr(compiling, "time", clock)
    listener = compiling.Compilations()
    watch = Clock(lambda: listener.seconds)
    listener.on_start(None)
    clock.now += 5
    listener.on_start(None)  # a kernel that the first one calls
    clock.now += 2
    listener.on_end(None)
    listener.on_end(None)
    clock.now += 1
    assert (listener.seconds, watch.now()) == (7, 1)


def unchosen(plan: Plan) -> list[Any]:
    """Return the stages of a plan but for what a search finds."""
    return [stage.to_dict() | {"l2": 0.0} for stage in plan.stages]


@pytest.mark.parametrize(
    "settings",
    [{"loss": "bce"}, {"model": "neumf", "layers": (8,), "validation": True}, {"model": "gmf", "optimizer": "adam"}],
)
def test_a_plan_is_measured_and_nothing_else_about_it_changes(settings, monkeypatch):
    monkeypatch.setattr(calibration, "SECONDS", 0.01)
    plans = [fastncf.plan_fit(checkerboard(), dim=4, measure=measure, **settings) for measure in (False, True)]
    assert plans[0].stages == plans[1].stages
    cost = plans[1].cost
    assert cost.memory_bytes >= plans[0].cost.memory_bytes
    assert cost.seconds > cost.repeated_seconds > 0
    assert cost.refit_seconds > 0
    assert Plan.from_dict(plans[1].to_dict()) == plans[1]
    assert cost.of_runs(3, refit=False).seconds == pytest.approx(cost.seconds + 2 * cost.repeated_seconds, abs=0.01)
    assert cost.of_runs(1, refit=True).seconds == pytest.approx(cost.seconds + cost.refit_seconds, abs=0.01)


def test_bounds_are_told_of_what_is_not_known_before(monkeypatch):
    monkeypatch.setattr(calibration, "SECONDS", 0.01)
    settings = {"dim": 4, "epochs": 900, "loss": "bce", "history": "none"}
    fixed = fastncf.plan_fit(checkerboard(), measure=True, l2=0.01, **settings).cost
    assert (fixed.fewer_seconds, fixed.more_seconds) == (0, 0)
    plan = fastncf.plan_fit(checkerboard(), measure=True, validation=True, patience=2, **settings)
    cost = plan.cost
    assert 0 < cost.fewer_seconds < cost.seconds
    assert cost.more_seconds > 0
    *_, told = str(plan).splitlines()
    assert told.endswith("s at most if more than two l2 are tried")
    assert "s at least if the training is stopped early, as patience allows" in told
    runs = cost.of_runs(3, refit=True)
    assert runs.fewer_seconds == pytest.approx(3 * cost.fewer_seconds + cost.refit_seconds, abs=0.01)
    assert runs.more_seconds == pytest.approx(3 * cost.more_seconds, abs=0.01)
    never = fastncf.plan_fit(checkerboard(), measure=True, validation=True, patience=899, l2=0.01, **settings)
    assert never.cost.fewer_seconds == 0


def test_held_out_items_choose_the_plan_that_is_told_or_both_times_are(monkeypatch):
    monkeypatch.setattr(calibration, "SECONDS", 0.01)
    settings = {"dim": 4, "epochs": 2, "num_negatives": 64}
    told = fastncf.plan_fit(checkerboard(), measure=True, **settings)
    fitted = fastncf.fit(checkerboard(), **settings).plan
    assert unchosen(told) == unchosen(fitted)
    assert told.reasons[-1]["loss"] == fitted.reasons[-1]["loss"]
    assert told.cost.change_by_choice is None
    monkeypatch.setattr(calibration, "CHOICE_SECONDS", 0.0)
    both = fastncf.plan_fit(checkerboard(), measure=True, **settings)
    assert both.cost.change_by_choice is not None
    assert str(both).endswith("s if held-out items choose the other loss")
    assert Plan.from_dict(both.to_dict()) == both


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "bce", "history": "none"},
        {"loss": "bce"},
        {"loss": "softmax", "l2": None, "batch_size": 32},
        {"loss": "softmax", "l2": None, "history": "bag", "batch_size": 32},
        {"model": "mlp", "optimizer": "adam", "layers": (8,), "batch_size": 64},
        {"model": "gmf", "optimizer": "adam", "batch_size": 64},
    ],
)
def test_trainers_train_the_last_groups_of_an_epoch_alone(settings):
    rec = fastncf.fit(checkerboard(), dim=4, epochs=2, num_negatives=4, **{"l2": 0.01} | settings)
    stage, split = rec.plan.final, rec.split
    model = initial_model(stage, None, split, [])
    with get(stage.trainer)(model, split, stage, rec.order if stage.history == "sequence" else None) as trainer:
        reached: list[int] = []
        trainer.at_boundary = lambda: reached.append(int(trainer.state()["epoch.done"]))
        trainer.skip_to(trainer.num_groups - 1)
        trainer.epoch(0)
        assert reached == [trainer.num_groups]
        trainer.skip_to(0)
        trainer.epoch(1)
        assert reached[-1] == trainer.num_groups


@pytest.mark.parametrize("epochs", [1, 2, 5, 16])
def test_phases_are_those_of_the_training(epochs):
    rec = fastncf.fit(checkerboard(), dim=4, epochs=1, loss="softmax", history="bag", num_negatives=4)
    stage = replace(rec.plan.final, epochs=epochs)
    with OtherItems(initial_model(stage, None, rec.split, []), rec.split, stage) as trainer:
        are_fixed = []
        for number in range(epochs):
            trainer.epoch(number)
            are_fixed.append(trainer._fixed_states is not None)
        assert trainer.phases(epochs) == (are_fixed.count(False), are_fixed.count(True))
        assert are_fixed == sorted(are_fixed)


def test_a_module_is_measured_on_a_copy(monkeypatch):
    from fastncf.models.gmf import GMF

    monkeypatch.setattr(calibration, "SECONDS", 0.01)
    module = GMF(60, 40, 4, torch.Generator().manual_seed(0))
    before = {name: tensor.detach().numpy().copy() for name, tensor in module.state_dict().items()}
    fastncf.plan_fit(checkerboard(), model=module, measure=True)
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(tensor.detach().numpy(), before[name])


def test_users_that_the_model_does_not_know_are_left_out_of_the_measurement(monkeypatch):
    monkeypatch.setattr(calibration, "SECONDS", 0.01)
    plan = fastncf.plan_fit(checkerboard(), dim=4, loss="bce", l2=0.01, test_users=0.2, measure=True)
    assert plan.cost.seconds > 0


def test_a_process_starts_and_ends_as_fast_as_this_one_has_started():
    cost = Cost(memory_bytes=5, seconds=21.0, other_seconds=4.0)
    assert with_start(cost, None) == cost
    assert with_start(cost, 2 * START_SECONDS) == Cost(memory_bytes=5, seconds=25.0, other_seconds=8.0)
    seconds = seconds_of_process()
    assert seconds is None or 0 < seconds < float(Path("/proc/uptime").read_text().split()[0])
