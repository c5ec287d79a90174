"""Plans as files of settings: what a fit does by the file of another is the same."""

import tomllib

import numpy as np
import polars as pl
import pytest
from torch import nn

import fastncf
from fastncf import cli
from fastncf.cli.app import read_settings
from fastncf.config import Config
from fastncf.errors import ConfigError
from fastncf.plan_file import settings_to_repeat, to_toml
from tests.conftest import checkerboard


def sequences() -> pl.DataFrame:
    """Users who walk through a circle of items, so that the order tells what comes next."""
    generator = np.random.default_rng(0)
    rows = []
    for user in range(80):
        start = int(generator.integers(30))
        rows += [(user, (start + step) % 30, step) for step in range(int(generator.integers(6, 14)))]
    return pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")


def few_per_item() -> pl.DataFrame:
    """Users and items with so few interactions that a first model draws other negatives than the layers after it."""
    generator = np.random.default_rng(0)
    columns = {"user": generator.integers(0, 60, 900), "item": (generator.random(900) ** 2 * 50).astype(int)}
    return pl.DataFrame({**columns, "time": np.arange(900)})


@pytest.mark.parametrize(
    ("data", "settings"),
    [
        (sequences, {"epochs": 2}),
        (few_per_item, {"model": "mlp", "epochs": 1, "dim": 8, "dropout": 0}),
        (few_per_item, {"model": "neumf", "epochs": 1, "dim": 8, "layers": (8, 4), "negatives": "popularity"}),
        (sequences, {"loss": "bce", "epochs": 2, "k": (3, 5), "holdout": 2, "metrics": ("recall", "map")}),
        (checkerboard, {"epochs": 2, "budget": "fast", "min_rating": None, "negatives": "popularity"}),
        (checkerboard, {"model": "gmf", "epochs": 2, "before": "80%", "ties": "last"}),
        (checkerboard, {"model": "mlp", "epochs": 1, "dim": 8, "budget": "fast"}),
        (checkerboard, {"model": "neumf", "epochs": 1, "dim": 8, "layers": (8, 4), "budget": "fast"}),
        (checkerboard, {"model": "mlp", "optimizer": "adam", "epochs": 1, "dim": 4}),
        (checkerboard, {"model": "popularity", "split": "random", "seed": 3}),
    ],
)
def test_a_fit_by_the_file_of_another_is_the_same(tmp_path, data, settings):
    frame = data()
    rec = fastncf.fit(frame, **settings)
    path = tmp_path / "plan.toml"
    path.write_text(to_toml(settings_to_repeat(rec.config, rec.plan), ("a comment",)), encoding="utf-8")
    again = fastncf.fit(frame, config=Config.from_dict(read_settings(path)))
    assert again.plan.stages == rec.plan.stages
    parameters, others = (
        {name: value.numpy() for name, value in fitted.model.state_dict().items()} for fitted in (rec, again)
    )
    assert parameters.keys() == others.keys()
    assert all(np.array_equal(parameters[name], others[name]) for name in parameters)
    assert again.metrics == rec.metrics
    assert again.protocol == rec.protocol


def run(capsys, *words) -> str:
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(map(str, words)))
    assert not stopped.value.code
    return capsys.readouterr().out


def test_files_of_the_command_line_lead_to_the_same_model(tmp_path, capsys):
    checkerboard().write_csv(tmp_path / "ratings.csv")
    run(capsys, "fit", tmp_path / "ratings.csv", "--epochs", 2, "--k", 3, "--k", 5, "--out", tmp_path / "model")
    text = run(capsys, "info", tmp_path / "model", "--plan")
    assert text.startswith("# ")
    settings = tomllib.loads(text)
    assert (settings["k"], settings["epochs"], settings["model"]) == ([3, 5], 2, "mf")
    (tmp_path / "plan.toml").write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())  # as on Windows
    run(capsys, "fit", tmp_path / "ratings.csv", "--config", tmp_path / "plan.toml", "--out", tmp_path / "again")
    one, other = (fastncf.load(tmp_path / name) for name in ("model", "again"))
    assert one.metrics == other.metrics
    dry = run(capsys, "fit", tmp_path / "ratings.csv", "--config", tmp_path / "plan.toml", "--dry-run")
    assert dry.startswith("# 1,020 rows, 60 users, 40 items\n")
    assert "# stage 1 of 1: mf" in dry
    assert tomllib.loads(dry) == settings


@pytest.mark.parametrize("text", ['quote " and \\', "line\nend", "\x7f", "π \U0001f600", "C:\\new"])
def test_text_survives_a_file(text):
    assert tomllib.loads(to_toml({"before": text, "l2": 1e-05, "k": [1, 2], "shuffle": True, "epochs": None})) == {
        "before": text,
        "l2": 1e-05,
        "k": [1, 2],
        "shuffle": True,
    }


def test_a_module_of_ones_own_has_no_file():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.user, self.item = nn.Embedding(60, 2), nn.Embedding(40, 2)

        def forward(self, users, items):
            return (self.user(users) * self.item(items)).sum(-1)

    rec = fastncf.fit(checkerboard(), model=Own(), epochs=1)
    with pytest.raises(ConfigError, match=r"plan: the model is a module of your own \(Own\)"):
        settings_to_repeat(rec.config, rec.plan)
