"""NextItem against the same training by torch's autograd and Adam in float64, position by position."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from numba import njit

from fastncf.data import split as split_module
from fastncf.data.split import Split, ordered_items
from fastncf.kernels.cpu.factors import Factors
from fastncf.kernels.cpu.next_item import CHUNK
from fastncf.kernels.cpu.rows import dropout
from fastncf.kernels.cpu.simd import pointer
from fastncf.mapped import _file_of, empty_mapped
from fastncf.rng import GOLDEN, Stream, key, mix
from fastncf.trainers import next_item
from fastncf.trainers.next_item import NextItem, make_windows
from fastncf.trainers.sgd import init_factors
from tests.stages import make_stage
from tests.trainers.test_block_sgd import check_refused_states, random_split, weights_by_pair, with_weights
from tests.trainers.test_history_sgd import random_order

MASK = (1 << 64) - 1


@njit
def drop(x, probability, mask_key):
    dropout(pointer(x), len(x), probability, mask_key)


def softmax_stage(**changes):
    settings = {"loss": "softmax", "history": "sequence", "l2": 0.0, "num_negatives": 9, "batch_size": 40}
    return make_stage(**settings | {"init_std": 0.3, "learning_rate": 0.02, "seed": 5} | changes)


def make(split: Split, seed: int = 0, maker: type[NextItem] = NextItem, **changes) -> NextItem:
    stage = softmax_stage(**changes)
    return maker(init_factors(stage, split.num_users, split.num_items), split, stage, random_order(split, seed))


def negatives_of(trainer: NextItem, epoch: int, batch: int) -> tuple[list[int], list[float]]:
    """Return the negatives of a batch, one from each part of the catalogue, and the logarithms of the parts' sizes."""
    num_items, count = trainer.num_items, trainer.num_negatives
    epoch_key, items, log_sizes = key(trainer.stage.seed, Stream.NEGATIVES, epoch), [], []
    for k in range(count):
        first, last = k * num_items // count, (k + 1) * num_items // count
        bits = mix((epoch_key + (batch * count + k) * GOLDEN) & MASK) >> 32
        items.append(first + (bits * (last - first) >> 32))
        log_sizes.append(float(np.log(last - first)))
    return items, log_sizes


def batches_of(trainer: NextItem, epoch: int) -> list[list[int]]:
    """Return the windows of each batch: those that begin within the next ``batch_size`` positions."""
    windows, stage = trainer.windows, trainer.stage
    random = np.random.Generator(np.random.Philox(key=key(stage.seed, Stream.HISTORIES, epoch if stage.shuffle else 0)))
    batches: list[list[int]] = [[] for _ in range(trainer.num_batches)]
    begun = 0
    for w in random.permutation(len(windows.users)).tolist():
        batches[begun // stage.batch_size].append(w)
        begun += int(windows.lengths[w])
    return batches


def state_of(p: dict[str, torch.Tensor], history: torch.Tensor, is_mean: np.ndarray) -> torch.Tensor:
    """Return the state after a history, an explicit sum over its items."""
    ages = torch.arange(len(history) - 1, -1, -1, dtype=torch.float64)[:, None]
    state = torch.zeros_like(p["gains"][0])
    for feature, mean in enumerate(is_mean):
        vectors = p["history_vectors"][history, feature]
        weights = torch.full_like(vectors, 1 / len(history)) if mean else p["decay_logits"][feature].sigmoid() ** ages
        state = state + p["gains"][feature] * (weights * vectors).sum(0)
    return state


def masks_of(trainer: NextItem, epoch: int, batch: int, positions: int) -> torch.Tensor:
    """Return what dropout multiplies the states of a batch by, (positions, D)."""
    width, masks = trainer.width, []
    batch_key = mix((key(trainer.stage.seed, Stream.DROPOUT, epoch) + batch * GOLDEN) & MASK)
    for chunk in range(-(-positions // CHUNK)):
        ones = np.ones(CHUNK * width, dtype=np.float32)
        drop(ones, trainer.stage.dropout, np.uint64(mix((batch_key + chunk * GOLDEN) & MASK)))
        masks.append(ones.reshape(CHUNK, width))
    return torch.from_numpy(np.concatenate(masks)[:positions, : trainer.stage.dim]).double()


def recency_of(indptr: np.ndarray) -> list[list[float]]:
    """Return what the losses of the interactions of each history are multiplied by; the first are predicted by none."""
    weights = [[1 + 3 * math.exp(-age / 6) for age in reversed(range(size))] for size in np.diff(indptr).tolist()]
    predicted = [weight for history in weights for weight in history[1:]]
    return [[weight * len(predicted) / sum(predicted) for weight in history] for history in weights]


def batch_loss(
    trainer: NextItem,
    p: dict[str, torch.Tensor],
    epoch: int,
    batch: int,
    chosen: list[int],
    weight_of: dict[tuple[int, int], float],
) -> torch.Tensor:
    """Return the cross entropies of a batch times the weights of their users and targets, summed."""
    windows = trainer.windows
    recency = recency_of(windows.indptr)
    negatives, log_sizes = negatives_of(trainer, epoch, batch)
    states, targets, histories, weights = [], [], [], []
    for w in chosen:
        start, context, user = int(windows.starts[w]), int(windows.contexts[w]), int(windows.users[w])
        whole = windows.items[windows.indptr[user] : windows.indptr[user + 1]]
        for j in range(context, context + int(windows.lengths[w])):
            items = torch.from_numpy(windows.items[start : start + j + 2].astype(np.int64))
            states.append(state_of(p, items[:-1], trainer.is_mean))
            targets.append(int(items[-1]))
            place = start + j + 1 - int(windows.indptr[user])
            weights.append(weight_of[user, targets[-1]] * recency[user][place])
            histories.append(whole)
    state = torch.stack(states)
    if trainer.stage.dropout:
        state = state * masks_of(trainer, epoch, batch, len(state))
    scores = state @ p["item_vectors"][negatives].T + p["item_bias"][negatives] + torch.tensor(log_sizes)
    own = torch.tensor(np.array([np.isin(negatives, history) for history in histories]))
    scores = scores.masked_fill(own, -torch.inf)
    positive = (state * p["item_vectors"][targets]).sum(1) + p["item_bias"][targets]
    losses = torch.logsumexp(torch.column_stack([positive, scores]), dim=1) - positive
    return (torch.tensor(weights) * losses).sum()


def parameters_of(trainer: NextItem) -> dict[str, torch.Tensor]:
    state = trainer.state_dict()
    named = {name.removeprefix("parameters."): array for name, array in state.items() if name.startswith("parameters.")}
    return {name: torch.tensor(np.float64(array), requires_grad=True) for name, array in named.items()}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"dim": 21, "dropout": 0.4},
        {"num_negatives": 500, "dropout": 0.2},
        {"num_negatives": 1, "dim": 16, "batch_size": 500},
        {"schedule": "constant", "shuffle": False, "batch_size": 130, "dropout": 0.1},
    ],
)
def test_epochs_are_those_of_autograd(monkeypatch, changes):
    check_epochs(monkeypatch, random_split(3), changes)


def test_epochs_with_weights_are_those_of_autograd(monkeypatch):
    check_epochs(monkeypatch, with_weights(random_split(3), 3), {"dim": 21, "dropout": 0.4})


@pytest.mark.parametrize("at_once", [1, 40, 1_000])
def test_weights_of_recency_are_computed_for_some_users_at_a_time_beside_the_data(monkeypatch, at_once):
    split = random_split(5)
    monkeypatch.setattr(split_module, "_COUNTED_AT_ONCE", at_once)
    mapped = empty_mapped(len(split.indices), np.int32)
    mapped[:] = split.indices
    weights = next_item.recency_weights(dataclasses.replace(split, indices=mapped))
    expected = [weight for history in recency_of(split.indptr) for weight in history]
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert _file_of(weights) is not None


def check_epochs(monkeypatch, split, changes) -> None:
    monkeypatch.setattr(next_item, "WINDOW", 6)
    trainer = make(split, **changes)
    stage = trainer.stage
    assert trainer.windows.contexts.max() == 6
    p = parameters_of(trainer)
    adam = torch.optim.Adam(p.values(), lr=1.0)
    steps = stage.epochs * trainer.num_batches
    for epoch in range(2):
        total = 0.0
        for batch, chosen in enumerate(batches_of(trainer, epoch)):
            progress = (epoch * trainer.num_batches + batch) / steps
            adam.param_groups[0]["lr"] = float(stage.learning_rate_at(np.array([progress]))[0])
            adam.zero_grad()
            num_positions = int(trainer.windows.lengths[chosen].sum())
            if num_positions:
                loss = batch_loss(trainer, p, epoch, batch, chosen, weights_by_pair(split))
                (loss / num_positions).backward()
                total += loss.item()
            for tensor in p.values():  # a step of all rows, those without a gradient too
                tensor.grad = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            adam.step()
        expected = total * len(split.indices) / trainer.num_positions
        assert trainer.epoch(epoch) == pytest.approx(expected, rel=1e-5)
    for name, tensor in parameters_of(trainer).items():
        np.testing.assert_allclose(tensor.detach(), p[name].detach(), rtol=1e-3, atol=1e-4, err_msg=name)
    model = trainer.model
    np.testing.assert_allclose(model.item_vectors, p["item_vectors"].detach(), atol=1e-4)
    np.testing.assert_allclose(model.item_bias, p["item_bias"].detach(), atol=1e-4)
    assert not model.user_bias.any()
    for user, (start, end) in enumerate(itertools.pairwise(split.indptr.tolist())):
        history = torch.from_numpy(trainer.windows.items[start:end][-7:].astype(np.int64))
        state = state_of(p, history, trainer.is_mean).detach() if end > start else torch.zeros(stage.dim)
        np.testing.assert_allclose(model.user_vectors[user], state, atol=2e-3)


def plain_delays(split: Split, order: np.ndarray, horizon: float, seed: int, epoch: int) -> np.ndarray:
    """Return the order of an epoch: places plus hashes below the horizon, sorted."""
    sizes = np.diff(split.indptr)
    users, delay_key = np.repeat(np.arange(len(sizes)), sizes), key(seed, Stream.HISTORIES, epoch, 2)
    shares = np.array([mix((delay_key + at * GOLDEN) & MASK) >> 32 for at in range(len(order))]) / 2**32
    spans = sizes * horizon if horizon < 1 else np.full(len(sizes), horizon)
    return order[np.lexsort((np.arange(len(order)) + shares * spans[users], users))]


@pytest.mark.parametrize("horizon", [3, 0.4])
def test_a_horizon_delays_interactions_anew_in_each_epoch(horizon):
    """Items are trained as by the delayed histories; the states of the model are those of histories in their order."""
    split = random_split(3)
    order = random_order(split, 0)
    ours, theirs = make(split, dim=20, horizon=horizon), make(split, dim=20)
    theirs.order = plain_delays(split, order, horizon, ours.stage.seed, 0)
    theirs.windows = theirs._make_windows(0)
    assert ours.epoch(0) == theirs.epoch(0)
    for name, array in theirs.state_dict().items():
        assert ours.state_dict()[name].tobytes() == array.tobytes(), name
    p = {name: tensor.detach() for name, tensor in parameters_of(ours).items()}
    items = ordered_items(split, order)
    for user, (start, end) in enumerate(itertools.pairwise(split.indptr.tolist())):
        if end > start:
            state = state_of(p, torch.from_numpy(items[start:end].astype(np.int64)), ours.is_mean)
            np.testing.assert_allclose(ours.model.user_vectors[user], state, atol=1e-4)
    ours.epoch(1)
    second = plain_delays(split, order, horizon, ours.stage.seed, 1)
    np.testing.assert_array_equal(ours.windows.items, ordered_items(split, second))
    assert (second != theirs.order).any()


def test_windows_cover_each_position_once():
    random = np.random.default_rng(0)
    lengths = random.integers(0, 1_000, 50)
    lengths[:4] = 0, 1, 2, 129
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    windows = make_windows(indptr, np.arange(indptr[-1], dtype=np.int32))
    assert windows.lengths.min() >= 1
    assert windows.lengths.max() <= 128
    predicted = []
    for user, start, context, length in zip(*windows[2:6], strict=True):
        first = start + context + 1
        assert indptr[user] <= start
        assert context in (128, start + context - indptr[user])
        predicted += range(first, first + length)
    assert sorted(predicted) == sorted(set(range(indptr[-1])) - set(indptr[:-1].tolist()))


def bits_of(model: Factors) -> list[bytes]:
    return [array.tobytes() for array in model]


def test_same_bits_for_any_number_of_threads(monkeypatch):
    split = random_split(3, num_users=300, num_items=200, max_degree=60)
    found = []
    for threads in ("1", "2", "3", "5"):
        monkeypatch.setenv("FASTNCF_NUM_THREADS", threads)
        trainer = make(split, dim=20, dropout=0.2, num_negatives=30, batch_size=300)
        found.append(([trainer.epoch(number) for number in range(2)], bits_of(trainer.model)))
    assert all(other == found[0] for other in found[1:])


def test_training_goes_on_from_a_state():
    split = random_split(4)
    whole, first, other = make(split), make(split), make(split, seed=0)
    for number in range(4):
        whole.epoch(number)
    for number in range(2):
        first.epoch(number)
    state = first.state_dict()
    after_two = bits_of(first.model)
    first.epoch(2)  # the state is a copy
    other.epoch(0)
    other.load_state_dict(state)
    assert bits_of(other.model) == after_two
    for number in range(2, 4):
        other.epoch(number)
    assert bits_of(other.model) == bits_of(whole.model)


def test_other_states_are_refused():
    check_refused_states(make(random_split(0)))


def test_histories_too_short_to_predict_anything():
    split = random_split(0, num_users=5, max_degree=1)
    trainer = make(split)
    assert trainer.epoch(0) == 0
    assert np.isfinite(trainer.model.item_vectors).all()


def test_nan_shows_in_the_loss():
    trainer = make(random_split(5))
    state = trainer.state_dict()
    state["parameters.item_vectors"][3] = np.nan
    trainer.load_state_dict(state)
    assert np.isnan(trainer.epoch(0))


def test_the_encoder_gives_the_states_of_the_model():
    split = random_split(6)
    trainer = make(split, dim=20)
    trainer.epoch(0)
    encoder = trainer.encoder
    p = {
        "history_vectors": torch.from_numpy(encoder.vectors).double(),
        "gains": torch.from_numpy(encoder.gains).double(),
        "decay_logits": torch.logit(torch.from_numpy(encoder.decays).double()),
    }
    for user, (start, end) in enumerate(itertools.pairwise(split.indptr.tolist())):
        if end > start:
            history = torch.from_numpy(trainer.windows.items[start:end].astype(np.int64))
            expected = state_of(p, history, encoder.is_mean)
            np.testing.assert_allclose(trainer.model.user_vectors[user], expected, atol=1e-4)


def test_objections():
    def reason(**changes):
        return NextItem.why_not(softmax_stage(**changes), None)

    assert reason() is None
    assert "not by sgd" in reason(optimizer="sgd")
    assert "'mlp'" in reason(model="mlp")
    assert reason(model="gmf") is None
    assert "dim=2 leaves a gmf no room" in reason(model="gmf", dim=2)
    assert "loss='bce'" in reason(loss="bce")
    assert "history='none'" in reason(history="none")
    assert "cuda:0" in reason(device="cuda:0")
    assert "bfloat16" in reason(precision="bfloat16")
    assert "popularity" in reason(negatives="popularity")
    assert "l2=0.1" in reason(l2=0.1)
    assert "no modules" in NextItem.why_not(softmax_stage(), torch.nn.Linear(2, 2))
