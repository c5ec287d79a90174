"""Curves over the time of a training: when their points are taken, and what the table shows of them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.curves import at_time, table
from benchmarks.peers import worker
from benchmarks.peers.adapters.base import Adapter, Clock


class Steps(Adapter):
    """A system whose lists hold the number of its steps."""

    step = 0

    def topk(self, users: np.ndarray, k: int) -> np.ndarray:
        return np.full((len(users), k), self.step)


def test_points_are_stored_late_enough_and_lists_take_no_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    now = 0.0
    monkeypatch.setattr(worker.time, "process_time", lambda: now)
    monkeypatch.setattr(worker.time, "perf_counter", lambda: 2 * now)

    class Slow(Steps):
        def topk(self, users: np.ndarray, k: int) -> np.ndarray:
            nonlocal now
            now += 100.0  # of which a training knows nothing
            return super().topk(users, k)

    adapter = Slow({}, 0)
    clock = Clock(9.5)
    points = worker.Points(adapter, np.arange(3), 2, tmp_path)
    while not clock.is_over():
        now += 1.0
        adapter.step += 1
        points.after_step(clock)
    points.store()
    stored = [int(np.load(tmp_path / f"points-{number}.npy")[0, 0]) for number in range(len(points.seconds))]
    assert stored == [1, 2, 3, 5, 7, 10]
    assert points.seconds == [[step, 2 * step] for step in stored]


def test_the_table_shows_the_last_point_before_a_time() -> None:
    points = [
        {"processor_seconds": seconds, "seconds": seconds, "full/ndcg@10": value, "full/ndcg@10 error": 0.001}
        for seconds, value in ((2.0, 0.1), (9.0, 0.25), (40.0, 0.2))
    ]
    curve: dict[str, Any] = {"points": points, "load": 3.0, "done": "3 epochs", "limit": 60.0}
    assert [at_time(curve, seconds) for seconds in (1, 2, 30, 99)] == [None, 0.1, 0.25, 0.2]
    failed = {"failed": "ended by signal 9", "load": 1.0, "limit": 30.0}
    found = {"date": "d", "machine": "m", "data": {"beauty": {"implicit-als": failed, "fastncf": curve}}}
    lines = list(table(found))
    rows = [line for line in lines if line.startswith("| ") and "system" not in line]
    assert "limit of the training: 30 s, 60 s" in "\n".join(lines)
    assert rows[0] == (
        "| fastncf `mf`, the default |  | 0.1000 | 0.2500 | 0.2500 | 0.2000 | 0.2000 | 0.2000 ± 0.0010 | 40.0 | 3 | "
        "3 epochs |"
    )
    assert "ended by signal 9" in rows[1]
    assert {line.count("|") for line in lines if line.startswith("|")} == {12}
