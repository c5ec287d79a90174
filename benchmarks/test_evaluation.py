"""Compare the evaluation with the notebook's loop, and with its arithmetic and its reads alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import naive
from benchmarks.ceilings import hash_and_write
from benchmarks.conftest import CPU, ML_1M, Shape, generated
from fastncf.data.interactions import read_interactions
from fastncf.data.split import Split, leave_one_out
from fastncf.evaluation.candidates import CandidateLists
from fastncf.evaluation.ranking import on_device, rank_candidates, rank_catalogue
from fastncf.models.mf import MF
from fastncf.models.mlp import MLP
from fastncf.models.scorers import ModuleScorer, score_lists
from fastncf.sampling.negatives import sample_candidates

MF_PAIR = "evaluation of mf with 64 dimensions, 1 + 99 drawn and ranked"


def untrained(name: str, split: Split) -> MF | MLP:
    """Return the notebook's mlp, or mf of 64 dimensions, with drawn parameters."""
    generator = torch.Generator().manual_seed(0)
    if name == "mlp":
        return MLP(split.num_users, split.num_items, 8, (64, 32), generator).eval()
    return MF(split.num_users, split.num_items, 64, generator).eval()


class TestEvaluation:
    """Draw and rank one list of 1 + 99 for each user: user by user, and all at once."""

    pair = "evaluation, 1 + 99 drawn and ranked for each user"

    def test_loop(self, timed: Callable[..., Any], split: Split, shape: Shape) -> None:
        model = untrained("mlp", split)
        users, items, random = range(shape.slow // 50), np.arange(split.num_items), np.random.RandomState(0)
        indptr, indices = split.seen()
        seen_items = {user: indices[indptr[user] : indptr[user + 1]].tolist() for user in users}
        pairs = list(zip(users, split.test_item.tolist(), strict=False))

        def draw_and_rank() -> tuple[dict[tuple[int, int], list[int]], list[int]]:
            drawn = naive.draw(pairs, seen_items, items, random)
            return drawn, naive.hits(model, drawn)

        drawn, hits = timed(
            draw_and_rank,
            pair=self.pair,
            side="loop",
            what="a set difference and np.random.choice, then the model, user by user",
            units=len(pairs),
            unit="users",
            rounds=3,
        )
        owner, positive = np.array(list(drawn), np.int32).T
        lists = on_device(CandidateLists(owner, positive, np.array(list(drawn.values()), np.int32)), CPU)
        assert hits == (rank_candidates(model, lists) < 10).int().tolist()

    @pytest.mark.parametrize("name", ["mlp", "mf"])
    def test_fastncf(self, timed: Callable[..., Any], split: Split, name: str) -> None:
        users = np.flatnonzero(split.test_item >= 0).astype(np.int32)
        ranked = untrained(name, split)

        def draw_and_rank() -> tuple[np.ndarray, torch.Tensor]:
            negatives = sample_candidates(*split.seen(), split.num_items, users, 99, seed_key=1)
            return negatives, rank_candidates(
                ranked, on_device(CandidateLists(users, split.test_item[users], negatives), CPU)
            )

        negatives, ranks = timed(
            draw_and_rank,
            pair=self.pair if name == "mlp" else MF_PAIR,
            side="fastncf",
            what="all lists at once, rank by counting",
            units=len(users),
            unit="users",
        )
        part = np.arange(500)
        scores = score_lists(ranked, torch.from_numpy(users[part]), torch.from_numpy(negatives[part]))
        positives = torch.from_numpy(split.test_item[users[part], None])
        plain = (~(scores < score_lists(ranked, torch.from_numpy(users[part]), positives))).sum(1)
        assert (plain != ranks[part]).float().mean() < 0.01  # sums in another order may swap near ties


@pytest.mark.parametrize("length", [99, 999])
class TestCandidates:
    """Draw distinct items that a user has not seen, for every user."""

    def test_fastncf(self, timed: Callable[..., Any], split: Split, length: int) -> None:
        users = np.flatnonzero(split.test_item >= 0).astype(np.int32)
        seen = split.seen()
        drawn = timed(
            lambda: sample_candidates(*seen, split.num_items, users, length, seed_key=1),
            pair=f"candidates, {length} distinct for each user",
            side="fastncf",
            what="exact, with a bitset of the items that are seen or drawn",
            units=len(users) * length,
            unit="candidates",
            rounds=3,
        )
        indptr, indices = seen
        for row in np.random.default_rng(0).integers(0, len(users), 500):
            seen_items = indices[indptr[users[row]] : indptr[users[row] + 1]]
            assert len(np.union1d(seen_items, drawn[row])) == len(seen_items) + length

    def test_ceiling(self, timed: Callable[..., Any], split: Split, length: int) -> None:
        out = np.full(np.count_nonzero(split.test_item >= 0) * length, -1, dtype=np.int32)
        timed(
            lambda: hash_and_write(out),
            pair=f"candidates, {length} distinct for each user",
            side="ceiling",
            what="hashing each position and writing it, without any test",
            units=out.size,
            unit="candidates",
            rounds=3,
        )
        assert out.min() >= 0


class TestListCeilings:
    """Do the least work that the evaluation of drawn lists needs."""

    def test_second_layer(self, timed: Callable[..., Any], split: Split) -> None:
        users = int(np.count_nonzero(split.test_item >= 0))
        rows = 100 * 500
        x, weight = torch.ones(rows, 64), torch.ones(64, 32)
        out = torch.empty(rows, 32)

        def multiply() -> torch.Tensor:
            for _ in range(-(-users // 500)):
                torch.mm(x, weight, out=out)
            return out

        product = timed(
            multiply,
            pair=TestEvaluation.pair,
            side="ceiling",
            what="the matrix products of the second layer alone",
            units=users,
            unit="users",
            rounds=3,
        )
        assert (product == 64).all()

    def test_item_rows(self, timed: Callable[..., Any], split: Split) -> None:
        users = np.flatnonzero(split.test_item >= 0).astype(np.int32)
        drawn = sample_candidates(*split.seen(), split.num_items, users, 99, seed_key=1)
        items = torch.from_numpy(np.column_stack([split.test_item[users], drawn]))
        table = torch.ones(split.num_items, 64)
        total = timed(
            lambda: torch.nn.functional.embedding_bag(items, table, mode="sum"),
            pair=MF_PAIR,
            side="ceiling",
            what="embedding_bag alone, which adds up the item rows of each list",
            units=len(items),
            unit="users",
            rounds=3,
        )
        assert (total == 100).all()


FULL = [("ml-1m", "mf"), ("ml-1m", "mlp"), ("large", "mf")]


@pytest.fixture(scope="module")
def splits(split: Split, shape: Shape) -> dict[str, Split]:
    """Return a split at the shape of MovieLens-1M, and the split of the suite where it is larger."""
    if shape == ML_1M:
        return {"ml-1m": split}
    return {"large": split, "ml-1m": leave_one_out(read_interactions(generated(ML_1M)))}


@pytest.mark.parametrize(("size", "name"), FULL, ids=["-".join(pair) for pair in FULL])
class TestFullRanking:
    """Rank each user's test item among all items that the user has not seen."""

    def split_of(self, splits: dict[str, Split], size: str) -> tuple[Split, str]:
        if size not in splits:
            pytest.skip("needs --shape ml-20m")
        split = splits[size]
        return split, f"{split.num_users:,} users x {split.num_items:,} items"

    def test_fastncf(self, timed: Callable[..., Any], splits: dict[str, Split], size: str, name: str) -> None:
        split, shape = self.split_of(splits, size)
        model = untrained(name, split)
        users = np.flatnonzero(split.test_item >= 0).astype(np.int32)
        excluded = split.indptr, split.indices
        arguments = torch.from_numpy(users), torch.from_numpy(split.test_item[users])
        ranks = timed(
            lambda: rank_catalogue(model, *arguments, *excluded, split.num_items),
            pair=f"full ranking by {name}, {shape}",
            side="fastncf",
            what="training items are left out of the count",
            units=len(users) * split.num_items,
            unit="scores",
            rounds=3,
        )
        part = np.random.default_rng(0).integers(0, len(users), 200)
        with torch.inference_mode():
            scores = ModuleScorer(model).catalogue(torch.from_numpy(users[part]), split.num_items)
        near = 0
        for row, score in zip(part, scores, strict=True):
            seen_items = split.indices[split.indptr[users[row]] : split.indptr[users[row] + 1]]
            positive = split.test_item[users[row]]
            not_lower = (score >= score[positive]).numpy()
            not_lower[seen_items] = False
            near += abs(int(not_lower.sum()) - 1 - int(ranks[row])) > 1  # sums in another order may swap near ties
        assert near < 5

    def test_ceiling(self, timed: Callable[..., Any], splits: dict[str, Split], size: str, name: str) -> None:
        """Multiply as often as the model: 64 times per score for mf, the second layer for the notebook's mlp."""
        split, shape = self.split_of(splits, size)
        users = int((split.test_item >= 0).sum())
        if name == "mf":
            rows, columns, inner = 150, split.num_items, 64
            calls = -(-users // rows)
        else:
            rows, columns, inner = 50_000, 32, 64
            calls = -(-users * split.num_items // rows)
        a, b, out = torch.ones(rows, inner), torch.ones(inner, columns), torch.empty(rows, columns)

        def multiply() -> torch.Tensor:
            for _ in range(calls):
                torch.mm(a, b, out=out)
            return out

        product = timed(
            multiply,
            pair=f"full ranking by {name}, {shape}",
            side="ceiling",
            what="the matrix products alone",
            units=users * split.num_items,
            unit="scores",
            rounds=3,
        )
        assert (product == inner).all()
