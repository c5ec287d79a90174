"""Devices of torch: choice, capabilities, random state, memory and timing."""

import functools
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch

from fastncf import distributed
from fastncf.accelerators import VARIABLE
from fastncf.errors import DeviceError, ForkError, first_line
from fastncf.processes import lacks_threads

OUT_OF_MEMORY_HINT = "expected: smaller dim or layers, a device with more free memory, or device='cpu'"
"""End of the message of an error about memory."""

_CPU_CHUNK_BYTES = 16 << 20
_CUDA_CHUNK_BYTES = 512 << 20


def find_device(name: str) -> torch.device:
    """Return the device of a name, after a first operation on it.

    Args:
        name: a device of torch, such as ``cpu`` or ``cuda:1``; ``auto`` stands for the one that the environment
            variable ``FASTNCF_DEVICE`` names, otherwise for CUDA where torch finds it and, if several processes train
            together, each of them has a GPU; otherwise for the CPU.

    Raises:
        ForkError: only the parent of this process can use the device; ``auto`` is the CPU then.
        DeviceError: the device is not available, has no kernels in this build of torch, or has no float64; or it is a
            GPU, and the processes that train together do not exchange tensors between GPUs.
    """
    if name == "auto" and _is_forked_from_cuda():
        name = "cpu"
    elif name == "auto":
        may_use_gpu = torch.cuda.is_available() and distributed.exchanges_between_gpus()
        name = os.environ.get(VARIABLE) or ("cuda" if may_use_gpu else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):  # torch's own message lists some twenty kinds
        raise DeviceError(
            f"device {name!r:.80} is unknown to torch; expected: 'cpu', 'cuda' for an NVIDIA GPU, or one of "
            f"several, such as 'cuda:0'"
        ) from None
    if device.type == "cuda" and not distributed.exchanges_between_gpus():
        raise DeviceError(
            f"device {name!r}: several processes train together by gloo, which exchanges tensors between CPUs; "
            f"expected: 'cpu', or a GPU for each process of a machine and nccl"
        )
    try:
        require_device_after_fork(device)
        torch.ones(1, dtype=torch.float64, device=device).item()  # sums of losses are float64
    except ForkError:
        raise
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = first_line(error).split(". ")[0]
        raise DeviceError(
            f"device {name!r} is not available here ({reason}); "
            f"expected: 'cpu', or a CUDA device that this build of torch has kernels for"
        ) from None
    return device


def require_device_after_fork(device: torch.device) -> None:
    """Check that this process can use a device: a forked child cannot use CUDA if its parent did.

    Raises:
        ForkError: it cannot.
    """
    if device.type == "cuda" and _is_forked_from_cuda():
        raise ForkError(
            f"{device} cannot be used by this forked process, since its parent had used CUDA; expected: "
            f"load(..., device='cpu'), or a process that multiprocessing starts with 'spawn' or 'forkserver'"
        )


def _is_forked_from_cuda() -> bool:
    """Return whether this process is a forked child of one that had used CUDA."""
    return lacks_threads("torch") and bool(torch.cuda._is_in_bad_fork())


@functools.cache
def triton_works(device: torch.device) -> bool:
    """Return whether kernels written in Triton run on a device: CUDA, with Triton and a C compiler installed."""
    if device.type != "cuda":
        return False
    try:
        from fastncf.kernels.cuda.draws import fill_order

        with device_guard(device):
            fill_order(torch.empty(1, dtype=torch.int32, device=device), 1, 1, [0, 0, 0, 0])
    except Exception:  # whatever the reason is, all that Triton computes has another implementation
        return False
    return True


@functools.cache
def has_tf32(device: torch.device) -> bool:
    """Return whether Triton's kernels run on a device and multiply in TF32: NVIDIA's from Ampere on."""
    return triton_works(device) and torch.version.hip is None and has_bfloat16(device)  # Ampere brought both


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device is CUDA and multiplies in bfloat16 without emulation: NVIDIA's from Ampere on."""
    with device_guard(device):
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


@contextmanager
def device_guard(device: torch.device) -> Iterator[None]:
    """Make a CUDA device the current one, on which kernels start and graphs are captured; do nothing for a CPU."""
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        yield


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's random generators of the CPU and of a device, and restore their states at the end.

    A CUDA graph that was captured with a generator of the device draws from the new seed in its next replay. Modules
    draw from these generators, of which the process has one each, so that the block of one thread waits for that of
    another.

    Args:
        device: the device, in addition to the CPU.
        seed: at least 0.
    """
    cuda = [device] if device.type == "cuda" else []
    with _locks.process_state, torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        for cuda_device in cuda:
            index = torch.cuda.current_device() if cuda_device.index is None else cuda_device.index
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


@contextmanager
def deterministic(enabled: bool) -> Iterator[None]:
    """Make torch raise an error for operations whose bits differ between two runs; do nothing unless ``enabled``.

    The mode is that of the process: no other thread is in a block of this function or of :func:`seeded` meanwhile.
    """
    with _locks.process_state:
        # use_deterministic_algorithms() would also import torch's compiler, which takes a second
        before = torch.get_deterministic_debug_mode()
        if enabled:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # torch requires it of products on CUDA
            torch.set_deterministic_debug_mode("error")
        try:
            yield
        finally:
            torch.set_deterministic_debug_mode(before)


class _Locks:
    """Locks of what torch has once for the whole process; a forked child gets its own, since nobody unlocks others.

    Attributes:
        process_state: of the random generators and the deterministic mode.
        settings: of the counts of :class:`_SharedSetting`.
    """

    def __init__(self) -> None:
        self.renew()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self.renew)

    def renew(self) -> None:
        """Make locks that no thread holds."""
        self.process_state, self.settings = threading.RLock(), threading.RLock()


_locks = _Locks()


class _SharedSetting:
    """A setting of the whole process that blocks need in several threads: the first sets it, and the last restores it.

    Args:
        read: returns the value.
        write: sets it.
        wanted: values with which a block can do; where the value is another one, the last of them is set.
    """

    def __init__(self, read: Callable[[], Any], write: Callable[[Any], object], *wanted: Any) -> None:
        self._read, self._write, self._wanted = read, write, wanted
        self._num_blocks = 0
        self._former: Any = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep a wanted value within the block."""
        with _locks.settings:
            if self._num_blocks == 0:
                self._former = self._read()
                if self._former not in self._wanted:
                    self._write(self._wanted[-1])
            self._num_blocks += 1
        try:
            yield
        finally:
            with _locks.settings:
                self._num_blocks -= 1
                if self._num_blocks == 0 and self._former not in self._wanted:
                    self._write(self._former)


_DEFAULT_DTYPE = _SharedSetting(torch.get_default_dtype, torch.set_default_dtype, torch.float32)
_PRECISIONS = [
    _SharedSetting(
        partial(getattr, products, "fp32_precision"), partial(setattr, products, "fp32_precision"), "none", "ieee"
    )
    for products in (torch.backends.mkldnn.matmul, torch.backends.cuda.matmul)  # type: ignore[attr-defined]
]
"""Precisions in which backends of torch multiply float32."""


@contextmanager
def own_modes(*, gradients: bool) -> Iterator[None]:
    """Compute in the block as if the caller had set none of torch's modes, which are restored at the end.

    Autocast is off, and products of float32 are not rounded to a smaller dtype.

    Args:
        gradients: whether they are recorded, in the block even where the caller is in ``torch.inference_mode()``.
    """
    with ExitStack() as modes:
        modes.enter_context(torch.inference_mode(not gradients))
        if gradients:
            modes.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                modes.enter_context(torch.autocast(kind, enabled=False))
        for precision in _PRECISIONS:
            modes.enter_context(precision.held())
        yield


@contextmanager
def default_factories() -> Iterator[None]:
    """Let torch make tensors of float32 on the CPU in the block where neither is said.

    Parameters that are made in the block can be trained. The default dtype belongs to the whole process, and is left
    alone where it is float32.
    """
    with _DEFAULT_DTYPE.held(), torch.device("cpu"), own_modes(gradients=True):
        yield


@contextmanager
def translate_out_of_memory(device: torch.device) -> Iterator[None]:
    """Raise torch's error about exhausted memory as an error of this package.

    Raises:
        DeviceError: says what did not fit into the memory of the device.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).split(". ")[:2][-1]  # CUDA's first sentence only says that it is out of memory
        raise DeviceError(f"{device} ran out of memory ({reason}); {OUT_OF_MEMORY_HINT}") from None


class Stopwatch:
    """Measures the work that a device does between the constructor and :meth:`stop`; neither waits for the work."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.current_stream(device) if device.type == "cuda" else None
        self._begin = self._now()
        self._end = self._begin

    def stop(self) -> None:
        """End the measurement after the work that has been submitted to the device so far."""
        self._end = self._now()

    def seconds(self) -> float:
        """Return the seconds of the work; the host must have waited for it, as it does when it reads a result."""
        if isinstance(self._begin, float):
            return self._end - self._begin
        return self._begin.elapsed_time(self._end) / 1e3

    def _now(self) -> Any:
        """Return seconds, or an event of the CUDA stream."""
        if self._stream is None:
            return time.perf_counter()
        return self._stream.record_event(torch.cuda.Event(enable_timing=True))


def chunk_bytes(device: torch.device) -> int:
    """Return the memory budget of evaluation and recommendation: bytes that a chunk of scoring may take.

    16 MiB on a CPU, which is near the size of its caches. On CUDA 512 MiB, but at most half of the memory that is free.
    """
    if device.type == "cuda":
        return min(torch.cuda.mem_get_info(device)[0] // 2, _CUDA_CHUNK_BYTES)
    return _CPU_CHUNK_BYTES
