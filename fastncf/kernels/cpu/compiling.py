"""Compilation of kernels: a cache on disk that may be missing or broken, interrupts, forks, and notification.

A first run compiles the kernels; later ones load them from the cache. Numba's own cache ends a program where it cannot
be written or read, and reads no folder that it cannot write, such as one of a container. Here a kernel is read from any
folder, or compiled without one, and a file that is damaged is written anew. Each file has a checksum, since whatever
code it holds would be run. Of processes that need a kernel at the same time, such as ranks, one compiles it.
"""

import functools
import hashlib
import inspect
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numba
from numba.core import caching, event
from numba.core.compiler_lock import global_compiler_lock
from numba.core.registry import CPUDispatcher
from numba.core.serialize import dumps

from fastncf import files, locks, rng
from fastncf.kernels.cpu.compiler_memory import require_room_to_compile, require_room_to_load
from fastncf.memory import tightest_limit
from fastncf.threads import check_cancelled, run_aside

REORDER = {"reassoc", "contract"}
"""For ``fastmath=``: a sum may be computed by vectors of the CPU, whatever their width."""

_PATIENCE = 60.0  # seconds that a fork, or another process, waits for the compiler: longer than a kernel takes
_POLL = 0.02  # seconds after which a process looks again whether another one has compiled a kernel


def njit(function: Callable[..., Any] | None = None, *, cache: bool = False, **options: Any) -> Any:
    """Return a compiled function as ``numba.njit`` does, whose cache never fails and whose compilation can be left.

    Args:
        function: what is compiled; where it is not given, a decorator is returned.
        cache: whether compiled code is kept on disk.
        **options: of ``numba.njit``.
    """
    if function is None:
        return functools.partial(njit, cache=cache, **options)
    kernel = numba.njit(**options)(function)
    kernel.__class__ = _Kernel
    if cache:
        with suppress(Exception):  # without a cache, each process compiles
            kernel._cache = _Cache(function)
    return kernel


class _Kernel(CPUDispatcher):
    """A compiled function that is compiled, or loaded, by another thread than the main one.

    An interrupt in the main thread could otherwise leave the lock of the compiler locked, for which other threads would
    wait forever.
    """

    _cache: Any

    def compile(self, signature: Any) -> Any:
        """Compile for a signature, see ``numba.core.dispatcher.Dispatcher``."""
        if global_compiler_lock.is_locked():  # by this thread, which compiles a caller: another one would wait for it
            return self._compile_once(signature)
        return run_aside(functools.partial(self._compile_alone, signature))

    @property
    def is_compiled(self) -> bool:
        """Whether the kernel is compiled for a signature, in this process or in the cache."""
        return bool(self.overloads) or (isinstance(self._cache, _Cache) and self._cache.has_code())

    def _compile_alone(self, signature: Any) -> Any:
        """Compile a kernel that no other one calls, if there is memory for that and what it calls."""
        require_room_to_load()
        if isinstance(self._cache, _Cache):
            self._cache.when_missing = lambda: require_room_to_compile(self.py_func, tightest_limit())
        return self._compile_once(signature)

    def _compile_once(self, signature: Any) -> Any:
        """Compile a kernel while no other process does, see :meth:`_Cache.load_overload`."""
        with global_compiler_lock:  # until the cache is released
            try:
                return super().compile(signature)
            finally:
                if isinstance(self._cache, _Cache):
                    self._cache.release()


class _Nowhere(caching.InTreeCacheLocator):
    """A place for the cache where nothing is, and nothing can be written."""

    def ensure_cache_path(self) -> None:
        """Accept the place."""

    def get_cache_path(self) -> str:
        """Return a path that is no folder."""
        return os.devnull


class _Impl(caching.CompileResultCacheImpl):
    """Numba's choice of a place that can be written, and :class:`_Nowhere` where there is none."""

    _locator_classes: list[Any] = [*caching.CompileResultCacheImpl._locator_classes, _Nowhere]  # noqa: RUF012


def _unwritable_places(function: Any, chosen: str) -> Iterator[Path]:
    """Yield the folders that Numba would prefer to the chosen one if it could write them."""
    for locator in (caching.UserProvidedCacheLocator, caching.InTreeCacheLocator, caching.UserWideCacheLocator):
        if locator is not caching.UserProvidedCacheLocator or numba.config.CACHE_DIR:  # type: ignore[attr-defined]
            place = locator(function, inspect.getfile(function)).get_cache_path()
            if place == chosen:
                return
            yield Path(place)


class _Cache(caching.FunctionCache):
    """Compiled code on disk; what cannot be read is compiled, and what cannot be written is left out."""

    _impl_class = _Impl

    def __init__(self, function: Any) -> None:
        super().__init__(function)
        places = Path(self._cache_path), *_unwritable_places(function, self._cache_path)
        bases = tuple(place / self._impl.filename_base for place in places)
        self._cache_file = _CacheFile(bases, (self._impl.locator.get_source_stamp(), _kernels_stamp()))
        self._lock: Any = None  # held by this process while it compiles the function
        self.when_missing: Callable[[], object] | None = None

    def has_code(self) -> bool:
        """Return whether there is code for a signature."""
        return self._cache_file.has_keys()

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Return the code for a signature, or None where there is none that can be used, and it is compiled next.

        Where another process compiles the function, this one waits for its code. :meth:`release` must follow.
        """
        when_missing, self.when_missing = self.when_missing, None
        found = self._load(signature, target_context)
        if found is None:
            self._lock = _wait_for_turn(self._cache_file.lock_path)
            found = self._load(signature, target_context)
        if found is None and when_missing is not None:
            when_missing()
        return found

    def _load(self, signature: Any, target_context: Any) -> Any:
        """Return the code for a signature, or None where there is none that can be used."""
        with suppress(Exception):  # whatever Numba and pickle raise for a file of another version
            return super().load_overload(signature, target_context)
        return None

    def release(self) -> None:
        """Let other processes compile the function."""
        lock, self._lock = self._lock, None
        if lock is not None:
            with suppress(OSError):  # Windows removes no open file
                files.remove(self._cache_file.lock_path)
            lock.release()

    def save_overload(self, signature: Any, compiled: Any) -> None:
        """Keep the code for a signature, if that is possible."""
        with suppress(Exception):
            super().save_overload(signature, compiled)


def _wait_for_turn(path: Path) -> Any:
    """Return a lock once no other process holds it, or None where there are no locks or another one holds it too long.

    Without a lock two processes may do the same work. A wait counts as a compilation.
    """
    with suppress(OSError):
        try:
            return locks.take(path)
        except locks.BusyError:
            pass
        with event.trigger_event("numba:compile"):
            end = time.monotonic() + _PATIENCE
            while time.monotonic() < end:
                time.sleep(_POLL)
                check_cancelled()
                with suppress(locks.BusyError):
                    return locks.take(path)
    return None


class _CacheFile:
    """The files of one function: an index from signatures to numbers, and a file of code for each number.

    Args:
        bases: paths of the files without their ends: the one to write, and others that are only read.
        stamp: what the code depends on beside the signature.
    """

    def __init__(self, bases: tuple[Path, ...], stamp: object) -> None:
        self._base, *self._others = bases
        self._stamp = numba.__version__, stamp

    @property
    def lock_path(self) -> Path:
        """Path of the file that the process locks that compiles the function."""
        return self._base.with_name(f"{self._base.name}.lock")

    def load(self, key: object) -> Any:
        """Return what was saved under a key, or None."""
        for base in (self._base, *self._others):
            number = self._index(base).get(key)
            value = None if number is None else self._read(_code_path(base, number), key)
            if value is not None:
                return value
        return None

    def has_keys(self) -> bool:
        """Return whether a value was saved under some key."""
        return any(self._index(base) for base in (self._base, *self._others))

    def save(self, key: object, value: object) -> None:
        """Save a value under a key; values under other keys stay unless they are of another version."""
        index = self._index(self._base)
        number = index.get(key)
        if number is None:
            number = 1 + max(index.values(), default=0)
        self._write(_code_path(self._base, number), key, value)
        self._write(_index_path(self._base), "index", index | {key: number})

    def flush(self) -> None:
        """Forget all values."""
        self._write(_index_path(self._base), "index", {})

    def _index(self, base: Path) -> dict[Any, int]:
        """Return the number of each key; empty where there is no index of this version."""
        return self._read(_index_path(base), "index") or {}

    def _read(self, path: Path, label: object) -> Any:
        """Return the value of a file, or None where it is missing, damaged, of another version, or for another label.

        Two processes that write at the same time may leave an index that names the code of another key.
        """
        try:
            content = path.read_bytes()
        except OSError:
            return None
        size = hashlib.sha256().digest_size
        if content[:size] != self._checksum(content[size:]):
            return None
        found, value = pickle.loads(content[size:])
        return value if found == label else None

    def _write(self, path: Path, label: object, value: object) -> None:
        """Write the file of a value, in one step."""
        content = dumps((label, value))
        with files.replaced(path, is_durable=False) as draft:
            draft.write_bytes(self._checksum(content) + content)

    def _checksum(self, content: bytes) -> bytes:
        """Return the SHA-256 of the name and the version of the function, and of the content of a file."""
        return hashlib.sha256(repr((self._base.name, self._stamp)).encode() + b"\0" + content).digest()


def _index_path(base: Path) -> Path:
    """Return the path of the index of a function."""
    return base.with_name(f"{base.name}.nbi")


def _code_path(base: Path, number: int) -> Path:
    """Return the path of the code of a number."""
    return base.with_name(f"{base.name}.{number}.nbc")


@functools.cache
def _kernels_stamp() -> bytes:
    """Return a hash of the source of all kernels, since each may contain the code of others, and of their constants."""
    paths = [*sorted(Path(__file__).parent.glob("*.py")), Path(rng.__file__)]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in paths)).digest()


class _FirstCompilation(event.Listener):
    """Calls a function at the first compilation and never again."""

    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback: Callable[[], object] | None = callback

    def on_start(self, _: Any) -> None:
        """Call the callback; Numba calls this method at each compilation."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def on_end(self, _: Any) -> None:
        """Do nothing; Numba requires the method."""


@contextmanager
def when_compiling(callback: Callable[[], object]) -> Iterator[None]:
    """Call ``callback()`` when a kernel is compiled for the first time within the block.

    Kernels that are in memory already or are loaded from the cache on disk do not count.
    """
    listener = _FirstCompilation(callback)
    event.register("numba:compile", listener)
    try:
        yield
    finally:
        event.unregister("numba:compile", listener)


class Compilations(event.Listener):
    """Counts the seconds that kernels are compiled, a kernel within another one once.

    Attributes:
        seconds: so far, by all threads.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth, self._begin = 0, 0.0

    def on_start(self, _: Any) -> None:
        """Begin to count; Numba calls this method at each compilation, by one thread at a time."""
        if self._depth == 0:
            self._begin = time.perf_counter()
        self._depth += 1

    def on_end(self, _: Any) -> None:
        """Count what the compilation has taken."""
        self._depth -= 1
        if self._depth == 0:
            self.seconds += time.perf_counter() - self._begin


@contextmanager
def compilations_counted() -> Iterator[Compilations]:
    """Count the seconds that kernels are compiled within the block."""
    listener = Compilations()
    event.register("numba:compile", listener)
    try:
        yield listener
    finally:
        event.unregister("numba:compile", listener)


def is_compiling() -> bool:
    """Return whether another thread compiles a kernel, or reads one from the cache."""
    lock = global_compiler_lock._lock
    if not lock.acquire(blocking=False):
        return True
    lock.release()
    return False


class _Cancellation(event.Listener):
    """Ends a compilation that is not wanted any more, at its next pass."""

    def on_start(self, _: Any) -> None:
        """Raise an error in a thread whose work was cancelled."""
        check_cancelled()

    def on_end(self, _: Any) -> None:
        """Do nothing; Numba requires the method."""


event.register("numba:run_pass", _Cancellation())


class _Fork(threading.local):
    """Lets a thread fork between two compilations alone, so that the compiler works in the child as well."""

    is_held = False

    def before(self) -> None:
        """Wait for the end of the compilation that another thread does, but not forever."""
        self.is_held = global_compiler_lock._lock.acquire(timeout=_PATIENCE)

    def after_in_parent(self) -> None:
        """Let other threads compile."""
        if self.is_held:
            global_compiler_lock._lock.release()

    def after_in_child(self) -> None:
        """Give the child a lock that no thread of the parent holds."""
        global_compiler_lock._lock = threading.RLock()


_fork = _Fork()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_fork.before, after_in_parent=_fork.after_in_parent, after_in_child=_fork.after_in_child)
