"""Times of any dtype as Int64 in the same order, and the formats of dates."""

from typing import Any

import numpy as np
import polars as pl

from fastncf.data.readers.checks import ColumnName
from fastncf.data.readers.columns import NUMBER

EXPECTED_TIMES = "a number such as 1112486027, or a date such as 2005-04-02 23:53:47"
HEAD_ROWS = 1000
"""Number of first rows by which the format of the times, and of a text file, is recognised."""

_FORMATS = (
    *(
        f"%Y-%m-%d{joint}{clock}{zone}"
        for zone in ("", "%#z", " UTC")
        for clock in ("%H:%M:%S", "%H:%M:%S%.f", "%H:%M")
        for joint in (" ", "T")
    ),
    *("%Y-%m-%d", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d"),
)


def check_times(values: pl.Series, name: ColumnName) -> pl.Series:
    """Return a column of times as Int64, without nulls and in the same order.

    Integers stay as they are, dates become microseconds (or stay in the unit of their column), floats become the
    integers that their bits stand for, which ascend as the floats do. Text is read as numbers or dates.

    Raises:
        DataError: a time is missing, or is neither a number nor a date.
    """
    if values.dtype in (pl.Categorical, pl.Enum):
        values = values.cast(pl.String)
    name.refuse(values, values.is_null(), EXPECTED_TIMES)
    if values.dtype == pl.String:
        return _parse_text(values, name)
    if values.dtype == pl.Date:
        values = values.cast(pl.Datetime("us"))
    if values.dtype == pl.Datetime:
        return values.to_physical()
    if values.dtype.is_float():
        name.refuse(values, ~values.is_finite(), EXPECTED_TIMES)
        bits = (values.cast(pl.Float64) + 0.0).to_numpy().view(np.int64)  # + 0.0 makes -0.0 equal 0.0
        return pl.Series(np.where(bits < 0, bits ^ np.int64(2**63 - 1), bits))
    if values.dtype.is_integer():
        cast = values.cast(pl.Int64, strict=False)
        name.refuse(values, cast.is_null(), f"{EXPECTED_TIMES}, below 2**63")
        return cast
    raise name.wrong_dtype(values, EXPECTED_TIMES)


def _parse_text(values: pl.Series, name: ColumnName) -> pl.Series:
    """Return times of text as Int64: all of them numbers, or all dates of one format, as most of the first are."""
    head = values.head(HEAD_ROWS)
    if are_numbers(head):
        stripped = values.str.strip_chars()
        numbers = stripped.cast(pl.Int64, strict=False)
        if numbers.has_nulls():
            numbers = stripped.cast(pl.Float64, strict=False)
        name.refuse(values, numbers.is_null(), "a number, as in the rows before")
        return check_times(numbers, name)
    dates = parse_dates(values, guess_date_format(head))
    name.refuse(values, dates.is_null(), f"{EXPECTED_TIMES}, in one format throughout")
    return dates.to_physical()


def are_numbers(head: pl.Series) -> bool:
    """Return whether most of the first values of a text column are numbers."""
    return 2 * int(head.str.contains(rf"^\s*(?:{NUMBER.pattern})\s*$").sum()) > len(head)


def guess_date_format(head: pl.Series) -> str:
    """Return the format that most of the first values of a text column have."""
    hits = {fmt: parse_dates(head, fmt).is_not_null().sum() for fmt in _FORMATS}
    return max(hits, key=lambda fmt: hits[fmt])


def parse_dates(text: Any, fmt: str) -> Any:
    """Return a column or expression of text as dates in microseconds, null where a value is not of the format."""
    return text.str.to_datetime(fmt, strict=False, time_unit="us")
