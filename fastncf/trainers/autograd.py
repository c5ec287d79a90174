"""Training of any module on any device by Adam, batch by batch through torch's autograd.

On CUDA a step is captured as a graph after its first runs. The host then starts each step with one call, and does not
wait for the device inside an epoch.
"""

import itertools
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fastncf.data.split import Split
from fastncf.device import OUT_OF_MEMORY_HINT, deterministic, device_guard, seeded
from fastncf.errors import DeviceError, counted, first_line
from fastncf.memory import import_aside
from fastncf.models.layers import l2_embeddings
from fastncf.models.losses import LOSSES
from fastncf.models.scorers import score_lists
from fastncf.rng import Stream, key
from fastncf.sampling.loader import Batch, EpochLoader
from fastncf.stage import Stage
from fastncf.trainers.base import State, Trainer

_WARM_UP_STEPS = 3
_GENERATOR, _DEVICE_GENERATOR = "generator", "device_generator"


class AutogradTrainer(Trainer):
    """Trains a module by Adam (Kingma and Ba 2015, with torch's defaults for betas and epsilon).

    A batch whose activations do not fit the memory of the device is divided into microbatches, whose gradients are
    added up. Random numbers of torch, such as dropout's, come from generators that are seeded for each epoch by its
    number.

    Attributes:
        microbatch_size: interactions whose activations are in memory at once, at most those of a batch.
        no_graph_reason: why no graph is captured; None if one is captured or will be.
    """

    name = "autograd"
    optimizer = "adam"
    device: torch.device

    @classmethod
    def why_not(cls, stage: Stage, module: nn.Module | None) -> str | None:
        """Return why a stage cannot be trained: by another optimizer, by histories, or without trainable parameters."""
        if stage.optimizer != cls.optimizer:
            return f"takes steps by {cls.optimizer}, not by {stage.optimizer}"
        if stage.history != "none":
            return f"history={stage.history!r} was asked for, and autograd trains no histories"
        if stage.has_weights and not LOSSES[stage.loss].takes_weights():
            return f"loss={stage.loss!r} takes no weights; expected a function of positive, negatives and weights"
        if module is None:
            trainable = stage.model != "popularity"
        else:
            trainable = any(parameter.requires_grad for parameter in module.parameters())
        return None if trainable else f"{stage.model} has no parameters that can be trained"

    def __init__(self, model: nn.Module, split: Split, stage: Stage, order: np.ndarray | None = None) -> None:
        """Prepare the training of a module that is on ``stage.device``; ``order`` is not used."""
        self.model, self.stage, self.device = model, stage, torch.device(stage.device)
        self.loader = self._make_loader(split)
        self.num_groups = self.loader.batches
        cuda = self.device.type == "cuda"
        self.bfloat16 = stage.precision == "bfloat16"
        self.no_graph_reason = None if cuda else "no CUDA device"
        self.microbatch_size = self.loader.interactions_per_batch
        self.learning_rates = torch.empty(self.loader.batches, dtype=torch.float64, device=self.device)  # of the epoch
        self.learning_rate = torch.zeros((), dtype=torch.float32, device=self.device)  # read by the graph
        self.step = torch.zeros(1, dtype=torch.int64, device=self.device)  # steps of the epoch that are done
        self.total_loss = torch.zeros((), dtype=torch.float64, device=self.device)
        initial_rate = self.learning_rate if cuda else 0.0
        import_aside("torch._dynamo")  # which the constructor imports
        self._adam = torch.optim.Adam(
            [parameter for _, parameter in self._parameters()], lr=initial_rate, fused=True, capturable=cuda
        )
        self._stream = torch.cuda.Stream(self.device) if cuda else None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._num_warm_up_steps = 0

    def _make_loader(self, split: Split) -> EpochLoader:
        """Return the epochs."""
        return EpochLoader.from_stage(split, self.stage)

    def epoch(self, number: int) -> Tensor:
        """Train the epoch of a number; nothing in it waits for the device once the step is captured.

        Returns:
            () float64: the mean loss of each batch (without the l2 term) times its interactions, summed.

        Raises:
            DeviceError: not even a single interaction's activations fit the memory of the device.
        """
        self.model.train()
        # The key of the first epoch has no number, which makes its bits those of earlier versions.
        seed_key = key(self.stage.seed, Stream.DROPOUT, number) if number else key(self.stage.seed, Stream.DROPOUT)
        with (
            device_guard(self.device),
            deterministic(self.stage.deterministic),
            seeded(self.device, seed_key >> 1),
        ):
            self.loader.load(number)
            progress = (number + np.arange(self.loader.batches) / self.loader.batches) / self.stage.epochs
            self.learning_rates.copy_(torch.from_numpy(self.stage.learning_rate_at(progress)))
            self._restore_generators()
            done, sums = self._begin(total=self.total_loss.zero_())
            self.step.fill_(done)
            indices_of_batches = itertools.islice(self.loader.batch_indices(), done, None)
            for number_done, indices in enumerate(indices_of_batches, start=done + 1):
                if self.no_graph_reason is None and len(indices) == self.loader.interactions_per_batch:
                    self._run_full_batch()
                else:
                    self._run_step(indices)
                self._reach(number_done, sums)
        return self.total_loss.clone()

    def state_dict(self) -> State:
        """Return the parameters and buffers of the module, Adam's moments and steps, and the size of a microbatch.

        Names are ``parameters.``, ``buffers.``, ``exp_avg.``, ``exp_avg_sq.`` or ``step.`` before torch's name of a
        parameter or buffer, and ``microbatch_size``. All values are tensors.
        """
        return self._tensors()

    def _tensors(self) -> State:
        """Return the state of this process, in the memory that the next epoch changes."""
        state: State = {"microbatch_size": torch.tensor(self.microbatch_size, device="cpu")}
        for name, parameter in self._parameters():
            state[f"parameters.{name}"] = parameter.detach()
            if parameter.requires_grad:
                state |= {f"{moment}.{name}": tensor for moment, tensor in self._moments(parameter).items()}
        return state | {f"buffers.{name}": buffer for name, buffer in self.model.named_buffers()}

    def load_state_dict(self, state: State) -> None:
        """Continue from a state of :meth:`state_dict`, whose values may also be arrays.

        Raises:
            ValueError: a name is missing or superfluous, or a tensor has another shape.
        """
        copy_state(self._tensors(), state)
        self._set_microbatch_size(int(state["microbatch_size"]))

    def state(self) -> State:
        """Return what :meth:`fastncf.trainers.base.Trainer.state` does, with the state of torch's generators.

        Dropout and modules of the user's own draw from them, and nobody can count their draws.
        """
        if self._begun is not None and _GENERATOR not in self._begun:
            self._begun[_GENERATOR] = torch.get_rng_state()
            if self._stream is not None:
                self._begun[_DEVICE_GENERATOR] = torch.cuda.get_rng_state(self.device)
        return super().state()

    def _restore_generators(self) -> None:
        """Let torch's generators go on as in the epoch that :meth:`epoch` trains the rest of."""
        begun = self._begun or {}
        if _GENERATOR in begun:
            torch.set_rng_state(torch.as_tensor(begun[_GENERATOR], dtype=torch.uint8))
        if _DEVICE_GENERATOR in begun and self._stream is not None:
            torch.cuda.set_rng_state(torch.as_tensor(begun[_DEVICE_GENERATOR], dtype=torch.uint8), self.device)

    def sampling_seconds(self) -> float:
        """Return the seconds that drawing orders and negatives took; the device must be done with it."""
        return self.loader.sampling_seconds()

    def close(self) -> None:
        """End the thread that draws epochs ahead."""
        self.loader.close()

    def _parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Return the parameters that this process has, by name."""
        return list(self.model.named_parameters())

    def _moments(self, parameter: Tensor) -> dict[str, Tensor]:
        """Return Adam's state of a parameter, which torch makes in the first step, and which starts from zeros."""
        moments = self._adam.state[parameter]
        if not moments:
            moments["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            moments["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            moments["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return moments

    def _set_microbatch_size(self, size: int) -> None:
        """Divide batches anew, and capture the step anew, since its bits depend on the size."""
        if size != self.microbatch_size:
            self.microbatch_size, self._graph = size, None

    def _run_full_batch(self) -> None:
        """Take a step over the next full batch: operation by operation at first, then captured, then replayed."""
        if self._graph is None and self._num_warm_up_steps < _WARM_UP_STEPS:
            self._num_warm_up_steps += 1
            assert self._stream is not None
            current = torch.cuda.current_stream(self.device)
            self._stream.wait_stream(current)  # what is captured later must not be bound to the default stream
            with torch.cuda.stream(self._stream):
                self._run_step(None)
            current.wait_stream(self._stream)
            return
        if self._graph is None:
            self._capture()
        if self._graph is not None:
            self._graph.replay()
        else:
            self._run_step(None)

    def _capture(self) -> None:
        """Capture a step as a graph, or say in a warning why that is not possible."""
        self._adam.zero_grad(set_to_none=True)  # the captured step has gradients of its own
        graph = torch.cuda.CUDAGraph()
        generator = torch.cuda.default_generators[torch.cuda.current_device()]
        before = generator.clone_state()
        try:
            with torch.cuda.graph(graph):
                self._run_step(None)
        except (RuntimeError, DeviceError) as error:
            generator.graphsafe_set_state(before)  # otherwise its state would be that of a capture
            self.no_graph_reason = first_line(error.__context__ or error)
            del graph
            torch.cuda.empty_cache()
            warnings.warn(
                f"the training step of {type(self.model).__name__} cannot be captured as a CUDA graph "
                f"({self.no_graph_reason}); it runs operation by operation, which takes longer",
                RuntimeWarning,
                stacklevel=2,
            )
        else:
            self._graph = graph

    def _run_step(self, indices: Tensor | None) -> None:
        """Take a step over the interactions at ``indices`` (B,); None takes the next full batch."""
        learning_rate = self.learning_rates.index_select(0, self.step).squeeze(0)
        if self._stream is None:
            self._adam.param_groups[0]["lr"] = learning_rate.item()
        else:
            self.learning_rate.copy_(learning_rate)
        losses = self._gradients(indices)
        self._adam.step()
        self.step += 1
        for loss in losses:
            self.total_loss += loss

    def _gradients(self, indices: Tensor | None, share: float = 1.0) -> list[Tensor]:
        """Compute the gradients of a batch, in microbatches that fit the memory of the device.

        Args:
            indices: (B,), see :meth:`_run_step`.
            share: of the batch that ``indices`` are, where other processes compute the rest.

        Returns:
            The loss of each microbatch, summed over its interactions, () each.

        Raises:
            DeviceError: not even a single interaction's activations fit the memory of the device.
        """
        losses = self._backward(indices, share)
        while losses is None:
            if self.microbatch_size == 1 or (self._stream is not None and torch.cuda.is_current_stream_capturing()):
                raise DeviceError(
                    f"{self.device} has no memory left for a step of {type(self.model).__name__} over "
                    f"{counted(self.microbatch_size, 'interaction')}; {OUT_OF_MEMORY_HINT}"
                )
            self._set_microbatch_size(-(-self.microbatch_size // 2))
            torch.cuda.empty_cache()  # blocks of the larger microbatch are of no use to the smaller ones
            losses = self._backward(indices, share)
        return losses

    def _gather(self, indices: Tensor) -> Batch:
        """Return the batch of some interactions (B,), given as positions in the CSR."""
        return self.loader.gather(indices)

    def _backward(self, indices: Tensor | None, share: float) -> list[Tensor] | None:
        """Compute what :meth:`_gradients` does by microbatches of the present size.

        Returns:
            See :meth:`_gradients`; None if the memory does not suffice.
        """
        self._adam.zero_grad(set_to_none=True)
        try:
            if indices is None:
                size = self.loader.interactions_per_batch
                positions = torch.arange(size, device=self.device) + self.step * size
                indices = self.loader.order.index_select(0, positions)
            losses = []
            for part in indices.split(self.microbatch_size):
                batch = self._gather(part)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16, cache_enabled=False):
                    positive, negatives = score_batch(self.model, batch)
                if self.bfloat16:
                    positive, negatives = positive.float(), negatives.float()
                weights = () if batch.weights is None else (batch.weights,)
                loss = LOSSES[self.stage.loss].function(positive, negatives, *weights)
                objective = loss + l2_penalty(self.model, batch, self.stage.l2) if self.stage.l2 else loss
                if (weight := share * len(part) / len(indices)) < 1:
                    objective = objective * weight
                objective.backward()
                losses.append(loss.detach() * len(part))
        except torch.OutOfMemoryError:
            return None
        return losses


def copy_state(target: Mapping[str, Tensor], source: Mapping[str, Any]) -> None:
    """Copy arrays or tensors into the tensors of the same names.

    Raises:
        ValueError: a name is missing or superfluous, or a shape is another one; nothing is copied then.
    """
    for name in [*target, *source]:
        if name not in source:
            raise ValueError(f"state: {name!r} is missing; expected {len(target)} tensors as state_dict() returns them")
        if name not in target:
            raise ValueError(f"state: {name!r} is unknown; expected {len(target)} tensors as state_dict() returns them")
        if (shape := tuple(source[name].shape)) != (expected := tuple(target[name].shape)):
            raise ValueError(f"state: {name!r} has shape {shape}; expected {expected}")
    with torch.no_grad():
        for name, tensor in target.items():
            tensor.copy_(torch.as_tensor(source[name], device=tensor.device))


def score_batch(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the logits of a batch's positives (B,) and negatives (B, K), in the dtype of the model."""
    items = torch.cat([batch.positive.unsqueeze(-1), batch.negatives], dim=1)
    scores = score_lists(model, batch.user, items)
    return scores[:, 0], scores[:, 1:]


def l2_penalty(model: nn.Module, batch: Batch, weight: float) -> Tensor:
    """Return ``weight`` times the mean squared norm of the embedding vectors of a batch's samples, () float32.

    The embeddings are those of :func:`fastncf.models.layers.l2_embeddings`.
    """
    items = torch.cat([batch.positive.unsqueeze(-1), batch.negatives], dim=1)
    total = torch.zeros((), dtype=torch.float32, device=batch.user.device)
    for layer, is_of_users in l2_embeddings(model):
        rows = batch.user if is_of_users else items
        total = total + layer(rows).square().sum() / rows.numel()
    return weight * total
