"""Generalised matrix factorization."""

import torch
from torch import Tensor, nn

from fastncf.kernels.cpu.factors import Factors
from fastncf.models.layers import (
    Vectors,
    drop_constant_columns,
    make_embedding,
    make_linear,
    use_list_kernels,
    weighted_dot,
)


class GMF(nn.Module):
    """Generalised matrix factorization (He et al. 2017, eq. 8-9): a weighted sum of the elementwise product."""

    def __init__(
        self, num_users: int, num_items: int, dim: int, generator: torch.Generator | None = None, *, std: float = 0.1
    ) -> None:
        super().__init__()
        self.user_embedding = make_embedding(num_users, dim, generator, std)
        self.item_embedding = make_embedding(num_items, dim, generator, std)
        self.output = make_linear(dim, 1, generator)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        if use_list_kernels(self.user_embedding.weight, users, items):
            weight = self.output.weight.squeeze(0)
            return weighted_dot(self.user_embedding, self.item_embedding, weight, users, items) + self.output.bias
        return self.output(self.user_embedding(users) * self.item_embedding(items)).squeeze(-1)

    def score_catalogue(self, users: Tensor) -> Tensor:
        """Scores (B, I) of all items for ``users`` (B,)."""
        return (self.user_embedding(users) * self.output.weight) @ self.item_embedding.weight.T + self.output.bias

    @classmethod
    def of(cls, factors: Factors) -> "GMF":
        """A module of two dimensions more that scores as a factorization does: its biases are in the vectors."""
        user, item, user_bias, item_bias = map(torch.from_numpy, factors)
        gmf = cls(0, 0, user.shape[1] + 2)
        users = torch.column_stack([user, user_bias, torch.ones_like(user_bias)])
        items = torch.column_stack([item, torch.ones_like(item_bias), item_bias])
        gmf.user_embedding = Vectors.from_pretrained(users, freeze=False)
        gmf.item_embedding = Vectors.from_pretrained(items, freeze=False)
        with torch.no_grad():
            gmf.output.weight.fill_(1)
            gmf.output.bias.zero_()
        return gmf

    def item_vectors(self) -> Tensor:
        """(I, at most D): without dimensions that are the same for all users or all items, which hold biases."""
        return drop_constant_columns(self.user_embedding.weight, self.item_embedding.weight)
