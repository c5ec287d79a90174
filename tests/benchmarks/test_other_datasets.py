"""Check the benchmark of other data sets on a generated file with and without times."""

import pytest

from benchmarks import other_datasets
from fastncf.data.synthetic import synthetic_movielens


@pytest.mark.parametrize("has_times", [True, False], ids=["times", "no times"])
def test_every_model_is_ranked_and_the_settings_of_peers_are_chosen(tmp_path, monkeypatch, has_times):
    pytest.importorskip("implicit")
    monkeypatch.setitem(other_datasets.PEERS, "implicit's BPR", (other_datasets.bpr, [(0.01, 2), (0.05, 2)]))
    frame = synthetic_movielens(120, 130, 4_000).select("userId", "movieId", "timestamp").collect()
    path = tmp_path / "ratings.csv"
    frame.select(frame.columns if has_times else frame.columns[:2]).write_csv(path)
    found = other_datasets.measure(path, seeds=1)
    assert set(found["rows"]) == {"fastncf's default", "popularity", "implicit's ALS", "implicit's BPR", "EASE"}
    assert set(found["chosen"]) == set(other_datasets.PEERS)
    assert found["settings"]["split"] == ("latest" if has_times else "random")
    assert found["settings"]["history"] == "bag"
    lines = list(other_datasets.table({"date": "2026-05-04", "seeds": 1, "files": {"ratings": found}}))
    assert lines[-1].startswith("| ratings | ")
