"""Tables of a module that have a row for each user or each item, as its class names them."""

from typing import TYPE_CHECKING

from fastncf.errors import ConfigError, counted

if TYPE_CHECKING:
    from torch import nn


def named_tables(module: "nn.Module", noun: str, num_rows: int = 1) -> tuple[str, ...] | None:
    """Return the names of the parameters that have a row for each user or item; None where a module does not say.

    Args:
        module: any module.
        noun: ``user`` for its attribute ``user_tables``, or ``item`` for ``item_tables``.
        num_rows: rows that each of them needs.

    Raises:
        ConfigError: the attribute is no tuple of names, or a parameter is missing or has too few rows.
    """
    attribute = f"{noun}_tables"
    names = getattr(module, attribute, None)
    if names is None or names == ():
        return None
    told = f"{type(module).__name__:.80}.{attribute}={names!r:.80}"
    parameters = dict(module.named_parameters())
    if not isinstance(names, tuple) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{told}: expected a tuple of names of parameters, such as ('{noun}s.weight',)")
    for name in names:
        if name not in parameters:
            raise ConfigError(f"{told}: {name!r:.80} is no parameter; expected some of {', '.join(parameters):.200}")
        table = parameters[name]
        if table.dim() < 1 or len(table) < num_rows:
            shape = tuple(table.shape)
            raise ConfigError(
                f"{told}: {name:.80} has the shape {shape}; expected a table with {counted(num_rows, 'row')} at least"
            )
    return names
