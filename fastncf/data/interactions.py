"""Interactions with contiguous int32 ids and the vocabularies of the raw ones."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fastncf.data.ids import Vocabulary, canonical_dtype, kind_of_ids
from fastncf.data.readers.table import Table, first_true, read_table
from fastncf.errors import ConfigError, DataError, DataNotFoundError


@dataclass(frozen=True)
class Interactions:
    """Interactions with contiguous ids, one for each row that was read, in its order.

    Attributes:
        user: (N,) int32.
        item: (N,) int32.
        time: (N,) int64, larger is later (only the order counts), or None.
        users: raw user ids.
        items: raw item ids.
        source: what to call the source in a message.
        found: what was recognised in the source, for people.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray | None
    users: Vocabulary
    items: Vocabulary
    source: str
    found: dict[str, Any]

    def keep_users(self, kept: np.ndarray) -> "Interactions":
        """The interactions of the users in ``kept`` (ascending codes), with ids made contiguous again."""
        new_user = np.full(len(self.users), -1, dtype=np.int32)
        new_user[kept] = np.arange(len(kept), dtype=np.int32)
        rows = new_user[self.user] >= 0
        item = self.item[rows]
        present = np.zeros(len(self.items), dtype=bool)
        present[item] = True
        new_item = np.cumsum(present, dtype=np.int32) - 1
        return Interactions(
            user=new_user[self.user[rows]],
            item=new_item[item].astype(np.int32),
            time=None if self.time is None else self.time[rows],
            users=Vocabulary(self.users.decode(kept), "user"),
            items=Vocabulary(self.items.decode(np.flatnonzero(present)), "item"),
            source=self.source,
            found=self.found,
        )


@dataclass(frozen=True)
class GivenTest:
    """A test set that comes from a file: T held-out interactions, perhaps with their candidates.

    Attributes:
        user: (T,) int32, each user once.
        item: (T,) int32.
        candidates: (T, C) int32, -1 where a list is shorter than the longest, or None.
        source: what to call it in a message.
    """

    user: np.ndarray
    item: np.ndarray
    candidates: np.ndarray | None
    source: str


def read_interactions(
    source: Any, *, user: str | None = None, item: str | None = None, time: str | None = None, needs_time: bool = True
) -> Interactions:
    """Read interactions from a file or a frame.

    Args:
        source: path of a CSV or TSV file in any MovieLens dialect (with or without header, separated by
            ``::``, tab, comma, semicolon, bar or space; plain, gzip or zip), or of a Parquet file; or a
            polars frame (eager or lazy) or a pandas frame.
        user: name of the user column where it is not one of the usual ones; without a header the columns
            are called column_1, column_2 and so on.
        item: the same for the item column.
        time: the same for the time column.
        needs_time: whether a source without times is an error.

    Raises:
        DataNotFoundError: there is no such file.
        DataError: the input cannot be used; names the source, the column and the first bad row.
    """
    table = read_table(source, user=user, item=item, time=time, needs_time=needs_time)
    return _encode(table, Vocabulary.of([table.frame["user"]], "user"), Vocabulary.of([table.frame["item"]], "item"))


def read_with_test(
    train: Any,
    test: Any,
    candidates: Any | None = None,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
) -> tuple[Interactions, GivenTest]:
    """Read training interactions, a test set and (optionally) its candidates in the format of He et al. 2017.

    The item vocabulary holds the items of all three. ``candidates`` is a path to lines of
    ``(user,item)<tab>negative<tab>negative...``, one for each test row, in any order.

    Raises:
        DataNotFoundError: there is no such file.
        DataError: the input cannot be used, or a test user has no training interaction.
    """
    table = read_table(train, user=user, item=item, time=time, needs_time=False)
    held_out = read_table(test, user=user, item=item, time=time, needs_time=False)
    users, items = table.frame["user"], table.frame["item"]
    test_users, test_items = _same_kind(held_out, "user", table), _same_kind(held_out, "item", table)
    item_columns = [items, test_items]
    lists = None
    if candidates is not None:
        lists = _read_candidates(candidates, canonical_dtype(users.head(0)).dtype, canonical_dtype(items.head(0)).dtype)
        item_columns.append(lists["negative"])
    interactions = _encode(table, Vocabulary.of([users], "user"), Vocabulary.of(item_columns, "item"))
    test_user = interactions.users.encode(test_users)
    test_item = interactions.items.encode(test_items)
    if (unknown := np.flatnonzero(test_user < 0)).size:
        raw = held_out.frame["user"][int(unknown[0])]
        raise DataError(
            f"{held_out.source}: user {raw!r} in {held_out.place(int(unknown[0]))} has no interaction in "
            f"{table.source}; accepted: test users that occur in training"
        )
    order = np.argsort(test_user, kind="stable")
    repeated = np.flatnonzero(np.diff(test_user[order]) == 0)
    if repeated.size:
        row = int(order[repeated[0] + 1])
        raise DataError(
            f"{held_out.source}: user {held_out.frame['user'][row]!r} has a second test item in "
            f"{held_out.place(row)}; "
            f"accepted: one for each user"
        )
    matrix = None
    if lists is not None:
        matrix = _candidate_matrix(lists, interactions, test_user, test_item, str(candidates))
    return interactions, GivenTest(test_user, test_item, matrix, held_out.source)


def _encode(table: Table, users: Vocabulary, items: Vocabulary) -> Interactions:
    for vocabulary in (users, items):
        if len(vocabulary) < 2:
            raise DataError(
                f"{table.source}: column {table.found['columns'][vocabulary.noun]!r} holds only one "
                f"{vocabulary.noun} ({vocabulary.ids[0]!r}); accepted: at least two"
            )
        if len(vocabulary) >= 2**31:
            raise DataError(f"{table.source}: {len(vocabulary)} {vocabulary.noun}s; accepted: fewer than 2**31")
    return Interactions(
        user=users.encode(table.frame["user"]),
        item=items.encode(table.frame["item"]),
        time=table.frame["time"].to_numpy() if "time" in table.frame.columns else None,
        users=users,
        items=items,
        source=table.source,
        found=table.found,
    )


def _same_kind(table: Table, name: str, like: Table) -> pl.Series:
    """The ids of one table in the data type of another's: integers may become text or wider, text stays text."""
    ids, wanted = canonical_dtype(table.frame[name]), canonical_dtype(like.frame[name].head(0))
    if ids.dtype == wanted.dtype or ids.dtype != pl.String:
        typed = ids.cast(wanted.dtype, strict=False)
        if not typed.has_nulls():
            return typed
    raise DataError(
        f"{table.source}: its {name} ids are {kind_of_ids(ids)}, those of {like.source} are {kind_of_ids(wanted)}; "
        f"accepted: the same kind in both"
    )


def _read_candidates(path: Any, user_type: pl.DataType, item_type: pl.DataType) -> pl.DataFrame:
    """He et al.'s negatives as a frame of one row a candidate: user, item, row (of the file), negative."""
    if not isinstance(path, (str, Path)):
        raise DataError(f"candidates: expected the path of a file, got a {type(path).__name__}")
    accepted = "(user,item), then the negatives, separated by tabs"
    try:
        lines = Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        raise DataNotFoundError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error!s:.200}); accepted: a file of lines {accepted}") from None
    rows: list[int] = []
    keys: list[tuple[str, str]] = []
    negatives: list[list[str]] = []
    for number, raw in enumerate(lines, start=1):
        try:
            line = raw.decode().strip()
        except UnicodeDecodeError:
            raise DataError(f"{path}: line {number} is not UTF-8 text; accepted: lines of {accepted}") from None
        if not line:
            continue
        head, *rest = line.split("\t")
        match = re.fullmatch(r"\(\s*'?(.*?)'?\s*,\s*'?(.*?)'?\s*\)", head.strip())
        if match is None or not rest:
            raise DataError(f"{path}: line {number} starts with {head!r:.60}; accepted: {accepted}")
        rows.append(number)
        keys.append((match[1], match[2]))
        negatives.append(rest)
    if not rows:
        raise DataError(f"{path}: holds no candidate list; accepted: lines of {accepted}")
    lists = pl.DataFrame(
        {"user": [k[0] for k in keys], "item": [k[1] for k in keys], "row": rows, "negative": negatives}
    ).explode("negative")
    for name, kind in (("user", user_type), ("item", item_type), ("negative", item_type)):
        typed = lists[name].str.strip_chars().cast(kind, strict=False)
        missing = typed.is_null() | (lists[name].str.strip_chars() == "")
        if missing.any():
            at = first_true(missing)
            raise DataError(
                f"{path}: line {lists['row'][at]} holds the {name} {lists[name][at]!r:.60}; accepted: ids of "
                f"the kind that the training data hold ({'text' if kind == pl.String else 'integers'})"
            )
        lists = lists.with_columns(typed.alias(name))
    return lists


def _candidate_matrix(
    lists: pl.DataFrame, interactions: Interactions, test_user: np.ndarray, test_item: np.ndarray, source: str
) -> np.ndarray:
    """Candidates (T, C) int32 in the order of the test rows, -1 where a list is short."""
    rows = lists.unique("row", maintain_order=True, keep="first")
    list_user = interactions.users.encode(rows["user"])
    list_item = interactions.items.encode(rows["item"])
    wanted = np.full(len(interactions.users), -1, dtype=np.int64)
    wanted[test_user] = test_item
    stray = (list_user < 0) | (list_item < 0) | (wanted[list_user] != list_item)
    stray |= ~rows.select(first=pl.struct("user", "item").is_first_distinct())["first"].to_numpy()
    if stray.any():
        user, item, line, _ = rows.row(int(np.argmax(stray)))
        raise DataError(
            f"{source}: line {line} is a list for user {user!r} and item {item!r}, which is no test row or has a "
            f"list before; accepted: one list for each test row"
        )
    position = np.full(len(interactions.users), -1, dtype=np.int64)
    position[list_user] = np.arange(len(list_user))
    position = position[test_user]
    mismatch = np.flatnonzero(position < 0)
    if mismatch.size:
        raw_user = interactions.users.ids[int(test_user[mismatch[0]])]
        raw_item = interactions.items.ids[int(test_item[mismatch[0]])]
        raise DataError(
            f"{source}: has no list for test user {raw_user!r} and item {raw_item!r}; accepted: one for each"
        )
    codes = interactions.items.encode(lists["negative"])
    _, start, length = np.unique(lists["row"].to_numpy(), return_index=True, return_counts=True)
    column = np.arange(len(codes)) - np.repeat(start, length)
    matrix = np.full((len(start), int(length.max())), -1, dtype=np.int32)
    matrix[np.repeat(np.arange(len(start)), length), column] = codes
    return matrix[position]


def draw_users(interactions: Interactions, fraction: float, seed_key: int) -> Interactions:
    """Keep a share of the users, rounded down, drawn without replacement; at least two must remain.

    Raises:
        ConfigError: the share is less than two users.
    """
    count = int(len(interactions.users) * fraction)
    if count < 2:
        raise ConfigError(
            f"user_fraction={fraction}: keeps {count} of {len(interactions.users)} users; expected at least two"
        )
    generator = np.random.Generator(np.random.Philox(key=seed_key))
    kept = np.sort(generator.choice(len(interactions.users), size=count, replace=False))
    return interactions.keep_users(kept)
