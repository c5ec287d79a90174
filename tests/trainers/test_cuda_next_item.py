"""CUDANextItem against the trainer of the CPU and torch, on a CUDA device, or by Triton's interpreter without one."""

import copy
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fastncf.data.split import Split
from fastncf.kernels.cpu.lazy_adam import make_schedule
from fastncf.models.mf import MF
from fastncf.rng import Stream, key
from fastncf.trainers import cuda_next_item, next_item
from fastncf.trainers.cuda_next_item import CUDANextItem, step_numbers
from fastncf.trainers.next_item import NextItem
from tests.conftest import plain_split
from tests.trainers.test_block_sgd import check_refused_states, random_split, weights_by_pair, with_weights
from tests.trainers.test_history_sgd import random_order
from tests.trainers.test_next_item import (
    batch_loss,
    batches_of,
    make,
    negatives_of,
    parameters_of,
    softmax_stage,
    state_of,
)

pytest.importorskip("triton")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch):
    """Let histories have several windows, and windows several blocks of tokens."""
    monkeypatch.setattr(next_item, "WINDOW", 5)
    monkeypatch.setattr(cuda_next_item, "WINDOW", 5)
    monkeypatch.setattr("fastncf.kernels.cuda.batches.BLOCK_TOKENS", 4)


def small_split(seed: int) -> Split:
    return random_split(seed, num_users=7, num_items=23, max_degree=12)


def on_device(split: Split, **changes) -> CUDANextItem:
    stage = softmax_stage(device=str(DEVICE), **changes)
    model = MF(split.num_users, split.num_items, stage.dim).to(DEVICE)
    return CUDANextItem(model, split, stage, random_order(split, 0))


def arrays_of(trainer: CUDANextItem | NextItem) -> dict[str, np.ndarray]:
    return {name: torch.as_tensor(value).cpu().numpy().copy() for name, value in trainer.state_dict().items()}


def bits_of(trainer: CUDANextItem) -> list[bytes]:
    tensors = [*trainer.state_dict().values(), *trainer.model.state_dict().values()]
    return [tensor.cpu().numpy().tobytes() for tensor in tensors]


def assert_same_training(ours: CUDANextItem, theirs: NextItem, tolerance: float = 2e-5) -> None:
    found = arrays_of(ours)
    for name, array in arrays_of(theirs).items():
        np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=tolerance, err_msg=name)
    np.testing.assert_array_equal(found["steps"], arrays_of(theirs)["steps"])
    model = ours.model.cpu().factors()
    ours.model.to(DEVICE)
    for name, array, exact in zip(model._fields, model, theirs.model, strict=True):
        np.testing.assert_allclose(array, exact, rtol=1e-3, atol=tolerance, err_msg=name)


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 20},
        {"dim": 21, "dropout": 0.4, "batch_size": 30},
        {"num_negatives": 500, "dropout": 0.2, "precision": "bfloat16"},
        {"num_negatives": 1, "dim": 16, "batch_size": 500, "schedule": "constant", "shuffle": False},
        {"batch_size": 2},
        {"horizon": 3, "batch_size": 20},
    ],
)
def test_epochs_are_the_cpus(changes):
    """Draws, losses, parameters, moments, steps and states; some batches of two positions have no window."""
    split = small_split(int(np.random.default_rng().integers(1000)))
    ours, theirs = on_device(split, **changes), make(split, **changes)
    if "dropout" in changes:
        split = with_weights(split, 3)
    tolerance = 2e-5 if DEVICE.type == "cpu" or changes.get("precision") != "bfloat16" else 5e-3
    assert ours.num_batches == theirs.num_batches
    for number in range(1 if changes.get("batch_size") == 2 else 2):
        expected = theirs.epoch(number)
        assert float(ours.epoch(number)) == pytest.approx(expected, rel=tolerance)
    assert_same_training(ours, theirs, tolerance)


def first_gradients(ours: CUDANextItem, theirs: NextItem) -> None:
    """Compare Adam's means after a first step over all windows with the gradients of autograd in float64."""
    theirs.load_state_dict(arrays_of(ours))
    p = parameters_of(theirs)
    (chosen,) = batches_of(theirs, 0)
    loss = batch_loss(theirs, p, 0, 0, chosen, weights_by_pair(theirs.split))
    (loss / theirs.num_positions).backward()
    expected = loss.item() * ours.num_interactions / ours.num_positions
    assert float(ours.epoch(0)) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    for name, tensor in p.items():
        gradient = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
        found = torch.as_tensor(arrays_of(ours)[f"exp_avg.{name}"]).double() * 10
        assert (found - gradient).norm() <= 1e-4 * gradient.norm() + 1e-8, name


@pytest.mark.parametrize(
    "changes", [{}, {"dim": 3, "num_negatives": 1}, {"dim": 37, "dropout": 0.3, "num_negatives": 21}]
)
def test_gradients_are_autograds(changes):
    """From random parameters, biases, gains and decays, with products of more than one tile."""
    random = np.random.default_rng()
    split = small_split(int(random.integers(1000)))
    settings = {"batch_size": 500, "epochs": 1, "schedule": "constant"} | changes
    ours, theirs = on_device(split, **settings), make(split, **settings)
    state = arrays_of(ours)
    for name in ("item_bias", "gains", "decay_logits"):
        state[f"parameters.{name}"] += random.normal(0, 0.5, state[f"parameters.{name}"].shape).astype(np.float32)
    ours.load_state_dict(state)
    first_gradients(ours, theirs)


def test_users_who_have_seen_all_negatives_and_windows_of_one_position():
    rows = [np.arange(7), np.arange(7), [2, 5], [3, 4], [0], []]
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    split = plain_split(indptr, np.concatenate(rows).astype(np.int32), 7)
    settings = {"batch_size": 100, "num_negatives": 7, "epochs": 1, "schedule": "constant"}
    ours, theirs = on_device(split, **settings), make(split, **settings)
    assert ours.windows.lengths.min() == 1
    first_gradients(ours, theirs)
    split = plain_split(indptr[:3], np.concatenate(rows[:2]).astype(np.int32), 7)
    all_seen = on_device(split, **settings)
    assert float(all_seen.epoch(0)) == 0
    assert not any(array.any() for name, array in arrays_of(all_seen).items() if name.startswith("exp_avg"))


def test_negatives_and_masks_are_the_cpus():
    from fastncf.kernels.cuda import batches as kernels
    from fastncf.kernels.cuda.batch_draws import draw_shared_negatives, fill_masks

    random = np.random.default_rng()
    seed, first_batch, num_items, count = int(random.integers(2**60)), 3_000_000, 100_003, 999
    keys = np.array([key(seed, Stream.NEGATIVES, 0)] * 2, dtype=np.uint64).view(np.int64)
    numbers = kernels.EpochNumbers(torch.from_numpy(keys).to(DEVICE), *[torch.zeros(1, device=DEVICE)] * 4)
    negatives = torch.zeros(2, count, dtype=torch.int32, device=DEVICE)
    draw_shared_negatives(negatives, numbers, first_batch, num_items)
    described = SimpleNamespace(num_items=num_items, num_negatives=count, stage=SimpleNamespace(seed=seed))
    for row in range(2):
        assert negatives[row].tolist() == negatives_of(described, 0, first_batch + row)[0]
    rows = [np.sort(random.choice(num_items, size, replace=False)) for size in (0, 1, 50_000, 70_000)]
    rows.append(np.unique(negatives.cpu().numpy()))
    indptr = torch.tensor([0, *np.cumsum([len(row) for row in rows])])
    seen = torch.from_numpy(np.concatenate(rows).astype(np.int32))
    users, batch_rows = torch.tensor([9, 4, 0, 2, 1, 3], dtype=torch.int32), torch.tensor([1, 0, 1, 0, 1])
    unused = torch.zeros(1)
    histories = kernels.Histories(indptr, seen, unused, seen, 70_000, users, *[unused] * 4)
    histories = histories._replace(
        **{name: getattr(histories, name).to(DEVICE) for name in ("indptr", "seen", "users")}
    )
    masks = torch.full((5, count), -1, dtype=torch.int8, device=DEVICE)
    plan = kernels.Plan(unused, unused, negatives, masks, *[unused] * 5)
    fill_masks(plan, histories, batch_rows.int().to(DEVICE), 1)
    for mask, user, row in zip(masks.cpu().numpy(), users.tolist()[1:], batch_rows.tolist(), strict=True):
        np.testing.assert_array_equal(mask, np.isin(negatives[row].cpu().numpy(), rows[user]))


@pytest.mark.parametrize("first_step", [0, 400])
def test_late_steps_are_those_of_a_dense_adam(first_step):
    """Rows that were written in steps up to 270, taken one after the other, and later ones, taken all at once."""
    from fastncf.kernels.cuda import batches as kernels
    from fastncf.kernels.cuda.lazy_adam import catch_up_all

    random, count = np.random.default_rng(), 290
    schedule = make_schedule(0.01, 1e-5)
    written = np.array([0, 1, 2, 200, 255, 256, 270, 289, 290]) + first_step
    written[0] = 0
    values = random.normal(0, 1, (3, len(written), 80)).astype(np.float32)
    values[2] **= 2
    numbers = step_numbers(schedule, first_step, count + 1)
    epoch = kernels.EpochNumbers(
        torch.zeros(2, dtype=torch.int64),
        torch.tensor([first_step]),
        torch.from_numpy(numbers),
        torch.zeros(1),
        torch.zeros(1),
    )
    epoch = kernels.EpochNumbers(*(tensor.to(DEVICE) for tensor in epoch))
    inputs, outputs, biases = (
        torch.tensor(values[:, :, at].copy(), device=DEVICE) for at in (slice(64), slice(64, 80), 0)
    )
    steps = torch.tensor(np.column_stack([written, written]), dtype=torch.int32, device=DEVICE)
    unused = torch.zeros(1, device=DEVICE)
    parameters = kernels.Parameters(inputs, outputs, biases, steps, unused, unused, unused)
    sizes = kernels.Sizes(len(written), 1, 16, 16, 4, 1, 1, 1, "tf32", 0.0)
    catch_up_all(parameters, epoch, sizes, count)
    exact = values.astype(np.float64)
    for row, last in enumerate(written.tolist()):
        value, mean, square = exact[:, row]
        for step in range(last + 1, first_step + count + 1) if last else ():
            mean *= 0.9
            square *= 0.999
            rate = (0.01 - 1e-5 * (step - 1)) / (1 - 0.9**step)
            value -= rate * mean / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
    np.testing.assert_allclose(torch.cat([inputs, outputs], 2).cpu(), exact, rtol=2e-4, atol=2e-5)
    np.testing.assert_allclose(biases.cpu(), exact[:, :, 0], rtol=2e-4, atol=2e-5)
    np.testing.assert_array_equal(steps.cpu().T, [np.where(written, first_step + count, 0)] * 2)


def test_states_move_between_the_trainers_and_training_goes_on_with_the_same_bits(monkeypatch):
    monkeypatch.setattr(cuda_next_item, "_STEPS_PER_GRAPH", 2)
    split = small_split(4)
    ours, other, theirs = on_device(split), on_device(split), make(split)
    ours.epoch(0)
    state = copy.deepcopy(ours.state_dict())
    theirs.load_state_dict({name: tensor.cpu().numpy() for name, tensor in state.items()})
    expected = theirs.epoch(1)
    assert float(ours.epoch(1)) == pytest.approx(expected, rel=1e-4)
    assert_same_training(ours, theirs)
    other.load_state_dict(state)
    other.epoch(1)
    assert bits_of(other) == bits_of(ours)
    other.load_state_dict(theirs.state_dict())
    assert_same_training(other, theirs, 1e-6)
    other.epoch(2)
    theirs.epoch(2)
    assert_same_training(other, theirs)


def test_a_plan_of_few_batches_and_steps_of_graphs_change_no_bit(monkeypatch):
    split = small_split(6)
    found = []
    for batches, steps in ((256, 32), (3, 2), (1, 1)):
        monkeypatch.setattr(CUDANextItem, "batches_per_plan", batches)
        monkeypatch.setattr(cuda_next_item, "_STEPS_PER_GRAPH", steps)
        trainer = on_device(split, batch_size=8, dropout=0.2)
        assert trainer.num_batches > 3
        found.append((float(trainer.epoch(0)), bits_of(trainer)))
    assert found[0] == found[1] == found[2]


def test_the_encoder_gives_the_states_of_the_model():
    split = small_split(6)
    trainer = on_device(split, dim=20, batch_size=500)
    trainer.epoch(0)
    encoder = trainer.encoder
    p = {
        "history_vectors": torch.from_numpy(encoder.vectors).double(),
        "gains": torch.from_numpy(encoder.gains).double(),
        "decay_logits": torch.logit(torch.from_numpy(encoder.decays).double()),
    }
    states = trainer.model.user_embedding.weight.detach().cpu()
    for user, (start, end) in enumerate(itertools.pairwise(split.indptr.tolist())):
        expected = torch.zeros(20)
        if end > start:
            history = torch.from_numpy(trainer.windows.items[start:end][-encoder.longest :].astype(np.int64))
            expected = state_of(p, history, encoder.is_mean)
        np.testing.assert_allclose(states[user], expected, atol=1e-4)


def test_other_states_are_refused():
    trainer = on_device(small_split(0))
    check_refused_states(trainer)


def test_histories_too_short_to_predict_anything():
    trainer = on_device(random_split(0, num_users=5, max_degree=1))
    assert float(trainer.epoch(0)) == 0
    assert trainer.model.item_embedding.weight.isfinite().all()


def test_nan_shows_in_the_loss():
    trainer = on_device(small_split(5), batch_size=500)
    state = arrays_of(trainer)
    state["parameters.item_vectors"][3] = np.nan
    trainer.load_state_dict(state)
    assert np.isnan(float(trainer.epoch(0)))


def test_objections(monkeypatch):
    monkeypatch.setattr(cuda_next_item, "has_tf32", lambda device: device.type == "cuda")
    asked = []
    monkeypatch.setattr(cuda_next_item, "_why_no_launch", lambda maker, stage: asked.append(stage.dim))

    def reason(**changes):
        return CUDANextItem.why_not(softmax_stage(**{"device": "cuda"} | changes), None)

    assert reason() is None
    assert reason(precision="bfloat16", deterministic=True, dim=256) is None
    assert asked == [4, 256]
    assert "not by sgd" in reason(optimizer="sgd")
    assert "'gmf'" in reason(model="gmf")
    assert "loss='bce'" in reason(loss="bce")
    assert "history='none'" in reason(history="none")
    assert "device='cpu' does not multiply in TF32" in reason(device="cpu")
    assert "popularity" in reason(negatives="popularity")
    assert "l2=0.1" in reason(l2=0.1)
    assert "dim=257" in reason(dim=257)
    assert "batch_size=100000000" in reason(batch_size=100_000_000)
    assert "num_negatives=1000000000" in reason(num_negatives=1_000_000_000)
    assert "no modules" in CUDANextItem.why_not(softmax_stage(device="cuda"), torch.nn.Linear(2, 2))
    assert len(asked) == 2


def test_what_does_not_run_is_not_trained_and_said(monkeypatch):
    from triton.runtime.errors import OutOfResources

    stage = softmax_stage(device=str(DEVICE), batch_size=4, num_negatives=2, epochs=1)
    assert cuda_next_item._why_no_launch.__wrapped__(CUDANextItem, stage) is None

    def fails(self, number):
        raise RuntimeError("PassManager::run failed\nmore lines")

    monkeypatch.setattr(CUDANextItem, "epoch", fails)
    with pytest.warns(RuntimeWarning, match=r"do not run on .* \(PassManager::run failed\); the CPU"):
        reason = cuda_next_item._why_no_launch.__wrapped__(CUDANextItem, stage)
    assert reason == f"the kernel does not run on {DEVICE} (PassManager::run failed)"

    def no_room(self, number):
        raise OutOfResources(300_000, 100_000, "shared memory")

    monkeypatch.setattr(CUDANextItem, "epoch", no_room)
    assert "out of resource: shared memory" in cuda_next_item._why_no_launch.__wrapped__(CUDANextItem, stage)
