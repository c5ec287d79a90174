"""How a model scores many pairs at once: what depends on the user or on the item alone is computed once.

A scorer holds views or products of the parameters as they were when it was made, so it is made for one evaluation and
thrown away. It is called without gradients. What it returns is valid until its next call.
"""

import functools
import math
from typing import Protocol

import torch
from torch import Tensor, nn

from fastncf.device import has_tf32, triton_works
from fastncf.errors import ConfigError
from fastncf.kernels.cpu.factors import Factors
from fastncf.kernels.cpu.ranking import dot_lists
from fastncf.models.gmf import GMF
from fastncf.models.mf import MF
from fastncf.models.mlp import MLP
from fastncf.models.neumf import NeuMF
from fastncf.models.popularity import Popularity


class Scorer(Protocol):
    """Scores for the evaluation.

    Attributes:
        list_bytes: memory that a pair takes in ``lists``.
        catalogue_bytes: memory that a pair takes in ``catalogue``.
    """

    list_bytes: int
    catalogue_bytes: int

    @property
    def factors(self) -> Factors | None:
        """The matrix factorization that the scores are of, where kernels know it."""

    def lists(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores (B, C) of lists of items (B, C) int32 for users (B,) int32."""

    def catalogue(self, users: Tensor, num_items: int) -> Tensor:
        """Scores (B, I) of all items for users (B,) int32."""


def scorer(model: nn.Module) -> Scorer:
    """The fastest scorer for a model; one of a user's own class, derived or not, is called as it is."""
    if type(model) not in (MF, GMF, MLP, NeuMF):
        return _Plain(model)
    if isinstance(model, MF):
        return _Dot(model.user_embedding.weight, model.item_embedding.weight, model.user_bias, model.item_bias)
    if isinstance(model, GMF):
        item = model.item_embedding.weight
        user = model.user_embedding.weight * model.output.weight
        return _Dot(user, item, model.output.bias.expand(len(user)), torch.zeros_like(item[:, 0]))
    if isinstance(model, MLP):
        return _Tower(model.hidden, model.user_embedding, model.item_embedding, model.output.weight, model.output.bias)
    assert isinstance(model, NeuMF)
    user, item = model.gmf_user_embedding.weight, model.gmf_item_embedding.weight
    of_product, of_top = model.output.weight.tensor_split([user.shape[1]], dim=1)
    tower = _Tower(model.hidden, model.mlp_user_embedding, model.mlp_item_embedding, of_top, model.output.bias)
    return _Sum(tower, _Dot(user * of_product, item))


class _Buffer:
    """Memory that one call after the other writes to: fresh pages cost more than the arithmetic."""

    def __init__(self) -> None:
        self.memory = torch.empty(0)

    def take(self, *shape: int, like: Tensor) -> Tensor:
        size = math.prod(shape)
        if self.memory.numel() < size or self.memory.device != like.device or self.memory.dtype != like.dtype:
            self.memory = torch.empty(size, dtype=like.dtype, device=like.device)
        return self.memory[:size].view(shape)


class _Dot:
    """Scores that are dot products of a user's (U, D) and an item's (I, D) vector, plus biases (U,) and (I,)."""

    def __init__(self, user: Tensor, item: Tensor, *biases: Tensor) -> None:
        self.tables = tuple(tensor.detach().contiguous() for tensor in (user, item, *biases))
        by_kernel = user.device.type == "cpu" and user.dtype == torch.float32
        self.factors = Factors(*(table.numpy() for table in self.tables)) if by_kernel and biases else None
        self.by_kernel = by_kernel
        self.by_tiles = user.dtype == torch.float32 and triton_works(user.device)
        self.list_bytes = 8 if by_kernel or self.by_tiles else 8 * (user.shape[1] + 2)
        self.catalogue_bytes = 4 if by_kernel else 8  # tensors also hold what comes of the comparison
        self.buffer = _Buffer()

    @functools.cached_property
    def vectors(self) -> tuple[Tensor, Tensor]:
        """(U, D') and (I, D'): biases, where there are some, are two dimensions more."""
        user, item, *biases = self.tables
        if not biases:
            return user, item
        of_user, of_item = biases
        ones = torch.ones_like(of_user), torch.ones_like(of_item)
        return torch.column_stack([user, of_user, ones[0]]), torch.column_stack([item, ones[1], of_item])

    def lists(self, users: Tensor, items: Tensor) -> Tensor:
        user, item = self.vectors
        if self.by_kernel:
            out = self.buffer.take(*items.shape, like=user)
            dot_lists(*(tensor.numpy() for tensor in (users.int(), items.int(), user, item, out)))
            return out
        if self.by_tiles:
            from fastncf.kernels.cuda.rows import Dot  # Triton is not there on every machine

            return Dot.apply(user, item, torch.ones_like(user[0]), users, items)
        return torch.bmm(item[items.long()], user[users.long()].unsqueeze(-1)).squeeze(-1)

    def catalogue(self, users: Tensor, num_items: int) -> Tensor:
        user, item = self.vectors
        out = self.buffer.take(len(users), len(item), like=user)
        return torch.mm(user.index_select(0, users), item.T, out=out)


class _Tower:
    """ReLU layers over a user's and an item's vector side by side, up to a score: each half of the first layer once."""

    factors = None

    def __init__(
        self, hidden: nn.ModuleList, user: nn.Embedding, item: nn.Embedding, weight: Tensor, bias: Tensor
    ) -> None:
        first, *rest = (layer for layer in hidden if isinstance(layer, nn.Linear))
        of_user, of_item = first.weight.split([user.embedding_dim, item.embedding_dim], dim=1)
        self.user = torch.addmm(first.bias, user.weight, of_user.T)  # (U, H)
        self.item = item.weight @ of_item.T  # (I, H)
        self.layers = [(layer.weight.contiguous(), layer.bias) for layer in rest]
        self.output = torch.cat([weight.view(-1), bias])
        self.by_tiles = bool(rest) and user.weight.dtype == torch.float32 and has_tf32(user.weight.device)
        written = [len(bias) for _, bias in self.layers]
        written = written[:-1] if self.by_tiles else [self.user.shape[1], *written]
        self.list_bytes = 4 * (sum(written) + 4)
        self.catalogue_bytes = self.list_bytes
        self.buffers = [_Buffer() for _ in range(len(self.layers) + 2)]

    def lists(self, users: Tensor, items: Tensor) -> Tensor:
        if self.by_tiles:
            from fastncf.kernels.cuda.scores import score_by_layers  # Triton is not there on every machine

            scores = torch.empty(items.shape, device=self.user.device)
            score_by_layers(scores, self.user, self.item, users, items.contiguous(), self.layers, self.output)
            return scores
        first = self.buffers[0].take(items.numel(), self.item.shape[1], like=self.item)
        torch.index_select(self.item, 0, items.reshape(-1), out=first)
        halves = first.view(*items.shape, -1)
        halves += self.user.index_select(0, users).unsqueeze(1)
        halves.relu_()
        return self.apply_hidden_layers(first).view(items.shape)

    def catalogue(self, users: Tensor, num_items: int) -> Tensor:
        if self.by_tiles:
            items = torch.arange(num_items, dtype=torch.int32, device=users.device)
            return self.lists(users, items.expand(len(users), -1))
        halves = self.buffers[0].take(len(users), *self.item.shape, like=self.item)
        torch.add(self.user.index_select(0, users).unsqueeze(1), self.item, out=halves).relu_()
        return self.apply_hidden_layers(halves.view(-1, self.item.shape[1])).view(len(users), num_items)

    def apply_hidden_layers(self, x: Tensor) -> Tensor:
        """Scores (n, 1) of the first layer's activations (n, H)."""
        for (weight, bias), buffer in zip(self.layers, self.buffers[1:-1], strict=True):
            x = torch.addmm(bias, x, weight.T, out=buffer.take(len(x), len(bias), like=x)).relu_()
        last, offset = self.output[:-1].unsqueeze(1), self.output[-1:]
        return torch.addmm(offset, x, last, out=self.buffers[-1].take(len(x), 1, like=x))


class _Sum:
    """A tower's score and a dot product."""

    factors = None

    def __init__(self, tower: _Tower, dot: _Dot) -> None:
        self.tower, self.dot = tower, dot
        self.list_bytes = tower.list_bytes + dot.list_bytes
        self.catalogue_bytes = tower.catalogue_bytes + dot.catalogue_bytes

    def lists(self, users: Tensor, items: Tensor) -> Tensor:
        return self.tower.lists(users, items).add_(self.dot.lists(users, items))

    def catalogue(self, users: Tensor, num_items: int) -> Tensor:
        return self.tower.catalogue(users, num_items).add_(self.dot.catalogue(users, num_items))


class _Plain:
    """Any module, called as it is."""

    factors = None
    list_bytes = catalogue_bytes = 1024

    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def lists(self, users: Tensor, items: Tensor) -> Tensor:
        return score_lists(self.model, users, items)

    def catalogue(self, users: Tensor, num_items: int) -> Tensor:
        return score_catalogue(self.model, users, num_items)


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
