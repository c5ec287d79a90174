"""One source, file or frame, as a checked table of raw ids and times; every error in the input is raised here."""

import gzip
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import polars as pl

from fastncf.errors import DataError, DataNotFoundError, FastNCFError
from fastncf.reading.columns import match_columns
from fastncf.reading.text import ACCEPTED_FILES, HEAD_ROWS, read_text

T = TypeVar("T")

RATINGS_FILES = ("ratings.csv", "rating.csv", "ratings.dat", "u.data")
_TIME_FORMATS = (
    *(
        f"%Y-%m-%d{joint}{clock}{zone}"
        for zone in ("", "%#z", " %Z")
        for clock in ("%H:%M:%S", "%H:%M:%S%.f", "%H:%M")
        for joint in (" ", "T")
    ),
    *("%Y-%m-%d", "%Y/%m/%d %H:%M:%S", "%Y/%m/%d", "%Y%m%d"),
)
_ACCEPTED_TIMES = "a number such as 1112486027, or a date such as 2005-04-02 23:53:47"


@dataclass(frozen=True)
class Table:
    """The columns of one source that are used, as they were read.

    Attributes:
        frame: columns ``user``, ``item`` and perhaps ``time``; ids Int64, UInt64 or String, no nulls.
        source: what to call the source in a message.
        found: what was recognised, for people: kind, separator, columns, rows.
    """

    frame: pl.DataFrame
    source: str
    found: dict[str, Any]


def read_table(source: Any, *, user: str | None, item: str | None, time: str | None, needs_time: bool) -> Table:
    """Read the used columns of a source, check them, and say what was found; see :func:`read_interactions`."""
    names = {"user": user, "item": item, "time": time}
    if isinstance(source, (str, Path)):
        return _read_file(Path(source), names, needs_time)
    if isinstance(source, (pl.DataFrame, pl.LazyFrame)):
        lazy = source.lazy()
        columns = lazy.collect_schema().names()
        chosen = match_columns(columns, names, "the frame", needs_time)
        frame = lazy.select(pl.col(column).alias(name) for name, column in chosen.items()).collect()
        return _checked(frame, chosen, "the frame", "polars frame")
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
    if column.dtype.kind in "iufM":
        missing = column.isna()
        if not missing.any():
            return pl.Series(column.to_numpy())
        if column.dtype.kind in "iu":
            column = column.astype(object)
    values = column.astype(object)
    values = values.where(values.notna(), None).tolist()
    return pl.Series(values, strict=False) if values else pl.Series([], dtype=pl.String)


def _read_file(path: Path, names: dict[str, str | None], needs_time: bool) -> Table:
    if not path.exists():
        raise DataNotFoundError(f"{path}: no such file")
    if path.is_dir():
        inside = ", ".join(sorted(p.name for p in path.iterdir())[:8]) or "nothing"
        raise DataError(f"{path}: is a folder ({inside}); accepted: the path of one file, {ACCEPTED_FILES}")
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None
    if not magic:
        raise DataError(f"{path}: is empty; accepted: {ACCEPTED_FILES}")
    if magic == b"PAR1":
        return _read_parquet(path, names, needs_time)
    if magic == b"PK\x03\x04":
        member, content = _unpacked(path, _read_zip)
        return _from_text(f"{path} ({member})", content, names, needs_time)
    if magic[:2] == b"\x1f\x8b":
        return _from_text(str(path), _unpacked(path, _read_gzip), names, needs_time)
    return _from_text(str(path), path, names, needs_time)


def _unpacked(path: Path, read: Callable[[Path], T]) -> T:
    """What is in an archive; zipfile and gzip raise whatever the damage leads them to."""
    try:
        return read(path)
    except FastNCFError:
        raise
    except Exception as error:
        raise DataError(f"{path}: the archive is damaged or encrypted ({error})") from None


def _read_gzip(path: Path) -> bytes:
    return gzip.decompress(path.read_bytes())


def _from_text(source: str, content: Path | bytes, names: dict[str, str | None], needs_time: bool) -> Table:
    frame, chosen, kind, locate = read_text(source, content, names, needs_time)
    return _checked(frame, chosen, source, kind, lambda row: f"line {locate(row)}")


def _read_zip(path: Path) -> tuple[str, bytes]:
    """Name and content of the ratings file in an archive, in whichever folder it lies."""
    with zipfile.ZipFile(path) as archive:
        members = [m for m in archive.namelist() if not m.endswith("/") and not m.startswith("__MACOSX")]
        for name in RATINGS_FILES:
            for member in members:
                if Path(member).name == name:
                    return member, archive.read(member)
        if len(members) == 1:
            return members[0], archive.read(members[0])
    raise DataError(
        f"{path}: which of its {len(members)} files holds the ratings? accepted: "
        f"one named {', '.join(RATINGS_FILES)}, or an archive of a single file; found {', '.join(members[:8])}"
    )


def _read_parquet(path: Path, names: dict[str, str | None], needs_time: bool) -> Table:
    try:
        lazy = pl.scan_parquet(path)
        chosen = match_columns(lazy.collect_schema().names(), names, str(path), needs_time)
        frame = lazy.select(pl.col(column).alias(name) for name, column in chosen.items()).collect()
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DataError(f"{path}: the Parquet file is damaged ({str(error).splitlines()[0]})") from None
    return _checked(frame, chosen, str(path), "Parquet")


def _checked(
    frame: pl.DataFrame,
    chosen: dict[str, str],
    source: str,
    kind: str,
    place: Callable[[int], str] = lambda row: f"row {row + 1}",
) -> Table:
    """The table of a frame whose columns are user, item and perhaps time, after every check on its values.

    ``place`` says in words where a row of the frame stands in the source.
    """
    if frame.height == 0:
        raise DataError(f"{source}: holds no row; accepted: at least two users and two items")
    checked = frame.select(_checked_ids(frame[role], chosen[role], source, place) for role in ("user", "item"))
    if "time" in frame.columns:
        checked = checked.with_columns(_checked_times(frame["time"], chosen["time"], source, place))
    found = {"source": source, "format": kind, "columns": chosen, "rows": frame.height}
    return Table(checked, source, found)


def first_true(mask: pl.Series) -> int:
    """Number of the first row where a mask holds."""
    return int(mask.arg_max() or 0)


def _checked_ids(column: pl.Series, name: str, source: str, place: Callable[[int], str]) -> pl.Series:
    """Ids as Int64, UInt64 or String without nulls."""
    accepted = "integers or text"
    if column.dtype in (pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    missing = column.is_null() | (column == "" if column.dtype == pl.String else column.is_null())
    if column.dtype.is_float():
        missing |= column.is_nan()
    if missing.any():
        raise DataError(f"{source}: column {name!r} has no id in {place(first_true(missing))}; accepted: {accepted}")
    if column.dtype.is_float():
        broken = column != column.round()
        if broken.any():
            row = first_true(broken)
            raise DataError(f"{source}: column {name!r} holds {column[row]!r} in {place(row)}; accepted: {accepted}")
        return column.cast(pl.Int64)
    if column.dtype == pl.UInt64 or column.dtype == pl.String:
        return column
    if column.dtype.is_integer():
        return column.cast(pl.Int64)
    raise DataError(f"{source}: column {name!r} holds values of type {column.dtype}; accepted: {accepted}")


def _checked_times(column: pl.Series, name: str, source: str, place: Callable[[int], str]) -> pl.Series:
    """Times as Int64, order kept: integers as they are, dates in microseconds, floats by their bits."""
    missing = column.is_null()
    if column.dtype.is_float():
        missing |= column.is_nan()
    if missing.any():
        raise DataError(
            f"{source}: column {name!r} has no time in {place(first_true(missing))}; accepted: {_ACCEPTED_TIMES}"
        )
    if column.dtype == pl.String:
        return _parse_times(column, name, source, place)
    if column.dtype in (pl.Date, pl.Datetime):
        return column.cast(pl.Datetime("us") if column.dtype == pl.Date else column.dtype).to_physical()
    if column.dtype.is_float():
        bits = (column.cast(pl.Float64) + 0.0).to_numpy().view(np.int64)  # + 0.0 makes -0.0 equal 0.0
        return pl.Series("time", np.where(bits < 0, bits ^ np.int64(2**63 - 1), bits))
    if column.dtype.is_integer():
        try:
            return column.cast(pl.Int64)
        except pl.exceptions.PolarsError:
            pass
    raise DataError(f"{source}: column {name!r} holds values of type {column.dtype}; accepted: {_ACCEPTED_TIMES}")


def _parse_times(column: pl.Series, name: str, source: str, place: Callable[[int], str]) -> pl.Series:
    """Date strings -> microseconds; all of one format."""
    head = column.head(HEAD_ROWS)
    hits = {fmt: head.str.to_datetime(fmt, strict=False, time_unit="us").is_not_null().sum() for fmt in _TIME_FORMATS}
    best = max(hits, key=lambda fmt: hits[fmt])
    parsed = column.str.to_datetime(best, strict=False, time_unit="us")
    broken = parsed.is_null()
    if broken.any():
        row = first_true(broken)
        raise DataError(
            f"{source}: column {name!r} holds {column[row]!r:.60} in {place(row)}; accepted: {_ACCEPTED_TIMES}, "
            f"in one format throughout"
        )
    return parsed.to_physical().alias("time")
