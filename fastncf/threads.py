"""Threads for compiled kernels: a kernel releases the GIL and gets a range of rows.

Numba's own ``prange`` is not used: its OpenMP layer kills a forked child, its workqueue layer aborts when two threads
enter it, and both take their threads from one pool of the whole process.

An interrupt (Ctrl-C) raises ``KeyboardInterrupt`` in the main thread alone, anywhere in it. So the main thread never
waits for another thread without a bound once it is interrupted, and what must not be left halfway, such as the
compilation of a kernel, is done by another thread while the main one waits, see :func:`run_aside`. The work of the
other threads is then *cancelled*: it ends with the kernel call or the pass of the compiler that it is in. The threads
are daemons, so that none of them keeps a process alive.
"""

import atexit
import contextvars
import itertools
import math
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from fastncf import rank_variables
from fastncf.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

VARIABLE = "FASTNCF_NUM_THREADS"
"""Environment variable that sets the number of threads."""

Result = TypeVar("Result")

_POLL = 0.1  # seconds after which a wait looks for interrupts, which wake no wait on Windows
_PATIENCE = 5.0  # seconds that an interrupted thread waits for cancelled work: more than most kernel calls take


class CancelledError(BaseException):
    """The result of what this thread does is not wanted any more; no handler of an ``Exception`` catches it."""


class _Work:
    """State of one call of this module, with all that it starts.

    Args:
        parent: work that this is a part of.
    """

    def __init__(self, parent: "_Work | None") -> None:
        self._parent = parent
        self._is_cancelled = False

    def cancel(self) -> None:
        """Let this work, and all that is a part of it, end soon."""
        self._is_cancelled = True

    @property
    def is_cancelled(self) -> bool:
        """Whether this work, or work that it is a part of, was cancelled."""
        return self._is_cancelled or (self._parent is not None and self._parent.is_cancelled)


class _Current(threading.local):
    """The work that the thread does."""

    work: _Work | None = None


_current = _Current()
_running: dict[int, "Task[Any]"] = {}


def check_cancelled() -> None:
    """Raise a CancelledError if the work of the calling thread was cancelled."""
    if _current.work is not None and _current.work.is_cancelled:
        raise CancelledError


@contextmanager
def _doing(work: _Work) -> Iterator[None]:
    """Let the calling thread do some work within the block."""
    former = _current.work
    _current.work = work
    try:
        yield
    finally:
        _current.work = former


class Task(Generic[Result]):
    """A call of a function by a thread of its own, which begins at once, as a part of the work of the calling thread.

    The context variables are those of the calling thread, such as limits of the memory and NumPy's error handling.

    Args:
        function: called without arguments.
    """

    def __init__(self, function: Callable[[], Result]) -> None:
        self._function = function
        self._context = contextvars.copy_context()
        self._work = _Work(_current.work)
        self._error: BaseException | None = None
        self._result: Result | None = None
        self._process = os.getpid()
        self._is_over = False
        self._running = threading.Lock()  # locked until the call has ended
        self._running.acquire()
        self._thread = threading.Thread(target=self._run, name="fastncf", daemon=True)
        _running[id(self)] = self
        try:
            self._thread.start()
        except RuntimeError:  # the system starts no more threads
            del _running[id(self)]
            raise

    def _run(self) -> None:
        """Call the function; runs in the thread."""
        try:
            with _doing(self._work):
                self._result = self._context.run(self._function)
        except BaseException as error:
            self._error = error
        finally:
            del _running[id(self)]
            self._is_over = True
            self._running.release()

    def result(self) -> Result:
        """Wait for the call and return its result; the task is cancelled if the wait is interrupted.

        Raises:
            BaseException: what the call raised.
        """
        self.wait()
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]

    def wait(self) -> None:
        """Wait for the end of the call; the task is cancelled if the wait is interrupted."""
        try:
            self._wait(math.inf)
        except BaseException:
            self.cancel()
            raise

    def cancel(self) -> None:
        """Let the call end soon."""
        self._work.cancel()

    def end(self, seconds: float = _PATIENCE) -> None:
        """Cancel the call and wait for its end, but no longer than some seconds."""
        self.cancel()
        self._wait(seconds)

    def _wait(self, seconds: float) -> None:
        """Wait for the end of the call, but no longer than some seconds; in a forked child the thread does not exist.

        ``Thread.join()`` would not do: after an interrupt it takes a thread that runs for one that has ended.
        """
        deadline = time.monotonic() + seconds
        while not self._is_over and self._process == os.getpid() and (left := deadline - time.monotonic()) > 0:
            if self._running.acquire(timeout=min(_POLL, left)):
                self._running.release()

    @property
    def error(self) -> BaseException | None:
        """Error that the call raised."""
        return self._error


@atexit.register
def _end_all() -> None:
    """End what an interrupt has left behind, since the end of a process does not wait for daemons.

    A library whose memory is gone would crash a thread that is still within it.
    """
    end_tasks(list(_running.values()))


def end_tasks(tasks: Sequence["Task[Any]"]) -> None:
    """Cancel tasks and wait for their ends, but no longer than some seconds for all of them."""
    for task in tasks:
        task.cancel()
    deadline = time.monotonic() + _PATIENCE
    for task in tasks:
        task.end(deadline - time.monotonic())


def run_aside(function: Callable[[], Result]) -> Result:
    """Call a function by another thread if this is the main one, so that an interrupt does not leave it halfway.

    Raises:
        BaseException: what the call raised, or the interrupt, which cancels the call and does not wait for its end.
    """
    if threading.current_thread() is not threading.main_thread():
        return function()
    return Task(function).result()


def num_threads() -> int:
    """Return how many threads kernels use: the value of ``FASTNCF_NUM_THREADS``, else the cores of this process.

    The processes that torchrun has started on a machine share its cores.

    Raises:
        ConfigError: the variable, or one of torchrun, is no integer of at least 1.
    """
    value = os.environ.get(VARIABLE)
    if value is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, cores // rank_variables.processes_here())
    if not value.isdecimal() or int(value) < 1:
        raise ConfigError(f"{VARIABLE}={value!r}: expected an integer of at least 1")
    return int(value)


def even_ranges(rows: int, parts_per_thread: int = 4) -> "np.ndarray":
    """Divide rows into ranges of about the same length.

    Args:
        rows: number of rows.
        parts_per_thread: P, ranges for each thread; more than one even out threads that are slower than others.

    Returns:
        (P * threads + 1,) int64: ascending bounds of the ranges, from 0 to ``rows``.
    """
    import numpy as np  # a library that is imported aside, see fastncf.memory

    return np.linspace(0, rows, parts_per_thread * num_threads() + 1).astype(np.int64)


def run_ranges(kernel: Callable[[int, int], object], bounds: "np.ndarray") -> None:
    """Call ``kernel(start, stop)`` for each range that is not empty, on at most :func:`num_threads` threads.

    The calling thread is one of them, since to start a thread takes longer than a small kernel.

    Args:
        kernel: must not write where the call for another range reads or writes.
        bounds: (number of ranges + 1,) ascending, such as :func:`even_ranges` returns.

    Raises:
        BaseException: the first one that a call raised, or an interrupt; no other call begins then.
    """
    ranges = [(start, stop) for start, stop in itertools.pairwise(bounds.tolist()) if stop > start]
    work = _Work(_current.work)
    left = iter(ranges)

    def call() -> None:
        """Call the kernel with each range that no other thread has taken."""
        for start, stop in left:
            check_cancelled()
            kernel(start, stop)

    def call_or_cancel() -> None:
        """Do the same, and let the other threads end as well if a call raises."""
        try:
            call()
        except BaseException:
            work.cancel()
            raise

    tasks: list[Task[None]] = []
    try:
        with _doing(work):
            tasks += (Task(call_or_cancel) for _ in range(min(num_threads(), len(ranges)) - 1))
            call()
        for task in tasks:
            task.wait()
    except BaseException as error:
        work.cancel()
        end_tasks(tasks)
        if isinstance(error, CancelledError):
            _raise_first_error(tasks)  # the reason, if it is one of these threads
        raise
    _raise_first_error(tasks)


def run_threads(kernel: Callable[[int], object], threads: int) -> None:
    """Call ``kernel(thread)`` for each number below ``threads``, each on a thread of its own, all at the same time.

    The calls may wait for each other, so that none may raise: the others would wait forever. So the calling thread,
    which an interrupt may reach, makes no call unless it is the only one, and no call begins before all threads run.
    """
    check_cancelled()
    if threads == 1:
        kernel(0)
        return
    gate, decision = threading.Event(), dict[str, bool]()

    def call(thread: int) -> None:
        """Call the kernel once all threads run."""
        gate.wait()
        if decision["begins"]:
            kernel(thread)

    tasks: list[Task[None]] = []
    try:
        tasks += (Task(lambda thread=thread: call(thread)) for thread in range(threads))  # type: ignore[misc]
        decision.setdefault("begins", True)
        gate.set()
        for task in tasks:
            task.wait()
    except BaseException:
        decision.setdefault("begins", False)  # unless it was decided: all threads begin, or none
        gate.set()
        end_tasks(tasks)
        raise
    _raise_first_error(tasks)


def _raise_first_error(tasks: Sequence[Task[Any]]) -> None:
    """Raise the first error of tasks that is not about being cancelled, which another one must have caused."""
    for task in tasks:
        if task.error is not None and not isinstance(task.error, CancelledError):
            raise task.error
