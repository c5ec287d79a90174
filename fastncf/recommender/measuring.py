"""Evaluation of a fitted model on held-out items, as numbers and as a page."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fastncf.config import require_flag
from fastncf.errors import ConfigError, DivergedError
from fastncf.evaluation.task import rank_task
from fastncf.evaluation.topk import unit_vectors
from fastncf.kernels.cpu.factors import Factors
from fastncf.measuring import Evaluation, Questions, TestSet
from fastncf.models.factored import has_vectors
from fastncf.numpy_errors import with_usual_errors
from fastncf.recommender.answering import Answering

if TYPE_CHECKING:
    from torch import nn

    from fastncf.report.box import ByHistory


class Measuring(Answering):
    """Evaluation of a fitted model."""

    @with_usual_errors
    def evaluate(
        self,
        *,
        k: int | Sequence[int] | None = None,
        num_candidates: int | None = None,
        full_ranking: bool | None = None,
        metrics: Sequence[str] | None = None,
        candidate_sampling: Literal["uniform", "popularity"] | None = None,
        lists: bool = False,
    ) -> Evaluation:
        """Rank the held-out test items, with the settings of the fit where no others are given.

        Args:
            k: length of the ranking that metrics such as HR@k look at, or several.
            num_candidates: negatives that each item is ranked against.
            full_ranking: also rank against the whole catalogue.
            metrics: names, see :class:`fastncf.Config`.
            candidate_sampling: how candidates are drawn, ``uniform`` or by ``popularity``.
            lists: also measure the k best items of each tested user: ``coverage``, the share of the catalogue that
                anyone gets; ``popularity``, the mean number of training interactions; ``gini``, the Gini index of how
                often items are recommended; and ``similarity``, the mean cosine of two items of a list.

        Candidates that were given as a file in the fit are used unless another number of them, or another way to draw
        them, is asked for.

        Returns:
            A tuple of the metrics by label and the protocol in words. Its further attributes are ``errors``, standard
            errors over users by the same labels; ``popularity``, the metrics of the most popular items; and ``tables``,
            the values of each user.

        Raises:
            ConfigError: k or num_candidates is no integer of at least 1, a metric is unknown, or nothing is held out,
                perhaps since :meth:`update` has taken it all into histories.
            InsufficientMemoryError: the memory does not suffice for so many candidates.
            DivergedError: no held-out item has a finite score, so that the metrics would mean nothing.
        """
        asked: dict[str, Any] = {
            "k": k,
            "num_candidates": num_candidates,
            "full_ranking": full_ranking,
            "metrics": metrics,
            "candidate_sampling": candidate_sampling,
        }
        config = replace(self.config, **{name: value for name, value in asked.items() if value is not None})
        is_redrawn = num_candidates is not None or candidate_sampling is not None
        questions = Questions.of(self.split, config, is_redrawn=is_redrawn)
        try:
            trained, has_lists = self.trained_for(questions), require_flag("lists", lists)
            vectors = self._directions() if has_lists else None
            return questions.answer(trained, has_lists=has_lists, vectors=vectors)
        except DivergedError as error:
            raise DivergedError(str(error), self) from None

    def _directions(self) -> np.ndarray | None:
        """Return the vectors of the items divided by their lengths, (I, D) float32; None where the model has none."""
        if self._factors() is None and (isinstance(self.trained, Factors) or not hasattr(self.trained, "item_vectors")):
            return None
        return unit_vectors(self._vectors("item"))

    def keep(self, evaluation: Evaluation) -> None:
        """Take an evaluation for that of the fit: its metrics, and what belongs to them."""
        self.metrics, self.protocol = evaluation
        self.errors, self.popularity = evaluation.errors, evaluation.popularity

    def trained_for(self, questions: Questions) -> "nn.Module | Factors":
        """Return the model for the users of a test set: its own, or others who are known by their histories."""
        others = self.split.others
        if not questions.test.are_others or others is None:
            return self.trained
        return self._known_model().for_histories(self.plan, *others.histories)

    @with_usual_errors
    def report(self, path: str | Path, *, titles: Any | None = None) -> Path:
        """Write a page about the model: one HTML file that needs no network, for any browser and for phones.

        It shows how the model was measured, HR and NDCG over k beside those of the most popular items, the epochs, the
        time of each stage, how popular and how many the recommended items are, and a map of the items; in a box a
        reader picks items and sees recommendations. It needs the extra ``report``: Altair and vl-convert.

        Args:
            path: the file, whose name ends in .html; an older report is replaced.
            titles: titles of the items, which the page shows in place of ids: a frame with columns item and title,
                ``u.item``, ``movies.dat``, ``movies.csv`` or a similar file, or the name of a data set.

        Returns:
            The path.

        Raises:
            DataNotFoundError: there is no such file of titles.
            DataError: the titles cannot be used; the file is no report, or cannot be written.
            FastNCFError: the extra ``report`` is not installed.
        """
        from fastncf.report import HeldOut, require_page_path, write_report

        target = require_page_path(path)  # before the items are ranked
        held_out = None
        if self.split.holdout != "none" and len(TestSet.of(self.split).users):
            questions = Questions.of(self.split, self.config)
            held_out = HeldOut(questions.candidates, rank_task(self.trained_for(questions), questions.candidates))
        return write_report(self, held_out, target, titles, by_history=self._by_history())

    def _by_history(self) -> "ByHistory | None":
        """Return the factors by which histories become users, of the model or of the one that it was pretrained by.

        Returns:
            None where the rows of a module are solved for, or where users are known by their ids alone.
        """
        from fastncf.report.box import ByHistory

        try:
            known, stage = self._known_model(), self.plan.final
        except ConfigError:
            return None
        if not isinstance(known.trained, Factors):
            if known.pretrained is None:
                return None
            known, stage = known.first_model(), self.plan.stages[0]
        fixed = known.fixed_items(stage) if has_vectors(stage.model) else None
        return ByHistory(known.factors.item_vectors, known.factors.item_bias, known.encoder, fixed)
