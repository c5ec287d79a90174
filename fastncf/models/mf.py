"""Matrix factorization."""

from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from fastncf.kernels.cpu.factors import Factors
from fastncf.models import register
from fastncf.models.layers import Embedding, gather_rows, make_embedding, use_triton_dot, weighted_dot
from fastncf.models.scorers import DotScorer, Scorer
from fastncf.stage import Stage


@register("mf")
class MF(nn.Module):
    """Matrix factorization: dot product of a user's and an item's vector, plus both biases (Koren et al. 2009).

    Args:
        num_users: U.
        num_items: I.
        dim: D, length of a vector.
        generator: draws the vectors; torch's global one where it is not given.
        std: standard deviation of the vectors' numbers. The biases are 0.
    """

    broadcasts_ids: ClassVar[bool] = True
    user_tables: ClassVar[tuple[str, ...]] = ("user_embedding.weight", "user_bias")
    item_tables: ClassVar[tuple[str, ...]] = ("item_embedding.weight", "item_bias")

    def __init__(
        self, num_users: int, num_items: int, dim: int, generator: torch.Generator | None = None, *, std: float = 0.02
    ) -> None:
        super().__init__()
        self.user_embedding = make_embedding(num_users, dim, generator, std)
        self.item_embedding = make_embedding(num_items, dim, generator, std)
        user_bias, item_bias = (torch.zeros(rows, dtype=torch.float32, device="cpu") for rows in (num_users, num_items))
        self.user_bias, self.item_bias = nn.Parameter(user_bias), nn.Parameter(item_bias)

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
        return cls(num_users, num_items, stage.dim, generator, std=stage.init_std)

    def forward(self, user_ids: Tensor, item_ids: Tensor) -> Tensor:
        """Return scores of the broadcast shape of ``user_ids`` and ``item_ids``."""
        if use_triton_dot(self.user_embedding.weight, user_ids, item_ids):
            ones = self.user_embedding.weight.new_ones(self.user_embedding.embedding_dim)
            dot = weighted_dot(self.user_embedding, self.item_embedding, ones, user_ids, item_ids)
        else:
            dot = (self.user_embedding(user_ids) * self.item_embedding(item_ids)).sum(-1)
        user_bias, item_bias = self.user_bias.unsqueeze(-1), self.item_bias.unsqueeze(-1)
        return dot + (gather_rows(user_bias, user_ids) + gather_rows(item_bias, item_ids)).squeeze(-1)

    def scorer(self) -> Scorer:
        """Return a scorer by dot products."""
        vectors = self.user_embedding.weight, self.item_embedding.weight
        return DotScorer(*vectors, biases=(self.user_bias, self.item_bias))

    @classmethod
    def from_factors(cls, factors: Factors) -> Self:
        """Return a model whose parameters are the arrays of a factorization, in the same memory."""
        model = cls(0, 0, factors.user_vectors.shape[1])
        user, item, user_bias, item_bias = map(torch.from_numpy, factors)
        model.user_embedding = Embedding.from_pretrained(user, freeze=False)
        model.item_embedding = Embedding.from_pretrained(item, freeze=False)
        model.user_bias, model.item_bias = nn.Parameter(user_bias), nn.Parameter(item_bias)
        return model

    def factors(self) -> Factors:
        """Return the parameters as arrays in the same memory; they must be float32 on the CPU and contiguous."""
        parameters = self.user_embedding.weight, self.item_embedding.weight, self.user_bias, self.item_bias
        return Factors(*(parameter.detach().numpy() for parameter in parameters))

    def user_vectors(self) -> Tensor:
        """Return the user embeddings (U, D)."""
        return self.user_embedding.weight

    def item_vectors(self) -> Tensor:
        """Return the item embeddings (I, D)."""
        return self.item_embedding.weight
