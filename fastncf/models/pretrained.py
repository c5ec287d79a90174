"""Rows of a pretrained module for users whom it was not trained on, by the factors that it started from."""

from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np

from fastncf.kernels.cpu.encoder import HistoryEncoder
from fastncf.kernels.cpu.factors import Factors

if TYPE_CHECKING:
    from torch import nn

_MOST_USERS = 1 << 17
"""Users, or items, at most by whom maps are fitted."""


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

    def __repr__(self) -> str:
        """Return the sizes and the names of the tables in one line."""
        num_items, dim = self.item_vectors.shape
        return f"Pretrained({num_items:,} items, dim {dim}, maps to {', '.join(self.maps)})"

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
        names = module.user_tables
        tables = {name: parameters[name].detach()[fitted].double().cpu().numpy() for name in names}  # type: ignore[union-attr]
        kept = cls(factors.item_vectors.copy(), factors.item_bias.copy(), encoder, {})
        return kept.with_maps_to(tables, factors.user_vectors[fitted], factors.user_bias[fitted])

    def with_maps_to(self, tables: dict[str, np.ndarray], vectors: np.ndarray, bias: np.ndarray) -> Self:
        """Return the same with maps that are fitted to users by least squares.

        Args:
            tables: rows (U, E) of the users in the module, by the names of their tables.
            vectors: (U, D), of the users in the matrix factorization.
            bias: (U,).
        """
        users = with_ones(vectors, bias)
        maps = {name: np.linalg.lstsq(users, one, rcond=None)[0].astype(np.float32) for name, one in tables.items()}
        return self._replace(maps=maps)

    def with_items(self, new_index: np.ndarray, num_items: int) -> Self:
        """Return the same with a larger catalogue, whose new items have vectors and biases of zeros.

        Args:
            new_index: (I,), what the index of each item is afterwards.
            num_items: of the larger catalogue.
        """
        return self._replace(
            item_vectors=scatter_rows(self.item_vectors, new_index, num_items),
            item_bias=scatter_rows(self.item_bias, new_index, num_items),
            encoder=None if self.encoder is None else encoder_with_items(self.encoder, new_index, num_items),
        )

    def with_items_like(self, rows: dict[str, np.ndarray], is_new: np.ndarray) -> Self:
        """Return the same with vectors of new items, by a linear map that is fitted to the others by least squares.

        Args:
            rows: of the items in the module, (I, E), by the names of their tables.
            is_new: (I,) bool, items without vectors.
        """
        inputs = np.column_stack([*rows.values(), np.ones(len(is_new))])
        own = [self.item_vectors, self.item_bias[:, None]]
        if self.encoder is not None:
            own.append(self.encoder.vectors.reshape(len(is_new), -1))
        known = np.flatnonzero(~is_new)
        fitted = known[:: max(1, -(-len(known) // _MOST_USERS))]
        filled = []
        for one in own:
            found = np.linalg.lstsq(inputs[fitted], one[fitted].astype(np.float64), rcond=None)[0]
            filled.append(np.where(is_new[:, None], inputs @ found, one).astype(np.float32))
        encoder = self.encoder
        if encoder is not None:
            encoder = encoder._replace(vectors=filled[2].reshape(encoder.vectors.shape))
        return self._replace(item_vectors=filled[0], item_bias=filled[1][:, 0], encoder=encoder)

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


def encoder_with_items(encoder: HistoryEncoder, new_index: np.ndarray, num_items: int) -> HistoryEncoder:
    """Return an encoder for a larger catalogue, whose new items have vectors of zeros.

    Args:
        encoder: of I items.
        new_index: (I,), what the index of each of its items is afterwards.
        num_items: of the larger catalogue.
    """
    return encoder._replace(vectors=scatter_rows(encoder.vectors, new_index, num_items))


def scatter_rows(rows: np.ndarray, index: np.ndarray, num_rows: int) -> np.ndarray:
    """Return an array (num_rows, ...) that has the given rows (N, ...) at an index (N,), and zeros elsewhere."""
    scattered = np.zeros((num_rows, *rows.shape[1:]), dtype=rows.dtype)
    scattered[index] = rows
    return scattered
