"""Mistakes as one sentence, and their exit codes."""

import os
import re
import shlex
from collections.abc import Collection
from typing import Any

from cyclopts import (
    CoercionError,
    CycloptsError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
)

from fastncf.cli.app import takes_several, types_of
from fastncf.errors import (
    ConfigError,
    DataError,
    DataNotFoundError,
    DeviceError,
    DivergedError,
    FastNCFError,
    InsufficientMemoryError,
    short_message,
)
from fastncf.streams import OutputError, Terminated
from fastncf.suggestions import nearest_name

EXIT_CODES = {
    DataError: 3,
    DataNotFoundError: 3,
    DeviceError: 4,
    InsufficientMemoryError: 4,
    ConfigError: 2,
    DivergedError: 1,
}


def explain(error: BaseException) -> tuple[str | None, int]:
    """Return a sentence on an error, or None where nobody wants one, and the exit code."""
    match error:
        case OutputError(reader_left=True):
            return None, 141
        case OutputError():
            return f"standard output: cannot be written ({error})", 1
        case Terminated():
            return str(error), 128 + error.number
        case KeyboardInterrupt():
            return str(error) or "interrupted", 130
        case CycloptsError():
            return _usage_message(error), 2
        case FastNCFError():
            return str(error), next((code for kind, code in EXIT_CODES.items() if isinstance(error, kind)), 1)
        case OSError(filename=name, strerror=reason) if name is not None and reason is not None:
            return f"{os.fsdecode(name) if isinstance(name, bytes) else name}: {reason}", 1
    return (
        f"internal error: {type(error).__name__}: {short_message(str(error)):.300}; run again with --debug for the "
        f"traceback and report it",
        1,
    )


_VALUE = r"""'[^']*'|"[^"]*"|\.\.\.|\([^()]*\)|\[[^][]*\]|[\w.+-]+"""
_SETTING = re.compile(rf"(?<![^\s(])([a-z]\w*)=({_VALUE}|(?=[\s,;.:)]|$))")
_NAME = re.compile(r"(?<![^\s(])([a-z]+(?:_[a-z]+)+)(?=[\s,;)]|$)")
_FRAMES = re.compile(r", (a|or a) polars or a pandas frame")
_PASSED = re.compile(r"\bpass ((?:the|a) frame .*)")
"""Advice to pass a frame, which a command line does not take, at the end of a message."""

_WHOLE = re.compile(r"^(-?\d+)\.0$")
"""A whole number as a float, which a shell writes without its fraction."""

_REFIT = re.compile(r"(?<![^\s])refit\(\)")


def as_options(message: str, options: Collection[str]) -> str:
    """Return a message in which settings of Python, such as ``unknown='skip'``, are written as options of a command.

    Args:
        message: an error or a warning of the package.
        options: names of the options of the command, such as ``--unknown``; other settings stay as they are.
    """

    def as_option(found: re.Match[str]) -> str:
        name, value = found[1].replace("_", "-"), found[2]
        if f"--{name}" not in options:  # those of generate are called as the things that they count
            name = name.removeprefix("num-")
        option, negative = f"--{name}", f"--no-{name}"
        if option not in options:
            return found[0]
        if value in ("", "True"):
            return option
        if value == "False":
            return negative if negative in options else found[0]
        return f"{option} {_as_argument(value)}"

    def as_name(found: re.Match[str]) -> str:
        option = f"--{found[1].replace('_', '-')}"
        return option if option in options else found[0]

    message = _NAME.sub(as_name, _SETTING.sub(as_option, message))
    message = _FRAMES.sub("", _REFIT.sub("--refit", message))
    return _PASSED.sub(r"write \1 to a Parquet file", message)


def _as_argument(value: str) -> str:
    """Return a value of Python as a shell takes it: text without quotes, and the values of a tuple with commas."""
    if value[0] in "'\"":
        return shlex.quote(value[1:-1])
    if value[0] in "([":
        return value[1:-1].rstrip(",").replace(" ", "")
    return "none" if value == "None" else _WHOLE.sub(r"\1", value)


USAGE = {
    "fit": "fastncf fit RATINGS",
    "plan": "fastncf plan RATINGS",
    "tune": "fastncf tune RATINGS --minutes MINUTES",
    "evaluate": "fastncf evaluate MODEL",
    "compare": "fastncf compare MODEL MODEL ...",
    "recommend": "fastncf recommend MODEL --user ID, --users FILE, --all-users or --history ITEMS",
    "update": "fastncf update MODEL ROWS --out FOLDER",
    "info": "fastncf info MODEL",
    "report": "fastncf report MODEL",
    "similar": "fastncf similar MODEL --item ID or --user ID",
    "export": "fastncf export MODEL OUT",
    "generate": "fastncf generate PATH",
    "datasets": "fastncf datasets",
}


_NEEDED = {
    "--ratings": "a ratings file",
    "--model": "the folder of a saved model",
    "--first": "the folders of two saved models or more",
    "--out": "the name of a file or folder to write",
    "--minutes": "a budget, such as --minutes 10",
    "--rows": "a file of new interactions",
    "--path": "the name of a file to write",
}
"""Required arguments in words, by the names of their parameters."""


def _expected(hint: Any) -> str | None:
    """Return in words which numbers an option of a type takes, and which names beside them; None for names alone."""
    types = types_of(hint)
    if types.isdisjoint((int, float)):
        return None
    number = "an integer" if int in types else "a number"
    names = [str(kind) for kind in types if isinstance(kind, str)]
    if takes_several(hint):
        return f"{number}, or several separated by commas"
    return f"{number} or one of {', '.join(sorted(names))}" if names else number


def _usage_message(error: CycloptsError) -> str:
    """Return a sentence on a command line that cannot be parsed."""
    command = error.command_chain[0] if error.command_chain else ""
    usage = USAGE.get(command, "fastncf COMMAND")
    match error:
        case MissingArgumentError(keyword=None, argument=argument) if argument and argument.name in _NEEDED:
            return f"{command} needs {_NEEDED[argument.name]}: {usage}"
        case MissingArgumentError(keyword=str(keyword)):
            return f"{keyword} needs a value; one that starts with a dash is given as {keyword}=VALUE"
        case UnusedCliTokensError(unused_tokens=[unused, *_]):
            return f"unexpected argument {unused!r}; expected: {usage}"
        case UnknownOptionError(token=token, argument_collection=arguments):
            option = (token.keyword or token.value).partition("=")[0]
            known = [name.lstrip("-") for argument in arguments for name in argument.names if name.startswith("--")]
            meant = nearest_name(option.lstrip("-"), known)
            hint = f"Did you mean --{meant}?" if meant else f"See fastncf {command} --help."
            return f"Unknown option: {option}. {hint}"
        case RepeatArgumentError(token=token):
            return f"{token.keyword}: is given more than once; expected it once"
        case CoercionError(token=token, argument=argument) if argument and _expected(argument.hint):
            value = token.value if token else ",".join(token.value for token in argument.tokens)
            return f"{argument.name} {value!r:.80}: expected {_expected(argument.hint)}"
        case UnknownCommandError(unused_tokens=[unused, *_]) if unused.startswith("-"):
            return f"{unused}: expected a command before it, one of {', '.join(USAGE)}; see fastncf --help"
        case UnknownCommandError(unused_tokens=[unused, *_]):
            meant = nearest_name(unused, USAGE)
            hint = f"did you mean {meant}? " if meant else ""
            return f"{unused!r:.80} is no command; {hint}expected one of {', '.join(USAGE)}"
    return str(error)
