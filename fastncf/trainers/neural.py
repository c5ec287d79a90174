"""Training of modules: by Adam in whichever way is fastest on a device, and of parts that are put together.

What :mod:`fastncf.trainers.factorization` trains needs none of this, and no torch.
"""

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from fastncf.config import Config
from fastncf.data.split import Split
from fastncf.device import Stopwatch, enough_memory, on, reproducible
from fastncf.evaluation.candidates import CandidateSpec, validation_lists
from fastncf.evaluation.metrics import metric_means, named_metrics
from fastncf.evaluation.ranking import on_device, rank_candidates
from fastncf.kernels.cpu.alias import AliasTable
from fastncf.models import build
from fastncf.models.gmf import GMF
from fastncf.models.mf import MF
from fastncf.models.mlp import MLP
from fastncf.models.neumf import NeuMF
from fastncf.models.popularity import Popularity
from fastncf.rng import Stream, key
from fastncf.sampling.distributions import popularity_table
from fastncf.stage import Stage
from fastncf.trainers.autograd import Adam
from fastncf.trainers.cpu_mlp import CPUMLPTrainer, fits_layers
from fastncf.trainers.cuda_mlp import CUDAMLPTrainer, can_fuse
from fastncf.trainers.factorization import draw_factors, train_factors
from fastncf.trainers.loop import History, ProgressReporter, train_epochs

_GMF_SHARE = 0.9


def train_module(
    own: nn.Module | None,
    split: Split,
    order: np.ndarray | None,
    recipes: Sequence[Config],
    device: torch.device,
    clock: ProgressReporter,
) -> tuple[nn.Module, History]:
    """Build a module, unless it is given, and train it on a device.

    Args:
        own: a module of the caller's, moved in place, or None.
        split: what is trained on.
        order: (N,) int32 of :func:`~fastncf.data.split.time_order` where the history is ``recent``, else None.
        recipes: of :func:`~fastncf.tuning.recipes_for`.
        device: where it is trained, and stays.
        clock: told of each epoch.

    Raises:
        DeviceError: the memory of the device runs out.
    """
    config = recipes[-1]
    seed = key(config.seed, Stream.DROPOUT) >> 1
    with on(device), enough_memory(device), reproducible(device, seed, deterministic=config.deterministic):
        if config.optimizer == "sgd" and own is None:
            factors = draw_factors(config, split.num_users, split.num_items)
            history = train_factors(factors, split, config, order, clock)
            return (GMF if config.model == "gmf" else MF).from_factors(factors).eval(), history
        counts = torch.from_numpy(split.item_counts())
        module = own if own is not None else build(stage_of(config), split.num_users, split.num_items, counts)
        module.to(device)
        history = []
        if config.optimizer == "parts":
            history = _train_parts(cast(MLP | NeuMF, module), split, order, recipes, device, clock)
        elif config.optimizer == "sgd":
            history = train_factors(cast(MF, module).factors(), split, config, order, clock)
        elif not isinstance(module, Popularity):
            history = _train_by_adam(module, split, config, device, clock)
        return module.eval(), history


def stage_of(config: Config) -> Stage:
    """Return the stage that a config with its recipe describes; until plans are made of stages."""
    assert config.dim is not None
    std = {"mf": 0.02}.get(config.model, 0.1)
    return Stage(
        model=config.model,
        trainer="",
        optimizer="sgd" if config.optimizer == "sgd" else "adam",
        device=config.device,
        dim=config.dim,
        mlp_dim=config.mlp_dim or config.dim,
        layers=config.layers,
        dropout=config.dropout,
        init_std=std if config.init_std is None else config.init_std,
        loss=config.loss,
        num_negatives=config.num_negatives,
        negatives=config.negatives or "uniform",
        negatives_exponent=config.negatives_exponent or 0.0,
        history={"recent": "sequence", "all": "bag"}.get(config.history or "", "none"),  # type: ignore[arg-type]
        epochs=config.epochs or 0,
        batch_size=config.batch_size or 0,
        learning_rate=config.learning_rate or 0.0,
        schedule=config.schedule,
        l2=config.l2 or 0.0,
        shuffle=config.shuffle,
        precision=config.precision or "float32",
        deterministic=config.deterministic,
        seed=config.seed,
    )


def can_train_factors(model: nn.Module, device: torch.device) -> bool:
    """Whether a module's factors can be trained in place: :class:`MF` itself, nothing frozen, float32 on a CPU."""
    parameters = list(model.parameters())
    return (
        type(model) is MF
        and device.type == "cpu"
        and all(p.dtype == torch.float32 and p.is_contiguous() and p.requires_grad for p in parameters)
    )


def _train_by_adam(
    model: nn.Module, split: Split, config: Config, device: torch.device, clock: ProgressReporter
) -> History:
    weights = _negative_weights(split, config)
    training: Adam | CUDAMLPTrainer | CPUMLPTrainer
    if can_fuse(model, config, device):
        training = CUDAMLPTrainer(cast(MLP, model), split, config, device, weights)
    elif fits_layers(model, config, device):
        training = CPUMLPTrainer(cast(MLP | NeuMF, model), split, config, weights)
    else:
        training = Adam(model, split, config, device, weights)
    with training:
        history = train_epochs(_Trainee(model, training, split, config, device), config, len(split.indices), clock)
        clock.seconds["sample"] = training.epochs.sample_seconds()
    return history


def _train_parts(
    model: MLP | NeuMF,
    split: Split,
    order: np.ndarray | None,
    recipes: Sequence[Config],
    device: torch.device,
    clock: ProgressReporter,
) -> History:
    """An MLP from the vectors of an MF; or both parts of a NeuMF, and what they score in a fixed proportion."""
    by_sgd, config = recipes
    dim = config.mlp_dim or config.dim
    by_adam = replace(config, model="mlp", dim=dim, mlp_dim=None, optimizer="adam", history="none")
    factors = draw_factors(by_sgd, split.num_users, split.num_items)
    history = train_factors(factors, split, by_sgd, order, clock)
    if isinstance(model, MLP):
        model.start_from(factors, config.init_std or 1.0)
        return history + _train_by_adam(model, split, by_adam, device, clock)
    counts = torch.from_numpy(split.item_counts())
    mlp = cast(MLP, build(stage_of(by_adam), split.num_users, split.num_items, counts).to(device))
    history += _train_by_adam(mlp, split, by_adam, device, clock)
    model.join(GMF.from_factors(factors), mlp, _GMF_SHARE)
    return history


def _negative_weights(split: Split, config: Config) -> AliasTable | None:
    if config.negatives == "uniform":
        return None
    assert config.negatives_exponent is not None
    return popularity_table(split.item_counts(), config.negatives_exponent)


class _Trainee:
    """A module in the loop of epochs; the host reads once for each."""

    def __init__(
        self,
        model: nn.Module,
        training: Adam | CUDAMLPTrainer | CPUMLPTrainer,
        split: Split,
        config: Config,
        device: torch.device,
    ) -> None:
        self.model = model
        self.training = training
        self.device = device
        self.validation = None
        if config.validation:
            spec = CandidateSpec(config.num_candidates, config.distinct_candidates, config.seed)
            self.validation = on_device(validation_lists(split, spec), device)
        self.k = config.k

    def epoch(self, number: int) -> tuple[float, float, dict[str, float]]:
        watch = Stopwatch(self.device)
        self.model.train()
        total = self.training.epoch(number)
        results = [torch.as_tensor(total, dtype=torch.float64, device=self.device).reshape(1)]
        watch.stop()
        if self.validation is not None:
            results.append(metric_means(rank_candidates(self.model, self.validation), self.k))
        loss, *means = torch.cat(results).tolist()
        return loss, watch.seconds(), named_metrics(means, self.k) if means else {}

    def state(self) -> dict[str, Any]:
        return copy.deepcopy(self.model.state_dict())

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state)
