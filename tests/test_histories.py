"""Users who are not in the training data, and new interactions without training."""

import itertools

import numpy as np
import polars as pl
import pytest

import fastncf
from fastncf.data.split import Split, select_rows
from fastncf.data.updates import add_interactions, renumber_items
from fastncf.errors import ConfigError, DataError
from fastncf.kernels.cpu.encoder import HistoryEncoder
from fastncf.kernels.cpu.factors import Factors
from fastncf.serving.histories import encode
from fastncf.serving.solving import NUM_NEGATIVES, FixedItems, negatives_of, solve_users
from tests.conftest import random_csr


def walks(num_users: int = 300, num_items: int = 60, length: int = 12) -> pl.DataFrame:
    """Users who walk on a circle of items."""
    start = np.random.default_rng(0).integers(0, num_items, num_users)
    items = (start[:, None] + np.arange(length)) % num_items
    user, time = np.repeat(np.arange(num_users), length), np.tile(np.arange(length), num_users)
    return pl.DataFrame({"user": user, "item": 10 * items.reshape(-1), "time": time})


@pytest.fixture(scope="module")
def rec():
    return fastncf.fit(walks(), loss="softmax", dim=16, learning_rate=0.02)


@pytest.fixture
def own(rec, tmp_path):
    """Return a copy of the recommender that a test may change."""
    rec.save(tmp_path / "own")
    return fastncf.load(tmp_path / "own")


def plain_state(encoder: HistoryEncoder, items: list[int]) -> np.ndarray:
    state = np.zeros(encoder.gains.shape[1])
    latest = items[-encoder.longest :]
    tables = np.broadcast_to(encoder.feature_vectors(), (len(encoder.vectors), *encoder.gains.shape)).swapaxes(0, 1)
    for gain, decay, is_mean, vectors in zip(encoder.gains, encoder.decays, encoder.is_mean, tables, strict=True):
        total = sum((decay.astype(float) ** (len(latest) - 1 - at) * vectors[i] for at, i in enumerate(latest)), 0.0)
        state += gain * total / (len(latest) if is_mean else 1)
    return state


@pytest.mark.parametrize("history", [[30], [50, 60, 70], ["590", "0", 10.0], list(range(0, 600, 10))[:-3]])
def test_a_new_user_gets_what_the_state_of_the_history_scores_highest(rec, history):
    found = rec.recommend(history=history, k=4)
    assert found.columns == ["item", "score", "rank"]
    items = rec.items.require(history).tolist()
    scores = rec.trained.item_vectors @ plain_state(rec.encoder, items) + rec.trained.item_bias
    scores[items] = -np.inf
    best = np.argsort(-scores, kind="stable")[: len(found)]
    assert found["item"].to_list() == rec.items.decode(best.astype(np.int32)).to_list()
    np.testing.assert_allclose(found["score"], scores[best], rtol=1e-4, atol=1e-4)
    assert len(found) == min(4, 60 - len(history))


def test_many_new_users_in_a_frame_by_time(rec, tmp_path):
    rows = {"user": ["b", "a", "b", "b"], "item": [70, 300, 50, 60], "time": [3, 9, 1, 2]}
    found = rec.recommend(history=pl.DataFrame(rows), k=2)
    assert found["user"].to_list() == ["a", "a", "b", "b"]
    alone = rec.recommend(history=[50, 60, 70], k=2)
    assert found.filter(user="b")["item"].to_list() == alone["item"].to_list() == [80, 90]
    pl.DataFrame(rows).write_csv(tmp_path / "new.csv")
    assert rec.recommend(history=tmp_path / "new.csv", k=2).equals(found)
    without = rec.recommend(history=[50, 60, 70], k=2, exclude=[80])
    assert without["item"].to_list()[0] == 90
    assert rec.recommend(history=[50, 60], k=1, exclude_seen=False, items=[60])["item"].to_list() == [60]
    repeated = rec.recommend(history=[70, 50, 60, 70], k=2)  # the last place of a repeated item counts
    assert repeated.equals(alone)


def test_items_that_the_model_does_not_know(rec):
    with pytest.raises(DataError, match=r"history: row 2: item 15 is not in the training data, .*unknown='skip'"):
        rec.recommend(history=[10, 15])
    assert rec.recommend(history=[15, 10], unknown="skip").equals(rec.recommend(history=[10]))
    frame = pl.DataFrame({"user": [1, 2], "item": [15, 20]})
    assert set(rec.recommend(history=frame, unknown="skip")["user"]) == {2}
    with pytest.raises(DataError, match="history: holds no item of the training data"):
        rec.recommend(history=[])
    with pytest.raises(ConfigError, match="unknown='best': expected error or skip or popular beside history"):
        rec.recommend(history=[15], unknown="best")
    with pytest.raises(ConfigError, match=r"users= and history= are given"):
        rec.recommend(3, history=[10])


def test_a_saved_model_keeps_its_encoder(rec, own):
    assert own.recommend(history=[50, 60]).equals(rec.recommend(history=[50, 60]))
    assert own.recommend().equals(rec.recommend())


@pytest.mark.parametrize("history", ["sequence", "bag"])
def test_histories_of_sgd_are_encoded_as_the_kernel_does(history):
    rec = fastncf.fit(walks(), loss="bce", history=history, dim=16, epochs=2, l2=0.01)
    indptr, items = select_rows(rec.split, rec.order, np.arange(300))
    own = rec.trained.user_vectors - encode(rec.encoder, indptr, items)
    expected = [plain_state(rec.encoder, items[a:b].tolist()) for a, b in itertools.pairwise(indptr)]
    np.testing.assert_allclose(rec.trained.user_vectors - expected, own, rtol=1e-4, atol=1e-4)
    assert np.abs(own).mean() < np.abs(rec.trained.user_vectors).mean()
    if history == "sequence":
        assert set(rec.recommend(history=[50, 60, 70], k=3)["item"]) & {80, 90}


def test_sets_of_items_are_encoded_as_the_kernel_does(tmp_path):
    rows = walks().drop("time")
    rec = fastncf.fit(rows, loss="softmax", split="random", dim=16, epochs=8, learning_rate=0.02)
    assert (rec.plan.final.trainer, rec.plan.final.history) == ("other_items", "bag")
    assert rec.metrics["hr@10"] > 0.5
    length = rec.encoder.length
    assert length > 0
    for user, (start, end) in enumerate(itertools.pairwise(rec.split.indptr[:30].tolist())):
        state = plain_state(rec.encoder, rec.split.indices[start:end].tolist())
        expected = length * state / np.linalg.norm(state)
        np.testing.assert_allclose(rec.trained.user_vectors[user], expected, rtol=1e-3, atol=1e-3)
    found = rec.recommend(history=[50, 60, 80], k=3)
    assert set(found["item"]) & {40, 70, 90}
    assert rec.recommend(history=[80, 50, 60], k=3)["item"].to_list() == found["item"].to_list()
    rec.save(tmp_path / "sets")
    saved = fastncf.load(tmp_path / "sets")
    assert saved.recommend(history=[50, 60, 80], k=3).equals(found)
    saved.update(pl.DataFrame({"user": ["new"] * 3, "item": [50, 60, 80]}))
    assert saved.recommend(["new"], k=3)["item"].to_list() == found["item"].to_list()
    vectors = saved.trained.item_vectors.copy()
    saved.update(pl.DataFrame({"user": ["new"] * 2, "item": [100, 110]}), epochs=1)
    assert 0 < np.abs(saved.trained.item_vectors - vectors).max() < 0.5


@pytest.mark.parametrize("has_encoder", [False, True])
def test_users_are_solved_for_against_fixed_items(has_encoder):
    """The gradient of the loss, state by state, is 0 at the vector and the bias that are found."""
    random = np.random.default_rng(3)
    vectors, bias = random.standard_normal((40, 5), dtype=np.float32), random.random(40, dtype=np.float32)
    counts = random.integers(1, 50, 40)
    fixed = FixedItems(vectors, bias, 6, 0.01, *negatives_of("popularity", 0.5, counts))
    indptr, items = np.array([0, 3, 10]), random.permutation(40)[:10].astype(np.int32)
    encoder = None
    if has_encoder:
        history_vectors = random.standard_normal((40, 5), dtype=np.float32)
        gains, decays = np.full((2, 5), 0.5, np.float32), np.full((2, 5), 0.7, np.float32)
        decays[0] = 1
        encoder = HistoryEncoder(history_vectors, gains, decays, np.array([True, False]), 100)
    found, found_bias = solve_users(fixed, indptr, items, encoder)
    for user, (start, stop) in enumerate([(0, 3), (3, 10)]):
        history = items[start:stop].tolist()
        draws = np.sqrt(counts) * ~np.isin(np.arange(40), history)
        own, gradient, bias_gradient = found[user].astype(np.float64), np.zeros(5), 0.001 * found_bias[user]
        if has_encoder:
            own = own - plain_state(encoder, history)
        for place, item in enumerate(history):
            state = np.zeros(5)
            if has_encoder:
                others = [other for other in history if other != item]
                state = 0.5 * history_vectors[others].mean(0)
                state = state + 0.5 * sum(0.7 ** (place - 1 - s) * history_vectors[history[s]] for s in range(place))
            errors = 1 / (1 + np.exp(-(vectors @ (own + state) + bias + found_bias[user]))) * 6 * draws / draws.sum()
            errors[item] = 1 / (1 + np.exp(-(vectors[item] @ (own + state) + bias[item] + found_bias[user]))) - 1
            gradient, bias_gradient = gradient + vectors.T @ errors, bias_gradient + errors.sum()
        np.testing.assert_allclose(gradient + 2 * 0.01 * len(history) * 7 * own, 0, atol=1e-2)
        assert bias_gradient == pytest.approx(0, abs=1e-2)


def test_negatives_of_a_large_catalogue_are_every_nth_of_the_distribution():
    counts = np.random.default_rng(0).integers(1, 1_000, 20_000)
    sampled, shares = negatives_of("popularity", 1.0, counts)
    assert len(sampled) == len(shares) == NUM_NEGATIVES
    assert counts[sampled].mean() == pytest.approx((counts**2).sum() / counts.sum(), rel=0.05)
    again, _ = negatives_of("popularity", 1.0, counts)
    assert (sampled == again).all()


def test_a_model_without_histories_serves_new_users():
    for settings in ({"history": "none", "loss": "bce"}, {"optimizer": "adam", "batch_size": 300}):
        rec = fastncf.fit(walks(), dim=16, device="cpu", **settings)
        found = rec.recommend(history=[100, 110, 120, 140], k=5)["item"].to_list()
        assert len({90, 80, 130, 150, 160, 170} & set(found)) >= 3


def test_update_takes_known_and_new_users(own, rec):
    frame = walks()
    new = pl.DataFrame({"user": [7, "z", 7], "item": [550, 200, 540], "time": [9, 9, 8]}, strict=False)
    assert own.update(new) is own
    whole = [*frame.filter(user=7)["item"].to_list(), 540, 550]
    assert own.recommend("7", k=3)["item"].to_list() == rec.recommend(history=whole, k=3)["item"].to_list()
    expected = rec.recommend(history=[200], k=3)
    assert own.recommend("z", k=3)["item"].to_list() == expected["item"].to_list()
    others = [user for user in range(300) if user != 7]
    before, after = rec.recommend(others, k=2), own.recommend(list(map(str, others)), k=2)
    assert after["item"].to_list() == before["item"].to_list()
    assert (own.data["users"], own.data["interactions"]) == (301, 3_603)
    assert "299 users" in own.evaluate().protocol
    assert "afterwards 3 interactions were added" in own.protocol
    own.update(pl.DataFrame({"user": ["z"], "item": [210]}))
    assert own.recommend("z", k=2)["item"].to_list() == rec.recommend(history=[200, 210], k=2)["item"].to_list()


def test_an_updated_model_is_saved(own, tmp_path):
    own.update(pl.DataFrame({"user": [7, 1_000], "item": [550, 200]}))
    own.save(tmp_path / "model")
    again = fastncf.load(tmp_path / "model")
    assert again.recommend().equals(own.recommend())
    assert again.evaluate() == own.evaluate()


def test_update_refuses_what_it_cannot_use(own):
    before = own.recommend(k=1)
    for new, reason in (
        ([1, 2], "update: got a list; expected a frame or a file"),
        (
            pl.DataFrame({"user": [], "item": []}, schema={"user": pl.Int64, "item": pl.Int64}),
            "expected at least one row",
        ),
        (pl.DataFrame({"user": [1], "item": [15]}), r"update: row 1: item 15 is not in the training data"),
    ):
        with pytest.raises(DataError, match=reason):
            own.update(new)
    assert own.recommend(k=1).equals(before)


@pytest.mark.parametrize("seed", range(5))
def test_added_interactions_are_those_of_lists(seed):
    random = np.random.default_rng(seed)
    indptr, indices = random_csr(random, 8, 12, 9)
    orders = [random.permutation(b - a) for a, b in itertools.pairwise(indptr)]
    histories, held = [], np.full((2, 8), -1, dtype=np.int32)
    for user, order in enumerate(orders):
        row = indices[indptr[user] : indptr[user + 1]]
        left = np.setdiff1d(np.arange(12), row)
        if len(row) and random.random() < 0.7:
            held[:, user] = random.permutation(left)[:2]
        histories.append([*row[order].tolist(), *held[:, user][held[:, user] >= 0].tolist()])
    lists = random.integers(0, 12, (int((held[1] >= 0).sum()), 3)).astype(np.int32)
    split = Split(12, indptr, indices, held[1], held[0], 0, 0, 0, "latest", lists)
    new_index = random.permutation(10)[:8].astype(np.int32)
    new_index = np.sort(new_index) if seed % 2 else new_index
    user, item = random.integers(0, 10, 15).astype(np.int32), random.integers(0, 12, 15).astype(np.int32)
    found, order = add_interactions(split, np.concatenate(orders).astype(np.int32), user, item, new_index, 10)
    old = dict(zip(new_index.tolist(), range(8), strict=True))
    for number in range(10):
        of_old = old.get(number)
        added = item[user == number].tolist()
        row, in_order = found.indices[found.indptr[number] : found.indptr[number + 1]], order
        position = in_order[found.indptr[number] : found.indptr[number + 1]]
        if of_old is not None and not len(orders[of_old]):
            assert not len(row)  # has seen every item before
            continue
        before = [] if of_old is None else histories[of_old]
        if not added and of_old is not None:
            before = before[: len(orders[of_old])]
            assert (found.test_item[number], found.validation_item[number]) == (held[1, of_old], held[0, of_old])
        else:
            assert (found.test_item[number], found.validation_item[number]) == (-1, -1)
        expected = list(dict.fromkeys([*before, *added][::-1]))[::-1]
        if len(expected) == 12:
            expected = []
        assert row.tolist() == sorted(expected)
        assert row[position].tolist() == expected
    with_test = [of_old for of_old in range(8) if held[1, of_old] >= 0]
    kept = [old[number] for number in range(10) if number in old and found.test_item[number] >= 0]
    np.testing.assert_array_equal(found.test_candidates, lists[[with_test.index(of_old) for of_old in kept]])


def test_factors_of_guests_share_the_items(rec):
    rec.recommend(history=[10])
    assert isinstance(rec.trained, Factors)
    assert len(rec.trained.user_vectors) == 300


@pytest.mark.parametrize("seed", range(3))
def test_renumbered_items_keep_rows_and_order(seed):
    random = np.random.default_rng(seed)
    indptr, indices = random_csr(random, 8, 12, 9)
    order = np.concatenate([random.permutation(b - a) for a, b in itertools.pairwise(indptr)]).astype(np.int32)
    test = np.full(8, -1, dtype=np.int32)
    test[:2] = 3, 4
    split = Split(12, indptr, indices, test, np.full(8, -1, dtype=np.int32), 0, 0, 0, "latest")
    new_index = random.permutation(20)[:12].astype(np.int32)
    found, new_order = renumber_items(split, order, new_index, 20)
    assert found.test_item.tolist() == [new_index[3], new_index[4], *[-1] * 6]
    for user in range(8):
        old = indices[indptr[user] : indptr[user + 1]][order[indptr[user] : indptr[user + 1]]]
        row = slice(found.indptr[user], found.indptr[user + 1])
        if not len(old):  # has seen every item before
            assert found.indices[row].tolist() == sorted(new_index.tolist())
            continue
        assert found.indices[row].tolist() == sorted(new_index[old].tolist())
        assert found.indices[row][new_order[row]].tolist() == new_index[old].tolist()
    assert renumber_items(split, None, new_index, 20)[1] is None


SOFTMAX = {"loss": "softmax", "learning_rate": 0.02, "batch_size": 128}


@pytest.mark.parametrize("settings", [SOFTMAX, {"loss": "bce"}, {"loss": "bce", "history": "none"}])
def test_further_epochs_take_new_items(settings, tmp_path):
    rec = fastncf.fit(walks(), dim=16, **settings)
    start = np.random.default_rng(1).integers(0, 60, 200)
    steps = (start[:, None] + np.arange(14)) % 63  # the circle has three more items between 590 and 0
    new = pl.DataFrame({"user": np.repeat(np.arange(1_000, 1_200), 14), "item": 10 * steps.reshape(-1)})
    rec.update(new, epochs=24)
    assert (rec.split.num_items, rec.data["items"], rec.data["users"]) == (63, 63, 500)
    if "history" not in settings:
        assert 610 in rec.recommend(history=[580, 590, 600], k=4)["item"].to_list()
    assert "3 interactions" not in rec.protocol
    assert "2,800 interactions were added and all trained on for 24 epochs" in rec.protocol
    assert rec.training_log[-1]["epoch"] == len(rec.training_log)
    rec.save(tmp_path / "model")
    assert fastncf.load(tmp_path / "model").recommend(k=3).equals(rec.recommend(k=3))


def test_epochs_of_an_update_are_counted():
    rec = fastncf.fit(walks(), model="mf", loss="bce", history="none", epochs=1, dim=4, device="cpu")
    with pytest.raises(ConfigError, match="epochs=-1: expected an integer of at least 0"):
        rec.update(pl.DataFrame({"user": [1], "item": [20]}), epochs=-1)
