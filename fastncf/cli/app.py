"""The application: how a command line is parsed, and the types of what all commands take."""

import os
import tomllib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

from cyclopts import App, ArgumentCollection, Parameter
from cyclopts.config import Dict

from fastncf.config import Config
from fastncf.errors import ConfigError, DataError, DataNotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cyclopts import Token


class SettingsFileError(ConfigError):
    """A file of settings has one that cannot be used; its message names settings as the file does."""


app = App(
    name="fastncf",
    help="From a ratings file to a collaborative filtering model: fit it, evaluate it, get recommendations.",
    version_flags=["--version"],
    help_epilogue=(
        "Exit codes: 0 fine; 1 a result or a model could not be written, or another error at run time; 2 wrong usage "
        "or setting; 3 data that cannot be used; 4 a device that is not available, or too little memory; 130 "
        "interrupted by Ctrl-C; 129 ended by SIGHUP; 141 the reader of the output is gone; 143 ended by SIGTERM."
    ),
    suppress_keyboard_interrupt=False,
    default_parameter=Parameter(negative_iterable=()),
    config=[
        lambda *given: _split_at_commas(*given),
        lambda *given: _require_integers(*given),
        lambda *given: _config_file(*given),
        lambda *given: _notebook_recipe(*given),
    ],
)


def _path(_: object, tokens: "Sequence[Token]") -> Path:
    """Return a path with ``~`` as the home directory, which a shell leaves as it is in ``--out=~/model``."""
    value = tokens[0].value
    if not value or "\0" in value:
        raise ValueError("the path is empty or has a NUL character; expected the name of a file or folder")
    return Path(os.path.expanduser(value))


PathArgument = Annotated[Path, Parameter(converter=_path)]


@Parameter(name="*")
@dataclass(frozen=True)
class Columns:
    """Names of the columns, where they are not among those that are recognised."""

    user: str | None = None
    """Name of the user column; without a header the columns are called column_1, column_2 and so on."""

    item: str | None = None
    """Name of the item column."""

    time: str | None = None
    """Name of the time column."""

    rating: str | None = None
    """Name of the rating column for --min-rating."""

    weight: str | None = None
    """Name of a column of weights, such as counts, that the losses of the interactions are multiplied by."""


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """Options of all commands; what they do is done where a command line is run."""

    quiet: Annotated[bool, Parameter(name=["--quiet", "-q"], negative="")] = False
    """Print the result and errors alone: no progress, no notes, no warnings."""

    verbose: Annotated[bool, Parameter(name=["--verbose", "-v"], negative="")] = False
    """Also print when each section of a fit begins and each epoch ends."""

    debug: Annotated[bool, Parameter(name="--debug", negative="")] = False
    """Show the traceback of an error."""


OutArgument = Annotated[Path, Parameter(name=["--out", "-o"], converter=_path)]
Length = Annotated[int, Parameter(name=["--k", "-k"])]
Lengths = Annotated[list[int] | None, Parameter(name=["--k", "-k"])]
Flag = Annotated[bool, Parameter(negative="")]
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON object in place of the text.")]
_SPLIT = "--k", "--layers", "--metrics"
"""Options whose values may be separated by commas, which ids of users and items may have in them."""

ConfigFile = Annotated[
    Path,
    Parameter(
        name="--config",
        converter=_path,
        help="TOML file of settings, such as epochs = 20; options that are given take precedence.",
    ),
]


def as_utf8(text: str) -> str:
    """Return an argument as the UTF-8 that data are in, where the locale could not decode it."""
    if any("\udc80" <= character <= "\udcff" for character in text):
        return os.fsencode(text).decode("utf-8", "surrogateescape")
    return text


def column_names(columns: Columns | None) -> dict[str, str | None]:
    """Return the names of the columns that were given."""
    return {role: None if name is None else as_utf8(name) for role, name in asdict(columns or Columns()).items()}


def option_names(tokens: list[str]) -> set[str]:
    """Return the names of the options of the command that a command line begins with."""
    if not tokens or tokens[0] not in app:
        return set()
    return {name for argument in app[tokens[0]].assemble_argument_collection() for name in argument.names}


def types_of(hint: Any) -> set[Any]:
    """Return the types that a type is made of, such as tuple and int for ``tuple[int, ...] | None``."""
    return {hint, get_origin(hint)}.union(*map(types_of, get_args(hint)))


def takes_several(hint: Any) -> bool:
    """Return whether an option of a type takes several values."""
    return not types_of(hint).isdisjoint((list, tuple))


def _split_at_commas(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Give an option once for each of the values that commas separate, as in ``--layers 64,32``."""
    for argument in arguments:
        if argument.name in _SPLIT and takes_several(argument.hint):
            argument.tokens = [
                token.evolve(value=value) for token in argument.tokens for value in _separated(token.value)
            ]


def _separated(text: str) -> list[str]:
    """Return the values that commas separate; a list in brackets, or with an empty value, is one text."""
    values = [value.strip() for value in text.split(",")]
    return values if all(values) and not text.startswith("[") else [text]


def _require_integers(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """Raise a ConfigError for a fraction where an integer is expected, which would be rounded otherwise."""
    for argument in arguments:
        for token in argument.tokens if int in types_of(argument.hint) else ():
            if "." in token.value:
                raise ConfigError(f"{argument.name} {token.value}: expected an integer")


def _config_file(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """With --config, fill every flag that was not given and that the file has."""
    for argument in arguments:
        for token in argument.tokens if argument.name == "--config" else ():
            settings = read_settings(_path(None, [token]))
            flags = {name.replace("_", "-"): value for name, value in settings.items()}
            Dict(flags, use_commands_as_keys=False, source=token.value)(app, commands, arguments)
            return


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings of a TOML file, which are those of :class:`~fastncf.config.Config` by their names.

    Raises:
        DataNotFoundError: there is no such file.
        DataError: it cannot be read.
        ConfigError: it is no TOML, a name is unknown, that of an option for one call or there in two spellings, or the
            settings cannot be used.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise DataNotFoundError(f"{path}: no such file") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except ValueError as error:  # a TOMLDecodeError and a UnicodeDecodeError are ValueErrors
        raise ConfigError(f"{path}: is no TOML ({error!s:.200}); expected lines such as epochs = 20") from None
    try:
        settings: dict[str, Any] = {}
        for name, value in values.items():
            if (setting := name.replace("-", "_")) in settings:
                raise ConfigError(f"{setting}: is given in two spellings; expected it once")
            settings[setting] = value
        for name in sorted(settings.keys() - Config.__dataclass_fields__.keys()):
            if (option := f"--{name.replace('_', '-')}") in option_names(["fit"]):
                raise ConfigError(f"{name} is no setting; expected it on the command line, as {option}")
        Config.from_dict(settings)
    except ConfigError as error:
        raise SettingsFileError(f"{path}: {error!s:.400}") from None
    return settings


def _notebook_recipe(app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
    """With --notebook, fill every flag of the recipe that was not given."""
    if any(argument.name == "--notebook" and argument.tokens for argument in arguments):
        recipe, plain = Config.notebook().to_dict(), Config().to_dict()
        flags = {name.replace("_", "-"): value for name, value in recipe.items() if value != plain[name]}
        Dict(flags, use_commands_as_keys=False, source="--notebook")(app, commands, arguments)
