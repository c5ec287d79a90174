"""What threads inside kernels need of each other: the next piece of work, and a place to wait for the others."""

import platform
import sys

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

_PATIENCE = 2_000
_let_others_run = types.ExternalFunction("SwitchToThread" if sys.platform == "win32" else "sched_yield", types.intc())


@intrinsic
def fetch_add(typingctx, counters, at):
    """Add 1 to ``counters[at]`` (n,) int64 and return what it was; no two threads get the same."""

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        one = ir.Constant(ir.IntType(64), 1)
        return builder.atomic_rmw("add", builder.gep(data, [arguments[1]]), one, "seq_cst")

    return types.int64(counters, at), generate


@intrinsic
def _look(typingctx, counters, at):
    """``counters[at]`` as other threads left it, after a moment in which the core may serve another."""

    def generate(context, builder, signature, arguments):
        if platform.machine() in ("x86_64", "AMD64"):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load_atomic(builder.gep(data, [arguments[1]]), "seq_cst", align=8)

    return types.int64(counters, at), generate


@njit(nogil=True, cache=True)
def meet(counters, at, target):
    """Arrive, and wait until ``counters[at]`` arrivals are ``target``; what was written before is seen by all after.

    Looking costs least where each thread has a core; where they share cores, it lets the others run after a while.
    """
    fetch_add(counters, at)
    looks = 0
    while _look(counters, at) < target:
        looks += 1
        if looks > _PATIENCE:
            _let_others_run()
