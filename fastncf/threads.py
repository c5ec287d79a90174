"""Threads for compiled kernels: a kernel releases the GIL and gets a range of rows.

Numba's own ``prange`` is not used: its OpenMP layer kills a forked child, its workqueue layer aborts when two threads
enter it, and both take their threads from one pool of the whole process.
"""

import itertools
import os
import threading
from collections.abc import Callable, Sequence

import numpy as np

from fastncf.errors import ConfigError

VARIABLE = "FASTNCF_NUM_THREADS"
"""Environment variable that sets the number of threads."""


def num_threads() -> int:
    """Return how many threads kernels use: the value of ``FASTNCF_NUM_THREADS``, else the cores of this process.

    Raises:
        ConfigError: the variable is not a whole number from 1.
    """
    value = os.environ.get(VARIABLE)
    if value is None:
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    if not value.isdecimal() or int(value) < 1:
        raise ConfigError(f"{VARIABLE}={value!r}: expected a whole number from 1")
    return int(value)


def even_ranges(rows: int, parts_per_thread: int = 4) -> np.ndarray:
    """Divide rows into ranges of about the same length.

    Args:
        rows: number of rows.
        parts_per_thread: P, ranges for each thread; more than one even out threads that are slower than others.

    Returns:
        (P * threads + 1,) int64: ascending bounds of the ranges, from 0 to ``rows``.
    """
    return np.linspace(0, rows, parts_per_thread * num_threads() + 1).astype(np.int64)


def run_ranges(kernel: Callable[[int, int], object], bounds: np.ndarray) -> None:
    """Call ``kernel(start, stop)`` for each range that is not empty, on at most :func:`num_threads` threads.

    The calling thread is one of them, since to start a thread takes longer than a small kernel.

    Args:
        kernel: must not write where the call for another range reads or writes.
        bounds: (number of ranges + 1,) ascending, such as :func:`even_ranges` returns.

    Raises:
        Exception: the first one that a call raised, after all threads have ended.
    """
    ranges = [(start, stop) for start, stop in itertools.pairwise(bounds.tolist()) if stop > start]
    _run(kernel, ranges, min(num_threads(), len(ranges)))


def run_threads(kernel: Callable[[int], object], threads: int) -> None:
    """Call ``kernel(thread)`` for each number below ``threads``, each on a thread of its own, all at the same time.

    The calls may wait for each other, so that none may raise: the others would wait forever.
    """
    _run(kernel, [(thread,) for thread in range(threads)], threads)


def _run(kernel: Callable[..., object], calls: Sequence[tuple[int, ...]], threads: int) -> None:
    """Call a kernel with each tuple of arguments; each thread takes the next tuple that no other has taken."""
    left = iter(calls)
    errors: list[Exception] = []

    def work() -> None:
        """Call the kernel until no arguments are left or a call raises."""
        try:
            for arguments in left:
                kernel(*arguments)
        except Exception as error:
            errors.append(error)

    others = [threading.Thread(target=work) for _ in range(threads - 1)]
    for thread in others:
        thread.start()
    try:
        work()
    finally:
        for thread in others:
            thread.join()
    if errors:
        raise errors[0]
