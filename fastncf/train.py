"""``fit()``: the one place that knows every stage, from a ratings file to a fitted recommender."""

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from fastncf.adam import Adam
from fastncf.blocks import can_train
from fastncf.choice import chosen_recipes, recipes_for
from fastncf.config import Config
from fastncf.device import Stopwatch, enough_memory, find_device, on, reproducible
from fastncf.errors import ConfigError
from fastncf.evaluate import Lists, metric_means, named_metrics, rank_candidates
from fastncf.factorization import sgd
from fastncf.fused import FusedMLP, can_fuse
from fastncf.hashing import Stream, key
from fastncf.histories import order_matters
from fastncf.interactions import Interactions, draw_users, read_interactions, read_with_test
from fastncf.models import GMF, MF, MLP, NeuMF, Popularity, build
from fastncf.perceptron import Perceptron, fits_layers
from fastncf.recommender import Recommender, held_out_lists
from fastncf.split import Split, by_time, given_test, leave_one_out
from fastncf.weights import Weights, popularity_weights

_GMF_SHARE = 0.9
STAGES = ("read", "split", "choose", "sample", "train", "evaluate", "total")


@dataclass(frozen=True)
class Progress:
    """What a callback is told.

    Attributes:
        stage: the name of a stage of :data:`STAGES` that begins, or ``epoch`` when one has ended.
        epoch: epochs that are done.
        epochs: epochs in all.
        elapsed: seconds since the fit began.
        loss: mean loss of the last epoch, NaN before the first.
        samples_per_second: positives and negatives of the last epoch by its seconds.
        metrics: validation metrics of the last epoch, empty without validation.
    """

    stage: str
    epoch: int
    epochs: int
    elapsed: float
    loss: float
    samples_per_second: float
    metrics: dict[str, float]


def fit(
    train: Any,
    *,
    test: Any | None = None,
    candidates: Any | None = None,
    user: str | None = None,
    item: str | None = None,
    time: str | None = None,
    model: str | nn.Module | None = None,
    config: Config | None = None,
    callback: Callable[[Progress], object] | None = None,
    **settings: Any,
) -> Recommender:
    """Read interactions, hold out one a user, train, evaluate, and return the fitted recommender.

    Args:
        train: a ratings file in any MovieLens dialect, CSV, TSV or Parquet, or a polars or pandas frame;
            see :func:`fastncf.interactions.read_interactions`. Every row is an interaction; ratings are not read.
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
    if isinstance(model, str):
        settings["model"] = model
    config = _configured(config, settings)
    if candidates is not None and test is None:
        raise ConfigError("candidates= needs test= beside it: they are the negatives of its rows")
    if test is not None and config.validation:
        raise ConfigError("validation=True holds items out of a file without a given test set; leave test= out")
    device = _device(config, model)
    optimizer = _optimizer(config, model, device)
    clock = _Clock(callback, _epochs(recipes_for(config, optimizer, _likely_history(config, optimizer))))

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
        if isinstance(model, nn.Module):
            recipes = recipes_for(config, optimizer, history, len(split.indices) / split.num_items)
        else:
            recipes = chosen_recipes(config, optimizer, history, split, order)
    clock.epochs, config = _epochs(recipes), recipes[-1]
    counts = torch.from_numpy(split.item_counts())
    module = model if isinstance(model, nn.Module) else build(config, split.num_users, split.num_items, counts)
    epochs: list[dict[str, float]] = []
    seed = key(config.seed, Stream.DROPOUT) >> 1
    with (
        clock.stage("train"),
        on(device),
        enough_memory(device),
        reproducible(device, seed, deterministic=config.deterministic),
    ):
        module.to(device)
        if not isinstance(module, Popularity):
            epochs = _train(module, split, order, recipes, device, clock)
    recommender = Recommender(
        model=module.eval(),
        config=config,
        users=interactions.users,
        items=interactions.items,
        split=split,
        data=_counts(interactions, split),
        history=epochs,
        found=interactions.found,
    )
    with clock.stage("evaluate"), enough_memory(device):
        recommender.metrics, recommender.protocol = recommender.evaluate()
    recommender.seconds = clock.total()
    return recommender


def _train(
    model: nn.Module,
    split: Split,
    order: np.ndarray | None,
    recipes: Sequence[Config],
    device: torch.device,
    clock: "_Clock",
) -> list[dict[str, float]]:
    """All epochs, by the settings of :func:`~fastncf.choice.recipes_for`."""
    config = recipes[-1]
    if config.optimizer == "parts":
        assert isinstance(model, MLP | NeuMF)
        return _train_parts(model, split, order, recipes, device, clock)
    if config.optimizer == "sgd":
        return _loop(sgd(model, split, config, order), model, split, config, device, clock)
    weights = _negative_weights(split, config)
    training: Adam | FusedMLP | Perceptron
    if can_fuse(model, config, device):
        training = FusedMLP(cast(MLP, model), split, config, device, weights)
    elif fits_layers(model, config, device):
        training = Perceptron(cast(MLP | NeuMF, model), split, config, weights)
    else:
        training = Adam(model, split, config, device, weights)
    with training:
        history = _loop(training.epoch, model, split, config, device, clock)
        clock.seconds["sample"] = training.epochs.sample_seconds()
    return history


def _train_parts(
    model: MLP | NeuMF,
    split: Split,
    order: np.ndarray | None,
    recipes: Sequence[Config],
    device: torch.device,
    clock: "_Clock",
) -> list[dict[str, float]]:
    """An MLP from the vectors of an MF; or both parts of a NeuMF, and what they score in a fixed proportion."""
    by_sgd, config = recipes
    by_adam = replace(config, model="mlp", optimizer="adam", history="none")
    counts = torch.from_numpy(split.item_counts())
    first = build(by_sgd, split.num_users, split.num_items, counts)
    history = _train(first, split, order, [by_sgd], torch.device("cpu"), clock)
    if isinstance(model, MLP):
        model.start_from(cast(MF, first), config.init_std or 1.0)
        return history + _train(model, split, None, [by_adam], device, clock)
    mlp = build(by_adam, split.num_users, split.num_items, counts).to(device)
    history += _train(mlp, split, None, [by_adam], device, clock)
    model.join(cast(GMF, first), cast(MLP, mlp), _GMF_SHARE)
    return history


def _epochs(recipes: Sequence[Config]) -> int:
    """Of all that is trained."""
    return sum(recipe.epochs or 0 for recipe in recipes)


def _loop(
    train: Callable[[int], float | Tensor],
    model: nn.Module,
    split: Split,
    config: Config,
    device: torch.device,
    clock: "_Clock",
) -> list[dict[str, float]]:
    """Epoch after epoch by a function that trains one and gives its summed loss; the host reads once for each."""
    assert config.epochs is not None
    validation = _validation_lists(split, config, device)
    best = _Best(config.patience)
    history: list[dict[str, float]] = []
    for number in range(config.epochs):
        watch = Stopwatch(device)
        model.train()
        results = [torch.as_tensor(train(number), dtype=torch.float64, device=device).reshape(1)]
        watch.stop()
        if validation is not None:
            results.append(metric_means(rank_candidates(model, validation), config.k))
        total, *means = torch.cat(results).tolist()
        mean, seconds = total / len(split.indices), watch.seconds()
        scores = named_metrics(means, config.k) if means else {}
        samples = len(split.indices) * (1 + config.num_negatives)
        stop = clock.epoch(mean, samples / seconds, scores)
        history.append({"epoch": clock.done, "loss": mean, "seconds": seconds, **scores})
        if best.is_over(model, scores.get(f"ndcg@{config.k}")) or stop is True:
            break
    best.restore(model)
    return history


def _device(config: Config, model: str | nn.Module | None) -> torch.device:
    """The device that was asked for; left to us, ``mf`` and ``gmf`` go where their best recipe is."""
    own = isinstance(model, nn.Module)
    if config.device == "auto" and _has_kernel(config) and config.optimizer != "adam" and not own:
        return torch.device("cpu")
    return find_device(config.device)


def _has_kernel(config: Config) -> bool:
    """Whether ``sgd`` knows a model: a GMF needs two dimensions for biases."""
    return config.model == "mf" or (config.model == "gmf" and (config.dim is None or config.dim > 2))


def _optimizer(config: Config, model: str | nn.Module | None, device: torch.device) -> Literal["sgd", "adam", "parts"]:
    """The optimizer that was asked for, or the one that suits the model and the device."""
    own = isinstance(model, nn.Module)
    name = type(model).__name__ if own else config.model
    fits = can_train(model, device) if isinstance(model, nn.Module) else _has_kernel(config) and device.type == "cpu"
    if config.optimizer == "sgd" and not fits:
        raise ConfigError(
            f"optimizer='sgd' trains mf and gmf in float32 on a CPU, not {name} on {device}; expected 'adam'"
        )
    has_parts = config.model in ("mlp", "neumf") and (config.dim is None or config.dim > 2) and not own
    if config.optimizer == "parts" and not has_parts:
        raise ConfigError(
            f"optimizer='parts' trains mlp and neumf with dim from 3, not {name}; expected 'adam' or 'sgd'"
        )
    return config.optimizer or ("parts" if has_parts else "sgd" if fits else "adam")


def _likely_history(config: Config, optimizer: Literal["sgd", "adam", "parts"]) -> Literal["recent", "all", "none"]:
    """The history by the settings alone; where it is ``recent`` and was not asked for, the data may speak against it.

    The number of epochs does not depend on what they say, so that it is known before they are read.
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
    order = by_time(interactions, split)
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


def _negative_weights(split: Split, config: Config) -> Weights | None:
    if config.negatives == "uniform":
        return None
    assert config.negatives_exponent is not None
    return popularity_weights(split.item_counts(), config.negatives_exponent)


def _validation_lists(split: Split, config: Config, device: torch.device) -> Lists | None:
    if not config.validation:
        return None
    users = np.flatnonzero(split.validation_item >= 0).astype(np.int32)
    if not len(users):
        raise ConfigError("validation=True: no user has three different items; expected some, or validation=False")
    positives = split.validation_item[users]
    return held_out_lists(split, config, users, positives, Stream.VALIDATION_CANDIDATES, device)


def _counts(interactions: Interactions, split: Split) -> dict[str, int]:
    return {
        "users": len(interactions.users),
        "items": len(interactions.items),
        "interactions": split.num_interactions,
        "folded": split.folded,
        "left_out": split.left_out,
        "too_short": split.too_short,
    }


class _Best:
    """Early stopping: the best parameters so far and how long ago they were."""

    def __init__(self, patience: int | None) -> None:
        self.patience = patience
        self.value = -1.0
        self.waited = 0
        self.state: dict[str, Tensor] | None = None

    def is_over(self, model: nn.Module, value: float | None) -> bool:
        """Whether the patience has run out with this epoch's value; without patience it never does."""
        if self.patience is None or value is None:
            return False
        if value > self.value:
            self.value, self.waited = value, 0
            self.state = copy.deepcopy(model.state_dict())
        else:
            self.waited += 1
        return self.waited >= self.patience

    def restore(self, model: nn.Module) -> None:
        if self.state is not None:
            model.load_state_dict(self.state)


class _Clock:
    """Seconds by stage, and the callback's news."""

    def __init__(self, callback: Callable[[Progress], object] | None, epochs: int) -> None:
        self.callback = callback
        self.epochs = epochs
        self.done = 0
        self.begin = time.perf_counter()
        self.seconds = dict.fromkeys(STAGES, 0.0)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._tell(name, 0, float("nan"), 0.0, {})
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start

    def epoch(self, loss: float, samples_per_second: float, scores: dict[str, float]) -> object:
        self.done += 1
        return self._tell("epoch", self.done, loss, samples_per_second, scores)

    def total(self) -> dict[str, float]:
        self.seconds["total"] = time.perf_counter() - self.begin
        return self.seconds

    def _tell(self, stage: str, epoch: int, loss: float, rate: float, scores: dict[str, float]) -> object:
        if self.callback is None:
            return None
        elapsed = time.perf_counter() - self.begin
        return self.callback(Progress(stage, epoch, self.epochs, elapsed, loss, rate, scores))
