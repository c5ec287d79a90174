"""Layout of a text: separator, header and columns, recognised by its first rows.

What is decided here is checked on all rows while the text is read, see :mod:`fastncf.data.readers.text`.
"""

import re
from dataclasses import dataclass, replace

from fastncf.data.readers.columns import NUMBER, guess_columns, match_columns
from fastncf.data.readers.dates import HEAD_ROWS, is_date
from fastncf.data.readers.files import EXPECTED_SOURCES
from fastncf.data.readers.kinds import find_wide_encoding
from fastncf.data.readers.names import is_known
from fastncf.data.readers.options import ReadOptions
from fastncf.data.readers.raw_text import RawText
from fastncf.data.readers.records import MAX_FIELDS, Head, read_head
from fastncf.errors import DataError
from fastncf.kernels.cpu.text import TextFormat

_SEPARATORS = (("::",), ("\t",), (",", ";", "|"), (" ",))
"""Groups of separators, best first; within a group the one that makes the most fields is taken."""


@dataclass(frozen=True)
class TextLayout:
    """Layout of a text, and the columns of it that are used.

    Attributes:
        separator: what stands between two fields.
        form: the same for the kernels; whether quotes enclose fields is decided on all rows.
        num_fields: number of fields of each row, with an empty one where a separator ends it.
        header: fields of the header; empty where there is none.
        columns: names of all columns: those of the header, or column_1, column_2 and so on.
        column_of: name of the column of each role (``user``, ``item`` and perhaps ``time`` and ``clock``).
        position_of: position among the columns of each role.
        rows: fields of the first rows, without the header.
        head_of: the first values of each role.
        body_start: where the first row below the header begins.
        has_quotes: whether one of the first rows holds a quote.
    """

    separator: str
    form: TextFormat
    num_fields: int
    header: list[str]
    columns: list[str]
    column_of: dict[str, str]
    position_of: dict[str, int]
    rows: list[list[str]]
    head_of: dict[str, list[str]]
    body_start: int
    has_quotes: bool

    @property
    def has_header(self) -> bool:
        """Whether the first row holds the names of the columns."""
        return bool(self.header)

    @property
    def positions(self) -> list[int]:
        """Positions of the columns that are read, each once."""
        return list(dict.fromkeys(self.position_of.values()))

    def describe(self) -> str:
        """Return the layout in words."""
        separator = {"\t": "tab", " ": "space"}.get(self.separator, self.separator)
        return f"text separated by {separator!r}, {'with' if self.has_header else 'without'} header"


def detect_layout(text: RawText, options: ReadOptions) -> TextLayout:
    """Recognise the layout of a text by its first rows.

    Args:
        text: the text.
        options: what the caller says of the columns.

    Raises:
        DataError: the layout cannot be recognised, or a column is missing or ambiguous.
    """
    source = text.source
    _refuse_other_texts(text)
    separator, form, head = _find_separator(text)
    rows = head.records
    names = options.names_among([field.strip() for field in rows[0]])
    has_header = _has_header(rows, names)
    body = rows[1:] if has_header else rows
    num_fields = len(rows[0]) + (has_header and form.trailing)
    if not has_header and len(rows[0]) > 2 and not any(row[-1] for row in rows):
        form = form._replace(trailing=True)
    num_columns = num_fields - form.trailing
    columns = [field.strip() for field in rows[0]] if has_header else [f"column_{i + 1}" for i in range(num_columns)]
    if not body and head.fault is None:
        raise DataError(f"{source}: holds a header ({', '.join(columns):.200}) and no row; expected rows below it")
    body = [row[:num_columns] for row in body]
    if has_header:
        _require_header(rows[0], names, source)
        column_of = match_columns(columns, options, source)
    else:
        column_of = guess_columns(columns, body, options, source)
    position_of = {role: columns.index(column) for role, column in column_of.items()}
    return TextLayout(
        separator=separator,
        form=form,
        num_fields=num_fields,
        header=rows[0] if has_header else [],
        columns=columns,
        column_of=column_of,
        position_of=position_of,
        rows=body,
        head_of={role: [row[i] for row in body if i < len(row)] for role, i in position_of.items()},
        body_start=head.starts[1 if has_header else 0],
        has_quotes=b'"' in text.read(head.starts[0], head.starts[-1]).tobytes(),
    )


def _refuse_other_texts(text: RawText) -> None:
    """Raise a DataError for text in another encoding, with other line ends, or for no text at all."""
    head = text.read(0, min(1 << 16, text.size)).tobytes()
    if (encoding := find_wide_encoding(head)) is not None:
        kind = encoding[:6].upper()
        raise DataError(f"{text.source}: is {kind} text; expected UTF-8, or encoding={encoding!r}")
    if b"\0" in head:
        raise DataError(f"{text.source}: is a binary file of an unknown kind; expected {EXPECTED_SOURCES}")
    if b"\r" in head and b"\n" not in head and b'"' not in head:
        raise DataError(f"{text.source}: has lines that end in \\r alone; expected \\n or \\r\\n")


def _read_head(text: RawText, separator: str) -> tuple[TextFormat, Head]:
    """Return the first records at a separator, with quotes unless they are misplaced."""
    form = TextFormat(ord(separator[0]), len(separator), separator != "::")
    if form.quoted:
        head = read_head(text, form, HEAD_ROWS + 1)
        if head.fault is None and head.records:
            return form, head
    form = form._replace(quoted=False)
    head = read_head(text, form, HEAD_ROWS + 1)
    return form, replace(head, records=[[_without_quotes(field) for field in row] for row in head.records])


def _without_quotes(field: str) -> str:
    """Return a field without the quotes that enclose it, by which it is recognised even if others are misplaced."""
    return field[1:-1] if len(field) > 1 and field[0] == field[-1] == '"' else field


def _find_separator(text: RawText) -> tuple[str, TextFormat, Head]:
    """Return the separator that splits most of the first rows into the same number of fields, at least two.

    Rows may also have one separator more than the first one has, behind which nothing stands.
    """
    ragged = ""
    for group in _SEPARATORS:
        found = []
        for separator in group:
            form, head = _read_head(text, separator)
            if not head.records and head.fault is not None:
                raise DataError(head.fault.describe(text))
            if not any(any(map(str.strip, fields)) for fields in head.records):
                raise DataError(f"{text.source}: holds only blank lines; expected {EXPECTED_SOURCES}")
            first, *others = head.records
            width = len(first)
            if width < 2:
                continue
            if width > MAX_FIELDS:
                line = text.line_at(head.starts[0])
                ragged = ragged or f"line {line} has more than {MAX_FIELDS:,} fields at {separator!r}"
            elif 2 * sum(len(row) != width for row in others) < 1 + len(others):
                found.append((width, separator, form, head))
            elif 2 * sum(len(row) != width + 1 or row[-1] != "" for row in others) < 1 + len(others):
                found.append((width, separator, form._replace(trailing=True), head))
            elif separator != " " and not ragged:
                ragged = _describe_ragged(text, separator, head)
        if found:
            return max(found, key=lambda choice: choice[0])[1:]
    if not ragged:
        line = text.line_at(head.starts[0])
        ragged = f"found no columns in line {line} ({' '.join(head.records[0])!r:.60})"
    raise DataError(
        f"{text.source}: {ragged}; expected at least a user and an item in each line, "
        f"separated by '::', tab, comma, semicolon, bar or space"
    )


def _describe_ragged(text: RawText, separator: str, head: Head) -> str:
    """Return in words which of the first rows have different numbers of fields."""
    lengths = list(map(len, head.records))
    other = next(number for number, length in enumerate(lengths) if length != lengths[0])
    lines = [text.line_at(head.starts[number]) for number in (0, other)]
    return f"line {lines[0]} has {lengths[0]} fields at {separator!r}, line {lines[1]} has {lengths[other]}"


def _has_header(rows: list[list[str]], names: dict[str, str]) -> bool:
    """Return whether the first row names the columns.

    It does if it holds a given name or a known one, or no number but text above a column of numbers or dates. It does
    not if the given names are those of a text without a header.
    """
    first = [field.strip() for field in rows[0]]
    given = list(names.values())
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


def _require_header(fields: list[str], names: dict[str, str], source: str) -> None:
    """Raise a DataError for given names of columns in a text without a header.

    Args:
        fields: the first row: a number or a date in it tells that it holds no names, unless one of them is known.
        names: the given name of each role that has one.
        source: name of the source in messages.

    Raises:
        DataError: says what the columns are called.
    """
    first = [field.strip() for field in fields]
    missing = {role: name for role, name in names.items() if name not in first}
    is_data = any(map(_is_number_or_date, first)) and not any(map(is_known, first))
    if not is_data or len(missing) < len(names):
        return
    for role, name in missing.items():
        raise DataError(
            f"{source}: has no header; its columns are column_1 ... column_{len(first)}, and none is {name!r:.80} for "
            f"{role}=; expected one of them"
        )


def _is_number_or_date(value: str) -> bool:
    """Return whether a field is a number or a date."""
    return _is_number(value) or is_date(value)


def _is_number(value: str) -> bool:
    """Return whether a field is a number."""
    return NUMBER.fullmatch(value) is not None
