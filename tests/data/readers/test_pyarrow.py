"""pandas frames whose columns are arrays of pyarrow: the same table as of the same data in polars."""

import datetime as dt
from decimal import Decimal

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest

from fastncf.errors import DataError
from tests.data.readers.conftest import DAY, read

DATES = [dt.date(2020, 1, 2), dt.date(2020, 1, 1), dt.date(1969, 12, 31)]
MOMENTS = [DAY, DAY + dt.timedelta(hours=1), DAY - dt.timedelta(days=20_000)]
TIMES = {
    "date32": pa.array(DATES, pa.date32()),
    "date64": pa.array(DATES, pa.date64()),
    **{f"{unit}": pa.array(MOMENTS, pa.timestamp(unit)) for unit in ("s", "ms", "us", "ns")},
    **{f"{unit} with zone": pa.array(MOMENTS, pa.timestamp(unit, tz="Asia/Tokyo")) for unit in ("s", "ms", "us", "ns")},
    "int8": pa.array([3, 1, 2], pa.int8()),
    "uint64": pa.array([3, 1, 2], pa.uint64()),
    "float16": pa.array([3, 1, 2], pa.float32()).cast(pa.float16()),
    "float": pa.array([3, 1, 2], pa.float32()),
    "double": pa.array([1.5, -1, 2], pa.float64()),
    "decimal128": pa.array([Decimal("1.25"), Decimal("-1"), Decimal("1.50")], pa.decimal128(20, 2)),
    "string": pa.array(["20.09.1997", "03.10.1997", "01.02.1998"], pa.string()),
    "large_string": pa.array(["2020-01-01 00:00:00.0000001", "2020-01-01", "1999-01-01"][:1] * 3, pa.large_string()),
    "string_view": pa.array(["1112486027", "1112486028.5", "3"], pa.string_view()),
    "dictionary": pa.array(["2020-01-02", "2020-01-01", "2020-01-02"]).dictionary_encode(),
    "dictionary of integers": pa.array([7, 5, 7]).dictionary_encode(),
}
IDS = {
    "int8": pa.array([3, 1, 2], pa.int8()),
    "uint64": pa.array([2**64 - 1, 1, 2], pa.uint64()),
    "double": pa.array([3, 1, 2], pa.float64()),
    "decimal128": pa.array([Decimal(3), Decimal(1), Decimal(2)], pa.decimal128(10, 2)),
    "string": pa.array(["a", "12.0", " b"], pa.string()),
    "large_string": pa.array(["3", "1", "2"], pa.large_string()),
    "string_view": pa.array(["a", "007", "b"], pa.string_view()),
    "dictionary": pa.array(["a", "b", "a"]).dictionary_encode(),
    "dictionary of integers": pa.array([7, 5, 7]).dictionary_encode(),
}
REFUSED_TIMES = {
    "no date": pa.array([DATES[0], None, DATES[1]], pa.date32()),
    "no number": pa.array([1, None, 2], pa.int64()),
    "NaN": pa.array([1.0, float("nan"), 2.0], pa.float64()),
    "float": pa.array([1.0, 1.5e9, 2.0], pa.float32()),
    "bool": pa.array([True, False, True]),
    "time64": pa.array([dt.time(1)] * 3, pa.time64("us")),
    "duration": pa.array([1, 2, 3], pa.duration("s")),
    "two digits": pa.array(["31-12-19", "31-12-19", "01-01-20"]),
    "null": pa.array([None] * 3, pa.null()),
}
REFUSED_IDS = {
    "no text": pa.array(["a", None, "b"]),
    "no number": pa.array([1, None, 2]),
    "date32": pa.array(DATES, pa.date32()),
    "fraction": pa.array([Decimal(1), Decimal("1.5"), Decimal(2)], pa.decimal128(10, 2)),
    "float": pa.array([1, 2**24, 2], pa.float32()),
    "binary": pa.array([b"a", b"b", b"c"]),
    "list": pa.array([[1], [2], [3]]),
    "struct": pa.array([{"a": 1}] * 3),
    "bool": pa.array([True, False, True]),
    "null": pa.array([None] * 3, pa.null()),
}


def frames(array, role):
    """Return an array as a column of one role in a pandas and in a polars frame."""
    columns = {"user": [1, 2, 3], "item": [4, 5, 6], "time": [7, 8, 9]}
    chunks = pa.chunked_array([array[:1], array[1:]])
    of_pandas = pd.DataFrame({**columns, role: pd.Series(pd.arrays.ArrowExtensionArray(chunks))})
    return of_pandas, pl.DataFrame({**columns, role: pl.Series(pl.from_arrow(array))})


@pytest.mark.parametrize(("array", "role"), [(a, "time") for a in TIMES.values()] + [(a, "item") for a in IDS.values()])
def test_the_same_table_as_of_polars(array, role):
    of_pandas, of_polars = frames(array, role)
    assert read(of_pandas).frame.rows() == read(of_polars).frame.rows()


@pytest.mark.parametrize(
    ("array", "role"), [(a, "time") for a in REFUSED_TIMES.values()] + [(a, "item") for a in REFUSED_IDS.values()]
)
def test_the_same_refusal_as_of_polars(array, role):
    messages = []
    for frame in frames(array, role):
        with pytest.raises(DataError, match=f"the frame: column '{role}' (holds|is empty)") as error:
            read(frame)
        messages.append(str(error.value))
    assert messages[0] == messages[1]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", "+05:30", "-03:00"])
def test_moments_with_a_zone_are_those_of_utc(zone, unit):
    moments = pd.arrays.ArrowExtensionArray(pa.array(MOMENTS, pa.timestamp(unit, tz=zone)))
    frame = pd.DataFrame({"user": [1, 2, 3], "item": [4, 5, 6], "time": pd.Series(moments)})
    held = "ms" if unit == "s" else unit
    assert read(frame).frame["time"].cast(pl.Datetime(held)).to_list() == MOMENTS


@pytest.mark.parametrize("ending", ["parquet", "feather"])
def test_a_file_with_a_zone_that_polars_does_not_read(tmp_path, capfd, ending):
    """Without the panic that polars would write to stderr."""
    path = tmp_path / f"ratings.{ending}"
    moments = pa.array(MOMENTS, pa.timestamp("us", tz="+05:30"))
    table = pa.table({"user": [1, 2, 3], "item": [4, 5, 6], "time": moments})
    if ending == "feather":
        pyarrow.feather.write_feather(table, path)
        with pytest.raises(DataError, match=r"holds times of the zone '\+05:30', which polars does not read"):
            read(path)
        assert "panicked" not in capfd.readouterr().err
        return
    pyarrow.parquet.write_table(table, path)
    with pytest.raises(DataError, match=r"holds times of the zone '\+05:30', which polars does not read; expected UTC"):
        read(path)
    assert "panicked" not in capfd.readouterr().err
    assert read(pd.read_parquet(path)).frame["time"].cast(pl.Datetime("us")).to_list() == MOMENTS


@pytest.mark.parametrize("role", ["time", "item"])
def test_types_that_polars_does_not_have(role):
    of_pandas = pd.DataFrame({"user": [1, 2, 3], "item": [4, 5, 6], "time": [7, 8, 9]})
    wide = pa.array([Decimal(3), Decimal(1), Decimal(2)], pa.decimal256(50, 2))
    of_pandas[role] = pd.Series(pd.arrays.ArrowExtensionArray(wide))
    assert read(of_pandas).frame[role].to_list() == [3, 1, 2]
    intervals = pa.array([(1, 2, 3)] * 3, pa.month_day_nano_interval())
    of_pandas[role] = pd.Series(pd.arrays.ArrowExtensionArray(intervals))
    with pytest.raises(DataError, match=f"column '{role}' holds MonthDayNano"):
        read(of_pandas)


@pytest.mark.parametrize("dtype", ["string[pyarrow]", "str", "string[python]", "category", object])
def test_text_of_pandas(dtype):
    frame = pd.DataFrame({"user": ["a", "b"], "item": ["x", " 7.0"], "time": ["2020-01-02", "2020-01-01"]}, dtype=dtype)
    rows = read(frame).frame.rows()
    assert [row[:2] for row in rows] == [("a", "x"), ("b", "7")]
    assert rows[0][2] > rows[1][2]
    frame = pd.DataFrame({"user": ["a", None], "item": ["x", "y"], "time": ["1", "2"]}, dtype=dtype)
    with pytest.raises(DataError, match="column 'user' is empty in row 2"):
        read(frame)


def test_a_frame_that_pandas_reads_with_pyarrow(tmp_path):
    path = tmp_path / "ratings.parquet"
    pl.DataFrame({"user": ["a", "b"], "item": [2, 1], "time": DATES[:2]}).write_parquet(path)
    frame = pd.read_parquet(path, dtype_backend="pyarrow")
    assert read(frame).frame.rows() == read(path).frame.rows()
