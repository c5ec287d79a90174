"""Times as text: which format they have."""

from typing import Any

import polars as pl

from fastncf.data.readers.columns import NUMBER

ACCEPTED_TIMES = "a number such as 1112486027, or a date such as 2005-04-02 23:53:47"

_FORMATS = (
    *(
        f"%Y-%m-%d{joint}{clock}{zone}"
        for zone in ("", "%#z", " UTC")
        for clock in ("%H:%M:%S", "%H:%M:%S%.f", "%H:%M")
        for joint in (" ", "T")
    ),
    *("%Y-%m-%d", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d"),
)


def are_numbers(head: pl.Series) -> bool:
    """Whether most of the first values of a text column are numbers."""
    return 2 * int(head.str.contains(rf"^\s*(?:{NUMBER.pattern})\s*$").sum()) > len(head)


def date_format(head: pl.Series) -> str:
    """The format that reads most of the first values of a text column."""
    hits = {fmt: as_dates(head, fmt).is_not_null().sum() for fmt in _FORMATS}
    return max(hits, key=lambda fmt: hits[fmt])


def as_dates(column: Any, fmt: str) -> Any:
    """A column or expression of text as dates in microseconds, null where a value is not of the format."""
    return column.str.to_datetime(fmt, strict=False, time_unit="us")
