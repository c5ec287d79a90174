"""Settings, initial parameters and objections that the trainers by stochastic gradient descent share."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fastncf import distributed
from fastncf.data.split import Split
from fastncf.kernels.cpu.alias import AliasTable
from fastncf.kernels.cpu.factors import Factors, SGDStep
from fastncf.kernels.cpu.losses import require_code
from fastncf.kernels.cpu.negatives import UNIFORM
from fastncf.kernels.cpu.simd import aligned_zeros
from fastncf.mapped import empty_shared
from fastncf.models.losses import LOSSES
from fastncf.rng import Stream, key
from fastncf.sampling.distributions import alias_table
from fastncf.stage import Stage
from fastncf.trainers.base import State

if TYPE_CHECKING:
    from torch import nn

_MODELS = ("mf", "gmf")

NEGATIVES_AT_FULL_WEIGHT = 8
"""Number of negatives up to which each counts like a positive; the weights of more have this sum. A step adds up the
gradients of all samples, so that many negatives of full weight would overshoot; as it is, more only have less noise."""


@dataclass(frozen=True)
class SGDSettings:
    """Settings of stochastic gradient descent that takes a step for each interaction.

    Attributes:
        num_negatives: K.
        seed: determines negatives and order.
        loss: code of the loss, see :mod:`fastncf.kernels.cpu.losses`.
        negative_weight: weight of a negative, or of its pair, in the loss.
        num_terms: terms of the loss of an interaction by their weights: its 1 + K samples, or its K pairs.
        l2: weight of the mean squared norm of the vectors of an interaction's samples, in the mean over its terms.
        shuffle: draw the order anew each epoch; otherwise the order of epoch 0 serves all.
        negatives: name of the distribution of the negatives.
        negatives_exponent: see :class:`~fastncf.stage.Stage`.
    """

    num_negatives: int
    seed: int
    loss: int
    negative_weight: float
    num_terms: float
    l2: float
    shuffle: bool
    negatives: str
    negatives_exponent: float

    @classmethod
    def from_stage(cls, stage: Stage) -> "SGDSettings":
        """Return the settings of a stage.

        Raises:
            ValueError: the CPU kernels do not compute the loss.
        """
        loss = LOSSES[stage.loss]
        weight = min(1.0, NEGATIVES_AT_FULL_WEIGHT / stage.num_negatives)
        return cls(
            num_negatives=stage.num_negatives,
            seed=stage.seed,
            loss=require_code(loss.cpu_kernel),
            negative_weight=weight,
            num_terms=loss.num_terms(0) + weight * (loss.num_terms(stage.num_negatives) - loss.num_terms(0)),
            l2=stage.l2,
            shuffle=stage.shuffle,
            negatives=stage.negatives,
            negatives_exponent=stage.negatives_exponent,
        )

    def step(self, learning_rate: float) -> SGDStep:
        """Return the step for a learning rate, which multiplies the gradient of the sum of the terms, not of the mean.

        The norms are those of the user's vector and of the mean of 1 + K items' vectors, by their weights.
        """
        decay = 2 * learning_rate * self.l2 * self.num_terms
        user_scale, item_decay = (
            np.float32(1 - decay),
            np.float32(decay / (1 + self.negative_weight * self.num_negatives)),
        )
        return SGDStep(np.float32(learning_rate), user_scale, item_decay, self.loss)

    def alias_table(self, item_counts: np.ndarray) -> AliasTable:
        """Return the distribution of the negatives over some items, from their numbers of interactions (n,) int64."""
        return alias_table(self.negatives, item_counts, self.negatives_exponent) or UNIFORM


def weights_of(split: Split) -> np.ndarray:
    """Return the weights of the training interactions, (N,) float32; none where all are 1."""
    weights = split.interaction_weights()
    return np.empty(0, dtype=np.float32) if weights is None else weights


def learning_rates(stage: Stage, epoch: int, num_rounds: int) -> list[float]:
    """Return the learning rates of the rounds of an epoch.

    Args:
        stage: has the learning rate, its schedule and the number of epochs.
        epoch: number of the epoch, from 0.
        num_rounds: rounds of each epoch.
    """
    rounds = np.arange(epoch * num_rounds, (epoch + 1) * num_rounds)
    rates: list[float] = stage.learning_rate_at(rounds / (stage.epochs * num_rounds)).tolist()
    return rates


def init_factors(stage: Stage, num_users: int, num_items: int) -> Factors:
    """Return the initial factors: normally distributed vectors and biases of 0, float32.

    Args:
        stage: trains an ``mf``, or a ``gmf``, which keeps two of its D dimensions for the biases.
        num_users: U.
        num_items: I.
    """
    dim = stage.dim - 2 if stage.model == "gmf" else stage.dim
    factors = empty_factors(num_users, num_items, dim)
    ranks = distributed.current()
    if ranks is None or ranks.local_rank == 0:
        generator = np.random.Generator(np.random.Philox(key=key(stage.seed, Stream.PARAMETERS)))
        for table in factors[:2]:
            generator.standard_normal(dtype=np.float32, out=table)
            table *= np.float32(stage.init_std)
    if ranks is not None:
        ranks.wait()
    return factors


def empty_factors(num_users: int, num_items: int, dim: int) -> Factors:
    """Return factors of zeros; processes of one machine that train together share their memory."""
    is_alone = distributed.current() is None
    shapes = (num_users, dim), (num_items, dim), num_users, num_items
    return Factors(*(aligned_zeros(shape) if is_alone else empty_shared(shape, np.float32) for shape in shapes))


def why_not_sgd(stage: Stage, module: "nn.Module | None") -> str | None:
    """Return why no trainer by SGD can train a stage, whatever its history; None if one can.

    See :meth:`fastncf.trainers.base.Trainer.why_not`.
    """
    if stage.optimizer != "sgd":
        return f"takes steps by sgd, not by {stage.optimizer}"
    if stage.device != "cpu":
        return f"device={stage.device!r} is not the CPU"
    if LOSSES[stage.loss].cpu_kernel is None:
        return f"the CPU kernels do not have loss={stage.loss!r}"
    if module is not None:
        return _why_not_module(module)
    if stage.model not in _MODELS:
        return f"the kernel is for {' and '.join(_MODELS)} and not for {stage.model!r}"
    if stage.model == "gmf" and stage.dim < 3:
        return f"dim={stage.dim} leaves a gmf no room for the biases; expected at least 3"
    return None


def _why_not_module(module: "nn.Module") -> str | None:
    """Return why the kernels cannot train a module of the user's own in place; None if they can."""
    from fastncf.models.mf import MF
    from fastncf.models.scorers import why_not_by_kernels

    if type(module) is not MF:
        return f"the kernel is for modules of the class MF itself and not for {type(module).__name__}"
    if (reason := why_not_by_kernels(module)) is not None:
        return reason
    for name, parameter in module.named_parameters():
        if parameter.device.type != "cpu":
            return f"{name} is on {parameter.device}; expected cpu"
        if not parameter.is_contiguous():
            return f"{name} is not contiguous"
    return None


def load_arrays(arrays: Mapping[str, np.ndarray], state: State) -> None:
    """Copy the arrays of a state into those of the same names.

    Raises:
        ValueError: a name is missing or superfluous, or an array has another shape; then nothing is copied.
    """
    if set(state) != set(arrays):
        raise ValueError(f"state: found {', '.join(sorted(state))}; expected {', '.join(sorted(arrays))}")
    for name, array in arrays.items():
        if state[name].shape != array.shape:
            raise ValueError(f"state: {name} has the shape {tuple(state[name].shape)}; expected {array.shape}")
    for name, array in arrays.items():
        array[:] = state[name]
