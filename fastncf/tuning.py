"""The settings of all that a fit trains: recipes for the data, and what is chosen by held-out items."""

import math
from dataclasses import replace
from typing import Any, Literal

import numpy as np

from fastncf.config import Config
from fastncf.data.split import Split, hold_out_another
from fastncf.evaluation.candidates import CandidateSpec, held_out_lists
from fastncf.evaluation.metrics import METRICS
from fastncf.evaluation.ranking import ranks_by_factors
from fastncf.rng import Stream
from fastncf.threads import run_ranges
from fastncf.trainers.factorization import draw_factors, sgd

_CHOOSE_AT_LENGTH_UP_TO = 50_000
_CHOOSE_UP_TO = 2_000_000
_FACTORS = 1, 2, 4, 8, 16


def recipes_for(
    config: Config,
    optimizer: Literal["sgd", "adam", "parts"],
    history: Literal["recent", "all", "none"],
    interactions: float = math.inf,
    num_items: int = 1,
) -> list[Config]:
    """The settings of a fit, at the end; before them, those of what ``parts`` train by ``sgd``: an MF or a GMF.

    Args:
        config: as it was asked for.
        optimizer: what trains.
        history: what is known of a user.
        interactions: N, those that are trained on.
        num_items: I.
    """
    own = config.with_recipe(optimizer, history, interactions, num_items)
    if optimizer != "parts":
        return [own]
    assert own.dim is not None
    num_users_all_seen: dict[str, Any] = dict.fromkeys(("epochs", "learning_rate", "l2", "batch_size"))
    if config.model == "mlp":
        first = replace(config, model="mf", dim=own.dim - 1, init_std=None, **num_users_all_seen)
    else:
        first = replace(config, model="gmf", dim=own.dim, mlp_dim=None, **num_users_all_seen)
    return [first.with_recipe("sgd", history, interactions, num_items), own]


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
        order: (N,) int32 of :func:`~fastncf.data.split.time_order` where ``history`` is ``recent``, else None.
    """
    size = len(split.indices)
    recipes = recipes_for(config, optimizer, history, size, split.num_items)
    first = recipes[0]
    given = config.l2 is not None and optimizer != "parts"
    if first.optimizer != "sgd" or given or config.budget == "fast" or size > _CHOOSE_UP_TO:
        return recipes
    quick = recipes_for(replace(config, budget="fast"), optimizer, history, size, split.num_items)[0]
    l2 = _best_l2(first if size <= _CHOOSE_AT_LENGTH_UP_TO else quick, split, order)
    return [replace(first, l2=l2), *recipes[1:]]


def _best_l2(config: Config, split: Split, order: np.ndarray | None) -> float:
    """A recipe's l2 or a multiple of it, whichever ranks items best that are held out for the choice.

    More is tried for as long as it is better by more than one standard error of the difference.
    """
    assert config.l2 is not None
    part, order, positives = hold_out_another(split, order, seed=config.seed)
    users = np.flatnonzero(positives >= 0).astype(np.int32)
    if len(users) < 2:
        return config.l2
    spec = CandidateSpec(config.num_candidates, config.distinct_candidates, config.seed)
    lists = held_out_lists(split, spec, users, positives[users], Stream.CHOICE_CANDIDATES)

    def gain(l2: float) -> np.ndarray:
        assert config.epochs is not None
        factors = draw_factors(config, split.num_users, split.num_items)
        train_epoch = sgd(factors, part, replace(config, l2=l2), order)
        for number in range(config.epochs):
            train_epoch(number)
        return METRICS["ndcg"](ranks_by_factors(factors, lists), config.k)

    candidates = [factor * config.l2 for factor in _FACTORS]
    found: dict[float, np.ndarray] = {}

    def try_out(first: int, last: int) -> None:
        found.update((l2, gain(l2)) for l2 in candidates[first:last])

    run_ranges(try_out, np.arange(3))  # two are needed in any case, and with little data each keeps one thread busy
    best, of_best = config.l2, found[config.l2]
    for at, l2 in enumerate(candidates[1:], start=1):
        if l2 not in found:
            try_out(at, at + 1)
        difference = found[l2] - of_best
        if not difference.mean() > difference.std(ddof=1) / len(users) ** 0.5:
            break
        best, of_best = l2, found[l2]
    return best
