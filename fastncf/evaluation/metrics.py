"""Ranking metrics: a table of functions of the ranks of held-out items, each of which is the only relevant one.

A metric is added by an entry in :data:`METRICS`; it then appears in all results.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

MISS = 1 << 62
"""The rank of a positive whose score is not finite: beyond every list."""


@dataclass(frozen=True)
class Metric:
    """A metric of one list, averaged over all lists.

    Attributes:
        function: maps ranks (T,) float64, whole numbers from 0, and k to the values of the lists, (T,) bool or
            float64. The ranks are a NumPy array or a torch tensor on any device, and so are the values.
        has_cutoff: whether the metric depends on k, so that its label is ``name@k``.
    """

    function: Callable[[Any, int], Any]
    has_cutoff: bool


def hit_rate(ranks: Any, k: int) -> Any:
    """Return whether the item is among the first k."""
    return ranks < k


def ndcg(ranks: Any, k: int) -> Any:
    """Return the gain 1 / log2(rank + 2) of an item among the first k, else 0.

    With one relevant item the ideal DCG is 1, so that this is the NDCG (He et al. 2017, section 4.1).
    """
    return (ranks < k) / _log2(ranks + 2.0)


def reciprocal_rank(ranks: Any, k: int) -> Any:
    """Return 1 / (rank + 1) over the whole list; k plays no part."""
    return 1 / (ranks + 1.0)


METRICS: dict[str, Metric] = {
    "hr": Metric(hit_rate, has_cutoff=True),
    "ndcg": Metric(ndcg, has_cutoff=True),
    "mrr": Metric(reciprocal_rank, has_cutoff=False),
}
"""Each metric by its name."""


def metrics(ranks: np.ndarray, k: int) -> dict[str, float]:
    """Return the mean of each metric over all lists, by its label.

    Args:
        ranks: (T,) int64 from 0.
        k: length of the ranking that metrics with a cutoff look at.
    """
    return label_means([values_of_lists(name, ranks, k).mean() for name in METRICS], k)


def values_of_lists(name: str, ranks: np.ndarray, k: int) -> np.ndarray:
    """Return the values (T,) of one metric for ranks (T,) int64 from 0."""
    return METRICS[name].function(ranks.astype(np.float64), k)


def metric_means(ranks: "Tensor", k: int) -> "Tensor":
    """Return the means (M,) float64 of all metrics, in the order of :data:`METRICS`, without waiting for the device.

    Args:
        ranks: (T,) int64 from 0, on any device.
        k: length of the ranking that metrics with a cutoff look at.
    """
    import torch

    exact = ranks.double()
    sums = [metric.function(exact, k).double().sum() for metric in METRICS.values()]
    return torch.stack(sums) / len(ranks)


def label_means(means: Sequence[float], k: int) -> dict[str, float]:
    """Return means, in the order of :data:`METRICS`, by labels such as ``hr@10`` and ``mrr``."""
    labels = (f"{name}@{k}" if metric.has_cutoff else name for name, metric in METRICS.items())
    return dict(zip(labels, map(float, means), strict=True))


def _log2(values: Any) -> Any:
    """Return the logarithms of an array or tensor; NumPy's function would move a tensor to the CPU."""
    return np.log2(values) if isinstance(values, np.ndarray) else values.log2()
