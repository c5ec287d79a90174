"""Checks of a module of the user's own against the data, before its training."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from fastncf.data.split import Split
from fastncf.device import seeded
from fastncf.errors import ConfigError, FastNCFError, counted
from fastncf.models.scorers import score_lists
from fastncf.models.state import savable_state
from fastncf.models.tables import named_tables
from fastncf.sampling.loader import Batch
from fastncf.stage import Stage
from fastncf.trainers.autograd import l2_penalty, score_batch

_TRAINABLE = torch.float32, torch.float64, torch.bfloat16
_FORWARD = "a forward(user_ids, item_ids), two int32 tensors (n,), that returns a floating-point tensor of n scores"


def require_tensors(module: nn.Module) -> None:
    """Check that the parameters and buffers of a module can be trained and saved, before it is moved to a device.

    Raises:
        ConfigError: they are lazy and not initialised, have no memory, belong to ``torch.inference_mode()``, or have a
            dtype that Adam does not train; or the state cannot be saved.
    """
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if isinstance(tensor, UninitializedParameter | UninitializedBuffer):
            _refuse(module, f"{name} is not initialised; expected a module that was called once, as lazy layers need")
        if tensor.is_meta:
            _refuse(module, f"{name} is on the device meta; expected parameters with values, see to_empty() of torch")
        if tensor.is_inference():
            _refuse(module, f"{name} was made in torch.inference_mode(); expected a module made outside of it")
        if tensor.requires_grad and tensor.dtype not in _TRAINABLE:
            _refuse(module, f"{name} is {tensor.dtype}; expected float32, float64 or bfloat16, which Adam trains")
    savable_state(module)


def require_trainable(module: nn.Module, stage: Stage, split: Split) -> None:
    """Check that a module scores all users and items of the data, and that its scores can be trained.

    It is called on four pairs that include the largest indices. Its buffers, gradients and modes, and torch's random
    generators, are as before afterwards.

    Args:
        module: on ``stage.device``.
        stage: what is to be trained.
        split: U users and I items.

    Raises:
        ConfigError: says what is wrong with the module, and what is expected.
    """
    for noun, count in (("user", split.num_users), ("item", split.num_items)):
        if _names_tables_itself(module, noun):
            named_tables(module, noun, count)
    device = torch.device(stage.device)
    last = split.num_users - 1, split.num_items - 1
    if device.type == "cuda":  # there an index out of range cannot be caught
        _require_rows(module, split)
    with _unchanged(module), seeded(device, 0):
        module.eval()
        with torch.no_grad():
            _score(module, (0, 0), device, "", _FORWARD)
            for noun, pair, count in (
                ("user", (last[0], 0), split.num_users),
                ("item", (0, last[1]), split.num_items),
            ):
                situation = f"for the last of {counted(count, noun)}, index {count - 1}, "
                _score(module, pair, device, situation, f"embeddings with {counted(count, 'row')}, one for each {noun}")
        module.train()
        users, items = (torch.tensor([0, one], dtype=torch.int32, device=device) for one in last)
        _require_gradients(module, Batch(users, items, items.flip(0).unsqueeze(1)), stage)


def _names_tables_itself(module: nn.Module, noun: str) -> bool:
    """Return whether a class of the user's own names tables; those of this package may be shared or parametrized."""
    names = (cls.__module__ for cls in type(module).__mro__ if f"{noun}_tables" in vars(cls))
    return not next(names, "fastncf.").startswith("fastncf.")


def _require_rows(module: nn.Module, split: Split) -> None:
    """Check that the embeddings whose names contain ``user`` or ``item`` have rows for all of them."""
    for noun, count in (("user", split.num_users), ("item", split.num_items)):
        rows = [
            layer.num_embeddings
            for name, layer in module.named_modules()
            if isinstance(layer, nn.Embedding) and noun in name
        ]
        if rows and max(rows) < count:
            _refuse(
                module, f"its {noun} embedding has {counted(max(rows), 'row')}; expected {count:,}, one for each {noun}"
            )


def _score(module: nn.Module, pair: tuple[int, int], device: torch.device, situation: str, expected: str) -> None:
    """Call a module on one pair, and check the score."""
    users, items = (torch.tensor([index], dtype=torch.int32, device=device) for index in pair)
    with _explained(module, situation, expected):
        scores = score_lists(module, users, items.unsqueeze(1))
        if scores.isnan().any():
            _refuse(module, f"{situation}the score is NaN before the training; expected numbers")


def _require_gradients(module: nn.Module, batch: Batch, stage: Stage) -> None:
    """Check that the scores of a batch have gradients that Adam takes."""
    with _explained(module, "in training mode ", _FORWARD):
        with torch.autocast(batch.user.device.type, torch.bfloat16, enabled=stage.precision == "bfloat16"):
            positive, negatives = score_batch(module, batch)
        total = positive.sum() + negatives.sum()
        if not total.requires_grad:
            _refuse(module, "its scores do not depend on a parameter that is trained; expected scores with a gradient")
        total.backward()
    if stage.l2:
        try:
            l2_penalty(module, batch, stage.l2)
        except (IndexError, RuntimeError):
            _refuse(
                module,
                "an embedding whose name contains user or item has fewer rows than there are, so that l2 cannot be "
                "applied to it; expected a row for each, another name, or l2=0",
            )
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and parameter.grad.layout != torch.strided:
            _refuse(module, f"the gradient of {name} is sparse, which Adam does not take; expected sparse=False")


@contextmanager
def _explained(module: nn.Module, situation: str, expected: str) -> Iterator[None]:
    """Raise what a module's own code raises as an error that says what is expected."""
    try:
        yield
    except (FastNCFError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        lines = str(error).strip().splitlines()
        reason = f"{type(error).__name__}{f': {lines[0]:.150}' if lines else ''}"
        raise ConfigError(
            f"model={type(module).__name__}: {situation}forward fails ({reason}); expected {expected}"
        ) from error


@contextmanager
def _unchanged(module: nn.Module) -> Iterator[None]:
    """Restore the buffers, gradients and modes of a module at the end."""
    modes = [(layer, layer.training) for layer in module.modules()]
    gradients = [(parameter, parameter.grad) for parameter in module.parameters()]
    buffers: list[tuple[nn.Module, str, Any, Tensor]] = [
        (layer, name, buffer, buffer.clone())
        for layer in module.modules()
        for name, buffer in layer.named_buffers(recurse=False)
    ]
    for parameter, _ in gradients:
        parameter.grad = None
    try:
        yield
    finally:
        for layer, training in modes:
            layer.training = training
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for layer, name, buffer, values in buffers:
            if not buffer.is_sparse:
                with torch.no_grad():
                    buffer.copy_(values)
            setattr(layer, name, buffer)


def _refuse(module: nn.Module, reason: str) -> None:
    """Raise a ConfigError about a module."""
    raise ConfigError(f"model={type(module).__name__}: {reason}")
