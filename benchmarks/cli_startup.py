"""Time whole processes of the command line, the first and later ones: ``python -m benchmarks.cli_startup u.data``.

The cache of compiled kernels is empty when a command runs for the first time. Its first process compiles the kernels;
its later processes, in turns with those of the other commands, load them. ``import torch`` is timed beside them for
comparison: a fit of ``mf`` on a CPU does not import torch. ``--write`` writes ``results/cli_startup.json`` and the
table of ``RESULTS.md``.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.report import machine, publish

FITS = {
    "`fastncf fit`": [],
    "`fastncf fit --budget fast`": ["--budget", "fast"],
    "`fastncf fit --notebook`": ["--notebook"],
    "`fastncf fit --model mlp`": ["--model", "mlp"],
}
IMPORTS = {"`import torch`": "import torch", "`import fastncf`": "import fastncf"}


def seconds_of(arguments: list[str], cache: Path) -> float:
    """Return the wall time of a process with a folder for compiled kernels; the process must succeed."""
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
        capture_output=True,
        text=True,
        check=True,
    )
    seconds = time.perf_counter() - start
    if "--json" in arguments:
        assert json.loads(done.stdout.splitlines()[-1])["metrics"]["hr@10"] > 0.3, "the model has learned nothing"
    return seconds


def measure(path: Path, rounds: int) -> list[dict[str, Any]]:
    """Return, for each command, the seconds of its first process and of ``rounds`` later ones."""
    commands = {name: ["-m", "fastncf", "fit", str(path), "--json", *flags] for name, flags in FITS.items()}
    commands |= {name: ["-c", code] for name, code in IMPORTS.items()}
    with tempfile.TemporaryDirectory() as folder:
        caches = {name: Path(folder) / str(number) for number, name in enumerate(commands)}
        rows = {name: {"name": name, "first": seconds_of(commands[name], caches[name])} for name in FITS}
        rows |= {name: {"name": name, "first": None} for name in IMPORTS}
        later: dict[str, list[float]] = {name: [] for name in rows}
        for _ in range(rounds):
            for name, arguments in commands.items():
                later[name].append(seconds_of(arguments, caches[name]))
    return [{**row, "later": later[name]} for name, row in rows.items()]


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of ``RESULTS.md``."""
    versions = found["versions"]
    yield (
        f"One run on {found['date']}: {found['machine']}, Python {versions['python']}, torch {versions['torch']}, "
        f"numba {versions['numba']}; median and range of {len(found['processes'][0]['later'])} later processes."
    )
    yield ""
    yield "| process | first process | later processes |"
    yield "|---|---|---|"
    for row in found["processes"]:
        first = "" if row["first"] is None else f"{row['first']:.1f} s"
        later = f"**{statistics.median(row['later']):.1f} s** ({min(row['later']):.1f} to {max(row['later']):.1f})"
        yield f"| {row['name']} | {first} | {later} |"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ratings", type=Path, help="u.data of MovieLens-100K")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    found = {**machine(), "processes": measure(options.ratings, options.rounds)}
    print("\n".join(table(found)))
    if options.write:
        publish("cli_startup", found, table(found))


if __name__ == "__main__":
    main()
