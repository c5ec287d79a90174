"""Packed files, Feather, and text in other encodings."""

import bz2
import gzip
import io
import lzma
import sys
import tracemalloc
import zipfile

import polars as pl
import pyarrow as pa
import pytest

from fastncf.data.given_files import read_with_test
from fastncf.data.readers import limit
from fastncf.errors import DataError, InsufficientMemoryError
from fastncf.memory import limited_memory, resident_bytes
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
    monkeypatch.setenv(limit.LIMIT_VARIABLE, "100000")
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
    with pytest.raises(DataError, match=r"line 1 is not UTF-8 text; .*written in, such as encoding='cp1252'"):
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


def archive_by(method: int, content: bytes, name: str = "ratings.csv") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        file.writestr(name, content)
    return buffer.getvalue()


METHODS = {"stored": 0, "deflate": zipfile.ZIP_DEFLATED, "bzip2": zipfile.ZIP_BZIP2, "lzma": zipfile.ZIP_LZMA}


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
def test_all_methods_of_archives(write, method):
    assert rows(write(archive_by(method, PLAIN.encode()))) == ROWS
    assert rows(write(archive_by(method, parquet(FRAME)))) == ROWS
    text = (HEADER + "".join(f"{n * n % 997},{n},{n},4\n" for n in range(5000))).encode()
    whole = archive_by(method, text)
    assert len(rows(write(whole))) == 5000
    for place in range(60, len(whole) - 200, len(whole) // 7):
        flipped = whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :]
        with pytest.raises(DataError, match="the archive is damaged or encrypted"):
            read(write(flipped))


BOMBS = {kind: pack for kind, pack in PACKERS.items() if kind != "bzip2"} | {
    f"zip by {name}": lambda content, by=by: archive_by(by, content) for name, by in METHODS.items() if by
}


@pytest.mark.parametrize("kind", BOMBS)
def test_what_is_too_much_is_refused_in_bounded_memory(write, kind, monkeypatch):
    """What a small file unpacks to is not kept before it is known to fit, nor is it unpacked at once."""
    monkeypatch.setattr(limit, "_KEPT_BYTES", 1 << 21)
    monkeypatch.setattr(limit, "_PIECES_PER_CHECK", 2)
    path = write(BOMBS[kind](HEADER.encode() + b"1,2,3,4\n" * 3_000_000))
    for most, spare, error, message in (
        ("23000000", 300_000_000, DataError, "unpacks to more than 23.0 MB; expected at most 23000000 bytes"),
        ("99000000", 60_000_000, InsufficientMemoryError, "more than [0-9,]+ rows: needs .* of memory"),
    ):
        monkeypatch.setenv(limit.LIMIT_VARIABLE, most)
        tracemalloc.start()
        try:
            with limited_memory(resident_bytes() + spare), pytest.raises(error, match=message):
                read(path)
            assert tracemalloc.get_traced_memory()[1] < 16_000_000  # of which 8 MB are the dictionary of LZMA
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("kind", ["gzip", "zip by deflate"])
def test_text_that_is_packed_to_hardly_anything_is_read(write, kind, monkeypatch):
    monkeypatch.setattr(limit, "_KEPT_BYTES", 1 << 21)
    assert len(rows(write(BOMBS[kind](HEADER.encode() + b"1,2,3,4\n" * 500_000)))) == 500_000
