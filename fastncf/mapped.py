"""Arrays in temporary files, for data that are larger than the memory.

Such an array is an ordinary NumPy array whose pages the system reads and writes as they are needed, so that they count
as memory that can be had back. Its file has no name, and goes with the array or with the process, however that ends.
Files are in the folder for temporary files, ``TMPDIR``.
"""

import mmap
import os
import shutil
import tempfile
from math import prod
from typing import IO, TYPE_CHECKING, Any

from fastncf.errors import InsufficientMemoryError
from fastncf.memory import format_bytes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike


class _MappedFile(mmap.mmap):
    """Pages of a temporary file."""


def empty_mapped(shape: "int | tuple[int, ...]", dtype: "DTypeLike") -> "np.ndarray":
    """Return an array of zeros in a temporary file.

    Raises:
        InsufficientMemoryError: the folder for temporary files has less room.
    """
    import numpy as np

    count = shape if isinstance(shape, int) else prod(shape)
    num_bytes = count * np.dtype(dtype).itemsize
    if num_bytes == 0:
        return np.empty(shape, dtype=dtype)
    folder = tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # the pages keep what it holds
            _reserve(file, num_bytes)
            memory = _MappedFile(file.fileno(), num_bytes)
    except OSError as error:
        free = shutil.disk_usage(folder).free
        raise InsufficientMemoryError(
            f"{folder}: needs {format_bytes(num_bytes)} for a temporary file, and {format_bytes(free)} are free "
            f"({error.strerror}); expected: more room, or another folder in the environment variable TMPDIR"
        ) from None
    return np.frombuffer(memory, dtype=dtype).reshape(shape)


def _reserve(file: IO[bytes], num_bytes: int) -> None:
    """Give a file its room on the disk, without which a write to its pages would end the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, num_bytes)
    else:
        file.truncate(num_bytes)


def empty_beside(array: "np.ndarray", shape: "int | tuple[int, ...]", dtype: "DTypeLike") -> "np.ndarray":
    """Return an array with any content, in a temporary file where another array is in one."""
    import numpy as np

    return np.empty(shape, dtype=dtype) if _file_of(array) is None else empty_mapped(shape, dtype)


def leave_memory(*arrays: "np.ndarray | None") -> None:
    """Take the pages of arrays in temporary files out of the memory of the process; their content stays."""
    for array in arrays:
        memory = None if array is None else _file_of(array)
        if memory is not None and hasattr(mmap, "MADV_DONTNEED"):
            memory.madvise(mmap.MADV_DONTNEED)


def _file_of(array: "np.ndarray") -> _MappedFile | None:
    """Return the pages that an array is a view of; None where they are no temporary file."""
    base: Any = array
    while base is not None and not isinstance(base, memoryview):
        base = getattr(base, "base", None)
    memory = None if base is None else base.obj
    return memory if isinstance(memory, _MappedFile) else None
