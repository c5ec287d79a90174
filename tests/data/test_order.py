import numpy as np
import pytest

from fastncf.data.order import order_matters, repeated_neighbours
from fastncf.data.split import Split
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
    assert order_matters(split, order.reshape(-1).astype(np.int32), seed=0)
    shuffled = np.random.default_rng(1).permuted(order, axis=1)
    assert not order_matters(split, shuffled.reshape(-1).astype(np.int32), seed=0)


def test_no_order_in_few_interactions():
    split = circle_walks(3, 50, 2)
    assert not order_matters(split, np.tile(np.arange(2), 3).astype(np.int32), seed=0)


def test_neighbours_of_different_users_are_none():
    user, item = np.array([0, 0, 0, 1, 1, 2, 2]), np.array([1, 2, 3, 2, 1, 3, 2])
    assert repeated_neighbours(user, item, 5) == 2
