"""Rows of a CSR matrix of users and items: grouping, merging, and ranges of equal work."""

import numpy as np

from fastncf.kernels.cpu.csr import count_rows, find_latest, group_rows, merge_rows
from fastncf.threads import even_ranges, num_threads, run_ranges


def group_by_user(
    user: np.ndarray, item: np.ndarray, time: np.ndarray, num_users: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Items by user, in the rows' order in each group, and each user's latest ones; nothing is moved that is in order.

    Args:
        user: (N,) int32.
        item: (N,) int32.
        time: (N,) int64.
        num_users: U.

    Returns:
        indptr (U + 1,) int64, items (N,) int32 and times (N,) int64 by group, and (U, 2) int32: the item of each user's
        latest row and that of the latest row with another item, the first row among equal times; -1 where there is
        none.
    """
    indptr = np.zeros(num_users + 1, dtype=np.int64)
    latest = np.full((num_users, 2), -1, dtype=np.int32)
    bounds = even_ranges(len(user), parts_per_thread=1)
    counts = np.zeros((len(bounds) - 1, num_users), dtype=np.int64)
    ordered = np.empty(len(bounds) - 1, dtype=bool)

    def count(part: int, _: int) -> None:
        first, stop = max(bounds[part] - 1, 0), bounds[part + 1]
        ordered[part] = count_rows(user, first, bounds[part], stop, counts[part])

    run_ranges(count, np.arange(len(bounds)))
    np.cumsum(counts.sum(axis=0), out=indptr[1:])
    if not ordered.all():
        rows, row_times, item, time = item, time, np.empty_like(item), np.empty_like(time)
        places = indptr[:-1] + np.cumsum(counts, axis=0) - counts
        run_ranges(
            lambda part, _: group_rows(bounds[part], bounds[part + 1], places[part], user, rows, row_times, item, time),
            np.arange(len(bounds)),
        )
    run_ranges(lambda a, b: find_latest(a, b, indptr, item, time, latest), balanced_ranges(indptr))
    return indptr, item, time, latest


def balanced_ranges(indptr: np.ndarray, parts_per_thread: int = 4) -> np.ndarray:
    """Bounds of user ranges that hold about the same number of interactions: ascending, from 0 to U."""
    return split_ranges(indptr, parts_per_thread * num_threads())


def split_ranges(indptr: np.ndarray, parts: int) -> np.ndarray:
    """:func:`balanced` for a given number of ranges, where it must not depend on the machine: (parts + 1,)."""
    cuts = np.searchsorted(indptr, np.linspace(0, indptr[-1], parts + 1)[1:-1])
    return np.concatenate([[0], np.minimum(cuts, len(indptr) - 1), [len(indptr) - 1]])


def merge_items(indptr: np.ndarray, indices: np.ndarray, *extra: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A CSR with each user's extra items ((U,) int32, -1 for none, not yet in the row) merged in, sorted."""
    counts = np.diff(indptr)
    for item in extra:
        counts = counts + (item >= 0)
    merged_ptr = np.zeros_like(indptr)
    np.cumsum(counts, out=merged_ptr[1:])
    merged = np.empty(merged_ptr[-1], dtype=np.int32)
    stacked = np.stack(extra)
    run_ranges(lambda a, b: merge_rows(a, b, indptr, indices, stacked, merged_ptr, merged), balanced_ranges(indptr))
    return merged_ptr, merged
