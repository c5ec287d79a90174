"""Ranking metrics of held-out items: candidate lists scored at once, rank by counting, nothing is sorted.

The rank of a positive (from 0) is the number of negatives that are *not lower* than it: ties and NaN count against
it, duplicates of the positive do not count, and a positive whose score is not finite is a miss.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from fastncf.device import chunk_bytes, device_guard
from fastncf.errors import DeviceError
from fastncf.evaluation.candidates import CandidateLists, ranks_by_factors
from fastncf.evaluation.metrics import MISS
from fastncf.kernels.cpu.ranking import count_not_lower
from fastncf.models.scorers import scorer


def on_device(lists: CandidateLists[np.ndarray], device: torch.device) -> CandidateLists[Tensor]:
    """The lists as tensors on a device."""
    return CandidateLists(*(torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in lists))


def rank_by_counting(positive: Tensor, negatives: Tensor, counted: Tensor) -> Tensor:
    """Ranks (B,) int64 from 0 of positives (B,) among those negatives (B, C) that are ``counted`` (B, C)."""
    not_lower = ~(negatives < positive.unsqueeze(-1)) & counted
    ranks = not_lower.sum(-1)
    return torch.where(torch.isfinite(positive), ranks, MISS)


def rank_candidates(model: nn.Module, lists: CandidateLists[Tensor]) -> Tensor:
    """Rank of each held-out item within its list, (T,) int64 from 0."""
    length = lists.negatives.shape[1]
    with _evaluating(model, lists.users.device):
        scores_of = scorer(model)
        if scores_of.factors is not None:
            arrays = CandidateLists(*(tensor.numpy() for tensor in lists))
            return torch.from_numpy(ranks_by_factors(scores_of.factors, arrays))

        def rank(part: slice) -> Tensor:
            positives, negatives = lists.positives[part].unsqueeze(-1), lists.negatives[part]
            scores = scores_of.lists(lists.users[part], torch.cat([positives, negatives.clamp(min=0)], dim=1))
            counted = (negatives >= 0) & (negatives != positives)
            return rank_by_counting(scores[:, 0], scores[:, 1:], counted)

        return _in_chunks(rank, len(lists.users), (length + 1) * scores_of.list_bytes, lists.users.device)


def rank_catalogue(
    model: nn.Module, users: Tensor, positives: Tensor, indptr: np.ndarray, indices: np.ndarray, num_items: int
) -> Tensor:
    """Rank of each held-out item among all items that its user has not touched before, (T,) int64 from 0.

    Args:
        model: scores (users, items).
        users: (T,) int32.
        positives: (T,) int32.
        indptr: (U + 1,) int64 of what is excluded (training and validation items), without the positives.
        indices: (N,) int32.
        num_items: I.
    """
    with _evaluating(model, users.device):
        scores_of = scorer(model)
        seen = [torch.from_numpy(array).to(users.device) for array in (indptr, indices)]

        def rank(part: slice) -> Tensor:
            scores = scores_of.catalogue(users[part], num_items)
            if scores.device.type == "cpu" and scores.dtype in (torch.float32, torch.float64):
                return _count_by_kernel(scores, users[part], positives[part], indptr, indices)
            return _count_by_tensors(scores, users[part], positives[part], *seen)

        return _in_chunks(rank, len(users), num_items * scores_of.catalogue_bytes, users.device)


def _count_by_kernel(
    scores: Tensor, users: Tensor, positives: Tensor, indptr: np.ndarray, indices: np.ndarray
) -> Tensor:
    ranks = torch.empty(len(users), dtype=torch.int64)
    count_not_lower(scores.numpy(), users.numpy(), positives.numpy(), indptr, indices, miss=MISS, ranks=ranks.numpy())
    return ranks


def _count_by_tensors(scores: Tensor, users: Tensor, positives: Tensor, indptr: Tensor, indices: Tensor) -> Tensor:
    positive = scores.gather(1, positives.long().unsqueeze(-1)).squeeze(-1)
    not_lower = ~(scores < positive.unsqueeze(-1))
    row, item = csr_pairs(indptr, indices, users)
    excluded = torch.zeros(len(users), dtype=torch.int64, device=scores.device)
    excluded.index_add_(0, row, not_lower[row, item].long())
    among = not_lower.sum(-1) - excluded - 1  # - 1: the positive is not lower than itself
    return torch.where(torch.isfinite(positive), among, MISS)


def csr_pairs(indptr: Tensor, indices: Tensor, users: Tensor) -> tuple[Tensor, Tensor]:
    """(position in ``users`` (P,) int64, item (P,) int64) of every entry in the CSR rows of ``users`` (B,)."""
    users = users.long()
    begin, count = indptr[users], indptr[users + 1] - indptr[users]
    row = torch.repeat_interleave(torch.arange(len(users), device=users.device), count)
    first = torch.cumsum(count, 0) - count
    at = torch.arange(len(row), device=users.device) - first[row] + begin[row]
    return row, indices[at].long()


def metric_means(ranks: Tensor, k: int) -> Tensor:
    """What :func:`~fastncf.evaluation.metrics.metrics` gives, as (3,) float64 on the device of the ranks: nothing waits."""
    gains = (ranks < k) / torch.log2(ranks.double() + 2)
    sums = torch.stack([(ranks < k).double().sum(), gains.sum(), (1 / (ranks.double() + 1)).sum()])
    return sums / len(ranks)


def _in_chunks(rank: Callable[[slice], Tensor], total: int, row_bytes: int, device: torch.device) -> Tensor:
    """Ranks (T,) of ``total`` rows, as many at once as memory allows; where it ran out after all, half as many."""
    rows = max(1, chunk_bytes(device) // row_bytes)
    ranks: list[Tensor] = []
    start = 0
    while start < total:
        try:
            ranks.append(rank(slice(start, start + rows)))
        except torch.OutOfMemoryError:
            if rows == 1:
                raise DeviceError(
                    f"{device} has no memory left to score one user's items ({row_bytes:,} bytes); "
                    f"accepted: a device with more free memory, or device='cpu'"
                ) from None
            rows = -(-rows // 2)
        else:
            start += rows
    return torch.cat(ranks)


@contextmanager
def _evaluating(model: nn.Module, device: torch.device) -> Iterator[None]:
    """A model in evaluation mode, without gradients, for the length of a block."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode(), device_guard(device):
            yield
    finally:
        model.train(was_training)
