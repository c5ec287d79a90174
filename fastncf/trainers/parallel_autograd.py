"""Training of modules of one's own by torch's autograd on several processes, which share out the users."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from fastncf import distributed
from fastncf.data.split import Split
from fastncf.mapped import is_shared
from fastncf.models.layers import l2_embeddings
from fastncf.sampling.loader import EpochLoader
from fastncf.stage import Stage
from fastncf.trainers.autograd import AutogradTrainer
from fastncf.trainers.sharding import Users


class ParallelAutograd(AutogradTrainer):
    """Trains as :class:`~fastncf.trainers.autograd.AutogradTrainer` does, by the ranks of a process group.

    Batches are those of one process. Each rank owns a range of users, draws their negatives, and computes the gradients
    of their interactions. Gradients of items and layers are summed over all ranks: of an embedding of items the rows
    that the batch uses where that is less than the table. Rows of users stay on their rank, and are shared at the end
    of an epoch. Parameters differ from those of one process by the rounding of sums; random numbers of torch, such as
    dropout's, are drawn by each rank for its own interactions.
    """

    def __init__(self, model: nn.Module, split: Split, stage: Stage, order: np.ndarray | None = None) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.__init__`; there must be ranks."""
        ranks = distributed.current()
        assert ranks is not None
        self.ranks = ranks
        for tensor in (*model.parameters(), *model.buffers()):  # a caller may have drawn other ones on each rank
            if tensor.device.type == "cpu" and is_shared(tensor.data_ptr()):
                tensor.data = tensor.detach().clone()  # each rank takes steps by itself
            ranks.share_tensor(tensor.detach(), 0)
        self._users = Users.of(ranks, split.indptr)
        super().__init__(model, split, stage, order)
        self.no_graph_reason = "gradients are exchanged between processes"
        tables = [(layer.weight, is_of_users) for layer, is_of_users in l2_embeddings(model)]
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._of_users = [p for p, is_of_users in tables if is_of_users and len(p) == split.num_users]
        self._of_items = [p for p, is_of_users in tables if not is_of_users and len(p) == split.num_items]
        in_tables = {id(parameter) for parameter in (*self._of_users, *self._of_items)}
        self._others = [parameter for parameter in trained if id(parameter) not in in_tables]

    def _make_loader(self, split: Split) -> EpochLoader:
        """Return the epochs, with negatives of this rank's users alone."""
        return EpochLoader.from_stage(split, self.stage, rows=self._users.rows)

    def epoch(self, number: int) -> Tensor:
        """See :meth:`fastncf.trainers.autograd.AutogradTrainer.epoch`; the loss is that of all ranks."""
        total = super().epoch(number)
        self.ranks.sum_tensor(total)
        self._share_users()
        for buffer in self.model.buffers():
            self.ranks.share_tensor(buffer, 0)
        return total

    def _gradients(self, indices: Tensor | None, share: float = 1.0) -> list[Tensor]:
        """Compute the gradients of a batch, summed over all ranks; see :meth:`AutogradTrainer._gradients`."""
        assert indices is not None  # there is no graph
        own = self._users.own(indices)
        self._adam.zero_grad(set_to_none=True)
        losses = super()._gradients(own, share * len(own) / len(indices)) if len(own) else []
        for parameter in self.model.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        batch = self.loader.gather(own)
        ids = torch.cat([batch.positive, batch.negatives.reshape(-1)]).unique()
        self._sum_rows(ids)
        self._sum_dense(self._others)
        return losses

    def _sum_rows(self, ids: Tensor) -> None:
        """Sum up the gradients of the items' embeddings over all ranks.

        Args:
            ids: (n,) int32, ascending: the items that this rank's part of the batch uses.
        """
        if not self._of_items:
            return
        counts = torch.zeros(self.ranks.size, dtype=torch.int64, device=self.device)
        counts[self.ranks.rank] = len(ids)
        self.ranks.sum_tensor(counts)
        most, width = int(counts.max()), 1 + sum(parameter.shape[1] for parameter in self._of_items)
        # of n ranks each sends n - 1 times its rows, or 2 (n - 1) / n times the table to sum it up
        if self.ranks.size * most * width >= 2 * sum(parameter.numel() for parameter in self._of_items):
            self._sum_dense(self._of_items)
            return
        packed = torch.zeros(most, width, dtype=torch.float32, device=self.device)
        grads = [_grad_of(parameter) for parameter in self._of_items]
        packed[: len(ids), 0] = ids.view(torch.float32)
        packed[: len(ids), 1:] = torch.cat([grad.index_select(0, ids) for grad in grads], dim=1)
        everything = self.ranks.gather_tensor(packed)
        for grad in grads:
            grad.index_fill_(0, ids.long(), 0)
        for rows, count in zip(everything, counts.tolist(), strict=True):  # in the order of the ranks, on each of them
            others = rows[:count, 0].contiguous().view(torch.int32)
            parts = rows[:count, 1:].split([grad.shape[1] for grad in grads], dim=1)
            for grad, part in zip(grads, parts, strict=True):
                grad.index_add_(0, others, part)

    def _sum_dense(self, parameters: Sequence[Tensor]) -> None:
        """Sum up whole gradients over all ranks, as one vector."""
        if not parameters:
            return
        grads = [_grad_of(parameter) for parameter in parameters]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        self.ranks.sum_tensor(flat)
        for grad, part in zip(grads, flat.split([grad.numel() for grad in grads]), strict=True):
            grad.copy_(part.view_as(grad))

    @torch.no_grad()
    def _share_users(self) -> None:
        """Let all ranks have the rows of all users, and their moments."""
        for parameter in self._of_users:
            moments = self._moments(parameter)
            for table in (parameter, moments["exp_avg"], moments["exp_avg_sq"]):
                for rank in range(self.ranks.size):
                    self.ranks.share_tensor(table[self._users.of_rank(rank)], rank)


def _grad_of(parameter: Tensor) -> Tensor:
    """Return the gradient of a parameter, which has one."""
    assert parameter.grad is not None
    return parameter.grad
