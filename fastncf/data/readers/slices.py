"""Parquet files as slices of rows, for data that are larger than the memory."""

from collections.abc import Iterator, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl

from fastncf.data.ids import are_missing_words, canonical_ids
from fastncf.data.readers import parquet
from fastncf.data.readers.deciding_times import has_kinds
from fastncf.data.readers.files import first_bytes
from fastncf.data.readers.kinds import PARQUET, find_kind
from fastncf.data.readers.limit import has_limit, refuse_larger
from fastncf.data.readers.options import ReadOptions
from fastncf.data.readers.parts import Origin, Part
from fastncf.data.readers.scans import computing, refuse_offset, select_columns
from fastncf.data.readers.several import PartFile, join_formats, list_files, refuse_other_columns
from fastncf.data.readers.table import check_part, keep_rows

_DAMAGED = f"the {PARQUET} file is damaged"


@dataclass(frozen=True)
class _File:
    """One of the files.

    Attributes:
        rows: the used columns by their roles, which are not read yet.
        origin: where they come from.
        group_rows: number of rows of each row group.
        num_bytes: bytes of the columns in memory, at most.
        place: words behind the number of a row in messages.
    """

    rows: pl.LazyFrame
    origin: Origin
    group_rows: list[int]
    num_bytes: int
    place: str


@dataclass(frozen=True)
class ParquetSlices:
    """Rows of Parquet files, of which one slice is in memory at a time.

    Attributes:
        origin: where they come from, in all.
        files: the files.
        options: what the caller says of them.
    """

    origin: Origin
    files: list[_File]
    options: ReadOptions

    @property
    def num_bytes(self) -> int:
        """Bytes that all rows have in memory, at most."""
        return sum(file.num_bytes for file in self.files)

    def read(self, num_rows: int, without_words: Set[str]) -> Iterator[Part]:
        """Yield slices of whole row groups, or of parts of larger ones, in the order of the rows; ids are checked.

        Args:
            num_rows: most rows of a slice.
            without_words: roles of ids without those that stand for missing values, which are left out.

        Raises:
            DataError: a file cannot be read, or an id is not as expected.
        """
        for file in self.files:
            for first, count in _slices(file.group_rows, num_rows):
                with computing(file.origin.source, _DAMAGED):
                    frame = file.rows.slice(first, count).collect()

                def locate(row: int, first: int = first) -> str:
                    return f"row {first + row + 1}"

                part = check_part(frame, replace(file.origin, locate=locate), self.options)
                for role in sorted(without_words):
                    part = _without_words(part, role)
                yield part

    def name_place(self, part: Part, row: int) -> str:
        """Return in words where a row of a slice stands in all files."""
        file = next(file for file in self.files if file.origin.source == part.origin.source)
        return f"{part.origin.locate(row)}{file.place}"


def open_slices(source: Any, options: ReadOptions) -> ParquetSlices | None:
    """Return the rows of a Parquet file, of a list of them, of a pattern or of a folder; None where there is another.

    None stands also for files whose rows can only be checked as a whole: with times as text, in two columns or of
    several types, and for damaged ones.

    Raises:
        DataError: the columns of a file are not as expected, or other ones than those of the first.
    """
    several = list_files(source)
    if several is not None:
        name, listed = several
    elif isinstance(source, str | Path):
        name, listed = str(source), [PartFile(Path(source), {})]
    else:
        return None
    if not all(_is_parquet(file.path) for file in listed):
        return None
    files = []
    for file in listed:
        opened = _open(file, options, "" if several is None else f" of {file.path}")
        if opened is None:
            return None
        files.append(opened)
        refuse_other_columns(files[0].origin, opened.origin)
    first = files[0].origin
    if not _have_one_type([file for file in files if sum(file.group_rows)]):
        return None
    form = first.format if several is None else join_formats([file.origin for file in files])
    return ParquetSlices(Origin(name, form, first.columns, remedy=options.remedy()), files, options)


def _is_parquet(path: Path) -> bool:
    """Return whether a path is that of a regular Parquet file."""
    try:
        return path.is_file() and find_kind(first_bytes(path)) == PARQUET
    except (OSError, ValueError):
        return False


def _open(file: PartFile, options: ReadOptions, place: str) -> _File | None:
    """Return a file whose metadata are read, or None where they are damaged."""
    source = str(file.path)
    refuse_offset(source, file.path, PARQUET)
    with computing(source, _DAMAGED):
        lazy = pl.scan_parquet(file.path, glob=False)
        rows, columns = select_columns(lazy, options, source, file.partitions)
    try:
        groups = parquet.row_groups(file.path, list(columns.values()))
    except Exception:  # what reads them as a whole says so
        return None
    num_bytes = sum(group_bytes for _, group_bytes in groups)
    most = num_bytes if has_limit() else max((group_bytes for _, group_bytes in groups), default=0)
    refuse_larger(source, most, "unpacks to")
    return _File(rows, Origin(source, PARQUET, columns), [count for count, _ in groups], num_bytes, place)


def _have_one_type(files: list[_File]) -> bool:
    """Return whether files have times in one column of one type that is no text, or none, and no weights."""
    if not files or "clock" in files[0].origin.columns or "weight" in files[0].origin.columns:
        return False
    if "time" not in files[0].origin.columns:
        return True
    dtypes = {file.rows.collect_schema()["time"] for file in files}
    dtypes = {pl.Datetime("us") if dtype == pl.Date else dtype for dtype in dtypes}
    are_alike = len(dtypes) == 1 or all(dtype.is_integer() for dtype in dtypes)
    return are_alike and all(map(has_kinds, dtypes))


def _slices(group_rows: list[int], num_rows: int) -> Iterator[tuple[int, int]]:
    """Yield the first row and the number of rows of each slice of a file."""
    first = count = 0
    for size in group_rows:
        if count and count + size > num_rows:
            yield first, count
            first, count = first + count, 0
        count += size
        while count > num_rows:
            yield first, num_rows
            first, count = first + num_rows, count - num_rows
    if count:
        yield first, count


def _without_words(part: Part, role: str) -> Part:
    """Return the rows of a slice whose id of a role is no word for a missing value."""
    frame, origin = keep_rows(part.frame, part.origin, ~are_missing_words(part.frame[role]))
    frame = frame.with_columns(canonical_ids(frame[role]).alias(role)) if frame.height else frame
    num_missing = part.left_out["num_missing"] + part.frame.height - frame.height
    return part._replace(frame=frame, origin=origin, left_out=part.left_out | {"num_missing": num_missing})
