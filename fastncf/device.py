"""Which device is used, and how much of its memory a chunk of work may take."""

import functools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from fastncf.errors import DeviceError

VARIABLE = "FASTNCF_DEVICE"
_CPU_CHUNK = 16 << 20
_CUDA_CHUNK = 512 << 20


def find_device(name: str) -> torch.device:
    """``auto`` -> what ``FASTNCF_DEVICE`` names, else CUDA where there is one, else the CPU.

    Raises:
        DeviceError: the device that is named is not available, or runs no kernel of torch's.
    """
    if name == "auto":
        name = os.environ.get(VARIABLE) or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.ones(1, dtype=torch.float64, device=device).item()  # sums of losses are float64
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).splitlines()[0].split(". ")[0]
        raise DeviceError(
            f"device {name!r} is not available here ({reason}); "
            f"accepted: 'cpu', or a CUDA device that this build of torch has kernels for"
        ) from None
    return device


@functools.cache
def triton_works(device: torch.device) -> bool:
    """Whether kernels written in Triton run on a device: it is CUDA, Triton is installed, and it finds a C compiler."""
    if device.type != "cuda":
        return False
    try:
        from fastncf.kernels.cuda.draws import fill_order

        fill_order(torch.empty(1, dtype=torch.int32, device=device), 1, 1, [0, 0, 0, 0])
    except Exception:  # whatever it is, everything has a way without Triton
        return False
    return True


@functools.cache
def has_tf32(device: torch.device) -> bool:
    """Whether kernels written in Triton run on a device and it multiplies in TF32: NVIDIA's since Ampere."""
    return triton_works(device) and torch.version.hip is None and has_bfloat16(device)  # they came together


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device is CUDA and multiplies in bfloat16 itself: NVIDIA's since Ampere."""
    with on(device):
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


@contextmanager
def reproducible(device: torch.device, seed: int, *, deterministic: bool) -> Iterator[None]:
    """torch's own draws (dropout) from a seed, and its state as it was afterwards.

    Args:
        device: the one that is used, beside the CPU.
        seed: non-negative.
        deterministic: only operations that give the same bits every time.
    """
    # use_deterministic_algorithms would import torch's compiler to tell it as well: a second for nothing here
    before = torch.get_deterministic_debug_mode()
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for one in cuda:
            index = torch.cuda.current_device() if one.index is None else one.index
            torch.cuda.default_generators[index].manual_seed(seed)
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch asks for it before products on CUDA
            torch.set_deterministic_debug_mode("error")
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(before)


@contextmanager
def on(device: torch.device) -> Iterator[None]:
    """A device as the current one, on which kernels start and graphs are captured; of no effect for a CPU."""
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        yield


@contextmanager
def enough_memory(device: torch.device) -> Iterator[None]:
    """A :class:`DeviceError` where the memory of a device runs out.

    Raises:
        DeviceError: says what did not fit.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"{device} ran out of memory ({str(error).split('. ')[1]}); "
            f"accepted: smaller dim or layers, a device with more free memory, or device='cpu'"
        ) from None


class Stopwatch:
    """Seconds of work on a device from when it is made to :meth:`stop`; neither waits for the work.

    :meth:`seconds` is for later, when the host has waited for the device for another reason.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self._begin = self._now()
        self._end = self._begin

    def stop(self) -> None:
        self._end = self._now()

    def seconds(self) -> float:
        if isinstance(self._begin, float):
            return self._end - self._begin
        return self._begin.elapsed_time(self._end) / 1e3

    def _now(self) -> Any:
        """A time, or an event of the stream."""
        if self._stream is None:
            return time.perf_counter()
        return self._stream.record_event(torch.cuda.Event(enable_timing=True))


def chunk_bytes(device: torch.device) -> int:
    """Bytes that one chunk of scoring may take: at most half of what is free on CUDA, near its caches on a CPU."""
    if device.type == "cuda":
        return min(torch.cuda.mem_get_info(device)[0] // 2, _CUDA_CHUNK)
    return _CPU_CHUNK
