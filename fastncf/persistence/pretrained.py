"""Saving and loading of :class:`~fastncf.models.pretrained.Pretrained` among the parameters of a model."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from fastncf.models.pretrained import Pretrained
from fastncf.persistence.arrays import require_finite
from fastncf.persistence.encoder import encoder_arrays, split_encoder
from fastncf.persistence.plain import UnexpectedError

_PREFIX = "pretrained."
_MAP = "map."


def pretrained_arrays(pretrained: Pretrained | None) -> dict[str, np.ndarray]:
    """Return what is kept as arrays by name; none where nothing is."""
    if pretrained is None:
        return {}
    arrays = {"item_vectors": pretrained.item_vectors, "item_bias": pretrained.item_bias}
    arrays |= {_MAP + name: one for name, one in pretrained.maps.items()} | encoder_arrays(pretrained.encoder)
    return {_PREFIX + name: array for name, array in arrays.items()}


def split_pretrained(
    parameters: Mapping[str, Any], num_items: int, dim: int, *, has_histories: bool
) -> tuple[dict[str, Any], Pretrained | None]:
    """Return the parameters without what is kept of the pretraining, and that, None where there is none.

    Args:
        parameters: arrays by name, those of the module included.
        num_items: I.
        dim: D, length of a vector in the factors of the pretraining.
        has_histories: whether there is an encoder among what is kept.

    Raises:
        UnexpectedError: an array is missing, unknown, or not as the module and the sizes have it.
    """
    own = {name.removeprefix(_PREFIX): array for name, array in parameters.items() if name.startswith(_PREFIX)}
    others = {name: array for name, array in parameters.items() if not name.startswith(_PREFIX)}
    if not own:
        return others, None
    own, encoder = split_encoder(own, num_items, dim)
    maps = {name.removeprefix(_MAP): array for name, array in own.items() if name.startswith(_MAP)}
    vectors, bias = own.pop("item_vectors", None), own.pop("item_bias", None)
    unknown = [name for name in own if not name.startswith(_MAP)]
    tables = {name: getattr(others.get(name), "shape", ()) for name in maps}
    if vectors is None or bias is None or unknown or not maps or (encoder is None) == has_histories:
        raise UnexpectedError(f"missing or unknown: {_PREFIX}{', '.join(unknown) or 'arrays'!s:.200}")
    forms = {"item_vectors": (vectors, (num_items, dim)), "item_bias": (bias, (num_items,))}
    forms |= {_MAP + name: (one, (dim + 2, *tables[name][1:])) for name, one in maps.items()}
    for name, (array, shape) in forms.items():
        if array.shape != shape or array.dtype != np.float32 or len(shape) > 2:
            found = f"shape {array.shape} and dtype {array.dtype}"
            raise UnexpectedError(f"{_PREFIX}{name} has {found}; expected {shape} and float32")
    require_finite({_PREFIX + name: array for name, (array, _) in forms.items()})
    return others, Pretrained(vectors, bias, encoder, maps)
