"""One source, file or frame, to a table: what is read, and where the rest is refused."""

import datetime as dt
import gzip
import io
import re

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastncf.errors import DataError, FastNCFError
from tests.data.readers.conftest import (
    BARE_ROWS,
    DAY,
    HEADER,
    LIVELY,
    PLAIN,
    ROWS,
    archive,
    canonical,
    check_refusal,
    interactions,
    parquet,
    read,
    rows,
)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("1\t2\t3\t1112486027\n5\t6\t7\t1112486028\n", id="u.data"),
        pytest.param("1::2::3::1112486027\n5::6::7::1112486028\n", id="ratings.dat"),
        pytest.param("userId,movieId,rating,timestamp\n1,2,3.5,4\n5,6,7,8\n", id="ratings.csv"),
        pytest.param('"userId","movieId","rating","timestamp"\n"1","2","3.5","4"\n"5","6","7","8"\n', id="quoted"),
        pytest.param("time;Movie ID;USER\n4;2;1\n8;6;5\n", id="other order"),
        pytest.param("user_id:token\titem_id:token\ttimestamp:float\n1\t2\t4\n5\t6\t8\n", id="inter"),
        pytest.param("1|2|3|1112486027\n5|6|7|1112486028", id="bar"),
        pytest.param("1 2 3 1112486027\n5 6 7 1112486028\n", id="space"),
        pytest.param("1, 2, 3, 1112486027\n5, 6, 7, 1112486028\n", id="padded"),
        pytest.param(PLAIN.replace("\n", "\r\n"), id="CRLF"),
        pytest.param(PLAIN.rstrip(), id="no last newline"),
        pytest.param("\ufeff" + PLAIN, id="BOM"),
        pytest.param("\ufeff1\t2\t3\t1112486027\r\n5\t6\t7\t1112486028", id="BOM without header"),
        pytest.param('\ufeff"user","item","time"\n1,2,4\n5,6,8\n', id="BOM before a quote"),
        pytest.param("\n\n" + HEADER + "\n1,2,3,4\n\n\n5,6,7,8\n\n", id="blank lines"),
        pytest.param(("\n" + HEADER + "\n1,2,3,4\n\n5,6,7,8\n\n").replace("\n", "\r\n"), id="blank CRLF lines"),
        pytest.param("\n1::2::3::1112486027\n\n5::6::7::1112486028\n", id="blank lines without header"),
        pytest.param(gzip.compress(PLAIN.encode()), id="gzip"),
        pytest.param(gzip.compress(PLAIN[:22].encode()) + gzip.compress(PLAIN[22:].encode()), id="two gzip members"),
        pytest.param(archive(**{"ml/": "", "ml/ratings.csv": PLAIN, "ml/movies.csv": "movie\n"}), id="zip"),
        pytest.param(
            archive(**{"a/U.DATA": "1\t2\t3\t1112486027\n5\t6\t7\t1112486028\n", "a/README": "?"}), id="zip, upper case"
        ),
        pytest.param(archive(**{"whatever.txt": PLAIN, "__MACOSX/._whatever.txt": "x"}), id="zip of one file"),
        pytest.param(parquet(pl.DataFrame(ROWS, schema=["user", "item", "time"], orient="row")), id="Parquet"),
    ],
)
def test_formats(write, content):
    path = write(content)
    assert rows(path) == rows(str(path))
    assert rows(path) in (ROWS, BARE_ROWS)


def test_found_says_what_was_recognised(write):
    path = write(PLAIN)
    assert read(path).source_info == {
        "source": str(path),
        "format": "text separated by ',', with header",
        "columns": {"user": "user", "item": "item", "time": "time"},
        "rows": 2,
    }


def test_a_path_is_no_pattern(write):
    other = write(HEADER + "9,9,9,9\n", "1.csv")
    assert rows(write(PLAIN, "[1]*.csv")) == ROWS
    pattern = write(parquet(pl.DataFrame({"user": [1], "item": [2], "time": [3]})), "[1]?csv")
    assert rows(pattern) == [(1, 2, 3)]
    assert other.exists()


def test_pandas_index_is_not_followed():
    frame = pd.DataFrame({"user": [1, 5], "item": [2, 6], "time": [4, 8]}, index=[7, 7])
    assert rows(frame) == ROWS


def test_lazy_frame_reads_used_columns_only():
    frame = pl.LazyFrame({"user": [1, 5], "item": [2, 6], "time": [4, 8], "text": ["x", "y"]})
    assert rows(frame.with_columns(pl.col("text").cast(pl.Int64))) == ROWS


BAD = {
    "cut Parquet": (parquet(pl.DataFrame({"user": [1], "item": [2]}))[:-9], "the Parquet file is damaged"),
    "Parquet, no row": (parquet(pl.DataFrame({"user": [], "item": [], "time": []})), "holds no row"),
    "Parquet, null": (parquet(pl.DataFrame({"user": [1, None], "item": [2, 3], "time": [4, 5]})), "is empty in row 2"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_bad_files(write, content, message):
    check_refusal(write(content), message)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"user": [1, None]}, "column 'user' is empty in row 2; expected integers or text"),
        ({"user": ["a", None]}, "column 'user' is empty in row 2"),
        ({"item": ["a", ""]}, "column 'item' is empty in row 2"),
        ({"user": [1.0, 2.5]}, "column 'user' holds 2.5 in row 2"),
        ({"user": [1.0, float("nan")]}, "column 'user'"),
        ({"user": [float("inf"), 1.0]}, "column 'user' holds inf in row 1"),
        ({"user": [2.0**53, 1.0]}, "column 'user' holds 9007199254740992.0 in row 1"),
        ({"user": np.array([2**24, 1], dtype=np.float32)}, "column 'user' holds 16777216.0 in row 1"),
        ({"user": [True, False]}, "column 'user' holds values of type Boolean"),
        ({"user": [b"1", b"2"]}, "column 'user' holds values of type Binary"),
        ({"user": [[1], [2]]}, "column 'user' holds values of type List"),
        ({"user": [DAY, DAY]}, "column 'user' holds values of type Datetime"),
        ({"time": [1, None]}, "column 'time' is empty in row 2; expected a number such as"),
        ({"time": [1.0, float("inf")]}, "column 'time' holds inf in row 2"),
        ({"time": ["2005-04-02", ""]}, "column 'time' is empty in row 2"),
        ({"time": ["1", "2", "x"], "user": [1, 2, 3], "item": [1, 2, 3]}, "column 'time' holds 'x' in row 3"),
        ({"time": [dt.timedelta(1)] * 2}, "column 'time' holds values of type Duration"),
        ({"time": np.array([1, 2**64 - 1], dtype=np.uint64)}, "column 'time' holds 18446744073709551615 in row 2"),
        ({"user": [], "item": [], "time": []}, "holds no row"),
    ],
)
@pytest.mark.parametrize("kind", [pl.DataFrame, pl.LazyFrame, pd.DataFrame])
def test_bad_frames(kind, changed, message):
    with pytest.raises(DataError) as error:
        read(kind({"user": [1, 2], "item": [1, 2], "time": [1, 2], **changed}))
    assert str(error.value).startswith("the frame: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    "lazy",
    [
        pl.LazyFrame({"user": ["x"], "item": [1], "time": [1]}).with_columns(pl.col("user").cast(pl.Int64)),
        pl.LazyFrame({"user": [1]}).select("item"),
        pl.scan_parquet("nowhere.parquet"),
    ],
)
def test_lazy_frame_that_cannot_be_computed(lazy):
    with pytest.raises(DataError, match="the frame: cannot be computed"):
        read(lazy)


@pytest.mark.parametrize("source", [None, 3, {"user": [1]}, np.zeros((2, 3)), pd.Series([1]), pl.Series([1])])
def test_other_sources(source):
    with pytest.raises(DataError, match=r"cannot read interactions from an? .* expected CSV"):
        read(source)


class Stream:
    """A table of another library, which hands over its columns as a stream of Arrow."""

    def __arrow_c_stream__(self, requested_schema=None):
        """Return the columns of a frame."""
        return PAIRS.__arrow_c_stream__(requested_schema)


PAIRS = pl.DataFrame({"user": [1, 1, 2], "item": [5, 6, 5]})


class Sparse:
    """What tells a sparse matrix of SciPy."""

    tocoo = None

    def nonzero(self):
        """Return the rows and the columns of the entries."""
        return PAIRS["user"].to_numpy(), PAIRS["item"].to_numpy()


IN_MEMORY = {
    "frames of polars": [PAIRS[:1], PAIRS[1:]],
    "frames of pandas": [pd.DataFrame(PAIRS.to_dict(as_series=False))],
    "dicts": PAIRS.to_dicts(),
    "a dict": PAIRS.to_dict(as_series=False),
    "a sparse matrix": Sparse(),
    "an open file": io.StringIO(PAIRS.write_csv()),
    "Arrow": Stream(),
    "rows": [(1, 5, 7), (1, 6, 7), (2, 5, 7)],
    "an array": np.array([(1, 5, 7), (1, 6, 7), (2, 5, 7)]),
}


@pytest.mark.parametrize("source", IN_MEMORY.values(), ids=IN_MEMORY.keys())
def test_the_call_that_makes_a_frame_of_an_object(source):
    with pytest.raises(DataError) as error:
        read(source)
    call = re.search(r"pass the frame that (.*) makes$", str(error.value))[1]
    assert len(str(error.value)) <= 500
    made = eval(call, {"polars": pl, "pandas": pd, "ROWS": source})
    assert [row[:2] for row in rows(made, needs_time=False)] == PAIRS.rows()


def test_objects_without_such_a_call():
    for source, kind in (
        ([], "an empty list"),
        ([None], "a list of NoneType objects"),
        ({1, 2}, "a set"),
        (b"", "a bytes"),
    ):
        with pytest.raises(DataError, match=f"cannot read interactions from {kind}; expected [^:]*$"):
            read(source)


def test_the_index_of_a_pandas_frame_is_named():
    frame = pd.DataFrame({"user": [1, 1, 2], "item": [5, 6, 5], "time": [1, 2, 3]})
    for index, listed in (("user", "user"), (["user", "item"], "user, item")):
        with pytest.raises(DataError, match=f"its index is {listed}, of which reset_index\\(\\) makes columns"):
            read(frame.set_index(index))
    with pytest.raises(DataError, match=r"or call it user or user_id$"):
        read(frame[["item", "time"]])


@LIVELY
@given(interactions(), st.permutations(["user", "item", "rating", "time"]))
def test_round_trip_of_frames(tmp_path, drawn, columns):
    data, _ = drawn
    frame = pl.DataFrame(data).select(columns)
    path = tmp_path / "ratings.parquet"
    frame.write_parquet(path)
    expected = [(canonical(row["user"]), canonical(row["item"]), row["time"]) for row in data]
    for source in (frame, frame.lazy(), path, pd.DataFrame(data)[columns]):
        assert rows(source) == expected


FUZZED = {
    "csv": (HEADER + '1,2,3,4\n5,"6",7,8\n7,8,9,10\n').encode(),
    "text": b'user\titem\ttime\na\t"b\tc"\t2005-04-02 23:53:47\nd\te\t2005-04-02 23:53:48\n',
    "dat": b"1::2::3::4\n5::6::7::8\n",
    "gzip": gzip.compress(PLAIN.encode()),
    "zip": archive(**{"ml/ratings.csv": PLAIN, "ml/README": "?"}),
    "parquet": parquet(pl.DataFrame({"user": [1, 2], "item": ["a", "b"], "time": [DAY, DAY]})),
}


@LIVELY
@given(
    st.sampled_from(sorted(FUZZED)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4),
    st.one_of(st.just(1.0), st.floats(0, 1)),
)
def test_mutated_files_raise_nothing_else(tmp_path, name, changes, kept):
    content = bytearray(FUZZED[name])
    for place, value in changes:
        content[int(place * len(content))] = value
    path = tmp_path / "mutated"
    path.write_bytes(content[: int(kept * len(content))])
    try:
        table = read(path)
    except FastNCFError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert not any(column.has_nulls() for column in table.frame)
        assert table.frame.height == table.source_info["rows"]
