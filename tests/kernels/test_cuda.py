"""The Triton kernels against plain torch: on a CUDA device where there is one, else on the CPU by the interpreter."""

import copy
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

from fastncf.models import build, scorers
from fastncf.models.mlp import MLP
from fastncf.models.scorers import make_scorer, score_lists
from fastncf.rng import Stream, key
from fastncf.sampling import loader as epoch_module
from fastncf.sampling.distributions import alias_table
from fastncf.sampling.loader import EpochLoader, SamplingSpec
from fastncf.sampling.negatives import position_keys, sample_negatives
from fastncf.sampling.permutation import permutation
from fastncf.trainers import cuda_mlp
from fastncf.trainers.autograd import AutogradTrainer
from fastncf.trainers.cuda_mlp import CUDAMLPTrainer
from tests import reference, sums
from tests.conftest import plain_split, random_csr
from tests.stages import make_stage

pytest.importorskip("triton")
CPU = torch.device("cpu")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def test_every_kernel_compiles_for_devices_that_are_not_here(tmp_path):
    """By the compiler itself, not the interpreter, for one of two capabilities, since each takes half a minute.

    The shared memory is that of the smallest device since Ampere. A whole step over vectors of 64, and
    tiles of states, may take all of a 9.0: where they do not fit, another trainer trains.
    """
    capability, most = ((80, 99), (90, 227))[np.random.default_rng().integers(2)]
    root = Path(__file__).parents[2]
    source = "".join(path.read_text() for path in (root / "fastncf" / "kernels" / "cuda").glob("*.py"))
    functions = re.findall(r"@triton\.jit.*\ndef (_\w+)", source)
    started = {name for name in functions if f"{name}[" in source or f"_launch({name}," in source}
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run(
        [sys.executable, "-m", "tests.kernels.compile_cuda", str(capability)],
        cwd=root,
        env=env | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    made = json.loads(run.stdout)
    assert {name for _, name, *_ in made} == started
    large = {"_add_gradients_kernel", "_softmax_kernel", "_negative_gradients_kernel"}
    steps = sorted(shared for _, name, shared, *_ in made if name == "_add_gradients_kernel")
    assert len(steps) == 3
    assert steps[0] <= 99 << 10
    assert steps[1] == steps[2]  # vectors of 64, positions of 32 and 64 bits
    assert max(shared for _, name, shared, *_ in made if name in large) <= most << 10
    assert max(shared for _, name, shared, *_ in made if name not in large) <= 99 << 10
    of_sets = {"_forward_set_kernel", "_backward_set_kernel", "_set_state_kernel", "_copy_states_kernel"}
    in_memory = {stack for _, name, *_, stack in made if name in of_sets}
    assert capability == 90 or in_memory == {0}  # all numbers of a thread are in registers


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

    So are the draws of a user who has seen the one item that is drawn nearly always.
    """
    from fastncf.kernels.cuda.draws import DeviceAliasTable, DeviceCSR, fill_negatives

    generator = np.random.default_rng()
    indptr, indices = random_csr(generator, users, items, longest)
    seed = int(generator.integers(2**60))
    counts = generator.integers(0, 1000, items)
    counts[indices[-1:]] = 1_000_000
    weights = None if exponent is None else alias_table("popularity", counts, exponent)
    expected = sample_negatives(indptr, indices, items, 3, seed=seed, epoch=2, alias_table=weights)
    keys = position_keys(seed, Stream.NEGATIVES, 2, positions=expected.size).view(np.int32)
    out = torch.full(expected.shape, -7, dtype=torch.int32, device=DEVICE)
    if out.numel():
        tensors = device_csr(indptr, indices)
        csr = DeviceCSR(*tensors, num_items=items, max_row_length=int(np.diff(indptr).max()))
        table = None if weights is None else DeviceAliasTable.from_table(weights, csr.indices)
        fill_negatives(out, csr, torch.from_numpy(keys).to(DEVICE), table)
    np.testing.assert_array_equal(out.cpu().numpy(), expected)


def test_epochs_drawn_on_the_device_are_the_same_batches(monkeypatch):
    split = plain_split(*random_csr(np.random.default_rng(), 30, 50), 50)
    for shuffle, weights in ((True, None), (False, alias_table("popularity", split.item_counts(), 1.0))):
        spec = SamplingSpec(split, 3, 4, CPU, shuffle, num_epochs=3, alias_table=weights)
        with EpochLoader(spec, batch_size=40) as theirs:
            monkeypatch.setattr(epoch_module, "triton_works", lambda device: True)
            with EpochLoader(spec._replace(device=DEVICE), batch_size=40) as ours:
                monkeypatch.undo()
                for number in range(3):
                    for a, b in zip(ours.epoch(number), theirs.epoch(number), strict=True):
                        assert all(torch.equal(x.cpu(), y) for x, y in zip(a[:3], b[:3], strict=True))
                assert ours.sampling_seconds() > 0


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
    from fastncf.kernels.cuda.layers import fused_hidden_layers

    hidden = layers_of(15, *layers)
    user = torch.randn(23, 1, 6, device=DEVICE, requires_grad=True)
    item = torch.randn(23, 5, 9, device=DEVICE, requires_grad=True)
    parameters = [parameter for layer in hidden for parameter in layer.parameters()]
    out = fused_hidden_layers(hidden, user, item, 0.0)
    slope = torch.randn_like(out)
    ours = gradients(out, [user, item, *parameters], slope)
    exact = [tensor.detach().double().requires_grad_() for tensor in (user, item, *parameters)]
    x = torch.cat([exact[0].expand(-1, 5, -1), exact[1]], -1)
    for weight, bias in zip(exact[2::2], exact[3::2], strict=True):
        x = F.relu(F.linear(x, weight, bias))
    assert_all_close(ours, gradients(x, exact, slope.double()), 1e-4)


def test_dropout_zeroes_its_share_and_its_gradient_is_that_of_what_is_left():
    from fastncf.kernels.cuda.layers import fused_hidden_layers

    (layer,) = layers_of(15, 64)
    user = torch.randn(200, 1, 6, device=DEVICE, requires_grad=True)
    item = torch.randn(200, 5, 9, device=DEVICE, requires_grad=True)
    plain = F.relu(layer(torch.cat([user.expand(-1, 5, -1), item], -1)))
    with torch.random.fork_rng():
        torch.manual_seed(int(np.random.default_rng().integers(2**60)))
        out, other = fused_hidden_layers([layer], user, item, 0.3), fused_hidden_layers([layer], user, item, 0.3)
    kept = out > 0
    assert not torch.equal(kept, other > 0)
    share = float(kept.sum() / (plain > 0).sum())
    assert abs(share - 0.7) < 5 * (0.21 / float((plain > 0).sum())) ** 0.5
    slope = torch.randn_like(out)
    inputs = [user, item, layer.weight, layer.bias]
    assert_all_close(gradients(out, inputs, slope), gradients(plain * kept / 0.7, inputs, slope), 1e-4)


@pytest.mark.parametrize("name", ["mf", "gmf", "mlp", "neumf"])
def test_models_by_kernels(name, monkeypatch):
    model = build(make_stage(model=name, dim=6, mlp_dim=9, layers=(12, 5)), 9, 14, torch.zeros(14)).to(DEVICE)
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
    """Lists and whole catalogues against float64, with tables and without; widths above, below and between tiles'."""
    model = build(make_stage(model=name, dim=6, layers=layers, init_std=1.0), 9, 35, torch.zeros(35)).to(DEVICE)
    for parameter in model.parameters():
        parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)
    users, items = torch.randint(9, (11,), dtype=torch.int32), torch.randint(35, (11, 7), dtype=torch.int32)
    users, items = users.to(DEVICE), items.to(DEVICE)
    all_items = torch.arange(35, dtype=torch.int32, device=DEVICE).expand(11, -1)
    monkeypatch.setattr(scorers, "has_tf32", lambda device: True)
    plain, tabulated = make_scorer(model), make_scorer(model)
    tabulated.precompute()
    ours = [[scorer.lists(users, items).clone(), scorer.catalogue(users, 35)] for scorer in (plain, tabulated)]
    exact = [score_lists(model.double(), users, listed) for listed in (items, all_items)]
    for scores in ours:
        assert_all_close(scores, exact)
    model.float().hidden[1].weight[0, 0] = torch.nan
    assert make_scorer(model).lists(users, items).isnan().all()


def flattened(model: MLP) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])


def step_tensors(parameters: torch.Tensor, num_programs: int, **tensors: torch.Tensor):
    """Return the tensors of a step, zeros where none are given."""
    from fastncf.kernels.cuda.mlp import StepTensors

    zeros = {name: torch.zeros_like(parameters) for name in ("gradients", "exp_avg", "exp_avg_sq")}
    zeros["losses"] = torch.zeros(num_programs, dtype=torch.float64, device=DEVICE)
    zeros["step_sizes"] = torch.zeros(1, 2, device=DEVICE)
    return StepTensors(**{"parameters": parameters} | zeros | tensors)


@pytest.mark.parametrize("limit", [2**31, 0], ids=["32 bits", "64 bits"])
@pytest.mark.parametrize(("dim", "layers"), [(8, (64, 32)), (16, (32, 16))])
def test_gradients_of_a_fused_step(dim, layers, limit, monkeypatch):
    """The third batch of an epoch, and it is not full."""
    from fastncf.kernels.cuda import mlp

    monkeypatch.setattr(mlp, "INT32_LIMIT", limit)
    users, items, count = 11, 23, 53
    model = MLP(users, items, dim, layers).to(DEVICE)
    p = reference.parameters_of(model)
    user, positive = (torch.randint(n, (300,), dtype=torch.int32, device=DEVICE) for n in (users, items))
    negatives = torch.randint(items, (300, 4), dtype=torch.int32, device=DEVICE)
    order, step = torch.randperm(300, device=DEVICE), torch.ones(1, dtype=torch.int64, device=DEVICE)
    data = {"order": order, "users": user, "positives": positive, "negatives": negatives, "step": step}
    tensors = step_tensors(flattened(model), 3, **data)
    mlp.add_gradients(tensors, mlp.MLPShape(users, items, dim, *layers), 1, 61, count, 0.01)
    rows = order[2 * 61 : 2 * 61 + count]
    samples = torch.column_stack([positive, negatives])[rows]
    loss, gradients = reference.gradients("mlp", p, user[rows].cpu().numpy(), samples.cpu().numpy(), "bce", 0.01)
    exact = torch.cat([torch.from_numpy(gradients[name]).reshape(-1) for name, _ in model.named_parameters()])
    tolerance = 1e-4 if DEVICE == CPU else 1e-2  # TF32 there
    assert_all_close([tensors.gradients.cpu()], [exact], tolerance)
    assert float(tensors.losses.sum()) / (5 * count) == pytest.approx(loss, rel=1e-3)


@pytest.mark.parametrize("limit", [2**31, 0], ids=["32 bits", "64 bits"])
def test_steps_of_adam(limit, monkeypatch):
    """Against torch's; after each the gradients are zeros."""
    from fastncf.kernels.cuda import mlp

    monkeypatch.setattr(mlp, "INT32_LIMIT", limit)
    parameters = torch.randn(2500, device=DEVICE)
    exact = nn.Parameter(parameters.double())
    optimizer = torch.optim.Adam([exact], lr=0.01)
    sizes = torch.tensor([[0.01 / (1 - 0.9**n), (1 - 0.999**n) ** 0.5] for n in (1, 2, 3)], device=DEVICE)
    data = dict.fromkeys(("order", "users", "positives", "negatives"), torch.empty(0, device=DEVICE))
    step = torch.ones(1, dtype=torch.int64, device=DEVICE)
    tensors = step_tensors(parameters, 1, step_sizes=sizes, step=step, **data)
    for offset in (-1, 0, 1):
        gradients = torch.randn_like(parameters)
        tensors.gradients.copy_(gradients)
        exact.grad = gradients.double()
        optimizer.step()
        mlp.adam_step(tensors, offset)
        assert not tensors.gradients.any()
    assert_all_close([parameters, tensors.exp_avg], [exact.detach(), optimizer.state[exact]["exp_avg"]])


MLP_SETTINGS = {
    "model": "mlp",
    "dim": 8,
    "layers": (16, 16),
    "num_negatives": 2,
    "batch_size": 60,
    "device": str(DEVICE),
}


def fused_split():
    return plain_split(*random_csr(np.random.default_rng(), 20, 30, 12), 30)


def test_fused_epochs_are_those_of_autograd(monkeypatch):
    split, seed = fused_split(), int(np.random.default_rng().integers(2**60))
    stage = make_stage(**MLP_SETTINGS, epochs=2, seed=seed)
    monkeypatch.setattr(cuda_mlp, "_STEPS_PER_GRAPH", 2)
    states, totals = [], []
    for cls in (CUDAMLPTrainer, AutogradTrainer):
        model = build(stage, 20, 30, torch.zeros(30)).to(DEVICE)
        with cls(model, split, stage) as trainer:
            totals.append([float(trainer.epoch(number)) for number in range(2)])
        assert trainer.sampling_seconds() > 0
        states.append(model.state_dict())
    np.testing.assert_allclose(totals[0], totals[1], rtol=1e-3)
    for name, tensor in states[0].items():
        torch.testing.assert_close(tensor, states[1][name], rtol=0.02, atol=2e-3 if DEVICE == CPU else 0.02)
    storages = {tensor.untyped_storage().data_ptr() for tensor in states[0].values()}
    assert len(storages) == len(states[0])  # each can be saved by itself


@pytest.mark.skipif(DEVICE != CPU, reason="the terms of a device may have other last bits")
def test_the_loss_of_a_fused_epoch_is_summed_in_float64():
    def terms_of(scores):
        """Return the terms as the kernel computes them."""
        first, zero, one = np.maximum(-scores, np.float32(0)), np.maximum(scores, np.float32(0)), np.float32(1)
        rest = np.log(one + np.exp(-np.abs(scores)))
        return first + rest, zero + rest

    split = sums.split_of(4000)
    found, exact = sums.by_network(
        CUDAMLPTrainer, split, terms_of, dim=8, layers=(16, 16), precision="bfloat16", batch_size=150
    )
    assert sums.error(found, exact) < 1e-11


@pytest.mark.skipif(DEVICE != CPU, reason="gradients are added in any order there")
@pytest.mark.parametrize("changes", [{}, {"negatives": "popularity", "schedule": "constant", "shuffle": False}])
def test_fused_training_continues_from_a_state_with_the_same_bits(changes, monkeypatch):
    monkeypatch.setattr(cuda_mlp, "_STEPS_PER_GRAPH", 2)
    split, stage = fused_split(), make_stage(**MLP_SETTINGS, **changes)
    model, other = (build(stage, 20, 30, torch.zeros(30)) for _ in range(2))
    with CUDAMLPTrainer(model, split, stage) as trainer:
        trainer.epoch(0)
        trainer.epoch(1)
        state = copy.deepcopy(trainer.state_dict())
        totals = [float(trainer.epoch(number)) for number in (2, 3, 4)]
    with CUDAMLPTrainer(other, split, stage) as resumed:
        resumed.load_state_dict(state)
        assert [float(resumed.epoch(number)) for number in (2, 3, 4)] == totals
    for name, tensor in model.state_dict().items():
        assert torch.equal(other.state_dict()[name], tensor)


def test_a_state_of_another_fused_model_is_refused():
    split, stage = fused_split(), make_stage(**MLP_SETTINGS)
    with CUDAMLPTrainer(build(stage, 20, 30, torch.zeros(30)).to(DEVICE), split, stage) as trainer:
        state = copy.deepcopy(trainer.state_dict())
        assert list(state) == ["parameters", "exp_avg", "exp_avg_sq"]
        ones = {name: torch.ones_like(tensor) for name, tensor in state.items()}
        for wrong, message in (
            ({"parameters": ones["parameters"], "exp_avg": ones["exp_avg"]}, "'exp_avg_sq' is missing"),
            (ones | {"step": torch.zeros(1)}, "'step' is unknown"),
            (ones | {"exp_avg": torch.zeros(2)}, "'exp_avg' has shape"),
        ):
            with pytest.raises(ValueError, match=message):
                trainer.load_state_dict(wrong)
        assert all(torch.equal(tensor, state[name]) for name, tensor in trainer.state_dict().items())


def test_what_can_be_fused(monkeypatch):
    monkeypatch.setattr(cuda_mlp, "has_tf32", lambda device: device.type == "cuda")
    assert cuda_mlp._why_no_launch(DEVICE, 2, 16, 32, 16) is None
    sizes = []
    monkeypatch.setattr(
        cuda_mlp, "_why_no_launch", lambda device, *size: sizes.append(size) or ("no room" if size[2] == 128 else None)
    )
    settings = {"model": "mlp", "device": "cuda", "dim": 8, "layers": (64, 32), "precision": "bfloat16"}
    assert CUDAMLPTrainer.why_not(make_stage(**settings), None) is None
    assert sizes == [(3, 16, 64, 32)]
    for changes, reason in (
        ({"optimizer": "sgd"}, "takes steps by adam, not by sgd"),
        ({"history": "bag"}, "history='bag' was asked for"),
        ({"device": "cpu"}, "device='cpu' does not multiply in TF32"),
        ({"model": "neumf"}, "not for 'neumf'"),
        ({"dim": 9}, "no tiles for dim=9"),
        ({"layers": (64,)}, "no tiles for dim=8 and layers=(64,); expected dim 8, 16, 32 or 64 and two layers"),
        ({"layers": (64, 48)}, "layers=(64, 48)"),
        ({"dim": 64, "layers": (128, 64)}, "no room"),
        ({"loss": "bpr"}, "loss='bpr' has no CUDA kernel"),
        ({"dropout": 0.1}, "dropout=0.1 was asked for"),
        ({"deterministic": True}, "deterministic=True was asked for"),
        ({"precision": "float32"}, "precision='float32' was asked for"),
    ):
        assert reason in CUDAMLPTrainer.why_not(make_stage(**settings | changes), None)


class Derived(MLP):
    """A module that may compute something else."""


def test_which_modules_of_the_users_own_can_be_fused(monkeypatch):
    """By what they are, whatever the settings of the registered model say."""
    monkeypatch.setattr(cuda_mlp, "has_tf32", lambda device: True)
    sizes = []
    monkeypatch.setattr(cuda_mlp, "_why_no_launch", lambda device, *size: sizes.append(size))
    stage = make_stage(model="MLP", dim=9, layers=(9,), dropout=0.5, device="cuda", precision="bfloat16")
    assert CUDAMLPTrainer.why_not(stage, MLP(3, 4, 8, (64, 32))) is None
    assert sizes == [(3, 16, 64, 32)]
    frozen = MLP(3, 4, 8, (64, 32))
    frozen.output.weight.requires_grad_(False)
    for module, reason in (
        (nn.Linear(1, 1), "not for Linear"),
        (Derived(3, 4, 8, (64, 32)), "not for Derived"),
        (MLP(3, 4, 8, (64, 32), dropout=0.1), "the module has dropout=0.1"),
        (MLP(3, 4, 8, (64, 32)).double(), "parameters in float32"),
        (frozen, "none is frozen"),
        (MLP(3, 4, 8, (64, 30)), "layers=(64, 30)"),
    ):
        assert reason in CUDAMLPTrainer.why_not(stage, module)


def test_what_does_not_compile_is_not_fused_and_said(monkeypatch):
    def no_compiler(*args):
        raise RuntimeError("PassManager::run failed\nmore lines")

    monkeypatch.setattr("fastncf.kernels.cuda.mlp.add_gradients", no_compiler)
    with pytest.warns(RuntimeWarning, match=r"step does not run on .* \(PassManager::run failed\); steps are"):
        reason = cuda_mlp._why_no_launch.__wrapped__(DEVICE, 2, 16, 32, 16)
    assert reason == f"the kernel does not run on {DEVICE} (PassManager::run failed)"


def test_what_does_not_fit_is_not_fused_without_a_warning(monkeypatch):
    from triton.runtime.errors import OutOfResources

    def no_room(*args):
        raise OutOfResources(300_000, 100_000, "shared memory")

    monkeypatch.setattr("fastncf.kernels.cuda.mlp.add_gradients", no_room)
    reason = cuda_mlp._why_no_launch.__wrapped__(DEVICE, 2, 16, 32, 16)
    assert "out of resource: shared memory" in reason
