"""The epoch that lives on the device: int32 tensors, an order drawn there, batches as views of them.

While one epoch trains, the negatives of the next are drawn by a thread that holds no GIL; on CUDA they cross through
pinned memory on a stream of their own.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fastncf.hashing import MIX_1, MIX_2, Stream, key
from fastncf.sampler import sample_negatives
from fastncf.split import Split
from fastncf.weights import Weights

_ROUNDS = 4
_CHUNK = 1 << 16


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
        self._drawn: dict[int, Future[Tensor]] = {}

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
        negatives = self._drawn.pop(number).result()
        self._ask(number + 1)
        if self._stream is not None:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_stream(self._stream)
            negatives.record_stream(stream)  # its memory is not to be reused by the copy stream before it was read
        order = permutation(
            len(self._user), key(self.seed, Stream.PERMUTATION, number if self.shuffle else 0), self.device
        )
        user, positive, negatives = self._user[order], self._positive[order], negatives[order]
        for start in range(0, len(user), self.rows):
            stop = start + self.rows
            yield Batch(user[start:stop], positive[start:stop], negatives[start:stop])

    def _ask(self, number: int) -> None:
        if number < self.last and number not in self._drawn:
            self._drawn[number] = self._pool.submit(self._draw, number)

    def _draw(self, number: int) -> Tensor:
        """Negatives (N, K) int32 of an epoch on the device; runs in the sampler's thread."""
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
        self.sample_seconds += time.perf_counter() - start
        if self._stream is None:
            return buffer
        with torch.cuda.stream(self._stream):
            on_device = buffer.to(self.device, non_blocking=True)
            self._copies[which] = self._stream.record_event()
        return on_device


def permutation(size: int, seed_key: int, device: torch.device) -> Tensor:
    """A keyed order of ``range(size)``: the same bits on every device.

    A balanced Feistel network (Luby and Rackoff 1988) is a bijection of the numbers below the next power of four;
    those that land beyond ``size`` are left out, which keeps the others in their drawn order.

    Returns:
        (size,) int64 on ``device``.
    """
    half = max(1, ((max(size, 2) - 1).bit_length() + 1) // 2)
    rounds = [key(seed_key, number) for number in range(_ROUNDS)]
    parts = []
    # On the CPU a chunk that stays in cache is several times faster; a GPU wants few, large steps.
    chunk = _CHUNK if device.type == "cpu" else 1 << 24
    for start in range(0, 1 << (2 * half), chunk):
        x = torch.arange(start, min(start + chunk, 1 << (2 * half)), device=device)
        x = _feistel(x, half, rounds)
        parts.append(x[x < size])
    return torch.cat(parts)


def _feistel(x: Tensor, half: int, rounds: list[int]) -> Tensor:
    mask = (1 << half) - 1
    left, right = x >> half, x & mask
    for round_key in rounds:
        mixed = (right + (round_key & 0x7FFFFFFF)) * (MIX_1 & 0x7FFFFFFF)
        mixed = (mixed ^ (mixed >> 17)) * (MIX_2 & 0x7FFFFFFF | 1)
        left, right = right, left ^ ((mixed >> 20) & mask)
    return (left << half) | right
