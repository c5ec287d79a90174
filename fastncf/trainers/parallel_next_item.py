"""Training of states by softmax on several processes, which share out the positions of each batch."""

import itertools

import numpy as np

from fastncf import distributed
from fastncf.data.csr import split_ranges
from fastncf.data.split import Split
from fastncf.kernels.cpu import next_item as kernels
from fastncf.kernels.cpu.encoder import encode_histories
from fastncf.kernels.cpu.factors import Factors
from fastncf.kernels.cpu.simd import aligned_zeros
from fastncf.stage import Stage
from fastncf.threads import even_ranges, run_ranges, run_threads
from fastncf.trainers.next_item import NextItem, Work


class ParallelNextItem(NextItem):
    """Trains as :class:`~fastncf.trainers.next_item.NextItem` does, by the ranks of a process group.

    All ranks plan the same batches. Each one computes the gradients of its part of the positions; those of the rows
    that the batch uses, and of these the vectors that it uses, are summed over all ranks, and every rank takes the same
    step. Parameters differ from those of one process by the rounding of these sums, and not between ranks.
    """

    def __init__(self, model: Factors, split: Split, stage: Stage, order: np.ndarray | None = None) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.__init__`; there must be ranks."""
        ranks = distributed.current()
        assert ranks is not None
        self.ranks = ranks
        self._gradients = np.empty(0, dtype=np.float32)
        super().__init__(model, split, stage, order)

    def _train_batches(self, first: int, count: int, step: int, work: Work) -> float:
        """Train the batches that are planned, and return their loss, summed over all ranks."""
        num_recurrence = self._recurrence[0].size
        most = num_recurrence + len(work.buffers.inputs) + len(work.buffers.outputs)
        if len(self._gradients) < most:
            self._gradients = aligned_zeros(most)
        gradients, total = self._gradients, np.zeros(1)
        for row in range(count):
            slots = int(work.plans.sizes[row, 3])
            if work.plans.sizes[row, 2] == 0:
                continue
            shared, part = self._shared(1, work), part_of(work.plans, row, self.ranks.rank, self.ranks.size)

            def sum_up(thread: int, row: int = row, shared: kernels.Shared = shared, part: kernels.Part = part) -> None:
                kernels.sum_gradients(
                    thread, row, first + row, step + row, part, gradients, work.plans, shared, work.scratch[thread]
                )

            def apply(a: int, b: int, row: int = row, shared: kernels.Shared = shared) -> None:
                kernels.apply_gradients(a, b, row, step + row, gradients, work.plans, shared)

            run_threads(sum_up, len(work.scratch))
            self._sum_over_ranks(gradients[: num_recurrence + slots * self.row_width], work.plans, row)
            run_ranges(apply, even_ranges(slots, 1))
            total += shared.total
        self.ranks.sum(total)
        return float(total[0])

    def _sum_over_ranks(self, gradients: np.ndarray, plans: kernels.Plans, row: int) -> None:
        """Sum up the gradients of a batch over all ranks: those of what the batch uses of each item.

        A negative that no history of the batch holds has no gradient of its history vectors, and an item that is
        neither a negative nor a target none of its output vector. Columns that fill up vectors are 0 as well.

        Args:
            gradients: of gains and decays, and of the slots, see ``sum_gradients`` of the kernels; written.
            plans: of the batches.
            row: of the batch.
        """
        slots, dim = int(plans.sizes[row, 3]), self.stage.dim
        recurrence, rows = np.split(gradients, [self._recurrence[0].size])
        rows = rows.reshape(slots, self.row_width)
        in_histories = np.diff(plans.input_indptr[row, : slots + 1]) > 0
        is_scored = np.diff(plans.target_indptr[row, : slots + 1]) > 0
        is_scored[: self.num_negatives] = True
        history, output = rows[:, : self._inputs.width], rows[:, self._inputs.width :]
        history = history.reshape(slots, self._num_vectors, self.width)[:, :, :dim]
        recurrence = recurrence.reshape(-1, self.width)[:, :dim]
        parts = [recurrence, history[in_histories], output[is_scored, :dim], output[is_scored, self.width]]
        packed = np.concatenate([part.reshape(-1) for part in parts])
        self.ranks.sum(packed)
        ends = np.cumsum([part.size for part in parts])[:-1]
        sums = [part.reshape(old.shape) for part, old in zip(np.split(packed, ends), parts, strict=True)]
        recurrence[:], history[in_histories] = sums[0], sums[1]
        output[is_scored, :dim], output[is_scored, self.width] = sums[2], sums[3]

    def _encode_users(self) -> None:
        """Write the states of all users to the model; each rank computes those of its own."""
        encoder, windows, vectors = self.encoder, self.windows, self.model.user_vectors
        bounds = split_ranges(windows.indptr, self.ranks.size)
        first, last = bounds[self.ranks.rank], bounds[self.ranks.rank + 1]
        inner = first + split_ranges(windows.indptr[first : last + 1] - windows.indptr[first], 8)
        run_ranges(lambda a, b: encode_histories(a, b, windows.indptr, windows.items, encoder, vectors), inner)
        for rank, (a, b) in enumerate(itertools.pairwise(bounds)):
            self.ranks.share(vectors[a:b], rank)


def part_of(plans: kernels.Plans, row: int, rank: int, size: int) -> kernels.Part:
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
