"""Kills at random moments of fits with checkpoints: what is resumed at last has the bits of an undisturbed fit.

    python -m tests.checkpoints.kills --kills 100 --seed 1

prints one line for each fit. ``tests/checkpoints/test_kills.py`` runs a few of them.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import fastncf
from tests.checkpoints import stops
from tests.interrupts import FOLDER, write_ratings

COMMANDS = {
    "histories": ["--loss", "bce", "--l2", "0.005", "--epochs", "20"],
    "blocks": ["--history", "none", "--loss", "bce", "--epochs", "30", "--l2", "0.005"],
    "softmax": ["--loss", "softmax", "--epochs", "6", "--num-negatives", "128", "--dim", "32"],
    "sets": ["--loss", "softmax", "--history", "bag", "--epochs", "6", "--num-negatives", "128", "--dim", "32"],
    "gmf by softmax": ["--model", "gmf", "--loss", "softmax", "--epochs", "6", "--num-negatives", "64", "--dim", "32"],
    "mlp": ["--model", "mlp", "--epochs", "4", "--validation", "--patience", "2"],
    "mlp alone": ["--model", "mlp", "--optimizer", "adam", "--epochs", "4", "--dropout", "0.2"],
    "neumf": ["--model", "neumf", "--epochs", "3", "--l2", "0.003"],
    "autograd": ["--model", "gmf", "--optimizer", "adam", "--epochs", "6"],
    "autograd in bfloat16": ["--model", "mlp", "--optimizer", "adam", "--epochs", "3", "--precision", "bfloat16"],
    "refit": ["--loss", "bce", "--l2", "0.005", "--epochs", "30", "--refit"],
    "chosen": ["--epochs", "4", "--dim", "16"],
}
"""Fits that are killed, by name."""

_OFTEN = """
import sys
from fastncf.trainers import recorder
recorder.SECONDS_BETWEEN = 0.1
from fastncf import cli
cli.main()
"""
"""The command line with a snapshot at nearly every boundary, so that many kills hit one."""


def start(name: str, folder: Path, out: Path, checkpoint: Path | None, seed: int) -> subprocess.Popen[str]:
    """Start a fit on one to three threads that goes on from a checkpoint, if there is one."""
    arguments = ["fit", "ratings.csv", "--out", str(out), *COMMANDS[name]]
    if checkpoint is not None:
        arguments += ["--checkpoint", str(checkpoint), "--resume"]
    environment = {**os.environ, "PYTHONPATH": str(FOLDER), "FASTNCF_NUM_THREADS": str(1 + seed % 3)}
    return subprocess.Popen(
        [sys.executable, "-c", _OFTEN, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_snapshot(process: subprocess.Popen[str], checkpoint: Path) -> None:
    """Wait until a process has written a snapshot beside those that were there, or is over."""
    known = set(checkpoint.glob("*training*"))
    while process.poll() is None and set(checkpoint.glob("*training*")) <= known:
        time.sleep(0.005)


def kill_until_over(name: str, folder: Path, generator: random.Random, most: int) -> int:
    """Kill a fit at random moments until one ends before its kill, and compare that.

    Args:
        name: of the fit.
        folder: has the ratings.
        generator: chooses the moments.
        most: kills after which the fit may end.

    Returns:
        The number of kills.
    """
    expected, found, checkpoint = folder / f"{name}-expected", folder / "found", folder / "checkpoint"
    if not expected.exists():
        finish(start(name, folder, expected, None, 0))
    for path in (found, checkpoint):
        shutil.rmtree(path, ignore_errors=True)
    kills = 0
    while True:
        process = start(name, folder, found, checkpoint, kills)
        longest = 5.0  # it is killed wherever it is, reading, compiling or evaluating
        if generator.random() < 0.8:
            wait_for_snapshot(process, checkpoint)
            longest = 0.2  # so that short trainings are killed as often as long ones
        try:
            seconds = generator.uniform(0, longest * (1 + kills / 8))
            _, errors = process.communicate(timeout=seconds if kills < most else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            kills += 1
        else:
            break
    assert process.returncode == 0, f"exit code {process.returncode}: {errors[-2000:]}"
    stops.require_same(fastncf.load(expected), fastncf.load(found))
    return kills


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for the end of a process, which must be one without an error."""
    _, errors = process.communicate()
    assert process.returncode == 0, f"exit code {process.returncode}: {errors[-2000:]}"


def main() -> None:
    """Kill fits of all kinds in turn until there were as many kills as asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    generator, fits, killed = random.Random(arguments.seed), 0, dict.fromkeys(COMMANDS, 0)
    most = -(-arguments.kills // len(COMMANDS))  # so that all kinds of fits get their share
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        write_ratings(Path(name))
        while sum(killed.values()) < arguments.kills:
            for command in COMMANDS:
                kills = kill_until_over(command, Path(name), generator, most)
                killed[command], fits = killed[command] + kills, fits + 1
                print(f"{command}: {kills} kills, then the same bits", flush=True)
    print(", ".join(f"{command} {kills}" for command, kills in killed.items()))
    total, seconds = sum(killed.values()), time.monotonic() - begin
    print(f"{total} kills in {fits} fits, all resumed with the same bits, {seconds:.0f} s")


if __name__ == "__main__":
    main()
