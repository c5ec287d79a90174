"""JSON lines: an object in each line, whose user, item and time are the columns that are read."""

import io
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import IO, Any

import polars as pl

from fastncf.data.ids import EXPECTED_IDS, as_utf8
from fastncf.data.readers.columns import match_columns
from fastncf.data.readers.files import EXPECTED_SOURCES, open_content
from fastncf.data.readers.kinds import document_kind
from fastncf.data.readers.options import ReadOptions
from fastncf.data.readers.text import TextTable
from fastncf.errors import DataError

_BOM = b"\xef\xbb\xbf"
_EXPECTED = 'JSON lines: in each line an object such as {"user": 1, "item": 2, "time": 1112486027}'
_PERHAPS_NO_STRING = r"^(?:true|false|[\[{].*|-?[0-9]+\.[0-9]+|-?[0-9]{16,})$|\x00"
"""Text as which polars reads a value other than a string and an integer, where a column holds strings as well.

A number such as 1e16 or 9007199254740993.0 becomes as many digits as it has, of which not all are right.
Half a character, an escape such as \\ud83d without the other one, becomes a null character.
"""
_INEXACT_FROM = 2.0**53  # from there on, a float stands for several integers
_IDS = ("user", "item")

_CHUNK_BYTES, _MAX_LINE_BYTES = 1 << 24, 1 << 25
_UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


def read_json_lines(source: str, content: Path | bytes, options: ReadOptions) -> TextTable:
    """Read the user, item and time columns of JSON lines; blank lines are skipped.

    Args:
        source: name of the source in messages.
        content: path of the text, or the text itself.
        options: what the caller says of the columns.

    Raises:
        DataError: a line is not a JSON object, its values do not fit those of other lines, or a column is missing.
    """
    with open_content(content) as file:
        if file.read(len(_BOM)) == _BOM:
            content = file.read()  # polars takes the mark for a part of the first line
    _refuse_document(source, content)
    try:
        lazy = pl.scan_ndjson(io.BytesIO(content) if isinstance(content, bytes) else content, infer_schema_length=None)
        schema = lazy.collect_schema()  # the types of all lines, not of the first ones
        columns = match_columns(schema.names(), options, source)
        frame = lazy.select(pl.col(column).alias(role) for role, column in columns.items()).collect()
    except _UNREADABLE:
        _refuse_bad_line(source, content)
        return _read_objects(source, content, options)
    _refuse_repeated_members(source, content, frame, columns)
    _refuse_other_values(source, content, frame, columns)
    if "time" in columns and _may_be_rounded(frame["time"]):
        frame = frame.with_columns(_exact_numbers(content, columns["time"]).alias("time"))
    return TextTable(frame, columns, "JSON lines", lambda row: _find_line(content, row))


def _refuse_document(source: str, content: Path | bytes) -> None:
    """Raise a DataError for a table within one line, and for a line too long to be one object.

    Parsers would make several copies of such a line.
    """
    with open_content(content) as file:
        line = file.readline(_MAX_LINE_BYTES)
        if len(line) == _MAX_LINE_BYTES and not line.endswith(b"\n"):
            reason = f"line 1 does not end within {_MAX_LINE_BYTES:,} bytes; expected {_EXPECTED}"
        elif _holds_table(line) and not file.read(_CHUNK_BYTES).strip():
            kind = document_kind(line.lstrip())
            reason = f"is {kind.noun}; expected {EXPECTED_SOURCES}: {kind.remedy}"
        else:
            return
    raise DataError(f"{source}: {reason}")


def _holds_table(line: bytes) -> bool:
    """Return whether a line is an object of columns or of rows: a list of objects, or lists and objects alone."""
    try:
        members = list(json.loads(line).values())
    except (ValueError, RecursionError, AttributeError):
        return False
    has_rows = any(isinstance(member, list) and member and isinstance(member[0], dict) for member in members)
    return has_rows or (bool(members) and all(isinstance(member, list | dict) for member in members))


def _refuse_other_values(source: str, content: Path | bytes, frame: pl.DataFrame, columns: dict[str, str]) -> None:
    """Raise a DataError if an id among strings is a boolean, a fraction, a list, an object, or half a character."""
    texts = [role for role in _IDS if frame[role].dtype == pl.String]
    doubtful = frame.select(pl.any_horizontal(False, pl.col(texts).str.contains(_PERHAPS_NO_STRING).fill_null(False)))
    rows = doubtful.to_series().arg_true().to_list()
    if not rows:
        return
    with open_content(content) as file:
        filled = ((number, line) for number, line in enumerate(file, start=1) if not line.isspace())
        wanted = iter([*rows, -1])
        row = next(wanted)
        for position, (number, line) in enumerate(filled):
            if position != row:
                continue
            row = next(wanted)
            values = json.loads(line)
            for role in texts:
                value = values.get(columns[role])
                is_id = isinstance(value, int) and not isinstance(value, bool)
                is_id |= isinstance(value, float) and value.is_integer() and abs(value) < _INEXACT_FROM
                if not is_id and (not isinstance(value, str) or as_utf8(value) is None):
                    raise DataError(
                        f"{source}: column {columns[role]!r:.80} holds {value!r:.60} in line {number}; "
                        f"expected {EXPECTED_IDS}"
                    )


def _may_be_rounded(times: pl.Series) -> bool:
    """Return whether a column has fractions, which polars reads as floats also where it then makes text of them."""
    if times.dtype == pl.String:
        return bool(times.str.contains(r"^-?[0-9]+\.[0-9]").any())
    return times.dtype.is_float()


def _exact_numbers(content: Path | bytes, column: str) -> pl.Series:
    """Return the values of a column of numbers and text as text, with all digits of the numbers."""
    with open_content(content) as file:
        values = [json.loads(line, parse_float=str).get(column) for line in file if not line.isspace()]
    return pl.Series([None if value is None else str(value) for value in values], dtype=pl.String)


def _refuse_repeated_members(source: str, content: Path | bytes, frame: pl.DataFrame, columns: dict[str, str]) -> None:
    """Raise a DataError for the first line whose object has two members of one used name."""
    keys = {name: json.dumps(name, ensure_ascii=False).encode() for name in columns.values()}
    counts = dict.fromkeys(keys, 0)
    with open_content(content) as file:
        for chunk in _chunks(file):
            for name, key in keys.items():
                counts[name] += chunk.count(key)
    # a name may also be a value, or stand in a member
    doubtful = [name for role, name in columns.items() if counts[name] > frame[role].count()]
    if not doubtful:
        return
    with open_content(content) as file:
        for number, line in enumerate(file, start=1):
            if any(line.count(keys[name]) > 1 for name in doubtful):
                members: list[tuple[str, object]] = json.loads(line, object_pairs_hook=list)
                given = [name for name, _ in members]
                twice = next((name for name in doubtful if given.count(name) > 1), None)
                if twice is not None:
                    raise DataError(
                        f"{source}: line {number} has {given.count(twice)} members {twice!r:.80}; expected {_EXPECTED}"
                    )


def _find_line(content: Path | bytes, row: int) -> int:
    """Return the line number of a row: of the lines that are not blank."""
    with open_content(content) as file:
        filled = (number for number, line in enumerate(file, start=1) if not line.isspace())
        return next(number for position, number in enumerate(filled) if position == row)


def _refuse_bad_line(source: str, content: Path | bytes) -> None:
    """Raise a DataError for the first line that polars cannot read if it is no JSON object, else leave it alone."""
    with open_content(content) as file:
        line = 1
        for chunk in _chunks(file):
            if not _is_readable(chunk):
                while len(parts := _halves(chunk)) > 1:
                    sound, other = parts
                    if _is_readable(sound):
                        line += sound.count(b"\n")
                        chunk = other
                    else:
                        chunk = sound
                _load_object(source, line, chunk)
                return
            line += chunk.count(b"\n")


def _read_objects(source: str, content: Path | bytes, options: ReadOptions) -> TextTable:
    """Read JSON lines of which a member has several types, as polars cannot: the ids as objects, the times as text.

    Raises:
        DataError: a line is not a JSON object, or a column is missing.
    """
    rows = [members for _, members in read_objects(source, content)]
    names = dict.fromkeys(name for members in rows for name in members)
    columns = match_columns(list(names), options, source)
    series = []
    for role, column in columns.items():
        values = [members.get(column) for members in rows]
        if role not in _IDS:
            values = [None if value is None else str(value) for value in values]
        series.append(pl.Series(role, values, dtype=pl.Object if role in _IDS else pl.String))
    frame = pl.DataFrame(series)
    _refuse_repeated_members(source, content, frame, columns)
    return TextTable(frame, columns, "JSON lines", lambda row: _find_line(content, row))


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the text in pieces of whole lines."""
    rest = b""
    while piece := file.read(_CHUNK_BYTES):
        head, end, tail = piece.rpartition(b"\n")
        if end:
            yield rest + head + end
            rest = tail
        else:
            rest += tail
    if rest:
        yield rest


def _halves(chunk: bytes) -> list[bytes]:
    """Return two halves of whole lines, or the chunk alone if it is one line."""
    middle = chunk.find(b"\n", len(chunk) // 2, len(chunk) - 1)
    if middle < 0:
        middle = chunk.rfind(b"\n", 0, len(chunk) // 2)
    return [chunk[: middle + 1], chunk[middle + 1 :]] if middle >= 0 else [chunk]


def _is_readable(chunk: bytes) -> bool:
    """Return whether polars can read some lines."""
    if not chunk.strip():
        return True
    try:
        pl.read_ndjson(chunk, infer_schema_length=None)
    except _UNREADABLE:
        return False
    return True


def read_objects(source: str, content: Path | bytes) -> list[tuple[int, dict[str, Any]]]:
    """Return line number and members of each line that is not blank, without polars: numbers with a point are decimals.

    Raises:
        DataError: a line is not a JSON object.
    """
    with open_content(content) as file:
        lines = ((number, line) for number, line in enumerate(file, start=1) if not line.isspace())
        return [(number, _load_object(source, number, line)) for number, line in lines]


def _load_object(source: str, number: int, line: bytes) -> dict[str, Any]:
    """Return the members of a line: numbers with a point or an exponent as decimals, so that no digit is lost.

    Raises:
        DataError: the line is not a JSON object.
    """
    shown = repr(line.strip()[:60].decode(errors="replace"))
    try:
        value = json.loads(line, parse_float=Decimal, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        fault = "is not UTF-8 text"
    except (ValueError, RecursionError) as error:
        fault = f"is not JSON ({error!s:.80}): {shown}"
    else:
        if isinstance(value, dict):
            return value
        fault = f"is not an object: {shown}"
    raise DataError(f"{source}: line {number} {fault}; expected {_EXPECTED}")


def _refuse_constant(name: str) -> None:
    """Raise a ValueError for NaN and infinities, which Python reads beyond what JSON is."""
    raise ValueError(f"{name} is no value of JSON")
