"""Training of states of sets by softmax on CUDA: what :mod:`fastncf.trainers.other_items` computes, by Triton kernels.

Windows, their order, negatives and dropout have the bits of the CPU. Large sets are divided on the device, by random
numbers that the host draws.
"""

from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from fastncf.device import device_guard
from fastncf.kernels.cpu.batch_plans import Windows
from fastncf.kernels.cpu.encoder import HistoryEncoder
from fastncf.kernels.cuda.batches import Histories
from fastncf.trainers.cuda_next_item import CUDANextItem
from fastncf.trainers.other_items import (
    STATE_LENGTH,
    OtherItems,
    bits_of_sets,
    divided_places,
    encoder_of_sets,
    parts_of_sets,
    phases_of_sets,
)


class CUDAOtherItems(CUDANextItem):
    """Trains sets and items by softmax over negatives that all positions of a batch share."""

    name = "cuda_other_items"
    history: ClassVar[Literal["sequence", "bag"]] = "bag"
    is_mean: ClassVar[np.ndarray] = OtherItems.is_mean
    lookahead: ClassVar[int] = 0
    kinds_of_epochs: ClassVar[int] = 2

    def _make_windows(self, order: np.ndarray | None) -> Windows:
        """Return the windows before items are drawn; sets have no order."""
        return parts_of_sets(self.split)

    def _make_histories(self) -> Histories:
        """Return the sets on the device, and which of their items are drawn anew in each epoch."""
        places, users = divided_places(self.split)
        self._places, self._place_users = self._copied(places), self._copied(users.astype(np.int32))
        histories = super()._make_histories()
        self._place_weights = histories.weights[self._places]
        return histories

    def _draw_items(self, number: int) -> None:
        """See :meth:`fastncf.trainers.cuda_next_item.CUDANextItem._draw_items`."""
        if not len(self._places):
            return
        drawn = np.random.Generator(bits_of_sets(self.stage, number)).random(len(self._places))
        order = torch.sort(self._pinned(drawn).to(self.device, non_blocking=True), stable=True).indices
        order = order[torch.sort(self._place_users[order], stable=True).indices]
        self._histories.items[self._places] = self._histories.seen[self._places[order]]
        self._histories.weights[self._places] = self._place_weights[order]

    def epoch(self, number: int) -> Tensor:
        """See :meth:`fastncf.trainers.cuda_next_item.CUDANextItem.epoch`; the last epochs train the items alone."""
        is_fixed = number >= self.phases(self.stage.epochs)[0]
        if is_fixed != (self._fixed_states is not None):
            self._fixed_states = self._states_of_sets() if is_fixed else None
            self._graph = None  # has the kernels of the other kind of epochs
        return super().epoch(number)

    def phases(self, epochs: int) -> tuple[int, int]:
        """See :meth:`fastncf.trainers.base.Trainer.phases`: epochs that train states, and epochs beside fixed ones."""
        return phases_of_sets(self.split, epochs)

    def _states_of_sets(self) -> Tensor:
        """Return the states (U, D) of the whole sets of all users."""
        states = self._zeros(self.split.num_users, self.stage.dim)
        with device_guard(self.device):
            self._write_states(states)
        return states

    def _run_step(self, offset: int) -> None:
        """Train the batch that is ``offset`` behind the next one of the plan."""
        from fastncf.kernels.cuda.sets import train_batch, train_items  # not every machine has Triton

        if self._fixed_states is None:
            train_batch(self._training, offset, STATE_LENGTH)
        else:
            train_items(self._training, offset, self._fixed_states)

    @property
    def encoder(self) -> HistoryEncoder:
        """Encoder of histories with the parameters as they are; copies."""
        return encoder_of_sets(self._columns(0)["history_vectors"].cpu().numpy().copy())

    def _write_states(self, out: Tensor) -> None:
        """Write the states (U, D) of all users."""
        from fastncf.kernels.cuda.sets import write_states

        write_states(out, self._histories, self._parameters, STATE_LENGTH)
