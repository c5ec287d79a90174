"""Fit that a checkpoint belongs to: settings and data, as plain values that tell what differs."""

import hashlib
import sys
from collections.abc import Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

import fastncf
from fastncf.config import Config
from fastncf.data.ids import Vocabulary
from fastncf.data.others import OtherUsers
from fastncf.data.split import Split

if TYPE_CHECKING:
    from torch import nn

_EPOCHS = "epochs"
_DIGITS = 16


def settings_of(config: Config, module: "nn.Module | None") -> dict[str, Any]:
    """Return all settings but the epochs, the version, and the form of a module of the user's own."""
    settings = {name: value for name, value in config.to_dict().items() if name != _EPOCHS}
    return {"fastncf": fastncf.__version__, **settings, "module": None if module is None else _form(module)}


def libraries() -> dict[str, str]:
    """Return the versions of the libraries that compute, which the last bits of a result may depend on."""
    return {name: version(name) for name in ("numba", "numpy", "torch") if name in sys.modules}


def data_of(users: Vocabulary, items: Vocabulary, split: Split, order: np.ndarray | None) -> dict[str, str]:
    """Return counts and checksums of the data that a training and its evaluation depend on.

    Args:
        users: raw ids of the users.
        items: raw ids of the items.
        split: N training interactions, and the held-out items.
        order: (N,) int32, positions within each user's row from the oldest to the latest, or None.
    """
    return {
        "users": _of_ids(users),
        "items": _of_ids(items),
        "training interactions": f"{len(split.indices):,} ({_checksum(split.indptr, split.indices)})",
        "order of the interactions": "none" if order is None else _checksum(order),
        "weights": "none" if split.weights is None else _checksum(*split.weights),
        "held-out items": _checksum(
            split.test_item, split.validation_item, *(split.test_rows or ()), *(split.validation_rows or ())
        ),
        "users who are left out": "none" if split.others is None else _of_others(split.others),
        "given candidates": "none" if split.test_candidates is None else _checksum(split.test_candidates),
    }


def differences(then: dict[str, Any], now: dict[str, Any]) -> Iterator[str]:
    """Yield in words which of some values differ."""
    for name in {**then, **now}:
        if then.get(name) != now.get(name):
            yield f"{name}: {then.get(name)!s:.60} then, {now.get(name)!s:.60} now"


def _of_others(others: OtherUsers) -> str:
    """Return the number of users that are not trained on, and checksums of their ids and items."""
    return f"{_of_ids(others.users)}, {_checksum(*others.histories, *others.test)}"


def _of_ids(vocabulary: Vocabulary) -> str:
    """Return the number of ids, and their checksum."""
    ids = vocabulary.ids
    if ids.dtype.is_numeric():
        checksum = _checksum(ids.to_numpy())
    else:
        text = ids.cast(str)
        checksum = _checksum(text.str.len_bytes().to_numpy(), np.frombuffer("".join(text).encode(), dtype=np.uint8))
    return f"{len(ids):,} ({checksum})"


def _checksum(*arrays: np.ndarray) -> str:
    """Return the first digits of the SHA-256 of arrays, their shapes and their dtypes."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(f"{array.dtype.str}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()[:_DIGITS]


def _form(module: "nn.Module") -> str:
    """Return the class of a module, and a checksum of the names, shapes and dtypes of its parameters and buffers."""
    named = [*module.named_parameters(), *module.named_buffers()]
    forms = ";".join(f"{name} {tuple(tensor.shape)} {tensor.dtype}" for name, tensor in named)
    return f"{type(module).__name__:.40} ({hashlib.sha256(forms.encode()).hexdigest()[:_DIGITS]})"
