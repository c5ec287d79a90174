"""Items that each user of a request may get."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from fastncf.data.ids import NamedIds, Vocabulary, named_ids
from fastncf.data.readers.id_columns import read_frame
from fastncf.data.split import Split
from fastncf.errors import DataError, UnusedSettingWarning, counted, printable
from fastncf.kernels.cpu.topk import LeftOut
from fastncf.serving.users import AskedUsers

_ALL_OPEN = np.empty(0, dtype=np.bool_)


@dataclass(frozen=True)
class Filters:
    """Items that are left out of the answers to a request.

    Attributes:
        num_items: I.
        split: what users have seen.
        leaves_out_seen: whether that is left out.
        is_open: (I,) bool, items that may be recommended at all; empty where all may be.
        pairs: (m,) int64, ascending and distinct: number of a user times I plus an item that this user may not get.
    """

    num_items: int
    split: Split
    leaves_out_seen: bool
    is_open: np.ndarray
    pairs: np.ndarray | None

    def without_sated(self, rows: np.ndarray) -> np.ndarray:
        """Return users (n,) without those for whom no item is left, since they have seen every one.

        What they have seen would fill the memory where there are many of them.
        """
        if not self.leaves_out_seen:
            return rows
        users = np.minimum(rows, self.split.num_users - 1)
        return rows[(self.split.indptr[users] < self.split.indptr[users + 1]) | (rows > users)]

    def left_out(self, rows: np.ndarray) -> LeftOut:
        """Return the items that are left out for users.

        Args:
            rows: (B,) int32, all of them users of the training data, or none of them.
        """
        if self.leaves_out_seen and len(rows) and rows[0] < self.split.num_users:
            indptr, indices = self.split.seen_by(rows)
        else:
            indptr, indices = np.zeros(len(rows) + 1, dtype=np.int64), np.empty(0, dtype=np.int32)
        if self.pairs is not None:
            indptr, indices = self._with_pairs(rows, indptr, indices)
        return LeftOut(indptr, indices, self.is_open)

    def _with_pairs(self, rows: np.ndarray, indptr: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return a CSR (B rows) with the items of :attr:`pairs` merged in."""
        assert self.pairs is not None
        first, stop = (np.searchsorted(self.pairs, (rows + end) * np.int64(self.num_items)) for end in (0, 1))
        counts = stop - first
        at = np.arange(counts.sum()) + np.repeat(first - np.cumsum(counts) + counts, counts)
        numbers = np.arange(len(rows), dtype=np.int64) * self.num_items
        seen = np.repeat(numbers, np.diff(indptr)) + indices
        merged = np.union1d(seen, np.repeat(numbers, counts) + self.pairs[at] % self.num_items)
        bounds = np.searchsorted(merged, np.append(numbers, len(rows) * self.num_items))
        return bounds.astype(np.int64), (merged % self.num_items).astype(np.int32)


def make_filters(
    users: AskedUsers, vocabulary: Vocabulary, split: Split, *, exclude_seen: bool, items: Any, exclude: Any
) -> Filters:
    """Return the filters of a request.

    Args:
        users: users of the request.
        vocabulary: ids of the I items.
        split: what users have seen.
        exclude_seen: whether to leave it out.
        items: ids of the only items that may be recommended, or a frame with a column of them; None for all.
        exclude: ids of items that nobody gets, or a frame with a column of them; with a column of users beside it, an
            item is left out for the user of its row alone. None for none.

    Items and users that the model does not know cannot be recommended to or get anything, and are ignored.

    Raises:
        DataError: an id is neither an integer nor text, a frame lacks a column, or none of ``items`` is known.

    Warns:
        UnusedSettingWarning: none of the items of ``exclude`` is known.
    """
    is_open, pairs = _ALL_OPEN, None
    if items is not None:
        is_open = _mask(vocabulary, _columns(items, "items", ("item",))["item"])
        if not is_open.any():
            raise DataError(
                f"items: none of them is in the training data, whose "
                f"{counted(len(vocabulary), 'item id runs', 'item ids run')} from "
                f"{vocabulary.ids[0]!r:.80} to {vocabulary.ids[-1]!r:.80}; expected at least one of those"
            )
    if exclude is not None:
        columns = _columns(exclude, "exclude", ("item", "user"))
        if "user" in columns:
            user, item = users.find(columns["user"]), vocabulary.find(columns["item"])
            has_effect = bool((item >= 0).any())
            kept = (user >= 0) & (item >= 0)
            pairs = np.unique(user[kept] * np.int64(len(vocabulary)) + item[kept])
        else:
            is_excluded = _mask(vocabulary, columns["item"])
            has_effect = bool(is_excluded.any())
            is_open = ~is_excluded & is_open if len(is_open) else ~is_excluded
        if len(columns["item"]) and not has_effect:
            warnings.warn(
                printable(
                    f"exclude: no effect, since none of its items is in the training data, whose {len(vocabulary)} "
                    f"item ids run from {vocabulary.ids[0]!r:.80} to {vocabulary.ids[-1]!r:.80}"
                ),
                UnusedSettingWarning,
                stacklevel=4,  # the caller of recommend(), whose decorator has a frame as well
            )
    return Filters(len(vocabulary), split, exclude_seen, is_open, pairs)


def _mask(vocabulary: Vocabulary, named: NamedIds) -> np.ndarray:
    """Return which items of a vocabulary are named, (I,) bool."""
    mask = np.zeros(len(vocabulary), dtype=np.bool_)
    found = vocabulary.find(named)
    mask[found[found >= 0]] = True
    return mask


def _columns(source: Any, name: str, roles: tuple[str, ...]) -> dict[str, NamedIds]:
    """Return the ids of each role that a source has: the columns of a frame, or a list of items.

    Args:
        source: a frame, one id, or many.
        name: name of the source in messages.
        roles: the role that is needed, and others that may be missing.
    """
    if isinstance(source, pl.LazyFrame) or hasattr(source, "columns"):  # to ask a lazy frame for columns runs it
        return read_frame(source, name, roles)
    return {"item": named_ids(source, "item")}
