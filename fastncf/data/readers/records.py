"""Records of a text: its first rows as text, and all of them checked by a compiled kernel."""

from dataclasses import dataclass

import numpy as np
import polars as pl

from fastncf.data.readers.raw_text import RawText
from fastncf.errors import DataError
from fastncf.kernels.cpu import text as kernel
from fastncf.kernels.cpu.text import TextFormat
from fastncf.threads import run_ranges

_HEAD_BYTES, _MAX_HEAD_BYTES = 1 << 16, 1 << 25
MAX_FIELDS = 100_000
"""Fields of a record that are taken; one with more is no row of a table."""

_INT32 = np.iinfo(np.int32)


@dataclass(frozen=True)
class Fault:
    """The first record of a text that is not as expected.

    Attributes:
        kind: what is wrong: one of the constants of :mod:`fastncf.kernels.cpu.text`.
        start: where the record begins.
        num_fields: how many fields it has, as far as it was read.
    """

    kind: int
    start: int
    num_fields: int

    def describe(self, text: RawText) -> str:
        """Return in words where the record stands and what is wrong with it, unless that is the number of fields."""
        kinds = {
            kernel.STRAY_QUOTE: "a quote inside a field; expected quotes around whole fields, doubled inside them",
            kernel.OPEN_QUOTE: "a quote that its field does not close; expected quotes around whole fields, doubled "
            "inside them",
            kernel.STRAY_RETURN: "a carriage return inside a field; expected lines that end in \\n or \\r\\n",
            kernel.NUL: "a NUL character; expected text",
        }
        return f"{text.source}: line {text.line_at(self.start)} holds {kinds[self.kind]}"


@dataclass(frozen=True)
class Head:
    """The first records of a text.

    Attributes:
        records: their fields.
        starts: where each of them begins, and where the last one ends.
        fault: what is wrong with the record that follows, or None.
    """

    records: list[list[str]]
    starts: list[int]
    fault: Fault | None


def read_head(text: RawText, form: TextFormat, num_records: int, start: int | None = None) -> Head:
    """Return the first records of a text, at most ``num_records``: those in its first 64 KiB, but two if there are two.

    Of a record with more than ``MAX_FIELDS`` fields, one more than these are returned.

    Args:
        text: the text.
        form: how it is divided.
        num_records: the most records to return.
        start: where the first of them begins, if not at the begin of the text.

    Raises:
        DataError: a field is not UTF-8, or a line is too long to be one.
    """
    start = text.start if start is None else start
    size = _HEAD_BYTES
    while True:
        stop = min(start + size, text.size)
        data = text.read(start, stop)
        fields, records, fault, end = _find_fields(data, form, num_records)
        is_cut = stop < text.size
        is_wide = bool((np.diff(records[:, 1], prepend=0) > MAX_FIELDS).any())
        if is_cut and not is_wide and len(records) and end == len(data) and data[-1] != kernel.NEWLINE:
            records, end = records[:-1], int(records[-1, 0])
        if is_cut and fault == kernel.OPEN_QUOTE and size < _MAX_HEAD_BYTES:
            fault = kernel.NO_FAULT
        if is_cut and not is_wide and fault == kernel.NO_FAULT and len(records) < min(2, num_records):
            if size >= _MAX_HEAD_BYTES:
                raise DataError(
                    f"{text.source}: line {text.line_at(start + end)} does not end within {size:,} bytes; expected "
                    f"lines that end in \\n or \\r\\n"
                )
            size *= 8
            continue
        ends = records[:, 1].tolist()
        rows = []
        for first, last in zip([0, *ends], ends, strict=False):
            places = fields[first : min(last, first + MAX_FIELDS + 1)].tolist()
            rows.append([text.decode(data[begin:stop], start + begin) for begin, stop in places])
        if form.quoted:
            rows = [[field.replace('""', '"') for field in row] for row in rows]
        starts = [start + at for at in (*records[:, 0].tolist(), end)]
        return Head(rows, starts, None if fault == kernel.NO_FAULT else Fault(fault, start + end, 0))


def _find_fields(data: np.ndarray, form: TextFormat, num_records: int) -> tuple[np.ndarray, np.ndarray, int, int]:
    """Return the fields and records that :func:`fastncf.kernels.cpu.text.find_fields` finds, the fault, and the end."""
    num_fields = 1 + sum(int(kernel.count_byte(data, byte)) for byte in (kernel.NEWLINE, form.separator))
    fields, records = np.empty((num_fields, 2), dtype=np.int64), np.empty((num_records, 2), dtype=np.int64)
    count, fault, end = kernel.find_fields(data, form, fields, records)
    return fields, records[:count], int(fault), int(end)


@dataclass(frozen=True)
class ColumnScan:
    """Kind of all values of a column.

    Attributes:
        is_canonical: whether each is a canonical integer of 64 bits.
        is_integer: whether each is an integer of 64 bits.
        is_float: whether each is a number that a Float64 holds apart from other ones.
        has_leading_quote: whether one begins with a quote, behind the quotes that enclose it.
        first_empty: where the first record begins in which it is empty or blank, or -1.
        num_others: how many are no numbers, or -1 where blanks beyond ASCII may make them so.
        first_other: where the record of the first of these begins.
        integers: the values, where all of them are integers, in pieces of Int32 or, where one of a piece does not fit,
            Int64.
    """

    is_canonical: bool
    is_integer: bool
    is_float: bool
    has_leading_quote: bool
    first_empty: int
    num_others: int
    first_other: int
    integers: list[pl.Series]


@dataclass(frozen=True)
class RecordPlaces:
    """Places of the records of a text.

    Attributes:
        text: the text.
        form: how it is divided.
        bounds: (m + 1,) ranges of whole records.
        ends: (m,) number of records up to the end of each range.
    """

    text: RawText
    form: TextFormat
    bounds: np.ndarray
    ends: np.ndarray

    def fields_at(self, start: int) -> list[str]:
        """Return the fields of the record that begins at a position."""
        return read_head(self.text, self.form, 1, start).records[0]

    def line_of(self, row: int) -> int:
        """Return the number of the line in which a record begins, by the record's number from 0."""
        part = int(np.searchsorted(self.ends, row, side="right"))
        before = int(self.ends[part - 1]) if part else 0
        start, stop = (int(bound) for bound in self.bounds[part : part + 2])
        _, records, _, _ = _find_fields(self.text.read(start, stop), self.form, row - before + 1)
        return self.text.line_at(start + int(records[-1, 0]))

    def filled_line_of(self, row: int, num_fields: int) -> int:
        """Return what :meth:`line_of` returns, by the number of the record among those that have any value."""
        before = 0
        for start, stop, size in zip(self.bounds, self.bounds[1:], np.diff(self.ends, prepend=0), strict=False):
            fields, records, _, _ = _find_fields(self.text.read(int(start), int(stop)), self.form, int(size))
            lengths = np.diff(fields[: len(records) * num_fields]).reshape(-1, num_fields)
            filled = np.flatnonzero((lengths > 0).any(axis=1))
            if row < before + len(filled):
                return self.text.line_at(int(start) + int(records[filled[row - before], 0]))
            before += len(filled)
        raise IndexError(row)


@dataclass(frozen=True)
class Scan:
    """Result of reading all records of a text.

    Attributes:
        form: how the text is divided.
        fault: the first record that is not as expected, or None. All else tells about the records before it.
        num_records: number of records.
        num_blank: number of blank lines.
        num_lines: number of lines.
        has_quotes: whether a record holds a double quote, also the one that is not as expected.
        has_high_bytes: whether a record holds characters beyond ASCII.
        columns: what the values of the scanned columns are.
        places: where the records stand.
    """

    form: TextFormat
    fault: Fault | None
    num_records: int
    num_blank: int
    num_lines: int
    has_quotes: bool
    has_high_bytes: bool
    columns: list[ColumnScan]
    places: RecordPlaces


def scan(text: RawText, start: int, form: TextFormat, num_fields: int, positions: list[int]) -> Scan:
    """Read all records of a text from a position on.

    Args:
        text: the text.
        start: where the first record begins.
        form: how the text is divided.
        num_fields: number of fields that each record must have.
        positions: positions of the columns to scan.
    """
    role_at = np.full(num_fields, -1, dtype=np.int64)
    role_at[positions] = np.arange(len(positions))
    bounds = text.ranges(start, quoted=form.quoted)
    found: list[_RangeScan | None] = [None] * (len(bounds) - 1)

    def scan_range(number: int, following: int) -> None:
        """Scan one range."""
        found[number] = _scan_range(text, (int(bounds[number]), int(bounds[following])), form, role_at)

    run_ranges(scan_range, np.arange(len(bounds)))
    ranges = [part for part in found if part is not None]
    faulty = next((number for number, part in enumerate(ranges) if part.counts[kernel.FAULT]), None)
    fault = None
    if faulty is not None:
        ranges = ranges[: faulty + 1]
        counts = ranges[-1].counts
        fault = Fault(*(int(counts[at]) for at in (kernel.FAULT, kernel.FAULT_START, kernel.FAULT_FIELDS)))
    totals = np.sum([part.counts for part in ranges], axis=0).tolist()
    return Scan(
        form=form,
        fault=fault,
        num_records=totals[kernel.NUM_RECORDS],
        num_blank=totals[kernel.NUM_BLANK],
        num_lines=totals[kernel.NUM_LINES],
        has_quotes=totals[kernel.HAS_QUOTES] > 0,
        has_high_bytes=totals[kernel.HAS_HIGH_BYTES] > 0,
        columns=[_join_facts(ranges, number) for number in range(len(positions))],
        places=RecordPlaces(text, form, bounds, np.cumsum([part.counts[kernel.NUM_RECORDS] for part in ranges])),
    )


@dataclass(frozen=True)
class _RangeScan:
    """Findings of a range: counts (NUM_COUNTS,), facts (R, NUM_FACTS), and the integers of each column."""

    counts: np.ndarray
    facts: np.ndarray
    integers: list[np.ndarray]


def _scan_range(text: RawText, bounds: tuple[int, int], form: TextFormat, role_at: np.ndarray) -> _RangeScan:
    """Scan the records of one range."""
    num_roles = int(role_at.max(initial=-1)) + 1
    facts = np.zeros((num_roles, kernel.NUM_FACTS), dtype=np.int64)
    facts[:, kernel.EMPTY] = -1
    facts[:, kernel.LOWEST], facts[:, kernel.HIGHEST] = np.iinfo(np.int64).max, np.iinfo(np.int64).min
    counts = np.zeros(kernel.NUM_COUNTS, dtype=np.int64)
    start, stop = bounds
    capacity = (stop - start) // len(role_at) + 1  # a field has at least the byte behind it
    values = np.empty((num_roles, capacity), dtype=np.int64)
    kernel.scan_records(text.read(start, stop), form, role_at, kernel.Findings(facts, counts, values))
    counts[kernel.FAULT_START] += start
    facts[:, kernel.FIRST_OTHER] += start
    facts[:, kernel.EMPTY] += start * (facts[:, kernel.EMPTY] >= 0)
    num_records = int(counts[kernel.NUM_RECORDS])
    integers = []
    for fact, column in zip(facts, values, strict=True):
        fits = fact[kernel.LOWEST] >= _INT32.min and fact[kernel.HIGHEST] <= _INT32.max
        kept = 0 if fact[kernel.NOT_INTEGER] else num_records
        integers.append(column[:kept].astype(np.int32 if fits else np.int64))
    return _RangeScan(counts, facts, integers)


def _join_facts(ranges: list[_RangeScan], number: int) -> ColumnScan:
    """Return what all ranges tell about a column, and take its integers from them, so that none is held twice."""
    facts = np.array([part.facts[number] for part in ranges]).reshape(-1, kernel.NUM_FACTS)
    has = [bool(column.any()) for column in facts.T]
    empty = facts[facts[:, kernel.EMPTY] >= 0, kernel.EMPTY]
    others = facts[facts[:, kernel.NUM_OTHERS] > 0, kernel.FIRST_OTHER]
    pieces = [part.integers[number] for part in ranges]
    for part in ranges:
        part.integers[number] = np.empty(0)
    return ColumnScan(
        is_canonical=not has[kernel.NOT_CANONICAL],
        is_integer=not has[kernel.NOT_INTEGER],
        is_float=not has[kernel.NOT_FLOAT],
        has_leading_quote=has[kernel.LEADING_QUOTE],
        first_empty=int(empty[0]) if len(empty) else -1,
        num_others=-1 if has[kernel.NOT_ASCII] else int(facts[:, kernel.NUM_OTHERS].sum()),
        first_other=int(others[0]) if len(others) else -1,
        integers=[] if has[kernel.NOT_INTEGER] else [pl.Series(pieces.pop(0)) for _ in range(len(pieces))],
    )
