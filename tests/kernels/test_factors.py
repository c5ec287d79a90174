"""Parts of the SGD kernels against NumPy; whole epochs are in tests/trainers."""

import numpy as np
import pytest
from numba import njit

from fastncf.kernels.cpu.factors import (
    Factors,
    GroupedRows,
    Interaction,
    ItemParts,
    ItemTable,
    NegativeSampling,
    SGDStep,
    batched_dot,
    draw_samples,
    group_by_part,
    make_workspace,
    pad_to_lanes,
    sgd_step,
    unpad_into,
)
from fastncf.kernels.cpu.losses import BCE, LossBuffers
from fastncf.kernels.cpu.negatives import UNIFORM
from fastncf.kernels.cpu.simd import CACHE_LINE, LANES, pointer
from fastncf.rng import Stream
from fastncf.sampling.negatives import position_keys
from tests.conftest import random_csr


@njit
def call_batched_dot(table, starts, items, vector, out):
    buffers = LossBuffers(pointer(out), pointer(out), pointer(out), 0)
    interaction = Interaction(pointer(items), pointer(starts), len(items), buffers)
    item_table = ItemTable(pointer(table), pointer(table), table.shape[1])
    batched_dot(item_table, interaction, pointer(vector), pointer(out))


@njit
def call_sgd_step(table, starts, items, vector, gradients, multiplicity, step):
    buffers = LossBuffers(pointer(gradients), pointer(multiplicity), pointer(gradients), len(gradients))
    interaction = Interaction(pointer(items), pointer(starts), len(items), buffers)
    item_table = ItemTable(pointer(table), pointer(table), table.shape[1])
    sgd_step(item_table, interaction, pointer(vector), step)


def random_rows(size: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a table (50, width), distinct items (size,), where their rows start, and a vector (width,)."""
    random = np.random.default_rng(size)
    items = random.permutation(50)[:size].astype(np.int32)
    table, vector = random.standard_normal((50, width)), random.standard_normal(width)
    return table.astype(np.float32), items, items.astype(np.int64) * width, vector.astype(np.float32)


@pytest.mark.parametrize("size", [1, 4, 7, 16])
@pytest.mark.parametrize("width", [LANES, 3 * LANES])
def test_batched_dot(size, width):
    table, items, starts, vector = random_rows(size, width)
    out = np.full(size + 1, 7, np.float32)
    call_batched_dot(table, starts, items, vector, out)
    np.testing.assert_allclose(out[:size], table[items] @ vector, rtol=1e-5, atol=1e-5)
    assert out[size] == 7


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("width", [LANES, 3 * LANES])
def test_sgd_step(size, width):
    table, items, starts, vector = random_rows(size, width)
    random = np.random.default_rng(width)
    gradients, multiplicity = np.zeros((2, LANES), np.float32)
    gradients[:size], multiplicity[:size] = random.standard_normal(size), random.integers(1, 4, size)
    step = SGDStep(np.float32(0.05), np.float32(0.9), np.float32(0.01), BCE)
    expected, rows = table.astype(np.float64), table[items].astype(np.float64)
    expected[items] -= 0.01 * multiplicity[:size, None] * rows + np.outer(gradients[:size], vector)
    changed = 0.9 * vector - gradients[:size] @ rows
    call_sgd_step(table, starts, items, vector, gradients, multiplicity, step)
    np.testing.assert_allclose(table, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(vector, changed, rtol=1e-5, atol=1e-5)


def test_samples_hold_each_item_once_and_count_the_draws():
    """Of few items with many negatives, so that most are drawn again."""
    num_items, num_negatives = 12, 30
    items = (np.arange(num_items) * 3).astype(np.int32)
    positions = np.array([1, 4, 5, 9], np.int32)
    keys = position_keys(0, Stream.NEGATIVES, 0, positions=4 * num_negatives)
    workspace = make_workspace(4, num_items, num_negatives)
    draw_samples(
        0, 4, positions, NegativeSampling(items, num_negatives, keys, UNIFORM, np.float32(1)), LANES, workspace
    )
    samples = workspace.samples
    unseen = set(items.tolist()) - set(items[positions].tolist())
    for at, positive in enumerate(items[positions].tolist()):
        size = int(samples.sizes[at])
        found, multiplicity = samples.items[at, :size].tolist(), samples.multiplicity[at]
        assert found[0] == positive
        assert multiplicity[0] == 1
        assert set(found[1:]) <= unseen
        assert len(set(found)) == size
        negatives = items[workspace.negatives[at * num_negatives : (at + 1) * num_negatives]].tolist()
        assert {item: negatives.count(item) for item in found[1:]} == dict(
            zip(found[1:], multiplicity[1:size].tolist(), strict=True)
        )
        assert not multiplicity[size:].any()
        assert samples.starts[at, :size].tolist() == [item * LANES for item in found]


def test_interactions_are_grouped_by_part():
    random = np.random.default_rng(0)
    indptr, indices = random_csr(random, 20, 30)
    part = random.integers(0, 4, 30).astype(np.uint8)
    position = np.empty(30, np.int32)
    for number in range(4):
        position[part == number] = np.arange((part == number).sum())
    weights, grouped = random.random(len(indices), np.float32), np.empty(len(indices), np.float32)
    positions, bounds = np.empty_like(indices), np.empty((20, 5), np.int64)
    rows = GroupedRows(bounds, positions, grouped)
    group_by_part(0, 20, indptr, indices, weights, ItemParts(part, position), rows)
    for user in range(20):
        row = indices[indptr[user] : indptr[user + 1]]
        assert bounds[user, 0] == indptr[user]
        assert bounds[user, 4] == indptr[user + 1]
        for number in range(4):
            found = positions[bounds[user, number] : bounds[user, number + 1]]
            assert found.tolist() == position[row[part[row] == number]].tolist()
            its = weights[indptr[user] : indptr[user + 1]][part[row] == number]
            assert grouped[bounds[user, number] : bounds[user, number + 1]].tolist() == its.tolist()


@pytest.mark.parametrize("dim", [1, LANES, 20])
@pytest.mark.parametrize("shift", [0, 4])
def test_padding_is_undone(dim, shift):
    """Also of tables that do not begin at a cache line, which are copied."""

    def table(rows: int, seed: int) -> np.ndarray:
        memory = np.empty(rows * dim + CACHE_LINE // 2, np.float32)
        first = (-memory.ctypes.data % CACHE_LINE) // 4 + shift
        out = memory[first : first + rows * dim].reshape(rows, dim)
        out[:] = np.random.default_rng(seed).standard_normal((rows, dim))
        return out

    factors = Factors(table(5, 0), table(7, 1), np.zeros(5, np.float32), np.zeros(7, np.float32))
    padded = pad_to_lanes(factors)
    assert (padded.user_vectors is factors.user_vectors) == (dim == LANES and shift == 0)
    assert padded.user_bias is factors.user_bias
    for vectors, given in zip(padded[:2], factors[:2], strict=True):
        assert vectors.shape[1] % LANES == 0
        assert vectors.ctypes.data % CACHE_LINE == 0
        np.testing.assert_array_equal(vectors[:, :dim], given)
        assert not vectors[:, dim:].any()
        vectors += 1
    expected = [vectors[:, :dim].copy() for vectors in padded[:2]]
    unpad_into(padded, factors)
    for given, vectors in zip(factors[:2], expected, strict=True):
        np.testing.assert_array_equal(given, vectors)
