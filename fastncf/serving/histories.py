"""Histories of users who are not in the training data, and what they say of these users."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl

from fastncf.config import is_one_of, show
from fastncf.data.csr import balanced_ranges
from fastncf.data.ids import Vocabulary, named_ids
from fastncf.data.readers.options import Lookup, Reading
from fastncf.data.readers.table import read_table
from fastncf.errors import ConfigError, DataError, DataNotFoundError, type_name
from fastncf.kernels.cpu.encoder import HistoryEncoder, encode_histories
from fastncf.threads import run_ranges

_ADVICE = re.compile(rf"\b({'|'.join(Reading.__annotations__)})=(?!None)")


class NewRows(NamedTuple):
    """Interactions with items of a model, of any users, a user's oldest first.

    Attributes:
        users: raw ids of the users, those without rows included.
        items: raw ids of the model's items, and of new ones where they are taken.
        user: (M,) int32, indices of :attr:`users`, ascending.
        item: (M,) int32, indices of :attr:`items`.
        weight: (M,) float64, weights of the interactions, or None.
        counts: of the rows of a table: ``num_rows``, ``num_skipped``, those with other items, and those that were left
            out on request, see :class:`~fastncf.data.readers.parts.Part`.
    """

    users: Vocabulary
    items: Vocabulary
    user: np.ndarray
    item: np.ndarray
    weight: np.ndarray | None
    counts: dict[str, int]


def is_table(source: Any) -> bool:
    """Return whether a source is a frame or a file, not a list of items."""
    return isinstance(source, str | Path | pl.LazyFrame) or hasattr(source, "columns")  # a LazyFrame's takes time


class RowsReading(NamedTuple):
    """Settings by which further interactions of a model are read.

    Attributes:
        settings: those of the fit.
        columns: names of the columns of the fit by their roles, which are taken where the source has them.
        weight: name of the column of weights, or None.
        ties: which row counts as the latest among equal times, as in the split.
    """

    settings: Reading
    columns: Mapping[str, str]
    weight: str | None = None
    ties: str = "first"


def read_rows(
    source: Any,
    users: Vocabulary,
    items: Vocabulary,
    unknown: str,
    name: str,
    reading: RowsReading,
    *,
    takes_new: bool = False,
    choices: tuple[str, ...] = ("error", "skip"),
) -> NewRows:
    """Read interactions from a frame or a file, or take the items of one user.

    Args:
        source: a frame or a file with columns of users, items and, perhaps, times; or raw ids of items, oldest first,
            whose user is called 0.
        users: ids of the model's users.
        items: ids of the model's items.
        unknown: what is done about other items, and about rows that lack a value: ``error``; all other choices leave
            their rows out.
        name: name of the argument in messages.
        reading: how a table is read.
        takes_new: take other items of a table into the vocabulary; then none is unknown.
        choices: what ``unknown`` may be.

    Raises:
        ConfigError: ``unknown`` is none of these.
        DataNotFoundError: there is no such file.
        DataError: the source cannot be used, or with ``error`` holds an item that the model does not know.
    """
    if not is_one_of(unknown, choices):
        raise ConfigError(f"unknown={show(unknown)}: expected {' or '.join(choices)} beside {name}")
    raw: Any
    counts: dict[str, int] = {}
    by_age: tuple[np.ndarray, ...]
    others = " or ".join(f"unknown={choice!r}" for choice in choices if choice != "error")
    if is_table(source):
        options: Reading = {**reading.settings}
        if unknown != "error":
            options["drop_missing"] = True
        if not isinstance(source, str | Path):
            options.pop("encoding", None)
        columns: dict[str, Any] = {"user": None, "item": None, "time": None, "weight": reading.weight}
        known = {role: column for role, column in reading.columns.items() if role not in ("clock", "weight")}
        integer_roles = [ids.noun for ids in (users, items) if ids.ids.dtype.is_integer()]
        lookup = Lookup(integer_roles, known, skips=others, may_be_empty=unknown != "error")
        with _settings_of_the_fit(name):
            table = read_table(source, **columns, needs_time=False, lookup=lookup, **options)
        users = Vocabulary.of([table.frame["user"], *table.others], "user")
        counts = {"num_rows": table.num_rows, **table.left_out}
        if takes_new:
            items = Vocabulary.of([items.ids, table.frame["item"]], "item")
        user, item = users.encode(table.frame["user"]), items.encode(table.frame["item"])
        weight = table.frame["weight"].to_numpy() if "weight" in table.frame.columns else None
        raw, rows = table.frame["item"], np.arange(len(user))
        in_turn = -rows if reading.ties == "first" else rows
        by_age = (in_turn, table.frame["time"].to_numpy()) if "time" in table.frame.columns else (rows,)
    else:
        if isinstance(source, set | frozenset):
            raise DataError(f"{name}: {type_name(source)} has no order; expected a list, the oldest item first")
        remedy = f"; expected an id, or {others}, which leave it out"
        named = named_ids(source, "item", skips_missing=unknown != "error", remedy=remedy)
        users, item = Vocabulary(pl.Series("user", [0]), "user"), items.find(named)
        user, raw, by_age = np.zeros(len(item), dtype=np.int32), named, (np.arange(len(item)),)
        weight = None
    is_known = item >= 0
    if unknown == "error" and not is_known.all():
        row = int(np.argmin(is_known)) + 1
        raise DataError(f"{name}: row {row}: {items.describe_unknown(raw, item)}; expected one of those, or {others}")
    if unknown == "error" and not len(item):
        raise DataError(f"{name}: holds no item of the training data; expected at least one, or {others}")
    ordered = np.lexsort((*by_age, user))
    kept = ordered[is_known[ordered]]
    weight = None if weight is None else weight[kept]
    counts["num_skipped"] = int((~is_known).sum())
    return NewRows(users, items, user[kept], item[kept], weight, counts)


@contextmanager
def _settings_of_the_fit(name: str) -> Iterator[None]:
    """Add to the message of a DataError in the block, where it advises a setting, that none can be given here.

    A text that is no file is told what else a history may be.

    Args:
        name: name of the argument that is read.
    """
    try:
        yield
    except DataNotFoundError as error:
        if name != "history":
            raise
        raise DataNotFoundError(f"{error!s:.380}; expected item ids or the path of a file") from None
    except DataError as error:
        if not _ADVICE.search(str(error)):
            raise
        told = f"these are settings of the fit, which {name} keeps, so that the data have to be written anew"
        raise type(error)(f"{error!s:.380}; {told}") from None


def group_histories(rows: NewRows) -> tuple[NewRows, np.ndarray, np.ndarray]:
    """Return rows without users who have none, and their histories, in which a repeated item counts where it is last.

    Returns:
        The rows; indptr (U + 1,) int64; and items (N,) int32, the oldest of each history first.
    """
    present, user = np.unique(rows.user, return_inverse=True)
    users = Vocabulary(rows.users.decode(present), "user")
    pair = user.astype(np.int64) * (int(rows.item.max(initial=0)) + 1) + rows.item
    last = len(pair) - 1 - np.unique(pair[::-1], return_index=True)[1]
    kept = np.sort(last)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(user[kept], minlength=len(present)))])
    return rows._replace(users=users, user=user.astype(np.int32)), indptr, rows.item[kept]


def encode(encoder: HistoryEncoder, indptr: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Return the states (U, D) float32 after histories: indptr (U + 1,) int64, items (N,) int32 oldest first."""
    out = np.empty((len(indptr) - 1, encoder.gains.shape[1]), dtype=np.float32)
    run_ranges(lambda a, b: encode_histories(a, b, indptr, items, encoder, out), balanced_ranges(indptr))
    return out
