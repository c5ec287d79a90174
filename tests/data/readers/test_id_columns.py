"""Files and frames of ids alone."""

import gzip
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from fastncf.data.readers.id_columns import read_frame, read_id_file
from fastncf.errors import DataError, DataNotFoundError

ITEM, PAIR = ("item",), ("item", "user")


@pytest.mark.parametrize(
    ("text", "roles", "expected"),
    [
        ("5\n7.0\n 12 \n", ITEM, {"item": ["5", "7", "12"]}),
        ("5\r\n\r\n7", ITEM, {"item": ["5", "7"]}),
        ("\ufeffa b\nc\n", ITEM, {"item": ["a b", "c"]}),
        ("item\n5\n", PAIR, {"item": ["5"]}),
        ("id\n5\n", ITEM, {"item": ["5"]}),
        ("id,title\n5,x\n", ITEM, {"item": ["5"]}),
        ('title,movieId\n"x, y",5\n"z\nz",6\n', ITEM, {"item": ["5", "6"]}),
        ("movieId::userId\n5::1\n", PAIR, {"item": ["5"], "user": ["1"]}),
        ("userId;movieId;time\n1;5;9\n", PAIR, {"item": ["5"], "user": ["1"]}),
        ("userId;movieId\n1;5\n", ITEM, {"item": ["5"]}),
        ("1\t5\n2\t6\n", PAIR, {"item": ["5", "6"], "user": ["1", "2"]}),
        ("5|Toy Story\n6|x\n", ITEM, {"item": ["5", "6"]}),
        ("5\n6,7\n", ITEM, {"item": ["5", "6,7"]}),
        ('"5"\n"a ""b"""\n', ITEM, {"item": ["5", 'a "b"']}),
        ('item\n"5"\n"7.0"\n', ITEM, {"item": ["5", "7"]}),
        ('\ufeff{"item":5,"x":1}\n\n{"x":{"y":[]},"item":" 7.0"}\n', ITEM, {"item": ["5", "7"]}),
        ('{"item":1e2,"user":12345678901234567890123}\n', PAIR, {"item": ["100"], "user": ["12345678901234567890123"]}),
    ],
)
def test_texts(tmp_path, text, roles, expected):
    (tmp_path / "ids").write_bytes(text.encode())
    assert read_id_file(tmp_path / "ids", roles).to_dict(as_series=False) == expected
    (tmp_path / "ids.gz").write_bytes(gzip.compress(text.encode()))
    assert read_id_file(tmp_path / "ids.gz", roles).to_dict(as_series=False) == expected


def test_tables(tmp_path):
    frame = pl.DataFrame({"asin": ["b", "a"], "customer_id": [3, 4], "why": [None, "x"]})
    frame.write_parquet(tmp_path / "t.parquet")
    frame.write_ndjson(tmp_path / "t.jsonl")
    frame.select(codes="customer_id").write_parquet(tmp_path / "one.parquet")
    for name in ("t.parquet", "t.jsonl"):
        assert read_id_file(tmp_path / name, PAIR).to_dict(as_series=False) == {"item": ["b", "a"], "user": [3, 4]}
    assert read_id_file(tmp_path / "one.parquet", ITEM)["item"].to_list() == [3, 4]


@pytest.mark.parametrize(
    "make", [pl.DataFrame, pl.LazyFrame, pd.DataFrame, lambda columns: pd.DataFrame(columns).convert_dtypes()]
)
def test_frames(make):
    found = read_frame(make({"item_id": [5, 6], "user": ["a", " 7.0"]}), "exclude", PAIR)
    assert found["item"] == ["5", "6"] if isinstance(found["item"], list) else found["item"].tolist() == [5, 6]
    assert found["user"] == ["a", "7"]
    assert set(read_frame(make({"x": [5]}), "items", ITEM)) == {"item"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"5\n\xff\n", "line 2 is not UTF-8 text; expected UTF-8"),
        (b"user\n5\n", "which column is the item[?] its columns are user; expected one that is called item"),
        (b"\n \n", "holds no id; expected one id per line, or a table"),
        (b"user,item\n1,5\n2\n", "column 'item' is empty in line 3; expected integers or text"),
        (b"user,item\n1,5\n\n2, \n", "column 'item' is empty in line 4; expected integers or text"),
        (b'item,why\n"5,x\n', "line 2 cannot be split into fields"),
        (b"item,movie_id\n1,5\n", "which column is the item, 'item' or 'movie_id'. expected one"),
        (b"PAR1 damaged", "is damaged .*; expected one id per line, or a table"),
        (b"%PDF-1.4", "is a PDF document; expected one id per line"),
        (b"", "is empty; expected one id per line"),
        (b'{"item":"a"}\n\n{"item":true}\n', "column 'item' holds True in line 3; expected integers or text"),
        (b'{"item":"a"}\n{"item":"\\ud83d"}\n', r"column 'item' holds '\\ud83d' in line 2; expected integers or text"),
        (b'{"item":"a"}\n{"user":1}\n', "column 'item' is empty in line 2; expected integers or text"),
        (b'{"item":"a"}\n{"item":\n', "line 2 is not JSON"),
        (b'{"item":[1]}\n', r"column 'item' holds \[1\] in line 1; expected integers or text"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, content, message):
    (tmp_path / "ids").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_id_file(tmp_path / "ids", ITEM)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataNotFoundError, match="nowhere: no such file"):
        read_id_file(tmp_path / "nowhere", ITEM)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pl.DataFrame({"a": [1], "b": [2]}), "exclude: which column is the item[?] its columns are a, b; expected one"),
        (pl.DataFrame({"userId": [1]}), "exclude: which column is the item[?] its columns are userId; expected one"),
        (pl.DataFrame({"item": [1, None]}), "exclude: column 'item' is empty in row 2"),
        (pl.DataFrame({"item": [True]}), "exclude: column 'item' holds True in row 1"),
        (pd.DataFrame({"item": [1.5]}), "exclude: column 'item' holds 1.5 in row 1"),
        (pd.DataFrame({"item": [1, np.nan]}), "exclude: column 'item' is empty in row 2"),
    ],
)
def test_frames_that_cannot_be_used(frame: Any, message):
    with pytest.raises(DataError, match=message):
        read_frame(frame, "exclude", ITEM)


def test_what_has_columns_and_is_no_frame():
    class Odd:
        columns = ("item",)

    with pytest.raises(DataError, match="items: cannot read ids from an Odd; expected a frame or a list of ids"):
        read_frame(Odd(), "items", ITEM)
