"""Keyed permutations of ``range(size)`` in which each entry is computed for itself: the same bits on every device.

A Feistel network (Luby and Rackoff 1988) permutes the pairs (left, right) with ``left < a = ceil(sqrt(size))`` and
``right < b = ceil(size / a)``: each round adds a hash of one half to the other half, modulo ``a`` or ``b``. A pair that
stands for a number ``left * b + right`` of ``size`` or more goes through the network again until it does not (Black and
Rogaway 2002, "cycle walking"). That is rare, since less than one in ``b`` pairs is such a pair.
"""

import math

import numpy as np
import torch
from torch import Tensor

from fastncf.device import triton_works
from fastncf.kernels.cpu.permutation import fill_permutation
from fastncf.rng import LOWBIAS_1, LOWBIAS_2, key
from fastncf.threads import even_ranges, run_ranges

_ROUNDS = 4
_CHUNK = 1 << 24
_MASK = (1 << 32) - 1


def permutation(size: int, seed_key: int, device: torch.device) -> Tensor:
    """Return the permutation that a key determines.

    Args:
        size: at least 1, below 2**62.
        seed_key: 64-bit key.
        device: where the permutation is computed and stays.

    Returns:
        (size,) on ``device``; int32 where that can hold ``a * b``, otherwise int64.
    """
    a = math.isqrt(size - 1) + 1
    b = -(-size // a)
    keys = [key(seed_key, number) & _MASK for number in range(_ROUNDS)]
    out = torch.empty(size, dtype=torch.int32 if a * b <= 1 << 31 else torch.int64, device=device)
    if device.type == "cpu":
        _fill_by_kernel(out, a, b, keys)
    elif triton_works(device):
        from fastncf.kernels.cuda.draws import fill_order

        fill_order(out, a, b, keys)
    else:
        _fill_by_tensors(out, a, b, keys)
    return out


def _fill_by_kernel(out: Tensor, a: int, b: int, keys: list[int]) -> None:
    """Fill a permutation on a CPU by the compiled kernel, in parallel."""
    array, kernel_keys = out.numpy(), np.array(keys, dtype=np.uint64)
    run_ranges(lambda start, stop: fill_permutation(start, stop, a, b, kernel_keys, array), even_ranges(len(array)))


def _fill_by_tensors(out: Tensor, a: int, b: int, keys: list[int]) -> None:
    """Fill a permutation by torch's operations, for devices without Triton."""
    for start in range(0, len(out), _CHUNK):
        chunk = out[start : start + _CHUNK]
        images = _feistel(torch.arange(start, start + len(chunk), device=out.device), a, b, keys)
        while (beyond := (images >= len(out)).nonzero().squeeze(-1)).numel():
            images[beyond] = _feistel(images[beyond], a, b, keys)
        chunk.copy_(images)


def _feistel(x: Tensor, a: int, b: int, keys: list[int]) -> Tensor:
    """Return the images (n,) int64 of numbers below ``a * b`` under the network."""
    left, right = x // b, x % b
    for number in range(0, _ROUNDS, 2):
        left = _add_hash(left, right, keys[number], a)
        right = _add_hash(right, left, keys[number + 1], b)
    return left * b + right


def _add_hash(half: Tensor, other: Tensor, round_key: int, size: int) -> Tensor:
    """Return ``half`` plus a hash of the other half, modulo ``size``."""
    x = (other ^ round_key) & _MASK
    x = ((x ^ (x >> 16)) * LOWBIAS_1) & _MASK
    x = ((x ^ (x >> 15)) * LOWBIAS_2) & _MASK
    total = half + (((x ^ (x >> 16)) * size) >> 32)
    return torch.where(total >= size, total - size, total)
