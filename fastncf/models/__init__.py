"""The models as ``nn.Module``: each scores (users, items) with logits, higher is better. Losses are free functions.

``forward(users, items)`` takes int tensors whose shapes broadcast against each other and returns scores of the
broadcast shape: ``users`` (B, 1) with ``items`` (B, 1+K) does a user's part of the work once for its 1+K items.
"""

from typing import Any

import torch
from torch import Tensor, nn

from fastncf.config import Config
from fastncf.models.gmf import GMF
from fastncf.models.mf import MF
from fastncf.models.mlp import MLP
from fastncf.models.neumf import NeuMF
from fastncf.models.popularity import Popularity
from fastncf.rng import Stream, key


def build(config: Config, num_users: int, num_items: int, counts: Tensor) -> nn.Module:
    """The model that ``config`` names, its parameters drawn on the CPU with the seed: the same for every device.

    Args:
        config: names the model and its sizes; with its recipe, see :meth:`Config.with_recipe`.
        num_users: U.
        num_items: I.
        counts: (I,) training interactions of each item.
    """
    generator = torch.Generator().manual_seed(key(config.seed, Stream.PARAMETERS) >> 1)
    assert config.dim is not None
    sizes = num_users, num_items, config.dim
    std: dict[str, Any] = {} if config.init_std is None else {"std": config.init_std}
    if config.model == "mf":
        return MF(*sizes, generator, **std)
    if config.model == "gmf":
        return GMF(*sizes, generator, **std)
    if config.model == "mlp":
        return MLP(*sizes, config.layers, generator, dropout=config.dropout, **std)
    if config.model == "neumf":
        return NeuMF(*sizes, config.layers, generator, mlp_dim=config.mlp_dim, dropout=config.dropout, **std)
    return Popularity(counts.double())
