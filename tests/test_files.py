"""One file is replaced in one step, whatever happens meanwhile, and nothing else."""

import errno
import os

import numpy as np
import pytest

from fastncf import files
from tests.persistence.faults import ERRORS, FaultyOS, Killed


@pytest.fixture
def faulty(monkeypatch):
    """Return a file system with faults that stands for ``os`` from now on."""

    def make(**faults) -> FaultyOS:
        double = FaultyOS(**faults)
        monkeypatch.setattr(files, "os", double)
        return double

    return make


def write(path, content: bytes) -> None:
    with files.replaced(path) as draft:
        draft.write_bytes(content)


@pytest.fixture
def path(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".fastncf-x.draft").write_text("no draft of ours")
    write(tmp_path / "out.csv", b"old")
    return tmp_path / "out.csv"


def names(path) -> list[str]:
    return sorted(other.name for other in path.parent.iterdir())


WHOLE = [".fastncf-x.draft", "notes.txt", "out.csv"]


def test_permissions_are_those_of_the_umask_and_links_are_followed(path):
    link = path.with_name("link")
    link.symlink_to(path)
    before = os.umask(0o027)
    try:
        write(link, b"new")
    finally:
        os.umask(before)
    assert link.is_symlink()
    assert path.read_bytes() == b"new"
    assert path.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("error", ERRORS)
def test_each_call_that_fails_is_an_error_and_leaves_a_whole_file(path, faulty, error):
    number = 0
    while True:
        write(path, b"old")
        double = faulty(fail_at=number, error=error)
        try:
            write(path, b"new")
            is_failed = False
        except OSError as found:
            assert found.errno == error  # noqa: PT017
            is_failed = True
        faulty()
        is_moved = any(event.kind == "move" for event in double.events)
        assert path.read_bytes() == (b"new" if is_moved else b"old")
        if double.num_calls <= number:
            break
        assert is_failed
        number += 1
    assert number >= 4
    assert names(path) == WHOLE


def test_the_draft_of_a_kill_is_removed_by_the_next_write_and_no_other_file(path, faulty):
    number, seen = 0, []
    while True:
        write(path, b"old")
        double = faulty(fail_at=number)
        try:
            write(path, b"new")
            break
        except Killed:
            double.end()
        faulty()
        seen.append(path.read_bytes())
        number += 1
    assert seen == sorted(seen, reverse=True)
    assert set(seen) == {b"old", b"new"}
    assert names(path) == WHOLE


def test_a_draft_that_is_being_written_is_left_alone(path):
    with files.replaced(path) as draft:
        draft.write_bytes(b"one")
        write(path, b"another")
        assert draft.exists()
    assert path.read_bytes() == b"one"
    assert names(path) == WHOLE


def test_an_error_in_the_block_is_passed_on_and_leaves_nothing(path):
    def interrupted() -> None:
        with files.replaced(path) as draft:
            draft.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert names(path) == WHOLE


def test_content_is_read_whole_whatever_the_pieces(tmp_path, faulty):
    content = np.random.default_rng(0).bytes(70_001)
    (tmp_path / "x").write_bytes(content)
    for largest in (1 << 40, 777):
        faulty(largest_read=largest)
        assert files.read(tmp_path / "x") == content
        checksum = files.hashlib.sha256()
        with files.OpenFile(tmp_path / "x", checksum) as file:
            file.skip_rest()
        assert checksum.hexdigest() == files.sha256(content)
    with pytest.raises(OSError, match="regular file") as caught:
        files.read(tmp_path)
    assert caught.value.errno == errno.EINVAL


def test_a_draft_that_is_removed_before_its_lock_is_made_again(path, monkeypatch):
    """As another process may do it; NFS then keeps the open file by another name."""
    lock, seen = files._lock, []

    def late(descriptor: int) -> bool | None:
        if not seen:
            seen.append(next(path.parent.glob(".fastncf-????????????????.draft")))
            seen[0].rename(path.with_name(".nfs0001"))
        return lock(descriptor)

    monkeypatch.setattr(files, "_lock", late)
    write(path, b"new")
    assert path.read_bytes() == b"new"
    assert names(path) == sorted([*WHOLE, ".nfs0001"])


def test_drafts_are_removed_where_only_files_open_for_writing_can_be_locked(path, faulty, monkeypatch):
    flock = files.fcntl.flock

    def of_nfs(descriptor: int, operation: int) -> None:
        if files.fcntl.fcntl(descriptor, files.fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        flock(descriptor, operation)

    monkeypatch.setattr(files.fcntl, "flock", of_nfs)
    device = faulty(fail_at=1)
    with pytest.raises(Killed):
        write(path, b"new")
    device.end()
    assert len(names(path)) > len(WHOLE)
    faulty()
    write(path, b"new")
    assert names(path) == WHOLE


def test_a_folder_that_may_not_be_listed_takes_files(path, faulty):
    device = faulty()
    open_any = device.open

    def open_file(name, flags: int, mode: int = 0o777) -> int:
        if os.path.isdir(name):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return open_any(name, flags, mode)

    device.open = open_file
    write(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_file_that_another_machine_replaces_is_read_again(path, faulty):
    reads = 0
    for number in range(3):
        device = faulty(fail_read_at=number, error=errno.ESTALE)
        device.open = os.open
        assert files.read(path) == b"old"
        reads = max(reads, device.num_reads)
    assert reads >= 3
