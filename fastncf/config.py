"""Every knob of a fit, its default, unit and meaning."""

import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, get_args, get_origin

import numpy as np

from fastncf.errors import ConfigError

MODELS = ("mf", "gmf", "mlp", "neumf", "popularity")

RECIPES: dict[tuple[str, str], dict[str, Any]] = {
    ("sgd", "recent"): {
        "epochs": 16,
        "learning_rate": 0.05,
        "l2": 0.005,
        "negatives": "popularity",
        "negatives_exponent": 0.2,
    },
    ("sgd", "all"): {"epochs": 16, "learning_rate": 0.05, "l2": 0.0025},
    ("sgd", "none"): {"epochs": 20, "learning_rate": 0.05, "l2": 0.0025},
    ("adam", "none"): {"epochs": 20, "learning_rate": 0.005, "l2": 0.003, "batch_size": 8_192},
}
"""What settings that are left out become, by optimizer and history."""

SPARSE_BELOW = 20
"""Interactions per item, on average, below which data are sparse."""

_SELDOM: dict[str, Any] = {"epochs": 32, "dim": 128, "init_std": 0.05}
_MILDLY: dict[str, Any] = {"negatives": "popularity", "negatives_exponent": 0.1}
SPARSE: dict[str, dict[str, Any]] = {
    "recent": {**_SELDOM, "l2": 0.015},
    "all": {**_SELDOM, **_MILDLY, "l2": 0.01},
    "none": {**_SELDOM, **_MILDLY, "l2": 0.005},
}
"""What is different with sparse data for ``sgd``, by history: an item is met seldom, so that it takes longer, and few
users say little for certain."""

OTHERWISE: dict[str, Any] = {"dim": 64, "negatives": "uniform", "negatives_exponent": 0.75}
"""What becomes of settings that are left out and of which a recipe says nothing."""

LAYERS: dict[str, Any] = {"epochs": 12, "learning_rate": 0.003, "l2": 0.001, "batch_size": 1_024}
"""The same for what has hidden layers and is trained by ``adam`` alone, and for that part of ``neumf``."""

STARTED: dict[str, Any] = {"epochs": 2, "learning_rate": 0.0005, "l2": 0.001, "batch_size": 1_024}
"""The same for an ``mlp`` that starts from the vectors of an ``mf``, with a million interactions and more. With fewer
the epochs are more, by the cube root of how many times fewer: layers need steps, and an epoch has less of them."""

FAST: dict[str, dict[str, Any]] = {
    "sgd": {"epochs": 6, "learning_rate": 0.1},
    "sparse": {"epochs": 12, "learning_rate": 0.1},
    "adam": {"epochs": 5, "learning_rate": 0.01},
    "layers": {"epochs": 8, "learning_rate": 0.006, "batch_size": 2_048},
    "started": {"epochs": 1, "learning_rate": 0.001},
}
"""What is different with ``budget="fast"``."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Settings of one fit; immutable. The defaults are the recipe that :func:`fastncf.fit` uses.

    Raises:
        ConfigError: a value is out of its range (when the object is made).
    """

    model: Literal["mf", "gmf", "mlp", "neumf", "popularity"] = "mf"
    """``mf``: dot product with biases. ``gmf``, ``mlp``, ``neumf``: He et al. 2017. ``popularity``: counts."""

    dim: int | None = None
    """Length of an embedding vector. Left out: 64, but 128 for ``mf`` and ``gmf`` by ``sgd`` on sparse data."""

    mlp_dim: int | None = None
    """Length of the vectors that the layers of a ``neumf`` are given, where those that it multiplies have another.
    NVIDIA's configuration: dim 64, mlp_dim 128, layers 256-128-64. Left out: ``dim``."""

    init_std: float | None = None
    """Standard deviation of the vectors before the training. Left out: 0.02 with ``sgd``, but 0.05 on sparse data;
    0.1 with ``adam``, but 0.02 for ``mf``; 1 for an ``mlp`` that starts from the vectors of an ``mf``."""

    layers: tuple[int, ...] = (64, 32)
    """Widths of the hidden layers of ``mlp`` and ``neumf``."""

    dropout: float = 0.0
    """Probability that an activation of a hidden layer is set to 0 in training."""

    loss: Literal["bce", "bpr"] = "bce"
    """``bce``: logistic loss of each sample. ``bpr``: logistic loss of each (positive, negative) difference."""

    num_negatives: int = 8
    """Sampled negatives for each training interaction, drawn anew each epoch."""

    negatives: Literal["uniform", "popularity"] | None = None
    """How often an item that the user has not touched is drawn: all alike, or by its training interactions. Left out:
    ``popularity`` with ``sgd`` where histories are recent or data sparse; else ``uniform``."""

    negatives_exponent: float | None = None
    """With ``negatives="popularity"``: the power of an item's interactions that its draws are proportional to. Left
    out: with ``sgd`` 0.2 where histories are recent, otherwise 0.1 on sparse data; else 0.75."""

    optimizer: Literal["sgd", "adam", "parts"] | None = None
    """``sgd``: a step for each interaction, by a kernel: ``mf`` and ``gmf`` on a CPU. ``adam``: a step for each batch,
    any model on any device. ``parts``: first ``sgd``, then ``adam`` (the idea of the pre-training of He et al. 2017,
    section 3.4.1): an ``mlp`` starts from the vectors and biases of a trained ``mf``; a ``neumf`` is what a ``gmf`` and
    an ``mlp`` score that were trained by themselves. ``epochs``, ``learning_rate``, ``l2`` and ``batch_size`` are those
    of the ``mlp``. Left out: ``parts`` for ``mlp`` and ``neumf``, ``sgd`` where it can be, else ``adam``."""

    history: Literal["recent", "all", "none"] | None = None
    """With ``sgd`` and ``parts``: what a user's vector is made of beside one of its own. ``recent``: vectors of all
    items in the user's training history, the latest ones counting most; ``all``: the same without an order; ``none``:
    nothing. Left out: ``recent`` where the data have times, their order tells something (see
    :func:`~fastncf.data.order.order_matters`) and what is held out is not drawn at random; else ``all``."""

    budget: Literal["best", "fast"] = "best"
    """``fast``: fewer passes, with larger steps. What is set beside it stays as it is set."""

    epochs: int | None = None
    """Passes over the training interactions. Left out: 16 with histories, 12 with hidden layers, 2 for an ``mlp`` that
    starts from an ``mf``, else 20, but 32 by ``sgd`` on sparse data; with ``budget="fast"`` 6 by ``sgd``, 12 on sparse
    data, 8 with hidden layers, 1 for such an ``mlp``, else 5. Such an ``mlp`` takes more with fewer than a million
    interactions, by the cube root of how many times fewer: with a hundred thousand 4."""

    batch_size: int | None = None
    """Samples a step of ``adam``; an interaction and its negatives count as 1 + num_negatives of them. Left out: 8,192,
    with hidden layers 1,024, or 2,048 with ``budget="fast"``."""

    learning_rate: float | None = None
    """Step size at the start: of ``sgd`` down the summed losses of an interaction's samples, or ``adam``'s. Left out:
    0.05 and 0.005, 0.003 with hidden layers, 0.0005 for an ``mlp`` that starts from an ``mf``; twice that with
    ``budget="fast"``."""

    schedule: Literal["constant", "linear"] = "linear"
    """``linear``: the learning rate falls to 0 over all steps."""

    l2: float | None = None
    """Weight of the mean squared norm of the embedding vectors that a step touches, added to its mean loss. In a module
    of your own: of the embeddings whose names hold ``user`` or ``item``. Left out: with ``adam`` 0.003, 0.001 with
    hidden layers; with ``sgd`` 0.0025, but 0.005 with recent histories, and more on sparse data; of that :func:`fit`
    takes up to 16 times as much where it ranks items better that are held out for this choice, if there are at most two
    million interactions and ``budget="best"``."""

    shuffle: bool = True
    """Draw the order of the interactions anew each epoch; otherwise one drawn order serves all epochs."""

    user_fraction: float = 1.0
    """Share of the users that is kept, drawn with the seed."""

    split: Literal["latest", "random"] = "latest"
    """Which interaction of each user is held out for the test: the latest (first row among ties), or any."""

    validation: bool = False
    """Hold out a second interaction of each user and report ranking metrics on it after each epoch."""

    patience: int | None = None
    """With validation: stop after this many epochs without a better NDCG, and keep the best epoch's parameters."""

    num_candidates: int = 99
    """Negatives that a held-out item is ranked against."""

    distinct_candidates: bool = True
    """Draw the candidates of a list without replacement."""

    k: int = 10
    """Length of the ranking that HR@k and NDCG@k look at."""

    full_ranking: bool = False
    """Also rank each held-out item against the whole catalogue."""

    precision: Literal["float32", "bfloat16"] | None = None
    """What matrix products are computed in while ``adam`` trains; parameters, sums and losses are float32 anyway. With
    ``bfloat16`` the kernels of our own that take TF32 do so. Left out: ``bfloat16`` on CUDA devices that multiply in
    it themselves (NVIDIA's since Ampere), else ``float32``."""

    deterministic: bool = False
    """The same bits on every run on the same CUDA device, at the price of time; on a CPU that is so anyway."""

    seed: int = 0
    """Determines every draw: users, parameters, negatives, order, dropout, candidates."""

    device: str = "auto"
    """``auto`` (the CPU for what ``sgd`` trains, otherwise CUDA where there is one), or a torch device such as ``cpu``
    or ``cuda:1``."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        for field in fields(self):
            choice = next((kind for kind in (field.type, *get_args(field.type)) if get_origin(kind) is Literal), None)
            value = getattr(self, field.name)
            if choice is not None and value not in get_args(choice) and (value is not None or choice is field.type):
                raise ConfigError(f"{field.name}={value!r}: expected one of {', '.join(get_args(choice))}")
        for name in ("dim", "mlp_dim", "num_negatives", "epochs", "batch_size", "num_candidates", "k"):
            value = getattr(self, name)
            num_users_all_seen = value is None and name in ("dim", "mlp_dim", "epochs", "batch_size")
            self._require(name, num_users_all_seen or (isinstance(value, int) and value >= 1), "a whole number from 1")
        self._require("init_std", self.init_std is None or self.init_std > 0, "a number above 0")
        self._require("layers", all(isinstance(n, int) and n >= 1 for n in self.layers), "whole numbers from 1")
        self._require("learning_rate", self.learning_rate is None or self.learning_rate > 0, "a number above 0")
        self._require("dropout", 0 <= self.dropout < 1, "a number from 0 below 1")
        self._require(
            "negatives_exponent", self.negatives_exponent is None or self.negatives_exponent >= 0, "a number from 0"
        )
        self._require("l2", self.l2 is None or self.l2 >= 0, "a number from 0")
        self._require("user_fraction", 0 < self.user_fraction <= 1, "a number above 0 and at most 1")
        self._require(
            "seed", isinstance(self.seed, int) and 0 <= self.seed < 2**63, "a whole number from 0 below 2**63"
        )
        if self.patience is not None:
            self._require("patience", self.patience >= 1, "a whole number from 1")
            self._require("patience", self.validation, "validation=True beside it, since a stop needs validation items")
        self._require(
            "mlp_dim",
            self.mlp_dim is None or self.model == "neumf",
            "model='neumf' beside it; the vectors of other models have the length dim",
        )
        if self.model in ("mlp", "neumf"):
            self._require("layers", len(self.layers) >= 1, f"at least one width for model={self.model!r}")

    def _require(self, name: str, holds: bool, expected: str) -> None:
        if not holds:
            raise ConfigError(f"{name}={getattr(self, name)!r}: expected {expected}")

    def with_recipe(
        self,
        optimizer: Literal["sgd", "adam", "parts"],
        history: Literal["recent", "all", "none"],
        interactions: float = math.inf,
        num_items: int = 1,
    ) -> "Config":
        """The settings for an optimizer, a history and data, with everything filled in that was left out.

        Args:
            optimizer: what trains.
            history: what is known of a user.
            interactions: N, those that are trained on.
            num_items: I.
        """
        if self.model == "mlp" and optimizer == "parts":
            times = max(1.0, (1e6 / max(1, interactions)) ** (1 / 3))
            recipe, fast = (named | {"epochs": round(times * named["epochs"])} for named in (STARTED, FAST["started"]))
        elif self.model in ("mlp", "neumf") and optimizer != "sgd":
            recipe, fast = LAYERS, FAST["layers"]
        else:
            recipe, fast = RECIPES[optimizer, history], FAST[optimizer]
            if optimizer == "sgd" and interactions / num_items < SPARSE_BELOW:
                recipe, fast = recipe | SPARSE[history], FAST["sparse"]
        if self.budget == "fast":
            recipe = recipe | fast
        num_users_all_seen = {
            name: value for name, value in (OTHERWISE | recipe).items() if getattr(self, name) is None
        }
        return replace(self, optimizer=optimizer, history=history, **num_users_all_seen)

    def learning_rate_at(self, done: np.ndarray) -> np.ndarray:
        """The learning rates (n,) after shares (n,) of all steps, so that a resumed run goes on exactly."""
        assert self.learning_rate is not None
        return self.learning_rate * (1 - done if self.schedule == "linear" else np.ones_like(done))

    def to_dict(self) -> dict[str, Any]:
        """The settings as plain values that JSON can hold."""
        return {**asdict(self), "layers": list(self.layers)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Config":
        """The inverse of :meth:`to_dict`."""
        return cls(**values)

    @classmethod
    def notebook(cls, **changes: Any) -> "Config":
        """The recipe of the NCF notebook on MovieLens-20M (after He et al. 2017), its quirks included.

        - 30 % of the users, drawn at random; all other rows are dropped before anything is counted.
        - The test item is the user's latest; among ties the first row of the file.
        - The interactions are visited in one fixed order in every epoch (the notebook's loader does not
          shuffle), and a positive's negatives come right behind it. Its 512 samples a batch cut through such
          groups; here a batch holds the 102 whole groups that fit (510 samples).
        - The held-out item may be drawn as a negative in training, as in He et al.
        - The 99 candidates are drawn with replacement from the items the user never touched.
        - Constant learning rate 0.001, no regularisation, 5 epochs, no validation: the metric of the last
          epoch is the result.
        - The notebook sizes its tables by the largest raw id; rows that no id uses are never read, so the
          contiguous tables here train the same model.
        - Tied scores: the notebook's reversed argsort breaks ties by position; here the positive loses them.
        """
        recipe: dict[str, Any] = {
            "model": "mlp",
            "dim": 8,
            "layers": (64, 32),
            "init_std": 1.0,
            "loss": "bce",
            "num_negatives": 4,
            "negatives": "uniform",
            "optimizer": "adam",
            "history": "none",
            "epochs": 5,
            "batch_size": 512,
            "learning_rate": 0.001,
            "schedule": "constant",
            "l2": 0.0,
            "shuffle": False,
            "user_fraction": 0.3,
            "distinct_candidates": False,
        }
        return cls(**{**recipe, **changes})
