"""Compare fastncf with the usual loops in one run: ``pytest benchmarks``, with ``--shape ml-20m`` on the large data.

Each side checks its own output. A slow side works on the first users only, since its rate does not depend on their
number; rates are compared. ``python -m benchmarks.report`` makes the table of ``RESULTS.md`` and the picture from the
JSON.
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
from benchmarks.ceilings import hash_and_write
from benchmarks.conftest import CPU, Shape, first_users
from benchmarks.stages import stage_of
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
    """Return the user of each training interaction, (N,) int64."""
    return np.repeat(np.arange(split.num_users), np.diff(split.indptr))


def training_frame(split: Split) -> pd.DataFrame:
    """Return the training interactions as the notebook has them."""
    return pd.DataFrame({"userId": owners(split), "movieId": split.indices})


def check_negatives(split: Split, negatives: np.ndarray) -> None:
    """Check that the negatives of a million rows are unseen by their users, and that the first and last item occur."""
    owner = owners(split)
    positives = owner * split.num_items + split.indices  # sorted, since the CSR is
    rows = np.random.default_rng(0).integers(0, len(owner), 1_000_000)
    drawn = owner[rows, None] * split.num_items + negatives[rows]
    at = np.searchsorted(positives, drawn)
    assert not (positives[np.minimum(at, len(positives) - 1)] == drawn).any()
    assert negatives.min() == 0
    assert negatives.max() == split.num_items - 1


class TestNegatives:
    """Draw the negatives of an epoch."""

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
        table = alias_table("popularity", split.item_counts(), 0.75) if weighted else None
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
                alias_table=table,
            ),
            pair="negatives by popularity" if weighted else self.pair,
            side="fastncf",
            what="exact draws by popularity**0.75" if weighted else "exact uniform draws from the sorted CSR",
            units=out.size,
            unit="negatives",
        )
        check_negatives(split, out)

    def test_ceiling(self, timed: Callable[..., Any], split: Split) -> None:
        out = np.full(len(split.indices) * K, -1, dtype=np.int32)
        timed(
            lambda: hash_and_write(out),
            pair=self.pair,
            side="ceiling",
            what="hashing each position and writing it, without any test",
            units=out.size,
            unit="negatives",
        )
        assert out.min() >= 0


def loader_of(split: Split, *, num_epochs: int, batch_size: int = BATCH) -> EpochLoader:
    """Return a loader of shuffled epochs on the CPU."""
    return EpochLoader(SamplingSpec(split, K, seed=0, device=CPU, shuffle=True, num_epochs=num_epochs), batch_size)


def notebook(**changes: Any) -> Config:
    """Return the notebook's recipe on a CPU, shuffled."""
    return Config.notebook(shuffle=True, device="cpu", **changes)


def wait_for(loader: EpochLoader, number: int) -> None:
    """Wait until the thread has drawn an epoch."""
    assert isinstance(loader._sampler, PrefetchSampler)
    loader._sampler.prefetch(number).result()


class TestBatches:
    """Make the batches of an epoch without a model: by a DataLoader over drawn rows, and by fastncf with its draws."""

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
            with loader_of(part, num_epochs=1) as loader:
                return sum(batch.negatives.numel() + len(batch.user) for batch in loader.epoch(0))

        units = (1 + K) * len(part.indices)
        what = "drawn, shuffled and gathered"
        seen = timed(visit, pair=self.pair, side="fastncf", what=what, units=units, unit="samples")
        assert seen == units


class TestTraining:
    """Train one epoch of the notebook's model at its batch size of 512; only fastncf's time includes the draws."""

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
        with CPUMLPTrainer(model, part, stage_of(notebook(epochs=4), part)) as trainer:
            total = timed(
                lambda: trainer.epoch(next(numbers)),
                pair=self.pair,
                side="fastncf",
                what="CPU kernels, with the draws",
                units=(1 + K) * len(part.indices),
                unit="samples",
                rounds=3,
            )
        assert float(total) / len(part.indices) < 0.7


class TestHandOver:
    """Measure the time from the request of an epoch to its first batch."""

    def test_drawn_ahead(self, timed: Callable[..., Any], split: Split) -> None:
        def setup() -> tuple[tuple[EpochLoader], dict[str, Any]]:
            loader = loader_of(split, num_epochs=2).__enter__()
            next(loader.epoch(0))
            wait_for(loader, 1)
            return (loader,), {}

        batch = timed(
            lambda loader: next(loader.epoch(1)),
            pair="first batch of an epoch",
            side="fastncf",
            what="drawn while the epoch before it trains",
            units=1,
            unit="epochs",
            setup=setup,
            teardown=lambda loader: loader.__exit__(None, None, None),
        )
        assert len(batch.user) == BATCH // (1 + K)

    def test_cold(self, timed: Callable[..., Any], split: Split) -> None:
        batch = timed(
            lambda loader: next(loader.__enter__().epoch(0)),
            pair="first batch of the first epoch",
            side="fastncf",
            what="with all its negatives and its order",
            units=1,
            unit="epochs",
            setup=lambda: ((loader_of(split, num_epochs=2),), {}),
            teardown=lambda loader: loader.__exit__(None, None, None),
        )
        assert len(batch.user) == BATCH // (1 + K)


def test_drawing_ahead_costs_training_next_to_nothing(
    benchmark: Any, split: Split, shape: Shape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Train an epoch by one thread, in turns with and without another thread that draws the next epoch."""
    part = first_users(split, min(50_000, shape.slow))
    model = MLP(part.num_users, part.num_items, 8, (64, 32), torch.Generator().manual_seed(0))
    monkeypatch.setenv("FASTNCF_NUM_THREADS", "1")

    def seconds(num_epochs: int) -> float:
        stage = stage_of(notebook(epochs=num_epochs, batch_size=8192), part)
        with CPUMLPTrainer(model, part, stage) as trainer:
            wait_for(trainer.loader, 0)
            start = time.perf_counter()
            trainer.epoch(0)
            return time.perf_counter() - start

    def in_turns() -> list[float]:
        return [seconds(num_epochs=2) / seconds(num_epochs=1) for _ in range(15)]

    ratios = benchmark.pedantic(in_turns, rounds=1)
    benchmark.extra_info.update(
        pair="training while the next epoch is drawn, relative to training alone", ratios=ratios
    )
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_growth(benchmark: Any, split: Split, shape: Shape) -> None:
    """Measure the seconds per interaction of sampling and ordering an epoch of copies of the generated data."""
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
    benchmark.extra_info.update(pair="sampling and ordering an epoch, per interaction", growth=cost)
