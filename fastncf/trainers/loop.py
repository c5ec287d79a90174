"""Epoch after epoch: progress, validation, early stopping, and the log of a fit, the same for all trainers."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastncf import distributed
from fastncf.errors import counted
from fastncf.evaluation.candidates import CandidateLists
from fastncf.evaluation.metrics import named_metrics
from fastncf.evaluation.ranking import validation_means
from fastncf.kernels.cpu.factors import Factors
from fastncf.mapped import empty_shared
from fastncf.memory import translate_exhaustion
from fastncf.stage import Stage
from fastncf.trainers.base import State, Trainer
from fastncf.trainers.divergence import describe, has_diverged, largest_parameter
from fastncf.trainers.recorder import Recorder, Snapshot, prefixed, under

_LOG = logging.getLogger("fastncf")

STAGES = ("read", "split", "tune", "sample", "train", "evaluate", "total")
"""Sections of a fit whose seconds are measured; a :class:`~fastncf.stage.Stage` is something else, a training run."""

_NEEDS_LESS = {
    "read": "a source with fewer rows or columns",
    "split": "a source with fewer rows",
    "tune": "a given l2, which is not searched for, or a smaller dim",
    "train": "a smaller dim, layers, num_negatives or batch_size",
    "evaluate": "a smaller num_candidates, or full_ranking=False",
}
"""Advice on how to need less memory, by section of a fit."""

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
        expected: memory that the fit is expected to take, in words; empty before that is known.
        seconds: by the names of ``STAGES``.
    """

    def __init__(self, callback: Callable[[Progress], object] | None, num_epochs: int) -> None:
        self.num_epochs = num_epochs
        self.expected = ""
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._callback = callback
        self._epochs_done = 0
        self._begin = time.perf_counter()

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Report a section of the fit when the block begins, and keep its seconds when it ends.

        Raises:
            InsufficientMemoryError: memory runs out in the block.
        """
        _LOG.info("%s begins", name)
        self._report(name, 0, float("nan"), 0.0, {})
        start = time.perf_counter()
        with translate_exhaustion(name, _NEEDS_LESS[name], self.expected):
            yield
        self.seconds[name] = time.perf_counter() - start

    @property
    def next_epoch(self) -> int:
        """Number from 1 of the epoch that ends next."""
        return self._epochs_done + 1

    def skip(self, num_epochs: int) -> None:
        """Count epochs that an earlier process has trained."""
        self._epochs_done += num_epochs

    def end_epoch(self, loss: float, samples_per_second: float, metrics: dict[str, float]) -> tuple[int, bool]:
        """Report the end of an epoch; return its number from 1 and whether the callback stops the training."""
        self._epochs_done += 1
        scores = "".join(f", {name} {value:.4f}" for name, value in metrics.items())
        _LOG.info("epoch %d of %d: loss %.4f%s", self._epochs_done, self.num_epochs, loss, scores)
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
        self.best_number = 0
        self.num_seen = 0
        self.num_waited = 0
        self.state: State | None = None

    def should_stop(self, trainer: Trainer, value: float) -> bool:
        """Record the metric of the epoch that has ended, larger is better; return whether the patience has run out."""
        self.num_seen += 1
        if value > self.best:
            self.best, self.best_number, self.num_waited = value, self.num_seen, 0
            self.state = trainer.kept_state()
        else:
            self.num_waited += 1
        return self.num_waited >= self.patience

    def restore(self, trainer: Trainer) -> None:
        """Load the state of the best epoch into the trainer."""
        if self.state is not None:
            trainer.load_state_dict(self.state)

    def snapshot(self) -> Snapshot:
        """Return the counts, and the state of the best epoch."""
        names = ("best", "best_number", "num_seen", "num_waited")
        return Snapshot({name: getattr(self, name) for name in names}, self.state or {})

    def resume(self, snapshot: Snapshot) -> None:
        """Go on from a :meth:`snapshot`."""
        for name, value in snapshot.values.items():
            setattr(self, name, value)
        self.state = snapshot.arrays if self.num_seen else None


class FiniteParameters:
    """A copy of the parameters of a model after the last epoch that left all of them finite.

    Args:
        model: factors, or a module on any device, whose buffers are kept as well.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._copies: dict[str, Any] = {}

    @property
    def copies(self) -> dict[str, Any]:
        """Arrays or tensors by name; empty where there is no copy."""
        return self._copies

    def resume(self, copies: Mapping[str, Any]) -> None:
        """Keep copies that were kept by another process."""
        own = self._values()
        self._copies = {name: _of_kind(own[name], copy) for name, copy in copies.items()}

    def keep(self) -> None:
        """Copy the parameters, into the memory of the copy before; of a module on its device if that has the room.

        Processes of one machine that train together share a copy, which the first of them writes.
        """
        ranks = distributed.current()
        for name, values in self._values().items():
            if name not in self._copies or self._copies[name].shape != values.shape:
                self._copies[name] = _room_for(values)
            if ranks is None or ranks.local_rank == 0 or getattr(values, "is_cuda", False):
                self._copies[name][...] = values

    def restore(self) -> None:
        """Write the copy to the model; do nothing where there is none."""
        for name, values in self._values().items():
            if name in self._copies:
                values[...] = self._copies[name]

    def _values(self) -> dict[str, Any]:
        """Return arrays, or tensors without their gradients, by name."""
        return model_arrays(self._model)


def model_arrays(model: Any) -> dict[str, Any]:
    """Return the arrays of factors, or the dense parameters and buffers of a module without their gradients, by name.

    They are in the memory of the model.
    """
    if isinstance(model, Factors):
        return model._asdict()
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach() for name, tensor in named if not tensor.is_sparse}


def load_model_arrays(model: Any, arrays: Mapping[str, Any]) -> None:
    """Write what :func:`model_arrays` has returned for a model of the same form to a model."""
    for name, values in model_arrays(model).items():
        values[...] = _of_kind(values, arrays[name])


def _of_kind(values: Any, array: Any) -> Any:
    """Return an array as what a model holds: an array, or a tensor on the device of ``values``."""
    if isinstance(values, np.ndarray):
        return np.array(array)
    import torch

    return torch.as_tensor(array, device=values.device).clone()


def _room_for(values: Any) -> Any:
    """Return memory for a copy: of a tensor on its device, or on the CPU where the device has no room for it."""
    is_array, is_alone = isinstance(values, np.ndarray), distributed.current() is None
    if is_array:
        return np.empty_like(values) if is_alone else empty_shared(values.shape, values.dtype)
    import torch

    if not is_alone and values.device.type == "cpu":
        memory = torch.from_numpy(empty_shared(values.numel() * values.element_size(), np.uint8))
        return memory.view(values.dtype).reshape(values.shape)  # NumPy lacks bfloat16
    try:
        return torch.empty_like(values)
    except torch.OutOfMemoryError:
        return torch.empty_like(values, device="cpu")


class TrainedEpochs(NamedTuple):
    """Result of the training of a stage.

    Attributes:
        log: of the epochs that were finite.
        num_kept: epochs that the parameters are the result of; fewer than the log has where an earlier one was best.
        divergence: a sentence on how the training diverged; None where it did not.
    """

    log: TrainingLog
    num_kept: int
    divergence: str | None


def train_epochs(
    trainer: Trainer,
    model: Any,
    stage: Stage,
    num_interactions: int,
    validation: Validation | None,
    reporter: ProgressReporter,
    *,
    num_epochs: int | None = None,
    recorder: Recorder | None = None,
) -> TrainedEpochs:
    """Train all epochs of a stage; fewer where the patience of the validation runs out or the callback stops it.

    The training ends as well with an epoch whose loss is not finite or is larger than any that is worth going on from,
    or that leaves such parameters, see :mod:`fastncf.trainers.divergence`. The model then has the parameters of the
    epoch before, if there is one.

    Args:
        trainer: trains ``model`` in place.
        model: the factors or module that the trainer was made with.
        stage: settings.
        num_interactions: N.
        validation: items that are ranked after each epoch, or None.
        reporter: called at the end of each epoch.
        num_epochs: epochs after which the training ends, if it has more; the learning rate is that of all epochs.
        recorder: gets snapshots of the training, and may have one to go on from.
    """
    last = stage.epochs if num_epochs is None else min(num_epochs, stage.epochs)
    epochs = _Epochs(trainer, model, stage, num_interactions, validation, reporter, last)
    if recorder is not None:
        if (snapshot := recorder.take_current()) is not None:
            epochs.resume(snapshot)
        if distributed.current() is None:  # ranks take snapshots where all of them are at the same place
            trainer.at_boundary = lambda: recorder.at_boundary(epochs.snapshot, epochs.place)
            trainer.compile_rest()  # behind a batch a signal would wait for it
            epochs.rank_one()
    while epochs.number < last and not epochs.is_stopped:
        divergence = epochs.train_next()
        if divergence is not None:
            return TrainedEpochs(epochs.log, len(epochs.log), divergence)
        if recorder is not None:
            recorder.at_epoch_end(epochs.snapshot, epochs.place)
    return epochs.finish()


class _Epochs:
    """The epochs of a stage, one after the other: what :func:`train_epochs` does, and how it can be resumed.

    Attributes:
        number: of the epoch that is trained next, or in the middle of which the training is, from 0.
        log: of the epochs that were finite.
        is_stopped: whether no epoch is to follow, by the callback or by early stopping.
    """

    def __init__(
        self,
        trainer: Trainer,
        model: Any,
        stage: Stage,
        num_interactions: int,
        validation: Validation | None,
        reporter: ProgressReporter,
        last: int,
    ) -> None:
        self._trainer, self._model, self._stage = trainer, model, stage
        self._num_interactions, self._validation, self._reporter = num_interactions, validation, reporter
        self._last = last
        has_patience = validation is not None and validation.patience
        self._early_stopping = EarlyStopping(validation.patience) if validation is not None and has_patience else None
        self._finite = FiniteParameters(model)
        self._seconds_before = 0.0  # of the epoch, before the training was resumed
        self._begin = time.perf_counter()
        self._is_within = False
        self.number, self.is_stopped = 0, False
        self.log: TrainingLog = []

    def train_next(self) -> str | None:
        """Train the next epoch; return a sentence on how it diverged, or None."""
        validation, reporter = self._validation, self._reporter
        self._begin, self._is_within = time.perf_counter(), True
        end = _train_epoch(self._trainer, self._model, self.number, validation)
        seconds = self._seconds_before + end.seconds
        self._seconds_before, self._is_within = 0.0, False
        loss = end.total / self._num_interactions
        if has_diverged(self._stage, loss, end.largest):
            self._finite.restore()
            return describe(self._stage, reporter.next_epoch, loss, end.largest)
        rate = self._num_interactions * (1 + self._stage.num_negatives) / seconds
        epoch, self.is_stopped = reporter.end_epoch(loss, rate, end.metrics)
        if (ranks := distributed.current()) is not None:
            self.is_stopped = any(ranks.gather(self.is_stopped))
        self.log.append({"epoch": epoch, "loss": loss, "seconds": seconds, **end.metrics})
        if self._early_stopping is not None and validation is not None:
            self.is_stopped |= self._early_stopping.should_stop(self._trainer, end.metrics[f"ndcg@{validation.k}"])
        self.number += 1
        if self.number < self._last and not self.is_stopped:
            self._finite.keep()
        return None

    def rank_one(self) -> None:
        """Rank the first list of the validation, so that the kernel for factors, and for a gmf, is compiled."""
        is_by_factors = isinstance(self._model, Factors) or self._stage.model == "gmf"
        if self._validation is not None and is_by_factors:
            one = CandidateLists(*(part[:1] for part in self._validation.lists))
            validation_means(self._model, one, self._validation.k)

    def finish(self) -> TrainedEpochs:
        """Return the result, with the parameters of the best epoch where early stopping is to choose it."""
        if self._early_stopping is None:
            return TrainedEpochs(self.log, len(self.log), None)
        self._early_stopping.restore(self._trainer)
        return TrainedEpochs(self.log, self._early_stopping.best_number or len(self.log), None)

    def place(self) -> str:
        """Return in words how much is trained."""
        done = self._reporter.next_epoch - 1
        of_all = counted(self._reporter.num_epochs, "epoch is", "epochs are")
        return f"{done} of {of_all} done" + ", and a part of the next" * self._is_within

    def snapshot(self) -> Snapshot:
        """Return everything that the rest of the epochs depends on."""
        stopping = Snapshot({}, {}) if self._early_stopping is None else self._early_stopping.snapshot()
        seconds = self._seconds_before + time.perf_counter() - self._begin
        values = {
            "number": self.number,
            "is_within": self._is_within,
            "is_stopped": self.is_stopped,
            "seconds": seconds if self._is_within else 0.0,
            "log": self.log,
            "early_stopping": stopping.values,
        }
        arrays = prefixed("trainer.", self._trainer.state()) | prefixed("best.", stopping.arrays)
        if self._is_within:  # between two epochs the copy is that of the state
            arrays |= prefixed("finite.", self._finite.copies)
        return Snapshot(values, arrays)

    def resume(self, snapshot: Snapshot) -> None:
        """Go on from a :meth:`snapshot`."""
        values, arrays = snapshot
        self.number, self.is_stopped = values["number"], values["is_stopped"]
        self._seconds_before, self.log = values["seconds"], values["log"]
        self._reporter.skip(len(self.log))
        self._trainer.restore(under("trainer.", arrays))
        if self._early_stopping is not None:
            self._early_stopping.resume(Snapshot(values["early_stopping"], under("best.", arrays)))
        if values["is_within"]:
            self._finite.resume(under("finite.", arrays))
        elif 0 < self.number < self._last:
            self._finite.keep()


class _EpochEnd(NamedTuple):
    """Numbers that are known at the end of an epoch.

    Attributes:
        total: summed loss.
        seconds: of the training.
        metrics: of the validation, empty without one.
        largest: greatest magnitude of a parameter; NaN where one is NaN.
    """

    total: float
    seconds: float
    metrics: dict[str, float]
    largest: float


def _train_epoch(trainer: Trainer, model: Any, number: int, validation: Validation | None) -> _EpochEnd:
    """Train one epoch; all numbers are read from the device at once."""
    if trainer.device is None:
        begin = time.perf_counter()
        total = trainer.epoch(number)
        seconds = time.perf_counter() - begin
        means = [] if validation is None else list(validation_means(model, validation.lists, validation.k))
        numbers = [total, largest_parameter(model), *means]
    else:
        import torch

        from fastncf.device import Stopwatch
        from fastncf.evaluation.scoring import device_of

        watch = Stopwatch(trainer.device)
        model.train()
        total = torch.as_tensor(trainer.epoch(number), dtype=torch.float64, device=device_of(model)).reshape(1)
        watch.stop()
        parts = [total, largest_parameter(model)]
        if validation is not None:
            parts.append(validation_means(model, validation.lists, validation.k))
        numbers = torch.cat(parts).tolist()
        seconds = watch.seconds()
    metrics = {} if validation is None else named_metrics(numbers[2:], validation.k)
    return _EpochEnd(numbers[0], seconds, metrics, numbers[1])
