"""One trial: a plan, trained on all but the items that it is measured by."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastncf.data.csr import Rows
from fastncf.data.split import Split, hold_out_another
from fastncf.errors import ConfigError
from fastncf.evaluation.metrics import METRICS
from fastncf.evaluation.task import RankingTask, rank_task
from fastncf.kernels.cpu.factors import Factors
from fastncf.plan import Plan
from fastncf.rng import Stream, key
from fastncf.trainers import get
from fastncf.trainers.divergence import has_diverged, largest_parameter
from fastncf.trainers.stages import finished_model, initial_model, prepared_device

_MOST_USERS = 20_000
"""Users whose held-out items a trial is measured by at most."""

SHARES = 0.25, 0.5, 0.75
"""Shares of the epochs after which a trial is measured, to end it early where it is worse than others."""


class Examination(NamedTuple):
    """Data that trials are trained on and measured by.

    Attributes:
        split: training interactions without the held-out items.
        order: (N,) int32, positions within each user's row from the oldest to the latest, or None.
        task: the held-out items in the whole catalogue.
        k: of the NDCG that is measured.
    """

    split: Split
    order: np.ndarray | None
    task: RankingTask
    k: int

    @classmethod
    def of(cls, split: Split, order: np.ndarray | None, k: int, seed: int) -> "Examination":
        """Hold out one more item of each user.

        Args:
            split: training interactions.
            order: see :func:`~fastncf.data.split.hold_out_another`.
            k: of the NDCG.
            seed: determines which users are drawn, where there are many.

        Raises:
            ConfigError: fewer than two users have two training interactions.
        """
        training, left, positives = hold_out_another(split, order, seed=seed)
        users = np.flatnonzero(positives >= 0).astype(np.int32)
        if len(users) < 2:
            raise ConfigError("tune: too few users have two training interactions; expected at least two who do")
        if len(users) > _MOST_USERS:
            generator = np.random.Generator(np.random.Philox(key=key(seed, Stream.TUNING)))
            users = np.sort(generator.permutation(users)[:_MOST_USERS])
        excluded = Rows(training.indptr, training.indices)
        indptr = np.arange(len(users) + 1, dtype=np.int64)
        return cls(training, left, RankingTask(users, indptr, positives[users], split.num_items, None, excluded), k)


class TrialEndedError(Exception):
    """A trial that was ended before its last epoch; the message says why."""


def run_trial(
    plan: Plan,
    examination: Examination,
    after_epoch: Callable[[int, int], None],
    report: Callable[[float, int], None],
) -> float:
    """Train a plan and return the NDCG of the held-out items in the whole catalogue.

    Args:
        plan: what is trained.
        examination: the data.
        after_epoch: called with the number of epochs that are done and of all; may raise a :class:`TrialEndedError`.
        report: called with the NDCG after each of :data:`SHARES` of the last stage, and its number from 1; likewise.

    Raises:
        TrialEndedError: the training diverged, or a callback ended it.
        DeviceError: the memory of the device runs out.
    """
    models: list[Any] = []
    done = 0
    for stage in plan.stages:
        with prepared_device(stage, has_module=False):
            model = initial_model(stage, None, examination.split, models)
            marks = {math.ceil(share * stage.epochs): at for at, share in enumerate(SHARES, 1)}
            trainer_class = get(stage.trainer)
            is_apart = trainer_class.trains_factors and not isinstance(model, Factors)
            order = examination.order if stage.history == "sequence" else None
            trained = model.factors() if is_apart else model
            with trainer_class(trained, examination.split, stage, order) as trainer:
                for number in range(1, stage.epochs + 1):
                    loss = float(trainer.epoch(number - 1)) / len(examination.split.indices)
                    if has_diverged(stage, loss, float(largest_parameter(trained))):
                        raise TrialEndedError("the training diverged")
                    done += 1
                    after_epoch(done, plan.num_epochs)
                    if stage is plan.stages[-1] and number in marks and number < stage.epochs:
                        report(_measure(trained, examination), marks[number])
            models.append(model)
            if stage is plan.stages[-1]:
                return _measure(model, examination)
    raise AssertionError("a plan has at least one stage")


def _measure(model: Any, examination: Examination) -> float:
    """Return the NDCG of the held-out items by a model in training."""
    ranks = rank_task(finished_model(model), examination.task).ranks
    return float(METRICS["ndcg"](ranks, examination.k).mean())
