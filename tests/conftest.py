"""Shared parts of the tests: a data set with a known right answer, random data, and where real data lie."""

import os
from pathlib import Path

import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before Triton is imported: its kernels then run on CPU tensors

import numpy as np
import polars as pl
import pytest

from fastncf.data.interactions import Interactions, read_interactions
from fastncf.data.split import Split

torch.set_num_threads(1)  # small tensors: a second thread costs more than it brings, above all on a busy machine


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder with real MovieLens data: ``FASTNCF_DATA``, else ``shared/data`` beside the checkout."""
    folder = Path(os.environ.get("FASTNCF_DATA") or Path(__file__).parents[2] / "shared" / "data")
    if not (folder / "ml-100k" / "u.data").exists():
        pytest.skip("real data not found: set FASTNCF_DATA to a folder with ml-100k, ml-1m and ml-1m-ncf")
    return folder


def checkerboard(num_users: int = 60, num_items: int = 40, hidden: int = 3, seed: int = 0) -> pl.DataFrame:
    """Users like the items of their own parity. Each misses ``hidden`` of them: those must be recommended first."""
    generator = np.random.default_rng(seed)
    rows = []
    for user in range(num_users):
        liked = np.arange(user % 2, num_items, 2)
        shown = generator.permutation(liked)[hidden:]
        rows += [(user, int(item), time) for time, item in enumerate(shown)]
    return pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")


def random_csr(
    generator: np.random.Generator, num_users: int, num_items: int, max_degree: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A training CSR whose rows have any length from 0 to ``max_degree`` (I - 1 where it is not given)."""
    top = num_items - 1 if max_degree is None else max_degree
    rows = [
        np.sort(generator.choice(num_items, size=generator.integers(0, top + 1), replace=False))
        for _ in range(num_users)
    ]
    indptr = np.zeros(num_users + 1, dtype=np.int64)
    np.cumsum([len(row) for row in rows], out=indptr[1:])
    return indptr, np.concatenate([*rows, []]).astype(np.int32)


def random_interactions(
    generator: np.random.Generator, rows: int = 400, users: int = 30, items: int = 25
) -> Interactions:
    """Interactions with many repeated pairs and many equal times."""
    return read_interactions(
        pl.DataFrame(
            {
                "user": generator.integers(0, users, rows) * 7,
                "item": generator.integers(0, items, rows) * 3,
                "time": generator.integers(0, 40, rows),
            }
        )
    )


def plain_split(indptr: np.ndarray, indices: np.ndarray, num_items: int) -> Split:
    """A split of a CSR in which nothing is held out."""
    none = np.full(len(indptr) - 1, -1, dtype=np.int32)
    return Split(
        num_items,
        indptr,
        indices,
        none,
        none,
        num_duplicates=0,
        num_users_all_seen=0,
        num_users_too_short=0,
        holdout="given",
    )
