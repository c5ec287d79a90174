"""Training of an MLP with two hidden layers on CUDA, a step in two Triton kernels.

It computes what :mod:`fastncf.trainers.autograd` computes, with matrix products in TF32, and many times as fast.
"""

import functools
import warnings
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from fastncf.data.split import Split
from fastncf.device import device_guard, has_tf32
from fastncf.errors import first_line
from fastncf.models.losses import LOSSES
from fastncf.models.mlp import MLP
from fastncf.models.scorers import why_not_by_kernels
from fastncf.sampling.loader import EpochLoader
from fastncf.stage import Stage
from fastncf.trainers.autograd import copy_state
from fastncf.trainers.base import State, Trainer

_STEPS_PER_GRAPH = 64
_PROGRAMS_PER_MULTIPROCESSOR = 2
_BETAS = 0.9, 0.999
_WIDTHS = 16, 32, 64, 128
"""Widths of inputs and layers that the kernels have tiles for."""


class CUDAMLPTrainer(Trainer):
    """Trains an :class:`~fastncf.models.mlp.MLP` on binary cross entropy by Adam (Kingma and Ba 2015).

    Until :meth:`close`, the module's parameters are views of one vector, which the kernels update.
    """

    name = "cuda_mlp"
    optimizer = "adam"
    device: torch.device

    @classmethod
    def why_not(cls, stage: Stage, module: nn.Module | None) -> str | None:
        """Return which setting, model, size or device the kernels cannot train; sizes of a module are its own."""
        if not has_tf32(torch.device(stage.device)):
            return f"device={stage.device!r} does not multiply in TF32 by Triton"
        return (
            _unsupported_setting(stage)
            or (_unsupported_model(stage) if module is None else _unsupported_module(module))
            or _unsupported_device(stage, *_sizes(stage, module))
        )

    def __init__(self, model: MLP, split: Split, stage: Stage, order: np.ndarray | None = None) -> None:
        """Move the parameters of a module on ``stage.device`` into one vector; ``order`` is not used."""
        from fastncf.kernels.cuda.mlp import BLOCK_SIZE, MLPShape, StepTensors  # not every machine has Triton

        self.model, self.stage, self.device = model, stage, torch.device(stage.device)
        self.loader = EpochLoader.from_stage(split, stage)
        self.num_groups = self.loader.batches
        layers = [layer for layer in (*model.hidden, model.output) if isinstance(layer, nn.Linear)]
        self._own_parameters = [model.user_embedding.weight, model.item_embedding.weight]  # in the kernels' order
        self._own_parameters += [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
        parameters = torch.cat([parameter.detach().reshape(-1) for parameter in self._own_parameters])
        bounds = np.cumsum([0] + [parameter.numel() for parameter in self._own_parameters])
        for parameter, (start, stop) in zip(self._own_parameters, pairwise(bounds), strict=True):
            parameter.data = parameters[start:stop].view(parameter.shape)
        users, items = model.user_embedding, model.item_embedding
        widths = layers[0].out_features, layers[1].out_features
        self._shape = MLPShape(users.num_embeddings, items.num_embeddings, users.embedding_dim, *widths)
        num_tiles = -(-self.loader.interactions_per_batch * (1 + stage.num_negatives) // BLOCK_SIZE)
        self._tensors = StepTensors(
            parameters=parameters,
            gradients=torch.zeros_like(parameters),
            exp_avg=torch.zeros_like(parameters),
            exp_avg_sq=torch.zeros_like(parameters),
            step_sizes=torch.empty((self.loader.batches, 2), dtype=torch.float32, device=self.device),
            losses=torch.zeros(min(num_tiles, self._max_programs()), dtype=torch.float64, device=self.device),
            order=self.loader.order,
            users=self.loader.user,
            positives=self.loader.positive,
            negatives=self.loader.negatives,
            step=torch.zeros(1, dtype=torch.int64, device=self.device),
        )
        self._graph: torch.cuda.CUDAGraph | None = None

    def epoch(self, number: int) -> Tensor:
        """Train the epoch of a number; nothing in it waits for the device.

        Returns:
            () float64: the mean loss of each batch (without the l2 term) times its interactions, summed.
        """
        with device_guard(self.device):
            return self._train(number)

    def _train(self, number: int) -> Tensor:
        """Train the epoch of a number on the current device."""
        self.loader.load(number)
        self._tensors = self._tensors._replace(order=self.loader.order, negatives=self.loader.negatives)
        steps = number * self.loader.batches + np.arange(self.loader.batches)
        learning_rates = self.stage.learning_rate_at(steps / (self.stage.epochs * self.loader.batches))
        first, second = (1 - beta ** (steps + 1.0) for beta in _BETAS)  # bias corrections
        step_sizes = np.column_stack([learning_rates / first, np.sqrt(second)])
        self._tensors.step_sizes.copy_(torch.from_numpy(step_sizes))
        done, sums = self._begin(losses=self._tensors.losses.zero_())
        done -= done % _STEPS_PER_GRAPH
        self._tensors.step.fill_(done)
        interactions = len(self.loader.order)
        full_batches = interactions // self.loader.interactions_per_batch
        for group in range(done // _STEPS_PER_GRAPH, full_batches // _STEPS_PER_GRAPH):
            self._replay()
            self._reach((group + 1) * _STEPS_PER_GRAPH, sums)
        for offset in range(full_batches % _STEPS_PER_GRAPH):
            self._run_step(offset, self.loader.interactions_per_batch)
        if rest := interactions % self.loader.interactions_per_batch:
            self._run_step(full_batches % _STEPS_PER_GRAPH, rest)
        return self._tensors.losses.sum() / (1 + self.stage.num_negatives)

    def state_dict(self) -> State:
        """Return ``parameters``, ``exp_avg`` and ``exp_avg_sq``, (P,) float32 each.

        They are in the order of :class:`fastncf.kernels.cuda.mlp.StepTensors`; Adam's step is a function of the epoch.
        """
        return {name: getattr(self._tensors, name) for name in ("parameters", "exp_avg", "exp_avg_sq")}

    def load_state_dict(self, state: State) -> None:
        """Continue from a state of :meth:`state_dict`, whose values may also be arrays.

        Raises:
            ValueError: a name is missing or superfluous, or a tensor has another shape.
        """
        copy_state(self.state_dict(), state)
        self._tensors.gradients.zero_()

    def sampling_seconds(self) -> float:
        """Return the seconds that drawing orders and negatives took; the device must be done with it."""
        return self.loader.sampling_seconds()

    def close(self) -> None:
        """Give the module parameters of their own again, and end the thread that samples."""
        self.loader.close()
        for parameter in self._own_parameters:
            parameter.data = parameter.data.clone()

    def _replay(self) -> None:
        """Take many steps over full batches; captured as a graph after a first run that compiles the kernels."""
        if self._graph is not None:
            self._graph.replay()
            return
        self._run_steps()
        if self.device.type != "cuda":
            return
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._run_steps()
        self._graph = graph

    def _run_steps(self) -> None:
        """Take the steps of a graph over the next full batches."""
        for offset in range(_STEPS_PER_GRAPH):
            self._run_step(offset, self.loader.interactions_per_batch)
        self._tensors.step.add_(_STEPS_PER_GRAPH)

    def _run_step(self, offset: int, num_interactions: int) -> None:
        """Take a step over the batch that is ``offset`` behind the next one."""
        from fastncf.kernels.cuda.mlp import adam_step, add_gradients

        add_gradients(
            self._tensors, self._shape, offset, self.loader.interactions_per_batch, num_interactions, self.stage.l2
        )
        adam_step(self._tensors, offset)

    def _max_programs(self) -> int:
        """Return how many programs share the tiles of a batch at most."""
        if self.device.type != "cuda":
            return _PROGRAMS_PER_MULTIPROCESSOR
        return _PROGRAMS_PER_MULTIPROCESSOR * torch.cuda.get_device_properties(self.device).multi_processor_count


def _unsupported_setting(stage: Stage) -> str | None:
    """Return which setting the kernels do not have, for any model."""
    if stage.optimizer != "adam":
        return f"takes steps by adam, not by {stage.optimizer}"
    if stage.history != "none":
        return f"history={stage.history!r} was asked for, and the kernel trains no histories"
    if not LOSSES[stage.loss].cuda_kernel:
        return f"loss={stage.loss!r} has no CUDA kernel"
    if stage.precision != "bfloat16":
        return f"precision={stage.precision!r} was asked for, and the kernel multiplies in TF32"
    if stage.has_weights:
        return "interactions have weights, which the kernel does not take"
    if stage.deterministic:
        return "deterministic=True was asked for, and the kernel adds gradients in the order in which they arrive"
    return None


def _unsupported_model(stage: Stage) -> str | None:
    """Return why the kernels do not train a registered model."""
    if stage.model != "mlp":
        return f"the kernel is for model='mlp' and not for {stage.model!r}"
    return f"dropout={stage.dropout} was asked for, and the kernel has none" if stage.dropout else None


def _unsupported_module(module: nn.Module) -> str | None:
    """Return why the kernels do not train a module of the user's own."""
    if type(module) is not MLP:
        return f"the kernel is for modules of the class MLP itself and not for {type(module).__name__}"
    if module.dropout:
        return f"the module has dropout={module.dropout}, and the kernel has none"
    if not all(parameter.dtype == torch.float32 and parameter.requires_grad for parameter in module.parameters()):
        return "the kernel is for parameters in float32 of which none is frozen"
    return why_not_by_kernels(module)


def _sizes(stage: Stage, module: nn.Module | None) -> tuple[int, ...]:
    """Return the numbers of inputs and outputs of the hidden layers: 2 D, then the widths."""
    if not isinstance(module, MLP):
        return 2 * stage.dim, *stage.layers
    layers = [layer for layer in module.hidden if isinstance(layer, nn.Linear)]
    return 2 * module.user_embedding.embedding_dim, *(layer.out_features for layer in layers)


def _unsupported_device(stage: Stage, num_inputs: int, *widths: int) -> str | None:
    """Return why the kernels cannot train layers of some sizes on the stage's device."""
    if len(widths) != 2 or any(width not in _WIDTHS for width in (num_inputs, *widths)):
        return (
            f"the kernel has no tiles for dim={num_inputs // 2} and layers={widths}; expected dim 8, 16, 32 or 64 and "
            f"two layers of 16, 32, 64 or 128"
        )
    return _why_no_launch(torch.device(stage.device), stage.num_negatives, num_inputs, *widths)


@functools.cache
def _why_no_launch(device: torch.device, num_negatives: int, num_inputs: int, width_1: int, width_2: int) -> str | None:
    """Return why the kernels do not compile for a device or fit its shared memory; tested by a launch over no samples.

    Sizes that need too much shared memory are to be expected on smaller devices. Any other failure is not, and is also
    said in a warning.
    """
    from fastncf.kernels.cuda.mlp import MLPShape, StepTensors, add_gradients  # not every machine has Triton

    try:
        with device_guard(device):
            vector = torch.zeros((num_inputs + width_1 + width_2) ** 2, dtype=torch.float32, device=device)
            losses = torch.zeros(1, dtype=torch.float64, device=device)
            step = torch.zeros(1, dtype=torch.int64, device=device)
            negatives = torch.zeros((1, num_negatives), dtype=torch.int32, device=device)
            ids = negatives[:, 0]
            tensors = StepTensors(vector, vector, vector, vector, vector, losses, ids, ids, ids, negatives, step)
            add_gradients(tensors, MLPShape(0, 0, num_inputs // 2, width_1, width_2), 0, 1, 0, 0.0)
    except Exception as error:  # whatever the reason is, torch trains the model in its place
        reason = first_line(error)
        if type(error).__name__ != "OutOfResources":
            warnings.warn(
                f"the kernel of a whole training step does not run on {device} ({reason}); "
                f"steps are trained through torch, which takes longer",
                RuntimeWarning,
                stacklevel=2,
            )
        return f"the kernel does not run on {device} ({reason})"
    return None
