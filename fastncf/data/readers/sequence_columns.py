"""Text with a sequence of items in a field, as RecBole's ``.inter`` files have it in columns of type ``token_seq``.

A row holds a user and the items of the user in the order of time, in columns such as ``user_id:token`` and
``item_id_list:token_seq``. With a further column of single items, the item of a row follows its list, which is the
history; several rows of one user then grow, or are windows of one length. The files are described by W. X. Zhao et
al., "RecBole: Towards a Unified, Comprehensive and Efficient Framework for Recommendation Algorithms", CIKM 2021.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import polars as pl

from fastncf.data.readers.columns import list_columns, match_columns
from fastncf.data.readers.files import open_content
from fastncf.data.readers.item_lists import no_point_in_time
from fastncf.data.readers.names import TITLES, columns_named, normalize_name
from fastncf.data.readers.options import ReadOptions
from fastncf.data.readers.raw_text import EXPECTED_ENCODING
from fastncf.data.readers.text import TextTable
from fastncf.errors import DataError, counted

_FORMAT = "TSV with header, a sequence of items in each row"
_ITEMS, _TIMES = ":token_seq", ":float_seq"
_LIST = re.compile(r"[_ ]?(list|seq|sequence|history|ids)$")
_BOM = "\ufeff"
_HEADER_BYTES = 1 << 16


class _Columns(NamedTuple):
    """Positions of the columns that are read; None for one that there is not.

    Attributes:
        names: of all columns.
        user: a single id.
        items: a sequence of items.
        times: a time for each of them.
        item: the item that follows the sequence.
        time: its time.
    """

    names: list[str]
    user: int
    items: int
    times: int | None
    item: int | None
    time: int | None


class _Row(NamedTuple):
    """A row of the text: its line, its user, the items in their order, and their times if there are any."""

    line: int
    user: str
    items: list[str]
    times: list[str] | None


def has_sequences(content: Path | bytes, options: ReadOptions) -> bool:
    """Return whether the header of a text has a column of sequences of items, and no other one is named as the item."""
    with open_content(content) as file:
        names = _fields(file.readline(_HEADER_BYTES).decode("utf-8", "replace"))
    found = _named_lists("item", _ITEMS, names)
    named = options.names_among(names).get("item") if found else None
    return bool(found) if named is None else named in found


def read_sequences(source: str, content: Path | bytes, options: ReadOptions) -> TextTable:
    """Read a text with a sequence of items in each row; see :func:`has_sequences`.

    Args:
        source: name of the source in messages.
        content: path of the text, or the text itself.
        options: what the caller says of the data. Of a test set with an item behind each sequence, that item is read
            alone: the sequence is the history of the user.

    Returns:
        Columns user, item and time: the given times, or else the place of the item in the user's sequence from 1.

    Raises:
        DataError: a row has another number of fields or of times, two rows of a user are no parts of one sequence, or
            ratings, weights or a point in time are asked for that there are not.
    """
    with open_content(content) as file:
        raw = file.read()
    try:
        lines = raw.decode("utf-8").split("\n")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise DataError(f"{source}: line {line} is not UTF-8 text; expected {EXPECTED_ENCODING}") from None
    columns = _find_columns(_fields(lines[0]), options, source)
    rows = [_read_row(line, number, columns, source) for number, line in enumerate(lines[1:], start=2) if line.strip()]
    if options.is_looked_up and columns.item is not None:
        rows = [row._replace(items=row.items[-1:], times=row.times and row.times[-1:]) for row in rows]
    elif not options.is_looked_up and columns.times is None:
        rows = _one_row_each(rows, columns, source)
    has_times = columns.times is not None
    if options.before is not None and not has_times:
        raise no_point_in_time(source, options.before)
    frame = pl.DataFrame(
        {
            "user": pl.Series([row.user for row in rows], dtype=pl.String),
            "item": pl.Series([row.items for row in rows], dtype=pl.List(pl.String)),
            "time": pl.Series(
                [row.times if has_times else [*range(1, len(row.items) + 1)] for row in rows],
                dtype=pl.List(pl.String if has_times else pl.Int64),
            ),
            "line": pl.Series([row.line for row in rows], dtype=pl.Int64),
        }
    )
    frame = frame.filter(pl.col("item").list.len() > 0).explode("item", "time")
    line_of = frame["line"].to_numpy()
    roles = {"user": columns.user, "item": columns.items, "time": columns.times}
    names = {role: "place in the sequence" if place is None else columns.names[place] for role, place in roles.items()}
    return TextTable(frame.drop("line"), names, _FORMAT, lambda row: int(line_of[row]))


def _fields(line: str) -> list[str]:
    """Return the fields of a line."""
    return line.removeprefix(_BOM).rstrip("\r\n").split("\t")


def _named_lists(role: str, kind: str, columns: list[str]) -> list[str]:
    """Return the columns of sequences whose names, without a word for a sequence, are those of a role and no titles."""
    bases = {column: _LIST.sub("", column.removesuffix(kind)) for column in columns if column.endswith(kind)}
    return [name for name, base in bases.items() if columns_named(role, [base]) and normalize_name(base) not in TITLES]


def _find_columns(names: list[str], options: ReadOptions, source: str) -> _Columns:
    """Return the columns that are read.

    Raises:
        DataError: there is no column of users, several could be that of the sequences, or ratings or weights of single
            interactions are asked for.
    """
    lists = _named_lists("item", _ITEMS, names)
    times = _named_lists("time", _TIMES, names)
    if named := options.names_among(names).get("item"):
        lists = [named]
    if len(lists) > 1 or len(times) > 1:
        role, columns = ("item", lists) if len(lists) > 1 else ("time", times)
        listed = " or ".join(f"{column!r:.60}" for column in columns[:4])
        raise DataError(f"{source}: which column holds the sequences of {role}s, {listed}? expected one of them")
    if options.needs_rating() or options.names.get("weight"):
        asked = "weight=" if options.names.get("weight") else "min_rating="
        raise DataError(
            f"{source}: holds a sequence of items in each row, without a value for each of them that {asked} needs; "
            f"its columns are {list_columns(names)}; expected a row for each interaction"
        )
    single = [name for name in names if not name.endswith((_ITEMS, _TIMES))]
    items = columns_named("item", single)
    others = [*(name for name in single if name not in items), lists[0]]
    lookup = options.lookup and options.lookup._replace(known=None)
    given = replace(options, names=options.names | {"item": lists[0]}, lookup=lookup, needs_time=False)
    found = match_columns(others, given, source)
    place = {name: number for number, name in enumerate(names)}
    time = found.get("time")
    item = place[items[0]] if len(items) == 1 else None
    has_times = bool(times) and (item is None or time in single)
    return _Columns(
        names,
        place[found["user"]],
        place[lists[0]],
        place[times[0]] if has_times else None,
        item,
        place[time] if has_times and item is not None and time is not None else None,
    )


def _read_row(line: str, number: int, columns: _Columns, source: str) -> _Row:
    """Return a row of the text.

    Raises:
        DataError: it has another number of fields than the header, or another number of times than of items.
    """
    fields = _fields(line)
    if len(fields) != len(columns.names):
        raise DataError(
            f"{source}: line {number} has {counted(len(fields), 'field')}; expected {len(columns.names)}, as in the "
            f"header"
        )
    items = fields[columns.items].split()
    times = None if columns.times is None else fields[columns.times].split()
    if times is not None and len(times) != len(items):
        raise DataError(
            f"{source}: line {number} has {counted(len(items), 'item')} and {counted(len(times), 'time')}; expected a "
            f"time for each item"
        )
    if columns.item is not None:
        items.append(fields[columns.item])
        times = None if times is None or columns.time is None else [*times, fields[columns.time]]
    return _Row(number, fields[columns.user], items, times)


def _one_row_each(rows: list[_Row], columns: _Columns, source: str) -> list[_Row]:
    """Return a row for each user: the sequence of which the rows are parts.

    Raises:
        DataError: a user has rows that are no parts of one sequence, or several without an item that follows them.
    """
    whole: dict[str, _Row] = {}
    for row in sorted(rows, key=lambda row: len(row.items)):
        known = whole.setdefault(row.user, row)
        if known is row:
            continue
        history = row.items[:-1]
        if columns.item is None or history != known.items[len(known.items) - len(history) :]:
            first, second = sorted((known.line, row.line))
            raise DataError(
                f"{source}: line {second} is another row of user {row.user!r:.80} after line {first}, and the one does "
                f"not go on with the other, so that their order is not known; expected one row for each user, or a "
                f"time for each item in a column such as timestamp_list:float_seq"
            )
        whole[row.user] = known._replace(items=[*known.items, row.items[-1]])
    return list(whole.values())
