"""Snapshots of a training: when they are taken, and how signals wait for them.

A snapshot has all that the rest of the training depends on beside the data, the plan and the initial model. Draws are
functions of (seed, epoch, position), so that none of them is in it.
"""

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

from fastncf.kernels.cpu.compiling import is_compiling
from fastncf.trainers.base import State

SECONDS_BETWEEN = 300.0
"""Seconds after which a snapshot is taken within an epoch, between two batches."""

_SIGNALS = "SIGINT", "SIGTERM", "SIGHUP"


class Snapshot(NamedTuple):
    """State of a part of a training.

    Attributes:
        values: plain values, as JSON holds them.
        arrays: arrays or tensors by name, perhaps in memory that the training goes on to change.
    """

    values: dict[str, Any]
    arrays: State


def prefixed(prefix: str, arrays: Mapping[str, Any]) -> State:
    """Return arrays by their names behind a prefix."""
    return {prefix + name: array for name, array in arrays.items()}


def under(prefix: str, arrays: Mapping[str, Any]) -> State:
    """Return the arrays whose names have a prefix, by their names without it."""
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


class Recorder:
    """Takes snapshots of the training of the stages of a plan, and lets signals wait for them.

    Args:
        write: called with a snapshot of all stages, and with words on how much is trained.
        restored: snapshot of an earlier process, from which the training goes on.
    """

    def __init__(self, write: Callable[[Snapshot, str], object], restored: Snapshot | None = None) -> None:
        self._write = write
        self._restored = restored
        self._initial: State = {}
        self._finished: list[Snapshot] = []
        self._arrived: list[int] = []
        self._former: dict[int, Any] = {}
        self._last = time.monotonic()
        self._is_kept = True  # all that is trained, by the last snapshot

    def take_finished(self) -> Snapshot | None:
        """Return the snapshot of the next stage that an earlier process finished; None where there is none left."""
        number = len(self._finished)
        if self._restored is None or number >= len(self._restored.values["finished"]):
            return None
        arrays = under(f"finished.{number}.", self._restored.arrays)
        self._finished.append(Snapshot(self._restored.values["finished"][number], arrays))
        return self._finished[-1]

    def take_current(self) -> Snapshot | None:
        """Return the snapshot from which the stage behind those that are finished goes on; None where it begins."""
        restored, self._restored = self._restored, None
        return restored and Snapshot(restored.values["current"], under("current.", restored.arrays))

    def finish(self, snapshot: Snapshot) -> None:
        """Keep the snapshot of a stage that is finished, in memory that nothing changes any more."""
        self._finished.append(snapshot)

    def begin(self, initial: State) -> State:
        """Keep the values of a module of the user's own before the training, copies, and return those to begin with.

        Some are never trained, such as vectors of items that the data do not have, and another process may have drawn
        others.
        """
        restored = {} if self._restored is None else under("initial.", self._restored.arrays)
        self._initial = restored or initial
        return self._initial

    def at_epoch_end(self, take: Callable[[], Snapshot], place: Callable[[], str]) -> None:
        """Take a snapshot, and raise what a signal that has arrived means.

        Args:
            take: returns a snapshot of the stage.
            place: returns words on how much is trained.
        """
        self._record(take, place)

    def at_boundary(self, take: Callable[[], Snapshot], place: Callable[[], str]) -> None:
        """Do what :meth:`at_epoch_end` does, if a signal has arrived or the last snapshot is old."""
        self._is_kept = False
        if self._arrived or time.monotonic() - self._last >= SECONDS_BETWEEN:
            self._record(take, place)

    def _record(self, take: Callable[[], Snapshot], place: Callable[[], str]) -> None:
        """Write a snapshot of all stages, and raise what a signal that has arrived means."""
        current = take()
        arrays = prefixed("current.", current.arrays) | prefixed("initial.", self._initial)
        for number, finished in enumerate(self._finished):
            arrays |= prefixed(f"finished.{number}.", finished.arrays)
        values = {"finished": [finished.values for finished in self._finished], "current": current.values}
        self._write(Snapshot(values, arrays), place())
        self._last, self._is_kept = time.monotonic(), True
        self._raise_arrived()

    @contextmanager
    def signals_wait(self) -> Iterator[None]:
        """Let the first signal that ends the process wait for the next boundary of batches within the block.

        A second signal ends the process, or raises its exception, at once, and so does the first one while kernels are
        compiled and nothing is trained behind the last snapshot. Signals reach the main thread alone, and in another
        one nothing is changed.
        """
        if threading.current_thread() is threading.main_thread():
            numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
            handlers = {number: signal.getsignal(number) for number in numbers}
            self._former = {n: found for n, found in handlers.items() if found is not None and found != signal.SIG_IGN}
        try:
            for number in self._former:
                signal.signal(number, self._note)
            yield
        finally:
            self._give_back()
            self._raise_arrived()

    def _note(self, number: int, _: object) -> None:
        """Note that a signal has arrived; the parameters are those of a signal handler."""
        self._arrived.append(number)
        self._give_back()
        if self._is_kept and is_compiling():
            self._raise_arrived()

    def _give_back(self) -> None:
        """Let the former handlers handle signals again."""
        former, self._former = self._former, {}
        for number, handler in former.items():
            signal.signal(number, handler)

    def _raise_arrived(self) -> None:
        """Let the former handler handle the signal that has waited."""
        if self._arrived:
            signal.raise_signal(self._arrived.pop())
