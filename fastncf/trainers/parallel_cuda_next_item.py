"""Training of states by softmax on CUDA by several processes, which share out the windows of each batch."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fastncf import distributed
from fastncf.data.csr import split_ranges
from fastncf.data.split import Split
from fastncf.device import device_guard
from fastncf.kernels.cpu.encoder import HistoryEncoder, encode_histories
from fastncf.kernels.cpu.rows import BETA_1, BETA_2, EPSILON
from fastncf.kernels.cuda.batches import Parameters, Training
from fastncf.mapped import empty_shared
from fastncf.models.mf import MF
from fastncf.stage import Stage
from fastncf.threads import run_ranges
from fastncf.trainers.base import State
from fastncf.trainers.cuda_next_item import CUDANextItem, compute_decays, step_numbers
from fastncf.trainers.cuda_other_items import CUDAOtherItems
from fastncf.trainers.next_item import WINDOW
from fastncf.trainers.other_items import encoder_of_sets
from fastncf.trainers.parallel_next_item import is_sharded
from fastncf.trainers.sharding import ShardedRows, collect, collected, fetch, row_shards, send_back


class Part(NamedTuple):
    """The windows of a batch that a rank trains; windows, tokens and positions are counted through the epoch.

    Attributes:
        windows, tokens, positions: (first, behind the last).
        num_before: positions of the batch that come before.
        num_in_batch: positions of the whole batch.
    """

    windows: tuple[int, int]
    tokens: tuple[int, int]
    positions: tuple[int, int]
    num_before: int
    num_in_batch: int

    @property
    def num_positions(self) -> int:
        """Positions of the part."""
        return self.positions[1] - self.positions[0]


class ParallelCUDANextItem(CUDANextItem):
    """Trains as :class:`~fastncf.trainers.cuda_next_item.CUDANextItem` does, by the ranks of a process group.

    Rows of items are sharded, see :mod:`fastncf.trainers.sharding`. All ranks draw the same batches, and each trains
    whole windows of them: in tables that have the rows of the items that these use, fetched from their owners. Adam's
    means after a step from moments of 0 are the gradients but for a factor; they go back to the owners, which take the
    step. Gains and decays are on all ranks. Parameters differ from those of one process by the rounding of sums.

    A step waits for the device several times: which rows go to whom has to be known on the host before they are sent.
    The model is on the CPU, in memory that the processes of a machine share, and gets the parameters after each epoch.
    """

    is_model_on_cpu = True
    batches_per_plan = 1

    @classmethod
    def why_not(cls, stage: Stage, module: nn.Module | None) -> str | None:
        """See :meth:`fastncf.trainers.base.Trainer.why_not`; kernels are tried by one process."""
        return CUDANextItem.why_not(stage, module)

    def __init__(self, model: MF, split: Split, stage: Stage, order: np.ndarray | None = None) -> None:
        """See :meth:`fastncf.trainers.base.Trainer.__init__`; there must be ranks, and the model is on the CPU."""
        ranks = distributed.current()
        assert ranks is not None
        self.ranks = ranks
        super().__init__(model, split, stage, order)
        shape = split.num_items, *self._columns(0)["history_vectors"].shape[1:]
        self._all_history_vectors = empty_shared(shape, np.float32)
        self._user_bounds = split_ranges(split.indptr, ranks.size)

    def _own_items(self) -> slice:
        """Return the items whose parameters this rank has."""
        return row_shards(self.ranks)(self.ranks.rank)

    def _make_epoch_tensors(self) -> None:
        """Make the tensors of a batch, whose tables have the rows of the items that it uses, side by side."""
        super()._make_epoch_tensors()
        sizes, own = self._sizes, self._parameters
        num_rows = min(sizes.max_uses, sizes.num_items)
        parameters = own._replace(
            inputs=self._zeros(3, num_rows, *own.inputs.shape[2:]),
            outputs=self._zeros(3, num_rows, *own.outputs.shape[2:]),
            biases=self._zeros(3, num_rows),
            steps=self._zeros(num_rows, 2, dtype=torch.int32),
            recurrence=torch.zeros_like(own.recurrence),
            decays=torch.zeros_like(own.decays),
        )
        histories = self._histories._replace(
            users=self._zeros(sizes.max_windows, dtype=torch.int32),
            items=self._zeros(sizes.max_tokens, dtype=torch.int32),
            starts=self._zeros(sizes.max_windows, dtype=torch.int64),
            contexts=self._zeros(sizes.max_windows, dtype=torch.int32),
            tokens=self._zeros(sizes.max_windows + 1, dtype=torch.int64),
            positions=self._zeros(sizes.max_windows + 1, dtype=torch.int64),
        )
        sizes = sizes._replace(num_items=num_rows)
        self._training = Training(parameters, histories, self._plan, self._numbers, self._training.buffers, sizes)

    def epoch(self, number: int) -> Tensor:
        """See :meth:`fastncf.trainers.cuda_next_item.CUDANextItem.epoch`; the loss is that of all ranks."""
        with device_guard(self.device), torch.no_grad():
            if self.num_batches:
                self._bounds = self._load_epoch(number)
                done, sums = self._begin(total=self._numbers.total)
                for batch in range(done, self.num_batches):
                    self._train_batch(batch, number * self.num_batches + batch + 1)
                    self._reach(batch + 1, sums)
                steps = self._parameters.steps[:, self._fixed_states is not None :]
                steps[steps > 0] = (number + 1) * self.num_batches  # each step has written all rows
            self._write_model()
            total = self._numbers.total.clone() if self.num_batches else self._zeros(1, dtype=torch.float64)
            self.ranks.sum_tensor(total)
            return total * (self.num_interactions / max(1, self.num_positions))

    def _part_of(self, batch: int) -> Part:
        """Return the part of this rank of a batch: about as many positions as the others have."""
        rank, size = self.ranks.rank, self.ranks.size
        tokens, positions = self._tokens_before, self._positions_before
        first, last = self._bounds.windows[batch : batch + 2].tolist()
        before, behind = positions[first], positions[last]
        wanted = before + (behind - before) * np.array([rank, rank + 1]) // size
        a, b = (first + np.searchsorted(positions[first : last + 1], wanted)).tolist()
        return Part(
            windows=(a, b),
            tokens=(int(tokens[a]), int(tokens[b])),
            positions=(int(positions[a]), int(positions[b])),
            num_before=int(positions[a] - before),
            num_in_batch=int(behind - before),
        )

    def _train_batch(self, batch: int, step: int) -> None:
        """Train a batch of the epoch, and take the step of a number, from 1."""
        part, own, ours = self._part_of(batch), self._parameters, self._training.parameters
        inputs, outputs = self._plan_part(batch, part)
        used = inputs, outputs, outputs
        values = [vectors[one.own] for one, vectors in zip(used, self._vectors(own, 0), strict=True)]
        fetch(self.ranks, list(zip(used, values, self._vectors(ours, 0), strict=True)))
        for moments in (ours.inputs[1:], ours.outputs[1:], ours.biases[1:], ours.recurrence[1:], ours.steps):
            moments.zero_()
        ours.recurrence[0] = own.recurrence[0]
        ours.decays[:] = own.decays
        if part.num_positions:
            self._run_step(0)
        # from Adam's means after the step to gradients of the mean over the whole batch
        factor = part.num_positions / max(1, part.num_in_batch) / (1 - BETA_1)
        gradients = [vectors * factor for vectors in self._vectors(ours, 1)]
        sums = [torch.zeros_like(rows) for rows in values]
        send_back(self.ranks, list(zip(used, sums, gradients, strict=True)))
        rate, root_correction = step_numbers(self._schedule, step, 1)[0, :2].tolist()
        tables = zip(*(self._vectors(own, moment) for moment in range(3)), strict=True)
        for table, one, gradient in [*zip(tables, used, sums, strict=True)][self._fixed_states is not None :]:
            _adam(list(table), one.own, gradient, rate, root_correction)
        own.steps[inputs.own, 0] = own.steps[outputs.own, 1] = step
        if part.num_in_batch:
            self._step_recurrence(ours.recurrence[1, :, :, : self.stage.dim] * factor, rate, root_correction)

    def _plan_part(self, batch: int, part: Part) -> tuple[ShardedRows, ShardedRows]:
        """Write the plan of this rank's part of a batch, whose items are places in the tables of the batch.

        Returns:
            The history vectors that the part uses, and the output vectors; both go to those places.
        """
        from fastncf.kernels.cuda.batch_draws import draw_shared_negatives, fill_masks

        plan, histories, ours = self._plan, self._histories, self._training.histories
        if not part.num_positions:
            none = torch.empty(0, dtype=torch.int64, device=self.device)
            return self._uses_of(none.int(), none), self._uses_of(none.int(), none)
        draw_shared_negatives(plan.negatives, self._numbers, batch, self._sizes.num_items)
        windows, behind = slice(*part.windows), slice(part.windows[0], part.windows[1] + 1)
        starts, contexts = histories.starts[windows], histories.contexts[windows]
        fill_masks(plan, histories, torch.zeros_like(contexts), part.windows[0])
        _, token, token_places = self._listed(histories.tokens, np.array(part.tokens), windows, starts)
        window, position, target_places = self._listed(
            histories.positions, np.array(part.positions), windows, starts + contexts + self.lookahead
        )
        items = plan.negatives[0], histories.items[token_places], histories.items[target_places]
        ids, slots = torch.cat(items).unique(return_inverse=True)
        negatives, tokens, targets = slots.split([len(one) for one in items])
        num_windows, num_negatives = len(starts), len(negatives)
        ours.users[:num_windows] = histories.users[windows]
        ours.items[: len(tokens)] = tokens
        ours.starts[:num_windows] = histories.tokens[windows] - part.tokens[0]
        ours.contexts[:num_windows] = contexts
        ours.tokens[: num_windows + 1] = histories.tokens[behind] - part.tokens[0]
        ours.positions[: num_windows + 1] = histories.positions[behind] - part.positions[0]
        plan.negatives[0] = negatives
        plan.windows[: len(window)] = window
        plan.targets[: len(targets)] = targets
        plan.weights[: len(targets)] = histories.weights[target_places]
        uses = [
            torch.arange(num_negatives, device=self.device),
            token - part.tokens[0] + num_negatives,
            position - part.positions[0] + num_negatives + self._sizes.max_tokens,
        ]
        ordered, places = torch.sort(slots, stable=True)
        plan.use_items[: len(slots)] = ordered
        plan.uses[: len(slots)] = torch.cat(uses)[places]
        fields = [0, num_windows, 0, 0, len(targets), 0, 0, len(slots), batch, part.num_before]
        plan.batches.copy_(torch.tensor([fields]))
        scored = torch.cat([negatives, targets])
        return self._uses_of(ids, tokens.unique()), self._uses_of(ids, scored.unique())

    def _uses_of(self, ids: Tensor, slots: Tensor) -> ShardedRows:
        """Return the rows of the items of some slots, which go to these slots.

        Args:
            ids: item of each slot, ascending.
            slots: (n,) int64, ascending, each once.
        """
        used = ShardedRows.of_ids(self.ranks, ids[slots])
        return used._replace(places=[slots[places] for places in used.places])

    def _vectors(self, parameters: Parameters, moment: int) -> list[Tensor]:
        """Return views of history vectors (n, F, D), output vectors (n, D) and biases (n,) of rows of items."""
        dim, width, outputs = self.stage.dim, self._sizes.width, parameters.outputs[moment]
        history = parameters.inputs[moment].view(len(outputs), -1, width)
        return [history[:, :, :dim], outputs[:, :dim], parameters.biases[moment]]

    def _step_recurrence(self, gradients: Tensor, rate: float, root_correction: float) -> None:
        """Take a step of gains and decays, whose gradients (2, C, D) of this rank's part are summed over all ranks."""
        if not gradients.numel():
            return
        gradients = gradients.contiguous()
        self.ranks.sum_tensor(gradients)
        recurrence = self._parameters.recurrence[..., : self.stage.dim]
        _adam(list(recurrence), None, gradients, rate, root_correction)
        compute_decays(self._parameters)

    @property
    def encoder(self) -> HistoryEncoder:
        """Encoder of histories with the parameters after the last epoch."""
        gains, decays = (
            tensor[:, : self.stage.dim].cpu().numpy().copy()
            for tensor in (self._parameters.recurrence[0, 0], self._parameters.decays)
        )
        return HistoryEncoder(self._all_history_vectors, gains, decays, self.is_mean, WINDOW + 1)

    def _write_model(self) -> None:
        """Write the states of all users, and the vectors and biases of the items, to the model."""
        model, indptr, bounds = self.model, self.windows.indptr, self._user_bounds
        wholes = self._all_history_vectors, model.item_embedding.weight.data.numpy(), model.item_bias.data.numpy()
        for whole, name in zip(wholes, ("history_vectors", "item_vectors", "item_bias"), strict=True):
            collect(self.ranks, whole, self._columns(0)[name].cpu().numpy(), row_shards(self.ranks))
        encoder, items, states = self.encoder, self._items_of_users(), model.user_embedding.weight.data.numpy()
        first, last = bounds[self.ranks.rank : self.ranks.rank + 2]
        inner = first + split_ranges(indptr[first : last + 1] - indptr[first], 8)
        run_ranges(lambda a, b: encode_histories(a, b, indptr, items, encoder, states), inner)
        collect(self.ranks, states, None, lambda rank: slice(bounds[rank], bounds[rank + 1]))
        model.user_bias.data.zero_()

    def _items_of_users(self) -> np.ndarray:
        """Return the items (N,) int32 of all users, in the order in which their states take them in."""
        return self.windows.items

    def state_dict(self) -> State:
        """Return what :meth:`CUDANextItem.state_dict` does, on the CPU, in memory that the processes share."""
        state = {}
        for name, tensor in self._tensors().items():
            own = tensor.cpu()
            if is_sharded(name):
                whole = collected(self.ranks, own.numpy(), self.split.num_items, row_shards(self.ranks))
                state[name] = torch.from_numpy(whole)
            else:
                state[name] = own.clone()
        return state

    def kept_state(self) -> State:
        """See :meth:`fastncf.trainers.base.Trainer.kept_state`."""
        return self.state_dict()

    def load_state_dict(self, state: State) -> None:
        """See :meth:`fastncf.trainers.cuda_next_item.CUDANextItem.load_state_dict`."""
        own = self._own_items()
        super().load_state_dict({name: array[own] if is_sharded(name) else array for name, array in state.items()})


class ParallelCUDAOtherItems(CUDAOtherItems, ParallelCUDANextItem):
    """Trains as :class:`~fastncf.trainers.cuda_other_items.CUDAOtherItems` does, by the ranks of a process group.

    In the last epochs each rank has the fixed states of all users on its device.
    """

    @classmethod
    def why_not(cls, stage: Stage, module: nn.Module | None) -> str | None:
        """See :meth:`fastncf.trainers.base.Trainer.why_not`; kernels are tried by one process."""
        return CUDAOtherItems.why_not(stage, module)

    def _states_of_sets(self) -> Tensor:
        """Return the states (U, D) of the whole sets of all users."""
        self._write_model()
        return self.model.user_embedding.weight.detach().to(self.device, copy=True)

    @property
    def encoder(self) -> HistoryEncoder:
        """Encoder of sets with the parameters after the last epoch."""
        return encoder_of_sets(self._all_history_vectors)

    def _items_of_users(self) -> np.ndarray:
        """Return the items in an order that is the same in all epochs."""
        return self.split.indices


def _adam(moments: list[Tensor], rows: Tensor | None, gradient: Tensor, rate: float, root_correction: float) -> None:
    """Take a step of Adam for all rows of a table; see :mod:`fastncf.kernels.cpu.lazy_adam` for the two numbers.

    Args:
        moments: values, means and mean squares, changed in place.
        rows: (n,) int64, which rows have a gradient, each once; None for all.
        gradient: (n, ...).
    """
    values, means, squares = moments
    where = slice(None) if rows is None else rows
    means.mul_(BETA_1)
    means[where] += (1 - BETA_1) * gradient
    squares.mul_(BETA_2)
    squares[where] += (1 - BETA_2) * gradient.square()
    values.sub_(rate * means / (root_correction * squares.sqrt() + EPSILON))
