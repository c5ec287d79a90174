import os
import signal
import threading
import time

import numpy as np
import pytest

from fastncf import threads
from fastncf.errors import ConfigError
from fastncf.kernels.cpu.hashing import mix64
from fastncf.rng import key, mix
from fastncf.threads import even_ranges, num_threads, run_ranges, run_threads


def test_ranges_cover_everything_once(monkeypatch):
    for number in ("1", "3"):
        monkeypatch.setenv("FASTNCF_NUM_THREADS", number)
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


def interrupt_soon(seconds: float = 0.2) -> None:
    """Send the main thread an interrupt after some time."""
    timer = threading.Timer(seconds, signal.pthread_kill, [threading.main_thread().ident, signal.SIGINT])
    timer.daemon = True
    timer.start()


def test_an_interrupt_ends_all_threads_without_doing_the_rest(monkeypatch):
    monkeypatch.setenv("FASTNCF_NUM_THREADS", "3")
    begun = []

    def kernel(start: int, stop: int) -> None:
        begun.append(start)
        time.sleep(0.05)

    interrupt_soon()
    with pytest.raises(KeyboardInterrupt):
        run_ranges(kernel, np.arange(100_001))
    count = len(begun)
    assert count < 100_000
    time.sleep(0.2)
    assert len(begun) == count


def test_an_interrupt_ends_what_the_other_threads_call(monkeypatch):
    """As in the search for l2, where each thread trains a model by calls of its own."""
    monkeypatch.setenv("FASTNCF_NUM_THREADS", "2")
    ended = []

    def train(start: int, stop: int) -> None:
        try:
            for _ in range(100_000):
                run_ranges(lambda a, b: time.sleep(0.001), np.arange(3))
        except BaseException as error:
            ended.append(type(error))
            raise

    interrupt_soon()
    with pytest.raises(KeyboardInterrupt):
        run_ranges(train, np.arange(3))
    assert sorted(kind.__name__ for kind in ended) == ["CancelledError", "KeyboardInterrupt"]


def test_an_interrupt_does_not_wait_for_a_thread_that_never_ends(monkeypatch):
    monkeypatch.setattr(threads, "_PATIENCE", 0.1)
    monkeypatch.setenv("FASTNCF_NUM_THREADS", "2")
    end = threading.Event()

    def kernel(start: int, stop: int) -> None:
        if threading.current_thread() is threading.main_thread():
            time.sleep(30)
        end.wait()

    interrupt_soon()
    try:
        with pytest.raises(KeyboardInterrupt):
            run_ranges(kernel, np.arange(3))
    finally:
        end.set()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_no_thread_waits_at_a_barrier_for_one_that_was_not_started(number, monkeypatch):
    """An interrupt, or a limit of threads, may come between the starts of two threads."""
    start, left, called = threading.Thread.start, [number], []

    def start_some(thread: threading.Thread) -> None:
        if left[0] == 0:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    before = threading.active_count()
    monkeypatch.setattr(threading.Thread, "start", start_some)
    with pytest.raises(RuntimeError, match="new thread"):
        run_threads(called.append, 3)
    assert called == []
    assert threading.active_count() <= before


def test_threads_that_have_begun_end_together_after_an_interrupt():
    barrier, rounds = threading.Barrier(3), []

    def kernel(thread: int) -> None:
        for _ in range(10):
            barrier.wait(timeout=30)
            time.sleep(0.05)
        rounds.append(thread)

    interrupt_soon()
    with pytest.raises(KeyboardInterrupt):
        run_threads(kernel, 3)
    assert sorted(rounds) == [0, 1, 2]


def test_an_interrupt_leaves_what_another_thread_does_aside():
    end, cancelled = threading.Event(), []

    def work() -> None:
        while not cancelled:
            try:
                threads.check_cancelled()
            except threads.CancelledError:
                cancelled.append(threading.current_thread())
        end.set()

    interrupt_soon()
    with pytest.raises(KeyboardInterrupt):
        threads.run_aside(work)
    assert end.wait(30)
    assert cancelled != [threading.main_thread()]


def test_another_thread_does_itself_what_the_main_one_does_aside():
    found = []

    def call() -> None:
        found.extend([threads.run_aside(threading.current_thread), threading.current_thread()])

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert found == [thread, thread]


def test_the_error_of_another_thread_is_the_one_that_is_raised(monkeypatch):
    """Not the one by which the others learn of it."""
    monkeypatch.setenv("FASTNCF_NUM_THREADS", "2")
    failed = threading.Event()

    def kernel(start: int, stop: int) -> None:
        if threading.current_thread() is threading.main_thread():
            assert failed.wait(30)
            time.sleep(0.05)
        else:
            failed.set()
            raise ValueError("the reason")

    with pytest.raises(ValueError, match="the reason"):
        run_ranges(kernel, np.arange(1000))


def test_a_cancelled_task_ends_and_so_does_what_it_has_started():
    started, inner = threading.Event(), []

    def wait() -> None:
        started.set()
        while True:
            threads.check_cancelled()
            time.sleep(0.001)

    def work() -> None:
        inner.append(threads.Task(wait))
        inner[0].result()

    task = threads.Task(work)
    assert started.wait(30)
    task.end(30)
    assert isinstance(task.error, threads.CancelledError)
    inner[0].wait()
    assert isinstance(inner[0].error, threads.CancelledError)
    assert not threads._running
