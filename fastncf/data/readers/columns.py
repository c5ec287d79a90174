"""User, item and time columns of a source, found by their names or, without a header, by their positions.

A column's *role* is ``user``, ``item`` or ``time``.
"""

import re

from fastncf.errors import DataError

ALIASES = {
    "user": ("user", "userid", "uid", "customer", "customerid", "visitorid", "reviewerid", "accountid"),
    "item": (
        *("item", "itemid", "iid", "movie", "movieid", "mid", "product", "productid", "asin", "book", "bookid"),
        *("isbn", "track", "trackid", "song", "songid", "artist", "artistid", "business", "businessid"),
        *("venueid", "locationid", "article", "articleid", "gameid", "animeid", "recipeid"),
    ),
    "time": ("time", "timestamp", "datetime", "date", "ts", "unixtime", "unixreviewtime", "eventtime", "createdat"),
}
"""Column names that are recognised for each role, normalized by :func:`normalize_name`, best first."""

NUMBER = re.compile(r"[ \t]*[-+]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?")
"""Text that polars reads as a number: with blanks before it, without any behind it."""

_DATE = re.compile(r"\s*\d{4}[-/]\d")
_MAX_LISTED = 200


def normalize_name(name: str) -> str:
    """Return a column name in lower case, without punctuation and without the ':type' that RecBole appends."""
    return re.sub(r"[^a-z0-9]", "", name.partition(":")[0].lower())


def list_columns(columns: list[str]) -> str:
    """Return the column names for a message, cut off where they are many."""
    listed = ", ".join(columns)
    return listed if len(listed) <= _MAX_LISTED else listed[:_MAX_LISTED] + "..."


def match_columns(columns: list[str], names: dict[str, str | None], source: str, needs_time: bool) -> dict[str, str]:
    """Return the column of each role: a given name first, then the usual ones.

    Args:
        columns: names of all columns of the source.
        names: the given name of each role, or None.
        source: name of the source in messages.
        needs_time: whether a source without a time column is an error.

    Returns:
        A column for ``user``, for ``item`` and, if there is one, for ``time``.

    Raises:
        DataError: a column is missing, ambiguous or used twice.
    """
    listed = list_columns(columns)
    chosen: dict[str, str] = {}
    for role, given in names.items():
        if given is not None and given not in columns:
            raise DataError(f"{source}: has no column {given!r:.80} for {role}=; its columns are {listed}")
        column = given if given is not None else _find_column(columns, role, source)
        if column is not None:
            chosen[role] = column
        elif role != "time":
            raise DataError(
                f"{source}: which column is the {role}? its columns are {listed}; "
                f"name it with {role}=..., or call it {role} or {role}_id"
            )
    if len(set(chosen.values())) < len(chosen):
        raise DataError(f"{source}: one column cannot serve twice: {chosen}; its columns are {listed}")
    for role, column in chosen.items():
        if columns.count(column) > 1:
            raise DataError(
                f"{source}: which column is the {role}? {columns.count(column)} are called {column!r:.80}; "
                f"its columns are {listed}; expected one column of each name that is used"
            )
    if "time" not in chosen and needs_time:
        raise DataError(
            f"{source}: has no time column (its columns are {listed}), which tells the latest interaction of a user; "
            f"name the column with time=..., or choose split='random' to hold out any interaction"
        )
    return chosen


def _find_column(columns: list[str], role: str, source: str) -> str | None:
    """Return the column with the best alias of a role, or None.

    Raises:
        DataError: different columns have that alias.
    """
    for alias in ALIASES[role]:
        matches = [column for column in columns if normalize_name(column) == alias]
        if len(set(matches)) > 1:
            raise DataError(
                f"{source}: which column is the {role}, {' or '.join(map(repr, matches))}? name one with {role}=..."
            )
        if matches:
            return matches[0]
    return None


def guess_columns(
    columns: list[str], rows: list[list[str]], names: dict[str, str | None], source: str, needs_time: bool
) -> dict[str, str]:
    """Return the column of each role in a source without a header.

    Given names come first, then positions: user, item, rating, time. With three columns the third is the time if it
    looks like one.

    Args:
        columns: names of all columns: column_1, column_2 and so on.
        rows: fields of the first rows.
        names: the given name of each role, or None.
        source: name of the source in messages.
        needs_time: whether a source without a time column is an error.

    Raises:
        DataError: there are more than four columns and not all of them are named, or as for :func:`match_columns`.
    """
    if len(columns) > 4 and not (names["user"] and names["item"]):
        raise DataError(
            f"{source}: has {len(columns)} columns and no header ({rows[0]!r:.80}); expected user, item, rating, "
            f"time in this order, or names for them, such as user='column_1', item='column_3', time='column_2'"
        )
    guess = dict(zip(("user", "item"), columns, strict=False))
    times = [n for n in (2, 3) if _looks_like_time([row[n] for row in rows if n < len(row)])]
    if len(columns) == 4 or (len(columns) == 3 and times):
        guess["time"] = columns[2 if times == [2] else -1]
    unnamed = {role: column for role, column in guess.items() if column not in names.values()}
    return match_columns(columns, {role: names[role] or unnamed.get(role) for role in names}, source, needs_time)


def _looks_like_time(values: list[str]) -> bool:
    """Return whether most values are times rather than ratings: dates, or numbers beyond any rating scale."""
    filled = [value for value in values if value.strip()]
    times = sum(float(value) >= 1e6 if NUMBER.fullmatch(value) else bool(_DATE.match(value)) for value in filled)
    return 2 * times > len(filled)
