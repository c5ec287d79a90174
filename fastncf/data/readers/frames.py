"""Columns of pandas frames as columns of polars, without a change of their values."""

import datetime as dt
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import polars as pl

from fastncf.errors import DataError

_FOREIGN_TYPES = ("decimal256", "month_day_nano_interval", "extension", "map", "union", "dense_union", "sparse_union")
"""Types of pyarrow at which polars panics, or of which it makes others."""


def from_pandas(column: Any, *, is_id: bool) -> pl.Series:
    """Return a pandas column as a polars one. ``pl.from_pandas`` would need pyarrow for text.

    Ids of several types, NumPy's scalars and dates are left as objects: polars would make other text of them, or round
    them.
    """
    if type(column.dtype).__name__ == "ArrowDtype" or getattr(column.dtype, "storage", None) == "pyarrow":
        return _from_arrow(column.array.__arrow_array__())
    if getattr(column.dtype, "tz", None) is not None:
        column = column.dt.tz_convert(None)
    if column.dtype.kind == "M" and column.dt.unit == "s":  # polars has no such unit
        column = column.dt.as_unit("ms")
    if column.dtype.kind in "iufMm":
        missing = column.isna()
        if not missing.any():
            return pl.Series(column.to_numpy())
        if column.dtype.kind in "iu":
            column = column.astype(object)
    values = column.astype(object)
    values = values.where(values.notna(), None).tolist()
    types = set(map(type, values)) - {type(None)}
    is_mixed = len(types) > 1 or any(issubclass(kind, np.generic | dt.datetime) for kind in types)
    if is_mixed:
        return pl.Series(values, dtype=pl.Object)
    try:
        return pl.Series(values, strict=False, dtype=None if values else pl.String)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError):
        return pl.Series(values, dtype=pl.Object)


@contextmanager
def index_named(frame: Any) -> Iterator[None]:
    """Add the names of the index of a pandas frame to an error about its columns in the block, if it has names."""
    try:
        yield
    except DataError as error:
        names = [str(name) for name in frame.index.names if name is not None]
        if not names:
            raise
        raise DataError(
            f"{error}; its index is {', '.join(names):.100}, of which reset_index() makes columns"
        ) from None


def _from_arrow(values: Any) -> pl.Series:
    """Return an array of pyarrow as a polars column; one of a type that polars does not have as objects.

    Times with a zone become those of UTC: polars knows no zones that are offsets, such as +05:30.
    """
    if getattr(values.type, "tz", None) is not None:
        values = values.cast(f"timestamp[{values.type.unit}]")
    is_foreign = str(values.type).startswith(_FOREIGN_TYPES)
    return pl.Series(values.to_pylist(), dtype=pl.Object) if is_foreign else pl.Series(pl.from_arrow(values))
