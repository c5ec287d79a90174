"""Models, each in a file of its own, found by name; torch is imported when a model is first asked for.

A model is an ``nn.Module`` that scores pairs of users and items. Higher scores are better; losses take the scores as
logits. The file ``fastncf/models/NAME.py`` holds the model that is called NAME, and a class from elsewhere is added by
:func:`register`. A registered class has:

- ``build(stage, num_users, num_items, item_counts, generator)``, a class method: see :class:`ModelClass`.
- ``forward(user_ids, item_ids)``: scores of the pairs. A user is known by an id. Both tensors are int32 or int64 on
  the model's device. A module of the user's own gets two of shape (n,) and returns n scores. A class with
  ``broadcasts_ids = True`` gets tensors whose shapes broadcast against each other, such as ``user_ids`` (B, 1) and
  ``item_ids`` (B, 1 + K), and returns scores of the broadcast shape: the user's part of the work is then done once for
  all 1 + K items.
- ``scorer()``, optional: a :class:`~fastncf.models.scorers.Scorer` that computes the same scores faster. It is used
  only for objects of the very class that defines it, since a subclass may compute other scores.
- ``user_tables``, optional: a tuple of the names of the parameters that have a row for each user, such as
  ``("user_embedding.weight",)``. The rows of users who were not trained on can then be solved for.
- ``item_tables``, optional: the same for items. Where ``forward`` reads no rows of ``user_tables`` and ``item_tables``
  but those of ``user_ids`` and ``item_ids``, and uses the ids for nothing else, a class that names both has these rows
  divided among the processes that train it.
- ``item_vectors()`` and ``user_vectors()``, optional: (I, D) and (U, D) float, vectors whose cosines say which items,
  or users, are similar.
"""

import importlib
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from fastncf.errors import ConfigError
from fastncf.memory import torch_needed_by
from fastncf.rng import Stream, key

if TYPE_CHECKING:
    import numpy as np
    from torch import Generator, Tensor, nn

    from fastncf.stage import Stage

FACTOR_MODELS = frozenset({"mf"})
"""Models whose loss is chosen where it is left open, since softmax over histories suits them."""

_SUPPORT_MODULES = frozenset({"factored", "layers", "losses", "pretrained", "scorers", "state", "tables"})
"""Files of this folder that are no models."""


class ModelClass(Protocol):
    """A class that can be registered as a model."""

    @classmethod
    def build(
        cls,
        stage: "Stage",
        num_users: int,
        num_items: int,
        item_counts: "np.ndarray | Tensor",
        generator: "Generator",
    ) -> "nn.Module":
        """Return an untrained model on the CPU.

        Args:
            stage: sizes of the layers and the standard deviation of the first embedding vectors.
            num_users: U.
            num_items: I.
            item_counts: (I,) number of training interactions of each item, or the sum of their weights.
            generator: draws the parameters, on the CPU.
        """


_classes: dict[str, type[ModelClass]] = {}
Registered = TypeVar("Registered", bound=type[ModelClass])


def names() -> tuple[str, ...]:
    """Return the names of all models in alphabetical order."""
    return tuple(sorted(_files() | _classes.keys()))


def register(name: str) -> Callable[[Registered], Registered]:
    """Return a decorator that adds a class under ``name``.

    The same class may be registered again, as happens where a cell of a notebook is run twice.

    Raises:
        ConfigError: the name belongs to another class (when a class is decorated).
    """

    def add(cls: Registered) -> Registered:
        other = _classes.get(name)
        if other is not None:
            taken = (other.__module__, other.__qualname__) != (cls.__module__, cls.__qualname__)
        else:
            taken = name in _files() and cls.__module__ != f"{__name__}.{name}"
        if taken:
            raise ConfigError(f"model={name!r}: belongs to another class; expected a name besides {', '.join(names())}")
        _classes[name] = cls
        return cls

    return add


def get(name: str) -> Any:
    """Return the class of a model by its name, a :class:`ModelClass` with class methods of its own.

    Raises:
        ConfigError: there is no model of that name.
    """
    if name not in _classes and name in _files():
        with torch_needed_by(f"model={name!r}"):
            importlib.import_module(f"{__name__}.{name}")
        if name not in _classes:
            raise ConfigError(f"fastncf/models/{name}.py: expected a class decorated with @register({name!r})")
    if name not in _classes:
        raise ConfigError(f"model={name!r}: expected one of {', '.join(names())}")
    return _classes[name]


def build(stage: "Stage", num_users: int, num_items: int, item_counts: "np.ndarray | Tensor") -> "nn.Module":
    """Return the untrained model that a stage names, on the CPU.

    The parameters are drawn on the CPU from the seed, so that they are the same for every device, and whatever torch's
    default dtype and device are.

    Args:
        stage: names the model and its sizes.
        num_users: U.
        num_items: I.
        item_counts: (I,) number of training interactions of each item, or the sum of their weights.

    Raises:
        ConfigError: there is no model of that name.
    """
    from fastncf.device import default_factories

    with default_factories():
        return _build(stage, num_users, num_items, item_counts)


def _build(stage: "Stage", num_users: int, num_items: int, item_counts: "np.ndarray | Tensor") -> "nn.Module":
    """Return the model of :func:`build` on torch's default device."""
    import torch

    from fastncf.device import seeded

    seed = key(stage.seed, Stream.PARAMETERS) >> 1
    with seeded(torch.device("cpu"), seed):  # for models that do not draw from the given generator
        return get(stage.model).build(
            stage, num_users, num_items, item_counts, torch.Generator("cpu").manual_seed(seed)
        )


def parameter_forms(stage: "Stage", num_users: int, num_items: int) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return shape and dtype of each parameter and buffer of the model that a stage names; the model takes no memory.

    Args:
        stage: names the model and its sizes.
        num_users: U.
        num_items: I.

    Raises:
        ConfigError: there is no model of that name.
        Exception: what the model raises that cannot be built with such sizes, or on torch's device ``meta``.
    """
    import torch

    model = build_empty(stage, num_users, num_items)
    tensors = {name: one for name, one in model.state_dict().items() if isinstance(one, torch.Tensor)}
    return {name: (tuple(one.shape), str(one.dtype).removeprefix("torch.")) for name, one in tensors.items()}


def build_empty(stage: "Stage", num_users: int, num_items: int) -> "nn.Module":
    """Return the model that a stage names on torch's device ``meta``: its tensors have shapes and no memory.

    Args:
        stage: names the model and its sizes.
        num_users: U.
        num_items: I.

    Raises:
        ConfigError: there is no model of that name.
        Exception: what the model raises that cannot be built with such sizes, or on this device.
    """
    import torch

    from fastncf.device import default_factories

    with default_factories(), torch.device("meta"):
        return _build(stage, num_users, num_items, torch.zeros(num_items, device="cpu"))


def _files() -> set[str]:
    """Return the names of the models that have a file in this folder."""
    names = (name.partition(".")[0] for folder in __path__ for name in os.listdir(folder))
    return {name for name in names if not name.startswith("_")} - _SUPPORT_MODULES
