"""One source, a file or a frame, as a checked table of raw ids and times."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Unpack

import polars as pl

from fastncf.data.ids import EXPECTED_IDS, canonical_ids, stand_for_missing
from fastncf.data.named import find_source
from fastncf.data.readers import feather, parquet
from fastncf.data.readers.checks import ColumnName, check_ids, first_true, is_missing
from fastncf.data.readers.columns import match_columns, refuse_doubtful_header
from fastncf.data.readers.dates import DateFormat
from fastncf.data.readers.files import EXPECTED_SOURCES, read_file
from fastncf.data.readers.foreign_objects import wrong_object
from fastncf.data.readers.frames import from_pandas, index_named
from fastncf.data.readers.item_lists import is_item_lists, read_item_lists
from fastncf.data.readers.json_lines import read_json_lines
from fastncf.data.readers.kinds import FEATHER, JSON_LINES, PARQUET
from fastncf.data.readers.limit import refuse_larger
from fastncf.data.readers.names import DURATIONS, normalize_name
from fastncf.data.readers.options import Lookup, Reading, ReadOptions, names_of
from fastncf.data.readers.parts import Origin, Part
from fastncf.data.readers.points import first_from
from fastncf.data.readers.ratings import check_weights, has_at_least
from fastncf.data.readers.room import require_room
from fastncf.data.readers.scans import collect, refuse_offset
from fastncf.data.readers.sequence_columns import has_sequences, read_sequences
from fastncf.data.readers.several import PartFile, join_parts, list_files
from fastncf.data.readers.text import read_text
from fastncf.data.readers.times import TimeColumns, check_likely_times, check_times, combine_times
from fastncf.errors import DataError
from fastncf.processes import require_polars_threads

_LEAST = "at least two users and two items"
_NO_ROWS = pl.DataFrame(schema={"user": pl.Int64, "item": pl.Int64})


@dataclass(frozen=True)
class Table:
    """User, item and time columns of one source, after all checks.

    Attributes:
        frame: columns ``user``, ``item`` and, if there are any, ``time`` and ``weight``, without nulls. Ids are Int32,
            Int64, UInt64, Categorical or String, times Int64, weights Float64.
        source: name of the source in messages.
        source_info: what was recognised, for people: ``source``, ``format``, ``columns`` (the column of each role) and
            ``rows``.
        locate: returns in words where a row of the frame stands in the source, such as "line 3".
        left_out: numbers of rows that were left out on request, see :class:`~fastncf.data.readers.parts.Part`.
        num_rows: number of rows of the source, those that were left out included.
        before: a point in time that was asked for, as the times have it, see
            :func:`~fastncf.data.readers.points.first_from`; None where none was.
        others: users of rows that were left out, see :class:`~fastncf.data.readers.parts.Part`.
    """

    frame: pl.DataFrame
    source: str
    source_info: dict[str, Any]
    locate: Callable[[int], str]
    left_out: dict[str, int]
    num_rows: int
    before: int | None = None
    others: tuple[pl.Series, ...] = ()


def read_table(
    source: Any,
    *,
    user: str | None,
    item: str | None,
    time: str | None,
    needs_time: bool,
    rating: str | None = None,
    weight: str | None = None,
    lookup: Lookup | None = None,
    frame_name: str = "the frame",
    before: str | None = None,
    are_lists: bool = False,
    **reading: Unpack[Reading],
) -> Table:
    """Read the user, item and time columns of a source and check them.

    For the arguments see :func:`fastncf.data.interactions.read_interactions`; ``lookup`` tells that the ids are looked
    up among those of training, and how, ``frame_name`` is what messages call a frame, ``before`` is a point in time to
    find among the times, and ``are_lists`` tells that a line is a list of items, if it may be one.

    Raises:
        DataNotFoundError: there is no such file.
        DataError: the input cannot be used; the message names the source, the column and the first bad row or line.
        ForkError: this process lacks the threads of Polars.
        ConfigError: the given format of times cannot be used.
    """
    require_polars_threads("reading interactions")
    given = {"user": user, "item": item, "time": time, "rating": rating, "weight": weight}
    options = ReadOptions(names_of(given), needs_time, lookup, before=before, are_lists=are_lists, **reading)
    if (several := list_files(source)) is not None:
        return _make_table(_read_files(*several, options), options)
    is_file = isinstance(source, str | Path)
    if is_file:
        frame, origin = _read_file(PartFile(find_source(source), {}), options)
    else:
        frame, origin = _read_frame(source, frame_name, options)
    return _make_table(check_part(frame, origin, options), options)


def _read_frame(source: Any, name: str, options: ReadOptions) -> tuple[pl.DataFrame, Origin]:
    """Return the used columns of a polars or pandas frame, and where they come from."""
    if options.encoding is not None:
        raise DataError(f"{name}: has no encoding; expected a text file beside encoding={options.encoding!r:.40}")
    if isinstance(source, (pl.DataFrame, pl.LazyFrame)):
        frame, columns = collect(source.lazy(), options, name, "cannot be computed")
        return frame, Origin(name, "polars frame", columns)
    if type(source).__module__.partition(".")[0] == "pandas" and hasattr(source, "columns"):
        all_columns = [str(column) for column in source.columns]
        with index_named(source):
            columns = match_columns(all_columns, options, name)
        used = {role: source.iloc[:, all_columns.index(column)] for role, column in columns.items()}
        series = {role: from_pandas(column, is_id=role in ("user", "item")) for role, column in used.items()}
        return pl.DataFrame(series), Origin(name, "pandas frame", columns)
    raise wrong_object(source, EXPECTED_SOURCES)


def _read_file(file: PartFile, options: ReadOptions) -> tuple[pl.DataFrame, Origin]:
    """Return the used columns of a text file, JSON lines, Parquet or Feather, and where they come from."""
    source, content, kind = read_file(file.path, encoding=options.encoding)
    if kind in (PARQUET, FEATHER):
        refuse_offset(source, content, kind)
        lazy = pl.scan_parquet(content, glob=False) if kind == PARQUET else pl.scan_ipc(content, glob=False)

        def check_size(columns: list[str]) -> None:
            """Refuse columns that unpack to too many bytes."""
            size_of = parquet.unpacked_bytes if kind == PARQUET else feather.unpacked_bytes
            refuse_larger(source, size_of(content, columns), "unpacks to")

        frame, columns = collect(lazy, options, source, f"the {kind} file is damaged", check_size, file.partitions)
        return frame, Origin(source, kind, columns)
    require_room(source, content)
    if kind == JSON_LINES:
        text = read_json_lines(source, content, options)
    elif has_sequences(content, options):
        text = read_sequences(source, content, options)
    else:
        text = (read_item_lists if is_item_lists(content, options) else read_text)(source, content, options)
    locate = lambda row: f"line {text.find_line(row)}"  # noqa: E731
    return text.frame, Origin(source, text.format, text.columns, locate, text.layout, text.num_empty)


def _read_files(source: str, files: list[PartFile], options: ReadOptions) -> Part:
    """Return the rows of several files as those of one."""
    options = replace(options, keeps_text=True)
    return join_parts([check_part(*_read_file(file, options), options) for file in files], source)


def check_part(frame: pl.DataFrame, origin: Origin, options: ReadOptions) -> Part:
    """Return the rows of one source, whose ids are checked.

    Raises:
        DataError: an id is not as expected, or the first row may be a header.
    """
    left_out, num_rows = {}, frame.height + origin.num_empty
    others: list[pl.Series] = []
    if options.drop_missing:
        left_out["num_missing"] = num_rows
        missing = [is_missing(values, are_ids=values.name in ("user", "item")) for values in frame]
        kept = pl.select(~pl.any_horizontal(missing)).to_series()
        others += _users_left_out(frame, origin, kept, options)
        frame, origin = keep_rows(frame, origin, kept)
        left_out["num_missing"] -= frame.height
    origin = replace(origin, remedy=options.remedy())
    if options.min_rating is not None:
        left_out["num_low_rated"] = frame.height
        if "rating" in frame.columns:
            name = origin.name_column("rating")
            kept = has_at_least(frame["rating"], options.min_rating, name)
            others += _users_left_out(frame, origin, kept, options)
            frame, origin = keep_rows(frame, origin, kept)
        left_out["num_low_rated"] -= frame.height
    if "weight" in frame.columns:
        frame = frame.with_columns(check_weights(frame["weight"], origin.name_column("weight")).alias("weight"))
    layout, names = origin.layout, options.names
    ids = [check_ids(frame[role], origin.name_column(role)).alias(role) for role in ("user", "item") if frame.height]
    frame = frame.with_columns(ids)
    if not frame.height:
        return Part(frame, origin, left_out, num_rows, tuple(others))
    has_names = layout is None or layout.has_header
    is_found = "time" in origin.columns and names["time"] is None
    if is_found and (not has_names or DURATIONS.fullmatch(normalize_name(origin.columns["time"]))):
        column = origin.columns["time"]
        named = options.hint(f", or time={column!r}")
        check_likely_times(frame["time"], origin.name_column("time"), named)
    if layout is not None and not has_names and not (options.is_looked_up or (names["user"] and names["item"])):
        refuse_doubtful_header(frame, layout.rows, layout.position_of, origin.source)
    return Part(frame, origin, left_out, num_rows, tuple(others))


def _users_left_out(frame: pl.DataFrame, origin: Origin, kept: pl.Series, options: ReadOptions) -> list[pl.Series]:
    """Return the users of rows that are left out, where they are asked for: a column without those that are missing."""
    if kept.all() or options.lookup is None or not options.lookup.may_be_empty:
        return []
    others, origin = keep_rows(frame, origin, ~kept & ~is_missing(frame["user"], are_ids=True))
    return [check_ids(others["user"], origin.name_column("user"))] if others.height else []


def _make_table(part: Part, options: ReadOptions) -> Table:
    """Return the table of rows whose ids are checked, after the check of their times.

    Raises:
        DataError: there is no row, or a time is not as expected.
        ConfigError: the given format of times cannot be used.
    """
    frame, origin, left_out, num_rows, others = _without_missing_words(part, options)
    columns = dict(origin.columns)
    if frame.height == 0 < num_rows and options.lookup is not None and options.lookup.may_be_empty:
        return Table(_NO_ROWS, origin.source, {}, origin.locate, left_out, num_rows, others=others)
    if frame.height == 0:
        raise no_rows(origin.source, left_out, "at least one row" if options.is_looked_up else _LEAST)
    given = DateFormat(options.time_format, options.dayfirst)
    if "clock" in columns:
        names = origin.name_column("time"), origin.name_column("clock")
        hint = options.hint("name one with time=...", "expected one column of times")
        time = combine_times(TimeColumns(frame["time"], frame["clock"], *names), given, hint)
        columns["time"] += f" + {columns.pop('clock')}"
    elif "time" in columns:
        time = check_times(frame["time"], origin.name_column("time"), given)
    checked, before = frame.select("user", "item"), None
    if "time" in columns:
        checked = checked.with_columns(time.to_physical().alias("time"))
        if options.before is not None:
            before = first_from(options.before, frame["time"], time, origin.name_column("time"))
    if "weight" in columns:
        checked = checked.with_columns(frame["weight"])
    source_info = {"source": origin.source, "format": origin.format, "columns": columns, "rows": frame.height}
    return Table(checked, origin.source, source_info, origin.locate, left_out, num_rows, before, others)


def _without_missing_words(part: Part, options: ReadOptions) -> Part:
    """Return rows without those whose user or item is a word such as NULL among integers.

    Raises:
        DataError: there is such a row, and missing values are not left out.
    """
    roles = ("user", "item") if options.lookup is None else options.lookup.integer_roles
    for role in roles:
        frame, origin, left_out, num_rows, others = part
        mask = stand_for_missing(frame[role])
        if mask is None:
            continue
        if not options.drop_missing:
            refuse_words(frame[role], mask, origin.name_column(role))
        num_missing = left_out["num_missing"] + int(mask.sum())
        if role != "user":
            others += tuple(_users_left_out(frame, origin, ~mask, options))
        frame, origin = keep_rows(frame, origin, ~mask)
        frame = frame.with_columns(canonical_ids(frame[role]).alias(role))
        part = Part(frame, origin, {**left_out, "num_missing": num_missing}, num_rows, others)
    if part.others and "user" in roles:
        everyone = pl.concat([ids.cast(pl.String) for ids in (part.frame["user"], *part.others)])
        if (mask := stand_for_missing(everyone)) is not None:
            return part._replace(others=(canonical_ids(everyone.filter(~mask)),))
    return part


def no_rows(source: str, left_out: Mapping[str, int], expected: str = _LEAST) -> DataError:
    """Return the error for a source without rows, or of which all rows were left out."""
    count = sum(left_out.values())
    reason = f" that is not left out ({count} are, for missing values or low ratings)" if count else ""
    return DataError(f"{source}: holds no row{reason}; expected {expected}")


def refuse_words(ids: pl.Series, mask: pl.Series, name: ColumnName) -> None:
    """Raise a DataError for the first id of a mask, a word for a missing value among integers, if there is one."""
    if mask.any():
        word = ids.gather([first_true(mask)]).cast(pl.String).item()
        expected = f"{EXPECTED_IDS}; {word} among integers is a missing value"
        name.refuse(ids, mask, expected)


def keep_rows(frame: pl.DataFrame, origin: Origin, kept: pl.Series) -> tuple[pl.DataFrame, Origin]:
    """Return the rows of a frame for which a mask is true, and where they stand."""
    if kept.all():
        return frame, origin
    numbers = kept.arg_true()
    return frame.filter(kept), replace(origin, locate=lambda row: origin.locate(numbers[row]))
