"""Read a file in a process of its own: ``python -m benchmarks.ingest {fastncf,polars} FILE``.

Prints as JSON the seconds from the call to the result (including kernels that are compiled or loaded for it), the peak
memory of the process in bytes, and the number of rows.
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
    """Read, split and build the CSR; return the number of rows that are accounted for."""
    split = leave_one_out(read_interactions(path))
    return split.num_interactions + split.num_duplicates


def polars(path: str) -> int:
    """Read all columns and do nothing else; return the number of rows."""
    return len(pl.read_parquet(path) if path.endswith(".parquet") else pl.read_csv(path))


SIDES = {"fastncf": fastncf, "polars": polars}


def in_a_process(side: str, path: Path) -> dict[str, Any]:
    """Run a side in a fresh process and return what it prints."""
    command = [sys.executable, "-m", "benchmarks.ingest", side, str(path)]
    found = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: dict[str, Any] = json.loads(found.stdout)
    return measured


def peak_memory() -> int:
    """Return the peak memory of this process in bytes.

    On Linux ``ru_maxrss`` would also count the memory of the parent before ``exec``.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return 1024 * int(re.findall(r"VmHWM:\s*(\d+) kB", status.read_text(encoding="ascii"))[0])
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Run the command line."""
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
