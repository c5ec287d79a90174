"""Protocol of all trainers, which fits, checkpoints and early stopping rely on."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
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

_BEGUN = "epoch."


class Trainer(ABC):
    """Trains one model in place, epoch by epoch; a context manager that ends threads of its own.

    Attributes:
        name: name of the trainer in ``TRAINERS`` and in plans.
        optimizer: the optimizer that it implements.
        trains_factors: whether the model is :class:`~fastncf.kernels.cpu.factors.Factors`; otherwise a module of torch.
        is_model_on_cpu: whether the module that is trained is on the CPU, whatever the device of the training is.
        device: device of the training; None for trainers that need no torch.
        at_boundary: called between two batches, or two groups of them, of an epoch; :meth:`state` may be asked for
            then, and an exception ends the training.
        num_groups: batches, or groups of them, of an epoch, as they are counted at boundaries.
        large_kernels: compiled functions that it calls, whose compilation takes much memory.
    """

    name: ClassVar[str]
    optimizer: ClassVar[Literal["sgd", "adam"]]
    trains_factors: ClassVar[bool] = False
    is_model_on_cpu: ClassVar[bool] = False
    device: "torch.device | None" = None
    at_boundary: Callable[[], object] | None = None
    num_groups: int = 1
    large_kernels: ClassVar[tuple[Any, ...]] = ()
    _begun: State | None = None

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
                ``stage.device``, or on the CPU where ``is_model_on_cpu``.
            split: training interactions, N.
            stage: settings that :meth:`why_not` has no objection to.
            order: (N,) int32, positions within each user's row of the split from the oldest to the latest, where
                ``stage.history`` is ``sequence``; otherwise None.
        """

    @abstractmethod
    def epoch(self, number: int) -> Any:
        """Train the epoch of a number, counted from 0, or what is left of it; nothing in it waits for the device.

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

    def compile_rest(self) -> None:  # noqa: B027 - most trainers call no kernel there
        """Compile, where that is still to be done, the kernels that an epoch calls behind its last batch."""

    def kept_state(self) -> State:
        """Return :meth:`state_dict` in memory that the next epochs do not change."""
        return copy.deepcopy(self.state_dict())

    def state(self) -> State:
        """Return everything that the training depends on from here on, also between two batches of an epoch.

        After an epoch that is :meth:`state_dict`; within one, the number of batches that are done and sums over them
        come along, by names that begin with ``epoch.``.
        """
        return self.state_dict() | {f"{_BEGUN}{name}": value for name, value in (self._begun or {}).items()}

    def restore(self, state: State) -> None:
        """Continue from a :meth:`state`; where that is within an epoch, :meth:`epoch` trains the rest of it.

        Raises:
            ValueError: a name is missing or superfluous, or an array has another shape.
        """
        begun = {name.removeprefix(_BEGUN): value for name, value in state.items() if name.startswith(_BEGUN)}
        self.load_state_dict({name: value for name, value in state.items() if not name.startswith(_BEGUN)})
        self._begun = begun or None

    def phases(self, epochs: int) -> tuple[int, ...]:
        """Return the numbers of epochs of the parts of a training; the epochs of a part take about the same time.

        Args:
            epochs: of the whole training.
        """
        return (epochs,)

    def skip_to(self, done: int) -> None:
        """Let the next epoch train its last groups alone, as if the others were done; their losses count as 0.

        Args:
            done: groups that are left out, of :attr:`num_groups`.
        """
        self._begun = {"done": np.array(done)} if done else None

    def _begin(self, **sums: Any) -> tuple[int, State]:
        """Return the batches, or groups of them, of the epoch that are done, and the sums over them.

        Args:
            **sums: arrays or tensors of zeros, returned by their names at the beginning of an epoch.
        """
        begun, self._begun = self._begun, None
        if begun is None:
            return 0, sums
        for name, zeros in sums.items():
            if name not in begun:  # after skip_to()
                continue
            if isinstance(zeros, np.ndarray):
                zeros[...] = begun[name]
            else:
                import torch

                zeros.copy_(torch.as_tensor(begun[name]))
        return int(begun["done"]), sums

    def _reach(self, done: int, sums: State) -> None:
        """Say that a boundary is reached.

        Args:
            done: batches, or groups of them, of the epoch that are done.
            sums: what :meth:`_begin` returned, brought up to date.
        """
        if self.at_boundary is not None:
            self._begun = {"done": np.array(done), **sums}
            self.at_boundary()
            self._begun = None

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
