"""Ranking metrics: a table of functions of the ranks of held-out items, of one item of each user or of several.

A metric is added by an entry in :data:`METRICS`; it then appears in all results.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastncf.errors import ConfigError, counted

if TYPE_CHECKING:
    from torch import Tensor

MISS = 1 << 62
"""Rank of a positive whose score is not finite: beyond every list."""

_CUTOFF = "@k"


class RankLists(NamedTuple):
    """Ranks of the held-out items of T users, R items in all.

    The rank of an item (from 0) is its place in the list of all that is ranked for its user, held-out items included.

    Attributes:
        indptr: (T + 1,) int64; the ranks of row t are ``ranks[indptr[t]:indptr[t + 1]]``, at least one.
        ranks: (R,) int64, ascending in each row; :data:`MISS` for an item whose score is not finite.
    """

    indptr: np.ndarray
    ranks: np.ndarray

    @classmethod
    def single(cls, ranks: np.ndarray) -> "RankLists":
        """Return the lists of one held-out item of each user, by their ranks (T,) int64."""
        return cls(np.arange(len(ranks) + 1, dtype=np.int64), ranks)

    @property
    def is_single(self) -> bool:
        """Whether each user has one held-out item."""
        return len(self.ranks) == len(self.indptr) - 1


class Places(NamedTuple):
    """Held-out items of users who may have several, for the functions of :data:`METRICS`; all (R,) float64.

    Attributes:
        ranks: ranks from 0.
        number: number from 0 of the item among the held-out items of its user, the best ranked first.
        size: number of held-out items of its user.
    """

    ranks: np.ndarray
    number: np.ndarray
    size: np.ndarray


@dataclass(frozen=True)
class Metric:
    """A metric of one list, averaged over all lists.

    ``metric(ranks, k)`` returns the values (T,) of lists with one held-out item each, by their ranks (T,) int64 from 0,
    a NumPy array or a torch tensor on any device.

    Attributes:
        function: maps the ranks as float64 and k to the values, bool or float64, in the same library.
        has_cutoff: whether the metric depends on k, so that its label is ``name@k``.
        part: maps :class:`Places` and k to what each held-out item adds to the value of its user's list, (R,) float64;
            None where the metric is defined for one item of each user alone.
        is_default: whether it is measured where no metrics are asked for.
    """

    function: Callable[[Any, int], Any]
    has_cutoff: bool
    part: Callable[[Places, int], np.ndarray] | None = None
    is_default: bool = True

    def __call__(self, ranks: Any, k: int) -> Any:
        if not isinstance(ranks, np.ndarray):
            return self.function(ranks.double(), k)  # torch would take float32
        values = self.function(ranks.astype(np.float64), k)
        return values if values.dtype == np.bool_ else values.astype(np.float64, copy=False)  # sums are in float64


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


def reciprocal_rank_at(ranks: Any, k: int) -> Any:
    """Return 1 / (rank + 1) of an item among the first k, else 0."""
    return (ranks < k) / (ranks + 1.0)


def precision(ranks: Any, k: int) -> Any:
    """Return the share of the first k places that the item has: 1 / k or 0."""
    return (ranks < k) / (0 * ranks + k)  # a bool by an int would be float32 in torch


def _hit_part(places: Places, k: int) -> np.ndarray:
    """Return 1 for the best item of a user where it is among the first k: HR is 1 if any is."""
    return (places.number == 0) & (places.ranks < k)


def _ndcg_part(places: Places, k: int) -> np.ndarray:
    """Return the gain of an item over the DCG of a list that begins with all items (Järvelin and Kekäläinen 2002)."""
    ideal = np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(k) + 2.0))])
    return ndcg(places.ranks, k) / ideal[np.minimum(places.size, k).astype(np.int64)]


def _reciprocal_part(places: Places, k: int) -> np.ndarray:
    """Return 1 / (rank + 1) for the best item of a user."""
    return (places.number == 0) / (places.ranks + 1.0)


def _reciprocal_at_part(places: Places, k: int) -> np.ndarray:
    """Return 1 / (rank + 1) for the best item of a user where it is among the first k."""
    return _hit_part(places, k) / (places.ranks + 1.0)


def _recall_part(places: Places, k: int) -> np.ndarray:
    """Return the share of a user's items that an item among the first k is."""
    return (places.ranks < k) / places.size


def _precision_part(places: Places, k: int) -> np.ndarray:
    """Return the share of the first k places that an item has."""
    return precision(places.ranks, k)


def _average_precision_part(places: Places, k: int) -> np.ndarray:
    """Return the precision at the place of an item among the first k, over the number of a user's items."""
    return (places.ranks < k) * (places.number + 1.0) / (places.ranks + 1.0) / places.size


METRICS: dict[str, Metric] = {
    "hr": Metric(hit_rate, has_cutoff=True, part=_hit_part),
    "ndcg": Metric(ndcg, has_cutoff=True, part=_ndcg_part),
    "mrr": Metric(reciprocal_rank, has_cutoff=False, part=_reciprocal_part),
    "mrr@k": Metric(reciprocal_rank_at, has_cutoff=True, part=_reciprocal_at_part, is_default=False),
    "recall": Metric(hit_rate, has_cutoff=True, part=_recall_part, is_default=False),
    "precision": Metric(precision, has_cutoff=True, part=_precision_part, is_default=False),
    "map": Metric(reciprocal_rank_at, has_cutoff=True, part=_average_precision_part, is_default=False),
}
"""Each metric by its name."""

FOR_SEVERAL = "recall", "ndcg", "hr", "mrr"
"""Metrics that are measured where users may have several held-out items and none are asked for, beside added ones."""


def default_metrics(*, has_several: bool = False) -> tuple[str, ...]:
    """Return the names of the metrics that are measured where none are asked for.

    Args:
        has_several: whether users may have several held-out items.
    """
    names = tuple(name for name, metric in METRICS.items() if metric.is_default)
    if not has_several:
        return names
    added = (name for name in names if name not in FOR_SEVERAL and METRICS[name].part is not None)
    return (*FOR_SEVERAL, *added)


def require_metrics(names: Sequence[str] | None, *, has_several: bool = False) -> tuple[str, ...]:
    """Return names of metrics that can be measured.

    Args:
        names: names in :data:`METRICS`, also with ``@k`` behind them; None for :func:`default_metrics`.
        has_several: whether users may have several held-out items.

    Raises:
        ConfigError: one of them is unknown, or is defined for one item of each user alone.
    """
    if names is None:
        return default_metrics(has_several=has_several)
    found = []
    for name in names:
        known = name if name in METRICS else str(name).removesuffix(_CUTOFF)
        if known not in METRICS:
            base, _, length = str(name).partition("@")
            if base in METRICS and length.isdecimal():
                expected = f"{base!r}, and the cutoff by k={length:.20}"
            else:
                expected = f"some of {', '.join(METRICS)}"
            raise ConfigError(f"metrics: {name!r:.80} is unknown; expected {expected}")
        if has_several and METRICS[known].part is None:
            raise ConfigError(f"metrics: {known:.80} is defined for one held-out item per user; expected other metrics")
        found.append(known)
    return tuple(dict.fromkeys(found))


def label(name: str, k: int) -> str:
    """Return the label of a metric, such as ``hr@10`` or ``mrr``."""
    return f"{name.removesuffix(_CUTOFF)}@{k}" if METRICS[name].has_cutoff else name


@dataclass(frozen=True)
class MetricTable:
    """Metrics of the lists of T users.

    Attributes:
        values: by label, such as ``ndcg@10``, the value of each list, (T,) bool or float64.
    """

    values: dict[str, np.ndarray]

    def means(self) -> dict[str, float]:
        """Return the mean of each metric over all lists."""
        return {label: float(values.mean()) for label, values in self.values.items()}

    def errors(self) -> dict[str, float]:
        """Return the standard error of each mean over users; NaN where there is one user alone."""
        return {label: standard_error(values) for label, values in self.values.items()}


def standard_error(values: np.ndarray) -> float:
    """Return the standard error of the mean of values (T,), NaN where T is 1."""
    if len(values) < 2:
        return float("nan")
    return float(values.std(ddof=1, dtype=np.float64) / np.sqrt(len(values)))


def measure(lists: RankLists, k: int | Sequence[int], names: Sequence[str] | None = None) -> MetricTable:
    """Return the values of metrics at one k or several, from ranks that were found once.

    Args:
        lists: ranks of held-out items.
        k: lengths of the rankings that metrics with a cutoff look at.
        names: metrics; the default ones where none are given.

    Raises:
        ConfigError: a metric is unknown, is defined for one item of each user alone, or has a value that is not finite.
    """
    cutoffs = (k,) if isinstance(k, int) else tuple(k)
    names = require_metrics(names, has_several=not lists.is_single)
    places = None if lists.is_single else _places(lists)
    values: dict[str, np.ndarray] = {}
    for cutoff in cutoffs:
        for name in names:
            if label(name, cutoff) not in values:
                values[label(name, cutoff)] = found = _values(METRICS[name], lists, places, cutoff)
                if not np.isfinite(found).all():
                    raise ConfigError(
                        f"metrics: {name:.80} is not finite for {int((~np.isfinite(found)).sum()):,} of "
                        f"{counted(len(found), 'list')}; expected a function whose values are numbers for every "
                        f"rank from 0 to {MISS}"
                    )
    return MetricTable(values)


def _places(lists: RankLists) -> Places:
    """Return the held-out items as metrics take them."""
    size = np.diff(lists.indptr)
    number = np.arange(len(lists.ranks)) - np.repeat(lists.indptr[:-1], size)
    return Places(*(array.astype(np.float64) for array in (lists.ranks, number, np.repeat(size, size))))


def _values(metric: Metric, lists: RankLists, places: Places | None, k: int) -> np.ndarray:
    """Return the value of each list, (T,)."""
    if places is None:
        values: np.ndarray = metric(lists.ranks, k)
        return values
    assert metric.part is not None
    total: np.ndarray = np.add.reduceat(np.asarray(metric.part(places, k), dtype=np.float64), lists.indptr[:-1])
    return total


def metrics(ranks: np.ndarray, k: int) -> dict[str, float]:
    """Return the mean of each default metric over all lists, by its label.

    Args:
        ranks: (T,) int64 from 0.
        k: length of the ranking that metrics with a cutoff look at.
    """
    return measure(RankLists.single(ranks), k).means()


def metric_means(ranks: "Tensor", k: int) -> "Tensor":
    """Return the means (M,) float64 of the default metrics, in their order, without waiting for the device.

    Args:
        ranks: (T,) int64 from 0, on any device.
        k: length of the ranking that metrics with a cutoff look at.
    """
    import torch

    found = [METRICS[name](ranks, k).double().sum() for name in default_metrics()]
    return torch.stack(found) / len(ranks)


def named_metrics(means: Sequence[float], k: int) -> dict[str, float]:
    """Return means of the default metrics, in their order, by labels such as ``hr@10`` and ``mrr``."""
    return dict(zip((label(name, k) for name in default_metrics()), map(float, means), strict=True))


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
