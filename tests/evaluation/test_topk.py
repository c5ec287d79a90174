import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fastncf.evaluation.topk import FactorItems, flatten, similar_rows, top_items
from fastncf.kernels.cpu.factors import Factors
from fastncf.kernels.cpu.topk import BLOCK_ROWS, TILE, LeftOut
from tests.conftest import plain_split, random_csr


class Table(nn.Module):
    """Scores looked up in a table (U, I): any ranking can be made."""

    def __init__(self, scores: np.ndarray) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.from_numpy(scores))

    def forward(self, user_ids: torch.Tensor, item_ids: torch.Tensor) -> torch.Tensor:
        return self.scores[user_ids, item_ids]


def left_out_of(rows: list[np.ndarray], is_open: np.ndarray) -> LeftOut:
    """Rows of items that are left out, and items that may be recommended at all."""
    indptr = np.cumsum([0, *map(len, rows)])
    return LeftOut(indptr, np.concatenate([*rows, np.empty(0)]).astype(np.int32), is_open)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 25), st.booleans())
def test_the_best_items_equal_those_of_a_sort(seed, k, leave_out):
    """Ties in the order of the items, infinity first, then what has no finite score or none at all."""
    generator = np.random.default_rng(seed)
    scores = generator.integers(-3, 4, (6, 20)).astype(np.float32)
    odd = generator.random((6, 20))
    scores[odd < 0.05], scores[(odd >= 0.05) & (odd < 0.1)], scores[odd > 0.95] = np.nan, -np.inf, np.inf
    csr = random_csr(generator, 6, 20)
    users = generator.integers(0, 6, 8).astype(np.int32)
    is_open = generator.random(20) < 0.8 if leave_out else np.empty(0, dtype=np.bool_)
    rows = [csr[1][csr[0][user] : csr[0][user + 1]] if leave_out else csr[1][:0] for user in users]
    counts, items, found = top_items(Table(scores), users, 20, k, left_out_of(rows, is_open))
    assert items.shape == found.shape == (8, min(k, 20))
    lowest = np.finfo(np.float32).min
    for user, left_out, count, best, score in zip(users, rows, counts, items, found, strict=True):
        free = np.setdiff1d(np.arange(20), [*left_out, *np.flatnonzero(~is_open)])
        row = np.nan_to_num(scores[user, free], nan=lowest, neginf=lowest, posinf=np.inf)
        expected = np.argsort(-row, kind="stable")[:k]
        assert count == len(expected)
        assert best[:count].tolist() == free[expected].tolist()
        assert score[:count].tolist() == row[expected].tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_similar_rows_equal_those_of_a_sort(seed, k):
    generator = np.random.default_rng(seed)
    kinds = generator.standard_normal((5, 3)).astype(np.float32)
    kinds[0] = 0
    kind = generator.integers(0, 5, 9)
    kind[3] = kind[7]
    ids = generator.integers(0, 9, 4).astype(np.int32)
    counts, found, cosines = similar_rows(kinds[kind], ids, k)
    assert found.shape == cosines.shape == (4, min(k, 9))
    unit = kinds / np.maximum(np.linalg.norm(kinds, axis=1, keepdims=True), 1e-12)
    for row, count, similar, cosine in zip(ids, counts, found, cosines, strict=True):
        similar, cosine = similar[:count], cosine[:count]
        assert count == min(k, 8)
        assert row not in similar
        assert len(set(similar)) == len(similar)
        np.testing.assert_allclose(cosine, (unit @ unit[kind[row]])[kind[similar]], atol=1e-6)
        rest = np.setdiff1d(np.arange(9), [*similar, row])
        assert all((unit @ unit[kind[row]])[kind[rest]] <= cosine[-1] + 1e-6)
        same = similar[kind[similar] == kind[row]]
        assert same.tolist() == sorted(same)  # equal vectors tie, wherever they stand


def test_a_table_of_one_row_has_no_similar_rows():
    assert similar_rows(np.ones((1, 3)), np.zeros(2, dtype=np.int32), 5).counts.tolist() == [0, 0]


def reference(factors: Factors, user: int, k: int, left_out: np.ndarray, is_open: np.ndarray) -> tuple[list, list]:
    """The best items of a user and their scores, by a sum over the terms in their order and a sort."""
    scores = factors.item_bias.copy()
    for term in range(factors.user_vectors.shape[1]):
        scores = fused(scores, factors.user_vectors[user, term], factors.item_vectors[:, term])
    scores = fused(scores, factors.user_bias[user], np.float32(1))
    lowest = np.finfo(np.float32).min
    scores = np.nan_to_num(scores, nan=lowest, neginf=lowest, posinf=np.inf)
    free = np.setdiff1d(np.arange(len(scores)), [*left_out, *np.flatnonzero(~is_open)])
    order = free[np.argsort(-scores[free], kind="stable")][:k]
    return order.tolist(), scores[order].tolist()


def fused(total: np.ndarray, a: np.float32, b: np.ndarray) -> np.ndarray:
    """``total + a * b`` in float32, of which the product is not rounded before the sum."""
    with np.errstate(all="ignore"):
        return (total.astype(np.longdouble) + np.longdouble(a) * b).astype(np.float32)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([1, 3, 10, 2000]), st.sampled_from([0, 1, 2, 7]), st.booleans())
def test_the_best_items_of_factors_equal_those_of_a_sort(seed, k, dim, is_filtered):
    """Numbers of few digits make many ties, and their sums exact, so that scores are compared bit by bit."""
    generator = np.random.default_rng(seed)
    num_users, num_items = 5, int(generator.choice([1, 40, TILE - 1, TILE, TILE + 1, 2 * TILE + 100]))
    shapes = (num_users, dim), (num_items, dim), (num_users,), (num_items,)
    factors = Factors(*(generator.integers(-3, 4, shape).astype(np.float32) for shape in shapes))
    factors.item_bias[generator.random(num_items) < 0.02] = generator.choice([np.nan, np.inf, -np.inf])
    is_open = generator.random(num_items) < 0.5 if is_filtered else np.empty(0, dtype=np.bool_)
    users = generator.integers(0, num_users, int(generator.integers(1, 40))).astype(np.int32)
    rows = [np.flatnonzero(generator.random(num_items) < generator.choice([0, 0.1, 0.9, 1])) for _ in users]
    best = FactorItems(factors).top(users, k, left_out_of(rows, is_open))
    assert best.items.shape == best.scores.shape == (len(users), min(k, num_items))
    for user, left_out, count, items, scores in zip(users, rows, *best, strict=True):
        expected = reference(factors, user, k, left_out, is_open)
        assert (items[:count].tolist(), scores[:count].tolist()) == expected


def test_a_user_gets_the_same_bits_in_any_company():
    generator = np.random.default_rng(5)
    num_users, num_items, dim = BLOCK_ROWS + 50, TILE + 77, 9
    shapes = (num_users, dim), (num_items, dim), (num_users,), (num_items,)
    items = FactorItems(Factors(*(generator.standard_normal(shape).astype(np.float32) for shape in shapes)))
    rows = [np.flatnonzero(generator.random(num_items) < 0.05) for _ in range(num_users)]
    everything = np.empty(0, dtype=np.bool_)
    users = np.arange(num_users, dtype=np.int32)
    together = items.top(users, 20, left_out_of(rows, everything))
    for part in (slice(3, 4), slice(7, 9), slice(100, 113), slice(BLOCK_ROWS - 5, BLOCK_ROWS + 6)):
        alone = items.top(users[part], 20, left_out_of(rows[part], everything))
        for one, all_of_them in zip(alone, together, strict=True):
            np.testing.assert_array_equal(one, all_of_them[part])


@pytest.mark.parametrize("leaves_out", [False, True])
@pytest.mark.parametrize("k", [1, 7, 500])
def test_the_answer_for_a_few_users_is_that_for_many(k, leaves_out):
    generator = np.random.default_rng(k)
    shapes = (30, 5), (90, 5), (30,), (90,)
    items = FactorItems(Factors(*(generator.standard_normal(shape).astype(np.float32) for shape in shapes)))
    split = plain_split(*random_csr(generator, 30, 90), 90)
    users = generator.integers(0, 30, 12).astype(np.int32)
    for is_open in (np.empty(0, dtype=np.bool_), generator.random(90) < 0.5):
        nothing = np.zeros(len(users) + 1, dtype=np.int64), np.empty(0, dtype=np.int32)
        left_out = LeftOut(*(split.seen_by(users) if leaves_out else nothing), is_open)
        expected = flatten(users, items.top(users, k, left_out))
        found = items.answer(users, k, split, leaves_out=leaves_out, is_open=is_open)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
            assert one.dtype == other.dtype
