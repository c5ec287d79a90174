"""Which column of a source is the user, the item and the time."""

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
"""Column names that are recognised, lower case without punctuation."""

NUMBER = re.compile(r"[ \t]*[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
"""What polars reads as a number: blanks before it, none behind it."""

_DATE = re.compile(r"\s*\d{4}[-/]\d")


def plain(name: str) -> str:
    """A column name without case, punctuation and a trailing ':type' as RecBole writes it."""
    return re.sub(r"[^a-z0-9]", "", name.partition(":")[0].lower())


def match_columns(columns: list[str], names: dict[str, str | None], source: str, needs_time: bool) -> dict[str, str]:
    """Which column is the user, the item and the time: given names first, then the usual ones."""
    listed = ", ".join(columns)
    chosen: dict[str, str] = {}
    for role, given in names.items():
        if given is not None:
            if given not in columns:
                raise DataError(f"{source}: has no column {given!r} for {role}=; its columns are {listed}")
            chosen[role] = given
            continue
        matches = next(filter(None, ([c for c in columns if plain(c) == alias] for alias in ALIASES[role])), [])
        if len(set(matches)) > 1:
            raise DataError(
                f"{source}: which column is the {role}, {' or '.join(map(repr, matches))}? name one with {role}=..."
            )
        if matches:
            chosen[role] = matches[0]
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
                f"{source}: which column is the {role}? {columns.count(column)} are called {column!r}; "
                f"its columns are {listed}; accepted: one of each name that is used"
            )
    if "time" not in chosen and needs_time:
        raise DataError(
            f"{source}: has no time column (its columns are {listed}), and the latest interaction of a user cannot "
            f"be told; name the column with time=..., or choose split='random' to hold out any interaction"
        )
    return chosen


def guess_columns(
    columns: list[str], rows: list[list[str]], names: dict[str, str | None], source: str, needs_time: bool
) -> dict[str, str]:
    """The roles of columns without names: given ones first, then by position: user, item, rating, time."""
    if len(columns) > 4 and not (names["user"] and names["item"]):
        raise DataError(
            f"{source}: has {len(columns)} columns and no header ({rows[0]!r:.80}); accepted: user, item, rating, "
            f"time in this order, or names for them, such as user='column_1', item='column_3', time='column_2'"
        )
    guess = dict(zip(("user", "item"), columns, strict=False))
    times = [at for at in (2, 3) if _looks_like_time([row[at] for row in rows if at < len(row)])]
    if len(columns) == 4 or (len(columns) == 3 and times):
        guess["time"] = columns[2 if times == [2] else -1]
    free = {role: column for role, column in guess.items() if column not in names.values()}
    return match_columns(columns, {role: names[role] or free.get(role) for role in names}, source, needs_time)


def _looks_like_time(values: list[str]) -> bool:
    """Whether most of a nameless third column are times, not ratings: dates, or numbers beyond any rating scale."""
    filled = [value for value in values if value.strip()]
    times = sum(float(value) >= 1e6 if NUMBER.fullmatch(value) else bool(_DATE.match(value)) for value in filled)
    return 2 * times > len(filled)
