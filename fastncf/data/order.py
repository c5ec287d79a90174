"""Test whether the order of the interactions in users' histories carries information."""

import numpy as np

from fastncf.data.split import Split
from fastncf.kernels.cpu.csr import shuffle_rows
from fastncf.rng import Stream, key

_MAX_INTERACTIONS = 1_000_000


def draw_sample(split: Split, seed: int) -> np.ndarray:
    """Return users (n,) int32 for :func:`order_matters`, drawn at random: all of small data."""
    generator = np.random.Generator(np.random.Philox(key=key(seed, Stream.ORDER)))
    users = generator.permutation(split.num_users).astype(np.int32)
    return users[np.cumsum(np.diff(split.indptr)[users]) <= _MAX_INTERACTIONS]


def order_matters(split: Split, order: np.ndarray, users: np.ndarray, seed: int) -> bool:
    """Return whether the next item of a user depends on the items before it.

    Pairs of neighbours in the users' histories are counted. Where the order carries information, the same pairs occur
    with several users, more often than in shuffled histories: 1.6 to 8 times as often for films, music and shops, 1.0
    times in data without an order. The answer is yes if repeated pairs are more frequent by a quarter, and by more than
    five standard deviations of a count and ten pairs.

    Args:
        split: N training interactions.
        order: (N,) int32, positions within each user's row of the split, oldest first; read for ``users`` only.
        users: (n,) int32, from :func:`draw_sample`.
        seed: determines the shuffle.
    """
    lengths = np.diff(split.indptr)[users]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    user = np.repeat(np.arange(len(users), dtype=np.int32), lengths)
    start = np.repeat(split.indptr[users], lengths)
    ordered = split.indices[start + order[start + np.arange(len(user)) - indptr[user]]]
    shuffled = ordered.copy()
    shuffle_rows(indptr, shuffled, np.uint64(key(seed, Stream.ORDER)))
    repeats, chance = (repeated_neighbours(user, item, split.num_items) for item in (ordered, shuffled))
    return repeats > 1.25 * chance + 5 * chance**0.5 + 10


def repeated_neighbours(user: np.ndarray, item: np.ndarray, num_items: int) -> int:
    """Return how many pairs of users have the same two items beside each other, in either order.

    Args:
        user: (n,) user of each interaction, equal ones beside each other.
        item: (n,) item of each interaction, in the order of the user's history.
        num_items: I.
    """
    one, other = (side[user[:-1] == user[1:]].astype(np.int64) for side in (item[:-1], item[1:]))
    counts = np.unique(np.minimum(one, other) * num_items + np.maximum(one, other), return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())
