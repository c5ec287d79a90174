"""Leave-one-out: interactions -> sorted CSR for training, a held-out item for validation and for the test."""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from fastncf.data.csr import balanced_ranges, group_by_user, merge_items
from fastncf.data.interactions import GivenTest, Interactions
from fastncf.errors import DataError
from fastncf.kernels.cpu.csr import compact_rows, hashed_time, order_rows, split_rows
from fastncf.rng import Stream, key
from fastncf.threads import run_ranges


@dataclass(frozen=True)
class Split:
    """What is trained on and what is held out.

    Attributes:
        num_items: I, length of the catalogue.
        indptr: (U + 1,) int64; row u of the training CSR is ``indices[indptr[u]:indptr[u + 1]]``.
        indices: (N,) int32, ascending and unique in each row.
        test_item: (U,) int32, -1 where the user has none.
        validation_item: (U,) int32, -1 where the user has none.
        num_duplicates: rows that repeated a (user, item) pair and were counted once.
        num_users_all_seen: users who have touched every item, so that no negative exists: neither trained on nor tested.
        num_users_too_short: users with too few interactions to hold one out; they stay in training.
        holdout: what is held out: each user's ``latest`` interaction, a ``random`` one, or a ``given`` test set.
        test_candidates: (T, C) int32 given negatives of the users with a test item, -1 as padding, or None.
    """

    num_items: int
    indptr: np.ndarray
    indices: np.ndarray
    test_item: np.ndarray
    validation_item: np.ndarray
    num_duplicates: int
    num_users_all_seen: int
    num_users_too_short: int
    holdout: Literal["latest", "random", "given"]
    test_candidates: np.ndarray | None = None

    @property
    def num_users(self) -> int:
        return len(self.indptr) - 1

    @property
    def num_interactions(self) -> int:
        """Interactions after folding and before anything was held out, the users left out included."""
        held_out = int((self.test_item >= 0).sum() + (self.validation_item >= 0).sum())
        return len(self.indices) + held_out + self.num_users_all_seen * self.num_items

    def item_counts(self) -> np.ndarray:
        """(I,) int64: training interactions of each item."""
        return np.bincount(self.indices, minlength=self.num_items)

    def seen(self) -> tuple[np.ndarray, np.ndarray]:
        """(indptr, indices) of everything a user has touched: training and held-out items, sorted in each row."""
        return merge_items(self.indptr, self.indices, self.validation_item, self.test_item)


def leave_one_out(
    interactions: Interactions, *, validation: bool = False, random: bool = False, seed: int = 0
) -> Split:
    """Hold out each user's latest interaction, and with ``validation`` the one before it.

    Of a repeated (user, item) pair the latest time stays. Among equal times the first row counts as the latest, as
    ``rank(method="first", ascending=False) == 1`` in pandas says. With ``random`` any interaction is held out,
    drawn with the seed, and no times are needed.

    A test item is held out of two interactions or more, a validation item of three or more.

    Raises:
        DataError: no user has an item left that could serve as a negative, or no user has two interactions.
    """
    time = interactions.time
    if random:
        time = np.empty(len(interactions.user), dtype=np.int64)
        hashed_time(interactions.user, interactions.item, np.uint64(key(seed, Stream.HELD_OUT)), time)
    elif time is None:
        raise DataError(
            f"{interactions.source}: has no times, so the latest interaction of a user cannot be told; "
            f"choose split='random' to hold out any interaction"
        )
    rows = _split(interactions, time, holdouts=2 if validation else 1)
    test_item, validation_item = rows.held_out
    if not (test_item >= 0).any():
        raise DataError(
            f"{interactions.source}: no user has two different items, so that none can be held out; "
            f"accepted: at least one user with two"
        )
    return Split(
        num_items=len(interactions.items),
        indptr=rows.indptr,
        indices=rows.indices,
        test_item=test_item,
        validation_item=validation_item,
        num_duplicates=rows.num_duplicates,
        num_users_all_seen=int(rows.full.sum()),
        num_users_too_short=int(((test_item < 0) & ~rows.full).sum()),
        holdout="random" if random else "latest",
    )


def time_order(interactions: Interactions, split: Split) -> np.ndarray:
    """When each user came to each item: (N,) int32, places within the user's row of the split, oldest first.

    Times as in :func:`leave_one_out`: the latest of a repeated pair, among equal times the first row is the latest.
    """
    assert interactions.time is not None
    indptr, item, time, _ = group_by_user(interactions.user, interactions.item, interactions.time, split.num_users)
    order = np.empty(len(split.indices), dtype=np.int32)
    run_ranges(
        lambda a, b: order_rows(a, b, indptr, item, time, split.indptr, split.indices, order), balanced_ranges(indptr)
    )
    return order


def hold_out_another(
    split: Split, order: np.ndarray | None, *, seed: int
) -> tuple[Split, np.ndarray | None, np.ndarray]:
    """Take one more item of each user who has two out of the training, for a choice between settings.

    Args:
        split: N interactions of U users.
        order: (N,) int32 of :func:`time_order`, by which the latest is taken, or None: then any is.
        seed: determines which, without an order.

    Returns:
        The split without them, the order of what is left, and the items (U,) int32, -1 where there is none.
    """
    lengths = np.diff(split.indptr)
    users = np.flatnonzero(lengths >= 2)
    if order is None:
        random = np.random.Generator(np.random.Philox(key=key(seed, Stream.CHOICE)))
        places = random.integers(lengths[users])
    else:
        places = order[split.indptr[users + 1] - 1]
    rows = split.indptr[users] + places
    items = np.full(split.num_users, -1, dtype=np.int32)
    items[users] = split.indices[rows]
    lengths[users] -= 1
    if order is not None:
        order = np.delete(order, split.indptr[users + 1] - 1)
        place = np.zeros(split.num_users, dtype=np.int32)
        place[users] = places
        order -= order > np.repeat(place, lengths)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return replace(split, indptr=indptr, indices=np.delete(split.indices, rows)), order, items


def given_test(interactions: Interactions, test: GivenTest) -> Split:
    """Train on all interactions and test on a test set that is given.

    Raises:
        DataError: a test pair is also in training, or no user has an item left as a negative.
    """
    num_users, num_items = len(interactions.users), len(interactions.items)
    test_item = np.full(num_users, -1, dtype=np.int32)
    test_item[test.user] = test.item
    rows = _split(interactions, np.zeros(len(interactions.user), dtype=np.int64), holdouts=0, test_item=test_item)
    owner = np.repeat(np.arange(num_users, dtype=np.int64), np.diff(rows.indptr))
    pairs = owner * num_items + rows.indices  # ascending
    test_pairs = np.arange(num_users) * num_items + test_item
    at = np.minimum(np.searchsorted(pairs, test_pairs), len(pairs) - 1)
    leaked = np.flatnonzero((test_item >= 0) & (pairs[at] == test_pairs))
    if leaked.size:
        raise DataError(
            f"{test.source}: {leaked.size} of its pairs are also in {interactions.source}, the first is user "
            f"{interactions.users.ids[int(leaked[0])]!r} with item "
            f"{interactions.items.ids[int(test_item[leaked[0]])]!r}; accepted: disjoint files"
        )
    test_item[rows.full] = -1
    candidates = None
    if test.candidates is not None:
        by_user = np.argsort(test.user)
        candidates = test.candidates[by_user[~rows.full[test.user[by_user]]]]
    return Split(
        num_items=num_items,
        indptr=rows.indptr,
        indices=rows.indices,
        test_item=test_item,
        validation_item=rows.held_out[1],
        num_duplicates=rows.num_duplicates,
        num_users_all_seen=int(rows.full.sum()),
        num_users_too_short=0,
        holdout="given",
        test_candidates=candidates,
    )


class _Rows(NamedTuple):
    """Training rows and what was held out of them: CSR, (2, U) int32 test and validation items, (U,) bool left out."""

    indptr: np.ndarray
    indices: np.ndarray
    held_out: np.ndarray
    full: np.ndarray
    num_duplicates: int


def _split(interactions: Interactions, time: np.ndarray, holdouts: int, test_item: np.ndarray | None = None) -> _Rows:
    """Sort, fold and hold out; a user whose items and given test item are the whole catalogue gets an empty row."""
    num_users, num_items = len(interactions.users), len(interactions.items)
    indptr, item, _, latest = group_by_user(interactions.user, interactions.item, time, num_users)
    items = np.empty(len(item), dtype=np.int32)
    unique = np.empty(num_users, dtype=np.int64)
    kept = np.empty(num_users, dtype=np.int64)
    held_out = np.full((2, num_users), -1, dtype=np.int32)
    limit = np.full(num_users, num_items, dtype=np.int64)
    if test_item is not None:
        limit -= test_item >= 0
    run_ranges(
        lambda a, b: split_rows(a, b, indptr, item, latest, num_items, limit, holdouts, items, unique, kept, held_out),
        balanced_ranges(indptr),
    )
    full = unique >= limit
    if full.all():
        raise DataError(
            f"{interactions.source}: every user has touched every item ({num_items}), so that no negative exists; "
            f"accepted: data in which some user has not"
        )
    row_ptr = np.zeros(num_users + 1, dtype=np.int64)
    np.cumsum(kept, out=row_ptr[1:])
    indices = np.empty(row_ptr[-1], dtype=np.int32)
    run_ranges(lambda a, b: compact_rows(a, b, indptr, items, row_ptr, indices), balanced_ranges(indptr))
    return _Rows(row_ptr, indices, held_out, full, num_duplicates=int(len(item) - unique.sum()))
