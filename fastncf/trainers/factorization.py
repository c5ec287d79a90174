"""A matrix factorization as plain arrays, trained interaction by interaction by the kernel that suits its history.

torch has no part in it: its import alone takes longer than such a fit of a small file.
"""

import time
from collections.abc import Callable

import numpy as np

from fastncf.config import Config
from fastncf.data.split import Split
from fastncf.evaluation.candidates import CandidateSpec, validation_lists
from fastncf.evaluation.metrics import metrics
from fastncf.evaluation.ranking import ranks_by_factors
from fastncf.kernels.cpu.factors import Factors
from fastncf.rng import Stream, key
from fastncf.trainers.block_sgd import BlockSGD
from fastncf.trainers.history_sgd import HistorySGD
from fastncf.trainers.loop import History, ProgressReporter, train_epochs
from fastncf.trainers.sgd import SGDSettings

_STD = 0.02


def draw_factors(config: Config, num_users: int, num_items: int) -> Factors:
    """The factors that training starts from: vectors normally distributed, biases 0.

    Args:
        config: of an ``mf``, or of a ``gmf``, two of whose dimensions will hold biases; with its recipe, see
            :meth:`Config.with_recipe`.
        num_users: U.
        num_items: I.
    """
    assert config.dim is not None
    dim = config.dim - 2 if config.model == "gmf" else config.dim
    std = np.float32(_STD if config.init_std is None else config.init_std)
    random = np.random.Generator(np.random.Philox(key=key(config.seed, Stream.PARAMETERS)))
    user, item = (std * random.standard_normal((rows, dim), dtype=np.float32) for rows in (num_users, num_items))
    return Factors(user, item, np.zeros(num_users, dtype=np.float32), np.zeros(num_items, dtype=np.float32))


def sgd(factors: Factors, split: Split, config: Config, order: np.ndarray | None = None) -> Callable[[int], float]:
    """Interaction by interaction in the kernel, which samples as it goes.

    Args:
        factors: moved in place.
        split: what is trained on, N interactions.
        config: with its recipe, see :meth:`Config.with_recipe`.
        order: (N,) int32 of :func:`~fastncf.data.split.time_order` where ``config.history`` is ``recent``, else None.

    Returns:
        What trains the epoch of a number, and returns its mean loss a sample (bce) or pair (bpr), times N.
    """
    descent = SGDSettings.of(config)
    assert config.history != "recent" or order is not None
    trained = (
        BlockSGD(factors, split, descent) if config.history == "none" else HistorySGD(factors, split, descent, order)
    )
    epochs = config.epochs
    assert epochs is not None

    def train(number: int) -> float:
        rounds = np.arange(number * trained.rounds, (number + 1) * trained.rounds)
        rates = config.learning_rate_at(rounds / (epochs * trained.rounds))
        return trained.epoch(number, rates.tolist()) / descent.terms

    return train


def train_factors(
    factors: Factors, split: Split, config: Config, order: np.ndarray | None, clock: ProgressReporter
) -> History:
    """All epochs of :func:`sgd`, with validation and early stopping; the ``factors`` are moved in place."""
    return train_epochs(_Trainee(factors, split, config, order), config, len(split.indices), clock)


class _Trainee:
    """Factors in the loop of epochs."""

    def __init__(self, factors: Factors, split: Split, config: Config, order: np.ndarray | None) -> None:
        self.factors = factors
        self.train = sgd(factors, split, config, order)
        spec = CandidateSpec(config.num_candidates, config.distinct_candidates, config.seed)
        self.validation = validation_lists(split, spec) if config.validation else None
        self.k = config.k

    def epoch(self, number: int) -> tuple[float, float, dict[str, float]]:
        begin = time.perf_counter()
        total = self.train(number)
        seconds = time.perf_counter() - begin
        lists = self.validation
        return total, seconds, {} if lists is None else metrics(ranks_by_factors(self.factors, lists), self.k)

    def state(self) -> Factors:
        return Factors(*(table.copy() for table in self.factors))

    def restore(self, state: Factors) -> None:
        for table, kept in zip(self.factors, state, strict=True):
            table[:] = kept
