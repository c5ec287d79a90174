"""Signals that arrive while a training takes snapshots."""

import signal
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest
from numba.core.compiler_lock import global_compiler_lock

from fastncf.streams import Terminated, signals_as_interrupts
from fastncf.trainers.recorder import Recorder, Snapshot


class Compilation:
    """Another thread that holds the lock of the compiler within the block."""

    def __enter__(self):
        self.may_end, has_begun = threading.Event(), threading.Event()

        def compile_kernel():
            with global_compiler_lock:
                has_begun.set()
                self.may_end.wait(60)

        self.thread = threading.Thread(target=compile_kernel, daemon=True)
        self.thread.start()
        assert has_begun.wait(60)

    def __exit__(self, *_):
        self.may_end.set()
        self.thread.join()


def interrupted(recorder: Recorder, take: Callable[[], Snapshot], batches: int) -> list[str]:
    """Train some batches, get a signal while a kernel is compiled, and train another one; return what was reached."""
    reached = []
    with suppress(Terminated), signals_as_interrupts(), recorder.signals_wait():
        for _ in range(batches):
            recorder.at_boundary(take, str)
        with Compilation():
            signal.raise_signal(signal.SIGTERM)
            reached.append("after the signal")
        recorder.at_boundary(take, str)
        reached.append("after the boundary")
    return reached


@pytest.mark.parametrize(("batches", "expected"), [(0, []), (1, ["after the signal"])])
def test_a_signal_waits_for_a_compilation_only_if_something_is_trained(batches, expected):
    written = []
    recorder = Recorder(lambda *contents: written.append(contents))
    assert interrupted(recorder, lambda: Snapshot({}, {}), batches) == expected
    assert len(written) == batches
