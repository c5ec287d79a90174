"""Signals that arrive while a training takes snapshots."""

import signal
import threading
from collections.abc import Callable
from contextlib import suppress

import pytest
from numba import typeof
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import CPUDispatcher

import fastncf
from fastncf.kernels.cpu import ranking
from fastncf.streams import Terminated, signals_as_interrupts
from fastncf.trainers import cpu_mlp, history_sgd, next_item
from fastncf.trainers.recorder import Recorder, Snapshot
from tests.conftest import checkerboard

FITS = {
    "histories": ({"history": "bag", "loss": "bce"}, {"compose_users", "_rank_rows"}),
    "sequences": ({"loss": "softmax"}, {"catch_up", "encode_histories", "_rank_rows"}),
    "sets": ({"history": "bag", "loss": "softmax"}, {"catch_up", "encode_histories", "_rank_rows"}),
    "gmf": ({"model": "gmf", "optimizer": "adam"}, {"_rank_rows"}),
    "mlp": ({"model": "mlp"}, {"catch_up"}),
}
"""Settings of fits, and the kernels that an epoch calls behind its last batch."""


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


@pytest.mark.parametrize("name", FITS)
def test_what_runs_behind_the_last_batch_is_compiled_before_the_first(name, tmp_path, monkeypatch):
    (settings, expected), before, behind, recorders = FITS[name], [], [], []
    at_boundary = Recorder.at_boundary

    def spy(kernel):
        def call(*arguments):
            is_kept = not recorders or recorders[-1]._is_kept
            (before if is_kept else behind).append((kernel.py_func.__name__, *map(typeof, arguments)))
            return kernel(*arguments)

        return call

    def note(recorder, *arguments):
        recorders.append(recorder)
        at_boundary(recorder, *arguments)

    monkeypatch.setattr(Recorder, "at_boundary", note)
    monkeypatch.setattr(ranking, "_rank_rows", spy(ranking._rank_rows))
    for module in (cpu_mlp, history_sgd, next_item):
        for attribute, kernel in list(vars(module).items()):
            if isinstance(kernel, CPUDispatcher):
                monkeypatch.setattr(module, attribute, spy(kernel))
    small = {"epochs": 1, "dim": 8, "num_negatives": 2, "validation": True, "num_candidates": 5, "l2": 0.0}
    fastncf.fit(checkerboard(), **(small | settings), checkpoint=tmp_path / "checkpoint")
    assert {kernel for kernel, *_ in behind} >= expected
    assert {call for call in behind if call[0] in expected} <= set(before)
