"""Stochastic gradient descent on the blocks of a grid of users x items, with the same bits for any number of threads.

The users are cut into G ranges and the items, anew each epoch, into G parts. A round takes G blocks of which no two
share a user or an item, so that threads may train them in any order, or at once, without a lock; after G rounds every
interaction has been visited (Gemulla et al. 2011, "Large-scale matrix factorization with distributed stochastic
gradient descent"). Negatives come from the block of their positive. Of each G items that follow each other in
popularity every part gets one, drawn anew each epoch: the parts are equal work, and over the epochs a negative is any
unseen item but the G - 1 that are dealt together with the positive.
"""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from fastncf.data.csr import balanced_ranges, split_ranges
from fastncf.data.split import Split
from fastncf.kernels.cpu.encoder import HistoryEncoder
from fastncf.kernels.cpu.factors import (
    Block,
    Factors,
    GroupedRows,
    ItemParts,
    NegativeSampling,
    SGDStep,
    group_by_part,
    pad_to_lanes,
    train_block,
    unpad_into,
)
from fastncf.rng import Stream, key
from fastncf.sampling.negatives import position_keys
from fastncf.stage import Stage
from fastncf.threads import run_ranges
from fastncf.trainers.base import State, Trainer
from fastncf.trainers.sgd import SGDSettings, learning_rates, load_arrays, weights_of, why_not_sgd

if TYPE_CHECKING:
    from torch import nn

_MAX_GRID = 32
_INTERACTIONS_PER_BLOCK = 15_000
_ITEMS_PER_PART = 100


def grid_size(num_interactions: int, num_items: int) -> int:
    """Return G, a power of 2: the largest that leaves each block enough interactions and enough items to draw from.

    Args:
        num_interactions: N.
        num_items: I.
    """
    wanted = min((num_interactions / _INTERACTIONS_PER_BLOCK) ** 0.5, num_items / _ITEMS_PER_PART, _MAX_GRID)
    return 1 << int(np.log2(max(wanted, 1)))


class BlockSGD(Trainer):
    """Trains a matrix factorization without histories."""

    name = "block_sgd"
    optimizer = "sgd"
    trains_factors = True
    large_kernels = (train_block,)

    @classmethod
    def why_not(cls, stage: Stage, module: "nn.Module | None") -> str | None:
        """See :meth:`fastncf.trainers.base.Trainer.why_not`."""
        reason = why_not_sgd(stage, module)
        if reason is None and stage.history != "none":
            reason = f"history={stage.history!r} was asked for, and the kernel trains no histories"
        return reason

    def __init__(self, model: Factors, split: Split, stage: Stage, order: np.ndarray | None = None) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.__init__`; ``order`` is not read."""
        self.model, self.factors = model, pad_to_lanes(model)
        self.split = split
        self.stage = stage
        self.settings = SGDSettings.from_stage(stage)
        self.counts = split.item_counts()
        self.by_popularity = np.argsort(-self.counts, kind="stable")
        self.grid = self.num_groups = grid_size(len(split.indices), split.num_items)
        self.ranges = split_ranges(split.indptr, self.grid)
        self.interaction_weights = weights_of(split)
        self.rows = GroupedRows(
            bounds=np.empty((split.num_users, self.grid + 1), dtype=np.int64),
            positions=np.empty_like(split.indices),
            interaction_weights=np.empty_like(self.interaction_weights),
        )

    def epoch(self, number: int) -> float:
        """Visit every interaction once; see :meth:`fastncf.trainers.base.Trainer.epoch`."""
        settings = self.settings
        order_epoch = number if settings.shuffle else 0
        generator = np.random.Generator(np.random.Philox(key=key(settings.seed, Stream.BLOCKS, order_epoch)))
        parts = self._deal(generator)
        first = int(generator.integers(self.grid))
        num_draws = len(self.split.indices) * settings.num_negatives
        keys = position_keys(settings.seed, Stream.NEGATIVES, number, positions=num_draws)
        weight = np.float32(settings.negative_weight)
        samplings = [
            NegativeSampling(items, settings.num_negatives, keys, settings.alias_table(self.counts[items]), weight)
            for items in parts
        ]
        done, sums = self._begin(losses=np.zeros((self.grid, self.grid)))
        losses, rates = sums["losses"], learning_rates(self.stage, number, self.grid)

        def train(step: SGDStep, shift: int, users: int, _: int) -> None:
            part = (users + shift) % self.grid
            block = Block(self.ranges[users], self.ranges[users + 1], part, *self.rows)
            losses[users, part] = train_block(block, self.factors, samplings[part], step)

        for turn in range(done, self.grid):
            run_ranges(partial(train, settings.step(rates[turn]), first + turn), np.arange(self.grid + 1))
            self._reach(turn + 1, sums)
        unpad_into(self.factors, self.model)
        return float(losses.sum()) / settings.num_terms

    def state_dict(self) -> State:
        """Return the four arrays of :class:`~fastncf.kernels.cpu.factors.Factors` by their names."""
        unpad_into(self.factors, self.model)
        return self.model._asdict()

    def load_state_dict(self, state: State) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.load_state_dict`."""
        load_arrays(self.model._asdict(), state)
        self.factors = pad_to_lanes(self.model)

    def start_from(self, factors: Factors, encoder: HistoryEncoder | None) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.start_from`; there is no encoder."""
        self.load_state_dict(factors._asdict())

    def _deal(self, generator: np.random.Generator) -> list[np.ndarray]:
        """Deal the items to G parts, and put each user's interactions in the order of the parts.

        Returns:
            The items (n,) int32 of each part, ascending.
        """
        num_items = len(self.counts)
        deal = generator.random((-(-num_items // self.grid), self.grid)).argsort(axis=1).astype(np.uint8)
        part = np.empty(num_items, dtype=np.uint8)
        part[self.by_popularity] = deal.reshape(-1)[:num_items]
        sizes = np.bincount(part, minlength=self.grid)
        parts = np.split(np.argsort(part, kind="stable").astype(np.int32), np.cumsum(sizes)[:-1])
        position = np.empty(num_items, dtype=np.int32)
        for items in parts:
            position[items] = np.arange(len(items), dtype=np.int32)
        split, item_parts = self.split, ItemParts(part, position)
        run_ranges(
            lambda a, b: group_by_part(
                a, b, split.indptr, split.indices, self.interaction_weights, item_parts, self.rows
            ),
            balanced_ranges(split.indptr),
        )
        return parts
