"""One source, a file or a frame, as a checked table of raw ids and times."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fastncf.data.named import find_source
from fastncf.data.readers.checks import ColumnName, check_ids
from fastncf.data.readers.columns import match_columns
from fastncf.data.readers.files import EXPECTED_SOURCES, read_file
from fastncf.data.readers.json_lines import read_json_lines
from fastncf.data.readers.kinds import JSON_LINES, PARQUET
from fastncf.data.readers.text import read_text
from fastncf.data.readers.times import check_times
from fastncf.errors import DataError
from fastncf.processes import require_polars_threads

_FRAME = "the frame"


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
    """

    frame: pl.DataFrame
    source: str
    source_info: dict[str, Any]
    locate: Callable[[int], str]


def read_table(source: Any, *, user: str | None, item: str | None, time: str | None, needs_time: bool) -> Table:
    """Read the user, item and time columns of a source and check them.

    For the arguments see :func:`fastncf.data.interactions.read_interactions`.

    Raises:
        DataNotFoundError: there is no such file.
        DataError: the input cannot be used; the message names the source, the column and the first bad row or line.
        ForkError: this process lacks the threads of Polars.
    """
    require_polars_threads("reading interactions")
    given = {"user": user, "item": item, "time": time}
    names = {role: None if name is None else str(name) for role, name in given.items()}
    if isinstance(source, (str, Path)):
        return _read_file(find_source(source), names, needs_time)
    if isinstance(source, (pl.DataFrame, pl.LazyFrame)):
        frame, columns = _collect(source.lazy(), names, needs_time, _FRAME, "cannot be computed")
        return _check_table(frame, columns, _FRAME, "polars frame")
    if type(source).__module__.partition(".")[0] == "pandas" and hasattr(source, "columns"):
        all_columns = [str(column) for column in source.columns]
        columns = match_columns(all_columns, names, _FRAME, needs_time)
        frame = pl.DataFrame(
            {
                role: _from_pandas(source.iloc[:, all_columns.index(column)], is_id=role != "time")
                for role, column in columns.items()
            }
        )
        return _check_table(frame, columns, _FRAME, "pandas frame")
    raise DataError(f"cannot read interactions from a {type(source).__name__}; expected {EXPECTED_SOURCES}")


def _read_file(path: Path, names: dict[str, str | None], needs_time: bool) -> Table:
    """Read a text file, JSON lines or Parquet."""
    source, content, kind = read_file(path)
    if kind == PARQUET:
        lazy = pl.scan_parquet(content, glob=False)
        frame, columns = _collect(lazy, names, needs_time, source, "the Parquet file is damaged")
        return _check_table(frame, columns, source, kind)
    read = read_json_lines if kind == JSON_LINES else read_text
    frame, columns, text_format, find_line = read(source, content, names, needs_time)
    return _check_table(frame, columns, source, text_format, lambda row: f"line {find_line(row)}")


def _collect(
    lazy: pl.LazyFrame, names: dict[str, str | None], needs_time: bool, source: str, failure: str
) -> tuple[pl.DataFrame, dict[str, str]]:
    """Return the used columns of a lazy frame, named by their roles, and the column of each role.

    Raises:
        DataError: the frame cannot be computed, for which ``failure`` is the reason given.
    """
    try:
        columns = match_columns(lazy.collect_schema().names(), names, source, needs_time)
        return lazy.select(pl.col(column).alias(role) for role, column in columns.items()).collect(), columns
    except DataError:
        raise
    except (Exception, pl.exceptions.PanicException) as error:  # a scan runs whatever the user put into it
        reason = str(error).splitlines()[0]
        raise DataError(f"{source}: {failure} ({reason:.200}); expected {EXPECTED_SOURCES}") from None


def _from_pandas(column: Any, *, is_id: bool) -> pl.Series:
    """Return a pandas column as a polars one. ``pl.from_pandas`` would need pyarrow for text.

    Ids of several types and NumPy's scalars are left as objects: polars would make other text of them, or round them.
    """
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
    types = set(map(type, values)) - {type(None)}
    is_mixed = is_id and (len(types) > 1 or any(issubclass(kind, np.generic) for kind in types))
    if is_mixed or (bool in types and len(types) > 1):  # polars would take True for 1
        return pl.Series(values, dtype=pl.Object)
    try:
        return pl.Series(values, strict=False, dtype=None if values else pl.String)
    except (pl.exceptions.PolarsError, TypeError, ValueError, OverflowError):
        return pl.Series(values, dtype=pl.Object)


def _check_table(
    frame: pl.DataFrame,
    columns: dict[str, str],
    source: str,
    source_format: str,
    locate: Callable[[int], str] = lambda row: f"row {row + 1}",
) -> Table:
    """Return the table of a frame of user, item and time columns, after all checks of their values.

    Raises:
        DataError: the frame is empty, or a value is not as expected.
    """
    if frame.height == 0:
        raise DataError(f"{source}: holds no row; expected at least two users and two items")
    checks = {"user": check_ids, "item": check_ids, "time": check_times}
    checked = pl.DataFrame(
        [checks[role](frame[role], ColumnName(source, columns[role], locate)).alias(role) for role in frame.columns]
    )
    source_info = {"source": source, "format": source_format, "columns": columns, "rows": frame.height}
    return Table(checked, source, source_info, locate)
