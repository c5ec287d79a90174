"""Encoders of histories among the parameters of a saved model."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastncf.kernels.cpu.encoder import HistoryEncoder
from fastncf.persistence.arrays import require_finite
from fastncf.persistence.plain import UnexpectedError

_PREFIX = "history_encoder."
_NAMES = HistoryEncoder._fields


def encoder_arrays(encoder: HistoryEncoder | None) -> dict[str, np.ndarray]:
    """Return an encoder as arrays by name; none where there is no encoder."""
    return {} if encoder is None else {_PREFIX + name: array for name, array in encoder.arrays().items()}


def split_encoder(
    parameters: Mapping[str, Any], num_items: int, dim: int
) -> tuple[dict[str, Any], HistoryEncoder | None]:
    """Return the parameters without those of an encoder, and the encoder, None where there is none.

    Args:
        parameters: arrays by name.
        num_items: I.
        dim: D, length of a user's vector.

    Raises:
        UnexpectedError: an array is missing, unknown, or not as an encoder has it.
    """
    own = {name.removeprefix(_PREFIX): array for name, array in parameters.items() if name.startswith(_PREFIX)}
    others = {name: array for name, array in parameters.items() if not name.startswith(_PREFIX)}
    if not own:
        return others, None
    own.setdefault("length", np.float64(0))  # earlier versions have none
    if set(own) != set(_NAMES):
        names = ", ".join(sorted(set(own) ^ set(_NAMES)))
        raise UnexpectedError(f"missing or unknown: {_PREFIX}{names:.200}")
    num_features = len(own["is_mean"]) if own["is_mean"].ndim == 1 else 0
    is_shared = own["vectors"].ndim == 2
    forms = {
        "vectors": ((num_items, dim) if is_shared else (num_items, num_features, dim), np.float32),
        "gains": ((num_features, dim), np.float32),
        "decays": ((num_features, dim), np.float32),
        "is_mean": ((num_features,), np.bool_),
        "longest": ((), np.int64),
        "length": ((), np.float64),
    }
    for name, (shape, dtype) in forms.items():
        if own[name].shape != shape or own[name].dtype != dtype:
            found = f"shape {own[name].shape} and dtype {own[name].dtype}"
            raise UnexpectedError(f"{_PREFIX}{name} has {found}; expected {shape} and {np.dtype(dtype)}")
    require_finite(own)
    if not 1 <= int(own["longest"]) < 2**31 or num_features < 1:
        raise UnexpectedError(f"{_PREFIX}longest is {own['longest']}, or there is no feature")
    if not bool(((own["decays"] >= 0) & (own["decays"] <= 1)).all()):
        raise UnexpectedError(f"{_PREFIX}decays holds numbers outside 0 to 1")
    if not bool((own["decays"][own["is_mean"]] == 1).all()):
        raise UnexpectedError(f"{_PREFIX}decays holds another number than 1 for a mean")
    if not float(own["length"]) >= 0:
        raise UnexpectedError(f"{_PREFIX}length is {own['length']}; expected 0 or more")
    return others, HistoryEncoder.of_arrays(own)
