"""Layout of a text file: separator, header, quotes, columns and their types, recognised by its first rows.

What is decided here is checked on all rows while the file is read, see :mod:`fastncf.data.readers.text`.
"""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from fastncf.data.readers.columns import NUMBER, ReadOptions, guess_columns, match_columns
from fastncf.data.readers.dates import HEAD_ROWS, formats_of
from fastncf.data.readers.files import EXPECTED_SOURCES
from fastncf.data.readers.names import is_known
from fastncf.data.readers.records import open_text, split_records
from fastncf.errors import DataError

_SEPARATORS = (("::",), ("\t",), (",", ";", "|"), (" ",))
"""Groups of separators, best first; within a group the one that makes the most fields is taken."""

_DIGITS = re.compile(r"[ \t]*[-+]?[0-9]+[ \t]*")
_INTEGER = re.compile(r"[ \t]*(0|-?[1-9][0-9]{0,18})")
_HEAD_BYTES = 1 << 16


@dataclass(frozen=True)
class TextLayout:
    """Layout of a text, and the columns of it that are used.

    Attributes:
        separator: what stands between two fields.
        quoted: whether double quotes enclose fields that are used, or separators.
        has_header: whether the first row holds the names of the columns.
        columns: names of all columns: those of the header, or column_1, column_2 and so on.
        column_of: name of the column of each role (``user``, ``item`` and perhaps ``time`` and ``clock``).
        position_of: position among the columns of each role.
        dtype_of: Int64 or String, by what most of the first values of each role look like.
        rows: fields of the first rows, without the header.
        head_of: the first values of each role.
        text_positions: positions of all columns that hold something other than numbers in the first rows.
    """

    separator: str
    quoted: bool
    has_header: bool
    columns: list[str]
    column_of: dict[str, str]
    position_of: dict[str, int]
    dtype_of: dict[str, pl.DataType]
    rows: list[list[str]]
    head_of: dict[str, list[str]]
    text_positions: list[int]

    def with_times_as_text(self) -> dict[str, pl.DataType]:
        """Return the dtype of each role with String for times, which all rows then decide the meaning of."""
        return {role: pl.String() if role in ("time", "clock") else dtype for role, dtype in self.dtype_of.items()}

    def describe(self) -> str:
        """Return the layout in words."""
        separator = {"\t": "tab", " ": "space"}.get(self.separator, self.separator)
        return f"text separated by {separator!r}, {'with' if self.has_header else 'without'} header"


def detect_layout(source: str, content: Path | bytes, options: ReadOptions) -> TextLayout:
    """Recognise the layout of a text by its first rows.

    Args:
        source: name of the source in messages.
        content: path of the text, or the text itself.
        options: what the caller says of the columns.

    Raises:
        DataError: the layout cannot be recognised, or a column is missing or ambiguous.
    """
    with open_text(content) as file:
        head = _decode_head(file.read(_HEAD_BYTES), source, has_more=bool(file.read(1)))
    separator = _find_separator(head, source)
    rows = [row for _, row in _head_records(head, separator, source)]
    has_header = _has_header(rows, options.names)
    columns = [field.strip() for field in rows[0]] if has_header else [f"column_{i + 1}" for i in range(len(rows[0]))]
    body = rows[1:] if has_header else rows
    if not body:
        raise DataError(f"{source}: holds a header ({', '.join(columns):.200}) and no row; expected rows below it")
    if has_header:
        column_of = match_columns(columns, options, source)
    else:
        column_of = guess_columns(columns, body, options, source)
    position_of = {role: columns.index(column) for role, column in column_of.items()}
    head_of = {role: [row[i] for row in body if i < len(row)] for role, i in position_of.items()}
    dtype_of = {role: _guess_dtype(values, is_time=role in ("time", "clock")) for role, values in head_of.items()}
    if options.time_format is not None and "time" in dtype_of:
        dtype_of["time"] = pl.String()
    return TextLayout(
        separator=separator,
        quoted=separator != "::" and _has_quotes(head, separator, len(columns), position_of),
        has_header=has_header,
        columns=columns,
        column_of=column_of,
        position_of=position_of,
        dtype_of=dtype_of,
        rows=body,
        head_of=head_of,
        text_positions=[i for i in range(len(columns)) if not all(_is_number(row[i]) for row in body if i < len(row))],
    )


def _decode_head(head: bytes, source: str, *, has_more: bool) -> str:
    """Return the first lines of a text; ``has_more`` tells that the last one may be cut off."""
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{source}: is UTF-16 or UTF-32 text; expected UTF-8")
    if b"\0" in head:
        raise DataError(f"{source}: is a binary file of an unknown kind; expected {EXPECTED_SOURCES}")
    if b"\r" in head and b"\n" not in head:
        raise DataError(f"{source}: has lines that end in \\r alone; expected \\n or \\r\\n")
    if has_more and b"\n" in head:
        head = head[: head.rindex(b"\n") + 1]
    try:
        return head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = head[: error.start].count(b"\n") + 1
        raise DataError(f"{source}: line {line} is not UTF-8 text; expected UTF-8") from None


def _head_records(head: str, separator: str, source: str) -> list[tuple[int, list[str]]]:
    """Return the line numbers and the fields of the first records; the last one may lack its end."""
    records = split_records(io.StringIO(head), separator, source, quoted=separator != "::", strict=False)
    return [record for record, _ in zip(records, range(HEAD_ROWS + 1), strict=False)]


def _find_separator(head: str, source: str) -> str:
    """Return the separator that splits most of the first rows into the same number of fields, at least two."""
    if not head.strip():
        raise DataError(f"{source}: holds only blank lines; expected {EXPECTED_SOURCES}")
    ragged = ""
    for group in _SEPARATORS:
        num_fields = {}
        for separator in group:
            (first, row), *records = _head_records(head, separator, source)
            others = [(number, len(other)) for number, other in records if len(other) != len(row)]
            if len(row) >= 2 and 2 * len(others) < 1 + len(records):
                num_fields[separator] = len(row)
            elif len(row) >= 2 and separator != " " and not ragged:
                ragged = f"line {first} has {len(row)} fields at {separator!r}, line {others[0][0]} has {others[0][1]}"
        if num_fields:
            return max(num_fields, key=lambda separator: num_fields[separator])
    if not ragged:
        ragged = f"found no columns in line {first} ({head.strip().splitlines()[0]!r:.60})"
    raise DataError(
        f"{source}: {ragged}; expected at least a user and an item in each line, "
        f"separated by '::', tab, comma, semicolon, bar or space"
    )


def _has_header(rows: list[list[str]], names: dict[str, str | None]) -> bool:
    """Return whether the first row names the columns.

    It does if it holds a given name or a known one, or no number but text above a column of numbers or dates. It does
    not if the given names are those of a text without a header.
    """
    first = [field.strip() for field in rows[0]]
    given = [name for name in names.values() if name is not None]
    if any(name in first or not re.fullmatch(r"column_\d+", name) for name in given):
        return True
    if given:
        return False
    if any(map(is_known, first)):
        return True
    below = rows[1:]
    return not any(_is_number_or_date(field) for field in first) and any(
        field and all(_is_number_or_date(row[i]) for row in below if i < len(row))
        for i, field in enumerate(first)
        if below
    )


def _is_number_or_date(value: str) -> bool:
    """Return whether a field is a number or a date."""
    return _is_number(value) or bool(formats_of(value.strip()))


def _has_quotes(head: str, separator: str, num_columns: int, position_of: dict[str, int]) -> bool:
    """Return whether quotes enclose fields that are used, or separators.

    Quotes that do neither are read as they stand: one stray quote in an unused field would otherwise swallow the rows
    up to the next one.
    """
    records = [row for _, row in split_records(io.StringIO(head), separator, "", quoted=False)]
    return any(len(row) != num_columns or any(row[i][:1] == '"' for i in position_of.values()) for row in records)


def _guess_dtype(values: list[str], *, is_time: bool) -> pl.DataType:
    """Return Int64 or String, by what most of the first values look like."""
    filled = [value for value in values if value.strip()]
    integers = sum(map(_is_integer, filled))
    if is_time:  # of text, all rows decide what it means
        return pl.Int64() if 2 * integers > len(filled) else pl.String()
    # 007, +7 and what Int64 cannot hold are text: as integers they would be other ids
    textual = any(_DIGITS.fullmatch(value) and not _is_integer(value) for value in filled)
    return pl.Int64() if 2 * integers > len(filled) and not textual else pl.String()


def _is_integer(value: str) -> bool:
    """Return whether a field is an integer that Int64 holds and writes in the same way."""
    return _INTEGER.fullmatch(value) is not None and -(2**63) <= int(value) < 2**63


def _is_number(value: str) -> bool:
    """Return whether a field is a number that polars reads as one."""
    return NUMBER.fullmatch(value) is not None


def fits_32_bits(value: str) -> bool:
    """Return whether a field is an integer that Int32 holds, or no integer."""
    return not _is_integer(value) or -(2**31) <= int(value) < 2**31


FIELDS: dict[str, tuple[Callable[[str], bool], str]] = {
    "Int64": (_is_integer, "an integer"),
    "String": (lambda value: True, "text"),
}
"""For each dtype: whether a field can be read as it, and in words what is expected."""
