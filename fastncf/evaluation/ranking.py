"""Ranks of held-out items by counting; nothing is sorted.

The rank of a positive (from 0) is the number of negatives that are *not lower* than it: ties and NaN count against
it, duplicates of the positive do not count, and a positive whose score is not finite is a miss. A user may have several
positives: each is ranked among the negatives alone, and the user's items are scored once for all of them. ``bounds``
(T + 1,) int64 then tells which are whose: ``positives[bounds[t]:bounds[t + 1]]``; without it each of T users has one.

torch is imported when a module is ranked: factors that a kernel has trained are ranked by arrays alone.
"""

import math
from collections.abc import Callable, Iterator
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

_ENTRIES = 4_000_000  # of lists that are copied at a time
_BYTES_PER_CANDIDATE = 16  # its id in a list with the positive, and comparisons
_BYTES_PER_ITEM = 12  # comparisons of a catalogue's scores by tensor operations, which count in int64
_BYTES_PER_SEEN_ITEM = 64  # its row, item and comparison by tensor operations


def ranks_by_factors(
    factors: Factors, lists: CandidateLists[np.ndarray], bounds: np.ndarray | None = None
) -> np.ndarray:
    """Return the rank of each held-out item within its list by a matrix factorization, (R,) int64 from 0.

    :func:`candidate_ranks` finds the same ranks for an ``MF`` of these factors.

    Args:
        factors: parameters of U users and I items.
        lists: held-out items of T users, R in all, and their candidates.
        bounds: of the items of each user.
    """

    def rank(own: CandidateLists[np.ndarray], bounds: np.ndarray) -> np.ndarray:
        ranks = np.empty(len(own.positives), dtype=np.int64)
        rank_lists(own.users, (own.positives, bounds), own.negatives, factors, MISS, ranks)
        return ranks

    return _shared_out(rank, lists, bounds)


def scores_by_factors(factors: Factors, user_ids: np.ndarray, item_ids: np.ndarray) -> np.ndarray:
    """Return the scores (n,) float32 of users (n,) int32 with items (n,) int32 by a matrix factorization."""
    scores = np.empty((len(user_ids), 1), dtype=np.float32)
    dot_lists(user_ids, item_ids[:, None], factors.user_vectors, factors.item_vectors, scores)
    total: np.ndarray = scores[:, 0] + (factors.user_bias[user_ids] + factors.item_bias[item_ids])
    return total


def catalogue_ranks_by_factors(
    factors: Factors,
    lists: CandidateLists[np.ndarray],
    indptr: np.ndarray,
    indices: np.ndarray,
    bounds: np.ndarray | None = None,
) -> np.ndarray:
    """Return what :func:`catalogue_ranks` does for an ``MF`` of these factors, (R,) int64 from 0.

    Args:
        factors: parameters of U users and I items.
        lists: held-out items; their negatives are not read.
        indptr: (U + 1,) int64 of the CSR of excluded items, which do not include the positives.
        indices: (N,) int32 of that CSR.
        bounds: of the items of each user.
    """

    def rank(own: CandidateLists[np.ndarray], bounds: np.ndarray) -> np.ndarray:
        ranks = np.empty(len(own.positives), dtype=np.int64)
        rank_by_tiles(own.users, (own.positives, bounds), (indptr, indices), factors, MISS, ranks)
        return ranks

    return _shared_out(rank, lists, bounds)


def candidate_ranks(
    model: "nn.Module", lists: CandidateLists[np.ndarray], bounds: np.ndarray | None = None
) -> np.ndarray:
    """Return the rank of each held-out item within its list by a module on any device, (R,) int64 from 0.

    Raises:
        DeviceError: the memory of the model's device runs out.
    """
    from fastncf.evaluation.scoring import device_of

    device = device_of(model)

    def rank(own: CandidateLists[np.ndarray], bounds: np.ndarray) -> np.ndarray:
        if len(own.positives) == len(own.users):
            return rank_candidates(model, on_device(own, device)).cpu().numpy()
        ranks = np.empty(len(own.positives), dtype=np.int64)
        for part, lists, places in _grouped(own, bounds):
            ranks[part] = rank_candidates(model, on_device(lists, device)).cpu().numpy().reshape(-1)[places]
        return ranks

    return _shared_out(rank, lists, bounds)


def catalogue_ranks(
    model: "nn.Module",
    lists: CandidateLists[np.ndarray],
    indptr: np.ndarray,
    indices: np.ndarray,
    num_items: int,
    bounds: np.ndarray | None = None,
) -> np.ndarray:
    """Return the rank of each held-out item among all items that its user has not seen before, (R,) int64 from 0.

    Args:
        model: scores (user ids, item ids), on any device.
        lists: held-out items; their negatives are not read.
        indptr: (U + 1,) int64 of the CSR of excluded items, which do not include the positives.
        indices: (N,) int32 of that CSR.
        num_items: I.
        bounds: of the items of each user.

    Raises:
        DeviceError: the memory of the model's device runs out.
    """
    import torch

    from fastncf.evaluation.scoring import device_of

    device = device_of(model)

    def rank(own: CandidateLists[np.ndarray], bounds: np.ndarray) -> np.ndarray:
        users, positives = (torch.from_numpy(np.ascontiguousarray(ids)).to(device) for ids in own[:2])
        return rank_catalogue(model, users, positives, indptr, indices, num_items, bounds).cpu().numpy()

    return _shared_out(rank, lists, bounds)


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
    rank: Callable[[CandidateLists[np.ndarray], np.ndarray], np.ndarray],
    lists: CandidateLists[np.ndarray],
    bounds: np.ndarray | None,
) -> np.ndarray:
    """Return the ranks of lists, of which each of several processes computes a part.

    Args:
        rank: returns the ranks (r,) int64 of n lists with bounds (n + 1,).
        lists: of T users.
        bounds: of the items of each user.
    """
    if bounds is None:
        bounds = np.arange(len(lists.users) + 1, dtype=np.int64)
    processes = distributed.current()
    if processes is None:
        return rank(lists, bounds)
    first, last = (len(lists.users) * number // processes.size for number in (processes.rank, processes.rank + 1))
    own = slice(int(bounds[first]), int(bounds[last]))
    ranks = np.zeros(len(lists.positives), dtype=np.int64)
    users, positives, negatives = lists
    part = CandidateLists(users[first:last], positives[own], negatives[first:last])
    if first < last:  # there may be more processes than users
        with distributed.alone():  # the part is this process's own, and not shared out again
            ranks[own] = rank(part, bounds[first : last + 1] - own.start)
    processes.sum(ranks)
    return ranks


def _grouped(
    lists: CandidateLists[np.ndarray], bounds: np.ndarray
) -> Iterator[tuple[slice, CandidateLists[np.ndarray], np.ndarray]]:
    """Yield lists with as many positives (n, G) in each as score the fewest pairs; -1 fills up.

    A user with more positives has several lists of the same negatives.

    Yields:
        A part of the positives, its lists, and the place of each of its positives in the positives of the lists.
    """
    users, positives, negatives = lists
    sizes, length = np.diff(bounds), negatives.shape[1]
    widths = 2 ** np.arange(int(sizes.max()).bit_length() + 1)
    width = int(min(widths, key=lambda width: (-(-sizes // width)).sum() * (length + width)))
    step = max(1, _ENTRIES // (length + width))
    for first in range(0, len(users), step):
        last = min(first + step, len(users))
        part, own = slice(int(bounds[first]), int(bounds[last])), sizes[first:last]
        counts = -(-own // width)
        row = np.repeat(np.arange(first, last), counts)
        number = np.arange(part.stop - part.start) - np.repeat(bounds[first:last] - part.start, own)
        places = np.repeat(np.cumsum(counts) - counts, own) * width + number
        grouped = np.full(len(row) * width, -1, dtype=np.int32)
        grouped[places] = positives[part]
        yield part, CandidateLists(users[row], grouped.reshape(-1, width), negatives[row]), places


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
    """Return the rank of each held-out item within its list, int64 from 0, on the device of the lists.

    Args:
        model: scores (user ids, item ids).
        lists: their positives may be (T, G), -1 where a list has fewer; the ranks have the shape of the positives.

    Raises:
        DeviceError: the memory of the device runs out.
    """
    import torch

    from fastncf.evaluation.scoring import ChunkedScorer, evaluating
    from fastncf.models.scorers import make_scorer

    num_users, length = lists.negatives.shape
    device, positives = lists.users.device, lists.positives.reshape(num_users, -1)
    width = positives.shape[1]
    with evaluating(model, device):
        scorer = make_scorer(model)
        if scorer.factors is not None and width == 1:
            arrays = CandidateLists(*(tensor.numpy() for tensor in lists))
            return torch.from_numpy(ranks_by_factors(scorer.factors, arrays))
        chunked = ChunkedScorer(scorer, device, num_users * (length + width))
        ranks = torch.empty(positives.shape, dtype=torch.int64, device=device)

        def rank(part: slice) -> None:
            own, negatives = positives[part], lists.negatives[part]
            scores = chunked.lists(lists.users[part], torch.cat([own, negatives], dim=1).clamp_(min=0))
            for at in range(width):
                is_counted = (negatives >= 0) & (negatives != own[:, at : at + 1])
                ranks[part, at] = rank_by_counting(scores[:, at], scores[:, width:], is_counted)

        bytes_per_user = chunked.bytes_per_list(length + width) + (length + width) * _BYTES_PER_CANDIDATE
        chunked.for_each_chunk(rank, num_users, bytes_per_user)
        return ranks.reshape(lists.positives.shape)


def rank_catalogue(
    model: "nn.Module",
    users: "Tensor",
    positives: "Tensor",
    indptr: np.ndarray,
    indices: np.ndarray,
    num_items: int,
    bounds: np.ndarray | None = None,
) -> "Tensor":
    """Return the rank of each held-out item among all items that its user has not seen before, (R,) int64 from 0.

    Args:
        model: scores (user ids, item ids).
        users: (T,) int32 user ids.
        positives: (R,) int32 item ids.
        indptr: (U + 1,) int64 of the CSR of excluded items, which do not include the positives.
        indices: (N,) int32 of that CSR.
        num_items: I.
        bounds: of the items of each user, in the memory of the CPU.

    Raises:
        DeviceError: the memory of the device of ``users`` runs out.
    """
    import torch

    from fastncf.evaluation.scoring import ChunkedScorer, evaluating
    from fastncf.models.scorers import make_scorer

    device = users.device
    bounds = np.arange(len(users) + 1, dtype=np.int64) if bounds is None else bounds
    with evaluating(model, device):
        chunked = ChunkedScorer(make_scorer(model), device, len(users) * num_items)
        seen = [torch.from_numpy(array).to(device) for array in (indptr, indices)]
        ranks = torch.empty(len(positives), dtype=torch.int64, device=device)

        def rank(part: slice) -> None:
            scores, own = chunked.catalogue(users[part], num_items), bounds[part.start : part.stop + 1]
            of_part = slice(int(own[0]), int(own[-1]))
            rows = positives[of_part], own - own[0]
            if device.type == "cpu" and scores.dtype in (torch.float32, torch.float64):
                arrays = scores.numpy(), users[part].numpy(), (rows[0].numpy(), rows[1]), (indptr, indices)
                count_not_lower(*arrays, MISS, ranks[of_part].numpy())
            else:
                ranks[of_part] = _count_by_tensors(scores, users[part], *rows, *seen)

        bytes_per_user = chunked.bytes_per_catalogue(num_items)
        if device.type != "cpu":
            most_seen = int(np.diff(indptr).max(initial=0))
            bytes_per_user += 2 * num_items * _BYTES_PER_ITEM + most_seen * _BYTES_PER_SEEN_ITEM
        chunked.for_each_chunk(rank, len(users), bytes_per_user)
        return ranks


def _count_by_tensors(
    scores: "Tensor", users: "Tensor", positives: "Tensor", bounds: np.ndarray, indptr: "Tensor", indices: "Tensor"
) -> "Tensor":
    """Return what the kernel ``count_not_lower`` computes, by operations of torch on any device."""
    import torch

    sizes = np.diff(bounds)
    place = torch.from_numpy(bounds[:-1, None] + np.arange(int(sizes.max(initial=0)))).to(scores.device)
    is_own = place < torch.from_numpy(bounds[1:, None]).to(scores.device)
    items = positives[place.clamp_(max=len(positives) - 1)].long()
    own = scores.gather(1, items).masked_fill_(~is_own, -math.inf)
    ranks = torch.empty(len(positives), dtype=torch.int64, device=scores.device)
    for number in range(place.shape[1]):  # the positive of this number of each user who has one
        rows = is_own[:, number].nonzero().squeeze(-1)
        part = scores if len(rows) == len(scores) else scores[rows]
        positive = own[rows, number]
        not_lower = ~(part < positive.unsqueeze(-1))
        row, item = csr_pairs(indptr, indices, users[rows])
        num_excluded = row.new_zeros(len(rows)).index_add_(0, row, not_lower[row, item].long())
        num_own = (~(own[rows] < positive.unsqueeze(-1))).sum(-1)  # it is not lower than itself
        ranks[place[rows, number]] = (not_lower.sum(-1) - num_excluded - num_own).masked_fill_(
            ~positive.isfinite(), MISS
        )
    return ranks


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
