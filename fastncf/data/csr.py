"""Rows of a CSR matrix of users and items: grouping, merging, and ranges of equal work."""

from typing import NamedTuple

import numpy as np

from fastncf.kernels.cpu.csr import UserRows, count_rows, find_latest, group_rows, merge_rows
from fastncf.mapped import empty_beside
from fastncf.threads import even_ranges, num_threads, run_ranges


def group_by_user(user: np.ndarray, item: np.ndarray, time: np.ndarray, num_users: int) -> tuple[UserRows, np.ndarray]:
    """Group interactions by user and find the latest ones of each.

    For the arguments see :func:`group_rows_by_user`.

    Returns:
        The grouped rows, and (U, 2) int32: the item of each user's latest row and that of the latest row with another
        item, -1 where there is none. Among equal times the first row counts as the latest.
    """
    rows = group_rows_by_user(user, item, time, num_users)
    latest = np.full((num_users, 2), -1, dtype=np.int32)
    run_ranges(lambda a, b: find_latest(a, b, rows, latest), balanced_ranges(rows.indptr))
    return rows, latest


def group_rows_by_user(user: np.ndarray, item: np.ndarray, time: np.ndarray, num_users: int) -> UserRows:
    """Group interactions by user.

    The rows of one user stay in their order. Where the users ascend already, nothing is copied.

    Args:
        user: (M,) int32.
        item: (M,) int32.
        time: (M,) int64.
        num_users: U.
    """
    indptr = np.zeros(num_users + 1, dtype=np.int64)
    bounds = even_ranges(len(user), parts_per_thread=1)
    counts = np.zeros((len(bounds) - 1, num_users), dtype=np.int64)
    ascending = np.empty(len(bounds) - 1, dtype=bool)

    def count(part: int, _: int) -> None:
        before, stop = max(bounds[part] - 1, 0), bounds[part + 1]
        ascending[part] = count_rows(user, before, bounds[part], stop, counts[part])

    run_ranges(count, np.arange(len(bounds)))
    np.cumsum(counts.sum(axis=0), out=indptr[1:])
    if ascending.all():
        return UserRows(indptr, item, time)
    rows = UserRows(indptr, empty_beside(item, item.shape, item.dtype), empty_beside(time, time.shape, time.dtype))
    next_row = indptr[:-1] + np.cumsum(counts, axis=0) - counts
    run_ranges(
        lambda part, _: group_rows(bounds[part], bounds[part + 1], user, item, time, next_row[part], rows),
        np.arange(len(bounds)),
    )
    return rows


def balanced_ranges(indptr: np.ndarray, parts_per_thread: int = 4) -> np.ndarray:
    """Return bounds of user ranges that hold about the same number of interactions.

    Args:
        indptr: (U + 1,) int64.
        parts_per_thread: ranges for each thread that kernels may use, so that their number depends on the machine.

    Returns:
        (parts + 1,) int64, ascending from 0 to U.
    """
    return split_ranges(indptr, parts_per_thread * num_threads())


def split_ranges(indptr: np.ndarray, parts: int) -> np.ndarray:
    """Return bounds of a given number of user ranges that hold about the same number of interactions.

    Unlike those of :func:`balanced_ranges` they are the same on every machine.

    Returns:
        (parts + 1,) int64, ascending from 0 to U.
    """
    inner = np.searchsorted(indptr, np.linspace(0, indptr[-1], parts + 1)[1:-1])
    return np.concatenate([[0], np.minimum(inner, len(indptr) - 1), [len(indptr) - 1]])


def merge_items(indptr: np.ndarray, indices: np.ndarray, *extra: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a CSR with further items of each user merged in.

    Args:
        indptr: (U + 1,) int64.
        indices: (N,) int32, ascending in each row.
        extra: (U,) int32 each, an item that the user's row does not hold, or -1 for none.

    Returns:
        indptr (U + 1,) int64 and indices int32, ascending in each row.
    """
    counts = np.diff(indptr)
    for item in extra:
        counts = counts + (item >= 0)
    merged_indptr = np.zeros_like(indptr)
    np.cumsum(counts, out=merged_indptr[1:])
    merged = np.empty(merged_indptr[-1], dtype=np.int32)
    stacked = np.stack(extra)
    run_ranges(lambda a, b: merge_rows(a, b, indptr, indices, stacked, merged_indptr, merged), balanced_ranges(indptr))
    return merged_indptr, merged


class Rows(NamedTuple):
    """Items of users, one row for each user.

    Attributes:
        indptr: (U + 1,) int64; the items of user u are ``items[indptr[u]:indptr[u + 1]]``.
        items: (n,) int32.
    """

    indptr: np.ndarray
    items: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """Number of items of each user, (U,) int64."""
        lengths: np.ndarray = np.diff(self.indptr)
        return lengths

    @property
    def owner(self) -> np.ndarray:
        """User of each item, (n,) int64."""
        return np.repeat(np.arange(len(self.indptr) - 1), self.lengths)

    @classmethod
    def of(cls, user: np.ndarray, items: np.ndarray, num_users: int) -> "Rows":
        """Return the rows of users (n,), ascending, with items (n,)."""
        indptr = np.zeros(num_users + 1, dtype=np.int64)
        np.cumsum(np.bincount(user, minlength=num_users), out=indptr[1:])
        return cls(indptr, items.astype(np.int32))

    def select(self, users: np.ndarray) -> "Rows":
        """Return the rows of users (B,), in their order."""
        lengths = self.lengths[users]
        indptr = np.zeros(len(users) + 1, dtype=np.int64)
        np.cumsum(lengths, out=indptr[1:])
        place = np.repeat(self.indptr[users] - indptr[:-1], lengths) + np.arange(indptr[-1])
        return Rows(indptr, self.items[place])

    def ascending(self) -> "Rows":
        """Return the items ascending in each row."""
        return Rows(self.indptr, self.items[np.lexsort((self.items, self.owner))])

    def sorted_with(self, other: "Rows") -> "Rows":
        """Return the items of both, ascending in each row."""
        owner = np.concatenate([self.owner, other.owner])
        items = np.concatenate([self.items, other.items])
        by_item = np.lexsort((items, owner))
        return Rows(self.indptr + other.indptr, items[by_item])
