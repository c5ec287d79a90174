import dataclasses

import pytest

import fastncf
from fastncf import Config, ConfigError


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
        ("dropout", None),
        ("user_fraction", "x"),
        ("seed", True),
        ("patience", 1.5),
        ("patience", "x"),
        ("loss", ["bce"]),
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


def test_a_config_of_another_type_is_refused():
    with pytest.raises(ConfigError, match=r"config=\{'dim': 3\}: expected a fastncf\.Config"):
        fastncf.fit("not-read.csv", config={"dim": 3})
