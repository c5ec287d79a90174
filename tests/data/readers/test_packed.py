"""Packed files, Feather, and text in other encodings."""

import bz2
import gzip
import io
import lzma
import sys

import polars as pl
import pyarrow as pa
import pytest

from fastncf.data.given_files import read_with_test
from fastncf.data.readers.files import LIMIT_VARIABLE
from fastncf.errors import DataError
from tests.data.readers.conftest import HEADER, PLAIN, ROWS, archive, parquet, read, rows

FRAME = pl.DataFrame(ROWS, schema=["user", "item", "time"], orient="row")


def zstd(content: bytes) -> bytes:
    return pa.compress(content, "zstd", asbytes=True)


def feather(frame: pl.DataFrame, **options) -> bytes:
    buffer = io.BytesIO()
    frame.write_ipc(buffer, **options)
    return buffer.getvalue()


PACKERS = {"bzip2": bz2.compress, "xz": lzma.compress, "zstd": zstd, "gzip": gzip.compress}


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS.keys())
@pytest.mark.parametrize("content", [PLAIN.encode(), parquet(FRAME), feather(FRAME), FRAME.write_ndjson().encode()])
def test_packed_files(write, pack, content):
    assert rows(write(pack(content))) == ROWS


@pytest.mark.parametrize("pack", [bz2.compress, lzma.compress, zstd])
def test_files_of_several_streams(write, pack):
    half = len(PLAIN) // 2
    assert rows(write(pack(PLAIN[:half].encode()) + pack(PLAIN[half:].encode()))) == ROWS


@pytest.mark.parametrize("kind", PACKERS)
def test_damaged_files(write, kind):
    packed = PACKERS[kind]((HEADER + "1,2,3,4\n" * 5000).encode())
    middle = len(packed) // 2
    flipped = packed[:middle] + bytes([packed[middle] ^ 255]) + packed[middle + 1 :]
    for content in (packed[:-5], packed[:middle], *([flipped] if kind != "zstd" else [])):  # zstd may have no checksum
        with pytest.raises(DataError, match="the archive is damaged or encrypted"):
            read(write(content))
    with pytest.raises(DataError, match=f"is a {kind} archive in another one"):
        read(write(gzip.compress(packed)))


@pytest.mark.parametrize("kind", PACKERS)
def test_a_packed_file_is_unpacked_up_to_a_limit(write, kind, monkeypatch):
    monkeypatch.setenv(LIMIT_VARIABLE, "100000")
    with pytest.raises(DataError, match="unpacks to more than"):
        read(write(PACKERS[kind]((HEADER + "1,2,3,4\n" * 100_000).encode())))


def test_zstd_without_a_library(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    with pytest.raises(DataError, match=r"is packed by zstd; expected Python 3.14 or an installed pyarrow"):
        read(write(zstd(PLAIN.encode())))


@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
def test_feather(write, compression):
    path = write(feather(FRAME, compression=compression), "ratings.feather")
    assert rows(path) == ROWS
    assert read(path).source_info["format"] == "Feather"
    with pytest.raises(DataError, match="the Feather file is damaged"):
        read(write(path.read_bytes()[:-20], "ratings.feather"))


TEXT = "user,item,time\nÄnne,x,2\nJosé,Ü,3\n"


@pytest.mark.parametrize(
    "encoding", ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig", "mac-roman"]
)
def test_encodings(write, encoding):
    expected = [("Änne", "x", 2), ("José", "Ü", 3)]
    for content in (TEXT.encode(encoding), TEXT.replace("\n", "\r\n").encode(encoding)):
        for packed in (content, gzip.compress(content), archive(**{"ratings.csv": content})):
            assert rows(write(packed), encoding=encoding) == expected
    lines = '{"user": "Änne", "item": "x", "time": 2}\n{"user": "José", "item": "Ü", "time": 3}\n'
    assert rows(write(lines.encode(encoding)), encoding=encoding) == expected


def test_chinese(write):
    path = write("用户,商品,时间\n张三,茶,1\n李四,杯,2\n".encode("gbk"))
    assert rows(path, encoding="gbk") == [("张三", "茶", 1), ("李四", "杯", 2)]
    with pytest.raises(DataError, match=r"line 1 is not UTF-8 text; expected UTF-8, or encoding=\.\.\."):
        read(path)


def test_texts_that_are_not_of_the_encoding(write):
    content = b"user,item,time\na,b,1\n" + b"\xff,c,2\n"
    for encoding in ("utf-8", "ascii", "gbk"):
        with pytest.raises(DataError, match=f"line 3 is not text in {encoding}"):
            read(write(content), encoding=encoding)
    with pytest.raises(DataError, match="is UTF-16 text; expected UTF-8, or encoding='utf-16'"):
        read(write(TEXT.encode("utf-16")))


def test_sources_without_an_encoding(write):
    for source in (FRAME, FRAME.to_pandas(), write(parquet(FRAME)), write(feather(FRAME), "x.feather")):
        with pytest.raises(DataError, match=r"expected (a )?text.* beside encoding='latin-1'"):
            read(source, encoding="latin-1")


def test_a_test_set_and_its_candidates(write):
    train = write("é,x\né,y\na,x\n".encode("latin-1"), "train.csv")
    test = write("a,y\né,z\n".encode("latin-1"), "test.csv")
    candidates = write("(a,y)\tz\n(é,z)\tw\n".encode("latin-1"), "test.negative")
    interactions, held_out = read_with_test(train, test, candidates, encoding="latin-1")
    assert interactions.users.ids.to_list() == ["a", "é"]
    assert held_out.candidates.shape == (2, 1)


@pytest.mark.parametrize(
    "name",
    ["../ratings.csv", "a/../../ratings.csv", "/etc/ratings.csv", "..", "..\\ratings.csv", "C:\\ratings.csv", "\\x"],
)
def test_an_archive_whose_paths_lead_out_of_it_is_refused(write, name):
    for members in ({name: PLAIN}, {"ratings.csv": PLAIN, name: "x"}):
        with pytest.raises(DataError, match="whose path leads out of the archive; expected names of files within it"):
            read(write(archive(**members)))
    assert rows(write(archive(**{"a/..b/ratings..csv": PLAIN}))) == ROWS
