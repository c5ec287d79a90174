"""Time and memory to expect, measured by a part of an epoch."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import fastncf
from fastncf import calibration
from fastncf.calibration import seconds_of_process, seconds_per_epoch, with_start
from fastncf.cost import TORCH_SECONDS, Cost
from fastncf.plan import Plan
from fastncf.trainers.autograd import AutogradTrainer
from tests.conftest import checkerboard


class Clock:
    """A clock that stands still but for the work of trainers."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Steady:
    """Stands for a trainer whose first batch compiles kernels, and whose others take the same time each."""

    device = None

    def __init__(self, clock: Clock, num_groups: int, seconds: float) -> None:
        self.clock, self.num_groups, self.seconds = clock, num_groups, seconds
        self.num_done, self.share_done = 0, 0.0
        self.at_boundary: Any = None

    def epoch(self, number: int) -> float:
        for group in range(self.num_groups):
            self.clock.now += self.seconds + (30.0 if self.num_done == 0 else 0.0)
            self.num_done += 1
            self.share_done = (group + 1) / self.num_groups
            self.at_boundary()
        return 0.0


@pytest.mark.parametrize(("num_groups", "seconds"), [(1, 0.01), (7, 0.2), (1_000, 0.002), (3, 40.0)])
def test_the_seconds_of_an_epoch_do_not_include_compiling(num_groups, seconds, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(calibration, "time", clock)
    trainer: Any = Steady(clock, num_groups, seconds)
    assert seconds_per_epoch(trainer, 100) == pytest.approx(num_groups * seconds)
    assert clock.now < 30 + 2 * seconds + 2 * calibration.SECONDS  # no more than is needed
    one: Any = Steady(clock, 1, 0.5)
    assert seconds_per_epoch(one, 1) == pytest.approx(30.5)  # all that is known


@pytest.mark.parametrize("settings", [{}, {"model": "neumf", "layers": (8,)}, {"model": "gmf", "optimizer": "adam"}])
def test_a_plan_is_measured_and_nothing_else_about_it_changes(settings, monkeypatch):
    monkeypatch.setattr(calibration, "SECONDS", 0.01)
    plans = [fastncf.plan_fit(checkerboard(), dim=4, measure=measure, **settings) for measure in (False, True)]
    assert plans[0].stages == plans[1].stages
    assert plans[1].cost.memory_bytes >= plans[0].cost.memory_bytes
    assert plans[1].cost.seconds > plans[1].cost.other_seconds
    assert Plan.from_dict(plans[1].to_dict()) == plans[1]


def test_a_module_is_measured_on_a_copy(monkeypatch):
    from fastncf.models.gmf import GMF

    monkeypatch.setattr(calibration, "SECONDS", 0.01)
    module = GMF(60, 40, 4, torch.Generator().manual_seed(0))
    before = {name: tensor.detach().numpy().copy() for name, tensor in module.state_dict().items()}
    fastncf.plan_fit(checkerboard(), model=module, measure=True)
    for name, tensor in module.state_dict().items():
        np.testing.assert_array_equal(tensor.detach().numpy(), before[name])


def test_the_start_of_a_process_takes_the_place_of_that_of_another_machine():
    cost = Cost(memory_bytes=5, seconds=21.0, other_seconds=4.0)
    assert with_start(cost, None) == cost
    assert with_start(cost, 3.5) == Cost(memory_bytes=5, seconds=23.5, other_seconds=6.5)
    seconds = seconds_of_process()
    assert seconds is None or 0 < seconds < float(Path("/proc/uptime").read_text().split()[0])


def test_what_a_stage_takes_before_its_first_epoch_counts_once(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(calibration, "time", clock)
    settings = {"dim": 4, "model": "gmf", "optimizer": "adam", "epochs": 3}
    plan = fastncf.plan_fit(checkerboard(), **settings)
    make = AutogradTrainer.__init__

    def slow(*arguments: Any) -> None:
        clock.now += 7
        make(*arguments)

    def epoch(trainer: Any, number: int) -> float:
        clock.now += 2
        return 0.0

    monkeypatch.setattr(AutogradTrainer, "__init__", slow)
    monkeypatch.setattr(AutogradTrainer, "epoch", epoch)
    rec = fastncf.fit(checkerboard(), dim=4, epochs=1, loss="bce", l2=0.01)
    clock.now = 0.0
    found = calibration.measured_cost(plan, (), None, rec.split, rec.order, 0.5)
    assert found.seconds == pytest.approx(plan.cost.other_seconds + 0.5 + 7 + 3 * 2, abs=0.1)
    monkeypatch.setattr(calibration, "sys", SimpleNamespace(modules={}))  # without torch, whose import is measured
    again = calibration.measured_cost(plan, (), None, rec.split, rec.order, 0.5)
    assert again.seconds == pytest.approx(found.seconds - TORCH_SECONDS, abs=0.11)
