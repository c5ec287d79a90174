"""Whether this machine may have a GPU, without torch, whose import takes seconds."""

import ctypes
import functools
import os
import sys

VARIABLE = "FASTNCF_DEVICE"
"""Environment variable that names the device of ``device="auto"``."""


def may_have_device() -> bool:
    """Return whether ``device="auto"`` may be something other than the CPU; False where torch need not be asked."""
    named = os.environ.get(VARIABLE)
    return named != "cpu" if named else _has_driver()


@functools.cache
def _has_driver() -> bool:
    """Return whether NVIDIA's driver is installed."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True
