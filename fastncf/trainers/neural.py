"""Training of modules: by Adam in whichever way is fastest on a device, and of parts that are put together.

What :mod:`fastncf.trainers.factorization` trains needs none of this, and no torch.
"""

import copy
from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from fastncf.config import Config
from fastncf.data.split import Split
from fastncf.device import Stopwatch, deterministic, device_guard, has_bfloat16, translate_out_of_memory
from fastncf.evaluation.candidates import validation_lists
from fastncf.evaluation.metrics import named_metrics
from fastncf.evaluation.ranking import metric_means, on_device, rank_candidates
from fastncf.kernels.cpu.alias import AliasTable
from fastncf.models import build
from fastncf.models.gmf import GMF
from fastncf.models.mf import MF
from fastncf.models.mlp import MLP
from fastncf.models.neumf import NeuMF
from fastncf.models.popularity import Popularity
from fastncf.sampling.distributions import popularity_table
from fastncf.stage import Stage
from fastncf.trainers.autograd import AutogradTrainer
from fastncf.trainers.base import Trainer
from fastncf.trainers.cpu_mlp import CPUMLPTrainer, fits_layers
from fastncf.trainers.cuda_mlp import CUDAMLPTrainer
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
    with device_guard(device), translate_out_of_memory(device), deterministic(config.deterministic):
        if config.optimizer == "sgd" and own is None:
            factors = draw_factors(config, split.num_users, split.num_items)
            history = train_factors(factors, split, config, order, clock)
            return (GMF if config.model == "gmf" else MF).of(factors).eval(), history
        counts = torch.from_numpy(split.item_counts())
        module = own if own is not None else build(config, split.num_users, split.num_items, counts)
        module.to(device)
        history = []
        if config.optimizer == "parts":
            history = _train_parts(cast(MLP | NeuMF, module), split, order, recipes, device, clock)
        elif config.optimizer == "sgd":
            history = train_factors(cast(MF, module).factors(), split, config, order, clock)
        elif not isinstance(module, Popularity):
            history = _train_by_adam(module, split, config, device, clock)
        return module.eval(), history


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
    stage = stage_of(config, device)
    training: AutogradTrainer | CUDAMLPTrainer | CPUMLPTrainer
    if CUDAMLPTrainer.why_not(stage, model) is None:
        training = CUDAMLPTrainer(cast(MLP, model), split, stage)
    elif fits_layers(model, config, device):
        training = CPUMLPTrainer(cast(MLP | NeuMF, model), split, config, _negative_weights(split, config))
    else:
        training = AutogradTrainer(model, split, stage)
    with training:
        history = train_epochs(_Trainee(model, training, split, config, device), config, len(split.indices), clock)
        clock.seconds["sample"] = (
            training.sampling_seconds() if isinstance(training, Trainer) else training.epochs.sample_seconds()
        )
    return history


def stage_of(config: Config, device: torch.device) -> Stage:
    """Return the stage of a config with its recipe, for trainers of batches."""
    names = {field.name for field in fields(Stage)} & {field.name for field in fields(Config)}
    values = {name: getattr(config, name) for name in names}
    values |= {"trainer": "", "optimizer": "adam", "history": "none", "device": str(device)}
    values["mlp_dim"] = config.mlp_dim or config.dim
    values["init_std"] = config.init_std or 0.1
    values["precision"] = config.precision or ("bfloat16" if has_bfloat16(device) else "float32")
    return Stage(**values)


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
    mlp = cast(MLP, build(by_adam, split.num_users, split.num_items, counts).to(device))
    history += _train_by_adam(mlp, split, by_adam, device, clock)
    model.join(GMF.of(factors), mlp, _GMF_SHARE)
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
        training: AutogradTrainer | CUDAMLPTrainer | CPUMLPTrainer,
        split: Split,
        config: Config,
        device: torch.device,
    ) -> None:
        self.model = model
        self.training = training
        self.device = device
        lists = validation_lists(split, config)
        self.validation = None if lists is None else on_device(lists, device)
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
