"""Every dialect gives the same rows, and every mistake gets one clear sentence."""

import datetime
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

import fastncf
from fastncf.errors import ConfigError, DataError, DataNotFoundError, FastNCFError
from fastncf.interactions import Interactions, read_interactions

ROWS = [(7, 30, 4.0, 1112486027), (3, 20, 3.5, 1112484676), (7, 20, 1.0, 1112484819), (12, 30, 5.0, 1112484727)]


def raw(interactions: Interactions) -> list[tuple]:
    """The rows in raw ids with the order of their times."""
    assert interactions.user.dtype == interactions.item.dtype == np.int32
    users, items = interactions.users.decode(interactions.user), interactions.items.decode(interactions.item)
    time = interactions.time
    rank = [None] * len(users) if time is None else np.unique(time, return_inverse=True)[1].tolist()
    return list(zip(users.to_list(), items.to_list(), rank, strict=True))


EXPECTED = [(7, 30, 3), (3, 20, 0), (7, 20, 2), (12, 30, 1)]


def lines(separator: str, header: str = "", end: str = "\n") -> str:
    body = [separator.join(str(field) for field in row) for row in ROWS]
    return end.join([header, *body] if header else body) + end


def kaggle() -> str:
    rows = [
        f'"{u}","{i}","{r}","{datetime.datetime.fromtimestamp(t, datetime.UTC):%Y-%m-%d %H:%M:%S}"'
        for u, i, r, t in ROWS
    ]
    return "\n".join(['"userId","movieId","rating","timestamp"', *rows]) + "\n"


HEADER = "userId,movieId,rating,timestamp"
TEXTS = {
    "u.data": lines("\t"),
    "ratings.dat": lines("::"),
    "ratings.csv": lines(",", HEADER),
    "rating.csv": kaggle(),
    "train.rating": lines("\t"),
    "no header.csv": lines(","),
    "header.tsv": lines("\t", HEADER.replace(",", "\t")),
    "semicolon.csv": lines(";"),
    "bar.csv": lines("|"),
    "space.txt": lines(" "),
    "crlf.csv": lines(",", HEADER, end="\r\n"),
    "crlf.dat": lines("::", end="\r\n"),
    "bom.csv": "\ufeff" + lines(",", HEADER),
    "bom.data": "\ufeff" + lines("\t"),
    "bom.dat": "\ufeff" + lines("::"),
    "no final newline.csv": lines(",", HEADER).rstrip("\n"),
    "no final newline.dat": lines("::").rstrip("\n"),
    "blank lines.csv": lines(",", HEADER).replace("\n", "\n\n"),
    "blank lines.dat": "\n" + lines("::").replace("\n", "\n\n"),
    "blank first.csv": "\n\n" + lines(",", HEADER),
    "spaces.csv": lines(", ", "userId, movieId, rating, timestamp"),
    "recbole.inter": lines("\t", "user_id:token\titem_id:token\trating:float\ttimestamp:float"),
    "case.csv": lines(",", "USER_ID,Movie Id,Rating,Date Time"),
}


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("packed", ["plain", "gzip", "zip"])
def test_every_text_gives_the_same_rows(tmp_path, name, packed):
    content = TEXTS[name].encode()
    path = tmp_path / name
    if packed == "gzip":
        path = tmp_path / f"{name}.gz"
        content = gzip.compress(content)
    elif packed == "zip":
        path = tmp_path / "archive.zip"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(f"folder/{name}", content)
        content = path.read_bytes()
    path.write_bytes(content)
    assert raw(read_interactions(path)) == EXPECTED
    assert raw(read_interactions(str(path))) == EXPECTED


def test_a_movielens_archive_is_taken_as_it_is(tmp_path):
    path = tmp_path / "ml-xs.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("ml-xs/README.txt", "words")
        archive.writestr("ml-xs/links.csv", "movieId,imdbId\n1,2\n")
        archive.writestr("ml-xs/ratings.csv", TEXTS["ratings.csv"])
        archive.writestr("__MACOSX/ml-xs/ratings.csv", "junk")
    interactions = read_interactions(path)
    assert raw(interactions) == EXPECTED
    assert interactions.source == f"{path} (ml-xs/ratings.csv)"


def frame() -> pl.DataFrame:
    return pl.DataFrame(ROWS, schema=["userId", "movieId", "rating", "timestamp"], orient="row")


@pytest.mark.parametrize("order", [["timestamp", "movieId", "rating", "userId"], ["movieId", "userId", "timestamp"]])
def test_columns_in_any_order(tmp_path, order):
    data = frame().select(order)
    data.write_csv(tmp_path / "x.csv")
    data.write_parquet(tmp_path / "x.parquet")
    pandas = pd.DataFrame(data.to_dict(as_series=False))
    for source in (tmp_path / "x.csv", tmp_path / "x.parquet", data, data.lazy(), pandas):
        assert raw(read_interactions(source)) == EXPECTED


def test_names_of_other_columns(tmp_path):
    data = frame().rename({"userId": "who", "movieId": "what", "timestamp": "when"})
    data.write_csv(tmp_path / "x.csv")
    data.write_parquet(tmp_path / "x.parquet")
    for source in (tmp_path / "x.csv", tmp_path / "x.parquet", data, pd.DataFrame(data.to_dict(as_series=False))):
        assert raw(read_interactions(source, user="who", item="what", time="when")) == EXPECTED
    (tmp_path / "bare.csv").write_text("\n".join(f"{t},x,{i},9,{u}" for u, i, _, t in ROWS))
    names = {"user": "column_5", "item": "column_3", "time": "column_1"}
    assert raw(read_interactions(tmp_path / "bare.csv", **names)) == EXPECTED


def test_what_was_found_is_told():
    found = read_interactions(frame()).found
    assert found == {
        "source": "the frame",
        "format": "polars frame",
        "columns": {"user": "userId", "item": "movieId", "time": "timestamp"},
        "rows": 4,
    }


@pytest.mark.parametrize(
    ("times", "fits"),
    [
        (["1112486027", "1112484676", "1112484819", "1112484727"], "seconds"),
        (["1112486027123", "1112484676123", "1112484819123", "1112484727123"], "milliseconds"),
        (["1112486027.5", "1112484676", "1112484819.25", "1112484727"], "fractions"),
        (["1112486027", "1112484676", "1112484819.25", "1112484727"], "a late fraction"),
        (["2005-04-02T23:53:47", "2005-04-02T23:31:16", "2005-04-02T23:33:39", "2005-04-02T23:32:07"], "iso"),
        (["2005-04-02T23:53:47Z", "2005-04-02T23:31:16Z", "2005-04-02T23:33:39Z", "2005-04-02T23:32:07Z"], "zulu"),
        (
            [
                "2005-04-02T23:53:47+00:00",
                "2005-04-03T01:31:16+02:00",
                "2005-04-02T23:33:39+00:00",
                "2005-04-02T21:32:07-02:00",
            ],
            "offsets",
        ),
        (["2005-04-02 23:53:47.5", "2005-04-02 23:31:16", "2005-04-02 23:33:39.25", "2005-04-02 23:32:07"], "parts"),
        (["2005-04-05", "2005-04-02", "2005-04-04", "2005-04-03"], "dates"),
        (["-5", "-100", "-20", "-50"], "negative"),
        (["-5.5", "-100.25", "-20.0", "-50.5"], "negative fractions"),
    ],
)
def test_times_keep_their_order(tmp_path, times, fits):
    path = tmp_path / "x.csv"
    path.write_text("user,item,time\n" + "".join(f"{u},{i},{t}\n" for (u, i, *_), t in zip(ROWS, times, strict=True)))
    assert raw(read_interactions(path)) == EXPECTED, fits


@pytest.mark.parametrize("zone", [None, "UTC", "Europe/Berlin"])
def test_frames_with_dates(tmp_path, zone):
    times = pd.to_datetime([t for *_, t in ROWS], unit="s")
    if zone:
        times = times.tz_localize("UTC").tz_convert(zone)
    pandas = pd.DataFrame({"user": [r[0] for r in ROWS], "item": [r[1] for r in ROWS], "time": times})
    assert raw(read_interactions(pandas)) == EXPECTED
    polars = frame().select(user="userId", item="movieId", time=pl.from_epoch("timestamp").dt.replace_time_zone(zone))
    polars.write_parquet(tmp_path / "x.parquet")
    assert raw(read_interactions(polars)) == EXPECTED
    assert raw(read_interactions(tmp_path / "x.parquet")) == EXPECTED


@pytest.mark.parametrize(
    ("users", "kept"),
    [
        (["ann", "bob", "ann", "Zoë"], None),
        (["007", "7", "007", "08"], None),
        (["7", "3", "7", "99999999999999999999"], ["7", "3", "7", "99999999999999999999"]),
        (["-7", "3", "-7", "0"], [-7, 3, -7, 0]),
        (["a,b", 'say "hi"', "a,b", "x y"], None),
        ([str(2**59), "3", str(2**59), "-5"], [2**59, 3, 2**59, -5]),
    ],
)
def test_ids_are_kept_as_they_are(tmp_path, users, kept):
    data = pl.DataFrame({"user": users, "item": [1, 2, 3, 1], "time": [1, 2, 3, 4]})
    data.write_csv(tmp_path / "x.csv")
    kept = kept or users
    if kept[3] == "99999999999999999999":  # most of the head are integers: text among them is an error, not a guess
        with pytest.raises(DataError, match=r"'99999999999999999999' in line 5"):
            read_interactions(tmp_path / "x.csv")
    else:
        assert [row[0] for row in raw(read_interactions(tmp_path / "x.csv"))] == kept
    assert [row[0] for row in raw(read_interactions(data))] == users


@pytest.mark.parametrize("dtype", [pl.UInt8, pl.Int16, pl.UInt64, pl.String, pl.Categorical])
def test_id_types_of_frames(dtype):
    data = pl.DataFrame({"user": ["7", "3", "7"], "item": ["1", "2", "3"], "time": [1, 2, 3]})
    if dtype != pl.Categorical and dtype != pl.String:
        data = data.with_columns(pl.col("user").cast(pl.Int64))
    interactions = read_interactions(data.with_columns(pl.col("user").cast(dtype)))
    assert [str(row[0]) for row in raw(interactions)] == ["7", "3", "7"]


def test_unsigned_ids_beyond_int64():
    big = 2**64 - 2
    data = pl.DataFrame({"user": pl.Series([big, 3, big], dtype=pl.UInt64), "item": [1, 2, 3], "time": [1, 2, 3]})
    assert [row[0] for row in raw(read_interactions(data))] == [big, 3, big]


def test_pandas_oddities():
    data = pd.DataFrame({"user": ["a", "b", "a"], "item": [1.0, 2.0, 3.0], "time": [1, 2, 3]}, index=[9, 9, 4])
    assert raw(read_interactions(data)) == [("a", 1, 0), ("b", 2, 1), ("a", 3, 2)]
    categorical = data.astype({"user": "category", "item": "Int64"})
    assert raw(read_interactions(categorical)) == [("a", 1, 0), ("b", 2, 1), ("a", 3, 2)]
    with pytest.raises(DataError, match="column 'item' has no id in row 2"):
        read_interactions(data.assign(item=[1.0, None, 3.0]))
    with pytest.raises(DataError, match="column 'user' has no id in row 3"):
        read_interactions(data.assign(user=["a", "b", None]))
    with pytest.raises(DataError, match=r"column 'item' holds 2\.5 in row 2"):
        read_interactions(data.assign(item=[1.0, 2.5, 3.0]))


@pytest.mark.parametrize("ids", [[5, 900_000_000_000, -3], [2**62, -(2**62), 0], [10, 11, 12]])
def test_sparse_and_dense_integer_ids(ids):
    generator = np.random.default_rng(0)
    users = generator.choice(ids, 50)
    data = pl.DataFrame({"user": users, "item": np.arange(50) % 7, "time": np.arange(50)})
    interactions = read_interactions(data)
    assert [row[0] for row in raw(interactions)] == users.tolist()
    assert interactions.users.ids.to_list() == sorted(set(users.tolist()))
    unknown = pl.Series([ids[0], 77, -(2**63), 2**63 - 1])
    assert interactions.users.encode(unknown).tolist()[1:] == [-1, -1, -1]


MISTAKES = {
    "empty": ("", "is empty"),
    "blank": ("\n\n \n", "holds only blank lines"),
    "one column": ("user\n1\n2\n", r"found no columns in line 1 \('user'\)"),
    "header only": (HEADER + "\n", "holds a header .* and no row"),
    "no such role": ("a,b,c\n1,2,3\n3,4,5\n", "which column is the user"),
    "no item": ("user,b,time\n1,2,3\n3,4,5\n", "which column is the item"),
    "no time": ("user,item\n1,2\n3,4\n", "has no time column"),
    "no time, no header": ("1,2\n3,4\n", "has no time column"),
    "ratings are no times": ("1,2,5\n3,4,3\n", "has no time column"),
    "too many columns": ("1,2,3,4,5\n3,4,5,6,7\n", "has 5 columns and no header"),
    "text in time": (
        f"{HEADER}\n1,2,3,4\n1,3,3,5\n2,3,4,soon\n",
        r"column 'timestamp' holds 'soon' in line 4; .*number",
    ),
    "text in user": (f"{HEADER}\n1,2,3,4\n1,3,3,5\nx,3,4,9\n", r"column 'userId' holds 'x' in line 4; .*integer"),
    "bad date": (
        "user,item,time\n1,2,2005-04-02\n1,3,2005-04-03\n2,3,2005-04-31\n",
        "column 'time' holds '2005-04-31' in line 4; .*date",
    ),
    "null user": (f"{HEADER}\n1,2,3,4\n,3,3,5\n2,3,4,6\n", "column 'userId' is empty in line 3|has no id in line 3"),
    "null item": (f"{HEADER}\n1,2,3,4\n1,,3,5\n2,3,4,6\n", "column 'movieId' has no id in line 3"),
    "quoted nothing": ('user,item,time\n"a","x",1\n"","y",2\n"b","x",3\n', "column 'user' has no id in line 3"),
    "null time": (f"{HEADER}\n1,2,3,4\n1,3,3,\n2,3,4,6\n", "column 'timestamp' has no time in line 3"),
    "short row": (f"{HEADER}\n1,2,3,4\n1,3\n2,3,4,6\n", "no time in line 3|line 3 has 2 fields"),
    "long row": (f"{HEADER}\n1,2,3,4\n1,3,3,5,6\n2,3,4,6\n", "line 3 has 5 fields; accepted: 4"),
    "nothing used": (f"{HEADER}\n1,2,3,4\n,,5,\n2,3,4,6\n", "is empty in line 3"),
    "one user": (f"{HEADER}\n1,2,3,4\n1,3,3,5\n", r"column 'userId' holds only one user \(1\)"),
    "one item": (f"{HEADER}\n1,2,3,4\n2,2,3,5\n", r"column 'movieId' holds only one item \(2\)"),
    "binary": ("abc\0def\n", "binary file of an unknown kind"),
    "open quote": ('user,item,time\n"a,x,1\nb,y,2\n', r"line|text"),
}


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_a_mistake_names_file_column_and_line(tmp_path, name, packed):
    content, message = MISTAKES[name]
    path = tmp_path / "bad.csv"
    data = gzip.compress(content.encode()) if packed else content.encode()
    if packed and name == "empty":
        message = "holds only blank lines"
    path.write_bytes(data)
    with pytest.raises(DataError, match=message) as error:
        read_interactions(path)
    assert str(error.value).startswith(str(path))


def test_a_bad_value_deep_in_the_file_is_found_in_its_line(tmp_path):
    rows = [f"{n % 997},{n % 1009},3,{n}" for n in range(150_000)]
    rows[140_000] = "17,oops,3,5"
    rows.insert(70_000, "")
    path = tmp_path / "deep.csv"
    path.write_text("\n".join([HEADER, *rows]))
    with pytest.raises(DataError, match="column 'movieId' holds 'oops' in line 140003"):
        read_interactions(path)
    rows[140_001] = "17,,3,5"
    path.write_text("\n".join([HEADER, *rows]))
    with pytest.raises(DataError, match="column 'movieId' is empty in line 140003"):
        read_interactions(path)
    rows[140_001] = "1,2,3,4"
    path.write_bytes("\n".join(["user,item,rating,time", *rows, "caf\xe9,1,2,3"]).encode("latin-1"))
    with pytest.raises(DataError, match="UTF-8"):
        read_interactions(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(TEXTS["u.data"].encode())[:-9], "damaged"),
        (b"PK\x03\x04" + b"junk" * 20, "damaged"),
        (b"PAR1" + b"junk" * 20, "Parquet file is damaged"),
        (TEXTS["ratings.csv"].encode("utf-16"), "is UTF-16"),
        ("user,item,time\ncafé,1,2\nb,2,3\n".encode("latin-1"), "line 2 is not UTF-8"),
    ],
)
def test_damaged_files(tmp_path, content, message):
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_interactions(path)


def test_archives_that_cannot_be_taken(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.csv", "x")
        archive.writestr("b.csv", "x")
    with pytest.raises(DataError, match=r"which of its 2 files holds the ratings\? .*found a\.csv, b\.csv"):
        read_interactions(path)


def test_no_file_or_a_folder(tmp_path):
    with pytest.raises(DataNotFoundError, match="no such file"):
        read_interactions(tmp_path / "nothing.csv")
    (tmp_path / "ratings.csv").write_text("x")
    with pytest.raises(DataError, match=r"is a folder \(ratings\.csv\)"):
        read_interactions(tmp_path)
    with pytest.raises(DataError, match="from a list"):
        read_interactions([1, 2])


@pytest.mark.parametrize("kind", ["polars", "pandas", "csv", "parquet"])
def test_wrong_names(tmp_path, kind):
    data = frame()
    source = {"polars": data, "pandas": pd.DataFrame(data.to_dict(as_series=False))}.get(kind, tmp_path / f"x.{kind}")
    if kind == "csv":
        data.write_csv(source)
    elif kind == "parquet":
        data.write_parquet(source)
    with pytest.raises(DataError, match="has no column 'nobody' for user=; its columns are userId, movieId"):
        read_interactions(source, user="nobody")
    with pytest.raises(DataError, match="one column cannot serve twice"):
        read_interactions(source, user="movieId")


@pytest.mark.parametrize("column", [[True, False, True], [1.5, 2.5, 1.5], [b"a", b"b", b"a"]])
def test_types_that_are_no_ids(column):
    with pytest.raises(DataError, match="column 'user' holds"):
        read_interactions(pl.DataFrame({"user": column, "item": [1, 2, 3], "time": [1, 2, 3]}))


@pytest.mark.parametrize("column", [[True, False, True], [[1], [2], [3]], ["soon", "later", "never"]])
def test_types_that_are_no_times(column):
    with pytest.raises(DataError, match="column 'time' holds"):
        read_interactions(pl.DataFrame({"user": [1, 2, 1], "item": [1, 2, 3], "time": column}))


def test_empty_frames():
    for source in (frame().head(0), pd.DataFrame({"user": [], "item": [], "time": []})):
        with pytest.raises(DataError, match="holds no row"):
            read_interactions(source)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_round_trip_through_every_format(tmp_path, data):
    """Random rows survive any dialect, order of columns, quoting and packing."""
    text = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=5)
    ids = data.draw(st.sampled_from([st.integers(-(10**17), 10**17), text.map("_".__add__)]))
    size = data.draw(st.integers(2, 12))
    users = data.draw(st.lists(ids, min_size=size, max_size=size).filter(lambda x: len(set(x)) > 1))
    items = data.draw(st.lists(ids, min_size=size, max_size=size).filter(lambda x: len(set(x)) > 1))
    times = data.draw(st.lists(st.integers(10**9, 2 * 10**9), min_size=size, max_size=size))
    table = pl.DataFrame({"user": users, "item": items, "time": times})
    table = table.select(data.draw(st.permutations(table.columns)))
    expected = raw(read_interactions(table))
    buffer = io.BytesIO()
    quote = data.draw(st.sampled_from(["always", "necessary"]))
    separator = data.draw(st.sampled_from([",", "\t", ";", "|"]))
    bom = data.draw(st.booleans())
    table.write_csv(
        buffer,
        separator=separator,
        quote_style=quote,
        include_bom=bom,
        line_terminator=data.draw(st.sampled_from(["\n", "\r\n"])),
    )
    content = buffer.getvalue()
    path = tmp_path / "x"
    path.write_bytes(gzip.compress(content) if data.draw(st.booleans()) else content)
    parquet = tmp_path / "x.parquet"
    table.write_parquet(parquet)
    for source in (path, parquet, pd.DataFrame(table.to_dict(as_series=False))):
        assert raw(read_interactions(source)) == expected


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_mutated_files_raise_our_errors_only(tmp_path, data):
    name = data.draw(st.sampled_from(["rating.csv", "ratings.dat", "u.data", "gzip", "zip", "parquet"]))
    if name == "parquet":
        buffer = io.BytesIO()
        frame().write_parquet(buffer)
        content = bytearray(buffer.getvalue())
    elif name == "zip":
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("ratings.csv", TEXTS["ratings.csv"] * 5)
        content = bytearray(buffer.getvalue())
    else:
        content = bytearray(gzip.compress(kaggle().encode()) if name == "gzip" else TEXTS[name].encode())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    path = tmp_path / "x"
    path.write_bytes(bytes(content))
    try:
        interactions = read_interactions(path)
    except FastNCFError:
        return
    assert len(interactions.user) == interactions.found["rows"]


def test_fit_takes_the_path_and_says_what_it_found(tmp_path: Path):
    path = tmp_path / "ratings.csv"
    path.write_text(TEXTS["ratings.csv"] + "7,30,1,5\n3,40,2,6\n")
    rec = fastncf.fit(path, model="popularity")
    assert rec.found["rows"] == 6
    assert rec.data["interactions"] + rec.data["folded"] == 6
    with pytest.raises(ConfigError, match="keeps 0 of 3 users"):
        fastncf.fit(path, user_fraction=0.1)
