"""Ids of every dtype."""

import pandas as pd
import polars as pl
import pytest

from fastncf.errors import DataError
from tests.data.readers.conftest import read


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (pl.Series([1, 2], dtype=pl.UInt8), [1, 2]),
        (pl.Series([1, 2], dtype=pl.UInt64), [1, 2]),
        (pl.Series([1, 2**64 - 1], dtype=pl.UInt64), [1, 2**64 - 1]),
        (pl.Series([1, 2**100], dtype=pl.Int128), ["1", str(2**100)]),
        (pl.Series([12.0, -3.0]), [12, -3]),
        (pl.Series(["x", "y"], dtype=pl.Categorical), ["x", "y"]),
        (pl.Series(["x", "y"], dtype=pl.Enum(["y", "x"])), ["x", "y"]),
        (pd.Series([1, 2]), [1, 2]),
        (pd.Series([12.0, 3.0]), [12, 3]),
        (pd.Series([1, 2], dtype="Int64"), [1, 2]),
        (pd.Series([1, 2**64 - 1], dtype="uint64"), [1, 2**64 - 1]),
        (pd.Series([1, 2**70], dtype=object), ["1", str(2**70)]),
        (pd.Series(["x", "é"]), ["x", "é"]),
        (pd.Series(["x", "y"], dtype="string[python]"), ["x", "y"]),
        (pd.Series(["x", "y"], dtype="category"), ["x", "y"]),
        (pd.Series([3, 4], dtype="category"), [3, 4]),
        (pd.Series([1, "y"], dtype=object), ["1", "y"]),
    ],
)
def test_ids_of_frames(ids, expected):
    frame = (pl.DataFrame if isinstance(ids, pl.Series) else pd.DataFrame)({"user": ids, "item": [1, 2]})
    assert read(frame, needs_time=False).frame["user"].to_list() == expected


def test_true_is_not_one():
    frame = pd.DataFrame({"user": pd.Series([True, 1, 2], dtype=object), "item": [1, 2, 3], "time": [1, 2, 3]})
    with pytest.raises(DataError, match="column 'user' holds True in row 1; expected integers or text"):
        read(frame)
