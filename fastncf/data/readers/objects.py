"""Times that a frame holds as Python objects, as a column of one dtype."""

import datetime as dt
from collections import Counter
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl

from fastncf.data.ids import as_utf8

_EPOCH = dt.datetime(1970, 1, 1)
_LONGEST_DECIMAL = 38  # digits of an integer of 128 bits
_NANOSECONDS = (-(2**63), 2**63 - 1)


def times_of_objects(values: list[Any]) -> tuple[pl.Series, pl.Series]:
    """Return objects as a column of integers, text, dates or times of day, and a mask (n,) of those it cannot hold.

    Numbers are exact: integers, or text where there are fractions. Floats that may have been rounded, booleans, and
    values of another kind than most are in the mask, and null in the column.
    """
    pairs = [_classify(value) for value in values]
    kinds = Counter(kind for kind, _ in pairs if kind is not None)
    kind = max(kinds, key=lambda kind: kinds[kind]) if kinds else "text"
    accepted = {"integer", "decimal", "text"} if kind in ("integer", "decimal", "text") else {kind}
    refused = pl.Series([kind not in accepted for kind, _ in pairs], dtype=pl.Boolean)
    kept: list[Any] = [value if kind in accepted else None for kind, value in pairs]
    if kind in ("date", "date with zone"):
        return _dates(kept, refused)
    if kind == "clock":
        return pl.Series(kept, dtype=pl.Time), refused
    if accepted.intersection(kinds) == {"integer"}:
        return pl.Series(kept, dtype=pl.Int128, strict=False), refused
    return pl.Series([None if value is None else str(value) for value in kept], dtype=pl.String), refused


def _classify(value: Any) -> tuple[str | None, Any]:
    """Return what kind of time an object is, and its value; None for no time, and for a float that may be rounded."""
    if isinstance(value, str):
        plain = as_utf8(value)
        return (None, None) if plain is None else ("text", plain)
    if isinstance(value, bool | np.bool_) or value is None or type(value).__name__ in ("NAType", "NaTType"):
        return None, None
    if isinstance(value, int | np.integer):
        return "integer", int(value)
    if isinstance(value, float | np.floating):
        return _classify_float(value)
    if isinstance(value, Decimal):
        if not value.is_finite() or value.adjusted() > _LONGEST_DECIMAL:
            return None, None
        return ("integer", int(value)) if value == int(value) else ("decimal", value)
    if isinstance(value, np.datetime64):
        nanoseconds = value.astype("datetime64[ns]")
        is_exact = not np.isnat(value) and nanoseconds.astype(value.dtype) == value
        return ("date", int(nanoseconds.astype(np.int64))) if is_exact else (None, None)
    if isinstance(value, dt.datetime):
        return _classify_date(value)
    if isinstance(value, dt.date):
        return "date", (value - _EPOCH.date()).days * 86_400 * 10**9
    if isinstance(value, dt.time) and value.tzinfo is None:
        return "clock", value
    return None, None


def _classify_float(value: Any) -> tuple[str | None, Any]:
    """Return the kind and the value of a float: an integer if it is whole, nothing if it may have been rounded."""
    is_wide = not isinstance(value, np.floating) or isinstance(value, np.float64)
    limit = 2 ** (np.finfo(type(value)).nmant + 1 if isinstance(value, np.floating) else 53)
    if not -limit < value < limit:
        return None, None
    if value == int(value):
        return "integer", int(value)
    return ("decimal", float(value)) if is_wide else (None, None)


def _classify_date(value: dt.datetime) -> tuple[str, int]:
    """Return the kind of a date and its nanoseconds since 1970; pandas' ones have more digits than Python's."""
    nanosecond = getattr(value, "nanosecond", 0)
    plain = value.to_pydatetime(warn=False) if hasattr(value, "to_pydatetime") else value
    kind = "date" if plain.utcoffset() is None else "date with zone"
    plain = plain.replace(tzinfo=None) - (plain.utcoffset() or dt.timedelta())
    return kind, (plain - _EPOCH) // dt.timedelta(microseconds=1) * 1000 + nanosecond


def _dates(nanoseconds: list[int | None], refused: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Return dates in microseconds, or in nanoseconds where one is finer, and a mask of those that are not held."""
    if all(value is None or value % 1000 == 0 for value in nanoseconds):
        microseconds = [None if value is None else value // 1000 for value in nanoseconds]
        return pl.Series(microseconds, dtype=pl.Int64).cast(pl.Datetime("us")), refused
    low, high = _NANOSECONDS
    held = [None if value is None or not low <= value <= high else value for value in nanoseconds]
    dates = pl.Series(held, dtype=pl.Int64).cast(pl.Datetime("ns"))
    return dates, refused | dates.is_null()
