"""Whether this machine has torch, and may have a GPU, without importing torch, which takes seconds."""

import ctypes
import functools
import os
import sys
from importlib.util import find_spec

VARIABLE = "FASTNCF_DEVICE"
"""Environment variable that names the device of ``device="auto"``."""


def has_torch() -> bool:
    """Return whether torch is installed."""
    if "torch" in sys.modules:
        return sys.modules["torch"] is not None  # None stands for a module that must not be imported
    try:
        return find_spec("torch") is not None
    except ImportError:
        return False


def may_have_device() -> bool:
    """Return whether ``device="auto"`` may be something other than the CPU; False where torch need not be asked."""
    named = os.environ.get(VARIABLE)
    return named != "cpu" if named else _has_driver() and has_torch()


@functools.cache
def _has_driver() -> bool:
    """Return whether NVIDIA's driver is installed."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True
