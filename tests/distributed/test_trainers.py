"""Training by several processes against training by one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.distributed.ranks import SIZES, TRAINERS, trained_by


def results_of(folder: Path) -> list[dict[str, np.ndarray]]:
    """Return the results of all ranks that have written theirs to a folder."""
    results = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as arrays:
            results.append(dict(arrays))
    return results


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_ranks_agree_with_one_process(tmp_path):
    """In one test, since each process compiles or imports for seconds."""
    environment = os.environ | {"FASTNCF_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1"}
    subprocess.run([sys.executable, "-m", "tests.distributed.ranks", str(tmp_path)], env=environment, check=True)
    alone = {}
    for size in SIZES:
        results = results_of(tmp_path / str(size))
        assert len(results) == size
        alone = alone or results[0]
        assert {name.partition(":")[0] for name in alone} == set(TRAINERS)
        for result in results:
            assert result.keys() == {name for name in alone if name.partition(":")[0] in trained_by(size)}
            for name, array in result.items():
                np.testing.assert_array_equal(array, results[0][name], err_msg=name)
                np.testing.assert_allclose(array, alone[name], rtol=1e-3, atol=2e-5, err_msg=name)
                if name.partition(":")[0] in ("mlp", "neumf") and "loss" not in name:
                    np.testing.assert_array_equal(array, alone[name], err_msg=f"{size} ranks, {name}")
