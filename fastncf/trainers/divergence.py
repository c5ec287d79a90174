"""Trainings that have diverged: what is noticed after an epoch, and the sentence about it."""

from typing import Any

import numpy as np

from fastncf.kernels.cpu.factors import Factors
from fastncf.models.losses import LOSSES
from fastncf.stage import Stage

LARGEST_PARAMETER = 1e18
"""Magnitude of a parameter from which on products of two may be infinite in float32."""


def largest_parameter(model: Any) -> Any:
    """Return the greatest magnitude of a parameter that is trained, NaN if one is NaN.

    Args:
        model: factors, or a module on any device.

    Returns:
        A float for factors; for a module a tensor (1,) float64 on its device, for which nothing has waited.
    """
    if isinstance(model, Factors):
        return float(np.max([abs(float(pick(array, initial=0))) for array in model for pick in (np.max, np.min)]))
    import torch

    trained = [parameter.detach() for parameter in model.parameters() if parameter.requires_grad and parameter.numel()]
    return torch.stack([torch.linalg.vector_norm(tensor, torch.inf).double() for tensor in trained]).amax().reshape(1)


def has_diverged(stage: Stage, loss: float, largest: float) -> bool:
    """Return whether a training cannot go on after an epoch.

    Args:
        stage: what is trained.
        loss: mean loss of the epoch.
        largest: see :func:`largest_parameter`.
    """
    return not (abs(loss) <= LOSSES[stage.loss].largest and largest <= LARGEST_PARAMETER)  # also where one is NaN


def describe(stage: Stage, epoch: int, loss: float, largest: float) -> str:
    """Return the sentence on an epoch, counted from 1, after which the training cannot go on."""
    found = f"a parameter of {largest:g}" if abs(loss) <= LOSSES[stage.loss].largest else f"loss {loss:g}"
    return (
        f"training of {stage.model} diverged in epoch {epoch} ({found}); expected: a smaller learning_rate (now "
        f"{stage.learning_rate:g}), l2 (now {stage.l2:g}) or init_std (now {stage.init_std:g})"
    )
