"""Adam's way through a batch that does not fit, on the CPU; what needs a device is in benchmarks/gpu.py."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastncf
from fastncf.config import Config
from fastncf.device import enough_memory, reproducible
from fastncf.errors import DeviceError
from fastncf.evaluation.candidates import CandidateLists
from fastncf.evaluation.metrics import metric_means
from fastncf.evaluation.ranking import rank_candidates
from fastncf.models import build
from fastncf.trainers import autograd as adam_module
from fastncf.trainers.autograd import Adam, score_batch
from fastncf.trainers.neural import stage_of
from tests.conftest import checkerboard, plain_split, random_csr

CPU = torch.device("cpu")


def trained(split, config):
    model = build(stage_of(config), split.num_users, split.num_items, torch.zeros(split.num_items))
    with Adam(model, split, config, CPU) as adam:
        totals = [float(adam.epoch(number)) for number in range(config.epochs)]
    return model.state_dict(), totals, adam


class NothingIsRead(TorchDispatchMode):
    """An error for what a device would make the host wait for: a value, or a shape that depends on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & set(func.tags), func
        return func(*args, **(kwargs or {}))


class Looks(nn.Module):
    """A module that looks at a value."""

    def __init__(self):
        super().__init__()
        self.item = nn.Embedding(50, 1)

    def forward(self, users, items):
        scores = self.item(items).squeeze(-1)
        return scores if float(scores.detach().sum()) > 0 else -scores


@pytest.mark.parametrize("name", ["mf", "gmf", "mlp", "neumf"])
def test_nothing_in_a_step_or_in_ranking_lists_waits_for_a_device(name):
    split = plain_split(*random_csr(np.random.default_rng(), 30, 50), 50)
    for loss, l2, precision in (("bce", 0.0, "float32"), ("bpr", 0.1, "bfloat16")):
        settings = {"model": name, "dim": 4, "layers": (8, 4), "dropout": 0.1, "batch_size": 90, "epochs": 1}
        config = Config(**settings, loss=loss, l2=l2, precision=precision).with_recipe("adam", "none")
        model = build(stage_of(config), 30, 50, torch.zeros(50))
        users, items = torch.arange(7, dtype=torch.int32), torch.randint(50, (7, 10), dtype=torch.int32)
        lists = CandidateLists(users, items[:, 0].contiguous(), items[:, 1:])
        with Adam(model, split, config, CPU) as adam:
            adam.epochs.load(0)
            with NothingIsRead():
                losses = adam._backward(None)
                means = metric_means(rank_candidates(model, lists), 10)
        assert all(parameter.grad is not None for parameter in model.parameters())
        assert losses[0] > 0
        assert means[0] == 1  # ten items are in every first ten
    with Adam(Looks(), split, config, CPU) as adam:
        adam.epochs.load(0)
        with NothingIsRead(), pytest.raises(AssertionError, match="local_scalar"):
            adam._backward(None)


@pytest.mark.parametrize("loss", ["bce", "bpr"])
def test_a_batch_in_parts_is_the_same_batch(loss, monkeypatch):
    split = plain_split(*random_csr(np.random.default_rng(), 30, 50), 50)
    model = "neumf" if loss == "bce" else "mf"
    settings = {"model": model, "dim": 4, "layers": (6, 3), "num_negatives": 3, "batch_size": 160, "loss": loss}
    config = Config(**settings, epochs=2, learning_rate=0.01, l2=0.01).with_recipe("adam", "none")
    whole, totals, _ = trained(split, config)

    def little_memory(model, batch):
        if len(batch.user) > 11:
            raise torch.OutOfMemoryError("no room")
        return score_batch(model, batch)

    monkeypatch.setattr(adam_module, "score_batch", little_memory)
    parts, part_totals, adam = trained(split, config)
    assert adam.part == 10  # of 40
    np.testing.assert_allclose(part_totals, totals, rtol=1e-5)
    if loss == "bpr":  # biases cancel out of a difference of scores, and Adam makes whole steps of the rounding
        whole = {name: tensor for name, tensor in whole.items() if "bias" not in name}
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-3, atol=1e-4)


def test_no_memory_at_all_is_said(monkeypatch):
    def no_memory(model, batch):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(adam_module, "score_batch", no_memory)
    with pytest.raises(DeviceError, match=r"no memory left for a step of MF over 1 interactions; accepted: smaller"):
        fastncf.fit(checkerboard(), optimizer="adam", epochs=1)


def test_memory_that_runs_out_elsewhere_is_said():
    with (
        pytest.raises(DeviceError, match=r"cpu ran out of memory \(Tried to allocate 20 MiB\); accepted: smaller"),
        enough_memory(CPU),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB. GPU 0 has a total capacity of")


def test_random_state_is_the_seeds_inside_and_untouched_outside():
    state = torch.random.get_rng_state()
    with reproducible(CPU, 5, deterministic=True):
        first = torch.rand(3)
        assert torch.are_deterministic_algorithms_enabled()
    with reproducible(CPU, 5, deterministic=False):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.are_deterministic_algorithms_enabled()


def test_dropout_follows_the_seed_and_changes_the_training():
    settings = {"model": "mlp", "dim": 4, "layers": (8, 4), "epochs": 2, "batch_size": 64}
    first, again, without = (
        fastncf.fit(checkerboard(), dropout=dropout, **settings).history[-1]["loss"] for dropout in (0.5, 0.5, 0.0)
    )
    assert first == again
    assert first != without


def test_bfloat16_trains_float32_parameters():
    settings = {"model": "gmf", "optimizer": "adam", "dim": 8, "epochs": 3, "batch_size": 256}
    rec, plain = (fastncf.fit(checkerboard(), precision=name, **settings) for name in ("bfloat16", "float32"))
    assert all(tensor.dtype == torch.float32 for tensor in rec.model.state_dict().values())
    assert rec.history[-1]["loss"] == pytest.approx(plain.history[-1]["loss"], rel=0.01)
    assert rec.history[-1]["loss"] != plain.history[-1]["loss"]


def test_precision_is_what_the_device_multiplies_in_unless_it_is_set(monkeypatch):
    split = plain_split(*random_csr(np.random.default_rng(), 30, 50), 50)
    for precision, has, expected in ((None, True, True), (None, False, False), ("bfloat16", False, True)):
        monkeypatch.setattr(adam_module, "has_bfloat16", lambda device, has=has: has)
        config = Config(model="gmf", dim=4, precision=precision).with_recipe("adam", "none")
        with Adam(build(stage_of(config), 30, 50, torch.zeros(50)), split, config, CPU) as adam:
            assert adam.bfloat16 is expected
