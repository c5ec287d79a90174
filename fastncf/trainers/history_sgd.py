"""An epoch of stochastic gradient descent on users and their histories, the same bits for any number of threads.

What a user likes next shows in what was liked before, most of all in what was liked last. So the vector of a user is
the sum of three: one of its own (Koren et al. 2009), the mean of vectors of the items in the history (SVD++, Koren
2008; FISM, Kabbur et al. 2013), and such vectors again, each item's weight a fixed share of the next one's: a Markov
chain with a long memory (Rendle et al. 2010, "Factorizing personalized Markov chains"; He and McAuley 2016, Fossil).
The positive is left out of its own user's vector, and everything later out of the third part.

After an epoch the sum stands in the table of users: to whoever scores, it is a matrix factorization.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from fastncf.data.csr import balanced_ranges, split_ranges
from fastncf.data.split import Split
from fastncf.kernels.cpu.factors import Factors, Step, pad_to_lanes, unpad_into
from fastncf.kernels.cpu.histories import HistoryWeights, Tables, merge, train_histories, user_vectors
from fastncf.kernels.cpu.losses import BCE, BPR
from fastncf.rng import Stream, key
from fastncf.sampling.negatives import position_keys
from fastncf.threads import even_ranges, run_ranges
from fastncf.trainers.sgd import SGDSettings

_RECENT = HistoryWeights(mean=np.float32(2), recent=np.float32(1), decay=np.float32(0.7))
_ALL = HistoryWeights(mean=np.float32(5), recent=np.float32(0), decay=np.float32(0))
_ENOUGH = 1_000_000
_VISITS_A_ROUND = 8
_ROUNDS = 16


def copies_and_rounds(num_interactions: int, num_items: int) -> tuple[int, int]:
    """Copies of the items' tables, and rounds of an epoch.

    Adding up is worth its time where an item is visited often. Two copies at most: were each to end at the minimum of a
    row, both together would end as far beyond it; four of them did diverge (benchmarks/LOG.md).
    """
    rounds = num_interactions // (_VISITS_A_ROUND * num_items)
    return (2, rounds) if rounds >= _ROUNDS else (1, _ROUNDS)


def order_matters(split: Split, order: np.ndarray, seed: int) -> bool:
    """Whether what a user takes next has to do with what was taken before.

    Pairs of neighbours in the users' histories are counted. Where an order means something the same pairs occur again
    with other users, and more often than among neighbours in histories that are shuffled: 1.6 to 8 times as often in
    films, music and shops, 1.0 in data without an order. A quarter more, and more than the chance of few pairs
    explains, is taken for an order. At most a million interactions are looked at.

    Args:
        split: N interactions.
        order: (N,) int32, places within each user's row, oldest first.
        seed: determines the users and the shuffle.
    """
    random = np.random.Generator(np.random.Philox(key=key(seed, Stream.ORDER)))
    lengths = np.diff(split.indptr)
    users = random.permutation(split.num_users)
    users = users[np.cumsum(lengths[users]) <= _ENOUGH]
    lengths = lengths[users]
    user = np.repeat(np.arange(len(users)), lengths)
    start = np.repeat(split.indptr[users], lengths)
    row = start + np.arange(len(user)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    ordered = split.indices[start + order[row]]
    shuffled = split.indices[row[np.lexsort((random.random(len(user)), user))]]
    repeats, chance = (_repeated_neighbours(user, item, split.num_items) for item in (ordered, shuffled))
    return repeats > 1.25 * chance + 5 * chance**0.5 + 10


def _repeated_neighbours(user: np.ndarray, item: np.ndarray, num_items: int) -> int:
    """How often two users have the same two items beside each other; (n,) both, by user."""
    one, other = (side[user[:-1] == user[1:]].astype(np.int64) for side in (item[:-1], item[1:]))
    counts = np.unique(np.minimum(one, other) * num_items + np.maximum(one, other), return_counts=True)[1]
    return int((counts * (counts - 1) // 2).sum())


class HistorySGD:
    """Trains a matrix factorization in place, an epoch a call.

    Args:
        factors: moved in place.
        split: what is trained on, N interactions.
        descent: settings.
        order: (N,) int32, places within each user's row of the split, oldest first, or None where no order is known:
            then a history is a set, and all of it counts alike.
    """

    def __init__(self, factors: Factors, split: Split, descent: SGDSettings, order: np.ndarray | None) -> None:
        self.split = split
        self.descent = descent
        self.order = np.empty(0, dtype=np.int32) if order is None else order
        self.shares = _ALL if order is None else _RECENT
        self.given, self.factors = factors, pad_to_lanes(factors)
        user, item, user_bias, item_bias = self.factors
        self.tables = Tables(user.copy(), user_bias, item, item_bias, np.zeros_like(item))
        self.weights = descent.weights(split.item_counts())
        self.items = np.arange(split.num_items, dtype=np.int32)
        self.copies, self.rounds = copies_and_rounds(len(split.indices), split.num_items)
        self.copied = [np.stack([table] * self.copies) if self.copies > 1 else table[None] for table in self.tables[2:]]

    def epoch(self, number: int, rates: Sequence[float]) -> float:
        """Visit every user once, in an order drawn anew, and each user's interactions from the oldest on.

        A round trains some of the users on several copies of the items' tables, then adds up what each has changed.

        Args:
            number: of the epoch; determines the draws.
            rates: (rounds,) learning rate of each round.

        Returns:
            The loss of each sample (bce) or pair (bpr), summed.
        """
        split, descent = self.split, self.descent
        turn = number if descent.shuffle else 0
        random = np.random.Generator(np.random.Philox(key=key(descent.seed, Stream.HISTORIES, turn)))
        users = random.permutation(split.num_users).astype(np.int32)
        ends = np.cumsum(np.diff(split.indptr)[users])
        bounds = split_ranges(np.concatenate([[0], ends]), self.copies * self.rounds)
        keys = position_keys(
            descent.seed, Stream.NEGATIVES, number, positions=len(split.indices) * descent.num_negatives
        )
        losses = np.zeros((self.rounds, self.copies))

        def train(step: Step, turn: int, copy: int, _: int) -> None:
            at = turn * self.copies + copy
            losses[turn, copy] = train_histories(
                users[bounds[at] : bounds[at + 1]],
                split.indptr,
                split.indices,
                self.order,
                self.items,
                Tables(self.tables.user, self.tables.user_bias, *(table[copy] for table in self.copied)),
                self.shares,
                descent.num_negatives,
                BPR if descent.pairwise else BCE,
                step,
                keys,
                self.weights,
            )

        for turn, rate in enumerate(rates):
            run_ranges(partial(train, descent.step(rate), turn), np.arange(self.copies + 1))
            for shared, copies in zip(self.tables[2:], self.copied, strict=True):
                if self.copies > 1:
                    run_ranges(
                        partial(merge, shared.reshape(-1), copies.reshape(self.copies, -1)), even_ranges(shared.size)
                    )
        run_ranges(self._fold, balanced_ranges(split.indptr))
        unpad_into(self.factors, self.given)
        return float(losses.sum())

    def _fold(self, first_user: int, last_user: int) -> None:
        user_vectors(
            first_user,
            last_user,
            self.split.indptr,
            self.split.indices,
            self.order,
            self.tables,
            self.shares,
            self.factors.user,
        )
