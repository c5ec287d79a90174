"""Streams of files that are packed: gzip, bzip2, xz, and zstd where a library for it is installed."""

import bz2
import gzip
import importlib
import io
import lzma
import struct
import zipfile
import zlib
from typing import IO, Any

from fastncf.data.readers.kinds import BZIP2, GZIP, XZ, ZSTD
from fastncf.errors import DataError

_MAX_XZ_BYTES = 1 << 30  # of a dictionary, which liblzma allocates as the file asks for it
_ZIP_ZSTD = 93
_IS_ENCRYPTED, _HAS_END_MARK = 1, 2  # flags of a file in a zip archive


def open_packed(file: IO[bytes], kind: str, source: str) -> Any:
    """Return a stream of the content of a packed file, from its start, which is unpacked as it is read.

    Args:
        file: the packed file, at any position.
        kind: one of GZIP, BZIP2, XZ and ZSTD.
        source: name of the source in messages.

    Raises:
        DataError: no library for zstd is installed.
    """
    file.seek(0)
    openers: dict[str, Any] = {GZIP: gzip.open, BZIP2: bz2.open, XZ: _XZFile}
    return _open_zstd(file, source) if kind == ZSTD else openers[kind](file)


def open_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: IO[bytes], source: str) -> Any:
    """Return a stream of a file in a zip archive, which is unpacked as it is read.

    Python's module unpacks as much at once as a piece of the archive gives, unless it is packed by deflate: a megabyte
    of LZMA may be seven gigabytes. Such files are unpacked as they are outside of archives.

    Args:
        archive: the archive.
        member: the file in it.
        file: the file of the archive.
        source: name of the file in messages.

    Raises:
        Exception: the archive is damaged or encrypted: ValueError, struct.error and others.
    """
    if member.compress_type == zipfile.ZIP_BZIP2:
        return _Verified(bz2.open(_Member(file, member)), member)
    if member.compress_type == zipfile.ZIP_LZMA:
        raw = _Member(file, member)
        _, length = struct.unpack("<HH", raw.read(4))
        # what a file of LZMA alone begins with: its settings, and its size unless a mark tells where it ends
        size = -1 if member.flag_bits & _HAS_END_MARK else member.file_size
        raw.put_before(raw.read(length) + struct.pack("<q", size))
        return _Verified(_XZFile(raw, lzma.FORMAT_ALONE), member)
    if member.compress_type == _ZIP_ZSTD:
        return _Verified(_open_zstd(_Member(file, member), source), member)
    return archive.open(member)


class _Member(io.RawIOBase):
    """The packed bytes of a file in a zip archive."""

    def __init__(self, file: IO[bytes], member: zipfile.ZipInfo) -> None:
        if member.flag_bits & _IS_ENCRYPTED:
            raise ValueError(f"{member.filename:.80} is encrypted")
        file.seek(member.header_offset)
        head = file.read(30)
        name_length, extra_length = struct.unpack("<HH", head[26:30])
        self._file, self._left, self._before = file, member.compress_size, b""
        self._at = member.header_offset + len(head) + name_length + extra_length

    def put_before(self, data: bytes) -> None:
        """Let bytes be read before those that are left."""
        self._before = data

    def readable(self) -> bool:
        """Return that the stream can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read bytes into a buffer and return their number, 0 at the end."""
        view = memoryview(buffer).cast("B")
        data, self._before = self._before[: len(view)], self._before[len(view) :]
        if not data:
            self._file.seek(self._at)
            data = self._file.read(min(len(view), self._left))
            self._at, self._left = self._at + len(data), self._left - len(data)
        view[: len(data)] = data
        return len(data)


class _Verified:
    """A stream of a file in a zip archive, whose size and checksum are as the archive says.

    Args:
        stream: the unpacked content.
        member: what the archive says.
    """

    def __init__(self, stream: Any, member: zipfile.ZipInfo) -> None:
        self._stream, self._member = stream, member
        self._num_bytes = self._checksum = 0

    def __enter__(self) -> "_Verified":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most ``size``; none at the end.

        Raises:
            ValueError: the content is not as the archive says.
        """
        piece: bytes = self._stream.read(size)
        self._num_bytes += len(piece)
        self._checksum = zlib.crc32(piece, self._checksum)
        expected = self._member.file_size, self._member.CRC
        if self._num_bytes > expected[0] or (not piece and (self._num_bytes, self._checksum) != expected):
            raise ValueError(f"{self._member.filename:.80} has another size or checksum than the archive says")
        return piece


class _XZFile:
    """A file that is packed by xz, one stream or several, and unpacked within a limit of memory."""

    def __init__(self, file: Any, form: int = lzma.FORMAT_XZ) -> None:
        self._file, self._form = file, form
        self._decompressor = lzma.LZMADecompressor(form, memlimit=_MAX_XZ_BYTES)
        self._rest = b""

    def __enter__(self) -> "_XZFile":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at most ``size``; none at the end.

        Raises:
            LZMAError: the file is damaged, or needs more memory than the limit.
            EOFError: the file is cut off.
        """
        while True:
            if self._decompressor.eof:
                self._rest = (self._decompressor.unused_data or self._file.read(size)).lstrip(b"\0")
                if not self._rest:
                    return b""
                self._decompressor = lzma.LZMADecompressor(self._form, memlimit=_MAX_XZ_BYTES)
            if not self._rest and self._decompressor.needs_input:
                self._rest = self._file.read(size)
                if not self._rest:
                    raise EOFError("the file is cut off")
            piece = self._decompressor.decompress(self._rest, size)
            self._rest = b""
            if piece:
                return piece


def _open_zstd(file: Any, source: str) -> Any:
    """Return a stream of the content of a file that is packed by zstd, by Python 3.14 or pyarrow."""
    try:
        return importlib.import_module("compression.zstd").open(file)
    except ImportError:
        pass
    try:
        pyarrow = importlib.import_module("pyarrow")
    except ImportError:
        raise DataError(
            f"{source}: is packed by zstd; expected Python 3.14 or an installed pyarrow, which unpack it, or the frame "
            f"that polars.read_csv(PATH) makes"
        ) from None
    return pyarrow.CompressedInputStream(pyarrow.PythonFile(file, mode="r"), "zstd")
