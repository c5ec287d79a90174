"""Epochs on the device that trains: the order of the interactions, their negatives, and batches gathered by both.

On CUDA with Triton, orders and negatives are drawn on the device, the same bits as on the CPU. Otherwise a thread draws
the next epoch while the current one trains; the kernels that it calls release the GIL, and on CUDA what it draws is
copied through pinned memory on a stream of its own. A batch is gathered just before its step and not the epoch at its
start: the same bytes move, but the first batch does not wait for the others, and no second copy of the epoch is held.
"""

import math
import time
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from fastncf.data.split import Split
from fastncf.device import Stopwatch, triton_works
from fastncf.kernels.cpu.alias import AliasTable
from fastncf.memory import bytes_within_limits
from fastncf.rng import Stream, key
from fastncf.sampling import distributions
from fastncf.sampling.negatives import position_keys, require_unseen_items, sample_negatives
from fastncf.sampling.permutation import permutation
from fastncf.stage import Stage
from fastncf.threads import Task, end_tasks


class Batch(NamedTuple):
    """The interactions of one step.

    Attributes:
        user: (B,) int32.
        positive: (B,) int32, the items that the users interacted with.
        negatives: (B, K) int32.
        weights: (B,) float32, what the losses of the interactions are multiplied by; None where all are 1.
    """

    user: Tensor
    positive: Tensor
    negatives: Tensor
    weights: Tensor | None = None


class SamplingSpec(NamedTuple):
    """Settings that determine the order and the negatives of each epoch, and the device that needs them.

    Attributes:
        split: training interactions, N.
        num_negatives: K.
        seed: determines orders and negatives.
        device: where they are needed.
        shuffle: whether each epoch has an order of its own; otherwise the order of epoch 0 serves all.
        num_epochs: number of epochs, at least 1; none is drawn beyond.
        alias_table: distribution of the negatives over all items; uniform where it is None.
        rows: range of interactions whose negatives are needed; all of them where it is None.
    """

    split: Split
    num_negatives: int
    seed: int
    device: torch.device
    shuffle: bool
    num_epochs: int
    alias_table: AliasTable | None = None
    rows: tuple[int, int] | None = None

    @classmethod
    def from_stage(cls, split: Split, stage: Stage, rows: tuple[int, int] | None = None) -> "SamplingSpec":
        """Return what a stage asks for.

        Args:
            split: training interactions.
            stage: settings.
            rows: range of interactions whose negatives are needed; all of them where it is None.

        Raises:
            ConfigError: there is no distribution of the name ``stage.negatives``, or it has unusable weights.
        """
        return cls(
            split,
            num_negatives=stage.num_negatives,
            seed=stage.seed,
            device=torch.device(stage.device),
            shuffle=stage.shuffle,
            num_epochs=stage.epochs,
            alias_table=distributions.alias_table(stage.negatives, split.item_counts(), stage.negatives_exponent),
            rows=rows,
        )

    @property
    def negatives_shape(self) -> tuple[int, int]:
        """(N, K)."""
        return len(self.split.indices), self.num_negatives

    def order(self, number: int) -> Tensor:
        """Return the order (N,) int32 or int64 of an epoch on the device: positions in the CSR, each once."""
        order_key = key(self.seed, Stream.PERMUTATION, number if self.shuffle else 0)
        return permutation(len(self.split.indices), order_key, self.device)


class EpochLoader:
    """Loads one epoch after the other; a context manager that ends the thread which draws them.

    Args:
        spec: what determines orders and negatives.
        batch_size: samples in a batch, which holds ``max(1, batch_size // (1 + K))`` interactions; the last batch of an
            epoch holds the rest.

    Attributes:
        interactions_per_batch: number of interactions in each batch but the last.
        user: (N,) int32 on the device, in the order of the CSR.
        positive: (N,) int32, likewise.
        weights: (N,) float32, likewise, what the losses of the interactions are multiplied by; None where all are 1.
        order: (N,) int32 or int64 of the loaded epoch; on CUDA always the same memory.
        negatives: (N, K) int32 of the loaded epoch, in the order of the CSR; on CUDA always the same memory.
    """

    def __init__(self, spec: SamplingSpec, batch_size: int) -> None:
        split, device = spec.split, spec.device
        self.interactions_per_batch = max(1, batch_size // (1 + spec.num_negatives))
        indptr, self.positive = (torch.from_numpy(array).to(device) for array in (split.indptr, split.indices))
        users = torch.arange(split.num_users, dtype=torch.int32, device=device)
        self.user = torch.repeat_interleave(users, indptr.diff(), output_size=len(split.indices))
        weights = split.interaction_weights()
        self.weights = None if weights is None else torch.from_numpy(weights).to(device)
        self.order = self.negatives = torch.empty(0, dtype=torch.int32, device="cpu")
        self._sampler: _EpochSampler
        if triton_works(device):
            self._sampler = DeviceSampler(spec, self.user, indptr, self.positive)
        else:
            self._sampler = PrefetchSampler(spec)

    @classmethod
    def from_stage(cls, split: Split, stage: Stage, rows: tuple[int, int] | None = None) -> "EpochLoader":
        """Return the epochs of a stage on its device; see :meth:`SamplingSpec.from_stage`.

        Raises:
            ConfigError: there is no distribution of the name ``stage.negatives``, or it has unusable weights.
        """
        return cls(SamplingSpec.from_stage(split, stage, rows), stage.batch_size)

    @property
    def batches(self) -> int:
        """Number of batches in an epoch."""
        return -(-len(self.user) // self.interactions_per_batch)

    def load(self, number: int) -> None:
        """Load the epoch of a number, counted from 0, in place of the one before."""
        self.order, self.negatives = self._sampler.load(number)

    def epoch(self, number: int) -> Iterator[Batch]:
        """Load an epoch and return its batches."""
        self.load(number)
        return map(self.gather, self.batch_indices())

    def batch_indices(self) -> Iterator[Tensor]:
        """Yield the interactions (B,) of each batch of the loaded epoch, as positions in the CSR."""
        size = self.interactions_per_batch
        for start in range(0, len(self.order), size):  # split() would make all of them before the first is used
            yield self.order[start : start + size]

    def gather(self, indices: Tensor) -> Batch:
        """Return the batch of some interactions (B,), given as positions in the CSR."""
        user, positive, negatives = (
            array.index_select(0, indices) for array in (self.user, self.positive, self.negatives)
        )
        weights = None if self.weights is None else self.weights.index_select(0, indices)
        return Batch(user, positive, negatives, weights)

    def sampling_seconds(self) -> float:
        """Return the seconds that drawing took so far; on CUDA, the device must have finished it."""
        return self._sampler.seconds()

    def close(self) -> None:
        """End the thread that draws epochs; none can be loaded afterwards."""
        self._sampler.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _EpochSampler(Protocol):
    """Draws epochs."""

    def load(self, number: int) -> tuple[Tensor, Tensor]:
        """Return the order (N,) and the negatives (N, K) of an epoch; those of the one before are no longer valid."""

    def seconds(self) -> float:
        """Return the seconds that drawing took so far."""

    def close(self) -> None:
        """End what runs beside the training."""


class DeviceSampler:
    """Draws an epoch on CUDA when it is loaded, each time into the same memory."""

    def __init__(self, spec: SamplingSpec, user: Tensor, indptr: Tensor, positive: Tensor) -> None:
        from fastncf.kernels.cuda.draws import DeviceAliasTable, DeviceCSR

        require_unseen_items(spec.split.indptr, spec.split.num_items)
        self.spec = spec
        longest = int(np.diff(spec.split.indptr).max())
        self.csr = DeviceCSR(user, indptr, positive, spec.split.num_items, longest)
        self.table = None if spec.alias_table is None else DeviceAliasTable.from_table(spec.alias_table, positive)
        self.negatives = torch.empty(spec.negatives_shape, dtype=torch.int32, device=spec.device)
        self.order: Tensor | None = None
        self.watches: list[Stopwatch] = []

    def load(self, number: int) -> tuple[Tensor, Tensor]:
        """Draw an epoch; see :meth:`_EpochSampler.load`."""
        from fastncf.kernels.cuda.draws import fill_negatives

        spec = self.spec
        watch = Stopwatch(spec.device)
        keys = position_keys(spec.seed, Stream.NEGATIVES, number, positions=self.negatives.numel()).view(np.int32)
        device_keys = torch.from_numpy(keys).to(spec.device)
        fill_negatives(self.negatives, self.csr, device_keys, self.table)
        if self.order is None:
            self.order = spec.order(number)
        elif spec.shuffle:
            self.order.copy_(spec.order(number))
        watch.stop()
        self.watches.append(watch)
        return self.order, self.negatives

    def seconds(self) -> float:
        """Return the seconds that drawing took so far."""
        return sum(watch.seconds() for watch in self.watches)

    def close(self) -> None:
        """Do nothing: there is no thread."""


class PrefetchSampler:
    """Draws an epoch on the CPU, by a thread, while the epoch before it trains.

    Two buffers take turns: that of an even epoch is not written while an odd one trains. For CUDA they are pinned and
    copied to the device. Where a limit of the memory has room for one, each epoch is drawn when it is loaded.
    """

    def __init__(self, spec: SamplingSpec) -> None:
        self.spec = spec
        cuda, shape = spec.device.type == "cuda", spec.negatives_shape
        is_tight = 2 * 4 * math.prod(shape) > bytes_within_limits() // 2
        self.buffers = [
            torch.empty(shape, dtype=torch.int32, device="cpu", pin_memory=cuda)
            for _ in range(1 if is_tight else min(2, spec.num_epochs))
        ]
        self.copies: list[torch.cuda.Event | None] = [None, None]
        self.stream = torch.cuda.Stream(spec.device) if cuda else None
        self.loaded: tuple[Tensor, Tensor] | None = None
        self.prefetched: tuple[int, Task[tuple[Tensor, Tensor]]] | None = None
        self.busy_seconds = 0.0
        self.prefetch(0)

    def load(self, number: int) -> tuple[Tensor, Tensor]:
        """Wait for an epoch and let the next one be drawn; see :meth:`_EpochSampler.load`."""
        task = self.prefetch(number)
        self.prefetched = None
        drawn = task.result()
        if number + 1 < self.spec.num_epochs and len(self.buffers) > 1:
            self.prefetch(number + 1)
        if self.stream is None:
            return drawn
        stream = torch.cuda.current_stream(self.spec.device)
        stream.wait_stream(self.stream)
        if self.loaded is None:
            self.loaded = drawn[0].clone(), drawn[1].clone()
        else:
            for old, new in zip(self.loaded, drawn, strict=True):
                old.copy_(new)
        for tensor in drawn:
            tensor.record_stream(stream)  # its memory is not to be reused by the copy stream before it was read
        return self.loaded

    def prefetch(self, number: int) -> Task[tuple[Tensor, Tensor]]:
        """Let a thread draw an epoch in advance, unless it does so already, in place of any other."""
        if self.prefetched is None or self.prefetched[0] != number:
            if self.prefetched is not None:  # which may write to the same buffer
                self.prefetched[1].cancel()
                self.prefetched[1].wait()
            self.prefetched = number, Task(partial(self.draw, number))
        return self.prefetched[1]

    def draw(self, number: int) -> tuple[Tensor, Tensor]:
        """Return the order (N,) and the negatives (N, K) int32 of an epoch on the device; runs in the thread."""
        start = time.perf_counter()
        turn = number % len(self.buffers)
        copied = self.copies[turn]
        if copied is not None:
            copied.synchronize()  # the pinned buffer may be written once its last copy has left it
        spec, buffer = self.spec, self.buffers[turn]
        sample_negatives(
            spec.split.indptr,
            spec.split.indices,
            spec.split.num_items,
            spec.num_negatives,
            seed=spec.seed,
            epoch=number,
            out=buffer.numpy(),
            alias_table=spec.alias_table,
            rows=spec.rows,
        )
        with nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
            negatives = buffer.to(spec.device, non_blocking=True)
            if self.stream is not None:
                self.copies[turn] = self.stream.record_event()
            order = spec.order(number)
        self.busy_seconds += time.perf_counter() - start
        return order, negatives

    def seconds(self) -> float:
        """Return the seconds that the thread spent so far."""
        return self.busy_seconds

    def close(self) -> None:
        """End the thread, within the epoch that it is drawing."""
        if self.prefetched is not None:
            end_tasks([self.prefetched[1]])
