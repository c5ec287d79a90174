"""Fit on a folder of Parquet in bounded memory, from reading to evaluation: ``python -m benchmarks.out_of_core``.

The data are generated: an eighth of MovieLens-20M as MLPerf's training enlarges it (2.2 million users, 856 thousand
items and 1.2 billion interactions), in files each of which has rows of all users. The fit runs in a process of its own,
once with the memory of the machine and once with ``--max-memory``; both have the same metrics. It trains one epoch of
few dimensions, since what is measured is the memory. Peaks are those of the process: ``VmHWM``, in which pages of
temporary files count as long as the system keeps them, and the largest ``RssAnon``, what it could not take back.
``--folder`` names where the data are, or are to be written; ``--write`` writes ``results/out_of_core.json`` and the
table of ``RESULTS.md``.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl

import fastncf
from benchmarks.report import load_average, machine, publish
from fastncf.data.synthetic import synthetic_movielens

SETTINGS: dict[str, Any] = {"loss": "softmax", "history": "sequence", "epochs": 1, "dim": 16, "num_negatives": 64}
FILES = 32


def write_data(folder: Path, users: int, items: int, interactions: int) -> None:
    """Write the files, each with a random part of the rows."""
    rows = synthetic_movielens(users, items, interactions, seed=0)
    rows = rows.with_columns((pl.struct("userId", "movieId").hash(seed=1) % FILES).alias("file"))
    rows.sink_parquet(pl.PartitionBy(folder, key="file", include_key=False), mkdir=True)


def memory_of(name: str) -> int:
    """Return a figure of this process in ``/proc``, in bytes."""
    found = re.search(rf"^{name}:\s+(\d+)", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    assert found is not None
    return 1024 * int(found[1])


def train(folder: str, max_memory: str | None) -> None:
    """Fit, and print figures as JSON: what the benchmark starts as a process."""
    is_over, most = threading.Event(), [0]

    def watch() -> None:
        while not is_over.wait(0.05):
            most[0] = max(most[0], memory_of("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        fitted = fastncf.fit(folder, max_memory=max_memory, progress=False, **SETTINGS)
    finally:
        is_over.set()
        watcher.join()
    found = {"seconds": fitted.seconds, "metrics": fitted.metrics, "data": fitted.data}
    print(json.dumps(found | {"peak": memory_of("VmHWM"), "anonymous": most[0]}))


def measure(folder: Path, limits: list[str]) -> list[dict[str, Any]]:
    """Return the figures of a fit within each limit; an empty one is that of the machine."""
    rows = []
    for limit in limits:
        command = [sys.executable, "-m", "benchmarks.out_of_core", "--worker", str(folder), limit]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append({"limit": limit or "none", **json.loads(done.stdout.splitlines()[-1])})
        print(rows[-1], flush=True)
        assert rows[-1]["metrics"] == rows[0]["metrics"]
    return rows


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of ``RESULTS.md``."""
    data = found["fits"][0]["data"]
    size = f"{data['num_rows']:,} interactions of {data['users']:,} users and {data['items']:,} items"
    yield (
        f"One run on {found['date']}: {found['machine']}, {found['memory'] / 1e9:.0f} GB of memory, load "
        f"{found['load']:.0f}. {size}, {found['bytes'] / 1e9:.1f} GB of Parquet in {FILES} files; one epoch of "
        f"{SETTINGS['dim']} dimensions and {SETTINGS['num_negatives']} negatives. Seconds are of the clock."
    )
    yield ""
    yield "| `max_memory` | read | split | train | evaluate | peak (VmHWM) | anonymous | HR@10 | NDCG@10 |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for row in found["fits"]:
        seconds = " | ".join(
            f"{row['seconds'].get(stage, 0):,.0f} s" for stage in ("read", "split", "train", "evaluate")
        )
        memory = f"{row['peak'] / 1e9:.1f} GB | {row['anonymous'] / 1e9:.1f} GB"
        quality = " | ".join(f"{row['metrics'][name]:.4f}" for name in ("hr@10", "ndcg@10"))
        yield f"| {row['limit']} | {seconds} | {memory} | {quality} |"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("users", 274_653), ("items", 106_972), ("interactions", 150_000_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--max-memory", nargs="*", default=["", "4GB"], help="limits, an empty one for none")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--worker", nargs=2, metavar=("FOLDER", "LIMIT"), help="be one of the processes")
    options = parser.parse_args()
    if options.worker:
        train(options.worker[0], options.worker[1] or None)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary, "data")
        if not folder.exists():
            write_data(folder, options.users, options.items, options.interactions)
        found = {**machine(), "memory": total_memory(), "fits": measure(folder, options.max_memory)}
        found |= {"bytes": sum(file.stat().st_size for file in folder.rglob("*.parquet")), "load": load_average()}
    print("\n".join(table(found)))
    if options.write:
        publish("out_of_core", found, table(found))


def total_memory() -> int:
    """Return the bytes of memory of this machine."""
    return 1024 * int(Path("/proc/meminfo").read_text(encoding="ascii").split()[1])


if __name__ == "__main__":
    main()
