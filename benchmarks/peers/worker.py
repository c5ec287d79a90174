"""Fit one system in an environment of its own, and store its lists: ``python -m benchmarks.peers.worker JOB.json``.

Imports nothing but NumPy and the system's adapter. The job names the adapter, its settings and the files; the answer
goes to ``report.json``, ``lists.npy`` and ``scores.npy`` beside it.
"""

import importlib
import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.adapters.base import Adapter, Clock
from benchmarks.peers.histories import Histories


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Return the seconds of each part and the peak memory, after the lists and scores were written.

    Args:
        job: ``adapter`` and ``system`` (a module of adapters and its class), ``settings``, ``seed``, ``seconds`` of
            processor time for the training, ``histories`` and ``queries`` (files), ``folder`` for the answers, ``k``.
    """
    seconds: dict[str, float] = {}
    processor_seconds: dict[str, float] = {}
    start = time.perf_counter(), time.process_time()

    def lap(name: str) -> None:
        nonlocal start
        now = time.perf_counter(), time.process_time()
        seconds[name], processor_seconds[name] = now[0] - start[0], now[1] - start[1]
        start = now

    histories, folder = Histories.load(job["histories"]), Path(job["folder"])
    with np.load(job["queries"]) as queries:
        users, items = queries["users"], queries["items"]
    lap("load")
    module = importlib.import_module(f"benchmarks.peers.adapters.{job['adapter']}")
    adapter: Adapter = getattr(module, job["system"])(job["settings"], job["seed"])
    adapter.prepare(histories)
    lap("prepare")
    done = adapter.fit(Clock(job["seconds"]))
    lap("fit")
    np.save(folder / "lists.npy", np.asarray(adapter.topk(users, job["k"]), dtype=np.int32))
    lap("lists")
    scores = adapter.score(users, np.maximum(items, 0)) if items.size else None
    if scores is not None:
        np.save(folder / "scores.npy", np.asarray(scores, dtype=np.float32))
    lap("scores")
    return {
        "seconds": seconds,
        "processor_seconds": processor_seconds,
        "peak_bytes": peak_bytes(),
        "load": os.getloadavg()[0],
        "done": done,
    }


def peak_bytes() -> int:
    """Return the largest resident memory of this process so far.

    ``getrusage`` would count the process that started it on Linux, so its own entry is read there.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in bytes on macOS


def main() -> None:
    """Run the job of the file that is named on the command line."""
    path = Path(sys.argv[1])
    job = json.loads(path.read_text(encoding="utf-8"))
    resource.setrlimit(resource.RLIMIT_CPU, (int(job["processor_limit"]) + 1, resource.RLIM_INFINITY))
    report = run(job)
    (path.parent / "report.json").write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main()
