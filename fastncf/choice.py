"""The settings of all that a fit trains: recipes for the data, and what is chosen by held-out items."""

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fastncf.config import Config
from fastncf.evaluate import gains, rank_candidates
from fastncf.factorization import sgd
from fastncf.hashing import Stream
from fastncf.models import build
from fastncf.recommender import held_out_lists
from fastncf.split import Split, hold_out_another

_CHOOSE_AT_LENGTH_UP_TO = 50_000
_CHOOSE_UP_TO = 2_000_000
_FACTORS = 2, 4, 8, 16


def recipes_for(
    config: Config,
    optimizer: Literal["sgd", "adam", "parts"],
    history: Literal["recent", "all", "none"],
    interactions_per_item: float = math.inf,
) -> list[Config]:
    """The settings of a fit, at the end; before them, those of what ``parts`` train by ``sgd``: an MF or a GMF.

    Args:
        config: as it was asked for.
        optimizer: what trains.
        history: what is known of a user.
        interactions_per_item: N / I, of those that are trained on.
    """
    own = config.with_recipe(optimizer, history, interactions_per_item)
    if optimizer != "parts":
        return [own]
    assert own.dim is not None
    left_out: dict[str, Any] = dict.fromkeys(("epochs", "learning_rate", "l2", "batch_size"))
    if config.model == "mlp":
        first = replace(config, model="mf", dim=own.dim - 1, init_std=None, **left_out)
    else:
        first = replace(config, model="gmf", dim=own.dim, **left_out)
    return [first.with_recipe("sgd", history, interactions_per_item), own]


def chosen_recipes(
    config: Config,
    optimizer: Literal["sgd", "adam", "parts"],
    history: Literal["recent", "all", "none"],
    split: Split,
    order: np.ndarray | None,
) -> list[Config]:
    """The :func:`recipes_for` a model of the package; where ``sgd`` trains it and its l2 was left out, that is chosen.

    Args:
        config: as it was asked for.
        optimizer: what trains.
        history: what is known of a user.
        split: what is trained on, N interactions.
        order: (N,) int32 of :func:`~fastncf.split.by_time` where ``history`` is ``recent``, else None.
    """
    per_item = len(split.indices) / split.num_items
    recipes = recipes_for(config, optimizer, history, per_item)
    first = recipes[0]
    given = config.l2 is not None and optimizer != "parts"
    size = len(split.indices)
    if first.optimizer != "sgd" or given or config.budget == "fast" or size > _CHOOSE_UP_TO:
        return recipes
    quick = recipes_for(replace(config, budget="fast"), optimizer, history, per_item)[0]
    l2 = _best_l2(first if size <= _CHOOSE_AT_LENGTH_UP_TO else quick, split, order)
    return [replace(first, l2=l2), *recipes[1:]]


def _best_l2(config: Config, split: Split, order: np.ndarray | None) -> float:
    """A recipe's l2 or a multiple of it, whichever ranks items best that are held out for the choice.

    More is tried for as long as it is better by more than one standard error of the difference.
    """
    assert config.l2 is not None
    part, order, positives = hold_out_another(split, order, seed=config.seed)
    users = np.flatnonzero(positives >= 0).astype(np.int32)
    if not len(users):
        return config.l2
    cpu = torch.device("cpu")
    lists = held_out_lists(split, config, users, positives[users], Stream.CHOICE_CANDIDATES, cpu)
    counts = torch.from_numpy(part.item_counts())

    def gain(l2: float) -> Tensor:
        assert config.epochs is not None
        model = build(config, split.num_users, split.num_items, counts)
        train_epoch = sgd(model, part, replace(config, l2=l2), order)
        for number in range(config.epochs):
            train_epoch(number)
        return gains(rank_candidates(model, lists), config.k)

    best, of_best = config.l2, gain(config.l2)
    for factor in _FACTORS:
        difference = gain(factor * config.l2) - of_best
        if not difference.mean() > difference.std() / len(users) ** 0.5:
            break
        best, of_best = factor * config.l2, difference + of_best
    return best
