"""Check the comparison of commits: worktrees, both sides in turns with equal results, and what counts as slower."""

from pathlib import Path

import pytest

from benchmarks import compare_commits, workloads
from benchmarks.compare_commits import (
    SIDES,
    START_UP,
    Side,
    Size,
    compare,
    git,
    is_slower,
    measure,
    ratios,
    table,
    worktree,
)

ROOT = Path(__file__).parents[2]
SMALL = {"large": Size(300, 200, 6_000), "small": Size(200, 100, 3_000), "start": Size(200, 100, 3_000)}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a repository with two commits, whose file ``number`` says 1 and 2."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet")
    for number in ("1", "2"):
        (folder / "number").write_text(number, encoding="utf-8")
        git(folder, "add", "number")
        git(folder, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "--quiet", "--message", number)
    return folder


def test_a_worktree_has_its_commit_and_is_removed(repository, tmp_path):
    with worktree("HEAD~1", tmp_path / "tree", repository) as tree:
        assert (tree / "number").read_text(encoding="utf-8") == "1"
        assert len(git(repository, "worktree", "list").splitlines()) == 2
    assert not (tmp_path / "tree").exists()
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_an_unknown_commit_is_refused(repository, tmp_path):
    with pytest.raises(SystemExit, match="git worktree: "), worktree("nothing", tmp_path / "tree", repository):
        pass


def test_both_sides_are_measured_in_turns_and_find_the_same(monkeypatch):
    """The checkout, whose kernels are compiled already, stands for both commits."""
    turns = []
    run = Side.run

    def noted(side: Side, name: str) -> compare_commits.Answer:
        turns.append((name, id(side)))
        return run(side, name)

    monkeypatch.setattr(Side, "run", noted)
    measures = compare(dict.fromkeys(SIDES, ROOT), rounds=2, sizes=SMALL)
    names = {*workloads.FITS, *workloads.EVALUATIONS.values(), *START_UP}
    assert set(measures) == names - {"ingest"} | {"ingest: read", "ingest: split"}
    for row in measures.values():
        assert row["differs"] == []
        assert all(len(row[side]) == 2 and min(row[side]) > 0 for side in SIDES)
    for name in workloads.FITS:
        first, second, third, fourth = (side for other, side in turns if other == name)
        assert (first, second) == (fourth, third)
        assert first != second


def test_results_that_differ_are_found(monkeypatch):
    answers = iter([0.5, 0.5, 0.5, 0.4])  # the losses of base and head in round 0, of head and base in round 1

    def answer(side: object, name: str) -> compare_commits.Answer:
        return {"seconds": {"adding": 1.0}, "results": {"losses": [next(answers)], "counts": [3]}}

    monkeypatch.setattr(workloads, "FITS", {"adding": ("small", {})})
    monkeypatch.setattr(compare_commits, "START_UP", {})
    for name, method in {"send": lambda *_: None, "receive": lambda *_: None, "run": answer}.items():
        monkeypatch.setattr(Side, name, method)
    sides = {which: object.__new__(Side) for which in SIDES}
    assert measure(sides, 2) == {"adding": {"base": [1.0, 1.0], "head": [1.0, 1.0], "differs": ["losses"]}}


def test_a_side_that_imports_another_package_is_refused(tmp_path):
    (tmp_path / "fastncf").mkdir()
    with Side(ROOT, tmp_path) as side:
        side.tree = tmp_path
        with pytest.raises(SystemExit, match=r"expected the package of"):
            side.require_own_package()


def row(base: list[float], head: list[float], *differs: str) -> dict:
    return {"base": base, "head": head, "differs": list(differs)}


def test_ratios_are_those_of_rounds_and_of_the_best():
    found = ratios(row([1.0, 2.0, 4.0], [1.1, 1.8, 6.0]))
    assert found == pytest.approx({"median": 1.1, "low": 1.0, "high": 1.3, "best": 1.1})
    assert ratios(row([2.0], [1.0])) == {"median": 0.5, "low": 0.5, "high": 0.5, "best": 0.5}


@pytest.mark.parametrize(
    ("head", "expected"),
    [([1.05, 1.05, 1.05], True), ([1.02, 1.02, 1.02], False), ([1.0, 1.5, 1.5], False), ([1.1, 0.9, 1.1], False)],
    ids=["all", "within the threshold", "best rounds alike", "best round faster"],
)
def test_slower_is_what_median_and_best_rounds_show(head, expected):
    assert is_slower(row([1.0, 1.0, 1.0], head), 0.03) is expected


def test_the_table_marks_what_is_slower_or_differs():
    found = {
        "date": "2026-05-04",
        "machine": "Abacus, 2 cores",
        "versions": {"python": "3.11.7"},
        "base": "a" * 40,
        "head": "b" * 40,
        "rounds": 1,
        "threshold": 0.03,
        "measures": {"counting": row([1.0], [1.2]), "adding": row([0.2], [0.1], "losses")},
    }
    text = "\n".join(table(found))
    assert "commit bbbbbbbbbbbb against aaaaaaaaaaaa, 1 rounds" in text
    assert "| counting | 1 s | 1.2 s | **1.200** (1.200 to 1.200) | 1.200 | slower |" in text
    assert "| adding | 200 ms | 100 ms | **0.500** (0.500 to 0.500) | 0.500 | losses differ |" in text


def test_a_worker_that_fails_ends_the_comparison(tmp_path):
    with Side(ROOT, tmp_path) as side:
        side.require_own_package()
        with pytest.raises(SystemExit, match="has failed"):
            side.run("mlp")  # there is no small.csv
