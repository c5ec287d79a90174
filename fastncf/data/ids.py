"""Raw ids and indices: the vocabulary of all users or items, and fast lookups of ids.

Two words for two things:

- A **raw id** is what the user of the package calls a user or an item: an integer or text, as it stands in the source.
- An **index** is what the package calculates with: an int32 from 0 to U - 1 for users, or to I - 1 for items. It is the
  position of the raw id in its :class:`Vocabulary`, hence also the row of an embedding table. -1 stands for no index.

Columns of raw ids are read chunk by chunk, without a temporary column.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import polars as pl

from fastncf.errors import DataError
from fastncf.kernels.cpu.ids import fill_slots, find_slots, gather_range, mark_present
from fastncf.threads import run_ranges


class Vocabulary:
    """All raw ids of the users or of the items of a data set: the raw id of index i stands at position i.

    Attributes:
        ids: distinct raw ids (U,) or (I,), ascending; Int64, UInt64 or String.
        noun: ``user`` or ``item``, for messages.
    """

    def __init__(self, ids: pl.Series, noun: str) -> None:
        self.ids = ids
        self.noun = noun

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, columns: list[pl.Series], noun: str) -> "Vocabulary":
        """Return the vocabulary of all raw ids in some columns, all of them text or integers of one signedness."""
        raw_ids = pl.concat([to_canonical_dtype(distinct(column)) for column in columns])
        return cls(raw_ids.unique().sort().alias(noun), noun)

    def encode(self, raw_ids: pl.Series) -> np.ndarray:
        """Return the index of each raw id (n,): (n,) int32, -1 for one that is not in the vocabulary."""
        if isinstance(raw_ids.dtype, pl.Categorical):
            return gather_indices(raw_ids.to_physical(), 0, self.encode(categories(raw_ids)))
        if self.ids.dtype == pl.String:
            table = pl.DataFrame({"raw": self.ids, "index": np.arange(len(self.ids), dtype=np.int32)})
            indices = raw_ids.to_frame("raw").join(table, on="raw", how="left", maintain_order="left")["index"]
            return indices.fill_null(-1).to_numpy(writable=True)
        return find_indices(raw_ids, self.ids)

    def require(self, raw_ids: Any) -> np.ndarray:
        """Return the index of each raw id that a caller names.

        Args:
            raw_ids: one id, or n in a list, tuple, array, or polars or pandas series.

        Returns:
            (n,) int32.

        Raises:
            DataError: an id is not in the vocabulary.
        """
        if isinstance(raw_ids, (str, bytes, dict)) or not hasattr(raw_ids, "__len__"):
            raw_ids = [raw_ids]
        try:
            # polars would need pyarrow for a pandas series of text
            column = pl.Series(self.noun, raw_ids if isinstance(raw_ids, (pl.Series, np.ndarray)) else list(raw_ids))
            cast = column.cast(self.ids.dtype)
            if column.dtype == pl.Boolean or cast.has_nulls() or (column.dtype.is_float() and (cast != column).any()):
                raise TypeError
        except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError):
            raise DataError(
                f"{self.noun} ids are {describe_ids(self.ids)} in the training data; got {raw_ids!r:.80}"
            ) from None
        indices = self.encode(cast)
        if len(indices) and indices.min() < 0:
            unknown = cast[int(np.argmin(indices))]
            raise DataError(
                f"{self.noun} {unknown!r:.80} is not in the training data, whose {len(self)} {self.noun} ids "
                f"run from {self.ids[0]!r:.80} to {self.ids[-1]!r:.80}"
            )
        return indices

    def decode(self, indices: np.ndarray) -> pl.Series:
        """Return the raw ids (n,) of indices (n,) of any integer dtype."""
        return self.ids.gather(indices.astype(np.int64))


def describe_ids(raw_ids: pl.Series) -> str:
    """Return in words what kind of ids a column of a canonical dtype holds, for messages."""
    return {"String": "text", "Int64": "integers"}.get(str(raw_ids.dtype), "integers beyond 2**63")


def to_canonical_dtype(raw_ids: pl.Series) -> pl.Series:
    """Return raw ids in a dtype that a vocabulary holds: Int64, UInt64 or String."""
    if isinstance(raw_ids.dtype, pl.Categorical):
        return raw_ids.cast(pl.String)
    return raw_ids.cast(pl.Int64) if raw_ids.dtype == pl.Int32 else raw_ids


def distinct(raw_ids: pl.Series) -> pl.Series:
    """Return the distinct values of a column without nulls: integers ascending, others in any order."""
    if isinstance(raw_ids.dtype, pl.Categorical):
        return _distinct_integers(raw_ids.to_physical()).cat.to(raw_ids.dtype)
    return _distinct_integers(raw_ids) if raw_ids.dtype.is_integer() else raw_ids.unique()


def categories(column: pl.Series) -> pl.Series:
    """Return the text behind each physical number of a column of categories, from 0 to the highest that occurs."""
    physical = column.to_physical()
    highest = physical.max()
    assert highest is None or isinstance(highest, int)
    numbers = pl.Series(range(0 if highest is None else highest + 1), dtype=physical.dtype)
    return numbers.cat.to(column.dtype).cast(pl.String)


def find_indices(column: pl.Series, ids: pl.Series) -> np.ndarray:
    """Return the position of each integer among some ids.

    Args:
        column: (n,) integers without nulls.
        ids: (m,) distinct integers without nulls, ascending, of the same signedness.

    Returns:
        (n,) int32, -1 for a value that is not among the ids.
    """
    values = ids.to_numpy()
    if len(column) < len(values):  # a few binary searches cost less than a table of all ids
        wanted = column.to_numpy()
        nearest = np.minimum(np.searchsorted(values, wanted), len(values) - 1)
        return np.where(values[nearest] == wanted, nearest, -1).astype(np.int32)
    values = _as_signed(values)
    low, high = _bounds(ids)
    if _is_narrow(low, high, len(column)):
        table = np.full(high - low + 1, -1, dtype=np.int32)
        table[values - low] = np.arange(len(values), dtype=np.int32)
        return gather_indices(column, low, table)
    indices = np.empty(len(column), dtype=np.int32)
    slots = np.full(1 << (2 * len(values)).bit_length(), -1, dtype=np.int32)
    fill_slots(values, slots)
    _for_each_chunk(column, lambda part, rows: find_slots(part, values, slots, indices[rows]))
    return indices


def gather_indices(column: pl.Series, low: int, table: np.ndarray) -> np.ndarray:
    """Return ``table[value - low]`` for each value of a column.

    Args:
        column: (n,) integers without nulls.
        low: value of the first place of the table.
        table: (m,) int32.

    Returns:
        (n,) int32, -1 for a value outside the table.
    """
    indices = np.empty(len(column), dtype=np.int32)
    _for_each_chunk(column, lambda values, rows: gather_range(values, low, table, indices[rows]))
    return indices


def _distinct_integers(column: pl.Series) -> pl.Series:
    """Return the distinct values of a column of integers, ascending."""
    if not len(column):
        return column
    low, high = _bounds(column)
    if not _is_narrow(low, high, len(column)):
        return column.unique().sort()
    present = np.zeros(high - low + 1, dtype=np.bool_)
    _for_each_chunk(column, lambda values, rows: mark_present(values, low, present))
    return pl.Series(np.flatnonzero(present) + low).cast(column.dtype)


def _bounds(column: pl.Series) -> tuple[int, int]:
    """Return the lowest and the highest value of a column of integers."""
    low, high = column.min(), column.max()
    assert isinstance(low, int)
    assert isinstance(high, int)
    return low, high


def _is_narrow(low: int, high: int, num_rows: int) -> bool:
    """Return whether a table over a whole range of values costs less than hashing each value of a column."""
    return high - low < 4 * num_rows + (1 << 20) and high < 2**63


def _as_signed(values: np.ndarray) -> np.ndarray:
    """Return unsigned 64-bit integers as signed ones with the same bits, and others unchanged.

    So kernels need not be compiled for unsigned ones.
    """
    return values.view(np.int64) if values.dtype == np.uint64 else values


def _for_each_chunk(column: pl.Series, kernel: Callable[[np.ndarray, slice], object]) -> None:
    """Call ``kernel(values, rows)`` for each chunk of a column in parallel; ``rows`` is its place in the column."""
    assert not column.has_nulls(), "a column with nulls would reach the kernel as an array of floats"
    chunks = [_as_signed(chunk.to_numpy()) for chunk in column.get_chunks()]
    bounds = np.cumsum([0, *map(len, chunks)])
    run_ranges(
        lambda number, following: kernel(chunks[number], slice(bounds[number], bounds[following])),
        np.arange(len(chunks) + 1),
    )
