"""HistorySGD against one epoch in NumPy."""

import numpy as np
import polars as pl
import pytest
import torch

import fastncf
from fastncf.kernels.cpu.histories import HistoryWeights, combine_updates
from fastncf.models.mf import MF
from fastncf.rng import Stream, key
from fastncf.trainers import history_sgd
from fastncf.trainers.history_sgd import HistorySGD, copies_and_rounds
from tests import reference
from tests.conftest import checkerboard
from tests.reference import Parameters
from tests.trainers.test_block_sgd import (
    check_loss_without_kernel,
    check_objections,
    check_refused_states,
    check_resumption,
    check_threads,
    draw_negatives,
    numpy_step,
    random_model,
    random_split,
    sgd_stage,
    weighted_terms,
    weights_by_pair,
    with_weights,
)


def random_order(split, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    rows = [random.permutation(int(length)) for length in np.diff(split.indptr)]
    return np.concatenate([*rows, []]).astype(np.int32)


def item_weights(weights: HistoryWeights, t: int, n: int) -> np.ndarray:
    """Return the weight of each item of a history of n in the user's vector before interaction t."""
    by_item = np.full(n, float(weights.mean) / max(n - 1, 1))
    by_item[t] = 0
    for s in range(t):
        by_item[s] += float(weights.recent) * float(weights.decay) ** (t - 1 - s)
    return by_item


def numpy_user(
    p: Parameters, user: int, history: np.ndarray, samples: list[np.ndarray], trainer: HistorySGD, rate: float
) -> tuple[Parameters, float]:
    """Return the parameters after the steps of one user, and the summed loss.

    Each interaction takes a step of a matrix factorization in which the user's vector is the sum of its own vector and
    of the weighted vectors of the history (Koren 2008, eq. 15; Rendle et al. 2010). The own vector takes the user's
    part of it. The history's vectors, whose gradients are that part times their weights, take one step at the end.

    Args:
        p: parameters, named as in ``MF``, the user's vectors without histories; ``history`` are those of the histories.
        user: its index.
        history: (n,) items, the oldest first.
        samples: n arrays (C,), the positive first.
        trainer: gives settings and weights.
        rate: learning rate.
    """
    n, stage = len(history), trainer.stage
    p = {name: array.copy() for name, array in p.items()}
    user_vectors, before = p["user_embedding.weight"], p["history"][history]
    scale = 1 - 2 * rate * stage.l2 * weighted_terms(stage)
    changes, total = np.zeros_like(before), 0.0
    for t in range(n):
        by_item = item_weights(trainer.histories.weights, t, n)
        own = user_vectors[user].copy()
        user_vectors[user] += by_item @ before
        composed = user_vectors[user].copy()
        mf = {name: array for name, array in p.items() if name != "history"}
        weight = weights_by_pair(trainer.split)[user, int(history[t])]
        after, loss = numpy_step(mf, user, samples[t], stage, rate, weight)
        change = after["user_embedding.weight"][user] - scale * composed
        p, total = after | {"history": p["history"]}, total + loss
        user_vectors = p["user_embedding.weight"]
        user_vectors[user] = scale * own + change
        changes += np.outer(by_item, change)
    p["history"][history] = scale * before + changes
    return p, total


def numpy_epoch(p: Parameters, trainer: HistorySGD, order: np.ndarray, epoch: int) -> tuple[Parameters, float]:
    """Return the parameters of :func:`numpy_user` after an epoch of one copy of the tables, and its loss."""
    split, stage = trainer.split, trainer.stage
    rate, counts, total = stage.learning_rate, split.item_counts(), 0.0
    random = np.random.Generator(np.random.Philox(key=key(stage.seed, Stream.HISTORIES, epoch)))
    for user in random.permutation(split.num_users).tolist():
        start, stop = split.indptr[user : user + 2].tolist()
        items, by_time = split.indices[start:stop].astype(np.int64), order[start:stop]
        drawn = list(draw_negatives(range(start, stop), items, stage, counts, epoch))
        samples = [np.array([items[at], *drawn[at]]) for at in by_time]
        p, loss = numpy_user(p, user, items[by_time], samples, trainer, rate)
        total += loss
    return p, total


@pytest.mark.parametrize("dim", [1, 16, 37])
@pytest.mark.parametrize("loss", ["bce", "bpr"])
@pytest.mark.parametrize("history", ["sequence", "bag"])
@pytest.mark.parametrize("negatives", ["uniform", "popularity"])
def test_an_epoch_is_that_of_numpy(dim, loss, history, negatives):
    """In float64 over the same draws, two epochs from histories that are not 0."""
    seed = dim + 2 * (loss == "bpr") + (history == "sequence")
    check_epochs(random_split(seed), seed, dim, loss, history, negatives)


@pytest.mark.parametrize("history", ["sequence", "bag"])
@pytest.mark.parametrize("loss", ["bce", "bpr"])
def test_an_epoch_with_weights_is_that_of_numpy(history, loss):
    check_epochs(with_weights(random_split(2), 2), 2, 16, loss, history, "uniform")


def check_epochs(split, seed, dim, loss, history, negatives) -> None:
    model = random_model(split, dim)
    stage = sgd_stage(
        num_negatives=3 if dim < 30 else 20,
        loss=loss,
        history=history,
        negatives=negatives,
        seed=seed,
        learning_rate=0.02,
        schedule="constant",
        l2=0.01,
    )
    lengths = np.diff(split.indptr)
    order = random_order(split, seed) if history == "sequence" else np.concatenate([np.arange(n) for n in lengths])
    trainer = HistorySGD(model.factors(), split, stage, order if history == "sequence" else None)
    assert trainer.num_copies == 1
    state = trainer.state_dict()
    state["history_vectors"] = 0.3 * np.random.default_rng(seed).standard_normal((split.num_items, dim))
    trainer.load_state_dict(state)
    p = reference.parameters_of(model) | {"history": np.float64(np.float32(state["history_vectors"]))}
    p["user_embedding.weight"] = np.float64(state["user_vectors"])
    for epoch in (0, 3):
        p, expected = numpy_epoch(p, trainer, order, epoch)
        assert trainer.epoch(epoch) == pytest.approx(expected / weighted_terms(stage), rel=1e-5)
    state = trainer.state_dict()
    for name, other in (
        ("history_vectors", "history"),
        ("user_vectors", "user_embedding.weight"),
        ("item_vectors", "item_embedding.weight"),
        ("user_bias", "user_bias"),
        ("item_bias", "item_bias"),
    ):
        np.testing.assert_allclose(state[name], p[other], rtol=3e-5, atol=3e-5)
    for name in ("item_embedding.weight", "user_bias", "item_bias"):
        np.testing.assert_allclose(model.state_dict()[name].numpy(), p[name], rtol=3e-5, atol=3e-5)
    for user, n in enumerate(lengths):  # the model scores with the whole history and leaves nothing out
        start = split.indptr[user]
        items = split.indices[start + order[start : start + n]]
        composed = (
            p["user_embedding.weight"][user]
            + item_weights(trainer.histories.weights, n, n + 1)[:-1] @ (p["history"][items])
        )
        np.testing.assert_allclose(model.factors().user_vectors[user], composed, rtol=3e-5, atol=3e-5)
    assert not any(table[:, dim:].any() for table in (trainer.tables.history_vectors, trainer.tables.user_vectors))


def test_same_bits_for_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(history_sgd, "_VISITS_PER_ROUND", 1)
    split = random_split(3, num_users=200, num_items=60, max_degree=50)
    order = random_order(split, 3)

    def make():
        model = random_model(split, 20)
        trainer = HistorySGD(model.factors(), split, sgd_stage(history="sequence"), order)
        assert trainer.num_copies == 2
        return model, trainer

    check_threads(monkeypatch, make)


@pytest.mark.parametrize("loss", ["bce", "bpr"])
@pytest.mark.parametrize(("dim", "num_copies"), [(16, 1), (20, 1), (20, 2)])
@pytest.mark.parametrize("history", ["sequence", "bag"])
def test_training_goes_on_from_a_state(monkeypatch, loss, dim, num_copies, history):
    monkeypatch.setattr(history_sgd, "_VISITS_PER_ROUND", 1 if num_copies == 2 else 10**6)
    split = random_split(3, num_users=100, num_items=40)
    order = random_order(split, 3) if history == "sequence" else None

    def make(seed):
        model = random_model(split, dim, seed)
        trainer = HistorySGD(model.factors(), split, sgd_stage(loss=loss, history=history), order)
        assert trainer.num_copies == num_copies
        return model, trainer

    check_resumption(make)


def test_other_states_are_refused():
    split = random_split(0)
    check_refused_states(HistorySGD(random_model(split, 20).factors(), split, sgd_stage(history="bag")))


def test_objections(monkeypatch):
    for history in ("sequence", "bag"):
        check_objections(HistorySGD, history=history)
    assert "history='none'" in HistorySGD.why_not(sgd_stage(), None)
    check_loss_without_kernel(monkeypatch, HistorySGD, history="bag")


@pytest.mark.parametrize("history", ["sequence", "bag"])
def test_an_order_belongs_to_a_sequence(history):
    split = random_split(0)
    order = None if history == "sequence" else random_order(split, 0)
    with pytest.raises(ValueError, match=f"order: expected .* got '{history}'"):
        HistorySGD(random_model(split, 4).factors(), split, sgd_stage(history=history), order)


def test_two_copies_learn_what_one_does(monkeypatch):
    split = random_split(4, num_users=300, num_items=60, max_degree=50)
    order = random_order(split, 4)
    losses = []
    for visits in (10**6, 1):
        monkeypatch.setattr(history_sgd, "_VISITS_PER_ROUND", visits)
        stage = sgd_stage(history="sequence", schedule="constant")
        trainer = HistorySGD(random_model(split, 8).factors(), split, stage, order)
        losses.append([trainer.epoch(number) for number in range(5)][-1])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_changes_of_all_copies_are_added_up():
    random = np.random.default_rng(0)
    shared = random.standard_normal(50).astype(np.float32)
    copies = (shared + random.standard_normal((3, 50))).astype(np.float32)
    before, changed = shared.copy(), copies.copy()
    combine_updates(shared, copies, 10, 40)
    expected = before.copy()
    expected[10:40] += (changed - before)[:, 10:40].sum(0)
    np.testing.assert_allclose(shared, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(copies[:, 10:40], np.tile(shared[10:40], (3, 1)))
    np.testing.assert_array_equal(copies[:, :10], changed[:, :10])


def test_copies_are_for_data_that_visit_an_item_often():
    assert copies_and_rounds(994_169, 3_706) == (2, 33)
    assert copies_and_rounds(20_000_000, 26_744) == (2, 93)
    assert copies_and_rounds(98_114, 1_682) == (1, 16)
    assert copies_and_rounds(0, 5) == (1, 16)


def test_nan_shows_in_the_loss():
    split = random_split(5)
    model = random_model(split, 16)
    with torch.no_grad():
        model.item_embedding.weight[3] = float("nan")
    assert np.isnan(HistorySGD(model.factors(), split, sgd_stage(history="bag")).epoch(0))


def chains(num_users: int = 300, num_items: int = 50, length: int = 12, *, shuffled: bool = False) -> pl.DataFrame:
    """Each user walks around a circle of items from a place of its own; the next item follows from the last one."""
    random = np.random.default_rng(0)
    rows = []
    for user, first in enumerate(random.integers(0, num_items, num_users).tolist()):
        times = random.permutation(length) if shuffled else np.arange(length)
        rows += [(user, (first + at) % num_items, int(times[at])) for at in range(length)]
    return pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")


def test_the_next_item_of_a_chain_is_found_by_its_order():
    quick = {"dim": 16, "num_candidates": 30, "k": 1}
    ordered = fastncf.fit(chains(), **quick)
    assert ordered.plan.stages[-1].history == "sequence"
    assert ordered.metrics["hr@1"] > 0.9
    assert fastncf.fit(chains(), history="none", **quick).metrics["hr@1"] < 0.8


def test_an_order_that_tells_nothing_is_left_alone():
    assert fastncf.fit(chains(shuffled=True), dim=4, epochs=1).plan.stages[-1].history == "bag"


def test_an_own_mf_is_trained_with_its_history():
    model = MF(300, 50, 8)
    fitted = fastncf.fit(chains(), model=model, epochs=1)
    assert fitted.plan.stages[-1].trainer == "history_sgd"
    assert fitted.model is model
    assert model.item_bias.detach().any()


def test_the_fitted_model_is_saved_and_loaded_as_it_scores(tmp_path):
    fitted = fastncf.fit(checkerboard(), dim=8, epochs=3, history="sequence")
    fitted.save(tmp_path / "model")
    loaded = fastncf.load(tmp_path / "model")
    assert loaded.recommend([0, 1]).equals(fitted.recommend([0, 1]))
    assert loaded.plan == fitted.plan
