"""States of users: what their histories say, as a linear recurrence over vectors of the items."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from fastncf.errors import counted
from fastncf.kernels.cpu.compiling import njit

LONGEST = 2**31 - 1
"""Number of items that a state is made of where it is not limited."""

_ZERO, _ONE = np.float32(0), np.float32(1)


class HistoryEncoder(NamedTuple):
    """Maps a history to a vector of D numbers, its state, which is updated by one more item in O(C D).

    The state is the sum over c of ``gains[c] * feature[c]``, number by number. A feature is a sum of the vectors of the
    items so far, whose weights decay: ``feature = decays[c] * feature + vectors[item, c]``; or it is their mean. States
    of sets have a given length instead of their own.

    Attributes:
        vectors: (I, C, D) float32, contiguous; or (I, D), the same for all features.
        gains: (C, D) float32.
        decays: (C, D) float32, at most 1; 1 where the feature is a mean.
        is_mean: (C,) bool.
        longest: int, number of the latest items that a state is made of.
        length: float, length of every state, whatever its sum; 0 where the sum is the state.
    """

    vectors: np.ndarray
    gains: np.ndarray
    decays: np.ndarray
    is_mean: np.ndarray
    longest: int
    length: float = 0.0

    def feature_vectors(self) -> np.ndarray:
        """Return the vectors with an axis for the features, (I, C, D) or (I, 1, D); a view."""
        return self.vectors.reshape(len(self.vectors), -1, self.gains.shape[1])

    def arrays(self) -> dict[str, np.ndarray]:
        """Return all fields as arrays by their names."""
        return {name: np.asarray(value) for name, value in self._asdict().items()}

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "HistoryEncoder":
        """Return the encoder whose :meth:`arrays` are given."""
        vectors, gains, decays, is_mean, longest, length = (arrays[name] for name in cls._fields)
        return cls(vectors, gains, decays, is_mean, int(longest), float(length))

    def __repr__(self) -> str:
        """Return the sizes in one line, without the arrays."""
        num_features, dim = self.gains.shape
        return f"HistoryEncoder({counted(len(self.vectors), 'item')}, {counted(num_features, 'feature')}, dim {dim})"


@njit(nogil=True, cache=True)
def encode_histories(first_user, last_user, indptr, items, encoder, out):
    """Write the states of a range of users after their whole history.

    Args:
        first_user, last_user: range of users, int64.
        indptr: (U + 1,) int64, where the histories begin and end in ``items``.
        items: (N,) int32, the oldest item of each history first.
        encoder: :class:`HistoryEncoder`.
        out: (U, D) float32, rows ``first_user`` to ``last_user`` are written; 0 for a user without a history.
    """
    num_features, width = encoder.gains.shape
    vectors = encoder.vectors.reshape((len(encoder.vectors), -1, width))
    last_vector = vectors.shape[1] - 1  # 0 where the features have the same vectors
    features = np.empty((num_features, width), dtype=np.float32)
    for u in range(first_user, last_user):
        features[:] = _ZERO
        first, last = max(indptr[u], indptr[u + 1] - encoder.longest), indptr[u + 1]
        for at in range(first, last):
            for c in range(num_features):
                vector, decay = vectors[items[at], min(c, last_vector)], encoder.decays[c]
                for d in range(width):
                    features[c, d] = decay[d] * features[c, d] + vector[d]
        for d in range(width):
            total = _ZERO
            for c in range(num_features):
                weight = np.float32(1.0 / max(last - first, 1)) if encoder.is_mean[c] else _ONE
                total += weight * (encoder.gains[c, d] * features[c, d])
            out[u, d] = total
        if encoder.length > 0:
            square = 0.0
            for d in range(width):
                square += np.float64(out[u, d]) ** 2
            factor = np.float32(encoder.length / max(np.sqrt(square), 1e-12))
            for d in range(width):
                out[u, d] *= factor
