import numpy as np
from numba import njit

from fastncf.kernels.cpu.barrier import fetch_add, wait
from fastncf.kernels.cpu.simd import offset, pointer
from fastncf.threads import run_threads

THREADS, ROUNDS = 5, 200


@njit(nogil=True)
def meet_often(thread, counters, numbers, sums):
    """In each round write one number, and behind a barrier add up those of all threads."""
    for number in range(len(sums)):
        numbers[number % 2, thread] = number + thread
        wait(pointer(counters), numbers.shape[1])
        for other in range(numbers.shape[1]):
            sums[number] += numbers[number % 2, other]
        fetch_add(offset(pointer(counters), 16))


def test_behind_a_barrier_every_thread_sees_what_all_have_written():
    counters, numbers = np.zeros(32, dtype=np.int64), np.zeros((2, THREADS), dtype=np.int64)
    sums = np.zeros((THREADS, ROUNDS), dtype=np.int64)
    run_threads(lambda thread: meet_often(thread, counters, numbers, sums[thread]), THREADS)
    expected = THREADS * np.arange(ROUNDS) + THREADS * (THREADS - 1) // 2
    np.testing.assert_array_equal(sums, np.broadcast_to(expected, sums.shape))
    assert counters[0] == counters[16] == THREADS * ROUNDS
