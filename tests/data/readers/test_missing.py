"""Rows that lack a value and are left out."""

import gzip

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fastncf
from fastncf.data.given_files import read_with_test
from fastncf.errors import DataError
from tests.data.readers.conftest import DAY, LIVELY, parquet, read

TEXT = (
    "user,item,rating,time\n1,2,3,2020-01-05\n,3,3,2020-01-06\n4, ,3,2020-01-07\n5,6,,2020-01-08\n7,8,3,\n"
    "\n,,,\n9,1,,2020-01-09\n\n"
)
KEPT = [(1, 2), (5, 6), (9, 1)]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(TEXT, id="plain"),
        pytest.param(TEXT.replace("\n", "\r\n"), id="CRLF"),
        pytest.param(TEXT.rstrip(), id="no last newline"),
        pytest.param(TEXT.replace(",", "::"), id="two colons"),
        pytest.param(TEXT.replace("1,2,3,", '"1",2,"3\n,",'), id="quotes"),
        pytest.param(TEXT.replace(",3,3", ',"",3'), id="empty in quotes"),
        pytest.param(gzip.compress(TEXT.encode()), id="gzip"),
    ],
)
def test_rows_of_texts(write, content):
    path = write(content)
    table = read(path, drop_missing=True)
    assert table.frame.select("user", "item").rows() == KEPT
    assert table.left_out["num_missing"] == 4
    assert table.source_info["rows"] == 3
    with pytest.raises(DataError, match=r"is empty in line .*; drop_missing=True leaves such rows out$"):
        read(path)


def test_lines_are_those_of_the_text(write):
    path = write(TEXT.replace("9,1,,2020-01-09", "9,1,,x"))
    with pytest.raises(DataError, match="column 'time' holds 'x' in line 9"):
        read(path, drop_missing=True)
    path = write('user,item,time\n,,\n1,"a\nb",2\n\n,3,4\n5,6,x\n')
    with pytest.raises(DataError, match="column 'time' holds 'x' in line 7"):
        read(path, drop_missing=True)


FRAMES = {
    "text": ({"user": ["1", None, "5", " "], "item": ["2", "3", "6", "4"]}, 2),
    "integers": ({"user": [1, None, 5, None], "item": [2, 3, 6, 1]}, 2),
    "floats": ({"user": [1.0, float("nan"), 5.0, 3.0], "item": [2, 3, 6, None]}, 2),
    "dates": ({"user": [1, 3, 5, 6], "item": [2, 3, 6, 7], "time": [DAY, None, DAY, None]}, 2),
    "times": ({"user": [1, 3, 5, 6], "item": [2, 3, 6, 7], "time": [1.5, float("nan"), 2.0, None]}, 2),
    "clocks": (
        {
            "user": [1, 3, 5, 6],
            "item": [2, 3, 6, 7],
            "date": [DAY, DAY, DAY, None],
            "time": ["8:00", None, "9:00", "9:00"],
        },
        2,
    ),
}


@pytest.mark.parametrize(("columns", "num_missing"), FRAMES.values(), ids=FRAMES.keys())
def test_rows_of_frames(write, columns, num_missing):
    frame = pl.DataFrame(columns, strict=False)
    for source in (frame, frame.lazy(), pd.DataFrame(columns), write(parquet(frame))):
        table = read(source, needs_time=False, drop_missing=True)
        assert table.left_out["num_missing"] == num_missing
        assert table.frame.select("user", "item").rows() == [(1, 2), (5, 6)]


@pytest.mark.parametrize("missing", [None, float("nan"), np.float32("nan"), pd.NaT, pd.NA, "", " "], ids=repr)
def test_objects(missing):
    users = ["a", missing, 5]
    for column in (pd.Series(users, dtype=object), pl.Series(users, dtype=pl.Object)):
        kind = pd.DataFrame if isinstance(column, pd.Series) else pl.DataFrame
        frame = kind({"user": column, "item": [1, 2, 3]})
        with pytest.raises(DataError, match=r"in row 2; expected .*; drop_missing=True leaves such rows out$"):
            read(frame, needs_time=False)
        table = read(frame, needs_time=False, drop_missing=True)
        assert table.frame.rows() == [("a", 1), ("5", 3)]
        assert table.left_out["num_missing"] == 1


def test_json_lines(write):
    path = write('{"user": 1, "item": 2}\n{"user": null, "item": 3}\n\n{"item": 4}\n{"user": 5, "item": 6.5}\n')
    with pytest.raises(DataError, match=r"column 'item' holds 6.5 in line 5"):
        read(path, needs_time=False, drop_missing=True)


def test_rows_are_those_of_the_frame():
    frame = pl.DataFrame({"user": [1, None, 2, 3], "item": [1, 2, 3, 4], "time": ["1", "2", "3", "x"]})
    with pytest.raises(DataError, match="column 'time' holds 'x' in row 4"):
        read(frame, drop_missing=True)


def test_nothing_is_left(write):
    with pytest.raises(DataError, match=r"holds no row that is not left out \(2 are"):
        read(write("user,item,time\n1,,2\n,,\n"), drop_missing=True)


def test_other_faults_are_refused_all_the_same(write):
    with pytest.raises(DataError, match="line 3 has 2 fields; expected 3"):
        read(write("user,item,time\n1,2,3\n4,5\n"), drop_missing=True)
    with pytest.raises(DataError, match=r"column 'user' holds 1\.5"):
        read(pl.DataFrame({"user": [1.5, None], "item": [1, 2]}), needs_time=False, drop_missing=True)


def test_the_fit_counts_them(write):
    rows = "".join(f"{user},{item},{user + item}\n" for user in range(6) for item in range(8) if (user + item) % 3)
    rec = fastncf.fit(write("user,item,time\n,1,2\n" + rows + "1,,2\n3,3,\n"), model="popularity", drop_missing=True)
    assert rec.data["num_missing"] == 3
    assert fastncf.fit(write("user,item,time\n" + rows), model="popularity").data.get("num_missing") is None


def test_a_test_set(write):
    train = write("user,item\na,x\nb,y\na,\n", "train.csv")
    test = write("user,item\na,y\n,x\n", "test.csv")
    interactions, held_out = read_with_test(train, test, drop_missing=True)
    assert interactions.left_out["num_missing"] == 2
    assert len(held_out.user) == 1


FIELDS = st.sampled_from(["", " ", "7", "ab", "2020"])


@LIVELY
@given(
    st.lists(st.one_of(st.none(), st.tuples(FIELDS, FIELDS, FIELDS, FIELDS)), min_size=1, max_size=12),
    st.sampled_from(["\n", "\r\n"]),
)
def test_a_text_is_read_as_the_rows_that_are_filled(tmp_path, rows, newline):
    """None is a blank line; a row of empty fields is a row."""
    lines = ["user,item,note,time", *("" if row is None else ",".join(row) for row in rows)]
    path = tmp_path / "x.csv"
    path.write_text("".join(line + newline for line in lines), newline="")
    records = [row for row in rows if row is not None]
    kept = [row for row in records if row[0].strip() and row[1].strip() and row[3].strip()]
    numeric = [row for row in kept if row[3] != "ab"]
    try:
        table = read(path, drop_missing=True)
    except DataError as error:
        reason = str(error)
        assert not kept or len(numeric) < len(kept), reason
        if kept:
            number = next(at for at, row in enumerate(rows) if row in kept and row[3] == "ab") + 2
            assert f"in line {number};" in reason or "holds '" in reason
    else:
        assert table.left_out["num_missing"] == len(records) - len(kept)
        assert table.frame.select(pl.col("user", "item").cast(pl.String)).rows() == [row[:2] for row in kept]
