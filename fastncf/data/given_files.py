"""A test set that is given in files of its own, as He et al. 2017 published theirs.

X. He, L. Liao, H. Zhang, L. Nie, X. Hu and T.-S. Chua, "Neural Collaborative Filtering", WWW 2017.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from fastncf.data.ids import Vocabulary, describe_ids, to_canonical_dtype
from fastncf.data.interactions import Interactions, encode_table
from fastncf.data.readers.candidates import read_candidates
from fastncf.data.readers.table import Table, read_table
from fastncf.errors import DataError


@dataclass(frozen=True)
class GivenTest:
    """A given test set: T held-out interactions, with or without candidates.

    Attributes:
        user: (T,) int32, indices of the users, each once.
        item: (T,) int32, indices of the items.
        candidates: (T, C) int32, indices of the negatives that each item is ranked against, -1 at the end of rows that
            are shorter than the longest; or None.
        source: name of the test set in messages.
    """

    user: np.ndarray
    item: np.ndarray
    candidates: np.ndarray | None
    source: str


def read_with_test(
    train: Any,
    test: Any,
    candidates: Any | None = None,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
) -> tuple[Interactions, GivenTest]:
    """Read training interactions, a test set and, optionally, its candidates.

    The item vocabulary holds the items of all three, the user vocabulary the users of the training interactions.

    Args:
        train: a file or a frame, see :func:`~fastncf.data.interactions.read_interactions`.
        test: the same, with one row for each test user.
        candidates: path of a file with one line for each test row, in any order, see
            :func:`~fastncf.data.readers.candidates.read_candidates`.
        user: name of the user column of ``train`` and ``test``.
        item: name of the item column.
        time: name of the time column.

    Raises:
        DataNotFoundError: there is no such file.
        DataError: the input cannot be used, or a test user has no training interaction.
    """
    table = read_table(train, user=user, item=item, time=time, needs_time=False)
    held_out = read_table(test, user=user, item=item, time=time, needs_time=False)
    users, items = table.frame["user"], table.frame["item"]
    test_users, test_items = _cast_like(table, held_out, "user"), _cast_like(table, held_out, "item")
    item_columns = [items, test_items]
    lists = None
    if candidates is not None:
        user_dtype, item_dtype = (to_canonical_dtype(column.head(0)).dtype for column in (users, items))
        lists = read_candidates(candidates, user_dtype, item_dtype)
        item_columns.append(lists["negative"])
    interactions = encode_table(table, Vocabulary.of([users], "user"), Vocabulary.of(item_columns, "item"))
    test_user = interactions.users.encode(test_users)
    test_item = interactions.items.encode(test_items)
    _check_test_users(test_user, held_out, table)
    matrix = None
    if lists is not None:
        matrix = _candidate_matrix(lists, interactions, test_user, test_item, str(candidates))
    return interactions, GivenTest(test_user, test_item, matrix, held_out.source)


def _cast_like(train: Table, test: Table, role: str) -> pl.Series:
    """Return the ids of the test table in the dtype of the training ids.

    Integers may become text or wider integers; text stays text.

    Raises:
        DataError: the ids of the two tables are not of the same kind.
    """
    ids, like = to_canonical_dtype(test.frame[role]), to_canonical_dtype(train.frame[role].head(0))
    if ids.dtype == like.dtype or ids.dtype != pl.String:
        cast = ids.cast(like.dtype, strict=False)
        if not cast.has_nulls():
            return cast
    raise DataError(
        f"{test.source}: its {role} ids are {describe_ids(ids)}, those of {train.source} are {describe_ids(like)}; "
        f"expected the same kind in both"
    )


def _check_test_users(test_user: np.ndarray, test: Table, train: Table) -> None:
    """Raise an error if a test user, by index (T,), is not in training (-1) or occurs twice."""
    unknown = np.flatnonzero(test_user < 0)
    if unknown.size:
        row = int(unknown[0])
        raise DataError(
            f"{test.source}: user {test.frame['user'][row]!r:.80} in {test.locate(row)} has no interaction in "
            f"{train.source}; expected test users that occur in training"
        )
    order = np.argsort(test_user, kind="stable")
    repeated = np.flatnonzero(np.diff(test_user[order]) == 0)
    if repeated.size:
        row = int(order[repeated[0] + 1])
        raise DataError(
            f"{test.source}: user {test.frame['user'][row]!r:.80} has a second test item in {test.locate(row)}; "
            f"expected one for each user"
        )


def _candidate_matrix(
    lists: pl.DataFrame, interactions: Interactions, test_user: np.ndarray, test_item: np.ndarray, source: str
) -> np.ndarray:
    """Return the negatives of each test row as item indices.

    Args:
        lists: output of :func:`~fastncf.data.readers.candidates.read_candidates`.
        interactions: the training interactions, with the items of the lists in their vocabulary.
        test_user: (T,) int32.
        test_item: (T,) int32.
        source: name of the lists in messages.

    Returns:
        (T, C) int32, -1 at the end of rows that are shorter than the longest.

    Raises:
        DataError: a list belongs to no test row, or a test row has none or two.
    """
    heads = lists.unique("line", maintain_order=True, keep="first")
    list_user = interactions.users.encode(heads["user"])
    list_item = interactions.items.encode(heads["item"])
    test_item_of_user = np.full(len(interactions.users), -1, dtype=np.int64)
    test_item_of_user[test_user] = test_item
    stray = (list_user < 0) | (list_item < 0) | (test_item_of_user[list_user] != list_item)
    stray |= ~heads.select(first=pl.struct("user", "item").is_first_distinct())["first"].to_numpy()
    if stray.any():
        user, item, line, _ = heads.row(int(np.argmax(stray)))
        raise DataError(
            f"{source}: line {line} is a list for user {user!r:.80} and item {item!r:.80}, which is no test row or has "
            f"a list already; expected one list for each test row"
        )
    list_of_user = np.full(len(interactions.users), -1, dtype=np.int64)
    list_of_user[list_user] = np.arange(len(list_user))
    list_of_test_row = list_of_user[test_user]
    missing = np.flatnonzero(list_of_test_row < 0)
    if missing.size:
        user = interactions.users.ids[int(test_user[missing[0]])]
        item = interactions.items.ids[int(test_item[missing[0]])]
        raise DataError(
            f"{source}: has no list for test user {user!r:.80} and item {item!r:.80}; expected one for each test row"
        )
    negatives = interactions.items.encode(lists["negative"])
    _, start, length = np.unique(lists["line"].to_numpy(), return_index=True, return_counts=True)
    column = np.arange(len(negatives)) - np.repeat(start, length)
    matrix = np.full((len(start), int(length.max())), -1, dtype=np.int32)
    matrix[np.repeat(np.arange(len(start)), length), column] = negatives
    return matrix[list_of_test_row]
