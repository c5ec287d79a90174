"""Interactions as indices of users and items, with the vocabularies of their raw ids."""

from dataclasses import dataclass, field, replace
from typing import Any, Unpack

import numpy as np

from fastncf.data.ids import Vocabulary
from fastncf.data.readers.options import Reading
from fastncf.data.readers.table import Table, read_table
from fastncf.errors import ConfigError, DataError, counted
from fastncf.mapped import empty_beside


@dataclass(frozen=True)
class Interactions:
    """Interactions, one for each of the M rows of the source, in its order.

    Attributes:
        user: (M,) int32, indices of the users.
        item: (M,) int32, indices of the items.
        time: (M,) int64, larger is later (only the order counts), or None.
        users: raw ids of the U users.
        items: raw ids of the I items.
        source: name of the source in messages.
        source_info: what was recognised in the source, see :class:`~fastncf.data.readers.table.Table`.
        left_out: numbers of rows that were left out on request, see :class:`~fastncf.data.readers.parts.Part`, and
            ``num_of_other_users``, those of users outside an asked-for share.
        num_rows: number of rows of the source, or of all sources with a given test set, those that were left out
            included.
        before: a point in time that was asked for, as ``time`` has times; None where none was.
        weight: (M,) float64, weights of the rows in the loss, finite and at least 0, or None.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray | None
    users: Vocabulary
    items: Vocabulary
    source: str
    source_info: dict[str, Any]
    left_out: dict[str, int] = field(default_factory=dict)
    num_rows: int = 0
    before: int | None = None
    weight: np.ndarray | None = None

    def of_rows(self, rows: "np.ndarray | slice") -> "Interactions":
        """Return some of the rows, by a mask (M,), their numbers in any order, or a slice; the vocabularies stay."""
        user, item = _rows_of(self.user, rows), _rows_of(self.item, rows)
        time = None if self.time is None else _rows_of(self.time, rows)
        weight = None if self.weight is None else self.weight[rows]
        return replace(self, user=user, item=item, time=time, weight=weight)

    def without_rows(self, reason: str, count: int) -> "Interactions":
        """Return the interactions with a number of rows that were left out for a reason, by its name."""
        return replace(self, left_out={**self.left_out, reason: count + self.left_out.get(reason, 0)})

    def keep_users(self, kept: np.ndarray, other_items: np.ndarray | None = None) -> "Interactions":
        """Return the interactions of some users only, with new indices for these users and for the items they have.

        Args:
            kept: (n,) integers, indices of the users, ascending.
            other_items: (m,) integers, indices of items that stay in the catalogue in any case.
        """
        new_user = np.full(len(self.users), -1, dtype=np.int32)
        new_user[kept] = np.arange(len(kept), dtype=np.int32)
        rows = new_user[self.user] >= 0
        item = self.item[rows]
        present = np.zeros(len(self.items), dtype=bool)
        present[item] = True
        if other_items is not None:
            present[other_items] = True
        new_item = np.cumsum(present, dtype=np.int32) - 1
        return Interactions(
            user=new_user[self.user[rows]],
            item=new_item[item].astype(np.int32),
            time=None if self.time is None else self.time[rows],
            users=Vocabulary(self.users.decode(kept), "user"),
            items=Vocabulary(self.items.decode(np.flatnonzero(present)), "item"),
            source=self.source,
            source_info=self.source_info,
            left_out=self.left_out,
            num_rows=self.num_rows,
            before=self.before,
            weight=None if self.weight is None else self.weight[rows],
        )


def _rows_of(column: np.ndarray, rows: "np.ndarray | slice") -> np.ndarray:
    """Return some rows of a column; a slice of one in a temporary file is in another one."""
    chosen = column[rows]
    if not isinstance(rows, slice):
        return np.ascontiguousarray(chosen)
    copied = empty_beside(column, chosen.shape, chosen.dtype)
    copied[:] = chosen
    return copied


def read_interactions(
    source: Any,
    *,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    rating: str | None = None,
    weight: str | None = None,
    needs_time: bool = True,
    before: str | None = None,
    **reading: Unpack[Reading],
) -> Interactions:
    """Read interactions from a file or a frame.

    Args:
        source: path of a CSV or TSV file in any MovieLens dialect (with or without header, separated by
            ``::``, tab, comma, semicolon, bar or space; plain or packed), JSON lines, Parquet or Feather; several
            such files as a list of paths, a pattern, or a folder of Parquet files; the name of a data set such as
            ``ml-1m``, see :mod:`fastncf.datasets`; or a polars frame (eager or lazy) or a pandas frame.
        user: name of the user column, if it is not one of the usual ones; without a header the columns
            are called column_1, column_2 and so on.
        item: the same for the item column.
        time: the same for the time column.
        rating: the same for the rating column, which is read only for ``min_rating``.
        weight: name of a column of weights, which is read only where it is named.
        needs_time: whether a source without times is an error.
        before: a point in time to find among the times, see :attr:`Interactions.before`.
        **reading: further settings, see :class:`~fastncf.data.readers.options.Reading`.

    Raises:
        DataNotFoundError: there is no such file.
        DataError: the input cannot be used; the message names the source, the column and the first bad row.
        ConfigError: the format cannot be used.
    """
    columns: dict[str, Any] = {"user": user, "item": item, "time": time, "rating": rating, "weight": weight}
    table = read_table(source, **columns, needs_time=needs_time, before=before, **reading)
    return encode_table(
        table, Vocabulary.of([table.frame["user"]], "user"), Vocabulary.of([table.frame["item"]], "item")
    )


def in_order_of_rows(interactions: Interactions) -> Interactions:
    """Return interactions whose times are the numbers of their rows.

    Raises:
        ConfigError: they have times of their own.
    """
    if interactions.time is not None:
        raise ConfigError(
            f"rows_in_order=True: {interactions.source} has times in column "
            f"{interactions.source_info['columns']['time']!r:.80}; expected data without"
        )
    time = empty_beside(interactions.user, len(interactions.user), np.int64)
    time[:] = np.arange(len(time))
    return replace(interactions, time=time)


def encode_table(table: Table, users: Vocabulary, items: Vocabulary) -> Interactions:
    """Return the interactions of a table whose raw ids are all in the vocabularies.

    Args:
        table: M rows of raw ids and, perhaps, times.
        users: vocabulary of the user ids.
        items: vocabulary of the item ids.

    Raises:
        DataError: there are fewer than two users or items, or too many for int32 indices.
    """
    require_vocabularies((users, items), table.source, table.source_info)
    return Interactions(
        user=users.encode(table.frame["user"]),
        item=items.encode(table.frame["item"]),
        time=table.frame["time"].to_numpy() if "time" in table.frame.columns else None,
        users=users,
        items=items,
        source=table.source,
        source_info=table.source_info,
        left_out=table.left_out,
        before=table.before,
        weight=table.frame["weight"].to_numpy() if "weight" in table.frame.columns else None,
        num_rows=table.num_rows,
    )


def require_vocabularies(vocabularies: tuple[Vocabulary, Vocabulary], source: str, source_info: dict[str, Any]) -> None:
    """Refuse data with fewer than two users or items, or too many.

    Args:
        vocabularies: of the users and the items.
        source: name of the source in messages.
        source_info: see :class:`~fastncf.data.readers.table.Table`.

    Raises:
        DataError: there are fewer than two, or too many for int32 indices.
    """
    for vocabulary in vocabularies:
        if len(vocabulary) < 2:
            raise DataError(
                f"{source}: column {source_info['columns'][vocabulary.noun]!r} holds only one {vocabulary.noun} "
                f"({vocabulary.ids[0]!r:.80}); expected at least two"
            )
        if len(vocabulary) >= 2**31:
            raise DataError(f"{source}: holds {len(vocabulary)} {vocabulary.noun}s; expected fewer than 2**31")


def draw_users(interactions: Interactions, fraction: float, seed_key: int) -> Interactions:
    """Keep a random share of the users.

    Args:
        interactions: the data of U users.
        fraction: share of the users; ``int(U * fraction)`` are drawn without replacement.
        seed_key: determines the draw.

    Raises:
        ConfigError: the share is fewer than two users.
    """
    drawn = interactions.keep_users(choose_users(len(interactions.users), fraction, seed_key))
    return drawn.without_rows("num_of_other_users", len(interactions.user) - len(drawn.user))


def choose_users(num_users: int, fraction: float, seed_key: int) -> np.ndarray:
    """Return the users of a random share, ``int(U * fraction)`` indices, ascending.

    Raises:
        ConfigError: the share is fewer than two users.
    """
    count = int(num_users * fraction)
    if count < 2:
        raise ConfigError(
            f"user_fraction={fraction}: keeps {count} of {counted(num_users, 'user')}; expected at least two"
        )
    generator = np.random.Generator(np.random.Philox(key=seed_key))
    return np.sort(generator.choice(num_users, size=count, replace=False))
