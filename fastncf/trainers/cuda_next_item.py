"""Training of states by softmax on CUDA: what :mod:`fastncf.trainers.next_item` computes, by Triton kernels.

Windows, their order, negatives and dropout have the bits of the CPU. Sums have another order, so that parameters agree
to the rounding of float32, or of TF32 where ``precision`` allows it. Nothing in an epoch waits for the device.
"""

import functools
import warnings
from dataclasses import replace
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fastncf.data.split import Split
from fastncf.device import device_guard, has_tf32
from fastncf.errors import first_line
from fastncf.kernels.cpu.batch_plans import Windows
from fastncf.kernels.cpu.encoder import HistoryEncoder
from fastncf.kernels.cpu.lazy_adam import AdamSchedule, make_schedule
from fastncf.kernels.cpu.rows import BETA_1, BETA_2
from fastncf.kernels.cuda.batches import (
    NUM_FIELDS,
    EpochNumbers,
    Histories,
    Parameters,
    Plan,
    Sizes,
    Training,
    make_buffers,
)
from fastncf.models.mf import MF
from fastncf.rng import Stream, key
from fastncf.stage import Stage
from fastncf.trainers.autograd import copy_state
from fastncf.trainers.base import State, Trainer
from fastncf.trainers.next_item import (
    IS_MEAN,
    MOMENTS,
    WINDOW,
    delayed_order,
    draw_order,
    draw_vectors,
    first_recurrence,
    log_part_sizes,
    whole_lanes,
    why_not_states,
    windows_of,
)

_MASK_BYTES_PER_PLAN = 1 << 26
_STEPS_PER_GRAPH = 32
_MOST_NUMBERS = 1 << 31  # of an array whose positions are computed in 32 bits
_WIDEST = 256
_PRECISIONS = {"float32": "tf32x3", "bfloat16": "tf32"}
"""How Triton multiplies under each ``precision``: three products in TF32 are nearly as exact as float32."""


class CUDANextItem(Trainer):
    """Trains histories and items by softmax over negatives that all positions of a batch share."""

    name = "cuda_next_item"
    optimizer = "adam"
    history: ClassVar[Literal["sequence", "bag"]] = "sequence"
    is_mean: ClassVar[np.ndarray] = IS_MEAN
    lookahead: ClassVar[int] = 1  # items from a position to the one that it predicts
    kinds_of_epochs: ClassVar[int] = 1
    batches_per_plan: ClassVar[int] = 256
    device: torch.device
    _fixed_states: Tensor | None = None  # (U, D) float32, once states are no longer trained

    @classmethod
    def why_not(cls, stage: Stage, module: nn.Module | None) -> str | None:
        """See :meth:`fastncf.trainers.base.Trainer.why_not`."""
        if (reason := why_not_states(stage, module, cls.history)) is not None:
            return reason
        if stage.dim > _WIDEST:
            return f"dim={stage.dim} was asked for, and the kernel has tiles for at most {_WIDEST}"
        most = max(16 * (stage.batch_size + WINDOW), stage.num_negatives) * _padded(stage.dim)
        if most >= _MOST_NUMBERS:
            return f"batch_size={stage.batch_size} and num_negatives={stage.num_negatives} are too large for the kernel"
        device = torch.device(stage.device)
        if not has_tf32(device):
            return f"device={stage.device!r} does not multiply in TF32 by Triton"
        few = replace(stage, seed=0, epochs=cls.kinds_of_epochs, batch_size=4, num_negatives=2)
        return _why_no_launch(cls, replace(few, shuffle=True, learning_rate=1.0))

    def __init__(self, model: MF, split: Split, stage: Stage, order: np.ndarray | None = None) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.__init__`; the parameters of ``model`` are drawn anew."""
        self.model, self.stage, self.device, self.split = model, stage, torch.device(stage.device), split
        self.order, self.windows = order, self._make_windows(order)
        lengths, tokens = self.windows.lengths, self.windows.contexts + self.windows.lengths
        self.num_positions, self.num_interactions = int(lengths.sum()), len(split.indices)
        self.num_groups = self.num_batches = -(-self.num_positions // stage.batch_size)
        # a batch has windows that begin within batch_size positions, and the last may end behind them
        max_positions = min(self.num_positions, stage.batch_size - 1 + int(lengths.max(initial=0)))
        per_position = float((tokens / lengths).max(initial=1))
        self._sizes = Sizes(
            num_items=split.num_items,
            num_negatives=min(stage.num_negatives, split.num_items),
            width=_padded(stage.dim),
            hash_width=whole_lanes(stage.dim),
            num_features=len(self.is_mean),
            max_windows=min(len(lengths), stage.batch_size),
            max_tokens=min(int(tokens.sum(dtype=np.int64)), int(max_positions * per_position) + 1),
            max_positions=max_positions,
            precision=_PRECISIONS[stage.precision],
            dropout=float(stage.dropout),
        )
        rates = stage.learning_rate_at(np.array([0, 1 / max(1, stage.epochs * self.num_batches)]))
        self._schedule = make_schedule(float(rates[0]), float(rates[0] - rates[1]))
        self._parameters = self._first_parameters()
        self._histories = self._make_histories()
        self._graph: torch.cuda.CUDAGraph | None = None
        if self.num_batches:
            self._make_epoch_tensors()

    def _make_windows(self, order: np.ndarray | None) -> Windows:
        """Return the windows whose lengths are the same in all epochs."""
        return windows_of(self.split, order)

    def _own_items(self) -> slice:
        """Return the items whose parameters this process has."""
        return slice(None)

    def _first_parameters(self) -> Parameters:
        """Return the parameters before the first epoch, with the bits of the CPU."""
        width, dim, num_features = self._sizes.width, self.stage.dim, self._sizes.num_features
        num_vectors = self._sizes.num_vectors
        drawn = draw_vectors(self.stage, self._sizes.num_items, num_vectors)
        history, output = (torch.from_numpy(vectors[self._own_items()]) for vectors in drawn)
        num_items = len(output)
        inputs, outputs = self._zeros(3, num_items, num_vectors * width), self._zeros(3, num_items, width)
        inputs[0].view(num_items, -1, width)[:, :, :dim] = history
        outputs[0, :, :dim] = output
        recurrence = self._zeros(3, 2, num_features, width)
        recurrence[0, :, :, :dim] = torch.from_numpy(first_recurrence(self.is_mean, dim))
        parameters = Parameters(
            inputs=inputs,
            outputs=outputs,
            biases=self._zeros(3, num_items),
            steps=self._zeros(num_items, 2, dtype=torch.int32),
            recurrence=recurrence,
            decays=self._zeros(num_features, width),
            is_mean=self._copied(self.is_mean.astype(np.int32)),
        )
        compute_decays(parameters)
        return parameters

    def _make_histories(self) -> Histories:
        """Return the histories on the device, and room for the windows of an epoch in their order."""
        windows, count, split = self.windows, len(self.windows.users), self.split
        weights = windows.interaction_weights
        return Histories(
            indptr=self._copied(windows.indptr),
            items=self._copied(windows.items),
            weights=self._copied(weights if len(weights) else np.ones(len(windows.items), dtype=np.float32)),
            seen=self._copied(split.indices),
            longest=int(np.diff(split.indptr).max(initial=0)),
            users=self._zeros(count, dtype=torch.int32),
            starts=self._zeros(count, dtype=torch.int64),
            contexts=self._zeros(count, dtype=torch.int32),
            tokens=self._zeros(count + 1, dtype=torch.int64),
            positions=self._zeros(count + 1, dtype=torch.int64),
        )

    def _make_epoch_tensors(self) -> None:
        """Make the tensors that the steps of an epoch read and write; graphs keep their addresses."""
        sizes, num_windows = self._sizes, len(self.windows.users)
        by_masks = _MASK_BYTES_PER_PLAN // (sizes.max_windows * sizes.num_negatives)
        rows = max(1, min(self.batches_per_plan, by_masks, self.num_batches))
        ints = functools.partial(self._zeros, dtype=torch.int32)
        self._plan = Plan(
            batches=self._zeros(rows, NUM_FIELDS, dtype=torch.int64),
            row=self._zeros(1, dtype=torch.int64),
            negatives=ints(rows, sizes.num_negatives),
            masks=self._zeros(min(num_windows, rows * sizes.max_windows), sizes.num_negatives, dtype=torch.int8),
            windows=ints(rows * sizes.max_positions),
            targets=ints(rows * sizes.max_positions),
            weights=self._zeros(rows * sizes.max_positions),
            use_items=ints(rows * sizes.max_uses),
            uses=ints(rows * sizes.max_uses),
        )
        self._numbers = EpochNumbers(
            keys=self._zeros(2, dtype=torch.int64),
            first_step=self._zeros(1, dtype=torch.int64),
            steps=self._zeros(self.num_batches + 1, 6),
            log_sizes=self._copied(log_part_sizes(sizes.num_items, sizes.num_negatives)),
            total=self._zeros(1, dtype=torch.float64),
        )
        self._batches = self._zeros(self.num_batches, NUM_FIELDS, dtype=torch.int64)
        self._rows = ints(num_windows)
        buffers = make_buffers(sizes, self.device)
        self._training = Training(self._parameters, self._histories, self._plan, self._numbers, buffers, sizes)

    def epoch(self, number: int) -> Tensor:
        """Visit every window once, in an order drawn anew. See :meth:`fastncf.trainers.base.Trainer.epoch`."""
        from fastncf.kernels.cuda.lazy_adam import catch_up_all  # not every machine has Triton

        with device_guard(self.device), torch.no_grad():
            if self.num_batches == 0:
                self._write_model()
                return self._zeros(1, dtype=torch.float64)
            bounds = self._load_epoch(number)
            rows = len(self._plan.batches)
            # the decays as the kernels have computed them, whose bits may be others than those of compute_decays
            begun = {"decays": self._parameters.decays, **(self._begun or {})}
            self._parameters.decays.copy_(torch.as_tensor(begun["decays"]))
            done, sums = self._begin(total=self._numbers.total)
            sums["decays"] = self._parameters.decays
            for first in range(done, self.num_batches, rows):
                last = min(first + rows, self.num_batches)
                self._plan_batches(first, last, bounds)
                for _ in range((last - first) // _STEPS_PER_GRAPH):
                    self._replay()
                for offset in range((last - first) % _STEPS_PER_GRAPH):
                    self._run_step(offset)
                self._reach(last, sums)
            has_inputs = self._fixed_states is None
            catch_up_all(self._parameters, self._numbers, self._sizes, self.num_batches, has_inputs)
            compute_decays(self._parameters)  # as after a state was loaded, so that the bits are the same
            self._write_model()
            return self._numbers.total * (self.num_interactions / self.num_positions)

    def _load_epoch(self, number: int) -> "Bounds":
        """Send the order of the windows, the bounds of the batches and the numbers of an epoch to the device."""
        windows = self.windows
        order, bounds = draw_order(windows, self.stage, self.num_batches, number)
        lengths, contexts = windows.lengths[order], windows.contexts[order]
        num_tokens = contexts + lengths if self._fixed_states is None else np.zeros_like(lengths)
        tokens, positions = (
            np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]) for counts in (num_tokens, lengths)
        )
        self._tokens_before, self._positions_before = tokens, positions
        found = Bounds(bounds, tokens[bounds], positions[bounds])
        seed = self.stage.seed
        keys = np.array([key(seed, stream, number) for stream in (Stream.NEGATIVES, Stream.DROPOUT)], dtype=np.uint64)
        first_step = number * self.num_batches
        for tensor, array in (
            (self._histories.users, windows.users[order]),
            (self._histories.starts, windows.starts[order]),
            (self._histories.contexts, contexts),
            (self._histories.tokens, tokens),
            (self._histories.positions, positions),
            (self._rows, np.repeat(np.arange(self.num_batches, dtype=np.int32), np.diff(bounds))),
            (self._batches, self._batch_fields(found)),
            (self._numbers.keys, keys.view(np.int64)),
            (self._numbers.first_step, np.array([first_step])),
            (self._numbers.steps, step_numbers(self._schedule, first_step, self.num_batches + 1)),
        ):
            tensor.copy_(self._pinned(array), non_blocking=True)
        self._draw_items(number)
        self._numbers.total.zero_()
        return found

    def _draw_items(self, number: int) -> None:
        """Write the items of an epoch's windows, and their weights, to the histories."""
        if self.stage.horizon != 1:
            windows = windows_of(self.split, delayed_order(self.split, self.order, self.stage, number))
            self._histories.items.copy_(self._pinned(windows.items), non_blocking=True)
            self._histories.weights.copy_(self._pinned(windows.interaction_weights), non_blocking=True)

    def _pinned(self, array: np.ndarray) -> Tensor:
        """Return a tensor on the host that the device can read beside other work."""
        on_host = torch.from_numpy(array)
        return on_host.pin_memory() if self.device.type == "cuda" else on_host

    def _batch_fields(self, bounds: "Bounds") -> np.ndarray:
        """Return ``batches`` of :class:`~fastncf.kernels.cuda.batches.Plan` for all batches of an epoch."""
        number = np.arange(self.num_batches)
        first = number // len(self._plan.batches) * len(self._plan.batches)  # of the same plan
        windows, tokens, positions = (np.diff(values) for values in bounds)
        plan_tokens, plan_positions = (values[:-1] - values[first] for values in bounds[1:])
        first_use = (number - first) * self._sizes.num_negatives + plan_tokens + plan_positions
        num_uses = np.where(positions > 0, self._sizes.num_negatives + tokens + positions, 0)
        starts = [values[:-1] for values in bounds]
        return np.column_stack(
            [starts[0], windows, *starts[1:], positions, plan_positions, first_use, num_uses, number, 0 * number]
        )

    def _plan_batches(self, first: int, last: int, bounds: "Bounds") -> None:
        """Write the plan of a range of batches: negatives, masks, targets, and uses in the order of their items."""
        from fastncf.kernels.cuda.batch_draws import draw_shared_negatives, fill_masks

        plan, histories, sizes = self._plan, self._histories, self._sizes
        rows, plan_windows = last - first, slice(int(bounds.windows[first]), int(bounds.windows[last]))
        plan.row.zero_()
        plan.batches[:rows] = self._batches[first:last]
        negatives = plan.negatives[:rows]
        draw_shared_negatives(negatives, self._numbers, first, sizes.num_items)
        window_rows = self._rows[plan_windows] - first
        if len(window_rows):  # none if a window of the batches before is longer than these batches
            fill_masks(plan, histories, window_rows, plan_windows.start)
        starts = histories.starts[plan_windows]
        token_windows, tokens, token_places = self._listed(
            histories.tokens, bounds.tokens[[first, last]], plan_windows, starts
        )
        starts = starts + histories.contexts[plan_windows] + self.lookahead
        position_windows, positions, target_places = self._listed(
            histories.positions, bounds.positions[[first, last]], plan_windows, starts
        )
        token_items, targets = histories.items[token_places], histories.items[target_places]
        plan.windows[: len(targets)] = position_windows
        plan.targets[: len(targets)] = targets
        plan.weights[: len(targets)] = histories.weights[target_places]
        token_rows, position_rows = window_rows[token_windows], window_rows[position_windows]
        row_keys = torch.arange(rows, device=self.device) * sizes.num_items
        keys = [
            (row_keys[:, None] + negatives).reshape(-1),
            row_keys[token_rows] + token_items,
            row_keys[position_rows] + targets,
        ]
        first_tokens, first_positions = plan.batches[:rows, 2], plan.batches[:rows, 3]
        uses = [
            torch.arange(sizes.num_negatives, device=self.device).repeat(rows),
            tokens - first_tokens[token_rows] + sizes.num_negatives,
            positions - first_positions[position_rows] + sizes.num_negatives + sizes.max_tokens,
        ]
        ordered, places = torch.sort(torch.cat(keys), stable=True)
        plan.use_items[: len(ordered)] = ordered % sizes.num_items
        plan.uses[: len(ordered)] = torch.cat(uses)[places]

    def _listed(
        self, firsts: Tensor, bounds: np.ndarray, windows: slice, starts: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """List the tokens, or the positions, of windows that follow each other: n of them.

        Args:
            firsts: ``tokens`` or ``positions`` of the histories.
            bounds: the numbers of the first and behind the last, so that nothing has to wait for the device.
            windows: of the epoch.
            starts: where the item of the first of each window is among the items of the histories.

        Returns:
            (n,) int64 each: window within ``windows``, number in the epoch, and place in the items of the histories.
        """
        firsts = firsts[windows.start : windows.stop + 1]
        window = torch.repeat_interleave(firsts.diff(), output_size=int(bounds[1] - bounds[0]))
        number = torch.arange(int(bounds[0]), int(bounds[1]), device=self.device)
        return window, number, starts[window] + number - firsts[window]

    def _replay(self) -> None:
        """Take many steps; captured as a graph after a first run that compiles the kernels."""
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
        """Take the steps of a graph over the next batches."""
        for offset in range(_STEPS_PER_GRAPH):
            self._run_step(offset)
        self._plan.row.add_(_STEPS_PER_GRAPH)

    def _run_step(self, offset: int) -> None:
        """Train the batch that is ``offset`` behind the next one of the plan."""
        from fastncf.kernels.cuda.next_item import train_batch

        train_batch(self._training, offset)

    @property
    def encoder(self) -> HistoryEncoder:
        """Encoder of histories with the parameters as they are; copies."""
        columns, all_decays = self._columns(0), self._parameters.decays
        vectors, gains, decays = (
            tensor.cpu().numpy().copy()
            for tensor in (columns["history_vectors"], columns["gains"], all_decays[:, : self.stage.dim])
        )
        return HistoryEncoder(vectors, gains, decays, self.is_mean, WINDOW + 1)

    def _write_model(self) -> None:
        """Write the states of all users, and the vectors and biases of the items, to the model."""
        model, columns = self.model, self._columns(0)
        self._write_states(model.user_embedding.weight.data)
        model.item_embedding.weight.data.copy_(columns["item_vectors"])
        model.item_bias.data.copy_(columns["item_bias"])
        model.user_bias.data.zero_()

    def _write_states(self, out: Tensor) -> None:
        """Write the states (U, D) of all users."""
        from fastncf.kernels.cuda.next_item import write_states

        histories = self._histories
        if self.stage.horizon != 1:  # states are those of histories in their order
            histories = histories._replace(items=self._copied(self.windows.items))
        write_states(out, histories, self._parameters, WINDOW + 1)

    def _columns(self, moment: int) -> State:
        """Return views of the values (0), means (1) or mean squares (2) of all parameters, by name."""
        dim, width, parameters = self.stage.dim, self._sizes.width, self._parameters
        inputs = parameters.inputs[moment]
        history = inputs.view(len(inputs), -1, width)[:, :, :dim]
        return {
            "history_vectors": history if len(self.is_mean) else history[:, 0],
            "item_vectors": parameters.outputs[moment, :, :dim],
            "item_bias": parameters.biases[moment],
            "gains": parameters.recurrence[moment, 0, :, :dim],
            "decay_logits": parameters.recurrence[moment, 1, :, :dim],
        }

    def state_dict(self) -> State:
        """Return the tensors that :meth:`fastncf.trainers.next_item.NextItem.state_dict` returns as arrays."""
        return self._tensors()

    def _tensors(self) -> State:
        """Return the state of this process, in the memory that the next epoch changes."""
        tensors = {
            f"{prefix}.{name}": tensor
            for moment, prefix in enumerate(MOMENTS)
            for name, tensor in self._columns(moment).items()
        }
        return tensors | {"steps": self._parameters.steps}

    def load_state_dict(self, state: State) -> None:
        """Continue from a state of :meth:`state_dict`, whose values may also be arrays.

        Raises:
            ValueError: a name is missing or superfluous, or a tensor has another shape.
        """
        self._fixed_states = None
        with device_guard(self.device), torch.no_grad():
            copy_state(self._tensors(), state)
            compute_decays(self._parameters)
            self._write_model()

    def _zeros(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return a tensor of zeros on the device."""
        return torch.zeros(shape, dtype=dtype, device=self.device)

    def _copied(self, array: np.ndarray) -> Tensor:
        """Return a copy of an array on the device."""
        return torch.from_numpy(array).to(self.device, copy=True)


class Bounds(NamedTuple):
    """Where the batches of an epoch begin, and behind it the end of the last one, each (B + 1,) int64.

    Attributes:
        windows: counted in the order of their visits.
        tokens, positions: counted likewise.
    """

    windows: np.ndarray
    tokens: np.ndarray
    positions: np.ndarray


def step_numbers(schedule: AdamSchedule, first: int, count: int) -> np.ndarray:
    """Return ``steps`` of :class:`~fastncf.kernels.cuda.batches.EpochNumbers` from step ``first`` on, (count, 6)."""
    step = np.arange(first, first + count, dtype=np.float64)

    def rate(at: np.ndarray) -> np.ndarray:
        return schedule.rate - schedule.rate_decrement * (at - 1)

    with np.errstate(divide="ignore"):  # there is no step 0
        columns = [rate(step) / (1 - BETA_1**step), 1 / np.sqrt(1 - BETA_2**step)]
    for node, weight in (schedule.nodes[:2], schedule.nodes[2:]):
        columns += [rate(step + node) * weight, BETA_2 ** (node / 2) / np.sqrt(1 - BETA_2 ** (step + node))]
    return np.column_stack(columns).astype(np.float32)


def compute_decays(parameters: Parameters) -> None:
    """Compute the decays of the parameters from their logits."""
    decays = parameters.recurrence[0, 1].double().sigmoid().float()
    parameters.decays.copy_(torch.where(parameters.is_mean[:, None] != 0, 1.0, decays))


def _padded(dim: int) -> int:
    """Return the width of vectors of length ``dim``: a power of two of at least 16."""
    return max(16, 1 << (dim - 1).bit_length())


@functools.cache
def _why_no_launch(maker: type[CUDANextItem], stage: Stage) -> str | None:
    """Return why the kernels do not compile for the device of a stage or run there; tested by epochs of two users."""
    device = torch.device(stage.device)
    items, users = np.arange(4, dtype=np.int32), np.full(2, -1, dtype=np.int32)
    split = Split(
        num_items=4,
        indptr=np.array([0, 4, 8]),
        indices=np.concatenate([items, items]),
        test_item=users,
        validation_item=users,
        num_duplicates=0,
        num_users_all_seen=0,
        num_users_too_short=0,
        holdout="latest",
    )
    try:
        model = MF(2, 4, stage.dim, torch.Generator()).to(device)
        with maker(model, split, stage, np.concatenate([items, items])) as trainer:
            for number in range(stage.epochs):
                float(trainer.epoch(number))
    except Exception as error:  # whatever the reason is, the CPU trains the model in its place
        reason = first_line(error)
        if type(error).__name__ != "OutOfResources":
            warnings.warn(
                f"the kernels of {maker.name} do not run on {device} ({reason}); the CPU trains in its place",
                RuntimeWarning,
                stacklevel=2,
            )
        return f"the kernel does not run on {device} ({reason})"
    return None
