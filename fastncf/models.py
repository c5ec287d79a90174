"""The models as ``nn.Module``: each scores (users, items) with logits, higher is better. Losses are free functions.

``forward(users, items)`` takes int tensors whose shapes broadcast against each other and returns scores of the
broadcast shape: ``users`` (B, 1) with ``items`` (B, 1+K) does a user's part of the work once for its 1+K items.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastncf.config import Config
from fastncf.device import triton_works
from fastncf.errors import ConfigError
from fastncf.hashing import Stream, key
from fastncf.kernels.factors import Factors


class MF(nn.Module):
    """Matrix factorization: dot product of a user's and an item's vector, plus both biases (Koren et al. 2009)."""

    def __init__(
        self, num_users: int, num_items: int, dim: int, generator: torch.Generator | None = None, *, std: float = 0.02
    ) -> None:
        super().__init__()
        self.user_embedding = _embedding(num_users, dim, generator, std)
        self.item_embedding = _embedding(num_items, dim, generator, std)
        self.user_bias = nn.Parameter(torch.zeros(num_users))
        self.item_bias = nn.Parameter(torch.zeros(num_items))

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        if _are_lists(self.user_embedding.weight, users, items):
            one = torch.ones(self.user_embedding.embedding_dim, device=users.device)
            dot = _dot(self.user_embedding, self.item_embedding, one, users, items)
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
        mf = cls(0, 0, factors.user.shape[1])
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


class GMF(nn.Module):
    """Generalised matrix factorization (He et al. 2017, eq. 8-9): a weighted sum of the elementwise product."""

    def __init__(
        self, num_users: int, num_items: int, dim: int, generator: torch.Generator | None = None, *, std: float = 0.1
    ) -> None:
        super().__init__()
        self.user_embedding = _embedding(num_users, dim, generator, std)
        self.item_embedding = _embedding(num_items, dim, generator, std)
        self.output = _linear(dim, 1, generator)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        if _are_lists(self.user_embedding.weight, users, items):
            weight = self.output.weight.squeeze(0)
            return _dot(self.user_embedding, self.item_embedding, weight, users, items) + self.output.bias
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
        return _varying(self.user_embedding.weight, self.item_embedding.weight)


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
        self.user_embedding = _embedding(num_users, dim, generator, std)
        self.item_embedding = _embedding(num_items, dim, generator, std)
        self.hidden = _tower(2 * dim, layers, generator)
        self.output = _linear(layers[-1], 1, generator)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        top = _climb(self.hidden, self.user_embedding(users), self.item_embedding(items), dropout)
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
        self.gmf_user_embedding = _embedding(num_users, dim, generator, std)
        self.gmf_item_embedding = _embedding(num_items, dim, generator, std)
        mlp_dim = mlp_dim or dim
        self.mlp_user_embedding = _embedding(num_users, mlp_dim, generator, std)
        self.mlp_item_embedding = _embedding(num_items, mlp_dim, generator, std)
        self.hidden = _tower(2 * mlp_dim, layers, generator)
        self.output = _linear(dim + layers[-1], 1, generator)

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        user, item = self.gmf_user_embedding, self.gmf_item_embedding
        of_product, of_top = self.output.weight.tensor_split([user.embedding_dim], dim=1)
        if _are_lists(user.weight, users, items):
            generalised = _dot(user, item, of_product.squeeze(0), users, items)
        else:
            generalised = F.linear(user(users) * item(items), of_product).squeeze(-1)
        dropout = self.dropout if self.training else 0.0
        top = _climb(self.hidden, self.mlp_user_embedding(users), self.mlp_item_embedding(items), dropout)
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
        product = _varying(self.gmf_user_embedding.weight, self.gmf_item_embedding.weight)
        return torch.cat([product, self.mlp_item_embedding.weight], dim=1)


class Popularity(nn.Module):
    """An item's score is its number of training interactions: the floor of every comparison. Nothing to train."""

    counts: Tensor

    def __init__(self, counts: Tensor) -> None:
        super().__init__()
        self.register_buffer("counts", counts)  # (I,) float64: float32 would tie counts beyond 2**24

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return self.counts[items].expand(torch.broadcast_shapes(users.shape, items.shape))

    def score_catalogue(self, users: Tensor) -> Tensor:
        """Scores (B, I) of all items for ``users`` (B,)."""
        return self.counts.expand(len(users), -1)


def build(config: Config, num_users: int, num_items: int, counts: Tensor) -> nn.Module:
    """The model that ``config`` names, its parameters drawn on the CPU with the seed: the same for every device.

    Args:
        config: names the model and its sizes; with its recipe, see :meth:`Config.with_recipe`.
        num_users: U.
        num_items: I.
        counts: (I,) training interactions of each item.
    """
    generator = torch.Generator().manual_seed(key(config.seed, Stream.PARAMETERS) >> 1)
    assert config.dim is not None
    sizes = num_users, num_items, config.dim
    std: dict[str, Any] = {} if config.init_std is None else {"std": config.init_std}
    if config.model == "mf":
        return MF(*sizes, generator, **std)
    if config.model == "gmf":
        return GMF(*sizes, generator, **std)
    if config.model == "mlp":
        return MLP(*sizes, config.layers, generator, dropout=config.dropout, **std)
    if config.model == "neumf":
        return NeuMF(*sizes, config.layers, generator, mlp_dim=config.mlp_dim, dropout=config.dropout, **std)
    return Popularity(counts.double())


def score_lists(model: nn.Module, users: Tensor, items: Tensor) -> Tensor:
    """Scores of each user's own list of items by any model.

    A model of this package is called with broadcast shapes; any other module with two flat tensors of equal length.

    Args:
        model: scores (users, items).
        users: (B,) int.
        items: (B, C) int.

    Returns:
        (B, C) float.

    Raises:
        ConfigError: the module returned another number of scores than it got pairs.
    """
    if isinstance(model, (MF, GMF, MLP, NeuMF, Popularity)):
        return model(users.unsqueeze(-1), items)
    scores = model(users.repeat_interleave(items.shape[1]), items.reshape(-1))
    if scores.numel() != items.numel():
        raise ConfigError(
            f"{type(model).__name__} returned scores of shape {tuple(scores.shape)} for {items.numel()} pairs; "
            f"expected one score for each (user, item)"
        )
    return scores.reshape(items.shape)


def score_catalogue(model: nn.Module, users: Tensor, num_items: int) -> Tensor:
    """Scores (B, I) of the whole catalogue for ``users`` (B,) by any model."""
    own = getattr(model, "score_catalogue", None)
    if own is not None:
        return own(users)
    return score_lists(model, users, torch.arange(num_items, device=users.device).expand(len(users), -1))


def bce(positive: Tensor, negatives: Tensor) -> Tensor:
    """Mean binary cross entropy of all samples: positives (B,) labelled 1, negatives (B, K) labelled 0, as logits."""
    total = F.softplus(-positive).sum() + F.softplus(negatives).sum()
    return total / (positive.numel() + negatives.numel())


def bpr(positive: Tensor, negatives: Tensor) -> Tensor:
    """Bayesian personalised ranking (Rendle et al. 2009): mean of -log sigmoid((B, 1) positives - (B, K) negatives)."""
    return F.softplus(negatives - positive.unsqueeze(-1)).mean()


LOSSES = {"bce": bce, "bpr": bpr}


class Vectors(nn.Embedding):
    """An embedding whose gradient on CUDA is added up in place, where torch's own sorts the rows of a batch first.

    The sums then come in any order, so that two runs differ in the last bits, unless torch is told to be deterministic.
    """

    def forward(self, input: Tensor) -> Tensor:
        return rows_of(self.weight, input)


def rows_of(table: Tensor, rows: Tensor) -> Tensor:
    """Rows (..., D) of a table (R, D); in the dtype of the computation where Triton gathers them."""
    if _by_tiles(table) and not torch.are_deterministic_algorithms_enabled():
        from fastncf.tiles.rows import Gather  # Triton is not there on every machine

        return Gather.apply(table, rows, _computed_in(table))
    return _Rows.apply(table, rows) if table.is_cuda else F.embedding(rows, table)


def _computed_in(tensor: Tensor) -> torch.dtype:
    """The dtype of matrix products: what autocast says on CUDA, else the tensor's own."""
    return torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else tensor.dtype


def _by_tiles(parameter: Tensor) -> bool:
    """Whether the Triton kernels know a parameter's dtype and run where it is."""
    return parameter.dtype == torch.float32 and triton_works(parameter.device)


def _are_lists(table: Tensor, users: Tensor, items: Tensor) -> bool:
    """Whether each user (B, 1) has a list of items (B, C), with a table and in a mode in which kernels take them."""
    lists = users.dim() == 2 and items.dim() == 2 and users.shape == (len(items), 1)
    return lists and _by_tiles(table) and not torch.are_deterministic_algorithms_enabled()


def _dot(user: nn.Embedding, item: nn.Embedding, weight: Tensor, users: Tensor, items: Tensor) -> Tensor:
    """Weighted dot products (B, C) of each user (B, 1) with a list of items (B, C)."""
    from fastncf.tiles.rows import Dot

    return Dot.apply(user.weight, item.weight, weight, users.squeeze(1), items)


class _Rows(torch.autograd.Function):
    """Rows (..., D) of a table (R, D)."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        ctx.table_shape = table.shape
        return table.index_select(0, rows.reshape(-1)).view(*rows.shape, -1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (rows,) = ctx.saved_tensors
        total = gradient.new_zeros(ctx.table_shape)
        return total.index_add_(0, rows.reshape(-1), gradient.reshape(-1, gradient.shape[-1])), None


def _embedding(rows: int, dim: int, generator: torch.Generator | None, std: float) -> Vectors:
    weight = torch.empty(rows, dim)
    return Vectors.from_pretrained(nn.init.normal_(weight, std=std, generator=generator), freeze=False)


def _varying(user: Tensor, item: Tensor) -> Tensor:
    """An item table (I, D) without the columns that are constant in it or in the user table (U, D)."""
    return item[:, (user != user[0]).any(0) & (item != item[0]).any(0)]


def _linear(inputs: int, outputs: int, generator: torch.Generator | None) -> nn.Linear:
    """A layer with torch's own default distribution, drawn from the generator that is given."""
    with torch.random.fork_rng(devices=[]):  # the global generator is left alone; skip_init would cost half a second
        layer = nn.Linear(inputs, outputs)
    bound = inputs**-0.5
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


def _tower(inputs: int, layers: Sequence[int], generator: torch.Generator | None) -> nn.ModuleList:
    widths = [inputs, *layers]
    return nn.ModuleList(_linear(a, b, generator) for a, b in itertools.pairwise(widths))


def _climb(hidden: nn.ModuleList, user: Tensor, item: Tensor, dropout: float) -> Tensor:
    """ReLU layers over (user, item) side by side; the first is applied to each half, then the halves are added."""
    layers = [layer for layer in hidden if isinstance(layer, nn.Linear)]
    if user.dim() == 3 and user.shape[:2] == (len(item), 1) and _by_tiles(layers[0].weight):
        from fastncf.tiles.layers import climb  # Triton is not there on every machine

        dtype = _computed_in(user)
        return climb(layers, user.to(dtype), item.to(dtype), dropout)
    of_user, of_item = layers[0].weight.split([user.shape[-1], item.shape[-1]], dim=1)
    x = F.dropout(F.relu(F.linear(user, of_user, layers[0].bias) + F.linear(item, of_item)), dropout)
    for layer in layers[1:]:
        x = F.dropout(F.relu(layer(x)), dropout)
    return x
