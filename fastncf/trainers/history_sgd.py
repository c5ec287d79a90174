"""Stochastic gradient descent on users and their histories, with the same bits for any number of threads.

The vector of a user is the sum of three parts: a vector of the user's own (Koren et al. 2009); the mean of history
vectors of the items in the history (SVD++, Koren 2008; FISM, Kabbur et al. 2013); and a sum of history vectors whose
weights decay exponentially from the latest item back (related to Rendle et al. 2010, "Factorizing personalized Markov
chains", and to Fossil, He and McAuley 2016). When an interaction is trained, its item is left out of the second and
third part, and all later items are left out of the third.

After an epoch the sum of the parts is written to the table of users, so that the model is a matrix factorization.
"""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from fastncf.data.csr import balanced_ranges, split_ranges
from fastncf.data.split import Split
from fastncf.kernels.cpu.encoder import LONGEST, HistoryEncoder
from fastncf.kernels.cpu.factors import Factors, NegativeSampling, SGDStep, pad_to_lanes, unpad_into
from fastncf.kernels.cpu.histories import (
    Histories,
    HistoryFactors,
    HistoryWeights,
    combine_updates,
    compose_users,
    train_histories,
)
from fastncf.kernels.cpu.simd import aligned_copies, aligned_zeros
from fastncf.rng import Stream, key
from fastncf.sampling.negatives import position_keys
from fastncf.stage import Stage
from fastncf.threads import even_ranges, run_ranges
from fastncf.trainers.base import State, Trainer
from fastncf.trainers.sgd import SGDSettings, learning_rates, load_arrays, weights_of, why_not_sgd

if TYPE_CHECKING:
    from torch import nn

_WEIGHTS = {
    "sequence": HistoryWeights(mean=np.float32(2), recent=np.float32(1), decay=np.float32(0.7)),
    "bag": HistoryWeights(mean=np.float32(5), recent=np.float32(0), decay=np.float32(0)),
}
_VISITS_PER_ROUND = 8
_NUM_ROUNDS = 16


def copies_and_rounds(num_interactions: int, num_items: int) -> tuple[int, int]:
    """Return the number of copies of the items' tables, and of rounds in an epoch.

    Adding up copies saves time where an item is visited often. At most two copies are used, since the
    sum of the changes of more copies overshoots a minimum: four copies diverged (benchmarks/LOG.md).

    Args:
        num_interactions: N.
        num_items: I.
    """
    rounds = num_interactions // (_VISITS_PER_ROUND * num_items)
    return (2, rounds) if rounds >= _NUM_ROUNDS else (1, _NUM_ROUNDS)


class HistorySGD(Trainer):
    """Trains a matrix factorization whose user vectors include the users' histories."""

    name = "history_sgd"
    optimizer = "sgd"
    trains_factors = True
    large_kernels = (train_histories,)

    @classmethod
    def why_not(cls, stage: Stage, module: "nn.Module | None") -> str | None:
        """See :meth:`fastncf.trainers.base.Trainer.why_not`."""
        reason = why_not_sgd(stage, module)
        if reason is None and stage.history not in _WEIGHTS:
            reason = f"history={stage.history!r} was asked for, and the kernel needs histories"
        return reason

    def __init__(self, model: Factors, split: Split, stage: Stage, order: np.ndarray | None = None) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.__init__`."""
        if (order is None) == (stage.history == "sequence"):
            raise ValueError(f"order: expected one if, and only if, history='sequence', got {stage.history!r}")
        self.split = split
        self.stage = stage
        self.settings = SGDSettings.from_stage(stage)
        order = np.empty(0, dtype=np.int32) if order is None else order
        self.histories = Histories(split.indptr, split.indices, order, _WEIGHTS[stage.history], weights_of(split))
        self.model, self.factors = model, pad_to_lanes(model)
        self.tables = HistoryFactors(
            user_vectors=aligned_copies(self.factors.user_vectors, 1)[0],
            user_bias=self.factors.user_bias,
            item_vectors=self.factors.item_vectors,
            item_bias=self.factors.item_bias,
            history_vectors=aligned_zeros(self.factors.item_vectors.shape),
        )
        self.items = np.arange(split.num_items, dtype=np.int32)
        self.alias_table = self.settings.alias_table(split.item_counts())
        self.num_copies, self.num_rounds = copies_and_rounds(len(split.indices), split.num_items)
        self.num_groups = self.num_rounds
        self.copies = [
            aligned_copies(table, self.num_copies) if self.num_copies > 1 else table[None] for table in self.tables[2:]
        ]

    def epoch(self, number: int) -> float:
        """Visit every user once, in an order drawn anew, and each user's interactions from the oldest on.

        A round trains some of the users on several copies of the items' tables, then adds up what each has changed.
        See :meth:`fastncf.trainers.base.Trainer.epoch`.
        """
        split, settings = self.split, self.settings
        order_epoch = number if settings.shuffle else 0
        generator = np.random.Generator(np.random.Philox(key=key(settings.seed, Stream.HISTORIES, order_epoch)))
        users = generator.permutation(split.num_users).astype(np.int32)
        ends = np.cumsum(np.diff(split.indptr)[users])
        bounds = split_ranges(np.concatenate([[0], ends]), self.num_copies * self.num_rounds)
        num_draws = len(split.indices) * settings.num_negatives
        keys = position_keys(settings.seed, Stream.NEGATIVES, number, positions=num_draws)
        weight = np.float32(settings.negative_weight)
        sampling = NegativeSampling(self.items, settings.num_negatives, keys, self.alias_table, weight)
        done, sums = self._begin(losses=np.zeros((self.num_rounds, self.num_copies)))
        losses, rates = sums["losses"], learning_rates(self.stage, number, self.num_rounds)

        def train(step: SGDStep, turn: int, copy: int, _: int) -> None:
            at = turn * self.num_copies + copy
            visited = users[bounds[at] : bounds[at + 1]]
            tables = HistoryFactors(*self.tables[:2], *(table[copy] for table in self.copies))
            losses[turn, copy] = train_histories(visited, self.histories, tables, sampling, step)

        for turn in range(done, self.num_rounds):
            run_ranges(partial(train, settings.step(rates[turn]), turn), np.arange(self.num_copies + 1))
            self._combine_copies()
            self._reach(turn + 1, sums)
        self._compose_users()
        return float(losses.sum()) / settings.num_terms

    def compile_rest(self) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.compile_rest`."""
        compose_users(0, 0, self.histories, self.tables, self.factors.user_vectors)

    def state_dict(self) -> State:
        """Return the arrays of :class:`~fastncf.kernels.cpu.histories.HistoryFactors` by their names.

        ``user_vectors`` are the users' own vectors, without the histories that the model's vectors include.
        """
        return {name: np.ascontiguousarray(array) for name, array in self._unpadded().items()}

    def load_state_dict(self, state: State) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.load_state_dict`."""
        load_arrays(self._unpadded(), state)
        if self.num_copies > 1:
            for shared, copies in zip(self.tables[2:], self.copies, strict=True):
                copies[:] = shared
        self._compose_users()

    def start_from(self, factors: Factors, encoder: HistoryEncoder | None) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.start_from`."""
        if encoder is None:
            raise ValueError("encoder: expected one")
        self.load_state_dict({**factors._asdict(), "history_vectors": encoder.vectors})

    @property
    def encoder(self) -> HistoryEncoder:
        """See :attr:`fastncf.trainers.base.Trainer.encoder`: the mean of a history, and its recent part."""
        weights, vectors = self.histories.weights, self._unpadded()["history_vectors"].copy()
        gains = np.full((2, vectors.shape[1]), weights.mean, dtype=np.float32)
        gains[1], decays = weights.recent, np.ones_like(gains)
        decays[1] = weights.decay
        return HistoryEncoder(vectors, gains, decays, np.array([True, False]), LONGEST)

    def _unpadded(self) -> State:
        """Return views of the tables without the columns of :func:`~fastncf.kernels.cpu.factors.pad_to_lanes`."""
        dim = self.model.user_vectors.shape[1]
        return {name: table[:, :dim] if table.ndim == 2 else table for name, table in self.tables._asdict().items()}

    def _combine_copies(self) -> None:
        """Add up what the copies of the items' tables have changed."""
        if self.num_copies == 1:
            return
        for shared, copies in zip(self.tables[2:], self.copies, strict=True):
            numbers, by_copy = shared.reshape(-1), copies.reshape(self.num_copies, -1)
            run_ranges(partial(combine_updates, numbers, by_copy), even_ranges(shared.size))

    def _compose_users(self) -> None:
        """Write the users' vectors, histories included, to the model, and the rest of it that was padded."""
        run_ranges(
            lambda a, b: compose_users(a, b, self.histories, self.tables, self.factors.user_vectors),
            balanced_ranges(self.split.indptr),
        )
        unpad_into(self.factors, self.model)
