"""The comparison with peers: its split, its evaluator, a system in a process of its own, and the page."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.peers.adapters.base import Clock
from benchmarks.peers.adapters.plain import EASE
from benchmarks.peers.campaign import FitFailedError, Limits, measure, questions, run_fit
from benchmarks.peers.evaluator import check_lists, list_metrics, score_metrics
from benchmarks.peers.histories import Histories
from benchmarks.peers.page import table
from benchmarks.peers.reading import read_histories
from benchmarks.peers.systems import ENVIRONMENTS, SYSTEMS

LIMITS = Limits(tuning=30, fit=30, answers=60, threads=1)


@pytest.fixture(scope="module")
def histories() -> Histories:
    """Return 40 users with 3 to 12 of 30 items each, and one with a single item."""
    random = np.random.default_rng(1)
    rows = [random.permutation(30)[: random.integers(3, 13)].astype(np.int32) for _ in range(40)]
    rows.append(np.array([4], dtype=np.int32))
    return Histories(30, np.concatenate([[0], np.cumsum(list(map(len, rows)))]), np.concatenate(rows))


def test_the_last_items_are_held_out_and_no_candidate_is_seen(histories: Histories) -> None:
    validation, test = questions(histories, 25, seed=3)
    for user in range(histories.num_users):
        row = histories.items[slice(*histories.indptr[user : user + 2])]
        if len(row) == 1:
            assert test.held_out[user] == validation.held_out[user] == -1
            continue
        assert (test.held_out[user], validation.held_out[user]) == (row[-1], row[-2])
        given = test.histories.items[slice(*test.histories.indptr[user : user + 2])]
        assert given.tolist() == row[:-1].tolist()
        drawn = test.candidates[user][test.candidates[user] >= 0]
        assert len(drawn) == min(25, 30 - len(row)) == len(set(drawn))
        assert not set(drawn) & set(row)


def test_the_metrics_are_those_of_the_definitions() -> None:
    random = np.random.default_rng(2)
    lists = np.argsort(random.random((50, 20)), axis=1)[:, :10]
    lists[3, 4:] = -1
    held_out = random.integers(-1, 20, 50)
    gains = [
        next((1 / np.log2(place + 2) for place, item in enumerate(row) if item == wanted), 0.0)
        for row, wanted in zip(lists.tolist(), held_out.tolist(), strict=True)
        if wanted >= 0
    ]
    found = list_metrics(lists, held_out)
    assert found["full/ndcg@10"] == pytest.approx(np.mean(gains))
    assert found["full/hr@10"] == pytest.approx(np.mean([gain > 0 for gain in gains]))
    assert found["full/ndcg@10 error"] == pytest.approx(np.std(gains, ddof=1) / len(gains) ** 0.5)


def test_ties_scores_that_are_not_finite_and_places_that_are_filled_up() -> None:
    others = np.linspace(0, 1, 12)
    scores = np.array([[2.0, *others], [0.0, *others], [np.nan, *others], [1.0, *others], [2.0, *others * np.nan]])
    is_candidate = np.ones((5, 12), dtype=bool)
    is_candidate[3, -1] = False  # the only one that is not lower
    found = score_metrics(scores, is_candidate)
    assert found["hr@10"] == pytest.approx(2 / 5)  # NaN of a candidate counts against the item
    assert found["ndcg@10"] == pytest.approx(2 / 5)


@pytest.mark.parametrize(
    ("row", "said"), [([1, 2, 5], "has seen"), ([0, 2, 2], "twice"), ([0, 9, 1], "expected -1 to 8")]
)
def test_lists_that_no_system_may_give_are_refused(row: list[int], said: str) -> None:
    lists = np.array([[1, 2, -1], row])
    with pytest.raises(ValueError, match=said):
        check_lists(lists, np.array([0, 0, 1]), np.array([5]), 9)
    check_lists(lists[:1], np.array([0, 1]), np.array([5]), 9)


def test_a_system_runs_in_a_process_of_its_own(histories: Histories, tmp_path: Path) -> None:
    asked = questions(histories, 10, seed=0)
    system = replace(SYSTEMS["popularity"], trials=({}, {"no": "difference"}))
    found = measure(system, Path(sys.executable), asked, tmp_path, LIMITS)
    assert found["settings"] == {}
    assert [trial["ndcg"] for trial in found["trials"]] == [found["trials"][0]["ndcg"]] * 2
    counts = np.bincount(asked[1].histories.items, minlength=30)
    hits = []
    for user in np.flatnonzero(asked[1].held_out >= 0):
        seen = asked[1].histories.items[slice(*asked[1].histories.indptr[user : user + 2])]
        order = [item for item in np.argsort(-counts, kind="stable") if item not in seen]
        wanted = asked[1].held_out[user]
        best = sum(counts[item] > counts[wanted] for item in order)
        worst = sum(counts[item] >= counts[wanted] for item in order)
        hits.append((worst <= 10, best < 10))
    surely, perhaps = np.mean(hits, axis=0)
    assert surely <= found["metrics"]["full/hr@10"] <= perhaps
    assert found["peak_bytes"] > 10_000_000
    page = {
        "machine": "m",
        "versions": {"python": "3"},
        "systems": {"popularity": {"bytes": 1}, "ease": {"failed": "no wheel"}},
        "data": {
            "d": {
                **{"users": 1, "items": 2, "interactions": 3},
                "results": {
                    "popularity": {**found, "load": 1.0, "limits": {"tuning": 1, "fit": 1, "answers": 1, "threads": 1}}
                },
            }
        },
    }
    assert f"{found['metrics']['full/ndcg@10']:.4f}" in "\n".join(table(page))
    lines = [line for line in table(page) if line.startswith("|")]
    assert {line.count("|") for line in lines} == {14}
    assert "EASE could not be installed: no wheel" in "\n".join(table(page))


def test_a_fit_that_fails_says_why(histories: Histories, tmp_path: Path) -> None:
    asked = questions(histories, 0, seed=0)[1]
    with pytest.raises(FitFailedError, match="KeyError"):
        run_fit(SYSTEMS["ease"], Path(sys.executable), {}, asked, tmp_path, seconds=1, limits=LIMITS)


def test_ease_solves_its_normal_equations(histories: Histories) -> None:
    pytest.importorskip("scipy")
    adapter = EASE({"l2": 7.0}, 0)
    adapter.prepare(histories)
    adapter.fit(Clock(10))
    dense = adapter.matrix.toarray().astype(np.float64)
    residual = dense.T @ (dense - dense @ adapter.weights) - 7.0 * adapter.weights
    np.fill_diagonal(residual, 0)  # where the constraint of a zero diagonal holds
    assert abs(residual).max() < 1e-3


def test_files_are_read_in_the_order_of_time(tmp_path: Path) -> None:
    ratings = tmp_path / "ratings.tsv"
    ratings.write_text("userId\titemId\ttimestamp\n1\t10\t30\n1\t11\t20\n2\t10\t1\n1\t12\t30\n2\t12\t1\n1\t10\t40\n")
    sequences = tmp_path / "sequences.txt"
    sequences.write_text("1 11 12 10\n2 10 12\n")
    for path in (ratings, sequences):
        found = read_histories(path)
        assert found.indptr.tolist() == [0, 3, 5]
        assert found.items.tolist() == [1, 2, 0, 0, 2]


def test_every_system_has_an_environment_and_settings() -> None:
    for system in SYSTEMS.values():
        assert system.trials
        assert system.environment is None or system.environment in ENVIRONMENTS
