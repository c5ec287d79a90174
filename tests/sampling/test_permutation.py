import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastncf.sampling import permutation as permutation_module
from fastncf.sampling.permutation import permutation

CPU = torch.device("cpu")


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**63))
def test_holds_each_number_once(size, seed_key):
    order = permutation(size, seed_key, CPU)
    assert order.dtype == torch.int32
    assert torch.equal(order.sort().values, torch.arange(size))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**63))
def test_kernel_equals_the_tensor_operations_of_other_devices(size, seed_key):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(permutation_module, "_CHUNK", 700)
        patch.setattr(permutation_module, "_fill_by_kernel", permutation_module._fill_by_tensors)
        by_tensors = permutation(size, seed_key, CPU)
    assert torch.equal(permutation(size, seed_key, CPU), by_tensors)


def test_is_int64_before_int32_overflows(monkeypatch):
    monkeypatch.setattr(permutation_module, "_fill_by_tensors", lambda order, *_: order)
    sizes = [2**31 - 2**17, 2**31, 2**33 + 12_345]
    dtypes = [permutation(size, 1, torch.device("meta")).dtype for size in sizes]
    assert dtypes == [torch.int32, torch.int64, torch.int64]


@pytest.mark.parametrize("threads", ["1", "3"])
def test_does_not_depend_on_the_number_of_threads(monkeypatch, threads):
    whole = permutation(5000, 7, CPU)
    monkeypatch.setenv("FASTNCF_NUM_THREADS", threads)
    assert torch.equal(permutation(5000, 7, CPU), whole)


def test_spreads_and_differs_by_key():
    size, lands = 64, torch.zeros(64, 64)
    for seed_key in range(4000):
        lands[torch.arange(size), permutation(size, seed_key * 2654435761, CPU)] += 1
    expected = 4000 / 64
    statistic = ((lands - expected) ** 2 / expected).sum().item()
    freedom = 63 * 63
    assert abs(statistic - freedom) < 6 * np.sqrt(2 * freedom)
    follows = permutation(10_000, 5, CPU).diff()
    assert (follows == 1).float().mean() < 0.001


def test_neighbours_land_independently():
    """Pairs of places next to each other, of sizes that the network does not fill: a flat table of where both go."""
    pairs = torch.zeros(8, 8)
    for seed_key in range(30):
        order = permutation(9_001, seed_key, CPU)
        cells = (order.long() * 8) // 9_001
        pairs += torch.bincount(cells[:-1] * 8 + cells[1:], minlength=64).view(8, 8)
    expected = pairs.sum() / 64
    statistic = ((pairs - expected) ** 2 / expected).sum().item()
    assert abs(statistic - 63) < 6 * np.sqrt(2 * 63)


@pytest.mark.cuda
def test_same_order_on_cuda():
    assert torch.equal(permutation(100_000, 3, torch.device("cuda")).cpu(), permutation(100_000, 3, CPU))
