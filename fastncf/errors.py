"""Exceptions and warnings of fastncf, for mistakes that a user can correct, and text that is safe to print."""

import re
from typing import Any

MAX_MESSAGE_LENGTH = 500
"""Number of characters beyond which a message is shortened."""

_UNPRINTABLE = re.compile(
    "["
    "\\x00-\\x1f\\x7f-\\x9f"  # control characters, with which escape sequences of terminals begin
    "\\u061c\\u200b\\u200e\\u200f\\u202a-\\u202e\\u2060-\\u206f\\ufeff"  # directions of writing, and invisible ones
    "\\u2028\\u2029"  # ends of lines and paragraphs
    "\\ud800-\\udfff"  # surrogates: bytes of a file name that are not UTF-8
    "\\ufff9-\\ufffb\\U000e0000-\\U000e007f"  # annotations and tags
    "]"
)


def printable(text: str) -> str:
    """Return text as one line without anything that a terminal obeys; such characters are escaped as in ``repr``.

    Control characters, with which the escape sequences of terminals begin, ends of lines, characters that change the
    direction of writing or are invisible, and surrogates become ``\\x1b``, ``\\n`` or ``\\u202e``. Everything else is
    kept, the backslash too, so that a second call changes nothing.
    """
    return _UNPRINTABLE.sub(lambda match: ascii(match[0])[1:-1], text)


def short_message(text: str) -> str:
    """Return printable text of at most :data:`MAX_MESSAGE_LENGTH` characters, without the middle of a longer one."""
    text = printable(text)
    if len(text) <= MAX_MESSAGE_LENGTH:
        return text
    gap = " ... "
    half = (MAX_MESSAGE_LENGTH - len(gap)) // 2
    return text[:half] + gap + text[-half:]


def first_line(error: BaseException) -> str:
    """Return the first line of the message of an error, or the name of its class where the message is empty."""
    return next(iter(str(error).splitlines()), "").strip() or type(error).__name__


class FastNCFError(Exception):
    """Base class of all exceptions that fastncf raises on purpose.

    Args:
        message: one sentence that names the source of the mistake first and what was expected last. Control characters
            are escaped, see :func:`printable`. Of a message that is longer than :data:`MAX_MESSAGE_LENGTH`, because it
            quotes a long path or many columns, the middle is left out.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(short_message(message))


class DataError(FastNCFError, ValueError):
    """The input data cannot be used; the message names the source, column, row or line, and what is expected."""


class DataNotFoundError(FastNCFError, FileNotFoundError):
    """A file or folder that was named does not exist."""


class ConfigError(FastNCFError, ValueError):
    """A setting is out of its range, or two settings exclude each other."""


class UnusedSettingWarning(UserWarning):
    """A setting was given that has no effect beside the others; the message names it and says why."""


class DeviceError(FastNCFError, RuntimeError):
    """The requested device is not available, or has too little memory."""


class DistributedError(FastNCFError, RuntimeError):
    """Processes that train together differ in what they were given, or one of them has ended."""


class ForkError(FastNCFError, RuntimeError):
    """A forked process was asked for what needs threads, or a CUDA device, that only its parent can use."""


class InsufficientMemoryError(FastNCFError, MemoryError):
    """The memory of the machine, or the limit of the process or container, does not suffice.

    The message names the section of the fit, what was needed and what there is, and which settings need less.
    """


class DivergedError(FastNCFError, ArithmeticError):
    """The training led to parameters, a loss or scores that are not finite.

    Attributes:
        recommender: the :class:`~fastncf.Recommender` with the parameters of the last epoch after which all were
            finite, and without metrics. None where there is no such epoch, or where a model from which another one
            is made diverged.
    """

    def __init__(self, message: str = "", recommender: Any = None) -> None:
        super().__init__(message)
        self.recommender = recommender


def type_name(value: Any) -> str:
    """Return the name of the class of a value with its article, such as ``an int`` or ``a dict``."""
    name = type(value).__name__
    return f"{'an' if name[:1].lower() in 'aeiou' or name.startswith('nd') else 'a'} {name:.80}"


def counted(number: int, one: str, several: str | None = None) -> str:
    """Return a number of things in words, such as ``1 user`` and ``2,000 users``.

    Args:
        number: of things.
        one: what follows the number 1, such as "user", or "row lacks a time".
        several: what follows other numbers; None for ``one`` with an s at its end.
    """
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def format_bytes(count: int) -> str:
    """Return a number of bytes as people write it, such as ``2.1 GB``."""
    for unit, size in (("TB", 10**12), ("GB", 10**9)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count / 10**6:,.1f} MB"
