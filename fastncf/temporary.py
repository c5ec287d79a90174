"""Room for temporary files, which are in the folder of the environment variable ``TMPDIR``."""

import os
import shutil
import tempfile
from contextlib import ExitStack
from typing import IO

from fastncf.errors import InsufficientMemoryError, format_bytes


def no_room(num_bytes: int, error: OSError) -> InsufficientMemoryError:
    """Return the error for a temporary file that cannot be made."""
    folder = tempfile.gettempdir()
    return InsufficientMemoryError(
        f"{folder}: needs {format_bytes(num_bytes)} for a temporary file, and "
        f"{format_bytes(shutil.disk_usage(folder).free)} are free ({error.strerror}); expected: more room, or another "
        f"folder in the environment variable TMPDIR"
    )


def reserve(file: IO[bytes], num_bytes: int) -> None:
    """Give a file its room on the disk, without which a write to its pages would end the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, num_bytes)
    else:
        file.truncate(num_bytes)


def named_file(num_bytes: int, files: ExitStack) -> IO[bytes]:
    """Return a new file of zeros in the folder for temporary files, which other processes can open by its name.

    Args:
        num_bytes: its size.
        files: closes and removes it.

    Raises:
        InsufficientMemoryError: the folder has less room.
    """
    try:
        file = files.enter_context(tempfile.NamedTemporaryFile(prefix="fastncf-"))  # noqa: SIM115
        reserve(file, num_bytes)
    except OSError as error:
        raise no_room(num_bytes, error) from None
    return file
