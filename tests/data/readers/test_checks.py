"""Ids of every dtype."""

import datetime as dt
import re
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest

import fastncf
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
        (pl.Series([Decimal("12.00"), Decimal(3)]), [12, 3]),
        (pl.Series(["7", " 7.0"]), [7, 7]),
        (pl.Series(["x", "7 "], dtype=pl.Categorical), ["x", "7"]),
        (pl.Series([12.0, " 12"], dtype=pl.Object), [12, 12]),
        (pd.Series([12.0, " 12"], dtype=object), [12, 12]),
        (pd.Series([Decimal("12.0"), np.float32(7)], dtype=object), [12, 7]),
        (pd.Series([np.int8(4), np.str_("A")], dtype=object), ["4", "A"]),
        (pd.Series([12.0, "x"], dtype="category"), ["12", "x"]),
    ],
)
def test_ids_of_frames(ids, expected):
    frame = (pl.DataFrame if isinstance(ids, pl.Series) else pd.DataFrame)({"user": ids, "item": [1, 2]})
    assert read(frame, needs_time=False).frame["user"].to_list() == expected


def test_an_object_column_of_several_spellings():
    frame = pd.DataFrame({"user": [1, 2, 1, 2, 3], "item": pd.Series([12.0, "12", "A7", 13.0, "13"], dtype=object)})
    rec = fastncf.fit(frame, split="random", model="popularity")
    assert rec.items.ids.to_list() == ["12", "13", "A7"]


@pytest.mark.parametrize(
    "bad",
    [True, 1.5, 2.0**53, np.float32(2**24), Decimal("1.5"), b"x", dt.date(2020, 1, 1), [5], " ", "a\ud83d"],
    ids=repr,
)
def test_objects_that_are_no_ids(bad):
    message = re.escape(f"column 'item' holds {bad!r} in row 3; expected integers or text")
    values = [7, "7", bad, "x"]
    for items in (pd.Series(values, dtype=object), pl.Series(values, dtype=pl.Object)):
        frame = (pl.DataFrame if isinstance(items, pl.Series) else pd.DataFrame)({"user": [1, 2, 3, 4], "item": items})
        with pytest.raises(DataError, match=message):
            read(frame, needs_time=False)


@pytest.mark.parametrize("kind", [pl.String, pl.Categorical])
def test_blank_ids_are_refused(kind):
    frame = pl.DataFrame({"user": pl.Series(["a", "\t "], dtype=kind), "item": [1, 2]})
    with pytest.raises(DataError, match=r"column 'user' holds '\\t ' in row 2"):
        read(frame, needs_time=False)


def test_fractions_of_decimals_are_refused():
    frame = pl.DataFrame({"user": [Decimal("1.00"), Decimal("1.50")], "item": [1, 2]})
    with pytest.raises(DataError, match=r"column 'user' holds Decimal\('1.50'\) in row 2"):
        read(frame, needs_time=False)


def test_true_is_not_one():
    frame = pd.DataFrame({"user": pd.Series([True, 1, 2], dtype=object), "item": [1, 2, 3], "time": [1, 2, 3]})
    with pytest.raises(DataError, match="column 'user' holds True in row 1; expected integers or text"):
        read(frame)


@pytest.mark.parametrize("role", ["user", "item"])
@pytest.mark.parametrize("rounded", ["4.00638E+12", "1,5E+15", "1E+11"])
def test_ids_that_a_spreadsheet_has_rounded(write, role, rounded):
    values = ["A7", rounded, rounded]
    frame = pl.DataFrame({"user": [1, 1, 2], "item": [1, 2, 1], "time": [1, 2, 3]}).with_columns(
        pl.Series(role, values)
    )
    categories = frame.with_columns(pl.col(role).cast(pl.Categorical))
    for source in (frame, categories, frame.to_pandas(), write(frame.write_csv(separator=";"))):
        with pytest.raises(
            DataError, match=f"column '{role}' holds .* in (row 2|line 3); expected all digits of an id"
        ):
            read(source)


def test_ids_with_an_exponent_that_have_all_their_digits():
    ids = ["1e3", "1E3", "1.2345e+16", "E+12", "12E+05", "1.5E+100", "xE+12"]
    frame = pl.DataFrame({"user": ids, "item": range(7), "time": range(7)})
    assert read(frame).frame["user"].to_list() == ids
