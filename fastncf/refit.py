"""Training on all interactions, the held-out ones included, by the plan of a fit that holds some out."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastncf.data.split import Split, hold_out_nothing
from fastncf.plan import Plan
from fastncf.plan_memory import require_training_memory
from fastncf.trainers.loop import ProgressReporter
from fastncf.trainers.recorder import Recorder
from fastncf.trainers.stages import Trained, train_stages

if TYPE_CHECKING:
    from torch import nn


class TrainedOnAll(NamedTuple):
    """Result of the training.

    Attributes:
        trained: the model.
        plan: the same plan, with the facts of all interactions.
        split: all interactions, nothing held out.
        order: (N,) int32, their order in each row of the split, or None.
    """

    trained: Trained
    plan: Plan
    split: Split
    order: np.ndarray | None


def train_on_all(
    plan: Plan,
    module: "nn.Module | None",
    split: Split,
    order: np.ndarray | None,
    reporter: ProgressReporter,
    num_epochs: tuple[int, ...] | None = None,
    recorder: Recorder | None = None,
) -> TrainedOnAll:
    """Train the stages of a plan on the interactions of a split and on what it holds out.

    Args:
        plan: its choices are those for the training interactions of the split.
        module: a module of the user's own, trained in place, or None.
        split: interactions that are trained on, and held-out ones.
        order: (N,) int32, positions within each user's row from the oldest to the latest, or None.
        reporter: called at the end of each epoch.
        num_epochs: for each stage, the epochs after which it ends, as an early stopping has found them.
        recorder: takes snapshots of the training, see :func:`~fastncf.trainers.stages.train_stages`.

    Raises:
        InsufficientMemoryError: the memory of the machine, or of a limit, does not suffice.
    """
    whole, whole_order = hold_out_nothing(split, order)
    plan = plan.with_everything(whole)
    require_training_memory(plan)
    trained = train_stages(
        plan.stages, module, whole, whole_order, None, reporter, num_epochs=num_epochs, recorder=recorder
    )
    return TrainedOnAll(trained, plan, whole, whole_order)
