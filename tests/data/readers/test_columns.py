"""Which columns are the user, the item and the time."""

import pandas as pd
import polars as pl
import pytest

from fastncf.errors import DataError
from tests.data.readers.conftest import ROWS, check_refusal, read, rows


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("1,2\n3,4\n", [(1, 2), (3, 4)]),
        ("1,2,5\n3,4,1\n", [(1, 2), (3, 4)]),
        ("1,2,\n3,4,1\n", [(1, 2), (3, 4)]),
        ("1,2,1112486027\n3,4,1112486028\n", [(1, 2, 1112486027), (3, 4, 1112486028)]),
        ("1,2,2005-04-02\n3,4,2005-04-03\n", [(1, 2, 1112400000000000), (3, 4, 1112486400000000)]),
        ("a,b,5,9\nc,d,1,8\n", [("a", "b", 9), ("c", "d", 8)]),
        ("1,2,,9\n3,4,1,8\n", [(1, 2, 9), (3, 4, 8)]),
    ],
)
def test_columns_without_header(write, content, expected):
    assert rows(write(content), needs_time=False) == expected


def test_named_columns(write):
    assert rows(write("who,what,when\n1,2,4\n5,6,8\n"), user="who", item="what", time="when") == ROWS
    swapped = write("2\t1\t3\t4\n6\t5\t7\t8\n")
    assert rows(swapped, user="column_2", item="column_1") == ROWS
    wide = write("4,x,x,2,1\n8,x,x,6,5\n")
    assert rows(wide, user="column_5", item="column_4", time="column_1") == ROWS
    assert rows(pd.DataFrame([[1, 2, 4], [5, 6, 8]]), user=0, item=1, time=2) == ROWS


BAD = {
    "no user column": ("who,item,time\n1,2,3\n4,5,6\n", "which column is the user? its columns are who, item, time"),
    "two user columns": ("user,item,user,time\n1,2,3,4\n", "which column is the user? 2 are called 'user'"),
    "no time column": ("user,item,rating\n1,2,3\n4,5,6\n", "has no time column (its columns are user, item, rating)"),
    "nameless, no time": ("1,2,3\n4,5,4\n", "choose split='random'"),
    "five nameless": ("1,2,3,4,5\n1,2,3,4,5\n", "has 5 columns and no header"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_bad_files(write, content, message):
    check_refusal(write(content), message)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({"user": "who"}, "has no column 'who' for user=; its columns are user, item, time"),
        ({"user": "item"}, "one column cannot serve twice"),
        ({"time": "user"}, "one column cannot serve twice"),
    ],
)
@pytest.mark.parametrize("kind", [pl.DataFrame, pd.DataFrame])
def test_bad_names(kind, names, message):
    with pytest.raises(DataError) as error:
        read(kind({"user": [1, 2], "item": [1, 2], "time": [1, 2]}), **names)
    assert message in str(error.value)


def test_a_name_that_no_header_holds(write):
    with pytest.raises(DataError, match="has no column 'who' for user=; its columns are person, thing"):
        read(write("person,thing\na,b\nc,d\n"), user="who", item="thing", needs_time=False)


def test_duplicated_columns_of_a_pandas_frame():
    frame = pd.DataFrame([[1, 2, 3, 4]], columns=["user", "item", "user", "time"])
    with pytest.raises(DataError, match="which column is the user"):
        read(frame)


@pytest.mark.parametrize("width", [5, 5000])
def test_messages_about_many_columns_end_with_what_is_expected(width):
    with pytest.raises(DataError, match="which column is the user") as error:
        read(pl.DataFrame({f"feature_{i}": [1] for i in range(width)}))
    assert len(str(error.value)) <= 500
    assert str(error.value).endswith("name it with user=..., or call it user or user_id")
