"""fastncf beside what it replaces, in one run: ``pytest benchmarks``, and ``--shape ml-20m`` for the large data.

Each side checks its own output. A slow side works on the first users alone, since more of them would not make it
faster; rates are compared. ``python -m benchmarks.report`` turns the JSON into the README's table and picture.
"""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader

from benchmarks import naive
from benchmarks.conftest import CPU, Shape, first_users
from benchmarks.limits import hash_and_write
from fastncf.config import Config
from fastncf.data.split import Split
from fastncf.models.mlp import MLP
from fastncf.sampling.distributions import alias_table
from fastncf.sampling.loader import EpochLoader, PrefetchSampler, SamplingSpec
from fastncf.sampling.negatives import sample_negatives
from fastncf.sampling.permutation import permutation
from fastncf.trainers.cpu_mlp import CPUMLPTrainer

K = 4
BATCH = 512


def owners(split: Split) -> np.ndarray:
    return np.repeat(np.arange(split.num_users), np.diff(split.indptr))


def training_frame(split: Split) -> pd.DataFrame:
    return pd.DataFrame({"userId": owners(split), "movieId": split.indices})


def check_negatives(split: Split, negatives: np.ndarray) -> None:
    """Negatives of a million rows are items that their own users have not touched, and both ends of all are drawn."""
    owner = owners(split)
    positives = owner * split.num_items + split.indices  # ascending, as the CSR is
    rows = np.random.default_rng(0).integers(0, len(owner), 1_000_000)
    drawn = owner[rows, None] * split.num_items + negatives[rows]
    at = np.searchsorted(positives, drawn)
    assert not (positives[np.minimum(at, len(positives) - 1)] == drawn).any()
    assert negatives.min() == 0
    assert negatives.max() == split.num_items - 1


class TestNegatives:
    pair = "negatives of an epoch, 4 each"

    def test_loop(self, timed: Callable[..., Any], split: Split, shape: Shape) -> None:
        part = first_users(split, shape.slow)
        train, items, random = training_frame(part), np.arange(split.num_items), np.random.RandomState(0)
        triples = timed(
            lambda: naive.sample(train, items, K, random),
            pair=self.pair,
            side="loop",
            what="np.random.choice and a set of pairs",
            units=K * len(train),
            unit="negatives",
            rounds=3,
        )
        assert len(triples) == (1 + K) * len(train)

    @pytest.mark.parametrize("weighted", [False, True], ids=["uniform", "popularity"])
    def test_fastncf(self, timed: Callable[..., Any], split: Split, weighted: bool) -> None:
        out = np.empty((len(split.indices), K), dtype=np.int32)
        weights = alias_table("popularity", split.item_counts(), 0.75) if weighted else None
        epochs = iter(range(1000))
        timed(
            lambda: sample_negatives(
                split.indptr,
                split.indices,
                split.num_items,
                K,
                seed=0,
                epoch=next(epochs),
                out=out,
                alias_table=weights,
            ),
            pair="negatives by popularity" if weighted else self.pair,
            side="fastncf",
            what="exact draws by popularity**0.75" if weighted else "exact uniform draws from the sorted CSR",
            units=out.size,
            unit="negatives",
        )
        check_negatives(split, out)

    def test_limit(self, timed: Callable[..., Any], split: Split) -> None:
        out = np.full(len(split.indices) * K, -1, dtype=np.int32)
        timed(
            lambda: hash_and_write(out),
            pair=self.pair,
            side="limit",
            what="hash each position and write, no test",
            units=out.size,
            unit="negatives",
        )
        assert out.min() >= 0


def epochs_of(split: Split, *, last: int, batch_size: int = BATCH) -> EpochLoader:
    return EpochLoader(SamplingSpec(split, K, seed=0, device=CPU, shuffle=True, num_epochs=last), batch_size)


def drawn_ahead(epochs: EpochLoader, number: int) -> None:
    """Wait until the thread has drawn an epoch."""
    assert isinstance(epochs._sampler, PrefetchSampler)
    epochs._sampler.prefetch(number).result()


class TestBatches:
    """An epoch's batches without a model: a DataLoader over drawn rows, and what fastncf yields, draws included."""

    pair = "batches of an epoch"

    def test_loop(self, timed: Callable[..., Any], split: Split, shape: Shape) -> None:
        part = first_users(split, shape.slow)
        negatives = sample_negatives(part.indptr, part.indices, part.num_items, K, seed=0, epoch=0)
        items = np.column_stack([part.indices, negatives]).ravel()
        users, labels = np.repeat(owners(part), 1 + K), np.tile([1, *[0] * K], len(part.indices))
        rows = naive.Rows(list(zip(users.tolist(), items.tolist(), labels.tolist(), strict=True)))
        seen = timed(
            lambda: sum(len(batch[0]) for batch in DataLoader(rows, batch_size=BATCH)),
            pair=self.pair,
            side="loop",
            what="a DataLoader over rows that are drawn already",
            units=len(rows),
            unit="samples",
            rounds=3,
        )
        assert seen == len(rows)

    def test_fastncf(self, timed: Callable[..., Any], split: Split, shape: Shape) -> None:
        part = first_users(split, 10 * shape.slow)

        def visit() -> int:
            with epochs_of(part, last=1) as epochs:
                return sum(batch.negatives.numel() + len(batch.user) for batch in epochs.epoch(0))

        units = (1 + K) * len(part.indices)
        what = "drawn, put in order and gathered"
        seen = timed(visit, pair=self.pair, side="fastncf", what=what, units=units, unit="samples")
        assert seen == units


class TestTraining:
    """One epoch of the notebook's model at its own batch size of 512, draws not counted on either side."""

    pair = "training an epoch of the notebook's model, batch 512"

    def test_loop(self, timed: Callable[..., Any], split: Split, shape: Shape) -> None:
        part = first_users(split, shape.slow)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = naive.NCF(part.num_users, part.num_items)
        optimizer = torch.optim.Adam(model.parameters())
        random = np.random.RandomState(0)
        rows = naive.Rows(naive.sample(training_frame(part), np.arange(part.num_items), K, random))
        loss = timed(
            lambda: naive.pass_over(model, optimizer, rows),
            pair=self.pair,
            side="loop",
            what="DataLoader, a row at a time",
            units=len(rows),
            unit="samples",
            rounds=3,
        )
        assert loss < 0.7

    def test_fastncf(self, timed: Callable[..., Any], split: Split, shape: Shape) -> None:
        part = first_users(split, shape.slow)
        model = MLP(part.num_users, part.num_items, 8, (64, 32), torch.Generator().manual_seed(0))
        numbers = iter(range(4))  # a round to warm up before the three
        with CPUMLPTrainer(model, part, Config.notebook(epochs=4, shuffle=True)) as training:
            total = timed(
                lambda: training.epoch(next(numbers)),
                pair=self.pair,
                side="fastncf",
                what="the kernels of layers, their draws counted",
                units=(1 + K) * len(part.indices),
                unit="samples",
                rounds=3,
            )
        assert float(total) / len(part.indices) < 0.7


class TestHandOver:
    """From "epoch asked for" to "first batch ready": order, gather and hand-over counted."""

    def test_drawn_ahead(self, timed: Callable[..., Any], split: Split) -> None:
        def setup() -> tuple[tuple[EpochLoader], dict[str, Any]]:
            epochs = epochs_of(split, last=2).__enter__()
            next(epochs.epoch(0))
            drawn_ahead(epochs, 1)
            return (epochs,), {}

        batch = timed(
            lambda epochs: next(epochs.epoch(1)),
            pair="first batch of an epoch",
            side="fastncf",
            what="drawn while the epoch before it trained",
            units=1,
            unit="epochs",
            setup=setup,
            teardown=lambda epochs: epochs.__exit__(None, None, None),
        )
        assert len(batch.user) == BATCH // (1 + K)

    def test_cold(self, timed: Callable[..., Any], split: Split) -> None:
        batch = timed(
            lambda epochs: next(epochs.__enter__().epoch(0)),
            pair="first batch of the first epoch",
            side="fastncf",
            what="all its negatives and its order counted",
            units=1,
            unit="epochs",
            setup=lambda: ((epochs_of(split, last=2),), {}),
            teardown=lambda epochs: epochs.__exit__(None, None, None),
        )
        assert len(batch.user) == BATCH // (1 + K)


def test_drawing_ahead_costs_training_next_to_nothing(
    benchmark: Any, split: Split, shape: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread trains while one draws; the same epoch with and without another behind it, in turns."""
    part = first_users(split, min(50_000, shape.slow))
    model = MLP(part.num_users, part.num_items, 8, (64, 32), torch.Generator().manual_seed(0))
    monkeypatch.setenv("FASTNCF_NUM_THREADS", "1")

    def seconds(last: int) -> float:
        config = Config.notebook(epochs=last, batch_size=8192, shuffle=True)
        with CPUMLPTrainer(model, part, config) as training:
            drawn_ahead(training.epochs, 0)
            start = time.perf_counter()
            training.epoch(0)
            return time.perf_counter() - start

    def in_turns() -> list[float]:
        return [seconds(last=2) / seconds(last=1) for _ in range(15)]

    ratios = benchmark.pedantic(in_turns, rounds=1)
    benchmark.extra_info.update(pair="training while the next epoch is drawn, of training alone", ratios=ratios)
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_growth(benchmark: Any, split: Split, shape: Shape) -> None:
    """Seconds an interaction of sampling and ordering an epoch: whole users of the twin, again and again."""
    degrees = np.diff(split.indptr)

    def grow() -> dict[int, list[float]]:
        cost = {}
        for size in shape.growth:
            copies = -(-size // len(split.indices))
            indptr = np.concatenate([[0], np.cumsum(np.tile(degrees, copies))])
            indptr = indptr[: np.searchsorted(indptr, size) + 1]
            indices = np.tile(split.indices, copies)[: indptr[-1]]
            out = np.empty((len(indices), K), dtype=np.int32)
            times = []
            for epoch in range(max(6, 50_000_000 // size)):
                start = time.perf_counter()
                sample_negatives(indptr, indices, split.num_items, K, seed=0, epoch=epoch, out=out)
                order = permutation(len(indices), epoch, CPU)
                times.append((time.perf_counter() - start) / len(indices))
            assert 0 <= int(order.min()) < int(order.max()) == len(indices) - 1
            cost[len(indices)] = times[1:]  # the first writes to fresh pages
        return cost

    cost = benchmark.pedantic(grow, rounds=1)
    benchmark.extra_info.update(pair="sampling and ordering an epoch, an interaction", growth=cost)
