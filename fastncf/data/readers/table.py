"""One source, file or frame, as a checked table of raw ids and times; every error in the input is raised here."""

import gzip
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fastncf.data.ids import categories
from fastncf.data.readers.columns import match_columns
from fastncf.data.readers.text import ACCEPTED_FILES, HEAD_ROWS, read_text
from fastncf.data.readers.times import ACCEPTED_TIMES, are_numbers, as_dates, date_format
from fastncf.errors import DataError, DataNotFoundError

RATINGS_FILES = ("ratings.csv", "rating.csv", "ratings.dat", "u.data")
_FLOAT_DIGITS = {"Float16": 11, "Float32": 24, "Float64": 53}
"""Bits of a float's significand: integers beyond them are not told apart."""


@dataclass(frozen=True)
class Table:
    """The columns of one source that are used, as they were read.

    Attributes:
        frame: columns ``user``, ``item`` and perhaps ``time``, without nulls; ids Int32, Int64, UInt64, Categorical or
            String.
        source: what to call the source in a message.
        found: what was recognised, for people: kind, separator, columns, rows.
        place: says in words where a row of the frame stands in the source.
    """

    frame: pl.DataFrame
    source: str
    found: dict[str, Any]
    place: Callable[[int], str]


def read_table(source: Any, *, user: str | None, item: str | None, time: str | None, needs_time: bool) -> Table:
    """Read the used columns of a source, check them, and say what was found; see :func:`read_interactions`."""
    given = {"user": user, "item": item, "time": time}
    names = {role: None if name is None else str(name) for role, name in given.items()}
    if isinstance(source, (str, Path)):
        return _read_file(Path(source), names, needs_time)
    if isinstance(source, (pl.DataFrame, pl.LazyFrame)):
        return _from_lazy(source.lazy(), names, needs_time, "the frame", "polars frame", "cannot be computed")
    if type(source).__module__.partition(".")[0] == "pandas" and hasattr(source, "columns"):
        columns = [str(column) for column in source.columns]
        chosen = match_columns(columns, names, "the frame", needs_time)
        frame = pl.DataFrame(
            {name: _from_pandas(source.iloc[:, columns.index(column)]) for name, column in chosen.items()}
        )
        return _checked(frame, chosen, "the frame", "pandas frame")
    raise DataError(f"cannot read interactions from a {type(source).__name__}; accepted: {ACCEPTED_FILES}")


def _from_pandas(column: Any) -> pl.Series:
    """One pandas column without the detour over pyarrow."""
    if getattr(column.dtype, "tz", None) is not None:
        column = column.dt.tz_convert(None)
    if column.dtype.kind == "M" and column.dt.unit == "s":  # polars has no such unit
        column = column.dt.as_unit("ms")
    if column.dtype.kind in "iufM":
        missing = column.isna()
        if not missing.any():
            return pl.Series(column.to_numpy())
        if column.dtype.kind in "iu":
            column = column.astype(object)
    values = column.astype(object)
    values = values.where(values.notna(), None).tolist()
    kinds = set(map(type, values)) - {type(None)}
    if bool in kinds and len(kinds) > 1:  # polars would take True for 1
        return pl.Series(values, dtype=pl.Object)
    try:
        return pl.Series(values, strict=False, dtype=None if values else pl.String)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError):
        return pl.Series(values, dtype=pl.Object)


def _read_file(path: Path, names: dict[str, str | None], needs_time: bool) -> Table:
    magic = _first_bytes(path)
    if magic == b"PAR1":
        lazy = pl.scan_parquet(path, glob=False)
        return _from_lazy(lazy, names, needs_time, str(path), "Parquet", "the Parquet file is damaged")
    source = str(path)
    content: Path | bytes = path
    try:
        if magic == b"PK\x03\x04":
            member, content = _read_zip(path)
            source = f"{path} ({member})"
        elif magic[:2] == b"\x1f\x8b":
            content = gzip.decompress(path.read_bytes())
    except DataError:
        raise
    except Exception as error:  # zipfile lets out KeyError, struct.error, OSError and others when bytes are wrong
        raise DataError(f"{path}: the archive is damaged or encrypted ({error}); accepted: {ACCEPTED_FILES}") from None
    frame, chosen, kind, locate = read_text(source, content, names, needs_time)
    return _checked(frame, chosen, source, kind, lambda row: f"line {locate(row)}")


def _first_bytes(path: Path) -> bytes:
    try:
        if path.is_dir():
            inside = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
            raise DataError(f"{path}: is a folder ({inside}); accepted: the path of one file, {ACCEPTED_FILES}")
        with path.open("rb") as file:
            magic = file.read(4)
    except (FileNotFoundError, NotADirectoryError):
        raise DataNotFoundError(f"{path}: no such file") from None
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{path!s:.200}: cannot be read ({error!s:.200}); accepted: {ACCEPTED_FILES}") from None
    if not magic:
        raise DataError(f"{path}: is empty; accepted: {ACCEPTED_FILES}")
    return magic


def _from_lazy(
    lazy: pl.LazyFrame, names: dict[str, str | None], needs_time: bool, source: str, kind: str, failure: str
) -> Table:
    try:
        chosen = match_columns(lazy.collect_schema().names(), names, source, needs_time)
        frame = lazy.select(pl.col(column).alias(role) for role, column in chosen.items()).collect()
    except DataError:
        raise
    except (Exception, pl.exceptions.PanicException) as error:  # a scan runs whatever the user put into it
        raise DataError(f"{source}: {failure} ({str(error).splitlines()[0]}); accepted: {ACCEPTED_FILES}") from None
    return _checked(frame, chosen, source, kind)


def _read_zip(path: Path) -> tuple[str, bytes]:
    """Name and content of the ratings file in an archive, in whichever folder it lies."""
    with zipfile.ZipFile(path) as archive:
        members = [m for m in archive.namelist() if not m.endswith("/") and not m.startswith("__MACOSX")]
        named = [[m for m in members if Path(m).name.lower() == name] for name in RATINGS_FILES]
        members = next((found for found in named if found), members)
        if len(members) == 1:
            return members[0], archive.read(members[0])
    raise DataError(
        f"{path}: which of its {len(members)} files holds the ratings? accepted: "
        f"only one named {', '.join(RATINGS_FILES)}, or an archive of a single file; found {', '.join(members[:8])}"
    )


def _checked(
    frame: pl.DataFrame,
    chosen: dict[str, str],
    source: str,
    kind: str,
    place: Callable[[int], str] = lambda row: f"row {row + 1}",
) -> Table:
    """The table of a frame whose columns are user, item and perhaps time, after every check on its values."""
    if frame.height == 0:
        raise DataError(f"{source}: holds no row; accepted: at least two users and two items")
    checks = {"user": _checked_ids, "item": _checked_ids, "time": _checked_times}
    checked = pl.DataFrame(
        [checks[role](frame[role], _Place(source, chosen[role], place)).alias(role) for role in frame.columns]
    )
    found = {"source": source, "format": kind, "columns": chosen, "rows": frame.height}
    return Table(checked, source, found, place)


def first_true(mask: pl.Series) -> int:
    """Number of the first row where a mask holds."""
    return int(mask.arg_max() or 0)


@dataclass(frozen=True)
class _Place:
    """Where a column stands, for messages."""

    source: str
    name: str
    place: Callable[[int], str]

    def refuse(self, column: pl.Series, broken: pl.Series, accepted: str) -> None:
        """Raise for the first row where ``broken`` holds, if there is one."""
        if not broken.any():
            return
        row = first_true(broken)
        value = column[row]
        held = "is empty" if value is None or value == "" else f"holds {value!r:.60}"
        raise DataError(f"{self.source}: column {self.name!r} {held} in {self.place(row)}; accepted: {accepted}")

    def refuse_type(self, column: pl.Series, accepted: str) -> DataError:
        return DataError(
            f"{self.source}: column {self.name!r} holds values of type {column.dtype}; accepted: {accepted}"
        )


def _checked_ids(column: pl.Series, at: _Place) -> pl.Series:
    """Ids as Int32, Int64, UInt64, Categorical or String without nulls; integers that are beyond all become text."""
    accepted = "integers or text"
    if column.dtype == pl.Enum:
        column = column.cast(pl.String)
    at.refuse(column, column.is_null(), accepted)
    if column.dtype == pl.Int32:
        return column
    if isinstance(column.dtype, pl.Categorical):
        if (categories(column) != "").all():
            return column
        column = column.cast(pl.String)
    if column.dtype == pl.String:
        at.refuse(column, column == "", accepted)
        return column
    if column.dtype.is_float():
        exact = 2.0 ** _FLOAT_DIGITS[str(column.dtype)]
        at.refuse(
            column,
            (column != column.round()) | ~column.is_between(-exact, exact, closed="none"),
            f"{accepted}; a {column.dtype} holds integers exactly only up to {exact:.0f}",
        )
    if column.dtype.is_numeric() and not column.dtype.is_decimal():
        for kind in (pl.Int64, pl.UInt64, pl.String):
            cast = column.cast(kind, strict=False)
            if not cast.has_nulls():
                return cast
    raise at.refuse_type(column, accepted)


def _checked_times(column: pl.Series, at: _Place) -> pl.Series:
    """Times as Int64, order kept: integers as they are, dates in microseconds, floats by their bits."""
    if column.dtype in (pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    at.refuse(column, column.is_null(), ACCEPTED_TIMES)
    if column.dtype == pl.String:
        return _parse_times(column, at)
    if column.dtype == pl.Date:
        column = column.cast(pl.Datetime("us"))
    if column.dtype == pl.Datetime:
        return column.to_physical()
    if column.dtype.is_float():
        at.refuse(column, ~column.is_finite(), ACCEPTED_TIMES)
        bits = (column.cast(pl.Float64) + 0.0).to_numpy().view(np.int64)  # + 0.0 makes -0.0 equal 0.0
        return pl.Series(np.where(bits < 0, bits ^ np.int64(2**63 - 1), bits))
    if column.dtype.is_integer():
        cast = column.cast(pl.Int64, strict=False)
        at.refuse(column, cast.is_null(), f"{ACCEPTED_TIMES}, below 2**63")
        return cast
    raise at.refuse_type(column, ACCEPTED_TIMES)


def _parse_times(column: pl.Series, at: _Place) -> pl.Series:
    """Text -> numbers, or dates in microseconds; all of one format."""
    head = column.head(HEAD_ROWS)
    if are_numbers(head):
        bare = column.str.strip_chars()
        numbers = bare.cast(pl.Int64, strict=False)
        if numbers.has_nulls():
            numbers = bare.cast(pl.Float64, strict=False)
        at.refuse(column, numbers.is_null(), "a number, as in the rows before")
        return _checked_times(numbers, at)
    parsed = as_dates(column, date_format(head))
    at.refuse(column, parsed.is_null(), f"{ACCEPTED_TIMES}, in one format throughout")
    return parsed.to_physical()
