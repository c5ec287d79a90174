"""The kernels of MLP and NeuMF against autograd in float64, Adam against torch's, and the bits against themselves."""

import numpy as np
import pytest
import torch
from numba import njit

import fastncf
from fastncf import models
from fastncf.config import Config
from fastncf.kernels.cpu.gemm import COLUMN_MAJOR, COLUMNS, MASKED, PLAIN, RECTIFIED, ROW_MAJOR, ROWS, multiply
from fastncf.kernels.cpu.lazy_adam import Table, make_schedule, make_step, point_to, read_row, settle, stride, write_row
from fastncf.kernels.cpu.rows import drop
from fastncf.kernels.cpu.simd import pointer
from fastncf.models import build
from fastncf.models.losses import LOSSES
from fastncf.trainers import cpu_mlp as perceptron
from fastncf.trainers import neural
from fastncf.trainers.autograd import Adam, l2_penalty, score_batch
from fastncf.trainers.cpu_mlp import CPUMLPTrainer, fits_layers
from tests.conftest import checkerboard, plain_split, random_csr

CPU = torch.device("cpu")


def random_case(num_items=50, **settings):
    """A random split, and settings with a model of random sizes that are multiples of nothing."""
    random = np.random.default_rng()
    split = plain_split(*random_csr(random, int(random.integers(20, 60)), num_items, 40), num_items)
    layers = random.integers(3, 40, size=random.integers(1, 4)).tolist()
    sizes = {"dim": int(random.integers(3, 30)), "layers": layers, "num_negatives": int(random.integers(1, 12))}
    if settings["model"] == "neumf":
        sizes["mlp_dim"] = int(random.integers(3, 30))
    return split, Config(**{"l2": 0.01, "learning_rate": 0.01, "epochs": 3, **sizes, **settings}).with_recipe(
        "adam", "none"
    )


def is_near_0(x):
    """Which of a ReLU's float64 inputs the sums of float32 may have on the other side of 0."""
    return x.abs() < 3e-7 * x.abs().mean()


def built(split, config):
    return build(config, split.num_users, split.num_items, torch.zeros(split.num_items))


def trained(cls, split, config):
    """What a way to train makes of the same parameters: them, and the losses."""
    model = built(split, config)
    with cls(model, split, config, CPU) if cls is Adam else cls(model, split, config) as training:
        losses = [float(training.epoch(number)) for number in range(config.epochs)]
    return model.state_dict(), losses


@njit
def multiply_row_major(rows, columns, depth, a, b, start, c, end, mask, gain):
    multiply(rows, columns, depth, a, ROW_MAJOR, b, start, c, end, mask, gain)


@njit
def multiply_column_major(rows, columns, depth, a, b, start, c, end, mask, gain):
    multiply(rows, columns, depth, a, COLUMN_MAJOR, b, start, c, end, mask, gain)


@pytest.mark.parametrize("columns", range(COLUMNS, 80, COLUMNS))
def test_a_product_of_matrices_is_one(columns):
    random = np.random.default_rng()
    rows, depth = ROWS * int(random.integers(1, 20)), int(random.integers(0, 70))
    a, b, start, mask = (
        random.normal(size=shape).astype(np.float32)
        for shape in ((rows, depth), (depth, columns), (rows, columns), (rows, columns))
    )
    plain = start.astype(np.float64) + a.astype(np.float64) @ b
    expected = {PLAIN: plain, RECTIFIED: np.maximum(plain, 0), MASKED: np.where(mask > 0, 0.75 * plain, 0)}
    ways = {multiply_row_major: (a, depth), multiply_column_major: (np.ascontiguousarray(a.T), rows)}
    for end, product in expected.items():
        for way, (data, line) in ways.items():
            c = np.full((rows, columns), np.nan, dtype=np.float32)
            first = data.reshape(-1), 0, line
            rest = (b.reshape(-1), 0, columns), (start.reshape(-1), 0, columns), (c.reshape(-1), 0, columns)
            way(rows, columns, depth, first, *rest, end, mask.reshape(-1), np.float32(0.75))
            np.testing.assert_allclose(c, product, rtol=1e-4, atol=1e-4, err_msg=f"{way}, end {end}")


def test_what_is_no_number_goes_through_a_product():
    nan, zero = np.full(ROWS * COLUMNS, np.nan, dtype=np.float32), np.zeros(ROWS * COLUMNS, dtype=np.float32)
    a = b = zero, 0, COLUMNS
    multiply_row_major(ROWS, COLUMNS, 1, a, b, (nan, 0, COLUMNS), (zero, 0, COLUMNS), RECTIFIED, zero, np.float32(1))
    assert np.isnan(zero).all()


@pytest.mark.parametrize("model", ["mlp", "neumf"])
@pytest.mark.parametrize("loss", ["bce", "bpr"])
@pytest.mark.parametrize("pieces", [1, 5])
@pytest.mark.parametrize("num_items", [50, 5_000])
def test_a_step_has_the_gradients_of_autograd(model, loss, pieces, num_items, monkeypatch):
    """With few items a batch needs all of them again and again, with many a good part only once.

    Where a unit is so near to 0 that float32 may put it on the other side, both gradients are right: another case.
    """
    near = [True]

    def relu(x):
        near.append(bool(is_near_0(x).any()))
        return x.clamp(min=0)

    monkeypatch.setattr(models.layers.F, "relu", relu)
    while any(near):
        split, config = random_case(num_items, model=model, loss=loss, epochs=1, batch_size=10**6)
        monkeypatch.setattr(perceptron, "_SAMPLES_A_PIECE", len(split.indices) * (1 + config.num_negatives) // pieces)
        module = built(split, config)
        exact = built(split, config).double()
        exact.load_state_dict(module.state_dict())
        with CPUMLPTrainer(module, split, config) as training:
            total = training.epoch(0)
            batch = training.epochs.take(training.epochs.order)
        near.clear()
        mean = LOSSES[loss].function(*score_batch(exact, batch))
    # After the first step Adam's means are a tenth of the gradients: they are put where the parameters are read from.
    layout = training.layout
    layout.rows[:, : layout.vector] = layout.rows[:, layout.vector : 2 * layout.vector] / 0.1
    layout.dense[0] = layout.dense[1] / 0.1
    layout.write()
    (mean + l2_penalty(exact, batch, config.l2)).backward()
    assert total == pytest.approx(mean.item() * len(split.indices), rel=1e-5)
    for (name, gradient), expected in zip(module.named_parameters(), exact.parameters(), strict=True):
        difference = (gradient.detach() - expected.grad).norm().item()
        assert difference <= 1e-4 * expected.grad.norm().item() + 1e-7, name


@pytest.mark.parametrize("model", ["mlp", "neumf"])
@pytest.mark.parametrize("schedule", ["linear", "constant"])
def test_epochs_are_those_of_torch(model, schedule):
    split, config = random_case(model=model, schedule=schedule, batch_size=97)
    parameters, losses = trained(CPUMLPTrainer, split, config)
    expected, expected_losses = trained(Adam, split, config)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-3)
    for name, tensor in expected.items():
        torch.testing.assert_close(parameters[name], tensor, rtol=0, atol=0.002, msg=name)


@pytest.mark.parametrize("settings", [{}, {"dropout": 0.4}, {"loss": "bpr"}, {"negatives": "popularity"}])
def test_the_bits_do_not_depend_on_threads(settings, monkeypatch):
    split, config = random_case(model="neumf", batch_size=400, epochs=2, **settings)
    monkeypatch.setattr(perceptron, "_SAMPLES_A_PIECE", 250)
    results = []
    for threads in (1, 2, 3, 5):
        monkeypatch.setenv("FASTNCF_NUM_THREADS", str(threads))
        results.append(trained(CPUMLPTrainer, split, config))
    for parameters, losses in results[1:]:
        assert losses == results[0][1]
        for name, tensor in results[0][0].items():
            assert torch.equal(parameters[name], tensor), name


@njit
def _steps(first, last, which, gradients, rows, steps, pace):
    """Steps with the gradients (S, W) of one row of a table each."""
    table, given = Table(pointer(rows), pointer(steps), gradients.shape[1], len(rows) // len(which)), point_to(pace)
    for number in range(first, last):
        step, row = make_step(number, given), which[number - 1]
        values, gradient = (table.rows, row * table.stride), (pointer(gradients), (number - 1) * table.width)
        read_row(values, table, row, number - 1, step.before, given)
        write_row(table, row, step, values, gradient, given)


@pytest.mark.parametrize("fall", [0.0, 1e-6])
def test_late_steps_are_those_of_a_dense_adam(fall):
    """Rows that are touched at every step, now and then, and once, against torch's Adam in float64."""
    random = np.random.default_rng()
    num_rows, width, steps = 1_500, 8, 1_500
    rate, size = 0.002, stride(width)
    chances = np.arange(1, num_rows + 1) ** -1.2
    which = random.choice(num_rows, size=steps, p=chances / chances.sum())
    gradients = random.normal(size=(steps, width)) * 10 ** random.uniform(-6, 0, size=(steps, 1))
    gradients = gradients.astype(np.float32)
    rows = np.zeros((num_rows, size), dtype=np.float32)
    # larger ones are rounded by more, in torch's float32 as well, than the bound below leaves to all errors together
    rows[:, :width] = start = random.uniform(-1, 1, size=(num_rows, width)).astype(np.float32)
    flat, pace = rows.reshape(-1), make_schedule(rate, fall)
    _steps(1, steps + 1, np.resize(which, num_rows), gradients, flat, flat.view(np.int32), pace)
    settle(0, num_rows, steps, flat, flat.view(np.int32), width, size, pace)

    exact = torch.nn.Parameter(torch.from_numpy(start.astype(np.float64)))
    adam = torch.optim.Adam([exact], lr=rate)
    for step in range(steps):
        adam.param_groups[0]["lr"] = rate - fall * step
        exact.grad = torch.zeros_like(exact)
        exact.grad[which[step]] = torch.from_numpy(gradients[step].astype(np.float64))
        adam.step()
    moved = exact.detach().numpy() - start
    error = rows[:, :width] - exact.detach().numpy()
    touched = np.unique(which)
    assert (np.abs(error[touched]) <= 1e-4 * np.abs(moved[touched]) + 3e-6).all()
    untouched = np.setdiff1d(np.arange(num_rows), touched)
    np.testing.assert_array_equal(rows[untouched, :width], start[untouched])


@njit
def _dropped(numbers, share, key):
    drop((pointer(numbers), 0), len(numbers), share, key)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_drops_its_share_and_keeps_the_mean(share):
    results = []
    for key in np.random.default_rng().integers(2**63, size=2, dtype=np.uint64):
        numbers = np.ones(80_000, dtype=np.float32)
        _dropped(numbers, share, key)
        assert set(np.unique(numbers)) == {0, np.float32(1 / (1 - share))}
        assert (numbers == 0).mean() == pytest.approx(share, abs=0.01)
        results.append(numbers == 0)
    both = share**2 + (1 - share) ** 2
    assert (results[0] == results[1]).mean() == pytest.approx(both, abs=0.01)
    assert (results[0][1:] == results[0][:-1]).mean() == pytest.approx(both, abs=0.01)


def test_dropout_is_used_in_training():
    split, config = random_case(model="mlp", layers=(32, 16), dim=16, l2=0.0, epochs=2)
    _, plain = trained(CPUMLPTrainer, split, config)
    _, dropped = trained(CPUMLPTrainer, split, Config(**{**config.to_dict(), "dropout": 0.5}))
    assert plain != dropped


@pytest.mark.parametrize("model", ["mlp", "neumf"])
def test_fit_uses_the_kernels_where_they_fit(model, monkeypatch):
    used = []
    monkeypatch.setattr(neural, "CPUMLPTrainer", lambda *given: used.append(type(given[0])) or CPUMLPTrainer(*given))
    fitted = fastncf.fit(checkerboard(), model=model, optimizer="adam", dim=8, epochs=30, device="cpu")
    assert [kind.__name__.lower() for kind in used] == [model]
    assert fitted.metrics["hr@10"] > 0.9
    fastncf.fit(checkerboard(), model=model, optimizer="adam", dim=8, epochs=1, device="cpu", precision="bfloat16")
    assert len(used) == 1


def test_other_modules_are_left_to_torch():
    split, config = random_case(model="mlp")
    module = built(split, config)
    assert fits_layers(module, config, CPU)
    assert not fits_layers(module, config, torch.device("cuda"))
    assert not fits_layers(built(split, config).double(), config, CPU)
    assert not fits_layers(torch.nn.Sequential(module), config, CPU)
    module.user_embedding.weight.requires_grad_(False)
    assert not fits_layers(module, config, CPU)


@pytest.mark.parametrize("size", [1, 10**13])
def test_a_batch_may_be_smaller_than_an_interaction_and_larger_than_all(size):
    split, config = random_case(model="mlp", batch_size=size, epochs=1)
    _, losses = trained(CPUMLPTrainer, split, config)
    _, expected = trained(Adam, split, config)
    np.testing.assert_allclose(losses, expected, rtol=1e-3)
