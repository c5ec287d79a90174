"""Raw ids and indices: what an id is, the vocabulary of all users or items, and fast lookups of ids.

Two words for two things:

- A **raw id** is what the user of the package calls a user or an item: an integer or text, as it stands in the source.
- An **index** is what the package calculates with: an int32 from 0 to U - 1 for users, or to I - 1 for items. It is the
  position of the raw id in its :class:`Vocabulary`, hence also the row of an embedding table. -1 stands for no index.

A raw id is identified by its *canonical text*: without blanks around it, and for a whole number without a fraction of
zeros, so that ``12``, ``12.0``, ``"12"`` and ``" 12 "`` are one id, while ``007`` and ``7`` are two. Ids of which each
is a *canonical integer*, ``0`` or ``-?[1-9][0-9]*``, are stored as integers, all others as text. :func:`canonical_ids`
is this rule, for files, frames and whatever a caller names.

Columns of raw ids are read chunk by chunk, without a temporary column.
"""

import bisect
import functools
import re
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl

from fastncf.errors import DataError, counted, type_name
from fastncf.kernels.cpu.ids import fill_slots, find_slots, gather_range, mark_present
from fastncf.threads import run_ranges


class Vocabulary:
    """All raw ids of the users or of the items of a data set: the raw id of index i stands at position i.

    Attributes:
        ids: distinct raw ids (U,) or (I,), ascending; Int64, UInt64 or String.
        noun: ``user`` or ``item``, for messages.
    """

    def __init__(self, ids: pl.Series, noun: str) -> None:
        self.ids = ids
        self.noun = noun
        self._has_index = False

    def __repr__(self) -> str:
        """Return the number of the ids and their dtype in one line."""
        return f"Vocabulary({counted(len(self), self.noun + ' id')}, {self.ids.dtype})"

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, columns: list[pl.Series], noun: str) -> "Vocabulary":
        """Return the vocabulary of all raw ids in some columns: text where one of them holds text.

        Args:
            columns: canonical ids without nulls, see :func:`canonical_ids`.
            noun: ``user`` or ``item``.
        """
        parts = [to_canonical_dtype(distinct(column)) for column in columns]
        if len({part.dtype for part in parts}) > 1:
            parts = [canonical_ids(pl.concat([part.cast(pl.String) for part in parts]))]
        return cls(pl.concat(parts).unique().sort().alias(noun), noun)

    def encode(self, raw_ids: pl.Series) -> np.ndarray:
        """Return the index of each canonical id (n,): (n,) int32, -1 for one that is not in the vocabulary."""
        if not len(self.ids):
            return np.full(len(raw_ids), -1, dtype=np.int32)
        if isinstance(raw_ids.dtype, pl.Categorical):
            return gather_indices(raw_ids.to_physical(), 0, self.encode(categories(raw_ids)))
        if self.ids.dtype == pl.String:
            table = pl.DataFrame({"raw": self.ids, "index": np.arange(len(self.ids), dtype=np.int32)})
            text = raw_ids.cast(pl.String).to_frame("raw")
            found = text.join(table, on="raw", how="left", maintain_order="left")["index"]
            return found.fill_null(-1).to_numpy(writable=True)
        if raw_ids.dtype.is_integer() and _is_as_wide(self.ids.dtype, raw_ids.dtype):
            return find_indices(raw_ids, self.ids)
        integers = _integers_or_null(raw_ids, self.ids.dtype)
        indices = np.full(len(raw_ids), -1, dtype=np.int32)
        indices[integers.is_not_null().to_numpy()] = find_indices(integers.drop_nulls(), self.ids)
        return indices

    def require(self, raw_ids: Any) -> np.ndarray:
        """Return the index of each raw id that a caller names, in any spelling of its canonical text.

        Args:
            raw_ids: one id, or n in a list, tuple, array, or polars or pandas series.

        Returns:
            (n,) int32.

        Raises:
            DataError: an id is neither an integer nor text, or is not in the vocabulary.
        """
        named = named_ids(raw_ids, self.noun)
        indices = self.find(named)
        if len(indices) and indices.min() < 0:
            raise DataError(self.describe_unknown(named, indices))
        return indices

    def describe_unknown(self, named: "NamedIds", indices: np.ndarray) -> str:
        """Return in words which of some ids is the first that is not here, and which ids are.

        Args:
            named: ids that a caller names.
            indices: what :meth:`find` returned of them.
        """
        unknown = str(named[int(np.argmin(indices))])
        shown = unknown if re.fullmatch(_INTEGER, unknown) else repr(unknown)
        return (
            f"{self.noun} {shown:.80} is not in the training data, whose "
            f"{counted(len(self), self.noun + ' id runs', self.noun + ' ids run')} from {self.ids[0]!r:.80} to "
            f"{self.ids[-1]!r:.80}"
        )

    def find(self, named: "NamedIds") -> np.ndarray:
        """Return the index of each id that :func:`named_ids` returned, (n,) int32, -1 for one that is not here.

        No threads are used, so that this works in a forked child, where those of polars do not exist.
        """
        if self.ids.dtype == pl.String:
            return self._find_text(to_texts(named))
        dtype = self._integers.dtype
        if isinstance(named, list):
            limits = np.iinfo(dtype)
            wanted = [_integer_within(text, int(limits.min), int(limits.max)) for text in named]
            is_possible = np.array([number is not None for number in wanted], dtype=np.bool_)
            numbers = np.array([number for number in wanted if number is not None], dtype=dtype)
        elif named.dtype.kind == dtype.kind:
            return self._find_integers(named.astype(dtype, copy=False))
        else:
            is_possible = named >= 0 if dtype.kind == "u" else named <= np.iinfo(dtype).max
            numbers = named[is_possible].astype(dtype)
        indices = np.full(len(named), -1, dtype=np.int32)
        indices[is_possible] = self._find_integers(numbers)
        return indices

    def _find_integers(self, numbers: np.ndarray) -> np.ndarray:
        """Return the index of each number (n,) of the dtype of the ids, (n,) int32, -1 for one that is no id."""
        if not len(self):
            return np.full(len(numbers), -1, dtype=np.int32)
        nearest = self._integers.searchsorted(numbers)
        nearest[nearest == len(self)] = 0
        nearest[self._integers[nearest] != numbers] = -1
        return nearest.astype(np.int32)

    @functools.cached_property
    def _index_of_text(self) -> dict[str, int]:
        """The index of each id, where they are text; kept, since to make it takes as long as many searches."""
        return {text: index for index, text in enumerate(self.ids.to_list())}

    @functools.cached_property
    def _integers(self) -> np.ndarray:
        """The ids as an array, where they are integers."""
        return self.ids.to_numpy()

    def _find_text(self, texts: list[str]) -> np.ndarray:
        """Return the index of each text (n,) int32, -1 for one that is no id."""
        if self._has_index or len(texts) * _FEW_TEXTS > len(self):
            index_of, self._has_index = self._index_of_text, True
            return np.array([index_of.get(text, -1) for text in texts], dtype=np.int32)
        indices = np.full(len(texts), -1, dtype=np.int32)
        for number, text in enumerate(texts):  # Python compares text as polars sorts it: by code points
            index = bisect.bisect_left(self.ids, text)
            if index < len(self) and self.ids[index] == text:
                indices[number] = index
        return indices

    def decode(self, indices: np.ndarray, name: str | None = None) -> pl.Series:
        """Return the raw ids (n,) of indices (n,) of any integer dtype, as a column of a name, or of the noun's.

        No threads are used, see :meth:`find`; ``gather()`` would start those of polars.
        """
        if self.ids.dtype == pl.String:
            return self.ids[indices.astype(np.int64)].alias(name or self.noun)
        return pl.Series(name or self.noun, self._integers[indices])

    def extended(self, texts: list[str]) -> "Vocabulary":
        """Return a vocabulary in which further ids follow those of this one, to decode indices of either.

        Its ids do not ascend, so that it finds none. They are text where a further one is no integer that fits.

        Args:
            texts: canonical ids.
        """
        if self.ids.dtype != pl.String:
            limits = np.iinfo(self._integers.dtype)
            numbers = [_integer_within(text, int(limits.min), int(limits.max)) for text in texts]
            if None not in numbers:
                further = pl.Series(numbers, dtype=self.ids.dtype)
                return Vocabulary(pl.concat([self.ids, further]), self.noun)
        return Vocabulary(pl.concat([self.ids.cast(pl.String), pl.Series(texts, dtype=pl.String)]), self.noun)


NamedIds = np.ndarray | list[str]
"""Ids that a caller names: (n,) integers of any dtype where all of them are integers, otherwise canonical texts."""


def named_ids(raw_ids: Any, noun: str, *, skips_missing: bool = False, remedy: str = "") -> NamedIds:
    """Return the ids that a caller names, without using any threads.

    Args:
        raw_ids: one id, or n in a list, tuple, array, tensor, or polars or pandas series.
        noun: what messages call them.
        skips_missing: leave out missing values of a collection: None, NaN, those of pandas, masked ones and blank text.
        remedy: end of the message on a missing value of a collection.

    Raises:
        DataError: an id is neither an integer nor text.
    """
    if isinstance(raw_ids, pl.LazyFrame) or hasattr(raw_ids, "columns"):  # iterating over one of pandas gives its names
        raise DataError(
            f"{noun} ids are {EXPECTED_IDS}; got {type_name(raw_ids)}; expected one id or a list of them, "
            f"such as a column of the frame"
        )
    values = raw_ids
    is_tensor = type(raw_ids).__module__.partition(".")[0] == "torch" and hasattr(raw_ids, "tolist")
    if is_tensor or isinstance(raw_ids, np.ma.MaskedArray):
        values = raw_ids.tolist()  # None for what is masked, whose number beneath the mask means nothing
    elif isinstance(raw_ids, np.ndarray) and raw_ids.ndim == 0:
        values = raw_ids[()]
    is_one = isinstance(values, str | dict | bytes | bytearray | memoryview) or not hasattr(values, "__len__")
    if is_one:
        values = [values]
    if isinstance(values, pl.Series) and values.dtype != pl.Object:
        is_number = values.dtype.is_integer() or values.dtype.is_float()
        values = values.to_numpy() if is_number and not values.has_nulls() else values.to_list()
    named, invalid = canonical_values(values)
    if invalid is not None and skips_missing and not is_one:
        present = {at: value for at, value in enumerate(values) if not is_missing_value(value)}
        named, invalid = canonical_values(present.values())
        invalid = None if invalid is None else list(present)[invalid]
    if invalid is not None:
        value, place = _at(values, invalid), f" in position {invalid + 1} of {len(values)}" if len(values) > 1 else ""
        is_left_out_by_it = not is_one and is_missing_value(value)
        raise DataError(f"{noun} ids are {EXPECTED_IDS}; got {value!r:.80}{place}{remedy if is_left_out_by_it else ''}")
    return named


def is_missing_value(value: Any) -> bool:
    """Return whether a value of Python, NumPy or pandas stands for no id."""
    if isinstance(value, str):
        return not value.strip(_BLANKS)
    is_nan = isinstance(value, float | np.floating) and bool(value != value)
    return value is None or is_nan or type(value).__name__ in ("NAType", "NaTType", "MaskedConstant")


def _at(values: Any, position: int) -> Any:
    """Return the value at a position of any collection."""
    return next(value for number, value in enumerate(values) if number == position)


def canonical_values(values: Any) -> tuple[NamedIds, int | None]:
    """Return values as canonical ids, and the position of the first one that is none; None where all are ids.

    No threads are used.

    Args:
        values: (n,) an array of integers, or any iterable of Python's and NumPy's values.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu" and values.ndim == 1:
        return values, None
    values = list(values)
    if all(type(value) is int for value in values):
        with suppress(OverflowError):
            return np.array(values, dtype=np.int64), None
    texts = [_text_of_object(value) for value in values]
    named = ["" if text is None else _canonical_text(text) for text in texts]
    return named, None if all(named) else named.index("")


def to_texts(named: NamedIds) -> list[str]:
    """Return canonical ids as text."""
    return named if isinstance(named, list) else list(map(str, named.tolist()))


def _canonical_text(text: str) -> str:
    """Return one text as :func:`canonical_text` does a column."""
    text = text.strip(_BLANKS)
    if ".0" not in text:  # a search takes a fraction of the time of a match
        return text
    whole = re.fullmatch(_WHOLE_FLOAT, text)
    return "0" if re.fullmatch(_NEGATIVE_ZERO, text) else whole[1] if whole else text


def _integer_within(text: str, low: int, high: int) -> int | None:
    """Return the integer that a canonical text stands for, or None where it is none between two bounds."""
    if len(text) > _LONGEST_INTEGER or not re.fullmatch(_INTEGER, text):
        return None
    return number if low <= (number := int(text)) <= high else None


EXPECTED_IDS = "integers or text"
"""Description of valid ids for messages."""

_INTEGER = r"^(?:0|-?[1-9][0-9]*)$"
_WHOLE_FLOAT = r"^(0|-?[1-9][0-9]*)\.0+$"
_ROUNDED = r"^\s*\d(?:[.,]\d+)?E\+\d\d\s*$"
_NEGATIVE_ZERO = r"^-0\.0+$"
_SIGNIFICAND_BITS = {"Float16": 11, "Float32": 24, "Float64": 53}
"""A float holds all integers of up to so many bits; larger ones it may have rounded."""

_BLANKS = "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
"""White space of Unicode, which polars strips; Python's own ``strip()`` takes four control characters as well."""

_FEW_TEXTS = 64
"""A dict of all ids takes as long as binary searches for a share of them that is so many times smaller."""

_MISSING_WORDS = [
    "NA",
    "N/A",
    "n/a",
    "#N/A",
    "<NA>",
    "NaN",
    "NAN",
    "nan",
    "NaT",
    "NULL",
    "(null)",
    "Null",
    "null",
    "None",
    "none",
    "nil",
    "\\N",
    "#NV",
    "#N/D",
]
"""Words that R, pandas, databases and spreadsheets write for a missing value."""

_LONGEST_INTEGER = 20  # characters of the integers that a vocabulary may hold
_LONGEST_DECIMAL = 1_000  # digits of a Decimal id: 1e999999999 would fill the memory


def canonical_text(text: pl.Series) -> pl.Series:
    """Return text without blanks around it, and whole numbers such as ``12.0`` without their fraction of zeros."""
    stripped = text.str.strip_chars()
    if not stripped.str.contains(".0", literal=True).any():  # a search takes a fraction of the time of a replacement
        return stripped
    return stripped.str.replace(_WHOLE_FLOAT, "${1}").str.replace(_NEGATIVE_ZERO, "0")


def canonical_ids(raw_ids: pl.Series) -> pl.Series:
    """Return a column of ids in the form by which they are compared.

    Args:
        raw_ids: ids that :func:`refused_ids` has no objection to.

    Returns:
        Int32, Int64 or UInt64 if each id is a canonical integer that the dtype holds, otherwise String, or Categorical
        as it was.
    """
    dtype = raw_ids.dtype
    if dtype == pl.Int32:
        return raw_ids
    if isinstance(dtype, pl.Categorical):
        return _canonical_categories(raw_ids)
    if dtype.is_decimal() or dtype == pl.Enum:
        raw_ids = raw_ids.cast(pl.String)
    if raw_ids.dtype == pl.String:
        found = raw_ids.unique()
        canonical = canonical_text(found)
        is_unchanged = bool((canonical == found).all())
        if not _are_integers(canonical):
            return raw_ids if is_unchanged else canonical_text(raw_ids)
        raw_ids = raw_ids if is_unchanged else canonical_text(raw_ids)
    return _narrowest(raw_ids)


def refused_ids(raw_ids: pl.Series) -> pl.Series | None:
    """Return a mask (n,) of the values that cannot be ids: missing, blank, fractions, and floats that may be rounded.

    None where no value of the dtype can be an id: only integers, whole floats and decimals, and text are.
    """
    dtype = raw_ids.dtype
    if isinstance(dtype, pl.Categorical | pl.Enum):
        raw_ids = raw_ids.cast(pl.String) if raw_ids.null_count() or dtype == pl.Enum else raw_ids
        if raw_ids.dtype != pl.String:
            blank = categories(raw_ids).str.strip_chars() == ""
            number = raw_ids.to_physical()
            return number.is_in(pl.Series(np.flatnonzero(blank.to_numpy()), dtype=number.dtype).implode())
    if raw_ids.dtype == pl.String:
        return raw_ids.is_null() | (raw_ids.str.strip_chars() == "").fill_null(value=False)
    if dtype.is_float():
        limit = 2.0 ** _SIGNIFICAND_BITS[str(dtype)]
        is_exact = (raw_ids == raw_ids.round()) & raw_ids.is_between(-limit, limit, closed="none")
        return ~is_exact.fill_null(value=False)
    if dtype.is_decimal():
        return canonical_text(raw_ids.cast(pl.String)).str.contains(".", literal=True).fill_null(value=True)
    if dtype.is_integer() or dtype == pl.Null:
        return raw_ids.is_null()
    return None


def stand_for_missing(ids: pl.Series) -> pl.Series | None:
    """Return a mask (n,) of the words of programs for a missing value among ids that are integers otherwise.

    None where there is no such word, or where another id is text, so that the word may be an id as well.

    Args:
        ids: ids in the form of :func:`canonical_ids`.
    """
    is_category = isinstance(ids.dtype, pl.Categorical)
    if not is_category and ids.dtype != pl.String:
        return None
    if not are_missing_words(categories(ids) if is_category else ids).any():
        return None
    text = ids.cast(pl.String)
    mask = are_missing_words(text)
    return mask if mask.any() and _are_integers(text.filter(~mask)) else None


def rounded_ids(ids: pl.Series) -> pl.Series | None:
    """Return a mask (n,) of ids such as ``4.00638E+12``, which a spreadsheet makes of all barcodes that begin alike.

    None where there is no such id. Other programs write their numbers with all digits, or with a small e.
    """
    is_category = isinstance(ids.dtype, pl.Categorical)
    if not is_category and ids.dtype != pl.String:
        return None
    if not (categories(ids) if is_category else ids).str.contains("E+", literal=True).any():
        return None
    mask = ids.cast(pl.String).str.contains(_ROUNDED)
    return mask if mask.any() else None


def are_missing_words(text: pl.Series) -> pl.Series:
    """Return a mask (n,) of the words that programs write for a missing value, whatever the others are."""
    return text.cast(pl.String).is_in(_MISSING_WORDS)


def is_missing_word(text: str) -> bool:
    """Return whether text is a word that programs write for a missing value."""
    return text in _MISSING_WORDS


def expected_ids(dtype: pl.DataType) -> str:
    """Return in words what the ids of a column of a dtype may be, for messages."""
    if dtype.is_float():
        return f"{EXPECTED_IDS}; a {dtype} holds integers exactly only up to {2 ** _SIGNIFICAND_BITS[str(dtype)]}"
    return EXPECTED_IDS


def ids_of_objects(values: list[Any]) -> tuple[pl.Series, pl.Series]:
    """Return Python and NumPy values as text (n,), and a mask (n,) of those that cannot be ids."""
    text = pl.Series([_text_of_object(value) for value in values], dtype=pl.String)
    return text, text.is_null() | (text.str.strip_chars() == "").fill_null(value=False)


def as_utf8(text: str) -> str | None:
    """Return a text as a plain string; None where it holds half a character, a surrogate, which UTF-8 does not have."""
    plain = str.__str__(text)
    try:
        plain.encode()
    except UnicodeEncodeError:
        return None
    return plain


def _text_of_object(value: Any) -> str | None:
    """Return an id as text; None where the value is missing, a fraction, rounded, or neither a number nor text."""
    if isinstance(value, str):
        return as_utf8(value)
    if isinstance(value, bool | np.bool_):
        return None
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating):
        limit = 2 ** (np.finfo(type(value)).nmant + 1 if isinstance(value, np.floating) else 53)
        return str(int(value)) if -limit < value < limit and value == int(value) else None
    if isinstance(value, Decimal) and value.is_finite() and value.adjusted() < _LONGEST_DECIMAL:
        return str(int(value)) if value == int(value) else None
    return None


def _canonical_categories(raw_ids: pl.Series) -> pl.Series:
    """Return what :func:`canonical_ids` returns of a column of categories; only those that occur are decisive."""
    occurring = distinct(raw_ids)
    found = occurring.cast(pl.String)
    canonical = canonical_text(found)
    if _are_integers(canonical):
        canonical = _narrowest(canonical)
    elif (canonical == found).all():
        return raw_ids
    number = occurring.to_physical().to_numpy()
    position = np.zeros(int(number.max(initial=0)) + 1, dtype=np.uint32)
    position[number] = np.arange(len(number), dtype=np.uint32)
    return canonical.gather(position[raw_ids.to_physical().to_numpy()])


def _are_integers(canonical: pl.Series) -> bool:
    """Return whether each of some canonical texts is a canonical integer."""
    return len(canonical) > 0 and all(part.str.contains(_INTEGER).all() for part in (canonical.head(100), canonical))


def _narrowest(raw_ids: pl.Series) -> pl.Series:
    """Return integers, or whole numbers of another dtype, or text of canonical integers, as Int64, UInt64 or String."""
    for dtype in (pl.Int64, pl.UInt64):
        cast = raw_ids.cast(dtype, strict=False)
        if not cast.has_nulls():
            return cast
    return raw_ids.cast(pl.String)


def _is_as_wide(dtype: pl.DataType, other: pl.DataType) -> bool:
    """Return whether one integer dtype holds all integers of another and compares with them as they are."""
    return dtype == other or (dtype == pl.Int64 and other == pl.Int32)


def _integers_or_null(raw_ids: pl.Series, dtype: pl.DataType) -> pl.Series:
    """Return canonical ids as integers of a dtype, null where an id is text or not in its range."""
    if raw_ids.dtype == pl.String:
        raw_ids = (
            raw_ids.to_frame("raw")
            .select(pl.when(pl.col("raw").str.contains(_INTEGER)).then(pl.col("raw")))
            .to_series()
        )
    return raw_ids.cast(dtype, strict=False)


def to_canonical_dtype(raw_ids: pl.Series) -> pl.Series:
    """Return raw ids in a dtype that a vocabulary holds: Int64, UInt64 or String."""
    if isinstance(raw_ids.dtype, pl.Categorical):
        return raw_ids.cast(pl.String)
    return raw_ids.cast(pl.Int64) if raw_ids.dtype == pl.Int32 else raw_ids


def distinct(raw_ids: pl.Series) -> pl.Series:
    """Return the distinct values of a column without nulls: integers ascending, others in any order."""
    if isinstance(raw_ids.dtype, pl.Categorical):
        return _distinct_integers(raw_ids.to_physical()).cat.to(raw_ids.dtype)
    return _distinct_integers(raw_ids) if raw_ids.dtype.is_integer() else raw_ids.unique()


def categories(column: pl.Series) -> pl.Series:
    """Return the text behind each physical number of a column of categories, from 0 to the highest that occurs."""
    physical = column.to_physical()
    highest = physical.max()
    assert highest is None or isinstance(highest, int)
    numbers = pl.Series(range(0 if highest is None else highest + 1), dtype=physical.dtype)
    return numbers.cat.to(column.dtype).cast(pl.String)


def find_indices(column: pl.Series, ids: pl.Series) -> np.ndarray:
    """Return the position of each integer among some ids.

    Args:
        column: (n,) integers without nulls.
        ids: (m,) distinct integers without nulls, ascending, of the same signedness.

    Returns:
        (n,) int32, -1 for a value that is not among the ids.
    """
    values = ids.to_numpy()
    if len(column) < len(values):  # a few binary searches cost less than a table of all ids
        wanted = column.to_numpy()
        nearest = np.minimum(np.searchsorted(values, wanted), len(values) - 1)
        return np.where(values[nearest] == wanted, nearest, -1).astype(np.int32)
    values = _as_signed(values)
    low, high = _bounds(ids)
    if _is_narrow(low, high, len(column)):
        table = np.full(high - low + 1, -1, dtype=np.int32)
        table[values - low] = np.arange(len(values), dtype=np.int32)
        return gather_indices(column, low, table)
    indices = np.empty(len(column), dtype=np.int32)
    slots = np.full(1 << (2 * len(values)).bit_length(), -1, dtype=np.int32)
    fill_slots(values, slots)
    _for_each_chunk(column, lambda part, rows: find_slots(part, values, slots, indices[rows]))
    return indices


def gather_indices(column: pl.Series, low: int, table: np.ndarray) -> np.ndarray:
    """Return ``table[value - low]`` for each value of a column.

    Args:
        column: (n,) integers without nulls.
        low: value of the first place of the table.
        table: (m,) int32.

    Returns:
        (n,) int32, -1 for a value outside the table.
    """
    indices = np.empty(len(column), dtype=np.int32)
    _for_each_chunk(column, lambda values, rows: gather_range(values, low, table, indices[rows]))
    return indices


def _distinct_integers(column: pl.Series) -> pl.Series:
    """Return the distinct values of a column of integers, ascending."""
    if not len(column):
        return column
    low, high = _bounds(column)
    if not _is_narrow(low, high, len(column)):
        return column.unique().sort()
    present = np.zeros(high - low + 1, dtype=np.bool_)
    _for_each_chunk(column, lambda values, rows: mark_present(values, low, present))
    return pl.Series(np.flatnonzero(present) + low).cast(column.dtype)


def _bounds(column: pl.Series) -> tuple[int, int]:
    """Return the lowest and the highest value of a column of integers."""
    low, high = column.min(), column.max()
    assert isinstance(low, int)
    assert isinstance(high, int)
    return low, high


def _is_narrow(low: int, high: int, num_rows: int) -> bool:
    """Return whether a table over a whole range of values costs less than hashing each value of a column."""
    return high - low < 4 * num_rows + (1 << 20) and high < 2**63


def _as_signed(values: np.ndarray) -> np.ndarray:
    """Return unsigned 64-bit integers as signed ones with the same bits, and others unchanged.

    So kernels need not be compiled for unsigned ones.
    """
    return values.view(np.int64) if values.dtype == np.uint64 else values


def _for_each_chunk(column: pl.Series, kernel: Callable[[np.ndarray, slice], object]) -> None:
    """Call ``kernel(values, rows)`` for each chunk of a column in parallel; ``rows`` is its place in the column."""
    assert not column.has_nulls(), "a column with nulls would reach the kernel as an array of floats"
    chunks = [_as_signed(chunk.to_numpy()) for chunk in column.get_chunks()]
    bounds = np.cumsum([0, *map(len, chunks)])
    run_ranges(
        lambda number, following: kernel(chunks[number], slice(bounds[number], bounds[following])),
        np.arange(len(chunks) + 1),
    )
