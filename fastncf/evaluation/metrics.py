"""Ranking metrics: a table of functions of the ranks of held-out items, each of which is the only relevant one.

A metric is added by an entry in :data:`METRICS`; it then appears in all results.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

MISS = 1 << 62
"""Rank of a positive whose score is not finite: beyond every list."""


@dataclass(frozen=True)
class Metric:
    """A metric of one list, averaged over all lists.

    ``metric(ranks, k)`` returns the values (T,) of lists by their ranks (T,) int64 from 0, a NumPy array or a torch
    tensor on any device.

    Attributes:
        function: maps the ranks as float64 and k to the values, bool or float64, in the same library.
        has_cutoff: whether the metric depends on k, so that its label is ``name@k``.
    """

    function: Callable[[Any, int], Any]
    has_cutoff: bool

    def __call__(self, ranks: Any, k: int) -> Any:
        is_array = isinstance(ranks, np.ndarray)
        return self.function(ranks.astype(np.float64) if is_array else ranks.double(), k)  # torch would take float32


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
    return named_metrics([metric(ranks, k).mean() for metric in METRICS.values()], k)


def metric_means(ranks: "Tensor", k: int) -> "Tensor":
    """Return the means (M,) float64 of all metrics, in the order of :data:`METRICS`, without waiting for the device.

    Args:
        ranks: (T,) int64 from 0, on any device.
        k: length of the ranking that metrics with a cutoff look at.
    """
    import torch

    return torch.stack([metric(ranks, k).double().sum() for metric in METRICS.values()]) / len(ranks)


def named_metrics(means: Sequence[float], k: int) -> dict[str, float]:
    """Return means, in the order of :data:`METRICS`, by labels such as ``hr@10`` and ``mrr``."""
    labels = (f"{name}@{k}" if metric.has_cutoff else name for name, metric in METRICS.items())
    return dict(zip(labels, map(float, means), strict=True))


def _log2(values: Any) -> Any:
    """Return the logarithms of an array or tensor; NumPy's function would move a tensor to the CPU."""
    return np.log2(values) if isinstance(values, np.ndarray) else values.log2()


def safe_names(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return metrics by names that MLflow and other trackers take: ``hr@10`` becomes ``hr_at_10``.

    Letters, digits, underscores, dashes, dots, blanks and slashes stay; each other character becomes an underscore.
    """
    return {
        re.sub(r"[^\w./ -]", "_", name.replace("@", "_at_"), flags=re.ASCII): value for name, value in metrics.items()
    }
