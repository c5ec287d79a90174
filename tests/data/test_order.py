from collections import Counter

import numpy as np
import pytest

from fastncf.data import order
from fastncf.data.order import draw_sample, order_matters, repeated_neighbours
from fastncf.data.split import Split
from fastncf.kernels.cpu.csr import shuffle_rows
from fastncf.rng import key
from tests.conftest import plain_split


def circle_walks(num_users: int, num_items: int, length: int) -> Split:
    """Return a split in which each user has some items that follow each other on a circle, from a place of its own."""
    first = np.random.default_rng(0).integers(0, num_items, num_users)
    rows = np.sort((first[:, None] + np.arange(length)) % num_items, axis=1)
    return plain_split(np.arange(num_users + 1) * length, rows.reshape(-1).astype(np.int32), num_items)


@pytest.mark.parametrize("num_users", [100, 100_000])
def test_walks_have_an_order_and_shuffled_ones_have_none(num_users):
    split = circle_walks(num_users, 500, 12)
    rows = split.indices.reshape(num_users, 12)
    walked = np.roll(np.arange(500), -1)
    order = np.empty_like(rows)
    for user, row in enumerate(rows):  # behind a gap the walk begins anew
        begin = next(at for at in range(12) if walked[row[at - 1]] != row[at])
        order[user] = np.roll(np.arange(12), -begin)
    assert order_matters(split, order.reshape(-1).astype(np.int32), draw_sample(split, 0), seed=0)
    shuffled = np.random.default_rng(1).permuted(order, axis=1)
    assert not order_matters(split, shuffled.reshape(-1).astype(np.int32), draw_sample(split, 0), seed=0)


def test_no_order_in_few_interactions():
    split = circle_walks(3, 50, 2)
    assert not order_matters(split, np.tile(np.arange(2), 3).astype(np.int32), draw_sample(split, 0), seed=0)


def test_neighbours_of_different_users_are_none():
    user, item = np.array([0, 0, 0, 1, 1, 2, 2]), np.array([1, 2, 3, 2, 1, 3, 2])
    assert repeated_neighbours(user, item, 5) == 2


def test_a_sample_is_all_of_small_data_and_a_million_interactions_of_large_data():
    assert sorted(draw_sample(circle_walks(100, 500, 12), 0).tolist()) == list(range(100))
    assert 83_000 < len(draw_sample(circle_walks(100_000, 500, 12), 0)) <= 1_000_000 / 12


def test_rows_are_shuffled_uniformly_and_apart():
    indptr = np.array([0, 0, 4, 5, 7], dtype=np.int64)
    counts = np.zeros((4, 4))
    for number in range(2_000):
        items = np.arange(7, dtype=np.int32)
        shuffle_rows(indptr, items, np.uint64(key(0, number)))
        assert sorted(items[:4].tolist()) == [0, 1, 2, 3]
        assert (items[4], sorted(items[5:].tolist())) == (4, [5, 6])
        counts[np.arange(4), items[:4]] += 1
    assert abs(counts - 500).max() < 100


@pytest.mark.parametrize("at_once", [1, 7, 1 << 18])
def test_repeated_neighbours_are_those_of_a_plain_count(monkeypatch, at_once):
    monkeypatch.setattr(order, "_AT_ONCE", at_once)
    rng = np.random.default_rng()
    user, item = np.sort(rng.integers(0, 9, 200)), rng.integers(0, 6, 200)
    pairs = Counter(frozenset(pair) for u, v, *pair in zip(user, user[1:], item, item[1:], strict=False) if u == v)
    assert repeated_neighbours(user, item, 6) == sum(count * (count - 1) // 2 for count in pairs.values())
    assert repeated_neighbours(user[:0], item[:0], 6) == 0
