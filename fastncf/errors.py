"""Exceptions of fastncf, raised for mistakes that a user can correct."""

from typing import Any

MAX_MESSAGE_LENGTH = 500
"""Number of characters beyond which a message is shortened."""


class FastNCFError(Exception):
    """Base class of all exceptions that fastncf raises on purpose.

    Args:
        message: one sentence that names the source of the mistake first and what was expected last. Of one that is
            longer than :data:`MAX_MESSAGE_LENGTH`, because it quotes a long path or many columns, the middle is left
            out.
    """

    def __init__(self, message: str = "") -> None:
        if len(message) > MAX_MESSAGE_LENGTH:
            gap = " ... "
            half = (MAX_MESSAGE_LENGTH - len(gap)) // 2
            message = message[:half] + gap + message[-half:]
        super().__init__(message)


class DataError(FastNCFError, ValueError):
    """The input data cannot be used; the message names the source, column, row or line, and what is expected."""


class DataNotFoundError(FastNCFError, FileNotFoundError):
    """A file or folder that was named does not exist."""


class ConfigError(FastNCFError, ValueError):
    """A setting is out of its range, or two settings exclude each other."""


class DeviceError(FastNCFError, RuntimeError):
    """The requested device is not available, or has too little memory."""


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
