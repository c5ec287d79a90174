"""The cache of compiled kernels, interrupts and forks while they are compiled, and variables of Numba."""

import os
import random
import runpy
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numba
import numpy as np
import pytest
from numba.core import event
from numba.core.compiler_lock import global_compiler_lock

import fastncf
from fastncf import locks
from fastncf.errors import DataNotFoundError, InsufficientMemoryError
from fastncf.kernels.cpu import compiler_memory, compiling
from fastncf.kernels.cpu.compiling import njit, when_compiling
from fastncf.kernels.cpu.factors import train_block
from fastncf.memory import limited_memory, resident_bytes
from fastncf.threads import CancelledError, Task

FOLDER = Path(fastncf.__file__).parents[1]

MODULE = """
from fastncf.kernels.cpu.compiling import njit, when_compiling

compiled = []

@njit(cache=True)
def first(x):
    return x + {summand}

@njit(cache=True)
def second(x):
    return first(x) * 2

with when_compiling(lambda: compiled.append(1)):
    result = second(1), second(0.5), first(7), bool(compiled)
"""
"""A module with two kernels, their results, and whether anything was compiled."""


class Kernels:
    """A module with cached kernels in a folder of its own, which each run makes anew."""

    def __init__(self, folder: Path) -> None:
        self.module, self.cache = folder / "kernels.py", folder / "cache"
        self.write()

    def write(self, summand: int = 1) -> None:
        self.module.write_text(MODULE.format(summand=summand), encoding="utf-8")

    def run(self) -> tuple[int, float, int, bool]:
        return runpy.run_path(str(self.module))["result"]

    def files(self, kind: str = "*") -> list[Path]:
        return sorted(path for path in self.cache.rglob(f"*.{kind}") if path.is_file())


COMPILED, LOADED = (4, 3, 8, True), (4, 3, 8, False)


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kernels:
    """Kernels whose code is in their cache."""
    kernels = Kernels(tmp_path)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(kernels.cache))
    assert kernels.run() == COMPILED
    assert kernels.run() == LOADED
    return kernels


def swap(files: list[Path]) -> None:
    """Give each file the content of another one."""
    contents = [path.read_bytes() for path in files]
    for path, content in zip(files, contents[1:] + contents[:1], strict=True):
        path.write_bytes(content)


def flip(path: Path) -> None:
    """Flip a bit at a random place."""
    content = bytearray(path.read_bytes())
    content[random.randrange(len(content))] ^= 1 << random.randrange(8)
    path.write_bytes(content)


DAMAGES = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: random.randrange(path.stat().st_size)]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "garbage": lambda path: path.write_bytes(random.randbytes(5000)),
    "flipped": flip,
    "pickle of something else": lambda path: path.write_bytes(b"\x80\x04]\x94."),
}


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_written_anew(kernels, kind, damage):
    for path in kernels.files(kind):
        DAMAGES[damage](path)
    assert kernels.run() == COMPILED
    assert kernels.run() == LOADED


def test_code_of_another_function_or_signature_is_not_run(kernels):
    assert len(kernels.files("nbc")) >= 4
    swap(kernels.files("nbc"))
    assert kernels.run() == COMPILED
    assert kernels.run() == LOADED
    swap(kernels.files("nbi"))
    assert kernels.run() == COMPILED
    assert kernels.run() == LOADED


def test_a_changed_source_is_compiled(kernels):
    kernels.write(summand=2)
    assert kernels.run() == (6, 5, 9, True)
    assert kernels.run() == (6, 5, 9, False)


def test_another_process_loads_the_code(kernels):
    done = subprocess.run(
        [sys.executable, "-c", f"import runpy; print(runpy.run_path({str(kernels.module)!r})['result'])"],
        env={**os.environ, "PYTHONPATH": str(FOLDER), "NUMBA_CACHE_DIR": str(kernels.cache)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.stdout, done.stderr) == (f"{(4, 3.0, 8, False)}\n", "")


AT_ONCE = """
import pathlib, runpy, sys, time

import fastncf.kernels.cpu.compiling

print("ready", flush=True)
sys.stdin.readline()
found = runpy.run_path(sys.argv[1])
print(found["result"][:3], *(sum(found[name].stats.cache_misses.values()) for name in ("first", "second")))
"""


def test_processes_that_need_a_kernel_at_the_same_time_compile_it_once(tmp_path):
    kernels = Kernels(tmp_path)
    environment = {**os.environ, "PYTHONPATH": str(FOLDER), "NUMBA_CACHE_DIR": str(kernels.cache)}
    command = [sys.executable, "-c", AT_ONCE, str(kernels.module)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    processes = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    ends = [process.communicate(timeout=120)[0].rsplit(maxsplit=2) for process in processes]
    assert [result for result, *_ in ends] == ["(4, 3.0, 8)"] * 2
    assert [sum(int(end[place]) for end in ends) for place in (1, 2)] == [2, 2]  # signatures of each kernel
    assert {path.suffix for path in kernels.files()} == {".nbi", ".nbc"}


def test_a_lock_that_another_process_keeps_is_not_waited_for_forever(tmp_path, monkeypatch):
    kernels = Kernels(tmp_path)
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(kernels.cache))
    monkeypatch.setattr(compiling, "_PATIENCE", 0.1)
    take, held = locks.take, {}

    def taken(path: Path) -> object:
        if path not in held:
            held[path] = take(path)
        return take(path)

    monkeypatch.setattr(locks, "take", taken)
    assert kernels.run() == COMPILED
    assert len(held) == 2
    assert kernels.run() == LOADED
    for lock in held.values():
        lock.release()


@pytest.mark.parametrize("place", ["a file", "a folder that cannot be made", "folders where the files were"])
def test_without_a_place_for_the_cache_kernels_are_compiled(kernels, place, tmp_path, monkeypatch):
    if place == "folders where the files were":
        for path in kernels.files():
            path.unlink()
            path.mkdir()
    else:
        (tmp_path / "file").write_text("")
        where = tmp_path / "file" if place == "a file" else Path("/proc/self/cache")
        monkeypatch.setattr(numba.config, "CACHE_DIR", str(where))
        (tmp_path / "__pycache__").write_text("")  # no place beside the module, nor in the home folder
        for variable in ("HOME", "XDG_CACHE_HOME"):
            monkeypatch.setenv(variable, "/proc/self")
    assert kernels.run() == COMPILED
    assert kernels.run() == COMPILED


def test_a_place_that_cannot_be_written_is_read(kernels, tmp_path, monkeypatch):
    home = tmp_path / "home"
    monkeypatch.setattr(compiling.caching.UserWideCacheLocator, "get_cache_path", lambda self: str(home))
    unwritable = {str(kernels.cache), str(tmp_path)}

    def probe(dir, **settings):
        if any(str(dir).startswith(place) for place in unwritable):
            raise PermissionError(13, "Permission denied")
        return tempfile.SpooledTemporaryFile()

    monkeypatch.setattr(compiling.caching.tempfile, "TemporaryFile", probe)
    assert kernels.run() == LOADED  # no place can be written
    unwritable.discard(str(tmp_path))
    kernels.write(summand=5)
    assert kernels.run() == (12, 11, 12, True)
    assert kernels.run() == (12, 11, 12, False)  # read from the next place


def test_on_a_full_disk_kernels_are_compiled(kernels, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    for path in kernels.files():
        path.unlink()
    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", refuse)
        assert kernels.run() == COMPILED
    assert kernels.files() == []
    assert kernels.run() == COMPILED
    assert kernels.run() == LOADED


def test_no_drafts_stay_behind(kernels):
    assert {path.suffix for path in kernels.files()} == {".nbi", ".nbc"}


def test_the_stamp_is_that_of_all_kernels(monkeypatch, tmp_path):
    compiling._kernels_stamp.cache_clear()
    stamp = compiling._kernels_stamp()
    for path in Path(compiling.__file__).parent.glob("*.py"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr(compiling, "__file__", str(tmp_path / "compiling.py"))
    compiling._kernels_stamp.cache_clear()
    assert compiling._kernels_stamp() == stamp
    with (tmp_path / "simd.py").open("a") as file:
        file.write("# changed\n")
    compiling._kernels_stamp.cache_clear()
    assert compiling._kernels_stamp() != stamp
    compiling._kernels_stamp.cache_clear()


@pytest.mark.parametrize(
    ("variable", "value"), [("NUMBA_DISABLE_JIT", "1"), ("NUMBA_NUM_THREADS", "0"), ("NUMBA_NUM_THREADS", "-3")]
)
def test_what_numba_cannot_do_is_one_sentence(variable, value, tmp_path):
    (tmp_path / "ratings.csv").write_text("1,2,3\n")
    done = subprocess.run(
        [sys.executable, "-m", "fastncf", "fit", str(tmp_path / "ratings.csv")],
        cwd=FOLDER,
        env={**os.environ, variable: value},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"fastncf: {variable}")
    assert done.stderr.count("\n") == 1
    assert "expected:" in done.stderr


def test_callback_is_called_once_and_not_for_compiled_kernels():
    calls = []

    @njit
    def double(x):
        return 2 * x

    with when_compiling(lambda: calls.append("first")):
        assert calls == []
        assert double(1) + double(1.5) == 5
        assert calls == ["first"]
    with when_compiling(lambda: calls.append("second")):
        double(3)
    assert calls == ["first"]


class InCompilation(event.Listener):
    """Calls a function at a pass of the compiler, once."""

    def __init__(self, callback) -> None:
        self.callback = callback
        event.register("numba:run_pass", self)

    def on_start(self, _) -> None:
        if self.callback is not None:
            callback, self.callback = self.callback, None
            callback()

    def on_end(self, _) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_) -> None:
        event.unregister("numba:run_pass", self)


def test_the_main_thread_compiles_nothing_itself():
    threads = []

    @njit
    def triple(x):
        return 3 * x

    with InCompilation(lambda: threads.append(threading.current_thread())):
        assert triple(2) == 6
    assert threads != [threading.main_thread()]
    assert len(threads) == 1


def test_a_cancelled_compilation_ends_and_the_kernel_can_be_compiled_later():
    @njit
    def inner(x):
        return x - 1

    @njit
    def outer(x):
        return inner(x) * 4

    task = Task(lambda: None)
    task.wait()
    begins, goes_on = threading.Event(), threading.Event()

    def pause() -> None:
        begins.set()
        assert goes_on.wait(30)

    with InCompilation(pause):
        task = Task(lambda: outer(2))
        assert begins.wait(30)
        task.cancel()
        goes_on.set()
        with pytest.raises(CancelledError):
            task.result()
    assert outer(2) == 4


def test_an_error_of_the_compiler_reaches_the_caller():
    @njit
    def wrong(x):
        return x.nothing

    with pytest.raises(Exception, match="nothing"):
        wrong(1)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_waits_for_the_compilation_of_another_thread():
    """Otherwise the child would have a lock that nobody unlocks, and a compiler in the midst of its work."""

    @njit
    def square(x):
        return x * x

    @njit
    def other(x):
        return x + 10

    begins = threading.Event()

    def pause() -> None:
        begins.set()
        time.sleep(0.3)  # the fork comes meanwhile; without waiting, it would take less

    with InCompilation(pause):
        task = Task(lambda: square(np.arange(3)).tolist())
        assert begins.wait(30)
        child = os.fork()
        if child == 0:
            is_right = (
                not global_compiler_lock.is_locked() and other(1) == 11 and square(np.arange(2)).tolist() == [0, 1]
            )
            os._exit(0 if is_right else 1)
    assert task.result() == [0, 1, 4]
    deadline = time.monotonic() + 60
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    if ended == (0, 0):
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert ended == (child, 0)
    assert not global_compiler_lock.is_locked()


def test_a_kernel_is_compiled_only_where_a_limit_leaves_the_memory(kernels, monkeypatch):
    monkeypatch.setattr(compiler_memory._Compiler, "has_started", False)
    loaded = runpy.run_path(str(kernels.module))["first"]
    assert loaded.is_compiled
    assert compiler_memory.bytes_to_compile([loaded]) == 0
    with limited_memory(resident_bytes() + 50_000_000):
        assert kernels.run() == LOADED
        kernels.write(summand=2)
        with pytest.raises(
            InsufficientMemoryError, match=r"^compiling kernels .*83\.0 MB .*expected: max_memory=\d+MB"
        ):
            kernels.run()
        monkeypatch.setattr(compiler_memory._Compiler, "has_started", True)  # the compiler is in the memory by then
        assert kernels.run() == (6, 5, 9, True)


def test_a_fit_without_compiled_kernels_is_refused_before_the_data_are_read(monkeypatch):
    monkeypatch.setattr(compiler_memory._Compiler, "has_started", False)
    settings = {"loss": "bce", "history": "none", "l2": 0.1, "epochs": 1, "dim": 4}
    monkeypatch.setattr(type(train_block), "is_compiled", property(lambda kernel: kernel is not train_block))
    limit = resident_bytes() + 100_000_000
    with pytest.raises(InsufficientMemoryError, match=r"^compiling kernels .*need 203\.0 MB") as error:
        fastncf.fit("no-such-file.csv", max_memory=limit, **settings)
    named = int(str(error.value).split("max_memory=")[1].split("MB")[0]) * 12 / 13  # a twelfth more than needed
    assert 94 < named - limit / 1e6 < 150
    with pytest.raises(DataNotFoundError):
        fastncf.fit("no-such-file.csv", max_memory=limit + 150_000_000, **settings)
    monkeypatch.setattr(type(train_block), "is_compiled", True)
    with pytest.raises(DataNotFoundError):
        fastncf.fit("no-such-file.csv", max_memory=limit, **settings)
