"""Training of states by softmax on several processes, which share out the positions of each batch."""

import numpy as np
import torch

from fastncf import distributed
from fastncf.data.csr import split_ranges
from fastncf.data.split import Split
from fastncf.kernels.cpu import next_item as kernels
from fastncf.kernels.cpu.batch_plans import Plans
from fastncf.kernels.cpu.encoder import encode_histories
from fastncf.kernels.cpu.factors import Factors
from fastncf.kernels.cpu.lazy_adam import LazyTable
from fastncf.kernels.cpu.simd import aligned_zeros
from fastncf.mapped import empty_shared
from fastncf.stage import Stage
from fastncf.threads import run_ranges, run_threads
from fastncf.trainers.base import State
from fastncf.trainers.next_item import BIAS_COLUMNS, NextItem, Work, make_table, vector_generator
from fastncf.trainers.other_items import OtherItems
from fastncf.trainers.sharding import ShardedRows, collect, collected, fetch, read_own, row_shards, send_back, step_own

_ITEMS_AT_ONCE = 10_000  # that are drawn
_SHARDED = "history_vectors", "item_vectors", "item_bias"


class ParallelNextItem(NextItem):
    """Trains as :class:`~fastncf.trainers.next_item.NextItem` does, by the ranks of a process group.

    Rows of items are sharded, see :mod:`fastncf.trainers.sharding`. All ranks plan the same batches. Each one fetches
    the vectors that its part of the positions uses, and sends their gradients to their owners, which take the step;
    gains and decays are on all ranks. Parameters differ from those of one process by the rounding of sums.
    """

    def __init__(self, model: Factors, split: Split, stage: Stage, order: np.ndarray | None = None) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.__init__`; there must be ranks, which share the model's memory."""
        ranks = distributed.current()
        assert ranks is not None
        self.ranks = ranks
        self._gradients = np.empty(0, dtype=np.float32)
        super().__init__(model, split, stage, order)
        shape = (split.num_items, self._num_vectors, self.stage.dim)
        self._all_history_vectors = empty_shared(shape if len(self.is_mean) else shape[::2], np.float32)
        self._bounds = split_ranges(split.indptr, ranks.size)

    def _first_tables(self) -> tuple[LazyTable, LazyTable]:
        """Return the rows of this rank's items, as one process draws them."""
        dim, rank, size = self.stage.dim, self.ranks.rank, self.ranks.size
        num_rows = len(range(rank, self.num_items, size))
        inputs = make_table(num_rows, self._num_vectors * self.width)
        outputs = make_table(num_rows, self.width + BIAS_COLUMNS)
        generator = vector_generator(self.stage)
        for table, count in ((inputs, self._num_vectors), (outputs, 1)):
            rows = table.rows.reshape(-1, table.stride)[:, : count * self.width].reshape(-1, count, self.width)
            for first in range(0, self.num_items, _ITEMS_AT_ONCE):
                shape = min(_ITEMS_AT_ONCE, self.num_items - first), count, dim
                drawn = generator.standard_normal(shape, dtype=np.float32) * np.float32(self.stage.init_std)
                own, start = drawn[(rank - first) % size :: size], -(-(first - rank) // size)
                rows[start : start + len(own), :, :dim] = own
        return inputs, outputs

    def _train_batches(self, first: int, count: int, step: int, work: Work) -> float:
        """Train the batches that are planned, and return their loss, summed over all ranks."""
        most = self._recurrence[0].size + len(work.buffers.inputs) + len(work.buffers.outputs)
        if len(self._gradients) < most:
            self._gradients = aligned_zeros(most)
        total = np.zeros(1)
        slots = work.plans.slot_items.shape[1]
        tables = make_table(slots, self._inputs.width), make_table(slots, self._outputs.width)
        plans = work.plans._replace(
            slot_items=np.where(work.plans.slot_items >= 0, np.arange(slots, dtype=np.int32), np.int32(-1))
        )  # the rows of a batch are side by side
        for row in range(count):
            if plans.sizes[row, 2]:
                shared = self._shared(1, work)._replace(inputs=tables[0], outputs=tables[1])
                self._train_batch(first + row, step + row, row, (work, plans, shared))
                total += shared.total
        self.ranks.sum(total)
        return float(total[0])

    def _train_batch(self, number: int, step: int, row: int, memory: tuple[Work, Plans, kernels.Shared]) -> None:
        """Train one batch.

        Args:
            number: of the batch in the epoch.
            step: number of its step.
            row: of the batch in the plans.
            memory: of the epoch; plans whose items are slots; what the threads share, with tables of the slots.
        """
        work, plans, shared = memory
        used, tables = self._used(work.plans, row), (self._inputs, self._outputs)
        own = [one.own.numpy() for one in used]
        before = [read_own(rows, step, table, self._schedule) for rows, table in zip(own, tables, strict=True)]
        rows = [table.rows.reshape(-1, table.stride)[:, : table.width] for table in (shared.inputs, shared.outputs)]
        fetch(self.ranks, self._parts(used, before, rows))
        gradients, part = self._gradients, part_of(plans, row, self.ranks.rank, self.ranks.size)

        def sum_up(thread: int) -> None:
            kernels.sum_gradients(thread, row, number, step, part, gradients, plans, shared, work.scratch[thread])

        run_threads(sum_up, len(work.scratch))
        num_recurrence, slots = self._recurrence[0].size, int(plans.sizes[row, 3])
        recurrence, rows_of_slots = np.split(gradients[: num_recurrence + slots * self.row_width], [num_recurrence])
        self._sum_recurrence(recurrence)
        kernels.apply_gradients(0, 0, row, step, gradients, plans, shared)  # of gains and decays
        sums = [np.zeros_like(values) for values in before]
        by_table = np.split(rows_of_slots.reshape(slots, self.row_width), [self._inputs.width], axis=1)
        send_back(self.ranks, self._parts(used, sums, by_table))
        for which, table, values, gradient in zip(own, tables, before, sums, strict=True):
            step_own(which, step, table, self._schedule, values, gradient)

    def _used(self, plans: Plans, row: int) -> tuple[ShardedRows, ShardedRows]:
        """Return the history vectors of a batch, and the output vectors, that each rank's part uses."""
        slots, size = int(plans.sizes[row, 3]), self.ranks.size
        is_token, is_scored = np.zeros((2, size, slots), dtype=np.bool_)
        for rank in range(size):
            part = part_of(plans, row, rank, size)
            first, last = plans.window_tokens[row, [part.first_window, part.last_window]]
            is_token[rank, plans.token_slots[row, first:last]] = True
            is_scored[rank, plans.target_slots[row, part.first_position : part.last_position]] = True
            is_scored[rank, : self.num_negatives] = part.last_position > part.first_position
        items = plans.slot_items[row, :slots]
        return ShardedRows.of_slots(self.ranks, items, is_token), ShardedRows.of_slots(self.ranks, items, is_scored)

    def _parts(
        self, used: tuple[ShardedRows, ShardedRows], own: list[np.ndarray], batch: list[np.ndarray]
    ) -> list[tuple[ShardedRows, torch.Tensor, torch.Tensor]]:
        """Return views of history vectors, output vectors and biases, without the columns that fill up vectors.

        Args:
            used: rows of both tables.
            own: rows (n, width) of both.
            batch: those of all slots (slots, width).
        """
        dim, width, count = self.stage.dim, self.width, self._num_vectors
        own_inputs, own_outputs = map(torch.from_numpy, own)
        inputs, outputs = map(torch.from_numpy, batch)
        own_history, history = (rows.view(len(rows), count, width)[:, :, :dim] for rows in (own_inputs, inputs))
        return [
            (used[0], own_history, history),
            (used[1], own_outputs[:, :dim], outputs[:, :dim]),
            (used[1], own_outputs[:, width], outputs[:, width]),
        ]

    def _sum_recurrence(self, gradients: np.ndarray) -> None:
        """Sum up the gradients of gains and decays over all ranks."""
        if gradients.size:
            columns = gradients.reshape(-1, self.width)[:, : self.stage.dim]
            sums = np.ascontiguousarray(columns)
            self.ranks.sum(sums)
            columns[:] = sums

    def _history_vectors(self) -> np.ndarray:
        """Return the history vectors of all items, in memory that the processes of a machine share."""
        return self._all_history_vectors

    def _write_model(self) -> None:
        """Write the states of all users, and the vectors and biases of the items, to the model."""
        model, columns, rows_of = self.model, self._columns(0), row_shards(self.ranks)
        wholes = self._all_history_vectors, model.item_vectors, model.item_bias
        for name, whole in zip(_SHARDED, wholes, strict=True):
            collect(self.ranks, whole, columns[name], rows_of)
        self._encode_users()
        model.user_bias[:] = 0

    def _encode_users(self) -> None:
        """Write the states of all users to the model; each rank computes those of its own."""
        encoder, items, vectors = self.encoder, self._items_of_users(), self.model.user_vectors
        indptr, bounds = self.split.indptr, self._bounds
        first, last = bounds[self.ranks.rank], bounds[self.ranks.rank + 1]
        inner = first + split_ranges(indptr[first : last + 1] - indptr[first], 8)
        run_ranges(lambda a, b: encode_histories(a, b, indptr, items, encoder, vectors), inner)
        collect(self.ranks, vectors, None, lambda rank: slice(bounds[rank], bounds[rank + 1]))

    def state_dict(self) -> State:
        """Return what :meth:`NextItem.state_dict` does, in memory that the processes of a machine share."""
        rows_of = row_shards(self.ranks)
        return {
            name: collected(self.ranks, array, self.num_items, rows_of) if is_sharded(name) else np.array(array)
            for name, array in self._arrays().items()
        }

    def kept_state(self) -> State:
        """See :meth:`fastncf.trainers.base.Trainer.kept_state`."""
        return self.state_dict()

    def load_state_dict(self, state: State) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.load_state_dict`."""
        own = row_shards(self.ranks)(self.ranks.rank)
        super().load_state_dict({name: array[own] if is_sharded(name) else array for name, array in state.items()})


class ParallelOtherItems(ParallelNextItem, OtherItems):
    """Trains as :class:`~fastncf.trainers.other_items.OtherItems` does, by the ranks of a process group."""

    def _memory_of_states(self, count: int) -> np.ndarray:
        """Return memory for a number of float32, which the processes of a machine share."""
        return empty_shared(count, np.float32)


def is_sharded(name: str) -> bool:
    """Return whether an array of a state has a row for each item."""
    return name == "steps" or name.rpartition(".")[2] in _SHARDED


def part_of(plans: Plans, row: int, rank: int, size: int) -> kernels.Part:
    """Return the part of a batch that a rank computes: about the same number of chunks for each.

    Args:
        plans: of the batches.
        row: of the batch.
        rank: number of the rank.
        size: number of ranks.
    """
    positions = int(plans.sizes[row, 2])
    chunks = -(-positions // kernels.CHUNK)
    first, last = rank * chunks // size, (rank + 1) * chunks // size
    start, end = first * kernels.CHUNK, min(last * kernels.CHUNK, positions)
    if start >= end:
        return kernels.Part(0, 0, 0, 0, 0, 0)
    windows = plans.position_windows[row]
    return kernels.Part(first, last, start, end, int(windows[start]), int(windows[end - 1]) + 1)
