"""The size of a Feather file is known by its metadata, before anything is unpacked."""

import io
import random

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from pyarrow import feather

from fastncf.data.readers.feather import unpacked_bytes
from fastncf.data.readers.limit import LIMIT_VARIABLE
from fastncf.errors import DataError
from tests.data.readers.conftest import read


def content_of(frame: pl.DataFrame, **options) -> bytes:
    buffer = io.BytesIO()
    frame.write_ipc(buffer, **options)
    return buffer.getvalue()


def frame_of(num_rows: int) -> pl.DataFrame:
    """Return a frame with columns of all kinds beside those that are read."""
    rows = range(num_rows)
    frame = pl.DataFrame(
        {
            "note": [f"a note that is longer than a view holds, {row}" if row % 3 else None for row in rows],
            "list": [[row, 2] if row % 2 else None for row in rows],
            "user": [f"user number {row % 97} with a long name" for row in rows],
            "struct": [{"a": row, "text": "of some length, too"} for row in rows],
            "nothing": [None] * num_rows,
            "bool": [row % 2 == 0 for row in rows],
            "item": rows,
            "time": [row + 1_000_000_000 for row in rows],
        },
        schema_overrides={"nothing": pl.Null},
    )
    return frame.with_columns(category=pl.col("user").cast(pl.Categorical))


@pytest.mark.parametrize("compression", ["uncompressed", "lz4", "zstd"])
@pytest.mark.parametrize("level", [None, pl.CompatLevel.oldest()])
def test_the_bytes_of_each_column(compression, level):
    num_rows = 20_000
    frame = frame_of(num_rows)
    content = content_of(frame, compression=compression, compat_level=level)
    dictionaries = unpacked_bytes(content, [])
    assert dictionaries < 20_000
    for column in frame.columns:
        found = unpacked_bytes(content, [column]) - dictionaries
        held = frame[column].estimated_size()
        assert held <= found <= 2 * held + 25 * num_rows, column


def test_files_of_pyarrow():
    rows = np.arange(5000)
    table = pa.table(
        {
            "user": pa.array(rows),
            "item": pa.array([f"i{row % 9}" for row in rows]).dictionary_encode(),
            "map": pa.array([[("a", 1)]] * 5000, pa.map_(pa.string(), pa.int64())),
            "time": pa.array(rows, pa.timestamp("us")),
            "fixed": pa.array([[1, 2]] * 5000, pa.list_(pa.int64(), 2)),
        }
    )
    buffer = io.BytesIO()
    feather.write_feather(table, buffer, compression="zstd", chunksize=1000)
    content = buffer.getvalue()
    for name in table.column_names:
        assert table[name].nbytes <= unpacked_bytes(content, [name]) <= table[name].nbytes + 20 * 5000 + 1000


@pytest.mark.parametrize("values", ["integers", "text"])
def test_a_bomb_is_refused_before_it_is_unpacked(write, monkeypatch, values):
    monkeypatch.setenv(LIMIT_VARIABLE, "30000000")
    column = np.zeros(2_000_000, dtype=np.int64) if values == "integers" else ["x" * 100] * 300_000
    frame = pl.DataFrame({"user": column, "item": column, "time": np.arange(len(column)), "other": column})
    content = content_of(frame, compression="zstd")
    assert len(content) < 5_000_000
    with pytest.raises(
        DataError, match=r"unpacks to more than 30.0 MB; expected at most 30000000 bytes, .*" + LIMIT_VARIABLE
    ):
        read(write(content, "bomb.feather"))
    monkeypatch.setenv(LIMIT_VARIABLE, "300000000")
    assert read(write(content, "bomb.feather")).frame.height == len(column)


def test_columns_that_are_not_read_do_not_count(write, monkeypatch):
    frame = frame_of(3000).select("user", "item", "time", big=pl.lit("x" * 5000))
    path = write(content_of(frame, compression="zstd"), "wide.feather")
    monkeypatch.setenv(LIMIT_VARIABLE, "1000000")
    assert read(path).frame.height == 3000


def test_changed_metadata_are_an_error_of_python_and_take_no_time():
    content = content_of(frame_of(300), compression="zstd")
    draw = random.Random(0)
    length = int.from_bytes(content[-10:-6], "little")
    failed = 0
    for _ in range(3000):
        changed = bytearray(content)
        for _ in range(draw.randrange(1, 4)):
            changed[len(content) - 10 - draw.randrange(length)] = draw.randrange(256)
        try:
            assert unpacked_bytes(bytes(changed), ["user", "item", "time"]) >= 0
        except Exception:
            failed += 1
    assert 300 < failed < 3000
