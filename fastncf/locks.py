"""Locks by which one process at a time uses a file or a folder. A lock ends with its process, even with a killed one.

The lock is that of the system (``flock``). Where the file system has none, as NFS without its lock service, a file
beside it names the process that holds the lock. It is ignored once that process has ended, if it ran on this machine.
"""

import errno
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

_NO_LOCKS = errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL
"""Errors of file systems that have no locks."""


class BusyError(Exception):
    """Another process holds the lock."""


def take(path: Path, *, is_waiting: bool = False) -> BaseFileLock:
    """Return a lock that this process holds now, to be released by ``release()``.

    Args:
        path: the file that is locked, which is made, and its folder, and stays.
        is_waiting: whether to wait for another process to release it.

    Raises:
        BusyError: another process holds it, and nobody waits.
        OSError: the file cannot be made or locked.
    """
    seconds = -1 if is_waiting else 0
    try:
        try:
            return _acquired(FileLock(path), seconds)
        except NotImplementedError:
            pass
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        return _acquired(SoftFileLock(f"{path}.owner"), seconds)  # the other file is empty, and names nobody
    except Timeout:
        raise BusyError from None


def _acquired(lock: BaseFileLock, seconds: float) -> BaseFileLock:
    """Return a lock once it is held."""
    lock.acquire(timeout=seconds)
    return lock
