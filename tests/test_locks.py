"""A lock keeps other processes out, also where the file system has none, and none outlasts a kill."""

import errno
import os
import subprocess
import sys

import pytest
from filelock import FileLock

from fastncf import locks

_KILLED = """
import fcntl, os, signal, sys
from pathlib import Path
def flock(*_):
    raise OSError(int(sys.argv[2]), "no locks")
fcntl.flock = flock
from fastncf import locks
lock = locks.take(Path(sys.argv[1]))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("error", [0, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_lock_keeps_others_out_until_it_is_released(tmp_path, monkeypatch, error):
    def refuse(*_):
        raise OSError(error, os.strerror(error))

    if error:
        monkeypatch.setattr("fcntl.flock", refuse)
    lock = locks.take(tmp_path / "x")
    with pytest.raises(locks.BusyError):
        locks.take(tmp_path / "x")
    lock.release()
    locks.take(tmp_path / "x", is_waiting=True).release()


def test_the_lock_of_a_process_that_was_killed_is_none(tmp_path, monkeypatch):
    command = [sys.executable, "-c", _KILLED, tmp_path / "x", str(errno.ENOLCK)]
    assert subprocess.run(command, check=False).returncode == -9
    assert sorted(os.listdir(tmp_path)) == ["x", "x.owner"]
    monkeypatch.setattr("fcntl.flock", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOLCK, "")))
    locks.take(tmp_path / "x").release()


def test_other_errors_are_passed_on(tmp_path, monkeypatch):
    def acquire(*_, **__):
        raise NotImplementedError

    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        locks.take(tmp_path / "file" / "x")
    monkeypatch.setattr(FileLock, "acquire", acquire)  # what older versions of filelock raise
    lock = locks.take(tmp_path / "x")
    assert sorted(os.listdir(tmp_path)) == ["file", "x.owner"]
    lock.release()
