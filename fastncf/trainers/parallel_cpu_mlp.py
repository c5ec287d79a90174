"""MLP and NeuMF on CPUs by several processes, which share out the users."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from fastncf import distributed
from fastncf.data.split import Split
from fastncf.kernels.cpu import mlp as kernels
from fastncf.kernels.cpu import mlp_structures as structures
from fastncf.kernels.cpu.lazy_adam import LazyTable, catch_up, steps_of
from fastncf.kernels.cpu.simd import aligned_zeros
from fastncf.models.mlp import MLP
from fastncf.models.neumf import NeuMF
from fastncf.sampling.loader import EpochLoader
from fastncf.stage import Stage
from fastncf.threads import even_ranges, run_ranges, run_threads
from fastncf.trainers.base import State
from fastncf.trainers.cpu_mlp import CPUMLPTrainer, PackedParameters
from fastncf.trainers.next_item import make_table
from fastncf.trainers.sharding import (
    ShardedRows,
    Users,
    collect,
    collected,
    fetch,
    read_own,
    row_shards,
    send_back,
    step_own,
)


class _Part(NamedTuple):
    """Interactions of a batch that are this rank's.

    Attributes:
        indices: (n,), their positions in the CSR, by shards of users.
        shard_starts: (shards + 1,) int32, where those of each shard start.
        whole_size: interactions of the batch.
        place: how many of them are of ranks before this one.
    """

    indices: np.ndarray
    shard_starts: np.ndarray
    whole_size: int
    place: int


class ParallelCPUMLP(CPUMLPTrainer):
    """Trains as :class:`~fastncf.trainers.cpu_mlp.CPUMLPTrainer` does, by the ranks of a process group.

    Batches are those of one process. Each rank owns a range of users, draws their negatives, and computes the gradients
    of their interactions; rows of its users are on this rank alone. Rows of items are sharded, see
    :mod:`fastncf.trainers.sharding`. The layers are on all ranks, and their gradients are summed. Where the number of
    ranks is a power of 2 and at most ``SHARDS``, the parameters have the bits of one process, see
    :mod:`fastncf.kernels.cpu.shards`; otherwise they differ by the rounding of sums.
    """

    def __init__(self, model: MLP | NeuMF, split: Split, stage: Stage, order: np.ndarray | None = None) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.__init__`; there must be ranks."""
        ranks = distributed.current()
        assert ranks is not None
        self.ranks = ranks
        for parameter in model.parameters():  # a caller may have drawn other ones on each rank
            ranks.share_tensor(parameter.detach(), 0)
        ranks.wait()
        self._users = Users.of(ranks, split.indptr)
        self._num_items = split.num_items
        super().__init__(model, split, stage, order)
        self._layer_places = self._packed.layer_places()

    def _make_loader(self, split: Split) -> EpochLoader:
        """Return the epochs, with negatives of this rank's users alone."""
        return EpochLoader.from_stage(split, self.stage, rows=self._users.rows)

    def _pack_parameters(self, split: Split) -> PackedParameters:
        """Return the parameters that this process trains: those of its users, its items, and the layers."""
        users, items = self._users.of_rank(self.ranks.rank), slice(self.ranks.rank, split.num_items, self.ranks.size)
        return PackedParameters(self.model, users, items)

    def _make_memory(self, split: Split) -> None:
        """Make the memory of batches, which grows with them."""
        del split
        self._memory_of(64, 64)

    def _memory_of(self, num_rows: int, num_interactions: int) -> None:
        """Make memory for parts of batches of some interactions, which use some rows."""
        table, per = self._packed.table, 2 + self.stage.num_negatives
        self._batch_table = make_table(num_rows, table.width)
        self._batch_rows = structures.BatchRows(
            rows=np.zeros(num_interactions * per, dtype=np.int32),
            last_use=np.zeros(num_rows, dtype=np.int32),
            gradients=aligned_zeros(
                min(num_interactions + structures.CHUNKS, self._settings.microbatch_size) * per * table.width
            ),
        )
        owned = int(np.bincount(kernels.row_owners(num_rows, self._num_threads)).max())
        self._workspaces = [
            structures.make_workspace(self.stage.num_negatives, self._packed.network, owned, self._settings.num_shards)
            for _ in range(self._num_threads)
        ]
        self._room = num_rows, num_interactions

    def epoch(self, number: int) -> float:
        """See :meth:`fastncf.trainers.cpu_mlp.CPUMLPTrainer.epoch`; the loss is that of all ranks."""
        self.loader.load(number)
        done, sums = self._begin(losses=np.zeros(structures.CHUNKS))
        if self.ranks.rank:
            sums["losses"][:] = 0  # what is done already is counted once
        batches, size = self.loader.batches, self.loader.interactions_per_batch
        order = self.loader.order.numpy()
        for batch in range(done, batches):
            indices = order[batch * size : (batch + 1) * size]
            self._train_batch(indices, number * batches + batch + 1, sums["losses"])
            self._reach(batch + 1, sums)
        table, step = self._packed.table, (number + 1) * batches
        run_ranges(lambda a, b: catch_up(a, b, step, table, self._schedule), even_ranges(len(steps_of(table))))
        self._write_to_module()
        total = np.array([sums["losses"].sum()])
        self.ranks.sum(total)
        return float(total[0]) / self._settings.num_terms

    def _train_batch(self, indices: np.ndarray, step: int, losses: np.ndarray) -> None:
        """Train one batch.

        Args:
            indices: (B,), positions of all ranks' interactions in the CSR.
            step: number of the step.
            losses: see :class:`~fastncf.kernels.cpu.mlp_structures.SharedState`; added to.
        """
        part = self._part_of(indices)
        batch = self.loader.gather(torch.from_numpy(part.indices))
        items = torch.cat([batch.positive.unsqueeze(1), batch.negatives], dim=1).numpy()
        users, user_at = np.unique(batch.user.numpy() - self._users.first, return_inverse=True)
        ids, item_at = np.unique(items, return_inverse=True)
        if len(users) + len(ids) > self._room[0] or len(part.indices) > self._room[1]:
            self._memory_of(2 * (len(users) + len(ids)), 2 * len(part.indices))
        used = ShardedRows.of_ids(self.ranks, torch.from_numpy(ids))
        own = used.own.numpy() + self._packed.num_users
        table, rows = self._packed.table, self._batch_table.rows.reshape(-1, self._batch_table.stride)
        of_users, of_items = (read_own(which, step, table, self._schedule) for which in (users, own))
        places = slice(len(users), len(users) + len(ids))
        rows[: len(users), : table.width] = of_users
        fetch(self.ranks, list(self._columns(used, of_items, rows[places])))
        gradients = np.zeros((places.stop, table.width), dtype=np.float32)
        item_at = item_at.reshape(items.shape)
        shared = self._shared_part(part, (user_at, item_at[:, 0], item_at[:, 1:]), len(users), batch.weights, losses)
        layers = self._packed.layers.gradients[: self._packed.network.num_parameters]
        if len(part.indices):
            flat = gradients.reshape(-1)
            run_threads(
                lambda thread: kernels.sum_gradients(thread, step, shared, self._workspaces[thread], flat),
                self._num_threads,
            )
        else:
            layers[:] = 0
        sums_of_layers = layers[self._layer_places]  # without what fills up rows of the matrices
        self.ranks.sum_in_pairs(sums_of_layers)
        layers[self._layer_places] = sums_of_layers
        kernels.step_layers(step, shared)
        sums = np.zeros_like(of_items)
        send_back(self.ranks, list(self._columns(used, sums, gradients[places])))
        step_own(own, step, table, self._schedule, of_items, sums)
        step_own(users, step, table, self._schedule, of_users, gradients[: len(users)])

    def _columns(
        self, used: ShardedRows, own: np.ndarray, batch: np.ndarray
    ) -> Iterator[tuple[ShardedRows, torch.Tensor, torch.Tensor]]:
        """Yield views of rows of this rank and of the batch, without the columns that fill up vectors."""
        for first, dim in self._packed.dims():
            own_part, batch_part = (torch.from_numpy(rows)[:, first : first + dim] for rows in (own, batch))
            yield used, own_part, batch_part

    def _part_of(self, indices: np.ndarray) -> "_Part":
        """Return this rank's part of a batch."""
        own = self._users.own(indices)
        starts = self._sort_batches(own) if len(own) else np.zeros((1, 1), dtype=np.int32)
        return _Part(own, starts.reshape(-1), len(indices), int((indices < self._users.rows[0]).sum()))

    def _shared_part(
        self,
        part: "_Part",
        places: tuple[np.ndarray, ...],
        num_users: int,
        weights: torch.Tensor | None,
        losses: np.ndarray,
    ) -> structures.SharedState:
        """Return what the threads share that compute the gradients of this rank's part of a batch.

        Args:
            part: the part.
            places: (n,), (n,) and (n, K), places of users, positives and negatives in the table of the batch, those of
                items counted from the first item.
            num_users: users of the part, whose rows come first.
            weights: (n,) float32 of the interactions, or None.
            losses: see :class:`~fastncf.kernels.cpu.mlp_structures.SharedState`.
        """
        user, positive, negatives = (np.ascontiguousarray(array, dtype=np.int32).reshape(-1) for array in places)
        order = np.arange(len(user), dtype=self.loader.order.numpy().dtype)
        given = np.empty(0, dtype=np.float32) if weights is None else weights.numpy()
        table = self._batch_table
        return structures.SharedState(
            num_threads=self._num_threads,
            counters=np.zeros(structures.num_counters(self._num_threads), dtype=np.int64),
            losses=losses,
            settings=self._settings._replace(num_users=num_users),
            network=self._packed.network,
            layers=self._packed.layers,
            data=structures.EpochData(
                len(order),
                order,
                user,
                positive,
                negatives,
                given,
                len(given) > 0,
                part.shard_starts,
                part.whole_size,
                part.place,
            ),
            table=LazyTable(table.rows, table.ints, table.width, table.stride),
            batch_rows=self._batch_rows,
            schedule=self._schedule,
        )

    def _write_to_module(self) -> None:
        """Let the module of every rank have the parameters of all."""
        self._packed.write_to_module()
        for name, parameter in self.model.named_parameters():
            if (found := self._shards_of(name)) is not None:
                count, rows_of = found
                collect(self.ranks, parameter.detach()[:count].numpy(), None, rows_of)

    def _shards_of(self, name: str) -> tuple[int, Callable[[int], slice]] | None:
        """Return the number of rows of a parameter, and which of them a rank has; None if every rank has all."""
        if name.endswith("user_embedding.weight"):
            return int(self._users.bounds[-1]), self._users.of_rank
        return (self._num_items, row_shards(self.ranks)) if name.endswith("item_embedding.weight") else None

    def state_dict(self) -> State:
        """Return what :meth:`CPUMLPTrainer.state_dict` does, in memory that the processes of a machine share."""
        state = dict(self._packed.state_dict())
        num_users, num_items = int(self._users.bounds[-1]), self._num_items
        own = np.split(state.pop("steps").numpy(), [self._packed.num_users])
        steps = (
            collected(self.ranks, own[0], num_users, self._users.of_rank),
            collected(self.ranks, own[1], num_items, row_shards(self.ranks)),
        )
        for name, tensor in state.items():
            if (found := self._shards_of(name)) is not None:
                state[name] = torch.from_numpy(collected(self.ranks, tensor.numpy(), *found))
        return {"steps": torch.from_numpy(np.concatenate(steps)), **state}

    def kept_state(self) -> State:
        """See :meth:`fastncf.trainers.base.Trainer.kept_state`."""
        return self.state_dict()

    def load_state_dict(self, state: State) -> None:
        """See :meth:`fastncf.trainers.cpu_mlp.CPUMLPTrainer.load_state_dict`."""
        rank, num_users = self.ranks.rank, int(self._users.bounds[-1])
        own = dict(state)
        for name, tensor in state.items():
            if name == "steps":
                users, items = tensor[:num_users], tensor[num_users:]
                own[name] = np.concatenate([users[self._users.of_rank(rank)], items[row_shards(self.ranks)(rank)]])
            elif (found := self._shards_of(name)) is not None:
                own[name] = tensor[found[1](rank)]
        super().load_state_dict(own)
        self._write_to_module()
