"""Whether the order of the interactions in users' histories carries information."""

import numpy as np

from fastncf.data.split import Split
from fastncf.rng import Stream, key

_MAX_INTERACTIONS = 1_000_000


def order_matters(split: Split, order: np.ndarray, seed: int) -> bool:
    """Return whether the next item of a user depends on the items before it.

    Pairs of neighbours in the users' histories are counted. Where the order carries information, the same pairs occur
    with several users, more often than in shuffled histories: 1.6 to 8 times as often for films, music and shops, 1.0
    times in data without an order. The answer is yes if repeated pairs are more frequent by a quarter, and by more than
    five standard deviations of a count and ten pairs. At most a million interactions of randomly drawn users are read.

    Args:
        split: N training interactions.
        order: (N,) int32, positions within each user's row of the split, oldest first.
        seed: determines the users and the shuffle.
    """
    generator = np.random.Generator(np.random.Philox(key=key(seed, Stream.ORDER)))
    lengths = np.diff(split.indptr)
    users = generator.permutation(split.num_users)
    users = users[np.cumsum(lengths[users]) <= _MAX_INTERACTIONS]
    lengths = lengths[users]
    user = np.repeat(np.arange(len(users)), lengths)
    start = np.repeat(split.indptr[users], lengths)
    row = start + np.arange(len(user)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    ordered = split.indices[start + order[row]]
    shuffled = split.indices[row[np.lexsort((generator.random(len(user)), user))]]
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
