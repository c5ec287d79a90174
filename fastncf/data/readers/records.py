"""Records of a text: its first rows as text, and all of them checked by a compiled kernel."""

import mmap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from fastncf.errors import DataError
from fastncf.kernels.cpu import text as kernel
from fastncf.kernels.cpu.text import TextFormat
from fastncf.threads import num_threads, run_ranges

_BOM = b"\xef\xbb\xbf"
_HEAD_BYTES = 1 << 16
_RANGE_BYTES = 1 << 23
_INT32 = np.iinfo(np.int32)


class Text:
    """The bytes of a text, mapped from its file or held in memory.

    Attributes:
        source: name of the source in messages.
        content: path of the text, or the text itself.
        data: (n,) uint8.
        start: where the text begins, behind the mark that some programs put before UTF-8.
        has_quotes: whether it holds a double quote.
        has_high_bytes: whether it holds characters beyond ASCII.
    """

    def __init__(self, source: str, content: Path | bytes) -> None:
        self.source = source
        self.content = content
        self._map: mmap.mmap | None = None
        if isinstance(content, Path):
            with content.open("rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        buffer = content if isinstance(content, bytes) else self._map
        assert buffer is not None
        self.data = np.frombuffer(buffer, dtype=np.uint8)
        self.start = len(_BOM) if buffer[: len(_BOM)] == _BOM else 0
        size = len(self.data)
        num_ranges = max(
            1, min((size - self.start) // 1024, max((size - self.start) // _RANGE_BYTES, 4 * num_threads()))
        )
        self._bounds = np.linspace(self.start, size, num_ranges + 1).astype(np.int64)
        self._num_quotes, self._num_lines, self.has_high_bytes = self._survey()
        self.has_quotes = bool(self._num_quotes.any())

    def _survey(self) -> tuple[np.ndarray, np.ndarray, bool]:
        """Return for each range the number of quotes and of line ends, and whether one holds more than ASCII."""
        found = np.zeros((len(self._bounds) - 1, 3), dtype=np.int64)

        def survey(number: int, following: int) -> None:
            """Look at one range."""
            start, stop = int(self._bounds[number]), int(self._bounds[following])
            found[number] = kernel.survey(self.data, start, stop)
            self.release(start, stop)

        run_ranges(survey, np.arange(len(self._bounds)))
        return found[:, 0], found[:, 1], bool(found[:, 2].any())

    def count(self, byte: bytes, start: int, stop: int) -> int:
        """Return how often a byte occurs in a range, which should be short."""
        return int(kernel.count_byte(self.data, start, stop, byte[0]))

    def count_lines(self, position: int) -> int:
        """Return the number of line ends before a position."""
        part = max(0, int(np.searchsorted(self._bounds, position, side="right")) - 1)
        return int(self._num_lines[:part].sum()) + self.count(b"\n", int(self._bounds[part]), position)

    def line_at(self, position: int) -> int:
        """Return the number of the line, from 1, that holds a position."""
        return self.count_lines(position) + 1

    def decode(self, start: int, stop: int) -> str:
        """Return a range as text.

        Raises:
            DataError: it is not UTF-8.
        """
        raw = self.data[start:stop].tobytes()
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            line = self.line_at(start + error.start)
            raise DataError(f"{self.source}: line {line} is not UTF-8 text; expected UTF-8, or encoding=...") from None

    def release(self, start: int, stop: int) -> None:
        """Give the memory of a range of a mapped file back; the next access maps it again."""
        first, last = (-(-bound // mmap.PAGESIZE) * mmap.PAGESIZE for bound in (start, stop))
        if self._map is not None and hasattr(mmap, "MADV_DONTNEED") and first < last <= len(self.data):
            self._map.madvise(mmap.MADV_DONTNEED, first, last - first)

    def require_utf8(self) -> None:
        """Raise a DataError that names the first line that is not UTF-8, if there is one."""
        start = self.start
        while start < len(self.data):
            stop = int(
                kernel.find_record(self.data, (min(start + _RANGE_BYTES, len(self.data)), len(self.data)), False, False)
            )
            self.decode(start, stop)
            start = stop

    def ranges(self, start: int, *, quoted: bool) -> np.ndarray:
        """Return bounds (m + 1,) int64 of ranges of whole records, ascending, from a position to the end.

        Quotes enclose line ends where ``quoted``. What stands behind a misplaced quote may be divided wrongly.
        """
        size = len(self.data)
        is_open = np.concatenate([[0], np.cumsum(self._num_quotes)]) % 2 == 1
        bounds = self._bounds.copy()

        def align(number: int, _: int) -> None:
            """Move a bound to where the next record begins."""
            is_within = quoted and bool(is_open[number])
            bounds[number] = kernel.find_record(self.data, (self._bounds[number], size), quoted, is_within)

        run_ranges(align, np.arange(1, len(bounds)))
        bounds[0] = start
        return np.maximum.accumulate(bounds)


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

    def describe(self, text: Text) -> str:
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


def read_head(text: Text, form: TextFormat, num_records: int) -> Head:
    """Return the first records of a text, at most ``num_records``: those in its first 64 KiB, but two if there are two.

    Raises:
        DataError: a field is not UTF-8.
    """
    size = _HEAD_BYTES
    while True:
        stop = min(text.start + size, len(text.data))
        num_fields = 1 + sum(text.count(byte, text.start, stop) for byte in (b"\n", bytes([form.separator])))
        fields, records = np.empty((num_fields, 2), dtype=np.int64), np.empty((num_records, 2), dtype=np.int64)
        count, fault, end = kernel.find_fields(text.data, (text.start, stop), form, fields, records)
        is_cut = stop < len(text.data)
        if is_cut and count and end == stop and text.data[stop - 1] != kernel.NEWLINE:
            count, end = count - 1, int(records[count - 1, 0])
        if is_cut and fault == kernel.OPEN_QUOTE:
            fault = kernel.NO_FAULT
        if is_cut and fault == kernel.NO_FAULT and count < min(2, num_records):
            size *= 8
            continue
        ends = records[:count, 1].tolist()
        contents = [text.decode(*field) for field in fields[: ends[-1] if ends else 0].tolist()]
        if form.quoted:
            contents = [content.replace('""', '"') for content in contents]
        rows = [contents[first:last] for first, last in zip([0, *ends], ends, strict=False)]
        starts = [*records[:count, 0].tolist(), int(end)]
        return Head(rows, starts, None if fault == kernel.NO_FAULT else Fault(fault, int(end), 0))


@dataclass(frozen=True)
class ColumnScan:
    """What all values of a column are.

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
class Scan:
    """Result of reading all records of a text.

    Attributes:
        form: how the text is divided.
        fault: the first record that is not as expected, or None. All else tells about the records before it.
        num_records: number of records.
        num_blank: number of blank lines.
        columns: what the values of the scanned columns are.
        places: where the records stand.
    """

    form: TextFormat
    fault: Fault | None
    num_records: int
    num_blank: int
    columns: list[ColumnScan]
    places: "RecordPlaces"


@dataclass(frozen=True)
class RecordPlaces:
    """Where the records of a text stand.

    Attributes:
        text: the text.
        form: how it is divided.
        bounds: (m + 1,) ranges of whole records.
        ends: (m,) number of records up to the end of each range.
    """

    text: Text
    form: TextFormat
    bounds: np.ndarray
    ends: np.ndarray

    def fields_at(self, start: int) -> list[str]:
        """Return the fields of the record that begins at a position."""
        records = np.empty((1, 2), dtype=np.int64)
        fields = np.empty((1 << 16, 2), dtype=np.int64)
        kernel.find_fields(self.text.data, (start, len(self.text.data)), self.form, fields, records)
        return [self.text.decode(*field) for field in fields[: records[0, 1]].tolist()]

    def line_of(self, row: int) -> int:
        """Return the number of the line in which a record begins, by the record's number from 0."""
        part = int(np.searchsorted(self.ends, row, side="right"))
        before = int(self.ends[part - 1]) if part else 0
        start, stop = (int(bound) for bound in self.bounds[part : part + 2])
        records = np.empty((row - before + 1, 2), dtype=np.int64)
        num_fields = 1 + sum(self.text.count(byte, start, stop) for byte in (b"\n", bytes([self.form.separator])))
        fields = np.empty((num_fields, 2), dtype=np.int64)
        kernel.find_fields(self.text.data, (start, stop), self.form, fields, records)
        return self.text.line_at(int(records[-1, 0]))

    def filled_line_of(self, row: int, num_fields: int) -> int:
        """Return what :meth:`line_of` returns, by the number of the record among those that have any value."""
        num_records = int(self.ends[-1])
        fields = np.empty((num_records * num_fields, 2), dtype=np.int64)
        records = np.empty((num_records, 2), dtype=np.int64)
        bounds = int(self.bounds[0]), int(self.bounds[-1])
        kernel.find_fields(self.text.data, bounds, self.form, fields, records)
        is_filled = (fields[:, 1] > fields[:, 0]).reshape(-1, num_fields).any(axis=1)
        return self.text.line_at(int(records[np.flatnonzero(is_filled)[row], 0]))


def scan(text: Text, start: int, form: TextFormat, num_fields: int, positions: list[int]) -> Scan:
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
        start, stop = int(bounds[number]), int(bounds[following])
        found[number] = _scan_range(text.data, (start, stop), form, role_at)
        text.release(start, stop)

    run_ranges(scan_range, np.arange(len(bounds)))
    ranges = [part for part in found if part is not None]
    faulty = next((number for number, part in enumerate(ranges) if part.counts[kernel.FAULT]), None)
    fault = None
    if faulty is not None:
        ranges = ranges[: faulty + 1]
        counts = ranges[-1].counts
        fault = Fault(*(int(counts[at]) for at in (kernel.FAULT, kernel.FAULT_START, kernel.FAULT_FIELDS)))
    return Scan(
        form=form,
        fault=fault,
        num_records=sum(int(part.counts[kernel.NUM_RECORDS]) for part in ranges),
        num_blank=sum(int(part.counts[kernel.NUM_BLANK]) for part in ranges),
        columns=[_join_facts(ranges, number) for number in range(len(positions))],
        places=RecordPlaces(text, form, bounds, np.cumsum([part.counts[kernel.NUM_RECORDS] for part in ranges])),
    )

    def filled_line_of(self, row: int, num_fields: int) -> int:
        """Return what :meth:`line_of` returns, by the number of the record among those that have any value."""
        num_records = int(self.ends[-1])
        fields = np.empty((num_records * num_fields, 2), dtype=np.int64)
        records = np.empty((num_records, 2), dtype=np.int64)
        bounds = int(self.bounds[0]), int(self.bounds[-1])
        kernel.find_fields(self.text.data, bounds, self.form, fields, records)
        filled = np.flatnonzero((fields[:, 1] > fields[:, 0]).reshape(-1, num_fields).any(axis=1))
        return self.text.line_at(int(records[filled[row], 0]))


@dataclass(frozen=True)
class _RangeScan:
    """Findings of a range: counts (NUM_COUNTS,), facts (R, NUM_FACTS), and the integers of each column."""

    counts: np.ndarray
    facts: np.ndarray
    integers: list[np.ndarray]


def _scan_range(data: np.ndarray, bounds: tuple[int, int], form: TextFormat, role_at: np.ndarray) -> _RangeScan:
    """Scan the records of one range."""
    num_roles = int(role_at.max(initial=-1)) + 1
    facts = np.zeros((num_roles, kernel.NUM_FACTS), dtype=np.int64)
    facts[:, kernel.EMPTY] = -1
    facts[:, kernel.LOWEST], facts[:, kernel.HIGHEST] = np.iinfo(np.int64).max, np.iinfo(np.int64).min
    counts = np.zeros(kernel.NUM_COUNTS, dtype=np.int64)
    capacity = (bounds[1] - bounds[0]) // len(role_at) + 1  # a field has at least the byte behind it
    values = np.empty((num_roles, capacity), dtype=np.int64)
    kernel.scan_records(data, bounds, form, role_at, kernel.Findings(facts, counts, values))
    num_records = int(counts[kernel.NUM_RECORDS])
    integers = []
    for fact, column in zip(facts, values, strict=True):
        fits = fact[kernel.LOWEST] >= _INT32.min and fact[kernel.HIGHEST] <= _INT32.max
        kept = 0 if fact[kernel.NOT_INTEGER] else num_records
        integers.append(column[:kept].astype(np.int32 if fits else np.int64))
    return _RangeScan(counts, facts, integers)


def _join_facts(ranges: list[_RangeScan], number: int) -> ColumnScan:
    """Return what all ranges tell about a column."""
    facts = np.array([part.facts[number] for part in ranges]).reshape(-1, kernel.NUM_FACTS)
    has = [bool(column.any()) for column in facts.T]
    empty = facts[facts[:, kernel.EMPTY] >= 0, kernel.EMPTY]
    others = facts[facts[:, kernel.NUM_OTHERS] > 0, kernel.FIRST_OTHER]
    return ColumnScan(
        is_canonical=not has[kernel.NOT_CANONICAL],
        is_integer=not has[kernel.NOT_INTEGER],
        is_float=not has[kernel.NOT_FLOAT],
        has_leading_quote=has[kernel.LEADING_QUOTE],
        first_empty=int(empty[0]) if len(empty) else -1,
        num_others=-1 if has[kernel.NOT_ASCII] else int(facts[:, kernel.NUM_OTHERS].sum()),
        first_other=int(others[0]) if len(others) else -1,
        integers=[] if has[kernel.NOT_INTEGER] else [pl.Series(part.integers[number]) for part in ranges],
    )
