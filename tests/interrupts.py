"""Interrupts at random moments of commands and fits: each must end within seconds, and leave a process that works.

    python -m tests.interrupts --repeats 100 --seed 1

prints one line for each case. ``tests/test_interrupts.py`` runs a few of them.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

FOLDER = Path(__file__).parents[1]
SECONDS_TO_END = 40
"""Seconds after which an interrupted process counts as hanging, many times as long as one takes on an idle machine."""

SECONDS_TO_FIT = 600
"""Seconds after which two fits count as hanging whose kernels may have to be compiled on a busy machine."""

COMMANDS = {
    "mf": ["fit", "ratings.csv", "--out", "model", "--epochs", "3"],
    "mlp": ["fit", "ratings.csv", "--out", "model", "--model", "mlp", "--epochs", "2", "--validation"],
    "neumf": ["fit", "ratings.csv", "--out", "model", "--model", "neumf", "--epochs", "2", "--full-ranking"],
    "gmf": ["fit", "ratings.csv", "--out", "model", "--model", "gmf", "--optimizer", "adam", "--epochs", "2"],
    "softmax": ["fit", "ratings.csv", "--out", "model", "--loss", "softmax", "--epochs", "1"],
    "generate": ["generate", "generated.csv", "--users", "3000", "--items", "1000", "--interactions", "300000"],
}
"""Commands that are interrupted."""

FITS = {
    "mf": {},
    "mf without histories": {"history": "none"},
    "softmax": {"loss": "softmax", "epochs": 1},
    "mlp": {"model": "mlp", "epochs": 2},
    "gmf by torch": {"model": "gmf", "optimizer": "adam", "epochs": 2},
}
"""Settings of fits that are interrupted in one process, one after the other."""


def write_ratings(folder: Path) -> None:
    """Write the file that is fitted."""
    rows = [(user, f"i{item}", item) for user in range(300) for item in range(user % 7, 500, 5)]
    pl.DataFrame(rows, schema=["user", "item", "time"], orient="row").write_csv(folder / "ratings.csv")


@contextmanager
def started(arguments: list[str], folder: Path, cache: Path | None) -> Iterator[subprocess.Popen[str]]:
    """Start Python in a folder, with an empty cache of kernels where one is given; end it at last."""
    environment = {**os.environ, "PYTHONPATH": str(FOLDER)}
    if cache is not None:
        environment["NUMBA_CACHE_DIR"] = str(cache)
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def interrupt_command(name: str, folder: Path, delay: float, cache: Path | None = None) -> str:
    """Interrupt a command after some seconds and return how it ended: ``interrupted``, ``over``, or what was wrong."""
    with started(["-m", "fastncf", *COMMANDS[name]], folder, cache) as process:
        try:
            process.communicate(timeout=delay)
            return "over" if process.returncode == 0 else f"exit code {process.returncode} before the interrupt"
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            return f"hangs after {delay:.3f} s"
    if process.returncode == 130 and errors.endswith("fastncf: interrupted\n"):
        return "interrupted"
    if process.returncode in (0, -signal.SIGINT, 1) and "fastncf/cli/" not in errors:
        return "over" if process.returncode == 0 else "interrupted"  # before the first line of the package ran
    return f"exit code {process.returncode} after {delay:.3f} s: {errors[-1500:]}"


PROCESS = """
import faulthandler, os, random, signal, sys, threading, time
import polars as pl
import fastncf

settings, repeats, seed, longest = eval(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4])
generator = random.Random(seed)
frame = pl.read_csv("ratings.csv")


def interrupted(delay):
    '''Fit with an interrupt after some seconds; return whether it came in time.'''
    timer = threading.Timer(delay, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
    try:
        try:
            timer.start()
            fastncf.fit(frame, **settings).recommend([1, 2])
        finally:
            timer.cancel()
            timer.join()
    except KeyboardInterrupt:
        return True
    return False


count = 0
for _ in range(repeats):
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    try:
        count += interrupted(generator.uniform(0, longest))
    except KeyboardInterrupt:
        count += 1
    faulthandler.cancel_dump_traceback_later()
faulthandler.dump_traceback_later(MOST, exit=True)
first, second = (fastncf.fit(frame, **settings) for _ in range(2))
assert first.metrics == second.metrics
faulthandler.cancel_dump_traceback_later()
print(count)
"""


def interrupt_fits(name: str, folder: Path, repeats: int, seed: int, longest: float, cache: Path | None = None) -> str:
    """Interrupt fits in one process, then fit twice; return how many were interrupted, or what was wrong."""
    code = PROCESS.replace("LIMIT", str(SECONDS_TO_END + longest)).replace("MOST", str(SECONDS_TO_FIT))
    arguments = ["-c", code, repr(FITS[name]), str(repeats), str(seed), str(longest)]
    with started(arguments, folder, cache) as process:
        output, errors = process.communicate()
    if process.returncode == 0:
        return f"{output.strip()} interrupted"
    return f"exit code {process.returncode}: {errors[-4000:]}"


def run_all(repeats: int, seed: int) -> bool:
    """Run all cases, print their results, and return whether all went well."""
    generator = random.Random(seed)
    is_well = True
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_ratings(folder)
        for is_cold in (False, True):
            for name in COMMANDS:
                interrupt_command(name, folder, 600)  # compiles the kernels
                start = time.monotonic()
                interrupt_command(name, folder, 600)
                longest = 30.0 if is_cold else time.monotonic() - start
                found: Counter[str] = Counter()
                for number in range(-(-repeats // 10) if is_cold else repeats):
                    cache = folder / f"cache-{name}-{number}" if is_cold else None
                    found[interrupt_command(name, folder, generator.uniform(0, longest), cache)] += 1
                is_well &= set(found) <= {"interrupted", "over"}
                print(f"fastncf {' '.join(COMMANDS[name])}{' (cold)' * is_cold}: {dict(found)}", flush=True)
            for name in FITS:
                cache = folder / f"cache-{name}" if is_cold else None
                count = -(-repeats // 10) if is_cold else repeats
                result = interrupt_fits(name, folder, count, generator.randrange(2**31), 20 if is_cold else 2, cache)
                is_well &= result.endswith("interrupted")
                print(f"fit({FITS[name]}){' (cold)' * is_cold}: {result} of {count}", flush=True)
    return is_well


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    sys.exit(0 if run_all(given.repeats, given.seed) else 1)
