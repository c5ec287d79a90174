"""CUDAOtherItems against the trainer of the CPU, on a CUDA device, or by Triton's interpreter without one."""

import copy

import numpy as np
import pytest

from fastncf.data.split import Split
from fastncf.models.mf import MF
from fastncf.trainers import cuda_next_item, other_items
from fastncf.trainers.cuda_other_items import CUDAOtherItems
from tests.trainers.test_block_sgd import check_refused_states, random_split, with_weights
from tests.trainers.test_cuda_next_item import DEVICE, arrays_of, assert_same_training, bits_of
from tests.trainers.test_next_item import softmax_stage
from tests.trainers.test_other_items import make

pytest.importorskip("triton")


@pytest.fixture(autouse=True)
def _small_windows(monkeypatch):
    """Let sets have several windows, and windows several blocks of tokens."""
    monkeypatch.setattr(other_items, "LARGEST_WINDOW", 6)
    monkeypatch.setattr("fastncf.kernels.cuda.batches.BLOCK_TOKENS", 4)


def small_split() -> Split:
    return random_split(int(np.random.default_rng().integers(1000)), num_users=6, num_items=13, max_degree=11)


def on_device(split: Split, **changes) -> CUDAOtherItems:
    stage = softmax_stage(**{"history": "bag", "device": str(DEVICE)} | changes)
    return CUDAOtherItems(MF(split.num_users, split.num_items, stage.dim).to(DEVICE), split, stage)


@pytest.mark.parametrize(
    "changes",
    [
        {"dim": 21, "dropout": 0.4, "batch_size": 14},
        {"num_negatives": 500, "precision": "bfloat16", "batch_size": 500, "shuffle": False},
        {"num_negatives": 1, "dim": 16, "batch_size": 9, "schedule": "constant"},
    ],
)
def test_epochs_of_both_kinds_are_the_cpus(changes):
    """Draws, losses, parameters, moments, steps and states; the second epoch trains the items alone."""
    split = small_split()
    if "dropout" in changes:
        split = with_weights(split, 3)
    ours, theirs = on_device(split, epochs=2, **changes), make(split, epochs=2, **changes)
    tolerance = 2e-5 if DEVICE.type == "cpu" or changes.get("precision") != "bfloat16" else 5e-3
    assert ours.phases(2) == theirs.phases(2) == (1, 1)
    assert ours.num_batches == theirs.num_batches
    for number in range(2):
        expected = theirs.epoch(number)
        assert float(ours.epoch(number)) == pytest.approx(expected, rel=tolerance)
        assert ours._histories.items.tolist() == theirs.windows.items.tolist()
        assert_same_training(ours, theirs, tolerance)
    encoder, exact = ours.encoder, theirs.encoder
    for name, array in exact.arrays().items():
        np.testing.assert_allclose(encoder.arrays()[name], array, rtol=1e-3, atol=tolerance, err_msg=name)


def test_states_move_between_the_trainers_and_training_goes_on_with_the_same_bits(monkeypatch):
    monkeypatch.setattr(cuda_next_item, "_STEPS_PER_GRAPH", 2)
    split, settings = small_split(), {"epochs": 3, "dropout": 0.2, "batch_size": 20}
    ours, theirs = on_device(split, **settings), make(split, **settings)
    assert ours.phases(3) == (1, 2)
    states = []
    for number in range(3):
        ours.epoch(number)
        states.append(copy.deepcopy(ours.state_dict()))
    for done in (1, 2):
        other = on_device(split, **settings)
        other.load_state_dict(states[done - 1])
        for number in range(done, 3):
            other.epoch(number)
        assert bits_of(other) == bits_of(ours)
    theirs.load_state_dict({name: tensor.cpu().numpy() for name, tensor in states[1].items()})
    theirs.epoch(2)
    assert_same_training(ours, theirs)
    other.load_state_dict(arrays_of(theirs))
    assert_same_training(other, theirs, 1e-6)
    check_refused_states(other)


def test_sets_too_small_to_predict_anything():
    trainer = on_device(random_split(0, num_users=5, max_degree=1))
    assert float(trainer.epoch(0)) == 0
    assert trainer.model.item_embedding.weight.isfinite().all()


def test_objections(monkeypatch):
    monkeypatch.setattr(cuda_next_item, "has_tf32", lambda device: device.type == "cuda")
    asked = []
    monkeypatch.setattr(cuda_next_item, "_why_no_launch", lambda maker, stage: asked.append((maker, stage.epochs)))

    def reason(**changes):
        return CUDAOtherItems.why_not(softmax_stage(**{"device": "cuda", "history": "bag"} | changes), None)

    assert reason() is None
    assert asked == [(CUDAOtherItems, 2)]
    assert "history='sequence'" in reason(history="sequence")
    assert "device='cpu' does not multiply in TF32" in reason(device="cpu")
    assert "dim=257" in reason(dim=257)


def test_what_does_not_run_is_not_trained_and_said(monkeypatch):
    stage = softmax_stage(device=str(DEVICE), history="bag", batch_size=4, num_negatives=2, epochs=2)
    assert cuda_next_item._why_no_launch.__wrapped__(CUDAOtherItems, stage) is None

    def fails(self):
        raise RuntimeError("PassManager::run failed\nmore lines")

    monkeypatch.setattr(CUDAOtherItems, "_states_of_sets", fails)
    with pytest.warns(
        RuntimeWarning, match=r"kernels of cuda_other_items do not run on .* \(PassManager::run failed\)"
    ):
        reason = cuda_next_item._why_no_launch.__wrapped__(CUDAOtherItems, stage)
    assert reason == f"the kernel does not run on {DEVICE} (PassManager::run failed)"
