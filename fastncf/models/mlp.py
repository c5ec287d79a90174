"""Multilayer perceptron over a user and an item embedding."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from fastncf.kernels.cpu.factors import Factors
from fastncf.models.layers import apply_hidden_layers, make_embedding, make_hidden_layers, make_linear


class MLP(nn.Module):
    """The notebook's NCF (He et al. 2017, eq. 10): ReLU layers over the two vectors side by side."""

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

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        top = apply_hidden_layers(self.hidden, self.user_embedding(users), self.item_embedding(items), dropout)
        return self.output(top).squeeze(-1)

    @torch.no_grad()
    def start_from(self, factors: Factors, std: float = 1.0) -> None:
        """Take the vectors of a matrix factorization of one dimension less, its biases as the last.

        All columns of a table get the same factor, so that their standard deviations are ``std`` in the mean.
        """
        user, item, user_bias, item_bias = map(torch.from_numpy, factors)
        for table, other, bias in ((self.user_embedding, user, user_bias), (self.item_embedding, item, item_bias)):
            vectors = torch.column_stack([other, bias])
            table.weight.copy_(vectors * (std / vectors.std(0, correction=0).mean().clamp(min=1e-6)))

    def item_vectors(self) -> Tensor:
        """(I, D)."""
        return self.item_embedding.weight
