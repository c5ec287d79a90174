"""An epoch of stochastic gradient descent on users and their histories, the same bits for any number of threads.

What a user likes next shows in what was liked before, most of all in what was liked last. So the vector of a user is
the sum of three: one of its own (Koren et al. 2009), the mean of vectors of the items in the history (SVD++, Koren
2008; FISM, Kabbur et al. 2013), and such vectors again, each item's weight a fixed share of the next one's: a Markov
chain with a long memory (Rendle et al. 2010, "Factorizing personalized Markov chains"; He and McAuley 2016, Fossil).
The positive is left out of its own user's vector, and everything later out of the third part.

After an epoch the sum stands in the model's own table of users: to whoever scores, it is a matrix factorization.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from fastncf.descent import Descent
from fastncf.hashing import Stream, key
from fastncf.kernels.factors import Step
from fastncf.kernels.histories import Recall, Tables, know_users, merge, train_histories
from fastncf.models import MF
from fastncf.sampler import position_keys
from fastncf.split import Split, balanced, cut
from fastncf.threads import even, run_ranges

_MEAN, _RECENT, _DECAY = 2.0, 1.0, 0.7
_COPIES = 4
_ROUNDS = 16


class Histories:
    """Trains a matrix factorization in place, an epoch a call.

    Args:
        model: its parameters are float32 on the CPU.
        split: what is trained on, N interactions.
        descent: settings.
        order: (N,) int32, places within each user's row of the split, oldest first, or None where no order is known:
            then a history is a set, and all of it counts alike.
    """

    def __init__(self, model: MF, split: Split, descent: Descent, order: np.ndarray | None) -> None:
        self.model = model
        self.split = split
        self.descent = descent
        self.order = np.empty(0, dtype=np.int32) if order is None else order
        self.recall = Recall(*(np.float32(x) for x in (_MEAN, _RECENT if order is not None else 0, _DECAY)))
        parameters = model.user_embedding.weight, model.user_bias, model.item_embedding.weight, model.item_bias
        self.known, user_bias, item, item_bias = (parameter.detach().numpy() for parameter in parameters)
        self.tables = Tables(self.known.copy(), user_bias, item, item_bias, np.zeros_like(item))
        self.items = np.arange(split.num_items, dtype=np.int32)
        self.copies, self.rounds = _COPIES, _ROUNDS
        self.copied = [np.stack([table] * self.copies) for table in self.tables[2:]]

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
        bounds = cut(np.concatenate([[0], ends]), self.copies * self.rounds)
        keys = position_keys(
            descent.seed, Stream.NEGATIVES, number, positions=len(split.indices) * descent.num_negatives
        )
        weights = descent.weights(split.item_counts())
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
                self.recall,
                descent.num_negatives,
                descent.pairwise,
                step,
                keys,
                weights,
            )

        for turn, rate in enumerate(rates):
            run_ranges(partial(train, descent.step(rate), turn), np.arange(self.copies + 1))
            for shared, copies in zip(self.tables[2:], self.copied, strict=True):
                flat = shared.reshape(-1), copies.reshape(self.copies, -1)
                run_ranges(partial(_merge, *flat), even(shared.size))
        run_ranges(self._know, balanced(split.indptr))
        return float(losses.sum())

    def _know(self, first_user: int, last_user: int) -> None:
        know_users(
            first_user,
            last_user,
            self.split.indptr,
            self.split.indices,
            self.order,
            self.tables,
            self.recall,
            self.known,
        )


def _merge(shared: np.ndarray, copies: np.ndarray, first: int, last: int) -> None:
    merge(first, last, shared, copies)
