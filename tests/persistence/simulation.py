"""Faults of devices and processes, simulated from one seed: readers find the old or the new content, or a sentence.

``python -m tests.persistence.simulation FIRST COUNT`` simulates seeds, and prints for each one that fails what was done
and the command that does it again; then how many steps of each kind there were. A seed makes a folder and a few steps.
In each step content is written or read, or two writers and a reader run at once, while a device fails, a process ends
or the power is lost. After each step:

- what is read is exactly what was there, or what was being written; after a write that has returned, that alone;
- an error is a ``FastNCFError`` of at most 500 characters;
- files of others are as they were, and after the last write, which is undisturbed, only its files are left of ours.
"""

import copy
import errno
import faulthandler
import json
import os
import shutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields as dataclass_fields
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

import fastncf
from fastncf import files
from fastncf.data.replaced_file import replaced_file
from fastncf.errors import MAX_MESSAGE_LENGTH, DataNotFoundError, FastNCFError
from fastncf.persistence.manifest import FolderKind, read_files, write_files
from tests.conftest import checkerboard
from tests.persistence.faults import FaultyOS, Killed, after_power_loss
from tests.persistence.saved import MODELS, arrays_of, fitted, is_same

SECONDS = 300
"""Seconds after which a seed counts as a hang."""

STRANGERS = {"notes.txt": b"mine", ".hidden": b"mine, too", "fastncf-model-notes.safetensors": b"no file of ours"}
"""Files of others."""

_ERRORS = errno.ENOSPC, errno.EIO, errno.EACCES, errno.EDQUOT, errno.EROFS


class Subject(NamedTuple):
    """Something that is written and read.

    Attributes:
        write: writes the version of a number, of which there are three.
        read: returns the number of the version that is found, -1 for one that nobody wrote; None where there is none.
        own_files: number of files of ours after an undisturbed write; 0 where it need not write anything.
        has_checksums: whether a flipped bit is noticed.
        is_one: whether there is one version alone, which is read from the first step on, and no two writers at once.
    """

    write: Callable[[Path, int], object]
    read: Callable[[Path], int | None]
    own_files: int = 3
    has_checksums: bool = True
    is_one: bool = False


def subject_of(seed: int) -> str:
    """Return the name of the subject of a seed."""
    often = [name for name in SUBJECTS if name not in _SELDOM]
    names = [often[at % len(often)] for at in range(32 - len(_SELDOM))] + [*_SELDOM]
    return names[seed % len(names)]


def _without_seconds(rec: fastncf.Recommender) -> fastncf.Recommender:
    """Return a recommender without what differs from one process to the next."""
    rec.seconds = dict.fromkeys(rec.seconds, 1.0)
    rec.training_log = [entry | {"seconds": 1.0} for entry in rec.training_log]
    return rec


@cache
def _models() -> tuple[fastncf.Recommender, ...]:
    return tuple(map(_without_seconds, (fitted(hidden=2), fitted(hidden=1), fitted("popularity"))))


def _number(rec: fastncf.Recommender, versions: tuple[fastncf.Recommender, ...]) -> int:
    """Return which of some models a model is."""
    return next((number for number, one in enumerate(versions) if is_same(rec, one)), -1)


def _save(folder: Path, number: int) -> None:
    _models()[number].save(folder)


def _load(folder: Path) -> int | None:
    try:
        return _number(fastncf.load(folder), _models())
    except DataNotFoundError:
        return None


_ROWS = pl.DataFrame({"user": [0, 1, 77], "item": [3, 4, 5], "time": [90, 91, 92]})


@cache
def _updated() -> tuple[fastncf.Recommender, ...]:
    """Return a model, and what one and two updates of it make."""
    versions = [_models()[0]]
    for _ in range(2):
        versions.append(copy.deepcopy(versions[-1]))
        versions[-1].update(_ROWS, epochs=0)
    return tuple(versions)


def _update(folder: Path, number: int) -> None:
    """Update the model of a folder where it is the one before, as ``fastncf update`` does; save another one else."""
    rec = None
    with suppress(DataNotFoundError):
        rec = fastncf.load(folder)  # once: another writer may replace it meanwhile
    if rec is not None and number and _number(rec, _updated()) == number - 1:
        rec.update(_ROWS, epochs=0)
        rec.save(folder)
    else:
        _updated()[number].save(folder)


def _load_updated(folder: Path) -> int | None:
    try:
        return _number(fastncf.load(folder), _updated())
    except DataNotFoundError:
        return None


_CHECKPOINT = FolderKind("checkpoint", "checkpoint.json", "checkpoint", ("parameters", "moments", "rows"), 1)


@cache
def _states() -> tuple[dict[str, dict[str, np.ndarray]], ...]:
    generator = np.random.default_rng(0)
    return tuple(
        {
            role: {name: generator.random((3 + number, 40), dtype=np.float32) for name in ("user", "item")}
            for role in _CHECKPOINT.roles
        }
        for number in range(3)
    )


def _write_files(folder: Path, number: int) -> None:
    write_files(folder, _CHECKPOINT, {"epoch": number}, _states()[number])


def _read_files(folder: Path) -> int | None:
    try:
        description, found = read_files(folder, _CHECKPOINT)
    except DataNotFoundError:
        return None
    number: int = description["epoch"]
    expected = _states()[number]
    is_whole = all(
        np.array_equal(found[role][name], array) for role in expected for name, array in expected[role].items()
    )
    return number if is_whole else -1


def _write_page(folder: Path, number: int) -> None:
    with replaced_file(folder / "answer.csv") as draft:
        draft.write_text(f"{number}\n" * 999)


def _read_page(folder: Path) -> int | None:
    path = folder / "answer.csv"
    if not path.exists():
        return None
    text = path.read_text()
    return int(text[0]) if text in {f"{number}\n" * 999 for number in range(3)} else -1


def _fit(checkpoint: Path | None = None) -> fastncf.Recommender:
    """Fit a small model; with a checkpoint, go on from what is there."""
    data = checkerboard(num_users=12, num_items=14)
    return fastncf.fit(
        data,
        **MODELS["mf"] | {"epochs": 3},
        num_candidates=5,
        device="cpu",
        checkpoint=checkpoint,
        resume=checkpoint is not None,
    )


_undisturbed = cache(_fit)


def _resume(folder: Path) -> int:
    """Go on from what is in a folder, in a copy of it; return 0 for what an undisturbed fit trains."""
    with tempfile.TemporaryDirectory() as scratch:
        copied = Path(scratch) / "copied"
        if folder.exists():
            shutil.copytree(folder, copied)
        rec, expected = _fit(copied), _undisturbed()
    arrays, others = arrays_of(rec), arrays_of(expected)
    is_whole = all(array.tobytes() == others[name].tobytes() for name, array in arrays.items())
    return 0 if is_whole and rec.metrics == expected.metrics else -1


SUBJECTS = {
    "save": Subject(_save, _load),
    "update": Subject(_update, _load_updated),
    "folder": Subject(_write_files, _read_files, own_files=4),
    "file": Subject(_write_page, _read_page, own_files=1, has_checksums=False),
    "resume": Subject(lambda folder, _: _fit(folder), _resume, own_files=0, is_one=True),
}
_SELDOM = {"resume"}
"""Subjects that take longer, and have one seed of 32."""


class _Numbers:
    """Stands for the module ``secrets``, so that a seed makes the same names again."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator

    def token_hex(self, count: int) -> str:
        return self._generator.bytes(count).hex()


class Turns:
    """Lets one of several threads go on at a time, chosen at random at each call of the device."""

    def __init__(self, generator: np.random.Generator) -> None:
        self._generator = generator
        self._changed = threading.Condition()
        self._waiting: set[int] = set()
        self._num_running = 0
        self._chosen: int | None = None

    def run(self, tasks: list[Callable[[], object]]) -> None:
        """Run tasks in a thread each, until all have ended; what one raises is raised."""
        self._num_running = len(tasks)
        self._errors: list[BaseException] = []
        threads = [threading.Thread(target=self._run, args=(task,), name=str(at)) for at, task in enumerate(tasks)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for error in self._errors:
            raise error

    def _run(self, task: Callable[[], object]) -> None:
        try:
            self.wait()
            task()
        except BaseException as error:
            self._errors.append(error)
        finally:
            with self._changed:
                self._num_running -= 1
                self._choose()

    def wait(self) -> None:
        """Wait for a turn; threads that do not take part go on at once."""
        name = threading.current_thread().name
        if not name.isdigit():
            return
        with self._changed:
            self._waiting.add(int(name))
            self._choose()
            self._changed.wait_for(lambda: self._chosen == int(name))
            self._chosen = None
            self._waiting.remove(int(name))

    def _choose(self) -> None:
        """Choose a thread once all of them wait, so that nothing depends on their speed."""
        if self._chosen is None and self._waiting and len(self._waiting) == self._num_running:
            self._chosen = sorted(self._waiting)[int(self._generator.integers(len(self._waiting)))]
            self._changed.notify_all()


class World:
    """A folder on a device that fails, and what may be found in it.

    Attributes:
        allowed: versions that may be found now.
        possible: versions that may be found after a loss of power.
        done: steps so far, in words.
        strangers: files of others that are there.
    """

    def __init__(self, subject: Subject, folder: Path, generator: np.random.Generator) -> None:
        self.allowed: set[int | None] = {None}
        self.possible: set[int | None] = {None}
        self.done: list[str] = []
        self.strangers: dict[str, bytes] = {}
        self._subject, self._folder, self._generator = subject, folder, generator
        self._versions = 1 if subject.is_one else 3
        if subject.is_one:
            self.allowed = self.possible = {0}
        self._disk = FaultyOS()
        self._durable: dict[str, bytes] | None = None
        if subject.own_files == 1:  # a file goes to a folder that is there
            folder.mkdir()
            self._add_strangers()

    def step(self) -> None:
        """Do something at random, and check what is there afterwards."""
        steps = [self._write] * 4 + [self._read] * 2 + [self._flip] + [self._lose_power] * 3
        steps += [] if self._subject.is_one else [self._race] * 2
        self.done.append("")
        steps[self._integer(len(steps))]()
        found = self._subject.read(self._folder)
        assert found in self.allowed, f"{found} was read; expected one of {self.allowed}"
        self.allowed = {found}
        for name, content in self.strangers.items():
            assert (self._folder / name).read_bytes() == content, f"{name} has changed"
        if any(self._folder.glob("*.json")) and not self.strangers and self._integer(3) == 0:
            self._add_strangers()

    def end(self) -> None:
        """Write without faults, and check that nothing else of ours is left."""
        self.done.append("write")
        self._subject.write(self._folder, self._versions - 1)
        assert self._subject.read(self._folder) == self._versions - 1
        left = sorted(path.name for path in self._folder.iterdir() if path.name not in self.strangers)
        assert self._subject.own_files in (0, len(left)), left

    def _integer(self, end: int) -> int:
        """Return a random integer from 0."""
        return int(self._generator.integers(end))

    def _say(self, done: object) -> None:
        self.done[-1] += f"{done} "

    def _add_strangers(self) -> None:
        """Put files of others beside ours, which no write may touch; what is in the folder is durable from now on."""
        for name, content in STRANGERS.items():
            (self._folder / name).write_bytes(content)
        self.strangers = STRANGERS
        self._settle()
        self.possible = self.allowed

    def _settle(self) -> None:
        """Take what is in the folder for durable."""
        self._disk = FaultyOS()
        is_there = self._folder.is_dir()
        self._durable = {path.name: path.read_bytes() for path in self._folder.iterdir()} if is_there else None

    @contextmanager
    def _device(self, **faults: Any) -> Iterator[None]:
        """Let the file layer use a device with faults, on which stays what has happened so far."""
        self._disk = replace(self._disk, **{**_NO_FAULTS, **faults})
        files.os = self._disk  # type: ignore[assignment]
        try:
            yield
        finally:
            files.os = os
            self._disk.end()

    def _allow(self, *versions: int) -> None:
        """Let versions be found as well as those before."""
        self.allowed, self.possible = self.allowed | {*versions}, self.possible | {*versions}

    def _num_moves(self) -> int:
        """Return how often a file was put in the place of another one."""
        return sum(event.kind == "move" for event in self._disk.events)

    def _write(self) -> None:
        """Write a version while something fails."""
        version, faults, moves = self._integer(self._versions), self._faults(), self._num_moves()
        self._say(f"write {version} with {faults}:")
        with self._device(**faults):
            outcome = attempt(lambda: self._subject.write(self._folder, version))
        self._say(outcome)
        if outcome == "done":
            self.allowed = self.possible = {version}
        elif outcome == "killed" or self._num_moves() > moves:
            self._allow(version)

    def _faults(self) -> dict[str, Any]:
        """Return random faults of a device."""
        faults: dict[str, Any] = {}
        if self._integer(3) == 0:
            faults |= {"largest_read": 1 + self._integer(5000), "largest_write": 1 + self._integer(5000)}
        kind, at = self._integer(4), self._integer(24)
        if kind == 0:
            faults |= {"fail_at": at}
        elif kind == 1:
            error = _ERRORS[self._integer(len(_ERRORS))]
            faults |= {"fail_at": at, "error": error, "is_lasting": self._integer(2) == 0}
        elif kind == 2:
            faults |= {"fail_read_at": at, "error": errno.EIO}
        return faults

    def _race(self) -> None:
        """Let two writers and a reader run at once, perhaps until all are killed."""
        versions = self._integer(3), self._integer(3)
        faults = {"fail_at": self._integer(40)} if self._integer(2) else {}
        self._say(f"race of {versions} with {faults}:")
        outcomes: dict[str, str] = {}
        found: list[int | None] = []
        turns = Turns(self._generator)

        def write(version: int, name: str) -> None:
            outcomes[name] = attempt(lambda: self._subject.write(self._folder, version))

        def read() -> None:
            outcomes["reader"] = attempt(lambda: found.extend(self._subject.read(self._folder) for _ in range(2)))

        with self._device(turn=turns.wait, **faults):
            turns.run([partial(write, versions[0], "first"), partial(write, versions[1], "second"), read])
        self._say(outcomes)
        assert set(outcomes.values()) <= ({"done", "killed"} if faults else {"done"})
        assert set(found) <= self.allowed | set(versions), f"the reader found {found}"
        if "done" in (outcomes["first"], outcomes["second"]):
            self.allowed, self.possible = set(), set()
        self._allow(*versions)

    def _read(self) -> None:
        """Read while something fails."""
        faults = {"fail_read_at": self._integer(30) - 10, "error": errno.EIO, "largest_read": 1 + self._integer(5000)}
        found: list[int | None] = []
        with self._device(**faults):
            outcome = attempt(lambda: found.append(self._subject.read(self._folder)))
        self._say(f"read with {faults}: {outcome}")
        assert set(found) <= self.allowed, f"{found} was read"

    def _flip(self) -> None:
        """Flip a bit of one of our files, read, and flip it back."""
        paths = sorted(self._folder.glob("*"))
        paths = [path for path in paths if path.name not in self.strangers and path.stat().st_size]
        if not paths or not self._subject.has_checksums:
            self._say("flip nothing")
            return
        path = paths[self._integer(len(paths))]
        content = bytearray(path.read_bytes())
        at = self._integer(8 * len(content))
        self._say(f"flip bit {at} of {path.name}")
        content[at // 8] ^= 1 << at % 8
        path.write_bytes(content)
        try:
            found = self._subject.read(self._folder)
        except FastNCFError as error:
            assert path.name in str(error) or "has format" in str(error)  # noqa: PT017
        else:  # a blank of the manifest, or a file that the next write removes
            assert found in self.allowed, f"{found} was read"
        content[at // 8] ^= 1 << at % 8
        path.write_bytes(content)

    def _lose_power(self) -> None:
        """Keep what the device has for certain, and some of the rest."""
        share = [0.0, 1.0, float(self._generator.random())][self._integer(3)]
        self._say(f"loss of power, {share:.2f} kept")
        state = after_power_loss(self._disk.events, self._durable, self._folder, self._generator, share)
        shutil.rmtree(self._folder, ignore_errors=True)
        if state is not None:
            self._folder.mkdir()
            for name, content in state.items():
                (self._folder / name).write_bytes(content)
        self._settle()
        found = self._subject.read(self._folder)
        assert found in self.possible, f"{found} was read; expected one of {self.possible}"
        self.allowed = self.possible = {found}


_NO_FAULTS = {
    each.name: each.default
    for each in dataclass_fields(FaultyOS)
    if each.name in ("fail_at", "error", "is_lasting", "fail_read_at", "largest_read", "largest_write", "turn")
} | {"num_calls": 0, "num_reads": 0, "_failing": ""}
"""Contents of a device at the beginning of a step."""


def attempt(step: Callable[[], object]) -> str:
    """Return how a step ended: done, killed, or refused in a sentence."""
    try:
        step()
    except Killed:
        return "killed"
    except FastNCFError as error:
        assert 0 < len(str(error)) <= MAX_MESSAGE_LENGTH  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
        return "refused"
    return "done"


def simulate(seed: int, folder: Path) -> tuple[str, list[str]]:
    """Return what was simulated of a seed: the name of the subject, and the steps.

    Raises:
        AssertionError: something is not as it should be; the message says after which steps.
    """
    generator = np.random.default_rng(seed)
    name = subject_of(seed)
    world = World(SUBJECTS[name], folder / f"{name}-{seed}", generator)
    before, files.secrets = files.secrets, _Numbers(generator)  # type: ignore[assignment]
    try:
        for _ in range(2 + int(generator.integers(5))):
            world.step()
        world.end()
    except BaseException as error:
        raise AssertionError(f"{name}: {' | '.join(world.done)}: {error}") from error
    finally:
        files.secrets = before
    return name, world.done


def failures(first: int, count: int, tried: Counter[str]) -> Iterator[str]:
    """Simulate seeds, count the steps by their first word, and yield what to print of each seed that fails."""
    for prepare in (_models, _updated, _undisturbed):  # which may compile
        prepare()
    in_memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=in_memory if in_memory.is_dir() else None) as scratch:
        for seed in range(first, first + count):
            faulthandler.dump_traceback_later(SECONDS, exit=True)
            try:
                _, steps = simulate(seed, Path(scratch))
                tried.update(step.split(" ")[0] for step in steps)
            except AssertionError as error:
                yield f"{error}\n  python -m tests.persistence.simulation {seed} 1"
            finally:
                faulthandler.cancel_dump_traceback_later()


def main(first: int, count: int) -> int:
    """Simulate seeds and print what fails; return the exit status."""
    tried: Counter[str] = Counter()
    failed = 0
    for text in failures(first, count, tried):
        failed += 1
        print(text, flush=True)
    print(json.dumps({"seeds": count, "failed": failed, "steps": dict(sorted(tried.items()))}))
    return int(failed > 0)


if __name__ == "__main__":
    faulthandler.enable()
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
