"""Protocol of all trainers, which fits, checkpoints and early stopping rely on."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from fastncf.data.split import Split
from fastncf.kernels.cpu.encoder import HistoryEncoder
from fastncf.kernels.cpu.factors import Factors
from fastncf.stage import Stage

if TYPE_CHECKING:
    import torch
    from torch import nn

State = dict[str, Any]
"""Arrays or tensors by name."""


class Trainer(ABC):
    """Trains one model in place, epoch by epoch; a context manager that ends threads of its own.

    Attributes:
        name: name of the trainer in ``TRAINERS`` and in plans.
        optimizer: the optimizer that it implements.
        trains_factors: whether the model is :class:`~fastncf.kernels.cpu.factors.Factors`; otherwise a module of torch.
        device: device of the model; None for trainers that need no torch.
    """

    name: ClassVar[str]
    optimizer: ClassVar[Literal["sgd", "adam"]]
    trains_factors: ClassVar[bool] = False
    device: "torch.device | None" = None

    @classmethod
    @abstractmethod
    def why_not(cls, stage: Stage, module: "nn.Module | None") -> str | None:
        """Return why this trainer cannot train a stage, as a sentence without a full stop; None if it can.

        Args:
            stage: what is to be trained; ``stage.trainer`` is not read.
            module: the module of the user's own that is to be trained, or None for the registered model
                ``stage.model``, which need not be built for the answer.
        """

    @abstractmethod
    def __init__(self, model: Any, split: Split, stage: Stage, order: np.ndarray | None = None) -> None:
        """Prepare the training of ``model``, which is changed in place.

        Args:
            model: :class:`~fastncf.kernels.cpu.factors.Factors` where ``trains_factors``, otherwise an ``nn.Module`` on
                ``stage.device``.
            split: training interactions, N.
            stage: settings that :meth:`why_not` has no objection to.
            order: (N,) int32, positions within each user's row of the split from the oldest to the latest, where
                ``stage.history`` is ``sequence``; otherwise None.
        """

    @abstractmethod
    def epoch(self, number: int) -> Any:
        """Train the epoch of a number, counted from 0; nothing in it waits for the device.

        Returns:
            The loss of each interaction (mean over its samples or pairs, without the l2 term), summed over the
            epoch: float, or tensor () float64 on the device.
        """

    @abstractmethod
    def state_dict(self) -> State:
        """Return everything that the next epoch depends on beside the constructor's arguments and its number.

        Parameters, moments, steps; draws and dropout are functions of (seed, epoch, position) and need no state. The
        arrays may be those that the next epoch changes: copy what has to last.
        """

    @abstractmethod
    def load_state_dict(self, state: State) -> None:
        """Continue from a state: the next epochs, and the model, are then the same to the bit as after :meth:`epoch`.

        Raises:
            ValueError: a name is missing or superfluous, or an array has another shape.
        """

    @property
    def encoder(self) -> HistoryEncoder | None:
        """Encoder that makes the histories' part of a user's vector, as copies; None where users have no histories."""
        return None

    def start_from(self, factors: Factors, encoder: HistoryEncoder | None) -> None:
        """Continue from the parameters of fitted factors of the same sizes in place of random ones, without moments.

        All trainers have it that train factors.

        Args:
            factors: their user vectors are the users' own, without the part that the encoder makes of histories.
            encoder: see :attr:`encoder`.
        """
        raise NotImplementedError(f"{self.name} trains no factors")

    def sampling_seconds(self) -> float:
        """Return the seconds of sampling beside or before the training; 0 where sampling is part of the training."""
        return 0.0

    def close(self) -> None:  # noqa: B027 - most trainers have nothing to end
        """End threads of the trainer's own; the trainer is not used afterwards."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
