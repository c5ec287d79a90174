"""Times of any dtype as Int64 in the same order, and a date and a time of day in two columns as one time."""

import re
from typing import NamedTuple

import numpy as np
import polars as pl

from fastncf.data.readers.checks import ColumnName
from fastncf.data.readers.columns import NUMBER
from fastncf.data.readers.dates import (
    EXPECTED_CLOCKS,
    EXPECTED_TIMES,
    HEAD_ROWS,
    LIKELY_TIMES,
    DateFormat,
    formats_of,
    is_time_of_day,
    read_dates,
)
from fastncf.data.readers.names import DATES, normalize_name
from fastncf.data.readers.objects import times_of_objects
from fastncf.errors import DataError

_RECOGNISE = DateFormat()
_DAY = 86_400 * 10**9  # nanoseconds
_MOST_DIGITS = 15  # numbers of more digits may become one Float64
_DECIMAL = (38, 18)  # digits of a Decimal, and those behind its point
DATE_YEARS = (1900, 2100)
"""First and last year of dates that are written as one number."""
_FIXED_WIDTHS = {"%Y": 4, "%m": 2, "%d": 2, "%H": 2, "%M": 2, "%S": 2, "%y": 2, "%j": 3}


def check_times(values: pl.Series, name: ColumnName, given: DateFormat = _RECOGNISE) -> pl.Series:
    """Return a column of times as Int64 or as dates, without nulls and in the same order.

    Integers stay as they are, dates are in microseconds (or stay in the unit of their column), floats become the
    integers that their bits stand for, which ascend as the floats do. Text is read as numbers or dates, dates with
    digits below a microsecond as nanoseconds, and numbers that only a Decimal holds become their ranks.

    Args:
        values: the column.
        name: the column in messages.
        given: what the caller says of the format of dates.

    Raises:
        DataError: a time is missing, is neither a number nor a date, or may have been rounded by its dtype; or day and
            month cannot be told apart.
        ConfigError: the given format cannot be used.
    """
    values = _plain(values, name, EXPECTED_TIMES)
    if given.is_given():
        return read_dates(_as_text(values, name, given), name, given)
    if values.dtype == pl.String:
        if are_numbers(values.head(HEAD_ROWS)):
            return _check_numbers(values, name)
        return read_dates(values, name, given)
    if values.dtype == pl.Date:
        values = values.cast(pl.Datetime("us"))
    if values.dtype == pl.Datetime:
        return values
    if values.dtype.is_float():
        return _check_floats(values, name)
    if values.dtype.is_decimal():
        return _ranks(values)
    if values.dtype.is_integer():
        return _check_integers(values, name)
    hint = "; a time of day needs a column of dates beside it" if values.dtype == pl.Time else ""
    raise name.wrong_dtype(values, f"{EXPECTED_TIMES}{hint}")


def _plain(values: pl.Series, name: ColumnName, expected: str) -> pl.Series:
    """Return a column without categories and objects, or raise an error for the first value that is missing."""
    if values.dtype == pl.Object:
        plain, refused = times_of_objects(values.to_list())
        name.refuse(values, refused, f"{expected}, of one type throughout")
        return plain
    if values.dtype in (pl.Categorical, pl.Enum):
        values = values.cast(pl.String)
    missing = values.is_null()
    if values.dtype == pl.String:
        missing |= (values.str.strip_chars() == "").fill_null(value=False)
    name.refuse(values, missing, expected)
    return values


def are_numbers(head: pl.Series) -> bool:
    """Return whether at least half of the first values of a text column are numbers."""
    return 2 * int(head.str.contains(rf"^\s*(?:{NUMBER.pattern})\s*$").sum()) >= len(head)


def _check_integers(values: pl.Series, name: ColumnName) -> pl.Series:
    """Return integers as Int64.

    Raises:
        DataError: Int64 does not hold one, or they are dates that begin with the day or the month.
    """
    numbers = values.cast(pl.Int64, strict=False)
    name.refuse(values, numbers.is_null(), f"{EXPECTED_TIMES}, below 2**63")
    if _begin_with_day_or_month(numbers):
        raise name.wrong_value(
            values, 0, "a date that begins with its year, or the format, such as time_format='%d%m%Y'"
        )
    if DATES.fullmatch(normalize_name(name.column)) and _have_short_years(numbers):
        raise name.wrong_value(values, 0, "a year of four digits, or the format, such as time_format='%d%m%y'")
    _refuse_other_unit(values, numbers, name)
    return numbers


def _have_short_years(numbers: pl.Series) -> bool:
    """Return whether all integers are dates with years of two digits, such as 311219, 123119 or 191231."""
    if not bool(numbers.is_between(1_01_00, 99_12_31).all()):
        return False
    first, second, third = numbers // 10_000, numbers // 100 % 100, numbers % 100
    orders = ((first, second), (second, first), (third, second))
    return any(bool((day.is_between(1, 31) & month.is_between(1, 12)).all()) for day, month in orders)


def _refuse_other_unit(values: pl.Series, numbers: pl.Series, name: ColumnName) -> None:
    """Raise a DataError if all numbers look like times, but not all in the unit of the first one.

    So seconds and milliseconds since 1970 in one column, or seconds and numbers such as 20050402, are not compared.
    """
    bounds = pl.Series([numbers.min(), numbers.max()])
    if sum(bounds.is_between(low, high).any() for low, high in LIKELY_TIMES) < 2:  # or a number is no likely time
        return
    masks = [numbers.is_between(low, high) for low, high in LIKELY_TIMES]
    if not bool(pl.select(pl.any_horizontal(*masks)).to_series().all()):
        return
    same = next(mask for mask in masks if mask[0])
    first = f"{numbers[0]} in {name.locate(0)}"
    name.refuse(values, ~same, f"times in one unit throughout, and {first} has another")


def _begin_with_day_or_month(numbers: pl.Series) -> bool:
    """Return whether all integers are dates such as 31122019 or 12312019, whose order is not that of the dates."""
    low, high = numbers.min(), numbers.max()
    if not (isinstance(low, int) and isinstance(high, int) and low > 1_01_0000 and high < 32_00_0000):
        return False
    first, second, year = numbers // 1_000_000, numbers // 10_000 % 100, numbers % 10_000
    if (numbers // 10_000).n_unique() == 1 or not year.is_between(*DATE_YEARS).all():
        return False
    orders = ((first, second), (second, first))
    return any(bool((day.is_between(1, 31) & month.is_between(1, 12)).all()) for day, month in orders)


def _check_floats(values: pl.Series, name: ColumnName) -> pl.Series:
    """Return finite floats as integers that ascend as they do.

    Raises:
        DataError: a float is not finite, or is one that another number may have been rounded to.
    """
    name.refuse(values, ~values.is_finite(), EXPECTED_TIMES)
    limit = 2 ** (np.finfo(values.head(0).to_numpy().dtype).nmant + 1)
    rounded = ~values.is_between(-limit, limit, closed="none")
    if values.dtype != pl.Float64:
        rounded |= values != values.round()
    expected = "integers, dates or Float64" if values.dtype != pl.Float64 else "integers or dates"
    name.refuse(
        values,
        rounded,
        f"{expected}, since a {values.dtype} holds whole numbers exactly only up to {limit} and others less",
    )
    _refuse_other_unit(values, values, name)
    return to_integers(values)


def to_integers(values: pl.Series) -> pl.Series:
    """Return checked times that are integers, floats or dates as Int64 in the same order."""
    if values.dtype.is_float():
        bits = (values.cast(pl.Float64) + 0.0).to_numpy().view(np.int64)  # + 0.0 makes -0.0 equal 0.0
        return pl.Series(np.where(bits < 0, bits ^ np.int64(2**63 - 1), bits))
    if values.dtype == pl.Date:
        values = values.cast(pl.Datetime("us"))
    return values.to_physical().cast(pl.Int64)


def _check_numbers(values: pl.Series, name: ColumnName) -> pl.Series:
    """Return times of text, of which most are numbers, as Int64: all of them must be."""
    text = values.str.strip_chars()
    integers = text.cast(pl.Int64, strict=False)
    if not integers.has_nulls():
        return _check_integers(integers, name)
    floats = text.cast(pl.Float64, strict=False)
    name.refuse(values, ~floats.is_finite().fill_null(value=False), "a number, as in the rows before")
    _refuse_rounded_text(values, text, floats, name)
    digits = text.str.replace(r"[eE].*$", "").str.replace_all(r"[^0-9]", "").str.strip_chars_start("0")
    if bool((digits.str.len_bytes() <= _MOST_DIGITS).all()):
        return _check_floats(floats, name)
    precision, scale = _DECIMAL
    fraction = text.str.extract(r"\.(\d*[1-9])").str.len_bytes().fill_null(0)
    held = (fraction <= scale) & (floats.abs() < 2.0**63) & ~text.str.contains("[eE]")
    name.refuse(values, ~held, f"{EXPECTED_TIMES}, below 2**63 and with at most {scale} digits behind the point")
    return _ranks(text.cast(pl.Decimal(precision, scale)))


def _refuse_rounded_text(values: pl.Series, text: pl.Series, floats: pl.Series, name: ColumnName) -> None:
    """Raise a DataError for equal numbers with an exponent that leaves out digits, as spreadsheets write them."""
    exponent = text.str.extract(r"[eE]\+?(\d{1,3})$").cast(pl.Int64)
    if exponent.null_count() == len(exponent):
        return
    shown = text.str.extract(r"\.(\d+)[eE]").str.len_bytes().fill_null(0).cast(pl.Int64)
    is_rounded = (exponent > shown).fill_null(value=False) & floats.is_duplicated()
    name.refuse(values, is_rounded, "all digits of a time, since different times are rounded to one here")


def _ranks(values: pl.Series) -> pl.Series:
    """Return for each value how many distinct values are below it."""
    return values.rank("dense").cast(pl.Int64)


def _as_text(values: pl.Series, name: ColumnName, given: DateFormat) -> pl.Series:
    """Return dates that a format is given for as text; leading zeros that a column of integers has lost are added.

    Raises:
        DataError: the column holds neither text nor whole numbers, so that it has no format.
    """
    if values.dtype == pl.String:
        return values
    if values.dtype.is_float():
        values = _whole_numbers(values)
    if not values.dtype.is_integer():
        raise name.wrong_dtype(values, f"text beside {given}")
    parts = re.findall("%.", given.time_format or "")
    is_fixed = "".join(parts) == given.time_format and all(part in _FIXED_WIDTHS for part in parts)
    return values.cast(pl.String).str.zfill(sum(_FIXED_WIDTHS[part] for part in parts) if is_fixed else 0)


def _without_zeros(text: pl.Series) -> pl.Series:
    """Return text of whole numbers without the fraction that a missing value elsewhere in the column has left them."""
    return text.str.strip_chars().str.replace(r"\.0+$", "")


def _whole_numbers(floats: pl.Series) -> pl.Series:
    """Return floats as Int64 if all of them are whole and it holds them, and as they are otherwise."""
    numbers = floats.cast(pl.Int64, strict=False)
    return numbers if bool((numbers == floats).fill_null(value=False).all()) else floats


class TimeColumns(NamedTuple):
    """A column of dates and a column of times of day."""

    dates: pl.Series
    clocks: pl.Series
    date_name: ColumnName
    clock_name: ColumnName


def combine_times(columns: TimeColumns, given: DateFormat, hint: str = "name one with time=...") -> pl.Series:
    """Return dates and times of day as one time in nanoseconds or, if none is finer, in microseconds: dates.

    Args:
        columns: M dates and M times of day. Dates are whole days, also as numbers such as 20050402; times of day are
            text such as 23:53 or 11:53:47 PM, numbers such as 2353 or 235347, or of dtype Time or Duration.
        given: what the caller says of the format of dates.
        hint: how to name the column of times, for a message.

    Raises:
        DataError: a value is missing, or the two columns are not of this kind, so that each could be the time.
    """
    dates = _plain(columns.dates, columns.date_name, EXPECTED_TIMES)
    clocks = _plain(columns.clocks, columns.clock_name, EXPECTED_CLOCKS)
    days = _whole_days(dates, columns.date_name, given)
    nanoseconds = _nanoseconds_of_day(clocks)
    if days is None or nanoseconds is None:
        date, clock = columns.date_name.column, columns.clock_name.column
        raise DataError(
            f"{columns.date_name.source}: which column is the time, {date!r:.80} or {clock!r:.80}? They are not a date "
            f"and a time of day; {hint}"
        )
    if bool((nanoseconds % 1000 == 0).all()):
        return (days * (_DAY // 1000) + nanoseconds // 1000).cast(pl.Datetime("us"))
    limit = 2**63 // _DAY - 1
    columns.date_name.refuse(dates, ~days.is_between(-limit, limit), "a year from 1678 to 2261 beside nanoseconds")
    return (days * _DAY + nanoseconds).cast(pl.Datetime("ns"))


def _whole_days(dates: pl.Series, name: ColumnName, given: DateFormat) -> pl.Series | None:
    """Return dates as days since 1970, Int64; None where they are no dates, or have times of day."""
    if dates.dtype.is_float():
        dates = _whole_numbers(dates)
    if given.is_given():
        dates = read_dates(_as_text(dates, name, given), name, given)
    elif dates.dtype.is_integer() or (dates.dtype == pl.String and are_numbers(dates.head(HEAD_ROWS))):
        text = _without_zeros(dates.cast(pl.String))
        dates = text.str.to_datetime("%Y%m%d", strict=False, time_unit="us")
        if dates.has_nulls() or not bool(text.str.contains(r"^[12]\d{7}$").all()):
            return None
    elif dates.dtype == pl.String:
        dates = read_dates(dates, name, given)
    if not dates.dtype.is_temporal() or dates.dtype in (pl.Time, pl.Duration):
        return None
    if dates.dtype == pl.Datetime and bool((dates.dt.time().to_physical() != 0).any()):
        return None
    days = dates.dt.date()
    return days.to_physical().cast(pl.Int64)


def _nanoseconds_of_day(clocks: pl.Series) -> pl.Series | None:
    """Return times of day as nanoseconds, Int64; None where one of them is something else."""
    if clocks.dtype == pl.Duration:
        return _within_day(clocks.dt.total_nanoseconds())
    if clocks.dtype == pl.Time:
        return clocks.to_physical()
    if clocks.dtype == pl.String:
        text = clocks.str.strip_chars()
        if all(is_time_of_day(value) for value in text.head(HEAD_ROWS)):
            return _parse_clocks(text)
        clocks = _without_zeros(text).cast(pl.Int64, strict=False)
    if clocks.dtype.is_float():
        clocks = _whole_numbers(clocks)
    if not clocks.dtype.is_integer() or clocks.has_nulls():
        return None
    return _digits_of_clocks(clocks.cast(pl.Int64))


def _digits_of_clocks(numbers: pl.Series) -> pl.Series | None:
    """Return times of day such as 2353 or 235347 as nanoseconds; None where a number is none."""
    if not bool(numbers.is_between(0, 235_959).all()):
        return None
    for digits in (numbers * 100, numbers):
        hours, minutes, seconds = digits // 10_000, digits // 100 % 100, digits % 100
        if bool(((hours < 24) & (minutes < 60) & (seconds < 60)).all()):
            return ((hours * 60 + minutes) * 60 + seconds) * 10**9
    return None


def _parse_clocks(text: pl.Series) -> pl.Series | None:
    """Return times of day of text, all of one format, as nanoseconds; None where one has another format."""
    dates = "2000-01-01 " + text
    (fmt,) = formats_of(dates[0])
    for candidate in dict.fromkeys((fmt, fmt.replace("%S", "%S%.f") if "%.f" not in fmt else fmt)):
        times = dates.str.to_datetime(candidate, strict=False, time_unit="ns")
        if not times.has_nulls() and not text.str.contains(r"\.\d{9}\d*[1-9]").any():
            return _within_day(times.to_physical() - 946_684_800 * 10**9)
    return None


def _within_day(nanoseconds: pl.Series) -> pl.Series | None:
    """Return the nanoseconds of times of day, or None where one is not within a day."""
    return nanoseconds if bool(nanoseconds.is_between(0, _DAY, closed="left").all()) else None


def check_likely_times(values: pl.Series, name: ColumnName, named: str) -> None:
    """Raise an error for the first value that is taken for a time only since it stands where times usually do.

    Text that is no number is left to :func:`check_times`, which reads it as dates.

    Args:
        values: times.
        name: of their column.
        named: words on how a caller names the column, if there is an argument for it.

    Raises:
        DataError: a value may be a rating, a count or an id.
    """
    numbers = values
    if values.dtype == pl.String:
        if not are_numbers(values.head(HEAD_ROWS)):
            return
        numbers = values.str.strip_chars().cast(pl.Float64, strict=False)
    if numbers.dtype.is_numeric():
        masks = [numbers.is_between(low, high) for low, high in LIKELY_TIMES]
        likely = pl.select(pl.any_horizontal(*masks)).to_series()
        name.refuse(
            values,
            (numbers.is_not_null() & ~likely),
            f"a time such as 1112486027; other numbers need a header that calls the column time{named}",
        )
