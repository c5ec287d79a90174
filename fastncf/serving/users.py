"""Users of a request, those among them who are not in the training data included."""

import functools
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from fastncf.config import is_one_of, show
from fastncf.data.ids import NamedIds, Vocabulary, named_ids, to_texts
from fastncf.errors import ConfigError, DataError

Unknown = Literal["error", "skip", "popular"]
"""Ways to deal with users who are not in the training data."""

_CHOICES = get_args(Unknown)


@dataclass(frozen=True)
class AskedUsers:
    """Users of a request, in its order; they may occur several times.

    Attributes:
        rows: (n,) int32; the index of a user who is in the training data, and U + j for the unknown user j.
        vocabulary: ids of the U users of the training data.
        unknown: canonical ids of the unknown users.
    """

    rows: np.ndarray
    vocabulary: Vocabulary
    unknown: tuple[str, ...] = ()

    @property
    def is_known(self) -> np.ndarray:
        """Whether each of :attr:`rows` is in the training data, (n,) bool."""
        return self.rows < len(self.vocabulary)

    def find(self, named: NamedIds) -> np.ndarray:
        """Return the number of each user that a caller names, as in :attr:`rows`, (m,) int32; -1 for any other."""
        found = self.vocabulary.find(named)
        if self.unknown and (found < 0).any():
            number_of = {text: len(self.vocabulary) + number for number, text in enumerate(self.unknown)}
            texts = to_texts(named)
            for at in np.flatnonzero(found < 0):
                found[at] = number_of.get(texts[at], -1)
        return found

    def decode(self, rows: np.ndarray) -> pl.Series:
        """Return the raw ids of some of :attr:`rows`, as text where an unknown id is no integer and the others are."""
        return self._all_users.decode(rows)

    @functools.cached_property
    def _all_users(self) -> Vocabulary:
        """Ids of the users of the training data, and behind them those of the unknown users."""
        return self.vocabulary.extended(list(self.unknown)) if self.unknown else self.vocabulary


def find_users(vocabulary: Vocabulary, raw_ids: Any, unknown: Unknown) -> AskedUsers:
    """Return the users that a caller names.

    Args:
        vocabulary: ids of the U users of the training data.
        raw_ids: one id or many, see :func:`~fastncf.data.ids.named_ids`; None for all users of the training data.
        unknown: what is done about others: ``error``, leave them out (``skip``), or keep them (``popular``). A missing
            id, such as None or NaN among others, is left out with both of the latter: no id stands for its answer.

    Raises:
        ConfigError: ``unknown`` is none of these.
        DataError: an id is neither an integer nor text, or with ``error`` not in the training data.
    """
    if not is_one_of(unknown, _CHOICES):
        raise ConfigError(f"unknown={show(unknown)}: expected one of {', '.join(_CHOICES)}")
    if raw_ids is None:
        return AskedUsers(np.arange(len(vocabulary), dtype=np.int32), vocabulary)
    named = named_ids(
        raw_ids,
        vocabulary.noun,
        skips_missing=unknown != "error",
        remedy="; expected an id, or unknown='skip' or unknown='popular', which leave it out",
    )
    rows = vocabulary.find(named)
    if not len(rows) or rows.min() >= 0:
        return AskedUsers(rows, vocabulary)
    is_unknown = rows < 0
    if unknown == "error":
        others = int(is_unknown.sum()) - 1
        also = f" ({others:,} more {'are' if others > 1 else 'is'} unknown)" if others else ""
        raise DataError(
            f"{vocabulary.describe_unknown(named, rows)}{also}; expected one of them, or unknown='skip' or "
            f"unknown='popular'"
        )
    if unknown == "skip":
        return AskedUsers(rows[~is_unknown], vocabulary)
    texts = to_texts(named)
    number_of: dict[str, int] = {}
    for at in np.flatnonzero(is_unknown):
        rows[at] = len(vocabulary) + number_of.setdefault(texts[at], len(number_of))
    return AskedUsers(rows, vocabulary, tuple(number_of))
