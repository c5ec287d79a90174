"""Models that are kept as the factors of a matrix factorization, so that torch is not needed to fit, load or ask them.

A :class:`Form` says how the factors of such a model are saved: as the state of its module of torch, so that
a saved model is the same whether a kernel or torch has trained it.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastncf.errors import ConfigError
from fastncf.kernels.cpu.factors import Factors

if TYPE_CHECKING:
    from torch import nn

    from fastncf.stage import Stage

MF_NAMES = "user_embedding.weight", "item_embedding.weight", "user_bias", "item_bias"
"""Names of the parameters of an MF, in the order of Factors."""

_GMF_NAMES = "user_embedding.weight", "item_embedding.weight", "output.weight", "output.bias"

Forms = dict[str, tuple[tuple[int, ...], str]]
"""Shapes and dtypes by names."""


class Form(NamedTuple):
    """Form of a model.

    Attributes:
        class_name: class of the module.
        num_fewer_dims: dimensions that the factors have less than the model.
        has_vectors: whether the vectors tell users and items apart; otherwise the scores are counts of the data.
        forms: returns what the state holds for (dim, U, I).
        to_state: returns the state of factors and of the weights (I,) float64 of the items in training.
        from_state: returns the factors of a state and U; None where they are not those that :attr:`to_state` saves.
    """

    class_name: str
    num_fewer_dims: int
    has_vectors: bool
    forms: Callable[[int, int, int], Forms]
    to_state: Callable[[Factors, np.ndarray], dict[str, np.ndarray]]
    from_state: Callable[[Mapping[str, Any], int], Factors | None]


def _mf_forms(dim: int, num_users: int, num_items: int) -> Forms:
    shapes = (num_users, dim), (num_items, dim), (num_users,), (num_items,)
    return {name: (shape, "float32") for name, shape in zip(MF_NAMES, shapes, strict=True)}


def _gmf_forms(dim: int, num_users: int, num_items: int) -> Forms:
    shapes = (num_users, dim), (num_items, dim), (1, dim), (1,)
    return {name: (shape, "float32") for name, shape in zip(_GMF_NAMES, shapes, strict=True)}


def _gmf_state(factors: Factors, item_weights: np.ndarray) -> dict[str, np.ndarray]:
    """Return the parameters of a GMF with two dimensions more, which hold the biases."""
    user, item, user_bias, item_bias = factors
    tables = (
        np.column_stack([user, user_bias, np.ones_like(user_bias)]),
        np.column_stack([item, np.ones_like(item_bias), item_bias]),
    )
    weight = np.ones((1, tables[0].shape[1]), dtype=np.float32)
    return dict(zip(_GMF_NAMES, (*tables, weight, np.zeros(1, dtype=np.float32)), strict=True))


def _gmf_factors(state: Mapping[str, Any], num_users: int) -> Factors | None:
    """Return the factors whose parameters :func:`_gmf_state` has made."""
    user, item, weight, bias = (state[name] for name in _GMF_NAMES)
    holds_biases = user.shape[1] > 2 and (weight == 1).all() and not bias.any()
    if not holds_biases or not ((user[:, -1] == 1).all() and (item[:, -2] == 1).all()):
        return None
    parts = user[:, :-2], item[:, :-2], user[:, -2], item[:, -1]
    return Factors(*map(np.ascontiguousarray, parts))


def _counted(state: Mapping[str, Any], num_users: int) -> Factors | None:
    """Return the factors of counts of at least 0."""
    counts = np.asarray(state["counts"])
    return popularity_factors(counts, num_users) if (counts >= 0).all() else None


FORMS = {
    "mf": Form(
        "MF",
        0,
        True,
        _mf_forms,
        lambda factors, weights: dict(zip(MF_NAMES, factors, strict=True)),
        lambda state, num_users: Factors(*(state[name] for name in MF_NAMES)),
    ),
    "gmf": Form("GMF", 2, True, _gmf_forms, _gmf_state, _gmf_factors),
    "popularity": Form(
        "Popularity",
        0,
        False,
        lambda dim, num_users, num_items: {"counts": ((num_items,), "float64")},
        lambda factors, weights: {"counts": weights},
        _counted,
    ),
}
"""Forms of the models that have one, by name."""

NEEDS_NO_TRAINING = frozenset({"popularity"})
"""Models whose scores follow from the data."""


def has_vectors(model: str) -> bool:
    """Return whether the factors of a model have vectors that tell users and items apart."""
    return model not in NEEDS_NO_TRAINING


def dim_of_factors(stage: "Stage") -> int:
    """Return the length of a vector in the factors of a model, D."""
    form = FORMS.get(stage.model)
    return stage.dim - (form.num_fewer_dims if form is not None else 0)


def popularity_factors(item_weights: np.ndarray, num_users: int) -> Factors:
    """Return factors of U users who all have the same scores: the counts of the items, in float32.

    Where float32 would make two counts equal that are not, the larger one gets the next number, so that the order is
    that of the counts.

    Args:
        item_weights: (I,) float64 of at least 0, number of training interactions of each item, or the sum of their
            weights.
        num_users: U.
    """
    largest = np.finfo(np.float32).max
    values, place = np.unique(item_weights, return_inverse=True)
    number = np.arange(len(values))
    bits = np.minimum(values, largest).astype(np.float32).view(np.int32).astype(np.int64)  # in the order of the values
    bits = np.minimum(bits, int(largest.view(np.int32)) - number[::-1])
    bits = np.maximum.accumulate(bits - number) + number
    scores = bits.astype(np.int32).view(np.float32)[place]
    user_vectors, item_vectors = (np.zeros((rows, 1), dtype=np.float32) for rows in (num_users, len(item_weights)))
    return Factors(user_vectors, item_vectors, np.zeros(num_users, dtype=np.float32), scores)


def as_module(model: str, factors: Factors, item_weights: np.ndarray) -> "nn.Module":
    """Return a model of :data:`FORMS` as a module of torch.

    Args:
        model: name of the model.
        factors: its factors.
        item_weights: (I,) float64, see :func:`popularity_factors`.

    Raises:
        FastNCFError: torch is not installed.
    """
    from fastncf import models
    from fastncf.device import default_factories

    with default_factories():
        if model in NEEDS_NO_TRAINING:
            import torch

            module: nn.Module = models.get(model)(torch.from_numpy(item_weights))
        else:
            module = models.get(model).from_factors(factors)
        return module.eval()


def module_factors(module: "nn.Module", model: str, num_users: int, num_items: int) -> Factors | None:
    """Return factors with the scores of a module, copied; None where it is no plain module of a model of :data:`FORMS`.

    Args:
        module: on any device.
        model: name of the model.
        num_users: U.
        num_items: I.
    """
    from fastncf import models
    from fastncf.models.scorers import changed_forward

    try:
        is_plain = model in FORMS and type(module) is models.get(model) and changed_forward(module) is None
    except ConfigError:  # another class has the name
        return None
    if not is_plain:
        return None
    state = {name: tensor.detach().cpu().numpy() for name, tensor in module.state_dict().items()}
    if (factors := FORMS[model].from_state(state, num_users)) is not None:
        return factors._replace(
            user_vectors=factors.user_vectors[:num_users],
            item_vectors=factors.item_vectors[:num_items],
            user_bias=factors.user_bias[:num_users],
            item_bias=factors.item_bias[:num_items],
        )
    if model != "gmf":
        return None
    user, item, weight, bias = (state[name] for name in _GMF_NAMES)
    return Factors(user * weight, item, np.full(num_users, bias[0]), np.zeros(num_items, dtype=np.float32))
