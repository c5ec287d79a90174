"""Files: regular ones, pipes and archives, as a content of bounded length and of a known kind."""

import io
import os
import re
import select
import stat
import time
import zipfile
from pathlib import Path
from typing import IO, NamedTuple

from fastncf.data.readers.kinds import (
    HEAD_BYTES,
    JSON_LINES,
    PACKED,
    TEXT,
    ZIP,
    ForeignKind,
    find_archive_kind,
    find_kind,
    find_url,
)
from fastncf.data.readers.limit import read_limited, read_unpacked
from fastncf.data.readers.packed import open_member, open_packed
from fastncf.errors import DataError, DataNotFoundError, FastNCFError

EXPECTED_SOURCES = (
    "CSV or TSV text or JSON lines (plain, gzip, zip, bzip2, xz or zstd), Parquet, Feather, a polars or a pandas frame"
)

_OUTSIDE = re.compile(r"^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)")
"""Paths of members that are absolute, or lead above the folder that an archive is unpacked to."""

_WRITER_SECONDS = 10.0
"""Seconds after which a named pipe that no program writes to is refused."""

_DEVICES = ((stat.S_ISCHR, "a device or a terminal"), (stat.S_ISBLK, "a block device"), (stat.S_ISSOCK, "a socket"))


class Purpose(NamedTuple):
    """Purpose for which a file is read.

    Attributes:
        noun: what it holds, for messages.
        members: names of the file that is taken from an archive of several files, best first.
        expected: what is accepted, for messages.
        expected_path: what the path is, for messages on one without a file, where the caller may have meant a value.
    """

    noun: str
    members: tuple[str, ...]
    expected: str
    expected_path: str | None = None


RATINGS = Purpose("ratings", ("ratings.csv", "rating.csv", "ratings.dat", "u.data"), EXPECTED_SOURCES)


class FileContent(NamedTuple):
    """Content of a file that holds data of one kind.

    Attributes:
        source: name of the source in messages: the path, with the name of the member of an archive.
        content: the path of a regular file that needs no unpacking, so that it need not be held in memory, or bytes.
        kind: one of the kinds that are read, see :mod:`fastncf.data.readers.kinds`.
    """

    source: str
    content: Path | bytes
    kind: str


def read_file(path: Path, purpose: Purpose = RATINGS, encoding: str | None = None) -> FileContent:
    """Return the content of a file, unpacked where it is packed, and its kind.

    Args:
        path: the file.
        purpose: what it is read for.
        encoding: encoding of a text; what is returned is UTF-8.

    Raises:
        DataNotFoundError: there is no such file.
        DataError: the file is empty, cannot be read, is a folder, a device or a socket, is of a kind that is not read,
            is not text of the encoding, or holds more bytes than the limit.
        ConfigError: the limit in the environment is no number of bytes.
    """
    expected = purpose.expected
    content = _read_raw(path, purpose)
    source, kind = str(path), find_kind(first_bytes(content))
    if kind == ZIP:
        member, content = _unpack(path, content, kind, purpose)
        source, kind = f"{path} ({member})", find_kind(content[:HEAD_BYTES])
    elif kind in PACKED:
        _, content = _unpack(path, content, kind, purpose)
        kind = find_kind(content[:HEAD_BYTES])
    if isinstance(kind, ForeignKind):
        raise DataError(f"{source}: is {kind.noun}; expected {expected}: {kind.remedy}")
    if kind in (ZIP, *PACKED):
        raise DataError(f"{source}: is a {kind} archive in another one; expected {expected}: unpack it first")
    if encoding is not None:
        if kind not in (TEXT, JSON_LINES):
            raise DataError(f"{source}: is {kind}; expected text beside encoding={encoding!r:.40}")
        content = _to_utf8(source, content, encoding)
        kind = str(find_kind(content[:HEAD_BYTES]))
    return FileContent(source, content, kind)


def _read_raw(path: Path, purpose: Purpose) -> Path | bytes:
    """Return the path of a regular file, or what a pipe gives.

    Raises:
        DataNotFoundError, DataError, ConfigError: as for :func:`read_file`, the kind left aside.
    """
    expected = purpose.expected
    try:
        mode = path.stat()
        if stat.S_ISDIR(mode.st_mode):
            entries = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
            raise DataError(f"{path}: is a folder ({entries:.200}); expected the path of one file, {expected}")
        for is_kind, noun in _DEVICES:
            if is_kind(mode.st_mode):
                raise DataError(f"{path}: is {noun}; expected the path of a file or a pipe, {expected}")
        if stat.S_ISFIFO(mode.st_mode):
            content: Path | bytes = _read_pipe(path)
        else:
            with path.open("rb") as file:
                # files of /proc have a content and no size
                content = path if mode.st_size and file.read(1) else read_limited(file, str(path))
    except (FileNotFoundError, NotADirectoryError):
        if (url := find_url(str(path))) is not None:
            raise DataNotFoundError(f"{url[0]:.200}: is {url[1].noun}; expected {expected}: {url[1].remedy}") from None
        hint = "" if purpose.expected_path is None else f"; expected {purpose.expected_path}"
        raise DataNotFoundError(f"{path}: no such file{hint}") from None
    except FastNCFError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{path!s:.200}: cannot be read ({error!s:.200}); expected {expected}") from None
    if not content:
        raise DataError(f"{path}: is empty; expected {expected}")
    return content


def _to_utf8(source: str, content: Path | bytes, encoding: str) -> bytes:
    """Return text of another encoding as UTF-8.

    Raises:
        DataError: it is not of the encoding.
    """
    with open_content(content) as file:
        raw = read_limited(file, source)
    try:
        return raw.decode(encoding).removeprefix("\ufeff").encode()
    except UnicodeError as error:
        line = raw[: getattr(error, "start", 0)].decode(encoding, "replace").count("\n") + 1
        raise DataError(f"{source}: line {line} is not text in {encoding}; expected the encoding of the file") from None


def first_bytes(content: Path | bytes) -> bytes:
    """Return the first bytes of a content, enough to tell its kind."""
    with open_content(content) as file:
        return file.read(HEAD_BYTES)


def open_content(content: Path | bytes) -> IO[bytes]:
    """Open a content for reading."""
    return content.open("rb") if isinstance(content, Path) else io.BytesIO(content)


def _read_pipe(path: Path) -> bytes:
    """Return what a pipe gives until its last writer closes it.

    Raises:
        DataError: it gives more bytes than the limit, or no program opens it for writing.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return read_limited(_Pipe(descriptor, str(path)), str(path))
    finally:
        os.close(descriptor)


class _Pipe:
    """A pipe that is opened without waiting for a writer, and waits for what is written to it."""

    def __init__(self, descriptor: int, source: str) -> None:
        self._descriptor = descriptor
        self._source = source
        self._has_writer = False
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self._deadline = time.monotonic() + _WRITER_SECONDS

    def read(self, size: int) -> bytes:
        """Return what was written, at most ``size`` bytes; nothing once all writers have closed the pipe.

        Raises:
            DataError: no writer has come in time.
        """
        while True:
            try:
                piece = os.read(self._descriptor, size)
            except BlockingIOError:  # a writer is there and has not written yet
                self._has_writer = True
                self._poll.poll()
                continue
            if piece or self._has_writer:
                self._has_writer = True
                return piece
            if time.monotonic() > self._deadline:
                raise DataError(
                    f"{self._source}: is a named pipe that no program writes to; expected a program that opens it for "
                    f"writing within {_WRITER_SECONDS:g} seconds"
                )
            time.sleep(0.01)


def _unpack(path: Path, content: Path | bytes, kind: str, purpose: Purpose) -> tuple[str, bytes]:
    """Return the name and the content of the file that is wanted from an archive; only zip has names.

    Raises:
        DataError: the archive is damaged, unpacks to more bytes than the limit, holds several files that may be
            meant, or is a document of a program that is no archive for people.
    """
    try:
        with open_content(content) as file:
            if kind == ZIP:
                return _read_zip(path, file, purpose)
            return "", read_unpacked(lambda: open_packed(file, kind, str(path)), file, str(path))
    except (FastNCFError, MemoryError):
        raise
    except Exception as error:  # damaged archives make zipfile raise KeyError, struct.error, OSError and others
        raise DataError(
            f"{path}: the archive is damaged or encrypted ({error!s:.200}); expected {purpose.expected}"
        ) from None


def _read_zip(path: Path, file: IO[bytes], purpose: Purpose) -> tuple[str, bytes]:
    """Return the name and the content of the file that is wanted from an archive, in whichever folder it lies."""
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        if outside := next((name for name in names if _OUTSIDE.search(name)), None):
            raise DataError(
                f"{path}: has a file {outside!r:.80}, whose path leads out of the archive; expected names of files "
                f"within it"
            )
        mimetype = _read_head(archive, file, "mimetype") if "mimetype" in names else b""
        if (kind := find_archive_kind(names, mimetype)) is not None:
            raise DataError(f"{path}: is {kind.noun}; expected {purpose.expected}: {kind.remedy}")
        members = [m for m in names if not m.endswith("/") and not m.startswith("__MACOSX")]
        by_name = [[m for m in members if Path(m).name.lower() == name] for name in purpose.members]
        candidates = next((matches for matches in by_name if matches), members)
        if len(candidates) == 1:
            member, source = archive.getinfo(candidates[0]), f"{path} ({candidates[0]})"
            return candidates[0], read_unpacked(lambda: open_member(archive, member, file, source), file, source)
    if not candidates:
        raise DataError(f"{path}: is an archive without a file; expected {purpose.expected}")
    listed = ", ".join(candidates[:8])
    named = f"one named {', '.join(purpose.members)}, or " if purpose.members else ""
    raise DataError(
        f"{path}: which of its {len(candidates)} files holds the {purpose.noun}? found {listed:.200}; expected only "
        f"{named}an archive of a single file"
    )


def _read_head(archive: zipfile.ZipFile, file: IO[bytes], name: str) -> bytes:
    """Return the first bytes of a file in an archive."""
    with open_member(archive, archive.getinfo(name), file, name) as member:
        return member.read(100)
