import numpy as np
import polars as pl
import pytest
import torch

import fastncf
from fastncf.config import RECIPES
from fastncf.errors import ConfigError
from fastncf.kernels.cpu.histories import merge
from fastncf.kernels.cpu.negatives import ATTEMPTS, is_dense
from fastncf.models.losses import LOSSES
from fastncf.rng import Stream, key
from fastncf.sampling.distributions import alias_table
from fastncf.sampling.negatives import draw_reference, position_keys
from fastncf.trainers import history_sgd as histories
from fastncf.trainers.history_sgd import HistorySGD, copies_and_rounds, order_matters
from tests.conftest import checkerboard
from tests.trainers.test_block_sgd import descent, random_model, random_split


def random_order(split, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    rows = [random.permutation(int(length)) for length in np.diff(split.indptr)]
    return np.concatenate([*rows, []]).astype(np.int32)


def weights_of(shares, t: int, n: int) -> np.ndarray:
    """What each item of a history of n weighs before interaction t."""
    weights = np.full(n, float(shares.mean) / max(n - 1, 1))
    weights[t] = 0
    for s in range(t):
        weights[s] += float(shares.recent) * float(shares.decay) ** (t - 1 - s)
    return weights


def reference(trained: HistorySGD, model, history: torch.Tensor, number: int, rate: float) -> float:
    """An epoch in float64 by autograd, with one copy of the tables; the model's users are those without histories."""
    split, given = trained.split, trained.descent
    turn = np.random.Generator(np.random.Philox(key=key(given.seed, Stream.HISTORIES, number)))
    counts = split.item_counts()
    weights = None if given.negatives_exponent is None else alias_table("popularity", counts, given.negatives_exponent)
    keys = position_keys(given.seed, Stream.NEGATIVES, number, positions=len(split.indices) * given.num_negatives)
    step = given.step(rate)
    total = 0.0
    for u in turn.permutation(split.num_users).tolist():
        start, stop = split.indptr[u : u + 2].tolist()
        row = split.indices[start:stop].astype(np.int64)
        order = trained.order[start:stop].tolist() if len(trained.order) else list(range(len(row)))
        untouched = sorted(set(range(split.num_items)) - set(row.tolist()))
        heard = history[row[order]].clone().requires_grad_()
        asked = torch.zeros_like(heard)
        for t, at in enumerate(order):
            attempts = 0 if is_dense(len(row), split.num_items) else ATTEMPTS
            begin = (start + at) * given.num_negatives
            items = [int(row[at])] + [
                draw_reference(begin + k, keys, attempts, split.num_items, set(row.tolist()), untouched, weights)
                for k in range(given.num_negatives)
            ]
            vector = model.user_embedding.weight[u] + torch.from_numpy(weights_of(trained.shares, t, len(row))) @ heard
            scores = model.item_embedding.weight[items] @ vector + model.user_bias[u] + model.item_bias[items]
            loss = LOSSES["bpr" if given.pairwise else "bce"].function(scores[:1], scores[None, 1:]) * given.terms
            total += float(loss.detach())
            own = model.user_embedding.weight[u].square().sum() * (1 - step.keep_user) / 2
            drawn = model.item_embedding.weight[items].square().sum() * step.lose_item / 2
            model.zero_grad()
            heard.grad = None
            (rate * loss + own.double() + drawn.double()).backward()
            asked += heard.grad
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= parameter.grad
        history[row[order]] = float(step.keep_user) * heard.detach() - asked
    return total


@pytest.mark.parametrize("dim", [1, 16, 37])
@pytest.mark.parametrize("pairwise", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("exponent", [None, 0.75])
def test_an_epoch_is_autograds(dim, pairwise, ordered, exponent):
    """Against autograd in float64 over the same draws, two epochs, fresh data in each case."""
    seed = dim + 2 * pairwise + ordered
    split = random_split(seed)
    model, exact = random_model(split, dim), random_model(split, dim).double()
    order = random_order(split, seed) if ordered else None
    given = descent(pairwise=pairwise, negatives_exponent=exponent, seed=seed)
    trained = HistorySGD(model.factors(), split, given, order)
    assert trained.copies == 1
    ours, beyond = trained.tables.history[:, :dim], trained.tables.history[:, dim:]
    ours[:] = 0.3 * np.random.default_rng(seed).standard_normal(ours.shape)
    history = torch.from_numpy(ours.astype(np.float64))
    for number in (0, 3):
        total = trained.epoch(number, [0.02] * trained.rounds)
        assert total == pytest.approx(reference(trained, exact, history, number, 0.02), rel=1e-5)
    close = {"rtol": 3e-5, "atol": 3e-5}
    torch.testing.assert_close(torch.from_numpy(ours).double(), history, **close)
    assert not beyond.any()
    torch.testing.assert_close(
        torch.from_numpy(trained.tables.user[:, :dim]).double(), exact.user_embedding.weight.data, **close
    )
    for name in ("item_embedding.weight", "user_bias", "item_bias"):
        torch.testing.assert_close(model.state_dict()[name].double(), exact.state_dict()[name], **close)
    for u in range(split.num_users):  # what the model scores with: the whole history, and nothing left out
        row = split.indices[split.indptr[u] : split.indptr[u + 1]].astype(np.int64)
        known = exact.user_embedding.weight[u].detach().clone()
        if len(row):
            at = order[split.indptr[u] : split.indptr[u + 1]] if ordered else np.arange(len(row))
            weights = torch.from_numpy(weights_of(trained.shares, len(row), len(row) + 1)[:-1])
            known += weights @ history[row[at]]
        torch.testing.assert_close(model.user_embedding.weight[u].double(), known, **close)


def test_same_bits_for_any_number_of_threads(monkeypatch):
    monkeypatch.setattr(histories, "_VISITS_A_ROUND", 1)
    split = random_split(3, num_users=200, num_items=60, max_degree=50)
    order = random_order(split, 3)
    found = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("FASTNCF_NUM_THREADS", threads)
        model = random_model(split, 20)
        trained = HistorySGD(model.factors(), split, descent(), order)
        assert trained.copies == 2
        losses = [trained.epoch(number, [0.02] * trained.rounds) for number in range(2)]
        found.append((losses, [parameter.detach().clone() for parameter in model.parameters()]))
    for losses, parameters in found[1:]:
        assert losses == found[0][0]
        assert all(map(torch.equal, parameters, found[0][1]))


def test_two_copies_learn_what_one_does(monkeypatch):
    split = random_split(4, num_users=300, num_items=60, max_degree=50)
    order = random_order(split, 4)
    losses = []
    for visits in (10**6, 1):
        monkeypatch.setattr(histories, "_VISITS_A_ROUND", visits)
        trained = HistorySGD(random_model(split, 8).factors(), split, descent(), order)
        losses.append([trained.epoch(number, [0.05] * trained.rounds) for number in range(5)][-1])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_changes_of_all_copies_are_added_up():
    random = np.random.default_rng(0)
    shared = random.standard_normal(50).astype(np.float32)
    copies = (shared + random.standard_normal((3, 50))).astype(np.float32)
    before, changed = shared.copy(), copies.copy()
    merge(shared, copies, 10, 40)
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
    assert ordered.config.history == "recent"
    assert ordered.metrics["hr@1"] > 0.9
    assert fastncf.fit(chains(), history="none", **quick).metrics["hr@1"] < 0.8


def test_an_order_that_tells_nothing_is_left_alone():
    assert fastncf.fit(chains(shuffled=True), dim=4).config.history == "all"


def test_which_history_is_taken():
    quick = {"dim": 4, "epochs": 1}
    untimed = chains().drop("time")
    assert fastncf.fit(untimed, split="random", **quick).config.history == "all"
    assert fastncf.fit(chains(), split="random", **quick).config.history == "all"
    assert fastncf.fit(chains(), split="random", history="recent", **quick).config.history == "recent"
    assert fastncf.fit(chains(), optimizer="adam", **quick).config.history == "none"
    with pytest.raises(ConfigError, match=r"history='recent': .* has no times; expected 'all' or 'none'"):
        fastncf.fit(untimed, split="random", history="recent", **quick)
    with pytest.raises(ConfigError, match="history='all': needs optimizer='sgd'"):
        fastncf.fit(chains(), model="mlp", optimizer="adam", history="all", **quick)


def test_every_stage_is_told_how_many_epochs_there_are():
    told = []
    fastncf.fit(chains(), dim=4, budget="fast", callback=told.append)
    assert {news.epochs for news in told} == {6}
    assert [news.stage for news in told][:2] == ["read", "split"]
    assert RECIPES["sgd", "recent"]["epochs"] == RECIPES["sgd", "all"]["epochs"]  # which of them is not known yet


def test_neighbours_of_different_users_are_none():
    split = random_split(0)
    assert not order_matters(split, random_order(split, 0), seed=0)
    user, item = np.array([0, 0, 0, 1, 1, 2, 2]), np.array([1, 2, 3, 2, 1, 3, 2])
    assert histories._repeated_neighbours(user, item, 5) == 2


def test_the_fitted_model_is_saved_and_loaded_as_it_scores(tmp_path):
    fitted = fastncf.fit(checkerboard(), dim=8, epochs=3, history="recent")
    fitted.save(tmp_path / "model")
    loaded = fastncf.load(tmp_path / "model")
    assert loaded.recommend([0, 1]).equals(fitted.recommend([0, 1]))
    assert loaded.config == fitted.config
