"""Dates as text: one format for all rows of a column, recognised by its first rows and held to all of them."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

import polars as pl

from fastncf.data.ids import is_missing_word
from fastncf.data.readers.checks import ColumnName, first_true
from fastncf.errors import ConfigError, DataError, first_line

HEAD_ROWS = 1000
"""Number of first rows by which the format of the times, and of a text file, is recognised."""

EXPECTED_CLOCKS = "a time of day such as 23:53:47"
EXPECTED_TIMES = "a number such as 1112486027, or a date such as 2005-04-02 23:53:47"


class DateFormat(NamedTuple):
    """Settings for the dates of a column, as a caller gives them.

    Attributes:
        time_format: their format as strftime has it, or None to recognise it.
        dayfirst: whether the day stands before the month, or None to recognise it.
    """

    time_format: str | None = None
    dayfirst: bool | None = None

    def is_given(self) -> bool:
        """Return whether anything is said."""
        return self != DateFormat()

    def __str__(self) -> str:
        return f"dayfirst={self.dayfirst}" if self.time_format is None else f"time_format={self.time_format!r:.80}"


_MONTH = r"[A-Za-z]{3,9}"
_DATES: tuple[tuple[str, tuple[str, ...]], ...] = (
    *((rf"\d{{4}}{mark}\d\d?{mark}\d\d?", (f"%Y{mark[-1]}%m{mark[-1]}%d",)) for mark in ("-", "/", r"\.")),
    *(
        (
            rf"\d\d?{mark}\d\d?{mark}\d{{4}}",
            tuple(f"{order}{mark[-1]}%Y" for order in (f"%d{mark[-1]}%m", f"%m{mark[-1]}%d")),
        )
        for mark in ("-", "/", r"\.")
    ),
    *((rf"\d{{4}}\.{gap}\d\d?\.{gap}\d\d?\.", (f"%Y.{gap}%m.{gap}%d.",)) for gap in ("", " ")),
    (r"\d{4}\. \d\d?\. \d\d?", ("%Y. %m. %d",)),
    (r"\d\d?\. \d\d?\. \d{4}", ("%d. %m. %Y", "%m. %d. %Y")),
    (r"\d\d? \d\d?, \d{4}", ("%d %m, %Y", "%m %d, %Y")),
    *((rf"\d\d?{mark}{_MONTH}{mark}\d{{4}}", (f"%d{mark}%B{mark}%Y",)) for mark in ("-", "/", " ")),
    *((rf"{_MONTH} \d\d?{mark} \d{{4}}", (f"%B %d{mark} %Y",)) for mark in (",", "")),
    (rf"[A-Z][a-z]{{2}}, \d\d? {_MONTH} \d{{4}}", ("%a, %d %B %Y",)),
    (r"[A-Z][a-z]{2} [A-Z][a-z]{2} \d\d? \d\d:\d\d:\d\d [-+]\d{4} \d{4}", ("%a %b %d %H:%M:%S %z %Y",)),
    (r"[A-Z][a-z]{2} [A-Z][a-z]{2} {1,2}\d\d? \d\d:\d\d:\d\d \d{4}", ("%a %b %d %H:%M:%S %Y",)),
    (r"\d{4}年\d\d?月\d\d?日", ("%Y年%m月%d日",)),
    *((rf"\d{{4}}년{gap}\d\d?월{gap}\d\d?일", (f"%Y년{gap}%m월{gap}%d일",)) for gap in ("", " ")),
    (r"\d{8}", ("%Y%m%d",)),
    *((rf"\d{{4}}{mark}\d\d?", (f"%Y{mark}%m",)) for mark in "-/"),
)
"""Shapes of a date and their formats: two where day and month may be exchanged, the day first in the first one."""

_CLOCKS = (
    (r"\d\d?:\d\d", "%H:%M"),
    (r"\d\d?:\d\d:\d\d", "%H:%M:%S"),
    (r"\d\d?:\d\d:\d\d\.\d+", "%H:%M:%S%.f"),
    (r"\d\d?:\d\d ?[AaPp][Mm]", "%I:%M %p"),
    (r"\d\d?:\d\d:\d\d ?[AaPp][Mm]", "%I:%M:%S %p"),
    (r"\d\d?:\d\d:\d\d\.\d+ ?[AaPp][Mm]", "%I:%M:%S%.f %p"),
    (r"\d{6}", "%H%M%S"),
)
_CLOCK = re.compile("|".join(shape for shape, _ in _CLOCKS[:-1]))
_SHAPES = tuple(
    (
        re.compile(
            rf"{date}(?:(?P<joint>T| |, |:)(?P<clock>{'|'.join(shape for shape, _ in _CLOCKS)})"
            r"(?P<zone> ?Z| ?[-+]\d\d:?\d\d| ?[-+]\d\d| UTC| GMT)?)?"
        ),
        formats,
    )
    for date, formats in _DATES
)
_FRACTION = re.compile(r"%\.?[369]?f")
_TWO_DIGIT_YEAR = re.compile(r"\d\d?([-/. ])\d\d?\1\d\d?(?=$|[ T,])")

LIKELY_TIMES = (
    *((3 * 10**8 * unit, 5 * 10**9 * unit) for unit in (1, 10**3, 10**6, 10**9)),  # s, ms, us, ns from 1979 to 2128
    *((1900 * scale, 2101 * scale - 1) for scale in (10**4, 10**8, 10**10)),  # 20050402, and with hours to seconds
)
"""Ranges of the numbers that are times rather than ratings, counts or ids: unix times, and dates as one number."""

_FOUR_DIGITS = (-30_610_224_000_000_000, 253_402_300_799_999_999)  # the years 1000 to 9999 in us since 1970
NANOSECOND_YEARS = (1678, 2261)
"""First and last year of which 64 bits hold all nanoseconds."""


def formats_of(text: str) -> tuple[str, ...]:
    """Return the formats that a date may have: none for other text, two where day and month may be exchanged."""
    for shape, formats in _SHAPES:
        if (match := shape.fullmatch(text)) is None:
            continue
        joint, clock, zone = match["joint"], match["clock"], match["zone"]
        if clock is None:
            return () if formats == ("%Y%m%d",) else formats
        clock_format = next(fmt for clock_shape, fmt in _CLOCKS if re.fullmatch(clock_shape, clock))
        zone_format = "" if zone is None else zone if zone[-1] in "CT" else "%#z"
        return tuple(f"{fmt}{joint}{clock_format}{zone_format}" for fmt in formats)
    return ()


def is_time_of_day(text: str) -> bool:
    """Return whether text is a time of day such as 23:53:47 or 9:05 PM."""
    return _CLOCK.fullmatch(text) is not None


def is_date(text: str) -> bool:
    """Return whether text is a date, or one whose year has two digits, which is refused where it is read."""
    stripped = text.strip()
    return bool(formats_of(stripped)) or _TWO_DIGIT_YEAR.match(stripped) is not None


def looks_like_time(text: str) -> bool:
    """Return whether text is a date or a number that no one would take for a rating, a count or an id."""
    try:
        number = float(text)
    except ValueError:
        return is_date(text)
    return any(low <= number <= high for low, high in LIKELY_TIMES)


def common_formats(head: Iterable[str]) -> tuple[str, ...]:
    """Return the formats that most of the first values have, as :func:`formats_of`; none if no value is a date."""
    found = Counter(formats for text in head if (formats := formats_of(text.strip())))
    return max(found, key=lambda formats: found[formats]) if found else ()


def plain_format(head: Iterable[str]) -> str | None:
    """Return the format of most of the first values if it can be read by itself, without a look at the other rows.

    It cannot where day and month may be exchanged, or where fractions of a second may be finer than a microsecond.
    """
    formats = common_formats(head)
    return formats[0] if len(formats) == 1 and "%.f" not in formats[0] else None


def parse_dates(text: pl.Expr, fmt: str) -> pl.Expr:
    """Return an expression of text as dates in microseconds, null where a value is not of the format."""
    return text.str.to_datetime(fmt, strict=False, time_unit="us")


def have_four_digits(dates: pl.Series) -> bool:
    """Return whether the years of all dates in microseconds have four digits: %Y takes fewer."""
    return bool(dates.to_physical().is_between(*_FOUR_DIGITS).all())


def read_dates(values: pl.Series, name: ColumnName, given: DateFormat) -> pl.Series:
    """Return a column of text as dates, in nanoseconds if one of them is finer than a microsecond.

    Args:
        values: text without nulls.
        name: the column in messages.
        given: what the caller says of the format.

    Raises:
        DataError: a date has another format than the others, or the order of day and month cannot be told.
        ConfigError: the given format cannot be used.
    """
    text = values.str.strip_chars()
    time_format = given.time_format
    formats = common_formats(text.head(HEAD_ROWS)) if time_format is None else (_checked_format(time_format),)
    if not formats:
        row = next(row for row, value in enumerate(text) if not formats_of(value))
        raise name.wrong_value(values, row, _expected(text[row], given))
    if given.dayfirst is not None:
        if len(formats) == 1:
            raise name.wrong_value(values, 0, _expected("", given))
        formats = formats[:1] if given.dayfirst else formats[1:]
    readings = [_parse_all(text, fmt) for fmt in formats]
    complete = [reading for reading in readings if not reading[0].has_nulls()]
    if not complete:
        dates = min((dates for dates, _ in readings), key=lambda dates: dates.null_count())
        row = first_true(dates.is_null())
        is_swapped = any(not dates.is_null()[row] for dates, _ in readings)
        expected = "day and month in one order throughout" if is_swapped else _expected(text[row], given)
        if dates.null_count() < len(dates) and not is_missing_word(text[row]):
            other = first_true(dates.is_not_null())
            expected += f"; {name.locate(other)} holds {values[other]!r:.60}"
        raise name.wrong_value(values, row, expected)
    dates, fmt = complete[0]
    if len(complete) > 1 and (differ := dates != complete[1][0]).any():
        row = first_true(differ)
        raise DataError(
            f"{name.source}: column {name.column!r:.80} holds {values[row]!r:.60} in {name.locate(row)}, and no row "
            f"tells day and month apart; expected time_format={formats[0]!r} or time_format={formats[1]!r} "
            f"(or dayfirst=True, dayfirst=False)"
        )
    return _refine(dates, text, fmt, values, name) if _FRACTION.search(fmt) else dates


def _checked_format(time_format: str) -> str:
    """Return a format in the dialect of polars, where %f counts nanoseconds and %.f is a fraction.

    Raises:
        ConfigError: it has a part that would be read wrongly.
    """
    fmt = time_format.replace(".%f", "%.f")
    reasons = {"%f": "which is read behind a point alone", "%Z": "the name of a time zone, which is not read"}
    for part, reason in reasons.items():
        if part in fmt:
            raise ConfigError(
                f"time_format={time_format!r:.80}: has {part}, {reason}; expected one such as '%d.%m.%Y %H:%M:%S.%f'"
            )
    return fmt


def _parse_all(text: pl.Series, fmt: str) -> tuple[pl.Series, str]:
    """Return text as dates in microseconds, null where a value is not of the format, and the format that was used.

    Seconds may have fractions in some rows and none in others.

    Raises:
        ConfigError: the format cannot be used.
    """
    try:
        dates = text.to_frame("text").select(parse_dates(pl.col("text"), fmt)).to_series()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, UnicodeEncodeError) as error:
        reason = first_line(error)
        raise ConfigError(
            f"time_format={fmt!r:.80}: cannot be used ({reason:.150}); expected a format such as '%d.%m.%Y %H:%M:%S'"
        ) from None
    if "%y" not in fmt and not have_four_digits(dates):
        has_four_digits = dates.to_physical().is_between(*_FOUR_DIGITS)
        dates = dates.to_frame("date").select(pl.when(has_four_digits).then(pl.col("date"))).to_series()
    if dates.has_nulls() and "%S" in fmt and "%S%.f" not in fmt:
        return _parse_all(text, fmt.replace("%S", "%S%.f"))
    return dates, fmt


def _refine(dates: pl.Series, text: pl.Series, fmt: str, values: pl.Series, name: ColumnName) -> pl.Series:
    """Return dates in nanoseconds if one of them is finer than a microsecond.

    Raises:
        DataError: a date is finer than a nanosecond, or 64 bits cannot hold its nanoseconds.
    """
    if not text.str.contains(r"\.\d{6}\d*[1-9]").any():
        return dates
    name.refuse(values, text.str.contains(r"\.\d{9}\d*[1-9]"), "a time no finer than a nanosecond")
    first, last = NANOSECOND_YEARS
    name.refuse(values, ~dates.dt.year().is_between(first, last), f"a year from {first} to {last} beside nanoseconds")
    return text.str.to_datetime(fmt, time_unit="ns")


def _expected(text: str, given: DateFormat) -> str:
    """Return in words what is expected in place of a value that is not of the format of the column."""
    if given.time_format is not None:
        return f"a date of the format {given.time_format!r:.80}, with a year of four digits unless it says %y"
    if is_missing_word(text):
        return EXPECTED_TIMES
    if is_time_of_day(text):
        return f"{EXPECTED_TIMES}; a time of day needs a column of dates beside it"
    if _TWO_DIGIT_YEAR.match(text):
        return "a year of four digits, or the format of the column, such as time_format='%d-%m-%y'"
    if given.dayfirst is not None:
        return f"a date such as {'31/12/2019' if given.dayfirst else '12/31/2019'} beside {given}"
    return f"{EXPECTED_TIMES}, in one format throughout, or its format such as time_format='%d.%m.%Y'"
