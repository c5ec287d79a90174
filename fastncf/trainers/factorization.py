"""A matrix factorization as plain arrays, trained interaction by interaction by the kernel that suits its history.

torch has no part in it: its import alone takes longer than such a fit of a small file.
"""

import time
from collections.abc import Callable
from typing import Literal

import numpy as np

from fastncf.config import Config
from fastncf.data.split import Split
from fastncf.evaluation.candidates import ranks_by_factors, validation_lists
from fastncf.evaluation.metrics import metrics
from fastncf.kernels.cpu.factors import Factors
from fastncf.stage import Stage
from fastncf.trainers.block_sgd import BlockSGD
from fastncf.trainers.history_sgd import HistorySGD
from fastncf.trainers.loop import History, ProgressReporter, train_epochs
from fastncf.trainers.sgd import init_factors

_STD = 0.02
_HISTORIES: dict[str, Literal["sequence", "bag", "none"]] = {"recent": "sequence", "all": "bag", "none": "none"}


def stage_of(config: Config) -> Stage:
    """Return the stage of an ``mf`` or ``gmf`` that a config with its recipe describes."""
    assert config.dim is not None
    assert config.history is not None
    assert config.epochs is not None
    assert config.learning_rate is not None
    assert config.l2 is not None
    history = _HISTORIES[config.history]
    return Stage(
        model=config.model,
        trainer=BlockSGD.name if history == "none" else HistorySGD.name,
        optimizer="sgd",
        device="cpu",
        dim=config.dim,
        mlp_dim=config.mlp_dim or config.dim,
        layers=config.layers,
        dropout=config.dropout,
        init_std=_STD if config.init_std is None else config.init_std,
        loss=config.loss,
        num_negatives=config.num_negatives,
        negatives=config.negatives or "uniform",
        negatives_exponent=config.negatives_exponent or 0.0,
        history=history,
        epochs=config.epochs,
        batch_size=config.batch_size or 8_192,
        learning_rate=config.learning_rate,
        schedule=config.schedule,
        l2=config.l2,
        shuffle=config.shuffle,
        precision="float32",
        deterministic=config.deterministic,
        seed=config.seed,
    )


def draw_factors(config: Config, num_users: int, num_items: int) -> Factors:
    """Return the factors that the training of an ``mf`` or ``gmf`` starts from; see :func:`init_factors`."""
    return init_factors(stage_of(config), num_users, num_items)


def sgd(factors: Factors, split: Split, config: Config, order: np.ndarray | None = None) -> Callable[[int], float]:
    """Return what trains the epoch of a number, and returns its mean loss a sample (bce) or pair (bpr), times N.

    Args:
        factors: changed in place.
        split: what is trained on, N interactions.
        config: with its recipe, see :meth:`Config.with_recipe`.
        order: (N,) int32 of :func:`~fastncf.data.split.time_order` where ``config.history`` is ``recent``, else None.
    """
    stage = stage_of(config)
    trainer = BlockSGD if stage.history == "none" else HistorySGD
    return trainer(factors, split, stage, order if stage.history == "sequence" else None).epoch


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
        self.validation = validation_lists(split, config)
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
