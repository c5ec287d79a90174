"""Training on everything: by the plan that was measured, told apart from a measured model, saved and loaded."""

import json
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fastncf
from fastncf import cli
from fastncf.data.split import hold_out_nothing, leave_one_out, time_order
from fastncf.errors import ConfigError, DataError, DivergedError
from fastncf.recommender.fitted import trained_arrays
from tests.conftest import checkerboard, random_interactions

SMALL: dict[str, Any] = {"dim": 4, "epochs": 3, "num_negatives": 2}


def parameters(rec: fastncf.Recommender) -> dict[str, np.ndarray]:
    return {name: np.asarray(value) for name, value in trained_arrays(rec.trained).items()}


def require_same_parameters(one: fastncf.Recommender, other: fastncf.Recommender) -> None:
    first, second = parameters(one), parameters(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.booleans())
def test_nothing_held_out_is_all_that_was_read_in_the_order_of_its_times(seed, validation):
    interactions = random_interactions(np.random.default_rng(seed), rows=120, users=9, items=13)
    split = leave_one_out(interactions, validation=validation)
    whole, order = hold_out_nothing(split, time_order(interactions, split))
    assert (whole.holdout, whole.num_interactions) == ("none", split.num_interactions)
    assert order is not None
    pairs = set(zip(interactions.user.tolist(), interactions.item.tolist(), strict=True))
    users = np.repeat(np.arange(whole.num_users), np.diff(whole.indptr))
    trained_on = np.diff(whole.indptr) > 0  # others have seen every item
    assert set(zip(users.tolist(), whole.indices.tolist(), strict=True)) == {p for p in pairs if trained_on[p[0]]}
    np.testing.assert_array_equal(order, time_order(interactions, whole))
    again, same = hold_out_nothing(whole, None)
    assert same is None
    np.testing.assert_array_equal(again.indices, whole.indices)


CASES = {
    "sequence": {"history": "sequence"},
    "bag": {"history": "bag"},
    "none": {"history": "none"},
    "random": {"split": "random"},
    "l2 is searched for": {"history": "sequence", "epochs": None, "dim": 2},
    "gmf": {"model": "gmf"},
    "mlp": {"model": "mlp", "layers": (4,)},
    "pretrained": {"model": "neumf", "layers": (4,), "epochs": 1},
    "popularity": {"model": "popularity"},
}


@pytest.mark.filterwarnings("ignore::fastncf.UnusedSettingWarning")
@pytest.mark.parametrize("case", CASES)
def test_a_refit_equals_a_fit_on_everything(case, tmp_path):
    chosen = {name: value for name, value in {**SMALL, **CASES[case]}.items() if value is not None}
    measured = fastncf.fit(checkerboard(20, 14, 2), **chosen)
    before, metrics, protocol = measured.plan, dict(measured.metrics), measured.protocol
    measured.save(tmp_path / "measured")
    refitted = fastncf.load(tmp_path / "measured").refit()
    everything = fastncf.fit(checkerboard(20, 14, 2), **chosen, holdout=None)
    require_same_parameters(refitted, everything)
    assert measured.refit() is measured
    require_same_parameters(measured, everything)
    assert refitted.metrics == measured.metrics == metrics
    assert everything.metrics == {}
    assert (
        measured.protocol
        == f"{protocol}; afterwards trained on all 100 interactions by the same plan, nothing held out"
    )
    assert everything.protocol == "not measured: nothing is held out of 100 interactions"
    for rec in (measured, everything):
        assert rec.plan.stages == before.stages
        assert rec.plan.data.num_interactions == len(rec.split.indices) == 100
        assert "evaluation: none, nothing is held out" in str(rec.plan)
        with pytest.raises(ConfigError, match="nothing is held out, since the model was trained on all"):
            rec.evaluate()
        assert rec.refit() is rec
        require_same_parameters(rec, refitted)
        rec.save(tmp_path / "model")
        again = fastncf.load(tmp_path / "model")
        assert (again.split.holdout, again.protocol, again.metrics) == ("none", rec.protocol, rec.metrics)
        assert (again.config.holdout, again.num_kept) == (rec.config.holdout, rec.num_kept)
        assert again.recommend(k=3).equals(rec.recommend(k=3))
    assert (measured.config.holdout, everything.config.holdout) == ("one", "none")


@pytest.mark.parametrize("history", ["sequence", "bag", "none"])
def test_a_refit_trains_on_what_was_added(history):
    data = checkerboard(20, 14, 2)
    new = pl.DataFrame({"user": [3, 77, 77, 78], "item": [2, 5, 7, 0], "time": [90, 91, 92, 93]})
    chosen = {**SMALL, "history": history, "l2": 0.001}
    rec = fastncf.fit(data, **chosen)
    rec.update(new).refit()
    assert len(rec.split.indices) == 104
    require_same_parameters(rec, fastncf.fit(pl.concat([data, new]), **chosen, holdout=None))
    assert rec.protocol.endswith("afterwards trained on all 104 interactions by the same plan, nothing held out")


def test_what_is_recommended_leaves_out_everything_that_was_touched():
    data = checkerboard(20, 14, 2)
    for rec in (
        fastncf.fit(data, **SMALL),
        fastncf.fit(data, **SMALL, holdout=None),
        fastncf.fit(data, **SMALL).refit(),
    ):
        touched = set(data.select("user", "item").iter_rows())
        assert not touched & set(rec.recommend(k=14).select("user", "item").iter_rows())
        assert rec.recommend(k=14).height == 20 * 14 - 100


def test_early_stopping_gives_the_number_of_epochs():
    measured = fastncf.fit(checkerboard(), dim=4, epochs=9, validation=True, patience=1, l2=0.001)
    values = [entry["ndcg@10"] for entry in measured.training_log]
    kept = values.index(max(values)) + 1
    assert measured.num_kept == (kept,)
    assert len(values) < 9
    seen = []
    measured.refit(callback=lambda progress: seen.append(progress.epoch))
    assert max(seen) == kept
    stopped = fastncf.fit(
        checkerboard(), dim=4, epochs=9, l2=0.001, holdout=None, callback=lambda progress: progress.epoch == kept
    )
    require_same_parameters(measured, stopped)


def test_data_that_cannot_be_measured_are_trained_on():
    rows = pl.DataFrame({"user": range(9), "item": [user % 4 for user in range(9)]})
    rec = fastncf.fit(rows, **SMALL, holdout=None)
    assert len(rec.split.indices) == 9
    assert rec.plan.final.history == "bag"  # there are no times
    assert rec.recommend(3, k=4)["item"].sort().to_list() == [0, 1, 2]
    with pytest.raises(DataError, match="no user has two different items"):
        fastncf.fit(rows, **SMALL, split="random")


def test_a_given_test_set_is_trained_on(tmp_path):
    data = checkerboard(20, 14, 2)
    is_last = pl.col("time") == pl.col("time").max().over("user")
    rec = fastncf.fit(data.filter(~is_last), test=data.filter(is_last), history="sequence", l2=0.001, **SMALL)
    rec.refit()
    require_same_parameters(rec, fastncf.fit(data, history="sequence", l2=0.001, **SMALL, holdout=None))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"test": "test.csv"}, "holdout=None: holds nothing out, and test= gives what is held out"),
        ({"validation": True}, "holdout=None: holds nothing out, and validation=True needs an item of each user"),
        ({"holdout": "all"}, "holdout='all': expected one, none"),
    ],
)
def test_contradictions_are_refused_before_anything_is_read(given, message):
    with pytest.raises(ConfigError, match=message):
        fastncf.fit("nowhere.csv", **{"holdout": None, **given})


class Own(nn.Module):
    """A module of the user's own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.user, self.item = nn.Embedding(20, 3), nn.Embedding(14, 3)

    def forward(self, users: torch.Tensor, items: torch.Tensor) -> torch.Tensor:
        return (self.user(users) * self.item(items)).sum(-1)


def test_a_plan_for_everything_says_that_nothing_is_measured():
    plan = fastncf.plan_fit(checkerboard(20, 14, 2), holdout=None)
    measured = fastncf.plan_fit(checkerboard(20, 14, 2))
    assert (plan.stages, plan.l2_trials) == (measured.stages, measured.l2_trials)
    assert plan.data.num_interactions == 100
    assert "evaluation: none, nothing is held out" in str(plan)


def test_a_full_ranking_without_held_out_items_has_no_effect():
    with pytest.warns(fastncf.UnusedSettingWarning, match="full_ranking=True: no effect, since nothing is held out"):
        fastncf.fit(checkerboard(20, 14, 2), **SMALL, holdout=None, full_ranking=True)


def test_a_module_of_ones_own_is_trained_on_everything_and_not_again():
    everything = fastncf.fit(checkerboard(20, 14, 2), model=Own(), epochs=1, holdout=None)
    assert len(everything.split.indices) == 100
    measured = fastncf.fit(checkerboard(20, 14, 2), model=Own(), epochs=1)
    with pytest.raises(
        ConfigError, match=r"a module of your own \(Own\), whose untrained parameters are gone; expected"
    ):
        measured.refit()


def test_a_refit_that_diverges_leaves_the_measured_model(monkeypatch):
    rec = fastncf.fit(checkerboard(20, 14, 2), **SMALL)
    before, split = parameters(rec), rec.split
    monkeypatch.setattr("fastncf.trainers.divergence.LARGEST_PARAMETER", 1e-9)
    with pytest.raises(DivergedError, match="training of mf diverged in epoch 1") as caught:
        rec.refit()
    assert caught.value.recommender is rec
    assert rec.split is split
    assert all((value == before[name]).all() for name, value in parameters(rec).items())


def test_an_older_model_without_an_order_is_refused(monkeypatch):
    rec = fastncf.fit(checkerboard(20, 14, 2), history="sequence", **SMALL)
    rec.order = None
    with pytest.raises(ConfigError, match="saved without the order of the interactions, by an older version"):
        rec.refit()


def run(capsys, *arguments: object) -> tuple[int, list[str], str]:
    with pytest.raises(SystemExit) as stopped:
        cli.main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out.splitlines(), err


def test_the_command_line_measures_and_trains_on_everything(capsys, tmp_path):
    checkerboard(20, 14, 2).write_csv(tmp_path / "ratings.csv")
    small = ("--dim", 4, "--epochs", 2, "--num-negatives", 2)
    code, out, err = run(capsys, "fit", tmp_path / "ratings.csv", *small, "--refit", "--out", tmp_path / "a", "--json")
    assert code == 0
    assert "trained on all 100 interactions by the same plan" in json.loads(out[-1])["protocol"]
    assert json.loads(out[-1])["metrics"]["hr@10"] <= 1
    assert fastncf.load(tmp_path / "a").split.holdout == "none"
    code, out, err = run(capsys, "fit", tmp_path / "ratings.csv", *small, "--holdout", "none", "--out", tmp_path / "b")
    assert code == 0
    assert out[0] == "protocol: not measured: nothing is held out of 100 interactions"
    require_same_parameters(fastncf.load(tmp_path / "a"), fastncf.load(tmp_path / "b"))
    code, _, err = run(capsys, "evaluate", tmp_path / "a")
    assert code == 2
    assert "nothing is held out" in err
    seconds = []
    for more in ([], ["--refit"], ["--seeds", "3"]):
        code, out, _ = run(capsys, "fit", tmp_path / "ratings.csv", *small, *more, "--json", "--dry-run")
        assert code == 0
        cost = json.loads(out[-1])["cost"]
        expected = {0: 0.0, 1: cost["refit_seconds"], 2: 2 * cost["repeated_seconds"]}[len(seconds)]
        seconds.append(cost["seconds"] - expected)
    assert min(seconds) > 0
    code, _, err = run(capsys, "fit", tmp_path / "ratings.csv", "--refit", "--holdout", "none")
    assert code == 2
    assert "--refit: expected no --holdout none beside it" in err
