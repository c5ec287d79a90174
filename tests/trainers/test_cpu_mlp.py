"""The trainer of MLP and NeuMF against the reference in float64, and its bits against themselves."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import fastncf
from fastncf.errors import ConfigError
from fastncf.kernels.cpu.gemm import ROW_MULTIPLE
from fastncf.kernels.cpu.mlp_structures import tile_size
from fastncf.models import build
from fastncf.models.mlp import MLP
from fastncf.models.neumf import NeuMF
from fastncf.rng import Stream, key, mix
from fastncf.trainers import cpu_mlp
from fastncf.trainers.cpu_mlp import CPUMLPTrainer
from tests import reference
from tests.conftest import checkerboard, plain_split, random_csr
from tests.kernels.test_rows import drop
from tests.stages import make_stage

STAGE = make_stage(model="mlp", epochs=3)


def random_case(num_items=50, **changes):
    """Return a random split, and a stage whose sizes are random too and multiples of nothing."""
    random = np.random.default_rng()
    split = plain_split(*random_csr(random, int(random.integers(20, 60)), num_items, 40), num_items)
    sizes = {
        "dim": int(random.integers(3, 30)),
        "mlp_dim": int(random.integers(3, 30)),
        "layers": tuple(random.integers(3, 40, size=random.integers(1, 4)).tolist()),
        "num_negatives": int(random.integers(1, 12)),
    }
    return split, replace(STAGE, **(sizes | changes))


def build_model(split, stage):
    return build(stage, split.num_users, split.num_items, torch.zeros(split.num_items))


def train(split, stage):
    """Return the parameters after all epochs, and the loss of each epoch."""
    model = build_model(split, stage)
    with CPUMLPTrainer(model, split, stage) as trainer:
        losses = [trainer.epoch(number) for number in range(stage.epochs)]
    return model.state_dict(), losses


def has_unit_near_0(p, model, users, items):
    """Return whether float32 may put an input of a ReLU on the other side of 0, where both gradients are right."""
    x = reference.hidden_forward(p, "mlp_" if model == "neumf" else "", users, items, None)
    inputs = [reference.preactivations(p, layer, x[layer]) for layer in range(len(x) - 1)]
    return any((np.abs(z) < 3e-7 * np.abs(z).mean()).any() for z in inputs)


def one_step(split, stage):
    """Return the only batch of an epoch, its parameters before, its loss, and the gradients that were computed."""
    model = build_model(split, stage)
    p = reference.parameters_of(model)
    with CPUMLPTrainer(model, split, stage) as trainer:
        total = trainer.epoch(0)
        ((users, items),) = reference.batches(trainer.loader)
        state = trainer.state_dict()
    gradients = {name: state[f"exp_avg.{name}"].double().numpy() / 0.1 for name in p}  # the first mean is a tenth
    return users, items, p, total, gradients


def assert_gradients_close(gradients, expected):
    for name, gradient in gradients.items():
        difference = np.linalg.norm(gradient - expected[name])
        assert difference <= 1e-4 * np.linalg.norm(expected[name]) + 1e-7, name


@pytest.mark.parametrize("model", ["mlp", "neumf"])
@pytest.mark.parametrize("loss", ["bce", "bpr"])
@pytest.mark.parametrize(("microbatches", "by_shards"), [(1, False), (5, False), (1, True), (30, True)])
@pytest.mark.parametrize("num_items", [50, 5_000])
def test_a_step_has_the_gradients_of_the_reference(model, loss, microbatches, by_shards, num_items, monkeypatch):
    """With few items a batch uses each of them again and again, with many a good part only once."""
    if by_shards:
        monkeypatch.setattr(cpu_mlp, "_SHARED_BATCH", 1)
    near = True
    while near:
        split, stage = random_case(num_items, model=model, loss=loss, epochs=1, batch_size=10**6)
        samples = len(split.indices) * (1 + stage.num_negatives)
        monkeypatch.setattr(cpu_mlp, "_MICROBATCH_SAMPLES", samples // microbatches)
        users, items, p, total, gradients = one_step(split, stage)
        near = has_unit_near_0(p, model, users, items)
    value, expected = reference.gradients(model, p, users, items, loss, stage.l2)
    assert total == pytest.approx(value * len(users), rel=1e-5)
    assert_gradients_close(gradients, expected)


@pytest.mark.parametrize("model", ["mlp", "neumf"])
def test_dropout_drops_the_same_activations_forward_and_backward(model):
    """The kernel's draws are functions of step, tile, layer and position: here they are masks of the reference."""
    near = True
    while near:
        split, stage = random_case(model=model, dropout=0.3, epochs=1, batch_size=10**6)
        users, items, p, total, gradients = one_step(split, stage)
        near = has_unit_near_0(p, model, users, items)
    tile, seed = int(tile_size(stage.num_negatives)), key(stage.seed, Stream.DROPOUT)
    masks = [np.empty((*items.shape, width)) for width in stage.layers]
    for start in range(0, len(users), tile):
        size = min(tile, len(users) - start)
        shape = -(-size // ROW_MULTIPLE) * ROW_MULTIPLE, 1 + stage.num_negatives
        first_key = mix((mix((seed + 1) % 2**64) + start) % 2**64)
        for layer, width in enumerate(stage.layers):
            mask = np.ones((*shape, -(-width // 8) * 8), dtype=np.float32)
            drop(mask.reshape(-1), 0.3, np.uint64(mix((first_key + layer) % 2**64) if layer else first_key))
            masks[layer][start : start + size] = mask[:size, :, :width]
    value, expected = reference.gradients(model, p, users, items, "bce", stage.l2, masks)
    assert total == pytest.approx(value * len(users), rel=1e-5)
    assert_gradients_close(gradients, expected)


def reference_epochs(stage, p, epochs, shift, monkeypatch):
    """Return the parameters and the losses of epochs, lists of batches each, in float64.

    The inputs of each ReLU are shifted by a multiple of their mean size.
    """
    losses, step, num_steps = [], 0, sum(map(len, epochs))
    means, squares, plain = reference.zeros_like(p), reference.zeros_like(p), reference.preactivations

    def shifted(p, layer, x):
        z = plain(p, layer, x)
        return z + shift * np.abs(z).mean()

    with monkeypatch.context() as patched:
        patched.setattr(reference, "preactivations", shifted)
        for batches in epochs:
            losses.append(0.0)
            for users, items in batches:
                rate = float(stage.learning_rate_at(np.array(step / num_steps)))
                value, grads = reference.gradients(stage.model, p, users, items, stage.loss, stage.l2)
                step += 1
                p, means, squares = reference.adam_step(p, grads, means, squares, step, rate)
                losses[-1] += value * len(users)
    return p, losses


def distance(p, other, start):
    """Return the largest distance of two tensors in units of what one has moved since the start."""
    norm = np.linalg.norm
    return max(norm(p[name] - other[name]) / (norm(p[name] - start[name]) + 1e-3) for name in p)  # some do not move


@pytest.mark.parametrize("model", ["mlp", "neumf"])
@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_epochs_are_those_of_the_reference(model, schedule, monkeypatch):
    """Adam makes a whole step of any gradient, however small.

    Where float32 puts the input of a ReLU on the other side of 0, the paths part, and both are right: another case.
    """
    while True:
        split, stage = random_case(model=model, schedule=schedule, batch_size=97)
        module = build_model(split, stage)
        start, losses, epochs = reference.parameters_of(module), [], []
        with CPUMLPTrainer(module, split, stage) as trainer:
            for number in range(stage.epochs):
                losses.append(trainer.epoch(number))
                epochs.append(list(reference.batches(trainer.loader)))
            assert trainer.sampling_seconds() > 0
        below, exact, above = (
            reference_epochs(stage, start, epochs, shift, monkeypatch) for shift in (-3e-6, 0.0, 3e-6)
        )
        if distance(below[0], above[0], start) < 1e-3:
            break
    np.testing.assert_allclose(losses, exact[1], rtol=1e-5)
    assert distance(exact[0], reference.parameters_of(module), start) < 1e-3


@pytest.mark.parametrize("by_shards", [False, True])
def test_a_last_microbatch_may_have_more_chunks_than_those_before(by_shards, monkeypatch):
    """By chunks of two tiles the first of 33 tiles has 17, where the last by chunks of one would have up to 32."""
    if by_shards:
        monkeypatch.setattr(cpu_mlp, "_SHARED_BATCH", 1)
    random = np.random.default_rng()
    split = plain_split(*random_csr(random, 80, 90, 60), 90)
    stage = replace(STAGE, num_negatives=4, epochs=3, batch_size=5 * int(random.integers(410, 520)))
    _, expected = train(split, stage)
    monkeypatch.setattr(cpu_mlp, "_MICROBATCH_SAMPLES", 5 * 33 * int(tile_size(4)))
    _, losses = train(split, stage)
    np.testing.assert_allclose(losses, expected, rtol=1e-5)


@pytest.mark.parametrize("by_shards", [False, True])
@pytest.mark.parametrize("changes", [{}, {"dropout": 0.4}, {"loss": "bpr"}, {"negatives": "popularity"}])
def test_the_bits_do_not_depend_on_threads(changes, by_shards, monkeypatch):
    if by_shards:
        monkeypatch.setattr(cpu_mlp, "_SHARED_BATCH", 1)
    split, stage = random_case(model="neumf", batch_size=400, epochs=2, **changes)
    monkeypatch.setattr(cpu_mlp, "_MICROBATCH_SAMPLES", 250)
    monkeypatch.setattr(cpu_mlp, "_CALL_SAMPLES", 900)
    results = []
    for threads in (1, 2, 3, 5):
        monkeypatch.setenv("FASTNCF_NUM_THREADS", str(threads))
        results.append(train(split, stage))
    for parameters, losses in results[1:]:
        assert losses == results[0][1]
        for name, tensor in results[0][0].items():
            assert torch.equal(parameters[name], tensor), name


@pytest.mark.parametrize("model", ["mlp", "neumf"])
@pytest.mark.parametrize("changes", [{}, {"loss": "bpr"}, {"dropout": 0.4}])
def test_a_restored_trainer_continues_with_the_same_bits(model, changes):
    """A new one on other parameters, and the one itself, which goes back in time."""
    split, stage = random_case(model=model, epochs=5, batch_size=97, **changes)
    module, other = build_model(split, stage), build_model(split, replace(stage, seed=1))
    with CPUMLPTrainer(module, split, stage) as trainer, CPUMLPTrainer(other, split, stage) as restored:
        for number in range(2):
            trainer.epoch(number)
        state, before = copy.deepcopy(trainer.state_dict()), copy.deepcopy(module.state_dict())
        losses = [trainer.epoch(number) for number in range(2, 5)]
        after = copy.deepcopy(module.state_dict())
        for one, parameters in ((restored, other), (trainer, module)):
            one.load_state_dict(state)
            assert_same_bits(parameters.state_dict(), before)
            assert_same_bits(one.state_dict(), state)
            assert [one.epoch(number) for number in range(2, 5)] == losses
            assert_same_bits(parameters.state_dict(), after)


def assert_same_bits(tensors, expected):
    assert tensors.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(tensors[name], tensor), name


def test_a_state_has_all_names_and_shapes():
    split, stage = random_case()
    with CPUMLPTrainer(build_model(split, stage), split, stage) as trainer:
        trainer.epoch(0)
        state = trainer.state_dict()
        name = "exp_avg_sq.hidden.0.bias"
        without = {other: tensor for other, tensor in state.items() if other != name}
        for wrong, message in (
            (without, f"'{name}' is missing"),
            (state | {"momentum": torch.zeros(1)}, "'momentum' is unknown"),
            (state | {"steps": state["steps"][1:]}, r"'steps' has shape \(\d+,\); expected \(\d+,\)"),
        ):
            with pytest.raises(ValueError, match=message):
                trainer.load_state_dict(wrong)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"optimizer": "sgd"}, "takes steps by adam, not by sgd"),
        ({"history": "bag"}, "history='bag' was asked for, and the kernels train no histories"),
        ({"device": "cuda:0"}, "device='cuda:0' was asked for, and the kernels run on the CPU"),
        ({"precision": "bfloat16"}, "precision='bfloat16' was asked for, and the kernels multiply in float32"),
        ({"loss": "hinge"}, "loss='hinge' has no CPU kernel"),
        ({"model": "gmf"}, "the kernels are for model='mlp' and 'neumf' and not for 'gmf'"),
    ],
)
def test_other_stages_are_refused(changes, reason, monkeypatch):
    hinge = replace(cpu_mlp.LOSSES["bpr"], cpu_kernel=None)
    monkeypatch.setitem(cpu_mlp.LOSSES, "hinge", hinge)
    assert CPUMLPTrainer.why_not(STAGE, None) is None
    assert CPUMLPTrainer.why_not(replace(STAGE, model="neumf"), None) is None
    assert CPUMLPTrainer.why_not(replace(STAGE, **changes), None) == reason


class OwnMLP(MLP):
    def forward(self, users, items):
        return -super().forward(users, items)


def test_other_modules_are_refused():
    stage = replace(STAGE, model="Own")
    module, frozen, double = (MLP(5, 6, 8, (16, 8)) for _ in range(3))
    frozen.item_embedding.weight.requires_grad_(False)
    double.output.double()
    for own, reason in (
        (module, None),
        (NeuMF(5, 6, 8, (16, 8)), None),
        (OwnMLP(5, 6, 8, (16, 8)), "the kernels are for modules of the classes MLP and NeuMF and not for OwnMLP"),
        (nn.Sequential(module), "the kernels are for modules of the classes MLP and NeuMF and not for Sequential"),
        (frozen, "item_embedding.weight is frozen, and the kernels train all parameters"),
        (double, "output.weight is torch.float64, and the kernels take float32"),
        (MLP(5, 6, 8, (16, 8)).to("meta"), "user_embedding.weight is on meta, and the kernels run on the CPU"),
    ):
        assert CPUMLPTrainer.why_not(stage, own) == reason


def test_more_than_the_kernels_can_number_is_refused():
    assert CPUMLPTrainer.why_not(replace(STAGE, layers=(46_000, 46_000)), None) is None
    reason = CPUMLPTrainer.why_not(replace(STAGE, layers=(50_000, 50_000)), None)
    assert reason == "layers=(50000, 50000) have more than 2,146,435,072 weights, which the kernels number"
    split, stage = random_case(model="mlp", layers=(32, 16), epochs=2**31 - 1)
    with pytest.raises(ConfigError, match=r"epochs=2147483647, batch_size=.* steps; expected at most 1,073,741,823"):
        CPUMLPTrainer(build(stage, split.num_users, split.num_items, split.item_counts()), split, stage)


def test_a_module_keeps_its_own_dropout():
    split, stage = random_case(model="mlp", layers=(32, 16), epochs=1)
    losses = []
    for dropout in (0.0, 0.5):
        module = MLP(split.num_users, split.num_items, 8, (32, 16), torch.Generator().manual_seed(0), dropout=dropout)
        with CPUMLPTrainer(module, split, stage) as trainer:
            losses.append(trainer.epoch(0))
    assert losses[0] != losses[1]


@pytest.mark.parametrize("model", ["mlp", "neumf"])
def test_fit_uses_the_trainer_where_it_applies(model, monkeypatch):
    trained, epoch = [], CPUMLPTrainer.epoch
    monkeypatch.setattr(CPUMLPTrainer, "epoch", lambda self, number: trained.append(number) or epoch(self, number))
    settings = {"model": model, "optimizer": "adam", "dim": 8, "device": "cpu"}
    fitted = fastncf.fit(checkerboard(), epochs=30, **settings)
    assert trained == list(range(30))
    assert fitted.metrics["hr@10"] > 0.9
    fastncf.fit(checkerboard(), epochs=1, precision="bfloat16", **settings)
    assert len(trained) == 30


@pytest.mark.parametrize("size", [1, 10**13])
def test_a_batch_may_be_smaller_than_an_interaction_and_larger_than_all(size):
    split, stage = random_case(epochs=1, batch_size=size)
    module = build_model(split, stage)
    p = reference.parameters_of(module)
    with CPUMLPTrainer(module, split, stage) as trainer:
        total = trainer.epoch(0)
        first = next(reference.batches(trainer.loader))
    assert len(first[0]) == (1 if size == 1 else len(split.indices))
    if size > 1:
        value, _ = reference.gradients("mlp", p, *first, stage.loss)
        assert total == pytest.approx(value * len(split.indices), rel=1e-3)
    assert np.isfinite(total)
