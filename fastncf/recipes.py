"""Recipes: the values of settings that are not given, for each situation of the data and the configuration.

Every default is in this file and nowhere else; ``docs/defaults.md`` is made from it. :mod:`fastncf.plan` fills them in.
"""

import math
from typing import Any, NamedTuple

from fastncf.config import Config
from fastncf.data.facts import DataFacts
from fastncf.data.split import SPARSE_BELOW


class Recipe(NamedTuple):
    """Settings for one situation.

    Attributes:
        situation: when the settings apply, as the end of the sentence "the default ...".
        settings: values by the names of :class:`~fastncf.stage.Stage`.
    """

    situation: str
    settings: dict[str, Any]


GENERAL = Recipe(
    "for all models",
    {
        "dim": 64,
        "init_std": 0.1,
        "num_negatives": 8,
        "negatives": "uniform",
        "negatives_exponent": 0.75,
        "dropout": 0.0,
        "loss": "bce",
    },
)

SGD = {
    "sequence": Recipe(
        "for sgd with histories in their order",
        {
            "epochs": 16,
            "learning_rate": 0.05,
            "l2": 0.005,
            "init_std": 0.02,
            "negatives": "popularity",
            "negatives_exponent": 0.2,
        },
    ),
    "bag": Recipe(
        "for sgd with histories without an order",
        {"epochs": 16, "learning_rate": 0.05, "l2": 0.0025, "init_std": 0.02},
    ),
    "none": Recipe(
        "for sgd without histories",
        {"epochs": 20, "learning_rate": 0.05, "l2": 0.0025, "init_std": 0.02},
    ),
}
"""Recipes of sgd by the kind of history."""


_SPARSE: dict[str, Any] = {"epochs": 32, "dim": 128, "init_std": 0.05}
_SPARSE_NEGATIVES: dict[str, Any] = {"negatives": "popularity", "negatives_exponent": 0.1}
SGD_SPARSE = {
    "sequence": Recipe("for sgd on sparse data with histories in their order", {**_SPARSE, "l2": 0.015}),
    "bag": Recipe(
        "for sgd on sparse data with histories without an order", {**_SPARSE, **_SPARSE_NEGATIVES, "l2": 0.01}
    ),
    "none": Recipe("for sgd on sparse data without histories", {**_SPARSE, **_SPARSE_NEGATIVES, "l2": 0.005}),
}
"""Changes for sparse data: items have few interactions, so training takes more epochs and more regularisation."""

ADAM = Recipe(
    "for adam",
    {"epochs": 20, "learning_rate": 0.005, "l2": 0.003, "batch_size": 8_192},
)

NEXT_ITEM = Recipe(
    "for softmax with histories in their order",
    {
        "epochs": 16,
        "learning_rate": 0.002,
        "l2": 0.0,
        "dim": 128,
        "init_std": 0.02,
        "num_negatives": 1_024,
        "dropout": 0.4,
        "batch_size": 1_024,
        "loss": "softmax",
    },
)
NEXT_ITEM_SPARSE = Recipe(
    "for softmax on sparse data with histories in their order",
    {"num_negatives": 512, "dropout": 0.7},
)
FAST_NEXT_ITEM = Recipe(
    'for softmax with histories and budget="fast"', {"epochs": 6, "dim": 64, "num_negatives": 512, "dropout": 0.2}
)
FAST_NEXT_ITEM_SPARSE = Recipe('for softmax on sparse data with histories and budget="fast"', {"dropout": 0.5})
"""Recipes of an mf whose users are states that run through their histories."""

OTHER_ITEMS = Recipe(
    "for softmax with histories without an order",
    {**NEXT_ITEM.settings, "learning_rate": 0.004, "num_negatives": 2_048, "dropout": 0.4},
)
OTHER_ITEMS_SPARSE = Recipe(
    "for softmax on sparse data with histories without an order",
    {"epochs": 24, "dim": 256, "dropout": 0.8},
)
FAST_OTHER_ITEMS = Recipe(
    'for softmax with histories without an order and budget="fast"',
    {"epochs": 6, "dim": 64, "num_negatives": 512, "dropout": 0.4},
)
"""Recipes of an mf whose users are states of sets."""

FAST_STEPS = 2_000
"""Steps of softmax that a fast budget has room for; where its epochs have fewer, it takes more, up to the full ones."""

LARGE_FROM = 4_000_000
"""Training interactions beyond which softmax on histories takes fewer epochs, vectors and negatives."""

LARGE: dict[str, dict[str, Any]] = {
    "best": {"dim": 64, "num_negatives": 512},
    "fast": {"dim": 64, "num_negatives": 256},
}
LARGE_DROPOUT, LARGE_SPARSE_DROPOUT = 0.2, 0.5
"""Settings of such a training for each budget."""

LARGE_POSITIONS = {"best": 64_000_000, "fast": 24_000_000}
"""Interactions that the epochs of such a training visit in all, for each budget: about two minutes, or one third of a
minute, by two cores, however many interactions there are, up to those that one epoch takes."""

NEGATIVES_OF_SOFTMAX = 64
"""Smallest ``num_negatives`` beside which softmax is chosen for an mf: fewer tell too little of a catalogue."""

LOSS_TRIALS_UP_TO = 2_000_000
"""Training interactions up to which softmax is compared with ``bce`` on held-out items. More of them are trained by
softmax if they have an order, and otherwise by ``bce``, which takes less time."""

ADAM_BY_MODEL = {
    "mf": Recipe("for mf by adam", {"init_std": 0.02}),
    "mlp": Recipe("for hidden layers", {"epochs": 12, "learning_rate": 0.003, "l2": 0.001, "batch_size": 1_024}),
    "neumf": Recipe("for hidden layers", {"epochs": 12, "learning_rate": 0.003, "l2": 0.001, "batch_size": 1_024}),
}
"""Changes for some models when adam trains them from random parameters."""

FINE_TUNING = Recipe(
    "for an mlp that starts from an mf",
    {"epochs": 2, "learning_rate": 0.0005, "l2": 0.001, "batch_size": 1_024, "init_std": 1.0},
)
"""Recipe for layers that start from a trained model. Its epochs are for a million interactions and more; with fewer
they are multiplied by the cube root of the ratio, since layers need steps and an epoch has fewer of them."""

FAST_SGD = Recipe('for sgd with budget="fast"', {"epochs": 6, "learning_rate": 0.1})
FAST_SGD_SPARSE = Recipe('for sgd on sparse data with budget="fast"', {"epochs": 12, "learning_rate": 0.1})
FAST_ADAM = Recipe('for adam with budget="fast"', {"epochs": 5, "learning_rate": 0.01})
FAST_LAYERS = Recipe('for hidden layers with budget="fast"', {"epochs": 8, "learning_rate": 0.006, "batch_size": 2_048})
FAST_FINE_TUNING = Recipe('for an mlp that starts from an mf with budget="fast"', {"epochs": 1, "learning_rate": 0.001})

FULL_EPOCHS_FROM = 1_000_000
"""Training interactions from which ``FINE_TUNING`` takes its epochs as they stand."""

L2_FACTORS = 1, 2, 4, 8, 16
"""Multiples of a recipe's l2 that are tried on held-out items."""

L2_SEARCH_UP_TO = 2_000_000
"""Training interactions up to which l2 is searched for."""

L2_FULL_SEARCH_UP_TO = 50_000
"""Training interactions up to which the search trains by the full recipe, and not by the fast one."""


class Pretraining(NamedTuple):
    """Pre-training of a model with hidden layers.

    Attributes:
        first: model that sgd trains.
        num_fewer_dims: dimensions that it has less than the whole model.
        takes_init_std: whether a given ``init_std`` applies to it as well.
        joined: whether the whole model is the weighted sum of both; otherwise it starts from the first.
    """

    first: str
    num_fewer_dims: int
    takes_init_std: bool
    joined: bool


PRETRAINING = {
    "mlp": Pretraining("mf", num_fewer_dims=1, takes_init_std=False, joined=False),
    "neumf": Pretraining("gmf", num_fewer_dims=0, takes_init_std=True, joined=True),
}
"""Models with hidden layers, and the model that sgd trains first (He et al. 2017, section 3.4.1). An mlp needs one
dimension for the biases of the mf. A neumf is the weighted sum of a gmf and an mlp."""

PRETRAINING_FROM_DIM = 3
"""Smallest dim of a model that is pre-trained: two dimensions hold biases."""


def is_sparse(data: DataFacts) -> bool:
    """Return whether there are fewer than ``SPARSE_BELOW`` training interactions per item."""
    return data.num_interactions / data.num_items < SPARSE_BELOW


def states_recipes(config: Config, data: DataFacts, history: str) -> list[Recipe]:
    """Return the recipes of softmax on histories, from the most general to the most specific."""
    in_order = history == "sequence"
    recipes = [NEXT_ITEM if in_order else OTHER_ITEMS]
    if is_sparse(data):
        recipes.append(NEXT_ITEM_SPARSE if in_order else OTHER_ITEMS_SPARSE)
    if config.budget == "fast":
        recipes.append(_fast_recipe(FAST_NEXT_ITEM if in_order else FAST_OTHER_ITEMS, data))
        if in_order and is_sparse(data):
            recipes.append(FAST_NEXT_ITEM_SPARSE)
    if data.num_interactions > LARGE_FROM:
        recipes.append(_large_recipe(config, data))
    return recipes


def _large_recipe(config: Config, data: DataFacts) -> Recipe:
    """Return the recipe of softmax on histories for more than ``LARGE_FROM`` interactions."""
    settings = {
        "epochs": max(1, round(LARGE_POSITIONS[config.budget] / data.num_interactions)),
        "dropout": LARGE_SPARSE_DROPOUT if is_sparse(data) else LARGE_DROPOUT,
        **LARGE[config.budget],
    }
    return Recipe(f"for softmax with histories on {data.num_interactions:,} interactions", settings)


def _fast_recipe(recipe: Recipe, data: DataFacts) -> Recipe:
    """Return a recipe of a fast budget for softmax on histories, with more epochs where its own have few steps."""
    fast, full = recipe.settings["epochs"], NEXT_ITEM.settings["epochs"]
    steps = data.num_interactions / NEXT_ITEM.settings["batch_size"]
    epochs = min(full, max(fast, math.ceil(FAST_STEPS / max(1, steps))))
    situation = "" if epochs == fast else f" on {data.num_interactions:,} interactions"
    return Recipe(recipe.situation + situation, recipe.settings | {"epochs": epochs})


def sgd_recipes(config: Config, data: DataFacts, history: str) -> list[Recipe]:
    """Return the recipes of sgd, from the most general to the most specific, which takes precedence."""
    recipes = [GENERAL, SGD[history]]
    if is_sparse(data):
        recipes.append(SGD_SPARSE[history])
    if config.budget == "fast":
        recipes.append(FAST_SGD_SPARSE if is_sparse(data) else FAST_SGD)
    return recipes


def adam_recipes(config: Config) -> list[Recipe]:
    """Return the recipes of adam, from the most general to the most specific, which takes precedence."""
    recipes = [GENERAL, ADAM]
    if config.model in ADAM_BY_MODEL:
        recipes.append(ADAM_BY_MODEL[config.model])
    if config.budget == "fast":
        recipes.append(FAST_LAYERS if config.model in PRETRAINING else FAST_ADAM)
    return recipes


def fine_tuning_recipes(config: Config, data: DataFacts) -> list[Recipe]:
    """Return the recipes of layers that start from pre-trained embeddings, with more epochs for few interactions."""
    times = max(1.0, (FULL_EPOCHS_FROM / max(1, data.num_interactions)) ** (1 / 3))
    recipes = [FINE_TUNING] if config.budget == "best" else [FINE_TUNING, FAST_FINE_TUNING]
    situation = "" if times == 1 else f" on fewer than {FULL_EPOCHS_FROM:,} interactions"
    return [GENERAL] + [
        Recipe(one.situation + situation, one.settings | {"epochs": round(times * one.settings["epochs"])})
        for one in recipes
    ]
