"""New items in a module whose items have rows in tables."""

from typing import TYPE_CHECKING

import numpy as np

from fastncf.errors import ConfigError, counted
from fastncf.models.tables import named_tables
from fastncf.serving.module_users import with_tables

if TYPE_CHECKING:
    from torch import nn


def item_table_names(module: "nn.Module") -> tuple[str, ...]:
    """Return the names of the parameters that have a row for each item; none where a module does not say."""
    return named_tables(module, "item") or ()


def with_new_items(module: "nn.Module", new_index: np.ndarray, num_items: int) -> "nn.Module":
    """Return a module with a larger catalogue, whose new items have the mean of the other items' rows.

    All other parameters are shared with the module that is given.

    Args:
        module: of I items.
        new_index: (I,), what the index of each of its items is afterwards.
        num_items: of the larger catalogue.

    Raises:
        ConfigError: the module does not name its tables of items.
    """
    import torch

    names = item_table_names(module)
    if not names:
        raise ConfigError(
            f"update: {counted(num_items - len(new_index), 'new item')} came, and {type(module).__name__:.80} does not "
            f"name its tables of items; expected item_tables in its class, or unknown='skip' without epochs"
        )
    parameters, tables = dict(module.named_parameters()), {}
    for name in names:
        trained = parameters[name].detach()[: len(new_index)]
        table = trained.mean(0, keepdim=True).repeat(num_items, *[1] * (trained.dim() - 1))
        table[torch.from_numpy(new_index.astype(np.int64)).to(table.device)] = trained
        tables[name] = table
    return with_tables(module, tables)
