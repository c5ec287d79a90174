"""From interactions to a split: a sorted CSR to train on, and held-out items for validation and test.

A split holds indices of users and items, see :mod:`fastncf.data.ids`.
"""

import functools
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from fastncf.data.csr import balanced_ranges, group_by_user, merge_items
from fastncf.data.given_files import GivenTest
from fastncf.data.interactions import Interactions
from fastncf.errors import DataError
from fastncf.kernels.cpu.csr import (
    OrderSource,
    SeenSource,
    SplitSource,
    SplitTarget,
    compact_rows,
    count_seen,
    fill_random_times,
    gather_seen,
    merge_order,
    order_rows,
    seen_rows,
    split_rows,
)
from fastncf.kernels.cpu.ids import mark_present
from fastncf.rng import Stream, key
from fastncf.threads import even_ranges, run_ranges

_FEW_USERS = 256


@dataclass(frozen=True, repr=False)
class Split:
    """Interactions to train on and those that are held out, as indices of U users and I items.

    Attributes:
        num_items: I, length of the catalogue.
        indptr: (U + 1,) int64; the training items of user u are ``indices[indptr[u]:indptr[u + 1]]``.
        indices: (N,) int32, item indices, ascending and distinct in each row.
        test_item: (U,) int32, the item held out for the test, -1 where the user has none.
        validation_item: (U,) int32, the item held out for validation, -1 where the user has none.
        num_duplicates: rows of the source that repeated a (user, item) pair and were dropped.
        num_users_all_seen: users who have seen every item, so that they have no negatives: neither trained on nor
            tested.
        num_users_too_short: users with too few interactions to hold one out; they are trained on.
        holdout: how the test items were chosen: each user's ``latest`` interaction, a ``random`` one, or a ``given``
            test set; ``none`` where nothing is held out.
        test_candidates: (T, C) int32, given negatives of the T users with a test item, in the order of the users; -1
            fills up short rows and stands for items that the user has seen. None where no candidates were given.
        num_candidates_seen: entries of the given candidates that their user has seen, the test item included.
    """

    num_items: int
    indptr: np.ndarray
    indices: np.ndarray
    test_item: np.ndarray
    validation_item: np.ndarray
    num_duplicates: int
    num_users_all_seen: int
    num_users_too_short: int
    holdout: Literal["latest", "random", "given", "none"]
    test_candidates: np.ndarray | None = None
    num_candidates_seen: int = 0

    def __repr__(self) -> str:
        """Return the sizes in one line, without the arrays."""
        return (
            f"Split({self.num_users:,} users, {self.num_items:,} items, {len(self.indices):,} training interactions, "
            f"holdout={self.holdout!r})"
        )

    @property
    def num_users(self) -> int:
        """U, number of users, including those who are not trained on."""
        return len(self.indptr) - 1

    @property
    def num_interactions(self) -> int:
        """Number of distinct (user, item) pairs: training, held-out, and those of users who have seen every item."""
        held_out = int((self.test_item >= 0).sum() + (self.validation_item >= 0).sum())
        return len(self.indices) + held_out + self.num_users_all_seen * self.num_items

    @functools.cached_property
    def seen_source(self) -> SeenSource:
        """Arrays from which kernels find what users have seen."""
        return SeenSource(self.indptr, self.indices, self.validation_item, self.test_item, self.num_items)

    def item_counts(self) -> np.ndarray:
        """Return the number of training interactions of each item, (I,) int64."""
        return np.bincount(self.indices, minlength=self.num_items)

    def seen(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the items that each user has seen; see :meth:`seen_by`."""
        return self.seen_by(np.arange(self.num_users, dtype=np.int32))

    def seen_by(self, user_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the items that some users have seen, in any file of the fit: training items and held-out ones.

        A user without training items has seen every item: all others have at least one. Only the rows of these users
        are read.

        Args:
            user_ids: (B,) int32.

        Returns:
            A CSR with a row for each of them: indptr (B + 1,) int64 and indices int32, ascending in each row.
        """
        source = self.seen_source
        if len(user_ids) < _FEW_USERS:  # to start a thread takes longer
            return seen_rows(user_ids, source)
        indptr = np.empty(len(user_ids) + 1, dtype=np.int64)
        count_seen(user_ids, source, indptr)
        indices = np.empty(indptr[-1], dtype=np.int32)
        run_ranges(lambda a, b: gather_seen(a, b, user_ids, source, indptr, indices), balanced_ranges(indptr))
        return indptr, indices

    def is_known(self) -> np.ndarray:
        """Return whether each item has a training interaction, (I,) bool: nothing is learnt about the others."""
        known = np.zeros(self.num_items, dtype=np.bool_)
        run_ranges(lambda a, b: mark_present(self.indices[a:b], 0, known), even_ranges(len(self.indices)))
        return known


def leave_one_out(
    interactions: Interactions,
    *,
    validation: bool = False,
    random: bool = False,
    seed: int = 0,
    needs_test: bool = True,
) -> Split:
    """Hold out one interaction of each user for the test, and on request another one for validation.

    Of a repeated (user, item) pair only the latest row counts. Among equal times the first row counts as the latest, as
    with ``rank(method="first", ascending=False) == 1`` in pandas. A test item is held out only of users with at least
    two distinct items, a validation item only of those with at least three.

    Args:
        interactions: the data, with times unless ``random``.
        validation: hold out the second latest interaction as well, for validation.
        random: hold out random interactions in place of the latest ones.
        seed: determines the random ones.
        needs_test: whether it is an error that no test item can be held out.

    Raises:
        DataError: the times are missing, every user has seen every item, or no user has two distinct items.
    """
    time = interactions.time
    if random:
        time = np.empty(len(interactions.user), dtype=np.int64)
        fill_random_times(interactions.user, interactions.item, np.uint64(key(seed, Stream.HELD_OUT)), time)
    elif time is None:
        raise DataError(
            f"{interactions.source}: has no times, which tell the latest interaction of a user; expected a time "
            f"column, or split='random' to hold out any interaction"
        )
    parts = _split_by_user(interactions, time, num_held_out=2 if validation else 1)
    test_item, validation_item = parts.held_out
    if needs_test and not (test_item >= 0).any():
        raise DataError(
            f"{interactions.source}: no user has two different items, so that none can be held out; "
            f"expected at least one user with two"
        )
    return Split(
        num_items=len(interactions.items),
        indptr=parts.indptr,
        indices=parts.indices,
        test_item=test_item,
        validation_item=validation_item,
        num_duplicates=parts.num_duplicates,
        num_users_all_seen=int(parts.all_seen.sum()),
        num_users_too_short=int(((test_item < 0) & ~parts.all_seen).sum()),
        holdout="random" if random else "latest",
    )


def given_test(interactions: Interactions, test: GivenTest) -> Split:
    """Return a split that trains on all interactions and tests on a given test set.

    Candidates that their user has seen, in training or as the test item, are taken out of the lists and counted.

    Args:
        interactions: the training data.
        test: the test set, with indices of the same vocabularies.

    Raises:
        DataError: a test pair is also in training, every user or every test user has seen every item, no test item or
            no candidate occurs in training, or a list holds only items that its user has seen.
    """
    num_users, num_items = len(interactions.users), len(interactions.items)
    test_item = np.full(num_users, -1, dtype=np.int32)
    test_item[test.user] = test.item
    _refuse_leaks(interactions, test, test_item)
    no_times = np.zeros(len(interactions.user), dtype=np.int64)
    parts = _split_by_user(interactions, no_times, num_held_out=0, given_item=test_item)
    test_item[parts.all_seen] = -1
    split = Split(
        num_items=num_items,
        indptr=parts.indptr,
        indices=parts.indices,
        test_item=test_item,
        validation_item=parts.held_out[1],
        num_duplicates=parts.num_duplicates,
        num_users_all_seen=int(parts.all_seen.sum()),
        num_users_too_short=0,
        holdout="given",
    )
    if test.candidates is not None:
        by_user = np.argsort(test.user)
        candidates = test.candidates[by_user[~parts.all_seen[test.user[by_user]]]]
        seen = _seen_candidates(split, candidates)
        masked = np.where(seen, np.int32(-1), candidates)
        split = replace(split, test_candidates=masked, num_candidates_seen=int(seen.sum()))
    _require_known_items(interactions, test, split)
    return split


def time_order(interactions: Interactions, split: Split, users: np.ndarray | None = None) -> np.ndarray:
    """Return each user's training interactions in the order of their times.

    Times count as in :func:`leave_one_out`: the latest of a repeated pair, and among equal times the first row is the
    latest.

    Args:
        interactions: the data that were split, with times.
        split: N training interactions.
        users: int32, the users whose order is needed; all where it is not given.

    Returns:
        (N,) int32: the part ``indptr[u]`` to ``indptr[u + 1]`` holds positions within user u's row of the split,
        oldest interaction first. The parts of other users than ``users`` have no meaning.
    """
    assert interactions.time is not None
    rows, _ = group_by_user(interactions.user, interactions.item, interactions.time, split.num_users)
    order = np.empty(len(split.indices), dtype=np.int32)
    if users is None:
        users = np.arange(split.num_users, dtype=np.int32)
    lengths = rows.indptr[users + 1] - rows.indptr[users]
    bounds = balanced_ranges(np.concatenate([[0], np.cumsum(lengths)]))
    run_ranges(lambda a, b: order_rows(a, b, users, split.num_items, rows, split.indptr, split.indices, order), bounds)
    return order


def ordered_items(split: Split, order: np.ndarray | None) -> np.ndarray:
    """Return the training items (N,) int32 user by user, a user's oldest first; as they stand without an order."""
    if order is None:
        return split.indices
    return split.indices[np.repeat(split.indptr[:-1], np.diff(split.indptr)) + order]


def select_rows(split: Split, order: np.ndarray | None, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the CSR of the training items of some users (B,), in the order of :func:`ordered_items`.

    Returns:
        indptr (B + 1,) int64 and items int32.
    """
    lengths = np.diff(split.indptr)[users]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    start = np.repeat(split.indptr[users], lengths)
    place = start + np.arange(indptr[-1]) - np.repeat(indptr[:-1], lengths)
    return indptr, split.indices[place if order is None else start + order[place]]


def hold_out_nothing(split: Split, order: np.ndarray | None) -> tuple[Split, np.ndarray | None]:
    """Return a split in which the held-out items of another one belong to the training interactions.

    Args:
        split: N training interactions of U users.
        order: (N,) int32 of :func:`time_order`, or None. The test item of a user counts as the latest, and the
            validation item as the one before.

    Returns:
        The split, and the order of its interactions, None where there was none.
    """
    held_out = np.stack([split.validation_item, split.test_item])
    indptr, indices = merge_items(split.indptr, split.indices, *held_out)
    merged_order = None
    if order is not None:
        merged_order = np.empty(len(indices), dtype=np.int32)
        source = OrderSource(split.indptr, split.indices, order, held_out)
        run_ranges(lambda a, b: merge_order(a, b, source, indptr, merged_order), balanced_ranges(indptr))
    none = np.full(split.num_users, -1, dtype=np.int32)
    whole = replace(
        split,
        indptr=indptr,
        indices=indices,
        test_item=none,
        validation_item=none,
        test_candidates=None,
        num_candidates_seen=0,
        holdout="none",
    )
    return whole, merged_order


def hold_out_another(
    split: Split, order: np.ndarray | None, *, seed: int
) -> tuple[Split, np.ndarray | None, np.ndarray]:
    """Take one more item of each user with at least two out of training, to choose between settings by.

    Args:
        split: N training interactions of U users.
        order: (N,) int32 of :func:`time_order`, to take the latest; or None, to take a random one.
        seed: determines the random ones.

    Returns:
        The split without the items, the order of the interactions that are left (None where there was none), and the
        items, (U,) int32, -1 where none was taken.
    """
    lengths = np.diff(split.indptr)
    users = np.flatnonzero(lengths >= 2)
    if order is None:
        generator = np.random.Generator(np.random.Philox(key=key(seed, Stream.TUNING)))
        taken = generator.integers(lengths[users])
    else:
        taken = order[split.indptr[users + 1] - 1]
    rows = split.indptr[users] + taken
    items = np.full(split.num_users, -1, dtype=np.int32)
    items[users] = split.indices[rows]
    lengths[users] -= 1
    if order is not None:
        order = np.delete(order, split.indptr[users + 1] - 1)
        taken_of_all = np.zeros(split.num_users, dtype=np.int32)
        taken_of_all[users] = taken
        order -= order > np.repeat(taken_of_all, lengths)  # positions behind the item that was taken move up by one
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return replace(split, indptr=indptr, indices=np.delete(split.indices, rows)), order, items


class _Parts(NamedTuple):
    """Training interactions and what was held out.

    Attributes:
        indptr: (U + 1,) int64 of the training CSR.
        indices: (N,) int32 of the training CSR.
        held_out: (2, U) int32, test and validation items, -1 for none.
        all_seen: (U,) bool, users who have seen every item.
        num_duplicates: rows that repeated a (user, item) pair.
    """

    indptr: np.ndarray
    indices: np.ndarray
    held_out: np.ndarray
    all_seen: np.ndarray
    num_duplicates: int


def _split_by_user(
    interactions: Interactions, time: np.ndarray, num_held_out: int, given_item: np.ndarray | None = None
) -> _Parts:
    """Sort each user's items, drop repeated ones and hold out the latest.

    Args:
        interactions: M rows of U users.
        time: (M,) int64, larger is later.
        num_held_out: items to hold out: 0, 1 (test) or 2 (test and validation).
        given_item: (U,) int32, a given test item, which counts as seen; -1 for none.

    Raises:
        DataError: every user has seen every item.
    """
    num_users, num_items = len(interactions.users), len(interactions.items)
    rows, latest = group_by_user(interactions.user, interactions.item, time, num_users)
    limit = np.full(num_users, num_items, dtype=np.int64)
    if given_item is not None:
        limit -= given_item >= 0
    source = SplitSource(rows.indptr, rows.item, latest, limit)
    target = SplitTarget(
        items=np.empty(len(rows.item), dtype=np.int32),
        num_unique=np.empty(num_users, dtype=np.int64),
        num_kept=np.empty(num_users, dtype=np.int64),
        held_out=np.full((2, num_users), -1, dtype=np.int32),
    )
    ranges = balanced_ranges(rows.indptr)
    run_ranges(lambda a, b: split_rows(a, b, num_items, num_held_out, source, target), ranges)
    all_seen = target.num_unique >= limit
    if all_seen.all():
        raise DataError(
            f"{interactions.source}: every user has seen every item ({num_items}), so that there are no negatives; "
            f"expected at least one user who has not"
        )
    indptr = np.zeros(num_users + 1, dtype=np.int64)
    np.cumsum(target.num_kept, out=indptr[1:])
    indices = np.empty(indptr[-1], dtype=np.int32)
    run_ranges(lambda a, b: compact_rows(a, b, rows.indptr, target.items, indptr, indices), ranges)
    num_duplicates = len(rows.item) - int(target.num_unique.sum())
    return _Parts(indptr, indices, target.held_out, all_seen, num_duplicates)


def _refuse_leaks(interactions: Interactions, test: GivenTest, test_item: np.ndarray) -> None:
    """Raise an error if a test pair, ``test_item`` (U,) int32, is among the interactions."""
    leaked = np.unique(interactions.user[interactions.item == test_item[interactions.user]])
    if leaked.size:
        user = interactions.users.ids[int(leaked[0])]
        item = interactions.items.ids[int(test_item[leaked[0]])]
        pairs = f"{leaked.size:,} pairs are" if leaked.size > 1 else "1 pair is"
        raise DataError(
            f"{test.source}: {pairs} also in {interactions.source}, the first is user "
            f"{user!r:.80} with item {item!r:.80}; expected no common pair"
        )


def _seen_candidates(split: Split, candidates: np.ndarray) -> np.ndarray:
    """Return which candidates (T, C) int32 of the tested users their user has seen, (T, C) bool."""
    indptr, indices = merge_items(split.indptr, split.indices, split.test_item)
    seen = np.repeat(np.arange(split.num_users, dtype=np.int64), np.diff(indptr)) * split.num_items + indices
    users = np.flatnonzero(split.test_item >= 0)
    pairs = users[:, None] * split.num_items + candidates
    nearest = np.minimum(np.searchsorted(seen, pairs), len(seen) - 1)
    return (candidates >= 0) & (seen[nearest] == pairs)


def _require_known_items(interactions: Interactions, test: GivenTest, split: Split) -> None:
    """Raise an error if there is nothing to rank that a model can have learnt, or nothing to rank it against."""
    tested = np.flatnonzero(split.test_item >= 0)
    if not tested.size:
        raise DataError(
            f"{test.source}: each of its users has seen every item ({split.num_items}); expected at least one who has "
            f"not"
        )
    known, lists = split.is_known(), split.test_candidates
    example = interactions.items.ids[int(known.argmax())]
    expected = f"expected ids as {interactions.source} has them, such as {example!r:.80}"
    if not known[split.test_item[tested]].any():
        raise DataError(f"{test.source}: none of its {tested.size} test items has a training interaction; {expected}")
    if lists is None:
        return
    empty = np.flatnonzero((lists < 0).all(axis=1))
    if empty.size:
        user = interactions.users.ids[int(tested[empty[0]])]
        raise DataError(
            f"{test.candidates_source}: user {user!r:.80} has seen every item of the user's list; expected at least "
            f"one that the user has not seen"
        )
    if not known[lists[lists >= 0]].any():
        raise DataError(f"{test.candidates_source}: none of its candidates has a training interaction; {expected}")
