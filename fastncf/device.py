"""Which device is used, and how much of its memory a chunk of work may take."""

import os

import torch

from fastncf.errors import DeviceError

VARIABLE = "FASTNCF_DEVICE"
_CPU_CHUNK = 16 << 20


def find_device(name: str) -> torch.device:
    """``auto`` -> what ``FASTNCF_DEVICE`` names, else CUDA where there is one, else the CPU.

    Raises:
        DeviceError: the device that is named is not available.
    """
    if name == "auto":
        name = os.environ.get(VARIABLE) or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DeviceError(f"device {name!r} is not available here ({str(error).splitlines()[0]})") from None
    return device


def chunk_bytes(device: torch.device) -> int:
    """Bytes that one chunk of scoring may take: half of what is free on a GPU, on a CPU what stays near its caches."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] // 2
    return _CPU_CHUNK
