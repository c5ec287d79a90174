"""A point in time that a caller names, beside a column of times."""

import math
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation

import polars as pl

from fastncf.data.readers.checks import ColumnName
from fastncf.data.readers.dates import LIKELY_TIMES
from fastncf.errors import ConfigError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DATE_FORMATS = "%Y%m%d", "%Y%m%d%H%M", "%Y%m%d%H%M%S"
_DECIMAL = pl.Decimal(38, 18)


def first_from(before: str, values: pl.Series, times: pl.Series, name: ColumnName) -> int:
    """Return the earliest time, as Int64, that is not before a point in time; one more than the latest where none is.

    Args:
        before: the point: a number as the column has them, or a date in ISO 8601, in UTC unless it says otherwise. A
            date beside numbers can be compared where these are unix times, or dates as one number such as 20050402.
        values: the column as it was read, without nulls.
        times: the same as dates, or as Int64 in the same order.
        name: the column in messages.

    Raises:
        ConfigError: the text is neither, or the column has no times that it can be compared with.
    """
    if isinstance(times.dtype, pl.Datetime):
        date = _date(before)
        if date is None:
            raise _unexpected(before, name, "a date such as 2020-01-31 or '2020-01-31 23:59'")
        unit = {"ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[times.dtype.time_unit]
        is_later = times.to_physical() >= _since_epoch(date, unit)
    else:
        numbers = _numbers(values)
        is_later = numbers >= _number(before, numbers, name)
    physical = times.to_physical()
    later = physical.filter(is_later)
    bound = later.min() if len(later) else physical.max()
    assert isinstance(bound, int)
    return bound if len(later) else bound + 1


def _date(text: str) -> datetime | None:
    """Return a date in ISO 8601, in UTC unless it says otherwise; None for other text."""
    try:
        date = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return date if date.tzinfo is not None else date.replace(tzinfo=UTC)


def _since_epoch(date: datetime, unit: int) -> int:
    """Return the time since 1970 in parts of a second, rounded up."""
    elapsed = date - _EPOCH
    microseconds = (elapsed.days * 86_400 + elapsed.seconds) * 10**6 + elapsed.microseconds
    return -(-microseconds * unit // 10**6)


def _numbers(values: pl.Series) -> pl.Series:
    """Return a column of numbers, perhaps as text, in a dtype that holds them exactly."""
    if values.dtype in (pl.Categorical, pl.Enum):
        values = values.cast(pl.String)
    if values.dtype != pl.String:
        return values
    text = values.str.strip_chars()
    for dtype in (pl.Int64, _DECIMAL):
        numbers = text.cast(dtype, strict=False)
        if not numbers.has_nulls():
            return numbers
    return text.cast(pl.Float64)


def _number(before: str, numbers: pl.Series, name: ColumnName) -> Decimal | int | float:
    """Return a point in time as a number that a column of numbers can be compared with."""
    try:
        number = Decimal(before.strip())
        if number.is_finite() and numbers.dtype.is_integer():
            return math.ceil(number)
        if number.is_finite():
            return number if numbers.dtype.is_decimal() else float(number)
    except InvalidOperation:
        pass
    date, bounds = _date(before), (str(numbers.min()), str(numbers.max()))
    if date is not None:
        for place, (low, high) in enumerate(LIKELY_TIMES):
            if bool(numbers.is_between(low, high).all()):
                if place < 4:
                    return _since_epoch(date, 1000**place)
                return int(date.astimezone(UTC).strftime(_DATE_FORMATS[place - 4]))
        raise _unexpected(
            before, name, f"a number from {bounds[0]} to {bounds[1]}, since the column is not in unix time"
        )
    raise _unexpected(before, name, f"a number such as {bounds[1]}, a date such as 2020-01-31, or a share such as 90%")


def _unexpected(before: str, name: ColumnName, expected: str) -> ConfigError:
    """Return the error for a point in time that cannot be used."""
    return ConfigError(
        f"before={before!r:.80}: expected {expected}, beside column {name.column!r:.80} of {name.source}"
    )
