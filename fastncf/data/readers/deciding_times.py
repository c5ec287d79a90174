"""The rows of a column of times by which its checks decide, so that the column need not be in memory as a whole.

What :func:`~fastncf.data.readers.times.check_times` finds wrong with numbers and dates depends on the first row and on
which kinds of values there are: those in a range of unix times, those that may be a day and a month, and so on. Rows of
the first value of each kind are refused for the same reason, and at the same row, as the whole column.
"""

from collections.abc import Callable
from dataclasses import replace

import polars as pl

from fastncf.data.readers.dates import LIKELY_TIMES
from fastncf.data.readers.parts import Origin
from fastncf.data.readers.times import DATE_YEARS, check_times

_UNIX_TIMES = LIKELY_TIMES[:4]


class DecidingTimes:
    """First times of each kind in a column that is read slice by slice."""

    def __init__(self) -> None:
        self._kinds: set[object] = set()
        self._values: list[pl.Series] = []
        self._places: list[str] = []

    def add(self, values: pl.Series, locate: Callable[[int], str]) -> None:
        """Take the rows of the next slice that decide, if there is any.

        Args:
            values: times of one of the dtypes of :func:`has_kinds`.
            locate: returns in words where a row of the slice stands.
        """
        if not len(values):
            return
        if values.dtype.is_integer() and not values.has_nulls():
            bounds = pl.Series([values.min(), values.max()])
            for low, high in _UNIX_TIMES:
                if bounds.is_between(low, high).all():
                    self._add_row((low, high), values, 0, locate)
                    return
        first = self._values[0] if self._values else values.head(1)
        kinds = _kinds_of(values, first)
        for row in kinds.arg_unique().sort().to_list():
            self._add_row(kinds[row], values, row, locate)

    def _add_row(self, kind: object, values: pl.Series, row: int, locate: Callable[[int], str]) -> None:
        """Take a row if it is the first one of a kind."""
        if kind not in self._kinds:
            self._kinds.add(kind)
            self._values.append(values.slice(row, 1))
            self._places.append(locate(row))

    def check(self, origin: Origin) -> None:
        """Raise the error of :func:`~fastncf.data.readers.times.check_times` for the whole column, if it has one."""
        if self._values:
            integers = all(value.dtype.is_integer() for value in self._values)
            values = [value.cast(pl.Int128) if integers else value for value in self._values]
            check_times(pl.concat(values), replace(origin, locate=self._places.__getitem__).name_column("time"))


def has_kinds(dtype: pl.DataType) -> bool:
    """Return whether times of a dtype can be checked by those that decide: numbers and dates, and no text."""
    return dtype.is_integer() or dtype.is_float() or dtype in (pl.Date, pl.Datetime)


def _kinds_of(values: pl.Series, first: pl.Series) -> pl.Series:
    """Return a number for the kind of each value, (n,) UInt64.

    Args:
        values: times.
        first: the first time of the column, (1,).
    """
    time = pl.col("time")
    flags = [time.is_null()]
    if values.dtype.is_float():
        flags += [time.is_finite(), time == time.round()]
        flags += [time.is_between(-(2.0**bits), 2.0**bits, closed="none") for bits in (11, 24, 53)]
    if values.dtype.is_numeric():
        flags += [time.is_between(low, high) for low, high in LIKELY_TIMES]
    if values.dtype.is_integer():
        values = values.cast(pl.Int64, strict=False)
        flags += [time.is_null(), time > 1_01_0000, time < 32_00_0000, (time % 10_000).is_between(*DATE_YEARS)]
        flags.append(time // 10_000 == pl.lit(first.cast(pl.Int64, strict=False).item()) // 10_000)
        flags += _may_be_day_and_month(time // 1_000_000, time // 10_000 % 100)
        flags.append(time.is_between(1_01_00, 99_12_31))
        two_digits = time // 10_000, time // 100 % 100, time % 100
        flags += [*_may_be_day_and_month(*two_digits[:2]), _are_day_and_month(two_digits[2], two_digits[1])]
    bits = [flag.fill_null(value=False).cast(pl.UInt64) * 2**place for place, flag in enumerate(flags)]
    return pl.DataFrame({"time": values}).select(pl.sum_horizontal(bits)).to_series()


def _may_be_day_and_month(one: pl.Expr, other: pl.Expr) -> list[pl.Expr]:
    """Return whether two numbers may be a day and a month, in this and in the other order."""
    return [_are_day_and_month(one, other), _are_day_and_month(other, one)]


def _are_day_and_month(day: pl.Expr, month: pl.Expr) -> pl.Expr:
    """Return whether two numbers may be a day and a month."""
    return day.is_between(1, 31) & month.is_between(1, 12)
