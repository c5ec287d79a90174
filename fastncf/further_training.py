"""Further epochs of a fitted model, from its parameters on."""

import copy
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fastncf.data.split import select_rows
from fastncf.errors import ConfigError, DivergedError
from fastncf.kernels.cpu.factors import Factors
from fastncf.models import names as registered_names
from fastncf.models.factored import NEEDS_NO_TRAINING
from fastncf.models.pretrained import Pretrained
from fastncf.plan import Plan
from fastncf.plan_memory import require_training_memory
from fastncf.serving.module_items import item_table_names
from fastncf.stage import Stage
from fastncf.trainers import choose, get, require_trainer
from fastncf.trainers.loop import ProgressReporter, TrainingLog, train_epochs
from fastncf.trainers.sgd import init_factors
from fastncf.trainers.stages import finished_model, prepared_device
from fastncf.updating import KnownModel

if TYPE_CHECKING:
    from torch import nn

LEARNING_RATE_SHARE = 0.5
"""Part of the learning rate of a fit that further epochs begin with."""

_MOST_USERS = 1 << 13
"""Users at most whose rows the maps of a pretrained module are fitted to anew."""


def trains_module(plan: Plan) -> bool:
    """Return whether further epochs of a model train a module of torch; otherwise factors, or nothing."""
    if plan.final.model in NEEDS_NO_TRAINING:
        return False
    return not get(further_stage(plan, 1).trainer, "update").trains_factors


def further_stage(plan: Plan, epochs: int) -> Stage:
    """Return the settings of further epochs of a fitted model.

    Raises:
        ConfigError: the trainer of the model cannot train here.
    """
    stage = plan.final
    stage = replace(stage, epochs=epochs, learning_rate=LEARNING_RATE_SHARE * stage.learning_rate)
    if stage.start == "joined":  # put together from trained parts, so that no trainer of the plan trains the whole
        name = choose(replace(stage, start="random"), None).name
        stage = replace(stage, trainer=name or stage.trainer)
    if stage.model in registered_names():
        require_trainer(stage, "update")
    return stage


def train_on(
    known: KnownModel, plan: Plan, epochs: int, reporter: ProgressReporter, is_new_item: np.ndarray
) -> tuple[KnownModel, TrainingLog]:
    """Return the model after further epochs on all its training interactions, and their log.

    A trainer begins with moments of zeros: the model keeps its parameters alone.

    Args:
        known: the model, whose parameters stay as they are.
        plan: what it was trained by.
        epochs: at least 1.
        reporter: called at the end of each epoch.
        is_new_item: (I,) bool, which items the model did not know before.

    Raises:
        ConfigError: the trainer of the model cannot go on, or not here.
        InsufficientMemoryError: the memory does not suffice.
        DivergedError: the training led to numbers that are not finite.
    """
    if plan.final.model in NEEDS_NO_TRAINING:  # its counts are up to date
        return known, TrainingLog()
    stage = further_stage(plan, epochs)
    if stage.model in registered_names():
        require_training_memory(replace(plan.with_everything(known.split), stages=(stage,)))
    train = _train_factors if isinstance(known.trained, Factors) else _train_module
    with reporter.stage("train"):
        return train(known, plan, stage, reporter, is_new_item)


def _train_factors(
    known: KnownModel, plan: Plan, stage: Stage, reporter: ProgressReporter, is_new_item: np.ndarray
) -> tuple[KnownModel, TrainingLog]:
    """Train factors as :func:`train_on` does."""
    split = known.split
    factors = init_factors(stage, split.num_users, split.num_items)
    order = known.order if stage.history == "sequence" else None
    start = known.factors._replace(user_vectors=known.own_vectors())
    with get(stage.trainer)(factors, split, stage, order) as trainer:
        trainer.start_from(start, known.encoder)
        found = train_epochs(trainer, factors, stage, len(split.indices), None, reporter)
        if found.divergence is not None:
            raise DivergedError(found.divergence)
        return known._replace(trained=factors, encoder=trainer.encoder), found.log


def _train_module(
    known: KnownModel, plan: Plan, stage: Stage, reporter: ProgressReporter, is_new_item: np.ndarray
) -> tuple[KnownModel, TrainingLog]:
    """Train a copy of a module as :func:`train_on` does."""
    assert not isinstance(known.trained, Factors)
    trainer_class, split = get(stage.trainer, "update"), known.split
    if trainer_class.trains_factors:
        raise ConfigError(
            f"update: {type(known.trained).__name__:.80} has a forward of its own, and its parameters were trained by "
            f"{stage.trainer}, which trains plain factors; expected a new fit, or epochs=0"
        )
    with prepared_device(stage, has_module=True):
        module = copy.deepcopy(known.trained)
        module.to("cpu" if trainer_class.is_model_on_cpu else stage.device)
        if stage.model not in registered_names():
            from fastncf.trainers.own_module import require_trainable

            require_trainable(module, stage, split)
            if (reason := trainer_class.why_not(stage, module)) is not None:
                raise ConfigError(f"update: {stage.trainer} cannot train {type(module).__name__:.80} here ({reason})")
        with trainer_class(module, split, stage) as trainer:
            found = train_epochs(trainer, module, stage, len(split.indices), None, reporter)
        if found.divergence is not None:
            raise DivergedError(found.divergence)
    trained = finished_model(module)
    grown = known._replace(trained=trained)
    if known.pretrained is not None:
        grown = grown._replace(pretrained=_refitted(grown, plan, known.pretrained, is_new_item))
    return grown, found.log


def _refitted(known: KnownModel, plan: Plan, pretrained: Pretrained, is_new_item: np.ndarray) -> Pretrained:
    """Return what a pretrained module keeps of its first model, brought up to date with the trained module.

    Items that the first model does not know get vectors there by a linear map of the module's rows, fitted to the other
    items by least squares; the maps of the users are fitted anew.
    """
    module: nn.Module = known.trained  # type: ignore[assignment]
    if is_new_item.any():
        rows = {name: _rows(module, name, len(is_new_item)) for name in item_table_names(module)}
        pretrained = pretrained.with_items_like(rows, is_new_item)
    known = known._replace(pretrained=pretrained)
    users = np.arange(0, len(known.users), max(1, -(-len(known.users) // _MOST_USERS)))
    histories = select_rows(known.split, known.order, users)
    vectors, bias = known.first_model().new_users(plan.stages[0], *histories)
    tables = {name: _rows(module, name, len(known.users))[users] for name in pretrained.maps}
    return pretrained.with_maps_to(tables, vectors, bias)


def _rows(module: "nn.Module", name: str, num_rows: int) -> np.ndarray:
    """Return the first rows of a parameter, (R, ...) float64."""
    array: np.ndarray = module.get_parameter(name).detach()[:num_rows].double().cpu().numpy()
    return array
