"""Size of the columns of a Feather file (Arrow's IPC format), by its metadata: before anything is unpacked.

The metadata are flatbuffers, as https://arrow.apache.org/docs/format/Columnar.html,
https://github.com/apache/arrow/tree/main/format (``File.fbs``, ``Message.fbs``, ``Schema.fbs``) and
https://flatbuffers.dev/internals/ describe them. Polars does not tell what they say of sizes.
"""

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from fastncf.data.readers.files import open_content
from fastncf.data.readers.parquet import VALUE_BYTES

_MAGIC = b"ARROW1"
_MOST_FIELDS = 100_000
"""Fields of a schema beyond which it counts as damaged: tables that refer to each other could stand for any number."""

_NULL, _INTEGER, _STRUCT, _UNION, _FIXED_SIZE_LIST, _RUN_END_ENCODED = 1, 2, 13, 14, 16, 22
_TEXTS, _LIST_VIEWS, _VIEWS = (4, 5, 19, 20), (25, 26), (23, 24)
"""Numbers of types; texts are also those of bytes, and views are texts of which long ones have buffers of their own."""

_BUFFERS = {_NULL: 0, _RUN_END_ENCODED: 0, _STRUCT: 1, _FIXED_SIZE_LIST: 1}
_BUFFERS |= dict.fromkeys((*_TEXTS, *_LIST_VIEWS), 3)
"""Number of buffers of a type beside those of its children, where it is not 2."""


class _Column(NamedTuple):
    """A column of the schema.

    Attributes:
        name: its name.
        types: numbers of its type and of those of its children, depth first.
    """

    name: str
    types: list[int]


def unpacked_bytes(content: Path | bytes, columns: list[str]) -> int:
    """Return how many bytes some columns of a Feather file have in memory, at most.

    Raises:
        Exception: the metadata are damaged: ValueError, struct.error and others.
    """
    with open_content(content) as file:
        footer = _read_footer(file)
        schema = _read_schema(footer)
        total = 0
        for block in footer.structs(2, 24):  # dictionaries, whichever columns they belong to
            total += sum(_buffer_sizes(file, block, dictionary=True)[1])
        for block in footer.structs(3, 24):
            num_rows, sizes, num_views = _buffer_sizes(file, block, dictionary=False)
            total += _used_bytes(schema, columns, num_rows, sizes, iter(num_views))
        return total


def _used_bytes(
    schema: list[_Column], columns: list[str], num_rows: int, sizes: list[int], num_views: Iterator[int]
) -> int:
    """Return the bytes of some columns in a batch of rows."""
    if any(_UNION in column.types for column in schema):  # its number of buffers depends on more than its type
        return sum(sizes) + VALUE_BYTES * num_rows * len(columns)
    total = at = 0
    for column in schema:
        count = 0
        for number in column.types:
            count += 2 + next(num_views) if number in _VIEWS else _BUFFERS.get(number, 2)
        if column.name in columns:
            total += sum(sizes[at : at + count]) + VALUE_BYTES * num_rows
        at += count
    return total


def _read_footer(file: IO[bytes]) -> "_Table":
    """Return the table at the end of a file."""
    tail = 4 + len(_MAGIC)
    end = file.seek(-tail, os.SEEK_END)
    length, magic = struct.unpack(f"<i{len(_MAGIC)}s", file.read(tail))
    if magic != _MAGIC or not 0 < length <= end:
        raise ValueError("the file does not end as it begins")
    file.seek(end - length)
    return _root(file.read(length))


def _read_schema(footer: "_Table") -> list[_Column]:
    """Return the columns of a footer."""
    left = [_MOST_FIELDS]
    fields = _present(footer.table(1)).tables(1)
    return [_Column(field.text(0), list(_types_of(field, left))) for field in fields]


def _types_of(field: "_Table", left: list[int]) -> Iterator[int]:
    """Yield the number of the type of a field and of its children; ``left`` holds how many there may still be."""
    left[0] -= 1
    if left[0] < 0:
        raise ValueError(f"the schema has more than {_MOST_FIELDS} fields")
    if field.table(4) is not None:  # integers, which stand for values of a dictionary
        yield _INTEGER
        return
    yield field.number(2, "<B")
    for child in field.tables(5):
        yield from _types_of(child, left)


def _buffer_sizes(file: IO[bytes], block: bytes, *, dictionary: bool) -> tuple[int, list[int], list[int]]:
    """Return the number of rows of a batch, the size of each buffer once unpacked, and the counts of its views.

    Args:
        file: the whole file.
        block: offset and lengths of the batch, as the footer has them.
        dictionary: whether it is a batch of a dictionary.
    """
    offset, metadata_length = struct.unpack("<qi", block[:12])
    file.seek(offset)
    head = file.read(metadata_length)
    start = 8 if head[:4] == b"\xff\xff\xff\xff" else 4  # older versions have the length alone
    batch = _present(_root(head[start:]).table(2))
    batch = _present(batch.table(1)) if dictionary else batch
    is_compressed = batch.table(3) is not None
    sizes = []
    for buffer in batch.structs(2, 16):
        place, length = struct.unpack("<qq", buffer)
        if is_compressed and length:
            file.seek(offset + metadata_length + place)
            (unpacked,) = struct.unpack("<q", file.read(8))
            length = length if unpacked == -1 else unpacked
        if length < 0:
            raise ValueError(f"a buffer has {length} bytes")
        sizes.append(length)
    num_rows = batch.number(0, "<q")
    if num_rows < 0:
        raise ValueError(f"a batch has {num_rows} rows")
    return num_rows, sizes, [struct.unpack("<q", count)[0] for count in batch.structs(4, 8)]


def _present(table: "_Table | None") -> "_Table":
    """Return a table that has to be there."""
    if table is None:
        raise ValueError("a table of the metadata is missing")
    return table


def _root(data: bytes) -> "_Table":
    """Return the table that a flatbuffer begins with."""
    return _Table(data, struct.unpack_from("<I", data, 0)[0])


class _Table:
    """A table of a flatbuffer, whose fields are read by their numbers."""

    def __init__(self, data: bytes, start: int) -> None:
        self._data, self._start = data, start
        self._fields = start - self._read("<i", start)
        self._end = self._read("<H", self._fields)

    def _read(self, form: str, at: int) -> int:
        """Return a number at a position."""
        if at < 0:
            raise ValueError("an offset leads before the metadata")
        return int(struct.unpack_from(form, self._data, at)[0])

    def _place(self, number: int) -> int | None:
        """Return where a field stands, or None where the table lacks it."""
        entry = 4 + 2 * number
        offset = self._read("<H", self._fields + entry) if entry < self._end else 0
        return self._start + offset if offset else None

    def number(self, number: int, form: str) -> int:
        """Return a number, 0 where there is none."""
        place = self._place(number)
        return 0 if place is None else self._read(form, place)

    def table(self, number: int) -> "_Table | None":
        """Return a table, None where there is none."""
        place = self._place(number)
        return None if place is None else _Table(self._data, place + self._read("<I", place))

    def _vector(self, number: int) -> tuple[int, int]:
        """Return where the elements of a vector begin, and how many there are."""
        place = self._place(number)
        if place is None:
            return 0, 0
        start = place + self._read("<I", place)
        return start + 4, self._read("<I", start)

    def structs(self, number: int, size: int) -> list[bytes]:
        """Return the elements of a vector of structs."""
        start, count = self._vector(number)
        if start + count * size > len(self._data):
            raise ValueError("a vector is longer than the metadata")
        return [self._data[start + at * size :][:size] for at in range(count)]

    def tables(self, number: int) -> Iterator["_Table"]:
        """Yield the elements of a vector of tables."""
        start, count = self._vector(number)
        for at in range(start, start + 4 * count, 4):
            yield _Table(self._data, at + self._read("<I", at))

    def text(self, number: int) -> str:
        """Return text."""
        start, count = self._vector(number)
        return self._data[start : start + count].decode()
