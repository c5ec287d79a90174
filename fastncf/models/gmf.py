"""Generalised matrix factorization."""

from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from fastncf.kernels.cpu.factors import Factors
from fastncf.models import register
from fastncf.models.layers import (
    Embedding,
    drop_constant_columns,
    make_embedding,
    make_linear,
    use_triton_dot,
    weighted_dot,
)
from fastncf.models.scorers import DotScorer, Scorer
from fastncf.stage import Stage


@register("gmf")
class GMF(nn.Module):
    """Generalised matrix factorization: a weighted sum of the elementwise product (He et al. 2017, eq. 8-9).

    Args:
        num_users: U.
        num_items: I.
        dim: D, length of a vector.
        generator: draws the parameters; torch's global one where it is not given.
        std: standard deviation of the vectors' numbers.
    """

    broadcasts_ids: ClassVar[bool] = True
    user_tables: ClassVar[tuple[str, ...]] = ("user_embedding.weight",)
    item_tables: ClassVar[tuple[str, ...]] = ("item_embedding.weight",)

    def __init__(
        self, num_users: int, num_items: int, dim: int, generator: torch.Generator | None = None, *, std: float = 0.1
    ) -> None:
        super().__init__()
        self.user_embedding = make_embedding(num_users, dim, generator, std)
        self.item_embedding = make_embedding(num_items, dim, generator, std)
        self.output = make_linear(dim, 1, generator)

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
            weight = self.output.weight.squeeze(0)
            return weighted_dot(self.user_embedding, self.item_embedding, weight, user_ids, item_ids) + self.output.bias
        return self.output(self.user_embedding(user_ids) * self.item_embedding(item_ids)).squeeze(-1)

    def scorer(self) -> Scorer:
        """Return a scorer by dot products."""
        user, item = self.user_embedding.weight, self.item_embedding.weight
        biases = self.output.bias.expand(len(user)), torch.zeros_like(item[:, 0])
        return DotScorer(user, item, weight=self.output.weight, biases=biases)

    @classmethod
    def from_factors(cls, factors: Factors) -> Self:
        """Return a model that scores as a matrix factorization does.

        Its vectors have two dimensions more, D + 2, which hold the biases.
        """
        user, item, user_bias, item_bias = map(torch.from_numpy, factors)
        with torch.device("cpu"):  # whatever device the caller has set for new tensors
            model = cls(0, 0, user.shape[1] + 2, torch.Generator("cpu"))  # the global generator is left alone
        user_vectors = torch.column_stack([user, user_bias, torch.ones_like(user_bias)])
        item_vectors = torch.column_stack([item, torch.ones_like(item_bias), item_bias])
        model.user_embedding = Embedding.from_pretrained(user_vectors, freeze=False)
        model.item_embedding = Embedding.from_pretrained(item_vectors, freeze=False)
        with torch.no_grad():
            model.output.weight.fill_(1)
            model.output.bias.zero_()
        return model

    def user_vectors(self) -> Tensor:
        """Return the user embeddings (U, at most D), without the dimensions that :meth:`item_vectors` leaves out."""
        return drop_constant_columns(self.item_embedding.weight, self.user_embedding.weight)

    def item_vectors(self) -> Tensor:
        """Return the item embeddings (I, at most D).

        A dimension that is the same for all users or for all items holds biases and is left out.
        """
        return drop_constant_columns(self.user_embedding.weight, self.item_embedding.weight)
