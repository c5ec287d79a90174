"""Training of the stages of a plan, one after the other."""

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastncf import distributed
from fastncf.data.split import Split
from fastncf.evaluation.candidates import CandidateSpec, validation_lists
from fastncf.evaluation.ranking import on_device
from fastncf.kernels.cpu.encoder import HistoryEncoder
from fastncf.kernels.cpu.factors import Factors
from fastncf.models.factored import NEEDS_NO_TRAINING, popularity_factors
from fastncf.models.pretrained import Pretrained
from fastncf.processes import use_one_torch_thread_after_fork
from fastncf.stage import Stage
from fastncf.trainers import get, of_model
from fastncf.trainers.loop import (
    ProgressReporter,
    TrainedEpochs,
    TrainingLog,
    Validation,
    load_model_arrays,
    model_arrays,
    train_epochs,
)
from fastncf.trainers.recorder import Recorder, Snapshot, prefixed, under
from fastncf.trainers.sgd import init_factors

if TYPE_CHECKING:
    from torch import nn

GMF_WEIGHT = 0.9
"""Weight of the score of the ``gmf`` in a ``neumf`` that joins a ``gmf`` and an ``mlp``; the mlp's is the rest."""


_ENCODER = "encoder."


class Trained(NamedTuple):
    """Result of training all stages of a plan.

    Attributes:
        model: factors of a model that needs no torch, otherwise a module in evaluation mode; None where a stage
            diverged before the model had the parameters of a finite epoch.
        log: of all epochs that were finite.
        num_kept: for each stage, the epochs that its parameters are the result of.
        encoder: encoder of histories of the last stage; None where there is none.
        divergence: a sentence on how a stage diverged, which ended the training; None where none did.
        pretrained: what is kept of the first stage where the last one started from it; otherwise None.
    """

    model: "Factors | nn.Module | None"
    log: TrainingLog
    num_kept: tuple[int, ...]
    encoder: HistoryEncoder | None
    divergence: str | None
    pretrained: Pretrained | None = None


def train_stages(
    stages: tuple[Stage, ...],
    module: "nn.Module | None",
    split: Split,
    order: np.ndarray | None,
    validation: Validation | None,
    reporter: ProgressReporter,
    *,
    num_epochs: tuple[int, ...] | None = None,
    recorder: Recorder | None = None,
) -> Trained:
    """Train the stages of a plan and return the model of the last one, and the log of all epochs.

    Args:
        stages: ``stages`` of a plan.
        module: a module of the user's own, trained in place by the only stage; None for registered models.
        split: training interactions, N.
        order: (N,) int32, positions within each user's row from the oldest to the latest, or None.
        validation: items that are ranked after each epoch, or None.
        reporter: called at the end of each epoch.
        num_epochs: for each stage, the epochs after which it ends.
        recorder: gets snapshots of the training, and may have one to go on from.

    Raises:
        ConfigError: the module cannot be trained on these data.
        DeviceError: the memory of the device runs out, or there is no such device.
    """
    models: list[Any] = []
    log: TrainingLog = []
    num_kept: tuple[int, ...] = ()
    encoders: list[HistoryEncoder | None] = []
    for number, stage in enumerate(stages):
        most = None if num_epochs is None else num_epochs[number]
        with prepared_device(stage, module is not None):
            model = initial_model(stage, module, split, models)
            if recorder is not None and module is not None:
                load_model_arrays(module, recorder.begin(copy.deepcopy(model_arrays(module))))
            finished = None if recorder is None else recorder.take_finished()
            if finished is not None:
                load_model_arrays(model, finished.arrays)
                result = TrainedEpochs(finished.values["log"], finished.values["num_kept"], None)
                kept = under(_ENCODER, finished.arrays)
                encoder = HistoryEncoder.of_arrays(kept) if kept else None
                reporter.skip(len(result.log))
            else:
                result, encoder = _train_stage(stage, model, split, order, validation, reporter, most, recorder)
        log += result.log
        num_kept += (result.num_kept,)
        models.append(model)
        encoders.append(encoder)
        if result.divergence is not None:
            is_usable = stage is stages[-1] and bool(result.log)
            usable = finished_model(model) if is_usable else None
            return Trained(usable, log, num_kept, None, result.divergence)
        if recorder is not None and finished is None and stage is not stages[-1]:
            values = {"log": result.log, "num_kept": result.num_kept}
            arrays = {} if encoder is None else prefixed(_ENCODER, encoder.arrays())
            recorder.finish(Snapshot(values, model_arrays(model) | arrays))
    trained = finished_model(models[-1])
    # a module that histories were trained into by a kernel for factors may compute something else than an mf
    is_kept = isinstance(trained, Factors) or not get(stages[-1].trainer).trains_factors
    pretrained = Pretrained.of(models[0], encoders[0], models[-1]) if stages[-1].start != "random" else None
    return Trained(trained, log, num_kept, encoders[-1] if is_kept else None, None, pretrained)


@contextmanager
def prepared_device(stage: Stage, has_module: bool) -> Iterator[None]:
    """Make the device of a stage the current one, in torch's usual modes."""
    if not has_module and (get(stage.trainer).trains_factors or stage.model in NEEDS_NO_TRAINING):
        yield
        return
    from fastncf.device import device_guard, find_device, own_modes, translate_out_of_memory

    use_one_torch_thread_after_fork()
    device = find_device(stage.device)  # a saved plan may name one that this machine lacks
    with ExitStack() as contexts:
        contexts.enter_context(own_modes(gradients=True))
        contexts.enter_context(device_guard(device))
        contexts.enter_context(translate_out_of_memory(device))
        yield


def initial_model(stage: Stage, module: "nn.Module | None", split: Split, previous: list[Any]) -> Any:
    """Return the model that a stage starts from, on its device.

    Args:
        stage: settings.
        module: a module of the user's own, or None.
        split: gives the sizes.
        previous: models of the stages before, in their order.
    """
    if module is not None:
        from fastncf.trainers.own_module import require_tensors, require_trainable

        require_tensors(module)
        module.to(stage.device)
        require_trainable(module, stage, split)
        _place(module, stage, split)
        return module
    if stage.model in NEEDS_NO_TRAINING:
        return popularity_factors(split.item_weights(), split.num_users)
    if get(stage.trainer).trains_factors:
        return init_factors(stage, split.num_users, split.num_items)
    from fastncf import models

    module = models.build(stage, split.num_users, split.num_items, split.item_weights())
    _wait_for_all()
    _place(module, stage, split)
    if stage.start == "pretrained":
        models.get("mlp").start_from(module, previous[-1], stage.init_std)
    elif stage.start == "joined":
        models.get("neumf").join(module, models.get("gmf").from_factors(previous[-2]), previous[-1], GMF_WEIGHT)
    _wait_for_all()
    return module


def _place(module: "nn.Module", stage: Stage, split: Split) -> None:
    """Move a module to the device where the trainer of a stage wants it."""
    module.to("cpu" if of_model(stage, module, len(split.indices)).is_model_on_cpu else stage.device)


def _wait_for_all() -> None:
    """Wait for the other ranks, which write the same numbers to the tables that they share with this one."""
    if (ranks := distributed.current()) is not None:
        ranks.wait()


def _train_stage(
    stage: Stage,
    model: Any,
    split: Split,
    order: np.ndarray | None,
    validation: Validation | None,
    reporter: ProgressReporter,
    num_epochs: int | None,
    recorder: Recorder | None,
) -> tuple[TrainedEpochs, HistoryEncoder | None]:
    """Train a model in place; see :func:`~fastncf.trainers.loop.train_epochs`. Return the encoder of histories too."""
    trainer_class = of_model(stage, model, len(split.indices))
    trained = model.factors() if trainer_class.trains_factors and not isinstance(model, Factors) else model
    with trainer_class(trained, split, stage, order if stage.history == "sequence" else None) as trainer:
        if validation is not None and trainer.device is not None:
            from fastncf.evaluation.scoring import device_of

            validation = replace(validation, lists=on_device(validation.lists, device_of(model)))
        size = len(split.indices)
        result = train_epochs(
            trainer, trained, stage, size, validation, reporter, num_epochs=num_epochs, recorder=recorder
        )
        reporter.seconds["sample"] += trainer.sampling_seconds()
        return result, trainer.encoder


def finished_model(model: Any) -> "Factors | nn.Module":
    """Return a model that has been trained, or is, in the form that a recommender keeps."""
    return model if isinstance(model, Factors) else model.eval()


def validation_of(split: Split, settings: Any) -> Validation | None:
    """Return the held-out items that are ranked after each epoch; None where no validation was asked for.

    Args:
        split: has a validation item of each user who has three items.
        settings: :class:`~fastncf.plan.EvaluationSettings`, ``evaluation`` of a plan.

    Raises:
        ConfigError: no user has a validation item.
    """
    if not settings.validation:
        return None
    spec = CandidateSpec(settings.num_candidates, settings.distinct_candidates, settings.seed)
    return Validation(validation_lists(split, spec), settings.k, settings.patience)
