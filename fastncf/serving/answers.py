"""Answers to a request: the best items of each user, chunk by chunk, and as a frame."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import polars as pl

from fastncf.data.ids import Vocabulary
from fastncf.evaluation.topk import FEW_USERS, Answer, FactorItems, ModuleItems, flatten
from fastncf.kernels.cpu.topk import Best
from fastncf.serving.filters import Filters
from fastncf.serving.users import AskedUsers

_CHUNK_USERS = 1 << 13
_CHUNK_RESULTS = 1 << 22
_FIRST_RANKS = pl.Series("rank", np.arange(1, 1025, dtype=np.int32))  # a new column takes 5 % of one user's answer


@dataclass(frozen=True)
class Request:
    """Users, what each of them may get, and who finds the best of it.

    Attributes:
        users: who is asked for.
        filters: what they may get.
        items: ids of the I items.
        titles: (I,) title of each item, or None.
        k: items for each user, at least 1.
        ranker: ranks items for users of the training data.
        counts: (I,) int64, training interactions of each item, by which items are ranked for other users; None where
            there are no such users.
    """

    users: AskedUsers
    filters: Filters
    items: Vocabulary
    titles: pl.Series | None
    k: int
    ranker: FactorItems | ModuleItems
    counts: np.ndarray | None = None

    def chunks(self) -> Iterator[Answer]:
        """Yield the answers for consecutive users, so many that memory is bounded."""
        rows = self.filters.without_sated(self.users.rows)
        users_per_chunk = max(1, min(_CHUNK_USERS, _CHUNK_RESULTS // min(self.k, len(self.items))))
        for start in range(0, max(1, len(rows)), users_per_chunk):
            yield self._answer(rows[start : start + users_per_chunk])

    def answer(self) -> Answer:
        """Return the answers for all users, numbered as in :class:`~fastncf.serving.users.AskedUsers`."""
        filters, rows = self.filters, self.users.rows
        is_plain = filters.pairs is None and not self.users.unknown
        if isinstance(self.ranker, FactorItems) and is_plain and len(rows) < FEW_USERS:
            return self.ranker.answer(
                rows, self.k, filters.split, leaves_out=filters.leaves_out_seen, is_open=filters.is_open
            )
        answers = list(self.chunks())
        return answers[0] if len(answers) == 1 else Answer(*map(np.concatenate, zip(*answers, strict=True)))

    def frame(self, answer: Answer) -> pl.DataFrame:
        """Return answers as a frame of raw ids; see :meth:`fastncf.Recommender.recommend`."""
        users = self.users.decode(answer.users).to_frame()  # DataFrame(...) takes three times as long for few rows
        is_one = len(self.users.rows) == 1 and len(answer.ranks) <= len(_FIRST_RANKS)
        scores = pl.Series("score", answer.scores)
        ranks = _FIRST_RANKS.head(len(answer.ranks)) if is_one else pl.Series("rank", answer.ranks)
        columns = [self.items.decode(answer.items), scores, ranks]
        if self.titles is not None:
            columns.insert(1, self.titles.gather(answer.items.astype(np.int64)).alias("title"))
        return users.hstack(columns)

    def _answer(self, rows: np.ndarray) -> Answer:
        """Return the answer for some users."""
        best = self._mixed(rows) if self.users.unknown else self._by_model(rows)
        return flatten(rows, best)

    def _mixed(self, rows: np.ndarray) -> Best:
        """Return the best items of users of whom some are not in the training data."""
        best = Best.empty(len(rows), min(self.k, len(self.items)))
        is_known = rows < len(self.users.vocabulary)
        known, others = np.flatnonzero(is_known), np.flatnonzero(~is_known)
        for part, find in ((known, self._by_model), (others, self._by_popularity)):
            for found, target in zip(find(rows[part]), best, strict=True):
                target[part] = found
        return best

    def _by_model(self, rows: np.ndarray) -> Best:
        """Return the best items of users of the training data."""
        return self.ranker.top(rows, self.k, self.filters.left_out(rows))

    def _by_popularity(self, rows: np.ndarray) -> Best:
        """Return the items with the most training interactions that other users may get, scored by their number."""
        assert self.counts is not None
        indptr, indices, is_open = self.filters.left_out(rows)
        by_count = np.argsort(-self.counts, kind="stable").astype(np.int32)
        if len(is_open):
            by_count = by_count[is_open[by_count]]
        best = Best.empty(len(rows), min(self.k, len(self.items)))
        for row in range(len(rows)):
            left_out = indices[indptr[row] : indptr[row + 1]]
            head = by_count[: self.k + len(left_out)]
            found = head[~np.isin(head, left_out)][: self.k]
            best.counts[row] = len(found)
            best.items[row, : len(found)], best.scores[row, : len(found)] = found, self.counts[found]
        return best
