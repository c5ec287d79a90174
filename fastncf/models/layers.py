"""Building blocks of the models: embeddings, hidden layers, and dot products with lists of items."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastncf import distributed
from fastncf.device import seeded, triton_works
from fastncf.mapped import empty_shared


class Embedding(nn.Embedding):
    """An embedding whose gradient is summed in place on CUDA, where torch sorts the indices of a batch first.

    The terms of a sum arrive in any order, so that two runs differ in the last bits, unless torch is told to use
    deterministic algorithms.
    """

    def forward(self, input: Tensor) -> Tensor:
        return gather_rows(self.weight, input)


def gather_rows(table: Tensor, indices: Tensor) -> Tensor:
    """Return rows (..., D) of a table (R, D) by their indices (...) int32 or int64.

    The rows have the dtype of the table; where Triton gathers them, that of :func:`compute_dtype`.
    """
    if use_triton(table) and not torch.are_deterministic_algorithms_enabled():
        from fastncf.kernels.cuda.rows import Gather  # Triton is not installed on every machine

        return Gather.apply(table, indices, compute_dtype(table))
    return _GatherRows.apply(table, indices) if table.is_cuda else F.embedding(indices, table)


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """Return the dtype of matrix products: that of autocast where it is enabled on CUDA, else the tensor's own."""
    return torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else tensor.dtype


def use_triton(parameter: Tensor) -> bool:
    """Return whether the Triton kernels take a parameter: they need float32 and a device on which Triton works."""
    return parameter.dtype == torch.float32 and triton_works(parameter.device)


def use_triton_dot(table: Tensor, user_ids: Tensor, item_ids: Tensor) -> bool:
    """Return whether :func:`weighted_dot` can be used.

    It needs a list of items (B, C) for each user (B, 1), a table that Triton takes, and no deterministic mode.
    """
    lists = user_ids.dim() == 2 and item_ids.dim() == 2 and user_ids.shape == (len(item_ids), 1)
    return lists and use_triton(table) and not torch.are_deterministic_algorithms_enabled()


def weighted_dot(
    user_embedding: nn.Embedding, item_embedding: nn.Embedding, weight: Tensor, user_ids: Tensor, item_ids: Tensor
) -> Tensor:
    """Return weighted dot products (B, C) of each user's vector with those of a list of items, by Triton.

    Args:
        user_embedding: (U, D) float32.
        item_embedding: (I, D) float32.
        weight: (D,) float32.
        user_ids: (B, 1) int.
        item_ids: (B, C) int.
    """
    from fastncf.kernels.cuda.rows import Dot  # Triton is not installed on every machine

    return Dot.apply(user_embedding.weight, item_embedding.weight, weight, user_ids.squeeze(1), item_ids)


class _GatherRows(torch.autograd.Function):
    """Rows (..., D) of a table (R, D), with the gradient summed by ``index_add_``."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.table_shape = table.shape
        return table.index_select(0, indices.reshape(-1)).view(*indices.shape, -1)

    @staticmethod
    def backward(ctx: Any, grad_rows: Tensor) -> tuple[Tensor, None]:
        (indices,) = ctx.saved_tensors
        grad_table = grad_rows.new_zeros(ctx.table_shape)
        return grad_table.index_add_(0, indices.reshape(-1), grad_rows.reshape(-1, grad_rows.shape[-1])), None


def make_embedding(num_rows: int, dim: int, generator: torch.Generator | None, std: float) -> Embedding:
    """Return an embedding (R, D) float32 that is drawn from a normal distribution around 0.

    It is on the CPU, or on ``meta``, where it takes no memory, if that is torch's default device. Processes of one
    machine that train together share its memory, and write the same numbers to it.

    Args:
        num_rows: R.
        dim: D.
        generator: draws the numbers; torch's global one where it is None.
        std: standard deviation.
    """
    device = "meta" if torch.get_default_device().type == "meta" else "cpu"
    weight = torch.empty(num_rows, dim, dtype=torch.float32, device=device)
    if device == "cpu":  # on meta there is nothing to draw, and torch would import its compiler
        nn.init.normal_(weight, std=std, generator=generator)
    if distributed.current() is not None:
        shared = torch.from_numpy(empty_shared((num_rows, dim), np.float32))
        weight = shared.copy_(weight)  # torch draws in place by several passes, which must not meet those of others
    return Embedding.from_pretrained(weight, freeze=False)


def l2_embeddings(model: nn.Module) -> list[tuple[nn.Embedding, bool]]:
    """Return the embeddings that l2 applies to, each with whether users index it and not items.

    Their names contain ``user`` or ``item``; of other embeddings nothing says which of the two they belong to.
    """
    return [
        (layer, "user" in name)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Embedding) and ("user" in name or "item" in name)
    ]


def drop_constant_columns(others: Tensor, vectors: Tensor) -> Tensor:
    """Return vectors (I, D) without the columns that are constant there or in other vectors (U, D)."""
    varies = (others != others[0]).any(0) & (vectors != vectors[0]).any(0)
    return vectors[:, varies]


def make_linear(num_inputs: int, num_outputs: int, generator: torch.Generator | None) -> nn.Linear:
    """Return a linear layer whose parameters have torch's default distribution, drawn from ``generator``."""
    if torch.get_default_device().type == "meta":  # on meta there is nothing to draw, see make_embedding
        layer = nn.Linear(1, 1, device="cpu")
        layer.in_features, layer.out_features = num_inputs, num_outputs
        layer.weight = nn.Parameter(torch.empty(num_outputs, num_inputs, dtype=torch.float32, device="meta"))
        layer.bias = nn.Parameter(torch.empty(num_outputs, dtype=torch.float32, device="meta"))
        return layer
    with seeded(torch.device("cpu"), 0):  # the global generator is left alone; skip_init would cost half a second
        layer = nn.Linear(num_inputs, num_outputs, dtype=torch.float32, device="cpu")
    bound = num_inputs**-0.5
    with torch.no_grad():
        layer.weight.uniform_(-bound, bound, generator=generator)
        layer.bias.uniform_(-bound, bound, generator=generator)
    return layer


def make_hidden_layers(num_inputs: int, widths: Sequence[int], generator: torch.Generator | None) -> nn.ModuleList:
    """Return linear layers of some widths, each of which takes the outputs of the one before."""
    return nn.ModuleList(make_linear(a, b, generator) for a, b in itertools.pairwise([num_inputs, *widths]))


def hidden_activations(hidden: nn.ModuleList, user_vectors: Tensor, item_vectors: Tensor, dropout: float) -> Tensor:
    """Return the last activations of ReLU layers whose input is a user vector and an item vector, concatenated.

    The first layer is applied to either part by itself and the results are added, so that the part of a user is
    computed once for a list of items.

    Args:
        hidden: linear layers.
        user_vectors: (..., D); (B, 1, D) for users with lists of items.
        item_vectors: (..., E), of a shape that broadcasts against that of the user vectors.
        dropout: probability that an activation is set to 0.
    """
    layers = [layer for layer in hidden if isinstance(layer, nn.Linear)]
    has_lists = user_vectors.dim() == 3 and user_vectors.shape[:2] == (len(item_vectors), 1)
    if has_lists and use_triton(layers[0].weight):
        from fastncf.kernels.cuda.layers import fused_hidden_layers  # Triton is not installed on every machine

        dtype = compute_dtype(user_vectors)
        return fused_hidden_layers(layers, user_vectors.to(dtype), item_vectors.to(dtype), dropout)
    user_weight, item_weight = layers[0].weight.split([user_vectors.shape[-1], item_vectors.shape[-1]], dim=1)
    user_part = F.linear(user_vectors, user_weight, layers[0].bias)
    x = F.dropout(F.relu(user_part + F.linear(item_vectors, item_weight)), dropout)
    for layer in layers[1:]:
        x = F.dropout(F.relu(layer(x)), dropout)
    return x
