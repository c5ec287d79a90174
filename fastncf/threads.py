"""Numba kernels on Python threads: a kernel releases the GIL and gets a range of rows, nothing else.

Numba's own ``prange`` is avoided on purpose: its OpenMP layer kills a forked child, its workqueue
layer aborts when two threads enter it, and both draw on a pool that belongs to the whole process.
"""

import itertools
import os
import threading
from collections.abc import Callable, Sequence

import numpy as np

from fastncf.errors import ConfigError

VARIABLE = "FASTNCF_NUM_THREADS"


def num_threads() -> int:
    """Threads that kernels use: ``FASTNCF_NUM_THREADS``, else the cores this process may run on."""
    value = os.environ.get(VARIABLE)
    if value is None:
        if hasattr(os, "sched_getaffinity"):
            return len(os.sched_getaffinity(0))
        return os.cpu_count() or 1
    if not value.isdecimal() or int(value) < 1:
        raise ConfigError(f"{VARIABLE}={value!r}: expected a whole number from 1")
    return int(value)


def even_ranges(rows: int, parts_per_thread: int = 4) -> np.ndarray:
    """Bounds of ranges of rows of about the same length: ascending, from 0 to ``rows``."""
    return np.linspace(0, rows, parts_per_thread * num_threads() + 1).astype(np.int64)


def run_ranges(kernel: Callable[[int, int], object], bounds: np.ndarray) -> None:
    """Call ``kernel(start, stop)`` for each pair of neighbouring bounds, on as many threads as allowed.

    The calls must write to places that do not overlap; an error in one of them is raised here. The calling thread does
    its share, so that one thread less is to be started: that costs more than a small kernel.
    """
    ranges = [(a, b) for a, b in itertools.pairwise(bounds.tolist()) if b > a]
    _run(kernel, ranges, min(num_threads(), len(ranges)))


def run_threads(kernel: Callable[[int], object], threads: int) -> None:
    """Call a kernel for each number of a thread, all at once: they may wait for each other, so none may fail."""
    _run(kernel, [(thread,) for thread in range(threads)], threads)


def _run(kernel: Callable[..., object], calls: Sequence[tuple[int, ...]], threads: int) -> None:
    left = iter(calls)
    errors: list[Exception] = []

    def work() -> None:
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
