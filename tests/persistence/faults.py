"""A device with faults: calls are recorded, some fail or end the process, and power is lost afterwards."""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

_SECTOR_BYTES = 512


class Killed(BaseException):
    """The process has ended here; nothing of it runs any more."""


class Event(NamedTuple):
    """A call that changed something, or made a change durable.

    Attributes:
        kind: create, write, sync, lost_sync, move, unlink, mkdir, rmdir or sync_folder. After a lost_sync nothing that
            was written before it gets to the device any more, although a later synchronisation succeeds.
        file: number of the file that is created, written, synchronised or moved.
        path: where the name is made, moved to or removed; for sync_folder the folder.
        content: what is written.
        source: where a file is moved from.
    """

    kind: str
    file: int = -1
    path: str = ""
    content: bytes = b""
    source: str = ""


@dataclass
class FaultyOS:
    """Stands for the module ``os`` in :mod:`fastncf.files`.

    Attributes:
        fail_at: number of the changing call that fails, from 0; -1 for none.
        error: number of the ``OSError`` with which it fails; None ends the process before the call.
        is_lasting: whether all later calls of the kind that fails fail as well, as those of a device that is full.
        fail_read_at: number of the reading call that fails with ``error``, from 0; -1 for none.
        largest_read: bytes that one read returns at most.
        largest_write: bytes that one write takes at most.
        turn: called before each call, and decides which of several threads goes on.
        events: what has happened.
        num_calls: changing calls so far.
        num_reads: reading calls so far.
    """

    fail_at: int = -1
    error: int | None = None
    is_lasting: bool = False
    fail_read_at: int = -1
    largest_read: int = 1 << 40
    largest_write: int = 1 << 40
    turn: Callable[[], object] = lambda: None
    events: list[Event] = field(default_factory=list)
    num_calls: int = 0
    num_reads: int = 0
    _failing: str = ""
    _open: dict[int, int] = field(default_factory=dict)
    _folders: dict[int, str] = field(default_factory=dict)
    _files: dict[str, int] = field(default_factory=dict)
    _written: dict[int, int] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def end(self) -> None:
        """Close what the process had open when it was killed, and with it the locks."""
        for descriptor in (*self._open, *self._folders):
            os.close(descriptor)
        self._open, self._folders = {}, {}

    def _count(self, kind: str) -> None:
        """Fail if it is the turn of this call; after the end of the process all calls fail."""
        self.turn()
        number, self.num_calls = self.num_calls, self.num_calls + 1
        if self.fail_at < 0:
            return
        if self.error is None and self.fail_at <= number:
            raise Killed
        if number == self.fail_at:
            self._failing = kind
        if number == self.fail_at or (self.is_lasting and kind == self._failing):
            raise OSError(self.error, os.strerror(self.error))

    def _count_read(self) -> None:
        """Fail if it is the turn of this reading call."""
        self.turn()
        number, self.num_reads = self.num_reads, self.num_reads + 1
        if number == self.fail_read_at:
            raise OSError(self.error, os.strerror(self.error))

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            self._count("open")
        else:
            self._count_read()
        descriptor = os.open(path, flags, mode)
        if os.path.isdir(path):
            self._folders[descriptor] = str(path)
        elif flags & os.O_CREAT:
            number = self._files[str(path)] = len(self._files)
            self._open[descriptor], self._written[number] = number, 0
            self.events.append(Event("create", number, str(path)))
        return descriptor

    def close(self, descriptor: int) -> None:
        self._open.pop(descriptor, None)
        self._folders.pop(descriptor, None)
        os.close(descriptor)

    def read(self, descriptor: int, length: int) -> bytes:
        self._count_read()
        return os.read(descriptor, min(length, self.largest_read))

    def write(self, descriptor: int, content: memoryview) -> int:
        try:
            self._count("write")
        except OSError:
            if self.error == errno.ENOSPC:  # what still fits is written
                self._write(descriptor, content[: len(content) // 2])
            raise
        return self._write(descriptor, content[: self.largest_write])

    def _write(self, descriptor: int, content: memoryview) -> int:
        written = os.write(descriptor, content)
        number = self._open[descriptor]
        self._written[number] += written
        self.events.append(Event("write", number, content=bytes(content[:written])))
        return written

    def fsync(self, descriptor: int) -> None:
        is_folder = descriptor in self._folders
        if not is_folder:
            self._find_writes(descriptor)
        try:
            self._count("fsync")
        except OSError:
            if not is_folder:
                self.events.append(Event("lost_sync", self._open[descriptor]))
            raise
        if is_folder:
            self.events.append(Event("sync_folder", path=self._folders[descriptor]))
        else:
            self.events.append(Event("sync", self._open[descriptor]))

    def _find_writes(self, descriptor: int) -> None:
        """Record what was written to an open file by other means than :meth:`write`."""
        number = self._open[descriptor]
        size = os.fstat(descriptor).st_size
        if size > self._written[number]:
            path = next(path for path, file in self._files.items() if file == number)
            content = Path(path).read_bytes()[self._written[number] :]
            self.events.append(Event("write", number, content=content))
            self._written[number] = size

    def replace(self, source: Any, target: Any) -> None:
        self._count("replace")
        os.replace(source, target)
        self.events.append(Event("move", self._files[str(source)], str(target), source=str(source)))

    def unlink(self, path: Any) -> None:
        self._count("unlink")
        os.unlink(path)
        self.events.append(Event("unlink", path=str(path)))

    def mkdir(self, path: Any) -> None:
        self._count("mkdir")
        os.mkdir(path)
        self.events.append(Event("mkdir", path=str(path)))

    def rmdir(self, path: Any) -> None:
        self._count("rmdir")
        os.rmdir(path)
        self.events.append(Event("rmdir", path=str(path)))


def after_power_loss(
    events: list[Event], before: dict[str, bytes] | None, folder: Path, generator: np.random.Generator, share: float
) -> dict[str, bytes] | None:
    """Return the files of a folder by name after some events and a loss of power; None if there is no folder.

    An event counts for certain if it was made durable afterwards. Of the others a random ``share`` counts, in any
    combination; a write may also count in part, as zeros, or in some of its sectors.
    """
    names = {str(folder / name): -1 - at for at, name in enumerate(before or {})}
    contents: dict[int, bytes] = {-1 - at: content for at, content in enumerate((before or {}).values())}
    has_folder = before is not None
    are_durable = _durable(events)
    for event, is_certain in zip(events, are_durable, strict=True):
        if event.kind == "write":
            content = event.content
            if not is_certain and generator.random() >= share:
                content = _torn(content, generator)
            contents[event.file] = contents.get(event.file, b"") + content
            continue
        if "sync" in event.kind or not (is_certain or generator.random() < share):
            continue
        if event.kind in ("mkdir", "rmdir"):
            has_folder = event.kind == "mkdir" if event.path == str(folder) else has_folder
        elif event.kind == "unlink":
            names.pop(event.path, None)
        else:
            names.pop(event.source, None)
            names[event.path] = event.file
    return {os.path.basename(path): contents.get(file, b"") for path, file in names.items()} if has_folder else None


def _durable(events: list[Event]) -> list[bool]:
    """Return whether each event was made durable: the next synchronisation of its file or folder has succeeded."""
    durable, next_sync = [], {}
    for event in reversed(events):
        if "sync" in event.kind:
            next_sync[event.path if event.kind == "sync_folder" else event.file] = event.kind != "lost_sync"
        durable.append(next_sync.get(event.file if event.kind == "write" else os.path.dirname(event.path), False))
    return durable[::-1]


def _torn(content: bytes, generator: np.random.Generator) -> bytes:
    """Return what a device may have of a write that was not synchronised."""
    length = int(generator.integers(len(content) + 1))
    sectors = bytearray(content)
    for start in range(0, len(content), _SECTOR_BYTES):
        if generator.random() < 0.5:
            sectors[start : start + _SECTOR_BYTES] = bytes(len(sectors[start : start + _SECTOR_BYTES]))
    return [b"", content[:length], bytes(length), bytes(sectors)][generator.integers(4)]


ERRORS = {errno.ENOSPC: "No space left", errno.EIO: "Input/output error", errno.EACCES: "Permission denied"}
"""Errors of a device and what messages say of them."""
