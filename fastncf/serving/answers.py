"""Answers to a request: the best items of each user, chunk by chunk, and as a frame."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from fastncf.data.ids import Vocabulary
from fastncf.kernels.cpu.topk import Best, LeftOut, flatten_best
from fastncf.serving.filters import Filters
from fastncf.serving.users import AskedUsers

_CHUNK_USERS = 1 << 13
_CHUNK_RESULTS = 1 << 22

TopItems = Callable[[np.ndarray, int, LeftOut], Best]
"""Returns the k best items of users (B,) int32 of the training data, without some that are left out."""


class Recommendations(NamedTuple):
    """Recommended items, those of a user together and best first.

    Attributes:
        rows: (n,) int32, numbers of the users, see :class:`~fastncf.serving.users.AskedUsers`.
        items: (n,) int32.
        scores: (n,) float32.
        ranks: (n,) int32, from 1.
    """

    rows: np.ndarray
    items: np.ndarray
    scores: np.ndarray
    ranks: np.ndarray


@dataclass(frozen=True)
class Request:
    """Users, what each of them may get, and who finds the best of it.

    Attributes:
        users: who is asked for.
        filters: what they may get.
        items: ids of the I items.
        k: items for each user, at least 1.
        top_items: ranks items for users of the training data.
        counts: (I,) int64, training interactions of each item, by which items are ranked for other users; None where
            there are no such users.
    """

    users: AskedUsers
    filters: Filters
    items: Vocabulary
    k: int
    top_items: TopItems
    counts: np.ndarray | None = None

    def chunks(self) -> Iterator[Recommendations]:
        """Yield the answers for consecutive users, so many that memory is bounded."""
        rows = self.filters.without_sated(self.users.rows)
        users_per_chunk = max(1, min(_CHUNK_USERS, _CHUNK_RESULTS // min(self.k, len(self.items))))
        for start in range(0, max(1, len(rows)), users_per_chunk):
            yield self._answer(rows[start : start + users_per_chunk])

    def answer(self) -> Recommendations:
        """Return the answers for all users."""
        answers = list(self.chunks())
        return answers[0] if len(answers) == 1 else Recommendations(*map(np.concatenate, zip(*answers, strict=True)))

    def frame(self, answer: Recommendations) -> pl.DataFrame:
        """Return answers as a frame of raw ids; see :meth:`fastncf.Recommender.recommend`."""
        users = self.users.decode(answer.rows).to_frame()  # DataFrame(...) takes three times as long for few rows
        scores, ranks = pl.Series("score", answer.scores), pl.Series("rank", answer.ranks)
        return users.hstack([self.items.decode(answer.items), scores, ranks])

    def _answer(self, rows: np.ndarray) -> Recommendations:
        """Return the answer for some users."""
        best = self._mixed(rows) if self.users.unknown else self._by_model(rows)
        size = int(best.counts.sum())
        answer = Recommendations(
            np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, np.float32), np.empty(size, np.int32)
        )
        flatten_best(rows, best, *answer)
        return answer

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
        return self.top_items(rows, self.k, self.filters.left_out(rows))

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
