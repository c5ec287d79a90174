"""Training a matrix factorization interaction by interaction, by the kernel that suits its history."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from fastncf.blocks import Blocks
from fastncf.config import Config
from fastncf.descent import Descent
from fastncf.hashing import Stream, key
from fastncf.histories import Histories
from fastncf.models import GMF, MF
from fastncf.split import Split


def sgd(model: nn.Module, split: Split, config: Config, order: np.ndarray | None = None) -> Callable[[int], float]:
    """Interaction by interaction in the kernel, which samples as it goes.

    Args:
        model: an :class:`~fastncf.models.MF` that :func:`~fastncf.blocks.can_train`, moved in place, or a
            :class:`~fastncf.models.GMF` of at least 3 dimensions, which becomes what a trained MF is.
        split: what is trained on, N interactions.
        config: with its recipe, see :meth:`Config.with_recipe`.
        order: (N,) int32 of :func:`~fastncf.split.by_time` where ``config.history`` is ``recent``, else None.

    Returns:
        What trains the epoch of a number, and returns its mean loss a sample (bce) or pair (bpr), times N.
    """
    if isinstance(model, GMF):
        sizes = split.num_users, split.num_items, model.user_embedding.embedding_dim - 2
        generator = torch.Generator().manual_seed(key(config.seed, Stream.PARAMETERS) >> 1)
        mf = MF(*sizes, generator) if config.init_std is None else MF(*sizes, generator, std=config.init_std)
        train_mf = sgd(mf, split, config, order)

        def train_gmf(number: int) -> float:
            loss = train_mf(number)
            model.take(mf)
            return loss

        return train_gmf
    assert isinstance(model, MF)
    descent = Descent.of(config)
    assert config.history != "recent" or order is not None
    trained = Blocks(model, split, descent) if config.history == "none" else Histories(model, split, descent, order)
    epochs = config.epochs
    assert epochs is not None

    def train(number: int) -> float:
        rounds = np.arange(number * trained.rounds, (number + 1) * trained.rounds)
        rates = config.learning_rate_at(rounds / (epochs * trained.rounds))
        return trained.epoch(number, rates.tolist()) / descent.terms

    return train
