"""The process group of processes that torchrun, or another launcher that sets its variables, has started."""

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, Self

from fastncf import network
from fastncf.errors import DistributedError, first_line
from fastncf.rank_variables import Variables
from fastncf.threads import Task

_SECONDS_TO_CONNECT = 120
_SECONDS_OF_AN_AGENT = 5  # torchrun is there before its processes are
_SECONDS_TO_ANSWER = 20
_SECONDS_FOR_MESSAGE = 3
_SECONDS_BEFORE_NOTE = 5


class NotJoinedError(DistributedError):
    """A process has not come together with the others; each one that is there says so, since no other one can."""


def wait_for_message() -> None:
    """Give the first process time to say what all have met: a launcher ends all of them when the first one ends."""
    with suppress(KeyboardInterrupt):
        time.sleep(_SECONDS_FOR_MESSAGE)


def lost_rank(error: BaseException) -> DistributedError | None:
    """Return the error that says which rank has ended, where an error is it or was raised while it was handled."""
    one: BaseException | None = error
    while one is not None and not (isinstance(one, DistributedError) and one.__cause__ is not None):
        one = one.__context__
    return one


class Launched:
    """The process group of a process that torchrun has started; a context manager that ends it.

    Args:
        tell: takes a sentence where this process has to wait for others.

    Attributes:
        rank: number of this process.

    Raises:
        ConfigError: a variable of the launcher is wrong.
        NotJoinedError: another process does not come, or cannot be reached.
    """

    def __init__(self, tell: Callable[[str], object] = lambda _: None) -> None:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a rank that ends is one sentence, and no trace of C++
        found = Variables.read()
        import torch.distributed as dist

        # Torch's optimizers import it. Its functions have the group that exists then as a default argument, which would
        # keep that group, and its threads, alive beyond their end; now there is none.
        import torch.distributed.nn.functional  # noqa: F401

        self.rank = found.rank
        wait = _Wait(tell)
        self._store = dist.PrefixStore(
            f"fastncf/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", _store_of(found, wait)
        )
        self._join(found, wait)
        backend = _backend(found)
        if backend == "gloo":
            _choose_interface(found, self._store)
        try:
            dist.init_process_group(backend, store=self._store, rank=found.rank, world_size=found.size)
        except (RuntimeError, ValueError) as error:
            raise NotJoinedError(
                f"rank {found.rank} of {found.size}: cannot connect to the others ({first_line(error)[-200:]}); "
                f"expected: processes that reach each other, by the network interface that GLOO_SOCKET_IFNAME names"
            ) from None

    def _join(self, found: Variables, wait: "_Wait") -> None:
        """Wait until all processes are there.

        Raises:
            NotJoinedError: one is missing.
        """
        self._store.add("joined", 1)
        while (joined := int(self._store.add("joined", 0))) < found.size:
            if not wait.may_go_on(_SECONDS_TO_CONNECT, f"{joined} of {found.size} processes are there"):
                raise NotJoinedError(
                    f"{joined} of {found.size} processes (WORLD_SIZE) have come to {found.where} within "
                    f"{_SECONDS_TO_CONNECT} seconds; expected: all of them, or a single process without WORLD_SIZE"
                )

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


class _Wait:
    """Time that this process waits for others.

    Args:
        tell: takes a sentence after some seconds, once.
    """

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell, self._begin, self._is_told = tell, time.monotonic(), False

    def may_go_on(self, most: float, what: str) -> bool:
        """Wait a moment; return whether less than the most seconds have passed.

        Args:
            most: seconds.
            what: how things stand, as a sentence without a full stop.
        """
        time.sleep(0.05)
        seconds = time.monotonic() - self._begin
        if not self._is_told and _SECONDS_BEFORE_NOTE < seconds < most:
            self._tell(f"{what}; waiting for the others")
            self._is_told = True
        return seconds < most


def _store_of(found: Variables, wait: _Wait) -> Any:
    """Return the store of torchrun, or that of the first process.

    Raises:
        NotJoinedError: no launcher is there, the port is in use, the first process does not come, or something else
            answers in its place.
    """
    import torch.distributed as dist

    by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    is_master = found.rank == 0 and not by_agent
    most = _SECONDS_OF_AN_AGENT if by_agent else _SECONDS_TO_CONNECT
    while not is_master and (reason := _why_not_reached(found)) is not None:
        if wait.may_go_on(most, f"nothing answers at {found.where}"):
            continue
        message = f"WORLD_SIZE={found.size} and RANK={found.rank} in the environment: nothing answers at {found.where}"
        end = "expected: processes that torchrun starts, or a single process without WORLD_SIZE and RANK"
        raise NotJoinedError(f"{message} ({reason}); {end}")
    outcomes: list[Any] = []

    def connect() -> None:
        """Keep the store, or the error."""
        try:
            outcomes.append(
                dist.TCPStore(
                    found.host,
                    found.port,
                    found.size,
                    is_master=is_master,
                    timeout=timedelta(seconds=_SECONDS_TO_ANSWER),
                    wait_for_workers=False,
                )
            )
        except RuntimeError as error:
            outcomes.append(error)

    Task(connect).end(_SECONDS_TO_ANSWER)  # the call neither ends by itself nor hears of signals
    outcome = outcomes[0] if outcomes else "no answer"
    if not isinstance(outcome, RuntimeError | str):
        outcome.set_timeout(timedelta(seconds=_SECONDS_TO_CONNECT))
        return outcome
    reason = outcome if isinstance(outcome, str) else first_line(outcome)
    if is_master:
        raise NotJoinedError(
            f"MASTER_PORT={found.port}: the first process cannot listen there ({reason:.150}); expected: a free port"
        )
    raise NotJoinedError(
        f"{found.where}: something else than torchrun, or than the first process, answers there ({reason:.150}); "
        f"expected: another port"
    )


def _why_not_reached(found: Variables) -> str | None:
    """Return why the first process, or torchrun, does not answer; None where it does."""
    try:
        socket.create_connection((found.host, found.port), timeout=2).close()
    except (OSError, UnicodeError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


def _choose_interface(found: Variables, store: Any) -> None:
    """Let gloo use the network interface by which machines reach each other.

    It takes that of the machine's name otherwise, which often stands for a loopback address in ``/etc/hosts``.

    Args:
        found: of this process.
        store: of all processes.
    """
    if found.local_size == found.size or "GLOO_SOCKET_IFNAME" in os.environ:
        return
    own = network.route_to(found.host)
    store.set(f"route/{found.rank}", own)
    routes = [store.get(f"route/{rank}").decode() for rank in range(found.size)] if network.is_loopback(own) else []
    address = network.outside_address(own, routes)
    name = None if network.is_loopback(address) else network.interface_of(address)
    if name is not None:
        os.environ["GLOO_SOCKET_IFNAME"] = name


def _backend(found: Variables) -> str:
    """Return nccl where this machine has a GPU for each of its processes, and make that of this one current."""
    import torch
    import torch.distributed as dist

    if not dist.is_nccl_available() or torch.cuda.device_count() < found.local_size:
        return "gloo"
    torch.cuda.set_device(found.local_rank)
    return "nccl"
