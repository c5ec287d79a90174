"""OtherItems against the same training by torch's autograd and Adam in float64, position by position."""

import itertools

import numpy as np
import pytest
import torch

from fastncf.data.split import Split
from fastncf.trainers import other_items
from fastncf.trainers.other_items import OtherItems, set_windows
from fastncf.trainers.sgd import init_factors
from tests.trainers.test_block_sgd import check_refused_states, random_split
from tests.trainers.test_next_item import batches_of, bits_of, masks_of, negatives_of, parameters_of, softmax_stage


def make(split: Split, **changes) -> OtherItems:
    stage = softmax_stage(**{"history": "bag"} | changes)
    return OtherItems(init_factors(stage, split.num_users, split.num_items), split, stage)


def batch_loss(
    trainer: OtherItems, p: dict[str, torch.Tensor], epoch: int, batch: int, chosen: list[int], is_fixed: bool
) -> torch.Tensor:
    """Return the summed cross entropy of a batch; fixed states are those of whole sets, and have no gradients."""
    windows = trainer.windows
    negatives, log_sizes = negatives_of(trainer, epoch, batch)
    states, targets, histories = [], [], []
    for w in chosen:
        start, user = int(windows.starts[w]), int(windows.users[w])
        items = windows.items[start : start + int(windows.lengths[w])].tolist()
        whole = windows.items[windows.indptr[user] : windows.indptr[user + 1]]
        for target in items:
            others = torch.tensor([item for item in items if item != target])
            seen = torch.from_numpy(whole.astype(np.int64)) if is_fixed else others
            state = p["history_vectors"][seen].mean(0)
            states.append(state.detach() if is_fixed else state)
            targets.append(target)
            histories.append(whole)
    state = trainer.state_length * torch.nn.functional.normalize(torch.stack(states), dim=1)
    if trainer.stage.dropout:
        state = state * masks_of(trainer, epoch, batch, len(state))
    scores = state @ p["item_vectors"][negatives].T + p["item_bias"][negatives] + torch.tensor(log_sizes)
    own = torch.tensor(np.array([np.isin(negatives, history) for history in histories]))
    scores = scores.masked_fill(own, -torch.inf)
    positive = (state * p["item_vectors"][targets]).sum(1) + p["item_bias"][targets]
    return (torch.logsumexp(torch.column_stack([positive, scores]), dim=1) - positive).sum()


@pytest.mark.parametrize(
    "changes",
    [
        {"num_negatives": 500, "dropout": 0.2},
        {"dim": 21, "dropout": 0.4, "schedule": "constant", "shuffle": False, "batch_size": 130},
        {"num_negatives": 1, "dim": 16, "batch_size": 500},
    ],
)
def test_epochs_are_those_of_autograd(monkeypatch, changes):
    monkeypatch.setattr(other_items, "LARGEST_WINDOW", 6)
    monkeypatch.setattr(other_items, "FIXED_SHARE", 0.5)
    split = random_split(3)
    trainer = make(split, epochs=4, **changes)
    stage = trainer.stage
    p = {name: tensor for name, tensor in parameters_of(trainer).items() if tensor.numel()}
    adam = torch.optim.Adam(p.values(), lr=1.0)
    steps = stage.epochs * trainer.num_batches
    for epoch in range(4):
        found, total = trainer.epoch(epoch), 0.0  # first, since it draws the windows
        for batch, chosen in enumerate(batches_of(trainer, epoch)):
            progress = (epoch * trainer.num_batches + batch) / steps
            adam.param_groups[0]["lr"] = float(stage.learning_rate_at(np.array([progress]))[0])
            adam.zero_grad()
            num_positions = int(trainer.windows.lengths[chosen].sum())
            loss = batch_loss(trainer, p, epoch, batch, chosen, epoch >= 2)
            (loss / num_positions).backward()
            total += loss.item()
            adam.step()
        assert found == pytest.approx(total * len(split.indices) / trainer.num_positions, rel=1e-5)
    for name, tensor in p.items():
        trained = trainer.state_dict()[f"parameters.{name}"]
        np.testing.assert_allclose(trained, tensor.detach(), rtol=1e-3, atol=1e-4, err_msg=name)
    model = trainer.model
    np.testing.assert_allclose(model.item_vectors, p["item_vectors"].detach(), atol=1e-4)
    for user, (start, end) in enumerate(itertools.pairwise(split.indptr.tolist())):
        vectors = p["history_vectors"][torch.from_numpy(split.indices[start:end].astype(np.int64))].detach()
        state = trainer.state_length * torch.nn.functional.normalize(vectors.sum(0), dim=0)
        np.testing.assert_allclose(model.user_vectors[user], state, atol=2e-2)


def test_windows_hold_each_item_once():
    split = random_split(2, num_users=60, num_items=400, max_degree=200)
    windows = set_windows(split, np.random.Philox(key=1))
    assert windows.lengths.min() >= 2
    assert windows.lengths.max() <= other_items.LARGEST_WINDOW
    found: list[tuple[int, int]] = []
    for user, start, length in zip(windows.users, windows.starts, windows.lengths, strict=True):
        found += [(user, item) for item in windows.items[start : start + length]]
    users = np.repeat(np.arange(split.num_users), np.diff(split.indptr))
    has_others = np.repeat(np.diff(split.indptr) > 1, np.diff(split.indptr))
    assert sorted(found) == list(zip(users[has_others], split.indices[has_others], strict=True))
    other = set_windows(split, np.random.Philox(key=2))
    assert not np.array_equal(other.items, windows.items)


def test_same_bits_for_any_number_of_threads(monkeypatch):
    split = random_split(3, num_users=300, num_items=200, max_degree=60)
    found = []
    for threads in ("1", "2", "3", "5"):
        monkeypatch.setenv("FASTNCF_NUM_THREADS", threads)
        trainer = make(split, dim=20, dropout=0.2, num_negatives=30, batch_size=300)
        found.append(([trainer.epoch(number) for number in range(2)], bits_of(trainer.model)))
    assert all(other == found[0] for other in found[1:])


@pytest.mark.parametrize("done", [1, 2, 3])
def test_training_goes_on_from_a_state(monkeypatch, done):
    """From among the epochs that train states, from the last of them, and from among those that leave them."""
    monkeypatch.setattr(other_items, "LARGEST_WINDOW", 6)
    split = random_split(4)
    whole, other = make(split, epochs=4), make(split, epochs=4)
    for number in range(4):
        whole.epoch(number)
        if number == done - 1:
            other.load_state_dict(whole.state_dict())
    for number in range(done, 4):
        other.epoch(number)
    assert bits_of(other.model) == bits_of(whole.model)
    check_refused_states(other)


def test_sets_too_small_to_predict_anything():
    trainer = make(random_split(0, num_users=5, max_degree=1))
    assert trainer.epoch(0) == 0
    assert np.isfinite(trainer.model.item_vectors).all()


def test_training_starts_from_a_fitted_model():
    split = random_split(6)
    trainer, other = make(split), make(split, seed=1)
    trainer.epoch(0)
    other.start_from(trainer.model, trainer.encoder)
    assert bits_of(other.model) == bits_of(trainer.model)


def test_objections():
    def reason(**changes):
        return OtherItems.why_not(softmax_stage(**{"history": "bag"} | changes), None)

    assert reason() is None
    assert "history='sequence'" in reason(history="sequence")
    assert "loss='bce'" in reason(loss="bce")
    assert "l2=0.1" in reason(l2=0.1)
