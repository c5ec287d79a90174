"""Ranks of held-out items by counting; nothing is sorted.

The rank of a positive (from 0) is the number of negatives that are *not lower* than it: ties and NaN count against
it, duplicates of the positive do not count, and a positive whose score is not finite is a miss.

torch is imported when a module is ranked: factors that a kernel has trained are ranked by arrays alone.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastncf import distributed
from fastncf.evaluation.candidates import CandidateLists
from fastncf.evaluation.metrics import METRICS, MISS, default_metrics, metric_means
from fastncf.kernels.cpu.factors import Factors
from fastncf.kernels.cpu.ranking import count_not_lower, dot_lists, rank_by_tiles, rank_lists

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

_BYTES_PER_CANDIDATE = 16  # its id in a list with the positive, and comparisons
_BYTES_PER_ITEM = 12  # comparisons of a catalogue's scores by tensor operations, which count in int64
_BYTES_PER_SEEN_ITEM = 64  # its row, item and comparison by tensor operations


def ranks_by_factors(factors: Factors, lists: CandidateLists[np.ndarray]) -> np.ndarray:
    """Return the rank of each held-out item within its list by a matrix factorization, (T,) int64 from 0.

    :func:`candidate_ranks` finds the same ranks for an ``MF`` of these factors.

    Args:
        factors: parameters of U users and I items.
        lists: held-out items of T users and their candidates.
    """

    def rank(own: CandidateLists[np.ndarray]) -> np.ndarray:
        ranks = np.empty(len(own.users), dtype=np.int64)
        rank_lists(*own, factors, MISS, ranks)
        return ranks

    return _shared_out(rank, lists)


def scores_by_factors(factors: Factors, user_ids: np.ndarray, item_ids: np.ndarray) -> np.ndarray:
    """Return the scores (n,) float32 of users (n,) int32 with items (n,) int32 by a matrix factorization."""
    scores = np.empty((len(user_ids), 1), dtype=np.float32)
    dot_lists(user_ids, item_ids[:, None], factors.user_vectors, factors.item_vectors, scores)
    total: np.ndarray = scores[:, 0] + (factors.user_bias[user_ids] + factors.item_bias[item_ids])
    return total


def catalogue_ranks_by_factors(
    factors: Factors, lists: CandidateLists[np.ndarray], indptr: np.ndarray, indices: np.ndarray
) -> np.ndarray:
    """Return what :func:`catalogue_ranks` does for an ``MF`` of these factors, (T,) int64 from 0.

    Args:
        factors: parameters of U users and I items.
        lists: held-out items; their negatives are not read.
        indptr: (U + 1,) int64 of the CSR of excluded items, which do not include the positives.
        indices: (N,) int32 of that CSR.
    """

    def rank(own: CandidateLists[np.ndarray]) -> np.ndarray:
        ranks = np.empty(len(own.users), dtype=np.int64)
        rank_by_tiles(own.users, own.positives, (indptr, indices), factors, MISS, ranks)
        return ranks

    return _shared_out(rank, lists)


def candidate_ranks(model: "nn.Module", lists: CandidateLists[np.ndarray]) -> np.ndarray:
    """Return the rank of each held-out item within its list by a module on any device, (T,) int64 from 0.

    Raises:
        DeviceError: the memory of the model's device runs out.
    """
    from fastncf.evaluation.scoring import device_of

    device = device_of(model)
    return _shared_out(lambda own: rank_candidates(model, on_device(own, device)).cpu().numpy(), lists)


def catalogue_ranks(
    model: "nn.Module", lists: CandidateLists[np.ndarray], indptr: np.ndarray, indices: np.ndarray, num_items: int
) -> np.ndarray:
    """Return the rank of each held-out item among all items that its user has not seen before, (T,) int64 from 0.

    Args:
        model: scores (user ids, item ids), on any device.
        lists: held-out items; their negatives are not read.
        indptr: (U + 1,) int64 of the CSR of excluded items, which do not include the positives.
        indices: (N,) int32 of that CSR.
        num_items: I.

    Raises:
        DeviceError: the memory of the model's device runs out.
    """
    import torch

    from fastncf.evaluation.scoring import device_of

    device = device_of(model)

    def rank(own: CandidateLists[np.ndarray]) -> np.ndarray:
        users, positives = (torch.from_numpy(np.ascontiguousarray(ids)).to(device) for ids in own[:2])
        return rank_catalogue(model, users, positives, indptr, indices, num_items).cpu().numpy()

    return _shared_out(rank, lists)


def validation_means(model: "Factors | nn.Module", lists: CandidateLists[Any], k: int) -> Any:
    """Return the means over lists of :func:`~fastncf.evaluation.metrics.default_metrics`, in their order.

    Args:
        model: factors, or a module on any device.
        lists: NumPy arrays; for a module also tensors on its device, which are not copied then.
        k: length of the ranking that metrics with a cutoff look at.

    Returns:
        A list of M floats for factors. For a module a tensor (M,) float64 on its device, for which nothing has waited.
    """
    if isinstance(model, Factors):
        ranks = ranks_by_factors(model, lists)
        return [float(METRICS[name](ranks, k).mean()) for name in default_metrics()]
    from fastncf.evaluation.scoring import device_of

    on_model_device = on_device(lists, device_of(model)) if isinstance(lists.users, np.ndarray) else lists
    return metric_means(rank_candidates(model, on_model_device), k)


def _shared_out(
    rank: Callable[[CandidateLists[np.ndarray]], np.ndarray], lists: CandidateLists[np.ndarray]
) -> np.ndarray:
    """Return the ranks of lists, of which each of several processes computes a part.

    Args:
        rank: returns the ranks (n,) int64 of n lists.
        lists: of T users.
    """
    processes = distributed.current()
    if processes is None:
        return rank(lists)
    first, last = (len(lists.users) * number // processes.size for number in (processes.rank, processes.rank + 1))
    ranks = np.zeros(len(lists.users), dtype=np.int64)
    ranks[first:last] = rank(CandidateLists(*(array[first:last] for array in lists)))
    processes.sum(ranks)
    return ranks


def on_device(lists: CandidateLists[np.ndarray], device: "torch.device") -> "CandidateLists[Tensor]":
    """Return lists as tensors on a device."""
    import torch

    return CandidateLists(*(torch.from_numpy(np.ascontiguousarray(array)).to(device) for array in lists))


def rank_by_counting(positive: "Tensor", negatives: "Tensor", is_counted: "Tensor") -> "Tensor":
    """Return ranks (B,) int64 from 0 of positives among negatives by their scores.

    Args:
        positive: (B,) scores.
        negatives: (B, C) scores.
        is_counted: (B, C) bool; other negatives are left out.
    """
    not_lower = ~(negatives < positive.unsqueeze(-1)) & is_counted
    return not_lower.sum(-1).masked_fill_(~positive.isfinite(), MISS)


def rank_candidates(model: "nn.Module", lists: "CandidateLists[Tensor]") -> "Tensor":
    """Return the rank of each held-out item within its list, (T,) int64 from 0, on the device of the lists.

    Raises:
        DeviceError: the memory of the device runs out.
    """
    import torch

    from fastncf.evaluation.scoring import ChunkedScorer, evaluating
    from fastncf.models.scorers import make_scorer

    num_users, length = lists.negatives.shape
    device = lists.users.device
    with evaluating(model, device):
        scorer = make_scorer(model)
        if scorer.factors is not None:
            arrays = CandidateLists(*(tensor.numpy() for tensor in lists))
            return torch.from_numpy(ranks_by_factors(scorer.factors, arrays))
        chunked = ChunkedScorer(scorer, device, num_users * (length + 1))
        ranks = torch.empty(num_users, dtype=torch.int64, device=device)

        def rank(part: slice) -> None:
            positives, negatives = lists.positives[part].unsqueeze(-1), lists.negatives[part]
            scores = chunked.lists(lists.users[part], torch.cat([positives, negatives.clamp(min=0)], dim=1))
            is_counted = (negatives >= 0) & (negatives != positives)
            ranks[part] = rank_by_counting(scores[:, 0], scores[:, 1:], is_counted)

        bytes_per_user = chunked.bytes_per_list(length + 1) + (length + 1) * _BYTES_PER_CANDIDATE
        chunked.for_each_chunk(rank, num_users, bytes_per_user)
        return ranks


def rank_catalogue(
    model: "nn.Module", users: "Tensor", positives: "Tensor", indptr: np.ndarray, indices: np.ndarray, num_items: int
) -> "Tensor":
    """Return the rank of each held-out item among all items that its user has not seen before, (T,) int64 from 0.

    Args:
        model: scores (user ids, item ids).
        users: (T,) int32 user ids.
        positives: (T,) int32 item ids.
        indptr: (U + 1,) int64 of the CSR of excluded items, which do not include the positives.
        indices: (N,) int32 of that CSR.
        num_items: I.

    Raises:
        DeviceError: the memory of the device of ``users`` runs out.
    """
    import torch

    from fastncf.evaluation.scoring import ChunkedScorer, evaluating
    from fastncf.models.scorers import make_scorer

    device = users.device
    with evaluating(model, device):
        chunked = ChunkedScorer(make_scorer(model), device, len(users) * num_items)
        seen = [torch.from_numpy(array).to(device) for array in (indptr, indices)]
        ranks = torch.empty(len(users), dtype=torch.int64, device=device)

        def rank(part: slice) -> None:
            scores = chunked.catalogue(users[part], num_items)
            if device.type == "cpu" and scores.dtype in (torch.float32, torch.float64):
                arrays = scores.numpy(), users[part].numpy(), positives[part].numpy()
                count_not_lower(*arrays, indptr, indices, MISS, ranks[part].numpy())
            else:
                ranks[part] = _count_by_tensors(scores, users[part], positives[part], *seen)

        bytes_per_user = chunked.bytes_per_catalogue(num_items)
        if device.type != "cpu":
            most_seen = int(np.diff(indptr).max(initial=0))
            bytes_per_user += num_items * _BYTES_PER_ITEM + most_seen * _BYTES_PER_SEEN_ITEM
        chunked.for_each_chunk(rank, len(users), bytes_per_user)
        return ranks


def _count_by_tensors(
    scores: "Tensor", users: "Tensor", positives: "Tensor", indptr: "Tensor", indices: "Tensor"
) -> "Tensor":
    """Return what the kernel ``count_not_lower`` computes, by operations of torch on any device."""
    positive = scores.gather(1, positives.long().unsqueeze(-1)).squeeze(-1)
    not_lower = ~(scores < positive.unsqueeze(-1))
    row, item = csr_pairs(indptr, indices, users)
    num_excluded = row.new_zeros(len(users)).index_add_(0, row, not_lower[row, item].long())
    ranks = not_lower.sum(-1) - num_excluded - 1  # - 1: the positive is not lower than itself
    return ranks.masked_fill_(~positive.isfinite(), MISS)


def csr_pairs(indptr: "Tensor", indices: "Tensor", users: "Tensor") -> tuple["Tensor", "Tensor"]:
    """Return every entry in the CSR rows of some users (B,).

    Returns:
        Position in ``users`` (P,) int64 and item (P,) int64.
    """
    import torch

    users = users.long()
    begin, count = indptr[users], indptr[users + 1] - indptr[users]
    row = torch.repeat_interleave(torch.arange(len(users), device=users.device), count)
    first = torch.cumsum(count, 0) - count
    at = torch.arange(len(row), device=users.device) - first[row] + begin[row]
    return row, indices[at].long()
