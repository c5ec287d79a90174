"""Memory and time that ``--dry-run`` expects of a fit, beside what the fit takes.

``python -m benchmarks.forecast`` generates data of several sizes, asks ``fastncf fit --dry-run`` for each kind of fit,
fits in another process, and prints a table: the peak of the resident memory as Linux counts it (``VmHWM``, without that
of the process before ``exec``), and the seconds of the whole command. ``--rows 100000`` and ``--kinds mf`` try fewer.
It returns 1 where an expectation is off by more than 30 %. A machine that does other work beside it spoils the times:
``--memory-only`` leaves them out of the judgement.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from fastncf.data.synthetic import write_synthetic_movielens

SIZES = {100_000: (943, 1_682), 1_000_000: (6_040, 3_706), 5_000_000: (35_000, 12_000)}
"""Users and items of data by their rows."""

KINDS = {
    "mf": ["--loss", "bce", "--history", "sequence", "--l2", "0.005", "--epochs", "8"],
    "mf without histories": ["--loss", "bce", "--history", "none", "--l2", "0.005", "--epochs", "8"],
    "mf by softmax": ["--loss", "softmax", "--history", "sequence", "--dim", "32", "--num-negatives", "64"],
    "mf of sets": ["--loss", "softmax", "--history", "bag", "--dim", "32", "--num-negatives", "64"],
    "mlp": ["--model", "mlp", "--optimizer", "adam", "--epochs", "2"],
    "gmf by autograd": ["--model", "gmf", "--optimizer", "adam", "--epochs", "2"],
}
"""Settings of fits, by name."""

_SOFTMAX_EPOCHS = ["--epochs", "3"]
_FIT = """
import atexit, sys
from fastncf import cli

def tell():
    lines = open("/proc/self/status", encoding="ascii").read().splitlines()
    print(next(line for line in lines if line.startswith("VmHWM")).split()[1], file=sys.stderr)

atexit.register(tell)
cli.main(sys.argv[1:])
"""


class Row(NamedTuple):
    """A kind of fit to data of one size: bytes and seconds, expected and found."""

    kind: str
    rows: int
    expected_bytes: int
    found_bytes: int
    expected_seconds: float
    found_seconds: float

    @property
    def errors(self) -> tuple[float, float]:
        """Relative errors of the expected bytes and seconds."""
        return self.expected_bytes / self.found_bytes - 1, self.expected_seconds / self.found_seconds - 1

    def __str__(self) -> str:
        of_bytes, of_seconds = self.errors
        return (
            f"| {self.rows:,} | {self.kind} | {self.expected_bytes / 1e6:,.0f} MB | {self.found_bytes / 1e6:,.0f} MB | "
            f"{of_bytes:+.0%} | {self.expected_seconds:.1f} s | {self.found_seconds:.1f} s | {of_seconds:+.0%} |"
        )


def measure(ratings: Path, kind: str, rows: int) -> Row:
    """Return what is expected of a fit, and what it takes."""
    settings = KINDS[kind] if "--epochs" in KINDS[kind] else [*KINDS[kind], *_SOFTMAX_EPOCHS]
    arguments = ["fit", str(ratings), *settings, "--device", "cpu", "--json"]
    asked = subprocess.run([sys.executable, "-m", "fastncf", *arguments, "--dry-run"], capture_output=True, check=True)
    cost = json.loads(asked.stdout)["cost"]
    begin = time.perf_counter()
    fitted = subprocess.run([sys.executable, "-c", _FIT, *arguments], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - begin
    return Row(kind, rows, cost["memory_bytes"], 1024 * int(fitted.stderr.split()[-1]), cost["seconds"], seconds)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="*", choices=SIZES, default=[*SIZES])
    parser.add_argument("--kinds", nargs="*", choices=KINDS, default=[*KINDS])
    parser.add_argument("--memory-only", action="store_true")
    given = parser.parse_args()
    print("| rows | fit | memory expected | found | | time expected | found | |\n|---|---|---|---|---|---|---|---|")
    worst = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for rows in given.rows:
            ratings = Path(folder) / f"{rows}.csv"
            write_synthetic_movielens(ratings, *SIZES[rows], rows, seed=0)
            for kind in given.kinds:
                row = measure(ratings, kind, rows)
                print(row, flush=True)
                worst = max(worst, *(abs(error) for error in row.errors[: 1 if given.memory_only else 2]))
            ratings.unlink()
    return int(worst > 0.3)


if __name__ == "__main__":
    sys.exit(main())
