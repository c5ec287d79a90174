"""Text files: how one is laid out, its used columns, and for a broken one the line and what is wrong with it."""

import csv
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, NamedTuple

import polars as pl

from fastncf.errors import DataError
from fastncf.reading.columns import ALIASES, NUMBER, guess_columns, match_columns, plain

HEAD_ROWS = 1000
ACCEPTED_FILES = "CSV or TSV text (plain, gzip or zip), Parquet, a polars or a pandas frame"


_SEPARATORS = ("::", "\t", ",", ";", "|", " ")
_INTEGER = re.compile(r"\s*-?(0|[1-9]\d{0,17})\s*")
_HEAD_BYTES = 1 << 16
_EXPECTED = {"Int64": (_INTEGER, "an integer"), "String": (None, "text"), "time": (NUMBER, "a number")}


class Text(NamedTuple):
    """What a text held: its used columns, which they are, in words how it is laid out, and where its rows stand."""

    frame: pl.DataFrame
    chosen: dict[str, str]
    kind: str
    locate: Callable[[int], int]


def read_text(source: str, content: Path | bytes, names: dict[str, str | None], needs_time: bool) -> Text:
    """Read the used columns of a text file, or of its content; ids Int64 or String, times numbers or String.

    Raises:
        DataError: names the source and the first line that cannot be read.
    """
    with _open(content) as file:
        head = _decode_head(file.read(_HEAD_BYTES), source, more=bool(file.read(1)))
    separator = _separator(head, source)
    rows = _split_rows(head, separator)
    header = _has_header(rows, names)
    columns = [field.strip() for field in rows[0]] if header else [f"column_{i + 1}" for i in range(len(rows[0]))]
    body = rows[1:] if header else rows
    if not body:
        raise DataError(f"{source}: holds a header ({', '.join(columns)}) and no row")
    if header:
        chosen = match_columns(columns, names, source, needs_time)
    else:
        chosen = guess_columns(columns, body, names, source, needs_time)
    layout = {name: columns.index(column) for name, column in chosen.items()}
    sample = {name: [row[at] for row in body if at < len(row)] for name, at in layout.items()}
    types = {name: _text_type(values, is_time=name == "time") for name, values in sample.items()}
    reader = _TextReader(source, content, separator, header, columns, chosen)
    frame = reader.read(types)
    label = {"\t": "tab", " ": "space"}.get(separator, separator)
    kind = f"text separated by {label!r}, {'with' if header else 'without'} header"
    return Text(frame, chosen, kind, reader.locate)


def _open(content: Path | bytes) -> IO[bytes]:
    return content.open("rb") if isinstance(content, Path) else io.BytesIO(content)


def _decode_head(head: bytes, source: str, *, more: bool) -> str:
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"{source}: is UTF-16 text; accepted: UTF-8")
    if b"\0" in head:
        raise DataError(f"{source}: is a binary file of an unknown kind; accepted: {ACCEPTED_FILES}")
    if more and b"\n" in head:
        head = head[: head.rindex(b"\n") + 1]
    try:
        return head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = head[: error.start].count(b"\n") + 1
        raise DataError(f"{source}: line {line} is not UTF-8 text; accepted: UTF-8") from None


def _split_rows(head: str, separator: str) -> list[list[str]]:
    """The first rows of a text, split into fields, blank lines left out."""
    if separator == "::":
        rows: Iterator[list[str]] = (line.split("::") for line in head.splitlines() if line)
    else:
        rows = csv.reader(io.StringIO(head), delimiter=separator)
    return [row for row, _ in zip((r for r in rows if r), range(HEAD_ROWS + 1), strict=False)]


def _separator(head: str, source: str) -> str:
    """The separator that splits the first rows into the same number of fields, at least two."""
    if not head.strip():
        raise DataError(f"{source}: holds only blank lines; accepted: {ACCEPTED_FILES}")
    for separator in _SEPARATORS:
        rows = _split_rows(head, separator)
        if len(rows[0]) >= 2 and sum(len(row) == len(rows[0]) for row in rows) > len(rows) // 2:
            return separator
    first = head.splitlines()[0]
    raise DataError(
        f"{source}: found no columns in line 1 ({first!r:.60}); "
        f"accepted: at least a user and an item, separated by '::', tab, comma, semicolon, bar or space"
    )


def _has_header(rows: list[list[str]], names: dict[str, str | None]) -> bool:
    """Whether the first row names the columns: it holds a known or given name, or text above numbers."""
    first = [field.strip() for field in rows[0]]
    if any(name in first for name in names.values() if name is not None):
        return True
    known = {alias for aliases in ALIASES.values() for alias in aliases}
    if any(plain(field) in known for field in first):
        return True
    below = rows[1:]
    return any(
        not NUMBER.fullmatch(field) and all(NUMBER.fullmatch(row[at]) for row in below if at < len(row))
        for at, field in enumerate(first)
        if below
    )


def _text_type(values: list[str], *, is_time: bool) -> pl.DataType:
    """Int64, Float64 or String, by what most of the first values look like."""
    filled = [value for value in values if value.strip()]
    integers = sum(_INTEGER.fullmatch(value) is not None for value in filled)
    if is_time:
        numbers = sum(NUMBER.fullmatch(value) is not None for value in filled)
        if 2 * numbers <= len(filled):
            return pl.String()
        return pl.Int64() if integers == numbers else pl.Float64()
    leading_zeros = any(re.fullmatch(r"\s*-?0\d+\s*", value) for value in filled)
    return pl.Int64() if 2 * integers > len(filled) and not leading_zeros else pl.String()


@dataclass
class _TextReader:
    """Reads the used columns of one text; where that fails, finds the line and says what is wrong with it."""

    source: str
    content: Path | bytes
    separator: str
    header: bool
    columns: list[str]
    chosen: dict[str, str]

    def read(self, types: dict[str, pl.DataType]) -> pl.DataFrame:
        try:
            frame = self._scan(types)
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
            self._explain(types)
            if types.get("time") == pl.Int64:  # every time is a number: the first ones were whole, a later one is not
                return self.read({**types, "time": pl.Float64()})
            raise DataError(f"{self.source}: cannot be read as text: {str(error).splitlines()[0]}") from None
        if frame.select(pl.any_horizontal(pl.all().is_null().any())).item():
            blank = frame.select(pl.all_horizontal(pl.all().is_null())).to_series()
            if blank.any():
                self._explain(types)  # all used fields are missing: fine on a blank line, an error elsewhere
                frame = frame.filter(~blank)
        return frame

    def _scan(self, types: dict[str, pl.DataType]) -> pl.DataFrame:
        content: Any = self.content
        separator = self.separator
        if separator == "::":  # polars splits at single bytes: take one that no text holds
            separator = "\x1f"
            raw = content.read_bytes() if isinstance(content, Path) else content
            content = raw.replace(b"::", b"\x1f")
        roles = {self.columns.index(name): role for role, name in self.chosen.items()}
        names = [roles.get(at, f"unused {at}") for at in range(len(self.columns))]
        unused = [name for at, name in enumerate(names) if at not in roles]
        lazy = pl.scan_csv(
            content,
            separator=separator,
            has_header=False,
            skip_lines=self._lines_before_body(),
            schema={name: types.get(name, pl.String()) for name in names},
            quote_char=None if self.separator == "::" else '"',
        )
        # polars sees a field too many only where every column is asked for, so the unused ones are, as a flag.
        flag = pl.all_horizontal(pl.col(unused).is_null()).alias("flag") if unused else pl.lit(True).alias("flag")
        return lazy.select(*self.chosen, flag).collect(engine="streaming").drop("flag")

    def _lines_before_body(self) -> int:
        """Lines up to the first row: blank ones and the header."""
        headers = 1 if self.header else 0
        with _open(self.content) as file:
            for number, line in enumerate(file):
                if line.strip(b"\xef\xbb\xbf\r\n"):
                    if not headers:
                        return number
                    headers -= 1
        return 0

    def _rows(self) -> Iterator[tuple[int, list[str]]]:
        """(line number, fields) of every line that is not blank: slow, only for messages."""
        with _open(self.content) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
            if self.separator == "::":
                rows = enumerate((line.rstrip("\r\n").split("::") for line in text), start=1)
                yield from ((number, row) for number, row in rows if row != [""])
            else:
                reader = csv.reader(text, delimiter=self.separator)
                yield from ((reader.line_num, row) for row in reader if row)

    def _body(self) -> Iterator[tuple[int, list[str]]]:
        rows = self._rows()
        if self.header:
            next(rows)
        return rows

    def _explain(self, types: dict[str, pl.DataType]) -> None:
        """Raise for the first line that is wrong; return if none is."""
        used = [(role, name, self.columns.index(name)) for role, name in self.chosen.items()]
        line = 0
        try:
            for line, row in self._body():
                if len(row) > len(self.columns) or any(at >= len(row) for _, _, at in used):
                    raise DataError(
                        f"{self.source}: line {line} has {len(row)} fields; accepted: {len(self.columns)} "
                        f"({', '.join(self.columns)})"
                    )
                for role, name, at in used:
                    pattern, expected = _EXPECTED[
                        "time" if role == "time" and types[role].is_numeric() else str(types[role])
                    ]
                    if not row[at].strip():
                        raise DataError(f"{self.source}: column {name!r} is empty in line {line}; accepted: {expected}")
                    if pattern is not None and not pattern.fullmatch(row[at]):
                        hint = "" if role == "time" else " as in the rows before (text ids: pass a frame with text)"
                        raise DataError(
                            f"{self.source}: column {name!r} holds {row[at]!r:.60} in line {line}; "
                            f"accepted: {expected}{hint}"
                        )
        except UnicodeDecodeError:
            raise DataError(f"{self.source}: line {line + 1} or a later one is not UTF-8 text") from None
        except csv.Error as error:
            raise DataError(f"{self.source}: line {line + 1}: {error}") from None

    def locate(self, row: int) -> int:
        """The line number of a row of the frame."""
        for at, (line, _) in enumerate(self._body()):
            if at == row:
                return line
        raise IndexError(row)
