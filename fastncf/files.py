"""Files that survive a kill and a loss of power: written and synchronised before they get the name that is read.

Whatever fastncf writes goes through this module, the only one that renames or removes files. :func:`replaced` is for
one file, and ``persistence/manifest.py`` for several that belong together. A draft has a random name and is locked
while it is written, so that the next write to the folder removes the drafts of those that were killed, and no others.

All functions raise ``OSError``; callers put it into words. Nothing here knows what the files hold.
"""

import errno
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

try:
    import fcntl
except ImportError:  # Windows: no locks on files there, so that nobody can tell whether a file is still in use
    fcntl = None  # type: ignore[assignment]

_BINARY = getattr(os, "O_BINARY", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_PIECE_BYTES = 1 << 18
"""Bytes that are read at once: few enough to be in a cache of the CPU when their checksum is computed."""

_NO_SYNC = errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS
"""Answers of file systems that have no synchronisation for a kind of file."""

_ATTEMPTS = 100
_DRAFT = re.compile(r"\.fastncf-[0-9a-f]{16}\.draft")


def sha256(content: bytes) -> str:
    """Return the SHA-256 of some bytes in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


class OpenFile:
    """A regular file, to which links lead, that is read once from its begin to its end.

    Args:
        path: the file.
        checksum: what to update by all that is read.

    Attributes:
        num_bytes: its length as the system states it, which a file that grows, or has no stated length, exceeds.
        num_read: bytes that were read.

    Raises:
        OSError: it cannot be read, or is something else, such as a folder or a named pipe, which is not opened; while
            it is read, ``FileNotFoundError`` where another machine has removed it.
    """

    def __init__(self, path: Path, checksum: "hashlib._Hash | None" = None) -> None:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        # a pipe that has taken its place in the meantime must not block
        self._descriptor = os.open(path, os.O_RDONLY | _BINARY | _NO_WAIT)
        self._checksum = checksum
        self.num_bytes, self.num_read = os.fstat(self._descriptor).st_size, 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._descriptor)

    def readinto(self, memory: memoryview) -> int:
        """Fill bytes of memory, and return their number, which is smaller where the file ends before."""
        done = 0
        while done < len(memory) and (piece := self._read(min(_PIECE_BYTES, len(memory) - done))):
            if self._checksum is not None:
                self._checksum.update(piece)
            memory[done : done + len(piece)] = piece
            done += len(piece)
        self.num_read += done
        return done

    def _read(self, num_bytes: int) -> bytes:
        """Return bytes; a file that another machine has removed while it was open is one that is not there."""
        try:
            return os.read(self._descriptor, num_bytes)
        except OSError as error:
            if error.errno == errno.ESTALE:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)) from None
            raise

    def skip_rest(self) -> None:
        """Read to the end."""
        while self.readinto(memoryview(bytearray(_PIECE_BYTES))):
            pass


def read(path: Path) -> memoryview:
    """Return the content of a file, in memory that may be written.

    Raises:
        OSError: it cannot be read, or is no regular file.
        MemoryError: there is too little memory.
    """
    with suppress(FileNotFoundError):  # another machine may replace it while it is read
        return _read_once(path)
    return _read_once(path)


def _read_once(path: Path) -> memoryview:
    """Return the content of a file that no other machine replaces meanwhile."""
    with OpenFile(path) as file:
        content = bytearray(file.num_bytes + 1)  # one more, so that a file of the stated length does not fill it
        while file.readinto(memoryview(content)[file.num_read :]) and file.num_read == len(content):
            content.extend(bytes(max(len(content), _PIECE_BYTES)))
        return memoryview(content)[: file.num_read]


class NewFile:
    """A file that did not exist before. Until it is closed, other processes leave it.

    Other processes are those that ask :func:`remove_unused`; the file is locked, and a kill ends the lock.

    Args:
        path: where it is made; its permissions are those that the umask leaves.

    Raises:
        FileExistsError: there is such a file, or another process has removed this one at the moment it was made.
        OSError: it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY, 0o666)
        try:
            is_locked = _lock(self._descriptor)
            if is_locked is False or (is_locked and not self._has_name()):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        except BaseException:
            self.close()
            raise

    def _has_name(self) -> bool:
        """Return whether the file is where it was made; NFS renames one that is removed while a process has it open."""
        assert self._descriptor is not None
        with suppress(FileNotFoundError):
            return os.path.samestat(os.fstat(self._descriptor), os.stat(self.path))
        return False

    def write(self, content: bytes) -> None:
        """Append bytes and wait until the device has them."""
        assert self._descriptor is not None
        left = memoryview(content).cast("B")
        while left:
            left = left[os.write(self._descriptor, left) :]
        _sync(self._descriptor)

    def sync(self) -> None:
        """Wait until the device has what anybody wrote to the file."""
        assert self._descriptor is not None
        _sync(self._descriptor)

    def move_to(self, target: Path) -> None:
        """Put the file in the place of another one, or of none, in one step."""
        if fcntl is None:
            self.close()  # Windows moves no open file
        os.replace(self.path, target)

    def close(self) -> None:
        """Close the file, and with it the lock."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def new_file(folder: Path, name: Callable[[str], str]) -> tuple[NewFile, str]:
    """Return a new file in a folder and its number of 16 hexadecimal digits, which no other file has.

    Args:
        folder: where it is made.
        name: makes its name of the number.
    """
    for _ in range(_ATTEMPTS):
        number = secrets.token_hex(8)
        with suppress(FileExistsError):
            return NewFile(folder / name(number)), number
    raise FileExistsError(f"no name is free among {_ATTEMPTS} random ones")


@contextmanager
def replaced(path: Path, *, is_durable: bool = True, is_synced: bool = False) -> Iterator[Path]:
    """Yield the path of an empty file, which takes the place of another one or of none when the block ends.

    The block may write to it by any means. At any moment readers of ``path`` find the older file or the new one; after
    an error in the block, and after a kill or a loss of power during it, the older one.

    Args:
        path: the file to replace, to which links lead.
        is_durable: whether the new file outlasts a loss of power once the block has ended. Otherwise it may then be
            damaged, which its readers have to notice.
        is_synced: whether the block synchronises what it has written by :func:`sync_file`.

    Raises:
        OSError: the file cannot be written. The older one is there, unless the last synchronisation failed: then the
            new one is, and either may be what a loss of power leaves.
    """
    target = Path(os.path.realpath(path))
    folder = target.parent
    draft, _ = new_file(folder, lambda number: f".fastncf-{number}.draft")
    with draft:
        try:
            yield draft.path
            if is_durable and not is_synced:
                draft.sync()
            draft.move_to(target)
        except BaseException:
            with suppress(OSError):
                remove(draft.path)
            raise
    if is_durable:
        sync_folder(folder)
    with suppress(OSError):
        for name in filter(_DRAFT.fullmatch, names(folder)):
            remove_unused(folder / name)


def put_in_place(path: Path, target: Path) -> None:
    """Synchronise a file that was written by parts, and put it in the place of another one, or of none, in one step."""
    sync_file(path)
    os.replace(path, target)
    sync_folder(target.parent)


def sync_file(path: Path) -> None:
    """Wait until the device has what anybody wrote to a file."""
    descriptor = os.open(path, os.O_RDWR | _BINARY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def remove_unused(path: Path) -> bool:
    """Remove a file unless a process holds it open as a :class:`NewFile`; return whether it is gone.

    It is left where the file system has no locks, since nobody can tell then.
    """
    try:
        descriptor = _open_to_lock(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    try:
        if not _lock(descriptor):
            return False
        remove(path)  # while the lock is held: its maker, if it is about to lock it, sees that and takes another name
        return True
    finally:
        os.close(descriptor)


def make_folders(path: Path) -> list[Path]:
    """Make a folder and those above it that are missing, so that they outlast a loss of power.

    A folder that is there may have been made a moment ago, by a process that was killed before it could tell the
    device: so its name is synchronised as well.

    Returns:
        The folders that were made, the uppermost first; after an error none is left.
    """
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    made: list[Path] = []
    sync_folder(path.parent)
    try:
        for folder in reversed(missing):
            try:
                os.mkdir(folder)
                made.append(folder)
            except FileExistsError:  # another process was faster, or it is a file
                if not folder.is_dir():
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
            sync_folder(folder.parent)
    except BaseException:
        remove_folders(made)
        raise
    return made


def remove_folders(made: list[Path]) -> None:
    """Remove what :func:`make_folders` made, except for folders that something was put in."""
    for folder in reversed(made):
        with suppress(OSError):
            os.rmdir(folder)


def names(folder: Path) -> list[str]:
    """Return the names of all files in a folder."""
    return sorted(os.listdir(folder))


def sync_folder(folder: Path) -> None:
    """Wait until the device has the names of the files in a folder."""
    if os.name == "nt":
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder that may not be listed cannot be synchronised either
        return
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, or nothing where there is none."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def cut_torn_line(path: Path, first_bytes: bytes) -> None:
    """Take the end of a line off a file of lines that a process was killed in; the next line would stand behind it.

    Args:
        path: the file; nothing happens where there is none.
        first_bytes: begin of the files that are meant; others stay as they are.

    Raises:
        OSError: the file cannot be read or written.
    """
    if not path.is_file():
        return
    with open(path, "r+b") as file:
        content = file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content) and content.startswith(first_bytes):
            file.truncate(whole)


def _sync(descriptor: int) -> None:
    """Wait until the device has what was written, where the file system can tell."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


def _open_to_lock(path: Path) -> int:
    """Return the descriptor of a file that may be locked: NFS locks only what is open for writing."""
    try:
        return os.open(path, os.O_RDWR | _BINARY | _NO_WAIT)
    except PermissionError:
        return os.open(path, os.O_RDONLY | _BINARY | _NO_WAIT)


def _lock(descriptor: int) -> bool | None:
    """Lock an open file until it is closed, without waiting.

    Returns:
        Whether the lock is held now; None where the file system has no locks.
    """
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True
