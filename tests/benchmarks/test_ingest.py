"""Check that both sides of the reading benchmark account for all rows of a file."""

import pytest

from benchmarks.ingest import SIDES, in_a_process
from fastncf.data.synthetic import write_synthetic_movielens


@pytest.mark.parametrize("name", ["ratings.csv", "ratings.parquet"])
def test_both_sides_read_all_rows(tmp_path, name):
    path = tmp_path / name
    write_synthetic_movielens(path, 100, 60, 2_000, dialect="parquet" if name.endswith("parquet") else "grouplens")
    found = {side: in_a_process(side, path) for side in SIDES}
    assert found["fastncf"]["rows"] == found["polars"]["rows"] > 1_900
    assert all(one["seconds"] > 0 and one["peak"] > 10_000_000 for one in found.values())
