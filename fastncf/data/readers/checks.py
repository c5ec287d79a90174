"""Checks of the values of a column, with errors that name the row of the first bad one."""

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from fastncf.data.ids import categories
from fastncf.errors import DataError

_EXPECTED_IDS = "integers or text"
_SIGNIFICAND_BITS = {"Float16": 11, "Float32": 24, "Float64": 53}
"""A float holds all integers of up to so many bits; larger ones it may have rounded."""


def first_true(mask: pl.Series) -> int:
    """Return the number of the first row in which a mask is true."""
    return int(mask.arg_max() or 0)


@dataclass(frozen=True)
class ColumnName:
    """The name of a column in the errors about its values.

    Attributes:
        source: name of the source.
        column: name of the column in the source.
        locate: returns in words where a row of the column stands in the source, such as "line 3".
    """

    source: str
    column: str
    locate: Callable[[int], str]

    def refuse(self, values: pl.Series, invalid: pl.Series, expected: str) -> None:
        """Raise a DataError for the first row in which the mask ``invalid`` is true, if there is one."""
        if not invalid.any():
            return
        row = first_true(invalid)
        value = values[row]
        state = "is empty" if value is None or value == "" else f"holds {value!r:.60}"
        raise DataError(f"{self.source}: column {self.column!r} {state} in {self.locate(row)}; expected {expected}")

    def wrong_dtype(self, values: pl.Series, expected: str) -> DataError:
        """Return the error for a column whose dtype cannot be used."""
        return DataError(
            f"{self.source}: column {self.column!r} holds values of type {values.dtype!s:.80}; expected {expected}"
        )


def check_ids(values: pl.Series, name: ColumnName) -> pl.Series:
    """Return a column of ids as Int32, Int64, UInt64, Categorical or String, without nulls.

    Integers that neither Int64 nor UInt64 holds become text.

    Raises:
        DataError: an id is missing or empty, or is neither an integer nor text.
    """
    if values.dtype == pl.Enum:
        values = values.cast(pl.String)
    name.refuse(values, values.is_null(), _EXPECTED_IDS)
    if values.dtype == pl.Int32:
        return values
    if isinstance(values.dtype, pl.Categorical):
        if (categories(values) != "").all():
            return values
        values = values.cast(pl.String)
    if values.dtype == pl.String:
        name.refuse(values, values == "", _EXPECTED_IDS)
        return values
    if values.dtype.is_float():
        limit = 2.0 ** _SIGNIFICAND_BITS[str(values.dtype)]
        name.refuse(
            values,
            (values != values.round()) | ~values.is_between(-limit, limit, closed="none"),
            f"{_EXPECTED_IDS}; a {values.dtype} holds integers exactly only up to {limit:.0f}",
        )
    if values.dtype.is_numeric() and not values.dtype.is_decimal():
        for dtype in (pl.Int64, pl.UInt64, pl.String):
            cast = values.cast(dtype, strict=False)
            if not cast.has_nulls():
                return cast
    raise name.wrong_dtype(values, _EXPECTED_IDS)
