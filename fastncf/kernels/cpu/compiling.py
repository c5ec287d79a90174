"""Notification of compilations. A first run waits for them; later runs load the kernels from a cache on disk."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numba.core import event


class _FirstCompilation(event.Listener):
    """Calls a function at the first compilation and never again."""

    def __init__(self, callback: Callable[[], object]) -> None:
        self._callback: Callable[[], object] | None = callback

    def on_start(self, _: Any) -> None:
        """Call the callback; Numba calls this method at each compilation."""
        callback, self._callback = self._callback, None
        if callback is not None:
            callback()

    def on_end(self, _: Any) -> None:
        """Do nothing; Numba requires the method."""


@contextmanager
def when_compiling(callback: Callable[[], object]) -> Iterator[None]:
    """Call ``callback()`` when a kernel is compiled for the first time within the block.

    Kernels that are in memory already or are loaded from the cache on disk do not count.
    """
    listener = _FirstCompilation(callback)
    event.register("numba:compile", listener)
    try:
        yield
    finally:
        event.unregister("numba:compile", listener)
