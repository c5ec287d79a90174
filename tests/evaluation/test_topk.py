import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fastncf.errors import ConfigError
from fastncf.evaluation.topk import similar_items, top_items
from tests.conftest import random_csr


class Table(nn.Module):
    """Scores looked up in a table (U, I): any ranking can be made."""

    def __init__(self, scores: np.ndarray) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.from_numpy(scores))

    def forward(self, user_ids: torch.Tensor, item_ids: torch.Tensor) -> torch.Tensor:
        return self.scores[user_ids, item_ids]


class Vectors(nn.Module):
    """Items with vectors, and nothing else."""

    def __init__(self, vectors: np.ndarray) -> None:
        super().__init__()
        self.vectors = nn.Parameter(torch.from_numpy(vectors))

    def item_vectors(self) -> torch.Tensor:
        return self.vectors


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
    counts, items, found = top_items(Table(scores), users, 20, k, csr if leave_out else None)
    assert items.shape == found.shape == (8, min(k, 20))
    lowest = np.finfo(np.float32).min
    for user, count, best, score in zip(users, counts, items, found, strict=True):
        left_out = csr[1][csr[0][user] : csr[0][user + 1]] if leave_out else []
        free = np.setdiff1d(np.arange(20), left_out)
        row = np.nan_to_num(scores[user, free], nan=lowest, neginf=lowest, posinf=np.inf)
        expected = np.argsort(-row, kind="stable")[:k]
        assert count == len(expected)
        assert best[:count].tolist() == free[expected].tolist()
        assert score[:count].tolist() == row[expected].tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12))
def test_similar_items_equal_those_of_a_sort(seed, k):
    generator = np.random.default_rng(seed)
    kinds = generator.standard_normal((5, 3)).astype(np.float32)
    kind = generator.integers(0, 5, 9)
    kind[3] = kind[7]
    items = generator.integers(0, 9, 4).astype(np.int32)
    found, cosines = similar_items(Vectors(kinds[kind]), items, 9, k)
    assert found.shape == cosines.shape == (4, min(k, 8))
    unit = kinds / np.linalg.norm(kinds, axis=1, keepdims=True)
    for item, similar, cosine in zip(items, found, cosines, strict=True):
        assert item not in similar
        assert len(set(similar)) == len(similar)
        np.testing.assert_allclose(cosine, (unit @ unit[kind[item]])[kind[similar]], atol=1e-6)
        rest = np.setdiff1d(np.arange(9), [*similar, item])
        assert all((unit @ unit[kind[item]])[kind[rest]] <= cosine[-1] + 1e-6)
        same = similar[kind[similar] == kind[item]]
        assert same.tolist() == sorted(same)  # equal vectors tie, wherever they stand


def test_a_catalogue_of_one_item_has_no_similar_items():
    found, cosines = similar_items(Vectors(np.ones((1, 3), dtype=np.float32)), np.zeros(2, dtype=np.int32), 1, 5)
    assert found.shape == cosines.shape == (2, 0)


def test_a_model_without_vectors_is_refused():
    with pytest.raises(
        ConfigError, match=r"Table has no vectors to compare items by; expected a model with item_vectors"
    ):
        similar_items(Table(np.zeros((2, 3), dtype=np.float32)), np.zeros(1, dtype=np.int32), 2, 2)
