"""Memory and time that ``--dry-run`` expects of a fit, beside what the fit takes.

``python -m benchmarks.forecast`` generates data of several sizes. For each kind of fit it asks ``fastncf fit
--dry-run`` and fits in another process, one after the other, ``--repeats`` times, and prints a table of medians: the
peak of the resident memory as Linux counts it (``VmHWM``, without that of the process before ``exec``), the seconds of
the whole command, and the processes that wanted to run meanwhile, those of the benchmark included. ``--data FILE ...``
takes other data; ``--rows 100000``, ``--kinds mf`` and ``--threads 1`` try less. It returns 1 where an expectation is
off by more than 30 %. Other work on the machine that comes and goes spoils the times: ``--first`` lets the scheduler
prefer the benchmark, which needs root, and ``--memory-only`` leaves the times out of the judgement.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

from fastncf.data.synthetic import write_synthetic_movielens

SIZES = {
    100_000: (943, 1_682),
    1_000_000: (6_040, 3_706),
    5_000_000: (35_000, 12_000),
    20_000_000: (138_493, 26_744),
}
"""Users and items of data by their rows."""

_SHORT_SOFTMAX = ["--loss", "softmax", "--dim", "32", "--num-negatives", "64", "--epochs", "4"]
KINDS = {
    "default": [],
    "fast": ["--budget", "fast"],
    "mf": ["--loss", "bce", "--history", "sequence", "--l2", "0.005", "--epochs", "8"],
    "mf of bags": ["--loss", "bce", "--history", "bag", "--l2", "0.005", "--epochs", "8"],
    "mf without histories": ["--loss", "bce", "--history", "none", "--l2", "0.005", "--epochs", "8"],
    "mf by bpr": ["--loss", "bpr", "--l2", "0.005", "--epochs", "8"],
    "mf with a chosen l2": ["--loss", "bce", "--epochs", "8"],
    "mf by softmax": [*_SHORT_SOFTMAX, "--history", "sequence"],
    "mf of sets": [*_SHORT_SOFTMAX, "--history", "bag"],
    "mlp": ["--model", "mlp", "--optimizer", "adam", "--epochs", "2"],
    "mlp from mf": ["--model", "mlp", "--budget", "fast"],
    "neumf": ["--model", "neumf", "--budget", "fast", "--epochs", "2"],
    "gmf": ["--model", "gmf", "--loss", "bce", "--l2", "0.005", "--epochs", "8"],
    "gmf by autograd": ["--model", "gmf", "--optimizer", "adam", "--epochs", "2"],
    "popularity": ["--model", "popularity"],
    "full ranking": ["--loss", "bce", "--l2", "0.005", "--epochs", "4", "--full-ranking"],
    "validation": ["--loss", "bce", "--l2", "0.005", "--epochs", "8", "--validation"],
    "refit": ["--loss", "bce", "--l2", "0.005", "--epochs", "8", "--refit"],
    "seeds": ["--loss", "bce", "--l2", "0.005", "--epochs", "8", "--seeds", "3"],
}
"""Settings of fits, by name."""

_FIT = """
import atexit, sys
from fastncf import cli

def tell():
    lines = open("/proc/self/status", encoding="ascii").read().splitlines()
    print(next(line for line in lines if line.startswith("VmHWM")).split()[1], file=sys.stderr)

atexit.register(tell)
cli.main(sys.argv[1:])
"""


class Run(NamedTuple):
    """Bytes and seconds of a fit, expected and found, and the processes that wanted to run beside."""

    expected_bytes: int
    found_bytes: int
    expected_seconds: float
    found_seconds: float
    load: float


class Row(NamedTuple):
    """A kind of fit to some data on a number of threads, and its runs."""

    data: str
    kind: str
    threads: int
    runs: list[Run]

    @property
    def errors(self) -> tuple[float, float]:
        """Medians of the relative errors of the expected bytes and seconds."""
        return (
            median(run.expected_bytes / run.found_bytes - 1 for run in self.runs),
            median(run.expected_seconds / run.found_seconds - 1 for run in self.runs),
        )

    def __str__(self) -> str:
        expected_bytes, found_bytes, expected, found, load = map(median, zip(*self.runs, strict=True))
        of_bytes, of_seconds = self.errors
        return (
            f"| {self.data} | {self.kind} | {self.threads} | {expected_bytes / 1e6:,.0f} MB | "
            f"{found_bytes / 1e6:,.0f} MB | {of_bytes:+.0%} | {expected:.1f} s | {found:.1f} s | {of_seconds:+.0%} | "
            f"{load:.1f} |"
        )


def measure(ratings: Path, settings: list[str], threads: int) -> Run:
    """Return what is expected of a fit, and what it takes."""
    arguments = ["fit", str(ratings), *settings, "--device", "cpu", "--json"]
    environment = {**os.environ, "FASTNCF_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "fastncf", *arguments, "--dry-run"]
    asked = subprocess.run(command, capture_output=True, check=True, env=environment)
    cost = json.loads(asked.stdout)["cost"]
    command = [sys.executable, "-c", _FIT, *arguments]
    begin = time.perf_counter()
    fitted = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    seconds = time.perf_counter() - begin
    found_bytes = 1024 * int(fitted.stderr.split()[-1])
    return Run(cost["memory_bytes"], found_bytes, cost["seconds"], seconds, os.getloadavg()[0])


def take_precedence() -> None:
    """Let the scheduler prefer this process and its children to those of other sessions."""
    with suppress(PermissionError):  # a leader of a session has one already
        os.setsid()
    Path("/proc/self/autogroup").write_text("-9", encoding="ascii")


def data_sets(rows: list[int], files: list[Path], folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield names and files of data: those that are given, or generated ones, which are removed again."""
    yield from ((path.name, path) for path in files)
    for count in () if files else rows:
        ratings = folder / f"{count}.csv"
        write_synthetic_movielens(ratings, *SIZES[count], count, seed=0)
        yield f"{count:,}", ratings
        ratings.unlink()


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", choices=SIZES, default=[*SIZES][:3])
    parser.add_argument("--data", type=Path, nargs="*", default=[])
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=[*KINDS])
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--first", action="store_true")
    parser.add_argument("--memory-only", action="store_true")
    given = parser.parse_args()
    if given.first:
        take_precedence()
    print("| data | fit | threads | memory expected | found | | time expected | found | | load |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name, ratings in data_sets(given.rows, given.data, Path(folder)):
            for threads in given.threads:
                for kind in given.kinds:
                    runs = [measure(ratings, KINDS[kind], threads) for _ in range(given.repeats)]
                    row = Row(name, kind, threads, runs)
                    print(row, flush=True)
                    worst = max(worst, *(abs(error) for error in row.errors[: 1 if given.memory_only else 2]))
    return int(worst > 0.3)


if __name__ == "__main__":
    sys.exit(main())
