"""Trainers whose steps are not shared out, within a process group: the first rank trains, the others wait.

Steps of single interactions follow each other, and cannot be shared out. Small batches take less time than the exchange
between processes. The parameters have the bits of one process.
"""

from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fastncf import distributed
from fastncf.data.split import Split
from fastncf.kernels.cpu.encoder import HistoryEncoder
from fastncf.kernels.cpu.factors import Factors
from fastncf.mapped import is_shared
from fastncf.stage import Stage
from fastncf.trainers.base import State, Trainer
from fastncf.trainers.loop import model_arrays

if TYPE_CHECKING:
    from torch import nn


class OnFirstRank(Trainer):
    """Trains by another trainer on the first rank, and gives the parameters to all ranks after each epoch.

    Its state is that of the trainer on the first rank, which writes checkpoints, and empty on the others.
    """

    inner: ClassVar[type[Trainer]]

    @classmethod
    def why_not(cls, stage: Stage, module: "nn.Module | None") -> str | None:
        """See :meth:`fastncf.trainers.base.Trainer.why_not`."""
        return cls.inner.why_not(stage, module)

    def __init__(self, model: Any, split: Split, stage: Stage, order: np.ndarray | None = None) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.__init__`; there must be ranks."""
        ranks = distributed.current()
        assert ranks is not None
        self.ranks, self.model = ranks, model
        if not self.trains_factors:
            import torch

            self.device = torch.device("cpu")
        self._trainer: Trainer | None = None

        def prepare() -> int:
            """Make the trainer of this process."""
            self._trainer = self.inner(model, split, stage, order)
            return self._trainer.num_groups

        self.num_groups = ranks.first_alone(prepare)

    def epoch(self, number: int) -> float:
        """See :meth:`fastncf.trainers.base.Trainer.epoch`."""
        total = float(self.ranks.first_alone(lambda: self._own().epoch(number)))
        self._share()
        return total

    def state_dict(self) -> State:
        """See :meth:`fastncf.trainers.base.Trainer.state_dict`."""
        return {} if self._trainer is None else self._trainer.state_dict()

    def load_state_dict(self, state: State) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.load_state_dict`."""
        self._on_first(lambda trainer: trainer.load_state_dict(state))

    def state(self) -> State:
        """See :meth:`fastncf.trainers.base.Trainer.state`."""
        return {} if self._trainer is None else self._trainer.state()

    def restore(self, state: State) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.restore`."""
        self._on_first(lambda trainer: trainer.restore(state))

    def start_from(self, factors: Factors, encoder: HistoryEncoder | None) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.start_from`."""
        self._on_first(lambda trainer: trainer.start_from(factors, encoder))

    @property
    def encoder(self) -> HistoryEncoder | None:
        """See :attr:`fastncf.trainers.base.Trainer.encoder`; all ranks ask for it together."""
        return self.ranks.first_alone(lambda: self._own().encoder)

    def sampling_seconds(self) -> float:
        """See :meth:`fastncf.trainers.base.Trainer.sampling_seconds`."""
        return 0.0 if self._trainer is None else self._trainer.sampling_seconds()

    def close(self) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.close`."""
        if self._trainer is not None:
            self._trainer.close()

    def _own(self) -> Trainer:
        """Return the trainer of the first rank, which asks for it."""
        assert self._trainer is not None
        return self._trainer

    def _on_first(self, change: Any) -> None:
        """Let the first rank change its trainer, and all have its parameters."""
        self.ranks.first_alone(lambda: change(self._own()))
        self._share()

    def _share(self) -> None:
        """Let all ranks have the parameters of the first."""
        import torch

        for values in model_arrays(self.model).values():
            tensor = torch.as_tensor(values)
            if not is_shared(tensor.data_ptr()) or self.ranks.local_size < self.ranks.size:
                self.ranks.share_tensor(tensor, 0)
        self.ranks.wait()


@cache
def on_first_rank(trainer: type[Trainer]) -> type[OnFirstRank]:
    """Return the class that trains by a trainer for CPUs on the first rank."""
    members = {name: getattr(trainer, name) for name in ("name", "optimizer", "trains_factors")} | {"inner": trainer}
    return type(f"{trainer.__name__}OnFirstRank", (OnFirstRank,), members)
