"""Training by several processes against training by one."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tests.distributed.ranks import TRAINERS


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return the state of each trainer after epochs by one process."""
    return run(tmp_path_factory.mktemp("alone"), 1)[0]


def run(folder, size: int) -> list[dict[str, np.ndarray]]:
    """Return the results of all ranks of a program."""
    environment = os.environ | {"FASTNCF_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    environment |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size), "STORE": str(folder / "store")}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.distributed.ranks", str(folder / str(rank))],
            env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(size)
    ]
    assert [process.wait(timeout=900) for process in processes] == [0] * size
    results = []
    for rank in range(size):
        with np.load(folder / f"{rank}.npz") as arrays:
            results.append(dict(arrays))
    return results


@pytest.mark.parametrize("size", [2, 4])
def test_ranks_agree_with_one_process(tmp_path, alone, size):
    results = run(tmp_path, size)
    assert {name.partition(":")[0] for name in alone} == set(TRAINERS)
    for result in results:
        assert result.keys() == alone.keys()
        for name, expected in alone.items():
            np.testing.assert_array_equal(result[name], results[0][name], err_msg=name)
            np.testing.assert_allclose(result[name], expected, rtol=1e-3, atol=2e-5, err_msg=name)
