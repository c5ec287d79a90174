"""The epoch that lives on the device: int32 tensors, an order drawn there, each batch gathered when it is its turn.

On CUDA with Triton, order and negatives are drawn on the device too, the same bits as the CPU's. Otherwise they are
drawn by a thread that holds no GIL while the epoch before trains, and cross to CUDA through pinned memory on a stream
of their own. A batch is gathered just before its step, not the epoch at its start: the same bytes are moved, but the
first batch waits for none of the others, and no second copy of the epoch is needed.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from fastncf.config import Config
from fastncf.data.split import Split
from fastncf.device import Stopwatch, triton_works
from fastncf.kernels.cpu.alias import AliasTable
from fastncf.rng import Stream, key
from fastncf.sampling.negatives import position_keys, require_unseen_items, sample_negatives
from fastncf.sampling.permutation import permutation


class Batch(NamedTuple):
    """One step's interactions: ``user`` (B,), ``positive`` (B,), ``negatives`` (B, K), all int32."""

    user: Tensor
    positive: Tensor
    negatives: Tensor


class EpochLoader:
    """All epochs of a fit, one after the other; a context manager, since a thread may draw ahead.

    Args:
        split: what is trained on, N interactions.
        num_negatives: K.
        batch_size: samples a batch; it holds ``max(1, batch_size // (1 + K))`` interactions, the last one the rest.
        seed: determines negatives and order.
        device: where the tensors live.
        shuffle: a new order each epoch; otherwise the order of epoch 0 serves all.
        last: number of epochs; none is drawn beyond.
        weights: how often each item is drawn as a negative; all alike where it is not given.

    Attributes:
        rows: interactions in a batch.
        order: (N,) int32 or int64, that of the epoch that was loaded; on CUDA always the same memory.
        negatives: (N, K) int32, likewise.
    """

    def __init__(
        self,
        split: Split,
        *,
        num_negatives: int,
        batch_size: int,
        seed: int,
        device: torch.device,
        shuffle: bool,
        last: int,
        weights: AliasTable | None = None,
    ) -> None:
        self.rows = max(1, batch_size // (1 + num_negatives))
        indptr, self.positive = (torch.from_numpy(array).to(device) for array in (split.indptr, split.indices))
        users = torch.arange(split.num_users, dtype=torch.int32, device=device)
        self.user = torch.repeat_interleave(users, indptr.diff(), output_size=len(split.indices))  # (N,) int32
        draws = SamplingSpec(split, num_negatives, seed, device, shuffle, last, weights)
        self._source: _Source
        if triton_works(device):
            self._source = DeviceSampler(draws, self.user, indptr, self.positive)
        else:
            self._source = PrefetchSampler(draws)
        self.order, self.negatives = torch.empty(0), torch.empty(0)

    @classmethod
    def of(cls, split: Split, config: Config, device: torch.device, weights: AliasTable | None) -> "EpochLoader":
        """Those of a fit; ``config`` with its recipe, see :meth:`~fastncf.config.Config.with_recipe`."""
        assert config.batch_size is not None
        assert config.epochs is not None
        return cls(
            split,
            num_negatives=config.num_negatives,
            batch_size=config.batch_size,
            seed=config.seed,
            device=device,
            shuffle=config.shuffle,
            last=config.epochs,
            weights=weights,
        )

    def __enter__(self) -> "EpochLoader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._source.close()

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.user) // self.rows)

    def load(self, number: int) -> None:
        """Make an epoch the one that batches are taken from."""
        self.order, self.negatives = self._source.load(number)

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of an epoch, which is loaded."""
        self.load(number)
        return map(self.take, self.places())

    def take(self, rows: Tensor) -> Batch:
        """The interactions of some rows (B,) of the CSR, which is what the order holds."""
        return Batch(*(epoch.index_select(0, rows) for epoch in (self.user, self.positive, self.negatives)))

    def places(self) -> Iterator[Tensor]:
        """The rows of each batch of the epoch that was loaded: every interaction once, the last partial batch kept."""
        for start in range(0, len(self.order), self.rows):  # split() would make all of them before the first is taken
            yield self.order[start : start + self.rows]

    def sample_seconds(self) -> float:
        """Seconds that drawing has taken; the device must be done with it."""
        return self._source.seconds()


class Training:
    """What trains batch by batch: a context manager, since a thread may draw its epochs ahead.

    Attributes:
        epochs: what the batches are taken from.
    """

    epochs: EpochLoader

    def __enter__(self) -> Self:
        self.epochs.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.epochs.__exit__(kind, error, trace)


class SamplingSpec(NamedTuple):
    """What an order and negatives are drawn by; see :class:`EpochLoader`."""

    split: Split
    num_negatives: int
    seed: int
    device: torch.device
    shuffle: bool
    last: int
    weights: AliasTable | None

    @property
    def shape(self) -> tuple[int, int]:
        """(N, K)."""
        return len(self.split.indices), self.num_negatives

    def order(self, number: int) -> Tensor:
        """(N,) on the device."""
        order_key = key(self.seed, Stream.PERMUTATION, number if self.shuffle else 0)
        return permutation(len(self.split.indices), order_key, self.device)


class _Source(Protocol):
    """Where epochs come from."""

    def load(self, number: int) -> tuple[Tensor, Tensor]:
        """Order (N,) and negatives (N, K) of an epoch; those of the one before are no longer valid."""

    def seconds(self) -> float:
        """Seconds spent so far."""

    def close(self) -> None:
        """End what goes on beside."""


class DeviceSampler:
    """Drawn on CUDA when they are needed, into the same memory each time."""

    def __init__(self, draws: SamplingSpec, owner: Tensor, indptr: Tensor, indices: Tensor) -> None:
        from fastncf.kernels.cuda.draws import DeviceAliasTable, DeviceCSR

        require_unseen_items(draws.split.indptr, draws.split.num_items)
        self.draws = draws
        longest = int(np.diff(draws.split.indptr).max())
        self.csr = DeviceCSR(owner, indptr, indices, draws.split.num_items, longest)
        self.table = None if draws.weights is None else DeviceAliasTable.from_table(draws.weights, indices)
        self.negatives = torch.empty(draws.shape, dtype=torch.int32, device=draws.device)
        self.order: Tensor | None = None
        self.watches: list[Stopwatch] = []

    def load(self, number: int) -> tuple[Tensor, Tensor]:
        from fastncf.kernels.cuda.draws import fill_negatives

        draws = self.draws
        watch = Stopwatch(draws.device)
        keys = position_keys(draws.seed, Stream.NEGATIVES, number, positions=self.negatives.numel()).view(np.int32)
        on_device = torch.from_numpy(keys).to(draws.device)
        fill_negatives(self.negatives, self.csr, on_device, self.table)
        if self.order is None:
            self.order = draws.order(number)
        elif draws.shuffle:
            self.order.copy_(draws.order(number))
        watch.stop()
        self.watches.append(watch)
        return self.order, self.negatives

    def seconds(self) -> float:
        return sum(watch.seconds() for watch in self.watches)

    def close(self) -> None:
        pass


class PrefetchSampler:
    """Drawn by a thread, one epoch ahead; to CUDA by pinned memory and a stream of its own."""

    def __init__(self, draws: SamplingSpec) -> None:
        self.draws = draws
        cuda = draws.device.type == "cuda"
        self.buffers = [torch.empty(draws.shape, dtype=torch.int32, pin_memory=cuda) for _ in range(min(2, draws.last))]
        self.copies: list[torch.cuda.Event | None] = [None, None]
        self.stream = torch.cuda.Stream(draws.device) if cuda else None
        self.loaded: tuple[Tensor, Tensor] | None = None
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="fastncf-sampler")
        self.drawn: dict[int, Future[tuple[Tensor, Tensor]]] = {}
        self.spent = 0.0
        self.ask(0)

    def load(self, number: int) -> tuple[Tensor, Tensor]:
        self.ask(number)
        drawn = self.drawn.pop(number).result()
        self.ask(number + 1)
        if self.stream is None:
            return drawn
        stream = torch.cuda.current_stream(self.draws.device)
        stream.wait_stream(self.stream)
        if self.loaded is None:
            self.loaded = drawn[0].clone(), drawn[1].clone()
        else:
            for old, new in zip(self.loaded, drawn, strict=True):
                old.copy_(new)
        for tensor in drawn:
            tensor.record_stream(stream)  # its memory is not to be reused by the copy stream before it was read
        return self.loaded

    def ask(self, number: int) -> None:
        if number < self.draws.last and number not in self.drawn:
            self.drawn[number] = self.pool.submit(self.draw, number)

    def draw(self, number: int) -> tuple[Tensor, Tensor]:
        """Order (N,) and negatives (N, K) int32 of an epoch on the device; runs in the sampler's thread."""
        start = time.perf_counter()
        which = number % 2
        copied = self.copies[which]
        if copied is not None:
            copied.synchronize()  # the pinned buffer may be overwritten once its last copy has left it
        buffer, split = self.buffers[which], self.draws.split
        sample_negatives(
            split.indptr,
            split.indices,
            split.num_items,
            self.draws.num_negatives,
            seed=self.draws.seed,
            epoch=number,
            out=buffer.numpy(),
            weights=self.draws.weights,
        )
        with nullcontext() if self.stream is None else torch.cuda.stream(self.stream):
            negatives = buffer.to(self.draws.device, non_blocking=True)
            if self.stream is not None:
                self.copies[which] = self.stream.record_event()
            order = self.draws.order(number)
        self.spent += time.perf_counter() - start
        return order, negatives

    def seconds(self) -> float:
        return self.spent

    def close(self) -> None:
        self.pool.shutdown(wait=True, cancel_futures=True)
