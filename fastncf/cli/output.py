"""Printing of results to stdout."""

import json
import math
import os
import sys
from itertools import combinations
from pathlib import Path
from typing import Any, TextIO

from fastncf.errors import ConfigError, printable

_WORDS = ("gini",)
"""Short names of metrics that are no abbreviations."""


def print_lines(*lines: str, file: TextIO | None = None) -> None:
    """Print lines of text, of which each stays one line, to stdout or a stream."""
    print("\n".join(map(printable, lines)), file=file)


def tell(note: str) -> None:
    """Print a note to stderr."""
    print_lines(note, file=sys.stderr)


def print_json(value: dict[str, Any]) -> None:
    """Print one JSON object on a line; numbers that are not finite, which JSON does not have, are null."""
    from fastncf.persistence.plain import finite_or_none  # imports NumPy

    print(json.dumps(finite_or_none(value), allow_nan=False))


def print_path(path: Path, *, as_json: bool) -> None:
    """Print the path of what was written, as a line or as the member ``out`` of a JSON object."""
    if as_json:
        print_json({"out": str(path)})
    else:
        print_lines(str(path))


def require_apart(**outputs: Path | None) -> None:
    """Check, before anything is written, that no output of a command takes the place of another one.

    Args:
        **outputs: files or folders by the names of their options, those first that have to find nothing in their place.

    Raises:
        ConfigError: two are the same, or one is in the folder of one before.
    """
    given = [(name, path, Path(os.path.realpath(path))) for name, path in outputs.items() if path is not None]
    for (first, folder, place), (name, path, other) in combinations(given, 2):
        if other.is_relative_to(place):
            where = "the same place as" if other == place else "in the folder of"
            raise ConfigError(f"--{name} {path}: is {where} --{first} {folder}; expected another one")


def metric_lines(
    metrics: dict[str, float],
    errors: dict[str, float] | None = None,
    popularity: dict[str, float] | None = None,
    *,
    spread: str = "standard error over users",
) -> list[str]:
    """Return metrics as lines of text, with what is behind ± and those of the most popular items where known.

    Args:
        metrics: values by their labels.
        errors: numbers behind ± by the same labels.
        popularity: metrics of the most popular items by the same labels.
        spread: what the numbers behind ± are.
    """
    lines, is_told = [], False
    width = max(14, *(len(_label(name)) for name in metrics)) if metrics else 14
    for name, value in metrics.items():
        line = f"{_label(name):<{width}} {value:.4f}"
        if errors and math.isfinite(errors.get(name, math.nan)):
            line += f" ± {errors[name]:.4f}"
            is_told = True
        if popularity and name in popularity:
            line += f"   popularity {popularity[name]:.4f}"
        lines.append(line)
    return [*lines, f"±: {spread}"] if is_told else lines


def _label(name: str) -> str:
    """Return the name of a metric as papers write it."""
    prefix, _, rest = name.rpartition("/")
    name, at, k = rest.partition("@")
    is_word = len(name) > 4 or name in _WORDS
    return f"{prefix} " * bool(prefix) + (name.capitalize() if is_word else name.upper()) + at + k


def print_frame(frame: Any) -> None:
    """Print a polars frame as a table that is separated by tabs."""
    print("\t".join(frame.columns))
    for row in frame.iter_rows():
        print("\t".join(map(_table_field, row)))


def _table_field(value: object) -> str:
    """Return a value as a field of a table that is separated by tabs; a backslash in it always starts an escape.

    A missing title is an empty field.
    """
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else printable(str(value).replace("\\", r"\\"))
