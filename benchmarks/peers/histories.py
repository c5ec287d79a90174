"""Histories of users as arrays, which every system of the comparison gets.

Imports NumPy alone, since the environments of the peers share nothing else.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Histories:
    """Training interactions of U users with I items, without repeats.

    Attributes:
        num_items: I.
        indptr: (U + 1,) int64, where the history of each user begins and ends.
        items: (N,) int32, item ids from 0, each user's from the oldest to the latest.
    """

    num_items: int
    indptr: np.ndarray
    items: np.ndarray

    @property
    def num_users(self) -> int:
        """Number of users, U."""
        return len(self.indptr) - 1

    def users(self) -> np.ndarray:
        """Return the user id (N,) int32 of each interaction."""
        return np.repeat(np.arange(self.num_users, dtype=np.int32), np.diff(self.indptr))

    def places(self) -> np.ndarray:
        """Return the place (N,) int64 of each interaction in the history of its user, from 0."""
        return np.arange(len(self.items)) - np.repeat(self.indptr[:-1], np.diff(self.indptr))

    def without_last(self) -> tuple["Histories", np.ndarray]:
        """Return the histories without their latest items, and these (U,) int32; -1 for users with fewer than two."""
        lengths = np.diff(self.indptr)
        has_another = lengths >= 2
        last = np.full(self.num_users, -1, dtype=np.int32)
        last[has_another] = self.items[self.indptr[1:][has_another] - 1]
        kept = np.ones(len(self.items), dtype=bool)
        kept[self.indptr[1:][has_another] - 1] = False
        indptr = np.concatenate([[0], np.cumsum(lengths - has_another)])
        return Histories(self.num_items, indptr, self.items[kept]), last

    def matrix(self) -> Any:
        """Return the interactions as SciPy's CSR matrix (U, I) of float32 ones."""
        from scipy.sparse import csr_matrix

        ones = np.ones(len(self.items), dtype=np.float32)
        matrix = csr_matrix((ones, self.items, self.indptr), shape=(self.num_users, self.num_items))
        matrix.sort_indices()
        return matrix

    def save(self, path: Path) -> None:
        """Write the arrays to an ``.npz`` file."""
        np.savez(path, num_items=self.num_items, indptr=self.indptr, items=self.items)

    @classmethod
    def load(cls, path: Path) -> "Histories":
        """Read what :meth:`save` wrote."""
        with np.load(path) as arrays:
            return cls(int(arrays["num_items"]), arrays["indptr"], arrays["items"])


def draw_candidates(histories: Histories, test: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return items (U, count) int32, drawn uniformly without repeats, that a user has neither seen nor held out.

    A user with fewer such items gets -1 in the places that are left.

    Args:
        histories: what each user has seen.
        test: (U,) int32, the held-out item of each user, or -1.
        count: number of candidates for each user.
        seed: determines the draws.
    """
    random = np.random.default_rng(seed)
    drawn = np.full((histories.num_users, count), -1, dtype=np.int32)
    is_unseen = np.ones(histories.num_items, dtype=bool)
    for user in range(histories.num_users):
        seen = histories.items[histories.indptr[user] : histories.indptr[user + 1]]
        is_unseen[seen] = False
        is_unseen[test[user]] &= test[user] < 0
        unseen = np.flatnonzero(is_unseen)
        chosen = random.choice(unseen, min(count, len(unseen)), replace=False)
        drawn[user, : len(chosen)] = chosen
        is_unseen[seen] = is_unseen[test[user]] = True
    return drawn
