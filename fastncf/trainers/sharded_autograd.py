"""Training of registered models by torch's autograd on several processes, over which all tables are sharded."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from fastncf import distributed
from fastncf.data.split import Split
from fastncf.sampling.loader import Batch, EpochLoader
from fastncf.stage import Stage
from fastncf.trainers.autograd import AutogradTrainer
from fastncf.trainers.base import State
from fastncf.trainers.sharding import ShardedRows, Users, collect, collected, fetch, row_shards, send_back

_KINDS = "parameters", "exp_avg", "exp_avg_sq"  # of tensors of a state that have the rows of a table


class ShardedAutograd(AutogradTrainer):
    """Trains as :class:`~fastncf.trainers.autograd.AutogradTrainer` does, by the ranks of a process group.

    Batches are those of one process. Each rank owns a range of users, draws their negatives, and computes the gradients
    of their interactions. Tables are those that the class of the model names in ``user_tables`` and ``item_tables``.
    The rows of its users are on a rank alone. Rows of items are sharded, see :mod:`fastncf.trainers.sharding`: a batch
    is trained in a copy of the module whose tables of items have the rows that the batch uses, and no others. So
    parameters, gradients and moments of a table are divided among the devices. The layers are on all ranks, and their
    gradients are summed.

    The module itself stays on the CPU, in memory that the processes of a machine share, and gets the parameters after
    each epoch. They differ from those of one process by the rounding of sums; random numbers of torch, such as
    dropout's, are drawn by each rank for its own interactions.
    """

    is_model_on_cpu = True

    def __init__(self, model: nn.Module, split: Split, stage: Stage, order: np.ndarray | None = None) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.__init__`; there must be ranks, and the model is on the CPU."""
        ranks = distributed.current()
        assert ranks is not None
        self.ranks, self._whole = ranks, model
        for tensor in (*model.parameters(), *model.buffers()):  # a caller may have drawn other ones on each rank
            ranks.share_tensor(tensor.detach(), 0)
        ranks.wait()
        self._users = Users.of(ranks, split.indptr)
        self._rows_of: dict[str, Callable[[int], slice]] = {
            **dict.fromkeys(model.user_tables, self._users.of_rank),  # type: ignore[arg-type]
            **dict.fromkeys(model.item_tables, row_shards(ranks)),  # type: ignore[arg-type]
        }
        device = torch.device(stage.device)
        self._own = {
            name: nn.Parameter(table[self._rows_of[name](ranks.rank)].clone().to(device))
            for name, table in self._tables().items()
        }
        self._of_items = {name: self._own[name] for name in model.item_tables}  # type: ignore[union-attr]
        self._sums = {name: torch.zeros_like(rows) for name, rows in self._of_items.items()}
        super().__init__(_with_tables(model, self._own).to(device), split, stage, order)
        self.no_graph_reason = "gradients are exchanged between processes"
        self._items = torch.empty(0, dtype=torch.int32, device=device)  # of this rank's part of a batch, ascending

    def _tables(self) -> dict[str, Tensor]:
        """Return the tables of the module by name."""
        return {name: self._whole.get_parameter(name).detach() for name in self._rows_of}

    def _make_loader(self, split: Split) -> EpochLoader:
        """Return the epochs, with negatives of this rank's users alone."""
        return EpochLoader.from_stage(split, self.stage, rows=self._users.rows)

    def epoch(self, number: int) -> Tensor:
        """See :meth:`fastncf.trainers.autograd.AutogradTrainer.epoch`; the loss is that of all ranks."""
        total = super().epoch(number)
        self.ranks.sum_tensor(total)
        self._write_to_module()
        return total

    def _gradients(self, indices: Tensor | None, share: float = 1.0) -> list[Tensor]:
        """Compute the gradients of a batch, summed over all ranks; see :meth:`AutogradTrainer._gradients`."""
        assert indices is not None  # there is no graph
        own = self._users.own(indices)
        batch = self.loader.gather(own)
        self._items = torch.cat([batch.positive, batch.negatives.reshape(-1)]).unique()
        used = ShardedRows.of_ids(self.ranks, self._items)
        rows = {name: table.new_empty(len(self._items), *table.shape[1:]) for name, table in self._of_items.items()}
        lent = {name: table.detach()[used.own] for name, table in self._of_items.items()}
        fetch(self.ranks, [(used, lent[name], rows[name]) for name in rows])
        for name, values in rows.items():
            _set_parameter(self.model, name, nn.Parameter(values))
        self._adam.zero_grad(set_to_none=True)
        losses = super()._gradients(own, share * len(own) / len(indices)) if len(own) else []
        sums = {name: torch.zeros_like(values) for name, values in lent.items()}
        send_back(self.ranks, [(used, sums[name], _gradient(self.model.get_parameter(name))) for name in rows])
        for name, parameter in self._of_items.items():
            parameter.grad = self._sums[name].zero_()
            parameter.grad[used.own] = sums[name]
        for parameter in self._own.values():
            parameter.grad = _gradient(parameter)
        self._sum_layers()
        return losses

    def _gather(self, indices: Tensor) -> Batch:
        """Return interactions of this rank, whose ids are the places of their rows in the tables of the batch."""
        batch = self.loader.gather(indices)
        positive, negatives = (
            torch.searchsorted(self._items, ids, out_int32=True) for ids in (batch.positive, batch.negatives)
        )
        return batch._replace(user=batch.user - self._users.first, positive=positive, negatives=negatives)

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Return the rows of this rank and the layers, by name."""
        return [*self._own.items(), *self._layers()]

    def _layers(self) -> list[tuple[str, nn.Parameter]]:
        """Return the parameters that all ranks hold, by name."""
        return [(name, parameter) for name, parameter in self.model.named_parameters() if name not in self._rows_of]

    def _sum_layers(self) -> None:
        """Sum up the gradients of the layers over all ranks, as one vector."""
        layers = [parameter for _, parameter in self._layers() if parameter.requires_grad]
        if not layers:
            return
        flat = torch.cat([_gradient(parameter).reshape(-1) for parameter in layers])
        self.ranks.sum_tensor(flat)
        for parameter, part in zip(layers, flat.split([parameter.numel() for parameter in layers]), strict=True):
            parameter.grad = part.view_as(parameter)

    @torch.no_grad()
    def _write_to_module(self) -> None:
        """Let the module of every rank have the parameters of all."""
        for name, table in self._tables().items():
            collect(self.ranks, table.numpy(), self._own[name].detach().cpu().numpy(), self._rows_of[name])
        for name, parameter in self._layers():
            self._whole.get_parameter(name).copy_(parameter)
        for name, buffer in self.model.named_buffers():
            self.ranks.share_tensor(buffer, 0)
            self._whole.get_buffer(name).copy_(buffer)

    def state_dict(self) -> State:
        """Return what :meth:`AutogradTrainer.state_dict` does, in memory that the processes of a machine share."""
        state = {}
        for name, tensor in self._tensors().items():
            found = self._table_of(name)
            state[name] = tensor.clone() if found is None else self._collected(tensor, *found)
        return state

    def kept_state(self) -> State:
        """See :meth:`fastncf.trainers.base.Trainer.kept_state`."""
        return self.state_dict()

    def load_state_dict(self, state: State) -> None:
        """See :meth:`fastncf.trainers.autograd.AutogradTrainer.load_state_dict`."""
        own = dict(state)
        for name, tensor in state.items():
            if (found := self._table_of(name)) is not None:
                own[name] = tensor[found[1](self.ranks.rank)]
        super().load_state_dict(own)
        self._write_to_module()

    def _collected(self, own: Tensor, num_rows: int, rows_of: Callable[[int], slice]) -> Tensor:
        """Return a table of the rows of all ranks, on the CPU."""
        return torch.from_numpy(collected(self.ranks, own.cpu().numpy(), num_rows, rows_of))

    def _table_of(self, name: str) -> tuple[int, Callable[[int], slice]] | None:
        """Return the number of rows of the table that a tensor of the state belongs to, and which rows a rank has."""
        kind, _, table = name.partition(".")
        if kind not in _KINDS or table not in self._rows_of:
            return None
        return len(self._whole.get_parameter(table)), self._rows_of[table]


def _with_tables(model: nn.Module, tables: dict[str, nn.Parameter]) -> nn.Module:
    """Return a copy of a module that has other tables, which are not copied."""
    return copy.deepcopy(model, {id(model.get_parameter(name)): table for name, table in tables.items()})


def _set_parameter(model: nn.Module, name: str, parameter: nn.Parameter) -> None:
    """Replace a parameter of a module."""
    path, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(path), attribute, parameter)


def _gradient(parameter: Tensor) -> Tensor:
    """Return the gradient of a parameter, zeros where it has none."""
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
