"""Rows of a pretrained module for users whom it was not trained on, by the factors that it started from."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastncf.kernels.cpu.encoder import HistoryEncoder
from fastncf.kernels.cpu.factors import Factors

if TYPE_CHECKING:
    from torch import nn

_MOST_USERS = 1 << 17
"""Users at most by whom maps are fitted."""


class Pretrained(NamedTuple):
    """Items and histories of the matrix factorization that a module was pretrained by, and maps to the module's users.

    A user who is known by a history alone is solved for among these items first. The vector and the bias found,
    multiplied by a map, make the user's row in the module.

    Attributes:
        item_vectors: (I, D) float32.
        item_bias: (I,) float32.
        encoder: encoder of histories of the factorization; None where its users have none.
        maps: for the name of each table of users (U, E) in the module, (D + 2, E) float32.
    """

    item_vectors: np.ndarray
    item_bias: np.ndarray
    encoder: HistoryEncoder | None
    maps: dict[str, np.ndarray]

    @classmethod
    def of(cls, factors: Factors, encoder: HistoryEncoder | None, module: "nn.Module") -> "Pretrained":
        """Return what is kept, with maps that are fitted to the trained users by least squares.

        Args:
            factors: of U users and I items, histories included in the users' vectors.
            encoder: encoder of their histories, or None.
            module: trained for the same users; it has ``user_tables``, see :mod:`fastncf.models`.
        """
        parameters = dict(module.named_parameters())
        fitted = slice(None, None, max(1, -(-len(factors.user_bias) // _MOST_USERS)))
        users = with_ones(factors.user_vectors[fitted], factors.user_bias[fitted])
        maps = {}
        for name in module.user_tables:  # type: ignore[union-attr]
            table = parameters[name].detach()[fitted].double().cpu().numpy()
            maps[name] = np.linalg.lstsq(users, table, rcond=None)[0].astype(np.float32)
        return cls(factors.item_vectors.copy(), factors.item_bias.copy(), encoder, maps)

    def rows(self, vectors: np.ndarray, bias: np.ndarray) -> dict[str, np.ndarray]:
        """Return rows (U, E) float32 of users by the names of the tables.

        Args:
            vectors: (U, D), of the users in the matrix factorization.
            bias: (U,).
        """
        users = with_ones(vectors, bias)
        return {name: (users @ one).astype(np.float32) for name, one in self.maps.items()}


def with_ones(vectors: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Return vectors (U, D), biases (U,) and ones side by side, (U, D + 2) float64."""
    return np.column_stack([vectors, bias, np.ones(len(bias))]).astype(np.float64)
