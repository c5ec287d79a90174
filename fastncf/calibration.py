"""Time to expect of a fit on this machine, from a part of an epoch of each stage that is trained for it."""

import copy
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastncf.cost import START_SECONDS, TORCH_SECONDS, Cost, growth_bytes, uses_torch
from fastncf.data.split import Split
from fastncf.memory import available_bytes, resident_bytes
from fastncf.plan import Plan
from fastncf.stage import Stage
from fastncf.trainers import get
from fastncf.trainers.base import Trainer
from fastncf.trainers.stages import initial_model, prepared_device

if TYPE_CHECKING:
    from torch import nn

SECONDS = 0.5
"""Seconds of training that the speed of a stage is measured by, behind its first batches, which compile kernels."""

_L2_TRIALS = 2


class _EnoughError(Exception):
    """The speed is known."""


def measured_cost(
    plan: Plan,
    trials: Iterable[Stage],
    module: "nn.Module | None",
    split: Split,
    order: np.ndarray | None,
    seconds_so_far: float,
) -> Cost:
    """Return memory and time to expect of a plan, with the speed of this machine and the memory of this process.

    Start and evaluation are those of ``plan.cost``; what a stage takes before its first epoch, such as the import of
    torch, is measured with it.

    Args:
        plan: what is to be done; its cost has the speeds of another machine.
        trials: what is trained to choose the plan, see :func:`fastncf.tuning.choose_plan`.
        module: a module of the user's own, which is copied, or None.
        split: N training interactions.
        order: (N,) int32, positions within each user's row from the oldest to the latest, or None.
        seconds_so_far: of reading and splitting.
    """
    data = plan.data
    growth = growth_bytes(
        plan.stages,
        num_users=data.num_users,
        num_items=data.num_items,
        num_interactions=data.num_interactions,
        num_candidates=plan.evaluation.num_candidates,
    )
    memory = max(plan.cost.memory_bytes, resident_bytes() + growth) if resident_bytes() else plan.cost.memory_bytes
    if growth > available_bytes():
        return replace(plan.cost, memory_bytes=memory)
    stages = [*plan.stages, *trials, *plan.l2_trials * _L2_TRIALS]
    others = plan.cost.other_seconds
    if uses_torch(plan.stages) and "torch" not in sys.modules:
        others -= TORCH_SECONDS  # the import is measured
    seconds = others + seconds_so_far
    models: list[Any] = []
    known: dict[Stage, float] = {}
    for number, stage in enumerate(stages):
        same = replace(stage, l2=0.0, epochs=1)
        if same not in known:
            own = copy.deepcopy(module) if number < len(plan.stages) else None
            begin = time.perf_counter()
            model, known[same], seconds_of_epochs = _measure(stage, own, split, order, models)
            models.append(model)
            seconds += time.perf_counter() - begin - seconds_of_epochs
        seconds += stage.epochs * known[same]
    return Cost(memory, round(seconds, 1), round(others, 1))


def seconds_of_process() -> float | None:
    """Return the seconds since this process has begun; None where the system does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        return uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def with_start(cost: Cost, seconds: float | None) -> Cost:
    """Return a cost with the seconds that this process has taken to start, in place of those of another machine."""
    if seconds is None:
        return cost
    change = seconds - START_SECONDS
    return replace(cost, seconds=round(cost.seconds + change, 1), other_seconds=round(cost.other_seconds + change, 1))


def _measure(
    stage: Stage, module: "nn.Module | None", split: Split, order: np.ndarray | None, previous: list[Any]
) -> tuple[Any, float, float]:
    """Return the model of a stage, trained for a moment, the seconds of an epoch, and those that epochs have taken."""
    with prepared_device(stage, module is not None):
        model = initial_model(stage, module, split, previous)
        if not stage.epochs:
            return model, 0.0, 0.0
        trainer_class = get(stage.trainer)
        trained = model.factors() if trainer_class.trains_factors and module is not None else model
        with trainer_class(trained, split, stage, order if stage.history == "sequence" else None) as trainer:
            begin = time.perf_counter()
            per_epoch = seconds_per_epoch(trainer, stage.epochs)
            return model, per_epoch, time.perf_counter() - begin


def seconds_per_epoch(trainer: Trainer, epochs: int) -> float:
    """Return the seconds that an epoch takes a trainer, which trains for about :data:`SECONDS`.

    Args:
        trainer: not used afterwards.
        epochs: that it has at most.
    """
    begin = time.perf_counter()
    marks: list[tuple[float, float]] = []

    def mark(share: float) -> None:
        """Note the epochs that are done, a float, at this moment."""
        _synchronize(trainer)
        marks.append((time.perf_counter(), share))
        if len(marks) > 1 and marks[-1][0] - marks[0][0] >= SECONDS:
            raise _EnoughError

    try:
        for number in range(epochs):
            trainer.at_boundary = lambda number=number: mark(number + trainer.share_done)
            trainer.epoch(number)
            mark(number + 1)
    except _EnoughError:
        pass
    (first, share), (last, end) = marks[0], marks[-1]
    return (last - first) / (end - share) if end > share else last - begin


def _synchronize(trainer: Trainer) -> None:
    """Wait for what a device is still doing for a trainer."""
    if trainer.device is not None and trainer.device.type == "cuda":
        import torch

        torch.cuda.synchronize(trainer.device)
