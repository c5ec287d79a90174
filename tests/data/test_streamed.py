"""Reading in slices against reading in memory, on random data."""

import datetime as dt
import os
import tracemalloc

import numpy as np
import polars as pl
import pytest

import fastncf
from fastncf.data import streamed
from fastncf.data.holdout import Holdout
from fastncf.data.interactions import Interactions, read_interactions
from fastncf.data.protocols import make_split
from fastncf.data.readers.checks import ColumnName
from fastncf.data.readers.deciding_times import DecidingTimes
from fastncf.data.readers.options import ReadOptions, names_of
from fastncf.data.readers.parts import Origin
from fastncf.data.readers.slices import open_slices
from fastncf.data.readers.times import check_times
from fastncf.data.split import time_order
from fastncf.data.streamed import read_in_slices
from fastncf.data.synthetic import synthetic_movielens
from fastncf.errors import DataError, FastNCFError

SEEDS = range(int(os.environ.get("STREAMED_SEEDS", "24")))

RULES = (
    Holdout(rule="latest"),
    Holdout(rule="random"),
    Holdout(rule="latest", amount=3),
    Holdout(rule="time", before="80%"),
)


def random_ids(rng: np.random.Generator, size: int) -> pl.Series:
    """Return ids of a random kind."""
    numbers = pl.Series(rng.integers(0, 30, size))
    text = pl.Series([f"x{number}" for number in numbers])
    kinds = [
        numbers.cast(pl.Int32) - 5,
        numbers.cast(pl.UInt64) + 2**63 * int(rng.integers(2)),
        numbers.cast(pl.Float64),
        numbers.cast(pl.String) + ".0",
        text,
        text.cast(pl.Categorical),
        pl.Series([f"{n}" if n else "NA" for n in numbers]),
        pl.Series([f"{n}" if n > 1 else f" word{n}" for n in numbers]),
    ]
    return kinds[rng.integers(len(kinds))]


def random_times(rng: np.random.Generator, size: int) -> pl.Series:
    """Return times of a random kind, some of which are refused."""
    numbers = pl.Series(rng.integers(0, 50, size))
    kinds = [
        numbers,
        numbers.cast(pl.Int16),
        numbers + 1_100_000_000,
        (numbers + 1_100_000_000) * pl.Series(rng.choice([1, 1, 1, 1000], size)),
        numbers.cast(pl.Float64) / 4 - 3,
        numbers.cast(pl.Float64) * 1e300 * 1e9,
        pl.Series([dt.date(2020, 1, 1) + dt.timedelta(days=n) for n in numbers]),
        pl.Series([dt.datetime(2020, 1, 1) + dt.timedelta(hours=n) for n in numbers]).cast(pl.Datetime("ns", "UTC")),
        (numbers % 28 + 1) * 1_000_000 + (numbers % 12 + 1) * 10_000 + 2000,
    ]
    return kinds[rng.integers(len(kinds))]


def outcome(function, *arguments) -> object:
    """Return the result of a call, or the message of the error that it raises."""
    try:
        return function(*arguments)
    except FastNCFError as error:
        return str(error)


def assert_same(found: object, expected: object) -> None:
    """Check that two readings are refused for the same reason, or give the same bits by each of some rules."""
    if not isinstance(expected, Interactions):
        assert found == expected
        return
    assert isinstance(found, Interactions)
    for name in ("source", "source_info", "left_out", "num_rows"):
        assert getattr(found, name) == getattr(expected, name), name
    assert found.users.ids.equals(expected.users.ids)
    assert found.items.ids.equals(expected.items.ids)
    for holdout in RULES:
        pair = [outcome(make_split, data, holdout) for data in (found, expected)]
        if isinstance(pair[1], str):
            assert pair[0] == pair[1]
            continue
        (kept, split), (kept_expected, split_expected) = pair
        for name, array in vars(split_expected).items():
            if isinstance(array, np.ndarray):
                np.testing.assert_array_equal(getattr(split, name), array, err_msg=name)
        if kept.time is not None:
            orders = time_order(kept, split), time_order(kept_expected, split_expected)
            np.testing.assert_array_equal(*orders)


@pytest.mark.parametrize("seed", SEEDS)
def test_slices_give_the_same_bits_or_the_same_message(tmp_path, seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 400))
    frame = pl.DataFrame(
        {"user": random_ids(rng, size), "item": random_ids(rng, size), "time": random_times(rng, size)}
    )
    frame = frame.with_columns(pl.Series("rating", rng.integers(1, 6, size)))
    if rng.random() < 0.4:
        name = frame.columns[rng.integers(3)]
        frame = frame.with_columns(frame[name].clone().scatter(int(rng.integers(size)), None))
    files = int(rng.integers(1, 4))
    for number in range(files):
        part = frame[number * size // files : (number + 1) * size // files]
        part.write_parquet(tmp_path / f"{number}.parquet", row_group_size=int(rng.integers(1, 200)))
    source = tmp_path if rng.random() < 0.7 else tmp_path / "0.parquet"
    options = {"drop_missing": bool(rng.integers(2)), "min_rating": [None, 3.0][rng.integers(2)]}
    none = dict.fromkeys(("user", "item", "time", "rating", "weight"))
    slices = open_slices(source, ReadOptions(names_of(none), True, **options))
    assert slices is not None
    found = outcome(read_in_slices, slices, int(rng.integers(1, 100)))
    assert_same(found, outcome(lambda: read_interactions(source, **options)))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_first_times_of_each_kind_decide_as_all_do(seed):
    rng = np.random.default_rng(seed)
    digits = rng.integers(0, [3, 32, 13, 3, 100][seed % 5] or 1, (3, 300)) + (seed % 2)
    candidates = [
        digits[0] * 1_000_000 + digits[1] * 10_000 + 1999 + digits[2],
        digits[0] * 10_000 + digits[1] * 100 + digits[2],
        rng.choice([1, 10**9, 10**12, 10**15, 10**18, 20200101, 202001010000], 300) + digits[0],
        rng.choice([10**9, 20200101], 300),
    ]
    values = pl.Series(candidates[rng.integers(len(candidates))][: rng.integers(1, 300)])
    if rng.random() < 0.3:
        values = values.cast(pl.Float64)
    name = ["date", "time"][seed % 2]
    expected = outcome(check_times, values, ColumnName("source", name, str))
    deciding = DecidingTimes()
    for start in range(0, len(values), 37):
        deciding.add(values[start : start + 37], lambda row, start=start: str(start + row))
    found = outcome(deciding.check, Origin("source", "", {"time": name}))
    assert found == (expected if isinstance(expected, str) else None)


def test_fits_read_in_slices_what_is_larger_than_the_memory(tmp_path, monkeypatch):
    rows = synthetic_movielens(num_users=60, num_items=50, num_interactions=1500, seed=1).collect()
    rows = rows.sample(fraction=1, shuffle=True, seed=0).with_columns(pl.col("timestamp") // 10**6 * 10**6)  # ties
    for number in range(3):
        rows[number * 500 : (number + 1) * 500].write_parquet(tmp_path / f"{number}.parquet")
    read: list[int] = []
    plain = read_in_slices
    monkeypatch.setattr(streamed, "read_in_slices", lambda slices, num_rows: read.append(1) or plain(slices, 100))
    settings = {"loss": "bce", "epochs": 1, "dim": 8, "progress": False}
    for further in ({}, {"ties": "last"}, {"user_fraction": 0.5}, {"test_users": 5}):
        in_memory = fastncf.fit(tmp_path, **settings, **further)
        assert not read
        with monkeypatch.context() as patch:
            patch.setattr(streamed, "available_bytes", lambda: 10_000)
            in_slices = fastncf.fit(tmp_path, **settings, **further)
        assert read.pop()
        assert in_slices.metrics == in_memory.metrics
        np.testing.assert_array_equal(in_slices.split.indices, in_memory.split.indices)
        assert in_slices.data == in_memory.data


def test_memory_does_not_grow_with_the_rows(tmp_path):
    rng = np.random.default_rng(0)
    peaks = []
    for size in (50_000, 400_000):
        path = tmp_path / f"{size}.parquet"
        frame = pl.DataFrame({"user": rng.integers(0, 2000, size), "item": rng.integers(0, 100, size)})
        frame.with_columns(time=pl.Series(rng.integers(0, 10**6, size))).write_parquet(path, row_group_size=10_000)
        slices = open_slices(path, ReadOptions(names_of(dict.fromkeys(("user", "item", "time", "rating"))), True))
        tracemalloc.start()
        read_in_slices(slices, 10_000)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]


@pytest.mark.parametrize(
    ("columns", "is_read"),
    [
        ({"time": ["2020-01-01", "2020-01-02"]}, False),
        ({"time": [1, 2], "weight": [1, 2]}, False),
        ({"date": [dt.date(2020, 1, 1)] * 2, "clock": ["10:00", "11:00"]}, False),
        ({"time": [1, 2]}, True),
    ],
)
def test_what_is_checked_as_a_whole_is_read_as_a_whole(tmp_path, columns, is_read):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"user": [1, 2], "item": [1, 2], **columns}).write_parquet(path)
    names = {
        name: name if name in columns and name == "weight" else None for name in ("user", "item", "time", "weight")
    }
    assert (open_slices(path, ReadOptions(names, True)) is not None) == is_read


def test_files_that_change_between_the_passes_are_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pl.DataFrame({"user": [1, 2, 3], "item": [1, 2, 3], "time": [1, 2, 3]}).write_parquet(path)
    slices = open_slices(path, ReadOptions(names_of(dict.fromkeys(("user", "item", "time"))), True))
    read, passes = type(slices).read, []

    class Changing:
        origin, options, name_place = slices.origin, slices.options, slices.name_place

        def read(self, *arguments):
            passes.append(1)
            for part in read(slices, *arguments):
                yield part if len(passes) == 1 else part._replace(frame=part.frame.with_columns(pl.col("user") % 2 + 1))

    with pytest.raises(DataError, match="was changed while it was read"):
        read_in_slices(Changing(), 10)
