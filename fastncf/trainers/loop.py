"""Epoch after epoch: progress, validation, early stopping, and the log of a fit, the same for all trainers."""

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from fastncf.evaluation.candidates import CandidateLists
from fastncf.evaluation.metrics import named_metrics
from fastncf.evaluation.ranking import validation_means
from fastncf.stage import Stage
from fastncf.trainers.base import State, Trainer

STAGES = ("read", "split", "tune", "sample", "train", "evaluate", "total")
"""Sections of a fit whose seconds are measured; a :class:`~fastncf.stage.Stage` is something else, a training run."""

TrainingLog = list[dict[str, float]]
"""One dict per epoch: epoch (counted from 1), loss, seconds and, with validation, its metrics."""


@dataclass(frozen=True)
class Progress:
    """State of a fit that a callback is called with.

    Attributes:
        stage: name in ``STAGES`` of the section of the fit that begins, or ``epoch`` when an epoch has ended.
        epoch: number of epochs that are done.
        epochs: number of epochs of the fit.
        elapsed: seconds since the fit began.
        loss: mean loss of the last epoch, NaN before the first.
        samples_per_second: positives and negatives of the last epoch per second of its training.
        metrics: validation metrics of the last epoch, empty without validation.
    """

    stage: str
    epoch: int
    epochs: int
    elapsed: float
    loss: float
    samples_per_second: float
    metrics: dict[str, float]


class ProgressReporter:
    """Measures the seconds of each stage of a fit and calls the callback.

    Attributes:
        num_epochs: number of epochs of all training runs of the fit.
        seconds: by the names of ``STAGES``.
    """

    def __init__(self, callback: Callable[[Progress], object] | None, num_epochs: int) -> None:
        self.num_epochs = num_epochs
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._callback = callback
        self._epochs_done = 0
        self._begin = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Report a section of the fit when the block begins, and keep its seconds when it ends."""
        self._report(name, 0, float("nan"), 0.0, {})
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    def end_epoch(self, loss: float, samples_per_second: float, metrics: dict[str, float]) -> tuple[int, bool]:
        """Report the end of an epoch; return its number from 1 and whether the callback stops the training."""
        self._epochs_done += 1
        answer = self._report("epoch", self._epochs_done, loss, samples_per_second, metrics)
        return self._epochs_done, answer is True

    def total(self) -> dict[str, float]:
        """Return the seconds by stage, with ``total`` since the reporter was made."""
        self.seconds["total"] = time.perf_counter() - self._begin
        return self.seconds

    def _report(self, stage: str, epoch: int, loss: float, rate: float, metrics: dict[str, float]) -> object:
        """Call the callback and return its answer."""
        if self._callback is None:
            return None
        elapsed = time.perf_counter() - self._begin
        return self._callback(Progress(stage, epoch, self.num_epochs, elapsed, loss, rate, metrics))


@dataclass(frozen=True)
class Validation:
    """Held-out items that are ranked after each epoch.

    Attributes:
        lists: the items of the users who have one, and their candidates.
        k: length of the ranking that HR@k and NDCG@k look at.
        patience: epochs without a better NDCG@k after which the training stops; 0 never stops it.
    """

    lists: CandidateLists[Any]
    k: int
    patience: int


class EarlyStopping:
    """Keeps the state of the best epoch and counts the epochs since."""

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.best = -1.0
        self.num_waited = 0
        self.state: State | None = None

    def should_stop(self, trainer: Trainer, value: float) -> bool:
        """Record the metric of the epoch that has ended, larger is better; return whether the patience has run out."""
        if value > self.best:
            self.best, self.num_waited = value, 0
            self.state = copy.deepcopy(trainer.state_dict())
        else:
            self.num_waited += 1
        return self.num_waited >= self.patience

    def restore(self, trainer: Trainer) -> None:
        """Load the state of the best epoch into the trainer."""
        if self.state is not None:
            trainer.load_state_dict(self.state)


def train_epochs(
    trainer: Trainer,
    model: Any,
    stage: Stage,
    num_interactions: int,
    validation: Validation | None,
    reporter: ProgressReporter,
) -> TrainingLog:
    """Train all epochs of a stage; fewer where the patience of the validation runs out or the callback stops it.

    Args:
        trainer: trains ``model`` in place.
        model: the factors or module that the trainer was made with.
        stage: settings.
        num_interactions: N.
        validation: items that are ranked after each epoch, or None.
        reporter: called at the end of each epoch.
    """
    early_stopping = EarlyStopping(validation.patience) if validation is not None and validation.patience else None
    log: TrainingLog = []
    for number in range(stage.epochs):
        total, seconds, metrics = _train_epoch(trainer, model, number, validation)
        loss = total / num_interactions
        rate = num_interactions * (1 + stage.num_negatives) / seconds
        epoch, is_stopped = reporter.end_epoch(loss, rate, metrics)
        log.append({"epoch": epoch, "loss": loss, "seconds": seconds, **metrics})
        if early_stopping is not None and validation is not None:
            is_stopped |= early_stopping.should_stop(trainer, metrics[f"ndcg@{validation.k}"])
        if is_stopped:
            break
    if early_stopping is not None:
        early_stopping.restore(trainer)
    return log


def _train_epoch(
    trainer: Trainer, model: Any, number: int, validation: Validation | None
) -> tuple[float, float, dict[str, float]]:
    """Train one epoch; return its summed loss, its seconds and its validation metrics, read from the device at once."""
    if trainer.device is None:
        begin = time.perf_counter()
        total = trainer.epoch(number)
        seconds = time.perf_counter() - begin
        means = [] if validation is None else list(validation_means(model, validation.lists, validation.k))
        numbers = [total, *means]
    else:
        import torch

        from fastncf.device import Stopwatch

        watch = Stopwatch(trainer.device)
        model.train()
        total = torch.as_tensor(trainer.epoch(number), dtype=torch.float64, device=trainer.device).reshape(1)
        watch.stop()
        parts = [total] if validation is None else [total, validation_means(model, validation.lists, validation.k)]
        numbers = torch.cat(parts).tolist()
        seconds = watch.seconds()
    return numbers[0], seconds, {} if validation is None else named_metrics(numbers[1:], validation.k)
