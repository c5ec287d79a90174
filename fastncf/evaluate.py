"""Ranking metrics of held-out items: candidate lists scored at once, rank by counting, nothing is sorted.

The rank of a positive (from 0) is the number of negatives that are *not lower* than it: ties and NaN count against
it, duplicates of the positive do not count, and a positive whose score is not finite is a miss.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from fastncf.device import chunk_bytes, on
from fastncf.errors import DeviceError
from fastncf.kernels.ranking import count_not_lower
from fastncf.scoring import scorer

MISS = 1 << 62
"""The rank of a positive whose score is not finite: beyond every list."""


@dataclass(frozen=True)
class Lists:
    """The held-out item of T users, and the negatives each is ranked against.

    Attributes:
        users: (T,) int32.
        positives: (T,) int32.
        negatives: (T, C) int32, -1 where a list is shorter.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor

    @classmethod
    def of(cls, users: np.ndarray, positives: np.ndarray, negatives: np.ndarray, device: torch.device) -> "Lists":
        """The lists as tensors on a device."""
        return cls(*(torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (users, positives, negatives)))


def rank_by_counting(positive: Tensor, negatives: Tensor, counted: Tensor) -> Tensor:
    """Ranks (B,) int64 from 0 of positives (B,) among those negatives (B, C) that are ``counted`` (B, C)."""
    not_lower = ~(negatives < positive.unsqueeze(-1)) & counted
    ranks = not_lower.sum(-1)
    return torch.where(torch.isfinite(positive), ranks, MISS)


def rank_candidates(model: nn.Module, lists: Lists) -> Tensor:
    """Rank of each held-out item within its list, (T,) int64 from 0."""
    length = lists.negatives.shape[1]
    with _evaluating(model, lists.users.device):
        scores_of = scorer(model)

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


def metrics(ranks: Tensor, k: int) -> dict[str, float]:
    """HR@k, NDCG@k (gain 1, discount log2(rank + 2)) and MRR (over the whole list) of ranks (T,) from 0.

    With one relevant item the ideal DCG is 1, so that NDCG is the discount of the hit (He et al. 2017, section 4.1).
    """
    return named_metrics(metric_means(ranks, k).tolist(), k)


def metric_means(ranks: Tensor, k: int) -> Tensor:
    """What :func:`metrics` gives, as (3,) float64 on the device of the ranks: nothing waits for them."""
    sums = torch.stack([(ranks < k).double().sum(), gains(ranks, k).sum(), (1 / (ranks.double() + 1)).sum()])
    return sums / len(ranks)


def gains(ranks: Tensor, k: int) -> Tensor:
    """NDCG@k of each list, (T,) float64."""
    return (ranks < k).double() / torch.log2(ranks.double() + 2)


def named_metrics(means: Sequence[float], k: int) -> dict[str, float]:
    """Values of :func:`metric_means` under their names."""
    return dict(zip((f"hr@{k}", f"ndcg@{k}", "mrr"), means, strict=True))


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
        with torch.inference_mode(), on(device):
            yield
    finally:
        model.train(was_training)
