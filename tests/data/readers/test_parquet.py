"""Sizes that Parquet files unpack to, and what is refused for them."""

import io

import polars as pl
import pytest

from fastncf.data.readers.limit import LIMIT_VARIABLE
from fastncf.data.readers.parquet import unpacked_bytes
from tests.data.readers.conftest import check_refusal, parquet, read


def packed(frame: pl.DataFrame, **options) -> bytes:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, **options)
    return buffer.getvalue()


FRAMES = {
    "repeated integers": pl.DataFrame({"user": pl.repeat(1, 200_000, eager=True), "item": range(200_000)}),
    "repeated strings": pl.DataFrame({"user": ["a" * 1000] * 50_000, "item": range(50_000)}),
    "long strings": pl.DataFrame({"user": [f"{n}" + "a" * 50_000 for n in range(100)], "item": range(100)}),
}


@pytest.mark.parametrize("frame", FRAMES.values(), ids=FRAMES.keys())
@pytest.mark.parametrize("options", [{}, {"compression": "uncompressed"}, {"row_group_size": 33}], ids=str)
def test_columns_that_unpack_to_more_than_the_limit(write, monkeypatch, frame, options):
    content = packed(frame.with_columns(time=1, time_of_day=pl.lit("x" * 5000)), **options)
    path = write(content)
    needed = unpacked_bytes(path, ["user", "item", "time"])
    assert needed == unpacked_bytes(content, ["user", "item", "time"])
    assert needed >= 8 * 3 * frame.height + sum(map(len, frame["user"].unique().cast(pl.String)))
    monkeypatch.setenv(LIMIT_VARIABLE, str(needed - 1))
    check_refusal(path, f"expected at most {needed - 1} bytes, a limit that the environment variable {LIMIT_VARIABLE}")
    monkeypatch.setenv(LIMIT_VARIABLE, str(needed))
    assert read(path).frame.height == frame.height


def test_metadata_of_many_columns_and_types():
    frame = pl.DataFrame(
        {f"c{n}": [n] for n in range(100)}
        | {"é": ["x"], "list": [[1]], "struct": [{"a": 1.5}], "null": [None], "flag": [True]}
    )
    both = unpacked_bytes(parquet(frame), ["c7", "é"])
    assert both == sum(unpacked_bytes(parquet(frame), [name]) for name in ("c7", "é"))
    assert unpacked_bytes(parquet(frame), ["é"]) > 16
    assert unpacked_bytes(parquet(frame), []) == 0


@pytest.mark.parametrize("place", [9, 10, 30, 60, 100])
@pytest.mark.parametrize("byte", [0x7F, 0xFF, 0xCC])
def test_damaged_metadata(write, place, byte):
    content = bytearray(parquet(FRAMES["long strings"].with_columns(time=1)))
    content[-place:-8] = bytes([byte]) * (place - 8)
    check_refusal(write(bytes(content)), "the Parquet file is damaged")
