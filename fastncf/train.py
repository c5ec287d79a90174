"""``fit()``: the one place that knows every stage, from a ratings file to a fitted recommender."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fastncf.config import Config
from fastncf.data.given_files import read_with_test
from fastncf.data.interactions import Interactions, draw_users, read_interactions
from fastncf.data.split import Split, given_test, leave_one_out, time_order
from fastncf.errors import ConfigError
from fastncf.kernels.cpu.factors import Factors
from fastncf.recommender import Recommender
from fastncf.rng import Stream, key
from fastncf.trainers.factorization import draw_factors, train_factors
from fastncf.trainers.history_sgd import order_matters
from fastncf.trainers.loop import Progress, ProgressReporter
from fastncf.tuning import chosen_recipes, recipes_for

if TYPE_CHECKING:
    import torch
    from torch import nn


def fit(
    train: Any,
    *,
    test: Any | None = None,
    candidates: Any | None = None,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    model: "str | nn.Module | None" = None,
    config: Config | None = None,
    callback: Callable[[Progress], object] | None = None,
    **settings: Any,
) -> Recommender:
    """Read interactions, hold out one a user, train, evaluate, and return the fitted recommender.

    Args:
        train: a ratings file in any MovieLens dialect, CSV, TSV or Parquet, or a polars or pandas frame;
            see :func:`fastncf.data.interactions.read_interactions`. Every row is an interaction; ratings are not read.
        test: held-out interactions, one a user, instead of holding out the latest of ``train``.
        candidates: with ``test``, the file of its negatives in the format of He et al. 2017; otherwise they are drawn.
        user: name of the user column where it is not one of the usual ones.
        item: the same for the item column.
        time: the same for the time column.
        model: name of a model, or any ``nn.Module`` that maps user and item tensors (n,) int32 to logits (n,).
        config: settings; the defaults where it is not given.
        callback: called with a :class:`Progress` at each stage and after each epoch; returning True after an epoch
            ends the training there.
        **settings: fields of :class:`Config` by name, over ``config``.

    Raises:
        DataNotFoundError, DataError: the input cannot be used; the message says where and why.
        ConfigError: a setting is out of range or unknown.
        DeviceError: the device is not there.
    """
    own = None if model is None or isinstance(model, str) else model
    if isinstance(model, str):
        settings["model"] = model
    config = _configured(config, settings)
    if candidates is not None and test is None:
        raise ConfigError("candidates= needs test= beside it: they are the negatives of its rows")
    if test is not None and config.validation:
        raise ConfigError("validation=True holds items out of a file without a given test set; leave test= out")
    optimizer, device = _plan(config, own)
    clock = ProgressReporter(callback, _epochs(recipes_for(config, optimizer, _likely_history(config, optimizer))))

    with clock.stage("read"):
        given = None
        if test is None:
            interactions = read_interactions(
                train, user=user, item=item, time=time, needs_time=config.split == "latest"
            )
        else:
            interactions, given = read_with_test(train, test, candidates, user=user, item=item, time=time)
    with clock.stage("split"):
        if given is None:
            if config.user_fraction < 1:
                interactions = draw_users(interactions, config.user_fraction, key(config.seed, Stream.USERS))
            split = leave_one_out(
                interactions, validation=config.validation, random=config.split == "random", seed=config.seed
            )
        else:
            split = given_test(interactions, given)
        history, order = _history(config, optimizer, interactions, split)
    with clock.stage("choose"):
        if own is None:
            recipes = chosen_recipes(config, optimizer, history, split, order)
        else:
            recipes = recipes_for(config, optimizer, history, len(split.indices), split.num_items)
    clock.epochs, config = _epochs(recipes), recipes[-1]
    with clock.stage("train"):
        trained: Factors | nn.Module
        if device is None:
            trained = draw_factors(config, split.num_users, split.num_items)
            epochs = train_factors(trained, split, config, order, clock)
        else:
            from fastncf.trainers.neural import train_module

            trained, epochs = train_module(own, split, order, recipes, device, clock)
    recommender = Recommender(
        trained=trained,
        config=config,
        users=interactions.users,
        items=interactions.items,
        split=split,
        data=_counts(interactions, split),
        history=epochs,
        found=interactions.source_info,
    )
    with clock.stage("evaluate"):
        recommender.metrics, recommender.protocol = recommender.evaluate()
    recommender.seconds = clock.total()
    return recommender


def _epochs(recipes: Sequence[Config]) -> int:
    """Of all that is trained."""
    return sum(recipe.epochs or 0 for recipe in recipes)


def _plan(config: Config, own: "nn.Module | None") -> tuple[Literal["sgd", "adam", "parts"], "torch.device | None"]:
    """What trains: the optimizer that was asked for, or the one that suits; and where, None for what needs no torch.

    Left to us, ``mf`` and ``gmf`` go to the CPU, where their best recipe is.
    """
    is_small_gmf = config.model == "gmf" and config.dim is not None and config.dim <= 2  # no room for biases
    has_kernel = own is None and config.model in ("mf", "gmf") and not is_small_gmf
    on_cpu = config.device == "cpu" or (config.device == "auto" and has_kernel and config.optimizer != "adam")
    if has_kernel and config.model == "mf" and on_cpu and config.optimizer in ("sgd", None):
        return "sgd", None
    from torch import nn

    from fastncf.device import find_device
    from fastncf.trainers.neural import can_train_factors

    if not isinstance(own, nn.Module | None):
        raise ConfigError(f"model={own!r}: expected the name of a model or an nn.Module")
    device = find_device("cpu" if on_cpu else config.device)
    name = config.model if own is None else type(own).__name__
    fits = has_kernel and device.type == "cpu" if own is None else can_train_factors(own, device)
    if config.optimizer == "sgd" and not fits:
        raise ConfigError(
            f"optimizer='sgd' trains mf and gmf in float32 on a CPU, not {name} on {device}; expected 'adam'"
        )
    has_parts = own is None and config.model in ("mlp", "neumf") and (config.dim is None or config.dim > 2)
    if config.optimizer == "parts" and not has_parts:
        raise ConfigError(
            f"optimizer='parts' trains mlp and neumf with dim from 3, not {name}; expected 'adam' or 'sgd'"
        )
    return config.optimizer or ("parts" if has_parts else "sgd" if fits else "adam"), device


def _likely_history(config: Config, optimizer: Literal["sgd", "adam", "parts"]) -> Literal["recent", "all", "none"]:
    """The history by the settings alone; where it is ``recent`` and was not asked for, the data may speak against it.

    So a number of epochs can be told before they are read; with sparse or few data there are more in the end.
    """
    if optimizer == "adam":
        if config.history not in (None, "none"):
            raise ConfigError(
                f"history={config.history!r}: needs optimizer='sgd', so mf or gmf on a CPU, or the parts of mlp and "
                f"neumf; expected 'none'"
            )
        return "none"
    return config.history or ("all" if config.split == "random" else "recent")


def _history(
    config: Config, optimizer: Literal["sgd", "adam", "parts"], interactions: Interactions, split: Split
) -> tuple[Literal["recent", "all", "none"], np.ndarray | None]:
    """The history that was asked for, or the one that suits the data and what is held out of them; and its order."""
    likely = _likely_history(config, optimizer)
    if likely != "recent":
        return likely, None
    if interactions.time is None:
        if config.history == "recent":
            raise ConfigError(f"history='recent': {interactions.source} has no times; expected 'all' or 'none'")
        return "all", None
    order = time_order(interactions, split)
    if config.history is None and not order_matters(split, order, config.seed):
        return "all", None
    return "recent", order


def _configured(config: Config | None, settings: dict[str, Any]) -> Config:
    try:
        return replace(config or Config(), **settings)
    except TypeError:
        known = Config.__dataclass_fields__
        unknown = ", ".join(name for name in settings if name not in known)
        raise ConfigError(f"unknown setting: {unknown}; expected one of {', '.join(known)}") from None


def _counts(interactions: Interactions, split: Split) -> dict[str, int]:
    return {
        "users": len(interactions.users),
        "items": len(interactions.items),
        "interactions": split.num_interactions,
        "num_duplicates": split.num_duplicates,
        "num_users_all_seen": split.num_users_all_seen,
        "num_users_too_short": split.num_users_too_short,
    }
