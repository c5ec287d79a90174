"""Ranking metrics of held-out items by their ranks: each has one relevant item and one list."""

from collections.abc import Sequence

import numpy as np

MISS = 1 << 62
"""The rank of a positive whose score is not finite: beyond every list."""


def metrics(ranks: np.ndarray, k: int) -> dict[str, float]:
    """HR@k, NDCG@k (gain 1, discount log2(rank + 2)) and MRR (over the whole list) of ranks (T,) int64 from 0.

    With one relevant item the ideal DCG is 1, so that NDCG is the discount of the hit (He et al. 2017, section 4.1).
    """
    return named_metrics([(ranks < k).mean(), gains(ranks, k).mean(), (1 / (ranks + 1.0)).mean()], k)


def gains(ranks: np.ndarray, k: int) -> np.ndarray:
    """NDCG@k of each list, (T,) float64."""
    return (ranks < k) / np.log2(ranks + 2.0)


def named_metrics(means: Sequence[float], k: int) -> dict[str, float]:
    """The three means of :func:`metrics` under their names."""
    return dict(zip((f"hr@{k}", f"ndcg@{k}", "mrr"), map(float, means), strict=True))
