"""Text files: their user, item and time columns, and for a broken file the line and what is wrong with it.

A compiled kernel checks all records and reads the columns of integers. Of columns that hold something else it says so,
and polars reads them. So the types of the columns are decided on all rows, and a file gives the same ids in any order.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from fastncf.data.ids import EXPECTED_IDS, is_missing_word
from fastncf.data.readers.dates import EXPECTED_CLOCKS, EXPECTED_TIMES, have_four_digits, parse_dates, plain_format
from fastncf.data.readers.files import EXPECTED_SOURCES
from fastncf.data.readers.layout import TextLayout, detect_layout
from fastncf.data.readers.options import ReadOptions
from fastncf.data.readers.ratings import EXPECTED_RATINGS, EXPECTED_WEIGHTS
from fastncf.data.readers.raw_text import RawText
from fastncf.data.readers.records import ColumnScan, Fault, Scan, read_head, scan
from fastncf.data.readers.room import require_room_for_text
from fastncf.errors import DataError, counted, first_line
from fastncf.kernels.cpu.text import WRONG_NUMBER, TextFormat

_IDS = ("user", "item")
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
        num_empty: number of rows without any value, which are not in the frame.
    """

    frame: pl.DataFrame
    columns: dict[str, str]
    format: str
    find_line: Callable[[int], int]
    layout: TextLayout | None = None
    num_empty: int = 0


def read_text(source: str, content: Path | bytes, options: ReadOptions) -> TextTable:
    """Read the user, item and time columns of a text.

    Args:
        source: name of the source in messages.
        content: path of the text, or the text itself.
        options: what the caller says of the columns.

    Raises:
        DataError: the text cannot be read; the message names the source and the first line that is wrong.
    """
    text = RawText(source, content)
    layout = detect_layout(text, options)
    found = _scan(text, layout)
    by_position = dict(zip(layout.positions, found.columns, strict=True))
    by_role = {role: by_position[position] for role, position in layout.position_of.items()}
    if options.drop_missing and any(column.first_empty >= 0 for column in found.columns):
        return _read_with_missing(layout, found)
    _refuse_empty(text, layout, by_role, options.remedy())
    if "time" in by_role and "clock" not in by_role and not options.has_date_format():
        _refuse_odd_time(layout, found, by_role["time"], options)
    columns = {
        role: _join_integers(column, role)
        for role, column in by_role.items()
        if (column.is_canonical if role in _IDS else column.is_integer and not options.has_date_format())
    }
    others = {role: column for role, column in by_role.items() if role not in columns}
    if others:
        require_room_for_text(source, found.num_records)
        columns |= _read_columns(layout, found, others, options)
    elif found.has_high_bytes:
        text.require_utf8()  # polars, which refuses other encodings, was not needed
    frame = pl.DataFrame([columns[role].alias(role) for role in by_role])
    _refuse_joined_files(layout, found, frame)
    return TextTable(frame, layout.column_of, layout.describe(), found.places.line_of, layout)


def _scan(text: RawText, layout: TextLayout) -> Scan:
    """Return the scan of all rows, with quotes if they enclose fields on all rows, else without if that is possible.

    Raises:
        DataError: a row is not as expected either way, or both ways make different rows.
    """

    def scan_as(quoted: bool) -> Scan:
        """Scan all rows, with or without quotes."""
        form = layout.form._replace(quoted=quoted)
        found = scan(text, layout.body_start, form, layout.num_fields, layout.positions)
        fault = _find_header_fault(text, layout, form)
        return found if fault is None else replace(found, fault=fault)

    plain = None
    if layout.separator == "::" or not layout.has_quotes:
        plain = scan_as(quoted=False)
        if layout.separator == "::" or not plain.has_quotes:
            if plain.fault is not None:
                raise _explain(text, layout, plain.fault)
            return plain
    quoted = scan_as(quoted=True)
    if quoted.fault is None and quoted.num_lines == quoted.num_records + quoted.num_blank:
        return quoted  # each row stands in one line
    plain = plain or scan_as(quoted=False)
    is_plain = plain.fault is None and not any(column.has_leading_quote for column in plain.columns)
    if quoted.fault is None:
        if is_plain and all(column.first_empty < 0 for column in plain.columns):
            raise DataError(
                f"{text.source}: line {_first_difference(quoted, plain)} is part of an earlier field if quotes count, "
                f"and a row if they do not; expected every quote to be closed in its own line"
            )
        return quoted
    if is_plain:
        return plain
    if plain.fault is not None and plain.fault.start > quoted.fault.start:
        raise _explain(text, layout, plain.fault)
    raise _explain(text, layout, quoted.fault)


def _find_header_fault(text: RawText, layout: TextLayout, form: TextFormat) -> Fault | None:
    """Return what is wrong with the header where it is read like the rows, with or without quotes."""
    if not layout.has_header:
        return None
    head = read_head(text, form, 1)
    if head.fault is None and len(head.records[0]) != len(layout.header):
        return Fault(WRONG_NUMBER, head.starts[0], len(head.records[0]))
    return head.fault


def _first_difference(quoted: Scan, plain: Scan) -> int:
    """Return the number of the first line in which a row begins without quotes and none does with them."""
    low, high = 0, quoted.num_records
    while low < high:  # up to the first difference, the rows begin in the same lines
        middle = (low + high) // 2
        if quoted.places.line_of(middle) == plain.places.line_of(middle):
            low = middle + 1
        else:
            high = middle
    return plain.places.line_of(low)


def _explain(text: RawText, layout: TextLayout, fault: Fault) -> DataError:
    """Return the error for a row that is not as expected."""
    if fault.kind != WRONG_NUMBER:
        return DataError(fault.describe(text))
    expected = f"expected {len(layout.columns)} ({', '.join(layout.columns):.200})"
    if layout.form.trailing:
        expected += " and a separator behind them, as in other rows"
    return DataError(
        f"{text.source}: line {text.line_at(fault.start)} has {counted(fault.num_fields, 'field')}; {expected}"
    )


def _refuse_empty(text: RawText, layout: TextLayout, by_role: dict[str, ColumnScan], remedy: str) -> None:
    """Raise a DataError, which ends with a remedy, for the first row in which an id or a time is empty or blank."""
    empty = {role: column.first_empty for role, column in by_role.items() if column.first_empty >= 0}
    if empty:
        role = min(empty, key=lambda role: empty[role])
        others = {
            "time": EXPECTED_TIMES,
            "clock": EXPECTED_CLOCKS,
            "rating": EXPECTED_RATINGS,
            "weight": EXPECTED_WEIGHTS,
        }
        expected = others.get(role, EXPECTED_IDS)
        raise DataError(
            f"{text.source}: column {layout.column_of[role]!r:.80} is empty in line {text.line_at(empty[role])}; "
            f"expected {expected}{remedy}"
        )


def _refuse_odd_time(layout: TextLayout, found: Scan, column: ColumnScan, options: ReadOptions) -> None:
    """Raise a DataError for the first time that is no number, if most times are numbers.

    Words such as NULL are left to the check of missing values where these are left out.
    """
    if 0 < 2 * column.num_others < found.num_records:
        text = found.places.text
        value = found.places.fields_at(column.first_other)[layout.position_of["time"]]
        is_missing = is_missing_word(value.strip())
        if is_missing and options.drop_missing:
            return
        remedy = options.remedy() if is_missing else ""
        raise DataError(
            f"{text.source}: column {layout.column_of['time']!r:.80} holds {value!r:.60} in line "
            f"{text.line_at(column.first_other)}; expected a number, as in most rows{remedy}"
        )


def _refuse_joined_files(layout: TextLayout, found: Scan, frame: pl.DataFrame) -> None:
    """Raise a DataError for a row that begins another file: it repeats the header, or begins with a byte order mark."""
    text = found.places.text
    if found.has_high_bytes and (place := text.find_mark()) >= 0:
        raise DataError(
            f"{text.source}: line {text.line_at(place)} begins with a byte order mark; expected one only where the "
            f"file begins"
        )
    if not layout.has_header or any(frame[role].dtype.is_integer() for role in _IDS):
        return
    repeats = frame.select(pl.col(role) == layout.header[layout.position_of[role]] for role in _IDS)
    both = repeats["user"] & repeats["item"]
    if both.any():
        line = found.places.line_of(int(both.arg_max() or 0))
        raise DataError(f"{text.source}: line {line} repeats the header; expected one header, in the first line")


def _join_integers(column: ColumnScan, role: str) -> pl.Series:
    """Return the integers of a column as one series, Int32 for ids if that holds all of them, otherwise Int64."""
    is_narrow = role in _IDS and all(part.dtype == pl.Int32 for part in column.integers)
    return pl.concat([part.cast(pl.Int32() if is_narrow else pl.Int64()) for part in column.integers])


def _read_columns(
    layout: TextLayout, found: Scan, by_role: dict[str, ColumnScan], options: ReadOptions
) -> dict[str, pl.Series]:
    """Return columns of text or fractions: ids as categories, and times as Float64, dates or String.

    Args:
        layout: the layout of the text.
        found: the scan of all its rows.
        by_role: what all values of the columns to read are.
        options: what the caller says of the columns.

    Raises:
        DataError: the text is not UTF-8.
    """
    used = {role: pl.col(f"c{layout.position_of[role]}") for role in by_role}
    used |= {role: used[role].cast(pl.Categorical(pl.Categories.random())) for role in by_role if role in _IDS}
    dtypes: dict[str, pl.DataType] = {}
    date_format = None
    if "time" in used and not (options.has_date_format() or options.keeps_text) and "clock" not in layout.position_of:
        date_format = plain_format(layout.head_of["time"])
        if by_role["time"].is_float:
            dtypes[f"c{layout.position_of['time']}"] = pl.Float64()
    dates = used if date_format is None or dtypes else used | {"time": parse_dates(used["time"], date_format)}
    frame = _collect(layout, found, dates, dtypes)
    if dates is not used and not _are_dates(frame["time"], found):
        frame = _collect(layout, found, used, dtypes)
    if found.num_blank:
        frame = frame.filter(~pl.all_horizontal(pl.all().is_null()))
    if frame.height != found.num_records or any(column.has_nulls() for column in frame):
        raise DataError(
            f"{found.places.text.source}: has {counted(found.num_records, 'row')}, of which polars reads "
            f"{frame.height}; expected {EXPECTED_SOURCES}"
        )
    return frame.to_dict()


def _collect(layout: TextLayout, found: Scan, used: dict[str, pl.Expr], dtypes: dict[str, pl.DataType]) -> pl.DataFrame:
    """Return expressions of the columns of a text, for each row and each blank line.

    Raises:
        DataError: the text is not UTF-8.
    """
    text = found.places.text
    try:
        return _scan_csv(layout, found, dtypes).select(**used).collect(engine="streaming")
    except _UNREADABLE as error:
        text.require_utf8()
        reason = first_line(error)
        raise DataError(f"{text.source}: cannot be read as text ({reason:.200}); expected {EXPECTED_SOURCES}") from None


def _read_with_missing(layout: TextLayout, found: Scan) -> TextTable:
    """Return the used columns as String, of all rows that have any value, with nulls where a field is empty."""
    used = {role: pl.col(f"c{position}") for role, position in layout.position_of.items()}
    is_empty = pl.all_horizontal(pl.all().fill_null("") == "")
    frame = _collect(layout, found, {**used, "is_empty": is_empty}, {})
    empty = frame.drop_in_place("is_empty")
    return TextTable(
        frame.filter(~empty),
        layout.column_of,
        layout.describe(),
        lambda row: found.places.filled_line_of(row, layout.num_fields),
        layout,
        int(empty.sum()) - found.num_blank,
    )


def _are_dates(times: pl.Series, found: Scan) -> bool:
    """Return whether all rows have dates of the format by which they were read, with years of four digits."""
    return times.null_count() == found.num_blank and have_four_digits(times.drop_nulls())


def _scan_csv(layout: TextLayout, found: Scan, dtypes: dict[str, pl.DataType]) -> pl.LazyFrame:
    """Return the rows below the header, and blank lines, as a lazy frame of columns c0, c1 and so on.

    They are of String, except those of other dtypes.
    """
    text = found.places.text
    content: Any = text.content
    separator = layout.separator
    if separator == "::":  # polars splits at single bytes: take one that the text does not hold
        raw = content.read_bytes() if isinstance(content, Path) else content
        separator = next((chr(byte) for byte in _SPARE_BYTES if byte not in raw), "\x1f")
        content = raw.replace(b"::", separator.encode())
    return pl.scan_csv(
        content,
        separator=separator,
        has_header=False,
        skip_lines=text.line_at(layout.body_start) - 1,
        schema={f"c{i}": dtypes.get(f"c{i}", pl.String()) for i in range(layout.num_fields)},
        missing_columns="insert",  # blank lines have none
        quote_char='"' if found.form.quoted else None,
        glob=False,
    )
