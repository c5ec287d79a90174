"""User, item and time columns of a source, found by their names or, without a header, by their positions.

A column's *role* is ``user``, ``item``, ``time``, ``clock`` for the time of day beside a ``time`` of whole days, or
``rating``, which is used only to leave out rows, or ``weight``, which is used only where it is named.
Where two columns could have one role, the caller is asked; only a date and a time of day are combined.
"""

import re
from collections.abc import Callable, Sequence

import polars as pl

from fastncf.data.readers.dates import DateFormat, is_date, is_time_of_day, looks_like_time
from fastncf.data.readers.names import CLOCKS, DATES, columns_named, normalize_name
from fastncf.data.readers.options import ReadOptions
from fastncf.errors import DataError, counted

NUMBER = re.compile(r"[ \t]*[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
"""Text that polars reads as a number: with blanks before it, without any behind it."""

_MAX_LISTED = 200
_ROLES = ("user", "item", "time", "clock", "rating", "weight")


def list_columns(columns: list[str]) -> str:
    """Return the column names for a message, cut off where they are many."""
    listed = ", ".join(columns)
    return listed if len(listed) <= _MAX_LISTED else listed[:_MAX_LISTED] + "..."


def match_columns(
    columns: list[str], options: ReadOptions, source: str, partitions: Sequence[str] = ()
) -> dict[str, str]:
    """Return the column of each role: a given name first, then the usual ones.

    Args:
        columns: names of all columns of the source.
        options: what the caller says of them.
        source: name of the source in messages.
        partitions: names of further columns, which are those of folders. They serve where they are named, or where no
            other column does: the folder of a day often repeats a part of the times.

    Returns:
        A column for ``user``, for ``item`` and, if there is one, for ``time``; also for ``clock`` where ``time`` is the
        name of a date and another column may hold the time of day; for ``rating`` if rows are left out by it; and for
        ``weight`` if it is named.

    Raises:
        DataError: a column is missing, ambiguous or used twice.
    """
    columns, in_file = [*columns, *partitions], columns
    listed = list_columns(columns)
    given = options.names_among(columns)
    for role, name in given.items():
        if name not in columns:
            raise DataError(f"{source}: has no column {name!r:.80} for {role}=; its columns are {listed}")
    chosen = dict(given)
    for role in ("user", "item", "time"):
        if role not in given:
            others = [column for column in in_file if column not in given.values()]
            groups = others, in_file, partitions
            chosen |= next((found for group in groups if (found := _find_columns(group, role, source, options))), {})
        if role not in chosen and role != "time":
            raise DataError(
                f"{source}: which column is the {role}? its columns are {listed}; "
                f"{options.hint(f'name it with {role}=..., or ')}call it {role} or {role}_id"
            )
    if options.needs_rating() and "rating" not in chosen:
        chosen |= _find_columns(in_file, "rating", source, options) or _find_columns(
            partitions, "rating", source, options
        )
        if "rating" not in chosen:
            raise DataError(
                f"{source}: has no rating column for min_rating={options.min_rating:g}; its columns are {listed}; name "
                f"one with rating=..."
            )
    _require_one_column_each(chosen, columns, source)
    if "time" not in chosen:
        _refuse_format_of_nothing(options, source)
    if "time" not in chosen and options.needs_time:
        raise DataError(
            f"{source}: has no time column (its columns are {listed}), which tells the latest interaction of a user; "
            f"name the column with time=..., or choose split='random' to hold out any interaction, or "
            f"rows_in_order=True where each user's rows are in the order of time"
        )
    return {role: chosen[role] for role in _ROLES if role in chosen}


def _refuse_format_of_nothing(options: ReadOptions, source: str) -> None:
    """Raise a DataError for a format of times where training has no times."""
    if options.has_date_format() and not options.is_looked_up:
        given = DateFormat(options.time_format, options.dayfirst)
        raise DataError(f"{source}: has no time column for {given}; name the column with time=...")


def _require_one_column_each(chosen: dict[str, str], columns: list[str], source: str) -> None:
    """Raise a DataError for a column that has two roles, or for one of two that have the same name.

    Quantities may be both the weights and what rows are left out by.
    """
    listed = list_columns(columns)
    others = {role: column for role, column in chosen.items() if role != "weight" or column != chosen.get("rating")}
    if len(set(others.values())) < len(others):
        raise DataError(f"{source}: one column cannot serve twice: {chosen}; its columns are {listed}")
    for role, column in chosen.items():
        if columns.count(column) > 1:
            raise DataError(
                f"{source}: which column is the {role}? {columns.count(column)} are called {column!r:.80}; "
                f"its columns are {listed}; expected one column of each name that is used"
            )


def _find_columns(columns: Sequence[str], role: str, source: str, options: ReadOptions) -> dict[str, str]:
    """Return the column of a role by its name, if there is one; a date may have a time of day beside it.

    Raises:
        DataError: several columns have names of the role.
    """
    found = columns_named(role, columns)
    if role == "time" and found:
        dates = [column for column in found if DATES.fullmatch(normalize_name(column))]
        others = [column for column in found if column not in dates]
        clocks = others or [column for column in columns if CLOCKS.fullmatch(normalize_name(column))]
        if len(dates) == 1 and len(clocks) == 1:
            return {"time": dates[0], "clock": clocks[0]}
    if len(found) > 1:
        listed = " or ".join(f"{column!r:.60}" for column in found[:4])
        raise DataError(
            f"{source}: which column is the {role}, {listed}? "
            f"{options.hint(f'name one with {role}=...', 'expected one of them')}; its columns are "
            f"{list_columns(list(columns))}"
        )
    return dict.fromkeys((role,), found[0]) if found else {}


def guess_columns(columns: list[str], rows: list[list[str]], options: ReadOptions, source: str) -> dict[str, str]:
    """Return the column of each role in a source without a header.

    Given names come first, then positions: user, item, rating, time. The third or the fourth column is the time if all
    of it looks like times, see :func:`~fastncf.data.readers.dates.looks_like_time`.

    Args:
        columns: names of all columns: column_1, column_2 and so on.
        rows: fields of the first rows.
        options: what the caller says of the columns.
        source: name of the source in messages.

    Raises:
        DataError: there are more than four columns and not all of them are named, both the third and the fourth may be
            the time, or as for :func:`match_columns`.
    """
    names = options.names_among(columns)
    if len(columns) > 4 and not {"user", "item"} <= names.keys():
        raise DataError(
            f"{source}: has {counted(len(columns), 'column')} and no header ({rows[0]!r:.80}); expected user, "
            f"item, rating, time in this order, or "
            + options.hint(
                "names for them, such as user='column_1', item='column_3', time='column_2'", "a header that names them"
            )
        )
    guess = dict(zip(("user", "item"), columns, strict=False))
    if "time" not in names and len(columns) <= 4:
        guess |= _guess_time(columns, rows, source, options)
    unnamed = {role: column for role, column in guess.items() if column not in names.values()}
    chosen = {role: names.get(role) or unnamed.get(role) for role in _ROLES}
    if chosen["time"] is None:
        _refuse_format_of_nothing(options, source)
    if chosen["time"] is None and options.needs_time:
        if len(columns) < 3:
            raise DataError(
                f"{source}: has no header and {counted(len(columns), 'column')} ({rows[0]!r:.80}), of which "
                f"none is the time; "
                f"choose split='random' to hold out any interaction, or rows_in_order=True where each user's rows are "
                f"in the order of time"
            )
        raise DataError(
            f"{source}: has no header, and neither its third nor its fourth column looks like times ({rows[0]!r:.80}), "
            f"which tell the latest interaction of a user; name the column, such as time='column_{len(columns)}', or "
            f"choose split='random' to hold out any interaction"
        )
    if options.needs_rating() and chosen["rating"] is None:
        chosen["rating"] = next((column for column in columns[2:4] if column not in chosen.values()), None)
        if chosen["rating"] is None:
            raise DataError(
                f"{source}: has no header, and no third or fourth column that may be the rating for "
                f"min_rating={options.min_rating:g}; name one, such as rating='column_3'"
            )
    given = {role: name for role, name in chosen.items() if name is not None}
    for role, name in given.items():
        if name not in columns:
            raise DataError(
                f"{source}: has no column {name!r:.80} for {role}=; its columns are {list_columns(columns)}"
            )
    _require_one_column_each(given, columns, source)
    return given


def _guess_time(columns: list[str], rows: list[list[str]], source: str, options: ReadOptions) -> dict[str, str]:
    """Return which of the third and the fourth column is the time by the first rows, if one is and is not named.

    Raises:
        DataError: both look like times.
    """
    values = {
        column: [row[at] for row in rows if at < len(row) and row[at].strip()] for at, column in enumerate(columns)
    }
    named = options.names_among(columns).values()
    later = [column for column in columns[2:] if column not in named]
    times = [column for column in later if _are_mostly(values[column], looks_like_time)]
    if len(times) > 1:
        raise DataError(
            f"{source}: which column is the time, {' or '.join(times)}? it has no header ({rows[0]!r:.80}); "
            f"{options.hint('name one with time=...', 'expected one column of times')}"
        )
    clocks = [column for column in later if _are_mostly(values[column], lambda text: is_time_of_day(text.strip()))]
    if times and clocks and not any(":" in value for value in values[times[0]][:1]):
        return {"time": times[0], "clock": clocks[0]}
    return {"time": times[0]} if times else {}


def _are_mostly(values: list[str], holds: Callable[[str], bool]) -> bool:
    """Return whether a condition holds for most values; the other ones are refused when all rows are known."""
    return 2 * sum(map(holds, values)) > len(values)


def refuse_doubtful_header(
    frame: pl.DataFrame, rows: list[list[str]], position_of: dict[str, int], source: str
) -> None:
    """Raise an error where the first row of a source without a header may be one.

    It may be one where it has text for an id, no number or date beside the ids, and a user and an item that occur in no
    other row; or numbers alone, if no other row has a number for an id, or if they count the columns.

    Args:
        frame: columns ``user`` and ``item`` of all rows.
        rows: fields of the first rows.
        position_of: position of the user and of the item among them.
        source: name of the source in messages.

    Raises:
        DataError: says how to tell.
    """
    first = [field.strip() for field in rows[0]]
    user, item = position_of["user"], position_of["item"]
    if not (first[user] and first[item]):
        return  # left out as a row that lacks a value
    columns = [frame[role].to_physical() for role in ("user", "item")]
    is_alone = [bool((column == column[0]).sum() == 1) for column in columns]
    ids = [[row[at] for at in (user, item) if at < len(row)] for row in rows]
    others = [field for at, field in enumerate(first) if at not in (user, item)]
    if not _may_be_header(ids, others, is_alone):
        return
    raise DataError(
        f"{source}: is its first row ({', '.join(first)!r:.80}) a header or an interaction? for a header, name the "
        f"columns as it does (user={first[user]!r:.40}, item={first[item]!r:.40}); for an interaction, say "
        f"user='column_{user + 1}', item='column_{item + 1}'"
    )


def _may_be_header(ids: list[list[str]], others: list[str], is_alone: list[bool]) -> bool:
    """Return whether the first row of a source may be its header.

    Args:
        ids: user and item of the first rows.
        others: the other fields of the first one.
        is_alone: whether its user, and its item, occur in no other row.
    """
    first, *below = ids
    if not all(field.strip().isdecimal() for field in first):
        return all(is_alone) and not any(map(_is_value, others))
    if not all(field.isdecimal() for field in others):
        return False
    if below and not any(NUMBER.fullmatch(field) for row in below for field in row):
        return True
    if max(map(len, [*first, *others])) > 9:
        return False  # no number of a column; Python refuses to read those of thousands of digits
    numbers = sorted(map(int, [*first, *others]))
    if numbers == list(range(len(numbers))):
        return any(is_alone)
    return len(numbers) > 2 and numbers == list(range(1, len(numbers) + 1)) and all(is_alone)


def _is_value(field: str) -> bool:
    """Return whether a field holds a number or a date, as no name of a column does."""
    return NUMBER.fullmatch(field) is not None or is_date(field) or is_time_of_day(field)
