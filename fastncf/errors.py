"""The errors that fastncf raises for what a user can mend."""


class FastNCFError(Exception):
    """Base of every error that fastncf raises on purpose."""


class DataError(FastNCFError, ValueError):
    """The interactions cannot be used as they are; the message says where and what would be accepted."""


class DataNotFoundError(FastNCFError, FileNotFoundError):
    """A file that was named does not exist."""


class ConfigError(FastNCFError, ValueError):
    """A setting is out of its range, or two settings exclude each other."""


class DeviceError(FastNCFError, RuntimeError):
    """The device that was asked for is not available, or its memory does not suffice."""
