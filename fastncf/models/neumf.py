"""Neural matrix factorization."""

from collections.abc import Sequence
from typing import ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastncf.models import register
from fastncf.models.gmf import GMF
from fastncf.models.layers import (
    drop_constant_columns,
    hidden_activations,
    make_embedding,
    make_hidden_layers,
    make_linear,
    use_triton_dot,
    weighted_dot,
)
from fastncf.models.mlp import MLP
from fastncf.models.scorers import DotScorer, HiddenLayersScorer, Scorer, SumScorer
from fastncf.stage import Stage


@register("neumf")
class NeuMF(nn.Module):
    """Neural matrix factorization: GMF and MLP with embeddings of their own and one output (He et al. 2017, eq. 12).

    Args:
        num_users: U.
        num_items: I.
        dim: D, length of a vector of the GMF part.
        layers: widths of the hidden layers of the MLP part.
        generator: draws the parameters; torch's global one where it is not given.
        mlp_dim: E, length of a vector of the MLP part; D where it is not given.
        std: standard deviation of the vectors' numbers.
        dropout: probability that an activation of a hidden layer is set to 0 in training.
    """

    broadcasts_ids: ClassVar[bool] = True
    user_tables: ClassVar[tuple[str, ...]] = ("gmf_user_embedding.weight", "mlp_user_embedding.weight")
    item_tables: ClassVar[tuple[str, ...]] = ("gmf_item_embedding.weight", "mlp_item_embedding.weight")

    def __init__(
        self,
        num_users: int,
        num_items: int,
        dim: int,
        layers: Sequence[int],
        generator: torch.Generator | None = None,
        *,
        mlp_dim: int | None = None,
        std: float = 0.1,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.gmf_user_embedding = make_embedding(num_users, dim, generator, std)
        self.gmf_item_embedding = make_embedding(num_items, dim, generator, std)
        mlp_dim = mlp_dim or dim
        self.mlp_user_embedding = make_embedding(num_users, mlp_dim, generator, std)
        self.mlp_item_embedding = make_embedding(num_items, mlp_dim, generator, std)
        self.hidden = make_hidden_layers(2 * mlp_dim, layers, generator)
        self.output = make_linear(dim + layers[-1], 1, generator)

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
        return cls(*sizes, generator, mlp_dim=stage.mlp_dim, std=stage.init_std, dropout=stage.dropout)

    def forward(self, user_ids: Tensor, item_ids: Tensor) -> Tensor:
        """Return scores of the broadcast shape of ``user_ids`` and ``item_ids``."""
        user, item = self.gmf_user_embedding, self.gmf_item_embedding
        gmf_weight, mlp_weight = self._output_weights()
        if use_triton_dot(user.weight, user_ids, item_ids):
            gmf_score = weighted_dot(user, item, gmf_weight.squeeze(0), user_ids, item_ids)
        else:
            gmf_score = F.linear(user(user_ids) * item(item_ids), gmf_weight).squeeze(-1)
        vectors = self.mlp_user_embedding(user_ids), self.mlp_item_embedding(item_ids)
        x = hidden_activations(self.hidden, *vectors, self.dropout if self.training else 0.0)
        return gmf_score + F.linear(x, mlp_weight, self.output.bias).squeeze(-1)

    def scorer(self) -> Scorer:
        """Return a scorer that adds the scores of both parts."""
        gmf_weight, mlp_weight = self._output_weights()
        mlp_vectors = self.mlp_user_embedding.weight, self.mlp_item_embedding.weight
        gmf_vectors = self.gmf_user_embedding.weight, self.gmf_item_embedding.weight
        return SumScorer(
            HiddenLayersScorer(self.hidden, *mlp_vectors, (mlp_weight, self.output.bias)),
            DotScorer(*gmf_vectors, weight=gmf_weight),
        )

    @torch.no_grad()
    def join(self, gmf: GMF, mlp: MLP, share: float) -> None:
        """Copy the parameters of a trained GMF and a trained MLP (He et al. 2017, section 3.4.1).

        The score becomes ``share`` of the GMF's plus ``1 - share`` of the MLP's.
        """
        for own, other in (
            (self.gmf_user_embedding, gmf.user_embedding),
            (self.gmf_item_embedding, gmf.item_embedding),
            (self.mlp_user_embedding, mlp.user_embedding),
            (self.mlp_item_embedding, mlp.item_embedding),
        ):
            own.weight.copy_(other.weight)
        self.hidden.load_state_dict(mlp.hidden.state_dict())
        device = mlp.output.weight.device
        weights = share * gmf.output.weight.to(device), (1 - share) * mlp.output.weight
        self.output.weight.copy_(torch.cat(weights, dim=1))
        self.output.bias.copy_(share * gmf.output.bias.to(device) + (1 - share) * mlp.output.bias)

    def user_vectors(self) -> Tensor:
        """Return the user vectors of both parts side by side, without dimensions that hold biases."""
        gmf_vectors = drop_constant_columns(self.gmf_item_embedding.weight, self.gmf_user_embedding.weight)
        return torch.cat([gmf_vectors, self.mlp_user_embedding.weight], dim=1)

    def item_vectors(self) -> Tensor:
        """Return the item vectors of both parts side by side, (I, at most D + E).

        A dimension of the GMF part that is the same for all users or for all items holds biases and is left out.
        """
        gmf_vectors = drop_constant_columns(self.gmf_user_embedding.weight, self.gmf_item_embedding.weight)
        return torch.cat([gmf_vectors, self.mlp_item_embedding.weight], dim=1)

    def _output_weights(self) -> tuple[Tensor, Tensor]:
        """Return the output's weights of the GMF part (1, D) and of the last hidden layer (1, H)."""
        gmf_weight, mlp_weight = self.output.weight.tensor_split([self.gmf_user_embedding.embedding_dim], dim=1)
        return gmf_weight, mlp_weight
