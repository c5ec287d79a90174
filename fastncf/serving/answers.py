"""Answers to a request: the best items of each user, chunk by chunk, and as a frame."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import polars as pl

from fastncf.data.ids import Vocabulary
from fastncf.kernels.cpu.topk import Best, LeftOut
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
        users_per_chunk = max(1, min(_CHUNK_USERS, _CHUNK_RESULTS // min(self.k, len(self.items))))
        for start in range(0, max(1, len(self.users.rows)), users_per_chunk):
            yield self._answer(self.users.rows[start : start + users_per_chunk])

    def frame(self, answers: list[Recommendations]) -> pl.DataFrame:
        """Return answers as a frame of raw ids; see :meth:`fastncf.Recommender.recommend`."""
        rows, items, scores, ranks = map(np.concatenate, zip(*answers, strict=True)) if len(answers) > 1 else answers[0]
        return pl.DataFrame(
            [self.users.decode(rows), self.items.decode(items), pl.Series("score", scores), pl.Series("rank", ranks)]
        )

    def _answer(self, rows: np.ndarray) -> Recommendations:
        """Return the answer for some users."""
        best = Best.empty(len(rows), min(self.k, len(self.items)))
        best.counts[:] = 0
        is_known = rows < len(self.users.vocabulary)
        known = np.flatnonzero(is_known)
        known = known[~self.filters.has_seen_all(rows[known])]
        for part, find in ((known, self._by_model), (np.flatnonzero(~is_known), self._by_popularity)):
            if 0 < len(part) == len(rows):
                best = find(rows)
            elif len(part):
                for found, target in zip(find(rows[part]), best, strict=True):
                    target[part] = found
        kept = np.arange(best.items.shape[1]) < best.counts[:, None]
        ranks = np.broadcast_to(np.arange(1, kept.shape[1] + 1, dtype=np.int32), kept.shape)
        return Recommendations(np.repeat(rows, best.counts), best.items[kept], best.scores[kept], ranks[kept])

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
