"""Several files that are one source."""

import datetime as dt
import gzip

import polars as pl
import pytest

import fastncf
from fastncf.data.interactions import read_interactions
from fastncf.errors import DataError, DataNotFoundError
from tests.data.readers.conftest import DAY, HEADER, parquet, read, rows


@pytest.fixture
def write_all(tmp_path):
    """Writes files into a folder and returns it."""

    def _write(**contents):
        for name, content in contents.items():
            path = tmp_path / "data" / name.replace("__", "/").replace("_csv", ".csv").replace("_parquet", ".parquet")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path / "data"

    return _write


PARTS = {"a_csv": HEADER + "1,2,3,4\n", "b_csv": HEADER + "5,6,7,8\n9,1,1,5\n"}
ROWS = [(1, 2, 4), (5, 6, 8), (9, 1, 5)]


def test_lists_and_patterns(write_all):
    folder = write_all(**PARTS)
    paths = [folder / "a.csv", folder / "b.csv"]
    for source in (paths, tuple(map(str, paths)), folder / "*.csv", f"{folder}/[ab].csv", f"{folder}/../**/?.csv"):
        table = read(source)
        assert table.frame.rows() == ROWS
        assert table.source_info["rows"] == 3
        assert table.source_info["format"] == "2 files: text separated by ',', with header"
    assert rows(paths[::-1]) == ROWS[1:] + ROWS[:1]
    assert rows([paths[0]]) == ROWS[:1]


def test_folders_of_parquet(write_all):
    frame = pl.DataFrame(ROWS, schema=["user", "item", "time"], orient="row")
    folder = write_all(
        part_1_parquet=parquet(frame[:1]),
        below__part_2_parquet=parquet(frame[1:]),
        empty_parquet=parquet(frame[:0]),
        _metadata_parquet=b"x",
        _tmp__x_parquet=b"x",
        README=b"?",
    )
    assert sorted(rows(folder)) == ROWS
    assert sorted(rows(str(folder))) == ROWS


@pytest.mark.parametrize(
    "source",
    [
        "several",
        "tuple of patterns",
    ],
)
def test_fit(write_all, source):
    lines = [f"{user},{item},{user + item}\n" for user in range(8) for item in range(9) if (user + item) % 3]
    head = "user,item,time\n"
    folder = write_all(
        a_csv=head + "".join(lines[:20]), b_csv=head + "".join(lines[20:]), all_csv=head + "".join(lines)
    )
    paths = [folder / "a.csv", folder / "b.csv"] if source == "several" else str(folder / "[ab].csv")
    one = fastncf.fit(folder / "all.csv", model="popularity")
    assert fastncf.fit(paths, model="popularity").metrics == one.metrics


IDS = {
    "integers and text": (["1,2,4", "x7,6,8"], [("1", 2, 4), ("x7", 6, 8)]),
    "32 and 64 bits": (["1,2,4", f"{2**40},6,8"], [(1, 2, 4), (2**40, 6, 8)]),
    "leading zeros": (["7,2,4", "007,6,8"], [("7", 2, 4), ("007", 6, 8)]),
    "fractions of zeros": (["7,2,4", "7.0,6,8"], [(7, 2, 4), (7, 6, 8)]),
    "categories": (["a,2,4", "b,6,8"], [("a", 2, 4), ("b", 6, 8)]),
    "beyond 64 bits": (["1,2,4", f"{2**64 - 1},6,8"], [(1, 2, 4), (2**64 - 1, 6, 8)]),
}


@pytest.mark.parametrize(("lines", "expected"), IDS.values(), ids=IDS.keys())
def test_ids_are_decided_on_all_files(write_all, lines, expected):
    folder = write_all(**{f"{name}_csv": f"user,item,time\n{line}\n" for name, line in zip("ab", lines, strict=True)})
    assert rows(folder / "*.csv") == expected
    assert rows([folder / "b.csv", folder / "a.csv"]) == expected[::-1]


TIMES = {
    "the order of day and month": ["03/04/2021", "13/04/2021"],
    "fractions": ["1112486027", "1112486027.5"],
    "digits": ["1112486027", "1112486027.123456789"],
    "nanoseconds": ["2020-01-01 00:00:00", "2020-01-01 00:00:00.000000001"],
}


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES.keys())
def test_times_are_decided_on_all_files(write_all, times):
    folder = write_all(
        **{f"{name}_csv": f"user,item,time\n1,2,{time}\n" for name, time in zip("ab", times, strict=True)}
    )
    found = read(folder / "*.csv").frame["time"]
    assert found[0] < found[1]


def test_dates_of_several_types(write_all):
    times = [
        pl.Series([dt.date(2019, 12, 31)]),
        pl.Series([DAY], dtype=pl.Datetime("ms")),
        pl.Series([DAY + dt.timedelta(hours=1)], dtype=pl.Datetime("us")),
        pl.Series([DAY + dt.timedelta(days=1)], dtype=pl.Datetime("ns")),
    ]
    frames = [pl.DataFrame({"user": [1], "item": [2]}).with_columns(time=time) for time in times]
    folder = write_all(**{f"{name}_parquet": parquet(frame) for name, frame in zip("abcd", frames, strict=True)})
    found = read(folder).frame["time"].to_list()
    assert found == sorted(set(found))
    frames[0] = frames[0].with_columns(time=pl.lit(dt.date(9999, 1, 1)))
    folder = write_all(a_parquet=parquet(frames[0]))
    found = read([folder / "a.parquet", folder / "b.parquet"]).frame["time"]
    assert found.cast(pl.Datetime("us")).dt.year().to_list() == [9999, 2020]
    frames[3] = frames[3].with_columns((pl.col("time").cast(pl.Int64) + 1).cast(pl.Datetime("ns")))
    write_all(d_parquet=parquet(frames[3]))
    with pytest.raises(DataError, match="has times finer than 1 us"):
        read(folder)


BAD = {
    "a line of the second file": (
        {"b_csv": HEADER + "1,2,3,x\n"},
        "holds 'x' in line 2 of {}/b.csv",
    ),
    "an id of the second file": ({"b_csv": HEADER + "1,,3,4\n"}, "{}/b.csv: column 'item' is empty in line 2"),
    "other columns": ({"b_csv": "user,item,date\n1,2,3\n"}, "{}/b.csv: has the columns"),
    "no times": ({"b_csv": "user,item\n1,2\n"}, "{}/b.csv: has no time column"),
    "other types": ({"b_csv": HEADER + "1,2,3,2020-01-01\n"}, "expected a number"),
    "no table": ({"b_csv": b"%PDF-1.4"}, "{}/b.csv: is a PDF document"),
    "a header": ({"b_csv": "lietotājs,prece\nann,tea\nbob,tea\n"}, "{}/b.csv: is its first row"),
}


@pytest.mark.parametrize(("changed", "message"), BAD.values(), ids=BAD.keys())
def test_refused_files(write_all, changed, message):
    needs_time = "header" not in message and "first row" not in message
    folder = write_all(**PARTS, **{}) if needs_time else write_all(a_csv="a,x\na,y\n")
    folder = write_all(**changed)
    with pytest.raises(DataError) as error:
        read(folder / "*.csv", needs_time=needs_time)
    assert message.format(folder) in str(error.value)
    assert len(str(error.value)) <= 500


def test_dates_of_one_file_and_numbers_of_the_other(write_all):
    folder = write_all(
        a_parquet=parquet(pl.DataFrame({"user": [1], "item": [2], "time": [DAY]})),
        b_parquet=parquet(pl.DataFrame({"user": [1], "item": [2], "time": [5]})),
    )
    with pytest.raises(DataError, match=r"b\.parquet: column 'time' holds values of type Int64, and in "):
        read(folder)


@pytest.mark.parametrize("source", [[], ["a", 3], [pl.DataFrame()], [None]])
def test_lists_of_something_else(source):
    with pytest.raises(DataError, match="expected a list of paths of files"):
        read(source)


def test_nothing_fits(tmp_path):
    with pytest.raises(DataNotFoundError, match=r"\*\.csv: no such file, and none fits this pattern"):
        read(tmp_path / "*.csv")
    with pytest.raises(DataNotFoundError, match="no such file"):
        read([tmp_path / "a.csv"])
    with pytest.raises(DataError, match="is a folder"):
        read(tmp_path)


def test_missing_values_are_counted_over_all_files(write_all):
    folder = write_all(a_csv=HEADER + "1,2,3,4\n,1,1,1\n", b_csv=gzip.compress((HEADER + "1,,,\n5,6,7,x\n").encode()))
    with pytest.raises(DataError, match=r"holds 'x' in line 3 of .*b\.csv"):
        read(folder / "*.csv", drop_missing=True)
    write_all(b_csv=HEADER + "1,,,\n5,6,7,8\n")
    table = read(folder / "*.csv", drop_missing=True)
    assert table.frame.rows() == ROWS[:2]
    assert table.left_out["num_missing"] == 2


def test_folders_of_hive_partitions_are_columns(tmp_path):
    frame = pl.DataFrame(
        {
            "user": [1, 1, 2, 2, 3],
            "item": [5, 6, 5, 7, 6],
            "timestamp": [10**9, 10**9 + 5, 10**9 + 3, 10**9 + 4, 10**9 + 9],
            "date": ["2024-05-01", "2024-05-02", "2024-05-01", "2024-05-03", "2024-05-02"],
            "shop": ["a b", "a b", "c/d", "c/d", "a b"],
        }
    )
    folder = tmp_path / "orders"
    frame.write_parquet(folder, partition_by=["date", "shop"], mkdir=True)
    found = read_interactions(folder)
    assert found.source_info["columns"] == {"user": "user", "item": "item", "time": "timestamp"}
    assert sorted(found.time) == sorted(frame["timestamp"])
    pattern = str(tmp_path / "orders/date=*/*/*.parquet")
    for source in (folder, pattern):
        by_shop = read_interactions(source, user="shop", time="date")
        assert by_shop.users.ids.to_list() == ["a b", "c/d"]
        assert len(set(by_shop.time)) == 3
    without_times = tmp_path / "plain"
    frame.drop("timestamp").write_parquet(without_times, partition_by="date", mkdir=True)
    assert read_interactions(without_times).source_info["columns"]["time"] == "date"
    with pytest.raises(
        DataError, match=r"has no column 'region' for item=; its columns are user, item, timestamp, date"
    ):
        read_interactions(folder, item="region")
    null = tmp_path / "null" / "day=__HIVE_DEFAULT_PARTITION__"
    null.mkdir(parents=True)
    frame.drop("date").write_parquet(null / "part.parquet")
    with pytest.raises(DataError, match=r"part.parquet: column 'day' is empty in row 1; expected integers or text"):
        read_interactions(null.parent, user="day")
    assert read_interactions(null.parent).source_info["columns"]["time"] == "timestamp"


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "jsonl"])
def test_a_folder_of_texts_of_one_kind(write_all, ending):
    rows = [{"user": n, "item": n % 3, "time": n} for n in range(9)]
    folder = write_all(_SUCCESS=b"")
    for part in range(3):
        frame = pl.DataFrame(rows[3 * part : 3 * part + 3])
        content = frame.write_ndjson() if ending == "jsonl" else frame.write_csv()
        packed = gzip.compress(content.encode()) if ending.endswith("gz") else content.encode()
        (folder / f"part-{part}.{ending}").write_bytes(packed)
    assert read(folder).frame["user"].to_list() == list(range(9))
    (folder / "notes.txt").write_text("about")
    with pytest.raises(DataError, match=r"is a folder \(.*notes\.txt"):
        read(folder)
