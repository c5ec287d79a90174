"""Epoch after epoch: the news for a callback, early stopping, and the history that a fit keeps."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from fastncf.config import Config

STAGES = ("read", "split", "choose", "sample", "train", "evaluate", "total")
History = list[dict[str, float]]


@dataclass(frozen=True)
class Progress:
    """What a callback is told.

    Attributes:
        stage: the name of a stage of :data:`STAGES` that begins, or ``epoch`` when one has ended.
        epoch: epochs that are done.
        epochs: epochs in all.
        elapsed: seconds since the fit began.
        loss: mean loss of the last epoch, NaN before the first.
        samples_per_second: positives and negatives of the last epoch by its seconds.
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
    """Seconds by stage, and the callback's news."""

    def __init__(self, callback: Callable[[Progress], object] | None, epochs: int) -> None:
        self.callback = callback
        self.epochs = epochs
        self.done = 0
        self.begin = time.perf_counter()
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A stage of :data:`STAGES`, as long as the block: told when it begins, its seconds kept when it ends."""
        self._tell(name, 0, float("nan"), 0.0, {})
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    def epoch(self, loss: float, samples_per_second: float, scores: dict[str, float]) -> object:
        """Tell of an epoch that has ended; returns what the callback says, True to end the training."""
        self.done += 1
        return self._tell("epoch", self.done, loss, samples_per_second, scores)

    def total(self) -> dict[str, float]:
        """Seconds by stage, those since the clock was made among them."""
        self.seconds["total"] = time.perf_counter() - self.begin
        return self.seconds

    def _tell(self, stage: str, epoch: int, loss: float, rate: float, scores: dict[str, float]) -> object:
        if self.callback is None:
            return None
        elapsed = time.perf_counter() - self.begin
        return self.callback(Progress(stage, epoch, self.epochs, elapsed, loss, rate, scores))


class Trainee(Protocol):
    """What is trained."""

    def epoch(self, number: int) -> tuple[float, float, dict[str, float]]:
        """Train an epoch: its summed loss, the seconds it took, and what validation then finds, if there is one."""

    def state(self) -> Any:
        """A copy of the parameters."""

    def restore(self, state: Any) -> None:
        """Go back to a copy."""


def train_epochs(trainee: Trainee, config: Config, num_interactions: int, clock: ProgressReporter) -> History:
    """All epochs of ``config``, or fewer: where its patience runs out, or the callback returns True.

    Returns:
        One dict an epoch: epoch, loss, seconds and, with validation, its metrics.
    """
    assert config.epochs is not None
    best = _Best(config.patience)
    history: History = []
    for number in range(config.epochs):
        total, seconds, scores = trainee.epoch(number)
        mean = total / num_interactions
        stop = clock.epoch(mean, num_interactions * (1 + config.num_negatives) / seconds, scores)
        history.append({"epoch": clock.done, "loss": mean, "seconds": seconds, **scores})
        if best.is_over(trainee, scores.get(f"ndcg@{config.k}")) or stop is True:
            break
    best.restore(trainee)
    return history


class _Best:
    """Early stopping: the best parameters so far and how long ago they were."""

    def __init__(self, patience: int | None) -> None:
        self.patience = patience
        self.value = -1.0
        self.waited = 0
        self.state: Any = None

    def is_over(self, trainee: Trainee, value: float | None) -> bool:
        """Whether the patience has run out with this epoch's value; without patience it never does."""
        if self.patience is None or value is None:
            return False
        if value > self.value:
            self.value, self.waited = value, 0
            self.state = trainee.state()
        else:
            self.waited += 1
        return self.waited >= self.patience

    def restore(self, trainee: Trainee) -> None:
        if self.state is not None:
            trainee.restore(self.state)
