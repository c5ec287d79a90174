"""Compare reading with pandas, and with polars alone reading the same file."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest

from benchmarks.conftest import Shape
from benchmarks.ingest import in_a_process
from fastncf.data.interactions import read_interactions
from fastncf.data.split import Split, leave_one_out
from fastncf.data.synthetic import Dialect, write_synthetic_movielens


class TestIngest:
    """Turn a CSV into contiguous ids, hold out each user's latest interaction, and sort the rest into a CSR."""

    pair = "ratings.csv to split and CSR"

    def test_loop(self, timed: Callable[..., Any], ratings: Any, shape: Shape, split: Split) -> None:
        def ingest() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            table = pd.read_csv(ratings)
            user, item = (pd.factorize(table[name], sort=True)[0] for name in ("userId", "movieId"))
            rank = table.groupby("userId")["timestamp"].rank(method="first", ascending=False)
            latest = (rank == 1).to_numpy()
            order = np.lexsort((item[~latest], user[~latest]))
            indptr = np.concatenate([[0], np.cumsum(np.bincount(user[~latest], minlength=user.max() + 1))])
            test = np.empty(len(indptr) - 1, dtype=np.int64)
            test[user[latest]] = item[latest]
            return indptr, item[~latest][order], test

        indptr, indices, test = timed(
            ingest,
            pair=self.pair,
            side="loop",
            what="pandas: read_csv, factorize, groupby rank, lexsort",
            units=shape.interactions,
            unit="rows",
            rounds=1 if shape.interactions > 10_000_000 else 3,
        )
        np.testing.assert_array_equal(indptr, split.indptr)
        np.testing.assert_array_equal(indices, split.indices)
        np.testing.assert_array_equal(test, split.test_item)

    def test_fastncf(self, timed: Callable[..., Any], ratings: Any, shape: Shape, split: Split) -> None:
        ours = timed(
            lambda: leave_one_out(read_interactions(ratings)),
            pair=self.pair,
            side="fastncf",
            what="read_interactions and leave_one_out",
            units=shape.interactions,
            unit="rows",
            rounds=3,
        )
        for name in ("indptr", "indices", "test_item"):
            np.testing.assert_array_equal(getattr(ours, name), getattr(split, name))

    def test_ceiling(self, timed: Callable[..., Any], ratings: Any, shape: Shape) -> None:
        table = timed(
            lambda: pl.read_csv(ratings),
            pair=self.pair,
            side="ceiling",
            what="polars.read_csv alone",
            units=shape.interactions,
            unit="rows",
            rounds=3,
        )
        assert len(table) > 0.99 * shape.interactions


def shuffled(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the rows in random order."""
    return frame.sample(fraction=1, shuffle=True, seed=0)


def sparse(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with ids of up to 18 digits, far apart."""
    return frame.with_columns(pl.col("userId").cast(pl.Int64) * 7_919_012_347, pl.col("movieId") * 15_485_863_000_477)


def textual(frame: pl.DataFrame) -> pl.DataFrame:
    """Return the rows with ids as a shop writes them, in no order."""
    user, item = (pl.col(name).cast(pl.Int64) * 48_271 % (2**31 - 1) for name in ("userId", "movieId"))
    return frame.with_columns(
        userId=pl.format("AX{}Q", user.cast(pl.String).str.zfill(10)),
        movieId=pl.format("B{}", item.cast(pl.String).str.zfill(10)),
    )


CHANGED = {"shuffled rows": shuffled, "sparse ids": sparse, "textual ids": textual}
DIALECTS: dict[str, Dialect] = {"Kaggle's dialect": "kaggle", "Parquet": "parquet"}


@pytest.mark.parametrize("kind", ["GroupLens' dialect", *DIALECTS, *CHANGED])
def test_kinds(benchmark: Any, ratings: Path, frame: pl.DataFrame, shape: Shape, tmp_path: Path, kind: str) -> None:
    """Run processes in turns: fastncf from the file to split and CSR, and polars alone reading the same file."""
    path = tmp_path / ("ratings.parquet" if kind == "Parquet" else "ratings.csv")
    if kind in DIALECTS:
        write_synthetic_movielens(path, shape.users, shape.items, shape.interactions, dialect=DIALECTS[kind])
    elif kind in CHANGED:
        CHANGED[kind](frame.with_columns(rating=pl.lit(3.5))).write_csv(path)
    else:
        path = ratings

    def in_turns() -> list[dict[str, dict[str, Any]]]:
        return [{side: in_a_process(side, path) for side in ("polars", "fastncf")} for _ in range(5)]

    rounds = benchmark.pedantic(in_turns, rounds=1)
    benchmark.extra_info.update(
        pair=f"ingest of {kind}, in a process of its own",
        seconds=[turn["fastncf"]["seconds"] for turn in rounds],
        of_ceiling=[turn["fastncf"]["seconds"] / turn["polars"]["seconds"] for turn in rounds],
        ceiling="polars.read_parquet" if kind == "Parquet" else "polars.read_csv",
        peak=max(turn["fastncf"]["peak"] for turn in rounds),
        ceiling_peak=max(turn["polars"]["peak"] for turn in rounds),
    )
    assert all(turn[side]["rows"] == shape.interactions for turn in rounds for side in turn)


def test_growth(benchmark: Any, frame: pl.DataFrame, shape: Shape, tmp_path: Path) -> None:
    """Measure the seconds per row of reading copies of the generated data, each with users of its own."""

    def grow() -> dict[int, list[float]]:
        cost = {}
        for size in shape.growth_of_ingest:
            copies = [frame.with_columns(pl.col("userId") + k * shape.users) for k in range(-(-size // frame.height))]
            path = tmp_path / "ratings.csv"
            pl.concat(copies).head(size).write_csv(path)
            del copies
            times = []
            for _ in range(2 + 10_000_000 // size):
                start = time.perf_counter()
                split = leave_one_out(read_interactions(path))
                times.append((time.perf_counter() - start) / size)
                assert split.num_interactions + split.num_duplicates == size
            cost[size] = times[1:]
        return cost

    cost = benchmark.pedantic(grow, rounds=1)
    benchmark.extra_info.update(pair="ingest of GroupLens' columns, per row", growth=cost)
