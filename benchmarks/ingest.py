"""One side of an ingest in a process of its own: ``python -m benchmarks.ingest {fastncf,polars} FILE``.

Prints the seconds from the call to the result, what is compiled or loaded for it counted, the process's peak memory
in bytes, and the rows.
"""

import argparse
import json
import re
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import polars as pl

from fastncf.data.interactions import read_interactions
from fastncf.data.split import leave_one_out


def fastncf(path: str) -> int:
    """Read, split and build the CSR; returns the rows that are accounted for."""
    split = leave_one_out(read_interactions(path))
    return split.num_interactions + split.num_duplicates


def polars(path: str) -> int:
    """Read all columns, and nothing else."""
    return len(pl.read_parquet(path) if path.endswith(".parquet") else pl.read_csv(path))


SIDES = {"fastncf": fastncf, "polars": polars}


def in_a_process(side: str, path: Path) -> dict[str, Any]:
    """What a fresh process prints."""
    command = [sys.executable, "-m", "benchmarks.ingest", side, str(path)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: dict[str, Any] = json.loads(found.stdout)
    return measured


def peak_memory() -> int:
    """Bytes that this process held at most. Linux's ``ru_maxrss`` would count its parent's, too, before ``exec``."""
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.findall(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="ascii"))[0])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("side", choices=sorted(SIDES))
    parser.add_argument("file")
    options = parser.parse_args()
    start = time.perf_counter()
    rows = SIDES[options.side](options.file)
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak": peak_memory(), "rows": rows}))


if __name__ == "__main__":
    main()
