"""From interactions to a split: a sorted CSR to train on, and held-out items for validation and test.

A split holds indices of users and items, see :mod:`fastncf.data.ids`.
"""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from fastncf.data.csr import Rows, balanced_ranges, group_by_user, merge_items, split_ranges
from fastncf.data.given_files import GivenTest
from fastncf.data.holdout import Rule
from fastncf.data.interactions import Interactions
from fastncf.data.others import OtherUsers
from fastncf.data.weights import PairWeights, relative_weights
from fastncf.errors import DataError, counted
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
from fastncf.mapped import empty_beside
from fastncf.rng import Stream, key
from fastncf.threads import even_ranges, run_ranges

SPARSE_BELOW = 20
"""Training interactions per item below which data are sparse."""

_FEW_USERS = 256
_COUNTED_AT_ONCE = 1 << 20
"""Interactions that NumPy takes at once where it would make int64 of all of them."""


@dataclass(frozen=True, repr=False)
class Split:
    """Interactions to train on and those that are held out, as indices of U users and I items.

    Attributes:
        num_items: I, length of the catalogue.
        indptr: (U + 1,) int64; the training items of user u are ``indices[indptr[u]:indptr[u + 1]]``.
        indices: (N,) int32, item indices, ascending and distinct in each row.
        test_item: (U,) int32, the item held out for the test, -1 where the user has none; -1 throughout where users may
            have several, see ``test_rows``.
        validation_item: (U,) int32, the item held out for validation, -1 where the user has none; -1 throughout where
            users may have several, see ``validation_rows``.
        num_duplicates: rows of the source that repeated a (user, item) pair and were dropped.
        num_users_all_seen: users who have seen every item, so that they have no negatives: neither trained on nor
            tested.
        num_users_too_short: users with too few interactions to hold one out; they are trained on.
        holdout: how the test items were chosen, see :class:`~fastncf.data.holdout.Holdout`; ``none`` where nothing is
            held out.
        test_candidates: (T, C) int32, given negatives of the T users with a test item, in the order of the users; -1
            fills up short rows and stands for items that the user has seen. None where no candidates were given.
        num_candidates_seen: entries of the given candidates that their user has seen, the test item included.
        test_rows: held-out items of users who may have several, the oldest first; None where each user has one at most.
        validation_rows: the same of the items held out for validation.
        others: users that are not trained on, or None. Items of the catalogue may be theirs alone.
        num_test_repeated: later interactions with an item that their user has in training, which are not tested.
        weights: weights in the loss of all pairs, held-out ones included; None where all count alike.
    """

    num_items: int
    indptr: np.ndarray
    indices: np.ndarray
    test_item: np.ndarray
    validation_item: np.ndarray
    num_duplicates: int
    num_users_all_seen: int
    num_users_too_short: int
    holdout: Rule
    test_candidates: np.ndarray | None = None
    num_candidates_seen: int = 0
    test_rows: Rows | None = None
    others: OtherUsers | None = None
    num_test_repeated: int = 0
    weights: PairWeights | None = None
    validation_rows: Rows | None = None

    def __repr__(self) -> str:
        """Return the sizes in one line, without the arrays."""
        return (
            f"Split({counted(self.num_users, 'user')}, {counted(self.num_items, 'item')}, "
            f"{counted(len(self.indices), 'training interaction')}, holdout={self.holdout!r})"
        )

    @property
    def num_users(self) -> int:
        """U, number of users, including those who are not trained on."""
        return len(self.indptr) - 1

    @property
    def num_interactions(self) -> int:
        """Number of distinct (user, item) pairs: training, held-out, and those of users who have seen every item."""
        held_out = len(self.tests().items) + len(self.validations().items)
        others = 0 if self.others is None else self.others.num_interactions
        return len(self.indices) + held_out + self.num_users_all_seen * self.num_items + others

    def tests(self) -> Rows:
        """Return the held-out test items of all users, (U,) rows."""
        return _rows_of(self.test_item) if self.test_rows is None else self.test_rows

    def validations(self) -> Rows:
        """Return the items of all users that are held out for validation, (U,) rows."""
        return _rows_of(self.validation_item) if self.validation_rows is None else self.validation_rows

    def trained_or_validated(self) -> Rows:
        """Return the training and validation items of all users, (U,) rows, ascending in each."""
        if self.validation_rows is not None:
            return Rows(self.indptr, self.indices).sorted_with(self.validation_rows)
        return Rows(*merge_items(self.indptr, self.indices, self.validation_item))

    @functools.cached_property
    def seen_source(self) -> SeenSource:
        """Arrays from which kernels find what users have seen."""
        indptr, indices = self.indptr, self.indices
        for rows in (self.validation_rows, self.test_rows):
            if rows is not None:
                indptr, indices = Rows(indptr, indices).sorted_with(rows)
        return SeenSource(indptr, indices, self.validation_item, self.test_item, self.num_items)

    def item_counts(self) -> np.ndarray:
        """Return the number of training interactions of each item, (I,) int64."""
        counts = np.zeros(self.num_items, dtype=np.int64)
        for start in range(0, len(self.indices), _COUNTED_AT_ONCE):  # a count converts what it reads to int64
            counts += np.bincount(self.indices[start : start + _COUNTED_AT_ONCE], minlength=self.num_items)
        return counts

    def item_weights(self) -> np.ndarray:
        """Return the sum of the weights of each item's training interactions, (I,) float64; their number without."""
        if self.weights is None:
            return self.item_counts().astype(np.float64)
        return np.bincount(self.indices, self.weights.of_pairs(self.indptr, self.indices), minlength=self.num_items)

    def interaction_weights(self) -> np.ndarray | None:
        """Return the weights of the training interactions with a mean of 1, (N,) float32; None where all are equal."""
        return None if self.weights is None else relative_weights(self.weights.of_pairs(self.indptr, self.indices))

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


def _rows_of(items: np.ndarray) -> Rows:
    """Return an item (U,) of each user, -1 for none, as rows."""
    users = np.flatnonzero(items >= 0)
    return Rows.of(users, items[users], len(items))


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
        time = random_times(interactions, seed)
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


def random_times(interactions: Interactions, seed: int) -> np.ndarray:
    """Return times (M,) int64 by which a user's interactions are in random order, the same for a repeated pair."""
    time = empty_beside(interactions.user, len(interactions.user), np.int64)
    fill_random_times(interactions.user, interactions.item, np.uint64(key(seed, Stream.HELD_OUT)), time)
    return time


def hold_nothing_out(interactions: Interactions) -> Split:
    """Return a split that trains on all interactions.

    Raises:
        DataError: every user has seen every item.
    """
    parts = _split_by_user(interactions, np.zeros(len(interactions.user), dtype=np.int64), num_held_out=0)
    return Split(
        num_items=len(interactions.items),
        indptr=parts.indptr,
        indices=parts.indices,
        test_item=parts.held_out[0],
        validation_item=parts.held_out[1],
        num_duplicates=parts.num_duplicates,
        num_users_all_seen=int(parts.all_seen.sum()),
        num_users_too_short=0,
        holdout="none",
    )


def given_test(
    interactions: Interactions, test: GivenTest, *, holdout: Rule = "given", validation: Rows | None = None
) -> Split:
    """Return a split that trains on all interactions and tests on a given test set.

    Candidates that their user has seen, in training or as the test item, are taken out of the lists and counted.

    Args:
        interactions: the training data.
        test: the test set, with indices of the same vocabularies. A user may have several items, the oldest first.
        holdout: how the test set came about.
        validation: items held out for validation of each user, the oldest first, which are neither in training nor in
            the test set; or None.

    Raises:
        DataError: a test pair is also in training, every user or every test user has seen every item, no test item or
            no candidate occurs in training, or a list holds only items that its user has seen.
    """
    num_users, num_items = len(interactions.users), len(interactions.items)
    rows, num_repeated = _test_rows(interactions, test)
    is_single = holdout == "given" and bool((rows.lengths <= 1).all())
    _refuse_leaks(interactions, test, rows)
    num_given = rows.lengths if validation is None else rows.lengths + validation.lengths
    time = np.zeros(len(interactions.user), dtype=np.int64)
    parts = _split_by_user(interactions, time, num_held_out=0, num_given=num_given)
    users = rows.owner
    is_tested = ~parts.all_seen[users]
    rows = Rows.of(users[is_tested], rows.items[is_tested], num_users)
    test_item = np.full(num_users, -1, dtype=np.int32)
    if is_single:
        test_item[rows.owner] = rows.items
    split = Split(
        num_items=num_items,
        indptr=parts.indptr,
        indices=parts.indices,
        test_item=test_item,
        validation_item=np.full(num_users, -1, dtype=np.int32),
        num_duplicates=parts.num_duplicates + num_repeated,
        num_users_all_seen=int(parts.all_seen.sum()),
        num_users_too_short=0,
        holdout=holdout,
        test_rows=None if is_single else rows,
        validation_rows=None if validation is None else _without_users(validation, parts.all_seen),
    )
    if test.candidates is not None:
        by_user = np.argsort(test.user)
        candidates = test.candidates[by_user[~parts.all_seen[test.user[by_user]]]]
        seen = _seen_candidates(split, candidates)
        masked = np.where(seen, np.int32(-1), candidates)
        split = replace(split, test_candidates=masked, num_candidates_seen=int(seen.sum()))
    _require_known_items(interactions, test, split)
    return split


def _without_users(rows: Rows, is_left_out: np.ndarray) -> Rows:
    """Return the rows of U users, empty for those who are left out, (U,) bool."""
    is_kept = ~is_left_out[rows.owner]
    return Rows.of(rows.owner[is_kept], rows.items[is_kept], len(is_left_out))


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
    order = empty_beside(split.indices, len(split.indices), np.int32)
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
    items = empty_beside(split.indices, len(split.indices), np.int32)
    for first, last in ranges_of_users(split.indptr):
        start, stop = split.indptr[[first, last]].tolist()
        row_starts = np.repeat(split.indptr[first:last], np.diff(split.indptr[first : last + 1]))
        items[start:stop] = split.indices[row_starts + order[start:stop]]
    return items


def ranges_of_users(indptr: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield the first user of each range of users, and the one behind its last, whose interactions NumPy takes at once.

    Args:
        indptr: (U + 1,) int64, where the interactions of each user begin and end.
    """
    yield from itertools.pairwise(split_ranges(indptr, 1 + int(indptr[-1]) // _COUNTED_AT_ONCE).tolist())


def ordered_rows(split: Split, order: np.ndarray) -> np.ndarray:
    """Return the places (N,) int64 of the training interactions in the CSR, user by user, a user's oldest first."""
    rows: np.ndarray = np.repeat(split.indptr[:-1], np.diff(split.indptr)) + order
    return rows


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
    if split.test_rows is not None or split.validation_rows is not None:
        split, order = _train_on_rows(split, order)
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
        num_test_repeated=0,
        holdout="none",
    )
    return whole, merged_order


def _train_on_rows(split: Split, order: np.ndarray | None) -> tuple[Split, np.ndarray | None]:
    """Return a split in which the validation items and then the test items of each user end its history."""
    parts = Rows(split.indptr, ordered_items(split, order)), split.validations(), split.tests()
    owner, items = (np.concatenate([getattr(part, name) for part in parts]) for name in ("owner", "items"))
    by_age = np.argsort(owner, kind="stable")  # the parts follow each other in time
    rows = Rows.of(owner[by_age], items[by_age], split.num_users)
    by_item = np.lexsort((rows.items, rows.owner))
    none = np.full(split.num_users, -1, dtype=np.int32)
    merged = replace(
        split,
        indptr=rows.indptr,
        indices=rows.items[by_item],
        validation_item=none,
        test_item=none,
        test_rows=None,
        validation_rows=None,
    )
    return merged, None if order is None else positions_in_rows(by_item, rows.indptr)


def positions_in_rows(by_item: np.ndarray, indptr: np.ndarray) -> np.ndarray:
    """Return the order (N,) int32 of rows that were sorted by item, as :func:`time_order` returns it.

    Args:
        by_item: (N,) places of the sorted items in rows from the oldest item to the latest.
        indptr: (U + 1,) int64, bounds of the rows.
    """
    place = np.empty(len(by_item), dtype=np.int64)
    place[by_item] = np.arange(len(by_item))
    return (place - np.repeat(indptr[:-1], np.diff(indptr))).astype(np.int32)


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
    interactions: Interactions, time: np.ndarray, num_held_out: int, num_given: np.ndarray | None = None
) -> _Parts:
    """Sort each user's items, drop repeated ones and hold out the latest.

    Args:
        interactions: M rows of U users.
        time: (M,) int64, larger is later.
        num_held_out: items to hold out: 0, 1 (test) or 2 (test and validation).
        num_given: (U,) int64, numbers of given test items of each user, which count as seen.

    Raises:
        DataError: every user has seen every item.
    """
    num_users, num_items = len(interactions.users), len(interactions.items)
    rows, latest = group_by_user(interactions.user, interactions.item, time, num_users)
    limit = np.full(num_users, num_items, dtype=np.int64)
    if num_given is not None:
        limit -= num_given
    source = SplitSource(rows.indptr, rows.item, latest, limit)
    target = SplitTarget(
        items=empty_beside(rows.item, len(rows.item), np.int32),
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
    indices = empty_beside(rows.item, int(indptr[-1]), np.int32)
    run_ranges(lambda a, b: compact_rows(a, b, rows.indptr, target.items, indptr, indices), ranges)
    num_duplicates = len(rows.item) - int(target.num_unique.sum())
    return _Parts(indptr, indices, target.held_out, all_seen, num_duplicates)


def _test_rows(interactions: Interactions, test: GivenTest) -> tuple[Rows, int]:
    """Return the distinct items of each user in a test set, in its order, and how many rows repeat a pair."""
    pairs = test.user.astype(np.int64) * len(interactions.items) + test.item
    first = np.unique(pairs, return_index=True)[1]
    first.sort()
    by_user = first[np.argsort(test.user[first], kind="stable")]
    return Rows.of(test.user[by_user], test.item[by_user], len(interactions.users)), len(pairs) - len(first)


def _refuse_leaks(interactions: Interactions, test: GivenTest, rows: Rows) -> None:
    """Raise an error if a test pair is among the interactions."""
    num_items = len(interactions.items)
    has_test = np.flatnonzero(rows.lengths[interactions.user] > 0)
    pairs = interactions.user[has_test].astype(np.int64) * num_items + interactions.item[has_test]
    tested = np.sort(rows.owner * num_items + rows.items)
    nearest = np.minimum(np.searchsorted(tested, pairs), len(tested) - 1)
    leaked = np.unique(pairs[tested[nearest] == pairs])
    if leaked.size:
        user = interactions.users.ids[int(leaked[0] // num_items)]
        item = interactions.items.ids[int(leaked[0] % num_items)]
        count = counted(leaked.size, "pair is", "pairs are")
        raise DataError(
            f"{test.source}: {count} also in {interactions.source}, the first is user "
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
    tests = split.tests()
    tested = np.flatnonzero(tests.lengths)
    if not tested.size:
        raise DataError(
            f"{test.source}: each of its users has seen every item ({split.num_items}); expected at least one who has "
            f"not"
        )
    known, lists = split.is_known(), split.test_candidates
    example = interactions.items.ids[int(known.argmax())]
    expected = f"expected ids as {interactions.source} has them, such as {example!r:.80}"
    if not known[tests.items].any():
        items = counted(len(tests.items), "test item")
        if split.holdout == "time":
            raise DataError(
                f"{test.source}: none of the {items} from the point in time on has a training interaction; expected "
                f"another point in time"
            )
        raise DataError(f"{test.source}: none of its {items} has a training interaction; {expected}")
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
