"""MLP and NeuMF on a CPU: what :mod:`fastncf.trainers.autograd` computes, many times as fast, by kernels."""

import itertools

import numpy as np
import torch
from torch import Tensor, nn

from fastncf.config import Config
from fastncf.data.split import Split
from fastncf.kernels.cpu import mlp as kernels
from fastncf.kernels.cpu.alias import AliasTable
from fastncf.kernels.cpu.gemm import COLUMNS
from fastncf.kernels.cpu.lazy_adam import make_schedule, settle, stride
from fastncf.kernels.cpu.losses import require_code
from fastncf.models.losses import LOSSES
from fastncf.models.mlp import MLP
from fastncf.models.neumf import NeuMF
from fastncf.rng import Stream, key
from fastncf.sampling.loader import EpochLoader, Training
from fastncf.threads import even_ranges, num_threads, run_ranges, run_threads

_SAMPLES_A_PIECE = 16_384
_SAMPLES_A_CALL = 2_000_000


def fits_layers(model: nn.Module, config: Config, device: torch.device) -> bool:
    """Whether the kernels can train a model: an MLP or a NeuMF, nothing frozen, in float32 on a CPU."""
    floats = all(part.dtype == torch.float32 and part.requires_grad for part in model.parameters())
    return type(model) in (MLP, NeuMF) and floats and device.type == "cpu" and config.precision != "bfloat16"


class CPUMLPTrainer(Training):
    """All epochs of an MLP or a NeuMF.

    Args:
        model: that :func:`fits_layers`; its parameters are written after each epoch.
        split: what is trained on, N interactions.
        config: with its recipe, see :meth:`~fastncf.config.Config.with_recipe`.
        weights: how often each item is drawn as a negative; all alike where it is not given.
    """

    def __init__(self, model: MLP | NeuMF, split: Split, config: Config, weights: AliasTable | None = None) -> None:
        assert config.epochs is not None
        assert config.l2 is not None
        self.config = config
        self.epochs = EpochLoader.of(split, config, torch.device("cpu"), weights)
        self.layout = layout = _Layout(model, split)
        steps = config.epochs * self.epochs.batches
        rates = config.learning_rate_at(np.array([0, 1 / steps]))
        self.pace = make_schedule(float(rates[0]), float(rates[0] - rates[1]))
        num_negatives = config.num_negatives
        tile = int(kernels.groups_a_tile(num_negatives))
        piece = -(-min(self.epochs.rows, _SAMPLES_A_PIECE // (1 + num_negatives)) // tile) * tile or tile
        self.threads = min(num_threads(), piece // tile)
        owned = np.bincount(kernels.owners(len(layout.rows), self.threads)).max()
        self.sizes = kernels.Sizes(
            num_users=split.num_users,
            num_negatives=num_negatives,
            product=layout.product,
            width=layout.width,
            depth=len(layout.layers),
            activations=int(layout.layers.sum()),
            parameters=layout.dense.shape[1],
            output=layout.output,
            batch=self.epochs.rows,
            piece=piece,
            own=int(min(owned, self.epochs.rows * (2 + num_negatives))),
            loss=require_code(LOSSES[config.loss].cpu_kernel),
            num_terms=LOSSES[config.loss].num_terms(num_negatives),
            l2=config.l2,
            dropout=config.dropout,
            seed=np.uint64(key(config.seed, Stream.DROPOUT)),
        )
        kept = 2 * self.epochs.rows if self.epochs.batches > 1 else len(split.indices)
        self.needed = np.zeros(kept * (2 + num_negatives), dtype=np.int32)
        self.slopes = _zeros(piece * (2 + num_negatives) * layout.vector)
        self.seen = np.zeros(len(layout.rows), dtype=np.int32)
        self.gradients = _zeros(kernels.CHUNKS * self.sizes.parameters)
        self.room = kernels.room_of_thread(self.sizes, int(layout.layers.max()))
        self.memory = [_zeros(int(self.room[-1])) for _ in range(self.threads)]
        self.own = [np.zeros(self.sizes.own, dtype=np.int64) for _ in range(self.threads)]

    def epoch(self, number: int) -> float:
        """Train one epoch; they come in their order, from 0, since rows remember the step that they are at.

        Returns:
            The loss of each batch (without the l2 term) times its interactions, summed.
        """
        self.epochs.load(number)
        epochs, layout = self.epochs, self.layout
        order, user, positive, negatives = (
            tensor.numpy().reshape(-1) for tensor in (epochs.order, epochs.user, epochs.positive, epochs.negatives)
        )
        rows, steps = layout.rows.view(-1).numpy(), layout.rows.view(torch.int32).view(-1).numpy()
        arrays = kernels.Arrays(
            layers=layout.layers,
            weights=layout.weights,
            biases=layout.biases,
            places=layout.places,
            mirror=layout.mirror,
            order=order,
            user=user,
            positive=positive,
            negatives=negatives,
            rows=rows,
            steps=steps,
            dense=layout.dense.view(-1).numpy(),
            mirrored=layout.mirrored,
            needed=self.needed,
            slopes=self.slopes,
            seen=self.seen,
            gradients=self.gradients,
            losses=np.zeros(kernels.CHUNKS),
            counters=np.zeros(kernels.num_counters(self.threads), dtype=np.int64),
            room=self.room,
        )
        before, stride = number * epochs.batches, layout.rows.shape[1]
        per_call = max(1, _SAMPLES_A_CALL // (epochs.rows * (1 + self.config.num_negatives)))
        for first, last in itertools.pairwise([*range(0, epochs.batches, per_call), epochs.batches]):
            arrays.counters[:] = 0

            def train(thread: int, first: int = first, last: int = last) -> None:
                memory, own = self.memory[thread], self.own[thread]
                kernels.train_batches(
                    thread, self.threads, first, last, before, stride, self.sizes, arrays, self.pace, memory, own
                )

            run_threads(train, self.threads)
        now = before + epochs.batches
        run_ranges(
            lambda a, b: settle(a, b, now, rows, steps, layout.vector, stride, self.pace), even_ranges(len(layout.rows))
        )
        layout.write()
        return float(arrays.losses.sum()) / self.sizes.num_terms


class _Layout:
    """A module's parameters as the kernels want them: padded, side by side, each with its moments.

    Attributes:
        product, width, vector: widths of a row's two parts, and of both.
        rows: (U + I, stride) float32, see :class:`~fastncf.kernels.cpu.lazy_adam.Table`.
        dense: (3, n) float32: the layers' parameters, their means and mean squares.
        layers, weights, biases, places, output, mirror, mirrored: see :class:`~fastncf.kernels.cpu.mlp.Arrays`.
    """

    def __init__(self, model: MLP | NeuMF, split: Split) -> None:
        if isinstance(model, MLP):
            tables = [(model.user_embedding, model.item_embedding)]
        else:
            tables = [
                (model.gmf_user_embedding, model.gmf_item_embedding),
                (model.mlp_user_embedding, model.mlp_item_embedding),
            ]
        dims = [user.embedding_dim for user, _ in tables]
        modules = [layer for layer in model.hidden if isinstance(layer, nn.Linear)]
        self.product, self.width = _padded(sum(dims[:-1])), _padded(dims[-1])
        self.vector = self.product + self.width
        size = split.num_users + split.num_items, stride(self.vector)
        self.rows = torch.from_numpy(_zeros(size[0] * size[1])).view(size)
        self._parts: list[tuple[Tensor, Tensor]] = []
        for start, (user, item) in zip((0, self.product), tables, strict=False):
            columns = slice(start, start + user.embedding_dim)
            self._parts.append((user.weight, self.rows[: split.num_users, columns]))
            self._parts.append((item.weight, self.rows[split.num_users :, columns]))

        widths = [2 * self.width, *(_padded(layer.out_features) for layer in modules)]
        self.layers = np.array(widths[1:])
        self.places = np.cumsum([0, *widths[1:-1]])
        starts = np.cumsum([0, *(a * b for a, b in itertools.pairwise(widths)), *widths[1:]])
        self.weights, self.biases = starts[: len(modules)], starts[len(modules) : -1]
        self.output = int(starts[-1])
        self.dense = torch.zeros(3, self.output + self.product + widths[-1] + COLUMNS)
        values = self.dense[0]
        self.mirror = np.arange(len(values), dtype=np.int32)
        for module, start, bias in zip(modules, self.weights.tolist(), self.biases.tolist(), strict=True):
            first = module is modules[0]
            halves = module.weight.split(dims[-1], dim=1) if first else [module.weight]
            below, own = self.width if first else _padded(module.in_features), _padded(module.out_features)
            for half in halves:
                numbers = np.arange(start, start + below * own)
                self.mirror[numbers] = numbers.reshape(own, below).T.reshape(-1)
                matrix = values[start : start + below * own].view(below, own)
                self._parts.append((half, matrix[: half.shape[1], : half.shape[0]].T))
                start += below * own
            self._parts.append((module.bias, values[bias : bias + module.out_features]))
        top = self.output + self.product
        of_product, of_top = model.output.weight[0].split([sum(dims[:-1]), modules[-1].out_features])
        self._parts.append((of_product, values[self.output : self.output + len(of_product)]))
        self._parts.append((of_top, values[top : top + len(of_top)]))
        self._parts.append((model.output.bias, values[top + widths[-1] :][:1]))
        with torch.no_grad():
            for theirs, ours in self._parts:
                ours.copy_(theirs)
        self.mirrored = np.empty(len(values), dtype=np.float32)
        self.mirrored[self.mirror] = values.numpy()

    @torch.no_grad()
    def write(self) -> None:
        """Give the module what the kernels have made of its parameters."""
        for theirs, ours in self._parts:
            theirs.copy_(ours)


def _padded(width: int) -> int:
    return -(-width // COLUMNS) * COLUMNS


def _zeros(size: int) -> np.ndarray:
    """(size,) float32 that start a cache line; of many, NumPy asks the system for large pages."""
    room = np.zeros(size + 16, dtype=np.float32)
    start = -room.ctypes.data % 64 // 4
    return room[start : start + size]
