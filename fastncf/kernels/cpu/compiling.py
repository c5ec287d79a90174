"""Word of the compilation that a first run waits for; what it makes is kept on disk."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numba.core import event


class _Listener(event.Listener):
    def __init__(self, tell: Callable[[], object]) -> None:
        self.tell: Callable[[], object] | None = tell

    def on_start(self, _: Any) -> None:
        tell, self.tell = self.tell, None
        if tell is not None:
            tell()

    def on_end(self, _: Any) -> None:
        pass


@contextmanager
def when_compiling(tell: Callable[[], object]) -> Iterator[None]:
    """Call ``tell()`` when the first kernel is compiled within the block: one that no cache on disk has."""
    listener = _Listener(tell)
    event.register("numba:compile", listener)
    try:
        yield
    finally:
        event.unregister("numba:compile", listener)
