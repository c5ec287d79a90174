"""Check the comparison with implicit on generated data: both sides give the same answers, other ones are refused."""

import numpy as np
import pytest

import fastncf
from benchmarks import serving
from fastncf.data.synthetic import write_synthetic_movielens


@pytest.fixture(scope="module")
def ratings(tmp_path_factory):
    path = tmp_path_factory.mktemp("generated") / "ratings.csv"
    write_synthetic_movielens(path, 200, 100, 6_000)
    return path


@pytest.mark.filterwarnings("ignore:OpenBLAS")
def test_a_comparison_has_the_seconds_of_each_side_and_round(ratings):
    pytest.importorskip("implicit")
    limits = pytest.importorskip("threadpoolctl").threadpool_limits
    with limits(1, user_api="blas"):
        found = serving.measure(str(ratings), rounds=2, requests=5)
    assert (found["users"], found["items"]) == (200, 100)
    assert {what: {side: len(of) for side, of in sides.items()} for what, sides in found["seconds"].items()} == {
        "one": {"fastncf": 2, "implicit": 2},
        "all": {"fastncf": 2, "implicit": 2},
        "parquet": {"fastncf": 2},
    }
    assert len(found["memory"]) == 2
    assert found["same"] > 0.999
    shown = {"date": "", "machine": "", "versions": {"implicit": ""}, "rounds": 2, "files": [found]}
    assert len(list(serving.table(shown))) == 7


def test_other_answers_are_refused(ratings):
    rec = fastncf.fit(ratings, budget="fast", epochs=1)
    answer = rec.recommend(k=serving.K)
    ids = rec.items.require(answer["item"]).reshape(-1, serving.K)
    scores = answer["score"].to_numpy().reshape(ids.shape)
    assert serving.require_same(rec, answer, ids, scores) == 1
    with pytest.raises(AssertionError, match="of the places have the same item"):
        serving.require_same(rec, answer, np.roll(ids, 1, axis=1), scores)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        serving.require_same(rec, answer, ids, scores + 1)
