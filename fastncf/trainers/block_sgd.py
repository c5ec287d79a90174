"""An epoch of stochastic gradient descent in a grid of users x items, the same bits for any number of threads.

The users are cut into G ranges and the items, anew each epoch, into G parts. A round takes G blocks of which no two
share a user or an item, so that threads may train them in any order, or at once, without a lock; after G rounds every
interaction has been visited (Gemulla et al. 2011, "Large-scale matrix factorization with distributed stochastic
gradient descent"). Negatives come from the block of their positive. Of each G items that follow each other in
popularity every part gets one, drawn anew each epoch: the parts are equal work, and over the epochs a negative is any
untouched item but the G - 1 that are dealt together with the positive.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np

from fastncf.data.csr import balanced_ranges, split_ranges
from fastncf.data.split import Split
from fastncf.kernels.cpu.factors import Factors, Step, group_by_part, pad_to_lanes, train_users, unpad_into
from fastncf.kernels.cpu.losses import BCE, BPR
from fastncf.rng import Stream, key
from fastncf.sampling.negatives import position_keys
from fastncf.threads import run_ranges
from fastncf.trainers.sgd import SGDSettings

_MAX_SIDE = 32
_INTERACTIONS_A_BLOCK = 15_000
_ITEMS_A_PART = 100


def side(num_interactions: int, num_items: int) -> int:
    """G: as many blocks as leave each enough work to be worth a thread, and enough items to draw from."""
    wanted = min((num_interactions / _INTERACTIONS_A_BLOCK) ** 0.5, num_items / _ITEMS_A_PART, _MAX_SIDE)
    return 1 << int(np.log2(max(wanted, 1)))


class BlockSGD:
    """Trains a matrix factorization in place, an epoch a call.

    Args:
        factors: moved in place.
        split: what is trained on, N interactions.
        descent: settings.
    """

    def __init__(self, factors: Factors, split: Split, descent: SGDSettings) -> None:
        self.given, self.factors = factors, pad_to_lanes(factors)
        self.split = split
        self.descent = descent
        self.counts = split.item_counts()
        self.by_popularity = np.argsort(-self.counts, kind="stable")
        self.side = self.rounds = side(len(split.indices), split.num_items)
        self.ranges = split_ranges(split.indptr, self.side)
        self.places = np.empty_like(split.indices)
        self.bounds = np.empty((split.num_users, self.side + 1), dtype=np.int64)

    def epoch(self, number: int, rates: Sequence[float]) -> float:
        """Visit every interaction once.

        Args:
            number: of the epoch; determines the draws.
            rates: (G,) learning rate of each of the ``rounds``.

        Returns:
            The loss of each sample (bce) or pair (bpr), summed.
        """
        descent = self.descent
        deal = number if descent.shuffle else 0
        random = np.random.Generator(np.random.Philox(key=key(descent.seed, Stream.BLOCKS, deal)))
        parts = self._parts(random)
        first = int(random.integers(self.side))
        keys = position_keys(descent.seed, Stream.NEGATIVES, number, positions=self.places.size * descent.num_negatives)
        weights = [descent.weights(self.counts[part]) for part in parts]
        losses = np.zeros((self.side, self.side))

        def train(step: Step, turn: int, range_number: int, _: int) -> None:
            part = (range_number + turn) % self.side
            losses[range_number, part] = train_users(  # type: ignore[call-arg]
                *self.ranges[range_number : range_number + 2],
                part,
                self.bounds,
                self.places,
                parts[part],
                self.factors,
                descent.num_negatives,
                BPR if descent.pairwise else BCE,
                step,
                keys,
                weights[part],
            )

        for turn, rate in enumerate(rates):
            run_ranges(partial(train, descent.step(rate), first + turn), np.arange(self.side + 1))
        unpad_into(self.factors, self.given)
        return float(losses.sum())

    def _parts(self, random: np.random.Generator) -> list[np.ndarray]:
        """Items (n,) int32 of each part, ascending; each user's interactions are put in the order of the parts."""
        num_items = len(self.counts)
        deal = random.random((-(-num_items // self.side), self.side)).argsort(axis=1).astype(np.uint8)
        part_of = np.empty(num_items, dtype=np.uint8)
        part_of[self.by_popularity] = deal.reshape(-1)[:num_items]
        sizes = np.bincount(part_of, minlength=self.side)
        parts = np.split(np.argsort(part_of, kind="stable").astype(np.int32), np.cumsum(sizes)[:-1])
        place_of = np.empty(num_items, dtype=np.int32)
        for part in parts:
            place_of[part] = np.arange(len(part), dtype=np.int32)
        run_ranges(
            lambda a, b: group_by_part(
                a, b, self.split.indptr, self.split.indices, part_of, place_of, self.places, self.bounds
            ),
            balanced_ranges(self.split.indptr),
        )
        return parts
