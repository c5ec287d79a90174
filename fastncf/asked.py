"""Arguments that fits, repetitions, searches and plans have in common, once for their callers and for their editors."""

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from fastncf.config import Config, Settings, require_known, show
from fastncf.errors import ConfigError
from fastncf.unused import Inputs

if TYPE_CHECKING:
    from torch import nn

_Function = TypeVar("_Function", bound=Callable[..., Any])
_COLUMNS = "user", "item", "time", "rating", "weight"
_OTHER_ARGUMENTS = "callback", "progress", "checkpoint", "resume", "max_memory"


class Asked(Settings, total=False):
    """Data and settings of a fit by name; an editor and a type checker mark a name that is none of these.

    :func:`fastncf.fit` says what those before the settings are, and :class:`Config` what each setting is.
    """

    test: Any
    candidates: Any
    user: str | None
    item: str | None
    time: str | None
    rating: str | None
    weight: str | None
    config: Config | None


def takes_asked(function: _Function) -> _Function:
    """Give a function that takes ``**asked: Unpack[Asked]`` a signature with each name, for notebooks and ``help``.

    Its docstring is that of a function with these parameters; the function itself is returned.
    """
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[:-1]
    settings = Config.__dataclass_fields__
    for name in Asked.__annotations__ | Settings.__annotations__:
        default = settings[name].default if name in settings else None
        parameters.append(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default))
    function.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return function


def read_asked(model: "str | nn.Module | None", asked: Asked) -> tuple[Config, Inputs]:
    """Return the settings of a fit, and its inputs beside them.

    Args:
        model: name of a model, a module of the user's own, or None for the model of the settings.
        asked: see :class:`Asked`; settings by name go before those of ``config``.

    Raises:
        ConfigError: a name is no setting, a value is out of range, or ``config`` is no Config.
    """
    given: dict[str, Any] = {**asked}
    columns = {role: given.pop(role, None) for role in _COLUMNS}
    test, candidates, config = (given.pop(name, None) for name in ("test", "candidates", "config"))
    if config is not None and not isinstance(config, Config):
        raise ConfigError(f"config={show(config)}: expected a fastncf.Config")
    if isinstance(model, str):
        given["model"] = model
    require_known(given, "test", "candidates", "config", *_COLUMNS, *_OTHER_ARGUMENTS)
    module = None if model is None or isinstance(model, str) else model
    return replace(config or Config(), **given), Inputs(test, candidates, columns, module)
