"""Memory: what is left for this process, and one sentence where it does not suffice."""

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib import import_module
from numbers import Real
from pathlib import Path
from typing import Any, NamedTuple

from fastncf.accelerators import has_torch
from fastncf.errors import ConfigError, FastNCFError, InsufficientMemoryError, format_bytes

_NO_LIMIT = sys.maxsize
_CGROUPS = Path("/sys/fs/cgroup")
_PROCESS = Path("/proc/self")
_MACHINE = Path("/proc/meminfo")
_EXHAUSTED = re.compile(
    r"can't allocate memory|not enough memory|cannot allocate memory|failed to map segment|out of memory|"
    r"allocation failed|can't start new thread|Resource temporarily unavailable",
    re.IGNORECASE,
)
"""Messages of torch, the loader of shared libraries, Polars and Python about memory or a thread that was refused."""

_LIBRARY_BYTES = 1650 << 20
_TORCH_BYTES = 700 << 20
_TORCH_AND_READING_BYTES = 1400 << 20
"""Address space that fits of small data took with two threads in November 2026, see :func:`require_libraries`."""

_LIBRARY_GROUP_BYTES = 60_000_000
_TORCH_GROUP_BYTES = 166_000_000
"""Memory that a control group counts for libraries, and for what torch allocates at first, in December 2026."""

_BYTES = re.compile(r"(\d+(?:\.\d+)?) ?((?:[kmgt]i?)?b)", re.IGNORECASE)
_UNITS = {"b": 1} | {f"{letter}b": 1000**n for n, letter in enumerate("kmgt", start=1)}
_UNITS |= {f"{letter}ib": 1024**n for n, letter in enumerate("kmgt", start=1)}

_limit: ContextVar[int | None] = ContextVar("limit", default=None)
"""Bytes of :func:`limited_memory`."""

_imports: dict[tuple[str, ...], Any] = {}
"""Tasks that import modules, by the names of the modules."""

_THREADS = "can't start new thread"
_NEEDS_TORCH = "{} needs torch: pip install torch"


class Limit(NamedTuple):
    """A limit of the memory of this process, or of a group of processes that it belongs to.

    Attributes:
        left: bytes that may still be allocated; very many where nothing is limited.
        size: bytes that may be allocated in all.
        is_of_group: whether it is that of a control group, such as one of a container, which counts for all of its
            processes, and counts no libraries that others have read before; otherwise that of :func:`limited_memory`.
    """

    left: int
    size: int = _NO_LIMIT
    is_of_group: bool = False

    def with_more(self, num_bytes: int) -> str:
        """Return in words the limit that would be expected if some bytes more than it leaves are needed.

        It is a twelfth more than this process would need, since another run takes a little more or less.
        """
        needed = self.size + num_bytes - self.left
        megabytes = -(-(needed + needed // 12) // 10**6)
        return f"a memory limit of {megabytes}MB" if self.is_of_group else f"max_memory={megabytes}MB"

    def __str__(self) -> str:
        name = "the memory limit of the container or its group" if self.is_of_group else "max_memory"
        return f"{name} is {format_bytes(self.size)}"


def available_bytes() -> int:
    """Return the bytes that this process may still allocate, as far as the system tells.

    That is the least of the memory that the machine has free, swap included, and of what the limits of the process
    (``ulimit -v``) and of its control groups, such as those of a container, leave, and of :func:`limited_memory`.
    """
    return max(0, min(_machine_bytes(), _address_space_bytes(), bytes_within_limits()))


def bytes_within_limits() -> int:
    """Return the bytes that limits of the control groups and of :func:`limited_memory` leave; very many without one."""
    return tightest_limit().left


def tightest_limit() -> Limit:
    """Return the limit that leaves the fewest bytes, of the control groups and of :func:`limited_memory`."""
    limit = _limit.get()
    own = Limit(_NO_LIMIT) if limit is None else Limit(limit - resident_bytes(), limit)
    return min(own, _cgroup_limit())


@contextmanager
def limited_memory(num_bytes: int | None) -> Iterator[None]:
    """Let the process have at most some bytes in memory within the block, as far as :func:`available_bytes` is asked.

    Args:
        num_bytes: resident memory of the process, what it has already included; None sets no limit.

    Raises:
        InsufficientMemoryError: the process has more than that before the block.
    """
    if num_bytes is not None and num_bytes < (resident := resident_bytes()):
        raise InsufficientMemoryError(
            f"max_memory={num_bytes}: the process has {format_bytes(resident)} of memory before anything is read; "
            f"expected more"
        )
    token = _limit.set(num_bytes)
    try:
        yield
    finally:
        _limit.reset(token)


def resident_bytes() -> int:
    """Return the bytes of the process that are in memory; 0 where the system does not tell."""
    try:
        return int((_PROCESS / "statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError, AttributeError):
        return 0


def parse_bytes(name: str, value: Any) -> int | None:
    """Return a number of bytes that was given as an integer or as text such as ``4GB``; None for None.

    Args:
        name: argument that it was given as.
        value: a positive integer, or a number with one of the units B, KB, MB, GB, TB, KiB, MiB, GiB and TiB.

    Raises:
        ConfigError: it is anything else.
    """
    if value is None:
        return None
    match = _BYTES.fullmatch(value.strip()) if isinstance(value, str) else None
    number = float(match[1]) * _UNITS[match[2].lower()] if match else value
    is_number = isinstance(number, Real) and not isinstance(number, bool)
    if not is_number or not 1 <= number < _NO_LIMIT:
        raise ConfigError(f"{name}={value!r:.80}: expected a number of bytes, such as '4GB', '500MB' or 4000000000")
    return int(number)


def require_memory(what: str, needed: int, less: str) -> None:
    """Check that the memory suffices, before anything is allocated.

    Args:
        what: what the memory is for, with the settings that determine its size.
        needed: bytes.
        less: what would need less memory.

    Raises:
        InsufficientMemoryError: fewer bytes are available.
    """
    if needed > (available := available_bytes()):
        limit = tightest_limit()
        more = f"{limit.with_more(needed)} or more" if limit.left <= available else "more memory"
        raise InsufficientMemoryError(
            f"{what}: needs {format_bytes(needed)} of memory, and {format_bytes(available)} are available; "
            f"expected: {less}, or {more}"
        )


def require_libraries() -> None:
    """Import Polars and Numba, if the limits of address space and of the control groups have room for them.

    Both end the process where they cannot allocate what they need when they start their threads, and the system ends a
    process beyond the limit of its group.

    Raises:
        InsufficientMemoryError: the limit leaves less.
    """
    if "polars" not in sys.modules:
        _require_address_space("Polars and Numba", _LIBRARY_BYTES)
        require_within_group("Polars and Numba", _LIBRARY_GROUP_BYTES)
    import_aside("numpy", "polars", "numba", "numba.extending")


def require_torch(what: str, *, reads: bool = False) -> None:
    """Import torch, if it is installed, and the limits of address space and of the control groups have room for it.

    Args:
        what: what needs torch, as the subject of a sentence.
        reads: whether Polars has still to read data, and needs room for that as well.

    Raises:
        FastNCFError: torch is not installed.
        InsufficientMemoryError: the limit leaves less.
    """
    if not has_torch():
        raise FastNCFError(_NEEDS_TORCH.format(what))
    if "torch" not in sys.modules:
        _require_address_space("torch", _TORCH_AND_READING_BYTES if reads else _TORCH_BYTES)
        require_within_group("torch", _TORCH_GROUP_BYTES)
    import_aside("torch")


@contextmanager
def torch_needed_by(what: str) -> Iterator[None]:
    """Raise the error of :func:`require_torch` where the block imports torch, and it is not installed.

    Args:
        what: what needs torch, as the subject of a sentence.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise FastNCFError(_NEEDS_TORCH.format(what)) from None


def import_aside(*names: str) -> None:
    """Import modules by another thread, since an interrupt would leave them half imported, and no second try succeeds.

    What an interrupted call has begun goes on, and the next call waits for it. What cannot be imported raises its error
    where it is needed.
    """
    from fastncf.threads import Task

    def import_all() -> None:
        """Import each module that can be imported."""
        for name in names:
            with suppress(Exception):
                import_module(name)

    if names not in _imports:
        _imports[names] = Task(import_all)
    _imports[names].result()


def _require_address_space(libraries: str, needed: int) -> None:
    """Raise an InsufficientMemoryError where ``ulimit -v`` leaves fewer bytes than some libraries need."""
    if (left := _address_space_bytes()) < needed:
        raise InsufficientMemoryError(
            f"{libraries}: {format_bytes(needed)} of address space are needed, threads included, and the limit "
            f"(ulimit -v) leaves {format_bytes(max(0, left))}; expected: a limit that is {format_bytes(needed - left)} "
            f"larger"
        )


def require_within_group(libraries: str, needed: int) -> None:
    """Refuse to load what a control group leaves too little memory for.

    Args:
        libraries: what is loaded, as the subject of a sentence in the plural.
        needed: bytes that it allocates.

    Raises:
        InsufficientMemoryError: says how large the limit would have to be.
    """
    if (limit := _cgroup_limit()).left < needed:
        raise InsufficientMemoryError(
            f"{libraries}: {format_bytes(needed)} are needed to begin with, {limit}, and "
            f"{format_bytes(max(0, limit.left))} of it are left; expected: {limit.with_more(needed)} or more"
        )


@contextmanager
def translate_exhaustion(what: str, less: str, expected: str = "") -> Iterator[None]:
    """Raise any library's error about exhausted memory as an error of this package.

    Args:
        what: what is done in the block.
        less: what would need less memory.
        expected: what the block was expected to need, such as ``about 2.1 GB``; empty where nothing is known.

    Raises:
        InsufficientMemoryError: memory ran out in the block, or no thread could be started.
    """
    try:
        yield
    except FastNCFError:
        raise
    except BaseException as error:
        if not _is_exhaustion(error):
            raise
        lines = str(error).strip().splitlines()
        reason = f" ({lines[0]:.120})" if lines else ""
        if _THREADS in str(error):
            raise InsufficientMemoryError(
                f"{what}: no thread could be started{reason}; expected: a higher limit of processes or of memory, or "
                f"FASTNCF_NUM_THREADS=1"
            ) from error
        told = f", {expected} in all were expected" if expected else ""
        raise InsufficientMemoryError(
            f"{what}: the memory does not suffice{reason}{told}, and {format_bytes(available_bytes())} are available; "
            f"expected: {less}, or more memory"
        ) from error


def _is_exhaustion(error: BaseException) -> bool:
    """Return whether an error says that the system refused memory or a thread; torch's about a device do not count."""
    if isinstance(error, MemoryError):
        return True
    if type(error).__name__ == "OutOfMemoryError":
        return False
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    of_polars = type(error).__name__ in ("PanicException", "ComputeError")
    return (of_polars or isinstance(error, RuntimeError | ImportError)) and bool(_EXHAUSTED.search(str(error)))


def _machine_bytes() -> int:
    """Return the free bytes of the machine, swap included; its whole memory where it does not tell what is free."""
    try:
        lines = dict(line.split(":", 1) for line in _MACHINE.read_text(encoding="ascii").splitlines())
        return sum(int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "SwapFree"))
    except (OSError, ValueError, KeyError):
        return _physical_bytes()


def _physical_bytes() -> int:
    """Return the bytes of the machine's memory, where the system tells."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return _NO_LIMIT


def _address_space_bytes() -> int:
    """Return the bytes that ``ulimit -v`` leaves to the process."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit == resource.RLIM_INFINITY:
            return _NO_LIMIT
        pages = int((_PROCESS / "statm").read_text(encoding="ascii").split()[0])
        return limit - pages * resource.getpagesize()
    except (ImportError, OSError, ValueError):
        return _NO_LIMIT


def _cgroup_limit() -> Limit:
    """Return the tightest limit of the control groups of the process: version 2 or 1, its own group and all above."""
    try:
        lines = (_PROCESS / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return Limit(_NO_LIMIT)
    tightest = Limit(_NO_LIMIT)
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            root, names = _CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            root = _CGROUPS / "memory"
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
        else:
            continue
        group = root / path.lstrip("/")
        for folder in (group, *group.parents):
            tightest = min(tightest, _group_limit(folder, *names))
            if folder == root:
                break
    return tightest


def _group_limit(folder: Path, limit_name: str, usage_name: str, cache_name: str) -> Limit:
    """Return the limit of one control group; files that it caches can be dropped."""
    try:
        limit = int((folder / limit_name).read_text(encoding="ascii"))
        usage = int((folder / usage_name).read_text(encoding="ascii"))
        stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
        return Limit(limit - usage + int(stat.get(cache_name, 0)), limit, is_of_group=True)
    except (OSError, ValueError):  # no such group, or its limit is "max"
        return Limit(_NO_LIMIT)
