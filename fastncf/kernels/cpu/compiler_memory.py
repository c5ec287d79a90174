"""Memory that the compiler takes beside the data, known before a kernel is compiled, and refused where it is not left.

The figures are those of Numba 0.66 on x86-64 in November 2026; ``python -m tests.kernels.compile_memory`` compares them
with what fits take whose kernels are not compiled yet.
"""

from collections.abc import Iterable
from typing import Any

from fastncf.errors import InsufficientMemoryError
from fastncf.memory import Limit, format_bytes, require_within_group, tightest_limit

_LOAD_BYTES = 32_000_000  # of compiled kernels that are read from the cache, and of what they need
_START_BYTES = 65_000_000  # of the compiler, at the first kernel of a process
_KERNEL_BYTES = 18_000_000  # of any kernel, but for these
_LARGE_KERNELS = {
    "text.find_fields": 50_000_000,
    "text.scan_records": 22_000_000,
    "histories.train_histories": 85_000_000,
    "factors.train_block": 85_000_000,
    "batch_plans.plan_batches": 32_000_000,
    "next_item.train_batches": 225_000_000,
    "mlp.train_batches": 85_000_000,
}
_SMALL_KERNELS_BYTES = 45_000_000  # of all others of a fit together


class _Compiler:
    """Whether this process has loaded a kernel, and whether it has compiled one: the compiler stays in its memory."""

    has_loaded = False
    has_started = False


def bytes_of(kernel: Any) -> int:
    """Return the bytes that compiling a kernel takes at most, the compiler apart."""
    function = getattr(kernel, "py_func", kernel)
    name = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
    return _LARGE_KERNELS.get(name, _KERNEL_BYTES)


def bytes_to_compile(kernels: Iterable[Any], more: Iterable[Any] = ()) -> int:
    """Return the bytes that compiling takes before a fit has all of its kernels; 0 where these are compiled already.

    Args:
        kernels: the large kernels of a fit.
        more: kernels that it may need, which count where one of the others is not compiled.
    """
    missing = [kernel for kernel in kernels if not kernel.is_compiled]
    if not missing:
        return 0
    missing += [kernel for kernel in more if not kernel.is_compiled]
    # most small kernels are compiled while the data are read, so that one is left where the compiler has started
    rest = _KERNEL_BYTES if _Compiler.has_started else _START_BYTES + _SMALL_KERNELS_BYTES
    return rest + sum(map(bytes_of, missing))


def require_room_to_compile(function: Any, limit: Limit) -> None:
    """Refuse to compile a kernel where a limit leaves less memory than the compiler may take.

    Args:
        function: what is compiled.
        limit: the tightest limit.

    Raises:
        InsufficientMemoryError: says how large the limit would have to be.
    """
    needed = bytes_of(function) + (0 if _Compiler.has_started else _START_BYTES)
    if needed > limit.left:
        raise compiler_error(needed, limit)
    _Compiler.has_started = True


def require_room_to_load() -> None:
    """Refuse to load the first kernel of a process where its control group leaves too little memory for kernels.

    Raises:
        InsufficientMemoryError: says how large the limit would have to be.
    """
    if not _Compiler.has_loaded:
        require_within_group("kernels", _LOAD_BYTES)
    _Compiler.has_loaded = True


def compiler_error(needed: int, limit: Limit | None = None) -> InsufficientMemoryError:
    """Return the error for kernels that a limit leaves too little memory to compile."""
    limit = limit or tightest_limit()
    return InsufficientMemoryError(
        f"compiling kernels for this machine, the first time only: is expected to need {format_bytes(needed)} of "
        f"memory, {limit}, and {format_bytes(max(0, limit.left))} of it are left; expected: "
        f"{limit.with_more(needed)} or more, or the same fit to a few rows without the limit first, since compiled "
        f"kernels are kept"
    )
