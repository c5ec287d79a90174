"""Shared parts of the tests of the readers: writing files, reading tables, random interactions."""

import datetime as dt
import io
import re
import zipfile
from pathlib import Path

import polars as pl
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from fastncf.data.readers.table import Table, read_table
from fastncf.errors import DataError

HEADER = "user,item,rating,time\n"
PLAIN = HEADER + "1,2,3,4\n5,6,7,8\n"
ROWS = [(1, 2, 4), (5, 6, 8)]
BARE_ROWS = [(1, 2, 1112486027), (5, 6, 1112486028)]
"""Rows whose times are recognised without a header."""
DAY = dt.datetime(2020, 1, 1)
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


def read(source, *, needs_time=True, user=None, item=None, time=None, **options) -> Table:
    return read_table(source, user=user, item=item, time=time, needs_time=needs_time, **options)


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


def check_refusal(path: Path, message: str) -> None:
    """A file is refused with an error that begins with its path and holds a message."""
    with pytest.raises(DataError) as error:
        read(path)
    assert str(error.value).startswith(str(path))
    assert message in str(error.value)


INTEGERS = st.integers(-(2**63), 2**63 - 1)
WORDS = st.text(st.sampled_from('abcé_,;|\t "\n'), min_size=1, max_size=6).map(lambda text: "x" + text)
PLAIN_WORDS = st.text(st.sampled_from("abcé_"), min_size=1, max_size=6)


def canonical(raw_id: int | str) -> int | str:
    """The canonical text of an id, or the integer as it is."""
    if isinstance(raw_id, int):
        return raw_id
    stripped = raw_id.strip(" \t\r\n\x0b\x0c\x85\xa0\u2028\u2029\u3000")
    whole = re.fullmatch(r"(-?[1-9][0-9]*|-?0)\.0+", stripped)
    return (whole[1] if whole[1] != "-0" else "0") if whole else stripped


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
