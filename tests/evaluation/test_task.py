"""Ranks of several held-out items of a user, and metrics of them, beside plain references and trec_eval's measures."""

import math

import ir_measures
import numpy as np
import pytest
import torch

from fastncf.errors import ConfigError, DataError
from fastncf.evaluation.metrics import (
    METRICS,
    MISS,
    Metric,
    RankLists,
    default_metrics,
    measure,
    require_metrics,
    standard_error,
)
from fastncf.evaluation.task import RankingTask, rank_by_popularity, rank_by_scores, rank_task
from fastncf.kernels.cpu.factors import Factors
from tests.evaluation.test_ranking import Table, awkward

NAMES = tuple(METRICS)
CUTOFFS = (1, 3, 10, 50)


def random_task(generator: np.random.Generator, *, has_candidates: bool, most: int = 4) -> RankingTask:
    """Held-out items of some of 12 users among 30 items, in any order of the users."""
    users = generator.permutation(12).astype(np.int32)[:9]
    rows, negatives = [], np.full((len(users), 8), -1, dtype=np.int32)
    excluded = [np.empty(0, dtype=np.int32)] * 12
    for row in range(len(users)):
        items = generator.permutation(30)
        size, seen = int(generator.integers(1, most + 1)), int(generator.integers(0, 10))
        rows.append(items[:size])
        excluded[users[row]] = np.sort(items[size : size + seen])
        drawn = items[size + seen :][: generator.integers(1, 9)]
        negatives[row, : len(drawn)] = drawn
    return RankingTask(
        users=users,
        indptr=np.cumsum([0, *map(len, rows)]),
        positives=np.concatenate(rows).astype(np.int32),
        num_items=30,
        negatives=negatives if has_candidates else None,
        excluded=(np.cumsum([0, *map(len, excluded)]), np.concatenate(excluded).astype(np.int32)),
    )


def plain_ranks(scores: np.ndarray, task: RankingTask) -> list[list[int]]:
    """Sort each user's list, negatives before held-out items of the same score, and return the places of the latter."""
    found = []
    for row, user in enumerate(task.users):
        positives = task.positives[task.indptr[row] : task.indptr[row + 1]].tolist()
        if task.negatives is None:
            seen = set(task.excluded[1][task.excluded[0][user] : task.excluded[0][user + 1]].tolist())
            rivals = [item for item in range(task.num_items) if item not in {*seen, *positives}]
        else:
            rivals = [item for item in task.negatives[row].tolist() if item >= 0]
        entries = [
            (-scores[user, item] if scores[user, item] == scores[user, item] else -math.inf, 0) for item in rivals
        ]
        lost = [item for item in positives if not math.isfinite(scores[user, item])]
        entries += [(-scores[user, item], 1) for item in positives if item not in lost]
        places = [place for place, (_, is_positive) in enumerate(sorted(entries)) if is_positive]
        found.append(places + [MISS] * len(lost))
    return found


def as_lists(task: RankingTask, ranks: RankLists) -> list[list[int]]:
    assert np.array_equal(ranks.indptr, task.indptr)
    return [ranks.ranks[a:b].tolist() for a, b in zip(task.indptr, task.indptr[1:], strict=False)]


@pytest.mark.parametrize("has_candidates", [True, False])
@pytest.mark.parametrize("most", [1, 4, 12])
def test_all_ways_to_rank_equal_sorting(has_candidates, most):
    """Scores that are exact, tie, and are infinite or NaN now and then."""
    for seed in range(25):
        generator = np.random.default_rng(seed)
        task = random_task(generator, has_candidates=has_candidates, most=most)
        table = awkward(generator, 12, 30)
        expected = plain_ranks(table.numpy(), task)
        assert as_lists(task, rank_task(Table(table), task)) == expected
        assert as_lists(task, rank_by_scores(lambda u, i, t=table: t[u, i].numpy(), task)) == expected
        counts = generator.integers(0, 5, 30)
        popular = Factors(
            *(np.zeros((n, 1), np.float32) for n in (12, 30)), np.zeros(12, np.float32), counts.astype("f4")
        )
        expected = plain_ranks(np.tile(counts.astype(float), (12, 1)), task)
        assert as_lists(task, rank_task(popular, task)) == expected
        assert as_lists(task, rank_by_popularity(counts, task)) == expected
        vectors = [generator.integers(-2, 3, (n, 3)).astype(np.float32) for n in (12, 30)]
        factors = Factors(*vectors, np.zeros(12, np.float32), awkward(generator, 30).numpy())
        expected = plain_ranks(vectors[0] @ vectors[1].T + factors.item_bias, task)
        assert as_lists(task, rank_task(factors, task)) == expected


class Counting(Table):
    """A table that counts the pairs it is asked for."""

    asked = 0

    def forward(self, user_ids, item_ids):
        scores = super().forward(user_ids, item_ids)
        self.asked += scores.numel()
        return scores


@pytest.mark.parametrize("has_candidates", [True, False])
def test_the_items_of_a_user_are_scored_once(has_candidates):
    task = random_task(np.random.default_rng(3), has_candidates=has_candidates, most=12)
    model = Counting(awkward(np.random.default_rng(4), 12, 30))
    rank_task(model, task)
    once = len(task.users) * 30 if task.negatives is None else len(task.positives) + task.negatives.size
    assert once <= model.asked < 2 * once
    assert model.asked < len(task.positives) * (8 if has_candidates else 30) / 2


def plain_value(name: str, ranks: list[int], k: int) -> float:
    """The value of one user's list by the definition of the metric, one place after the other."""
    size, is_relevant = len(ranks), [place in set(ranks) for place in range(k)]
    hits = [sum(is_relevant[: place + 1]) for place in range(k)]
    match name:
        case "hr":
            return float(hits[k - 1] > 0)
        case "recall":
            return hits[k - 1] / size
        case "precision":
            return hits[k - 1] / k
        case "ndcg":
            gain = sum(1 / math.log2(place + 2) for place in range(k) if is_relevant[place])
            return gain / sum(1 / math.log2(place + 2) for place in range(min(k, size)))
        case "map":
            return sum(hits[place] / (place + 1) for place in range(k) if is_relevant[place]) / size
        case "mrr" | "mrr@k":
            first = min(ranks)
            return 1 / (first + 1) if name == "mrr" or first < k else 0.0
    raise ValueError(name)


def random_lists(generator: np.random.Generator, users: int) -> tuple[RankLists, list[list[int]]]:
    rows = []
    for _ in range(users):
        size = int(generator.integers(1, 15))
        ranks = np.sort(generator.choice(60, size=size, replace=False)).tolist()
        rows.append([*ranks[: size - 1], MISS] if size > 1 and generator.random() < 0.2 else ranks)
    lists = RankLists(np.cumsum([0, *map(len, rows)]), np.concatenate(rows).astype(np.int64))
    return lists, rows


def test_metrics_of_several_items_equal_their_definitions():
    lists, rows = random_lists(np.random.default_rng(1), 50)
    table = measure(lists, CUTOFFS, NAMES)
    assert list(table.values)[:7] == ["hr@1", "ndcg@1", "mrr", "mrr@1", "recall@1", "precision@1", "map@1"]
    assert len(table.values) == 6 * len(CUTOFFS) + 1
    for label, values in table.values.items():
        name, _, k = label.partition("@")
        name = "mrr@k" if name == "mrr" and k else name
        np.testing.assert_allclose(values, [plain_value(name, ranks, int(k or 1)) for ranks in rows], rtol=1e-12)
        assert table.means()[label] == values.mean()
        assert table.errors()[label] == pytest.approx(values.std(ddof=1) / math.sqrt(len(rows)))


@pytest.mark.parametrize("k", CUTOFFS)
def test_one_item_is_a_case_of_several(k):
    ranks = np.array([0, 3, 9, 10, 49, 50, MISS])
    one = measure(RankLists.single(ranks), k, NAMES)
    lists = RankLists(np.array([0, *range(1, 8), 9]), np.append(ranks, [0, 1]))  # a user of two items more
    for label, values in measure(lists, k, NAMES).values.items():
        np.testing.assert_allclose(values[:7], one.values[label], rtol=1e-15)


def test_metrics_agree_with_those_of_trec_eval():
    lists, rows = random_lists(np.random.default_rng(2), 60)
    judged = [
        ir_measures.Qrel(str(user), f"held out {number}", 1)
        for user, row in enumerate(rows)
        for number in range(len(row))
    ]
    run = []
    for user, row in enumerate(rows):
        placed = {rank: f"held out {number}" for number, rank in enumerate(row) if rank < MISS}
        run += [ir_measures.ScoredDoc(str(user), placed.get(at, f"other {at}"), -float(at)) for at in range(70)]
    theirs = {"hr": "Success", "ndcg": "nDCG", "recall": "R", "precision": "P", "map": "AP", "mrr@k": "RR"}
    for k in CUTOFFS:
        for name, measured in theirs.items():
            asked = ir_measures.parse_measure(f"{measured}@{k}")
            found = {int(one.query_id): one.value for one in ir_measures.iter_calc([asked], judged, run)}
            (values,) = measure(lists, k, [name]).values.values()
            np.testing.assert_allclose(values, [found[user] for user in range(60)], atol=1e-6, err_msg=f"{name}@{k}")


def test_metrics_that_cannot_be_measured_are_named(monkeypatch):
    several = RankLists(np.array([0, 2]), np.array([0, 1]))
    with pytest.raises(ConfigError, match=r"metrics: 'auc' is unknown; expected some of hr, ndcg, mrr, mrr@k, recall"):
        measure(several, 10, ["auc"])
    assert require_metrics(["recall@k", "mrr@k", "recall"]) == ("recall", "mrr@k")
    monkeypatch.setitem(METRICS, "last", Metric(lambda ranks, k: ranks == 4, has_cutoff=False))
    with pytest.raises(ConfigError, match="metrics: last is defined for one held-out item per user"):
        measure(several, 10, ["last"])
    assert default_metrics(has_several=True) == ("recall", "ndcg", "hr", "mrr")
    assert list(measure(several, 2).values) == ["recall@2", "ndcg@2", "hr@2", "mrr"]
    assert math.isnan(standard_error(np.array([1.0])))


def test_scores_that_are_not_one_for_each_pair_are_refused():
    task = random_task(np.random.default_rng(0), has_candidates=True)
    with pytest.raises(DataError, match=r"score: returned float64 values of shape \(2,\) for \d+ pairs"):
        rank_by_scores(lambda users, items: np.zeros(2), task)
    with pytest.raises(DataError, match="expected a number for each pair"):
        rank_by_scores(lambda users, items: np.array(["x"] * len(users)), task)


def test_a_tensor_of_scores_is_taken():
    task = random_task(np.random.default_rng(3), has_candidates=False)
    table = awkward(np.random.default_rng(3), 12, 30)
    ranks = rank_by_scores(lambda users, items: table[torch.from_numpy(users.copy()), torch.from_numpy(items)], task)
    assert as_lists(task, ranks) == plain_ranks(table.numpy(), task)
