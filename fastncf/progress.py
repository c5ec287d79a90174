"""The progress of a fit as a bar, in a terminal and in a notebook."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from fastncf.config import show
from fastncf.errors import ConfigError

if TYPE_CHECKING:
    from fastncf.trainers.loop import Progress

_LOG = logging.getLogger("fastncf")
_COMPILING = "compiling kernels for this machine: this takes some seconds, the first time only"


@contextmanager
def progress_shown(
    callback: "Callable[[Progress], object] | None" = None,
    *,
    is_shown: bool = True,
    tell: Callable[[str], object] = _LOG.info,
) -> "Iterator[Callable[[Progress], object] | None]":
    """Show a bar on stderr where that is a terminal or a notebook, and say that kernels are compiled where they are.

    Args:
        callback: what is called beside the bar, whose answer counts.
        is_shown: whether there is a bar at all.
        tell: called with what is said where there is no bar.

    Yields:
        The callback to give to a fit.

    Raises:
        ConfigError: the callback cannot be called, or ``is_shown`` is neither True nor False.
    """
    if callback is not None and not callable(callback):
        raise ConfigError(f"callback={show(callback)}: expected a function of one argument, a fastncf.Progress")
    if not isinstance(is_shown, bool):
        raise ConfigError(f"progress={show(is_shown)}: expected True or False")
    from fastncf.kernels.cpu.compiling import when_compiling

    has_bar = is_shown and (is_terminal() or is_notebook()) and find_spec("rich") is not None
    if not has_bar:  # rich is not imported for nothing; where models are served only, it may be missing
        with when_compiling(lambda: tell(_COMPILING)):
            yield callback
        return
    with _Bar(callback) as bar, when_compiling(lambda: bar.progress.console.print(_COMPILING)):
        yield bar


def is_terminal() -> bool:
    """Return whether stderr is a terminal; it is None in programs without a console."""
    return sys.stderr is not None and sys.stderr.isatty()


def is_notebook() -> bool:
    """Return whether this runs in a kernel of Jupyter, which shows what rich displays."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    return type(shell).__name__ in ("ZMQInteractiveShell", "Shell")  # Shell is that of Colab


class _Bar:
    """A progress bar with loss, validation metrics and samples/s."""

    def __init__(self, callback: "Callable[[Progress], object] | None" = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        self._callback = callback
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[status]}", markup=False),
            console=Console(stderr=True),
        )
        self.task = self.progress.add_task("read", total=None, status="")

    def __enter__(self) -> "_Bar":
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, progress: "Progress") -> object:
        if progress.stage != "epoch":
            self.progress.update(self.task, description=progress.stage, total=progress.epochs)
        else:
            scores = "  ".join(f"{name} {value:.4f}" for name, value in progress.metrics.items())
            line = f"loss {progress.loss:.4f}  {progress.samples_per_second / 1e6:.2f} M samples/s  {scores}"
            self.progress.update(self.task, completed=progress.epoch, status=line)
        return None if self._callback is None else self._callback(progress)
