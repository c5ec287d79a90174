"""Arrays in temporary files, for data that are larger than the memory.

They are also how the processes of one machine that train together share arrays. Such an array is an ordinary NumPy
array whose pages the system reads and writes as they are needed, so that they count as memory that can be had back.
Its file has no name, and goes with the array or with the process, however that ends. Files are in the folder for
temporary files, ``TMPDIR``.
"""

import mmap
import tempfile
import weakref
from contextlib import ExitStack
from math import prod
from typing import TYPE_CHECKING, Any

from fastncf import distributed
from fastncf.errors import InsufficientMemoryError
from fastncf.temporary import named_file, no_room, reserve

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike


class _MappedFile(mmap.mmap):
    """Pages of a temporary file."""


class _SharedFile(_MappedFile):
    """Pages of a temporary file that all processes of a machine have mapped which train together.

    Attributes:
        address: of the first byte.
    """

    address: int


_shared_files: "weakref.WeakSet[_SharedFile]" = weakref.WeakSet()


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
    try:
        with tempfile.TemporaryFile() as file:  # the pages keep what it holds
            reserve(file, num_bytes)
            memory = _MappedFile(file.fileno(), num_bytes)
    except OSError as error:
        raise no_room(num_bytes, error) from None
    return np.frombuffer(memory, dtype=dtype).reshape(shape)


def empty_shared(shape: "int | tuple[int, ...]", dtype: "DTypeLike") -> "np.ndarray":
    """Return an array of zeros that the processes of this machine share which train together; all of them call it.

    What one of them writes the others read, once they have waited for it.

    Raises:
        InsufficientMemoryError: the folder for temporary files of a machine has less room; on all ranks.
    """
    import numpy as np

    ranks = distributed.current()
    assert ranks is not None
    count = shape if isinstance(shape, int) else prod(shape)
    num_bytes = max(1, count * np.dtype(dtype).itemsize)  # no file of 0 bytes can be mapped
    with ExitStack() as files:
        path = _new_file(num_bytes, files) if ranks.local_rank == 0 else ""
        paths = []
        for one in ranks.gather(path):
            if isinstance(one, InsufficientMemoryError):
                raise one
            paths.append(one)
        with open(paths[ranks.first_here], "r+b") as file:
            memory = _SharedFile(file.fileno(), num_bytes)
        ranks.wait()  # until all have mapped the file, which then needs no name
    array = np.frombuffer(memory, dtype=dtype, count=count).reshape(shape)
    memory.address = array.ctypes.data
    _shared_files.add(memory)
    return array


def is_shared(address: int) -> bool:
    """Return whether an address of memory, of an array or of a tensor, is within an array of :func:`empty_shared`."""
    return any(file.address <= address < file.address + len(file) for file in _shared_files)


def _new_file(num_bytes: int, files: ExitStack) -> "str | InsufficientMemoryError":
    """Return the path of a new file of zeros in the folder for temporary files, or why there is none.

    Args:
        num_bytes: its size.
        files: closes and removes it.
    """
    try:
        return named_file(num_bytes, files).name
    except InsufficientMemoryError as error:
        return error


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
