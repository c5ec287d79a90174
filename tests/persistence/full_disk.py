"""Writing to a small disk that is full: the older files stay, and one sentence says so. Needs root, to mount a tmpfs.

``python -m tests.persistence.full_disk`` writes each kind of file to disks of growing size until it fits, and prints
how many times it did not.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl

import fastncf
from fastncf.data.synthetic import write_synthetic_movielens
from fastncf.errors import MAX_MESSAGE_LENGTH, DataError
from tests.persistence.saved import fitted, is_same

_STEP = 16 << 10


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[None]:
    """Mount an empty disk of a size in bytes at a folder."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _larger() -> pl.DataFrame:
    generator = np.random.default_rng(0)
    rows = {"user": generator.integers(0, 800, 20_000), "item": generator.integers(0, 300, 20_000)}
    return pl.DataFrame(rows | {"time": np.arange(20_000)})


def cases() -> dict[str, tuple[Callable[[Path], object], Callable[[Path], object]]]:
    """Return what is written first, and what then takes more space, by name."""
    small = fitted()
    large = fastncf.fit(_larger(), epochs=1, loss="bce", history="bag", l2=0.01, dim=32, device="cpu", num_candidates=5)
    return {
        "model": (lambda folder: small.save(folder / "m"), lambda folder: large.save(folder / "m")),
        "CSV": (
            lambda folder: small.recommend(k=1, out=folder / "a.csv"),
            lambda folder: large.recommend(k=30, out=folder / "a.csv"),
        ),
        "Parquet": (
            lambda folder: small.recommend(k=1, out=folder / "a.parquet"),
            lambda folder: large.recommend(k=30, out=folder / "a.parquet"),
        ),
        "NPZ": (lambda folder: small.export(folder / "v.npz"), lambda folder: large.export(folder / "v.npz")),
        "generated data": (
            lambda folder: write_synthetic_movielens(folder / "g.csv", 30, 20, 200, seed=0),
            lambda folder: write_synthetic_movielens(folder / "g.csv", 300, 200, 9000, seed=0),
        ),
    }


def content_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def try_until_it_fits(folder: Path, first: Callable[[Path], object], second: Callable[[Path], object]) -> int:
    """Write on disks of growing size until the second content fits; return how often it did not."""
    num_refused, size = 0, 3 * _STEP
    while True:
        size += _STEP
        with small_disk(folder, size):
            try:
                first(folder)
            except DataError:
                continue
            before = content_of(folder)
            try:
                second(folder)
            except DataError as error:
                assert len(str(error)) <= MAX_MESSAGE_LENGTH  # noqa: PT017
                assert "No space left" in str(error), str(error)  # noqa: PT017
                assert content_of(folder) == before, f"{size}: the older files have changed, or others are left"
                num_refused += 1
                continue
            if (folder / "m").is_dir():
                assert not is_same(fastncf.load(folder / "m"), fitted())
            return num_refused


def main() -> int:
    """Try all kinds of files and print how often each was refused."""
    if os.geteuid() != 0:
        print("skipped: only root may mount a disk")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        refused = {name: try_until_it_fits(Path(folder), *writers) for name, writers in cases().items()}
    print(json.dumps({"refused, and the older file was whole": refused}))
    return int(min(refused.values()) == 0)


if __name__ == "__main__":
    sys.exit(main())
