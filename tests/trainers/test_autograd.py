"""Adam through autograd; more of what needs a device is in benchmarks/gpu.py."""

import copy
import re

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastncf.device import deterministic
from fastncf.errors import DeviceError
from fastncf.evaluation.candidates import CandidateLists
from fastncf.evaluation.ranking import metric_means, rank_candidates
from fastncf.models import build
from fastncf.rng import Stream, key
from fastncf.trainers import autograd
from fastncf.trainers.autograd import AutogradTrainer, score_batch
from tests import reference
from tests.conftest import plain_split, random_csr
from tests.stages import make_stage

CPU = torch.device("cpu")
DEVICES = [CPU, pytest.param(torch.device("cuda"), marks=pytest.mark.cuda)]


def random_split():
    return plain_split(*random_csr(np.random.default_rng(), 30, 50), 50)


def built(split, stage):
    return build(stage, split.num_users, split.num_items, torch.zeros(split.num_items)).to(stage.device)


def trained(split, stage):
    model = built(split, stage)
    with AutogradTrainer(model, split, stage) as trainer:
        totals = [float(trainer.epoch(number)) for number in range(stage.epochs)]
    return model.state_dict(), totals, trainer


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


class Own(nn.Module):
    """A module with all that a state may hold: buffers, dropout, a frozen parameter, one that no gradient reaches."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            self.user, self.item, self.output = nn.Embedding(30, 6), nn.Embedding(50, 6), nn.Linear(6, 1)
            self.dropout, self.norm = nn.Dropout(0.5), nn.BatchNorm1d(6)
        self.frozen, self.unused = nn.Parameter(torch.ones(6), requires_grad=False), nn.Parameter(torch.ones(2))
        self.register_buffer("num_calls", torch.zeros(()), persistent=False)

    def forward(self, users, items):
        self.num_calls += 1
        scale = 1 + 0.01 * self.num_calls.sin()  # what comes out depends on the buffer
        product = self.norm(self.dropout(self.user(users) * self.item(items))) * self.frozen
        return self.output(product).squeeze(-1) * scale


def own_or_built(split, stage):
    return Own().to(stage.device) if stage.model == "Own" else built(split, stage)


@pytest.mark.parametrize("name", ["mf", "gmf", "mlp", "neumf"])
def test_nothing_in_a_step_or_in_ranking_lists_waits_for_a_device(name):
    split = random_split()
    for loss, l2, precision in (("bce", 0.0, "float32"), ("bpr", 0.1, "bfloat16")):
        stage = make_stage(model=name, dropout=0.1, batch_size=90, epochs=1, loss=loss, l2=l2, precision=precision)
        model = built(split, stage)
        users, items = torch.arange(7, dtype=torch.int32), torch.randint(50, (7, 10), dtype=torch.int32)
        lists = CandidateLists(users, items[:, 0].contiguous(), items[:, 1:])
        with AutogradTrainer(model, split, stage) as trainer:
            trainer.loader.load(0)
            with NothingIsRead():
                losses = trainer._gradients(None)
                means = metric_means(rank_candidates(model, lists), 10)
        assert all(parameter.grad is not None for parameter in model.parameters())
        assert losses[0] > 0
        assert means[0] == 1  # ten items are in every first ten
    with AutogradTrainer(Looks(), split, stage) as trainer:
        trainer.loader.load(0)
        with NothingIsRead(), pytest.raises(AssertionError, match="local_scalar"):
            trainer._gradients(None)


@pytest.mark.parametrize("name", ["mf", "gmf", "mlp", "neumf"])
@pytest.mark.parametrize("loss", ["bce", "bpr"])
def test_epochs_are_those_of_the_reference(name, loss):
    split, stage = random_split(), make_stage(model=name, mlp_dim=3, init_std=0.5, loss=loss, epochs=2)
    module = built(split, stage).double()
    p = reference.parameters_of(module)
    means, squares, step = reference.zeros_like(p), reference.zeros_like(p), 0
    with AutogradTrainer(module, split, stage) as trainer:
        for number in range(stage.epochs):
            total, expected = float(trainer.epoch(number)), 0.0
            for users, items in reference.batches(trainer.loader):
                rate = stage.learning_rate_at(np.array(step / (stage.epochs * trainer.loader.batches)))
                value, grads = reference.gradients(name, p, users, items, loss, stage.l2)
                step += 1
                p, means, squares = reference.adam_step(p, grads, means, squares, step, float(rate))
                expected += value * len(users)
            assert total == pytest.approx(expected, rel=1e-5)
    for parameter_name, parameter in module.named_parameters():
        # Both cancel out of a difference of scores: Adam makes whole steps of the rounding errors in their gradients.
        if loss == "bce" or parameter_name not in ("user_bias", "output.bias"):
            np.testing.assert_allclose(parameter.detach().numpy(), p[parameter_name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", ["bce", "bpr"])
def test_a_batch_in_microbatches_is_the_same_batch(loss, monkeypatch):
    split = random_split()
    model = "neumf" if loss == "bce" else "mf"
    stage = make_stage(model=model, layers=(6, 3), loss=loss, epochs=2)
    whole, totals, _ = trained(split, stage)

    def little_memory(model, batch):
        if len(batch.user) > 11:
            raise torch.OutOfMemoryError("no room")
        return score_batch(model, batch)

    monkeypatch.setattr(autograd, "score_batch", little_memory)
    parts, part_totals, trainer = trained(split, stage)
    assert trainer.microbatch_size == 10  # of 40
    np.testing.assert_allclose(part_totals, totals, rtol=1e-5)
    if loss == "bpr":  # biases cancel out of a difference of scores, and Adam makes whole steps of the rounding
        whole = {name: tensor for name, tensor in whole.items() if "bias" not in name}
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "settings",
    [
        {"model": "mf", "loss": "bpr"},
        {"model": "gmf", "precision": "bfloat16"},
        {"model": "mlp", "dropout": 0.4, "precision": "bfloat16"},
        {"model": "mlp", "dropout": 0.4, "loss": "bpr", "negatives": "popularity"},
        {"model": "neumf", "dropout": 0.4, "shuffle": False},
        {"model": "Own"},
        {"model": "Own", "loss": "bpr", "precision": "bfloat16", "schedule": "constant"},
    ],
)
def test_training_continues_from_a_state_with_the_same_bits(settings, device, monkeypatch):
    """A trainer of fresh parameters, in a process whose generators are anywhere, and in microbatches."""
    split = random_split()
    stage = make_stage(**settings, seed=int(np.random.default_rng().integers(2**60)), device=str(device))
    model, other = (own_or_built(split, stage) for _ in range(2))
    with deterministic(device.type == "cuda"), AutogradTrainer(model, split, stage) as trainer:
        trainer.epoch(0)
        trainer._set_microbatch_size(25)
        trainer.epoch(1)
        state = copy.deepcopy(trainer.state_dict())
        totals = [float(trainer.epoch(number)) for number in (2, 3, 4)]
        torch.rand(5, device=device)
        with AutogradTrainer(other, split, stage) as resumed:
            resumed.load_state_dict(state)
            before = [generator.get_state() for generator in generators(device)]
            assert [float(resumed.epoch(number)) for number in (2, 3, 4)] == totals
            for generator, old in zip(generators(device), before, strict=True):
                assert torch.equal(generator.get_state(), old)
            ours, theirs = resumed.state_dict(), trainer.state_dict()
            assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
            assert ours.keys() == theirs.keys() == state.keys()
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)


def generators(device):
    cuda = [torch.cuda.default_generators[torch.cuda.current_device()]] if device.type == "cuda" else []
    return [torch.default_generator, *cuda]


def test_a_state_before_the_first_step_is_where_training_starts():
    split, stage = random_split(), make_stage(model="Own", epochs=1)
    expected, other = Own(), Own()
    with AutogradTrainer(expected, split, stage) as trainer:
        trainer.epoch(0)
    with AutogradTrainer(Own(), split, stage) as first, AutogradTrainer(other, split, stage) as second:
        second.epoch(0)
        second.load_state_dict(first.state_dict())
        second.epoch(0)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)


def test_a_state_of_another_model_is_refused():
    split, stage = random_split(), make_stage(model="gmf")
    with AutogradTrainer(built(split, stage), split, stage) as trainer:
        state = copy.deepcopy(trainer.state_dict())
        assert {name.partition(".")[0] for name in state} == {
            *("parameters", "exp_avg", "exp_avg_sq", "step", "microbatch_size")
        }
        ones = {name: torch.ones_like(tensor) for name, tensor in state.items()}
        name = "exp_avg.output.bias"
        for wrong, message in (
            ({key: tensor for key, tensor in ones.items() if key != name}, f"{name!r} is missing"),
            (ones | {"buffers.more": torch.zeros(1)}, "'buffers.more' is unknown"),
            (ones | {name: torch.zeros(2)}, f"{name!r} has shape (2,); expected (1,)"),
        ):
            with pytest.raises(ValueError, match=re.escape(f"state: {message}")):
                trainer.load_state_dict(wrong)
        assert all(torch.equal(tensor, state[name]) for name, tensor in trainer.state_dict().items())


def test_what_autograd_does_not_train():
    assert AutogradTrainer.why_not(make_stage(model="mf"), None) is None
    for changes, reason in (
        ({"optimizer": "sgd"}, "takes steps by adam, not by sgd"),
        ({"history": "bag"}, "history='bag' was asked for, and autograd trains no histories"),
        ({"model": "popularity"}, "popularity has no parameters that can be trained"),
    ):
        assert AutogradTrainer.why_not(make_stage(**changes), None) == reason
    stage, own = make_stage(model="Own"), Own()
    assert AutogradTrainer.why_not(stage, own) is None
    assert AutogradTrainer.why_not(stage, own.requires_grad_(False)) == "Own has no parameters that can be trained"


class Random(nn.Module):
    """A module that notes the first random number of each call."""

    def __init__(self):
        super().__init__()
        self.item = nn.Embedding(50, 1)
        self.drawn = []

    def forward(self, users, items):
        self.drawn.append(float(torch.rand(())))
        return self.item(items).squeeze(-1)


def test_random_numbers_of_an_epoch_follow_from_its_number():
    split, stage, model = random_split(), make_stage(batch_size=10**6, seed=17), Random()
    with AutogradTrainer(model, split, stage) as trainer:
        for number in (0, 2):
            trainer.epoch(number)
    keys = key(17, Stream.DROPOUT), key(17, Stream.DROPOUT, 2)
    expected = [float(torch.rand((), generator=torch.Generator().manual_seed(one >> 1))) for one in keys]
    assert model.drawn == expected


def test_a_graph_is_captured_anew_for_smaller_microbatches():
    split, stage = random_split(), make_stage()
    with AutogradTrainer(built(split, stage), split, stage) as trainer:
        trainer._graph = graph = object()
        trainer._set_microbatch_size(40)
        assert trainer._graph is graph
        trainer._set_microbatch_size(20)
        assert trainer._graph is None


def test_no_memory_at_all_is_said(monkeypatch):
    def no_memory(model, batch):
        raise torch.OutOfMemoryError("no room")

    monkeypatch.setattr(autograd, "score_batch", no_memory)
    with pytest.raises(DeviceError, match=r"no memory left for a step of MF over 1 interaction; expected: smaller"):
        trained(random_split(), make_stage())


def test_dropout_follows_the_seed_and_changes_the_training():
    split, runs = random_split(), ((0.5, 0), (0.5, 0), (0.5, 1), (0.0, 0))
    first, again, other, without = (
        trained(split, make_stage(model="mlp", epochs=2, dropout=dropout, seed=seed))[1] for dropout, seed in runs
    )
    assert first == again
    assert len({*first, *other, *without}) == 6


def test_bfloat16_trains_float32_parameters():
    split = random_split()
    (state, totals, _), (_, plain, _) = (
        trained(split, make_stage(model="gmf", dim=8, precision=precision)) for precision in ("bfloat16", "float32")
    )
    assert all(tensor.dtype == torch.float32 for tensor in state.values())
    np.testing.assert_allclose(totals, plain, rtol=0.01)
    assert totals != plain
