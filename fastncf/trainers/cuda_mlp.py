"""The MLP on CUDA, a step of training in two kernels: what :mod:`fastncf.trainers.autograd` computes, many times as fast."""

import functools
import warnings
from itertools import pairwise
from types import TracebackType

import numpy as np
import torch
from torch import Tensor, nn

from fastncf.config import Config
from fastncf.data.split import Split
from fastncf.device import has_tf32
from fastncf.kernels.cpu.alias import AliasTable
from fastncf.models.mlp import MLP
from fastncf.sampling.loader import EpochLoader, Training

_STEPS = 64
_PROGRAMS_PER_MULTIPROCESSOR = 2
_BETAS = 0.9, 0.999


def can_fuse(model: nn.Module, config: Config, device: torch.device) -> bool:
    """Whether the kernels can train a model: an MLP of sizes that tiles have, on cross entropy, without dropout."""
    if type(model) is not MLP or not has_tf32(device) or config.deterministic or config.precision == "float32":
        return False
    if config.loss != "bce" or config.dropout:
        return False
    widths = [2 * model.user_embedding.embedding_dim, *config.layers]
    if len(widths) != 3 or any(width not in (16, 32, 64, 128) for width in widths):
        return False
    size = sum(parameter.numel() for parameter in model.parameters())
    floats = all(parameter.dtype == torch.float32 for parameter in model.parameters())
    return floats and size < 2**31 and _fits(device, config.num_negatives, *widths)


@functools.cache
def _fits(device: torch.device, num_negatives: int, inputs: int, first: int, second: int) -> bool:
    """Whether the kernels compile for a device and fit its shared memory, found out by a launch over no samples."""
    from fastncf.kernels.cuda.mlp import add_gradients  # Triton is not there on every machine

    nothing = torch.zeros((inputs + first + second) ** 2, device=device)
    numbers = torch.zeros((1, num_negatives), dtype=torch.int32, device=device)
    losses, step = torch.zeros(1, dtype=torch.float64, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    of_row = numbers[:, 0], numbers[:, 0], numbers[:, 0], numbers
    try:
        add_gradients(nothing, nothing, losses, *of_row, step, 0, 1, 0, 0, 0, inputs // 2, (first, second), 0.0)
    except Exception as error:  # whatever it is, there is a way without them
        if type(error).__name__ != "OutOfResources":
            reason = str(error).partition("\n")[0] or type(error).__name__
            warnings.warn(
                f"the kernel of a whole training step does not run on {device} ({reason}); "
                f"steps are trained through torch, which takes longer",
                RuntimeWarning,
                stacklevel=2,
            )
        return False
    return True


class CUDAMLPTrainer(Training):
    """All epochs of an MLP, after which, as a context, the module's parameters are the trained ones.

    Args:
        model: that :func:`can_fuse`.
        split: what is trained on, N interactions.
        config: with its recipe, see :meth:`~fastncf.config.Config.with_recipe`.
        device: where the model is.
        weights: how often each item is drawn as a negative; all alike where it is not given.
    """

    def __init__(
        self, model: MLP, split: Split, config: Config, device: torch.device, weights: AliasTable | None = None
    ) -> None:
        assert config.epochs is not None
        assert config.l2 is not None
        self.model, self.config, self.device = model, config, device
        self.passes, self.l2 = config.epochs, config.l2
        self.epochs = EpochLoader.of(split, config, device, weights)
        # In the order in which the kernel expects them; the module's parameters are parts of the vector from now on.
        layers = [layer for layer in (*model.hidden, model.output) if isinstance(layer, nn.Linear)]
        self._parts = [model.user_embedding.weight, model.item_embedding.weight]
        self._parts += [part for layer in layers for part in (layer.weight, layer.bias)]
        self.parameters = torch.cat([part.detach().reshape(-1) for part in self._parts])
        self.gradients, self.mean, self.square = (torch.zeros_like(self.parameters) for _ in range(3))
        bounds = np.cumsum([0] + [part.numel() for part in self._parts])
        for part, (start, stop) in zip(self._parts, pairwise(bounds), strict=True):
            part.data = self.parameters[start:stop].view(part.shape)
        self.rates = torch.empty((self.epochs.batches, 2), device=device)
        self.step = torch.zeros(1, dtype=torch.int64, device=device)
        self.losses = torch.zeros(self._programs(), dtype=torch.float64, device=device)
        self._graph: torch.cuda.CUDAGraph | None = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        for part in self._parts:
            part.data = part.data.clone()

    def epoch(self, number: int) -> Tensor:
        """Train one epoch; nothing in here waits for the device.

        Returns:
            () float64: the mean loss of each batch (without the l2 term) times its interactions, summed.
        """
        self.epochs.load(number)
        steps = number * self.epochs.batches + np.arange(self.epochs.batches)
        rates = self.config.learning_rate_at(steps / (self.passes * self.epochs.batches))
        first, second = (1 - beta ** (steps + 1.0) for beta in _BETAS)
        self.rates.copy_(torch.from_numpy(np.column_stack([rates / first, np.sqrt(second)])))
        self.step.zero_()
        self.losses.zero_()
        interactions = len(self.epochs.order)
        full = interactions // self.epochs.rows
        for _ in range(full // _STEPS):
            self._many()
        for offset in range(full % _STEPS):
            self._one(offset, self.epochs.rows)
        if rest := interactions % self.epochs.rows:
            self._one(full % _STEPS, rest)
        return self.losses.sum() / (1 + self.config.num_negatives)

    def _many(self) -> None:
        """A number of full batches; captured as a graph, after a first run in which the kernels are compiled."""
        if self._graph is not None:
            self._graph.replay()
            return
        self._steps()
        if self.device.type != "cuda":
            return
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._steps()
        self._graph = graph

    def _steps(self) -> None:
        for offset in range(_STEPS):
            self._one(offset, self.epochs.rows)
        self.step += _STEPS

    def _one(self, offset: int, count: int) -> None:
        """The batch that is ``offset`` after the one that is next."""
        from fastncf.kernels.cuda.mlp import adam, add_gradients  # Triton is not there on every machine

        epochs, table = self.epochs, self.model.user_embedding
        add_gradients(
            self.parameters,
            self.gradients,
            self.losses,
            epochs.order,
            epochs.user,
            epochs.positive,
            epochs.negatives,
            self.step,
            offset,
            epochs.rows,
            count,
            table.num_embeddings,
            self.model.item_embedding.num_embeddings,
            table.embedding_dim,
            (self.config.layers[0], self.config.layers[1]),
            self.l2,
        )
        adam(self.parameters, self.gradients, self.mean, self.square, self.rates, self.step, offset)

    def _programs(self) -> int:
        """Programs that share a batch's tiles."""
        from fastncf.kernels.cuda.mlp import BLOCK

        tiles = -(-self.epochs.rows * (1 + self.config.num_negatives) // BLOCK)
        cuda = self.device.type == "cuda"
        processors = torch.cuda.get_device_properties(self.device).multi_processor_count if cuda else 1
        return min(tiles, processors * _PROGRAMS_PER_MULTIPROCESSOR)
