"""The Triton kernels against plain torch: on a CUDA device where there is one, else on the CPU by the interpreter."""

import itertools
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fastncf.config import Config
from fastncf.models import build
from fastncf.models import scorers as scoring
from fastncf.models.losses import bce
from fastncf.models.mlp import MLP
from fastncf.models.scorers import ModuleScorer, score_lists
from fastncf.rng import Stream, key
from fastncf.sampling import loader as epoch_module
from fastncf.sampling.distributions import popularity_table
from fastncf.sampling.loader import Batch, EpochLoader
from fastncf.sampling.negatives import position_keys, sample_negatives
from fastncf.sampling.permutation import permutation
from fastncf.trainers import cuda_mlp as fused
from fastncf.trainers.autograd import Adam, l2_penalty, score_batch
from fastncf.trainers.cuda_mlp import CUDAMLPTrainer, can_fuse
from fastncf.trainers.neural import stage_of
from tests.conftest import plain_split, random_csr

pytest.importorskip("triton")
CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def test_every_kernel_compiles_for_devices_that_are_not_here(tmp_path):
    """By the compiler itself, not the interpreter; the shared memory is that of the smallest device since Ampere.

    A whole step over vectors of 64, which is not what trains where it does not fit, may take all of a 9.0 or 10.0.
    """
    root = Path(__file__).parents[2]
    source = "".join(path.read_text() for path in (root / "fastncf" / "kernels" / "cuda").glob("*.py"))
    functions = re.findall(r"@triton\.jit.*\ndef (_\w+)", source)
    started = {name for name in functions if f"{name}[" in source or f"_launch({name}," in source}
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.kernels.compile_cuda", "80", "90", "100"],
        cwd=root,
        env=env | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    made = json.loads(run.stdout)
    for capability in (80, 90, 100):
        assert {name for at, name, *_ in made if at == capability} == started
    for capability, most in ((80, 99), (90, 227), (100, 227)):
        sizes = sorted(shared for at, _, shared, *_ in made if at == capability)
        wide = max(shared for at, name, shared, *_ in made if (at, name) == (capability, "_add_gradients"))
        assert wide <= most << 10
        sizes.remove(wide)
        assert sizes[-1] <= 99 << 10


def device_csr(indptr: np.ndarray, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    owner = np.repeat(np.arange(len(indptr) - 1, dtype=np.int32), np.diff(indptr))
    return tuple(torch.from_numpy(array).to(DEVICE) for array in (owner, indptr, indices))


@pytest.mark.parametrize("size", [1, 2, 3, 1000, 4099])
def test_order_is_the_cpus(size):
    from fastncf.kernels.cuda.draws import fill_order

    seed = int(np.random.default_rng().integers(2**60))
    a = math.isqrt(size - 1) + 1
    keys = [key(seed, number) & 0xFFFFFFFF for number in range(4)]
    order = torch.full((size,), -1, dtype=torch.int32, device=DEVICE)
    fill_order(order, a, -(-size // a), keys)
    assert torch.equal(order.cpu(), permutation(size, seed, CPU))


@pytest.mark.parametrize("exponent", [None, 0.5, 3.0])
@pytest.mark.parametrize(("users", "items", "longest"), [(30, 50, None), (20, 7, None), (40, 3000, 100), (3, 1, 0)])
def test_negatives_are_the_cpus(users, items, longest, exponent):
    """Rows of any length, up to all items but one, which are left to the search behind the attempts.

    So are the draws of who has touched the one item that is drawn nearly always.
    """
    from fastncf.kernels.cuda.draws import Parts, fill_negatives

    generator = np.random.default_rng()
    indptr, indices = random_csr(generator, users, items, longest)
    seed = int(generator.integers(2**60))
    counts = generator.integers(0, 1000, items)
    counts[indices[-1:]] = 1_000_000
    weights = None if exponent is None else popularity_table(counts, exponent)
    expected = sample_negatives(indptr, indices, items, 3, seed=seed, epoch=2, weights=weights)
    keys = position_keys(seed, Stream.NEGATIVES, 2, positions=expected.size).view(np.int32)
    out = torch.full(expected.shape, -7, dtype=torch.int32, device=DEVICE)
    if out.numel():
        longest = int(np.diff(indptr).max())
        csr = device_csr(indptr, indices)
        parts = None if weights is None else Parts.of(weights, csr[2])
        fill_negatives(out, *csr, torch.from_numpy(keys).to(DEVICE), items, longest, parts)
    np.testing.assert_array_equal(out.cpu().numpy(), expected)


def test_epochs_drawn_on_the_device_are_the_same_batches(monkeypatch):
    split = plain_split(*random_csr(np.random.default_rng(), 30, 50), 50)
    options = {"num_negatives": 3, "batch_size": 40, "seed": 4, "last": 3}
    for shuffle, weights in ((True, None), (False, popularity_table(split.item_counts(), 1.0))):
        options |= {"shuffle": shuffle, "weights": weights}
        with EpochLoader(split, device=CPU, **options) as theirs:
            monkeypatch.setattr(epoch_module, "triton_works", lambda device: True)
            with EpochLoader(split, device=DEVICE, **options) as ours:
                monkeypatch.undo()
                for number in range(3):
                    for a, b in zip(ours.epoch(number), theirs.epoch(number), strict=True):
                        assert all(torch.equal(x.cpu(), y) for x, y in zip(a, b, strict=True))
                assert ours.sample_seconds() > 0


def gradients(out: torch.Tensor, inputs: list[torch.Tensor], slope: torch.Tensor) -> list[torch.Tensor]:
    return [out, *torch.autograd.grad(out, inputs, slope)]


def assert_all_close(ours: list[torch.Tensor], exact: list[torch.Tensor], tolerance: float = 1e-5) -> None:
    for a, b in zip(ours, exact, strict=True):
        assert (a.double() - b.double()).norm() <= tolerance * b.double().norm() + 1e-9


@pytest.mark.parametrize("dim", [5, 8, 64])
def test_rows_and_dots(dim):
    from fastncf.kernels.cuda.rows import Dot, Gather

    users, items = torch.randint(11, (70,), device=DEVICE), torch.randint(13, (70, 5), dtype=torch.int32, device=DEVICE)
    user, item, weight = (torch.randn(*shape, device=DEVICE) for shape in ((11, dim), (13, dim), (dim,)))
    ours = [tensor.requires_grad_() for tensor in (user, item, weight)]
    exact = [tensor.detach().double().requires_grad_() for tensor in ours]
    slope = torch.randn(70, 5, device=DEVICE)
    plain = (exact[0][users].unsqueeze(1) * exact[1][items.long()] * exact[2]).sum(-1)
    assert_all_close(
        gradients(Dot.apply(*ours, users, items), ours, slope), gradients(plain, exact, slope.double()), 1e-5
    )
    slope = torch.randn(70, 5, dim, device=DEVICE)
    gathered = Gather.apply(ours[1], items, torch.float32)
    plain = exact[1][items.long()]
    assert_all_close(gradients(gathered, [ours[1]], slope), gradients(plain, [exact[1]], slope.double()))


def layers_of(*widths: int) -> list[nn.Linear]:
    return [nn.Linear(a, b, device=DEVICE) for a, b in itertools.pairwise(widths)]


@pytest.mark.parametrize("layers", [(24, 12, 5), (64, 32), (7,)])
def test_layers(layers):
    from fastncf.kernels.cuda.layers import climb

    hidden = layers_of(15, *layers)
    user = torch.randn(23, 1, 6, device=DEVICE, requires_grad=True)
    item = torch.randn(23, 5, 9, device=DEVICE, requires_grad=True)
    parameters = [parameter for layer in hidden for parameter in layer.parameters()]
    out = climb(hidden, user, item, 0.0)
    slope = torch.randn_like(out)
    ours = gradients(out, [user, item, *parameters], slope)
    exact = [tensor.detach().double().requires_grad_() for tensor in (user, item, *parameters)]
    x = torch.cat([exact[0].expand(-1, 5, -1), exact[1]], -1)
    for weight, bias in zip(exact[2::2], exact[3::2], strict=True):
        x = F.relu(F.linear(x, weight, bias))
    assert_all_close(ours, gradients(x, exact, slope.double()), 1e-4)


def test_dropout_zeroes_its_share_and_its_gradient_is_that_of_what_is_left():
    from fastncf.kernels.cuda.layers import climb

    (layer,) = layers_of(15, 64)
    user = torch.randn(200, 1, 6, device=DEVICE, requires_grad=True)
    item = torch.randn(200, 5, 9, device=DEVICE, requires_grad=True)
    plain = F.relu(layer(torch.cat([user.expand(-1, 5, -1), item], -1)))
    with torch.random.fork_rng():
        torch.manual_seed(int(np.random.default_rng().integers(2**60)))
        out, other = climb([layer], user, item, 0.3), climb([layer], user, item, 0.3)
    kept = out > 0
    assert not torch.equal(kept, other > 0)
    share = float(kept.sum() / (plain > 0).sum())
    assert abs(share - 0.7) < 5 * (0.21 / float((plain > 0).sum())) ** 0.5
    slope = torch.randn_like(out)
    inputs = [user, item, layer.weight, layer.bias]
    assert_all_close(gradients(out, inputs, slope), gradients(plain * kept / 0.7, inputs, slope), 1e-4)


@pytest.mark.parametrize("name", ["mf", "gmf", "mlp", "neumf"])
def test_models_by_kernels(name, monkeypatch):
    mlp_dim = 9 if name == "neumf" else None
    config = Config(model=name, dim=6, mlp_dim=mlp_dim, layers=(12, 5)).with_recipe("adam", "none")
    model = build(stage_of(config), 9, 14, torch.zeros(14)).to(DEVICE)
    users, items = torch.randint(9, (40,), device=DEVICE), torch.randint(14, (40, 3), device=DEVICE)
    parameters = list(model.parameters())
    slope = torch.randn(40, 3, device=DEVICE)
    monkeypatch.setattr("fastncf.models.layers.triton_works", lambda device: True)
    ours = gradients(score_lists(model, users, items), parameters, slope)
    monkeypatch.setattr("fastncf.models.layers.triton_works", lambda device: False)
    assert_all_close(ours, gradients(score_lists(model, users, items), parameters, slope), 1e-4)
    exact = score_lists(model.double(), users, items)
    monkeypatch.setattr("fastncf.models.layers.triton_works", lambda device: True)
    assert torch.equal(score_lists(model, users, items), exact)  # float64 is not for the kernels


@pytest.mark.parametrize("layers", [(16, 8), (40, 24, 5), (70, 150, 33)])
@pytest.mark.parametrize("name", ["mlp", "neumf"])
@torch.no_grad()
def test_scores_by_layers(name, layers, monkeypatch):
    """Lists and whole catalogues against float64; widths above, below and between those of tiles."""
    config = Config(model=name, dim=6, layers=layers, init_std=1.0)
    model = build(stage_of(config), 9, 35, torch.zeros(35)).to(DEVICE)
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)
    users, items = torch.randint(9, (11,), dtype=torch.int32), torch.randint(35, (11, 7), dtype=torch.int32)
    users, items = users.to(DEVICE), items.to(DEVICE)
    monkeypatch.setattr(scoring, "has_tf32", lambda device: True)
    fast, tabulated = scoring.make_scorer(model), scoring.make_scorer(model)
    tabulated.precompute()
    ours = [(one.lists(users, items).clone(), one.catalogue(users, 35)) for one in (fast, tabulated)]
    exact = model.double()
    for lists, catalogue in ours:
        assert_all_close([lists], [score_lists(exact, users, items)])
        assert_all_close([catalogue], [ModuleScorer(exact).catalogue(users, 35)])
    model.float().hidden[1].weight[0, 0] = torch.nan
    assert scoring.make_scorer(model).lists(users, items).isnan().all()


def flattened(model: MLP, gradient: bool = False) -> torch.Tensor:
    layers = [*model.hidden, model.output]
    parts = [model.user_embedding.weight, model.item_embedding.weight]
    parts += [part for layer in layers for part in (layer.weight, layer.bias)]
    return torch.cat([(part.grad if gradient else part.detach()).reshape(-1) for part in parts])


@pytest.mark.parametrize(("dim", "layers"), [(8, (64, 32)), (16, (32, 16))])
def test_gradients_of_a_fused_step(dim, layers):
    """The third batch of an epoch, and it is not full."""
    from fastncf.kernels.cuda.mlp import add_gradients

    users, items, count = 11, 23, 53
    model = MLP(users, items, dim, layers).to(DEVICE)
    user, positive = (torch.randint(n, (300,), dtype=torch.int32, device=DEVICE) for n in (users, items))
    negatives = torch.randint(items, (300, 4), dtype=torch.int32, device=DEVICE)
    order, step = torch.randperm(300, device=DEVICE), torch.ones(1, dtype=torch.int64, device=DEVICE)
    parameters, losses = flattened(model), torch.zeros(3, dtype=torch.float64, device=DEVICE)
    ours = torch.zeros_like(parameters)
    sizes = users, items, dim, layers, 0.01
    add_gradients(parameters, ours, losses, order, user, positive, negatives, step, 1, 61, count, *sizes)
    rows = order[2 * 61 : 2 * 61 + count]
    batch = Batch(user[rows], positive[rows], negatives[rows])
    exact = model.double()
    loss = bce(*score_batch(exact, batch))
    (loss + l2_penalty(exact, batch, 0.01)).backward()
    assert_all_close([ours], [flattened(exact, gradient=True)], 1e-4 if DEVICE == CPU else 1e-2)  # TF32 there
    assert float(losses.sum()) / (5 * count) == pytest.approx(loss.item(), rel=1e-3)


def test_fused_epochs_are_those_of_autograd(monkeypatch):
    generator = np.random.default_rng()
    split = plain_split(*random_csr(generator, 20, 30, 12), 30)
    settings = {"model": "mlp", "dim": 8, "layers": (16, 16), "num_negatives": 2, "batch_size": 60, "epochs": 2}
    config = Config(**settings, learning_rate=0.01, l2=0.01, seed=int(generator.integers(2**60)))
    config = config.with_recipe("adam", "none")
    monkeypatch.setattr(fused, "_STEPS", 2)
    states, totals = [], []
    for trainer in (CUDAMLPTrainer, Adam):
        model = build(stage_of(config), 20, 30, torch.zeros(30)).to(DEVICE)
        with trainer(model, split, config, DEVICE) as training:
            totals.append([float(training.epoch(number)) for number in range(2)])
        states.append(model.state_dict())
    np.testing.assert_allclose(totals[0], totals[1], rtol=1e-3)
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=0.02, atol=2e-3 if DEVICE == CPU else 0.02)
    storages = {tensor.untyped_storage().data_ptr() for tensor in states[0].values()}
    assert len(storages) == len(states[0])  # each can be saved by itself


def test_what_can_be_fused(monkeypatch):
    monkeypatch.setattr(fused, "has_tf32", lambda device: device.type == "cuda")
    assert fused._fits(DEVICE, 2, 16, 32, 16)
    sizes = []
    monkeypatch.setattr(fused, "_fits", lambda device, *size: sizes.append(size) or size[2] < 128)
    cuda = torch.device("cuda")

    def fits(device: torch.device = cuda, **settings: object) -> bool:
        config = Config(**({"model": "mlp", "dim": 8, "layers": (64, 32)} | settings)).with_recipe("adam", "none")
        return can_fuse(build(stage_of(config), 3, 4, torch.zeros(4)), config, device)

    assert fits()
    assert sizes == [(8, 16, 64, 32)]
    assert not fits(device=CPU)
    for changes in (
        {"model": "neumf"},
        {"dim": 9},
        {"layers": (64,)},
        {"layers": (64, 48)},
        {"dim": 64, "layers": (128, 64)},
        {"loss": "bpr"},
        {"dropout": 0.1},
        {"deterministic": True},
        {"precision": "float32"},
    ):
        assert not fits(**changes), changes


def test_what_does_not_compile_is_not_fused_and_said(monkeypatch):
    def no_compiler(*args):
        raise RuntimeError("PassManager::run failed\nmore lines")

    monkeypatch.setattr("fastncf.kernels.cuda.mlp.add_gradients", no_compiler)
    with pytest.warns(RuntimeWarning, match=r"step does not run on .* \(PassManager::run failed\); steps are"):
        assert not fused._fits.__wrapped__(DEVICE, 2, 16, 32, 16)
