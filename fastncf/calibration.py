"""Time to expect of a fit on this machine: each part of it is done for a moment, and the rest is extrapolated.

Reading and splitting are done as a whole. Of a training the last groups of batches of an epoch are trained, as a
training does that is resumed: a few of them, then so many that they take :data:`SECONDS`. What both take gives the
seconds of a group, and of what an epoch does beside its groups. Rankings are measured by some of the users likewise.
"""

import copy
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastncf.config import Config
from fastncf.cost import START_SECONDS, Cost, growth_bytes, loaded_bytes, process_seconds
from fastncf.data.split import Split
from fastncf.evaluation.candidates import CandidateLists
from fastncf.evaluation.ranking import catalogue_ranks_by_factors, ranks_by_factors, validation_means
from fastncf.kernels.cpu.compiling import compilations_counted
from fastncf.kernels.cpu.factors import Factors
from fastncf.measuring import Questions
from fastncf.memory import available_bytes, resident_bytes
from fastncf.plan import Plan
from fastncf.recipes import L2_FACTORS
from fastncf.stage import Stage
from fastncf.trainers import get
from fastncf.trainers.base import Trainer
from fastncf.trainers.stages import finished_model, initial_model, prepared_device, validation_of
from fastncf.tuning import choose_plan, lists_for_l2, lists_for_plans

if TYPE_CHECKING:
    from torch import nn

SECONDS = 0.5
"""Seconds by which a speed is measured."""

CHOICE_SECONDS = 5.0
"""Seconds of the trials up to which the choice of a loss by held-out items is made, and its plan told."""

_L2_TRIALS = 2
_EPOCHS = 64  # of a training that is measured: it may have fewer, of which none may be trained twice
_WARM_UP_GROUPS = 128  # of a GPU, whose first steps are captured as graphs
_MOST_GROWTH = 16
_REPEATS = 3


class Pace(NamedTuple):
    """Seconds of some work.

    Attributes:
        first: what its first call takes more than others do, such as reading kernels from their cache.
        whole: of the whole work, the first call's excess apart.
    """

    first: float
    whole: float


class Clock:
    """Seconds since it was made, without those in which kernels were compiled, which later processes read.

    Attributes:
        compiling: returns the seconds in which kernels were compiled.
    """

    def __init__(self, compiling: Callable[[], float] = lambda: 0.0) -> None:
        self.compiling = compiling
        self._begin = time.perf_counter()

    def now(self) -> float:
        """Return the seconds."""
        return time.perf_counter() - self._begin - self.compiling()

    def of(self, work: Callable[[], object]) -> float:
        """Return the seconds that some work takes."""
        begin = self.now()
        work()
        return self.now() - begin

    def pace(self, work: Callable[[int], object], size: int, warm_up: int = 1) -> Pace:
        """Return the seconds of work of which any share can be done.

        Args:
            work: does so many parts, and what is to be done once.
            size: parts of the whole work, at least 1.
            warm_up: parts that are done at first.
        """
        first = self.of(lambda: work(min(warm_up, size)))
        least = taken = self.of(lambda: work(1))
        count = 1
        while count < size and taken - least < max(SECONDS, least / 4):
            per_part = max(taken - least, taken / 100) / max(1, count - 1)
            wanted = 1 + 1.2 * max(SECONDS, least / 4) / per_part
            count = min(size, max(2 * count, int(min(wanted, _MOST_GROWTH * count))))
            taken = self.of(lambda: work(count))  # noqa: B023 - done at once
        if count < size:
            whole = least + max(0.0, taken - least) / (count - 1) * (size - 1)
        else:
            times = [taken]
            while sum(times) < SECONDS and len(times) < _REPEATS:
                times.append(self.of(lambda: work(size)))
            whole = sum(times) / len(times)
        return Pace(max(0.0, first - least), whole)


@contextmanager
def clock_started() -> Iterator[Clock]:
    """Yield a clock that stands still within the block while kernels are compiled."""
    with compilations_counted() as compilations:
        yield Clock(lambda: compilations.seconds)


@dataclass
class _Training:
    """Measured seconds of the training of a stage.

    Attributes:
        model: trained for a moment.
        first: seconds that another training in the process does not take.
        begin: seconds before its first epoch.
        epochs: seconds of all epochs.
    """

    model: Any
    first: float = 0.0
    begin: float = 0.0
    epochs: float = 0.0


class _Seconds(NamedTuple):
    """Seconds of the parts of a fit that another seed takes again.

    Attributes:
        tuning: of choices by held-out items.
        training: of the stages, with the rankings after epochs.
        evaluation: of the measurement.
        fewer: seconds of the training that an early stop saves at most.
        more: seconds that further trials of an l2 take at most.
    """

    tuning: float
    training: float
    evaluation: float
    fewer: float
    more: float

    @property
    def all(self) -> float:
        """Seconds of all parts, without an early stop and further trials."""
        return self.tuning + self.training + self.evaluation


@dataclass
class _Fits:
    """Parts of fits to the same data that are done for a moment, each once.

    Attributes:
        once: seconds that a process takes once, such as those of reading kernels.
    """

    module: "nn.Module | None"
    config: Config
    split: Split
    order: np.ndarray | None
    clock: Clock
    once: float = 0.0
    _known: dict[Stage, _Training] = field(default_factory=dict)

    def seconds_of(self, plan: Plan) -> _Seconds:
        """Return the seconds of a fit whose plan is chosen, but for its l2."""
        models: list[Any] = []
        training = fewer = 0.0
        for stage in plan.stages:
            trained = self._trained(stage, copy.deepcopy(self.module), models)
            training += trained.begin + trained.epochs
            fewer += trained.epochs * _share_after_patience(plan, stage.epochs)
            models.append(trained.model)
        ranking = self._of_validation(plan, models[-1])
        fewer += sum(stage.epochs * ranking * _share_after_patience(plan, stage.epochs) for stage in plan.stages)
        training += plan.num_epochs * ranking
        l2, more = self._of_l2(plan)
        return _Seconds(l2, training, self._of_evaluation(plan, models[-1]), fewer, more)

    def of_choice(self, trials: Sequence[Stage]) -> float:
        """Return the seconds in which a plan is chosen by trials."""
        begin = self.clock.now()
        held_out = lists_for_plans(trials[0].seed, self.split, self.order)
        seconds = self.clock.now() - begin
        if held_out is None:
            return seconds
        rows = held_out.training
        rank = partial(catalogue_ranks_by_factors, indptr=rows.indptr, indices=rows.indices)
        return seconds + sum(self._of_trial(stage, rank, held_out.lists) for stage in trials)

    def _of_l2(self, plan: Plan) -> tuple[float, float]:
        """Return the seconds in which an l2 is chosen by as many trials as are made in any case, and of those left."""
        if not plan.l2_trials:
            return 0.0, 0.0
        begin = self.clock.now()
        held_out = lists_for_l2(plan, self.split, self.order)
        seconds = self.clock.now() - begin
        if held_out is None:
            return seconds, 0.0
        trial = self._of_trial(plan.l2_trials[0], ranks_by_factors, held_out.lists)
        return seconds + _L2_TRIALS * trial, (len(L2_FACTORS) - _L2_TRIALS) * trial

    def _of_trial(
        self,
        stage: Stage,
        rank: Callable[[Factors, CandidateLists[np.ndarray]], object],
        lists: CandidateLists[np.ndarray],
    ) -> float:
        """Return the seconds of a trial that ranks some lists."""
        trained = self._trained(stage)
        factors = trained.model if isinstance(trained.model, Factors) else trained.model.to("cpu").factors()
        ranking = self.clock.pace(lambda count: rank(factors, _first(lists, count)), len(lists.users))
        self.once += ranking.first
        return trained.begin + trained.epochs + ranking.whole

    def _trained(self, stage: Stage, module: "nn.Module | None" = None, previous: Sequence[Any] = ()) -> _Training:
        """Return what a stage takes; a stage that differs in l2 alone takes the same."""
        same = replace(stage, l2=0.0)
        if same not in self._known:
            self._known[same] = self._measured(stage, module, [*previous])
            self.once += self._known[same].first
        return self._known[same]

    def _measured(self, stage: Stage, module: "nn.Module | None", previous: list[Any]) -> _Training:
        """Train a stage for a moment."""
        begin = self.clock.now()
        with prepared_device(stage, module is not None):
            trained = _Training(initial_model(stage, module, self.split, previous))
            if stage.epochs:
                self._measure_epochs(trained, stage, begin)
            else:
                trained.begin = self.clock.now() - begin
        return trained

    def _measure_epochs(self, trained: _Training, stage: Stage, begin: float) -> None:
        """Train parts of some epochs, and write down what all of them take."""
        trainer_class = get(stage.trainer)
        model = trained.model
        if trainer_class.trains_factors and not isinstance(model, Factors):
            model = model.factors()
        order = self.order if stage.history == "sequence" else None
        longer = replace(stage, epochs=max(stage.epochs, _EPOCHS))
        with trainer_class(model, self.split, longer, order) as trainer:
            trained.begin = self.clock.now() - begin
            for first, epochs in _parts(trainer, stage.epochs, longer.epochs):
                pace = epoch_pace(trainer, first, self.clock)
                trained.first += pace.first
                trained.epochs += epochs * pace.whole

    def _of_validation(self, plan: Plan, model: Any) -> float:
        """Return the seconds of the ranking after an epoch."""
        begin = self.clock.now()
        validation = validation_of(self.split, plan.evaluation)
        if validation is None:
            return 0.0
        drawn = self.clock.now() - begin
        lists, k = validation.lists, validation.k
        with prepared_device(plan.final, self.module is not None):
            pace = self.clock.pace(
                lambda count: _wait_for(validation_means(model, _first(lists, count), k)), len(lists.users)
            )
        self.once += pace.first
        self.once += drawn
        return pace.whole

    def _of_evaluation(self, plan: Plan, model: Any) -> float:
        """Return the seconds of the measurement by test items."""
        if self.split.holdout == "none" or self.config.holdout == "none":
            return 0.0
        begin = self.clock.now()
        questions = Questions.of(self.split, self.config)
        drawn = self.clock.now() - begin
        if questions.test.are_others:  # users whose vectors the model does not have
            return drawn
        trained, users = finished_model(model), questions.candidates.users
        with prepared_device(plan.final, self.module is not None):
            pace = self.clock.pace(lambda count: questions.first(count).answer(trained), len(users), warm_up=8)
        self.once += pace.first
        return drawn + pace.whole


def measured_plan(
    plan: Plan,
    alternative: tuple[Plan, tuple[Stage, Stage]] | None,
    module: "nn.Module | None",
    config: Config,
    split: Split,
    order: np.ndarray | None,
    clock: Clock,
) -> Plan:
    """Return a plan with the memory and time to expect, by the speed of this machine and the memory of this process.

    Where held-out items choose between two plans, and that takes no more than :data:`CHOICE_SECONDS`, it is done.

    Args:
        plan: what is to be done; its cost has the speeds of another machine.
        alternative: another plan, and what is trained to choose between both, see
            :func:`fastncf.tuning.choose_plan`; or None.
        module: a module of the user's own, which is copied, or None.
        config: settings of the fit.
        split: N training interactions.
        order: (N,) int32, positions within each user's row from the oldest to the latest, or None.
        clock: has begun with the reading of the data, which are read and split now.
    """
    resident = 0 if clock.compiling() else resident_bytes()  # a compiler takes memory that later fits do not need
    if (growth := _growth_of(plan)) > available_bytes():
        return replace(plan, cost=replace(plan.cost, memory_bytes=max(plan.cost.memory_bytes, resident + growth)))
    reading, tuning = clock.now(), 0.0
    fits, other = _Fits(module, config, split, order, clock), None
    if alternative is not None:
        tuning = fits.of_choice(alternative[1])
        if tuning > CHOICE_SECONDS:
            other = alternative[0]
        else:
            plan = choose_plan((plan, alternative[0]), alternative[1], split, order)
    found = fits.seconds_of(plan)
    repeated = tuning + found.all
    process = process_seconds(plan.stages)
    alternative_seconds = None if other is None else tuning + fits.seconds_of(other).all - repeated
    seconds = process + reading + fits.once + repeated
    growth_of_data = split.num_interactions / max(1, len(split.indices))
    cost = Cost(
        max(plan.cost.memory_bytes, resident + _growth_of(plan) if resident else 0),
        seconds=round(seconds, 2),
        other_seconds=round(process, 2),
        repeated_seconds=round(repeated, 2),
        refit_seconds=round(growth_of_data * found.training, 2),
        change_by_choice=None if alternative_seconds is None else round(alternative_seconds, 2),
        fewer_seconds=round(found.fewer, 2),
        more_seconds=round(found.more, 2),
    )
    return replace(plan, cost=cost)


def _share_after_patience(plan: Plan, epochs: int) -> float:
    """Return the share of the epochs of a stage that an early stop saves at most; the first epoch may be the best."""
    patience = plan.evaluation.patience
    return max(0, epochs - 1 - patience) / epochs if patience and epochs else 0.0


def _growth_of(plan: Plan) -> int:
    """Return the bytes that the training and evaluation of a plan add."""
    data = plan.data
    return loaded_bytes(plan.stages) + growth_bytes(
        plan.stages,
        num_users=data.num_users,
        num_items=data.num_items,
        num_interactions=data.num_interactions,
        num_candidates=plan.evaluation.num_candidates,
    )


def epoch_pace(trainer: Trainer, first: int, clock: Clock) -> Pace:
    """Return the seconds of an epoch of a trainer, which is not used afterwards.

    Args:
        trainer: has not trained the epoch.
        first: number of an epoch; those behind it that are trained take the same time.
        clock: tells the time.
    """
    numbers = iter(range(first, first + _EPOCHS))

    def train(groups: int) -> None:
        """Train the last groups of the next epoch."""
        trainer.skip_to(trainer.num_groups - groups)
        trainer.epoch(next(numbers))
        _synchronize(trainer)

    on_cpu = trainer.device is None or trainer.device.type == "cpu"
    return clock.pace(train, max(1, trainer.num_groups), 1 if on_cpu else _WARM_UP_GROUPS)


def seconds_of_process() -> float | None:
    """Return the seconds since this process has begun; None where the system does not tell."""
    try:
        fields = Path("/proc/self/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        uptime = float(Path("/proc/uptime").read_text(encoding="ascii").split()[0])
        return uptime - int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None


def with_start(cost: Cost, seconds: float | None) -> Cost:
    """Return a cost with a start and an end of the process as fast as this process has started.

    Args:
        cost: has those of another machine.
        seconds: that this process has taken to start; None where the system does not tell.
    """
    if seconds is None:
        return cost
    others = cost.other_seconds * seconds / START_SECONDS
    return replace(cost, seconds=round(cost.seconds + others - cost.other_seconds, 2), other_seconds=round(others, 2))


def _parts(trainer: Trainer, epochs: int, longer: int) -> Iterator[tuple[int, int]]:
    """Yield the first epoch of each part of a longer training, and how many epochs it has in the real one."""
    first = 0
    for count, of_longer in zip(trainer.phases(epochs), trainer.phases(longer), strict=True):
        if count:
            yield first, count
        first += of_longer


def _first(lists: CandidateLists[Any], count: int) -> CandidateLists[Any]:
    """Return the first of some lists."""
    return CandidateLists(*(array[:count] for array in lists))


def _wait_for(means: Any) -> None:
    """Wait for means that a device computes."""
    for mean in means:
        float(mean)


def _synchronize(trainer: Trainer) -> None:
    """Wait for what a device is still doing for a trainer."""
    if trainer.device is not None and trainer.device.type == "cuda":
        import torch

        torch.cuda.synchronize(trainer.device)
