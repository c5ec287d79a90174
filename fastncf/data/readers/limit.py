"""Limits of what a file unpacks to, and of the memory for its rows: kept while it is unpacked, in bounded memory."""

import io
import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import IO, Protocol

from fastncf.data.readers.kinds import HEAD_BYTES, JSON_LINES, TEXT, find_kind
from fastncf.errors import ConfigError, DataError, format_bytes
from fastncf.memory import available_bytes, require_memory

LIMIT_VARIABLE = "FASTNCF_MAX_UNPACKED_BYTES"
"""Environment variable of the number of bytes that a file may have once it is unpacked, or that a pipe may give."""

DEFAULT_LIMIT = 1 << 33
"""The same where the variable is not set; half of the available memory, where that is less."""

BYTES_OF_INTEGERS = 50
"""Memory that a row takes while it is read and split, if all its columns are integers."""

_READER_BYTES = 40_000_000
"""Memory that the kernels and buffers take which read and split texts."""

_PIECE_BYTES = 1 << 20
_PIECES_PER_CHECK = 32
_KEPT_BYTES, _KEPT_TIMES = 1 << 26, 20
"""Bytes that are kept of a file that may still be refused: a number, and a multiple of its packed bytes.

Ratings are packed to a third or a tenth of their bytes, and what is packed to a thousandth is hardly any.
"""


class Readable(Protocol):
    """A stream of bytes."""

    def read(self, size: int, /) -> bytes: ...


def has_limit() -> bool:
    """Return whether the environment says how many bytes a file may have once it is unpacked."""
    return bool(os.environ.get(LIMIT_VARIABLE))


def max_unpacked_bytes() -> int:
    """Return how many bytes a file may have once it is unpacked.

    Raises:
        ConfigError: the environment variable is no number of bytes.
    """
    given = os.environ.get(LIMIT_VARIABLE, "")
    if not given:
        return min(DEFAULT_LIMIT, available_bytes() // 2)
    if not (given.isascii() and given.isdigit()) or len(given) > 18:
        raise ConfigError(f"{LIMIT_VARIABLE}: is {given!r:.60}; expected a number of bytes, such as {DEFAULT_LIMIT}")
    return int(given)


def refuse_larger(source: str, num_bytes: int, what: str) -> None:
    """Raise a DataError where a source needs more bytes than the limit.

    Args:
        source: name of the source in messages.
        num_bytes: the bytes that it needs at least.
        what: what the source does, such as "unpacks to".
    """
    if num_bytes > (limit := max_unpacked_bytes()):
        raise DataError(
            f"{source}: {what} more than {format_bytes(limit)}; expected at most {limit} bytes, a limit that the "
            f"environment variable {LIMIT_VARIABLE} changes"
        )


def require_rows(what: str, needed: int) -> None:
    """Raise an InsufficientMemoryError where rows of a text, and what reads them, need more than is available.

    Args:
        what: the rows, with their source.
        needed: bytes of the rows.
    """
    require_memory(what, needed + _READER_BYTES, "fewer rows, a Parquet file, which is read in slices")


def read_limited(file: Readable, source: str, what: str = "gives") -> bytes:
    """Return the rest of a stream.

    Raises:
        DataError: it holds more bytes than the limit; no more than that are read.
        InsufficientMemoryError: it is a text of more rows than fit into the memory.
    """
    account, content = _Account(source, what), io.BytesIO()
    while piece := file.read(_PIECE_BYTES):
        account.add(piece, num_kept=content.tell())
        content.write(piece)
    return content.getvalue()


def read_unpacked(open_stream: Callable[[], AbstractContextManager[Readable]], packed: IO[bytes], source: str) -> bytes:
    """Return the content of a packed file.

    What unpacks to many times its bytes is unpacked a first time without being kept, so that it is refused in bounded
    memory.

    Args:
        open_stream: opens a stream of the content from its start.
        packed: the packed file, whose position tells how much of it is unpacked.
        source: name of the source in messages.

    Raises:
        DataError: it unpacks to more bytes than the limit.
        InsufficientMemoryError: it is a text of more rows than fit into the memory.
    """
    account, content = _Account(source, "unpacks to"), io.BytesIO()
    with open_stream() as stream:
        while piece := stream.read(_PIECE_BYTES):
            account.add(piece, num_kept=content.tell())
            if content.tell() > _KEPT_BYTES + _KEPT_TIMES * packed.tell():
                break
            content.write(piece)
        else:
            return content.getvalue()
        content.close()
        while piece := stream.read(_PIECE_BYTES):
            account.add(piece, num_kept=0)
    with open_stream() as stream:
        return read_limited(stream, source, "unpacks to")


class _Account:
    """Counts the bytes and lines of a stream, and refuses it where they are too many.

    Args:
        source: name of the source in messages.
        what: what the source does, such as "unpacks to".
    """

    def __init__(self, source: str, what: str) -> None:
        self._source, self._what = source, what
        self._limit = max_unpacked_bytes()
        self._num_bytes = self._num_pieces = self._num_lines = 0
        self._is_text = False

    def add(self, piece: bytes, *, num_kept: int) -> None:
        """Count a piece.

        Args:
            piece: the next bytes.
            num_kept: bytes of the pieces before that are in memory.

        Raises:
            DataError: there are more bytes than the limit.
            InsufficientMemoryError: there are more rows than fit into the memory.
        """
        if not self._num_bytes:
            self._is_text = find_kind(piece[:HEAD_BYTES]) in (TEXT, JSON_LINES)
        self._num_bytes += len(piece)
        if self._num_bytes > self._limit:
            refuse_larger(self._source, self._num_bytes, self._what)
        if self._is_text:
            self._num_lines += piece.count(b"\n")
            self._num_pieces += 1
            if self._num_pieces % _PIECES_PER_CHECK == 0:
                rows, needed = self._num_lines, self._num_lines * BYTES_OF_INTEGERS
                require_rows(f"{self._source}: more than {rows:,} rows", needed + self._num_bytes - num_kept)
