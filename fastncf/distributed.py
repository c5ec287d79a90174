"""Several processes that train one model together: the ranks of a process group of ``torch.distributed``.

All communication is that of ``torch.distributed``: gloo between CPUs, nccl between GPUs. A process that is alone
imports nothing of it. Every rank runs the same program on the same data; trainers divide the work of each batch, and
only the first rank prints and writes.
"""

import importlib.metadata
import mmap
import os
import pickle
import platform
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar

from fastncf.errors import DistributedError, FastNCFError
from fastncf.temporary import named_file

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

Result = TypeVar("Result")

_SECONDS_TO_CONNECT = 120
_MOST_CONNECTIONS = 4096
_SECONDS_FOR_MESSAGE = 3
_SECONDS_TO_END = 1  # of a process whose connections are closed already
_SECONDS_OF_A_TIMEOUT = 60  # an operation with wrong arguments fails at once
_ALIGNMENT = 64  # bytes, of arrays in a file that is mapped


class Ranks:
    """The processes that train together, as one of them sees them.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        local_rank: number of this process among those of its machine.
        local_size: number of processes of its machine.
        first_here: number of the first process of its machine.
        num_bytes: bytes of the arrays and tensors that this process has given to :meth:`sum`, :meth:`sum_tensor` and
            :meth:`gather_tensor`, and of what it has sent to others by :meth:`exchange`.
    """

    def __init__(self) -> None:
        import torch.distributed as dist

        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", self.rank))
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        self.first_here = self.rank - self.local_rank
        self.num_bytes = 0
        self._host = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo")  # for arrays and objects
        # nobody reads it: it takes connections while this process runs
        self._port = socket.create_server(("", 0), backlog=_MOST_CONNECTIONS)
        self._addresses: list[tuple[str, int]] = []  # until all have told theirs
        self._addresses = self.gather((_own_address(), self._port.getsockname()[1]))

    def sum(self, array: "np.ndarray") -> None:
        """Replace an array by its sum over all ranks, which is the same to the bit on each of them."""
        import torch

        self.sum_tensor(torch.from_numpy(array))

    def sum_tensor(self, tensor: "Tensor") -> None:
        """Replace a tensor by its sum over all ranks."""
        self.num_bytes += tensor.numel() * tensor.element_size()
        self._call("all_reduce", tensor, group=self._group_of(tensor))

    def share_tensor(self, tensor: "Tensor", rank: int) -> None:
        """Replace a tensor by that of a rank."""
        self._call("broadcast", tensor, src=rank, group=self._group_of(tensor))

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
        return self.first_here <= rank < self.first_here + self.local_size

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
        return "another rank has not answered in time" if seconds >= _SECONDS_OF_A_TIMEOUT else None

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
        others = ((rank, one) for rank, one in enumerate(self._addresses) if rank != self.rank)
        return next((rank for rank, one in others if not _answers(one)), None)

    def close(self) -> None:
        """Close the port by which others see that this process runs."""
        self._port.close()


def _own_address() -> str:
    """Return the address of this machine that the others reach it by: that of the route to the first rank."""
    first = os.environ.get("MASTER_ADDR", "localhost")
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        route.connect((first, 9))  # sends nothing
        return str(route.getsockname()[0])
    return "127.0.0.1"


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
    return "nccl" in dist.get_backend()


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


def was_launched() -> bool:
    """Return whether torchrun, or another launcher that sets its variables, has started this process beside others."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ


def lost_rank(error: BaseException) -> DistributedError | None:
    """Return the error that says which rank has ended, where an error is it or was raised while it was handled."""
    one: BaseException | None = error
    while one is not None and not (isinstance(one, DistributedError) and one.__cause__ is not None):
        one = one.__context__
    return one


def wait_for_message() -> None:
    """Give the first process time to say what all have met: a launcher ends all of them when the first one ends."""
    with suppress(KeyboardInterrupt):
        time.sleep(_SECONDS_FOR_MESSAGE)


def is_first_process() -> bool:
    """Return whether this process is the first of those that torchrun has started, or was not started by it."""
    return not was_launched() or os.environ["RANK"] == "0"


class Launched:
    """The process group of a process that torchrun has started; a context manager that ends it.

    Attributes:
        rank: number of this process.
    """

    def __init__(self) -> None:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a rank that ends is one sentence, and no trace of C++
        import torch.distributed as dist

        # Torch's optimizers import it. Its functions have the group that exists then as a default argument, which would
        # keep that group, and its threads, alive beyond their end; now there is none.
        import torch.distributed.nn.functional  # noqa: F401

        self.rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        store = dist.TCPStore(
            os.environ.get("MASTER_ADDR", "localhost"),
            int(os.environ.get("MASTER_PORT", "29500")),
            size,
            is_master=self.rank == 0 and not by_agent,
            timeout=timedelta(seconds=_SECONDS_TO_CONNECT),
        )
        self._store = dist.PrefixStore(f"fastncf/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
        dist.init_process_group(_backend(), store=self._store, rank=self.rank, world_size=size)

    def claims_message(self, error: BaseException) -> bool:
        """Return whether this rank is to say what has gone wrong: the first one that asks, unless it has ended."""
        with suppress(RuntimeError):  # without an agent the store ends with the first rank
            return int(self._store.add("messages", 1)) == 1
        return lost_rank(error) is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        import torch.distributed as dist

        if kind is None:  # after an error the others may be gone, and the end of the process closes what is open
            dist.destroy_process_group()


def _backend() -> str:
    """Return nccl where this machine has a GPU for each of its processes, and make that of this one current."""
    import torch
    import torch.distributed as dist

    local_rank, local_size = int(os.environ.get("LOCAL_RANK", "0")), int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if not dist.is_nccl_available() or torch.cuda.device_count() < local_size:
        return "gloo"
    torch.cuda.set_device(local_rank)
    return "nccl"
