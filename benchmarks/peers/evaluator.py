"""Metrics of stored lists and scores, by NumPy alone, the same for every system."""

import numpy as np

K = 10
"""Length of the lists."""


def check_lists(lists: np.ndarray, indptr: np.ndarray, seen: np.ndarray, num_items: int) -> None:
    """Check that lists hold items which are known, unseen and without repeats.

    Args:
        lists: (U, K) item ids, the best first; -1 where a system found no further item.
        indptr: (U + 1,) int64 of the CSR of seen items.
        seen: (N,) int32 of that CSR.
        num_items: I.

    Raises:
        ValueError: says which user's list is wrong, and why.
    """
    if lists.min() < -1 or lists.max() >= num_items:
        raise ValueError(f"lists hold items from {lists.min()} to {lists.max()}; expected -1 to {num_items - 1}")
    users = np.repeat(np.arange(len(lists)), np.diff(indptr))
    keys = lists.astype(np.int64) + np.arange(len(lists))[:, None] * num_items
    is_filled = lists >= 0
    is_seen = is_filled & np.isin(keys, users * num_items + seen)
    if is_seen.any():
        raise ValueError(f"the list of user {np.argwhere(is_seen)[0][0]} holds an item that the user has seen")
    ordered = np.sort(np.where(is_filled, lists, -1 - np.arange(lists.shape[1])), axis=1)
    repeats = (ordered[:, 1:] == ordered[:, :-1]).any(axis=1)
    if repeats.any():
        raise ValueError(f"the list of user {np.argmax(repeats)} holds an item twice")


def list_metrics(lists: np.ndarray, test: np.ndarray) -> dict[str, float]:
    """Return HR@K and NDCG@K of lists (U, K) with one relevant item of each user (U,), and their standard errors."""
    is_hit = (lists == test[:, None]) & (test >= 0)[:, None]
    gains = is_hit / np.log2(np.arange(lists.shape[1]) + 2.0)
    counted = test >= 0
    return _summary("full/", is_hit.any(axis=1)[counted], gains.sum(axis=1)[counted])


def score_metrics(scores: np.ndarray, is_candidate: np.ndarray) -> dict[str, float]:
    """Return HR@K and NDCG@K of the first item among the others by their scores; ties count against it.

    Args:
        scores: (T, 1 + C), the scores of the held-out item and of its candidates.
        is_candidate: (T, C) bool; other columns are left out.
    """
    positive, others = scores[:, :1], scores[:, 1:]
    ranks = (~(others < positive) & is_candidate).sum(axis=1)
    ranks = np.where(np.isfinite(positive[:, 0]), ranks, scores.shape[1])
    return _summary("", ranks < K, (ranks < K) / np.log2(ranks + 2.0))


def _summary(prefix: str, hits: np.ndarray, gains: np.ndarray) -> dict[str, float]:
    """Return means over users and their standard errors."""
    found = {}
    for name, values in ((f"{prefix}hr@{K}", hits.astype(np.float64)), (f"{prefix}ndcg@{K}", gains)):
        found[name] = float(values.mean())
        found[f"{name} error"] = float(values.std(ddof=1) / len(values) ** 0.5)
    return found
