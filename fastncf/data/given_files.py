"""A test set that is given in files of its own, as He et al. 2017 published theirs.

X. He, L. Liao, H. Zhang, L. Nie, X. Hu and T.-S. Chua, "Neural Collaborative Filtering", WWW 2017.
"""

from dataclasses import dataclass, replace
from typing import Any, Unpack

import numpy as np
import polars as pl

from fastncf.data.ids import Vocabulary
from fastncf.data.interactions import Interactions, choose_users, encode_table
from fastncf.data.readers.candidates import read_candidates
from fastncf.data.readers.item_lists import FORMAT as ITEM_LISTS
from fastncf.data.readers.options import Lookup, Reading
from fastncf.data.readers.table import Table, read_table
from fastncf.errors import ConfigError, DataError, counted


@dataclass(frozen=True)
class GivenTest:
    """A given test set: T held-out interactions, with or without candidates.

    Attributes:
        user: (T,) int32, indices of the users; with candidates each once.
        item: (T,) int32, indices of the items.
        candidates: (T, C) int32, indices of the negatives that each item is ranked against, -1 at the end of rows that
            are shorter than the longest; or None.
        source: name of the test set in messages.
        candidates_source: name of the candidates in messages.
    """

    user: np.ndarray
    item: np.ndarray
    candidates: np.ndarray | None
    source: str
    candidates_source: str = "candidates"


def read_with_test(
    train: Any,
    test: Any,
    candidates: Any | None = None,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    rating: str | None = None,
    weight: str | None = None,
    **reading: Unpack[Reading],
) -> tuple[Interactions, GivenTest]:
    """Read training interactions, a test set and, optionally, its candidates.

    The item vocabulary holds the items of all three, the user vocabulary the users of the training interactions.

    Args:
        train: a file or a frame, see :func:`~fastncf.data.interactions.read_interactions`.
        test: the same, with one row or several for each test user.
        candidates: path of a file with one line for each test row, in any order, see
            :func:`~fastncf.data.readers.candidates.read_candidates`; each test user has one row then.
        user: name of the user column of ``train`` and ``test``.
        item: name of the item column.
        time: name of the time column.
        rating: name of the rating column of ``train``, see :func:`~fastncf.data.interactions.read_interactions`.
        weight: name of the weight column of ``train``.
        **reading: further settings, see :class:`~fastncf.data.readers.options.Reading`.

    Raises:
        DataNotFoundError: there is no such file.
        DataError: the input cannot be used, or a test user has no training interaction.
        ConfigError: the format cannot be used.
    """
    columns: dict[str, Any] = {"user": user, "item": item, "time": time, "needs_time": False}
    table = read_table(train, **columns, rating=rating, weight=weight, frame_name="train", **reading)
    are_lists = table.source_info["format"] == ITEM_LISTS
    if not (user and item):
        _refuse_likely_lists(table)
    lookup = Lookup([role for role in ("user", "item") if table.frame[role].dtype.is_integer()])
    held_out = read_table(test, **columns, lookup=lookup, frame_name="test", are_lists=are_lists, **reading)
    users, items = [table.frame["user"]], [table.frame["item"], held_out.frame["item"]]
    lists = None
    if candidates is not None:
        lists = read_candidates(candidates, reading.get("encoding"))
        items.append(lists["negative"])
    interactions = encode_table(table, Vocabulary.of(users, "user"), Vocabulary.of(items, "item"))
    left_out = {name: count + held_out.left_out[name] for name, count in table.left_out.items()}
    interactions = replace(interactions, left_out=left_out, num_rows=table.num_rows + held_out.num_rows)
    test_user = interactions.users.encode(held_out.frame["user"])
    test_item = interactions.items.encode(held_out.frame["item"])
    _check_test_users(test_user, held_out, table, has_candidates=candidates is not None)
    if lists is None:
        return interactions, GivenTest(test_user, test_item, None, held_out.source)
    matrix = _candidate_matrix(lists, interactions, test_user, test_item, str(candidates))
    return interactions, GivenTest(test_user, test_item, matrix, held_out.source, str(candidates))


def _refuse_likely_lists(train: Table) -> None:
    """Raise a DataError where the rows of a text without names may be lists of items, all of one length."""
    frame, told = train.frame, str(train.source_info["format"])
    is_likely = told.endswith("without header") and all(frame[role].dtype.is_integer() for role in ("user", "item"))
    if is_likely and frame["user"].n_unique() == frame.height > 1:
        raise DataError(
            f"{train.source}: has no header and one row for each of its {frame.height:,} users, so that a row may be "
            f"an interaction or a list of items; expected a row for each interaction, or names for the columns, such "
            f"as user='column_1', item='column_2'"
        )


def draw_test_users(
    interactions: Interactions, test: GivenTest, fraction: float, seed_key: int
) -> tuple[Interactions, GivenTest]:
    """Keep a random share of the users, with their test rows and candidates.

    The users are those that :func:`~fastncf.data.interactions.draw_users` keeps. The catalogue is left with the items
    of their interactions, test rows and candidates.

    Raises:
        ConfigError: the share is fewer than two users, or none of the test set.
    """
    kept = choose_users(len(interactions.users), fraction, seed_key)
    rows = np.isin(test.user, kept)
    if not rows.any():
        raise ConfigError(
            f"user_fraction={fraction}: keeps {len(kept)} of {counted(len(interactions.users), 'user')} and none of "
            f"{test.source}; expected a larger share"
        )
    lists = None if test.candidates is None else test.candidates[rows]
    others = test.item[rows] if lists is None else np.concatenate([test.item[rows], lists[lists >= 0]])
    drawn = interactions.keep_users(kept, others)
    num_rows = len(interactions.user) - len(drawn.user) + int((~rows).sum())
    drawn = drawn.without_rows("num_of_other_users", num_rows)
    new_item = drawn.items.encode(interactions.items.ids)
    user = np.searchsorted(kept, test.user[rows]).astype(np.int32)
    candidates = None if lists is None else np.where(lists >= 0, new_item[lists], np.int32(-1))
    return drawn, replace(test, user=user, item=new_item[test.item[rows]], candidates=candidates)


def _check_test_users(test_user: np.ndarray, test: Table, train: Table, *, has_candidates: bool) -> None:
    """Raise an error if a test user, by index (T,), is not in training (-1), or occurs twice beside candidates."""
    unknown = np.flatnonzero(test_user < 0)
    if unknown.size:
        row = int(unknown[0])
        raise DataError(
            f"{test.source}: user {test.frame['user'][row]!r:.80} ({test.locate(row)}) does not occur in "
            f"{train.source}; expected test users that do"
        )
    if not has_candidates:
        return
    order = np.argsort(test_user, kind="stable")
    repeated = np.flatnonzero(np.diff(test_user[order]) == 0)
    if repeated.size:
        row = int(order[repeated[0] + 1])
        raise DataError(
            f"{test.source}: user {test.frame['user'][row]!r:.80} has a second test item in {test.locate(row)}; "
            f"expected one for each user beside candidates="
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
