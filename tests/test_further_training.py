"""``update(epochs=)`` for each way to train: it goes on from what was trained, with new users and new items."""

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

import fastncf
from fastncf import ConfigError
from fastncf.models.mlp import MLP
from fastncf.serving.module_items import with_new_items
from tests.conftest import checkerboard
from tests.serving.test_new_users import Dots


class Tables(Dots):
    """A module of the user's own that names all of its tables."""

    item_tables = ("items.weight",)


def own() -> nn.Module:
    torch.manual_seed(0)
    return Tables(60, 40)


def own_mlp() -> nn.Module:
    return MLP(60, 40, 4, (8,), torch.Generator().manual_seed(0))


KINDS = {
    "history_sgd": {"loss": "bce"},
    "block_sgd": {"loss": "bce", "history": "none"},
    "next_item": {"loss": "softmax", "history": "sequence"},
    "other_items": {"loss": "softmax", "history": "bag"},
    "gmf": {"model": "gmf"},
    "mf by adam": {"loss": "bce", "optimizer": "adam"},
    "gmf by adam": {"model": "gmf", "optimizer": "adam"},
    "mlp, pretrained": {"model": "mlp", "layers": (8,)},
    "mlp": {"model": "mlp", "layers": (8,), "optimizer": "adam"},
    "mlp by autograd": {"model": "mlp", "layers": (8,), "optimizer": "adam", "loss": "softmax"},
    "neumf, joined": {"model": "neumf", "layers": (8,)},
    "neumf": {"model": "neumf", "layers": (8,), "optimizer": "adam"},
    "own": {"model": own},
    "own by a kernel": {"model": own_mlp},
    "popularity": {"model": "popularity"},
}
NEW = pl.DataFrame({"user": [0, 0, 99, 99, 99, 99], "item": [900, 1, 900, 2, 4, 901]})


def fitted(settings: dict) -> fastncf.Recommender:
    model = settings.get("model", "mf")
    made = callable(model)
    settings = {"device": "cpu", "epochs": 2, **({} if made else {"dim": 4}), **settings}
    if model == "popularity":
        settings = {"model": model}
    return fastncf.fit(checkerboard(), progress=False, **settings | ({"model": model()} if made else {}))


@pytest.mark.parametrize("kind", KINDS)
def test_each_trainer_goes_on_with_new_users_and_new_items(kind, tmp_path):
    rec = fitted(KINDS[kind])
    before, log = {name: one.copy() for name, one in _arrays(rec).items()}, len(rec.training_log)
    if kind.startswith("own"):
        other = fitted(KINDS[kind])
    else:
        rec.save(tmp_path / "fitted")
        other = fastncf.load(tmp_path / "fitted")
    for one in (rec, other):
        one.update(NEW, epochs=2, progress=False)
    assert (len(rec.users), len(rec.items), rec.split.num_items) == (61, 42, 42)
    how = "without training" if kind == "popularity" else "and all trained on for 2 epochs"
    assert f"6 interactions were added {how}" in rec.protocol
    assert len(rec.training_log) == log + (0 if kind == "popularity" else 2)
    assert all((one == _arrays(rec)[name]).all() for name, one in _arrays(other).items())  # the same bits
    if kind != "popularity":
        losses = [entry["loss"] for entry in rec.training_log]
        assert losses[-1] < losses[-3] + 0.1  # of the last epoch of the fit
        assert all(len(_arrays(rec)[name]) in (61, 42) for name, one in before.items() if len(one) in (60, 40))
    assert not {900, 901, 2, 4} & set(rec.recommend(99, k=38)["item"])
    assert rec.recommend(history=[900], k=41)["item"].n_unique() == 41
    rec.update(pl.DataFrame({"user": [5], "item": [901]}))  # and on, without training
    rec.save(tmp_path / "model")
    if not kind.startswith("own"):
        loaded = fastncf.load(tmp_path / "model")
        assert loaded.recommend(k=3).equals(rec.recommend(k=3))
        assert loaded.recommend(history=[900, 1], k=3).equals(rec.recommend(history=[900, 1], k=3))


def _arrays(rec: fastncf.Recommender) -> dict[str, np.ndarray]:
    return {name: tensor.detach().numpy() for name, tensor in rec.model.named_parameters()}


def test_new_items_begin_with_the_mean_of_the_others():
    module = own()
    grown = with_new_items(module, np.array([*range(20), *range(21, 41)]), 42)
    table, old = grown.items.weight.detach(), module.items.weight.detach()
    assert torch.cat([table[:20], table[21:41]]).equal(old)
    assert table[[20, 41]].equal(old.mean(0).expand(2, -1))
    assert grown.users.weight is module.users.weight


def test_tables_that_are_not_named_take_no_new_rows():
    class Nameless(Dots):
        user_tables = None

    rec = fastncf.fit(checkerboard(), model=Nameless(60, 40), epochs=1, device="cpu", progress=False)
    before = _arrays(rec)["items.weight"].copy()
    with pytest.raises(ConfigError, match="1 new item came, and Nameless does not name its tables of items"):
        rec.update(pl.DataFrame({"user": [1], "item": [999]}), epochs=1)
    with pytest.raises(ConfigError, match="1 new user came, and Nameless does not name its tables of users"):
        rec.update(pl.DataFrame({"user": [999], "item": [1]}), epochs=1)
    assert (_arrays(rec)["items.weight"] == before).all()
    rec.update(pl.DataFrame({"user": [1], "item": [2]}), epochs=1)
    assert (_arrays(rec)["items.weight"] != before).any()


@pytest.mark.parametrize("new", [["-1", "900"], ["x", "100"]])
def test_titles_stay_with_their_items(new, tmp_path):
    frame = checkerboard()
    titles = {str(item): f"title {item}" for item in frame["item"].unique()}
    listed = pl.DataFrame({"item": list(titles), "title": list(titles.values())})
    rec = fastncf.fit(frame, model="popularity", titles=listed)
    rec.update(pl.DataFrame({"user": ["0", "1"], "item": new}), epochs=1, progress=False)
    rec.save(tmp_path / "model")
    for one in (rec, fastncf.load(tmp_path / "model")):
        found = one.recommend(k=100, exclude_seen=False).select(pl.col("item").cast(pl.String), "title").unique()
        assert dict(found.rows()) == titles | dict.fromkeys(new)
