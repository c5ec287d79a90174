"""Streams of files that are packed: gzip, bzip2, xz, and zstd where a library for it is installed."""

import bz2
import gzip
import importlib
import lzma
from typing import IO, Any

from fastncf.data.readers.kinds import BZIP2, GZIP, XZ, ZSTD
from fastncf.errors import DataError

_MAX_XZ_BYTES = 1 << 30  # of a dictionary, which liblzma allocates as the file asks for it


def open_packed(file: IO[bytes], kind: str, source: str) -> Any:
    """Return a stream of the content of a packed file, which is unpacked as it is read.

    Args:
        file: the packed file.
        kind: one of GZIP, BZIP2, XZ and ZSTD.
        source: name of the source in messages.

    Raises:
        DataError: no library for zstd is installed.
    """
    openers: dict[str, Any] = {GZIP: gzip.open, BZIP2: bz2.open, XZ: _XZFile}
    return _open_zstd(file, source) if kind == ZSTD else openers[kind](file)


class _XZFile:
    """A file that is packed by xz, one stream or several, and unpacked within a limit of memory."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_XZ_BYTES)
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
                self._decompressor = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MAX_XZ_BYTES)
            if not self._rest and self._decompressor.needs_input:
                self._rest = self._file.read(size)
                if not self._rest:
                    raise EOFError("the file is cut off")
            piece = self._decompressor.decompress(self._rest, size)
            self._rest = b""
            if piece:
                return piece


def _open_zstd(file: IO[bytes], source: str) -> Any:
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
