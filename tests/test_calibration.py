"""Time and memory to expect, measured by a part of an epoch."""

from typing import Any

import numpy as np
import pytest
import torch

import fastncf
from fastncf import calibration
from fastncf.calibration import seconds_per_epoch
from fastncf.plan import Plan
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
