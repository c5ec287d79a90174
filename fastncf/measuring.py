"""Measurement of a model on held-out items: what is ranked against what, the metrics, and the protocol in words."""

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastncf.config import Config
from fastncf.data.csr import Rows
from fastncf.data.split import Split
from fastncf.errors import ConfigError, DivergedError, counted
from fastncf.evaluation.candidates import CandidateSpec, draw_candidates
from fastncf.evaluation.lists import Estimate, ItemLists, measure_lists
from fastncf.evaluation.metrics import MISS, MetricTable, RankLists, measure, require_metrics
from fastncf.evaluation.task import RankingTask, rank_by_popularity, rank_task
from fastncf.evaluation.topk import FactorItems, top_items
from fastncf.kernels.cpu.factors import Factors
from fastncf.kernels.cpu.topk import LeftOut
from fastncf.rng import Stream

if TYPE_CHECKING:
    from torch import nn

FULL = "full/"
"""Beginning of the labels of metrics in the whole catalogue."""


def popular_items(counts: np.ndarray) -> Factors:
    """Return factors of one user that rank items by numbers of interactions (I,), equal ones in their order."""
    nothing, bias = np.zeros((1, 1), dtype=np.float32), np.empty(len(counts), dtype=np.float32)
    bias[np.argsort(-counts, kind="stable")] = -np.arange(len(counts), dtype=np.float32)
    return Factors(nothing, np.zeros((len(counts), 1), dtype=np.float32), np.zeros(1, dtype=np.float32), bias)


class _MetricsAndProtocol(NamedTuple):
    """Metrics by their labels, and the protocol of their measurement in words."""

    metrics: dict[str, float]
    protocol: str


class Evaluation(_MetricsAndProtocol):
    """Metrics and protocol, a tuple of two, with what belongs to them.

    Attributes:
        metrics: means over users by label, such as ``hr@10``; those of the whole catalogue begin with ``full/``.
        protocol: how they were measured, in words.
        errors: standard errors of the means over users, by the same labels.
        popularity: the same metrics of a model that ranks items by their training interactions.
        tables: the value of each metric for each tested user, among the candidates and, where that was asked for, in
            the whole catalogue (under ``full/``).
    """

    errors: dict[str, float]
    popularity: dict[str, float]
    tables: dict[str, MetricTable]


@dataclass(frozen=True)
class TestSet:
    """Users whose held-out items are ranked.

    Attributes:
        users: (T,) int32.
        tests: held-out items of all users.
        split: the split that they belong to.
        are_others: whether the users are not those of the model, and indices of :attr:`Split.others`.
    """

    users: np.ndarray
    tests: Rows
    split: Split
    are_others: bool

    @classmethod
    def of(cls, split: Split) -> "TestSet":
        """Return the test set of a split.

        Raises:
            ConfigError: nothing is held out.
        """
        if split.holdout == "none":
            raise ConfigError(
                "evaluate: nothing is held out, since the model was trained on all interactions; expected a model of a "
                "fit that holds items out, before refit(); the metrics of that fit are kept in the model"
            )
        tests = split.tests()
        users = np.flatnonzero(tests.lengths).astype(np.int32)
        if split.others is not None and not len(users):
            others = split.others
            return cls(others.tested(split.num_items), others.test, split, True)
        return cls(users, tests, split, False)

    @property
    def positives(self) -> Rows:
        """Held-out items of the tested users alone, (T,) rows."""
        return self.tests if len(self.users) == len(self.tests.indptr) - 1 else self.tests.select(self.users)

    def seen(self) -> tuple[np.ndarray, np.ndarray]:
        """Return a CSR of all items that each user has to do with, held-out ones included."""
        others = self.split.others if self.are_others else None
        return self.split.seen() if others is None else others.seen()

    def task(self, negatives: np.ndarray | None) -> RankingTask:
        """Return the ranking of the held-out items among negatives (T, C), or in the whole catalogue."""
        positives, split = self.positives, self.split
        excluded = Rows(np.zeros(1, dtype=np.int64), np.empty(0, dtype=np.int32))
        if negatives is None and self.are_others and split.others is not None:
            excluded = split.others.histories.ascending()
        elif negatives is None:
            excluded = split.trained_or_validated()
        return RankingTask(self.users, positives.indptr, positives.items, split.num_items, negatives, excluded)


@dataclass(frozen=True)
class Questions:
    """Measurements of a model.

    Attributes:
        test: users and their held-out items.
        candidates: the task among candidates.
        against: in words, what the candidates are.
        whole: the task in the whole catalogue, or None where that was not asked for.
        metrics: names.
        cutoffs: lengths of the rankings.
    """

    test: TestSet
    candidates: RankingTask
    against: str
    whole: RankingTask | None
    metrics: tuple[str, ...]
    cutoffs: tuple[int, ...]
    config: Config = field(repr=False)

    @classmethod
    def of(cls, split: Split, config: Config, *, is_redrawn: bool = False) -> "Questions":
        """Return what a fit with some settings measures.

        Args:
            split: the data.
            config: settings of the measurement.
            is_redrawn: whether candidates are drawn although some were given.

        Raises:
            ConfigError: nothing is held out any more, or a metric cannot be measured.
            InsufficientMemoryError: the lists do not fit into the memory.
        """
        test = TestSet.of(split)
        if not len(test.users):
            raise ConfigError(
                "evaluate: no held-out item is left, since update() has taken those of all tested users into their "
                "histories; expected a model before update(); the metrics of the fit are kept in the model"
            )
        has_several = config.held_out(is_given=split.holdout == "given").has_several and split.test_rows is not None
        has_several |= test.are_others and config.held_out().has_several
        names = require_metrics(config.metrics, has_several=has_several)
        if split.test_candidates is not None and not is_redrawn:
            negatives, seen = split.test_candidates, split.num_candidates_seen
            left_out = f", without {seen} that their user has seen" if seen else ""
            against = f"1 + {negatives.shape[1]} given candidates{left_out}"
        else:
            sampling = config.candidate_sampling
            spec = CandidateSpec(config.num_candidates, config.distinct_candidates, config.seed, sampling)
            negatives = draw_candidates(test.seen(), split, spec, test.users, Stream.CANDIDATES)
            how = "uniformly" if sampling == "uniform" else "by popularity"
            number = config.num_candidates
            ranked = f"1 + {number} candidates"
            if has_several:
                ranked = f"the items of each user together with {counted(number, 'candidate')}"
            against = (
                f"{ranked} drawn {how} {'without' if config.distinct_candidates else 'with'} replacement "
                f"from the items that the user has not seen"
            )
        whole = test.task(None) if config.full_ranking else None
        return cls(test, test.task(negatives), against, whole, names, config.cutoffs, config)

    def first(self, num_users: int) -> "Questions":
        """Return the measurements by the first tested users alone."""
        whole = None if self.whole is None else self.whole.first(num_users)
        return replace(self, candidates=self.candidates.first(num_users), whole=whole)

    def protocol(self) -> str:
        """Return in words what is ranked against what, and how much of it no training interaction has."""
        task, split = self.candidates, self.test.split
        assert task.negatives is not None
        is_unknown = ~split.is_known()
        others = split.others
        num_others = 0 if others is None else len(others.users)
        rule = self.config.held_out(is_given=split.holdout == "given")
        protocol = (
            f"{self._kept(is_given=rule.rule == 'given')}{rule.describe(num_others)}, "
            f"{counted(len(task.users), 'user')}"
        )
        if len(task.positives) != len(task.users):
            protocol += f" with {counted(len(task.positives), 'item')}"
        if num_unknown := int(is_unknown[task.positives].sum()):
            protocol += f" ({num_unknown} of their items unknown to the training data)"
        if others is not None and not self.test.are_others:
            protocol += f" ({counted(num_others, 'later user')} without an earlier interaction, not tested)"
        protocol += f", {self.against}"
        if is_unknown.any():
            share = float(is_unknown[task.negatives[task.negatives >= 0]].mean())
            protocol += f", {100 * share:.2g} % of them unknown to the training data" if share else ""
        if num_short := int((task.negatives < 0).any(1).sum()):
            protocol += f" ({counted(num_short, 'user has', 'users have')} fewer)"
        protocol += "; ties count against the held-out item"
        if self.whole is not None:
            protocol += f"; {FULL}: against the whole catalogue without {self._left_out()} items"
        return protocol

    def _left_out(self) -> str:
        """Return in words which items of a user are not ranked in the whole catalogue."""
        if self.test.are_others:
            return "the user's other"
        return "training and validation" if self.config.validation else "training"

    def _kept(self, *, is_given: bool) -> str:
        """Return in words which interactions of the data take part, where these are not all of them."""
        config, parts = self.config, []
        if config.min_rating is not None:
            parts.append(f"{'training ' if is_given else ''}interactions rated {config.min_rating:g} or more")
        if config.user_fraction < 1:
            parts.append(f"{100 * config.user_fraction:g} % of the users drawn at random")
        return "".join(f"{part}, " for part in parts)

    def answer(
        self, trained: "Factors | nn.Module", *, has_lists: bool = False, vectors: np.ndarray | None = None
    ) -> Evaluation:
        """Return the metrics of a model whose users are those of the tasks.

        Args:
            trained: the model.
            has_lists: whether to measure the lists of recommendations as well.
            vectors: (I, D) float32 of the items, by which those of a list are compared; or None.

        Raises:
            DivergedError: no held-out item has a finite score, so that the metrics would mean nothing.
        """
        counts = self.test.split.item_counts()
        metrics: dict[str, float] = {}
        errors: dict[str, float] = {}
        popularity: dict[str, float] = {}
        tables: dict[str, MetricTable] = {}
        for prefix, task in (("", self.candidates), (FULL, self.whole)):
            if task is None:
                continue
            ranks = rank_task(trained, task)
            if not prefix and len(ranks.ranks) and (ranks.ranks == MISS).all():
                raise DivergedError(
                    "evaluate: no held-out item has a finite score, as after a training that diverged; expected: a "
                    "model that was fitted with a smaller learning_rate, l2 or init_std"
                )
            tables[prefix] = self.table(ranks)
            popular = self.table(rank_by_popularity(counts, task))
            for found, of_table in ((metrics, tables[prefix].means()), (errors, tables[prefix].errors())):
                found |= {prefix + label: value for label, value in of_table.items()}
            popularity |= {prefix + label: value for label, value in popular.means().items()}
        if has_lists:
            of_model, of_popular = (
                self._lists(trained, counts, vectors),
                self._lists(popular_items(counts), counts, vectors),
            )
            metrics |= {label: estimate.value for label, estimate in of_model.items()}
            errors |= {label: estimate.error for label, estimate in of_model.items()}
            popularity |= {label: estimate.value for label, estimate in of_popular.items()}
        of_lists = f"; lists: the best items of each tested user without {self._left_out()} items" if has_lists else ""
        evaluation = Evaluation(metrics, self.protocol() + of_lists)
        evaluation.errors, evaluation.popularity, evaluation.tables = errors, popularity, tables
        return evaluation

    def _lists(
        self, trained: "Factors | nn.Module", counts: np.ndarray, vectors: np.ndarray | None
    ) -> dict[str, Estimate]:
        """Return metrics of the best items of each tested user, without what the user has in training.

        A metric that the lists do not have, such as the similarity of the items of lists of one item, is left out.
        """
        users = self.test.users
        if isinstance(trained, Factors) and len(trained.user_vectors) == 1:  # the same scores for all users
            users = np.zeros_like(users)
        left_out = LeftOut(*Rows(*self.test.task(None).excluded).select(self.test.users), np.empty(0, dtype=np.bool_))
        longest = max(self.cutoffs)
        if isinstance(trained, Factors):
            best = FactorItems(trained).top(users, longest, left_out)
        else:
            best = top_items(trained, users, self.test.split.num_items, longest, left_out)
        items = np.where(np.arange(best.items.shape[1]) < best.counts[:, None], best.items, np.int32(-1))
        found: dict[str, Estimate] = {}
        for k in self.cutoffs:
            found |= measure_lists(ItemLists(items[:, :k], counts, vectors), k)
        return {label: estimate for label, estimate in found.items() if math.isfinite(estimate.value)}

    def table(self, ranks: RankLists) -> MetricTable:
        """Return the values of the asked-for metrics."""
        return measure(ranks, self.cutoffs, self.metrics)
