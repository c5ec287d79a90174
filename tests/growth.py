"""Many fits in one process: memory, threads and open files must not grow with their number.

    python -m tests.growth --fits 200

prints what there was after each fifth of them. ``tests/test_growth.py`` runs a few.
"""

import argparse
import gc
import os
import tempfile
import threading
from pathlib import Path
from typing import Any, NamedTuple

import fastncf
from fastncf.memory import resident_bytes
from tests.conftest import checkerboard

FITS: tuple[dict[str, Any], ...] = (
    {"loss": "bce"},
    {"loss": "softmax"},
    {"model": "gmf", "history": "none", "validation": True, "patience": 1},
    {"model": "mlp", "layers": (8,)},
    {"model": "neumf", "layers": (8,), "optimizer": "adam"},
    {"model": "gmf", "optimizer": "adam"},
)
"""Settings of the fits, one after the other."""


class Used(NamedTuple):
    """Resources that the process uses.

    Attributes:
        num_bytes: memory.
        threads: number of threads of Python.
        files: number of open files.
    """

    num_bytes: int
    threads: int
    files: int


def used() -> Used:
    """Return what the process uses when nothing is left to be collected."""
    gc.collect()
    return Used(resident_bytes(), threading.active_count(), len(os.listdir("/proc/self/fd")))


def run(num_fits: int, folder: Path) -> None:
    """Fit, save, load and ask models, with checkpoints."""
    data = checkerboard()
    for number in range(num_fits):
        settings = {"dim": 4, "epochs": 2, "num_negatives": 2, "l2": None} | FITS[number % len(FITS)]
        with tempfile.TemporaryDirectory(dir=folder) as name:
            rec = fastncf.fit(data, progress=False, checkpoint=Path(name) / "checkpoint", **settings)
            rec.save(Path(name) / "model")
            fastncf.load(Path(name) / "model").recommend([1, 2], k=3)


def main() -> None:
    """Run the fits that were asked for, and fail where memory has grown by 5 MB or more behind the first fifth."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fits", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = []
        for _ in range(5):
            run(arguments.fits // 5, Path(name))
            found.append(used())
            print(
                f"{found[-1].num_bytes / 1e6:.1f} MB, {found[-1].threads} threads, {found[-1].files} files", flush=True
            )
    assert found[-1].num_bytes - found[0].num_bytes < 5e6, "memory has grown"
    assert found[-1][1:] == found[0][1:], "threads or open files have grown"


if __name__ == "__main__":
    main()
