"""Folders, missing files and archives."""

import gzip

import pytest

from fastncf.errors import DataError, DataNotFoundError
from tests.data.readers.conftest import PLAIN, archive, check_refusal, read

BAD = {
    "empty": (b"", "is empty"),
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
}


@pytest.mark.parametrize(("content", "message"), BAD.values(), ids=BAD.keys())
def test_bad_files(write, content, message):
    check_refusal(write(content), message)


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
