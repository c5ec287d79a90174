"""Plain values, as JSON holds them: parsed strictly, and read into the types that annotations state."""

import json
import math
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np

_LARGEST_INTEGER = 2**63
_IN_WORDS = {
    int: "an integer",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    tuple: "a list",
    list: "a list",
    dict: "an object",
    NoneType: "null",
}

Value = TypeVar("Value")


class UnexpectedError(ValueError):
    """A value that was read is not what was written; the message names it and says what is expected."""


def parse_json(content: bytes) -> Any:
    """Return the value of a JSON text.

    Raises:
        UnexpectedError: it is no JSON in UTF-8, is nested too deeply, or holds NaN, an infinity, or a name twice in an
            object.
    """
    try:
        return json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_object,
            parse_float=_finite,
            parse_constant=lambda name: _refuse(f"it holds {name}, which is not JSON"),
        )
    except RecursionError:
        raise UnexpectedError("it is nested too deeply") from None
    except UnexpectedError:
        raise
    except ValueError as error:
        raise UnexpectedError(f"it is not JSON: {error!s:.200}") from None


def dump_json(value: Any) -> str:
    """Return a value as JSON, with NumPy's numbers as numbers.

    Raises:
        UnexpectedError: JSON cannot hold it.
    """
    try:
        return json.dumps(value, allow_nan=False, default=_number)
    except (TypeError, ValueError, RecursionError) as error:
        raise UnexpectedError(f"it cannot be written as JSON: {error!s:.200}") from None


def canonical_json(value: Any) -> bytes:
    """Return JSON of a value that :func:`parse_json` returned: names in order, no blanks, ASCII; for a checksum."""
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode("ascii")


def finite_or_none(value: Any) -> Any:
    """Return dicts, lists and tuples of plain values with None for numbers that are not finite, which JSON lacks."""
    if isinstance(value, dict):
        return {name: finite_or_none(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_none(entry) for entry in value]
    return None if isinstance(value, float | np.floating) and not math.isfinite(value) else value


def as_numbers(values: dict[str, float | None]) -> dict[str, float]:
    """Return numbers with NaN for None, which :func:`finite_or_none` has put in its place."""
    return {name: math.nan if value is None else value for name, value in values.items()}


def read_plain(kind: type[Value], value: Any, name: str, *, may_lack: bool = False) -> Value:
    """Return a plain value as an instance of a dataclass.

    Args:
        kind: the dataclass, whose fields are numbers, text, literals, lists, tuples, dicts or dataclasses.
        value: what stands for it: an object with the names of all fields.
        name: what messages call it.
        may_lack: whether fields that have a default may be missing.

    Raises:
        UnexpectedError: a name is missing or unknown, or a value has another type.
        ConfigError: the dataclass refuses the values.
    """
    result: Value = _Reader(may_lack).read(kind, value, name)
    return result


class _Reader:
    """Reads plain values; see :func:`read_plain`."""

    def __init__(self, may_lack: bool) -> None:
        self._may_lack = may_lack

    def read(self, kind: Any, value: Any, name: str) -> Any:
        """Return a value as a type annotation states it."""
        origin = get_origin(kind) or kind
        if origin is Any:
            return value
        if is_dataclass(origin):
            return self._dataclass(origin, value, name)
        if origin in (UnionType, Union):
            return self._one_of([one for one in get_args(kind) if one is not NoneType], value, name)
        if origin is Literal:
            if not isinstance(value, str) or value not in get_args(kind):
                _fail(name, value, f"one of {', '.join(get_args(kind))}")
            return value
        read: dict[Any, Callable[[Any, Any, str], Any]] = {tuple: self._list, list: self._list, dict: self._dict}
        return read[origin](kind, value, name) if origin in read else _scalar(origin, value, name)

    def _one_of(self, kinds: list[Any], value: Any, name: str) -> Any:
        """Return a value as the first of some types that it is of, or None."""
        if value is None:
            return None
        for kind in kinds[:-1]:
            with suppress(UnexpectedError):
                return self.read(kind, value, name)
        return self.read(kinds[-1], value, name)

    def _list(self, kind: Any, value: Any, name: str) -> Any:
        """Return a list or a tuple of any length."""
        if not isinstance(value, list):
            _fail(name, value, _IN_WORDS[list])
        element = next(iter(get_args(kind)), Any)
        values = value if element is Any else [self.read(element, one, f"{name}[{at}]") for at, one in enumerate(value)]
        return tuple(values) if get_origin(kind) is tuple else values

    def _dict(self, kind: Any, value: Any, name: str) -> dict[str, Any]:
        """Return a dict whose keys are text."""
        if not isinstance(value, dict):
            _fail(name, value, _IN_WORDS[dict])
        element = get_args(kind)[1]
        return {key: self.read(element, one, f"{name}[{key!r:.40}]") for key, one in value.items()}

    def _dataclass(self, kind: Any, value: Any, name: str) -> Any:
        """Return a dataclass of the fields that an object names."""
        if not isinstance(value, dict):
            _fail(name, value, _IN_WORDS[dict])
        known = {field.name: field for field in fields(kind)}
        if unknown := [key for key in value if key not in known]:
            raise UnexpectedError(f"{name} has the unknown name {unknown[0]!r:.80}")
        missing = [key for key, field in known.items() if key not in value and not self._can_lack(field)]
        if missing:
            raise UnexpectedError(f"{name} has no {missing[0]}")
        kinds = get_type_hints(kind)
        return kind(**{key: self.read(kinds[key], one, f"{name}.{key}") for key, one in value.items()})

    def _can_lack(self, field: "Field[Any]") -> bool:
        return self._may_lack and (field.default is not MISSING or field.default_factory is not MISSING)


def _scalar(kind: Any, value: Any, name: str) -> Any:
    """Return a number, text or truth value that is of a type; an integer is a number as well."""
    accepted = (int, float) if kind is float else kind
    is_right = isinstance(value, accepted) and (kind is bool or not isinstance(value, bool))
    if is_right and isinstance(value, int):
        is_right = -_LARGEST_INTEGER <= value < 2 * _LARGEST_INTEGER
    if not is_right or (isinstance(value, float) and not abs(value) <= sys.float_info.max):
        _fail(name, value, _IN_WORDS[kind])
    return value


def _fail(name: str, value: Any, expected: str) -> NoReturn:
    """Raise an error for a value that is not what is expected."""
    shown = "null" if value is None else f"{value!r:.60}" if not isinstance(value, dict | list) else "a list or object"
    raise UnexpectedError(f"{name} is {shown}; expected {expected}")


def _refuse(message: str) -> NoReturn:
    raise UnexpectedError(message)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return the object of some names and values, each name once."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise UnexpectedError(f"it holds a name twice in one object, which has {len(pairs)} names")
    return found


def _finite(text: str) -> float:
    """Return a number of a JSON text, unless it is too large for a float."""
    value = float(text)
    if abs(value) > sys.float_info.max:
        raise UnexpectedError(f"it holds the number {text:.40}, which is too large")
    return value


def _number(value: Any) -> Any:
    """Return a number of NumPy as one of Python."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} is no number, text, list or dict")
