"""Frames that are computed when their columns are needed: lazy ones of the caller, and files of Parquet and Feather."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import polars as pl

from fastncf.data.readers.columns import match_columns
from fastncf.data.readers.files import EXPECTED_SOURCES
from fastncf.data.readers.kinds import PARQUET
from fastncf.data.readers.options import ReadOptions
from fastncf.data.readers.zones import find_offset
from fastncf.errors import DataError, FastNCFError, first_line


def refuse_offset(source: str, content: Path | bytes, kind: str) -> None:
    """Raise a DataError for a file of Parquet or Feather with times of a zone that is an offset such as +05:30."""
    if (zone := find_offset(content, is_parquet=kind == PARQUET)) is not None:
        raise DataError(
            f"{source}: holds times of the zone {zone!r}, which polars does not read; expected UTC, a zone with a "
            f"name, or none: pass the frame that pandas makes of it"
        )


def collect(
    lazy: pl.LazyFrame,
    options: ReadOptions,
    source: str,
    failure: str,
    check: Callable[[list[str]], None] = lambda columns: None,
    partitions: Mapping[str, str | None] = MappingProxyType({}),
) -> tuple[pl.DataFrame, dict[str, str]]:
    """Return the used columns of a lazy frame, named by their roles, and the column of each role.

    Args:
        lazy: the frame.
        options: what the caller says of it.
        source: its name in messages.
        failure: the reason to give where it cannot be computed.
        check: called with the names of the used columns before they are computed.
        partitions: values of further columns, each the same in all rows; the frame may have them as well.

    Raises:
        DataError: the frame cannot be computed.
    """
    with computing(source, failure):
        selected, columns = select_columns(lazy, options, source, partitions)
        check(list(columns.values()))
        return selected.collect(), columns


def select_columns(
    lazy: pl.LazyFrame, options: ReadOptions, source: str, partitions: Mapping[str, str | None]
) -> tuple[pl.LazyFrame, dict[str, str]]:
    """Return a lazy frame of the used columns alone, named by their roles, and the column of each role.

    For the arguments see :func:`collect`.
    """
    names = lazy.collect_schema().names()
    columns = match_columns([name for name in names if name not in partitions], options, source, list(partitions))
    further = {name: value for name, value in partitions.items() if name not in names}
    lazy = lazy.with_columns(pl.lit(value, dtype=pl.String).alias(name) for name, value in further.items())
    return lazy.select(pl.col(column).alias(role) for role, column in columns.items()), columns


@contextmanager
def computing(source: str, failure: str) -> Iterator[None]:
    """Raise a DataError with a reason where a frame cannot be computed in the block."""
    try:
        yield
    except (FastNCFError, MemoryError):
        raise
    except (Exception, pl.exceptions.PanicException) as error:  # a scan runs whatever the user put into it
        raise DataError(f"{source}: {failure} ({first_line(error):.200}); expected {EXPECTED_SOURCES}") from None
