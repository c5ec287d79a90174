"""Size of the columns of a Parquet file, by its metadata: before anything is unpacked.

The metadata are a struct in Thrift's compact protocol, as
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift and
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md describe them. Polars does not tell
what they say of sizes.
"""

import os
import struct
from pathlib import Path
from typing import Any

from fastncf.data.readers.files import open_content

_ROW_GROUPS, _COLUMNS, _NUM_ROWS, _COLUMN_METADATA = 4, 1, 3, 3
_PATH, _NUM_VALUES, _UNCOMPRESSED_BYTES = 3, 5, 6
"""Numbers of the fields that are read: of the metadata, of a row group, of a column, and of its own metadata."""

VALUE_BYTES = 16
"""Bytes of a string in Polars, beside its text; other values have 8 or fewer."""


def unpacked_bytes(content: Path | bytes, columns: list[str]) -> int:
    """Return how many bytes some columns of a Parquet file have in memory, at most.

    That is what their pages unpack to, and what the values have that a page repeats by a number alone.

    Raises:
        Exception: the metadata are damaged: IndexError, KeyError, ValueError and others.
    """
    return sum(num_bytes for _, num_bytes in row_groups(content, columns))


def row_groups(content: Path | bytes, columns: list[str]) -> list[tuple[int, int]]:
    """Return the rows of each row group of a Parquet file, and the bytes of some columns as in :func:`unpacked_bytes`.

    Raises:
        Exception: the metadata are damaged, see :func:`unpacked_bytes`.
    """
    groups = []
    for group in read_metadata(content)[_ROW_GROUPS]:
        used = [column[_COLUMN_METADATA] for column in group[_COLUMNS]]
        used = [metadata for metadata in used if metadata[_PATH][0].decode() in columns]
        num_bytes = sum(metadata[_UNCOMPRESSED_BYTES] + VALUE_BYTES * metadata[_NUM_VALUES] for metadata in used)
        groups.append((group[_NUM_ROWS], num_bytes))
    return groups


def read_metadata(content: Path | bytes) -> dict[int, Any]:
    """Return the metadata at the end of a Parquet file."""
    with open_content(content) as file:
        end = file.seek(-8, os.SEEK_END)
        (length,) = struct.unpack("<I", file.read(4))
        file.seek(end - length)
        return _CompactReader(file.read(length)).read_struct()


class _CompactReader:
    """Reads values in Thrift's compact protocol, one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def read_struct(self) -> dict[int, Any]:
        """Return the fields of a struct by their numbers."""
        fields: dict[int, Any] = {}
        number = 0
        while (head := self._read_byte()) != 0:
            number = number + (head >> 4) if head >> 4 else self._read_integer()
            fields[number] = self._read_value(head & 15, in_list=False)
        return fields

    def _read_value(self, kind: int, *, in_list: bool) -> Any:
        """Return a value of a kind."""
        if kind in (1, 2):  # a boolean: within a struct it is its kind
            return self._read_byte() == 1 if in_list else kind == 1
        if kind == 3:
            return self._read_byte()
        if kind in (4, 5, 6):
            return self._read_integer()
        if kind == 7:
            return struct.unpack("<d", self._read_bytes(8))[0]
        if kind == 8:
            return self._read_bytes(self._read_unsigned())
        if kind in (9, 10):
            head = self._read_byte()
            size = head >> 4 if head >> 4 < 15 else self._read_unsigned()
            return [self._read_value(head & 15, in_list=True) for _ in range(size)]
        if kind == 12:
            return self.read_struct()
        raise ValueError(f"a value of kind {kind}, which no metadata of Parquet have")

    def _read_byte(self) -> int:
        self._at += 1
        return self._data[self._at - 1]

    def _read_bytes(self, size: int) -> bytes:
        self._at += size
        return self._data[self._at - size : self._at]

    def _read_unsigned(self) -> int:
        """Return an integer of seven bits in each byte, the lowest first."""
        value = shift = 0
        while (byte := self._read_byte()) & 128:
            value |= (byte & 127) << shift
            shift += 7
        return value | byte << shift

    def _read_integer(self) -> int:
        """Return a signed integer, whose sign is its lowest bit."""
        value = self._read_unsigned()
        return (value >> 1) ^ -(value & 1)
