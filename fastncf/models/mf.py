"""Matrix factorization."""

import torch
from torch import Tensor, nn

from fastncf.kernels.cpu.factors import Factors
from fastncf.models.layers import Vectors, make_embedding, rows_of, use_list_kernels, weighted_dot


class MF(nn.Module):
    """Matrix factorization: dot product of a user's and an item's vector, plus both biases (Koren et al. 2009)."""

    def __init__(
        self, num_users: int, num_items: int, dim: int, generator: torch.Generator | None = None, *, std: float = 0.02
    ) -> None:
        super().__init__()
        self.user_embedding = make_embedding(num_users, dim, generator, std)
        self.item_embedding = make_embedding(num_items, dim, generator, std)
        self.user_bias = nn.Parameter(torch.zeros(num_users))
        self.item_bias = nn.Parameter(torch.zeros(num_items))

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        if use_list_kernels(self.user_embedding.weight, users, items):
            one = torch.ones(self.user_embedding.embedding_dim, device=users.device)
            dot = weighted_dot(self.user_embedding, self.item_embedding, one, users, items)
        else:
            dot = (self.user_embedding(users) * self.item_embedding(items)).sum(-1)
        biases = self.user_bias.unsqueeze(-1), self.item_bias.unsqueeze(-1)
        return dot + (rows_of(biases[0], users) + rows_of(biases[1], items)).squeeze(-1)

    def score_catalogue(self, users: Tensor) -> Tensor:
        """Scores (B, I) of all items for ``users`` (B,)."""
        dot = self.user_embedding(users) @ self.item_embedding.weight.T
        return dot + self.user_bias[users].unsqueeze(-1) + self.item_bias

    @classmethod
    def of(cls, factors: Factors) -> "MF":
        """The module whose parameters are the tables of a factorization: the same memory."""
        mf = cls(0, 0, factors.user_vectors.shape[1])
        user, item, user_bias, item_bias = map(torch.from_numpy, factors)
        mf.user_embedding = Vectors.from_pretrained(user, freeze=False)
        mf.item_embedding = Vectors.from_pretrained(item, freeze=False)
        mf.user_bias, mf.item_bias = nn.Parameter(user_bias), nn.Parameter(item_bias)
        return mf

    def factors(self) -> Factors:
        """The parameters as arrays, the same memory; they are float32 on the CPU and contiguous."""
        parameters = self.user_embedding.weight, self.item_embedding.weight, self.user_bias, self.item_bias
        return Factors(*(parameter.detach().numpy() for parameter in parameters))

    def item_vectors(self) -> Tensor:
        """(I, D): what similar items have in common."""
        return self.item_embedding.weight
