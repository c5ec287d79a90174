"""Neural matrix factorization."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastncf.models.gmf import GMF
from fastncf.models.layers import (
    apply_hidden_layers,
    drop_constant_columns,
    make_embedding,
    make_hidden_layers,
    make_linear,
    use_list_kernels,
    weighted_dot,
)
from fastncf.models.mlp import MLP


class NeuMF(nn.Module):
    """Neural matrix factorization (He et al. 2017, eq. 12): GMF and MLP with vectors of their own, joined on top.

    Those of GMF have ``dim`` numbers, those of MLP ``mlp_dim``, or as many.
    """

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

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        user, item = self.gmf_user_embedding, self.gmf_item_embedding
        of_product, of_top = self.output.weight.tensor_split([user.embedding_dim], dim=1)
        if use_list_kernels(user.weight, users, items):
            generalised = weighted_dot(user, item, of_product.squeeze(0), users, items)
        else:
            generalised = F.linear(user(users) * item(items), of_product).squeeze(-1)
        dropout = self.dropout if self.training else 0.0
        top = apply_hidden_layers(self.hidden, self.mlp_user_embedding(users), self.mlp_item_embedding(items), dropout)
        return generalised + F.linear(top, of_top, self.output.bias).squeeze(-1)

    @torch.no_grad()
    def join(self, gmf: GMF, mlp: MLP, share: float) -> None:
        """Become ``share`` of a trained GMF's score and the rest of an MLP's (He et al. 2017, section 3.4.1)."""
        parts = [(self.gmf_user_embedding, gmf.user_embedding), (self.gmf_item_embedding, gmf.item_embedding)]
        parts += [(self.mlp_user_embedding, mlp.user_embedding), (self.mlp_item_embedding, mlp.item_embedding)]
        for own, other in parts:
            own.weight.copy_(other.weight)
        self.hidden.load_state_dict(mlp.hidden.state_dict())
        outputs = [share * gmf.output.weight.to(mlp.output.weight.device), (1 - share) * mlp.output.weight]
        self.output.weight.copy_(torch.cat(outputs, dim=1))
        self.output.bias.copy_(share * gmf.output.bias.to(mlp.output.bias.device) + (1 - share) * mlp.output.bias)

    def item_vectors(self) -> Tensor:
        """(I, at most D + E): the vectors of both parts side by side, without dimensions that hold biases."""
        product = drop_constant_columns(self.gmf_user_embedding.weight, self.gmf_item_embedding.weight)
        return torch.cat([product, self.mlp_item_embedding.weight], dim=1)
