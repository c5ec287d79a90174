"""Several processes that train one model together: the ranks of a process group of ``torch.distributed``.

All communication is that of ``torch.distributed``: gloo between CPUs, nccl between GPUs. A process that is alone
imports nothing of it. Every rank runs the same program on the same data; trainers divide the work of each batch, and
only the first rank prints and writes.
"""

import mmap
import os
import pickle
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fastncf.errors import DistributedError, FastNCFError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Result = TypeVar("Result")

_SECONDS_TO_CONNECT = 120
_ALIGNMENT = 64  # bytes, of arrays in a file that is mapped


class Ranks:
    """The processes that train together, as one of them sees them.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        local_rank: number of this process among those of its machine.
        local_size: number of processes of its machine.
    """

    def __init__(self) -> None:
        import torch.distributed as dist

        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", self.rank))
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        self._host = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")  # for arrays and objects

    def sum(self, array: "np.ndarray") -> None:
        """Replace an array by its sum over all ranks, which is the same to the bit on each of them."""
        import torch

        self._call("all_reduce", torch.from_numpy(array), group=self._host)

    def sum_tensor(self, tensor: "Tensor") -> None:
        """Replace a tensor on the device of the process group by its sum over all ranks."""
        self._call("all_reduce", tensor)

    def share_tensor(self, tensor: "Tensor", rank: int) -> None:
        """Replace a tensor on the device of the process group by that of a rank."""
        self._call("broadcast", tensor, src=rank)

    def gather_tensor(self, tensor: "Tensor") -> list["Tensor"]:
        """Return the tensors of all ranks, of the same shape on the device of the process group, in their order."""
        import torch

        tensors = [torch.empty_like(tensor) for _ in range(self.size)]
        self._call("all_gather", tensors, tensor)
        return tensors

    def share(self, array: "np.ndarray", rank: int) -> None:
        """Replace an array by that of a rank."""
        import torch

        self._call("broadcast", torch.from_numpy(array), src=rank, group=self._host)

    def gather(self, value: Result) -> list[Result]:
        """Return the values of all ranks, in their order; anything that can be pickled."""
        values: list[Any] = [None] * self.size
        self._call("all_gather_object", values, value, group=self._host)
        return values

    def require_equal(self, what: str, value: Any) -> None:
        """Refuse ranks with different values.

        Args:
            what: what is compared, in the message.
            value: of this rank; its ``repr`` is compared.

        Raises:
            DistributedError: another rank has another value.
        """
        values = self.gather(repr(value))
        for rank, other in enumerate(values):
            if other != values[0]:
                raise DistributedError(
                    f"ranks 0 and {rank} have different {what} ({values[0]:.120} and {other:.120}); expected: the same "
                    f"command on the same files by all ranks"
                )

    def once(self, function: Callable[[], Result]) -> Result:
        """Call a function on the first rank of each machine; the others of the machine get its result.

        Arrays of the result are in a file that all processes of the machine map, so that they are in memory once; what
        a process writes to them is its own.

        Raises:
            Exception: what the call raised, on every rank.
        """
        outcome: tuple[str, Any] | None = None
        if self.local_rank == 0:
            outcome = _outcome_of(function)
        outcomes = self.gather(None if outcome is None or outcome[0] == "result" else outcome)
        for failed in outcomes:
            if failed is not None:
                raise failed[1]
        folder = Path(tempfile.mkdtemp(prefix="fastncf-")) if self.local_rank == 0 else None
        try:
            if folder is not None and outcome is not None:
                _write_pickle(outcome[1], folder / "result")
            folders = self.gather(folder)
            own = folders[self.rank - self.local_rank]
            result = outcome[1] if outcome is not None else _read_pickle(own / "result")
            self.gather(None)  # all have mapped the file, which lasts until they end
        finally:
            if folder is not None:
                shutil.rmtree(folder, ignore_errors=True)
        return result

    def _call(self, operation: str, *arguments: Any, **options: Any) -> None:
        """Call an operation of ``torch.distributed``.

        Raises:
            DistributedError: another rank has ended.
        """
        import torch.distributed as dist

        try:
            getattr(dist, operation)(*arguments, **options)
        except (RuntimeError, ValueError) as error:
            raise DistributedError(
                f"rank {self.rank} of {self.size} has lost another rank, which has ended ({str(error).splitlines()[0]:.160})"
            ) from error


def _outcome_of(function: Callable[[], Any]) -> tuple[str, Any]:
    """Return ``result`` and what a call returned, or ``error`` and the error of fastncf that it raised."""
    try:
        return "result", function()
    except FastNCFError as error:
        return "error", error


def _write_pickle(value: Any, path: Path) -> None:
    """Write a value to a file; the bytes of its arrays begin at multiples of ``_ALIGNMENT``."""
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    views = [buffer.raw() for buffer in buffers]
    sizes = [len(head), *(view.nbytes for view in views)]
    with path.open("wb") as file:
        pickle.dump(sizes, file)
        for part in (head, *views):
            file.write(bytes(-file.tell() % _ALIGNMENT))
            file.write(part)


def _read_pickle(path: Path) -> Any:
    """Return the value of a file of :func:`_write_pickle`; its arrays are views of the file, mapped copy on write."""
    with path.open("rb") as file:
        sizes, at = pickle.load(file), file.tell()
        memory = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    parts = []
    for size in sizes:
        at += -at % _ALIGNMENT
        parts.append(memory[at : at + size])
        at += size
    return pickle.loads(parts[0], buffers=parts[1:])


_known: tuple[Any, Ranks] | None = None  # a process group, and its ranks


def current() -> Ranks | None:
    """Return the ranks that this process is one of; None where it is alone."""
    global _known
    if (dist := sys.modules.get("torch.distributed")) is None or not dist.is_available() or not dist.is_initialized():
        return None
    if dist.get_world_size() == 1:
        return None
    if _known is None or _known[0] is not dist.group.WORLD:
        _known = dist.group.WORLD, Ranks()
    return _known[1]


def is_first() -> bool:
    """Return whether this process is the first rank, or alone."""
    ranks = current()
    return ranks is None or ranks.rank == 0


def was_launched() -> bool:
    """Return whether torchrun, or another launcher with its variables, has started this process beside others."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ
