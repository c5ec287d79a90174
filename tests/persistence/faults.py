"""A file system with faults: calls are recorded, one fails or ends the process, and power is lost afterwards."""

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

WRITING = "open", "write", "fsync", "replace", "unlink", "mkdir"
"""Calls of ``os`` that change what a device holds, or tell that it does."""


class Killed(BaseException):
    """The process has ended here; nothing of it runs any more."""


class Event(NamedTuple):
    """A call that changed something, or made a change durable.

    Attributes:
        kind: create, write, sync, move, unlink, mkdir, or sync_folder.
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
        largest_read: bytes that one read returns at most.
        largest_write: bytes that one write takes at most.
        events: what has happened.
        num_calls: changing calls so far.
    """

    fail_at: int = -1
    error: int | None = None
    largest_read: int = 1 << 40
    largest_write: int = 1 << 40
    events: list[Event] = field(default_factory=list)
    num_calls: int = 0
    _open: dict[int, int] = field(default_factory=dict)
    _folders: dict[int, str] = field(default_factory=dict)
    _files: dict[str, int] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def end(self) -> None:
        """Close what the process had open when it was killed, and with it the locks."""
        for descriptor in (*self._open, *self._folders):
            os.close(descriptor)
        self._open, self._folders = {}, {}

    def _count(self) -> None:
        """Fail if it is the turn of this call; after the end of the process all calls fail."""
        number, self.num_calls = self.num_calls, self.num_calls + 1
        if self.error is None and 0 <= self.fail_at <= number:
            raise Killed
        if number == self.fail_at:
            raise OSError(self.error, os.strerror(self.error))

    def open(self, path: Any, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_CREAT:
            self._count()
        descriptor = os.open(path, flags, mode)
        if os.path.isdir(path):
            self._folders[descriptor] = str(path)
        elif flags & os.O_CREAT:
            number = self._files[str(path)] = len(self._files)
            self._open[descriptor] = number
            self.events.append(Event("create", number, str(path)))
        return descriptor

    def close(self, descriptor: int) -> None:
        self._open.pop(descriptor, None)
        self._folders.pop(descriptor, None)
        os.close(descriptor)

    def read(self, descriptor: int, length: int) -> bytes:
        return os.read(descriptor, min(length, self.largest_read))

    def write(self, descriptor: int, content: memoryview) -> int:
        self._count()
        written = os.write(descriptor, content[: self.largest_write])
        self.events.append(Event("write", self._open[descriptor], content=bytes(content[:written])))
        return written

    def fsync(self, descriptor: int) -> None:
        self._count()
        if descriptor in self._folders:
            self.events.append(Event("sync_folder", path=self._folders[descriptor]))
        else:
            self.events.append(Event("sync", self._open[descriptor]))

    def replace(self, source: Any, target: Any) -> None:
        self._count()
        os.replace(source, target)
        self.events.append(Event("move", self._files[str(source)], str(target), source=str(source)))

    def unlink(self, path: Any) -> None:
        self._count()
        os.unlink(path)
        self.events.append(Event("unlink", path=str(path)))

    def mkdir(self, path: Any) -> None:
        self._count()
        os.mkdir(path)
        self.events.append(Event("mkdir", path=str(path)))


def after_power_loss(
    events: list[Event], before: dict[str, bytes], folder: Path, generator: np.random.Generator, share: float
) -> dict[str, bytes] | None:
    """Return the files of a folder by name after some events and a loss of power; None if there is no folder.

    An event counts for certain if it was made durable afterwards. Of the others a random ``share`` counts, in any
    combination; a write may also count in part, or as zeros.
    """
    names = {str(folder / name): -1 - at for at, name in enumerate(before)}
    contents: dict[int, bytes] = {-1 - at: content for at, content in enumerate(before.values())}
    has_folder = bool(before)
    for at, event in enumerate(events):
        later = events[at + 1 :]
        if event.kind == "write":
            is_certain = any(other.kind == "sync" and other.file == event.file for other in later)
            content = event.content
            if not is_certain and generator.random() >= share:
                length = int(generator.integers(len(content) + 1))
                content = [b"", content[:length], bytes(length)][generator.integers(3)]
            contents[event.file] = contents.get(event.file, b"") + content
            continue
        parent = os.path.dirname(event.path)
        is_certain = any(other.kind == "sync_folder" and other.path == parent for other in later)
        if event.kind.startswith("sync") or not (is_certain or generator.random() < share):
            continue
        if event.kind == "mkdir":
            has_folder |= event.path == str(folder)
        elif event.kind == "unlink":
            names.pop(event.path, None)
        else:
            names.pop(event.source, None)
            names[event.path] = event.file
    return {os.path.basename(path): contents.get(file, b"") for path, file in names.items()} if has_folder else None


ERRORS = {errno.ENOSPC: "No space left", errno.EIO: "Input/output error", errno.EACCES: "Permission denied"}
"""Errors of a device and what messages say of them."""
