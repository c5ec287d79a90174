"""One source, file or frame, to a table: what is read, and for everything else an error that says where and why."""

import datetime as dt
import gzip
import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastncf.data.ids import canonical_dtype
from fastncf.data.readers.table import Table, read_table
from fastncf.errors import DataError, DataNotFoundError, FastNCFError

HEADER = "user,item,rating,time\n"
ROWS = [(1, 2, 4), (5, 6, 8)]
LIVELY = settings(
    deadline=None, max_examples=60, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def write(tmp_path):
    def _write(content: str | bytes, name: str = "ratings.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return _write


def read(source, *, needs_time=True, user=None, item=None, time=None) -> Table:
    return read_table(source, user=user, item=item, time=time, needs_time=needs_time)


def rows(source, **arguments):
    return read(source, **arguments).frame.rows()


def archive(**members: str | bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return buffer.getvalue()


def parquet(frame: pl.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


PLAIN = HEADER + "1,2,3,4\n5,6,7,8\n"


@pytest.mark.parametrize(
    "content",
    [
        pytest.param("1\t2\t3\t4\n5\t6\t7\t8\n", id="u.data"),
        pytest.param("1::2::3::4\n5::6::7::8\n", id="ratings.dat"),
        pytest.param("userId,movieId,rating,timestamp\n1,2,3.5,4\n5,6,7,8\n", id="ratings.csv"),
        pytest.param('"userId","movieId","rating","timestamp"\n"1","2","3.5","4"\n"5","6","7","8"\n', id="quoted"),
        pytest.param("time;Movie ID;USER\n4;2;1\n8;6;5\n", id="other order"),
        pytest.param("user_id:token\titem_id:token\ttimestamp:float\n1\t2\t4\n5\t6\t8\n", id="inter"),
        pytest.param("1|2|3|4\n5|6|7|8", id="bar"),
        pytest.param("1 2 3 4\n5 6 7 8\n", id="space"),
        pytest.param("1, 2, 3, 4\n5, 6, 7, 8\n", id="padded"),
        pytest.param(PLAIN.replace("\n", "\r\n"), id="CRLF"),
        pytest.param(PLAIN.rstrip(), id="no last newline"),
        pytest.param("\ufeff" + PLAIN, id="BOM"),
        pytest.param("\ufeff1\t2\t3\t4\r\n5\t6\t7\t8", id="BOM without header"),
        pytest.param('\ufeff"user","item","time"\n1,2,4\n5,6,8\n', id="BOM before a quote"),
        pytest.param("\n\n" + HEADER + "\n1,2,3,4\n\n\n5,6,7,8\n\n", id="blank lines"),
        pytest.param(("\n" + HEADER + "\n1,2,3,4\n\n5,6,7,8\n\n").replace("\n", "\r\n"), id="blank CRLF lines"),
        pytest.param("\n1::2::3::4\n\n5::6::7::8\n", id="blank lines without header"),
        pytest.param(gzip.compress(PLAIN.encode()), id="gzip"),
        pytest.param(gzip.compress(PLAIN[:22].encode()) + gzip.compress(PLAIN[22:].encode()), id="two gzip members"),
        pytest.param(archive(**{"ml/": "", "ml/ratings.csv": PLAIN, "ml/movies.csv": "movie\n"}), id="zip"),
        pytest.param(archive(**{"a/U.DATA": "1\t2\t3\t4\n5\t6\t7\t8\n", "a/README": "?"}), id="zip, upper case"),
        pytest.param(archive(**{"whatever.txt": PLAIN, "__MACOSX/._whatever.txt": "x"}), id="zip of one file"),
        pytest.param(parquet(pl.DataFrame(ROWS, schema=["user", "item", "time"], orient="row")), id="Parquet"),
    ],
)
def test_formats(write, content):
    path = write(content)
    assert rows(path) == rows(str(path)) == ROWS


def test_found_says_what_was_recognised(write):
    path = write(PLAIN)
    assert read(path).found == {
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


@pytest.mark.parametrize(
    ("ids", "dtype"),
    [
        (["1", "30", "7"], pl.Int64),
        (["-1", "0", "5"], pl.Int64),
        (["9223372036854775807", "-9223372036854775808", "1"], pl.Int64),
        (["18446744073709551615", "1", "2"], pl.String),
        (["99999999999999999999999", "1", "2"], pl.String),
        (["007", "7", "8"], pl.String),
        (["+7", "7", "8"], pl.String),
        (["-0", "0", "8"], pl.String),
        (["1.0", "2.0", "3.0"], pl.String),
        (["a", "B0001", "é"], pl.String),
        (["NULL", "nan", "None"], pl.String),
    ],
)
def test_ids_of_text_files(write, ids, dtype):
    table = read(write("user,item,time\n" + "".join(f"{raw},1,2\n" for raw in ids))).frame
    assert canonical_dtype(table["user"]).dtype == dtype
    assert table["user"].cast(pl.String).to_list() == ids


@pytest.mark.parametrize("large", [2**31, -(2**31) - 1, 2**62])
def test_ids_that_outgrow_32_bits_far_down_the_file(write, large):
    ids = [*range(1500), large]
    table = read(write("user,item,time\n" + "".join(f"{raw},1,2\n" for raw in ids))).frame
    assert table["user"].dtype == pl.Int64
    assert table["user"].to_list() == ids


def test_a_date_of_another_format_far_down_the_file(write):
    lines = ["2005-04-02 23:53:47"] * 1500 + ["2005-04-02T23:53:47"]
    path = write("user,item,time\n" + "".join(f"1,2,{line}\n" for line in lines))
    with pytest.raises(DataError, match=r"'2005-04-02T23:53:47' in line 1502; .* in one format throughout"):
        read(path)


@pytest.mark.parametrize("line", [",1,2", "1,,2"])
def test_a_column_without_any_value(write, line):
    path = write("user,item,time\n" + f"{line}\n" * 3)
    with pytest.raises(DataError, match=r"is empty in line 2; accepted: text"):
        read(path)


def test_quoted_fields(write):
    content = HEADER + '"a,b","x ""q""",3,4\n"c\n\nd",y,7,8\n'
    assert rows(write(content)) == [("a,b", 'x "q"', 4), ("c\n\nd", "y", 8)]


@pytest.mark.parametrize("title", ['12" vinyl', '"Heroes', '"Weird Al" Yankovic', 'a"', "'"])
@pytest.mark.parametrize("place", [2, 3])
def test_stray_quotes_lose_no_row(write, title, place):
    lines = [[str(user), str(item), str(user)] for user in range(3) for item in range(3)]
    for at in (1, 4):
        lines[at].insert(place, title)
    for fields in lines:
        fields[place:place] = [] if len(fields) == 4 else ["title"]
    names = ["user", "item", "time"]
    names.insert(place, "title")
    content = "".join("\t".join(fields) + "\n" for fields in [names, *lines])
    assert rows(write(content)) == [(user, item, user) for user in range(3) for item in range(3)]


def test_quotes_first_seen_after_the_head(write):
    content = "user,title,item,time\n" + "1,x,2,3\n" * 20_000
    assert rows(write(content + '4,"a,5,6",7,8\n'))[-1] == (4, 7, 8)
    content = "user,item,time\n" + "a,x,3\n" * 20_000
    assert rows(write(content + '"b",y,4\n'))[-1] == ("b", "y", 4)


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


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("1112484676", "1112486027"),
        ("999999999999", "1112486027000"),
        ("-5", "3"),
        ("1112484676.25", "1112484676.5"),
        ("-2.5", "-1.5"),
        ("1.1e9", "1.2e9"),
        ("1112484676", "1112484676.25"),
        ("2005-04-02 23:53:47", "2005-04-02 23:53:48"),
        ("2005-04-02T23:53:47", "2005-04-02T23:53:48"),
        ("2005-04-02T23:53:47Z", "2005-04-02T23:53:48Z"),
        ("2005-04-02T23:53:47+02:00", "2005-04-02T23:53:46+01:00"),
        ("2005-04-02 23:53:47-0100", "2005-04-02 23:53:46-0200"),
        ("2005-04-02 23:53:47 UTC", "2005-04-02 23:53:48 UTC"),
        ("2005-04-02 23:53:47", "2005-04-02 23:53:47.5"),
        ("2005-04-02T23:53:47.123Z", "2005-04-02T23:53:47.2Z"),
        ("2005-04-02 23:53", "2005-04-02 23:54"),
        ("2005-04-02", "2005-04-03"),
        ("2005/04/02", "2005/04/03"),
        ("2005/04/02 23:53:47", "2005/04/02 23:53:48"),
        ("20050402", "20050403"),
    ],
)
def test_times_keep_their_order(write, earlier, later):
    frame = pl.DataFrame({"user": [1, 2], "item": [1, 2], "time": [later, earlier]})
    for source in (write(frame.write_csv()), frame, frame.cast({"time": pl.Categorical})):
        table = read(source).frame
        assert table["time"].dtype == pl.Int64
        assert table["time"][0] > table["time"][1]


DAY = dt.datetime(2020, 1, 1)
SECONDS = 1_577_836_800


@pytest.mark.parametrize(
    ("times", "unit"),
    [
        (pl.Series([DAY, DAY], dtype=pl.Datetime("ms")), 10**3),
        (pl.Series([DAY, DAY], dtype=pl.Datetime("us")), 10**6),
        (pl.Series([DAY, DAY], dtype=pl.Datetime("ns")), 10**9),
        (pl.Series([DAY.date(), DAY.date()]), 10**6),
        (pl.Series([DAY, DAY]).dt.replace_time_zone("UTC").dt.convert_time_zone("Asia/Tokyo"), 10**6),
        (pd.Series([DAY, DAY]).dt.as_unit("s"), 10**3),
        (pd.Series([DAY, DAY]).dt.as_unit("ms"), 10**3),
        (pd.Series([DAY, DAY]).dt.as_unit("ns"), 10**9),
        (pd.Series([DAY, DAY]).dt.as_unit("us").dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo"), 10**6),
        (pd.Series([DAY.date(), DAY.date()]), 10**6),
    ],
)
def test_datetimes_of_frames(times, unit):
    frame = pl.DataFrame if isinstance(times, pl.Series) else pd.DataFrame
    assert read(frame({"user": [1, 2], "item": [1, 2], "time": times})).frame["time"].to_list() == [SECONDS * unit] * 2


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


def test_pandas_index_is_not_followed():
    frame = pd.DataFrame({"user": [1, 5], "item": [2, 6], "time": [4, 8]}, index=[7, 7])
    assert rows(frame) == ROWS


def test_lazy_frame_reads_used_columns_only():
    frame = pl.LazyFrame({"user": [1, 5], "item": [2, 6], "time": [4, 8], "text": ["x", "y"]})
    assert rows(frame.with_columns(pl.col("text").cast(pl.Int64))) == ROWS


BAD = {
    "empty": (b"", "is empty"),
    "blank": ("\n\n", "holds only blank lines"),
    "BOM only": ("\ufeff", "holds only blank lines"),
    "header only": (HEADER, "holds a header (user, item, rating, time) and no row"),
    "one column": ("user\n1\n2\n", "found no columns in line 1 ('user')"),
    "binary": (b"\x7fELF\0\0\0", "binary file of an unknown kind"),
    "UTF-16": (PLAIN.encode("utf-16"), "is UTF-16"),
    "UTF-16 without mark": (PLAIN.encode("utf-16-le"), "binary file"),
    "latin-1": ((HEADER + "é,2,3,4\n").encode("latin-1"), "line 2 is not UTF-8 text"),
    "CR": (PLAIN.replace("\n", "\r"), r"lines that end in \r alone"),
    "ragged": (HEADER + "1,2,3,4,\n5,6,7,8,\n", "line 1 has 4 fields at ',', line 2 has 5"),
    "missing fields": (
        HEADER + "1,2,3,4\n5,6\n7,8,9,1\n",
        "line 3 has 2 fields; accepted: 4 (user, item,",
    ),
    "missing fields, text": (HEADER + "a,b,3,4\nc\na,b,9,1\n", "line 3 has 1 fields"),
    "missing fields first": (HEADER + "5,6\n" + "1,2,3,4\n" * 3, "line 2 has 2 fields"),
    "too many fields": (HEADER + "1,2,3,4\n5,6,7,8,9\n7,8,9,1\n", "line 3 has 5 fields"),
    "spaces": (HEADER + "1,2,3,4\n   \n5,6,7,8\n", "line 3 has 1 fields"),
    "no id": (HEADER + "1,2,3,4\n,6,7,8\n", "column 'user' is empty in line 3; accepted: an integer"),
    "no text id": (HEADER + "a,2,3,4\n\n,6,7,8\n", "column 'user' is empty in line 4; accepted: text"),
    "no quoted id": (HEADER + 'a,2,3,4\n"",6,7,8\n', "column 'user' is empty in line 3; accepted: integers or text"),
    "nothing": (HEADER + "1,2,3,4\n,,,\n", "column 'user' is empty in line 3"),
    "no time": (HEADER + "1,2,3,4\n5,6,7,\n", "column 'time' is empty in line 3; accepted: a number"),
    "text id": (HEADER + "1,2,3,4\n" * 3 + "x,6,7,8\n", "column 'user' holds 'x' in line 5; accepted: an integer"),
    "text in line 1": (
        "x\t2\t3\t4\n" + "1\t2\t3\t4\n" * 3,
        "column 'column_1' holds 'x' in line 1",
    ),
    "text time": (PLAIN + "1,2,3,x\n", "column 'time' holds 'x' in line 4; accepted: a number"),
    "infinite time": (HEADER + "1,2,3,4.5\n1,2,3,1e999\n", "column 'time' holds inf in line 3; accepted: a number"),
    "no date": (HEADER + "1,2,3,2005-04-02\n1,2,3,2005-13-02\n", "column 'time' holds '2005-13-02' in line 3"),
    "two date formats": (HEADER + "1,2,3,2005-04-02\n1,2,3,2005/04/02\n", "in line 3; accepted: a number such as"),
    "zone names": (
        HEADER + "1,2,3,2005-04-02 23:53:47 EST\n",
        "23:53:47 EST' in line 2",
    ),
    "after a long record": (HEADER + '"a\nb",y,7,8\nc,d,7,x\n', "column 'time' holds 'x' in line 4"),
    "open quote": (HEADER + 'a,b,3,4\n"c,d,5,6\ne,f,7,8\n', "line 3 cannot be split into fields"),
    "text after a quote": (HEADER + '"a"b,b,3,4\n', "line 2 cannot be split into fields"),
    "no user column": ("who,item,time\n1,2,3\n4,5,6\n", "which column is the user? its columns are who, item, time"),
    "two user columns": ("user,item,user,time\n1,2,3,4\n", "which column is the user? 2 are called 'user'"),
    "no time column": ("user,item,rating\n1,2,3\n4,5,6\n", "has no time column (its columns are user, item, rating)"),
    "nameless, no time": ("1,2,3\n4,5,4\n", "choose split='random'"),
    "five nameless": ("1,2,3,4,5\n1,2,3,4,5\n", "has 5 columns and no header"),
    "cut gzip": (gzip.compress(PLAIN.encode())[:-5], "the archive is damaged"),
    "gzip and more": (gzip.compress(PLAIN.encode()) + b"more", "the archive is damaged"),
    "gzip of nothing": (gzip.compress(b""), "holds only blank lines"),
    "cut zip": (archive(**{"ratings.csv": PLAIN})[:-5], "the archive is damaged"),
    "zip of others": (archive(a="1", b="2"), "which of its 2 files holds the ratings?"),
    "zip of two": (archive(**{"x/ratings.csv": PLAIN, "y/ratings.csv": PLAIN}), "which of its 2 files"),
    "zip, bad line": (
        archive(**{"ml/u.data": "1\t2\t3\t4\n5\t6\t7\tx\n1\t2\t3\t4\n"}),
        "(ml/u.data): column",
    ),
    "cut Parquet": (parquet(pl.DataFrame({"user": [1], "item": [2]}))[:-9], "the Parquet file is damaged"),
    "Parquet, no row": (parquet(pl.DataFrame({"user": [], "item": [], "time": []})), "holds no row"),
    "Parquet, null": (parquet(pl.DataFrame({"user": [1, None], "item": [2, 3], "time": [4, 5]})), "is empty in row 2"),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_bad_files(write, content, message):
    path = write(content)
    with pytest.raises(DataError) as error:
        read(path)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x,2,3,4", "column 'user' holds 'x' in line 150002"),
        ("1,,3,4", "column 'item' is empty in line 150002"),
        ("1,2,3,oops", "column 'time' holds 'oops' in line 150002"),
        ("1,2", "line 150002 has 2 fields"),
        ("1,2,3,4,5", "line 150002 has 5 fields"),
        ("1,2,é,4", "line 150002 is not UTF-8 text"),
        ("é,2,3,4", "line 150002 is not UTF-8 text"),
    ],
)
def test_bad_lines_deep_in_a_file(write, line, message):
    content = HEADER + "1,2,3,4\n" * 150_000 + line + "\n1,2,3,4\n"
    with pytest.raises(DataError) as error:
        read(write(content.encode("latin-1")))
    assert message in str(error.value)


def test_fractions_first_seen_after_the_head(write):
    times = read(write(HEADER + "1,2,3,4\n" * 2000 + "1,2,3,4.5\n")).frame["time"]
    assert len(times) == 2001
    assert times[-1] > times[0] == times[-2]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"user": [1, None]}, "column 'user' is empty in row 2; accepted: integers or text"),
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
        ({"time": [1, None]}, "column 'time' is empty in row 2; accepted: a number such as"),
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


def test_duplicated_columns_of_a_pandas_frame():
    frame = pd.DataFrame([[1, 2, 3, 4]], columns=["user", "item", "user", "time"])
    with pytest.raises(DataError, match="which column is the user"):
        read(frame)


@pytest.mark.parametrize("source", [None, 3, {"user": [1]}, np.zeros((2, 3)), pd.Series([1]), pl.Series([1])])
def test_other_sources(source):
    with pytest.raises(DataError, match=r"cannot read interactions from a .* accepted: CSV"):
        read(source)


def test_bad_paths(tmp_path, write):
    path = write(PLAIN)
    for missing in (tmp_path / "nowhere", path / "below"):
        with pytest.raises(DataNotFoundError, match="no such file"):
            read(missing)
    with pytest.raises(DataError, match=r"is a folder \(ratings\.csv\)"):
        read(tmp_path)
    for impossible in ("a" * 5000, "a\0b"):
        with pytest.raises(DataError, match="cannot be read"):
            read(impossible)


def _text(data, columns, separator, *, quote, newline, header):
    def field(value):
        value = str(value)
        if quote or (separator != "::" and any(mark in value for mark in f'"\n{separator}')):
            return '"' + value.replace('"', '""') + '"'
        return value

    lines = [[row[column] for column in columns] for row in data]
    return "".join(separator.join(map(field, line)) + newline for line in ([columns] if header else []) + lines)


INTEGERS = st.integers(-(2**63), 2**63 - 1)
WORDS = st.text(st.sampled_from('abcé_,;|\t "\n'), min_size=1, max_size=6).map(lambda text: "x" + text)
PLAIN_WORDS = st.text(st.sampled_from("abcé_"), min_size=1, max_size=6)


@st.composite
def interactions(draw):
    """Rows, and whether their text needs quotes."""
    words = draw(st.sampled_from([WORDS, PLAIN_WORDS]))
    ids = [draw(st.sampled_from([INTEGERS, words])) for _ in range(2)]
    times = draw(st.sampled_from([INTEGERS, st.integers(8 * 10**8, 2 * 10**9)]))
    data = draw(
        st.lists(
            st.fixed_dictionaries({"user": ids[0], "item": ids[1], "rating": st.integers(1, 5), "time": times}),
            min_size=1,
            max_size=12,
        )
    )
    return data, words is WORDS


@LIVELY
@given(
    interactions(),
    st.permutations(["user", "item", "rating", "time"]),
    st.sampled_from([",", "\t", ";", "|", "::"]),
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_round_trip_of_text(tmp_path, drawn, columns, separator, quote, newline, header, bom, packed, bare_end):
    data, odd = drawn
    if separator == "::":
        quote = False
        if odd:
            separator = ","
    header = header or odd  # without one, a mark in every row can pass for the separator
    if not header:
        columns = ["user", "item", "rating", "time"]
    text = _text(data, columns, separator, quote=quote, newline=newline, header=header)
    content = (("\ufeff" if bom else "") + (text.removesuffix(newline) if bare_end else text)).encode()
    path = tmp_path / "ratings"
    path.write_bytes(gzip.compress(content) if packed else content)
    assert rows(path) == [(row["user"], row["item"], row["time"]) for row in data]


@LIVELY
@given(interactions(), st.permutations(["user", "item", "rating", "time"]))
def test_round_trip_of_frames(tmp_path, drawn, columns):
    data, _ = drawn
    frame = pl.DataFrame(data).select(columns)
    path = tmp_path / "ratings.parquet"
    frame.write_parquet(path)
    expected = [(row["user"], row["item"], row["time"]) for row in data]
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
        assert table.frame.height == table.found["rows"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param("1;2;3,5;88\n4;5;4,5;89\n", [(1, 2, 88), (4, 5, 89)], id="decimal commas"),
        pytest.param("a\x1fb::i::5::3\nc::j::4::6\n", [("a\x1fb", "i", 3), ("c", "j", 6)], id="control character"),
        pytest.param("a\x1cb,\x1c7,5,3\nc,8,4,6\n", [("a\x1cb", "\x1c7", 3), ("c", "8", 6)], id="odd blanks"),
        pytest.param("1,2,881250949,5\n3,4,881250950,1\n", [(1, 2, 881250949), (3, 4, 881250950)], id="time third"),
        pytest.param("user,item,time,note\n1,2,3,\n4,5,6,x\n", [(1, 2, 3), (4, 5, 6)], id="last field empty"),
        pytest.param('"two\nlines",i,5,3\n"b",j,4,6\n', [("two\nlines", "i", 3), ("b", "j", 6)], id="line in a field"),
        pytest.param(
            'user,item,note,time\n"a",1,"two\nlines",3\n\n"b",2,x,6\n', [("a", 1, 3), ("b", 2, 6)], id="line in a note"
        ),
    ],
)
def test_odd_texts(write, content, expected):
    assert rows(write(content)) == expected


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("user,item,time,note\n1,2,3,x\n4,5,6\n", "line 3 has 3 fields; accepted: 4 (user, item, time, note)"),
        ("time,user,item,note\n1,2,3,x\n2,3,x\n9,4,5,x\n", "line 3 has 3 fields"),
        ("1 2 3 88\n4 5  6  89\n7 8 9 99\n", "line 2 has 6 fields; accepted: 4"),
        ("userId,user_id,item,time\n1,2,3,4\n4,5,6,7\n", "which column is the user, 'userId' or 'user_id'? name one"),
        ("user,item,time\n1,2,3\n4,5,6\n\x1c7,8,9\n", "column 'user' holds '\\x1c7' in line 4"),
        ("user,item,time\n1,2,3\n4,5,6\n7,8,9\x1c\n", "column 'time' holds '9\\x1c' in line 4"),
        ("user,item,time\n1,2,3\n4,5,6\n7,8,9 \n", "column 'time' holds '9 ' in line 4"),
        ("user,item,time\n1,2,3\n4,5,6\n٣,8,9\n", "column 'user' holds '٣' in line 4"),
        ('"é";b c";"5";"1"\n"a";"z";"5";"2"\n"07";\na";"5";"3"\n"a";"b";"5";"4"\n', "line 3 has 2 fields"),
        ('user,item,note,time\n"a",1,"x, y",1\nb,2,12" mix,2\nc,3,7" mix,3\nd,4,x,4\n', "line 3 holds a quote that"),
    ],
)
def test_odd_texts_that_are_refused(write, content, message):
    path = write(content)
    with pytest.raises(DataError) as error:
        read(path)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{path}: ")


def test_a_name_that_no_header_holds(write):
    with pytest.raises(DataError, match="has no column 'who' for user=; its columns are person, thing"):
        read(write("person,thing\na,b\nc,d\n"), user="who", item="thing", needs_time=False)


def test_true_is_not_one():
    frame = pd.DataFrame({"user": pd.Series([True, 1, 2], dtype=object), "item": [1, 2, 3], "time": [1, 2, 3]})
    with pytest.raises(DataError, match="column 'user' holds values of type Object"):
        read(frame)


def test_a_short_row_behind_the_head(write):
    lines = [f"{n % 97},{n % 89},{n},x" for n in range(5000)]
    lines[4000] = "3,4,5"
    with pytest.raises(DataError, match="line 4002 has 3 fields; accepted: 4"):
        read(write("user,item,time,note\n" + "\n".join(lines)))
    lines[4000] = "3,4,5,\n"  # an empty note and a blank line
    assert read(write("user,item,time,note\n" + "\n".join(lines))).frame.height == 5000


SOUP = ("\n", "\r\n", " ", "0", "7", "a", "-", ".", "é", "\x1c", "\u2028", "\x0b", ",", "\t", ";", ":", "::", "\x1f")


@LIVELY
@given(
    st.data(), st.sampled_from([",", "\t", ";", "|", " ", "::"]), st.sampled_from([("1", "2", "-4"), ("a", "b", "07")])
)
def test_a_mutated_text_is_read_as_it_stands_or_refused(tmp_path, data, separator, ids):
    """What is accepted has every line that is not blank, and in it the fields that a plain split finds."""
    pairs = data.draw(st.lists(st.tuples(st.sampled_from(ids), st.sampled_from(ids)), min_size=2, max_size=6))
    text = "".join(separator.join([*pair, "5", str(10**9 + at)]) + "\n" for at, pair in enumerate(pairs))
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        text = text[:at] + data.draw(st.sampled_from([separator, *SOUP])) + text[at + data.draw(st.integers(0, 1)) :]
    path = tmp_path / "x"
    path.write_bytes(text.encode())
    try:
        table = read(path)
    except FastNCFError:
        return
    layout = table.found["format"]
    name = layout.partition("separated by '")[2].partition("'")[0]
    split = {"tab": "\t", "space": " "}.get(name, name)
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    fields = [line.split(split) for line in lines if line]
    width = len(fields[0])
    for row in fields:
        assert len(row) >= width
        assert not any(row[width:])  # polars lets an empty field at the end pass
    body = fields[1:] if "with header" in layout else fields
    for at, role in enumerate(("user", "item")):
        whole = table.frame[role].dtype == pl.Int64
        kept = table.frame[role].cast(pl.String).to_list()
        assert kept == [row[at].lstrip(" \t") if whole else row[at] for row in body]
