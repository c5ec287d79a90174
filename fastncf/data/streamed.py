"""Reading in bounded memory: Parquet files that are larger than the memory, in two passes.

The first pass finds the ids, how many rows each user has, and whether the times are as expected. The second one writes
indices and times to arrays in temporary files: to the range of a group of users, whose rows a last step groups by user
in memory. Only slices of rows, such groups, and the ids are ever in memory.
"""

import itertools
from collections import Counter
from collections.abc import Set
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, Unpack

import numpy as np
import polars as pl

from fastncf.data.csr import group_rows_by_user
from fastncf.data.ids import Vocabulary, are_missing_words, canonical_ids, stand_for_missing, to_canonical_dtype
from fastncf.data.interactions import Interactions, read_interactions, require_vocabularies
from fastncf.data.readers.deciding_times import DecidingTimes
from fastncf.data.readers.options import Reading, ReadOptions, names_of
from fastncf.data.readers.slices import ParquetSlices, open_slices
from fastncf.data.readers.table import no_rows, refuse_words
from fastncf.data.readers.times import to_integers
from fastncf.errors import DataError
from fastncf.mapped import empty_mapped, leave_memory
from fastncf.memory import available_bytes

_BYTES_PER_ROW = 160
"""Bytes of a slice in memory for each row: the columns, their ids, indices and times, and what sorts them."""

_FEWEST_ROWS, _MOST_ROWS = 1 << 14, 1 << 22
_MOST_GROUPS = 1 << 12
_MERGED_IDS = 1 << 20


def read_within_memory(
    source: Any,
    *,
    user: str | None,
    item: str | None,
    time: str | None,
    rating: str | None,
    weight: str | None,
    needs_time: bool,
    before: str | None,
    **reading: Unpack[Reading],
) -> Interactions:
    """Read interactions as :func:`~fastncf.data.interactions.read_interactions` does, in slices where they are large.

    They are where they are in Parquet, and would take more than half of the available memory. A column of weights,
    dates in text and a point in time ``before`` are read as a whole in any case.

    Raises:
        DataNotFoundError, DataError, ConfigError: as for :func:`~fastncf.data.interactions.read_interactions`.
        InsufficientMemoryError: the folder for temporary files has too little room.
    """
    columns: dict[str, Any] = {"user": user, "item": item, "time": time, "rating": rating, "weight": weight}
    options = ReadOptions(names_of(columns), needs_time, before=before, **reading)
    if before is None and not options.has_date_format() and options.encoding is None:
        slices = open_slices(source, options)
        if slices is not None and slices.num_bytes > available_bytes() // 2:
            return read_in_slices(slices, rows_in_memory())
    return read_interactions(source, **columns, needs_time=needs_time, before=before, **reading)


def rows_in_memory() -> int:
    """Return how many rows of a slice, or of a group of users, take an eighth of the available memory."""
    return min(max(available_bytes() // 8 // _BYTES_PER_ROW, _FEWEST_ROWS), _MOST_ROWS)


def read_in_slices(slices: ParquetSlices, num_rows: int) -> Interactions:
    """Read interactions in bounded memory.

    Args:
        slices: the rows.
        num_rows: most rows in memory at a time, but those of a user with more.

    Returns:
        What :func:`~fastncf.data.interactions.read_interactions` returns of the same rows in memory, except that rows
        stand user by user, those of one user in their order, and are in temporary files.

    Raises:
        DataError: as for :func:`~fastncf.data.interactions.read_interactions`.
        InsufficientMemoryError: the folder for temporary files has too little room.
    """
    without_words: set[str] = set()
    found = _find_ids(slices, num_rows, without_words)
    for role in ("user", "item"):
        if stand_for_missing(found.counts[role].ids) is None:
            continue
        if not slices.options.drop_missing:
            _refuse_words(slices, num_rows, role)
        without_words.add(role)
        found = _find_ids(slices, num_rows, without_words)
    columns = slices.origin.columns
    if "time" in columns:
        found.times.check(slices.origin)
    users, items = (Vocabulary.of([found.counts[role].ids], role) for role in ("user", "item"))
    source_info: dict[str, Any] = {
        "source": slices.origin.source,
        "format": slices.origin.format,
        "columns": dict(columns),
    }
    source_info["rows"] = found.counts["user"].total
    require_vocabularies((users, items), slices.origin.source, source_info)
    counts = np.zeros(len(users), dtype=np.int64)
    counts[users.encode(found.counts["user"].ids)] = found.counts["user"].numbers
    user, item, time = _write_columns(slices, num_rows, without_words, (users, items), counts)
    return Interactions(
        user=user,
        item=item,
        time=time,
        users=users,
        items=items,
        source=slices.origin.source,
        source_info=source_info,
        left_out=dict(found.left_out),
        num_rows=found.num_rows,
    )


class _IdCounts:
    """Distinct ids of a column that is read slice by slice, and how often each occurs."""

    def __init__(self) -> None:
        self._merged = pl.DataFrame()
        self._pending: list[pl.DataFrame] = []

    def add(self, ids: pl.Series) -> None:
        """Take the ids of a slice, in the form of :func:`~fastncf.data.ids.canonical_ids`."""
        self._pending.append(
            _counted(pl.DataFrame({"id": to_canonical_dtype(ids), "count": np.ones(len(ids), np.int64)}))
        )
        if sum(frame.height for frame in self._pending) > max(_MERGED_IDS, self._merged.height):
            self._merge()

    def _merge(self) -> None:
        """Count all ids in one frame: as text where some are text, and integers where all are."""
        if not self._pending:
            return
        frames = [frame for frame in (self._merged, *self._pending) if frame.height]
        self._pending = []
        if len({frame["id"].dtype for frame in frames}) > 1:
            frames = [frame.with_columns(pl.col("id").cast(pl.String)) for frame in frames]
            joined = _counted(pl.concat(frames))
            self._merged = joined.with_columns(canonical_ids(joined["id"]).alias("id"))
        else:
            self._merged = _counted(pl.concat(frames))

    @property
    def ids(self) -> pl.Series:
        """The distinct ids."""
        self._merge()
        return self._merged["id"]

    @property
    def numbers(self) -> np.ndarray:
        """Number of occurrences of each id, int64."""
        self._merge()
        return self._merged["count"].to_numpy()

    @property
    def total(self) -> int:
        """Number of rows."""
        self._merge()
        return int(self.numbers.sum()) if self._merged.height else 0


def _counted(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the distinct ids of a frame with the sums of their counts."""
    return frame.group_by("id").agg(pl.col("count").sum())


class _Findings(NamedTuple):
    """Findings of the first pass.

    Attributes:
        counts: ids of each role.
        times: rows that decide whether the times are as expected.
        left_out: numbers of rows that are left out, by the reason.
        num_rows: rows of the source, those that are left out included.
    """

    counts: dict[str, _IdCounts]
    times: DecidingTimes
    left_out: Counter[str]
    num_rows: int


def _find_ids(slices: ParquetSlices, num_rows: int, without_words: Set[str]) -> _Findings:
    """Read all rows once, for their ids and times.

    Raises:
        DataError: an id is not as expected, or no row is left.
    """
    counts, times, left_out, total = (
        {role: _IdCounts() for role in ("user", "item")},
        DecidingTimes(),
        Counter[str](),
        0,
    )
    for part in slices.read(num_rows, without_words):
        left_out.update(part.left_out)
        total += part.num_rows
        if not part.frame.height:
            continue
        for role, ids in counts.items():
            ids.add(part.frame[role])
        if "time" in part.frame.columns:
            times.add(part.frame["time"], partial(slices.name_place, part))
    if not counts["user"].total:
        raise no_rows(slices.origin.source, left_out)
    return _Findings(counts, times, left_out, total)


def _refuse_words(slices: ParquetSlices, num_rows: int, role: str) -> None:
    """Raise a DataError for the first id that stands for a missing value; there is one."""
    for part in slices.read(num_rows, set()):
        ids, locate = part.frame[role], partial(slices.name_place, part)
        refuse_words(ids, are_missing_words(ids), replace(slices.origin, locate=locate).name_column(role))


def _write_columns(
    slices: ParquetSlices,
    num_rows: int,
    without_words: Set[str],
    vocabularies: tuple[Vocabulary, Vocabulary],
    counts: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Read all rows once more, and write them user by user.

    Args:
        slices, num_rows, without_words: see :meth:`~fastncf.data.readers.slices.ParquetSlices.read`.
        vocabularies: of the users and the items.
        counts: (U,) int64, rows of each user.

    Returns:
        Users and items (M,) int32, and times (M,) int64 or None, in temporary files.

    Raises:
        DataError: the rows are others than in the first pass.
    """
    has_times = "time" in slices.origin.columns
    indptr = np.concatenate([[0], np.cumsum(counts)])
    total = int(indptr[-1])
    arrays = [empty_mapped(total, np.int32), empty_mapped(total, np.int32)]
    arrays += [empty_mapped(total, np.int64)] * has_times
    bounds = _group_bounds(indptr, num_rows)
    ends = indptr[bounds[:-1]]  # of what is written of each group
    for part in slices.read(num_rows, without_words):
        columns = [ids.encode(part.frame[ids.noun]) for ids in vocabularies]
        columns += [to_integers(part.frame["time"]).to_numpy()] * has_times
        if not _append(columns, arrays, bounds, ends, indptr):
            raise _changed(slices)
        leave_memory(*arrays)
    if (ends != indptr[bounds[1:]]).any():
        raise _changed(slices)
    for first, last in itertools.pairwise(bounds.tolist()):
        if not _group(arrays, indptr, first, last):
            raise _changed(slices)
        leave_memory(*arrays)
    return arrays[0], arrays[1], arrays[2] if has_times else None


def _changed(slices: ParquetSlices) -> DataError:
    """Return the error for rows that are not those of the first pass."""
    return DataError(
        f"{slices.origin.source}: was changed while it was read; expected files that stay as they are during a fit"
    )


def _group_bounds(indptr: np.ndarray, num_rows: int) -> np.ndarray:
    """Return bounds of groups of users, ascending from 0 to U, that have about ``num_rows`` rows or one user each."""
    most = max(num_rows, -(-int(indptr[-1]) // _MOST_GROUPS))
    steps = np.searchsorted(indptr, np.arange(most, int(indptr[-1]), most), side="right") - 1
    return np.unique(np.concatenate([[0], steps, [len(indptr) - 1]]))


def _append(
    columns: list[np.ndarray], arrays: list[np.ndarray], bounds: np.ndarray, ends: np.ndarray, indptr: np.ndarray
) -> bool:
    """Write rows behind those of their groups of users, and return whether all of them have a place.

    Args:
        columns: users, items and perhaps times of the rows.
        arrays: the same of all rows, written.
        bounds: of the groups of users.
        ends: of what is written of each group; they are moved on.
        indptr: (U + 1,) int64, bounds of the rows of each user.
    """
    user, item = columns[:2]
    if len(user) and min(int(user.min()), int(item.min())) < 0:
        return False
    group = (np.searchsorted(bounds, user, side="right") - 1).astype(np.uint16)
    by_group = np.argsort(group, kind="stable")
    sizes = np.bincount(group, minlength=len(ends))
    if (ends + sizes > indptr[bounds[1:]]).any():
        return False
    starts = np.cumsum(sizes) - sizes
    for number in np.flatnonzero(sizes):
        rows = by_group[starts[number] : starts[number] + sizes[number]]
        place = slice(int(ends[number]), int(ends[number] + sizes[number]))
        for column, array in zip(columns, arrays, strict=True):
            array[place] = column[rows]
    ends += sizes
    return True


def _group(arrays: list[np.ndarray], indptr: np.ndarray, first_user: int, last_user: int) -> bool:
    """Group the rows of a range of users by user, in place, and return whether each user has as many as expected."""
    start, stop = (int(bound) for bound in indptr[[first_user, last_user]])
    user, item, *times = (array[start:stop] for array in arrays)
    time = times[0] if times else np.zeros(stop - start, dtype=np.int64)
    grouped = group_rows_by_user(user - np.int32(first_user), item.copy(), time.copy(), last_user - first_user)
    user[:] = np.repeat(np.arange(first_user, last_user, dtype=np.int32), np.diff(grouped.indptr))
    item[:] = grouped.item
    for column in times:
        column[:] = grouped.time
    return bool((grouped.indptr == indptr[first_user : last_user + 1] - start).all())
