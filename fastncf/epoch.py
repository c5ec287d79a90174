"""The epoch that lives on the device: int32 tensors, an order drawn there, each batch gathered when it is its turn.

While one epoch trains, the order and the negatives of the next are drawn by a thread that holds no GIL; on CUDA they
cross through pinned memory on a stream of their own. A batch is gathered just before its step, not the epoch at its
start: the same bytes are moved, but the first batch waits for none of the others, and no second copy of the epoch is
needed.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastncf.hashing import Stream, key
from fastncf.permutation import permutation
from fastncf.sampler import sample_negatives
from fastncf.split import Split
from fastncf.weights import Weights


class Batch(NamedTuple):
    """One step's interactions: ``user`` (B,), ``positive`` (B,), ``negatives`` (B, K), all int32."""

    user: Tensor
    positive: Tensor
    negatives: Tensor


class Epochs:
    """All epochs of a fit, one after the other; a context manager, since a thread draws ahead.

    Args:
        split: what is trained on, N interactions.
        num_negatives: K.
        batch_size: samples a batch; it holds ``max(1, batch_size // (1 + K))`` interactions, the last one the rest.
        seed: determines negatives and order.
        device: where the tensors live.
        shuffle: a new order each epoch; otherwise the order of epoch 0 serves all.
        last: number of epochs; none is drawn beyond.
        weights: how often each item is drawn as a negative; all alike where it is not given.
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
        weights: Weights | None = None,
    ) -> None:
        self.split = split
        self.num_negatives = num_negatives
        self.rows = max(1, batch_size // (1 + num_negatives))
        self.seed = seed
        self.device = device
        self.shuffle = shuffle
        self.last = last
        self.weights = weights
        self.sample_seconds = 0.0
        users = np.repeat(np.arange(split.num_users, dtype=np.int32), np.diff(split.indptr))
        self._user = torch.from_numpy(users).to(device)  # (N,) int32, CSR order
        self._positive = torch.from_numpy(split.indices).to(device)  # (N,) int32, CSR order
        pinned = device.type == "cuda"
        shape = (len(split.indices), num_negatives)
        self._buffers = [torch.empty(shape, dtype=torch.int32, pin_memory=pinned) for _ in range(min(2, last))]
        self._copies: list[torch.cuda.Event | None] = [None, None]
        self._stream = torch.cuda.Stream(device) if pinned else None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="fastncf-sampler")
        self._drawn: dict[int, Future[tuple[Tensor, Tensor]]] = {}

    def __enter__(self) -> "Epochs":
        self._ask(0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def batches(self) -> int:
        """Batches in an epoch."""
        return -(-len(self._user) // self.rows)

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of an epoch, every interaction once, the last partial batch kept."""
        self._ask(number)
        order, negatives = self._drawn.pop(number).result()
        self._ask(number + 1)
        if self._stream is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_stream(self._stream)
            for drawn in (order, negatives):
                drawn.record_stream(stream)  # its memory is not to be reused by the copy stream before it was read
        for start in range(0, len(order), self.rows):
            rows = order[start : start + self.rows]
            yield Batch(*(epoch.index_select(0, rows) for epoch in (self._user, self._positive, negatives)))

    def _ask(self, number: int) -> None:
        if number < self.last and number not in self._drawn:
            self._drawn[number] = self._pool.submit(self._draw, number)

    def _draw(self, number: int) -> tuple[Tensor, Tensor]:
        """Order (N,) and negatives (N, K) int32 of an epoch on the device; runs in the sampler's thread."""
        start = time.perf_counter()
        which = number % 2
        copied = self._copies[which]
        if copied is not None:
            copied.synchronize()  # the pinned buffer may be overwritten once its last copy has left it
        buffer = self._buffers[which]
        sample_negatives(
            self.split.indptr,
            self.split.indices,
            self.split.num_items,
            self.num_negatives,
            seed=self.seed,
            epoch=number,
            out=buffer.numpy(),
            weights=self.weights,
        )
        order_key = key(self.seed, Stream.PERMUTATION, number if self.shuffle else 0)
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            negatives = buffer.to(self.device, non_blocking=True)
            if self._stream is not None:
                self._copies[which] = self._stream.record_event()
            order = permutation(len(self._user), order_key, self.device)
        self.sample_seconds += time.perf_counter() - start
        return order, negatives
