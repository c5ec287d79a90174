"""Checks of the values of a column, with errors that name the row of the first bad one."""

from collections.abc import Callable
from dataclasses import dataclass

import polars as pl

from fastncf.data.ids import (
    are_missing_words,
    canonical_ids,
    expected_ids,
    ids_of_objects,
    is_missing_value,
    is_missing_word,
    refused_ids,
    rounded_ids,
)
from fastncf.errors import DataError


def is_missing(values: pl.Series, *, are_ids: bool) -> pl.Series:
    """Return a mask (n,) of the values that are missing: nulls, NaN, and text that is empty or blank.

    So are words such as NULL where other text has a meaning; among ids they may be ids.
    """
    if values.dtype == pl.Object:
        return pl.Series([is_missing_value(value) for value in values], dtype=pl.Boolean)
    missing = values.is_null()
    if values.dtype in (pl.Categorical, pl.Enum):
        values = values.cast(pl.String)
    if values.dtype == pl.String:
        text = values.str.strip_chars()
        missing |= (text == "").fill_null(value=False)
        if not are_ids:
            missing |= are_missing_words(text).fill_null(value=False)
    elif values.dtype.is_float():
        missing |= values.is_nan().fill_null(value=False)
    return missing


def first_true(mask: pl.Series) -> int:
    """Return the number of the first row in which a mask is true."""
    return int(mask.arg_max() or 0)


@dataclass(frozen=True)
class ColumnName:
    """Name and position of a column for the errors about its values.

    Attributes:
        source: name of the source.
        column: name of the column in the source.
        locate: returns in words where a row of the column stands in the source, such as "line 3".
        remedy: end of the messages on missing values.
    """

    source: str
    column: str
    locate: Callable[[int], str]
    remedy: str = ""

    def refuse(self, values: pl.Series, invalid: pl.Series, expected: str) -> None:
        """Raise a DataError for the first row in which the mask ``invalid`` is true, if there is one."""
        if invalid.any():
            raise self.wrong_value(values, first_true(invalid), expected)

    def wrong_value(self, values: pl.Series, row: int, expected: str) -> DataError:
        """Return the error for the value of a row."""
        value = values[row]
        text = str(value).strip()
        state = "is empty" if value is None or (isinstance(value, str) and not value) else f"holds {value!r:.60}"
        expected += self.remedy * (not text or is_missing_word(text))
        return DataError(f"{self.source}: column {self.column!r} {state} in {self.locate(row)}; expected {expected}")

    def wrong_dtype(self, values: pl.Series, expected: str) -> DataError:
        """Return the error for a column whose dtype cannot be used."""
        return DataError(
            f"{self.source}: column {self.column!r} holds values of type {values.dtype!s:.80}; expected {expected}"
        )


def check_ids(values: pl.Series, name: ColumnName) -> pl.Series:
    """Return a column of ids in the form of :func:`~fastncf.data.ids.canonical_ids`, without nulls.

    Raises:
        DataError: an id is missing or blank, or is neither a whole number nor text.
    """
    ids, refused = ids_of_objects(values.to_list()) if values.dtype == pl.Object else (values, refused_ids(values))
    if refused is None:
        raise name.wrong_dtype(values, expected_ids(values.dtype))
    name.refuse(values, refused, expected_ids(values.dtype))
    if (rounded := rounded_ids(ids)) is not None:
        name.refuse(values, rounded, "all digits of an id, of which a spreadsheet has kept the first ones here")
    return canonical_ids(ids)
