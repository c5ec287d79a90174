"""One source, a file or a frame, as a checked table of raw ids and times."""

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import polars as pl

from fastncf.data.named import find_source
from fastncf.data.readers.checks import ColumnName, check_ids, is_missing
from fastncf.data.readers.columns import match_columns, refuse_doubtful_header
from fastncf.data.readers.dates import DateFormat
from fastncf.data.readers.files import EXPECTED_SOURCES, read_file, refuse_larger
from fastncf.data.readers.json_lines import read_json_lines
from fastncf.data.readers.kinds import FEATHER, JSON_LINES, PARQUET
from fastncf.data.readers.options import Reading, ReadOptions
from fastncf.data.readers.parquet import VALUE_BYTES, unpacked_bytes
from fastncf.data.readers.text import read_text
from fastncf.data.readers.times import TimeColumns, check_likely_times, check_times, combine_times
from fastncf.errors import DataError, FastNCFError
from fastncf.processes import require_polars_threads

_FRAME = "the frame"
_FOREIGN_TYPES = ("decimal256", "month_day_nano_interval", "extension", "map", "union", "dense_union", "sparse_union")
"""Types of pyarrow at which polars panics, or of which it makes others."""


@dataclass(frozen=True)
class Table:
    """User, item and time columns of one source, after all checks.

    Attributes:
        frame: columns ``user``, ``item`` and, if there are times, ``time``, without nulls. Ids are Int32, Int64,
            UInt64, Categorical or String, times Int64.
        source: name of the source in messages.
        source_info: what was recognised, for people: ``source``, ``format``, ``columns`` (the column of each role) and
            ``rows``.
        locate: returns in words where a row of the frame stands in the source, such as "line 3".
        num_missing: number of rows that lacked a value and were left out, or None where they would be refused.
    """

    frame: pl.DataFrame
    source: str
    source_info: dict[str, Any]
    locate: Callable[[int], str]
    num_missing: int | None = None


def read_table(
    source: Any,
    *,
    user: str | None,
    item: str | None,
    time: str | None,
    needs_time: bool,
    is_test: bool = False,
    **reading: Unpack[Reading],
) -> Table:
    """Read the user, item and time columns of a source and check them.

    For the arguments see :func:`fastncf.data.interactions.read_interactions`; ``is_test`` tells that the source is a
    test set, whose users are looked up in training.

    Raises:
        DataNotFoundError: there is no such file.
        DataError: the input cannot be used; the message names the source, the column and the first bad row or line.
        ForkError: this process lacks the threads of Polars.
        ConfigError: the given format of times cannot be used.
    """
    require_polars_threads("reading interactions")
    given = {"user": user, "item": item, "time": time}
    names = {role: None if name is None else str(name) for role, name in given.items()}
    options = ReadOptions(names, needs_time, is_test, **reading)
    if isinstance(source, (str, Path)):
        return _read_file(find_source(source), options)
    if encoding := reading.get("encoding"):
        raise DataError(f"{_FRAME}: has no encoding; expected a text file beside encoding={encoding!r:.40}")
    if isinstance(source, (pl.DataFrame, pl.LazyFrame)):
        frame, columns = _collect(source.lazy(), options, _FRAME, "cannot be computed")
        return _check_table(frame, _Origin(_FRAME, "polars frame", columns), options)
    if type(source).__module__.partition(".")[0] == "pandas" and hasattr(source, "columns"):
        all_columns = [str(column) for column in source.columns]
        columns = match_columns(all_columns, options, _FRAME)
        frame = pl.DataFrame(
            {
                role: _from_pandas(source.iloc[:, all_columns.index(column)], is_id=role in ("user", "item"))
                for role, column in columns.items()
            }
        )
        return _check_table(frame, _Origin(_FRAME, "pandas frame", columns), options)
    raise DataError(f"cannot read interactions from a {type(source).__name__}; expected {EXPECTED_SOURCES}")


def _read_file(path: Path, options: ReadOptions) -> Table:
    """Read a text file, JSON lines, Parquet or Feather."""
    source, content, kind = read_file(path, encoding=options.encoding)
    if kind in (PARQUET, FEATHER):
        lazy = pl.scan_parquet(content, glob=False) if kind == PARQUET else pl.scan_ipc(content, glob=False)

        def check_size(columns: list[str]) -> None:
            """Refuse columns that unpack to too many bytes."""
            if kind == PARQUET:
                needed = unpacked_bytes(content, columns)
            else:
                needed = VALUE_BYTES * len(columns) * int(lazy.select(pl.len()).collect().item())
            refuse_larger(source, needed, "unpacks to")

        frame, columns = _collect(lazy, options, source, f"the {kind} file is damaged", check_size)
        return _check_table(frame, _Origin(source, kind, columns), options)
    read = read_json_lines if kind == JSON_LINES else read_text
    text = read(source, content, options)
    is_guess = text.layout is not None and not text.layout.has_header and options.names["time"] is None
    origin = _Origin(
        source,
        text.format,
        text.columns,
        lambda row: f"line {text.find_line(row)}",
        num_empty=text.num_empty,
        is_time_guessed=is_guess and "time" in text.columns,
    )
    table = _check_table(text.frame, origin, options)
    is_named = options.is_test or (options.names["user"] and options.names["item"])
    if text.layout is not None and not (text.layout.has_header or is_named):
        refuse_doubtful_header(table.frame, text.layout.rows, text.layout.position_of, source)
    return table


def _collect(
    lazy: pl.LazyFrame,
    options: ReadOptions,
    source: str,
    failure: str,
    check: Callable[[list[str]], None] = lambda columns: None,
) -> tuple[pl.DataFrame, dict[str, str]]:
    """Return the used columns of a lazy frame, named by their roles, and the column of each role.

    Args:
        lazy: the frame.
        options: what the caller says of it.
        source: its name in messages.
        failure: the reason to give where it cannot be computed.
        check: called with the names of the used columns before they are computed.

    Raises:
        DataError: the frame cannot be computed.
    """
    try:
        columns = match_columns(lazy.collect_schema().names(), options, source)
        check(list(columns.values()))
        return lazy.select(pl.col(column).alias(role) for role, column in columns.items()).collect(), columns
    except (FastNCFError, MemoryError):
        raise
    except (Exception, pl.exceptions.PanicException) as error:  # a scan runs whatever the user put into it
        reason = str(error).splitlines()[0]
        raise DataError(f"{source}: {failure} ({reason:.200}); expected {EXPECTED_SOURCES}") from None


def _from_pandas(column: Any, *, is_id: bool) -> pl.Series:
    """Return a pandas column as a polars one. ``pl.from_pandas`` would need pyarrow for text.

    Ids of several types, NumPy's scalars and dates are left as objects: polars would make other text of them, or round
    them.
    """
    if type(column.dtype).__name__ == "ArrowDtype" or getattr(column.dtype, "storage", None) == "pyarrow":
        return _from_arrow(column.array.__arrow_array__())
    if getattr(column.dtype, "tz", None) is not None:
        column = column.dt.tz_convert(None)
    if column.dtype.kind == "M" and column.dt.unit == "s":  # polars has no such unit
        column = column.dt.as_unit("ms")
    if column.dtype.kind in "iufMm":
        missing = column.isna()
        if not missing.any():
            return pl.Series(column.to_numpy())
        if column.dtype.kind in "iu":
            column = column.astype(object)
    values = column.astype(object)
    values = values.where(values.notna(), None).tolist()
    types = set(map(type, values)) - {type(None)}
    is_mixed = len(types) > 1 or any(issubclass(kind, np.generic | dt.datetime) for kind in types)
    if is_mixed:
        return pl.Series(values, dtype=pl.Object)
    try:
        return pl.Series(values, strict=False, dtype=None if values else pl.String)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError):
        return pl.Series(values, dtype=pl.Object)


@dataclass(frozen=True)
class _Origin:
    """Where a frame of user, item and time columns comes from.

    Attributes:
        source: name of the source in messages.
        format: kind of the source, for people.
        columns: name of the column of each role.
        locate: returns in words where a row of the frame stands in the source.
        num_empty: number of rows without any value, which are not in the frame.
        is_time_guessed: whether the time column is only known by its position.
    """

    source: str
    format: str
    columns: dict[str, str]
    locate: Callable[[int], str] = lambda row: f"row {row + 1}"
    num_empty: int = 0
    is_time_guessed: bool = False

    def name_column(self, role: str) -> ColumnName:
        """Return the column of a role for messages."""
        return ColumnName(self.source, self.columns[role], self.locate)


def _from_arrow(values: Any) -> pl.Series:
    """Return an array of pyarrow as a polars column; one of a type that polars does not have as objects."""
    is_foreign = str(values.type).startswith(_FOREIGN_TYPES)
    return pl.Series(values.to_pylist(), dtype=pl.Object) if is_foreign else pl.Series(pl.from_arrow(values))


def _check_table(frame: pl.DataFrame, origin: _Origin, options: ReadOptions) -> Table:
    """Return the table of a frame of user, item and time columns, after all checks of their values.

    Raises:
        DataError: the frame is empty, or a value is not as expected.
        ConfigError: the given format of times cannot be used.
    """
    num_rows = frame.height + origin.num_empty
    if options.drop_missing:
        frame, origin = _drop_missing(frame, origin)
    source, columns = origin.source, dict(origin.columns)
    if frame.height == 0:
        without = f" without a missing value ({num_rows} have one)" if num_rows else ""
        raise DataError(f"{source}: holds no row{without}; expected at least two users and two items")
    if origin.is_time_guessed:
        check_likely_times(frame["time"], origin.name_column("time"))
    given = DateFormat(options.time_format, options.dayfirst)
    checked = [check_ids(frame[role], origin.name_column(role)).alias(role) for role in ("user", "item")]
    if "clock" in columns:
        names = origin.name_column("time"), origin.name_column("clock")
        time = combine_times(TimeColumns(frame["time"], frame["clock"], *names), given)
        columns["time"] += f" + {columns.pop('clock')}"
    elif "time" in columns:
        time = check_times(frame["time"], origin.name_column("time"), given)
    if "time" in columns:
        checked.append(time.alias("time"))
    source_info = {"source": source, "format": origin.format, "columns": columns, "rows": frame.height}
    return Table(
        pl.DataFrame(checked),
        source,
        source_info,
        origin.locate,
        num_rows - frame.height if options.drop_missing else None,
    )


def _drop_missing(frame: pl.DataFrame, origin: _Origin) -> tuple[pl.DataFrame, _Origin]:
    """Return the rows of a frame that lack no value, and where they stand."""
    kept = pl.select(~pl.any_horizontal([is_missing(column) for column in frame])).to_series()
    if kept.all():
        return frame, origin
    numbers = kept.arg_true()
    return frame.filter(kept), replace(origin, locate=lambda row: origin.locate(numbers[row]))
