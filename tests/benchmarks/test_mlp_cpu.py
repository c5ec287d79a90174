"""Check the comparison of the kernels of mlp and neumf with torch on little data."""

import numpy as np
import pytest

from benchmarks import mlp_cpu
from fastncf.data.interactions import read_interactions
from fastncf.data.split import leave_one_out
from fastncf.data.synthetic import synthetic_movielens


@pytest.fixture(scope="module")
def split():
    frame = synthetic_movielens(300, 200, 9_000).select("userId", "movieId", "timestamp").collect()
    return leave_one_out(read_interactions(frame))


def test_a_thinned_split_has_the_same_tables_and_fewer_interactions(split):
    thinned = mlp_cpu.thinned(split, 1_000)
    assert (thinned.num_users, thinned.num_items) == (split.num_users, split.num_items)
    assert 900 < len(thinned.indices) < 1_200
    for user in range(split.num_users):
        kept = thinned.indices[thinned.indptr[user] : thinned.indptr[user + 1]]
        assert np.isin(kept, split.indices[split.indptr[user] : split.indptr[user + 1]]).all()


@pytest.mark.parametrize("case", mlp_cpu.CASES[:2], ids=lambda case: case.settings["model"])
def test_a_comparison_has_rates_of_each_side_and_batch_size(split, case):
    small = mlp_cpu.Case(case.name, case.settings, kernels=(128, 512), torch=(512,), interactions=2_000)
    found = mlp_cpu.compare(small, split, rounds=1)
    assert {size: len(rates) for size, rates in found["kernels"].items()} == {"128": 1, "512": 1}
    assert {size: len(rates) for size, rates in found["torch"].items()} == {"512": 1}


def test_operations_and_bytes_of_the_notebooks_model():
    settings = mlp_cpu.CASES[0].settings
    assert mlp_cpu.flop(settings) == pytest.approx(6 * (8 * 64 * 1.2 + 64 * 32 + 32))
    assert mlp_cpu.moved_bytes(settings) == pytest.approx(1.2 * 2 * 4 * 32 + 4 * 7 / 5)  # 24 numbers and 8 of a row


def test_the_kernel_multiplies_as_often_as_is_counted():
    m, n, k = 8, 16, 3
    x, y, z = (np.ones(size, dtype=np.float32) for size in (m * k, k * n, m * n))
    mlp_cpu._multiply_often(5, (m, n, k), x, y, z)
    assert (z == 1 + 5 * k).all()
