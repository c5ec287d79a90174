"""Synchronisation of the threads within a kernel: an atomic counter and a barrier."""

import platform
import sys

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastncf.kernels.cpu.compiling import njit

_SPINS = 2_000
_yield_core = types.ExternalFunction("SwitchToThread" if sys.platform == "win32" else "sched_yield", types.intc())


@intrinsic
def fetch_add(typingctx, counter):
    """Add 1 to the int64 behind a pointer, atomically, and return what it was: no two threads get the same."""

    def generate(context, builder, signature, arguments):
        return builder.atomic_rmw("add", arguments[0], ir.Constant(ir.IntType(64), 1), "seq_cst")

    return types.int64(counter), generate


@intrinsic
def _load_after_pause(typingctx, counter):
    """Return the int64 behind a pointer as the other threads left it, after a pause that serves the other hyperthread.

    An atomic load, since the compiler would take a plain one out of the loop around it.
    """

    def generate(context, builder, signature, arguments):
        if platform.machine() in ("x86_64", "AMD64"):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return builder.load_atomic(arguments[0], "seq_cst", align=8)

    return types.int64(counter), generate


@njit(nogil=True, cache=True)
def wait(counter, num_threads):
    """Wait at a barrier until all threads have called this function as often as the calling one.

    What a thread wrote before the barrier is seen by all threads behind it.

    Args:
        counter: pointer to an int64, the number of arrivals, 0 before the first call.
        num_threads: number of threads that call the function.
    """
    arrivals = fetch_add(counter)
    target = arrivals - arrivals % num_threads + num_threads
    spins = 0
    while _load_after_pause(counter) < target:
        spins += 1
        if spins > _SPINS:  # spinning costs least where each thread has a core; where they share cores, others may run
            _yield_core()
