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

_RATIO = 1.4
"""Time of a point over that of the point before."""


def run(job: dict[str, Any]) -> dict[str, Any]:
    """Return the seconds of each part and the peak memory, after the lists and scores were written.

    Args:
        job: ``adapter`` and ``system`` (a module of adapters and its class), ``settings``, ``seed``, ``seconds`` of
            processor time for the training, ``histories`` and ``queries`` (files), ``folder`` for the answers, ``k``;
            ``has_points``: whether lists are stored during the training, and nothing else.
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
    clock, points = Clock(job["seconds"]), Points(adapter, users, job["k"], folder)
    if job["has_points"]:
        done = adapter.fit_in_steps(clock, lambda: points.after_step(clock))
        points.store()
        return {"done": done, "points": points.seconds, "load": os.getloadavg()[0]}
    done = adapter.fit(clock)
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


class Points:
    """Lists of a model in training, ``points-NUMBER.npy``, at times each of which is a share later than the one before.

    Args:
        adapter: the system.
        users: (n,) who get lists.
        k: length of the lists.
        folder: for the files.

    Attributes:
        seconds: of the processor and of the clock that the training took until each point, without the lists.
    """

    def __init__(self, adapter: Adapter, users: np.ndarray, k: int, folder: Path) -> None:
        self._adapter, self._users, self._k, self._folder = adapter, users, k, folder
        self._start = np.array([time.process_time(), time.perf_counter()])
        self._is_current = False
        self.seconds: list[list[float]] = []

    def after_step(self, clock: Clock) -> None:
        """Store the lists of this moment if it is late enough, and leave out the time that this takes."""
        self._is_current, now = False, self._now()
        if not self.seconds or now[0] >= _RATIO * self.seconds[-1][0]:
            self.store()
            spent = self._now() - now
            self._start += spent
            clock.extend(float(spent[0]))

    def store(self) -> None:
        """Store the lists of this moment, unless those of the last step are stored."""
        if self._is_current:
            return
        now = self._now()
        lists = np.asarray(self._adapter.topk(self._users, self._k), dtype=np.int32)
        np.save(self._folder / f"points-{len(self.seconds)}.npy", lists)
        self.seconds.append(now.tolist())
        self._is_current = True

    def _now(self) -> np.ndarray:
        """Return the seconds of the processor and of the clock since the start."""
        return np.array([time.process_time(), time.perf_counter()]) - self._start


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
