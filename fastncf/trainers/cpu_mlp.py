"""MLP and NeuMF on a CPU by kernels of their own: the steps of :mod:`fastncf.trainers.autograd`, many times as fast."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from fastncf.data.csr import split_ranges
from fastncf.data.split import Split
from fastncf.errors import ConfigError
from fastncf.kernels.cpu import mlp as kernels
from fastncf.kernels.cpu import mlp_structures as structures
from fastncf.kernels.cpu.gemm import COLUMN_MULTIPLE
from fastncf.kernels.cpu.lazy_adam import (
    AdamSchedule,
    LazyTable,
    catch_up,
    make_schedule,
    restore_steps,
    steps_of,
    stride_of,
)
from fastncf.kernels.cpu.losses import require_code
from fastncf.kernels.cpu.shards import SHARDS, sort_batches
from fastncf.kernels.cpu.simd import aligned_zeros
from fastncf.models.losses import LOSSES
from fastncf.models.mlp import MLP
from fastncf.models.neumf import NeuMF
from fastncf.models.scorers import why_not_by_kernels
from fastncf.rng import Stream, key
from fastncf.sampling.loader import EpochLoader
from fastncf.stage import Stage
from fastncf.threads import even_ranges, num_threads, run_ranges, run_threads
from fastncf.trainers.autograd import copy_state
from fastncf.trainers.base import State, Trainer

_CPU = torch.device("cpu")
_MICROBATCH_SAMPLES = 16_384
_CALL_SAMPLES = 2_000_000
_SHARED_BATCH = 16_384  # interactions
_MOST_PARAMETERS = 2**31 - 2**20  # they are numbered in int32, with some padding
_MOST_STEPS = 2**30 - 1  # twice a step is int32
_MOMENTS = "parameters", "exp_avg", "exp_avg_sq"  # values, and torch's names for Adam's moments


def num_shards_of(stage: Stage, num_interactions: int) -> int:
    """Return how many shards of users the batches of a stage are sorted by.

    Small batches are one shard: several processes do not share them out, since the exchange would take longer.

    Args:
        stage: settings.
        num_interactions: N.
    """
    size = min(stage.batch_size // (1 + stage.num_negatives), num_interactions)
    return SHARDS if size >= _SHARED_BATCH else 1


class CPUMLPTrainer(Trainer):
    """Trains an MLP or a NeuMF by Adam on the threads of the CPU; the bits do not depend on the number of threads.

    Embedding vectors that a batch does not use take their steps later, see :mod:`fastncf.kernels.cpu.lazy_adam`; at the
    end of an epoch they have taken all of them, and the module's parameters are written.

    Args:
        model: MLP or NeuMF that :meth:`why_not` has no objection to.
        split: training interactions.
        stage: settings.
        order: not used.
    """

    name: ClassVar[str] = "cpu_mlp"
    large_kernels = (kernels.train_batches,)
    optimizer: ClassVar[Literal["sgd", "adam"]] = "adam"

    @classmethod
    def why_not(cls, stage: Stage, module: nn.Module | None) -> str | None:
        """Return which setting or model the kernels cannot train; the sizes of a module are its own."""
        if stage.optimizer != cls.optimizer:
            return f"takes steps by {cls.optimizer}, not by {stage.optimizer}"
        if stage.history != "none":
            return f"history={stage.history!r} was asked for, and the kernels train no histories"
        if torch.device(stage.device).type != "cpu":
            return f"device={stage.device!r} was asked for, and the kernels run on the CPU"
        if stage.precision != "float32":
            return f"precision={stage.precision!r} was asked for, and the kernels multiply in float32"
        if LOSSES[stage.loss].cpu_kernel is None:
            return f"loss={stage.loss!r} has no CPU kernel"
        if module is not None:
            return _unsupported_module(module)
        if stage.model not in ("mlp", "neumf"):
            return f"the kernels are for model='mlp' and 'neumf' and not for {stage.model!r}"
        widths = [2 * _padded(stage.mlp_dim), *map(_padded, stage.layers)]
        if sum(a * b for a, b in itertools.pairwise(widths)) > _MOST_PARAMETERS:
            return f"layers={stage.layers!r:.80} have more than {_MOST_PARAMETERS:,} weights, which the kernels number"
        return None

    def __init__(self, model: MLP | NeuMF, split: Split, stage: Stage, order: np.ndarray | None = None) -> None:
        """Pack the parameters of a module for the kernels; ``order`` is not used.

        Raises:
            ConfigError: there are more steps than the kernels count.
        """
        self.device = _CPU
        self.model, self.stage = model, stage
        self.loader = self._make_loader(split)
        self.num_groups = self.loader.batches
        num_shards = num_shards_of(stage, len(split.indices))
        self._shard_bounds = split.indptr[split_ranges(split.indptr, num_shards)]
        if (steps := stage.epochs * self.loader.batches) > _MOST_STEPS:
            self.loader.close()
            raise ConfigError(
                f"epochs={stage.epochs}, batch_size={stage.batch_size}: {steps:,} steps; expected at most "
                f"{_MOST_STEPS:,}, or optimizer='sgd'"
            )
        self._packed = self._pack_parameters(split)
        rates = stage.learning_rate_at(np.array([0, 1 / (stage.epochs * self.loader.batches)]))
        self._schedule = make_schedule(float(rates[0]), float(rates[0] - rates[1]))
        tile_size = int(structures.tile_size(stage.num_negatives))
        microbatch_size = min(self.loader.interactions_per_batch, _MICROBATCH_SAMPLES // (1 + stage.num_negatives))
        microbatch_size = max(1, -(-microbatch_size // tile_size)) * tile_size
        self._num_threads = min(num_threads(), microbatch_size // tile_size)
        self._settings = structures.Settings(
            num_users=split.num_users,
            num_negatives=stage.num_negatives,
            batch_size=self.loader.interactions_per_batch,
            microbatch_size=microbatch_size,
            num_shards=num_shards,
            loss=require_code(LOSSES[stage.loss].cpu_kernel),
            num_terms=LOSSES[stage.loss].num_terms(stage.num_negatives),
            l2=stage.l2,
            dropout=model.dropout,
            dropout_key=np.uint64(key(stage.seed, Stream.DROPOUT)),
        )
        self._make_memory(split)

    def _make_loader(self, split: Split) -> EpochLoader:
        """Return the epochs."""
        return EpochLoader.from_stage(split, self.stage)

    def _pack_parameters(self, split: Split) -> "PackedParameters":
        """Return the parameters that this process trains."""
        return PackedParameters(self.model, slice(split.num_users), slice(split.num_items))

    def _make_memory(self, split: Split) -> None:
        """Make the memory that batches need."""
        stage = self.stage
        num_rows, rows_per_interaction = split.num_users + split.num_items, 2 + stage.num_negatives
        listed = 2 * self.loader.interactions_per_batch if self.loader.batches > 1 else len(split.indices)
        self._batch_rows = structures.BatchRows(
            rows=np.zeros(listed * rows_per_interaction, dtype=np.int32),
            last_use=np.zeros(num_rows, dtype=np.int32),
            gradients=aligned_zeros(self._settings.microbatch_size * rows_per_interaction * self._packed.table.width),
        )
        owned = np.bincount(kernels.row_owners(num_rows, self._num_threads)).max()
        num_owned = int(min(owned, self.loader.interactions_per_batch * rows_per_interaction))
        self._workspaces = [
            structures.make_workspace(stage.num_negatives, self._packed.network, num_owned, self._settings.num_shards)
            for _ in range(self._num_threads)
        ]

    def epoch(self, number: int) -> float:
        """Train the epoch of a number, see :meth:`fastncf.trainers.base.Trainer.epoch`.

        The parameters have to be those after epoch ``number - 1``, since rows know the step that they are at.
        """
        self.loader.load(number)
        done, sums = self._begin(losses=np.zeros(structures.CHUNKS))
        shared = self._shared_state(sums["losses"])
        steps_before, batches = number * self.loader.batches, self.loader.batches
        per_call = max(1, _CALL_SAMPLES // (self.loader.interactions_per_batch * (1 + self.stage.num_negatives)))
        for first, last in itertools.pairwise([*range(done, batches, per_call), batches]):  # Ctrl-C waits for a call

            def train(thread: int, first: int = first, last: int = last) -> None:
                kernels.train_batches(thread, first, last, steps_before, shared, self._workspaces[thread])

            run_threads(train, self._num_threads)
            self._reach(last, sums)
        table = self._packed.table
        run_ranges(
            lambda first, last: catch_up(first, last, steps_before + batches, table, self._schedule),
            even_ranges(len(steps_of(table))),
        )
        self._packed.write_to_module()
        return float(shared.losses.sum()) / self._settings.num_terms

    def compile_rest(self) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.compile_rest`."""
        catch_up(0, 0, 0, self._packed.table, self._schedule)

    def _shared_state(self, losses: np.ndarray) -> structures.SharedState:
        """Return what the threads share in the epoch that is loaded, which add to ``losses``."""
        loader = self.loader
        order, user, positive, negatives = (
            tensor.numpy().reshape(-1) for tensor in (loader.order, loader.user, loader.positive, loader.negatives)
        )
        weights = np.empty(0, dtype=np.float32) if loader.weights is None else loader.weights.numpy()
        starts = self._sort_batches(order)
        data = structures.EpochData(
            len(order), order, user, positive, negatives, weights, len(weights) > 0, starts.reshape(-1), 0, 0
        )
        return structures.SharedState(
            num_threads=self._num_threads,
            counters=np.zeros(structures.num_counters(self._num_threads), dtype=np.int64),
            losses=losses,
            settings=self._settings,
            network=self._packed.network,
            layers=self._packed.layers,
            data=data,
            table=self._packed.table,
            batch_rows=self._batch_rows,
            schedule=self._schedule,
        )

    def _sort_batches(self, order: np.ndarray) -> np.ndarray:
        """Sort each batch of an order (N,) by shards of users, in place.

        Returns:
            (batches, shards + 1) int32, where the interactions of each shard start in its batch, and its size.
        """
        size, bounds = min(self.loader.interactions_per_batch, len(order)), self._shard_bounds
        starts = np.zeros((-(-len(order) // size), len(bounds)), dtype=np.int32)
        run_ranges(lambda a, b: sort_batches(a, b, size, bounds, order, starts), even_ranges(len(starts)))
        return starts

    def state_dict(self) -> State:
        """Return parameters, moments and steps, see :meth:`fastncf.trainers.base.Trainer.state_dict`.

        Returns:
            Copies, by ``parameters.``, ``exp_avg.`` or ``exp_avg_sq.`` before the name of a parameter in the module;
            and ``steps`` (U + I,) int32, the step that the vectors of each user and each item were last written in,
            counted from 1, 0 before the first.
        """
        return self._packed.state_dict()

    def load_state_dict(self, state: State) -> None:
        """Continue from a state of :meth:`state_dict`, whose values may also be arrays.

        Raises:
            ValueError: a name is missing or superfluous, or a tensor has another shape.
        """
        self._packed.load_state_dict(state, self._schedule)
        self._batch_rows.last_use[:] = 0

    def sampling_seconds(self) -> float:
        """Return the seconds that drawing orders and negatives took."""
        return self.loader.sampling_seconds()

    def close(self) -> None:
        """End the thread that draws epochs ahead."""
        self.loader.close()


class Part(NamedTuple):
    """Columns of a parameter, and where they are packed.

    Attributes:
        name: of the parameter in the module.
        columns: range of the parameter's last dimension.
        packed: views of the packed values, means and mean squares, each of the shape of these columns.
    """

    name: str
    columns: slice
    packed: list[Tensor]


class PackedParameters:
    """The parameters of a module with their moments as the kernels take them: side by side, padded by zeros.

    Args:
        model: the module.
        users, items: rows of the tables that are packed; the others stay as they are.

    Attributes:
        num_users, num_items: numbers of rows of users and of items.
        table: the embedding vectors: rows of users, then of items; of GMF first, then of MLP.
        network: widths and offsets.
        layers: all other parameters, and room for the gradients of the chunks.
    """

    def __init__(self, model: MLP | NeuMF, users: slice, items: slice) -> None:
        self._parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
        self.num_users = self.num_items = 0
        for name, parameter in self._parameters.items():  # a module of the user's own may have further rows
            if name.endswith("user_embedding.weight"):
                self._parameters[name] = _rows_of(parameter, users)
                self.num_users = len(self._parameters[name])
            elif name.endswith("item_embedding.weight"):
                self._parameters[name] = _rows_of(parameter, items)
                self.num_items = len(self._parameters[name])
        prefixes = ["gmf_", "mlp_"] if isinstance(model, NeuMF) else [""]
        names = [f"hidden.{name}" for name, layer in model.hidden.named_children() if isinstance(layer, nn.Linear)]
        dims = [self._parameters[f"{prefix}user_embedding.weight"].shape[1] for prefix in prefixes]
        self._dims = dims
        self.network = _make_network(
            sum(dims[:-1]), dims[-1], [len(self._parameters[f"{name}.bias"]) for name in names]
        )
        width, num_parameters = self.network.product_width + self.network.input_width, self.network.num_parameters
        rows = aligned_zeros((self.num_users + self.num_items) * stride_of(width))
        self.table = LazyTable(rows, rows.view(np.int32), width, stride_of(width))
        self.layers = structures.LayerParameters(
            values=np.zeros(3 * num_parameters, dtype=np.float32),
            transposed=np.empty(num_parameters, dtype=np.float32),
            transpose_index=_transpose_index(self.network),
            gradients=aligned_zeros(structures.CHUNKS * num_parameters),
        )
        starts = zip(prefixes, (0, self.network.product_width), strict=False)
        self._parts = [part for prefix, start in starts for part in self._table_parts(prefix, start, self.num_users)]
        self._parts += [*self._layer_parts(names, dims[-1]), *self._output_parts(sum(dims[:-1]))]
        self._pack(self._parameters, 0)

    def dims(self) -> list[tuple[int, int]]:
        """Return the column of a row at which each of its vectors begins, and the dimensions of the vector."""
        sizes = zip((0, self.network.product_width)[-len(self._dims) :], self._dims, strict=True)
        return list(sizes)

    def layer_places(self) -> np.ndarray:
        """Return where the packed vectors of the layers have numbers of the module, ascending (n,) int64."""
        numbers = torch.arange(self.network.num_parameters)
        packed = [part.packed[0] for part in self._parts if not part.name.endswith("embedding.weight")]
        places = [numbers.as_strided(one.shape, one.stride(), int(one.storage_offset())).reshape(-1) for one in packed]
        return torch.cat(places).sort().values.numpy()

    def _table_parts(self, prefix: str, start: int, num_users: int) -> Iterator[Part]:
        """Yield the parts of the two tables of GMF or MLP, whose vectors begin at column ``start`` of a row."""
        rows = torch.from_numpy(self.table.rows).view(-1, self.table.stride)
        for side, of_side in (("user", rows[:num_users]), ("item", rows[num_users:])):
            name = f"{prefix}{side}_embedding.weight"
            dim = self._parameters[name].shape[1]
            starts = (start + moment * self.table.width for moment in range(3))
            yield Part(name, slice(0, dim), [of_side[:, at : at + dim] for at in starts])

    def _layer_parts(self, names: list[str], dim: int) -> Iterator[Part]:
        """Yield the parts of the hidden layers; the matrix of the first is cut into those of the user and the item."""
        network = self.network
        moments = torch.from_numpy(self.layers.values).view(3, -1)
        rows = network.input_width
        for layer, name in enumerate(names):
            outputs, inputs = self._parameters[f"{name}.weight"].shape
            columns, start = int(network.widths[layer]), int(network.weight_offsets[layer])
            for first in (0, dim) if layer == 0 else (0,):
                count = dim if layer == 0 else inputs
                matrices = moments[:, start : start + rows * columns].view(3, rows, columns)
                yield Part(f"{name}.weight", slice(first, first + count), [*matrices[:, :count, :outputs].mT])
                start += rows * columns
            start = int(network.bias_offsets[layer])
            yield Part(f"{name}.bias", slice(0, outputs), [*moments[:, start : start + outputs]])
            rows = columns

    def _output_parts(self, product_dim: int) -> Iterator[Part]:
        """Yield the parts of the output: weights of the product, weights of the last layer, bias."""
        moments = torch.from_numpy(self.layers.values).view(3, 1, -1)
        start, count = self.network.output_offset, self._parameters["output.weight"].shape[1]
        for columns in (slice(0, product_dim), slice(product_dim, count)):
            width = columns.stop - columns.start
            yield Part("output.weight", columns, [*moments[:, :, start : start + width]])
            start = self.network.output_offset + self.network.product_width
        start += int(self.network.widths[-1])
        yield Part("output.bias", slice(0, 1), [*moments[:, 0, start : start + 1]])

    @torch.no_grad()
    def _pack(self, tensors: Mapping[str, Tensor], moment: int) -> None:
        """Write tensors by the names of the parameters to the packed values (0), means (1) or mean squares (2)."""
        for part in self._parts:
            part.packed[moment].copy_(tensors[part.name][..., part.columns])
        if moment == 0:
            values = self.layers.values[: self.network.num_parameters]
            self.layers.transposed[self.layers.transpose_index] = values

    @torch.no_grad()
    def _unpack(self, tensors: Mapping[str, Tensor], moment: int) -> None:
        """Write the packed values (0), means (1) or mean squares (2) to tensors by the names of the parameters."""
        for part in self._parts:
            tensors[part.name][..., part.columns].copy_(part.packed[moment])

    def write_to_module(self) -> None:
        """Write the packed values to the parameters of the module."""
        self._unpack(self._parameters, 0)

    def state_dict(self) -> dict[str, Tensor]:
        """Return what :meth:`CPUMLPTrainer.state_dict` does."""
        state = {"steps": torch.from_numpy(steps_of(self.table).copy())}
        for moment, prefix in enumerate(_MOMENTS):
            tensors = {name: torch.empty_like(parameter) for name, parameter in self._parameters.items()}
            self._unpack(tensors, moment)
            state |= {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}
        return state

    def load_state_dict(self, state: State, schedule: AdamSchedule) -> None:
        """Take over what :meth:`state_dict` has returned, and write the values to the module.

        Raises:
            ValueError: a name is missing or superfluous, or a tensor has another shape.
        """
        own = self.state_dict()
        copy_state(own, state)
        for moment, prefix in enumerate(_MOMENTS):
            self._pack({name: own[f"{prefix}.{name}"] for name in self._parameters}, moment)
        restore_steps(0, len(own["steps"]), own["steps"].numpy(), self.table, schedule)
        self.write_to_module()


def _rows_of(parameter: Tensor, rows: slice) -> Tensor:
    """Return a view of some rows of a parameter."""
    view: Tensor = parameter[rows]
    return view


def _unsupported_module(module: nn.Module) -> str | None:
    """Return why the kernels do not train a module of the user's own."""
    if type(module) not in (MLP, NeuMF):
        return f"the kernels are for modules of the classes MLP and NeuMF and not for {type(module).__name__}"
    for name, parameter in module.named_parameters():
        if parameter.device.type != "cpu":
            return f"{name} is on {parameter.device}, and the kernels run on the CPU"
    if (reason := why_not_by_kernels(module)) is not None:
        return reason
    return None


def _make_network(product_dim: int, input_dim: int, layers: Sequence[int]) -> structures.Network:
    """Return the shape of a model with vectors of ``product_dim`` for GMF, or 0, and ``input_dim`` for MLP."""
    product_width, input_width = _padded(product_dim), _padded(input_dim)
    widths = [2 * input_width, *map(_padded, layers)]
    starts = np.cumsum([0, *(a * b for a, b in itertools.pairwise(widths)), *widths[1:]])
    output_offset = int(starts[-1])
    return structures.Network(
        product_width=product_width,
        input_width=input_width,
        num_layers=len(layers),
        num_parameters=output_offset + product_width + widths[-1] + COLUMN_MULTIPLE,
        output_offset=output_offset,
        widths=np.array(widths[1:]),
        weight_offsets=starts[: len(layers)],
        bias_offsets=starts[len(layers) : -1],
        activation_offsets=np.cumsum([0, *widths[1:-1]]),
    )


def _transpose_index(network: structures.Network) -> NDArray[np.int32]:
    """Return the places (n,) of the packed values among the same values with transposed matrices.

    The matrix of the first layer is two, one for the inputs from the user and one for those from the item.
    """
    index = np.arange(network.num_parameters, dtype=np.int32)
    rows = network.input_width
    for layer, (start, columns) in enumerate(zip(network.weight_offsets, network.widths, strict=True)):
        for half in range(2 if layer == 0 else 1):
            first = start + half * rows * columns
            matrix = np.arange(first, first + rows * columns)
            index[matrix] = matrix.reshape(columns, rows).T.reshape(-1)
        rows = columns
    return index


def _padded(width: int) -> int:
    """Return the next multiple of the widths that the kernels take."""
    return -(-width // COLUMN_MULTIPLE) * COLUMN_MULTIPLE
