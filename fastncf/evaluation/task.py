"""Ranking tasks: held-out items of users, one or several each, and the items that they are ranked against.

:func:`rank_task` ranks them by a fitted model, :func:`rank_by_scores` by anything that scores pairs of users and items,
and :func:`rank_by_popularity` by numbers of interactions. All of them follow one rule: the negatives that are *not
lower* than a held-out item stand before it, NaN included; of several held-out items of a user the better one stands
before the others; and an item whose own score is not finite is a miss.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from fastncf.data.csr import Rows
from fastncf.errors import DataError, counted
from fastncf.evaluation.candidates import CandidateLists
from fastncf.evaluation.metrics import MISS, RankLists
from fastncf.evaluation.ranking import catalogue_ranks_by_factors, ranks_by_factors
from fastncf.kernels.cpu.factors import Factors

if TYPE_CHECKING:
    from torch import nn

Scorer = Callable[[np.ndarray, np.ndarray], Any]
"""Maps users (n,) int32 and items (n,) int32, as indices, to scores (n,), higher is better."""

_CHUNK = 4_000_000
"""Pairs that are scored, or entries of lists that are copied, at a time."""


@dataclass(frozen=True)
class RankingTask:
    """Held-out items of T users, R in all, and what they are ranked against; a row for each user.

    Attributes:
        users: (T,) int32, indices of the users, each once.
        indptr: (T + 1,) int64; the held-out items of row t are ``positives[indptr[t]:indptr[t + 1]]``, at least one.
        positives: (R,) int32, indices of items, distinct in each row.
        num_items: I.
        negatives: (T, C) int32, the candidates that the items of a row are ranked against, -1 at the end of rows that
            are shorter; None for all items of the catalogue but the excluded ones.
        excluded: items that are not ranked, with a row for each index of a user: indptr (U + 1,) int64 and indices
            int32, ascending in each row, without the held-out items. Read where ``negatives`` is None.
    """

    users: np.ndarray
    indptr: np.ndarray
    positives: np.ndarray
    num_items: int
    negatives: np.ndarray | None
    excluded: tuple[np.ndarray, np.ndarray]

    @property
    def owner(self) -> np.ndarray:
        """Row of each held-out item, (R,) int64."""
        return np.repeat(np.arange(len(self.users)), np.diff(self.indptr))

    def first(self, num_users: int) -> "RankingTask":
        """Return the task of the first users alone."""
        indptr = self.indptr[: num_users + 1]
        negatives = None if self.negatives is None else self.negatives[:num_users]
        users, positives = self.users[:num_users], self.positives[: indptr[-1]]
        return replace(self, users=users, indptr=indptr, positives=positives, negatives=negatives)

    def excluded_with_positives(self) -> tuple[np.ndarray, np.ndarray]:
        """Return a CSR of the excluded items and the held-out ones, with a row for each index of a user."""
        indptr, indices = self.excluded
        by_user = np.argsort(self.users[self.owner], kind="stable")
        held_out = Rows.of(self.users[self.owner][by_user], self.positives[by_user], len(indptr) - 1)
        return Rows(indptr, indices).sorted_with(held_out)


def rank_task(trained: "Factors | nn.Module", task: RankingTask) -> RankLists:
    """Return the ranks of the held-out items of a task by a fitted model.

    Args:
        trained: factors of a matrix factorization, or a module that scores (user ids, item ids), on any device.
        task: its users and items are those of the model.

    Raises:
        DeviceError: the memory of the model's device runs out.
    """
    if task.negatives is not None:
        return _among_candidates(trained, task)
    lists = CandidateLists(task.users, task.positives, np.empty((len(task.users), 0), dtype=np.int32))
    if isinstance(trained, Factors):
        ranks = catalogue_ranks_by_factors(trained, lists, *task.excluded, task.indptr)
    else:
        from fastncf.evaluation.ranking import catalogue_ranks

        ranks = catalogue_ranks(trained, lists, *task.excluded, task.num_items, task.indptr)
    return _placed(task, ranks)


def rank_by_scores(score: Scorer, task: RankingTask) -> RankLists:
    """Return the ranks of the held-out items of a task by a function that scores pairs, in plain NumPy.

    Args:
        score: scores pairs of indices of users and items.
        task: its users and items are those that the function knows.

    Raises:
        DataError: the function returns anything other than a score for each pair.
    """
    length = task.num_items if task.negatives is None else task.negatives.shape[1]
    above = np.empty(len(task.positives), dtype=np.int64)
    step = max(1, _CHUNK // max(1, length))
    indptr, indices = task.excluded_with_positives() if task.negatives is None else task.excluded
    for first in range(0, len(task.users), step):
        rows = np.arange(first, min(first + step, len(task.users)))
        part = slice(int(task.indptr[first]), int(task.indptr[rows[-1] + 1]))
        owner = task.owner[part]
        if task.negatives is None:
            items = np.broadcast_to(np.arange(task.num_items, dtype=np.int32), (len(rows), task.num_items))
            is_counted = np.ones(items.shape, dtype=np.bool_)
            left_out = Rows(indptr, indices).select(task.users[rows])
            is_counted[left_out.owner, left_out.items] = False
        else:
            items = task.negatives[rows]
            is_counted = items >= 0
        others = _scored(score, np.repeat(task.users[rows], length), np.maximum(items, 0).reshape(-1))
        own = _scored(score, task.users[owner], task.positives[part])
        counted = others.reshape(len(rows), length)
        for at in range(len(own)):
            row, place = owner[at] - first, part.start + at
            is_rival = is_counted[row] & (items[row] != task.positives[place])
            above[place] = int((~(counted[row] < own[at]) & is_rival).sum()) if np.isfinite(own[at]) else MISS
    return _placed(task, above)


def rank_by_popularity(counts: np.ndarray, task: RankingTask) -> RankLists:
    """Return the ranks of the held-out items of a task by numbers of interactions, as a model of popularity ranks them.

    Args:
        counts: (I,) integers.
        task: held-out items.
    """
    above = np.empty(len(task.positives), dtype=np.int64)
    own, owner, is_single = counts[task.positives], task.owner, len(task.positives) == len(task.users)
    if task.negatives is not None:
        step = max(1, _CHUNK // max(1, task.negatives.shape[1]))
        for first in range(0, len(own), step):
            part = slice(first, first + step)
            items = task.negatives[part if is_single else owner[part]]
            is_rival = (items >= 0) & (items != task.positives[part, None])
            above[part] = ((counts[np.maximum(items, 0)] >= own[part, None]) & is_rival).sum(axis=1)
        return _placed(task, above)
    by_count = np.sort(counts)
    above[:] = len(counts) - np.searchsorted(by_count, own, side="left")
    excluded, users = Rows(*task.excluded), task.users[owner].astype(np.int64)
    if is_single:
        threshold = np.empty(len(excluded.indptr) - 1, dtype=np.int64)
        threshold[users] = own
        of_item = np.repeat(threshold, excluded.lengths)  # of users who are not tested it has no meaning
        not_lower = np.concatenate([[0], np.cumsum(counts[excluded.items] >= of_item)])
        above -= not_lower[excluded.indptr[users + 1]] - not_lower[excluded.indptr[users]] + 1
        return _placed(task, above)
    # the counts of each user's left-out items, ascending: one key for the user and the count
    width = int(counts.max(initial=0)) + 1
    keys = np.sort(np.concatenate([excluded.owner * width + counts[excluded.items], users * width + own]))
    ends = np.searchsorted(keys, (users + 1) * width, side="left")
    above -= ends - np.searchsorted(keys, users * width + own, side="left")
    return _placed(task, above)


def _among_candidates(trained: "Factors | nn.Module", task: RankingTask) -> RankLists:
    """Rank the held-out items of a task among its candidates."""
    assert task.negatives is not None
    lists = CandidateLists(task.users, task.positives, task.negatives)
    if isinstance(trained, Factors):
        return _placed(task, ranks_by_factors(trained, lists, task.indptr))
    from fastncf.evaluation.ranking import candidate_ranks

    return _placed(task, candidate_ranks(trained, lists, task.indptr))


def _placed(task: RankingTask, above: np.ndarray) -> RankLists:
    """Return the ranks of items (R,) by the numbers of negatives that stand before each, and their own order.

    Args:
        task: held-out items.
        above: (R,) int64, :data:`MISS` for an item whose score is not finite.
    """
    if len(task.positives) == len(task.users):
        return RankLists(task.indptr, above)
    ascending = above[np.lexsort((above, task.owner))]
    number = np.arange(len(above)) - task.indptr[task.owner]
    return RankLists(task.indptr, np.where(ascending >= MISS, MISS, ascending + number))


def _scored(score: Scorer, user_ids: np.ndarray, item_ids: np.ndarray) -> np.ndarray:
    """Return the scores (n,) of pairs.

    Raises:
        DataError: there is not one for each pair.
    """
    found = np.asarray(score(user_ids, item_ids))
    if found.shape != user_ids.shape or found.dtype.kind not in "fiub":
        raise DataError(
            f"score: returned {found.dtype} values of shape {found.shape} for {counted(len(user_ids), 'pair')}; "
            f"expected a number for each pair"
        )
    return found
