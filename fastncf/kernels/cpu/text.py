"""Records of a text that a separator divides into fields: where they stand, and what the columns in use hold.

A record ends at a line end, LF or CR LF, or with the text. Blank lines are no records. Where quotes are read, a field
that begins with a quote ends at the next one that is not doubled, and may hold separators and line ends; a quote
anywhere else is a fault. So is a CR that no LF follows, and NUL. This is RFC 4180, read strictly.

``text`` (n,) uint8 is UTF-8; positions are offsets in bytes.
"""

from typing import NamedTuple

import numpy as np

from fastncf.kernels.cpu.compiling import njit
from fastncf.kernels.cpu.simd import get, offset, pointer, put

NEWLINE, RETURN, QUOTE, BLANK, TAB = 10, 13, 34, 32, 9
PLUS, MINUS, POINT, ZERO = 43, 45, 46, 48
_UPPER_E, _LOWER_E = 69, 101

MORE, LAST = 0, 1
"""Codes of the place behind a field: another field, or the next record."""

NO_FAULT, WRONG_NUMBER, STRAY_QUOTE, OPEN_QUOTE, STRAY_RETURN, NUL = 0, 2, 3, 4, 5, 6
"""Faults of a record."""

NUM_RECORDS, NUM_BLANK, NUM_LINES, FAULT, FAULT_START, FAULT_FIELDS, HAS_QUOTES, HAS_HIGH_BYTES = 0, 1, 2, 3, 4, 5, 6, 7
"""Positions in the counts of :func:`scan_records`."""
NUM_COUNTS = 8

NOT_CANONICAL, NOT_INTEGER, NOT_FLOAT, LEADING_QUOTE, NOT_ASCII, EMPTY, LOWEST, HIGHEST = 0, 1, 2, 3, 4, 5, 6, 7
NUM_OTHERS, FIRST_OTHER = 8, 9
"""Positions in the facts of :func:`scan_records`."""
NUM_FACTS = 10

_FLOAT_DIGITS = 15  # a Float64 holds numbers of so many digits apart

_MAX = np.int64(2**63 - 1)


class TextFormat(NamedTuple):
    """Division of a text into records and fields.

    Attributes:
        separator: the byte between two fields.
        width: how often it stands there: 1 or 2.
        quoted: whether quotes enclose fields.
        trailing: whether each record ends with a separator, behind which nothing stands: an empty field.
    """

    separator: int
    width: int
    quoted: bool
    trailing: bool = False


class Findings(NamedTuple):
    """Result of :func:`scan_records` for a range of a text and R columns.

    Attributes:
        facts: (R, NUM_FACTS) int64: 1 where a value is no canonical integer, no integer of 64 bits, no number that a
            Float64 holds apart from others, begins with a quote behind the quotes that enclose it, or is no number and
            not ASCII; where the first record without a value begins (-1 before); the lowest and the highest integer;
            how many values are no numbers, and where the record of the first one begins.
        counts: (NUM_COUNTS,) int64, zeros before: records, blank lines and all lines before the fault; the fault
            (NO_FAULT if there is none), where its record begins, and how many fields that has as far as it was read;
            1 where a quote was read, and where a byte beyond ASCII was.
        values: (R, capacity) int64: the values of each column, as far as they are integers of 64 bits.
    """

    facts: np.ndarray
    counts: np.ndarray
    values: np.ndarray


@njit(nogil=True, cache=True)
def count_byte(text, byte):
    """Return how often a byte occurs in a text (n,) uint8."""
    count = 0
    stop = len(text)
    text = pointer(text)
    for at in range(stop):
        count += get(text, at) == byte
    return count


@njit
def _ends_line(text, at, stop):
    """Return the position behind the line end that begins at a position, or -1."""
    if get(text, at) == NEWLINE:
        return at + 1
    if get(text, at) == RETURN:
        if at + 1 == stop:
            return stop
        if get(text, at + 1) == NEWLINE:
            return at + 2
    return -1


@njit
def _is_separator(text, at, stop, form):
    """Return whether the separator stands at a position."""
    return get(text, at) == form.separator and (
        form.width == 1 or (at + 1 < stop and get(text, at + 1) == form.separator)
    )


@njit
def _read_quoted(text, at, stop, form, counts):
    """Return what :func:`_read_field` returns of a field that begins with a quote."""
    begin = at + 1
    at = begin
    bits = np.uint8(0)
    num_lines = 0
    while at < stop:
        bits |= get(text, at)
        num_lines += get(text, at) == NEWLINE
        if get(text, at) == 0:
            return begin, at, at, NUL
        if get(text, at) == QUOTE:
            if at + 1 < stop and get(text, at + 1) == QUOTE:
                at += 1
            else:
                break
        at += 1
    put(counts, NUM_LINES, get(counts, NUM_LINES) + num_lines)
    put(counts, HAS_QUOTES, 1)
    if bits >= 128:
        put(counts, HAS_HIGH_BYTES, 1)
    if at >= stop:
        return begin, stop, stop, OPEN_QUOTE
    end = at
    at += 1
    if at == stop:
        return begin, end, stop, LAST
    if _is_separator(text, at, stop, form):
        return begin, end, at + form.width, MORE
    following = _ends_line(text, at, stop)
    if following >= 0:
        return begin, end, following, LAST
    return begin, end, at, STRAY_QUOTE


@njit
def _read_plain(text, at, stop, form, counts):
    """Return what :func:`_read_field` returns of a field that begins with no quote, or where quotes are not read."""
    begin = at
    separator = np.uint8(form.separator)
    bits = np.uint8(0)
    while True:
        while at < stop and get(text, at) > QUOTE and get(text, at) != separator:
            bits |= get(text, at)
            at += 1
        if bits >= 128:
            put(counts, HAS_HIGH_BYTES, 1)
        if at >= stop:
            return begin, stop, stop, LAST
        if _is_separator(text, at, stop, form):
            return begin, at, at + form.width, MORE
        if get(text, at) <= QUOTE:
            following = _ends_line(text, at, stop)
            if following >= 0:
                return begin, at, following, LAST
            if get(text, at) == RETURN:
                return begin, at, at, STRAY_RETURN
            if get(text, at) == QUOTE:
                put(counts, HAS_QUOTES, 1)
                if form.quoted:
                    return begin, at, at, STRAY_QUOTE
            if get(text, at) == 0:
                return begin, at, at, NUL
        at += 1


@njit
def _read_field(text, at, stop, form, counts):
    """Return where the content of the field at a position begins and ends, where the next one begins, and a status.

    The status is MORE, LAST, or what is wrong with the field. The counts are those of :class:`Findings`, of which the
    lines within quotes, HAS_QUOTES and HAS_HIGH_BYTES are written.
    """
    if form.quoted and at < stop and get(text, at) == QUOTE:
        return _read_quoted(text, at, stop, form, counts)
    return _read_plain(text, at, stop, form, counts)


@njit
def _digit(text, at, stop):
    """Return the digit at a position, or -1."""
    if at < stop:
        digit = np.int64(get(text, at)) - ZERO
        if 0 <= digit <= 9:
            return digit
    return np.int64(-1)


@njit
def _note_integer(value, facts, values):
    """Extend the range of the integers of a column by a value, and write it."""
    put(facts, LOWEST, min(get(facts, LOWEST), value))
    put(facts, HIGHEST, max(get(facts, HIGHEST), value))
    put(values, 0, value)


@njit
def _note_field(text, begin, end, record, facts, values):
    """Note in ``facts`` (NUM_FACTS,) what the content of a field is, and write it to ``values`` if it is an integer.

    The record of the field begins at ``record``. Blanks around the content are no part of a number, but polars reads
    numbers only without blanks behind them.
    """
    while begin < end and (get(text, begin) == BLANK or get(text, begin) == TAB):
        begin += 1
    last = end
    while begin < last and (get(text, last - 1) == BLANK or get(text, last - 1) == TAB):
        last -= 1
    if begin == last:
        if get(facts, EMPTY) < 0:
            put(facts, EMPTY, record)
        return
    if get(text, begin) == QUOTE:
        put(facts, LEADING_QUOTE, 1)
    at = begin
    is_negative = get(text, at) == MINUS
    is_signed = is_negative or get(text, at) == PLUS
    at += is_signed
    first = at
    value = np.uint64(0)
    digit = _digit(text, at, last)
    while digit >= 0:
        if at - first < 19:  # 19 digits fit into 64 bits without a sign
            value = value * np.uint64(10) + np.uint64(digit)
        at += 1
        digit = _digit(text, at, last)
    num_digits = at - first
    if last < end or num_digits > _FLOAT_DIGITS:
        put(facts, NOT_FLOAT, 1)
    if at < last or not num_digits:
        put(facts, NOT_CANONICAL, 1)
        put(facts, NOT_INTEGER, 1)
        _note_fraction(text, (begin, at, last, num_digits), record, facts)
        return
    if last < end or num_digits > 19 or value > np.uint64(_MAX) + np.uint64(is_negative):
        put(facts, NOT_CANONICAL, 1)
        put(facts, NOT_INTEGER, 1)
        return
    has_zero = get(text, first) == ZERO and (num_digits > 1 or is_negative)
    if has_zero or (is_signed and not is_negative):
        put(facts, NOT_CANONICAL, 1)
    _note_integer(np.int64(np.uint64(0) - value) if is_negative else np.int64(value), facts, values)


@njit
def _note_fraction(text, places, record, facts):
    """Note whether a value is a number, behind whose digits something else follows.

    ``places`` are where the value begins, where its digits end, where it ends, and the number of its digits.
    """
    begin, at, end, num_digits = places
    all_digits = _count_fraction_digits(text, at, end, num_digits)
    if all_digits > _FLOAT_DIGITS:
        put(facts, NOT_FLOAT, 1)
    if all_digits >= 0:
        return
    put(facts, NOT_FLOAT, 1)
    if not get(facts, NUM_OTHERS):
        put(facts, FIRST_OTHER, record)
    put(facts, NUM_OTHERS, get(facts, NUM_OTHERS) + 1)
    for place in range(begin, end):
        if get(text, place) > 127:
            put(facts, NOT_ASCII, 1)


@njit
def _count_fraction_digits(text, at, end, num_digits):
    """Return how many digits a number has, or -1 where a value is no number.

    One with an exponent, which may be beyond all Float64, has more than those hold apart. A decimal point and an
    exponent, or one of them, stand from ``at`` to the end, behind ``num_digits`` digits.
    """
    if at < end and get(text, at) == POINT:
        at += 1
        while _digit(text, at, end) >= 0:
            num_digits += 1
            at += 1
    if not num_digits:
        return np.int64(-1)
    if at < end and (get(text, at) == _UPPER_E or get(text, at) == _LOWER_E):
        at += 1
        if at < end and (get(text, at) == PLUS or get(text, at) == MINUS):
            at += 1
        if _digit(text, at, end) < 0:
            return np.int64(-1)
        while _digit(text, at, end) >= 0:
            at += 1
        num_digits = np.int64(_FLOAT_DIGITS + 1)
    return num_digits if at == end else np.int64(-1)


@njit
def _read_integer(text, at, stop, form, facts, values):
    """Note the field at a position and return where the next one begins, and its status, if it is a plain integer.

    The position is -1 for any other field, among them integers of 19 digits, which may be too large.
    """
    is_enclosed = form.quoted and at < stop and get(text, at) == QUOTE
    at += is_enclosed
    first = at
    value = np.int64(0)
    digit = _digit(text, at, stop)
    while digit >= 0:
        value = value * 10 + digit
        at += 1
        digit = _digit(text, at, stop)
    num_digits = at - first
    if at == stop or not 1 <= num_digits <= 18 or (get(text, first) == ZERO and num_digits > 1):
        return np.int64(-1), MORE
    if num_digits > _FLOAT_DIGITS:
        put(facts, NOT_FLOAT, 1)
    if is_enclosed:
        if get(text, at) != QUOTE or at + 1 == stop:
            return np.int64(-1), MORE
        at += 1
    if form.width == 1 and get(text, at) == form.separator:
        _note_integer(value, facts, values)
        return at + 1, MORE
    if get(text, at) == NEWLINE:
        _note_integer(value, facts, values)
        return at + 1, LAST
    return np.int64(-1), MORE


@njit(nogil=True, cache=True)
def scan_records(text, form, role_at, findings):
    """Check the records of a text, up to the first that is not as expected, and read their integers.

    Args:
        text: (n,) uint8: whole records.
        form: a :class:`TextFormat`.
        role_at: (number of fields that each record must have,) int64: the row of the findings for a column, or -1.
        findings: :class:`Findings`, written. The capacity of its values is at least the number of records.
    """
    at, stop = 0, len(text)
    num_fields = len(role_at)
    capacity = findings.values.shape[1]
    text, role_at, facts = pointer(text), pointer(role_at), pointer(findings.facts)
    counts, values = pointer(findings.counts), pointer(findings.values)
    num_records = 0
    num_blank = 0
    while at < stop:
        following = _ends_line(text, at, stop)
        if following >= 0:
            at = following
            num_blank += 1
            continue
        record = at
        field = 0
        status = MORE
        while status == MORE:
            role = get(role_at, field) if field < num_fields else -1
            following = np.int64(-1)
            begin, end = np.int64(0), np.int64(1)  # a field that is read as an integer is not empty
            if role >= 0:
                fact, value = offset(facts, role * NUM_FACTS), offset(values, role * capacity + num_records)
                following, status = _read_integer(text, at, stop, form, fact, value)
            if following < 0:
                begin, end, following, status = _read_field(text, at, stop, form, counts)
                if role >= 0 and status <= LAST:
                    _note_field(text, begin, end, record, fact, value)
            at = following
            field += 1
        if status == LAST and (field != num_fields or (form.trailing and begin != end)):
            status = WRONG_NUMBER
        if status > LAST:
            put(counts, FAULT, status)
            put(counts, FAULT_START, record)
            put(counts, FAULT_FIELDS, field)
            break
        num_records += 1
    put(counts, NUM_RECORDS, num_records)
    put(counts, NUM_BLANK, num_blank)
    put(counts, NUM_LINES, get(counts, NUM_LINES) + num_records + num_blank)


@njit(nogil=True, cache=True)
def find_fields(text, form, fields, records):
    """Find the fields of the first records of a text.

    Args:
        text: (n,) uint8.
        form: a :class:`TextFormat`.
        fields: (m, 2) int64, written: where the content of each field begins and ends. It lies within enclosing quotes.
        records: (r, 2) int64, written: where each record begins, and the number of fields up to its end.

    Returns:
        Number of records, what is wrong with the record that follows (NO_FAULT if nothing is), and where that record,
        or the rest of the text, begins. ``fields`` and ``records`` end the search where they are full.
    """
    at, stop = 0, len(text)
    text = pointer(text)
    ignored = np.zeros(NUM_COUNTS, dtype=np.int64)
    counts = pointer(ignored)
    num_fields = 0
    num_records = 0
    while at < stop and num_records < len(records):
        following = _ends_line(text, at, stop)
        if following >= 0:
            at = following
            continue
        record = at
        status = MORE
        while status == MORE:
            if num_fields == len(fields):
                return num_records, NO_FAULT, record
            begin, end, at, status = _read_field(text, at, stop, form, counts)
            if status > LAST:
                return num_records, status, record
            fields[num_fields] = begin, end
            num_fields += 1
        records[num_records] = record, num_fields
        num_records += 1
    return num_records, NO_FAULT, at


@njit(nogil=True, cache=True)
def find_record(text, quoted, is_open):
    """Return where the first record behind the begin of a text begins, or -1.

    Args:
        text: (n,) uint8.
        quoted: whether quotes enclose line ends.
        is_open: whether a quoted field is open at the begin.
    """
    stop = len(text)
    text = pointer(text)
    for at in range(stop):
        if quoted and get(text, at) == QUOTE:
            is_open = not is_open
        elif get(text, at) == NEWLINE and not is_open:
            return at + 1
    return -1
