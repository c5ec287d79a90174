"""A fit that is stopped anywhere and resumed ends with the bits of one that was never stopped, for every trainer."""

import os
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import nn

import fastncf
from fastncf import checkpoints
from fastncf.checkpoints.fingerprint import differences, settings_of
from fastncf.checkpoints.folder import CHECKPOINT, FINISHED, LOCK
from fastncf.config import Config
from fastncf.errors import ConfigError, DataError, DivergedError
from tests.checkpoints.stops import StoppedError, Stops, require_same
from tests.conftest import checkerboard


class Own(nn.Module):
    """A module of one's own with dropout, a buffer that counts, batch normalisation and a frozen parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.user, self.item = nn.Embedding(70, 4), nn.Embedding(50, 4)
        self.frozen = nn.Parameter(torch.randn(4), requires_grad=False)
        self.drop, self.norm = nn.Dropout(0.3), nn.BatchNorm1d(4)
        self.register_buffer("num_calls", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        self.num_calls += self.training
        return self.norm(self.drop(self.user(users) * self.item(items) + self.frozen)).sum(-1)


def own() -> dict[str, Any]:
    return {"model": Own(), "l2": 0.01}


def own_mf() -> dict[str, Any]:
    from fastncf.models.mf import MF

    return {"model": MF(75, 55, 4), "optimizer": "sgd", "l2": 0.01}


def own_mlp() -> dict[str, Any]:
    from fastncf.models.mlp import MLP

    return {"model": MLP(75, 55, 4, (8,), dropout=0.1), "batch_size": 64}


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "histories": lambda: {"loss": "bce", "history": "sequence", "l2": 0.01},
    "bpr": lambda: {"loss": "bpr", "history": "bag", "l2": 0.01, "schedule": "constant"},
    "blocks": lambda: {"model": "gmf", "loss": "bce", "history": "none", "l2": 0.01},
    "the loss and the l2 are chosen": lambda: {"epochs": None, "budget": "best"},
    "early stopping": lambda: {"loss": "bce", "l2": 0.01, "validation": True, "patience": 2, "epochs": 9},
    "softmax": lambda: {"loss": "softmax", "batch_size": 64, "validation": True, "patience": 1},
    "mlp from an mf": lambda: {"model": "mlp", "layers": (8,), "dropout": 0.2, "batch_size": 64, "l2": 0.01},
    "mlp": lambda: {"model": "mlp", "layers": (8, 4), "optimizer": "adam", "batch_size": 64, "validation": True},
    "neumf": lambda: {"model": "neumf", "layers": (8,), "batch_size": 64, "l2": 0.01},
    "autograd": lambda: {"model": "gmf", "optimizer": "adam", "batch_size": 300},
    "autograd in bfloat16": lambda: {"model": "mlp", "optimizer": "adam", "layers": (8,), "precision": "bfloat16"},
    "own module": own,
    "own mf": own_mf,
    "own mlp": own_mlp,
    "nothing held out": lambda: {"loss": "softmax", "batch_size": 64, "holdout": None},
    "no training": lambda: {"model": "popularity", "epochs": None, "num_negatives": None},
}


@pytest.fixture
def stops(monkeypatch: pytest.MonkeyPatch) -> Stops:
    """Stops at any of many boundaries, as small data alone have few."""
    monkeypatch.setattr("fastncf.trainers.block_sgd.grid_size", lambda *_: 4)
    monkeypatch.setattr("fastncf.trainers.next_item._BATCHES_PER_CALL", 2)
    monkeypatch.setattr("fastncf.trainers.cpu_mlp._CALL_SAMPLES", 400)
    monkeypatch.setattr("fastncf.tuning.L2_FACTORS", (1, 2))
    return Stops(monkeypatch)


def fit(name: str, **arguments: Any) -> fastncf.Recommender:
    settings = {"num_negatives": 2, "epochs": 3, "seed": 1} | CASES[name]()
    if settings.get("model", "mf") in ("mf", "gmf", "mlp", "neumf"):
        settings["dim"] = 4
    return fastncf.fit(checkerboard(), **settings, **arguments)


@pytest.mark.parametrize("name", CASES)
def test_stops_at_random_boundaries_leave_no_trace(name: str, stops: Stops, tmp_path: Path, monkeypatch) -> None:
    def fit_on_threads(**arguments: Any) -> fastncf.Recommender:
        """Fit on some threads; another process draws other parameters of a module of one's own."""
        torch.manual_seed(next(seeds))
        monkeypatch.setenv("FASTNCF_NUM_THREADS", str(generator.integers(1, 4)))
        return fit(name, **arguments)

    torch.manual_seed(3)
    expected = fit(name, checkpoint=tmp_path / "undisturbed")
    seed = int.from_bytes(os.urandom(4))
    generator, seeds = np.random.default_rng(seed), iter(range(3, 99))
    numbers = [int(n) for n in generator.integers(0, max(1, stops.num_boundaries // 2), 4)]
    print(f"seed {seed}: {stops.num_boundaries} boundaries, stops after {numbers}")
    found = stops.run(fit_on_threads, tmp_path / "stopped", numbers)
    require_same(found, expected)
    assert next(seeds) > 4 or not stops.num_boundaries
    again = fit_on_threads(checkpoint=tmp_path / "stopped", resume=True)  # finished: nothing is trained
    require_same(again, expected)


def test_other_data_and_settings_are_refused_with_what_differs(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"dim": 4, "num_negatives": 2, "epochs": 2, "loss": "bce", "l2": 0.01}
    fastncf.fit(checkerboard(), checkpoint=tmp_path / "a", **settings)
    swapped = checkerboard().with_columns(item=(39 - pl.col("item")))
    for data, changes, found in (
        (checkerboard(), {"seed": 5}, "seed: 0 then, 5 now"),
        (checkerboard(), {"dim": 6}, "dim: 4 then, 6 now"),
        (checkerboard(), {"full_ranking": True}, "full_ranking: False then, True now"),
        (checkerboard(), {"epochs": 1}, "epochs: 2 then, 1 now; expected at least as many"),
        (checkerboard(), {"model": Own(), "dim": None, "loss": None}, "module: None then, Own"),
        (checkerboard(num_users=59), {}, r"users: 60 \([0-9a-f]{16}\) then, 59 \("),
        (checkerboard().slice(1), {}, r"training interactions: 960 \("),
        (swapped, {}, r"training interactions: 960 \([0-9a-f]{16}\) then, 960 \("),
        (checkerboard().with_columns(pl.col("user").cast(pl.String) + "x"), {}, "users: 60"),
    ):
        with pytest.raises(DataError, match=f"is the checkpoint of another fit.*{found}") as error:
            fastncf.fit(data, checkpoint=tmp_path / "a", resume=True, **(settings | changes))
        assert len(str(error.value)) <= 500
    with pytest.raises(DataError, match=r"holds the checkpoint of a fit; expected resume=True"):
        fastncf.fit(checkerboard(), checkpoint=tmp_path / "a", **settings)


def test_more_epochs_go_on_and_that_is_said(tmp_path: Path, stops: Stops) -> None:
    settings: dict[str, Any] = {
        "dim": 4,
        "num_negatives": 2,
        "loss": "bce",
        "schedule": "constant",
    }
    expected = fastncf.fit(checkerboard(), epochs=4, **settings)
    fastncf.fit(checkerboard(), epochs=2, checkpoint=tmp_path, **settings)
    with pytest.warns(UserWarning, match=r"goes on to 4 epochs in place of 2; those that are done"):
        found = fastncf.fit(checkerboard(), epochs=4, checkpoint=tmp_path, resume=True, **settings)
    assert found.plan.reasons[-1]["epochs"] == "as asked for; 2 when the training began"
    found.plan = expected.plan
    require_same(found, expected)


def test_other_versions_of_libraries_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"dim": 4, "loss": "bce", "l2": 0.01, "epochs": 1}
    monkeypatch.setattr(checkpoints, "libraries", lambda: {"numba": "0.1", "torch": "2.0"})
    fastncf.fit(checkerboard(), checkpoint=tmp_path, **settings)
    monkeypatch.setattr(checkpoints, "libraries", lambda: {"numba": "0.2"})
    with pytest.warns(UserWarning, match=r"goes on with other libraries \(numba 0\.1 then, 0\.2 now\)"):
        fastncf.fit(checkerboard(), checkpoint=tmp_path, resume=True, **settings)


def test_a_folder_serves_one_fit_at_a_time_and_stays_small(tmp_path: Path, stops: Stops) -> None:
    folder = tmp_path / "new" / "one"
    found = []

    def look(progress: fastncf.Progress) -> None:
        if progress.stage == "epoch":
            found.append(sorted(path.name for path in folder.iterdir()))
            with pytest.raises(DataError, match="another fit uses this checkpoint"):
                fit("histories", checkpoint=folder, resume=True)

    fit("histories", checkpoint=folder, callback=look)
    assert [len(names) for names in found] == [1, 3, 3]
    names = sorted(path.name for path in folder.iterdir())
    assert names[0] == LOCK
    assert names[1:2] + names[3:] == [FINISHED, CHECKPOINT.manifest]
    assert CHECKPOINT.match_file(names[2])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "other", tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataError, match=r"expected a (new or empty )?folder"):
            fit("histories", checkpoint=path)
    for wrong in (3, "", b"x"):
        with pytest.raises(ConfigError, match=r"checkpoint=.*expected the path of a folder"):
            fit("histories", checkpoint=wrong)
    with pytest.raises(ConfigError, match="resume='yes': expected True or False"):
        fit("histories", checkpoint=folder, resume="yes")
    with pytest.raises(ConfigError, match="resume=True: expected checkpoint="):
        fit("histories", resume=True)


def test_a_damaged_snapshot_is_named(tmp_path: Path, stops: Stops) -> None:
    stops.left = 40
    with pytest.raises(StoppedError):
        fit("histories", checkpoint=tmp_path)
    for path in sorted(tmp_path.glob("fastncf*")):
        content = path.read_bytes()
        path.write_bytes(bytes(value ^ (at == len(content) // 2) for at, value in enumerate(content)))
        with pytest.raises(DataError, match=f"{path.name} is missing or damaged .*expected the folder of a checkpoint"):
            fit("histories", checkpoint=tmp_path, resume=True)
        path.write_bytes(content)
    stops.left = None
    require_same(fit("histories", checkpoint=tmp_path, resume=True), fit("histories"))
    (tmp_path / FINISHED).write_text("{}")  # of no use, so that the model is measured again
    require_same(fit("histories", checkpoint=tmp_path, resume=True), fit("histories"))


def test_a_training_that_diverges_does_so_again(tmp_path: Path, stops: Stops, monkeypatch) -> None:
    from fastncf.trainers import history_sgd

    epoch = history_sgd.HistorySGD.epoch
    monkeypatch.setattr(
        history_sgd.HistorySGD, "epoch", lambda self, number: epoch(self, number) * (1 if number < 2 else np.nan)
    )
    with pytest.raises(DivergedError) as expected:
        fit("histories")
    with pytest.raises(DivergedError, match="diverged in epoch 3") as error:
        stops.run(lambda **given: fit("histories", **given), tmp_path, [20, 20])
    assert str(error.value) == str(expected.value)
    kept, same = error.value.recommender, expected.value.recommender
    np.testing.assert_array_equal(kept.trained.user_vectors, same.trained.user_vectors)
    assert [entry["loss"] for entry in kept.training_log] == [entry["loss"] for entry in same.training_log]


@pytest.mark.parametrize("name", ["softmax", "mlp from an mf", "early stopping"])
def test_a_refit_is_resumed_as_well(name: str, tmp_path: Path, stops: Stops) -> None:
    expected = fit(name).refit()
    rec = fit(name)
    stops.left = 7
    with pytest.raises(StoppedError):
        rec.refit(checkpoint=tmp_path / "refit")
    stops.left = None
    require_same(rec.refit(checkpoint=tmp_path / "refit", resume=True), expected)
    other = fit(name)
    with pytest.raises(DataError, match="holds the checkpoint of a fit"):
        other.refit(checkpoint=tmp_path / "refit")


def test_a_checkpoint_belongs_to_every_setting_but_the_epochs() -> None:
    then = settings_of(Config(), None)
    assert set(then) == {field.name for field in fields(Config)} - {"epochs"} | {"fastncf", "module"}
    for name in set(then) - {"fastncf", "module"}:
        assert [text.partition(":")[0] for text in differences(then, then | {name: "another"})] == [name]
