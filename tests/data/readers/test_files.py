"""Folders, missing files, archives, pipes, devices, and kinds of files that are not read."""

import gzip
import io
import os
import pickle
import re
import socket
import sqlite3
import subprocess
import sys
import tarfile
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fastncf.data.readers import files
from fastncf.data.readers.limit import LIMIT_VARIABLE
from fastncf.errors import ConfigError, DataError, DataNotFoundError
from tests.data.readers.conftest import PLAIN, ROWS, archive, check_refusal, parquet, read, rows

BAD = {
    "empty": (b"", "is empty"),
    "cut gzip": (gzip.compress(PLAIN.encode())[:-5], "the archive is damaged"),
    "gzip and more": (gzip.compress(PLAIN.encode()) + b"more", "the archive is damaged"),
    "gzip of nothing": (gzip.compress(b""), "holds only blank lines"),
    "cut zip": (archive(**{"ratings.csv": PLAIN})[:-5], "the archive is damaged"),
    "zip of others": (archive(a="1", b="2"), "which of its 2 files holds the ratings?"),
    "zip of nothing": (archive(), "is an archive without a file"),
    "zip of two": (archive(**{"x/ratings.csv": PLAIN, "y/ratings.csv": PLAIN}), "which of its 2 files"),
    "zip, bad line": (
        archive(**{"ml/u.data": "1\t2\t3\t900000004\n5\t6\t7\tx\n1\t2\t3\t900000004\n"}),
        "(ml/u.data): column",
    ),
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_bad_files(write, content, message):
    check_refusal(write(content), message)


def test_bad_paths(tmp_path, write):
    path = write(PLAIN)
    for missing in (tmp_path / "nowhere", path / "below"):
        with pytest.raises(DataNotFoundError, match="no such file"):
            read(missing)
    (tmp_path / "README").write_text("about")
    with pytest.raises(DataError, match=r"is a folder \(README, ratings\.csv\)"):
        read(tmp_path)
    for impossible in ("a" * 5000, "a\0b"):
        with pytest.raises(DataError, match="cannot be read"):
            read(impossible)


def _written(write) -> bytes:
    """Return the bytes that a function writes to a file."""
    buffer = io.BytesIO()
    write(buffer)
    return buffer.getvalue()


def _database() -> bytes:
    with sqlite3.connect(":memory:") as connection:
        connection.execute("CREATE TABLE ratings (user, item)")
        return connection.serialize()


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        member = tarfile.TarInfo("ratings.csv")
        member.size = len(PLAIN)
        file.addfile(member, io.BytesIO(PLAIN.encode()))
    return buffer.getvalue()


FRAME = pl.DataFrame({"user": [1, 5], "item": [2, 6], "time": [4, 8]})
_FRAME = "pass the frame that {} makes"
FOREIGN = {
    "a.arrows": (
        *(_written(FRAME.write_ipc_stream), "a stream of Arrow"),
        _FRAME.format("polars.read_ipc_stream(PATH)"),
    ),
    "a.avro": (_written(FRAME.write_avro), "an Avro file", _FRAME.format("polars.read_avro(PATH)")),
    "a.json": (
        *(FRAME.write_json().encode(), "one JSON document rather than JSON lines"),
        _FRAME.format("polars.read_json(PATH)"),
    ),
    "b.json": (
        *(b'{\n  "user": [1, 2],\n  "item": [1, 2]\n}', "one JSON document rather than JSON lines"),
        _FRAME.format("pandas.read_json(PATH)"),
    ),
    **{
        name: (
            *(content, "Python code of dictionaries rather than JSON lines"),
            _FRAME.format("polars.DataFrame(map(ast.literal_eval, open(PATH)))"),
        )
        for name, content in {
            "c.json": b"{'user': 1, 'item': 2}\n{'user': 2, 'item': 3}\n",
            "d.csv": b"\xef\xbb\xbf\n{ 'user':1,'item':2}\n",
            "e.txt": b"[{'user': 1, 'item': 2}, {'user': 2, 'item': 3}]",
        }.items()
    },
    "a.npy": (
        _written(lambda file: np.save(file, np.zeros((3, 2)))),
        "a NumPy array",
        _FRAME.format("polars.DataFrame(numpy.load(PATH))"),
    ),
    "a.npz": (
        _written(lambda file: np.savez(file, user=np.zeros(3))),
        "an archive of NumPy arrays",
        _FRAME.format("polars.DataFrame(dict(numpy.load(PATH)))"),
    ),
    "a.pkl": (
        pickle.dumps([1]),
        "a pickle, which may run any code when it is loaded",
        _FRAME.format("pandas.read_pickle(PATH)"),
    ),
    "a.xlsx": (
        archive(**{"[Content_Types].xml": "", "xl/workbook.xml": "", "xl/worksheets/sheet1.xml": ""}),
        "an Excel workbook",
        _FRAME.format("polars.read_excel(PATH)"),
    ),
    "a.ods": (
        archive(mimetype="application/vnd.oasis.opendocument.spreadsheet", **{"content.xml": ""}),
        "an OpenDocument spreadsheet",
        _FRAME.format("polars.read_ods(PATH)"),
    ),
    "a.xls": (
        b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500),
        "an Excel file of before 2007, or a like document",
        _FRAME.format("polars.read_excel(PATH)"),
    ),
    "a.db": (
        _database(),
        "an SQLite database",
        _FRAME.format('polars.read_database("SELECT ...", sqlite3.connect(PATH))'),
    ),
    "a.html": (b"\n<!DOCTYPE html>\n<html>", "an HTML page", _FRAME.format("pandas.read_html(PATH)[0]")),
    "a.xml": (b'<?xml version="1.0"?><a/>', "an XML document", _FRAME.format("pandas.read_xml(PATH)")),
    "a.h5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "an HDF5 file", _FRAME.format("pandas.read_hdf(PATH)")),
    "a.orc": (b"ORC\x08\x03\x10\x00", "an ORC file", _FRAME.format("pandas.read_orc(PATH)")),
    "b.orc": (b"ORC\n\x07\x12\x05\x08", "an ORC file", _FRAME.format("pandas.read_orc(PATH)")),
    "a.dta": (b"\x72\x02\x01\0\x05\0" + bytes(80), "a Stata file", _FRAME.format("pandas.read_stata(PATH)")),
    "a.pdf": (b"%PDF-1.7\n", "a PDF document", "save its table as CSV"),
    "a.png": (b"\x89PNG\r\n\x1a\n", "an image", "pass a file of rows with a user and an item"),
    "a.7z": (b"7z\xbc\xaf\x27\x1c\0\x04", "a 7z archive", "unpack it with 7z x PATH"),
    "a.rar": (b"Rar!\x1a\x07\x01\0", "a RAR archive", "unpack it with unrar x PATH"),
    "a.tar": (_tar(), "a tar archive", "unpack it with tar -xf PATH, and pass the file of rows in it"),
    "a.sql": (
        b"-- MySQL dump 10.13\n\nCREATE TABLE ratings (user int, item int);\n",
        "a dump of SQL statements",
        'run it in a database, and pass the frame that polars.read_database("SELECT ...", CONNECTION) makes',
    ),
    "a.csv": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
        "a pointer of Git LFS",
        "get the file itself with git lfs pull",
    ),
}


def test_kinds_that_are_refused_by_their_name(write):
    for name, (content, noun, call) in FOREIGN.items():
        path = write(content, name)
        with pytest.raises(DataError) as error:
            read(path)
        message = str(error.value)
        assert message.startswith(f"{path}: is {noun}; expected CSV or TSV text or JSON lines"), name
        assert message.endswith(f": {call}"), name
        within = "a zip archive in another one" if content.startswith(b"PK") else noun
        with pytest.raises(DataError, match=re.escape(f"{path}: is {within}; ")):
            read(write(gzip.compress(content), name))


@pytest.mark.parametrize(
    "first_user", ["ORC", "BM", "ARROW1", "GIF89a", "Obj", "[x]", "{x}", "<b>", "DUCK", "abcdftyp", "CDF", "RIFF", "MZ"]
)
def test_text_that_begins_like_another_kind(write, first_user):
    content = f"{first_user},10,1112486027\nb,11,1112486028\n"
    assert rows(write(content)) == [(first_user, 10, 1112486027), ("b", 11, 1112486028)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(gzip.compress(PLAIN.encode(), mtime=0), mtime=0), "is a gzip archive in another one"),
        (gzip.compress(archive(**{"ratings.csv": PLAIN}), mtime=0), "is a zip archive in another one"),
        (archive(**{"a.zip": archive(**{"ratings.csv": PLAIN})}), "(a.zip): is a zip archive in another one"),
        (archive(**{"data.bin": b"\x89HDF\r\n\x1a\n"}), "(data.bin): is an HDF5 file; expected"),
    ],
)
def test_archives_of_archives(write, content, message):
    check_refusal(write(content), message)


def test_packed_parquet(write):
    content = parquet(pl.DataFrame({"user": [1, 5], "item": [2, 6], "time": [4, 8]}))
    assert rows(write(gzip.compress(content))) == rows(write(archive(**{"part.parquet": content}))) == ROWS


@pytest.mark.parametrize("packed", [gzip.compress(b"x" * 50_000, mtime=0), archive(**{"ratings.csv": b"x" * 50_000})])
def test_what_unpacks_beyond_the_limit(write, monkeypatch, packed):
    path = write(packed)
    monkeypatch.setenv(LIMIT_VARIABLE, "49999")
    with pytest.raises(
        DataError, match=r"unpacks to more than 0\.0 MB; expected at most 49999 bytes, a limit that the"
    ):
        read(path)
    monkeypatch.setenv(LIMIT_VARIABLE, "50000")
    with pytest.raises(DataError, match="found no columns"):
        read(path)


def test_no_more_than_the_limit_is_unpacked(write, monkeypatch):
    path = write(gzip.compress(b"\0" * (64 << 20)))
    monkeypatch.setenv(LIMIT_VARIABLE, str(1 << 20))
    tracemalloc.start()
    try:
        check_refusal(path, "unpacks to more than 1.0 MB")
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("limit", ["many", "-1", "1.5", "1e9", " 5", "٣", "9" * 40])
def test_a_limit_that_is_no_number(write, monkeypatch, limit):
    monkeypatch.setenv(LIMIT_VARIABLE, limit)
    with pytest.raises(ConfigError, match=f"{LIMIT_VARIABLE}: is .*; expected a number of bytes"):
        read(write(gzip.compress(PLAIN.encode())))


@pytest.fixture
def pipe(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    return path


def test_a_named_pipe_is_read_to_its_end(pipe, monkeypatch):
    def feed(content):
        with pipe.open("wb", buffering=0) as file:
            for start in range(0, len(content), 1000):
                file.write(content[start : start + 1000])

    text = "user,item,time\n" + "".join(f"{n},{n % 7},{n}\n" for n in range(30_000))
    for content in (text.encode(), gzip.compress(text.encode())):
        with ThreadPoolExecutor(1) as pool:
            writer = pool.submit(feed, content)
            assert rows(pipe) == [(n, n % 7, n) for n in range(30_000)]
            writer.result()
    monkeypatch.setenv(LIMIT_VARIABLE, "100000")
    with ThreadPoolExecutor(1) as pool:
        writer = pool.submit(feed, text.encode())
        check_refusal(pipe, "gives more than 0.1 MB; expected at most 100000 bytes")
        assert isinstance(writer.exception(), BrokenPipeError)


def test_a_pipe_without_a_writer_is_refused(pipe, monkeypatch):
    monkeypatch.setattr(files, "_WRITER_SECONDS", 0.05)
    check_refusal(pipe, "is a named pipe that no program writes to")


def test_standard_input_is_a_path(write):
    code = (
        "from fastncf.data.readers.table import read_table\n"
        "table = read_table('/dev/stdin', user=None, item=None, time=None, needs_time=True)\n"
        "print(table.frame.rows())"
    )
    with write(PLAIN).open("rb") as file:
        for stream in ({"input": PLAIN.encode()}, {"stdin": file}):
            run = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=120, **stream)
            assert run.stdout.decode().strip() == str(ROWS)


def test_devices_and_sockets_are_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"^/dev/zero: is a device or a terminal; expected the path of a file or a pipe"
    ):
        read("/dev/zero")
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(tmp_path)  # a path of a socket has at most 100 characters or so
        server.bind("socket")
        check_refusal(path, "is a socket; expected")


def test_files_without_a_size():
    with pytest.raises(DataError, match=r"^/proc/self/comm: found no columns in line 1"):
        read("/proc/self/comm")


@pytest.mark.parametrize(
    ("url", "call"),
    [
        ("https://example.org/ratings.csv", "polars.read_csv(urllib.request.urlopen(URL).read())"),
        ("http://example.org/x?format=*&y=[1]", "polars.read_csv(urllib.request.urlopen(URL).read())"),
        ("https://example.org/x.parquet?a=1", "polars.read_parquet(urllib.request.urlopen(URL).read())"),
        ("https://example.org/x.jsonl.gz", "polars.read_ndjson(urllib.request.urlopen(URL).read())"),
        ("gs://bucket/ratings.csv", "polars.read_csv(URL)"),
        ("s3://bucket/ratings.parquet", "polars.read_parquet(URL)"),
        ("postgresql://host/base", 'polars.read_database_uri("SELECT ...", URL)'),
        ("mysql+pymysql://host/base", 'polars.read_database_uri("SELECT ...", URL)'),
        ("jdbc:postgresql://host/base", 'polars.read_database_uri("SELECT ...", URL)'),
        ("HTTPS://EXAMPLE.ORG/R.CSV", "polars.read_csv(urllib.request.urlopen(URL).read())"),
    ],
)
@pytest.mark.parametrize("kind", [str, Path])
def test_a_url_is_said_to_be_one(url, call, kind):
    with pytest.raises(DataNotFoundError) as error:
        read(kind(url))
    assert str(error.value).startswith(f"{url}: is a URL; expected ")
    assert str(error.value).endswith(f": pass the frame that {call} makes")


@pytest.mark.parametrize("scheme", ["postgresql", "mysql+pymysql", "https", "ftp"])
def test_no_password_of_a_url_is_shown(scheme):
    with pytest.raises(DataNotFoundError) as error:
        read(f"{scheme}://anna:s3:cret@host/x.csv?at=a:b@c")
    assert str(error.value).startswith(f"{scheme}://anna:***@host/x.csv?at=a:b@c: is a URL")


def test_a_path_with_a_colon_is_no_url(tmp_path):
    with pytest.raises(DataNotFoundError, match="no such file"):
        read("C:/ratings.csv")
    with pytest.raises(DataNotFoundError, match="no such file"):
        read(tmp_path / "a:b.csv")
