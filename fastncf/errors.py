"""Exceptions and warnings of fastncf, for mistakes that a user can correct."""

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


class UnusedSettingWarning(UserWarning):
    """A setting was given that has no effect beside the others; the message names it and says why."""


class DeviceError(FastNCFError, RuntimeError):
    """The requested device is not available, or has too little memory."""
