"""Data of the benchmark suite, and a fixture that times one side of a pair."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import polars as pl
import pytest
import torch

from fastncf.data.interactions import read_interactions
from fastncf.data.split import Split, leave_one_out
from fastncf.data.synthetic import synthetic_movielens, write_synthetic_movielens


class Shape(NamedTuple):
    """Sizes of the generated data.

    Attributes:
        users: U.
        items: I.
        interactions: number of ratings.
        slow: interactions that slow sides are timed on.
        growth: interactions at the points of the growth curve of sampling.
        growth_of_ingest: rows at the points of the growth curve of reading.
    """

    users: int
    items: int
    interactions: int
    slow: int
    growth: tuple[int, ...]
    growth_of_ingest: tuple[int, ...]


ML_1M = Shape(6_040, 3_706, 1_000_209, 20_000, (1_000_000, 4_000_000), (250_000, 1_000_000))
ML_20M = Shape(
    users=138_493,
    items=26_744,
    interactions=20_000_263,
    slow=100_000,
    growth=(1_000_000, 10_000_000, 100_000_000, 200_000_000),
    growth_of_ingest=(1_000_000, 10_000_000, 100_000_000),
)
SHAPES = {"small": ML_1M, "ml-20m": ML_20M}
CPU = torch.device("cpu")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--shape``."""
    parser.addoption(
        "--shape", choices=sorted(SHAPES), default="small", help="size of the data: MovieLens-1M (small) or -20M"
    )


@pytest.fixture(scope="session")
def shape(request: pytest.FixtureRequest) -> Shape:
    """Return the sizes that ``--shape`` names."""
    return SHAPES[request.config.getoption("--shape")]


@pytest.fixture(scope="session")
def ratings(shape: Shape, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the generated data as a CSV with Unix times."""
    path = tmp_path_factory.mktemp("generated") / "ratings.csv"
    write_synthetic_movielens(path, shape.users, shape.items, shape.interactions)
    return path


def generated(shape: Shape) -> pl.DataFrame:
    """Return the generated data of a shape: userId, movieId, timestamp."""
    return (
        synthetic_movielens(shape.users, shape.items, shape.interactions)
        .select("userId", "movieId", "timestamp")
        .collect()
    )


@pytest.fixture(scope="session")
def frame(shape: Shape) -> pl.DataFrame:
    """Return the generated data."""
    return generated(shape)


@pytest.fixture(scope="session")
def split(frame: pl.DataFrame) -> Split:
    """Return the split of the generated data."""
    return leave_one_out(read_interactions(frame))


def first_users(split: Split, interactions: int) -> Split:
    """Return the training data of the first users, who have at least ``interactions`` in all."""
    users = int(np.searchsorted(split.indptr, interactions))
    indptr = split.indptr[: users + 1]
    test, validation = split.test_item[:users], split.validation_item[:users]
    return Split(split.num_items, indptr, split.indices[: indptr[-1]], validation, test, 0, 0, 0, holdout="latest")


Side = Literal["loop", "fastncf", "ceiling"]


@pytest.fixture(autouse=True)
def name_the_shape(request: pytest.FixtureRequest, benchmark: Any) -> None:
    """Store the shape with each benchmark."""
    benchmark.extra_info["shape"] = request.config.getoption("--shape")


@pytest.fixture
def timed(benchmark: Any) -> Callable[..., Any]:
    """Return a function that times one side of a pair and returns its last result, which the caller checks.

    It runs the work ``rounds`` times. ``pair``, ``side``, ``what``, and the number of ``units`` in a round are stored
    in the JSON. ``hooks`` are pytest-benchmark's ``setup`` and ``teardown`` of a round.
    """

    def run(
        work: Callable[..., Any],
        *,
        pair: str,
        side: Side,
        what: str,
        units: int,
        unit: str,
        rounds: int = 7,
        **hooks: Callable[..., Any],
    ) -> Any:
        benchmark.group = pair
        benchmark.extra_info.update(pair=pair, side=side, what=what, units=units, unit=unit)
        warm = 0 if side == "loop" else 1  # plain Python has nothing to compile
        return benchmark.pedantic(work, rounds=rounds, warmup_rounds=0 if hooks else warm, **hooks)

    return run
