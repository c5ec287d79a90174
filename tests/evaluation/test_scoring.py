"""Every consumer of scores keeps to one memory budget, and finds the same whatever the budget is."""

import gc
import itertools
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from fastncf import models
from fastncf.errors import DeviceError
from fastncf.evaluation import ranking, scoring, topk
from fastncf.evaluation.candidates import CandidateLists
from fastncf.kernels.cpu.topk import LeftOut
from fastncf.models import scorers
from fastncf.models.scorers import ModuleScorer, Scorer, make_scorer
from tests.conftest import random_csr
from tests.stages import make_stage

CPU = torch.device("cpu")
USERS, ITEMS = 40, 70
NAMES = ["mf", "gmf", "mlp", "neumf", "popularity", "module"]


class Distance(nn.Module):
    """A module of a user's own: it is scored by its ``forward``."""

    def __init__(self, num_users: int, num_items: int, dim: int = 3) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(num_users, dim), nn.Embedding(num_items, dim)

    def forward(self, user_ids: torch.Tensor, item_ids: torch.Tensor) -> torch.Tensor:
        return (self.users(user_ids) - self.items(item_ids)).square().sum(-1)


@torch.no_grad()
def whole_numbers(name: str, num_users: int = USERS, num_items: int = ITEMS, **settings: Any) -> nn.Module:
    """A model whose parameters are whole numbers: scores tie often, and are exact in whatever order they are summed."""
    generator = torch.Generator().manual_seed(5)
    if name == "module":
        model: nn.Module = Distance(num_users, num_items)
    else:
        stage = make_stage(**{"model": name, "dim": 3, "mlp_dim": 5, "layers": (6, 4)} | settings)
        counts = torch.randint(5, (num_items,), generator=generator)
        model = models.build(stage, num_users, num_items, counts)
    for parameter in model.parameters():
        parameter.copy_(torch.randint(-2, 3, parameter.shape, generator=generator))
    return model


def consumers(
    model: nn.Module, num_users: int = USERS, num_items: int = ITEMS, num_pairs: int = 300
) -> dict[str, Callable[[], tuple[np.ndarray, ...]]]:
    """Everything that is asked of a model, as functions that return NumPy arrays."""
    generator = np.random.default_rng(3)
    csr = random_csr(generator, num_users, num_items, max_degree=num_items // 3)
    users = np.arange(num_users, dtype=np.int32)
    free = [np.setdiff1d(np.arange(num_items), csr[1][csr[0][user] : csr[0][user + 1]]) for user in users]
    positives = np.array([generator.choice(items) for items in free], dtype=np.int32)
    lists = CandidateLists(users, positives, generator.integers(-1, num_items, (num_users, 9)).astype(np.int32))
    pair_users, pair_items = (generator.integers(0, n, num_pairs).astype(np.int32) for n in (num_users, num_items))
    found = {
        "candidates": lambda: (ranking.candidate_ranks(model, lists),),
        "catalogue": lambda: (ranking.catalogue_ranks(model, lists, *csr, num_items),),
        "top": lambda: topk.top_items(model, users, num_items, 4, LeftOut(*csr, np.empty(0, dtype=np.bool_))),
        "pairs": lambda: (scoring.score_pairs(model, pair_users, pair_items),),
    }
    return found


def set_budget(monkeypatch: pytest.MonkeyPatch, num_bytes: int) -> None:
    monkeypatch.setattr(scoring, "chunk_bytes", lambda device: num_bytes)


@pytest.mark.parametrize("name", NAMES)
def test_any_budget_gives_the_same_results(name, monkeypatch):
    """Budgets for all at once, for some rows, and for a part of a row; with tables and without."""
    model = whole_numbers(name)
    work = consumers(model)
    expected = {key: ask() for key, ask in work.items()}
    for num_bytes in (1 << 30, 20_000, 300):
        for budgets_of_tables in (0, 1 << 30):
            set_budget(monkeypatch, num_bytes)
            monkeypatch.setattr(scoring, "_TABLE_BUDGETS", budgets_of_tables)
            for key, arrays in expected.items():
                for array, again in zip(arrays, work[key](), strict=True):
                    np.testing.assert_array_equal(array, again)


class Recording(Scorer):
    """A scorer that notes what each call takes by its own account."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.calls: list[tuple[int, int]] = []
        """Pairs and bytes of each call."""
        self.has_tables = False

    def note(self, num_users: int, bytes_of_pairs: int, num_pairs: int) -> None:
        self.calls.append((num_users * num_pairs, num_users * (self.scorer.user_bytes() + num_pairs * bytes_of_pairs)))

    def lists(self, user_ids: torch.Tensor, item_ids: torch.Tensor) -> torch.Tensor:
        self.note(len(user_ids), self.scorer.list_bytes(), item_ids.shape[1])
        return self.scorer.lists(user_ids, item_ids)

    def catalogue(self, user_ids: torch.Tensor, num_items: int) -> torch.Tensor:
        self.note(len(user_ids), self.scorer.catalogue_bytes(), num_items)
        return self.scorer.catalogue(user_ids, num_items)

    def list_bytes(self) -> int:
        return self.scorer.list_bytes()

    def catalogue_bytes(self) -> int:
        return self.scorer.catalogue_bytes()

    def user_bytes(self) -> int:
        return self.scorer.user_bytes()

    def table_bytes(self) -> int:
        return self.scorer.table_bytes()

    def table_pairs(self) -> int:
        return self.scorer.table_pairs()

    def precompute(self) -> None:
        self.has_tables = True
        self.scorer.precompute()


@pytest.fixture
def recorded(monkeypatch) -> list[Recording]:
    """The scorers that are made during a test."""
    made: list[Recording] = []

    def make(model: nn.Module) -> Recording:
        made.append(Recording(make_scorer(model)))
        return made[-1]

    monkeypatch.setattr(scoring, "make_scorer", make)
    monkeypatch.setattr(scorers, "make_scorer", make)  # ranking and topk import it when it is needed
    return made


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("num_bytes", [200_000, 20_000, 3_000])
def test_no_call_takes_more_than_the_budget(name, num_bytes, recorded, monkeypatch):
    set_budget(monkeypatch, num_bytes)
    work = consumers(whole_numbers(name, layers=(30, 4)))
    for key, num_pairs in (
        ("candidates", USERS * 10),
        ("catalogue", USERS * ITEMS),
        ("top", USERS * ITEMS),
        ("pairs", 300),
    ):
        recorded.clear()
        work[key]()
        (scorer,) = recorded
        assert sum(pairs for pairs, _ in scorer.calls) == num_pairs
        assert max(taken for _, taken in scorer.calls) <= num_bytes
        few = len(scorer.calls) < num_pairs / 3  # chunks are not smaller than the budget asks for
        assert few or num_bytes < 20_000


def peak_bytes(ask: Callable[[], Any]) -> int:
    """The most memory of tensors and NumPy arrays together that is in use during a call, its results included."""
    ask()  # whatever is compiled or made once
    gc.collect()
    tracemalloc.start()
    try:
        ask()
        of_arrays = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        ask()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    in_use = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return of_arrays + int(in_use.max(initial=0))


@pytest.mark.parametrize(
    ("name", "tables"),
    [("mf", False), ("gmf", True), *itertools.product(["mlp", "neumf"], [False, True]), ("popularity", True)],
)
def test_the_memory_is_the_budget_and_the_tables(name, tables, monkeypatch):
    """Measured with a wide layer, as allocated; results and bookkeeping take less than 150 kB here."""
    budget, num_users, num_items = 1 << 20, 150, 500
    model = whole_numbers(name, num_users, num_items, dim=16, layers=(512, 16))
    set_budget(monkeypatch, budget)
    if not tables:
        monkeypatch.setattr(scoring, "_TABLE_BUDGETS", 0)
    table_bytes = make_scorer(model).table_bytes() if tables else 0
    for key, ask in consumers(model, num_users, num_items, num_pairs=20_000).items():
        assert peak_bytes(ask) <= budget + table_bytes + 150_000, key


def test_a_row_beyond_the_budget_takes_the_row_and_no_more(monkeypatch):
    """One user's catalogue by a layer of 2,048 would take 40 MB at once."""
    budget, num_items = 1 << 20, 5_000
    model = whole_numbers("mlp", 3, num_items, dim=4, layers=(2_048,))
    set_budget(monkeypatch, budget)
    monkeypatch.setattr(scoring, "_TABLE_BUDGETS", 0)
    work = consumers(model, 3, num_items)
    for key in ("catalogue", "top"):
        assert peak_bytes(work[key]) <= budget + 30 * num_items + 100_000, key


def test_tables_are_made_where_they_save_time_and_are_small(recorded, monkeypatch):
    model = whole_numbers("mlp")
    users, items = (np.zeros(3_000, dtype=np.int32) for _ in range(2))
    scoring.score_pairs(model, users[:10], items[:10])
    assert not recorded[-1].has_tables
    scoring.score_pairs(model, users, items)
    assert recorded[-1].has_tables
    smallest = -(-recorded[-1].table_bytes() // 64)
    set_budget(monkeypatch, smallest)
    scoring.score_pairs(model, users, items)
    assert recorded[-1].has_tables
    set_budget(monkeypatch, smallest - 1)
    scoring.score_pairs(model, users, items)
    assert not recorded[-1].has_tables


class Limited(ModuleScorer):
    """Runs out of memory for more than some pairs at once."""

    most = 8

    def lists(self, user_ids: torch.Tensor, item_ids: torch.Tensor) -> torch.Tensor:
        self.sizes.append(item_ids.numel())
        if item_ids.numel() > self.most:
            raise torch.OutOfMemoryError("no room")
        return super().lists(user_ids, item_ids)


def limit(monkeypatch: pytest.MonkeyPatch, most: int) -> list[int]:
    """Let all scorers run out of memory; return the pairs of their calls."""
    sizes: list[int] = []

    def make(model: nn.Module) -> Limited:
        scorer = Limited(model)
        scorer.most, scorer.sizes = most, sizes
        return scorer

    for place in (scoring, scorers):
        monkeypatch.setattr(place, "make_scorer", make)
    return sizes


@pytest.mark.parametrize("most", [45, 3])
def test_scoring_goes_on_in_smaller_chunks(most, monkeypatch):
    """Fewer rows at once, then a part of a row."""
    work = consumers(whole_numbers("gmf"))
    expected = {key: ask() for key, ask in work.items()}
    sizes = limit(monkeypatch, most)
    for key, num_pairs in (
        ("candidates", USERS * 10),
        ("catalogue", USERS * ITEMS),
        ("top", USERS * ITEMS),
        ("pairs", 300),
    ):
        sizes.clear()
        found = work[key]()
        for array, again in zip(expected[key], found, strict=True):
            np.testing.assert_array_equal(array, again)
        assert sum(size for size in sizes if size <= most) >= num_pairs  # a row is repeated where a part of it failed
        assert sizes[0] > most


def test_no_memory_at_all_is_said(monkeypatch):
    work = consumers(whole_numbers("gmf"))
    limit(monkeypatch, 0)
    for key in ("candidates", "catalogue", "top", "pairs"):
        with pytest.raises(
            DeviceError, match=r"cpu has no memory left to score one user's items .*; expected: a device"
        ):
            work[key]()


@pytest.mark.parametrize("is_training", [False, True])
def test_the_model_is_left_in_its_mode(is_training):
    model = whole_numbers("module").train(is_training)
    for ask in consumers(model).values():
        ask()
        assert model.training == is_training
    with scoring.evaluating(model, CPU):
        assert not model.training
        assert torch.is_inference_mode_enabled()
    assert model.training == is_training


def test_the_mode_is_restored_where_scoring_fails():
    class Broken(nn.Module):
        def forward(self, user_ids: torch.Tensor, item_ids: torch.Tensor) -> torch.Tensor:
            raise ZeroDivisionError

    model = Broken().train()
    with pytest.raises(ZeroDivisionError):
        scoring.score_pairs(model, np.zeros(1, np.int32), np.zeros(1, np.int32))
    assert model.training


def test_pairs_have_the_scores_of_forward():
    for name in NAMES:
        model = models.build(make_stage(model=name), 9, 8, torch.arange(8)) if name != "module" else Distance(9, 8)
        users, items = (np.random.default_rng(2).integers(0, 8, 100).astype(np.int32) for _ in range(2))
        with torch.no_grad():
            expected = model(torch.from_numpy(users), torch.from_numpy(items)).float().numpy()
        scores = scoring.score_pairs(model, users, items)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)
    assert scoring.score_pairs(model, users[:0], items[:0]).shape == (0,)
