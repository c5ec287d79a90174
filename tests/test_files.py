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
