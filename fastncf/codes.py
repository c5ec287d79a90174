"""Distinct ids and their positions among them, chunk by chunk and without a temporary column."""

from collections.abc import Callable

import numpy as np
import polars as pl
from numba import njit

from fastncf.hashing import GOLDEN
from fastncf.threads import run_ranges


def distinct(column: pl.Series) -> pl.Series:
    """The distinct values of a column without nulls: integers ascending, others in any order."""
    if isinstance(column.dtype, pl.Categorical):
        return _distinct_integers(column.to_physical()).cat.to(column.dtype)
    return _distinct_integers(column) if column.dtype.is_integer() else column.unique()


def categories(column: pl.Series) -> pl.Series:
    """The text behind each physical number of a column of categories, up to the highest; some may not occur in it."""
    physical = column.to_physical()
    top = physical.max()
    numbers = pl.Series(range(0 if top is None else int(top) + 1), dtype=physical.dtype)  # type: ignore[arg-type]
    return numbers.cat.to(column.dtype).cast(pl.String)


def widened(ids: pl.Series) -> pl.Series:
    """Ids in the data type that a vocabulary holds: Int64, UInt64 or String."""
    if isinstance(ids.dtype, pl.Categorical):
        return ids.cast(pl.String)
    return ids.cast(pl.Int64) if ids.dtype == pl.Int32 else ids


def _distinct_integers(column: pl.Series) -> pl.Series:
    if not len(column):
        return column
    low, high = _bounds(column)
    if not _is_narrow(low, high, len(column)):
        return column.unique().sort()
    present = np.zeros(high - low + 1, dtype=np.bool_)
    _each_chunk(column, lambda values, rows: _mark(values, low, present))
    return pl.Series(np.flatnonzero(present) + low).cast(column.dtype)


def positions(column: pl.Series, ids: pl.Series) -> np.ndarray:
    """Where each integer of a column (n,) stands among ascending distinct ``ids``: (n,) int32, -1 if it does not.

    Both columns have one signedness and no nulls.
    """
    values = ids.to_numpy()
    if len(column) < len(values):  # a table of all ids would cost more than a few searches
        asked = column.to_numpy()
        at = np.minimum(np.searchsorted(values, asked), len(values) - 1)
        return np.where(values[at] == asked, at, -1).astype(np.int32)
    values = _bits(values)
    low, high = _bounds(ids)
    if _is_narrow(low, high, len(column)):
        table = np.full(high - low + 1, -1, dtype=np.int32)
        table[values - low] = np.arange(len(values), dtype=np.int32)
        return look_up(column, low, table)
    codes = np.empty(len(column), dtype=np.int32)
    slots = np.full(1 << (2 * len(values)).bit_length(), -1, dtype=np.int32)
    _fill_slots(values, slots)
    _each_chunk(column, lambda part, rows: _find(part, values, slots, codes[rows]))
    return codes


def look_up(column: pl.Series, low: int, table: np.ndarray) -> np.ndarray:
    """``table[value - low]`` for each integer of a column (n,): (n,) int32, -1 for a value beyond the table (m,)."""
    codes = np.empty(len(column), dtype=np.int32)
    _each_chunk(column, lambda values, rows: _look_up(values, low, table, codes[rows]))
    return codes


def _bounds(column: pl.Series) -> tuple[int, int]:
    low, high = column.min(), column.max()
    assert isinstance(low, int)
    assert isinstance(high, int)
    return low, high


def _is_narrow(low: int, high: int, rows: int) -> bool:
    """Whether a table over the whole range of values costs less than looking for each value."""
    return high - low < 4 * rows + (1 << 20) and high < 2**63


def _bits(values: np.ndarray) -> np.ndarray:
    """Unsigned integers as signed ones with the same bits, so that kernels know one kind; others as they are."""
    return values.view(np.int64) if values.dtype == np.uint64 else values


def _each_chunk(column: pl.Series, kernel: Callable[[np.ndarray, slice], object]) -> None:
    """Call ``kernel(values, rows)`` for each chunk of a column, in parallel."""
    assert not column.has_nulls(), "a kernel would take the values of an array of floats for places in a table"
    chunks = [_bits(chunk.to_numpy()) for chunk in column.get_chunks()]
    ends = np.cumsum([0, *map(len, chunks)])
    run_ranges(lambda at, end: kernel(chunks[at], slice(ends[at], ends[end])), np.arange(len(chunks) + 1))


@njit(nogil=True, cache=True)
def _mark(values, low, present):  # type: ignore[no-untyped-def]
    for value in values:
        present[np.uint64(np.int64(value) - low)] = True


@njit(nogil=True, cache=True)
def _look_up(values, low, table, codes):  # type: ignore[no-untyped-def]
    size = np.uint64(len(table))
    for row in range(len(values)):
        at = np.uint64(np.int64(values[row]) - low)
        codes[row] = table[at] if at < size else np.int32(-1)


@njit(inline="always")
def _slot(value, slots):  # type: ignore[no-untyped-def]
    """The first place to look at in an open-addressing table of a power of two."""
    mixed = np.uint64(np.int64(value)) * np.uint64(GOLDEN)
    return (mixed ^ (mixed >> np.uint64(32))) & np.uint64(len(slots) - 1)


@njit(nogil=True, cache=True)
def _fill_slots(ids, slots):  # type: ignore[no-untyped-def]
    last = np.uint64(len(slots) - 1)
    for code in range(len(ids)):
        at = _slot(ids[code], slots)
        while slots[at] >= 0:
            at = (at + np.uint64(1)) & last
        slots[at] = code


@njit(nogil=True, cache=True)
def _find(values, ids, slots, codes):  # type: ignore[no-untyped-def]
    last = np.uint64(len(slots) - 1)
    for row in range(len(values)):
        at = _slot(values[row], slots)
        while slots[at] >= 0 and ids[slots[at]] != values[row]:
            at = (at + np.uint64(1)) & last
        codes[row] = slots[at]
