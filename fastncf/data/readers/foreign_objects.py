"""Objects in memory that are neither a frame nor a path, and the call that makes a frame of each."""

from typing import Any

import polars as pl

from fastncf.errors import DataError, type_name

_ROWS = 'polars.DataFrame(ROWS, schema=["user", "item", "time"], orient="row")'
_CALLS = (
    ("tocoo", 'polars.DataFrame(dict(zip(["user", "item"], ROWS.nonzero())))'),
    ("toPandas", "ROWS.toPandas()"),
    ("npartitions", "ROWS.compute()"),
    ("__arrow_c_stream__", "polars.DataFrame(ROWS)"),
    ("read", "polars.read_csv(ROWS)"),
)
"""Attributes that tell frames of other libraries, sparse matrices and open files, and the call for each."""


def wrong_object(source: Any, expected: str) -> DataError:
    """Return the error for an object that interactions cannot be read from.

    Args:
        source: the object.
        expected: what is accepted, for the message.
    """
    kind = type_name(source)
    if isinstance(source, list | tuple):
        kind = f"{kind} of {type(source[0]).__name__:.40} objects" if source else f"an empty {type(source).__name__}"
    call = _frame_call(source)
    remedy = "" if call is None else f": pass the frame that {call} makes"
    return DataError(f"cannot read interactions from {kind}; expected {expected}{remedy}")


def _frame_call(source: Any) -> str | None:
    """Return the call that makes a frame of an object, or None."""
    if isinstance(source, list | tuple) and source:
        first = source[0]
        if isinstance(first, pl.DataFrame | pl.LazyFrame):
            return "polars.concat(ROWS)"
        if hasattr(first, "iloc"):
            return "pandas.concat(ROWS)"
        if isinstance(first, list | tuple) or hasattr(first, "shape"):
            return _ROWS
        return "polars.DataFrame(ROWS)" if isinstance(first, dict) else None
    if isinstance(source, dict):
        return "polars.DataFrame(ROWS)"
    if type(source).__name__ == "Series":  # one column, from which no frame of rows can be made
        return None
    found = next((call for name, call in _CALLS if hasattr(source, name)), None)
    return _ROWS if found is None and getattr(source, "ndim", None) == 2 else found
