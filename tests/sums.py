"""Sums of losses and metrics over many samples, compared with exact ones.

``python -m tests.sums COUNT`` trains an epoch over COUNT samples by each trainer of a CPU, averages the metrics of a
tenth as many ranks, and prints the relative error of each sum. ``tests/test_sums.py`` does the same with fewer.

Parameters stay as they are, by a learning rate near 0. Then the loss of a sample follows from the score of its user
alone: users have scores that float32 holds exactly, and items none. The terms are computed in float32 as the trainers
compute them, and added up by ``math.fsum``.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from numba import njit
from torch.nn import functional

from fastncf.data.split import Split
from fastncf.data.weights import PairWeights
from fastncf.evaluation.metrics import METRICS, RankLists, default_metrics, measure, metric_means
from fastncf.kernels.cpu.factors import Factors
from fastncf.kernels.cpu.losses import softplus
from fastncf.kernels.cpu.simd import LANES, pointer
from fastncf.models.mlp import MLP
from fastncf.stage import Stage
from fastncf.trainers import next_item
from fastncf.trainers.autograd import AutogradTrainer
from fastncf.trainers.block_sgd import BlockSGD
from fastncf.trainers.cpu_mlp import CPUMLPTrainer
from fastncf.trainers.history_sgd import HistorySGD
from fastncf.trainers.next_item import NextItem, Work
from fastncf.trainers.other_items import OtherItems
from tests.conftest import plain_split
from tests.stages import make_stage

BOUND = 1e-9
"""Largest relative error of a sum of 10^8 terms."""

_NUM_NEGATIVES = 8
_GROUP = 1 + _NUM_NEGATIVES
_VECTORS = 1024  # numbers, a multiple of those of a vector on any machine
_FIXED = 1e-30  # a learning rate
Terms = tuple[np.ndarray, np.ndarray]
"""Terms (n,) of a positive and of one of its negatives."""

_DIM = 4
_SETTINGS: dict[str, Any] = {
    "dim": _DIM,
    "num_negatives": _NUM_NEGATIVES,
    "epochs": 1,
    "l2": 0.0,
    "learning_rate": _FIXED,
    "batch_size": 8192,
}


def split_of(num_samples: int) -> Split:
    """Return interactions of few users with half of the items each, 1 + K samples for each interaction."""
    interactions = -(-num_samples // _GROUP)
    num_users = max(4, math.isqrt(interactions) // 8)
    length = -(-interactions // num_users)
    rows = np.arange(length, dtype=np.int32)[None] * 2 + np.arange(num_users, dtype=np.int32)[:, None] % 2
    return plain_split(np.arange(num_users + 1) * length, rows.reshape(-1), 2 * length)


def with_weights(split: Split) -> Split:
    """Return a split whose interactions have weights."""
    values = np.random.default_rng(2).integers(1, 9, len(split.indices)).astype(np.float64)
    return replace(split, weights=PairWeights(split.indptr, split.indices, values))


def user_scores(split: Split) -> np.ndarray:
    """Return the score (U,) float32 of all samples of each user: multiples of 1 / 256 below 2."""
    return np.random.default_rng(1).integers(1, 512, split.num_users).astype(np.float32) / 256


@njit
def _softplus_by_kernel(x: np.ndarray) -> np.ndarray:
    """Return softplus (n,) of numbers (n,) float32, as the CPU kernels compute each."""
    out, one, sums = np.empty_like(x), np.zeros(LANES, dtype=np.float32), np.zeros(LANES)
    one[0] = 1
    for at in range(len(x)):
        numbers = np.full(LANES, x[at], dtype=np.float32)
        softplus(pointer(numbers), pointer(one), LANES, pointer(sums))
        out[at] = sums[0]
        sums[:] = 0
    return out


def kernel_terms(scores: np.ndarray) -> Terms:
    """Return the terms of a positive and of a negative with scores (n,) float32, as the CPU kernels compute them."""
    return _softplus_by_kernel(-scores), _softplus_by_kernel(scores)


def torch_terms(scores: np.ndarray) -> Terms:
    """Return the same as torch computes them, whose last bit depends on where a number stands in a tensor."""
    table = torch.from_numpy(np.resize(scores, -(-len(scores) // _VECTORS) * _VECTORS))[:, None].repeat(1, _GROUP)
    terms = functional.softplus(-table[:, 0]), functional.softplus(table[:, 1:])[:, 0]
    return terms[0].numpy()[: len(scores)], terms[1].numpy()[: len(scores)]


def cross_entropy(split: Split, terms_of: Callable[[np.ndarray], Terms]) -> float:
    """Return what an epoch of binary cross entropy is to return, exactly."""
    counts, weights = np.diff(split.indptr), split.interaction_weights()
    owners = np.repeat(np.arange(split.num_users), counts)
    totals = counts if weights is None else [math.fsum(weights[owners == user]) for user in range(split.num_users)]
    positive, negative = terms_of(user_scores(split))
    losses = np.float64(positive), _NUM_NEGATIVES * np.float64(negative)
    return math.fsum(np.concatenate([totals * loss for loss in losses])) / _GROUP


def by_factors(maker: type[BlockSGD | HistorySGD], split: Split, **changes: Any) -> tuple[float, float]:
    """Return the summed loss of an epoch of factors, of which only the users' biases are not 0, and it exactly."""
    stage = make_stage(**_SETTINGS, optimizer="sgd", has_weights=split.weights is not None, **changes)
    vectors = [np.zeros((count, _DIM), dtype=np.float32) for count in (split.num_users, split.num_items)]
    factors = Factors(*vectors, user_scores(split), np.zeros(split.num_items, dtype=np.float32))
    order = np.concatenate([np.arange(count, dtype=np.int32) for count in np.diff(split.indptr)])
    with maker(factors, split, stage, order if stage.history == "sequence" else None) as trainer:
        return float(trainer.epoch(0)), cross_entropy(split, kernel_terms)


def mlp_of(split: Split, dim: int, layers: tuple[int, ...]) -> MLP:
    """Return a network that hands the first number of the user's vector on to the score."""
    model = MLP(split.num_users, split.num_items, dim, layers)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.user_embedding.weight[:, 0] = torch.from_numpy(user_scores(split))
        for layer in [*model.hidden, model.output]:
            if isinstance(layer, torch.nn.Linear):
                layer.weight[0, 0] = 1
    return model


def by_network(
    maker: type[Any],
    split: Split,
    terms_of: Callable[[np.ndarray], Terms],
    *,
    dim: int = _DIM,
    layers: tuple[int, ...] = (8, 4),
    **changes: Any,
) -> tuple[float, float]:
    """Return the summed loss of an epoch by a trainer of networks, and it exactly."""
    stage = make_stage(**_SETTINGS | {"model": "mlp", "dim": dim, "layers": layers, **changes})
    with maker(mlp_of(split, dim, layers), split, stage) as trainer:
        return float(trainer.epoch(0)), cross_entropy(split, terms_of)


def _watched(maker: type[NextItem], losses: list[np.ndarray]) -> type[NextItem]:
    """Return a trainer that also keeps the loss of each position of each call."""

    class Watched(maker):  # type: ignore[misc,valid-type]
        def _train_batches(self, first: int, count: int, step: int, work: Work) -> float:
            assert count == 1
            total: float = super()._train_batches(first, count, step, work)
            losses.append(work.buffers.losses[: work.plans.sizes[0, 2]].copy())
            return total

    return Watched


def by_states(maker: type[NextItem], split: Split, num_negatives: int) -> tuple[float, float]:
    """Return the summed loss of an epoch by a trainer of states, and the exact sum of its terms."""
    losses: list[np.ndarray] = []
    changes = {"loss": "softmax", "history": maker.history, "num_negatives": num_negatives, "batch_size": 2048}
    stage: Stage = make_stage(**_SETTINGS | {"init_std": 0.5, "learning_rate": 0.01} | changes)
    vectors = [np.zeros((count, _DIM), dtype=np.float32) for count in (split.num_users, split.num_items)]
    factors = Factors(*vectors, *(np.zeros(len(table), dtype=np.float32) for table in vectors))
    order = np.concatenate([np.arange(count, dtype=np.int32) for count in np.diff(split.indptr)])
    with (
        patch.object(next_item, "_BATCHES_PER_CALL", 1),
        _watched(maker, losses)(factors, split, stage, order) as trainer,
    ):
        found = float(trainer.epoch(0))
        return found, math.fsum(np.concatenate(losses)) * (len(split.indices) / trainer.num_positions)


def metrics_of(num_ranks: int) -> dict[str, tuple[float, float]]:
    """Return means of metrics over many ranks, and the exact ones."""
    ranks = np.random.default_rng(3).geometric(0.01, num_ranks) - 1
    distinct, counts = np.unique(ranks, return_counts=True)
    found: dict[str, tuple[float, float]] = {}
    by_array, by_tensor = measure(RankLists.single(ranks), 10).means(), metric_means(torch.from_numpy(ranks), 10)
    for name, mean in zip(default_metrics(), by_tensor.tolist(), strict=True):
        label = name if name in by_array else f"{name}@10"
        exact = math.fsum(counts * np.float64(METRICS[name](distinct, 10))) / num_ranks
        found |= {label: (by_array[label], exact), f"{label} by torch": (mean, exact)}
    return found


def all_sums(num_samples: int) -> dict[str, tuple[float, float]]:
    """Return sums by all trainers of a CPU, and of metrics, and the exact ones."""
    split = split_of(num_samples)
    found = {
        "mf": by_factors(BlockSGD, split),
        "mf with weights": by_factors(BlockSGD, with_weights(split)),
        "mf with histories": by_factors(HistorySGD, split, history="sequence"),
        "mlp": by_network(CPUMLPTrainer, split, kernel_terms),
        "autograd": by_network(AutogradTrainer, split, torch_terms),
    }
    num_negatives = 100
    states = split_of(num_samples // (1 + num_negatives) * _GROUP)
    found |= {maker.name: by_states(maker, states, num_negatives) for maker in (NextItem, OtherItems)}
    return found | metrics_of(num_samples // 10)


def error(found: float, exact: float) -> float:
    """Return the relative error of a sum."""
    return abs(found / exact - 1)


def main() -> int:
    """Print the relative error of each sum; return 1 where one is above the bound."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    count = parser.parse_args().count
    errors = {name: error(*sums) for name, sums in all_sums(count).items()}
    print(json.dumps({"samples": count, "relative errors": {name: f"{value:.1e}" for name, value in errors.items()}}))
    return int(max(errors.values()) > BOUND)


if __name__ == "__main__":
    sys.exit(main())
