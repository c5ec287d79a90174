"""Models that need no training: their scores follow from the data alone."""

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from fastncf.data.split import Split
from fastncf.models.factored import NEEDS_NO_TRAINING
from fastncf.stage import Stage
from fastncf.trainers.base import State, Trainer

if TYPE_CHECKING:
    from torch import nn


class Untrained(Trainer):
    """Stands for the training of a model that is complete when it is built, such as ``popularity``."""

    name = "untrained"
    optimizer = "adam"

    @classmethod
    def why_not(cls, stage: Stage, module: "nn.Module | None") -> str | None:
        """Return why a stage needs training; None for ``popularity``."""
        if module is not None or stage.model not in NEEDS_NO_TRAINING:
            return "the model has parameters to train"
        return None

    def __init__(self, model: Any, split: Split, stage: Stage, order: np.ndarray | None = None) -> None:
        """Take the model as it is; the arguments are those of every trainer."""

    def epoch(self, number: int) -> NoReturn:
        """Raise an error: a plan gives such a model no epochs."""
        raise AssertionError("a model that needs no training has no epochs")

    def state_dict(self) -> State:
        """Return no arrays."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Continue from an empty state."""
        if state:
            raise ValueError(f"unexpected names in the state: {', '.join(state)}")
