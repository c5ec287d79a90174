"""Variables of the environment by which torchrun, and other launchers, tell a process its rank."""

import os
from typing import NamedTuple, Self

from fastncf.errors import ConfigError


class Variables(NamedTuple):
    """Variables of the environment that describe a process to itself.

    Attributes:
        rank, size: RANK and WORLD_SIZE.
        local_rank, local_size: LOCAL_RANK and LOCAL_WORLD_SIZE, those of its machine.
        host, port: MASTER_ADDR and MASTER_PORT, of the first process, or of torchrun.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    host: str
    port: int

    @classmethod
    def read(cls) -> Self:
        """Return the variables of this process.

        Raises:
            ConfigError: one is no number, or out of its range.
        """
        size = _number("WORLD_SIZE", 1, None)
        local_size = _number("LOCAL_WORLD_SIZE", 1, size, "1")
        return cls(
            rank=_number("RANK", 0, size - 1),
            size=size,
            local_rank=_number("LOCAL_RANK", 0, local_size - 1, "0"),
            local_size=local_size,
            host=os.environ.get("MASTER_ADDR", "localhost"),
            port=_number("MASTER_PORT", 1, 65535, "29500"),
        )

    @property
    def where(self) -> str:
        """The address of the first process, in messages."""
        return f"{self.host:.100}:{self.port} (MASTER_ADDR and MASTER_PORT)"


def _number(name: str, least: int, most: int | None, default: str = "") -> int:
    """Return the number that a variable of the environment holds.

    Raises:
        ConfigError: it is none, or out of its range.
    """
    text = os.environ.get(name, default)
    if text.isdecimal() and least <= int(text) and (most is None or int(text) <= most):
        return int(text)
    expected = f"an integer of at least {least}" if most is None else f"an integer from {least} to {most}"
    raise ConfigError(
        f"{name}={text!r:.80} in the environment: expected {expected}, as torchrun sets it, or a single process "
        f"without WORLD_SIZE"
    )


def was_launched() -> bool:
    """Return whether torchrun, or another launcher that sets its variables, has started this process beside others."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ


def processes_here() -> int:
    """Return the number of processes that a launcher has started on this machine, this one included.

    Raises:
        ConfigError: a variable of the launcher is wrong.
    """
    return Variables.read().local_size if was_launched() else 1


def is_first_process() -> bool:
    """Return whether this process is the one that speaks: the first, one that is alone, or one with wrong variables."""
    if not was_launched():
        return True
    try:
        return Variables.read().rank == 0
    except ConfigError:
        return True
