"""Settings that a fit cannot use beside the others are refused, or said in a warning; none is ignored in silence."""

import re
import warnings
from dataclasses import fields

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

import fastncf
from fastncf import Config, ConfigError, UnusedSettingWarning
from fastncf.unused import UNUSED
from tests.conftest import checkerboard
from tests.test_cli import run


@pytest.fixture
def files(tmp_path):
    """Training rows, a test row of each user, and their candidates."""
    data = checkerboard()
    test = data.group_by("user", maintain_order=True).last()
    train = data.join(test, on=["user", "item"], how="anti", maintain_order="left")
    rows = [f"({user},{item})\t{(item + 1) % 40}\t{(item + 3) % 40}\n" for user, item, _ in test.iter_rows()]
    (tmp_path / "lists").write_text("".join(rows))
    train.write_csv(tmp_path / "train.csv")
    test.write_csv(tmp_path / "test.csv")
    return {"train": tmp_path / "train.csv", "test": tmp_path / "test.csv", "candidates": tmp_path / "lists"}


class Own(nn.Module):
    """Scores of no use, with or without embeddings that l2 applies to."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.add_module(name, nn.Embedding(60, 1))

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        (table,) = self.children()
        return table(users).squeeze(-1)


LAYERS = {"model": "mlp", "layers": (4,), "dim": 4}


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        (
            {"loss": "bce", "layers": (8,), "dropout": 0.1},
            "layers=(8,), dropout=0.1: no effect, since the model has no hidden layers",
        ),
        ({"model": "gmf", "layers": (8,)}, "layers=(8,): no effect, since the model has no hidden layers"),
        ({"loss": "bce", "batch_size": 9}, "batch_size=9: no effect, since sgd takes a step for each interaction"),
        ({"loss": "bce", "horizon": 2}, "horizon=2: no effect, since it is for softmax over histories in their order"),
        ({"precision": "bfloat16"}, "precision='bfloat16': no effect, since the CPU kernel for it computes in float32"),
        ({"negatives": "uniform", "negatives_exponent": 0.5}, "negatives_exponent=0.5: no effect, since negatives are"),
        (
            {"budget": "fast", "epochs": 2, "learning_rate": 0.1, "l2": 0.1},
            "budget='fast': no effect, since every setting",
        ),
        (
            {"model": "popularity", "dim": 3, "epochs": 2},
            "dim=3, epochs=2: no effect, since the model needs no",
        ),
        (
            {"model": "popularity", "optimizer": "adam"},
            "optimizer='adam': no effect, since the model needs no",
        ),
        (
            {"model": "popularity", "validation": True},
            "validation=True: no effect, since the model needs no training, and no epoch is measured; a second item",
        ),
        ({"model": "popularity", "validation": True, "patience": 2}, "validation=True, patience=2: no effect"),
        ({"split": "random", "time": "time", "history": "bag"}, "time='time': no effect, since neither the held-out"),
        ({"model": Own("user"), "dim": 3}, "dim=3: no effect, since the model is a module of your own"),
        ({"model": Own("user"), "config": Config(model="mlp")}, "model='mlp': no effect, since the model is a module"),
        ({"model": Own("level"), "l2": 0.1}, "l2=0.1: no effect, since the module has no embedding of users or items"),
    ],
    ids=str,
)
def test_a_setting_without_effect_is_said(settings, warned):
    with pytest.warns(UnusedSettingWarning, match=f"^{re.escape(warned)}") as caught:
        fastncf.plan_fit(checkerboard(), **settings)
    assert len(caught) == 1
    assert caught[0].filename == __file__


PLANS = {
    "mf": {"loss": "bce"},
    "mf by softmax": {"loss": "softmax", "num_negatives": 64},
    "gmf": {"model": "gmf"},
    "mlp": {"model": "mlp"},
    "mlp by adam": {"model": "mlp", "optimizer": "adam"},
    "neumf": {"model": "neumf"},
}
CHANGES = {"dropout": 0.4, "batch_size": 40, "layers": (3,)}


@pytest.mark.parametrize("name", PLANS)
def test_a_setting_is_warned_of_if_and_only_if_it_changes_nothing(name):
    settings = {"layers": (4,), "dim": 6, "epochs": 1, "l2": 0.01, "num_candidates": 5, "device": "cpu", **PLANS[name]}

    def fitted(**changes):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            rec = fastncf.fit(checkerboard(), progress=False, **{**settings, **changes})
        said = {setting for setting in changes for warning in caught if f"{setting}=" in str(warning.message)}
        return said, rec.score([1, 2, 3] * 9, list(range(27)))["score"].to_list()

    _, scores = fitted()
    for setting, value in CHANGES.items():
        said, changed = fitted(**{setting: value})
        assert said == ({setting} if changed == scores else set()), setting


def test_a_setting_that_the_chosen_plan_does_not_use_is_said(monkeypatch):
    monkeypatch.setattr("fastncf.train.choose_plan", lambda plans, *rest: plans[1])
    with pytest.warns(UnusedSettingWarning, match="^dropout=0.3: no effect, since the model has no hidden") as caught:
        fastncf.fit(checkerboard(), dropout=0.3, epochs=1, dim=8, l2=0.01)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(UnusedSettingWarning, match="^batch_size=99: no effect, since sgd takes") as caught:
        fastncf.repeat(checkerboard(), batch_size=99, epochs=1, dim=8, l2=0.01, seeds=2)
    assert [warning.filename for warning in caught] == [__file__]


def test_a_warning_of_fit_is_in_the_line_that_calls_it():
    with pytest.warns(UnusedSettingWarning) as caught:
        fastncf.fit(checkerboard(), loss="bce", epochs=1, dim=8, batch_size=9)
    assert [warning.filename for warning in caught] == [__file__]


@pytest.mark.parametrize(
    "settings",
    [
        {
            "dim": 4,
            "epochs": 2,
            "history": "none",
            "device": "cpu",
            "deterministic": True,
            "k": 3,
            "schedule": "constant",
        },
        {"budget": "fast"},
        {"budget": "fast", "epochs": 2},
        {"negatives": "popularity", "negatives_exponent": 0.5},
        {"history": "sequence", "negatives_exponent": 0.5},
        {"split": "random"},
        {"split": "random", "history": "sequence", "time": "time"},
        {"time": "time"},
        {"precision": "float32"},
        {**LAYERS, "dropout": 0.1, "batch_size": 64, "precision": "bfloat16", "optimizer": "adam"},
        {**LAYERS, "batch_size": 64, "init_std": 0.5},
        {"model": "neumf", "mlp_dim": 6, "layers": (4,), "dropout": 0.2},
        {"model": Own("user"), "l2": 0.1, "batch_size": 64, "negatives": "popularity", "negatives_exponent": 0.5},
        {"model": "popularity", "num_candidates": 5, "full_ranking": True, "seed": 3},
    ],
    ids=str,
)
def test_a_setting_that_is_used_is_not_warned_of(settings):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fastncf.plan_fit(checkerboard(), **settings)


def test_rows_of_the_table_name_settings():
    assert {name for row in UNUSED for name in row.settings} <= {field.name for field in fields(Config)} | {
        "time",
        "rating",
    }


def test_candidates_replace_the_settings_of_their_draws(files):
    settings = {"model": "popularity", "num_candidates": 5, "distinct_candidates": False}
    with pytest.warns(UnusedSettingWarning, match="^num_candidates=5, distinct_candidates=False: no effect"):
        rec = fastncf.fit(**files, **settings)
    assert "1 + 2 given candidates" in rec.protocol
    del files["candidates"]
    assert "1 + 5 candidates drawn uniformly with replacement" in fastncf.fit(**files, **settings).protocol
    with pytest.warns(UnusedSettingWarning, match="^time='time': no effect, since test= gives the held-out items"):
        fastncf.plan_fit(**files, history="bag", time="time")


@pytest.mark.parametrize("call", [fastncf.fit, fastncf.plan_fit])
def test_contradictions_are_refused_before_anything_is_read(call):
    with pytest.raises(ConfigError, match="split='random': says which items are held out, and test= gives them"):
        call("nowhere.csv", test="nowhere.csv", split="random")


def test_user_fraction_applies_to_a_given_test_set(files):
    rec = fastncf.fit(**files, model="popularity", user_fraction=0.3)
    alone = fastncf.fit(files["train"], model="popularity", user_fraction=0.3)
    assert rec.users.ids.to_list() == alone.users.ids.to_list()
    assert len(rec.users) == (rec.split.test_item >= 0).sum() == 18
    assert "given test set, 18 users" in rec.protocol
    test = {user: item for user, item, _ in pl.read_csv(files["test"]).iter_rows()}
    assert rec.items.decode(rec.split.test_item).to_list() == [test[user] for user in rec.users.ids]
    lists = [line.split("\t") for line in files["candidates"].read_text().splitlines()]
    expected = {int(head[1:].split(",")[0]): [int(raw) for raw in rest] for head, *rest in lists}
    for user, row in zip(rec.users.ids, rec.split.test_candidates, strict=True):
        assert rec.items.decode(row).to_list() == expected[user]
    trained = pl.read_csv(files["train"]).filter(pl.col("user").is_in(rec.users.ids.to_list()))
    assert rec.split.item_counts().sum() == trained.height


def test_a_fraction_without_test_users_is_refused(files):
    pl.DataFrame({"user": [0], "item": [1]}).write_csv(files["test"])
    messages = set()
    for seed in range(5):
        try:
            fastncf.fit(files["train"], test=files["test"], model="popularity", user_fraction=0.2, seed=seed)
        except ConfigError as error:
            messages.add(str(error))
    (message,) = messages
    assert "keeps 12 of 60 users and none of" in message


def test_the_command_line_warns_in_one_line(capsys, files):
    code, out, err = run(capsys, "plan", files["train"], "--loss", "bce", "--batch-size", 9)
    warned = "fastncf: warning: --batch-size 9: no effect, since sgd takes a step for each interaction\n"
    assert (code, err) == (0, warned)
    assert out[0].startswith("data: ")
    code, _, err = run(capsys, "fit", files["train"], "--dry-run", "--out", "model")
    assert (code, err) == (0, "fastncf: warning: --out model: no effect, since --dry-run trains nothing\n")


def test_the_notebook_with_a_given_test_set_draws_its_users(capsys, files):
    given = ["--test", files["test"], "--candidates", files["candidates"]]
    code, out, err = run(capsys, "fit", files["train"], "--notebook", *given, "--epochs", 1)
    assert code == 0
    assert "given test set, 18 users" in out[4]
    assert err.startswith("fastncf: warning: --no-distinct-candidates: no effect, since --candidates gives the lists")
    code, _, err = run(capsys, "fit", files["train"], *given, "--split", "random")
    assert code == 2
    assert "--split random" in err


def test_users_who_have_seen_everything_are_recommended_nothing(tmp_path):
    rows = [(user, item) for user in range(8) for item in range(6) if user == 3 or (user + item) % 3]
    frame = pl.DataFrame(rows, schema=["user", "item"], orient="row").with_columns(time=np.arange(len(rows)))
    rec = fastncf.fit(frame, dim=4, epochs=1, validation=True)
    assert rec.data["num_users_all_seen"] == 1
    rec.save(tmp_path / "model")
    for one in (rec, fastncf.load(tmp_path / "model")):
        assert one.recommend(3).height == 0
        assert one.recommend(3, k=9, exclude_seen=False).height == 6
        for user in range(8):
            had = {item for other, item in rows if other == user}
            assert set(one.recommend(user, k=9)["item"]) == set(range(6)) - had


def test_items_of_a_given_test_set_are_not_recommended(files):
    rec = fastncf.fit(**files, model="popularity")
    had = set(pl.concat([pl.read_csv(files[name]) for name in ("train", "test")]).select("user", "item").rows())
    assert not had & set(rec.recommend(rec.users.ids, k=40).select("user", "item").rows())
