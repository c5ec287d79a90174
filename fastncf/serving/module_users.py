"""Users who were not trained on, in a module whose users have rows in tables: their rows are solved for."""

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastncf.memory import available_bytes, require_memory
from fastncf.models.tables import named_tables
from fastncf.serving.solving import negatives_of
from fastncf.stage import Stage

if TYPE_CHECKING:
    from torch import Tensor, nn

NUM_NEGATIVES = 512
"""Items that stand for all negatives of a larger catalogue: each is scored by the layers of the module."""

STEPS = 60
"""Steps of Adam."""

STEP_SIZE = 0.2
"""Size of the first step, in standard deviations of the trained users' numbers; the later ones fall to 0."""

_PAIRS = 1 << 15
"""Users and items that are scored at a time, or fewer where the memory of the CPU has no room for them."""

_COPIES = 6
"""Memory of a step of training, in sizes of what the module keeps for gradients."""

_LEAST_DEVIATION = 1e-6
_BETAS, _EPSILON = (0.9, 0.999), 1e-8
"""Settings of Adam, those of torch."""


def table_names(module: "nn.Module") -> tuple[str, ...] | None:
    """Return the names of the parameters that have a row for each user; None where a module does not say."""
    return named_tables(module, "user")


def with_tables(module: "nn.Module", tables: "Mapping[str, Tensor]") -> "nn.Module":
    """Return a module with other tables of users or of items; all other parameters are shared.

    Args:
        module: any module.
        tables: (R, ...) by the names of its parameters.
    """
    import torch

    named = dict(module.named_parameters())
    memo = {id(tensor): tensor for tensor in (*named.values(), *module.buffers())}
    for name, table in tables.items():
        memo[id(named[name])] = torch.nn.Parameter(table, requires_grad=named[name].requires_grad)
    return copy.deepcopy(module, memo)


def tables_like(module: "nn.Module", rows: Mapping[str, np.ndarray]) -> "dict[str, Tensor]":
    """Return rows (U, ...) of users by the names of their tables, as tensors of the kind that a module has."""
    import torch

    parameters = dict(module.named_parameters())
    return {name: torch.from_numpy(array).to(parameters[name]) for name, array in rows.items()}


def solve_tables(
    module: "nn.Module", stage: Stage, item_counts: np.ndarray, indptr: np.ndarray, items: np.ndarray
) -> "dict[str, Tensor]":
    """Return the rows of users with the least logistic loss for their histories, all other parameters as they are.

    Each item of a history is a positive, the negatives have the weights that their draws in training give them, and the
    rows are drawn to the mean of the trained ones, as if all were of one normal distribution with independent numbers.

    Args:
        module: has :func:`table_names`.
        stage: what it was trained by.
        item_counts: (I,) int64, training interactions of each item.
        indptr: (U + 1,) int64.
        items: (N,) int32, the items of each history.

    Returns:
        Tables (U, ...) by their names.

    Raises:
        InsufficientMemoryError: the memory has no room for the samples of a user.
    """
    import torch

    from fastncf.device import own_modes
    from fastncf.evaluation.scoring import device_of

    parameters, device = dict(module.named_parameters()), device_of(module)
    trained = {name: parameters[name].detach() for name in table_names(module) or ()}
    lengths = np.diff(indptr)
    prior = _Prior.of(trained)
    found = {name: table.new_empty((len(lengths), *table.shape[1:])) for name, table in trained.items()}
    sampled, shares = negatives_of(stage.negatives, stage.negatives_exponent, item_counts, NUM_NEGATIVES)
    negatives = sampled, shares, stage.num_negatives
    by_length = np.argsort(lengths, kind="stable")
    was_training = module.training
    module.eval()
    try:
        with own_modes(gradients=True):
            start = num_bytes = 0
            if device.type == "cpu" and len(by_length):
                first = _Batch.of(by_length[:1], indptr, items, negatives, device)
                num_bytes = _bytes_of_pair(module, prior, first)
            while start < len(by_length):
                rows = by_length[start : start + 1]
                longest = int(lengths[rows[0]]) + len(sampled)
                num_pairs = min(_PAIRS, available_bytes() // 2 // num_bytes) if num_bytes else _PAIRS
                if num_pairs < longest:
                    what = f"a user with {longest - len(sampled)} items, scored beside {len(sampled)} others"
                    require_memory(what, 2 * num_bytes * longest, "shorter histories")
                rows = by_length[start : start + max(1, num_pairs // longest)]
                batch = _Batch.of(rows, indptr, items, negatives, device)
                for name, table in _solve(module, prior, batch).items():
                    found[name][torch.from_numpy(rows).to(device)] = table
                start += len(rows)
    finally:
        module.train(was_training)
    return found


class _Batch:
    """Samples of B users: their histories, filled up with item 0, and behind them the negatives.

    Attributes:
        items: (B, C) int32.
        signs: (B, C), -1 for a positive and 1 for a negative.
        weights: (B, C), of each sample in the loss.
    """

    def __init__(self, items: "Tensor", signs: "Tensor", weights: "Tensor") -> None:
        self.items, self.signs, self.weights = items, signs, weights

    @classmethod
    def of(
        cls,
        users: np.ndarray,
        indptr: np.ndarray,
        items: np.ndarray,
        negatives: tuple[np.ndarray, np.ndarray, int],
        device: "object",
    ) -> "_Batch":
        """Return the samples of some users; ``negatives`` are items, their shares, and their number for a positive."""
        import torch

        sampled, shares, per_positive = negatives
        longest = int(np.diff(indptr)[users].max(initial=0))
        history = np.zeros((len(users), longest), dtype=np.int32)
        weights = np.zeros((len(users), longest + len(sampled)), dtype=np.float32)
        for row, user in enumerate(users):
            own = items[indptr[user] : indptr[user + 1]]
            history[row, : len(own)], weights[row, : len(own)] = own, 1
            left = np.where(np.isin(sampled, own), 0, shares)
            weights[row, longest:] = per_positive * len(own) * left / max(left.sum(), np.finfo(np.float64).tiny)
        ids = np.hstack([history, np.broadcast_to(sampled.astype(np.int32), (len(users), len(sampled)))])
        signs = np.where(np.arange(ids.shape[1]) < longest, np.float32(-1), np.float32(1))
        tensors = (torch.from_numpy(array).to(device) for array in (ids, signs, weights))  # type: ignore[call-overload]
        return cls(*tensors)


def _bytes_of_pair(module: "nn.Module", prior: "_Prior", batch: _Batch) -> int:
    """Return the memory that a step of training takes for each pair of a user and an item, in bytes."""
    import torch

    shared = {tensor.untyped_storage().data_ptr() for tensor in (*module.parameters(), *module.buffers())}
    kept: dict[int, int] = {}

    def keep(tensor: "Tensor") -> "Tensor":
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in shared:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        _loss(module, prior, prior.first_offsets(len(batch.items)), batch)
    samples = sum(tensor.nbytes for tensor in (batch.items, batch.signs, batch.weights))
    return _COPIES * (sum(kept.values()) + samples) // batch.items.numel() + 1


def deviations_of(table: "Tensor") -> "Tensor":
    """Return the standard deviations (...) of the rows of a table (U, ...) of trained users."""
    return table.std(0, correction=0).clamp(min=_LEAST_DEVIATION)


class _Prior(NamedTuple):
    """Normal distribution of the rows of users, with independent numbers: those of the trained ones.

    Attributes:
        means: (...) by the names of the tables.
        deviations: (...) by the names of the tables.
    """

    means: "dict[str, Tensor]"
    deviations: "dict[str, Tensor]"

    @classmethod
    def of(cls, trained: "dict[str, Tensor]") -> "_Prior":
        """Return the distribution of trained tables (U, ...)."""
        return cls(
            {name: table.mean(0) for name, table in trained.items()},
            {name: deviations_of(table) for name, table in trained.items()},
        )

    def first_offsets(self, num_users: int) -> "dict[str, Tensor]":
        """Return the offsets (B, ...) of rows that are the mean, with gradients."""
        return {name: mean.new_zeros((num_users, *mean.shape), requires_grad=True) for name, mean in self.means.items()}

    def tables(self, offsets: "dict[str, Tensor]") -> "dict[str, Tensor]":
        """Return rows (B, ...) from their distances from the mean in standard deviations."""
        return {name: self.means[name] + self.deviations[name] * offset for name, offset in offsets.items()}


def _solve(module: "nn.Module", prior: _Prior, batch: _Batch) -> "dict[str, Tensor]":
    """Return the rows of the users of a batch, by the names of the tables."""
    import torch

    offsets = prior.first_offsets(len(batch.items))
    first, second = ({name: torch.zeros_like(offset) for name, offset in offsets.items()} for _ in range(2))
    for step in range(1, STEPS + 1):
        rate = STEP_SIZE * (1 - (step - 1) / STEPS)
        gradients = torch.autograd.grad(_loss(module, prior, offsets, batch), list(offsets.values()))
        with torch.no_grad():  # torch.optim would import the compiler of torch
            for (name, offset), gradient in zip(offsets.items(), gradients, strict=True):
                first[name].lerp_(gradient, 1 - _BETAS[0])
                second[name].lerp_(gradient.square(), 1 - _BETAS[1])
                deviation = (second[name] / (1 - _BETAS[1] ** step)).sqrt_().add_(_EPSILON)
                offset.addcdiv_(first[name], deviation, value=-rate / (1 - _BETAS[0] ** step))
    with torch.no_grad():
        return prior.tables(offsets)


def _loss(module: "nn.Module", prior: _Prior, offsets: "dict[str, Tensor]", batch: _Batch) -> "Tensor":
    """Return the loss () of the samples of a batch and of the offsets, summed."""
    import torch
    from torch.nn.functional import softplus

    users = torch.arange(len(batch.items), dtype=torch.int32, device=batch.items.device)
    ids = users.repeat_interleave(batch.items.shape[1]), batch.items.reshape(-1)
    if getattr(module, "broadcasts_ids", False):
        ids = users.unsqueeze(-1), batch.items
    scores = torch.func.functional_call(module, prior.tables(offsets), ids).view(batch.items.shape)
    loss = (batch.weights * softplus(batch.signs * scores)).sum()
    return loss + sum((offset * offset).sum() for offset in offsets.values()) / 2
