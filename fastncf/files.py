"""Files that survive a kill and a loss of power: written and synchronised before they get the name that is read.

All functions raise ``OSError``; callers put it into words. Nothing here knows what the files hold.
"""

import errno
import hashlib
import os
import stat
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

try:
    import fcntl
except ImportError:  # Windows: no locks on files there, so that nobody can tell whether a file is still in use
    fcntl = None  # type: ignore[assignment]

_BINARY = getattr(os, "O_BINARY", 0)
_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_NO_SYNC = errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.ENOSYS
"""Answers of file systems that have no synchronisation for a kind of file."""


def sha256(content: bytes) -> str:
    """Return the SHA-256 of some bytes in hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def read(path: Path) -> bytes:
    """Return the content of a regular file, to which links lead.

    Raises:
        OSError: it cannot be read, or is something else, such as a folder or a named pipe, which is not opened.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is not a regular file")
    # a pipe that has taken its place in the meantime must not block
    descriptor = os.open(path, os.O_RDONLY | _BINARY | _NO_WAIT)
    try:
        size = os.fstat(descriptor).st_size
        pieces = []
        while piece := os.read(descriptor, max(1 << 16, min(size, 1 << 30))):
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)
    finally:
        os.close(descriptor)


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
            if is_locked is False or (is_locked and not os.fstat(self._descriptor).st_nlink):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        except BaseException:
            self.close()
            raise

    def write(self, content: bytes) -> None:
        """Append bytes and wait until the device has them."""
        assert self._descriptor is not None
        left = memoryview(content).cast("B")
        while left:
            left = left[os.write(self._descriptor, left) :]
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


def remove_unused(path: Path) -> bool:
    """Remove a file unless a process holds it open as a :class:`NewFile`; return whether it is gone.

    It is left where the file system has no locks, since nobody can tell then.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | _BINARY | _NO_WAIT)
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

    Returns:
        The folders that were made, the uppermost first; after an error none is left.
    """
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    made: list[Path] = []
    try:
        for folder in reversed(missing):
            try:
                os.mkdir(folder)
            except FileExistsError:  # another process was faster, or it is a file
                if not folder.is_dir():
                    raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(folder)) from None
            else:
                made.append(folder)
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
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, or nothing where there is none."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def _sync(descriptor: int) -> None:
    """Wait until the device has what was written, where the file system can tell."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise


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
