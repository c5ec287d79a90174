import threading

import numpy as np
import pytest
import torch

from fastncf.sampling import loader as epoch_module
from fastncf.sampling.loader import EpochLoader
from fastncf.sampling.negatives import sample_negatives
from tests.conftest import plain_split, random_csr

CPU = torch.device("cpu")


def make(indptr, indices, num_items, *, batch_size=40, num_negatives=3, shuffle=True, last=3, seed=4) -> EpochLoader:
    return EpochLoader(
        plain_split(indptr, indices, num_items),
        num_negatives=num_negatives,
        batch_size=batch_size,
        seed=seed,
        device=CPU,
        shuffle=shuffle,
        last=last,
    )


@pytest.fixture
def csr():
    return random_csr(np.random.default_rng(1), 30, 50)


@pytest.mark.parametrize("batch_size", [1, 40, 10**9])
def test_each_interaction_once_with_its_own_negatives(csr, batch_size):
    indptr, indices = csr
    owner = np.repeat(np.arange(30), np.diff(indptr))
    with make(indptr, indices, 50, batch_size=batch_size) as epochs:
        for number in range(3):
            batches = list(epochs.epoch(number))
            assert len(batches) == epochs.batches
            user, positive, negatives = (torch.cat(parts).numpy() for parts in zip(*batches, strict=True))
            expected = sample_negatives(indptr, indices, 50, 3, seed=4, epoch=number)
            got = np.column_stack([user, positive, negatives])
            wanted = np.column_stack([owner, indices, expected])
            np.testing.assert_array_equal(got[np.lexsort(got.T[::-1])], wanted[np.lexsort(wanted.T[::-1])])


def test_batches_are_int32_and_the_last_may_be_partial(csr):
    with make(*csr, 50) as epochs:
        batches = list(epochs.epoch(0))
    sizes = [len(batch.user) for batch in batches]
    assert set(sizes[:-1]) == {10}  # 40 samples hold 10 interactions with 3 negatives each
    assert sum(sizes) == len(csr[1])
    for tensor in batches[1]:
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

    with make(*csr, 50) as epochs:
        epochs.order = Order()
        places = epochs.places()
        assert [*next(places), *next(places)] == list(range(20))
        assert epochs.order.taken == 2


def test_order_is_new_each_epoch_unless_fixed(csr):
    def order(shuffle: bool, number: int) -> torch.Tensor:
        with make(*csr, 50, shuffle=shuffle) as epochs:
            return torch.cat([batch.positive for batch in epochs.epoch(number)])

    assert not torch.equal(order(True, 0), order(True, 1))
    assert torch.equal(order(False, 0), order(False, 1))
    assert torch.equal(order(True, 1), order(True, 1))


def test_next_epoch_is_drawn_while_this_one_trains(csr, monkeypatch):
    asked = threading.Event()

    def spy(*args, epoch, **kwargs):
        if epoch == 1:
            asked.set()
        return sample_negatives(*args, epoch=epoch, **kwargs)

    monkeypatch.setattr(epoch_module, "sample_negatives", spy)
    with make(*csr, 50) as epochs:
        batches = epochs.epoch(0)
        next(batches)
        assert asked.wait(timeout=30)
        assert sum(1 for _ in batches) == epochs.batches - 1


def test_no_epoch_is_drawn_beyond_the_last(csr, monkeypatch):
    numbers = []
    monkeypatch.setattr(epoch_module, "sample_negatives", lambda *args, epoch, out, **_: numbers.append(epoch))
    with make(*csr, 50, last=2) as epochs:
        for number in range(2):
            list(epochs.epoch(number))
    assert numbers == [0, 1]


def test_an_error_in_the_sampler_reaches_the_loop(csr, monkeypatch):
    def fail(*args, **kwargs):
        raise MemoryError("no room")

    monkeypatch.setattr(epoch_module, "sample_negatives", fail)
    with make(*csr, 50) as epochs, pytest.raises(MemoryError, match="no room"):
        next(epochs.epoch(0))


@pytest.mark.cuda
def test_same_batches_on_cuda(csr):
    device = torch.device("cuda")
    split = plain_split(*csr, 50)
    options = {"num_negatives": 3, "batch_size": 40, "seed": 4, "shuffle": True, "last": 3}
    with EpochLoader(split, device=device, **options) as ours, EpochLoader(split, device=CPU, **options) as theirs:
        for number in range(3):
            for a, b in zip(ours.epoch(number), theirs.epoch(number), strict=True):
                assert all(torch.equal(x.cpu(), y) for x, y in zip(a, b, strict=True))
