"""Training by several processes against training by one."""

import os
import subprocess
import sys

import numpy as np

from tests.distributed.ranks import TRAINERS, trained_by


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


def test_ranks_agree_with_one_process(tmp_path):
    """In one test, since each process compiles or imports for seconds."""
    alone = {}
    for size in (1, 2, 4):
        (tmp_path / str(size)).mkdir()
        results = run(tmp_path / str(size), size)
        alone = alone or results[0]
        assert {name.partition(":")[0] for name in alone} == set(TRAINERS)
        for result in results:
            assert result.keys() == {name for name in alone if name.partition(":")[0] in trained_by(size)}
            for name, array in result.items():
                np.testing.assert_array_equal(array, results[0][name], err_msg=name)
                np.testing.assert_allclose(array, alone[name], rtol=1e-3, atol=2e-5, err_msg=name)
                if name.partition(":")[0] in ("mlp", "neumf") and "loss" not in name:
                    np.testing.assert_array_equal(array, alone[name], err_msg=f"{size} ranks, {name}")
