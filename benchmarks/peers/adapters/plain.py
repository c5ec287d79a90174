"""Popularity and EASE by NumPy and SciPy alone."""

import numpy as np

from benchmarks.peers.adapters.base import Adapter, Clock
from benchmarks.peers.histories import Histories


class Popularity(Adapter):
    """Number of training interactions of an item."""

    def fit(self, clock: Clock) -> str:
        """Count."""
        self.counts = np.bincount(self.histories.items, minlength=self.histories.num_items).astype(np.float32)
        return "counted"

    def catalogue(self, users: np.ndarray) -> np.ndarray:
        """Return the same scores for each user."""
        return np.broadcast_to(self.counts, (len(users), len(self.counts)))


class EASE(Adapter):
    """Linear autoencoder with a zero diagonal in closed form (Steck 2019, "Embarrassingly shallow autoencoders")."""

    def prepare(self, histories: Histories) -> None:
        """Make the sparse matrix (U, I) of ones."""
        super().prepare(histories)
        self.matrix = histories.matrix()

    def fit(self, clock: Clock) -> str:
        """Invert the regularised Gram matrix."""
        gram = (self.matrix.T @ self.matrix).toarray().astype(np.float64)
        gram[np.diag_indices_from(gram)] += self.settings["l2"]
        inverse = np.linalg.inv(gram)
        self.weights = (inverse / -np.diag(inverse)).astype(np.float32)
        np.fill_diagonal(self.weights, 0)
        return "closed form"

    def catalogue(self, users: np.ndarray) -> np.ndarray:
        """Return the sums of weights over the histories."""
        scores: np.ndarray = self.matrix[users] @ self.weights
        return scores
