"""Hashes of arrays, modules and frames: the first 24 hexadecimal digits of SHA-256."""

import hashlib
from collections.abc import Iterable

import numpy as np
import polars as pl
from torch import nn


def digest(parts: Iterable[bytes]) -> str:
    """Return the hash of some bytes, one after the other."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part)
    return sha.hexdigest()[:24]


def digest_arrays(*arrays: np.ndarray) -> str:
    """Return the hash of the raw bytes of arrays, together with their types and shapes."""
    return digest(
        part
        for array in arrays
        for part in (f"{array.dtype.str} {array.shape};".encode(), np.ascontiguousarray(array).tobytes())
    )


def digest_module(module: nn.Module) -> str:
    """Return the hash of the parameters and buffers of a module, in the order of their names."""
    return digest(
        f"{name} {digest_arrays(tensor.detach().cpu().numpy())};".encode()
        for name, tensor in sorted(module.state_dict().items())
    )


def digest_frame(frame: pl.DataFrame) -> str:
    """Return the hash of the columns of a frame: of floats by their bytes, of everything else by its text."""
    return digest(
        f"{column.name} {digest_arrays(column.to_numpy()) if column.dtype.is_float() else column.to_list()};".encode()
        for column in frame
    )
