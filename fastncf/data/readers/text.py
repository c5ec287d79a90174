"""Text files: their user, item and time columns, and for a broken file the line and what is wrong with it.

polars reads the text. It accepts short rows, long rows, and rows that a stray quote has joined, so each attempt is
checked, and rejected where a row may be lost or changed. If all attempts fail, the text is read once more in Python, to
say which line is wrong.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from fastncf.data.ids import categories
from fastncf.data.readers.columns import ReadOptions
from fastncf.data.readers.dates import EXPECTED_CLOCKS, EXPECTED_TIMES, have_four_digits, parse_dates, plain_format
from fastncf.data.readers.files import EXPECTED_SOURCES
from fastncf.data.readers.layout import FIELDS, TextLayout, detect_layout, fits_32_bits
from fastncf.data.readers.records import read_lines, split_records
from fastncf.errors import DataError

_NUM_EXTRA = 3  # columns beyond the last one that are read, to see whether a row has too many fields
_SPARE_BYTES = (0x1F, 0x1E, 0x1D, 0x1C, 1, 2, 3)
_UNREADABLE = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


class TextTable(NamedTuple):
    """Columns that were read from a text.

    Attributes:
        frame: columns ``user``, ``item`` and perhaps ``time`` and ``clock``: ids Int32, Int64, Categorical or String,
            times Int64, dates or String.
        columns: name of the column of each role.
        format: the format in words.
        find_line: returns the line number of a row of the frame.
        layout: the layout of a text with separators, None for JSON lines.
    """

    frame: pl.DataFrame
    columns: dict[str, str]
    format: str
    find_line: Callable[[int], int]
    layout: TextLayout | None = None


def read_text(source: str, content: Path | bytes, options: ReadOptions) -> TextTable:
    """Read the user, item and time columns of a text.

    Args:
        source: name of the source in messages.
        content: path of the text, or the text itself.
        options: what the caller says of the columns.

    Raises:
        DataError: the text cannot be read; the message names the source and the first line that is wrong.
    """
    reader = _TextReader(source, content, detect_layout(source, content, options), options.time_format)
    frame = reader.read()
    layout = reader.layout
    return TextTable(frame, layout.column_of, layout.describe(), reader.find_line, layout)


class _DateFormatError(Exception):
    """A date is not of the format of the first ones."""


class _TextReader:
    """Reads the used columns of one text.

    Attributes:
        source: name of the source in messages.
        content: path of the text, or the text itself.
        layout: its layout by the first rows.
        time_format: format of the times as strftime has it, or None to recognise it.
        quoted: whether double quotes enclose fields, in the present attempt to read the text.
    """

    def __init__(self, source: str, content: Path | bytes, layout: TextLayout, time_format: str | None) -> None:
        self.source = source
        self.content = content
        self.layout = layout
        self.time_format = time_format
        self.quoted = layout.quoted

    def read(self) -> pl.DataFrame:
        """Return the used columns.

        The layout of the first rows is tried first, then text as times, then quotes.
        """
        dtypes, as_text = self.layout.dtype_of, self.layout.with_times_as_text()
        reason = ""
        for quoted in (self.quoted,) if self.quoted or self.layout.separator == "::" else (False, True):
            self.quoted = quoted
            for attempt in (dtypes, as_text) if as_text != dtypes else (dtypes,):
                try:
                    frame = self._scan_narrow_first(attempt)
                except _UNREADABLE as error:
                    reason = reason or str(error).partition("\n")[0]
                    continue
                if frame is not None:
                    return frame
        raise self._explain_failure(reason or "quotes inside fields run rows together")

    def find_line(self, row: int) -> int:
        """Return the line number of a row of the frame."""
        return next(line for number, (line, _) in enumerate(self._body()) if number == row)

    def _body(self) -> Iterator[tuple[int, list[str]]]:
        """Yield the line number and the fields of every row below the header: slow."""
        lines = read_lines(self.content, self.source)
        records = split_records(lines, self.layout.separator, self.source, quoted=self.quoted)
        if self.layout.has_header:
            next(records)
        return records

    def _scan_narrow_first(self, dtypes: dict[str, pl.DataType]) -> pl.DataFrame | None:
        """Return the used columns, in narrow dtypes if the values fit; None as for :meth:`_scan`."""
        try:
            return self._scan(dtypes, narrow=True)
        except (_DateFormatError, *_UNREADABLE):
            return self._scan(dtypes, narrow=False)

    def _scan(self, dtypes: dict[str, pl.DataType], narrow: bool) -> pl.DataFrame | None:
        """Return the used columns without blank lines, or None where a row lacks a value or has too many fields.

        Args:
            dtypes: dtype of each role.
            narrow: take half the memory or less: integer ids of 32 bits, text ids as categories, and dates parsed while
                the text is read.

        Raises:
            PolarsError, PanicException, OSError: polars cannot read the text as these dtypes.
            _DateFormatError: with ``narrow``, a date is not of the format of the first ones.
        """
        layout = self.layout
        dtype_at = {layout.position_of[role]: dtype for role, dtype in dtypes.items()}
        used = {role: pl.col(f"c{position}") for role, position in layout.position_of.items()}
        has_dates = self._narrow(dtypes, dtype_at, used) if narrow else False
        flags = self._doubts(dtype_at, has_dates)
        frame = self._scan_csv(dtype_at).select(**used, **flags).collect(engine="streaming")
        if has_dates:
            times = frame["time"]
            if (times.is_null() & frame["user"].is_not_null()).any() or not have_four_digits(times):
                raise _DateFormatError
        if frame.drop_in_place("extra").any():
            return None
        doubtful = [name for name in ("short", "long") if name in flags and frame.drop_in_place(name).any()]
        if doubtful and not self._is_sound(frame):
            return None
        if not self.quoted and any(_has_leading_quote(column) for column in frame):
            return None
        if any(column.has_nulls() for column in frame):
            # blank lines are the only rows that may lack a value
            frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))
            if any(column.has_nulls() for column in frame) or frame.height != sum(1 for _ in self._body()):
                return None
        return frame

    def _narrow(
        self, dtypes: dict[str, pl.DataType], dtype_at: dict[int, pl.DataType], used: dict[str, pl.Expr]
    ) -> bool:
        """Replace dtypes by position and expressions by role by narrow ones; return whether times become dates."""
        head_of = self.layout.head_of
        for role in ("user", "item"):
            if dtypes[role] == pl.Int64 and all(map(fits_32_bits, head_of[role])):
                dtype_at[self.layout.position_of[role]] = pl.Int32()
            elif dtypes[role] == pl.String:
                used[role] = used[role].cast(pl.Categorical(pl.Categories.random()))
        if dtypes.get("time") == pl.String and self.time_format is None and "clock" not in dtypes:
            fmt = plain_format(head_of["time"])
            if fmt is not None:
                used["time"] = parse_dates(used["time"], fmt)
                return True
        return False

    def _doubts(self, dtype_at: dict[int, pl.DataType], has_dates: bool) -> dict[str, pl.Expr]:
        """Return for each sign of a broken row an expression that is true where it shows.

        ``extra``: the row has too many fields. ``short``: its last field, which is not used, is missing or empty.
        ``long``: a field holds a line end, so that a quote inside a field may have joined rows.
        """
        layout = self.layout
        num_columns = len(layout.columns)
        extra = [pl.col(f"c{i}").is_not_null() for i in range(num_columns, num_columns + _NUM_EXTRA)]
        flags = {"extra": pl.any_horizontal(extra)}
        if num_columns - 1 not in dtype_at:
            flags["short"] = pl.col(f"c{num_columns - 1}").is_null()
        if self.quoted:
            parsed = {layout.position_of["time"]} if has_dates else set()  # no date has a second line
            text = [
                f"c{i}" for i in layout.text_positions if dtype_at.get(i, pl.String) == pl.String and i not in parsed
            ]
            flags["long"] = pl.any_horizontal(pl.lit(False), pl.col(text).str.contains("\n", literal=True))
        return flags

    def _scan_csv(self, dtype_at: dict[int, pl.DataType]) -> pl.LazyFrame:
        """Return the rows below the header as a lazy frame of columns c0, c1 and so on, other ones as String."""
        content: Any = self.content
        separator = self.layout.separator
        if separator == "::":  # polars splits at single bytes: take one that the text does not hold
            raw = content.read_bytes() if isinstance(content, Path) else content
            separator = next((chr(byte) for byte in _SPARE_BYTES if byte not in raw), "\x1f")
            content = raw.replace(b"::", separator.encode())
        num_columns = len(self.layout.columns)
        return pl.scan_csv(
            content,
            separator=separator,
            has_header=False,
            skip_lines=next(self._body())[0] - 1,
            schema={
                **{f"c{i}": dtype_at.get(i, pl.String()) for i in range(num_columns)},
                **{f"c{i}": pl.Boolean() for i in range(num_columns, num_columns + _NUM_EXTRA)},
            },
            missing_columns="insert",  # no row should have the last ones, and nulls of this kind are small
            quote_char='"' if self.quoted else None,
            glob=False,
        )

    def _is_sound(self, frame: pl.DataFrame) -> bool:
        """Return whether every record has all its fields, and the frame has a row for each record and blank line."""
        blank = frame.select(pl.all_horizontal(pl.all().is_null())).to_series().sum()
        lengths = [len(row) for _, row in self._body()]
        return set(lengths) == {len(self.layout.columns)} and len(lengths) == frame.height - blank

    def _explain_failure(self, reason: str) -> DataError:
        """Return the error for a text that no attempt could read: its first bad line, or else the reason of polars."""
        dtypes = self.layout.with_times_as_text()
        for quoted in (self.layout.quoted, self.quoted):
            self.quoted = quoted
            for line, row in self._body():
                if (fault := self._find_fault(line, row, dtypes)) is not None:
                    return DataError(f"{self.source}: {fault}")
        lines = enumerate(read_lines(self.content, self.source), start=1)
        odd = next((number for number, line in lines if line.count('"') % 2), None)
        if self.quoted and odd is not None:
            return DataError(
                f"{self.source}: line {odd} holds a quote that its field does not close; "
                f"expected quotes around whole fields, doubled inside them"
            )
        return DataError(f"{self.source}: cannot be read as text ({reason:.200}); expected {EXPECTED_SOURCES}")

    def _find_fault(self, line: int, row: list[str], dtypes: dict[str, pl.DataType]) -> str | None:
        """Return in words what is wrong with a row, given its line number and its fields, or None."""
        columns = self.layout.columns
        if len(row) != len(columns):
            return f"line {line} has {len(row)} fields; expected {len(columns)} ({', '.join(columns):.200})"
        for role, position in self.layout.position_of.items():
            is_readable, expected = FIELDS[str(dtypes[role])]
            expected = {"time": EXPECTED_TIMES, "clock": EXPECTED_CLOCKS}.get(role, expected)
            column, field = columns[position], row[position]
            if not field.strip():
                return f"column {column!r:.80} is empty in line {line}; expected {expected}"
            if not is_readable(field):
                hint = "as in the rows before (text ids: pass a frame with text)"
                return f"column {column!r:.80} holds {field!r:.60} in line {line}; expected {expected} {hint}"
        return None


def _has_leading_quote(column: pl.Series) -> bool:
    """Return whether a value of a column of text begins with a quote; no other column has such a value."""
    if isinstance(column.dtype, pl.Categorical):
        column = categories(column)
    return column.dtype == pl.String and column.str.starts_with('"').any()
