"""Columns of numbers beside ids and times: ratings, by which rows may be left out, and weights of the loss."""

import numpy as np
import polars as pl

from fastncf.data.readers.checks import ColumnName
from fastncf.data.readers.objects import times_of_objects

EXPECTED_RATINGS = "a rating, which is a number such as 4 or 3.5"
EXPECTED_WEIGHTS = "a weight, which is a finite number of at least 0, such as a count"


def has_at_least(values: pl.Series, min_rating: float, name: ColumnName) -> pl.Series:
    """Return a mask (n,) of the ratings that are at least some number.

    Args:
        values: (n,) numbers, or text of numbers with a point or a comma.
        min_rating: the least rating; it is rounded as the ratings are where these are narrow floats.
        name: the column in messages.

    Raises:
        DataError: a value is no finite number.
    """
    if values.dtype in (pl.Float32, pl.Float16):
        min_rating = float(np.asarray(min_rating, dtype=values.head(0).to_numpy().dtype))
    return _read_numbers(values, name, EXPECTED_RATINGS) >= min_rating


def check_weights(values: pl.Series, name: ColumnName) -> pl.Series:
    """Return weights as Float64 (n,); see :func:`has_at_least` for the arguments.

    Raises:
        DataError: a value is no finite number of at least 0.
    """
    weights = _read_numbers(values, name, EXPECTED_WEIGHTS)
    name.refuse(values, weights < 0, EXPECTED_WEIGHTS)
    return weights


def _read_numbers(values: pl.Series, name: ColumnName, expected: str) -> pl.Series:
    """Return numbers, or text of numbers with a point or a comma, as Float64 (n,).

    Raises:
        DataError: a value is no finite number.
    """
    if values.dtype == pl.Object:
        plain, refused = times_of_objects(values.to_list())
        name.refuse(values, refused, expected)
        values = plain
    numbers = values
    if values.dtype in (pl.String, pl.Categorical, pl.Enum):
        text = values.cast(pl.String).str.strip_chars().str.replace(r"^([-+]?\d*),(\d+)$", "${1}.${2}")
        numbers = text.cast(pl.Float64, strict=False)
    if not (numbers.dtype.is_numeric() or numbers.dtype == pl.Null):
        raise name.wrong_dtype(values, expected)
    numbers = numbers.cast(pl.Float64, strict=False)
    name.refuse(values, ~numbers.is_finite().fill_null(value=False), expected)
    return numbers
