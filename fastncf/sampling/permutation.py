"""A keyed order of ``range(size)`` in which every place is computed for itself: the same bits on every device.

A Feistel network (Luby and Rackoff 1988) over pairs (left, right) with ``left < a``, ``right < b`` and ``a * b`` just
not below ``size``: each round adds a hash of one half to the other, modulo its own size. What lands beyond ``size``
goes through the network again until it does not (Black and Rogaway 2002, "cycle walking"), which is rare, since less
than one in ``b`` pairs is too many.
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
    """The order that a key determines.

    Args:
        size: at least 1, below 2**62.
        seed_key: 64-bit key.
        device: where the order is computed and stays.

    Returns:
        (size,) on ``device``; int32 where that can hold it, otherwise int64.
    """
    a = math.isqrt(size - 1) + 1
    b = -(-size // a)
    keys = [key(seed_key, number) & _MASK for number in range(_ROUNDS)]
    order = torch.empty(size, dtype=torch.int32 if a * b <= 1 << 31 else torch.int64, device=device)
    if device.type == "cpu":
        _fill_by_kernel(order, a, b, keys)
    elif triton_works(device):
        from fastncf.kernels.cuda.draws import fill_order

        fill_order(order, a, b, keys)
    else:
        _fill_by_tensors(order, a, b, keys)
    return order


def _fill_by_kernel(order: Tensor, a: int, b: int, keys: list[int]) -> None:
    places, kernel_keys = order.numpy(), np.array(keys, dtype=np.uint64)
    run_ranges(lambda start, stop: fill_permutation(start, stop, a, b, kernel_keys, places), even_ranges(len(places)))


def _fill_by_tensors(order: Tensor, a: int, b: int, keys: list[int]) -> None:
    for start in range(0, len(order), _CHUNK):
        part = order[start : start + _CHUNK]
        places = _feistel(torch.arange(start, start + len(part), device=order.device), a, b, keys)
        while (beyond := (places >= len(order)).nonzero().squeeze(-1)).numel():
            places[beyond] = _feistel(places[beyond], a, b, keys)
        part.copy_(places)


def _feistel(x: Tensor, a: int, b: int, keys: list[int]) -> Tensor:
    left, right = x // b, x % b
    for number in range(0, _ROUNDS, 2):
        left = _added(left, right, keys[number], a)
        right = _added(right, left, keys[number + 1], b)
    return left * b + right


def _added(half: Tensor, other: Tensor, round_key: int, size: int) -> Tensor:
    x = (other ^ round_key) & _MASK
    x = ((x ^ (x >> 16)) * LOWBIAS_1) & _MASK
    x = ((x ^ (x >> 15)) * LOWBIAS_2) & _MASK
    moved = half + (((x ^ (x >> 16)) * size) >> 32)
    return torch.where(moved >= size, moved - size, moved)
