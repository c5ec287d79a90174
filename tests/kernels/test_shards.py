"""Sums by shards against sums of NumPy in the same pairs."""

import numpy as np
import pytest

from fastncf.kernels.cpu.compiling import njit
from fastncf.kernels.cpu.rows import pointers
from fastncf.kernels.cpu.shards import (
    SHARDS,
    PairSums,
    add_pairs,
    add_to_sum,
    begin_sum,
    depth_of,
    end_sum,
    sort_batches,
    sum_of,
)
from fastncf.kernels.cpu.simd import aligned_zeros, get, offset, pointer

WIDTH = 8


def added_in_pairs(terms):
    """Return the sum of terms, None where there is none, by a function that calls itself for each half."""
    if len(terms) == 1:
        return terms[0]
    left, right = (added_in_pairs(half) for half in (terms[: len(terms) // 2], terms[len(terms) // 2 :]))
    if left is None or right is None:
        return right if left is None else left
    return left + right


def random_shards(random, num_shards):
    """Return ascending shards of the interactions of a batch, some of them without any."""
    size = int(random.integers(1, 40))
    return np.sort(random.choice(random.integers(0, num_shards, size=4), size=size))


def sums_of_shards(gradients, shards, num_shards):
    """Return the sum of each shard, one interaction after the other; None where it has none."""
    sums = [None] * num_shards
    for gradient, shard in zip(gradients, shards.tolist(), strict=True):
        sums[shard] = gradient if sums[shard] is None else sums[shard] + gradient
    return sums


@njit
def sum_row(pairs, slot, shards, gradients):
    pairs, gradients, count = pointers(pairs), pointer(gradients), len(shards)
    begin_sum(pairs, slot, shards[0], gradients)
    for at in range(1, count):
        add_to_sum(pairs, slot, shards[at], offset(gradients, at * pairs.width))
    end_sum(pairs, slot)
    total = np.empty(pairs.width, dtype=np.float32)
    for at in range(pairs.width):
        total[at] = get(sum_of(pairs, slot), at)
    return total


@pytest.mark.parametrize("num_shards", [1, 2, 4, SHARDS])
def test_the_sum_of_a_row_is_that_of_its_shards_in_pairs(num_shards):
    random = np.random.default_rng()
    depth, slots = depth_of(num_shards), 3
    pairs = PairSums(depth, WIDTH, np.zeros(slots, dtype=np.int32), aligned_zeros(slots * depth * WIDTH))
    for turn in range(200):
        shards = random_shards(random, num_shards)
        gradients = random.normal(size=(len(shards), WIDTH)).astype(np.float32)
        expected = added_in_pairs(sums_of_shards(gradients, shards, num_shards))
        flat = aligned_zeros(gradients.size)
        flat[:] = gradients.reshape(-1)
        np.testing.assert_array_equal(sum_row(pairs, turn % slots, shards, flat), expected)


@njit
def add_sums(sums, stride, starts, num_shards):
    add_pairs(pointer(sums), stride, WIDTH, pointer(starts), num_shards)


@pytest.mark.parametrize("num_shards", [1, 2, 4, SHARDS])
def test_sums_of_layers_are_added_in_the_same_pairs(num_shards):
    random = np.random.default_rng()
    for _ in range(100):
        shards = random_shards(random, num_shards)
        sums = aligned_zeros(num_shards * 2 * WIDTH)
        sums[:] = random.normal(size=len(sums))
        used = [sums.reshape(num_shards, 2, WIDTH)[s, 0].copy() if s in shards else None for s in range(num_shards)]
        starts = np.searchsorted(shards, np.arange(num_shards + 1)).astype(np.int32)
        add_sums(sums, 2 * WIDTH, starts, num_shards)
        np.testing.assert_array_equal(sums[:WIDTH], added_in_pairs(used))


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_batches_are_sorted_by_shards_and_keep_their_order_within(dtype):
    random = np.random.default_rng()
    size, batch_size = int(random.integers(1, 300)), int(random.integers(1, 50))
    bounds = np.concatenate([[0], np.sort(random.integers(0, size + 1, size=SHARDS - 1)), [size]])
    order = random.permutation(size).astype(dtype)
    shards = np.searchsorted(bounds[1:-1], order, side="right")
    batches = [slice(start, start + batch_size) for start in range(0, size, batch_size)]
    expected = np.concatenate([order[batch][np.argsort(shards[batch], kind="stable")] for batch in batches])
    starts = np.full((len(batches), SHARDS + 1), -1, dtype=np.int32)
    middle = len(batches) // 2
    sort_batches(0, middle, batch_size, bounds, order, starts)
    sort_batches(middle, len(batches), batch_size, bounds, order, starts)
    np.testing.assert_array_equal(order, expected)
    for batch, of_batch in zip(batches, starts, strict=True):
        np.testing.assert_array_equal(of_batch, np.searchsorted(np.sort(shards[batch]), np.arange(SHARDS + 1)))
