"""Text files: how one is laid out, its used columns, and for a broken one the line and what is wrong with it."""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import polars as pl

from fastncf.data.ids import categories
from fastncf.data.readers.columns import ALIASES, NUMBER, guess_columns, match_columns, plain
from fastncf.data.readers.times import are_numbers, as_dates, date_format
from fastncf.errors import DataError

HEAD_ROWS = 1000
ACCEPTED_FILES = "CSV or TSV text (plain, gzip or zip), Parquet, a polars or a pandas frame"

_SEPARATORS = (("::",), ("\t",), (",", ";", "|"), (" ",))  # by preference; in a group the most fields win
_DIGITS = re.compile(r"[ \t]*[-+]?[0-9]+[ \t]*")
_INTEGER = re.compile(r"[ \t]*(0|-?[1-9][0-9]{0,18})")
_HEAD_BYTES = 1 << 16


def _is_integer(value: str) -> bool:
    """Whether a field is an integer that Int64 holds and writes in the same way."""
    return _INTEGER.fullmatch(value) is not None and -(2**63) <= int(value) < 2**63


def _is_small(value: str) -> bool:
    """Whether a field is an integer of 32 bits, or no integer."""
    return not _is_integer(value) or -(2**31) <= int(value) < 2**31


def _is_number(value: str) -> bool:
    return NUMBER.fullmatch(value) is not None


def _begins_with_quote(column: pl.Series) -> bool:
    """Whether a value of a column of text does."""
    if isinstance(column.dtype, pl.Categorical):
        column = categories(column)
    return column.dtype == pl.String and column.str.starts_with('"').any()


_EXPECTED: dict[str, tuple[Callable[[str], bool], str]] = {
    "Int64": (_is_integer, "an integer"),
    "Float64": (_is_number, "a number"),
    "String": (lambda value: True, "text"),
}


class Text(NamedTuple):
    """What a text held: its used columns, which they are, in words how it is laid out, and where its rows stand."""

    frame: pl.DataFrame
    chosen: dict[str, str]
    kind: str
    locate: Callable[[int], int]


def read_text(source: str, content: Path | bytes, names: dict[str, str | None], needs_time: bool) -> Text:
    """Read the used columns of a text file, or of its content.

    Ids are Int32, Int64, Categorical or String, times numbers, dates or String.

    Raises:
        DataError: names the source and the first line that cannot be read.
    """
    with _open(content) as file:
        head = _decode_head(file.read(_HEAD_BYTES), source, more=bool(file.read(1)))
    separator = _separator(head, source)
    rows = [row for _, row in _head_records(head, separator, source)]
    header = _has_header(rows, names)
    columns = [field.strip() for field in rows[0]] if header else [f"column_{i + 1}" for i in range(len(rows[0]))]
    body = rows[1:] if header else rows
    if not body:
        raise DataError(f"{source}: holds a header ({', '.join(columns)}) and no row; accepted: rows below it")
    if header:
        chosen = match_columns(columns, names, source, needs_time)
    else:
        chosen = guess_columns(columns, body, names, source, needs_time)
    layout = {role: columns.index(column) for role, column in chosen.items()}
    sample = {role: [row[at] for row in body if at < len(row)] for role, at in layout.items()}
    types = {role: _text_type(values, is_time=role == "time") for role, values in sample.items()}
    quoted = separator != "::" and _has_quotes(head, separator, len(columns), layout)
    texts = [at for at in range(len(columns)) if not all(_is_number(row[at]) for row in body if at < len(row))]
    reader = _TextReader(source, content, separator, quoted, header, columns, layout, texts, sample)
    frame = reader.read(types)
    label = {"\t": "tab", " ": "space"}.get(separator, separator)
    kind = f"text separated by {label!r}, {'with' if header else 'without'} header"
    return Text(frame, chosen, kind, reader.locate)


def _open(content: Path | bytes) -> IO[bytes]:
    return content.open("rb") if isinstance(content, Path) else io.BytesIO(content)


def _decode_head(head: bytes, source: str, *, more: bool) -> str:
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{source}: is UTF-16 or UTF-32 text; accepted: UTF-8")
    if b"\0" in head:
        raise DataError(f"{source}: is a binary file of an unknown kind; accepted: {ACCEPTED_FILES}")
    if b"\r" in head and b"\n" not in head:
        raise DataError(f"{source}: has lines that end in \\r alone; accepted: \\n or \\r\\n")
    if more and b"\n" in head:
        head = head[: head.rindex(b"\n") + 1]
    try:
        return head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = head[: error.start].count(b"\n") + 1
        raise DataError(f"{source}: line {line} is not UTF-8 text; accepted: UTF-8") from None


def _records(
    lines: Iterable[str], separator: str, source: str, *, quoted: bool, strict: bool = True
) -> Iterator[tuple[int, list[str]]]:
    """(number of the first line, fields) of every record, blank lines left out."""
    if not quoted:
        for number, line in enumerate(lines, start=1):
            if bare := line.rstrip("\r\n"):
                yield number, bare.split(separator)
        return
    reader = csv.reader(lines, delimiter=separator, strict=strict)
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{source}: line {number} cannot be split into fields ({error})") from None
        if row:
            yield number, row


def _head_records(head: str, separator: str, source: str) -> list[tuple[int, list[str]]]:
    """The first records of a text; the last may lack its end."""
    records = _records(io.StringIO(head), separator, source, quoted=separator != "::", strict=False)
    return [record for record, _ in zip(records, range(HEAD_ROWS + 1), strict=False)]


def _separator(head: str, source: str) -> str:
    """The separator that splits the first rows into the same number of fields, at least two."""
    if not head.strip():
        raise DataError(f"{source}: holds only blank lines; accepted: {ACCEPTED_FILES}")
    ragged = ""
    for group in _SEPARATORS:
        fits = {}
        for separator in group:
            (first, row), *records = _head_records(head, separator, source)
            others = [(number, len(other)) for number, other in records if len(other) != len(row)]
            if len(row) >= 2 and 2 * len(others) < 1 + len(records):
                fits[separator] = len(row)
            elif len(row) >= 2 and separator != " " and not ragged:
                ragged = f"line {first} has {len(row)} fields at {separator!r}, line {others[0][0]} has {others[0][1]}"
        if fits:
            return max(fits, key=lambda separator: fits[separator])
    if not ragged:
        ragged = f"found no columns in line {first} ({head.strip().splitlines()[0]!r:.60})"
    raise DataError(
        f"{source}: {ragged}; accepted: at least a user and an item in each line, "
        f"separated by '::', tab, comma, semicolon, bar or space"
    )


def _has_quotes(head: str, separator: str, width: int, layout: dict[str, int]) -> bool:
    """Whether quotes enclose fields that are used, or separators. Quotes that do neither are read as they stand.

    One stray quote in an unused field would otherwise swallow the rows up to the next.
    """
    records = [row for _, row in _records(io.StringIO(head), separator, "", quoted=False)]
    return any(len(row) != width or any(row[at][:1] == '"' for at in layout.values()) for row in records)


def _has_header(rows: list[list[str]], names: dict[str, str | None]) -> bool:
    """Whether the first row names the columns: it holds a known or given name, or text above numbers and no number."""
    first = [field.strip() for field in rows[0]]
    given = [name for name in names.values() if name is not None]
    if any(name in first or not re.fullmatch(r"column_\d+", name) for name in given):
        return True
    known = {alias for aliases in ALIASES.values() for alias in aliases}
    if any(plain(field) in known for field in first):
        return True
    below = rows[1:]
    return not any(_is_number(field) for field in first) and any(
        field and all(_is_number(row[at]) for row in below if at < len(row)) for at, field in enumerate(first) if below
    )


def _text_type(values: list[str], *, is_time: bool) -> pl.DataType:
    """Int64, Float64 or String, by what most of the first values look like."""
    filled = [value for value in values if value.strip()]
    integers = sum(map(_is_integer, filled))
    if is_time:
        numbers = sum(map(_is_number, filled))
        if 2 * numbers < len(filled):
            return pl.String()
        return pl.Int64() if integers == numbers else pl.Float64()
    # 007, +7 and what Int64 cannot hold are text: as integers they would be other ids
    textual = any(_DIGITS.fullmatch(value) and not _is_integer(value) for value in filled)
    return pl.Int64() if 2 * integers > len(filled) and not textual else pl.String()


_UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


class _TooNarrow(Exception):  # noqa: N818 - a signal, not an error
    """A date is not of the format of the first ones."""


@dataclass
class _TextReader:
    """Reads the used columns of one text; where that fails, finds the line and says what is wrong with it.

    ``layout`` is the position of each used column by its role, ``texts`` those of all columns that hold more than
    numbers, ``sample`` the first values by role.
    """

    source: str
    content: Path | bytes
    separator: str
    quoted: bool
    header: bool
    columns: list[str]
    layout: dict[str, int]
    texts: list[int]
    sample: dict[str, list[str]]

    def read(self, types: dict[str, pl.DataType]) -> pl.DataFrame:
        """The used columns. What the first rows suggest comes first, then fractions in the times, then quotes."""
        expected = self.quoted
        broken = ""
        for quoted in (expected,) if expected or self.separator == "::" else (False, True):
            self.quoted = quoted
            for time in (pl.Int64(), pl.Float64()) if types.get("time") == pl.Int64 else (types.get("time"),):
                try:
                    frame = self._scan_narrow_first(types if time is None else {**types, "time": time})
                except _UNREADABLE as error:
                    broken = broken or str(error).partition("\n")[0]
                    continue
                if frame is not None:
                    return frame
        if types.get("time") == pl.Int64:
            types = {**types, "time": pl.Float64()}
        for quoted in (expected, self.quoted):
            self.quoted = quoted
            self._explain(types)
        broken = broken or "quotes inside fields run rows together"
        odd = next((number for number, line in enumerate(self._lines(), start=1) if line.count('"') % 2), None)
        if self.quoted and odd is not None:
            raise DataError(
                f"{self.source}: line {odd} holds a quote that its field does not close; "
                f"accepted: quotes around whole fields, doubled inside them"
            )
        raise DataError(f"{self.source}: cannot be read as text ({broken}); accepted: {ACCEPTED_FILES}")

    def _scan_narrow_first(self, types: dict[str, pl.DataType]) -> pl.DataFrame | None:
        try:
            return self._scan(types, narrow=True)
        except (_TooNarrow, *_UNREADABLE):
            return self._scan(types, narrow=False)

    def _scan(self, types: dict[str, pl.DataType], narrow: bool) -> pl.DataFrame | None:
        """The used columns without blank lines; None where a row has no value for one, or too many fields.

        ``narrow`` takes half the memory or less: integer ids of 32 bits, text ids as categories, dates parsed while the
        text is read. Where the values do not fit, it raises an error.
        """
        content: Any = self.content
        separator = self.separator
        if separator == "::":  # polars splits at single bytes: take one that the text does not hold
            raw = content.read_bytes() if isinstance(content, Path) else content
            separator = next((chr(byte) for byte in (0x1F, 0x1E, 0x1D, 0x1C, 1, 2, 3) if byte not in raw), "\x1f")
            content = raw.replace(b"::", separator.encode())
        by_column = {at: types[role] for role, at in self.layout.items()}
        used = {role: pl.col(f"c{at}") for role, at in self.layout.items()}
        flags = {}
        dates = False
        if narrow:
            for role in ("user", "item"):
                if types[role] == pl.Int64 and all(_is_small(value) for value in self.sample[role]):
                    by_column[self.layout[role]] = pl.Int32()
                elif types[role] == pl.String:
                    used[role] = used[role].cast(pl.Categorical(pl.Categories.random()))
            if types.get("time") == pl.String and not are_numbers(head := pl.Series(self.sample["time"])):
                used["time"] = as_dates(used["time"], date_format(head))
                dates = True
        width = len(self.columns)
        lazy = pl.scan_csv(
            content,
            separator=separator,
            has_header=False,
            skip_lines=next(self._body())[0] - 1,
            schema={
                **{f"c{at}": by_column.get(at, pl.String()) for at in range(width)},
                **{f"c{at}": pl.Boolean() for at in range(width, width + 3)},
            },
            missing_columns="insert",  # no row should have the last ones, and nulls of this kind are small
            quote_char='"' if self.quoted else None,
            glob=False,
        )
        flags["extra"] = pl.any_horizontal(pl.col(f"c{at}").is_not_null() for at in range(width, width + 3))
        if width - 1 not in by_column:
            flags["short"] = pl.col(f"c{width - 1}").is_null()
        if self.quoted:  # a quote inside a field may run rows together
            parsed = {self.layout["time"]} if dates else set()  # what is a date has no second line
            text = [f"c{at}" for at in self.texts if by_column.get(at, pl.String) == pl.String and at not in parsed]
            flags["long"] = pl.any_horizontal(pl.lit(False), pl.col(text).str.contains("\n", literal=True))
        frame = lazy.select(**used, **flags).collect(engine="streaming")
        if dates and (frame["time"].is_null() & frame["user"].is_not_null()).any():
            raise _TooNarrow
        if frame.drop_in_place("extra").any():
            return None
        doubtful = [name for name in ("short", "long") if name in flags and frame.drop_in_place(name).any()]
        if doubtful and not self._is_sound(frame):
            return None
        if not self.quoted and any(_begins_with_quote(column) for column in frame):
            return None
        if any(column.has_nulls() for column in frame):
            # blank lines are the only rows that may lack a value
            frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))
            if any(column.has_nulls() for column in frame) or frame.height != sum(1 for _ in self._body()):
                return None
        return frame

    def _is_sound(self, frame: pl.DataFrame) -> bool:
        """Whether every record has all its fields, and the frame has a row for each record and each blank line."""
        blank = frame.select(pl.all_horizontal(pl.all().is_null())).to_series().sum()
        widths = [len(row) for _, row in self._body()]
        return set(widths) == {len(self.columns)} and len(widths) == frame.height - blank

    def _lines(self) -> Iterator[str]:
        with _open(self.content) as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError:
                    raise DataError(f"{self.source}: line {number} is not UTF-8 text; accepted: UTF-8") from None

    def _body(self) -> Iterator[tuple[int, list[str]]]:
        """(line number, fields) of every row: slow, only for messages."""
        records = _records(self._lines(), self.separator, self.source, quoted=self.quoted)
        if self.header:
            next(records)
        return records

    def _explain(self, types: dict[str, pl.DataType]) -> None:
        """Raise for the first line that is wrong; return if none is."""
        for line, row in self._body():
            if len(row) != len(self.columns):
                raise DataError(
                    f"{self.source}: line {line} has {len(row)} fields; accepted: {len(self.columns)} "
                    f"({', '.join(self.columns)})"
                )
            for role, at in self.layout.items():
                fits, expected = _EXPECTED[str(types[role])]
                where = f"{self.source}: column {self.columns[at]!r}"
                if not row[at].strip():
                    raise DataError(f"{where} is empty in line {line}; accepted: {expected}")
                if not fits(row[at]):
                    hint = "" if role == "time" else " as in the rows before (text ids: pass a frame with text)"
                    raise DataError(f"{where} holds {row[at]!r:.60} in line {line}; accepted: {expected}{hint}")

    def locate(self, row: int) -> int:
        """The line number of a row of the frame."""
        return next(line for at, (line, _) in enumerate(self._body()) if at == row)
