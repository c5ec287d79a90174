"""Sections of a page, each as HTML, with the charts that belong to it.

Whatever comes from the user, such as ids, titles and paths, goes through :func:`text`.
"""

from html import escape
from typing import Any, Protocol

import numpy as np
import polars as pl

from fastncf.data.ids import Vocabulary
from fastncf.data.split import Split
from fastncf.data.titles import read_titles
from fastncf.errors import counted, printable
from fastncf.evaluation.lists import ItemLists, measure_lists
from fastncf.evaluation.task import rank_by_popularity
from fastncf.kernels.cpu.factors import Factors
from fastncf.models.factored import has_vectors
from fastncf.models.pretrained import Pretrained
from fastncf.report import charts, measure
from fastncf.report.box import MAX_BYTES, ByHistory, Network, Solving, is_network, network_of, pack_box, solving_of
from fastncf.rng import Stream, key

_NUM_USERS = 2_000
_NUM_ON_MAP = 2_500
_K = 10

_BY_HISTORY = (
    "Pick items that you like, in the order in which you met them. This page then computes the items with the highest "
    "scores for a user with this history: the answers of <code>recommend(history=[...])</code>."
)
_BY_COSINE = (
    "Pick items that you like. This page then computes the items whose vectors have the largest mean cosine with "
    "theirs; for a single item these are the answers of <code>similar_items</code>."
)


class Reported(Protocol):
    """Part of a :class:`~fastncf.Recommender` that a page needs."""

    trained: Any
    plan: Any
    users: Vocabulary
    items: Vocabulary
    split: Split
    metrics: dict[str, float]
    protocol: str
    data: dict[str, int]
    seconds: dict[str, float]
    training_log: list[dict[str, Any]]
    found: dict[str, Any]
    pretrained: Pretrained | None

    def recommend(self, users: Any, k: int = ...) -> pl.DataFrame:
        """Return recommendations of items that a user has not seen: columns user, item, score, rank."""


class Sections:
    """Content of a page about a model.

    Attributes:
        charts: specifications of Vega-Lite, by the ids of the elements that they are drawn in.
        box: what the script needs for the box in which a reader picks items; None where there is none.

    Args:
        recommender: the model with its data.
        held_out: held-out items and their ranks; None where nothing is held out.
        titles: see :func:`fastncf.data.titles.read_titles`; None shows ids in place of titles.
        by_history: what makes users of histories, in the model or the one that it was pretrained by; or None.
    """

    def __init__(
        self,
        recommender: Reported,
        held_out: measure.HeldOut | None,
        titles: Any | None,
        by_history: ByHistory | None = None,
    ) -> None:
        self.charts: dict[str, dict[str, Any]] = {}
        self.box: dict[str, Any] | None = None
        self._recommender, self._held_out, self._by_history = recommender, held_out, by_history
        self._ids = [str(raw_id) for raw_id in recommender.items.ids.to_list()]
        names = self._ids
        if titles is not None:
            found = read_titles(titles, recommender.items).to_list()
            names = [title or raw_id for title, raw_id in zip(found, self._ids, strict=True)]
        self._names = list(map(printable, names))
        self._counts = recommender.split.item_counts()
        self._vectors = _item_vectors(recommender)
        self.model = str(recommender.plan.final.model)

    def html(self) -> str:
        """Return all sections."""
        return (
            self._figures()
            + self._protocol()
            + self._try_it()
            + self._accuracy()
            + f'<div class="grid">{self._learning()}{self._time()}</div>'
            + self._popularity()
            + self._map()
            + self._plan()
        )

    def _figures(self) -> str:
        """Return the metrics, the sizes of the data, and the time."""
        data, seconds = self._recommender.data, self._recommender.seconds
        shown = {_label(name): f"{value:.4f}" for name, value in self._recommender.metrics.items()}
        shown |= {name: f"{data[name]:,}" for name in ("users", "items", "interactions") if name in data}
        if "total" in seconds:
            shown["seconds of the fit"] = f"{seconds['total']:,.1f}"
        entries = "".join(f"<div><dt>{text(name)}</dt><dd>{value}</dd></div>" for name, value in shown.items())
        return f'<section><dl class="figures">{entries}</dl></section>'

    def _protocol(self) -> str:
        """Return in words how the metrics were measured."""
        protocol = self._recommender.protocol
        measured = f"<p>{text(protocol[:1].upper() + protocol[1:])}.</p>" if protocol else ""
        return _section(
            "How it was measured",
            measured
            + "<p>HR@k is the share of users whose held-out item is among the first k of its list. NDCG@k also "
            "rewards a place near the top: the item counts 1 / log2(1 + rank). MRR is the mean of 1 / rank.</p>",
        )

    def _try_it(self) -> str:
        """Return the box in which a reader picks items and sees recommendations."""
        network, how = self._network(), _BY_HISTORY
        by_history = self._by_history
        if network is None and by_history is None:  # a module whose scores the page cannot compute
            if self._vectors is None:
                return ""
            normalized, how = measure.normalized(self._vectors), _BY_COSINE
            no_bias = np.zeros(len(normalized), dtype=np.float32)
            by_history = ByHistory(normalized, no_bias, measure.mean_encoder(normalized), None)
        packed, data = pack_box(self._counts, by_history, network, MAX_BYTES)
        self.box = data | {
            "ids": [self._ids[item] for item in packed.items],
            "names": [self._names[item] for item in packed.items],
        }
        return _section(
            "Try it",
            f"<p>{how} {packed.describe(len(self._ids))}</p>"
            '<label for="search">Item</label> <input type="search" id="search" autocomplete="off">'
            '<div id="found"></div><div id="liked"></div><ol id="answers" aria-live="polite"></ol>',
        )

    def _network(self) -> Network | None:
        """Return the model as a network that the page computes scores by; None where it is none."""
        trained = self._recommender.trained
        if isinstance(trained, Factors) or not is_network(trained):
            return None
        way: Pretrained | Solving | None = self._recommender.pretrained
        if way is None:
            if self._by_history is not None:
                return None
            way = solving_of(trained, self._recommender.plan.final, self._counts)
        return network_of(trained, way)

    def _accuracy(self) -> str:
        """Return HR and NDCG over k, beside those of the most popular items."""
        if self._held_out is None:
            return _section("HR and NDCG over k", "<p>The model holds no items out, so that it cannot be measured.</p>")
        task, ranks = self._held_out
        assert task.negatives is not None
        popular, length = rank_by_popularity(self._counts, task), task.negatives.shape[1] + 1
        figures = ""
        for name in ("hr", "ndcg") if ranks.is_single else ("recall", "ndcg"):
            by_series = {
                self.model: measure.metric_curve(name, ranks, length),
                "most popular": measure.metric_curve(name, popular, length),
            }
            label = f"{name.upper()}@k"
            figures += _section(f"{name.upper()} over k", self._chart(name, label, charts.curves(by_series, label)))
        return (
            f'<div class="grid">{figures}</div><p class="soft">'
            f"{counted(len(task.positives), 'held-out item')}, each among {length:,}. Bars are 95 % confidence "
            f"intervals of the means. Most popular: the items of a list in the "
            f"order of their training interactions.</p>"
        )

    def _learning(self) -> str:
        """Return the losses and the validation metrics of the epochs."""
        log = self._recommender.training_log
        if not log:
            return _section("Learning", "<p>Nothing was trained in epochs.</p>")
        epochs = list(range(1, len(log) + 1))
        losses = {"loss": [_number(entry.get("loss")) for entry in log]}
        content = "<p>Mean loss of each epoch.</p>" + self._chart(
            "loss", "loss by epoch", charts.lines(losses, epochs, ("epoch", "loss"))
        )
        names = [name for name in log[-1] if name not in ("epoch", "loss", "seconds")]
        if names:
            by_name = {_label(name): [_number(entry.get(name)) for entry in log] for name in names}
            content += "<p>Metrics of items that were held out for validation.</p>" + self._chart(
                "validation", "validation by epoch", charts.lines(by_name, epochs, ("epoch", "metric"))
            )
        return _section("Learning", content)

    def _time(self) -> str:
        """Return the seconds of each stage."""
        seconds = {name: float(value) for name, value in self._recommender.seconds.items() if name != "total"}
        if not seconds:
            return _section("Time", "<p>No times were recorded.</p>")
        chart = self._chart("time", "seconds by stage", charts.bars(seconds, "seconds"))
        return _section("Time", f"<p>Seconds by stage; sampling may overlap with training.</p>{chart}")

    def _popularity(self) -> str:
        """Return how popular the recommended items are, and how many different ones there are."""
        split, num_items = self._recommender.split, len(self._ids)
        users = _some_users(split.num_users)
        items = self._recommender.items.require(  # works in a forked child, as encode() does not
            self._recommender.recommend(self._recommender.users.decode(users), k=_K)["item"]
        )
        if not len(items):
            return _section("Popularity and coverage", "<p>Every user has seen every item.</p>")
        by_series = {
            self.model: items,
            "most popular": measure.most_popular(split, users, _K),
            "training": split.indices,
        }
        shares = {series: measure.share_of_most_popular(of, self._counts) for series, of in by_series.items()}
        x = np.linspace(0, 100, measure.NUM_SHARES)
        chart = charts.lines(
            {series: (100 * share).tolist() for series, share in shares.items()},
            x.tolist(),
            ("most popular items, % of the catalogue", "share, %"),
        )
        distinct, drawn = len(np.unique(items)), "" if len(users) == split.num_users else " drawn at random"
        tenth = float(np.interp(10, x, 100 * shares[self.model]))
        return _section(
            "Popularity and coverage",
            f"<p>The first {_K} recommendations for {counted(len(users), 'user')}{drawn} hold "
            f"{counted(distinct, 'different item')}: "
            f"{100 * distinct / num_items:.1f} % of the {num_items:,} of the catalogue. The most popular tenth of the "
            f"items gets {tenth:.0f} % of these recommendations. A curve that rises early favours popular items. "
            f"Training: the interactions that the model was trained on. {self._inequality(users, items)}</p>"
            + self._chart("popularity", "share of the most popular items", chart),
        )

    def _inequality(self, users: np.ndarray, items: np.ndarray) -> str:
        """Return how unequally items are recommended, and how similar those of a list are, with standard errors."""
        vectors = None if self._vectors is None else measure.normalized(self._vectors)
        texts = []
        popular = measure.most_popular(self._recommender.split, users, _K)
        for series, of in ((self.model, items), ("most popular", popular)):
            if len(of) != len(users) * _K:  # some users get fewer items
                return ""
            found = measure_lists(ItemLists(of.reshape(len(users), _K).astype(np.int32), self._counts, vectors), _K)
            shown = {"Gini index": "gini", "mean popularity": "popularity", "mean cosine in a list": "similarity"}
            values = {title: found[f"{name}@{_K}"] for title, name in shown.items()}
            figures = [
                f"{title} {one.value:.3g} ± {one.error:.2g}" for title, one in values.items() if one.value == one.value
            ]
            texts.append(f"{text(series)}: {', '.join(figures)}")
        return f"Over these lists, with standard errors over users: {'; '.join(texts)}."

    def _map(self) -> str:
        """Return a map of the items."""
        if self._vectors is None:
            return _section("Map of items", "<p>This model has no vectors of items.</p>")
        shown = np.argsort(-self._counts, kind="stable")[:_NUM_ON_MAP]
        names = [self._names[item] for item in shown]
        ids = [printable(self._ids[item]) for item in shown]
        chart = charts.item_map(measure.project(self._vectors)[shown], names, ids, self._counts[shown])
        which = "the only item" if len(shown) == 1 else f"all {len(shown):,} items"
        if len(shown) < len(self._ids):
            which = f"the {len(shown):,} items with the most interactions, of {len(self._ids):,}"
        return _section(
            "Map of items",
            f"<p>The two principal components of the directions of the item vectors, for {which}. Items that are close "
            f"here need not be close in all {self._vectors.shape[1]} dimensions.</p>"
            + self._chart("map", "map of items", chart),
        )

    def _plan(self) -> str:
        """Return what was recognised in the source, and what was done."""
        found = self._recommender.found
        source = ""
        if found:
            columns = ", ".join(f"{role} = {name}" for role, name in found["columns"].items())
            source = (
                f"<p>{text(found['source'])}: {text(found['format'])}; {text(columns)}; "
                f"{counted(found['rows'], 'row')}.</p>"
            )
        lines = "\n".join(map(text, str(self._recommender.plan).split("\n")))
        return _section(
            "Data and plan", f"{source}<details><summary>Settings and reasons</summary><pre>{lines}</pre></details>"
        )

    def _chart(self, name: str, label: str, specification: dict[str, Any]) -> str:
        """Keep a chart and return the element that it is drawn in."""
        self.charts[name] = specification
        return f'<div class="chart" id="{name}" role="img" aria-label="{text(label)}"></div>'


def text(value: object) -> str:
    """Return a value as HTML text, which is also safe within the quotes of an attribute."""
    return escape(printable(str(value)), quote=True)


def _section(title: str, content: str) -> str:
    """Return a section of HTML content below its title."""
    return f"<section><h2>{title}</h2>{content}</section>\n"


def _label(name: str) -> str:
    """Return the name of a metric as papers write it."""
    return name.upper().replace("FULL/", "full ")


def _number(value: Any) -> float:
    """Return a value of the training log, NaN where it is missing."""
    return float("nan") if value is None else float(value)


def _some_users(num_users: int) -> np.ndarray:
    """Return the indices of all users, or of some that are drawn at random, ascending."""
    if num_users <= _NUM_USERS:
        return np.arange(num_users)
    generator = np.random.Generator(np.random.Philox(key=key(0, Stream.USERS)))
    return np.sort(generator.choice(num_users, size=_NUM_USERS, replace=False))


def _item_vectors(recommender: Reported) -> np.ndarray | None:
    """Return the vectors of the items (I, D) float32, or None where the model has none."""
    if isinstance(recommender.trained, Factors):
        return recommender.trained.item_vectors if has_vectors(str(recommender.plan.final.model)) else None
    item_vectors = getattr(recommender.trained, "item_vectors", None)
    if item_vectors is None:
        return None
    vectors: np.ndarray = item_vectors()[: len(recommender.items)].detach().float().cpu().numpy()
    return vectors
