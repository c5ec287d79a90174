"""Forked processes: which threads a child lacks, and what it can do without them.

A fork copies the calling thread alone. A library that has started threads before the fork still counts on them in the
child, and waits for them forever. Two of them matter here:

- Polars runs most operations in a pool of threads. Nothing can start it anew, so what needs it is refused in a child.
- torch divides large operations among threads. With one thread it uses none but the calling one, so that a child can
  compute with it.

A child that was forked before a library had threads starts its own, and lacks nothing.
"""

import os
import re
import sys
from contextlib import suppress
from pathlib import Path

from fastncf.errors import ForkError

_POLARS_THREAD = re.compile(r"polars-\d+")
_TASKS = Path("/proc/self/task")

_in_use: frozenset[str] = frozenset()
"""Libraries that had threads when this process forked last."""

_lost: frozenset[str] = frozenset()
"""Libraries whose threads this process lacks, since a process that it descends from had them when it forked."""


def lacks_threads(library: str) -> bool:
    """Return whether this process is a forked child that lacks the threads of ``polars`` or ``torch``."""
    return library in _lost


def require_polars_threads(what: str) -> None:
    """Check that this process can use Polars' threads.

    Args:
        what: what needs them, such as ``reading interactions``.

    Raises:
        ForkError: it is a forked child that lacks them.
    """
    if lacks_threads("polars"):
        raise ForkError(
            f"{what} needs the threads of Polars, which this forked process lacks, since its parent had started them; "
            f"expected: a process that multiprocessing starts with 'spawn' or 'forkserver', or a fork before the first "
            f"use of Polars"
        )


def use_one_torch_thread_after_fork() -> None:
    """Let torch compute on the calling thread alone from now on where this process lacks torch's threads."""
    if lacks_threads("torch"):
        sys.modules["torch"].set_num_threads(1)


def _has_polars_threads() -> bool:
    """Return whether Polars has started its pool; where the system does not tell, whether it is imported."""
    if "polars" not in sys.modules:
        return False
    if not _TASKS.is_dir():
        return True
    for task in _TASKS.iterdir():
        with suppress(OSError):  # the thread has ended meanwhile
            if _POLARS_THREAD.match((task / "comm").read_text(errors="replace")):
                return True
    return False


def _before_fork() -> None:
    """Record which libraries have threads. The threads of torch have no name, so to be imported counts."""
    global _in_use
    found = {"polars"} if _has_polars_threads() else set()
    _in_use = frozenset(found | ({"torch"} & sys.modules.keys()))


def _after_fork_in_child() -> None:
    """Take over what was recorded."""
    global _lost
    _lost |= _in_use


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
