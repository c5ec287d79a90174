"""JSON lines: an object in each line, whose user, item and time are the columns that are read."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import polars as pl

from fastncf.data.ids import EXPECTED_IDS
from fastncf.data.readers.columns import match_columns
from fastncf.data.readers.files import open_content
from fastncf.data.readers.options import ReadOptions
from fastncf.data.readers.text import TextTable
from fastncf.errors import DataError

_BOM = b"\xef\xbb\xbf"
_EXPECTED = 'JSON lines: in each line an object such as {"user": 1, "item": 2, "time": 1112486027}'
_PERHAPS_NO_STRING = r"^(?:true|false|[\[{].*|-?[0-9]+\.[0-9]+)$"
"""Text as which polars reads a value other than a string and an integer, where a column holds strings as well."""

_CHUNK_BYTES = 1 << 24
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
    schema: pl.Schema | None = None
    try:
        lazy = pl.scan_ndjson(io.BytesIO(content) if isinstance(content, bytes) else content, infer_schema_length=None)
        schema = lazy.collect_schema()  # the types of all lines, not of the first ones
        columns = match_columns(schema.names(), options, source)
        frame = lazy.select(pl.col(column).alias(role) for role, column in columns.items()).collect()
    except _UNREADABLE as error:
        raise _explain_failure(source, content, schema, str(error).partition("\n")[0]) from None
    _refuse_repeated_members(source, content, frame, columns)
    _refuse_other_values(source, content, frame, columns)
    if "time" in columns and _may_be_rounded(frame["time"]):
        frame = frame.with_columns(_exact_numbers(content, columns["time"]).alias("time"))
    return TextTable(frame, columns, "JSON lines", lambda row: _find_line(content, row))


def _refuse_other_values(source: str, content: Path | bytes, frame: pl.DataFrame, columns: dict[str, str]) -> None:
    """Raise a DataError if an id among strings is a boolean, a fraction, a list or an object."""
    texts = [role for role in ("user", "item") if frame[role].dtype == pl.String]
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
                if not isinstance(value, (str, int)) or isinstance(value, bool):
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


def _explain_failure(source: str, content: Path | bytes, schema: pl.Schema | None, reason: str) -> DataError:
    """Return the error for a text that polars cannot read: its first bad line, or else the reason of polars."""
    with open_content(content) as file:
        line = 1
        for chunk in _chunks(file):
            if not _is_readable(chunk, schema):
                while len(parts := _halves(chunk)) > 1:
                    sound, other = parts
                    if _is_readable(sound, schema):
                        line += sound.count(b"\n")
                        chunk = other
                    else:
                        chunk = sound
                return DataError(f"{source}: line {line} {_fault_of(chunk, reason)}; expected {_EXPECTED}")
            line += chunk.count(b"\n")
    return DataError(f"{source}: the values of a column are of different types ({reason:.200}); expected {_EXPECTED}")


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


def _is_readable(chunk: bytes, schema: pl.Schema | None) -> bool:
    """Return whether polars can read some lines, with the types of the whole text where they are known."""
    if not chunk.strip():
        return True
    try:
        pl.read_ndjson(chunk, schema=schema, infer_schema_length=None)
    except _UNREADABLE:
        return False
    return True


def _fault_of(line: bytes, reason: str) -> str:
    """Return in words what is wrong with a line."""
    try:
        value = json.loads(line, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        return "is not UTF-8 text"
    except (ValueError, RecursionError) as error:
        return f"is not JSON ({error!s:.80}): {line.strip()[:60].decode(errors='replace')!r}"
    if not isinstance(value, dict):
        return f"is not an object: {line.strip()[:60].decode(errors='replace')!r}"
    return f"does not have the types of the other lines ({reason:.120})"


def _refuse_constant(name: str) -> None:
    """Raise a ValueError for NaN and infinities, which Python reads beyond what JSON is."""
    raise ValueError(f"{name} is no value of JSON")
