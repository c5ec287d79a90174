"""Several processes that train one model together: the ranks of a process group of ``torch.distributed``.

All communication is that of ``torch.distributed``: gloo between CPUs, nccl between GPUs. A process that is alone
imports nothing of it. Every rank runs the same program on the same data; trainers divide the work of each batch, and
only the first rank prints and writes.
"""

import importlib.metadata
import itertools
import mmap
import os
import pickle
import platform
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from fastncf import network
from fastncf.errors import DistributedError, FastNCFError
from fastncf.rank_variables import was_launched
from fastncf.temporary import named_file

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Result = TypeVar("Result")

_MOST_CONNECTIONS = 4096
_SECONDS_TO_END = 1  # of a process whose connections are closed already
_SECONDS_OF_A_TIMEOUT = 60  # an operation with wrong arguments fails at once
_ALIGNMENT = 64  # bytes, of arrays in a file that is mapped


class Ranks:
    """The processes that train together, as one of them sees them.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        local_rank: number of this process among those of its machine, which can share temporary files.
        local_size: number of processes of its machine.
        first_here: rank of the first process of its machine.
        num_bytes: bytes of the arrays and tensors that this process has given to :meth:`sum`, :meth:`sum_tensor` and
            :meth:`gather_tensor`, and of what it has sent to others by :meth:`exchange`.
    """

    def __init__(self) -> None:
        import torch.distributed as dist

        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.num_bytes = 0
        self._host = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")  # for arrays and objects
        # nobody reads it: it takes connections while this process runs
        self._port = socket.create_server(("", 0), backlog=_MOST_CONNECTIONS)
        self._addresses: dict[int, tuple[str, int]] = {}  # of those whose end can be seen
        self._first_of = self._find_machines()
        self.first_here = self._first_of[self.rank]
        here = [rank for rank in range(self.size) if self.is_here(rank)]
        self.local_rank, self.local_size = here.index(self.rank), len(here)
        self._addresses = self._find_addresses()

    def sum(self, array: "np.ndarray") -> None:
        """Replace an array by its sum over all ranks, which is the same to the bit on each of them."""
        import torch

        self.sum_tensor(torch.from_numpy(array))

    def sum_tensor(self, tensor: "Tensor") -> None:
        """Replace a tensor by its sum over all ranks."""
        self.num_bytes += tensor.numel() * tensor.element_size()
        self._call("all_reduce", tensor, group=self._group_of(tensor))

    def sum_in_pairs(self, array: "np.ndarray") -> None:
        """Replace an array (n,) by its sum over all ranks, see :func:`add_in_pairs`; each rank adds up a part of it."""
        import torch

        if self.size == 2:
            self.sum(array)
            return
        numbers = torch.from_numpy(array)
        parts = numbers.new_zeros(self.size, -(-len(numbers) // self.size))
        parts.view(-1)[: len(numbers)] = numbers
        received = self.exchange(parts, [1] * self.size, [1] * self.size)
        numbers.copy_(torch.cat(self.gather_tensor(add_in_pairs(list(received))))[: len(numbers)])

    def share_tensor(self, tensor: "Tensor", rank: int) -> None:
        """Replace a tensor of any dtype and strides by that of a rank."""
        import torch

        block = tensor.contiguous()
        numbers = block.reshape(-1).view(torch.uint8)  # libraries lack some dtypes, and take no others' strides
        self._call("broadcast", numbers, src=rank, group=self._group_of(tensor))
        if block.data_ptr() != tensor.data_ptr():
            tensor.copy_(block)

    def gather_tensor(self, tensor: "Tensor") -> list["Tensor"]:
        """Return the tensors of all ranks, which have the same shape, in their order."""
        import torch

        self.num_bytes += tensor.numel() * tensor.element_size()
        tensors = [torch.empty_like(tensor) for _ in range(self.size)]
        self._call("all_gather", tensors, tensor, group=self._group_of(tensor))
        return tensors

    def exchange(self, tensor: "Tensor", sent: list[int], received: list[int]) -> "Tensor":
        """Send rows to all ranks and return those that they have sent to this one, in the order of the ranks.

        Args:
            tensor: (n, ...), the rows for rank 0 first.
            sent: number of rows for each rank, n in all.
            received: number of rows of each rank.
        """
        self.num_bytes += (len(tensor) - sent[self.rank]) * tensor[:1].numel() * tensor.element_size()
        rows = tensor.new_empty(sum(received), *tensor.shape[1:])
        self._call("all_to_all_single", rows, tensor, received, sent, group=self._group_of(tensor))
        return rows

    def wait(self) -> None:
        """Wait until all ranks are here."""
        self._call("barrier", group=self._host)

    def is_here(self, rank: int) -> bool:
        """Return whether a rank runs on this machine."""
        return self._first_of[rank] == self.first_here

    def share(self, array: "np.ndarray", rank: int) -> None:
        """Replace an array by that of a rank."""
        import torch

        self.share_tensor(torch.from_numpy(array), rank)

    def gather(self, value: Result) -> list[Result]:
        """Return the values of all ranks, in their order; anything that can be pickled."""
        values: list[Any] = [None] * self.size
        self._call("all_gather_object", values, value, group=self._host)
        return values

    def require_equal(self, what: str, value: Any) -> None:
        """Refuse ranks with different values.

        Args:
            what: what is compared, in the message.
            value: of this rank; its ``repr`` is compared, or those of the values of a dict, by their names.

        Raises:
            DistributedError: another rank has another value.
        """
        named = {name: repr(one) for name, one in value.items()} if isinstance(value, dict) else {"": repr(value)}
        first, *others = self.gather(named)
        for rank, other in enumerate(others, start=1):
            for name in {**first, **other}:
                if first.get(name) != other.get(name):
                    label = f"{name}: " if name else ""
                    raise DistributedError(
                        f"ranks 0 and {rank} have different {what} ({label}{first.get(name)!s:.100} and "
                        f"{other.get(name)!s:.100}); expected: the same command on the same files by all ranks"
                    )

    def from_first(self, function: Callable[[], Result]) -> Result:
        """Call a function on the first rank and return its result on all of them; anything that can be pickled.

        Raises:
            FastNCFError: the call raised it, on every rank.
        """
        outcome: list[Any] = [_outcome_of(function) if self.rank == 0 else None]
        self._call("broadcast_object_list", outcome, src=0, group=self._host)
        value, error = outcome[0]
        if error is not None:
            raise error
        return value

    def first_alone(self, function: Callable[[], Result]) -> Result:
        """Do what :meth:`from_first` does with a function that knows of no other process."""

        def call() -> Result:
            with alone():
                return function()

        return self.from_first(call)

    def map_from_first(self, function: Callable[[], Result]) -> Result:
        """Do what :meth:`from_first` does; where all ranks are on one machine, large results as :meth:`once` does."""
        return self.once(function) if self.local_size == self.size else self.from_first(function)

    def once(self, function: Callable[[], Result]) -> Result:
        """Call a function on the first rank of each machine; the others of the machine get its result.

        Arrays of the result are in a file that all processes of the machine map, so that they are in memory once; what
        a process writes to them is its own.

        Raises:
            FastNCFError: a call raised it, on every rank.
            InsufficientMemoryError: the folder for temporary files has no room for the result, on every rank.
        """
        outcome = _outcome_of(function) if self.local_rank == 0 else None
        self._require_success(outcome)
        with ExitStack() as files:
            written = _outcome_of(lambda: _write_for_others(outcome.value, files)) if outcome is not None else None
            self._require_success(written)
            paths = self.gather("" if written is None else str(written.value))
            result: Result = outcome.value if outcome is not None else _read_pickle(Path(paths[self.first_here]))
            self.wait()  # all have mapped the file, which lasts until they end
        return result

    def _find_machines(self) -> list[int]:
        """Return for each rank the first one of its machine: of its kernel, and with the same temporary files.

        No launcher is asked, since some tell less. Containers of one machine have temporary files of their own.

        Raises:
            InsufficientMemoryError: the folder for temporary files of a rank cannot be written; on all ranks.
        """
        with ExitStack() as files:
            made = _outcome_of(lambda: named_file(1, files).name)
            self._require_success(made)
            named = self.gather((network.kernel_id(), str(made.value)))
            kernel, _ = named[self.rank]
            seen = self.gather([other == kernel and Path(path).exists() for other, path in named])
        first_of: list[int] = []
        for rank in range(self.size):
            firsts = (first for first in first_of if first_of[first] == first and seen[rank][first])
            first_of.append(next(firsts, rank))
        return first_of

    def _find_addresses(self) -> dict[int, tuple[str, int]]:
        """Return the addresses of the ports by which this rank sees that others have ended.

        There are none where a rank does not reach the next one, as through a firewall.
        """
        routes = self.gather(network.route_to(os.environ.get("MASTER_ADDR", "localhost")))
        own = network.outside_address(routes[self.rank], routes)
        addresses = dict(enumerate(self.gather((own, self._port.getsockname()[1]))))
        reached = self.gather(_answers(addresses[(self.rank + 1) % self.size]))
        return addresses if all(reached) else {}

    def _require_success(self, outcome: "_Outcome | None") -> None:
        """Raise the error of the first rank that has one, on every rank.

        Args:
            outcome: of a call on this rank; None where it made none.
        """
        for failed in self.gather(outcome.error if outcome is not None else None):
            if failed is not None:
                raise failed

    def _group_of(self, tensor: "Tensor") -> Any:
        """Return the process group that takes a tensor; None for that of all devices."""
        return self._host if tensor.device.type == "cpu" else None

    def _call(self, operation: str, *arguments: Any, **options: Any) -> None:
        """Call an operation of ``torch.distributed``.

        Raises:
            DistributedError: another rank has ended, or has not answered in time.
            RuntimeError, ValueError: any other error of the operation, such as that of arguments it does not take.
        """
        import torch.distributed as dist

        begin = time.monotonic()
        try:
            getattr(dist, operation)(*arguments, **options)
        except (RuntimeError, ValueError) as error:
            what = self._what_was_lost(time.monotonic() - begin)
            if what is None:
                raise
            raise self._loss(what) from error

    def _what_was_lost(self, seconds: float) -> str | None:
        """Return in words what has happened to another rank, after an operation failed; None where that is not known.

        The words of errors differ between versions and libraries, so that they are not read. The port of a process that
        has ended refuses connections.

        Args:
            seconds: that the operation took.
        """
        until = time.monotonic() + _SECONDS_TO_END
        while (lost := self._ended()) is None and seconds < _SECONDS_OF_A_TIMEOUT and time.monotonic() < until:
            try:
                time.sleep(0.02)
            except KeyboardInterrupt:  # a launcher ends all ranks when it sees that one has ended
                if (lost := self._ended()) is None:
                    raise
                break
        if lost is not None:
            return f"rank {lost} has ended"
        if seconds >= _SECONDS_OF_A_TIMEOUT:
            return "another rank has not answered in time"
        return None if self._addresses else "the connection to another rank is lost"

    def _loss(self, what: str) -> DistributedError:
        """Return the error that says what has happened to another rank."""
        return DistributedError(
            f"rank {self.rank} of {self.size}: {what}, without which this one cannot go on; the message of that rank, "
            f"or the report of its launcher, says why"
        )

    def require_all(self, error: KeyboardInterrupt) -> None:
        """Check that all ranks run.

        Args:
            error: of a signal, by which a launcher ends the ranks that are left.

        Raises:
            DistributedError: another rank has ended.
        """
        if (lost := self._ended()) is not None:
            raise self._loss(f"rank {lost} has ended") from error

    def _ended(self) -> int | None:
        """Return a rank that has ended."""
        others = ((rank, one) for rank, one in self._addresses.items() if rank != self.rank)
        return next((rank for rank, one in others if not _answers(one)), None)

    def close(self) -> None:
        """Close the port by which others see that this process runs."""
        self._port.close()


def _answers(address: tuple[str, int]) -> bool:
    """Return whether a port takes connections."""
    try:
        socket.create_connection(address, timeout=2).close()
    except OSError:
        return False
    return True


class _Outcome(NamedTuple):
    """Value that a call returned, or the error of fastncf that it raised."""

    value: Any
    error: FastNCFError | None


def _outcome_of(function: Callable[[], Any]) -> _Outcome:
    """Call a function."""
    try:
        return _Outcome(function(), None)
    except FastNCFError as error:
        return _Outcome(None, error)


def _write_for_others(value: Any, files: ExitStack) -> str:
    """Write a value to a temporary file and return its path; the bytes of arrays begin at multiples of ``_ALIGNMENT``.

    Args:
        value: can be pickled.
        files: removes the file.

    Raises:
        InsufficientMemoryError: the folder for temporary files has less room.
    """
    buffers: list[pickle.PickleBuffer] = []
    head = pickle.dumps(value, protocol=5, buffer_callback=buffers.append)
    parts = [memoryview(head), *(buffer.raw() for buffer in buffers)]
    sizes = pickle.dumps([part.nbytes for part in parts])
    num_bytes = len(sizes) + sum(part.nbytes + _ALIGNMENT for part in parts)
    file = named_file(num_bytes, files)
    file.write(sizes)
    for part in parts:
        file.write(bytes(-file.tell() % _ALIGNMENT))
        file.write(part)
    file.flush()
    return file.name


def _read_pickle(path: Path) -> Any:
    """Return the value of a file of :func:`_write_for_others`; arrays are views of the file, mapped copy on write."""
    with path.open("rb") as file:
        sizes, at = pickle.load(file), file.tell()
        memory = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    parts = []
    for size in sizes:
        at += -at % _ALIGNMENT
        parts.append(memory[at : at + size])
        at += size
    return pickle.loads(parts[0], buffers=parts[1:])


_active: Ranks | None = None


def add_in_pairs(terms: list["Tensor"]) -> "Tensor":
    """Return the sum of the terms of all ranks: of pairs of ranks, pairs of pairs, and so on.

    Where a rank's term is such a sum itself, of as many parts as that of any other rank, the bits do not depend on the
    number of ranks that share out the parts, a power of 2.
    """
    while len(terms) > 1:
        pairs = itertools.zip_longest(terms[::2], terms[1::2])
        terms = [first if second is None else first + second for first, second in pairs]
    return terms[0]


def current() -> Ranks | None:
    """Return the ranks that this process works with within :func:`together`; None elsewhere, and where it is alone."""
    return _active


def is_first() -> bool:
    """Return whether this process is the first rank, or alone."""
    return _active is None or _active.rank == 0


def exchanges_between_gpus() -> bool:
    """Return whether processes that train together can do so on GPUs; also where this process is alone."""
    dist = sys.modules.get("torch.distributed")
    if dist is None or not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
        return True
    return "nccl" in dist.get_backend_config()  # get_backend() names none where a group was made without one


@contextmanager
def together() -> Iterator[Ranks | None]:
    """Let this process work with the others of its process group in the block, which all of them enter.

    Yields:
        The ranks; None where there is no process group, or a single process in it.

    Raises:
        DistributedError: another rank has other versions.
    """
    global _active
    dist = sys.modules.get("torch.distributed")  # whoever has made a process group has imported it
    if _active is not None or dist is None or not dist.is_available() or not dist.is_initialized():
        yield _active
        return
    _active = Ranks() if dist.get_world_size() > 1 else None
    try:
        if _active is not None:
            _active.require_equal("versions", _versions())
        yield _active
    except KeyboardInterrupt as error:
        if _active is not None and was_launched():
            _active.require_all(error)
        raise
    finally:
        if _active is not None:
            _active.close()
        _active = None


@contextmanager
def alone() -> Iterator[None]:
    """Let this process work by itself in the block, on a part of what the ranks share out."""
    global _active
    active, _active = _active, None
    try:
        yield
    finally:
        _active = active


def _versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that results depend on."""
    import fastncf

    packages = {name: importlib.metadata.version(name) for name in ("numba", "numpy", "polars", "torch")}
    return {"python": platform.python_version(), "fastncf": fastncf.__version__, **packages}
