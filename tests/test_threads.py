import os
import threading

import numpy as np
import pytest

from fastncf.errors import ConfigError
from fastncf.kernels.cpu.hashing import mix64
from fastncf.rng import key, mix
from fastncf.threads import even_ranges, num_threads, run_ranges, run_threads


def test_ranges_cover_everything_once(monkeypatch):
    for threads in ("1", "3"):
        monkeypatch.setenv("FASTNCF_NUM_THREADS", threads)
        seen = np.zeros(100, dtype=int)

        def kernel(start: int, stop: int, seen: np.ndarray = seen) -> None:
            seen[start:stop] += 1

        run_ranges(kernel, np.array([0, 10, 10, 60, 100]))
        assert (seen == 1).all()


@pytest.mark.parametrize("rows", [0, 1, 5, 1000])
def test_even_ranges_are_of_about_the_same_length(monkeypatch, rows):
    monkeypatch.setenv("FASTNCF_NUM_THREADS", "3")
    bounds = even_ranges(rows, 2)
    assert (bounds[0], bounds[-1], len(bounds)) == (0, rows, 7)
    assert set(np.diff(bounds).tolist()) <= {rows // 6, rows // 6 + 1}


def test_ranges_run_at_the_same_time(monkeypatch):
    monkeypatch.setenv("FASTNCF_NUM_THREADS", "2")
    meet = threading.Barrier(2)
    run_ranges(lambda start, stop: meet.wait(timeout=30), np.array([0, 1, 2]))


def test_threads_run_at_the_same_time_whatever_their_number(monkeypatch):
    monkeypatch.setenv("FASTNCF_NUM_THREADS", "1")
    barrier, called = threading.Barrier(3), []

    def kernel(thread: int) -> None:
        barrier.wait(timeout=30)
        called.append(thread)

    run_threads(kernel, 3)
    assert sorted(called) == [0, 1, 2]


def test_an_error_is_raised(monkeypatch):
    monkeypatch.setenv("FASTNCF_NUM_THREADS", "2")

    meet = threading.Barrier(2)

    for bad in (0, 5):

        def fail(start: int, stop: int, bad: int = bad) -> None:
            meet.wait(timeout=30)  # one range on each thread
            if start == bad:
                raise ValueError(f"at {start}")

        with pytest.raises(ValueError, match=f"at {bad}"):
            run_ranges(fail, np.array([0, 5, 9]))


def test_number_of_threads(monkeypatch):
    monkeypatch.delenv("FASTNCF_NUM_THREADS", raising=False)
    assert 1 <= num_threads() <= (os.cpu_count() or 1)
    monkeypatch.setenv("FASTNCF_NUM_THREADS", "3")
    assert num_threads() == 3
    for bad in ("0", "-1", "many", ""):
        monkeypatch.setenv("FASTNCF_NUM_THREADS", bad)
        with pytest.raises(ConfigError, match="FASTNCF_NUM_THREADS"):
            num_threads()


def test_keys_differ_in_every_part():
    keys = {key(a, b, c) for a in range(20) for b in range(20) for c in range(20)}
    assert len(keys) == 8000
    assert len({mix(x) for x in range(10_000)}) == 10_000


def test_the_kernels_mixer_is_the_same():
    for x in (0, 1, 2**32 + 7, 2**64 - 1):
        assert int(mix64(np.uint64(x))) == mix(x)
