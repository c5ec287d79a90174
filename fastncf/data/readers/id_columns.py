"""Columns of ids without anything else: the users or items that a request is about, from a frame or a file."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from fastncf.data.ids import EXPECTED_IDS, NamedIds, canonical_values
from fastncf.data.readers.columns import list_columns
from fastncf.data.readers.files import Purpose, open_content, read_file
from fastncf.data.readers.json_lines import read_objects
from fastncf.data.readers.kinds import JSON_LINES, PARQUET, TEXT
from fastncf.data.readers.names import columns_named, is_known, normalize_name
from fastncf.errors import DataError, first_line, type_name

_EXPECTED = "one id per line, or a table in CSV, Parquet or JSON lines with a column of them"
_IDS = Purpose("ids", (), _EXPECTED, "the path of a file of ids, one per line or in a table")
_SEPARATORS = ("::", "\t", ",", ";", "|")
_NO_SEPARATOR = "\x1f"  # the separator of units in ASCII, since csv takes no line for one field


def read_frame(frame: Any, source: str, roles: tuple[str, ...]) -> dict[str, NamedIds]:
    """Return the ids of the columns of a frame.

    Args:
        frame: a polars frame, eager or lazy, or a pandas frame.
        source: name of the frame in messages.
        roles: the role that is needed, ``user`` or ``item``, and others that may be missing.

    Raises:
        DataError: a column is missing, or a value is no id.
    """
    if isinstance(frame, pl.LazyFrame):
        try:
            frame = frame.collect()
        except (Exception, pl.exceptions.PanicException) as error:  # a scan runs whatever the user put into it
            reason = first_line(error)
            raise DataError(
                f"{source}: cannot be computed ({reason:.200}); expected a frame or a list of ids"
            ) from None
    is_polars = isinstance(frame, pl.DataFrame)
    if not is_polars and not hasattr(frame, "iloc"):
        raise DataError(f"{source}: cannot read ids from {type_name(frame)}; expected a frame or a list of ids")
    columns = list(map(str, frame.columns))
    found = {}
    for role, position in _find_columns(columns, source, roles).items():
        values = frame.to_series(position) if is_polars else frame.iloc[:, position]
        found[role] = _checked(_values(values), source, columns[position], lambda row: f"row {row + 1}")
    return found


def read_id_file(path: Path, roles: tuple[str, ...]) -> pl.DataFrame:
    """Return the ids of a file as a frame whose columns have the names of the roles.

    Args:
        path: a text in UTF-8, plain, gzip or in a zip archive: one id per line, or a CSV or TSV table; or a table in
            Parquet or JSON lines. Columns are found by their names. Without a header the only column is that of the
            first role, and of several columns the first one, or with two roles the user and the item.
        roles: the role that is needed, ``user`` or ``item``, and others that may be missing.

    Raises:
        DataNotFoundError: there is no such file.
        DataError: the file cannot be used, or a value is no id.
    """
    source, content, kind = read_file(path, _IDS)
    if kind == TEXT:
        with open_content(content) as file:
            named = _of_text(file.read(), source, roles)
    elif kind == JSON_LINES:
        named = _of_objects(read_objects(source, content), source, roles)
    else:
        try:
            frame = (pl.read_parquet if kind == PARQUET else pl.read_ipc)(content)
        except (Exception, pl.exceptions.PanicException) as error:  # a damaged file raises errors of many classes
            reason = first_line(error)
            raise DataError(f"{source}: is damaged ({reason:.200}); expected {_EXPECTED}") from None
        named = read_frame(frame, source, roles)
    return pl.DataFrame([pl.Series(role, values) for role, values in named.items()])


def _of_text(content: bytes, source: str, roles: tuple[str, ...]) -> dict[str, NamedIds]:
    """Return the ids of the columns of a text; see :func:`read_id_file`."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise DataError(f"{source}: line {line} is not UTF-8 text; expected UTF-8") from None
    if "\0" in text:
        raise DataError(f"{source}: is no text; expected {_EXPECTED}")
    records = _records(text, source)
    if not records:
        raise DataError(f"{source}: holds no id; expected {_EXPECTED}")
    first = records[0][1]
    if any(is_known(field) or normalize_name(field) == "id" for field in first):
        columns = [field.strip() for field in records.pop(0)[1]]
        positions = _find_columns(columns, source, roles)
    else:
        columns = [f"column_{number + 1}" for number in range(len(first))]
        is_pair = len(roles) > 1 and len(first) > 1
        positions = {"user": 0, "item": 1} if is_pair else {roles[0]: 0}
    found = {}
    for role, position in positions.items():
        values = [fields[position] if position < len(fields) else None for _, fields in records]
        found[role] = _checked(values, source, columns[position], lambda row: f"line {records[row][0]}")
    return found


def _of_objects(rows: list[tuple[int, dict[str, Any]]], source: str, roles: tuple[str, ...]) -> dict[str, NamedIds]:
    """Return the ids of members of JSON lines; see :func:`read_id_file`."""
    columns = list(dict.fromkeys(name for _, members in rows for name in members))
    found = {}
    for role, position in _find_columns(columns, source, roles).items():
        values = [members.get(columns[position]) for _, members in rows]
        found[role] = _checked(values, source, columns[position], lambda row: f"line {rows[row][0]}")
    return found


def _records(text: str, source: str) -> list[tuple[int, list[str]]]:
    """Return the line number and the fields of each line that is not blank; all are divided as the first one is."""
    lines = [(number, line.rstrip("\r")) for number, line in enumerate(text.split("\n"), start=1)]
    lines = [(number, line) for number, line in lines if line.strip()]
    first = lines[0][1] if lines else ""
    separator = min((one for one in _SEPARATORS if one in first), key=first.index, default="")
    if separator != "::" and '"' in text:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator or _NO_SEPARATOR, strict=True)
        try:
            return [(reader.line_num, fields) for fields in reader if fields]
        except csv.Error as error:
            raise DataError(f"{source}: line {reader.line_num} cannot be split into fields ({error})") from None
    return [(number, line.split(separator) if separator else [line]) for number, line in lines]


def _find_columns(columns: list[str], source: str, roles: tuple[str, ...]) -> dict[str, int]:
    """Return the position of the column of each role that is there.

    Raises:
        DataError: the first role has no column, or one of them has several.
    """
    names = [normalize_name(column) for column in columns]
    found = {}
    for role in roles:
        named = columns_named(role, columns)
        positions = [position for position, column in enumerate(columns) if column in named]
        if len(positions) > 1:
            listed = " or ".join(f"{columns[position]!r:.60}" for position in positions[:4])
            raise DataError(f"{source}: which column is the {role}, {listed}? expected one")
        if positions:
            found[role] = positions[0]
    if roles[0] not in found:
        if "id" in names:
            found[roles[0]] = names.index("id")
        elif len(columns) == 1 and not is_known(columns[0]):
            found[roles[0]] = 0
        else:
            raise DataError(
                f"{source}: which column is the {roles[0]}? its columns are {list_columns(columns)}; expected one that "
                f"is called {roles[0]} or {roles[0]}_id"
            )
    return found


def _values(column: Any) -> Any:
    """Return a column as an array of integers, or as a list of Python's values with None for missing ones."""
    if isinstance(column, pl.Series):
        return column.to_numpy() if column.dtype.is_integer() and not column.has_nulls() else column.to_list()
    if column.dtype.kind in "iu" and not column.isna().any():
        return column.to_numpy()
    return column.astype(object).where(column.notna(), None).tolist()


def _checked(values: Any, source: str, column: str, locate: Callable[[int], str]) -> NamedIds:
    """Return the values of a column as canonical ids.

    Raises:
        DataError: one of them is no id.
    """
    named, invalid = canonical_values(values)
    if invalid is not None:
        value = values[invalid]
        state = "is empty" if value is None or not str(value).strip() else f"holds {value!r:.60}"
        raise DataError(f"{source}: column {column!r:.80} {state} in {locate(invalid)}; expected {EXPECTED_IDS}")
    return named
