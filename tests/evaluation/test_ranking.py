import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fastncf.evaluation import ranking
from fastncf.evaluation.candidates import CandidateLists
from fastncf.evaluation.metrics import MISS, metrics
from fastncf.evaluation.ranking import (
    candidate_ranks,
    catalogue_ranks,
    catalogue_ranks_by_factors,
    csr_pairs,
    on_device,
    rank_by_counting,
    rank_candidates,
    rank_catalogue,
    ranks_by_factors,
    validation_means,
)
from fastncf.kernels.cpu.factors import Factors
from fastncf.models.mf import MF
from tests.conftest import random_csr

CPU = torch.device("cpu")


class Table(nn.Module):
    """Scores looked up in a table (U, I): any ranking can be made."""

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        assert not self.training
        return self.scores[users, items]


def plain_rank(positive: float, negatives: list[float]) -> int:
    if not math.isfinite(positive):
        return MISS
    return sum(1 for score in negatives if not score < positive)


def awkward(generator: np.random.Generator, *shape: int) -> torch.Tensor:
    """Scores with many ties, some NaN and some infinite."""
    scores = generator.integers(-3, 4, shape).astype(np.float32)
    odd = generator.random(shape)
    scores[odd < 0.05] = np.nan
    scores[(odd >= 0.05) & (odd < 0.08)] = np.inf
    scores[(odd >= 0.08) & (odd < 0.11)] = -np.inf
    return torch.from_numpy(scores)


def test_ties_nan_and_infinity_count_against_the_positive():
    nan, inf = math.nan, math.inf
    positive = torch.tensor([1.0, 1.0, 1.0, nan, inf, -inf, 1.0])
    negatives = torch.tensor([[0, 0], [1, 0], [nan, inf], [0, 0], [0, 0], [0, 0], [-inf, 0.5]])
    ranks = rank_by_counting(positive, negatives, torch.ones_like(negatives, dtype=torch.bool))
    assert ranks.tolist() == [0, 1, 2, MISS, MISS, MISS, 0]


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_constant_model_gets_nothing(value):
    users = np.arange(5, dtype=np.int32)
    lists = on_device(CandidateLists(users, users, np.tile(np.arange(5, 25, dtype=np.int32), (5, 1))), CPU)
    model = Table(torch.full((5, 30), value))
    assert metrics(rank_candidates(model, lists).numpy(), 10)["hr@10"] == 0
    indptr = np.zeros(6, np.int64)
    ranks = rank_catalogue(model, lists.users, lists.positives, indptr, np.empty(0, np.int32), 30)
    assert metrics(ranks.numpy(), 10)["hr@10"] == 0


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_candidate_ranks_equal_plain_counting(seed):
    """Duplicates of the positive and padding do not count."""
    generator = np.random.default_rng(seed)
    scores = awkward(generator, 6, 20)
    users = generator.integers(0, 6, 8).astype(np.int32)
    positives = generator.integers(0, 20, 8).astype(np.int32)
    negatives = generator.integers(-1, 20, (8, 7)).astype(np.int32)
    ranks = rank_candidates(Table(scores), on_device(CandidateLists(users, positives, negatives), CPU))
    for user, positive, row, rank in zip(users, positives, negatives, ranks, strict=True):
        counted = [float(scores[user, item]) for item in row if item not in (-1, positive)]
        assert rank == plain_rank(float(scores[user, positive]), counted)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32))
def test_ranks_by_factors_equal_plain_counting(seed):
    """By arrays and by the module of them, with scores that are whole numbers, so that they are exact and tie."""
    generator = np.random.default_rng(seed)
    user, item = (generator.integers(-2, 3, (rows, 3)).astype(np.float32) for rows in (6, 20))
    biases = awkward(generator, 6).numpy(), awkward(generator, 20).numpy()
    users = generator.integers(0, 6, 8).astype(np.int32)
    positives = generator.integers(0, 20, 8).astype(np.int32)
    negatives = generator.integers(-1, 20, (8, 7)).astype(np.int32)
    lists, factors = CandidateLists(users, positives, negatives), Factors(user, item, *biases)
    ranks = ranks_by_factors(factors, lists)
    assert rank_candidates(MF.from_factors(factors), on_device(lists, CPU)).tolist() == ranks.tolist()
    with np.errstate(invalid="ignore"):  # infinity less infinity
        scores = user @ item.T + biases[0][:, None] + biases[1]
    for one, positive, row, rank in zip(users, positives, negatives, ranks, strict=True):
        counted = [float(scores[one, other]) for other in row if other not in (-1, positive)]
        assert rank == plain_rank(float(scores[one, positive]), counted)


def some_unseen(generator, users, indptr, indices, num_items, most):
    """Return up to ``most`` unseen items of each user in any order, and their bounds."""
    rows = []
    for user in users:
        left = np.setdiff1d(np.arange(num_items), indices[indptr[user] : indptr[user + 1]])
        rows.append(generator.permutation(left)[: generator.integers(1, most + 1)])
    return np.concatenate(rows).astype(np.int32), np.cumsum([0, *map(len, rows)])


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 5]))
def test_catalogue_ranks_equal_plain_counting(seed, most):
    """By the kernel of the CPU, and by the tensor operations of other devices; other positives do not count."""
    generator = np.random.default_rng(seed)
    indptr, indices = random_csr(generator, 6, 20)
    users = np.arange(6, dtype=np.int32)
    positives, bounds = some_unseen(generator, users, indptr, indices, 20, most)
    scores = awkward(generator, 6, 20)
    tensors = torch.from_numpy(users), torch.from_numpy(positives)
    ranks = rank_catalogue(Table(scores), *tensors, indptr, indices, 20, bounds)
    by_tensors = ranking._count_by_tensors(scores, *tensors, bounds, *map(torch.from_numpy, (indptr, indices)))
    assert torch.equal(ranks, by_tensors)
    for user, first, last in zip(users, bounds, bounds[1:], strict=False):
        excluded = {*indices[indptr[user] : indptr[user + 1]].tolist(), *positives[first:last].tolist()}
        counted = [float(scores[user, item]) for item in range(20) if item not in excluded]
        for place in range(first, last):
            assert ranks[place] == plain_rank(float(scores[user, positives[place]]), counted)


@pytest.mark.parametrize("seed", range(4))
def test_catalogue_ranks_by_factors_equal_plain_counting(seed):
    """With scores that are exact and tie, some of them infinite or NaN, and several tiles, blocks and positives."""
    generator = np.random.default_rng(seed)
    num_users, num_items = 600, (3, 575, 576, 1500)[seed]
    indptr, indices = random_csr(generator, num_users, num_items, min(40, num_items - 1))
    users = generator.permutation(num_users).astype(np.int32)[: num_users - seed]
    positives, bounds = some_unseen(generator, users, indptr, indices, num_items, (1, 1, 9, 4)[seed])
    vectors = [generator.integers(-2, 3, (rows, 3)).astype(np.float32) for rows in (num_users, num_items)]
    factors = Factors(*vectors, awkward(generator, num_users).numpy(), awkward(generator, num_items).numpy())
    lists = CandidateLists(users, positives, np.empty((len(users), 0), dtype=np.int32))
    ranks = catalogue_ranks_by_factors(factors, lists, indptr, indices, bounds)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        scores = vectors[0] @ vectors[1].T + factors.user_bias[:, None] + factors.item_bias
    for user, first, last in zip(users, bounds, bounds[1:], strict=False):
        is_counted = np.ones(num_items, dtype=bool)
        is_counted[indices[indptr[user] : indptr[user + 1]]] = False
        is_counted[positives[first:last]] = False
        for place in range(first, last):
            rank = plain_rank(float(scores[user, positives[place]]), scores[user, is_counted].tolist())
            assert ranks[place] == rank


def test_ranks_of_arrays_and_means_of_validation():
    generator = np.random.default_rng(4)
    indptr, indices = random_csr(generator, 6, 20, 8)
    users = np.arange(6, dtype=np.int32)
    lists = CandidateLists(users, users + 8, generator.integers(-1, 20, (6, 7)).astype(np.int32))
    model, device_lists = Table(awkward(generator, 6, 20)), on_device(lists, CPU)
    ranks = candidate_ranks(model, lists)
    assert ranks.tolist() == rank_candidates(model, device_lists).tolist()
    full = rank_catalogue(model, device_lists.users, device_lists.positives, indptr, indices, 20)
    assert catalogue_ranks(model, lists, indptr, indices, 20).tolist() == full.tolist()
    expected = list(metrics(ranks, 3).values())
    for given_lists in (lists, device_lists):
        assert validation_means(model, given_lists, 3).tolist() == pytest.approx(expected, rel=1e-12)
    factors = Factors(*(generator.random(shape, dtype=np.float32) for shape in ((6, 3), (20, 3), (6,), (20,))))
    assert validation_means(factors, lists, 3) == list(metrics(ranks_by_factors(factors, lists), 3).values())


def test_csr_pairs_lists_rows_in_the_order_asked():
    indptr, indices = torch.tensor([0, 2, 2, 5]), torch.tensor([3, 4, 0, 1, 2], dtype=torch.int32)
    row, item = csr_pairs(indptr, indices, torch.tensor([2, 1, 0], dtype=torch.int32))
    assert row.tolist() == [0, 0, 0, 2, 2]
    assert item.tolist() == [0, 1, 2, 3, 4]
