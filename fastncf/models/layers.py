"""Building blocks of the models: embeddings, hidden layers, and dot products of lists."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastncf.device import triton_works


class Vectors(nn.Embedding):
    """An embedding whose gradient on CUDA is added up in place, where torch's own sorts the rows of a batch first.

    The sums then come in any order, so that two runs differ in the last bits, unless torch is told to be deterministic.
    """

    def forward(self, input: Tensor) -> Tensor:
        return rows_of(self.weight, input)


def rows_of(table: Tensor, rows: Tensor) -> Tensor:
    """Rows (..., D) of a table (R, D); in the dtype of the computation where Triton gathers them."""
    if use_triton(table) and not torch.are_deterministic_algorithms_enabled():
        from fastncf.kernels.cuda.rows import Gather  # Triton is not there on every machine

        return Gather.apply(table, rows, compute_dtype(table))
    return _Rows.apply(table, rows) if table.is_cuda else F.embedding(rows, table)


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype of matrix products: what autocast says on CUDA, else the tensor's own."""
    return torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else tensor.dtype


def use_triton(parameter: Tensor) -> bool:
    """Whether the Triton kernels know a parameter's dtype and run where it is."""
    return parameter.dtype == torch.float32 and triton_works(parameter.device)


def use_list_kernels(table: Tensor, users: Tensor, items: Tensor) -> bool:
    """Whether each user (B, 1) has a list of items (B, C), with a table and in a mode in which kernels take them."""
    lists = users.dim() == 2 and items.dim() == 2 and users.shape == (len(items), 1)
    return lists and use_triton(table) and not torch.are_deterministic_algorithms_enabled()


def weighted_dot(user: nn.Embedding, item: nn.Embedding, weight: Tensor, users: Tensor, items: Tensor) -> Tensor:
    """Weighted dot products (B, C) of each user (B, 1) with a list of items (B, C)."""
    from fastncf.kernels.cuda.rows import Dot

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


def make_embedding(rows: int, dim: int, generator: torch.Generator | None, std: float) -> Vectors:
    weight = torch.empty(rows, dim)
    return Vectors.from_pretrained(nn.init.normal_(weight, std=std, generator=generator), freeze=False)


def drop_constant_columns(user: Tensor, item: Tensor) -> Tensor:
    """An item table (I, D) without the columns that are constant in it or in the user table (U, D)."""
    return item[:, (user != user[0]).any(0) & (item != item[0]).any(0)]


def make_linear(inputs: int, outputs: int, generator: torch.Generator | None) -> nn.Linear:
    """A layer with torch's own default distribution, drawn from the generator that is given."""
    with torch.random.fork_rng(devices=[]):  # the global generator is left alone; skip_init would cost half a second
        layer = nn.Linear(inputs, outputs)
    bound = inputs**-0.5
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


def make_hidden_layers(inputs: int, layers: Sequence[int], generator: torch.Generator | None) -> nn.ModuleList:
    widths = [inputs, *layers]
    return nn.ModuleList(make_linear(a, b, generator) for a, b in itertools.pairwise(widths))


def apply_hidden_layers(hidden: nn.ModuleList, user: Tensor, item: Tensor, dropout: float) -> Tensor:
    """ReLU layers over (user, item) side by side; the first is applied to each half, then the halves are added."""
    layers = [layer for layer in hidden if isinstance(layer, nn.Linear)]
    if user.dim() == 3 and user.shape[:2] == (len(item), 1) and use_triton(layers[0].weight):
        from fastncf.kernels.cuda.layers import fused_hidden_layers  # Triton is not there on every machine

        dtype = compute_dtype(user)
        return fused_hidden_layers(layers, user.to(dtype), item.to(dtype), dropout)
    of_user, of_item = layers[0].weight.split([user.shape[-1], item.shape[-1]], dim=1)
    x = F.dropout(F.relu(F.linear(user, of_user, layers[0].bias) + F.linear(item, of_item)), dropout)
    for layer in layers[1:]:
        x = F.dropout(F.relu(layer(x)), dropout)
    return x
