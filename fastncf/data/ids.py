"""Distinct ids and their positions among them, chunk by chunk and without a temporary column."""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from fastncf.errors import DataError
from fastncf.kernels.cpu.ids import fill_codes, fill_slots, find_slots, mark_present
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


def canonical_dtype(ids: pl.Series) -> pl.Series:
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
    _each_chunk(column, lambda values, rows: mark_present(values, low, present))
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
        return gather_codes(column, low, table)
    codes = np.empty(len(column), dtype=np.int32)
    slots = np.full(1 << (2 * len(values)).bit_length(), -1, dtype=np.int32)
    fill_slots(values, slots)
    _each_chunk(column, lambda part, rows: find_slots(part, values, slots, codes[rows]))
    return codes


def gather_codes(column: pl.Series, low: int, table: np.ndarray) -> np.ndarray:
    """``table[value - low]`` for each integer of a column (n,): (n,) int32, -1 for a value beyond the table (m,)."""
    codes = np.empty(len(column), dtype=np.int32)
    _each_chunk(column, lambda values, rows: fill_codes(values, low, table, codes[rows]))
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


class Vocabulary:
    """The raw ids behind the contiguous ones: raw id of code i at position i, in ascending order."""

    def __init__(self, ids: pl.Series, noun: str) -> None:
        self.ids = ids
        self.noun = noun

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, columns: list[pl.Series], noun: str) -> "Vocabulary":
        """All distinct ids of some columns, all text or all integers of one signedness."""
        return cls(
            pl.concat([canonical_dtype(distinct(column)) for column in columns]).unique().sort().alias(noun), noun
        )

    def encode(self, raw: pl.Series) -> np.ndarray:
        """Raw ids (n,) -> codes (n,) int32; -1 for an id that is not in the vocabulary."""
        if isinstance(raw.dtype, pl.Categorical):
            return gather_codes(raw.to_physical(), 0, self.encode(categories(raw)))
        if self.ids.dtype == pl.String:
            codes = pl.DataFrame({"raw": self.ids, "code": np.arange(len(self.ids), dtype=np.int32)})
            found = raw.to_frame("raw").join(codes, on="raw", how="left", maintain_order="left")["code"]
            return found.fill_null(-1).to_numpy(writable=True)
        return positions(raw, self.ids)

    def require(self, raw: Any) -> np.ndarray:
        """Raw ids that a caller names (one or many) -> codes (n,) int32.

        Raises:
            DataError: an id is not in the vocabulary.
        """
        if isinstance(raw, (str, bytes, dict)) or not hasattr(raw, "__len__"):
            raw = [raw]
        try:
            # a pandas Series of text would need pyarrow as it is
            column = pl.Series(self.noun, raw if isinstance(raw, (pl.Series, np.ndarray)) else list(raw))
            cast = column.cast(self.ids.dtype)
            if column.dtype == pl.Boolean or cast.has_nulls() or (column.dtype.is_float() and (cast != column).any()):
                raise TypeError
        except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError):
            raise DataError(
                f"{self.noun} ids are {kind_of_ids(self.ids)} in the training data; got {raw!r:.80}"
            ) from None
        codes = self.encode(cast)
        if len(codes) and codes.min() < 0:
            unknown = cast[int(np.argmin(codes))]
            raise DataError(
                f"{self.noun} {unknown!r} is not in the training data, whose {len(self)} {self.noun} ids "
                f"run from {self.ids[0]!r} to {self.ids[-1]!r}"
            )
        return codes

    def decode(self, codes: np.ndarray) -> pl.Series:
        """Codes (n,) -> raw ids."""
        return self.ids.gather(codes.astype(np.int64))


def kind_of_ids(ids: pl.Series) -> str:
    return {"String": "text", "Int64": "integers"}.get(str(ids.dtype), "integers beyond 2**63")
