"""What the ways to train by stochastic gradient descent have in common: settings, and what a step does with them."""

from dataclasses import dataclass

import numpy as np

from fastncf.config import Config
from fastncf.kernels.cpu.alias import AliasTable
from fastncf.kernels.cpu.factors import Step
from fastncf.kernels.cpu.negatives import UNIFORM
from fastncf.sampling.distributions import alias_table


@dataclass(frozen=True)
class SGDSettings:
    """Settings of a descent, interaction by interaction.

    Attributes:
        num_negatives: K.
        seed: determines negatives and order.
        pairwise: whether the loss is bpr; otherwise it is bce.
        l2: weight of the mean squared norm of the vectors that an interaction's samples touch.
        shuffle: a new order each epoch; otherwise that of epoch 0 serves all.
        negatives_exponent: draw negatives by this power of their interactions; all alike where it is None.
    """

    num_negatives: int
    seed: int
    pairwise: bool
    l2: float
    shuffle: bool
    negatives_exponent: float | None

    @classmethod
    def of(cls, config: Config) -> "SGDSettings":
        """The settings of a config with its recipe, see :meth:`Config.with_recipe`."""
        assert config.l2 is not None
        return cls(
            num_negatives=config.num_negatives,
            seed=config.seed,
            pairwise=config.loss == "bpr",
            l2=config.l2,
            shuffle=config.shuffle,
            negatives_exponent=config.negatives_exponent if config.negatives == "popularity" else None,
        )

    @property
    def terms(self) -> int:
        """Losses of an interaction: of its samples (bce) or pairs (bpr)."""
        return self.num_negatives if self.pairwise else 1 + self.num_negatives

    def step(self, rate: float) -> Step:
        """What a step does at a learning rate: ``rate`` times the sum of its samples' gradients, not their mean."""
        shrink = 2 * rate * self.l2 * self.terms
        return Step(*(np.float32(x) for x in (rate, 1 - shrink, shrink / (1 + self.num_negatives))))

    def weights(self, counts: np.ndarray) -> AliasTable:
        """Of the draws of some items, with their interactions (n,)."""
        name = "uniform" if self.negatives_exponent is None else "popularity"
        return alias_table(name, counts, self.negatives_exponent or 0.0) or UNIFORM
