"""Weights of (user, item) pairs in the loss, such as counts of purchases, whatever of them is trained on."""

from typing import NamedTuple, Self

import numpy as np


class PairWeights(NamedTuple):
    """Weights of P pairs, those of training and the held-out ones.

    Attributes:
        indptr: (U + 1,) int64; the pairs of user u are ``indptr[u]`` to ``indptr[u + 1] - 1``.
        indices: (P,) int32, item indices, ascending and distinct in each row.
        values: (P,) float64, finite and at least 0.
    """

    indptr: np.ndarray
    indices: np.ndarray
    values: np.ndarray

    @classmethod
    def of_rows(cls, user: np.ndarray, item: np.ndarray, weight: np.ndarray, num_users: int) -> Self:
        """Return the weights of the distinct pairs among M rows; those of a repeated pair are added up.

        Args:
            user: (M,) int32.
            item: (M,) int32.
            weight: (M,) float64.
            num_users: U.
        """
        num_items = int(item.max(initial=0)) + 1
        pairs, place = np.unique(user.astype(np.int64) * num_items + item, return_inverse=True)
        indptr = np.searchsorted(pairs, np.arange(num_users + 1, dtype=np.int64) * num_items)
        largest = np.finfo(np.float64).max
        values = np.minimum(np.bincount(place, weight, minlength=len(pairs)), largest)  # a sum may overflow
        return cls(indptr, (pairs % num_items).astype(np.int32), values)

    def with_rows(
        self, new_index: np.ndarray, num_users: int, user: np.ndarray, item: np.ndarray, weight: np.ndarray
    ) -> Self:
        """Return the weights with those of M further rows.

        Args:
            new_index: (U,) int32, number of each user among all old and new ones.
            num_users: number of all users.
            user, item, weight: of the rows, see :meth:`of_rows`.
        """
        old = new_index[self._users()]
        users, items = np.concatenate([old, user]), np.concatenate([self.indices, item])
        return self.of_rows(users, items, np.concatenate([self.values, weight]), num_users)

    def with_items(self, new_index: np.ndarray) -> Self:
        """Return the weights by other numbers of the items, ``new_index`` (I,) int32."""
        return self.of_rows(self._users(), new_index[self.indices], self.values, len(self.indptr) - 1)

    def of_pairs(self, indptr: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Return the weights (N,) float64 of the pairs of a CSR, ascending in each row.

        A pair that is not among these, such as one of a given test set, has the mean weight of those that are.
        """
        known, asked = self._keys(indptr, indices)
        place = np.minimum(np.searchsorted(known, asked), len(known) - 1)
        is_known, found = known[place] == asked, self.values[place]
        return found if is_known.all() else np.where(is_known, found, found[is_known].mean())

    def _keys(self, indptr: np.ndarray, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers that identify these pairs, ascending, and those of a CSR: (P,) and (N,) int64."""
        num_items = int(max(self.indices.max(initial=0), indices.max(initial=0))) + 1
        owners = np.repeat(np.arange(len(indptr) - 1, dtype=np.int64), np.diff(indptr))
        return self._users().astype(np.int64) * num_items + self.indices, owners * num_items + indices

    def _users(self) -> np.ndarray:
        """Return the user of each pair, (P,) int32."""
        return np.repeat(np.arange(len(self.indptr) - 1, dtype=np.int32), np.diff(self.indptr))


def relative_weights(weights: np.ndarray) -> np.ndarray | None:
    """Return weights (n,) divided by their mean, float32; None where all are equal, so that they make no difference.

    So a learning rate means the same whatever the unit of the weights is. They are not all 0.
    """
    if len(weights) == 0 or weights.min() == weights.max():
        return None
    shares = weights / weights.max()  # the sum of the largest numbers overflows
    relative: np.ndarray = (shares / shares.mean()).astype(np.float32)
    return relative
