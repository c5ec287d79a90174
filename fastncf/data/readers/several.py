"""Several files that are one source: a list of paths, a pattern, or a folder of Parquet files."""

import glob
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

import numpy as np
import polars as pl

from fastncf.data.ids import canonical_ids
from fastncf.data.readers.dates import NANOSECOND_YEARS
from fastncf.data.readers.foreign_objects import wrong_object
from fastncf.data.readers.kinds import find_url
from fastncf.data.readers.parts import Origin, Part
from fastncf.errors import DataError, DataNotFoundError, FastNCFError

if TYPE_CHECKING:
    from polars._typing import TimeUnit

_ENDING = re.compile(r"\.(csv|tsv|jsonl|ndjson|feather|arrow)(\.(gz|bz2|xz|zst))?$")
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


class PartFile(NamedTuple):
    """One of several files.

    Attributes:
        path: the file.
        partitions: columns that all of its rows have the same value of, by their names; they are told by its folders.
    """

    path: Path
    partitions: dict[str, str | None]


def list_files(source: Any) -> tuple[str, list[PartFile]] | None:
    """Return the name and the files of a source of several files, or None for another source.

    Args:
        source: a list or a tuple of paths; a path with ``*``, ``?`` or ``[...]`` that no file has, ``**`` for any
            number of folders; or a folder with Parquet files in it or below, or with text files of one kind alone,
            without those whose path holds a name that begins with a dot or an underscore. Folders of a pattern, and
            those below a folder, may be partitions.

    Raises:
        DataNotFoundError: no file fits a pattern.
        DataError: a list is empty, or holds something else than paths.
    """
    if isinstance(source, list | tuple):
        if not source or not all(isinstance(path, str | Path) for path in source):
            raise wrong_object(source, "a list of paths of files")
        files = [PartFile(Path(path), {}) for path in source]
        return f"{len(files)} files ({', '.join(file.path.name for file in files):.100})", files
    if not isinstance(source, str | Path):
        return None
    path = Path(source)
    try:
        if path.is_dir():
            below = _files_below(path)
            files = [PartFile(file, _partitions(file.relative_to(path))) for file in below]
            return (f"{path}", files) if files else None
        if glob.has_magic(str(source)) and not path.exists() and find_url(str(source)) is None:
            found = sorted(file for file in map(Path, glob.glob(str(source), recursive=True)) if file.is_file())
            if not found:
                raise DataNotFoundError(f"{source}: no such file, and none fits this pattern")
            return f"{source}", [PartFile(file, _partitions(file)) for file in found]
    except FastNCFError:
        raise
    except (OSError, ValueError):
        pass  # what is wrong with the path is said where it is opened
    return None


def _files_below(folder: Path) -> list[Path]:
    """Return the Parquet files in a folder or below; without any, all files if they are texts of one kind; or none."""
    visible = [file for file in folder.rglob("*") if not _is_hidden(file.relative_to(folder)) and file.is_file()]
    if parquet := sorted(file for file in visible if file.name.endswith(".parquet")):
        return parquet
    kinds = {_ENDING.search(file.name.lower()) for file in visible}
    is_one_kind = None not in kinds and len({found.group() for found in kinds if found}) == 1
    return sorted(visible) if is_one_kind else []


def _partitions(path: Path) -> dict[str, str | None]:
    """Return the columns that the folders of a path stand for, such as ``year=2024``; None for Hive's word for nulls.

    Characters that a folder's name cannot hold are written as in a URL.
    """
    found = (unquote(part).partition("=") for part in path.parent.parts if "=" in part.strip("="))
    return {name: None if value == _HIVE_NULL else value for name, _, value in found}


def _is_hidden(path: Path) -> bool:
    """Return whether a path holds a name that programs give to files that are no data."""
    return any(part.startswith((".", "_")) for part in path.parts)


def join_parts(parts: Sequence[Part], source: str) -> Part:
    """Return the rows of several files as those of one.

    Args:
        parts: one for each file, at least one.
        source: name of all of them in messages.

    Raises:
        DataError: the files have other columns, or times of other types.
    """
    first = parts[0].origin
    for part in parts[1:]:
        refuse_other_columns(first, part.origin)
    filled = [part for part in parts if part.frame.height] or list(parts[:1])
    columns = {role: _join_ids([part.frame[role] for part in filled]) for role in ("user", "item")}
    columns |= {role: _join_times(filled, role) for role in ("time", "clock") if role in first.columns}
    if "weight" in first.columns:
        columns["weight"] = pl.concat([part.frame["weight"] for part in filled])
    bounds = np.cumsum([0, *(part.frame.height for part in filled)])

    def locate(row: int) -> str:
        """Return where a row stands, and in which file."""
        number = int(np.searchsorted(bounds, row, side="right")) - 1
        origin = filled[number].origin
        return f"{origin.locate(row - int(bounds[number]))} of {origin.source}"

    origin = Origin(source, join_formats([part.origin for part in parts]), first.columns, locate, remedy=first.remedy)
    left_out = {name: sum(part.left_out[name] for part in parts) for name in parts[0].left_out}
    others = tuple(chain.from_iterable(part.others for part in parts))
    return Part(pl.DataFrame(columns), origin, left_out, sum(part.num_rows for part in parts), others)


def join_formats(origins: Sequence[Origin]) -> str:
    """Return the kinds of several files, for people."""
    count = f"{len(origins)} files: " if len(origins) > 1 else ""
    return f"{count}{', '.join(dict.fromkeys(origin.format for origin in origins))}"


def refuse_other_columns(first: Origin, other: Origin) -> None:
    """Raise a DataError if a file has other columns than the first one."""
    if other.columns != first.columns:
        raise DataError(
            f"{other.source}: has the columns {other.columns}, and {first.source} has {first.columns}; expected the "
            f"same columns in all files"
        )


def _join_ids(columns: list[pl.Series]) -> pl.Series:
    """Return canonical ids of several columns as one: integers if all of them are, otherwise text."""
    dtypes = {column.dtype for column in columns}
    if len(dtypes) == 1 and not isinstance(columns[0].dtype, pl.Categorical):
        return pl.concat(columns)
    if all(dtype.is_integer() for dtype in dtypes) and pl.UInt64 not in dtypes:
        return pl.concat([column.cast(pl.Int64) for column in columns])
    return canonical_ids(pl.concat([column.cast(pl.String) for column in columns]))


def _join_times(parts: Sequence[Part], role: str) -> pl.Series:
    """Return a column of times, or of times of day, of several files as one.

    Raises:
        DataError: they have dtypes that have nothing in common.
    """
    columns = [part.frame[role] for part in parts]
    columns = [column.cast(pl.Datetime("us")) if column.dtype == pl.Date else column for column in columns]
    dtypes = list(dict.fromkeys(column.dtype for column in columns))
    if len(dtypes) == 1:
        return pl.concat(columns)
    if all(dtype.is_integer() for dtype in dtypes):
        return pl.concat([column.cast(pl.Int128) for column in columns])
    if all(dtype.is_integer() or dtype in (pl.String, pl.Categorical, pl.Enum) for dtype in dtypes):
        return pl.concat([column.cast(pl.String) for column in columns])
    zones = {dtype.time_zone is None for dtype in dtypes if isinstance(dtype, pl.Datetime)}
    if all(isinstance(dtype, pl.Datetime) for dtype in dtypes) and len(zones) == 1:
        return _join_datetimes(columns, parts[0].origin.source)
    other = next(part for part, column in zip(parts, columns, strict=True) if column.dtype != columns[0].dtype)
    raise DataError(
        f"{other.origin.source}: column {other.origin.columns[role]!r:.80} holds values of type "
        f"{other.frame[role].dtype!s:.60}, and in {parts[0].origin.source} of type {columns[0].dtype!s:.60}; expected "
        f"one type in all files"
    )


def _join_datetimes(columns: list[pl.Series], source: str) -> pl.Series:
    """Return dates of several units as one column, in nanoseconds or, where 64 bits do not hold them, in microseconds.

    Raises:
        DataError: they are neither.
    """
    first, last = NANOSECOND_YEARS
    unit: TimeUnit = "ns"
    if not all(bool(column.dt.year().is_between(first, last).all()) for column in columns):
        unit = "us"
        fine = [column.to_physical() for column in columns if _is_in_nanoseconds(column)]
        if any(bool((column % 1000 != 0).any()) for column in fine):
            raise DataError(f"{source}: has times finer than 1 us; expected years from {first} to {last} beside")
    joined = pl.concat([column.dt.cast_time_unit(unit).to_physical() for column in columns])
    return joined.cast(pl.Datetime(unit))


def _is_in_nanoseconds(column: pl.Series) -> bool:
    """Return whether the unit of a column of dates is a nanosecond."""
    return isinstance(column.dtype, pl.Datetime) and column.dtype.time_unit == "ns"
