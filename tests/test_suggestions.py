import pytest

import fastncf
from fastncf.errors import ConfigError
from fastncf.suggestions import _SYNONYMS, nearest_name

SETTINGS = tuple(fastncf.Config.__dataclass_fields__)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("lr", "learning_rate"),
        ("lrate", "learning_rate"),
        ("LR", "learning_rate"),
        ("step-size", "learning_rate"),
        ("weight_decay", "l2"),
        ("reg", "l2"),
        ("embedding_dim", "dim"),
        ("n_factors", "dim"),
        ("n_epochs", "epochs"),
        ("epoch", "epochs"),
        ("max_iter", "epochs"),
        ("bs", "batch_size"),
        ("batchsize", "batch_size"),
        ("neg_samples", "num_negatives"),
        ("top_k", "k"),
        ("random_state", "seed"),
        ("random_seed", "seed"),
        ("optimiser", "optimizer"),
        ("early_stopping", "patience"),
        ("hidden_units", "layers"),
        ("lr_scheduler", "schedule"),
        ("dtype", "precision"),
        ("date_format", "time_format"),
        ("no-shufle", None),
        ("xyzzy", None),
        ("zz", None),
        ("", None),
    ],
)
def test_the_nearest_setting_is_that_of_the_habit(given, meant):
    assert nearest_name(given, SETTINGS) == meant


@pytest.mark.parametrize("name", [name.replace("-", "_") for name in _SYNONYMS if name.replace("-", "_") in SETTINGS])
def test_synonyms_are_no_settings_and_lead_to_theirs(name):
    for synonym in _SYNONYMS[name.replace("_", "-")]:
        assert synonym.replace("-", "_") not in SETTINGS
        assert nearest_name(synonym, SETTINGS) == name


@pytest.mark.parametrize(("given", "meant"), [("userid", "user"), ("user_col", "user"), ("callbacks", "callback")])
def test_unknown_arguments_of_fit_are_refused_with_the_nearest_name(given, meant):
    with pytest.raises(ConfigError, match=rf"^unknown setting: {given}; did you mean {meant}\?$"):
        fastncf.fit("nowhere.csv", **{given: "x"})
    with pytest.raises(ConfigError, match=rf"^unknown setting: {given}; did you mean {meant}\?$"):
        fastncf.plan_fit("nowhere.csv", **{given: "x"})


def test_unknown_names_in_dicts_are_refused_as_those_of_fit():
    for make in (fastncf.Config.from_dict, lambda values: fastncf.Config.notebook(**values)):
        with pytest.raises(ConfigError, match=r"^unknown setting: lr; did you mean learning_rate\?$"):
            make({"lr": 0.1})
        with pytest.raises(ConfigError, match=r"^unknown setting: xyzzy; expected one of model, dim, "):
            make({"xyzzy": 1})
    with pytest.raises(ConfigError, match=r"^settings \[1\]: expected a dict"):
        fastncf.Config.from_dict([1])
