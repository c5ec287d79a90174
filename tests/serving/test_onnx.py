"""Models as ONNX: onnxruntime gives the scores of fastncf, for any number of pairs, by ids that lie beside the file."""

import importlib.util
import logging

import numpy as np
import onnxruntime
import polars as pl
import pytest
import torch
from torch import nn

import fastncf
from fastncf import cli
from fastncf.errors import ConfigError, DataNotFoundError, FastNCFError
from fastncf.serving import onnx_export
from tests.conftest import checkerboard

USERS, ITEMS = 20, 14
SMALL = {"epochs": 1, "num_negatives": 2, "num_candidates": 5}


def frame() -> pl.DataFrame:
    """Interactions with ids that are no indices."""
    return checkerboard(USERS, ITEMS, 2).with_columns(pl.col("user") * 10 + 5, pl.format("i{}", pl.col("item")))


class Own(nn.Module):
    """A module that answers in float64, with a column, and whose dropout is off outside of training."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(USERS, 4, dtype=torch.float64), nn.Embedding(ITEMS, 4, dtype=torch.float64)
        self.output = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 1, dtype=torch.float64))

    def forward(self, user, item):
        return self.output(torch.cat([self.user(user), self.item(item)], dim=-1))


class Branching(Own):
    """A module whose course depends on the ids."""

    def forward(self, user, item):
        return super().forward(user, item) * (2 if bool((user > 3).any()) else 1)


def fitted(model):
    layers = {"layers": (4,), "mlp_dim": 3, "optimizer": "adam"} if model == "neumf" else {}
    dim = {} if isinstance(model, nn.Module) else {"dim": 4}
    return fastncf.fit(frame(), model=model, **layers, **dim, **SMALL)


def index_of(path, noun) -> dict:
    """Return the positions of ids, as a file states them."""
    return dict(pl.read_parquet(path.with_name(f"{path.stem}.{noun}s.parquet")).select(noun, "index").iter_rows())


@pytest.mark.parametrize("model", ["mf", "neumf", "own"])
def test_onnxruntime_gives_the_same_scores(model, tmp_path):
    rec = fitted(Own() if model == "own" else model)
    path = tmp_path / "model.onnx"
    if model == "mf":
        rec.save(tmp_path / "saved")
        with pytest.raises(SystemExit) as stopped:
            cli.main(["export", str(tmp_path / "saved"), str(path)])
        assert not stopped.value.code
    else:
        assert [file.name for file in rec.export(path)] == ["model.onnx", "model.users.parquet", "model.items.parquet"]
    session = onnxruntime.InferenceSession(path)
    assert [(one.name, one.type) for one in session.get_inputs()] == [
        ("user", "tensor(int64)"),
        ("item", "tensor(int64)"),
    ]
    users, items = index_of(path, "user"), index_of(path, "item")
    assert list(users) == rec.users.ids.to_list()
    assert list(items) == rec.items.ids.to_list()
    generator = np.random.default_rng(0)
    for size in (1, 2, 300):
        pairs = generator.choice(rec.users.ids, size), generator.choice(rec.items.ids, size)
        inputs = {"user": [users[one] for one in pairs[0]], "item": [items[one] for one in pairs[1]]}
        (scores,) = session.run(["score"], {name: np.array(ids, dtype=np.int64) for name, ids in inputs.items()})
        assert scores.shape == (size,)
        assert scores.dtype == np.float32
        np.testing.assert_allclose(scores, rec.score(*pairs)["score"], rtol=1e-5, atol=1e-5)


def test_what_cannot_be_written_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    rec = fitted(Branching())
    level = logging.getLogger("torch.onnx").level
    with pytest.raises(ConfigError, match="export: Branching cannot be written as ONNX") as caught:
        rec.export(tmp_path / "model.onnx")
    assert "\x1b" not in str(caught.value)
    assert logging.getLogger("torch.onnx").level == level
    with pytest.raises(DataNotFoundError, match="its folder does not exist"):
        rec.export(tmp_path / "missing" / "model.onnx")
    monkeypatch.setattr(onnx_export, "_MOST_BYTES", 10)
    with pytest.raises(ConfigError, match="an ONNX file holds 2 GB"):
        rec.export(tmp_path / "model.onnx")
    monkeypatch.setattr(
        onnx_export, "find_spec", lambda name: None if name == "onnxscript" else importlib.util.find_spec(name)
    )
    with pytest.raises(FastNCFError, match=r"needs the package onnxscript.*fastncf\[onnx\]"):
        rec.export(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
