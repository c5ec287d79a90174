"""State of a module as it is saved: dense tensors and plain values."""

import json
from typing import Any

import torch
from torch import Tensor, nn

from fastncf.errors import ConfigError

_EXTRA = "_extra_state"
"""Last part of the name of what a module's ``get_extra_state()`` returns."""


def savable_state(module: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state of a module as files of tensors and of JSON can hold it.

    Returns:
        Tensors by their names in ``module.state_dict()``, in the memory of the module; and values of
        ``get_extra_state()`` that are no tensors.

    Raises:
        ConfigError: a tensor is sparse, quantized or without memory, or an extra state is neither a tensor nor a value
            that JSON holds.
    """
    tensors: dict[str, Tensor] = {}
    extra: dict[str, Any] = {}
    for name, value in module.state_dict().items():
        if not isinstance(value, Tensor):
            extra[name] = _plain_value(module, name, value)
            continue
        if value.layout != torch.strided or value.is_quantized or value.is_meta:
            kind = "on the device meta" if value.is_meta else "quantized" if value.is_quantized else "sparse"
            raise ConfigError(
                f"model={type(module).__name__}: {name} is {kind}, so that it cannot be saved; expected dense tensors, "
                f"or a buffer with persistent=False"
            )
        tensors[name] = value
    return tensors, extra


def _plain_value(module: nn.Module, name: str, value: Any) -> Any:
    """Return a value that JSON holds as it is."""
    try:
        is_plain = name.endswith(_EXTRA) and json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError, RecursionError):
        is_plain = False
    if not is_plain:
        raise ConfigError(
            f"model={type(module).__name__}: its state holds a {type(value).__name__} as {name}, which cannot be "
            f"saved; expected a tensor, or a value of get_extra_state() that JSON holds"
        )
    return value
