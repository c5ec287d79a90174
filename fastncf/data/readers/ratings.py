"""Ratings, by which rows may be left out; they are not read for anything else."""

import numpy as np
import polars as pl

from fastncf.data.readers.checks import ColumnName
from fastncf.data.readers.objects import times_of_objects

EXPECTED_RATINGS = "a rating, which is a number such as 4 or 3.5"


def has_at_least(values: pl.Series, min_rating: float, name: ColumnName) -> pl.Series:
    """Return a mask (n,) of the ratings that are at least some number.

    Args:
        values: (n,) numbers, or text of numbers with a point or a comma.
        min_rating: the least rating; it is rounded as the ratings are where these are narrow floats.
        name: the column in messages.

    Raises:
        DataError: a value is no finite number.
    """
    if values.dtype == pl.Object:
        plain, refused = times_of_objects(values.to_list())
        name.refuse(values, refused, EXPECTED_RATINGS)
        values = plain
    ratings = values
    if values.dtype in (pl.String, pl.Categorical, pl.Enum):
        text = values.cast(pl.String).str.strip_chars().str.replace(r"^([-+]?\d*),(\d+)$", "${1}.${2}")
        ratings = text.cast(pl.Float64, strict=False)
    if not (ratings.dtype.is_numeric() or ratings.dtype == pl.Null):
        raise name.wrong_dtype(values, EXPECTED_RATINGS)
    if ratings.dtype in (pl.Float32, pl.Float16):
        min_rating = float(np.asarray(min_rating, dtype=ratings.head(0).to_numpy().dtype))
    ratings = ratings.cast(pl.Float64, strict=False)
    name.refuse(values, ~ratings.is_finite().fill_null(value=False), EXPECTED_RATINGS)
    return ratings >= min_rating
