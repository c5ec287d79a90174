import numpy as np
import polars as pl
import pytest
import torch
from polars.testing import assert_frame_equal
from torch import nn

import fastncf
from fastncf import plan as planning
from fastncf import recipes, tuning
from fastncf.data.synthetic import synthetic_movielens
from fastncf.errors import ConfigError, DataError, DataNotFoundError, DeviceError
from fastncf.kernels.cpu.factors import Factors
from fastncf.models.mf import MF
from fastncf.models.mlp import MLP
from fastncf.sampling.loader import Batch
from fastncf.trainers.autograd import l2_penalty, score_batch
from tests.conftest import checkerboard
from tests.stages import make_stage

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]
SMALL = {"dim": 8, "epochs": 15, "batch_size": 256, "num_negatives": 3, "learning_rate": 0.02, "l2": 0.01}
SMALL["optimizer"] = "adam"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("loss", ["bce", "bpr"])
@pytest.mark.parametrize("model", ["mf", "gmf", "mlp", "neumf"])
def test_each_model_learns_the_checkerboard(model, loss, device):
    layers = {"layers": (16, 8)} if model in ("mlp", "neumf") else {}
    rec = fastncf.fit(checkerboard(), model=model, loss=loss, device=device, **layers, **SMALL)
    assert rec.metrics["hr@10"] > 0.97
    assert rec.training_log[-1]["loss"] < 0.7 * rec.training_log[0]["loss"]
    top = rec.recommend(list(range(60)), k=2)  # a user misses three liked items: one is held out, two are left
    assert ((top["item"] - top["user"]) % 2 == 0).mean() > 0.97


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("model", ["mlp", "neumf"])
def test_pretrained_models_learn_the_checkerboard(model, device):
    settings = {name: value for name, value in SMALL.items() if name not in ("optimizer", "l2")}
    rec = fastncf.fit(checkerboard(), model=model, device=device, layers=(16, 8), **settings)
    assert len(rec.plan.stages) > 1
    assert next(rec.model.parameters()).device.type == device
    assert rec.metrics["hr@10"] > 0.97
    top = rec.recommend(list(range(60)), k=2)
    assert ((top["item"] - top["user"]) % 2 == 0).mean() > 0.97


@pytest.mark.parametrize("loss", ["bce", "bpr"])
def test_sgd_learns_the_checkerboard(loss):
    rec = fastncf.fit(checkerboard(), loss=loss, dim=8, num_negatives=3, epochs=60, learning_rate=0.2)
    assert rec.plan.final.optimizer == "sgd"
    assert rec.metrics["hr@10"] > 0.97
    assert rec.training_log[-1]["loss"] < 0.7 * rec.training_log[0]["loss"]
    again = fastncf.fit(checkerboard(), loss=loss, dim=8, num_negatives=3, epochs=60, learning_rate=0.2)
    assert rec.training_log[-1]["loss"] == again.training_log[-1]["loss"]


class Own(nn.Module):
    def __init__(self, users: int, items: int) -> None:
        super().__init__()
        self.users, self.items = nn.Embedding(users, 8), nn.Embedding(items, 8)

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return (self.users(users) * self.items(items)).sum(-1)


@pytest.mark.parametrize("device", DEVICES)
def test_a_module_of_ones_own_learns_the_checkerboard(device, tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        own = Own(60, 40)
    rec = fastncf.fit(checkerboard(), model=own, device=device, **{**SMALL, "dim": None, "epochs": 40})
    assert rec.metrics["hr@10"] > 0.97
    rec.save(tmp_path / "model")
    with pytest.raises(ConfigError, match=r"expected fastncf\.load"):
        fastncf.load(tmp_path / "model")
    again = fastncf.load(tmp_path / "model", model=Own(60, 40))
    assert_frame_equal(again.recommend(3), rec.recommend(3))  # a GPU's scores differ by rounding


def test_popularity_is_the_floor():
    rec = fastncf.fit(checkerboard(), model="popularity")
    assert rec.training_log == []
    assert rec.metrics["hr@10"] < 0.6


def test_one_step_is_dense_adam_on_the_mean_loss():
    """Against plain torch code over the same draws: the parameters after two epochs are the same."""
    data = checkerboard(num_users=12, num_items=10)
    settings = {
        "model": "mf",
        "optimizer": "adam",
        "dim": 4,
        "batch_size": 60,
        "num_negatives": 2,
        "learning_rate": 0.05,
        "l2": 0.01,
    }
    rec = fastncf.fit(data, epochs=2, schedule="linear", seed=3, **settings)

    from fastncf.models import build
    from fastncf.sampling.loader import EpochLoader, SamplingSpec

    model = build(rec.plan.final, 12, 10, np.zeros(10))
    assert isinstance(model, MF)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    spec = SamplingSpec(rec.split, num_negatives=2, seed=3, device=torch.device("cpu"), shuffle=True, num_epochs=2)
    epochs = EpochLoader(spec, batch_size=60)
    step, steps = 0, 2 * epochs.batches
    with epochs:
        for number in range(2):
            for batch in epochs.epoch(number):
                users = batch.user.repeat_interleave(3)
                items = torch.cat([batch.positive[:, None], batch.negatives], 1).ravel()
                labels = torch.tensor([1.0, 0.0, 0.0]).repeat(len(batch.user))
                p, q = model.user_embedding(users), model.item_embedding(items)
                logits = (p * q).sum(1) + model.user_bias[users] + model.item_bias[items]
                loss = nn.functional.binary_cross_entropy_with_logits(logits, labels)
                norms = model.user_embedding(batch.user).square().sum(1).mean() + q.square().sum(1).mean()
                optimizer.zero_grad()
                (loss + 0.01 * norms).backward()
                optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
                optimizer.step()
                step += 1
    for name, tensor in rec.model.state_dict().items():
        torch.testing.assert_close(tensor, model.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_score_batch_and_penalty():
    model = MF(4, 6, 3)
    batch = Batch(torch.tensor([1, 3]), torch.tensor([0, 5]), torch.tensor([[1, 2], [3, 4]]))
    positive, negatives = score_batch(model, batch)
    torch.testing.assert_close(positive, model(batch.user, batch.positive))
    torch.testing.assert_close(negatives[:, 1], model(batch.user, batch.negatives[:, 1]))
    users, items = model.user_embedding.weight, model.item_embedding.weight
    expected = users[[1, 3]].square().sum() / 2 + items.square().sum() / 6
    torch.testing.assert_close(l2_penalty(model, batch, 0.5), 0.5 * expected)


def test_penalty_leaves_embeddings_alone_that_say_neither_user_nor_item():
    """Their rows may be fewer than the items: to index them by a guess could fail, or penalise the wrong vectors."""
    model = nn.ModuleDict({"P": nn.Embedding(2, 3), "user_vectors": nn.Embedding(4, 3)})
    batch = Batch(torch.tensor([1, 3]), torch.tensor([0, 5]), torch.tensor([[1, 2], [3, 4]]))
    expected = model["user_vectors"].weight[[1, 3]].square().sum() / 2
    torch.testing.assert_close(l2_penalty(model, batch, 1.0), expected)


def test_same_seed_same_model_and_another_seed_another():
    first, again, other = (
        fastncf.fit(checkerboard(), seed=seed, **(SMALL | {"epochs": 2})).model.state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["user_embedding.weight"], other["user_embedding.weight"])


def test_global_random_state_and_threads_are_left_alone():
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    numpy_state = np.random.get_state()[1].tolist()
    fastncf.fit(checkerboard(), **(SMALL | {"epochs": 1, "model": "neumf"}))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.random.get_state()[1].tolist() == numpy_state
    assert torch.get_num_threads() == threads


def test_schedule():
    for schedule, expected in (("linear", [1, 0.75]), ("constant", [1, 1])):
        stage = make_stage(learning_rate=1.0, schedule=schedule)
        assert stage.learning_rate_at(np.array([0, 0.25])).tolist() == expected


def test_validation_reports_and_never_touches_test_items():
    rec = fastncf.fit(checkerboard(), validation=True, **(SMALL | {"epochs": 4}))
    assert all({"loss", "hr@10", "ndcg@10", "mrr"} <= set(entry) for entry in rec.training_log)
    held_out = rec.split.validation_item
    assert (held_out >= 0).all()
    assert (held_out != rec.split.test_item).all()
    owner = np.repeat(np.arange(60), np.diff(rec.split.indptr))
    assert not (rec.split.indices == held_out[owner]).any()


def test_patience_stops_and_keeps_the_best_epoch():
    told = []
    settings = SMALL | {"epochs": 60, "learning_rate": 0.1, "schedule": "constant"}
    rec = fastncf.fit(checkerboard(), validation=True, patience=2, callback=told.append, **settings)
    scores = [entry["ndcg@10"] for entry in rec.training_log]
    assert len(scores) < 60
    best = int(np.argmax(scores))
    assert len(scores) == best + 3
    fewer = []

    def stop_at_best(news):
        fewer.append(news)
        return news.stage == "epoch" and news.epoch == best + 1

    same = fastncf.fit(checkerboard(), validation=True, callback=stop_at_best, **settings)
    assert len(same.training_log) == best + 1
    state = rec.model.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in same.model.state_dict().items())


def test_callback_is_called_for_every_stage_in_order():
    told = []
    fastncf.fit(checkerboard(), callback=told.append, **(SMALL | {"epochs": 2}))
    assert [news.stage for news in told] == ["read", "split", "tune", "train", "epoch", "epoch", "evaluate"]
    assert [news.epoch for news in told[4:6]] == [1, 2]
    assert told[4].samples_per_second > 0


def test_counts_and_seconds():
    data = pl.concat([checkerboard(), checkerboard().head(7)])
    rec = fastncf.fit(data, **(SMALL | {"epochs": 1}))
    assert rec.data == {
        "users": 60,
        "items": 40,
        "interactions": 60 * 17,
        "num_rows": 60 * 17 + 7,
        "num_duplicates": 7,
        "num_users_all_seen": 0,
        "num_users_too_short": 0,
        "num_items_unknown": 0,
        "num_test_items_unknown": 0,
        "num_candidates_unknown": 0,
        "num_candidates_seen": 0,
    }
    assert set(rec.seconds) == {"read", "split", "tune", "sample", "train", "evaluate", "total"}
    parts = sum(rec.seconds[stage] for stage in ("read", "split", "tune", "train", "evaluate"))
    assert parts <= rec.seconds["total"]
    assert "leave-one-out" in rec.protocol
    assert "1 + 99 candidates drawn uniformly without replacement" in rec.protocol
    assert "(60 users have fewer)" in rec.protocol


def test_user_mistakes():
    data = checkerboard()
    with pytest.raises(ConfigError, match=r"^unknown setting: epoch; did you mean epochs\?$"):
        fastncf.fit(data, epoch=3)
    with pytest.raises(ConfigError, match="model='als': expected one of gmf, mf"):
        fastncf.fit(data, model="als")
    with pytest.raises(ConfigError, match="model=7: expected the name of a model or an nn"):
        fastncf.fit(data, model=7)
    with pytest.raises(ConfigError, match="candidates: expected test= beside it"):
        fastncf.fit(data, candidates="x")
    with pytest.raises(DeviceError, match="not available"):
        fastncf.fit(data, device="cuda:77")
    with pytest.raises(DeviceError, match="unknown to torch"):
        fastncf.fit(data, device="abacus")
    with pytest.raises(DataNotFoundError, match="no such file"):
        fastncf.fit("nowhere.csv")
    with pytest.raises(DataError, match="split='random'"):
        fastncf.fit(data.drop("time"))


def test_split_random_needs_no_times():
    rec = fastncf.fit(checkerboard().drop("time"), split="random", **(SMALL | {"epochs": 1}))
    assert "a random interaction" in rec.protocol


def test_popular_negatives_push_popular_items_down():
    """Item 0 is liked by all: as a negative of the few others it is drawn more often with a higher exponent."""
    rows = [
        (user, item, item) for user in range(40) for item in ([0] if user < 30 else []) + [1 + user % 8, 9 + user % 5]
    ]
    data = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    bias = [
        fastncf.fit(data, negatives="popularity", negatives_exponent=exponent, **SMALL).model.item_bias[0].item()
        for exponent in (0.0, 2.0)
    ]
    assert bias[1] < bias[0]


def test_every_parameter_of_an_mlp_is_trained():
    rec = fastncf.fit(checkerboard(), model="mlp", layers=(8, 4), **(SMALL | {"epochs": 1}))
    fresh = fastncf.fit(checkerboard(), model="mlp", layers=(8, 4), **(SMALL | {"epochs": 1, "learning_rate": 1e-12}))
    assert isinstance(rec.model, MLP)
    before = fresh.model.state_dict()
    assert all(not torch.allclose(value, before[name], atol=1e-6) for name, value in rec.model.state_dict().items())


@pytest.mark.parametrize("history", ["sequence", "bag", "none"])
def test_gmf_is_trained_as_the_mf_it_can_be(history):
    """Two of its dimensions hold the biases; the scores are the same."""
    settings = {"epochs": 3, "num_negatives": 3, "history": history}
    mf = fastncf.fit(checkerboard(), model="mf", dim=6, **settings)
    gmf = fastncf.fit(checkerboard(), model="gmf", dim=8, **settings)
    assert gmf.plan.final.optimizer == "sgd"
    assert [entry["loss"] for entry in gmf.training_log] == [entry["loss"] for entry in mf.training_log]
    users, items = list(range(40)), list(range(40))
    np.testing.assert_allclose(gmf.score(users, items)["score"], mf.score(users, items)["score"], rtol=1e-4, atol=1e-5)
    assert gmf.model.item_vectors().shape == (40, 6)
    assert_frame_equal(gmf.similar_items([3, 7]), mf.similar_items([3, 7]), abs_tol=1e-5)


@pytest.mark.parametrize("mlp_dim", [None, 12])
def test_neumf_is_its_parts_joined(mlp_dim, tmp_path):
    settings = {"num_negatives": 3, "seed": 4, "validation": True}
    told = []
    neumf = {"model": "neumf", "dim": 8, "mlp_dim": mlp_dim, "layers": (16, 8), "epochs": 5, "batch_size": 256}
    rec = fastncf.fit(checkerboard(), callback=told.append, **neumf, **settings)
    assert len(rec.plan.stages) > 1
    gmf = fastncf.fit(checkerboard(), model="gmf", dim=8, **settings)
    alone = {"dim": mlp_dim or 8, "layers": (16, 8), "optimizer": "adam", "epochs": 5, "batch_size": 256}
    mlp = fastncf.fit(checkerboard(), model="mlp", **alone, learning_rate=0.003, **settings)
    users, items = list(range(40)), list(range(40))
    expected = 0.9 * gmf.score(users, items)["score"] + 0.1 * mlp.score(users, items)["score"]
    np.testing.assert_allclose(rec.score(users, items)["score"], expected, rtol=1e-4, atol=1e-5)
    drop = ("epoch", "seconds")
    losses = [{k: v for k, v in entry.items() if k not in drop} for entry in rec.training_log]
    assert losses == [
        {k: v for k, v in entry.items() if k not in drop} for entry in gmf.training_log + mlp.training_log
    ]
    assert [entry["epoch"] for entry in rec.training_log] == list(range(1, len(rec.training_log) + 1))
    assert {news.epochs for news in told} == {len(rec.training_log)}
    rec.save(tmp_path / "model")
    again = fastncf.fit(checkerboard(), config=fastncf.load(tmp_path / "model").config)
    assert again.metrics == rec.metrics


@pytest.mark.parametrize("history", ["sequence", "none"])
def test_mlp_starts_from_the_vectors_of_mf(history):
    settings = {"num_negatives": 3, "seed": 4, "history": history}
    mf = fastncf.fit(checkerboard(), model="mf", dim=7, **settings)
    still = fastncf.fit(checkerboard(), model="mlp", dim=8, epochs=2, learning_rate=1e-12, **settings)
    assert len(still.plan.stages) == 2
    assert [entry["loss"] for entry in still.training_log][:-2] == [entry["loss"] for entry in mf.training_log]
    for side in ("user", "item"):
        vectors = getattr(still.model, f"{side}_embedding").weight
        own = torch.cat([getattr(mf.model, f"{side}_embedding").weight, getattr(mf.model, f"{side}_bias")[:, None]], 1)
        assert vectors.std(0, correction=0).mean().item() == pytest.approx(1, rel=1e-5)
        torch.testing.assert_close(vectors / own, (vectors[0, 0] / own[0, 0]).expand_as(own), rtol=1e-3, atol=0)
    rec = fastncf.fit(checkerboard(), model="mlp", dim=8, epochs=5, learning_rate=0.01, init_std=0.5, **settings)
    assert rec.metrics["hr@10"] > 0.9
    fast = fastncf.fit(checkerboard(), model="mlp", dim=8, budget="fast", **settings)
    assert (len(fast.training_log), fast.plan.final.epochs, fast.plan.final.learning_rate) == (16, 10, 0.001)


def test_optimizers_refuse_models_that_they_do_not_train():
    for settings in ({"model": "mlp", "dim": 2}, {"model": "neumf", "dim": 2}, {"model": Own(60, 40)}):
        with pytest.raises(ConfigError, match=r"optimizer='pretrain': it (needs dim=3 or more|trains mlp and neumf)"):
            fastncf.fit(checkerboard(), optimizer="pretrain", **settings)
    with pytest.raises(ConfigError, match="optimizer='sgd': no trainer can train gmf on cpu"):
        fastncf.fit(checkerboard(), model="gmf", dim=2, optimizer="sgd")
    assert fastncf.fit(checkerboard(), model="gmf", dim=2, epochs=1).plan.final.optimizer == "adam"
    assert fastncf.fit(checkerboard(), model="neumf", dim=2, epochs=1, layers=(4,)).plan.final.optimizer == "adam"


def popular_noise() -> pl.DataFrame:
    """Interactions in which nothing but the popularity of the items tells what comes next."""
    random = np.random.default_rng(5)
    item = (300 * random.random(2_400) ** 3).astype(np.int64)
    return pl.DataFrame({"user": np.repeat(np.arange(300), 8), "item": item, "time": np.arange(2_400)})


@pytest.mark.parametrize("model", ["mf", "gmf"])
def test_l2_is_chosen_where_it_is_left_out(model, monkeypatch):
    recipe = recipes.SGD_SPARSE["bag"].settings["l2"]
    rec = fastncf.fit(popular_noise(), model=model, loss="bce")
    assert rec.plan.final.l2 in [factor * recipe for factor in (2, 4, 8, 16)]
    assert rec.seconds["tune"] > 0
    assert fastncf.fit(popular_noise(), model=model, loss="bce").plan == rec.plan
    assert fastncf.fit(popular_noise(), model=model, loss="bce", budget="fast").plan.final.l2 == recipe
    assert fastncf.fit(popular_noise(), model=model, loss="bce", l2=0.02).plan.final.l2 == 0.02
    monkeypatch.setattr(planning, "L2_SEARCH_UP_TO", 1_000)
    assert fastncf.fit(popular_noise(), model=model, loss="bce").plan.final.l2 == recipe


@pytest.mark.parametrize("better", ["softmax", "bce"])
def test_the_loss_is_chosen_by_held_out_items_in_the_whole_catalogue(better, monkeypatch):
    frame = circles()
    last = frame.filter(pl.col("time") == 10)["item"].to_numpy()  # held out for the choice, the latest for the test
    tried = []

    def train(stage, split, order):
        tried.append((stage.loss, stage.epochs, len(split.indices), order is not None))
        user_vectors, item_vectors = np.zeros((300, 60), np.float32), np.eye(60, dtype=np.float32)
        if stage.loss == better:
            user_vectors[np.arange(300), last] = 1
        return Factors(user_vectors, item_vectors, np.zeros(300, np.float32), np.zeros(60, np.float32))

    monkeypatch.setattr(tuning, "_train", train)
    rec = fastncf.fit(frame, epochs=1, dim=4)
    assert tried[:2] == [("softmax", 1, 3_000, True), ("bce", 1, 3_000, True)]
    assert len(tried) == 2 or better == "bce"  # whose l2 is chosen next
    assert rec.plan.final.loss == better
    other = {"softmax": "bce", "bce": "softmax"}[better]
    expected = f"NDCG@10 of 300 held-out items in the whole catalogue: 1.0000; {other}: 0.0000"
    assert rec.plan.reasons[0]["loss"] == expected
    assert rec.plan.final.trainer == {"softmax": "next_item", "bce": "history_sgd"}[better]
    count = len(tried)
    for settings in ({"loss": "softmax"}, {"budget": "fast"}):
        assert fastncf.fit(frame, epochs=1, dim=4, **settings).plan.final.loss == "softmax"
    assert len(tried) == count


def circles() -> pl.DataFrame:
    """Users who walk on a circle of 60 items, 12 steps each."""
    start = np.random.default_rng(0).integers(0, 60, 300)
    items = (start[:, None] + np.arange(12)) % 60
    return pl.DataFrame(
        {"user": np.repeat(np.arange(300), 12), "item": items.reshape(-1), "time": np.tile(np.arange(12), 300)}
    )


def test_softmax_learns_what_follows():
    rec = fastncf.fit(circles(), loss="softmax", dim=16, learning_rate=0.02, full_ranking=True)
    assert rec.metrics["full/hr@10"] > 0.9
    assert rec.plan.final.trainer == "next_item"
    for model, trainer in (("gmf", "next_item"), ("mlp", "autograd")):
        other = fastncf.fit(circles(), model=model, loss="softmax", epochs=1, device="cpu")
        assert other.plan.final.trainer == trainer
        assert 0 < other.training_log[0]["loss"] < 10


def test_what_sgd_trains_first_has_its_l2_chosen_too(monkeypatch):
    seen = []
    train = tuning._train
    monkeypatch.setattr(tuning, "_train", lambda stage, *data: seen.append(stage) or train(stage, *data))
    rec = fastncf.fit(checkerboard(), model="neumf", dim=8, epochs=1, l2=0.001, device="cpu")
    assert {(stage.model, stage.optimizer) for stage in seen} == {("gmf", "sgd")}
    assert "chosen among" in rec.plan.reasons[0]["l2"]
    assert rec.plan.final.l2 == 0.001


def test_a_choice_needs_users_with_two_items():
    frame = pl.DataFrame({"user": np.repeat(np.arange(30), 2), "item": np.arange(60) % 23, "time": np.arange(60)})
    assert fastncf.fit(frame, loss="bce", epochs=1).plan.final.l2 == recipes.SGD_SPARSE["bag"].settings["l2"]


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "bce", "history": "sequence"},
        {"loss": "bce", "history": "bag"},
        {"loss": "bce", "history": "none"},
        {"loss": "bpr", "history": "sequence"},
        {"loss": "softmax", "history": "sequence"},
        {"loss": "softmax", "history": "bag", "model": "gmf"},
    ],
)
def test_more_negatives_never_make_a_model_worse_by_more_than_noise(settings):
    frame = synthetic_movielens(300, 400, 12_000, seed=3).collect()
    ndcg = []
    for num_negatives in (8, 32, 128, 512):
        rec = fastncf.fit(frame, num_negatives=num_negatives, full_ranking=True, budget="fast", **settings)
        ndcg.append(rec.metrics["full/ndcg@10"])
    noise = 2 * 0.22 / 300**0.5  # two standard errors of a mean NDCG whose standard deviation is .22
    assert all(ndcg[at] > max(ndcg[:at]) - noise for at in range(1, 4)), ndcg
