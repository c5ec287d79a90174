import threading
from collections.abc import Iterable
from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fastncf.errors import ConfigError
from fastncf.sampling import loader as loader_module
from fastncf.sampling.distributions import DISTRIBUTIONS, alias_table
from fastncf.sampling.loader import Batch, EpochLoader, SamplingSpec
from fastncf.sampling.negatives import sample_negatives
from fastncf.stage import Stage
from fastncf.threads import check_cancelled
from fastncf.trainers.sharding import Users
from tests.conftest import plain_split, random_csr

CPU = torch.device("cpu")


def spec(indptr, indices, num_items, **changes) -> SamplingSpec:
    split = plain_split(indptr, indices, num_items)
    return SamplingSpec(split, num_negatives=3, seed=4, device=CPU, shuffle=True, num_epochs=3)._replace(**changes)


def make(csr, *, batch_size=40, **changes) -> EpochLoader:
    return EpochLoader(spec(*csr, 50, **changes), batch_size)


def stage(**changes) -> Stage:
    settings = {
        "model": "mlp",
        "trainer": "autograd",
        "optimizer": "adam",
        "device": "cpu",
        "dim": 8,
        "mlp_dim": 8,
        "layers": (8,),
        "dropout": 0.0,
        "init_std": 0.1,
        "loss": "bce",
        "num_negatives": 3,
        "negatives": "uniform",
        "negatives_exponent": 0.75,
        "history": "none",
        "epochs": 3,
        "batch_size": 40,
        "learning_rate": 0.1,
        "schedule": "constant",
        "l2": 0.0,
        "shuffle": True,
        "precision": "float32",
        "deterministic": False,
        "seed": 4,
    }
    return Stage(**(settings | changes))


@pytest.fixture
def csr():
    return random_csr(np.random.default_rng(1), 30, 50)


def assert_same_epochs(ours: EpochLoader, theirs: EpochLoader, numbers) -> None:
    assert ours.batches == theirs.batches
    for number in numbers:
        for a, b in zip(ours.epoch(number), theirs.epoch(number), strict=True):
            assert all(torch.equal(x.cpu(), y.cpu()) for x, y in zip(a[:3], b[:3], strict=True))
            assert a.weights is b.weights is None


@pytest.mark.parametrize("batch_size", [1, 40, 10**9])
def test_each_interaction_once_with_its_own_negatives(csr, batch_size):
    indptr, indices = csr
    owner = np.repeat(np.arange(30), np.diff(indptr))
    with make(csr, batch_size=batch_size) as loader:
        for number in range(3):
            batches = list(loader.epoch(number))
            assert len(batches) == loader.batches
            user, positive, negatives = (torch.cat(parts).numpy() for parts in list(zip(*batches, strict=True))[:3])
            expected = sample_negatives(indptr, indices, 50, 3, seed=4, epoch=number)
            got = np.column_stack([user, positive, negatives])
            wanted = np.column_stack([owner, indices, expected])
            np.testing.assert_array_equal(got[np.lexsort(got.T[::-1])], wanted[np.lexsort(wanted.T[::-1])])


def test_batches_are_int32_and_the_last_may_be_partial(csr):
    with make(csr) as loader:
        batches = list(loader.epoch(0))
    sizes = [len(batch.user) for batch in batches]
    assert set(sizes[:-1]) == {10}  # 40 samples hold 10 interactions with 3 negatives each
    assert sum(sizes) == len(csr[1])
    for tensor in batches[1][:3]:
        assert tensor.dtype == torch.int32
        assert tensor.is_contiguous()


def test_a_batch_waits_for_no_later_one(csr):
    class Order:
        taken = 0

        def __len__(self) -> int:
            return 10**6

        def __getitem__(self, places: slice) -> range:
            self.taken += 1
            return range(10**6)[places]

    with make(csr) as loader:
        loader.order = Order()
        indices = loader.batch_indices()
        assert [*next(indices), *next(indices)] == list(range(20))
        assert loader.order.taken == 2


def test_order_is_new_each_epoch_unless_fixed(csr):
    def order(shuffle: bool, number: int) -> torch.Tensor:
        with make(csr, shuffle=shuffle) as loader:
            return torch.cat([batch.positive for batch in loader.epoch(number)])

    assert not torch.equal(order(True, 0), order(True, 1))
    assert torch.equal(order(False, 0), order(False, 1))
    assert torch.equal(order(True, 1), order(True, 1))


def test_epochs_may_be_loaded_in_any_order(csr):
    """As when a training is resumed: an epoch that was drawn in advance does not take the place of another."""
    expected = {}
    with make(csr, num_epochs=6) as loader:
        for number in range(6):
            loader.load(number)
            expected[number] = loader.order.clone(), loader.negatives.clone()
    with make(csr, num_epochs=6) as loader:
        for number in (2, 3, 0, 4, 4, 1, 5, 5, 0):
            loader.load(number)
            assert torch.equal(loader.order, expected[number][0])
            assert torch.equal(loader.negatives, expected[number][1])


def test_next_epoch_is_drawn_while_this_one_trains(csr, monkeypatch):
    asked = threading.Event()

    def spy(*args, epoch, **kwargs):
        if epoch == 1:
            asked.set()
        return sample_negatives(*args, epoch=epoch, **kwargs)

    monkeypatch.setattr(loader_module, "sample_negatives", spy)
    with make(csr) as loader:
        batches = loader.epoch(0)
        next(batches)
        assert asked.wait(timeout=30)
        assert sum(1 for _ in batches) == loader.batches - 1


def test_no_epoch_is_drawn_beyond_the_last(csr, monkeypatch):
    numbers = []
    monkeypatch.setattr(loader_module, "sample_negatives", lambda *args, epoch, out, **_: numbers.append(epoch))
    with make(csr, num_epochs=2) as loader:
        for number in range(2):
            list(loader.epoch(number))
    assert numbers == [0, 1]


def test_an_error_in_the_sampler_reaches_the_loop(csr, monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError("no room")

    monkeypatch.setattr(loader_module, "sample_negatives", fail)
    with make(csr) as loader:
        with pytest.raises(MemoryError, match="no room"):
            next(loader.epoch(0))
        monkeypatch.undo()
        next(loader.epoch(0))  # it is drawn again, not remembered


def test_the_thread_ends_with_the_loader(csr, monkeypatch):
    begun, drawn = threading.Event(), []

    def draw_for_long(*args, epoch, out, **kwargs):
        if epoch == 1:
            begun.set()
            try:
                while True:
                    check_cancelled()
            finally:
                drawn.append(epoch)
        return sample_negatives(*args, epoch=epoch, out=out, **kwargs)

    monkeypatch.setattr(loader_module, "sample_negatives", draw_for_long)
    loader = make(csr)
    loader.load(0)
    assert begun.wait(30)
    loader.close()
    assert drawn == [1]
    assert loader.sampling_seconds() > 0


@pytest.mark.parametrize("negatives", ["uniform", "popularity", "rare"])
def test_a_stage_says_how_its_epochs_are_drawn(csr, monkeypatch, negatives):
    monkeypatch.setitem(DISTRIBUTIONS, "rare", lambda counts, exponent: (1.0 + counts) ** -exponent)
    asked = stage(negatives=negatives, negatives_exponent=1.5, batch_size=64, num_negatives=2, seed=9, shuffle=False)
    split = plain_split(*csr, 50)
    counts = np.bincount(csr[1], minlength=50)
    table = alias_table(negatives, counts, 1.5)
    expected = spec(*csr, 50, num_negatives=2, seed=9, shuffle=False, alias_table=table)
    with EpochLoader.from_stage(split, asked) as ours, EpochLoader(expected, 64) as theirs:
        assert ours.interactions_per_batch == 21
        assert_same_epochs(ours, theirs, range(3))


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("negatives", ["uniform", "popularity"])
def test_the_samples_of_all_ranks_are_those_of_one_process(csr, size, negatives):
    split, asked = plain_split(*csr, 50), stage(negatives=negatives)
    ranks = [Users.of(SimpleNamespace(rank=rank, size=size), split.indptr) for rank in range(size)]
    with ExitStack() as stack:
        whole = stack.enter_context(EpochLoader.from_stage(split, asked))
        loaders = [stack.enter_context(EpochLoader.from_stage(split, asked, rows=users.rows)) for users in ranks]
        for number in range(3):
            expected = samples_of(whole.epoch(number))
            found = []
            for loader, users in zip(loaders, ranks, strict=True):
                loader.load(number)
                found += samples_of(map(loader.gather, map(users.own, loader.batch_indices())))
            assert sorted(found) == sorted(expected)


def samples_of(batches: Iterable[Batch]) -> list[list[int]]:
    """Return user, positive and negatives of each interaction of batches."""
    return [
        row
        for batch in batches
        for row in torch.cat([batch.user[:, None], batch.positive[:, None], batch.negatives], dim=1).tolist()
    ]


def test_a_stage_of_an_unknown_distribution_is_refused(csr):
    with pytest.raises(ConfigError, match="negatives='rare': expected 'uniform' or 'popularity'"):
        EpochLoader.from_stage(plain_split(*csr, 50), stage(negatives="rare"))


@pytest.mark.cuda
def test_same_batches_on_cuda(csr):
    with make(csr, device=torch.device("cuda")) as ours, make(csr) as theirs:
        assert_same_epochs(ours, theirs, range(3))
