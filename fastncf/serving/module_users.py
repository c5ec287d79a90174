"""Users who were not trained on, in a module whose users have rows in tables: their rows are solved for."""

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

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
"""Users and items that are scored at a time."""

_LEAST_DEVIATION = 1e-6


def table_names(module: "nn.Module") -> tuple[str, ...] | None:
    """Return the names of the parameters that have a row for each user; None where a module does not say."""
    names = getattr(module, "user_tables", None)
    return names if isinstance(names, tuple) and names else None


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
    """
    import torch

    from fastncf.device import own_modes
    from fastncf.evaluation.scoring import device_of

    parameters, device = dict(module.named_parameters()), device_of(module)
    trained = {name: parameters[name].detach() for name in table_names(module) or ()}
    lengths = np.diff(indptr)
    found = {name: table.new_empty((len(lengths), *table.shape[1:])) for name, table in trained.items()}
    sampled, shares = negatives_of(stage.negatives, stage.negatives_exponent, item_counts, NUM_NEGATIVES)
    by_length = np.argsort(lengths, kind="stable")
    was_training = module.training
    module.eval()
    try:
        with own_modes(gradients=True):
            start = 0
            while start < len(by_length):
                rows = by_length[start : start + 1]
                longest = int(lengths[rows[0]]) + len(sampled)
                rows = by_length[start : start + max(1, _PAIRS // longest)]
                batch = _Batch.of(rows, indptr, items, (sampled, shares, stage.num_negatives), device)
                for name, table in _solve(module, trained, batch).items():
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


def deviations_of(table: "Tensor") -> "Tensor":
    """Return the standard deviations (...) of the rows of a table (U, ...) of trained users."""
    return table.std(0, correction=0).clamp(min=_LEAST_DEVIATION)


def _solve(module: "nn.Module", trained: "dict[str, Tensor]", batch: _Batch) -> "dict[str, Tensor]":
    """Return the rows of the users of a batch, by the names of the tables."""
    import torch
    from torch.nn.functional import softplus

    size = len(batch.items)
    means = {name: table.mean(0) for name, table in trained.items()}
    deviations = {name: deviations_of(table) for name, table in trained.items()}
    offsets = {name: mean.new_zeros((size, *mean.shape), requires_grad=True) for name, mean in means.items()}
    users = torch.arange(size, dtype=torch.int32, device=batch.items.device)
    ids = users.repeat_interleave(batch.items.shape[1]), batch.items.reshape(-1)
    if getattr(module, "broadcasts_ids", False):
        ids = users.unsqueeze(-1), batch.items
    optimizer = torch.optim.Adam(offsets.values(), lr=STEP_SIZE)

    def tables() -> "dict[str, Tensor]":
        return {name: means[name] + deviations[name] * offset for name, offset in offsets.items()}

    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = STEP_SIZE * (1 - step / STEPS)
        scores = torch.func.functional_call(module, tables(), ids).view(batch.items.shape)
        loss = (batch.weights * softplus(batch.signs * scores)).sum()
        loss = loss + sum((offset * offset).sum() for offset in offsets.values()) / 2
        gradients = torch.autograd.grad(loss, list(offsets.values()))
        for offset, gradient in zip(offsets.values(), gradients, strict=True):
            offset.grad = gradient
        optimizer.step()
    with torch.no_grad():
        return tables()
