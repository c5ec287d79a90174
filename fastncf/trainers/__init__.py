"""Trainers: a file for each, one protocol, one list from the fastest to the most general one.

The first trainer of ``TRAINERS`` that has no objection to a stage trains it; the objections of those before it are kept
for the plan. A trainer is imported when it is asked, since some of them need torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from fastncf import distributed
from fastncf.errors import ConfigError
from fastncf.memory import torch_needed_by
from fastncf.models.losses import LOSSES
from fastncf.stage import Stage

if TYPE_CHECKING:
    from torch import nn

    from fastncf.trainers.base import Trainer


class Entry(NamedTuple):
    """A trainer of the list: its optimizer, and its definition as ``module:class``."""

    optimizer: str
    location: str


TRAINERS = {
    "untrained": Entry("adam", "fastncf.trainers.untrained:Untrained"),
    "history_sgd": Entry("sgd", "fastncf.trainers.history_sgd:HistorySGD"),
    "block_sgd": Entry("sgd", "fastncf.trainers.block_sgd:BlockSGD"),
    "next_item": Entry("adam", "fastncf.trainers.next_item:NextItem"),
    "other_items": Entry("adam", "fastncf.trainers.other_items:OtherItems"),
    "cuda_mlp": Entry("adam", "fastncf.trainers.cuda_mlp:CUDAMLPTrainer"),
    "cpu_mlp": Entry("adam", "fastncf.trainers.cpu_mlp:CPUMLPTrainer"),
    "cuda_next_item": Entry("adam", "fastncf.trainers.cuda_next_item:CUDANextItem"),
    "cuda_other_items": Entry("adam", "fastncf.trainers.cuda_other_items:CUDAOtherItems"),
    "autograd": Entry("adam", "fastncf.trainers.autograd:AutogradTrainer"),
}
"""Each trainer by its name, in the order in which they are asked."""


IN_PARALLEL = {
    "untrained": "fastncf.trainers.untrained:Untrained",
    "next_item": "fastncf.trainers.parallel_next_item:ParallelNextItem",
    "other_items": "fastncf.trainers.parallel_next_item:ParallelOtherItems",
    "cpu_mlp": "fastncf.trainers.parallel_cpu_mlp:ParallelCPUMLP",
    "cuda_next_item": "fastncf.trainers.parallel_cuda_next_item:ParallelCUDANextItem",
    "cuda_other_items": "fastncf.trainers.parallel_cuda_next_item:ParallelCUDAOtherItems",
    "autograd": "fastncf.trainers.parallel_autograd:ParallelAutograd",
}
"""Trainers that several processes share out, by the name of the trainer of one process. Of those that take a step for
each interaction, or that have small batches, the first process trains, see :mod:`fastncf.trainers.on_first_rank`."""


class Choice(NamedTuple):
    """Which trainer trains a stage.

    Attributes:
        name: the first without an objection; None where every trainer has one.
        objections: why each trainer before it does not train the stage, by name.
    """

    name: str | None
    objections: dict[str, str]


def get(name: str, what: str | None = None) -> "type[Trainer]":
    """Return the class of a trainer of ``TRAINERS``; where several processes train, the one that they train by.

    Args:
        name: the trainer.
        what: what it is needed for, as the subject of a sentence.

    Raises:
        ConfigError: several processes train, and the trainer is one for a single process.
        FastNCFError: the trainer needs torch, which is not installed.
    """
    optimizer, location = TRAINERS[name]
    is_alone = distributed.current() is None
    if not is_alone and optimizer != "sgd":
        if name not in IN_PARALLEL:
            raise ConfigError(f"{name} trains in a single process; expected a fit by {' or '.join(IN_PARALLEL)}")
        location = IN_PARALLEL[name]
    module, _, attribute = location.partition(":")
    with torch_needed_by(what or f"training by {name}"):
        trainer: type[Trainer] = getattr(import_module(module), attribute)
    if is_alone or optimizer != "sgd":
        return trainer
    from fastncf.trainers.on_first_rank import on_first_rank

    return on_first_rank(trainer)


def of_model(stage: Stage, model: Any, num_interactions: int) -> "type[Trainer]":
    """Return the class that trains a model by the trainer of a stage: that of :func:`get` or another for processes.

    Args:
        stage: settings.
        model: factors or a module.
        num_interactions: N.
    """
    if distributed.current() is not None and stage.trainer == "cpu_mlp":
        from fastncf.trainers.cpu_mlp import CPUMLPTrainer, num_shards_of
        from fastncf.trainers.on_first_rank import on_first_rank

        if num_shards_of(stage, num_interactions) == 1:
            return on_first_rank(CPUMLPTrainer)
    names_tables = bool(getattr(model, "user_tables", ())) and bool(getattr(model, "item_tables", ()))
    if distributed.current() is None or stage.trainer != "autograd" or not names_tables:
        return get(stage.trainer)
    from fastncf.trainers.sharded_autograd import ShardedAutograd

    return ShardedAutograd


def require_trainer(stage: Stage, what: str) -> "type[Trainer]":
    """Return the trainer of a stage that another process may have planned, on another machine or from a damaged file.

    Args:
        stage: of a registered model.
        what: what is to be done, in messages.

    Raises:
        ConfigError: there is no such trainer, or it cannot train the stage here.
    """
    known = TRAINERS.get(stage.trainer)
    if known is None:
        reason: str | None = f"there is none of this name; known are {', '.join(TRAINERS)}"
    elif known.optimizer != stage.optimizer:
        reason = f"it takes steps by {known.optimizer}, not by {stage.optimizer}"
    elif stage.loss not in LOSSES:
        reason = f"its loss {stage.loss!r:.40} is not registered; known are {', '.join(LOSSES)}"
    else:
        reason = get(stage.trainer).why_not(stage, None)
    if reason is not None:
        raise ConfigError(
            f"{what}: the trainer of the plan, {stage.trainer:.40}, cannot train it here ({reason:.200}); expected a "
            f"machine and a plan as in the fit"
        )
    return get(stage.trainer)


def choose(stage: Stage, module: "nn.Module | None") -> Choice:
    """Ask the trainers in their order.

    Args:
        stage: what is to be trained; ``stage.trainer`` is not read.
        module: a module of the user's own, or None for the registered model ``stage.model``.
    """
    objections: dict[str, str] = {}
    for name, (optimizer, _) in TRAINERS.items():
        if optimizer != stage.optimizer:  # answered here, so that torch is not imported to hear it
            objections[name] = f"takes steps by {optimizer}, not by {stage.optimizer}"
            continue
        if distributed.current() is not None and optimizer == "adam" and name not in IN_PARALLEL:
            objections[name] = "trains in a single process"
            continue
        reason = get(name, f"model={stage.model!r:.80}").why_not(stage, module)
        if reason is None:
            return Choice(name, objections)
        objections[name] = reason
    return Choice(None, objections)
