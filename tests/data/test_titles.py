"""Titles of items from frames and files."""

import gzip
import io
import zipfile

import pandas as pd
import polars as pl
import pytest

from fastncf.data import named
from fastncf.data.ids import Vocabulary, canonical_ids
from fastncf.data.named import ENVIRONMENT
from fastncf.data.titles import read_titles
from fastncf.errors import DataError, DataNotFoundError
from tests.data.test_named import known

ITEMS = Vocabulary(pl.Series([1, 2, 3, 50], dtype=pl.Int64), "item")
EXPECTED = ["Toy Story (1995)", "Misérables, Les (1995)", None, 'Say "Hi" | (2000)']


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


CSV = 'movieId,title,genres\n1,Toy Story (1995),A|B\n50,"Say ""Hi"" | (2000)",C\n2,"Misérables, Les (1995)",C\n9,No,C\n'
DAT = '1::Toy Story (1995)::A|B\n2::Misérables, Les (1995)::C\n9::No::C\n50::Say "Hi" | (2000)::C\n'
ITEM = '1|Toy Story (1995)|01-Jan-1995||x,y|0\n2|Misérables, Les (1995)|1||z|0\n50|Say "Hi" \xa6 (2000)|1||z|0\n'
FILES = {
    "movies.csv": CSV.encode(),
    "movies.csv with a byte order mark": CSV.encode("utf-8-sig"),
    "movies.csv with Windows line ends": CSV.replace("\n", "\r\n").encode(),
    "movies.csv, gzip": gzip.compress(CSV.encode()),
    "without header": CSV.partition("\n")[2].encode(),
    "other order": 'Name;ID\nToy Story (1995);1\nMisérables, Les (1995);2\n"Say ""Hi"" | (2000)";50\n'.encode(),
    "movies.dat, Latin-1": DAT.encode("latin-1"),
    "movies.dat, UTF-8": DAT.encode(),
    "tabs": 'id\tname\turl\n1\tToy Story (1995)\tx\n2\tMisérables, Les (1995)\ty\n50\tSay "Hi" | (2000)\tz\n'.encode(),
    "archive": zipped(**{"ml/README": b"x", "ml/ratings.csv": b"1,2", "ml/movies.csv": CSV.encode()}),
    "archive of one file": zipped(**{"list": DAT.encode()}),
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES.keys())
def test_files(tmp_path, content):
    path = tmp_path / "titles"
    path.write_bytes(content)
    titles = read_titles(path, ITEMS)
    assert titles.dtype == pl.String
    assert titles.to_list() == EXPECTED
    assert read_titles(str(path), ITEMS).to_list() == EXPECTED


def test_u_item(tmp_path):
    path = tmp_path / "u.item"
    path.write_bytes(ITEM.encode("latin-1"))
    assert read_titles(path, ITEMS).to_list() == [*EXPECTED[:3], 'Say "Hi" \xa6 (2000)']


FRAME = pl.DataFrame({"genre": ["a", "b", "c"], "title": [EXPECTED[0], EXPECTED[1], EXPECTED[3]], "item": [1, 2, 50]})
FRAMES = {
    "polars": FRAME,
    "lazy": FRAME.lazy(),
    "ids as text": FRAME.with_columns(pl.col("item").cast(pl.String)),
    "ids as floats": FRAME.with_columns(pl.col("item").cast(pl.Float64)),
    "categories": FRAME.with_columns(pl.col("title").cast(pl.Categorical)),
    "pandas": pd.DataFrame(FRAME.to_dict(as_series=False)),
    "pandas, mixed": pd.DataFrame(
        {"movie_id": ["1", 2, 3, 50.0], "name": [EXPECTED[0], EXPECTED[1], None, EXPECTED[3]]}
    ),
    "pandas, missing": pd.DataFrame(
        {"id": [1, 2, 3, 50], "title": [EXPECTED[0], EXPECTED[1], float("nan"), EXPECTED[3]]}
    ),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES.keys())
def test_frames(frame):
    assert read_titles(frame, ITEMS).to_list() == EXPECTED


def test_parquet(tmp_path):
    FRAME.write_parquet(tmp_path / "titles.parquet")
    assert read_titles(tmp_path / "titles.parquet", ITEMS).to_list() == EXPECTED


def test_the_name_of_a_data_set(tmp_path, monkeypatch):
    content = FILES["archive"]
    (tmp_path / "ml-1m.zip").write_bytes(content)
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path))
    monkeypatch.setitem(named.DATASETS, "ml-1m", known("ml-1m", content))
    assert read_titles("ml-1m", ITEMS).to_list() == EXPECTED


def test_text_ids():
    items = Vocabulary(canonical_ids(pl.Series(["007", "7", "A"])), "item")
    frame = pl.DataFrame({"item": ["7", " A", "007"], "title": ["seven", " a ", "Bond"]})
    assert read_titles(frame, items).to_list() == ["Bond", "seven", "a"]


def test_equal_titles_twice_are_fine():
    frame = pl.DataFrame({"item": [1, 1, 2], "title": ["a", "a ", ""]})
    assert read_titles(frame, ITEMS).to_list() == ["a", None, None, None]


BAD = {
    "two titles": (b"item,title\n1,a\n2,b\n1,c\n", r"item 1 has a second title in line 4, 'c' after 'a'"),
    "no item of the model": (b"item,title\n7,a\n", r"has a title for none of the 4 items, such as 1; expected an item"),
    "no title": (b"item,genre\n1,a\n", r"which column is the title\? its columns are item, genre"),
    "no item": (b"shelf,title\n1,a\n", r"which column is the item\? its columns are shelf, title"),
    "short row": (b"1::a\n2\n", r"line 2 has 1 field; expected an item and a title"),
    "one column": (b"abc\ndef\n", r"its first line is not divided into fields"),
    "binary": (b"\0\1\2\3,", r"is no text"),
    "quote": (b'item,title\n1,"a\n2,b\n', r"cannot be split into fields"),
    "another encoding": (
        "id;tytuł\n1;Żółw\n".encode("cp1250"),
        r"line 1 is not UTF-8 text; expected UTF-8: convert",
    ),
    "no id": (b"item,title\n1,a\n,b\n", r"column 'item' is empty in line 3"),
    "damaged gzip": (gzip.compress(b"1,a")[:-3], r"is damaged"),
    "damaged zip": (b"PK\x03\x04nothing", r"is damaged"),
    "damaged parquet": (b"PAR1nothing", r"is damaged"),
    "zip of two": (zipped(a=b"1", b=b"2"), r"which of its 2 files holds the titles\?"),
    "empty": (b"", r"is empty"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files(tmp_path, case):
    content, message = BAD[case]
    path = tmp_path / "titles"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_titles(path, ITEMS)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) <= 500


def test_what_is_no_source_of_titles():
    with pytest.raises(DataError, match="cannot read titles from an int"):
        read_titles(5, ITEMS)
    with pytest.raises(DataNotFoundError, match="no such file"):
        read_titles("nowhere.csv", ITEMS)
    with pytest.raises(DataError, match="holds no text"):
        read_titles(pl.DataFrame({"item": [1], "title": [["a"]]}), ITEMS)
