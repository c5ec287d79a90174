"""Multilayer perceptron over a user and an item embedding."""

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from fastncf.kernels.cpu.factors import Factors
from fastncf.models import register
from fastncf.models.layers import hidden_activations, make_embedding, make_hidden_layers, make_linear
from fastncf.models.scorers import HiddenLayersScorer, Scorer
from fastncf.stage import Stage


@register("mlp")
class MLP(nn.Module):
    """Multilayer perceptron: ReLU layers over the concatenated user and item vectors (He et al. 2017, eq. 10).

    Args:
        num_users: U.
        num_items: I.
        dim: D, length of a vector.
        layers: widths of the hidden layers.
        generator: draws the parameters; torch's global one where it is not given.
        std: standard deviation of the vectors' numbers.
        dropout: probability that an activation of a hidden layer is set to 0 in training.
    """

    broadcasts_ids: ClassVar[bool] = True
    user_tables: ClassVar[tuple[str, ...]] = ("user_embedding.weight",)
    item_tables: ClassVar[tuple[str, ...]] = ("item_embedding.weight",)

    def __init__(
        self,
        num_users: int,
        num_items: int,
        dim: int,
        layers: Sequence[int],
        generator: torch.Generator | None = None,
        *,
        std: float = 0.1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.user_embedding = make_embedding(num_users, dim, generator, std)
        self.item_embedding = make_embedding(num_items, dim, generator, std)
        self.hidden = make_hidden_layers(2 * dim, layers, generator)
        self.output = make_linear(layers[-1], 1, generator)

    @classmethod
    def build(
        cls,
        stage: Stage,
        num_users: int,
        num_items: int,
        item_counts: np.ndarray | Tensor,
        generator: torch.Generator,
    ) -> Self:
        """Return an untrained model; see :class:`fastncf.models.ModelClass`."""
        sizes = num_users, num_items, stage.dim, stage.layers
        return cls(*sizes, generator, std=stage.init_std, dropout=stage.dropout)

    def forward(self, user_ids: Tensor, item_ids: Tensor) -> Tensor:
        """Return scores of the broadcast shape of ``user_ids`` and ``item_ids``."""
        vectors = self.user_embedding(user_ids), self.item_embedding(item_ids)
        x = hidden_activations(self.hidden, *vectors, self.dropout if self.training else 0.0)
        return self.output(x).squeeze(-1)

    def scorer(self) -> Scorer:
        """Return a scorer that computes the first layer's part of a user and of an item once."""
        vectors = self.user_embedding.weight, self.item_embedding.weight
        return HiddenLayersScorer(self.hidden, *vectors, (self.output.weight, self.output.bias))

    @torch.no_grad()
    def start_from(self, factors: Factors, std: float = 1.0) -> None:
        """Copy the vectors and the biases of a matrix factorization of D - 1 dimensions to the embeddings.

        The biases become the last dimension. Each table is multiplied by one number, after which the standard
        deviations of its columns are ``std`` on average.
        """
        user, item, user_bias, item_bias = map(torch.from_numpy, factors)
        for embedding, vectors, bias in (
            (self.user_embedding, user, user_bias),
            (self.item_embedding, item, item_bias),
        ):
            table = torch.column_stack([vectors, bias])
            embedding.weight.copy_(table * (std / table.std(0, correction=0).mean().clamp(min=1e-6)))

    def user_vectors(self) -> Tensor:
        """Return the user embeddings (U, D)."""
        return self.user_embedding.weight

    def item_vectors(self) -> Tensor:
        """Return the item embeddings (I, D)."""
        return self.item_embedding.weight
