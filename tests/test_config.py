import dataclasses
import fractions
import inspect
import json

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

import fastncf
from fastncf import Config, ConfigError
from fastncf.config import require_count
from fastncf.data.synthetic import write_synthetic_movielens
from fastncf.recommender.answering import Choice
from tests.conftest import checkerboard


def test_immutable_and_back_from_a_dict():
    config = Config(layers=[8, 4], seed=3)
    assert config.layers == (8, 4)
    assert Config.from_dict(config.to_dict()) == config
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.dim = 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "als"}, "model='als': expected one of gmf, mf, mlp"),
        ({"loss": "mse"}, "loss='mse': expected one of bce, bpr"),
        ({"dim": 0}, "dim=0: expected an integer of at least 1"),
        ({"model": "neumf", "mlp_dim": 0}, "mlp_dim=0: expected an integer of at least 1"),
        ({"model": "mlp", "mlp_dim": 8}, "mlp_dim=8: expected model='neumf' beside it"),
        ({"dim": 2.5}, r"dim=2\.5: expected an integer"),
        ({"k": -1}, "k=-1"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"l2": -1.0}, "l2"),
        ({"negatives": "hard"}, "negatives='hard': expected one of uniform, popularity"),
        ({"negatives_exponent": -0.5}, "negatives_exponent"),
        ({"user_fraction": 1.5}, "user_fraction"),
        ({"user_fraction": 0.0}, "user_fraction"),
        ({"seed": -1}, "seed"),
        ({"layers": (0,)}, "layers"),
        ({"model": "mlp", "layers": ()}, "at least one width"),
        ({"patience": 3}, "validation=True beside it"),
        ({"dayfirst": True, "time_format": "%d.%m.%Y"}, "no time_format= beside it"),
        ({"patience": 0, "validation": True}, "patience=0"),
    ],
)
def test_values_out_of_range(settings, message):
    with pytest.raises(ConfigError, match=message):
        Config(**settings)


def test_the_notebook_recipe():
    config = Config.notebook()
    assert (config.model, config.dim, config.layers) == ("mlp", 8, (64, 32))
    assert (config.num_negatives, config.epochs, config.batch_size) == (4, 5, 512)
    assert (config.learning_rate, config.schedule, config.l2) == (0.001, "constant", 0.0)
    assert (config.user_fraction, config.shuffle, config.distinct_candidates) == (0.3, False, False)
    assert (config.num_candidates, config.k, config.split) == (99, 10, "latest")
    assert Config.notebook(epochs=1, seed=4) == dataclasses.replace(config, epochs=1, seed=4)


@pytest.mark.parametrize(
    ("former", "new"),
    [
        ({"optimizer": "parts"}, {"optimizer": "pretrain"}),
        ({"history": "recent"}, {"history": "sequence"}),
        ({"history": "all"}, {"history": "bag"}),
    ],
)
def test_former_values_are_stored_by_their_new_names(former, new):
    assert Config(**former) == Config(**new)
    assert Config(**former).to_dict() == Config(**new).to_dict()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("layers", 8),
        ("layers", None),
        ("layers", "64"),
        ("layers", (True,)),
        ("dim", True),
        ("l2", "0.1"),
        ("l2", float("inf")),
        ("learning_rate", float("inf")),
        ("init_std", float("inf")),
        ("negatives_exponent", float("inf")),
        ("user_fraction", "x"),
        ("seed", True),
        ("patience", 1.5),
        ("patience", "x"),
        ("loss", ["bce"]),
        ("time_format", "iso"),
        ("time_format", 3),
        ("dayfirst", 1),
        ("encoding", "latin-99"),
        ("encoding", "base64"),
        ("encoding", 8),
        ("dayfirst", "yes"),
        ("drop_missing", 1),
        ("negatives", ["uniform"]),
        ("optimizer", ["sgd"]),
        ("history", ["bag"]),
    ],
)
def test_a_value_of_another_type_is_refused_by_the_name_of_its_setting(name, value):
    settings = {"validation": True, name: value}
    with pytest.raises(ConfigError, match=f"^{name}="):
        Config(**settings)
    with pytest.raises(ConfigError, match=f"^{name}="):
        fastncf.fit("not-read.csv", **settings)


@pytest.mark.parametrize(
    "value",
    [pl.Series([1]), np.array([1, 2]), pd.DataFrame({"a": [1]}), pl.LazyFrame(), pl.col("a"), pd.NA],
    ids=lambda value: type(value).__name__,
)
def test_a_value_that_cannot_be_compared_with_names_is_refused(value):
    for name in ("model", "loss", "negatives", "optimizer", "history", "budget", "split", "holdout", "ties", "device"):
        with pytest.raises(ConfigError, match=f"^{name}=.*: expected "):
            Config(**{name: value})
    rec = fastncf.fit(checkerboard(), model="popularity", progress=False)
    calls = {
        "unknown": lambda: rec.recommend(1, unknown=value),
        "output": lambda: rec.score([1], [2], output=value),
        "device": lambda: fastncf.load("not-read", device=value),
        "candidate_sampling": lambda: rec.evaluate(candidate_sampling=value),
        "dialect": lambda: write_synthetic_movielens("not-written.csv", dialect=value),
        "callback": lambda: rec.update(checkerboard(), callback="x", progress=False),
        "progress": lambda: rec.update(checkerboard(), progress=value),
    }
    for name, call in calls.items():
        with pytest.raises(ConfigError, match=f"^{name}=.*: expected "):
            call()
    with pytest.raises(ConfigError, match=r"^unknown=.*: expected error or skip beside update"):
        rec.update(checkerboard(), unknown=value)


def test_a_config_of_another_type_is_refused():
    with pytest.raises(ConfigError, match=r"config=\{'dim': 3\}: expected a fastncf\.Config"):
        fastncf.fit("not-read.csv", config={"dim": 3})


NUMBERS = {
    "l2": np.float32(0.25),
    "learning_rate": np.array(0.5),
    "init_std": np.longdouble(0.5),
    "dropout": fractions.Fraction(1, 4),
    "negatives_exponent": torch.tensor(0.5),
    "user_fraction": np.float16(0.5),
    "epochs": np.int64(3),
    "batch_size": np.uint8(200),
    "k": torch.tensor(7),
    "seed": np.uint64(2**62),
    "layers": np.array([64, 32]),
    "shuffle": np.bool_(False),
    "model": np.str_("mlp"),
    "device": torch.device("cpu"),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_values_of_other_libraries_become_pythons_own(name):
    config = Config(**{"model": "mlp", name: NUMBERS[name]})
    value = getattr(config, name)
    assert type(value) in (int, float, bool, str, tuple)
    assert Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert value == {"layers": (64, 32), "device": "cpu"}.get(name, NUMBERS[name])


def test_integers_are_floats_where_a_setting_is_a_number():
    settings = {"l2": 0, "dropout": 0, "learning_rate": 1, "user_fraction": 1, "negatives_exponent": 2, "min_rating": 4}
    config = Config(**settings, holdout=2, test_users=3)
    assert {type(getattr(config, name)) for name in settings} == {float}
    assert (type(config.holdout), type(config.test_users)) == (int, int)


def test_layers_may_hold_numpy_integers():
    assert Config(layers=[np.int64(8), np.int32(4)]).to_dict()["layers"] == [8, 4]
    assert Config(layers=torch.tensor([8, 4])).layers == (8, 4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"learning_rate": np.float32("inf")},
            "learning_rate=inf: expected a finite number above 0 and at most 1,",
        ),
        ({"l2": float("nan")}, "l2=nan: expected a finite number of at least 0 and at most 1,000,000"),
        ({"init_std": 1e30}, r"init_std=1e\+30: expected a finite number above 0 and at most 1,000,000"),
        ({"learning_rate": 10**400}, "learning_rate=1000"),
        ({"user_fraction": float("nan")}, "user_fraction=nan: expected a number above 0 and at most 1"),
        ({"dropout": 1.0}, r"dropout=1\.0: expected a number of at least 0 and below 1"),
        (
            {"num_candidates": 10**10},
            "num_candidates=10000000000: expected an integer of at least 1 and at most 2,",
        ),
        ({"layers": (10**10,)}, r"layers=\(10000000000,\): expected integers of at least 1 and at most 2,147,483,647"),
        ({"layers": 64}, r"layers=64: expected a list of integers, such as \[64, 32\]"),
        ({"k": "5,10"}, r"k='5,10': expected an integer of at least 1, or a list such as \[5, 10, 20\]"),
        ({"metrics": "hr"}, r"metrics='hr': expected a list of some of hr, ndcg"),
        ({"layers": np.ones((2, 2), dtype=int)}, "layers="),
        (
            {"batch_size": 10**12},
            "batch_size=1000000000000: expected an integer of at least 1 and at most 2,147",
        ),
        ({"horizon": 10**12}, "horizon=1000000000000: expected an integer of at least 1 and at most 2,147,483,647, or"),
        ({"test_users": 10**12}, "test_users=1000000000000: .* at most 2,147,483,647, or a share"),
        ({"epochs": 10**5000}, "epochs=<int>: expected an integer of at least 1 and at most 2,147,483,647"),
        ({"epochs": np.float64(3)}, r"epochs=3\.0: expected an integer of at least 1$"),
        ({"seed": 2**70}, "seed=1180591620717411303424: expected an integer of at least 0 and below"),
        ({"shuffle": "no"}, "shuffle='no': expected True or False"),
        ({"full_ranking": 1}, "full_ranking=1: expected True or False"),
        ({"device": 7}, "device=7: expected 'auto' or the name of a torch device"),
        ({"l2": 1j}, "l2=1j: expected a finite number"),
        ({"min_rating": -(10**400)}, "min_rating=-1000"),
        ({"negatives_exponent": 10**400}, "negatives_exponent=1000"),
    ],
)
def test_values_out_of_the_world(settings, message):
    with pytest.raises(ConfigError, match=message):
        Config(**settings)


@pytest.mark.parametrize("value", [0, -3, 2.0, "5", True, None, 2**31, np.float32(3), [3]])
def test_a_number_of_things_is_an_integer_from_1(value):
    with pytest.raises(ConfigError, match=r"^k=.*: expected an integer of at least 1"):
        require_count("k", value)
    assert require_count("k", np.int16(5)) == 5


def test_an_unknown_setting_is_named_with_the_nearest_one():
    with pytest.raises(ConfigError, match=r"^unknown setting: learnign_rate; did you mean learning_rate\?$"):
        fastncf.fit("not-read.csv", learnign_rate=0.1)
    with pytest.raises(ConfigError, match=r"^callback=3: expected a function"):
        fastncf.fit("not-read.csv", callback=3)
    with pytest.raises(ConfigError, match=r"^model=<class .*: expected .*an object and not the class itself"):
        fastncf.fit("not-read.csv", model=torch.nn.Linear)


@pytest.mark.parametrize("function", [fastncf.fit, fastncf.plan_fit, fastncf.repeat, fastncf.tune])
def test_all_settings_are_in_the_signatures_that_notebooks_complete(function):
    parameters = inspect.signature(function).parameters
    defaults = {field.name: field.default for field in dataclasses.fields(fastncf.Config) if field.name != "model"}
    assert {name: parameters[name].default for name in defaults} == defaults
    assert {"test", "candidates", "user", "item", "time", "rating", "weight", "config", "model"} < parameters.keys()
    with pytest.raises(ConfigError, match="unknown setting: epoch; "):
        function("ratings.csv", **({"minutes": 1} if function is fastncf.tune else {}), epoch=5)


def test_overloads_of_recommend_have_the_arguments_of_what_runs():
    own = inspect.signature(fastncf.Recommender.recommend).parameters
    assert set(own) == {"self", "users", "k", "out", "output", *Choice.__annotations__}
    with pytest.raises(TypeError, match="exclude_sen"):
        fastncf.Recommender.recommend(None, exclude_sen=True)
