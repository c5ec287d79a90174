"""The search for settings: what is searched, trials, the study file, interruptions, the file and the picture."""

import json
import os
import random
import signal
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from filelock import FileLock

import fastncf
from fastncf import cli
from fastncf.asked import read_asked
from fastncf.config import Config
from fastncf.data.facts import DataFacts
from fastncf.errors import ConfigError, DataNotFoundError, FastNCFError
from fastncf.evaluation.metrics import METRICS
from fastncf.plan import make_plan
from fastncf.search import study as study_module
from fastncf.search.interrupted import FIRST_BYTES, trials_noted
from fastncf.search.result import Tuned
from fastncf.search.space import Space
from fastncf.search.trial import Examination, TrialEndedError, run_trial
from fastncf.train import prepare
from fastncf.unused import Inputs

optuna = pytest.importorskip("optuna")

SMALL: dict[str, Any] = {"device": "cpu", "loss": "bce", "history": "none", "l2": 0.01}
"""Settings that are asked for: dim, epochs, learning_rate and num_negatives are left to search."""


def data(num_users: int = 80) -> pl.DataFrame:
    """Return users of two kinds, who have items of two halves of the catalogue."""
    generator = np.random.default_rng(0)
    rows = [
        (user, int(item) + 30 * (user % 2), place)
        for user in range(num_users)
        for place, item in enumerate(generator.permutation(30)[:10])
    ]
    return pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")


def facts(**changes: Any) -> DataFacts:
    """Return facts of data whose order tells something."""
    values = {
        "num_users": 6000,
        "num_items": 3000,
        "num_interactions": 1_000_000,
        "num_rows": 1_000_000,
        "has_order": True,
        "order_reason": "the test says so",
        "holdout": "latest",
    }
    return DataFacts(**{**values, **changes})


class Draws:
    """Draws values at random, and keeps the ranges that it was asked for."""

    def __init__(self, seed: int) -> None:
        self.random, self.asked = random.Random(seed), {}

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        self.asked[name] = (low, high)
        return self.random.choice([low, high, self.random.uniform(low, high)])

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        self.asked[name] = (low, high)
        return self.random.randint(low, high)

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        self.asked[name] = tuple(choices)
        return self.random.choice(choices)


@pytest.fixture
def stops_after(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that lets the time be over after some trials, however long they take."""

    def set_number(number: int) -> None:
        left = iter([1e9] * number)
        monkeypatch.setattr(study_module, "_search_time_left", lambda deadline: next(left, -1.0))

    return set_number


@pytest.mark.parametrize(
    ("settings", "data_facts"),
    [
        ({}, facts()),
        ({}, facts(num_items=100_000)),
        ({}, facts(has_order=False)),
        ({"model": "gmf"}, facts()),
        ({"model": "mlp"}, facts(num_users=500, num_interactions=20_000)),
        ({"model": "neumf", "dim": 16}, facts()),
        ({"model": "neumf", "dim": 16}, facts(num_users=60, num_items=50, num_interactions=800)),
        ({"optimizer": "adam", "loss": "bpr"}, facts()),
        ({"loss": "softmax", "learning_rate": 0.01, "dropout": 0.0}, facts()),
    ],
)
def test_every_drawn_value_makes_a_plan_and_no_given_setting_is_drawn(
    settings: dict[str, Any], data_facts: DataFacts
) -> None:
    space = Space.of(Config(device="cpu", **settings), data_facts)
    assert not set(settings) & set(space.settings)
    for seed in range(20):
        draws = Draws(seed)
        config = space.suggest(draws)
        assert all(getattr(config, name) == value for name, value in settings.items())
        stage = make_plan(config, data_facts).final
        loss = config.loss or stage.loss
        for name, values in space.ranges[loss].items():
            assert values.low <= getattr(config, name) <= values.high
            assert draws.asked[f"{loss}.{name}"] == (values.low, values.high)
        if len(space.plans) > 1:
            assert set(draws.asked["loss"]) >= {"bce", "bpr"}
    # the first trials are the default plans
    for (loss, plan), parameters in zip(space.plans.items(), space.defaults(), strict=True):
        drawn = {name.removeprefix(f"{loss}."): value for name, value in parameters.items() if name != "loss"}
        default = make_plan(space.configured(loss, drawn), data_facts)
        for ours, theirs in zip(default.stages, plan.stages, strict=True):
            for name in ("model", "loss", "dim", "epochs", "num_negatives", "negatives", "history", "trainer"):
                assert getattr(ours, name) == getattr(theirs, name), name
            if ours.negatives == "popularity":
                assert ours.negatives_exponent == theirs.negatives_exponent


def test_what_has_nothing_to_search_is_refused() -> None:
    with pytest.raises(ConfigError, match="no setting that is left to search"):
        Space.of(Config(model="popularity"), facts())
    given = {"epochs": 2, "dim": 4, "learning_rate": 0.1, "num_negatives": 2, "l2": 0.1}
    with pytest.raises(ConfigError, match="no setting that is left to search"):
        Space.of(Config(loss="bce", history="none", device="cpu", **given), facts())


def test_a_trial_is_measured_by_the_latest_training_items() -> None:
    """The trial trains on all but the last two items of a user, and ranks the last but one, as a fit by hand does."""
    rows = data()
    config, _ = read_asked(None, {**SMALL, "epochs": 4, "dim": 4})
    prepared, plan = prepare(
        rows,
        Inputs(None, None, dict.fromkeys(("user", "item", "time", "rating", "weight")), None),
        config,
        stacklevel=2,
    )
    found = Examination.of(prepared.split, prepared.order, 5, config.seed)
    steps: list[int] = []
    value = run_trial(plan, found, lambda done, of: None, lambda ndcg, step: steps.append(step))
    assert steps == [1, 2, 3]
    by_hand = fastncf.fit(
        rows.filter(pl.col("time") < 9),
        full_ranking=True,
        num_candidates=2,
        k=5,
        progress=False,
        **{**SMALL, "epochs": 4, "dim": 4},
    )
    assert value == pytest.approx(by_hand.metrics["full/ndcg@5"], abs=0.05)
    ranks = np.array([0, 3])
    assert METRICS["ndcg"](ranks, 5).mean() == pytest.approx((1 + 1 / np.log2(5)) / 2)

    def ends(done: int, of: int) -> None:
        raise TrialEndedError(f"{done} of {of}")

    with pytest.raises(TrialEndedError, match="1 of 4"):
        run_trial(plan, found, ends, lambda ndcg, step: None)
    diverging = make_plan(replace(config, learning_rate=1e6, l2=1e6, init_std=1e6), prepared.facts)
    with pytest.raises(TrialEndedError, match="diverged"):
        run_trial(diverging, found, lambda done, of: None, lambda ndcg, step: None)


def test_a_search_goes_on_from_its_file(stops_after: Any, tmp_path: Path) -> None:
    file = tmp_path / "study.log"
    stops_after(2)
    calls: list[tuple[int, float | None, float | None]] = []
    first = fastncf.tune(data(), minutes=1000, study=file, callback=lambda *told: calls.append(told), **SMALL)
    assert first.trials["trial"].to_list() == [1, 2] == [number for number, _, _ in calls]
    assert first.default_ndcg == calls[0][1]
    assert first.ndcg == calls[-1][2] == max(value for _, value, _ in calls if value is not None)
    assert first.importance == {}
    with pytest.raises(FastNCFError, match="needs 4 ended trials"):
        first.write_picture(tmp_path / "early.svg")

    def interrupt(*told: Any) -> None:
        raise KeyboardInterrupt

    stops_after(5)
    with pytest.raises(KeyboardInterrupt) as raised:
        fastncf.tune(data(), minutes=1000, study=file, callback=interrupt, **SMALL)
    assert "study.log, and the same call goes on" in raised.value.__notes__[0]
    with file.open("ab") as opened:  # a process was killed while it wrote
        opened.write(b'{"op_code": 4, "wor')
    stops_after(4)
    last = fastncf.tune(data(), minutes=1000, study=file, **SMALL)
    assert last.trials["trial"].to_list() == list(range(1, 8))
    assert last.trials["ndcg"][:2].to_list() == first.trials["ndcg"].to_list()
    assert last.ndcg is not None
    assert last.ndcg >= first.ndcg
    fitted = fastncf.fit(data(), config=last.config, progress=False)
    assert fitted.plan.final.epochs == last.config.epochs
    if (last.trials["state"] == "complete").sum() >= 4:
        assert sum(last.importance.values()) == pytest.approx(1)
        assert set(last.importance) <= set(last.trials.columns)
    for changes in ({"seed": 1}, {"l2": 0.02}):
        with pytest.raises(ConfigError, match="a study of other data or settings"):
            fastncf.tune(data(), minutes=0.01, study=file, **{**SMALL, **changes})
    weighted = data().with_columns(weight=pl.int_range(1, pl.len() + 1))
    for other in ({"train": data(79)}, {"train": weighted, "weight": "weight"}):
        with pytest.raises(ConfigError, match="a study of other data or settings"):
            fastncf.tune(minutes=0.01, study=file, **other, **SMALL)


def test_trials_of_an_ended_process_are_failed_and_time_that_is_over_ends_one(
    stops_after: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "study.log"

    class KilledError(BaseException):
        pass

    def killed(*given: Any) -> float:
        raise KilledError

    def refuse(*given: Any) -> None:
        raise PermissionError("this file system has no links")

    monkeypatch.setattr(os, "symlink", refuse)
    stops_after(1)
    with monkeypatch.context() as patch:
        patch.setattr(study_module, "run_trial", killed)
        with pytest.raises(KilledError):
            fastncf.tune(data(), minutes=1000, study=file, **SMALL)
    stops_after(1)
    with monkeypatch.context() as patch:
        patch.setattr(study_module, "_seconds_left", lambda deadline: -1.0)
        found = fastncf.tune(data(), minutes=1000, study=file, **SMALL)
    assert found.trials["state"].to_list() == ["failed", "pruned"]
    assert found.ndcg is None
    assert "no trial has ended" in str(found)
    assert found.config.to_dict() == Config(**SMALL).to_dict()
    stops_after(1)
    found = fastncf.tune(data(), minutes=1000, study=file, **SMALL)
    assert found.trials["state"].to_list() == ["failed", "pruned", "complete"]
    assert found.ndcg == found.default_ndcg is not None  # the default settings, which were not decided before
    assert os.listdir(tmp_path) == ["study.log"]


def test_the_largest_seed_of_a_fit_is_one_of_a_search(stops_after: Any) -> None:
    stops_after(1)
    found = fastncf.tune(data(), minutes=np.float32(1000), seed=2**63 - 1, loss="bce", history="none", epochs=1, dim=4)
    assert found.config.seed == 2**63 - 1


def test_trials_that_have_not_begun_are_not_counted(stops_after: Any) -> None:
    stops_after(1)
    found = fastncf.tune(data(), minutes=1000, device="cpu", history="none", epochs=1, dim=4)
    assert found.trials["state"].to_list() == ["complete"]  # the defaults of other losses wait
    assert str(found).startswith("1 trial: 1 complete, 0 pruned, 0 failed\n")


def test_an_interrupt_at_any_moment_says_where_the_trials_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study, other = tmp_path / "study.log", tmp_path / "other.csv"
    study.write_bytes(FIRST_BYTES + b": 0}\n")
    other.write_text("user,item\n1,2\n")
    note = f"the trials are in {study}, and the same call goes on with them"
    cases = [(study, SystemError(), [note]), (study, KeyboardInterrupt(), [note]), (study, ConfigError("x"), [])]
    for path, error, notes in [*cases, (other, KeyboardInterrupt(), []), (tmp_path / "none", SystemError(), [])]:
        with pytest.raises(type(error)), trials_noted(path), trials_noted(path):
            raise error
        assert getattr(error, "__notes__", []) == notes

    def fail(*given: Any, **named: Any) -> None:
        raise SystemError  # what a library has made of the interrupt

    monkeypatch.setattr("fastncf.data.named.find_source", fail)
    code = cli._run(
        ["tune", str(other), "--minutes", "1", "--study", str(study)], [signal.SIGTERM], is_own_process=False
    )
    assert (code, capsys.readouterr().err) == (143, f"fastncf: terminated by SIGTERM; {note}\n")


def test_files_that_are_no_study_are_refused(tmp_path: Path) -> None:
    text, folder = tmp_path / "ratings.csv", tmp_path / "none" / "study.log"
    text.write_text("user,item\n1,2\n")
    with pytest.raises(ConfigError, match=r"ratings\.csv: is no study"):
        fastncf.tune(data(), minutes=0.01, study=text, **SMALL)
    with pytest.raises(DataNotFoundError, match="there is no such folder"):
        fastncf.tune(data(), minutes=0.01, study=folder, **SMALL)
    assert text.read_text() == "user,item\n1,2\n"
    with FileLock(f"{tmp_path}/study.log.in-use"), pytest.raises(ConfigError, match="another process searches"):
        fastncf.tune(data(), minutes=0.01, study=tmp_path / "study.log", **SMALL)
    with pytest.raises(ConfigError, match="study=3"):
        fastncf.tune(data(), minutes=0.01, study=3, **SMALL)  # type: ignore[arg-type]


@pytest.mark.parametrize("minutes", [np.int64(0), -1, float("nan"), float("inf"), True, "10", None])
def test_a_budget_that_is_none_is_refused(minutes: Any) -> None:
    with pytest.raises(ConfigError, match="minutes="):
        fastncf.tune(data(), minutes=minutes)


def test_trials_are_compared_by_the_longest_of_several_k(stops_after: Any) -> None:
    ndcgs = []
    for k in (5, (1, 5)):
        stops_after(1)
        found = fastncf.tune(data(), minutes=5, k=k, loss="bce", epochs=1, dim=4, device="cpu")
        ndcgs.append(found.ndcg)
        assert "NDCG@5 of the best" in str(found)
    assert ndcgs[0] == ndcgs[1]


def test_toml_is_read_back_whatever_the_settings() -> None:
    for config in (
        Config(),
        Config(loss="bpr", dim=7, layers=(9, 3), learning_rate=1e-5, k=(5, 10), holdout=None, full_ranking=True),
        Config(time_format='%d."%m"\\ %Y é\U0001f600', metrics=["ndcg", "hr"], dayfirst=None),
    ):
        tuned = Tuned(config, None, None, pl.DataFrame({"state": []}), {}, None)
        read = Config.from_dict(tomllib.loads(tuned.to_toml()))
        assert read == config


def test_the_command_line_writes_what_fit_takes(
    stops_after: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("altair")
    ratings, plan, picture = tmp_path / "ratings.csv", tmp_path / "plan.toml", tmp_path / "mattered.svg"
    data().write_csv(ratings)
    stops_after(6)
    words = ["--device", "cpu", "--loss", "bce", "--history", "none", "--epochs", "2", "--l2", "0.01"]
    files = ["--out", str(plan), "--picture", str(picture), "--study", str(tmp_path / "study.log")]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["tune", str(ratings), "--minutes", "5", *files, *words, "--json"])
    told = capsys.readouterr()
    assert not stopped.value.code, told.err
    values = json.loads(told.out)
    assert len(values["trials"]) == 6
    assert told.err.count("trial ") == 6
    assert picture.read_text().startswith("<svg")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["fit", str(ratings), "--config", str(plan), "--json"])
    assert not stopped.value.code
    fitted = json.loads(capsys.readouterr().out)
    assert fitted["config"] == values["config"]
    with pytest.raises(SystemExit) as stopped:
        cli.main(["tune", str(ratings), "--minutes", "5", "--out", str(tmp_path / "none" / "plan.toml")])
    assert stopped.value.code == 3
    assert "there is no such folder" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        cli.main(["tune", str(ratings)])
    assert stopped.value.code == 2
    assert "--minutes" in capsys.readouterr().err
