"""Adam, batch by batch through torch's autograd, for any module on any device.

On CUDA the step is captured as a graph once its first runs have shown that it fits: the host then starts a step with
one call, and waits for nothing inside an epoch.
"""

import warnings

import numpy as np
import torch
from torch import Tensor, nn

from fastncf.config import Config
from fastncf.data.split import Split
from fastncf.device import has_bfloat16
from fastncf.errors import DeviceError
from fastncf.kernels.cpu.alias import AliasTable
from fastncf.models.losses import LOSSES
from fastncf.models.scorers import score_lists
from fastncf.sampling.loader import Batch, EpochLoader, Training

_WARM_UP = 3


class Adam(Training):
    """All epochs of a module.

    A batch whose activations do not fit the memory of the device is computed in parts whose gradients are added up.

    Args:
        model: maps user and item tensors to logits; its parameters are on ``device`` and updated in place.
        split: what is trained on, N interactions.
        config: with its recipe, see :meth:`~fastncf.config.Config.with_recipe`.
        device: where the model is.
        weights: how often each item is drawn as a negative; all alike where it is not given.

    Attributes:
        eager: why no graph is captured; None while one is, or may be.
    """

    def __init__(
        self, model: nn.Module, split: Split, config: Config, device: torch.device, weights: AliasTable | None = None
    ) -> None:
        assert config.epochs is not None
        self.model, self.config, self.device = model, config, device
        self.passes = config.epochs
        self.epochs = EpochLoader.of(split, config, device, weights)
        cuda = device.type == "cuda"
        self.bfloat16 = (config.precision or ("bfloat16" if has_bfloat16(device) else "float32")) == "bfloat16"
        self.eager = None if cuda else "no CUDA device"
        self.part = self.epochs.rows
        self.rates = torch.empty(self.epochs.batches, dtype=torch.float64, device=device)  # (S,): those of the epoch
        self.rate = torch.zeros((), device=device)  # float32: what a graph reads it from
        self.step = torch.zeros(1, dtype=torch.int64, device=device)  # steps of the epoch that are done
        self.total = torch.zeros((), dtype=torch.float64, device=device)
        rate = self.rate if cuda else 0.0
        self.optimizer = torch.optim.Adam(model.parameters(), lr=rate, fused=True, capturable=cuda)
        self._stream = torch.cuda.Stream(device) if cuda else None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._warm = 0

    def epoch(self, number: int) -> Tensor:
        """Train one epoch; nothing in here waits for the device once the step is captured.

        Returns:
            () float64: the loss of each batch (without the l2 term) times its interactions, summed.

        Raises:
            DeviceError: not even a single interaction's activations fit the memory of the device.
        """
        self.epochs.load(number)
        done = (number + np.arange(self.epochs.batches) / self.epochs.batches) / self.passes
        self.rates.copy_(torch.from_numpy(self.config.learning_rate_at(done)))
        self.step.zero_()
        self.total.zero_()
        for rows in self.epochs.places():
            if self.eager is None and len(rows) == self.epochs.rows:
                self._replay()
            else:
                self._train(rows)
        return self.total.clone()

    def _replay(self) -> None:
        """A step over a full batch: eager at first, then captured, then repeated."""
        if self._graph is None and self._warm < _WARM_UP:
            self._warm += 1
            assert self._stream is not None
            current = torch.cuda.current_stream(self.device)
            self._stream.wait_stream(current)  # what is to be captured must not be bound to the default stream
            with torch.cuda.stream(self._stream):
                self._train(None)
            current.wait_stream(self._stream)
            return
        if self._graph is None:
            self._capture()
        if self._graph is not None:
            self._graph.replay()
        else:
            self._train(None)

    def _capture(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)  # what is captured has gradients of its own
        graph = torch.cuda.CUDAGraph()
        random = torch.cuda.default_generators[torch.cuda.current_device()]
        before = random.clone_state()
        try:
            with torch.cuda.graph(graph):
                self._train(None)
        except (RuntimeError, DeviceError) as error:
            random.graphsafe_set_state(before)  # it would go on as if the capture did
            self.eager = str(error.__context__ or error).splitlines()[0]
            del graph
            torch.cuda.empty_cache()
            warnings.warn(
                f"the training step of {type(self.model).__name__} cannot be captured as a CUDA graph ({self.eager}); "
                f"it runs operation by operation, which takes longer",
                RuntimeWarning,
                stacklevel=2,
            )
        else:
            self._graph = graph

    def _train(self, rows: Tensor | None) -> None:
        """A step over some rows (B,), or over the full batch that is next, found on the device."""
        now = self.rates.index_select(0, self.step).squeeze(0)
        if self._stream is None:
            self.optimizer.param_groups[0]["lr"] = now.item()
        else:
            self.rate.copy_(now)
        losses = self._backward(rows)
        while losses is None:
            if self.part == 1 or (self._stream is not None and torch.cuda.is_current_stream_capturing()):
                raise DeviceError(
                    f"{self.device} has no memory left for a step of {type(self.model).__name__} over {self.part:,} "
                    f"interactions; accepted: smaller dim or layers, a device with more free memory, or device='cpu'"
                )
            self.part = -(-self.part // 2)
            torch.cuda.empty_cache()  # blocks of the larger part are of no use to the smaller ones
            losses = self._backward(rows)
        self.optimizer.step()
        self.step += 1
        for loss in losses:
            self.total += loss

    def _backward(self, rows: Tensor | None) -> list[Tensor] | None:
        """Gradients of a batch, and its parts' summed losses, () each; None where they do not fit the memory."""
        self.optimizer.zero_grad(set_to_none=True)
        try:
            if rows is None:
                places = torch.arange(self.epochs.rows, device=self.device) + self.step * self.epochs.rows
                rows = self.epochs.order.index_select(0, places)
            losses = []
            for part in rows.split(self.part):
                batch = self.epochs.take(part)
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16, cache_enabled=False):
                    positive, negatives = score_batch(self.model, batch)
                if self.bfloat16:
                    positive, negatives = positive.float(), negatives.float()
                loss = LOSSES[self.config.loss].function(positive, negatives)
                objective = loss + l2_penalty(self.model, batch, self.config.l2) if self.config.l2 else loss
                if len(part) < len(rows):
                    objective = objective * (len(part) / len(rows))
                objective.backward()
                losses.append(loss.detach() * len(part))
        except torch.OutOfMemoryError:
            return None
        return losses


def score_batch(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Logits of a batch: positives (B,) and negatives (B, K)."""
    items = torch.cat([batch.positive.unsqueeze(-1), batch.negatives], dim=1)
    scores = score_lists(model, batch.user, items)
    return scores[:, 0], scores[:, 1:]


def l2_penalty(model: nn.Module, batch: Batch, weight: float) -> Tensor:
    """``weight`` times the mean squared norm of the embedding vectors that the samples of a batch touch.

    An ``nn.Embedding`` whose name holds ``user`` or ``item`` is indexed by that; others are left alone, since nothing
    says which of the two they belong to.
    """
    items = torch.cat([batch.positive.unsqueeze(-1), batch.negatives], dim=1)
    total = torch.zeros((), device=batch.user.device)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Embedding) and ("user" in name or "item" in name):
            rows = batch.user if "user" in name else items
            total = total + layer(rows).square().sum() / rows.numel()
    return weight * total
