"""The progress of a fit as a bar, in a terminal and in a notebook."""

import importlib
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fastncf.config import show
from fastncf.errors import ConfigError

if TYPE_CHECKING:
    from fastncf.trainers.loop import Progress

_LOG = logging.getLogger("fastncf")
_SECONDS_BETWEEN = 0.1
"""Least time between two changes of what a notebook shows."""

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
        ConfigError: see :func:`require_callback`.
    """
    require_callback(callback, is_shown)
    from fastncf.kernels.cpu.compiling import when_compiling

    if is_shown and is_notebook():
        shown = _NotebookBar(callback)
        with when_compiling(lambda: shown.tell(_COMPILING)):
            yield shown
        return
    # rich is not imported for nothing, and may be missing where models are only served
    if not (is_shown and is_terminal() and find_spec("rich") is not None):
        with when_compiling(lambda: tell(_COMPILING)):
            yield callback
        return
    with _Bar(callback) as bar, when_compiling(lambda: bar.progress.console.print(_COMPILING)):
        yield bar


def require_callback(callback: Any, is_shown: Any) -> None:
    """Raise a ConfigError where a callback cannot be called, or ``is_shown`` is neither True nor False."""
    if callback is not None and not callable(callback):
        raise ConfigError(f"callback={show(callback)}: expected a function of one argument, a fastncf.Progress")
    if not isinstance(is_shown, bool):
        raise ConfigError(f"progress={show(is_shown)}: expected True or False")


def is_terminal() -> bool:
    """Return whether stderr is a terminal; it is None in programs without a console."""
    return sys.stderr is not None and sys.stderr.isatty()


def is_notebook() -> bool:
    """Return whether this runs in a kernel of Jupyter, which displays HTML."""
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
            self.progress.update(self.task, completed=progress.epoch, status=_status(progress))
        return None if self._callback is None else self._callback(progress)


class _NotebookBar:
    """The same in a notebook: one display that is changed in place, which every front end shows without widgets."""

    def __init__(self, callback: "Callable[[Progress], object] | None" = None) -> None:
        self._callback = callback
        self._begin, self._shown_at = time.monotonic(), 0.0
        self._stage, self._status, self._note = "read", "", ""
        self._epoch, self._epochs = 0, 0
        self._display: Any = None  # made by the first news, so that a setting that is refused shows none

    def __call__(self, progress: "Progress") -> object:
        if progress.stage != "epoch":
            self._stage, self._epochs, self._note = progress.stage, progress.epochs or 0, ""
            self._show()
        else:
            self._epoch, self._status = progress.epoch, _status(progress)
            if progress.epoch == self._epochs or time.monotonic() >= self._shown_at + _SECONDS_BETWEEN:
                self._show()
        return None if self._callback is None else self._callback(progress)

    def tell(self, note: str) -> None:
        """Show a sentence until the next section of the fit."""
        self._note = note
        self._show()

    def _show(self) -> None:
        self._shown_at = time.monotonic()
        if self._display is None:
            self._display = importlib.import_module("IPython.display").display(self, display_id=True)
        else:
            self._display.update(self)

    def __repr__(self) -> str:
        """Return what is shown as text."""
        minutes, seconds = divmod(int(time.monotonic() - self._begin), 60)
        parts = self._stage, self._counted(), f"{minutes}:{seconds:02}", self._status, self._note
        return "  ".join(part for part in parts if part)

    def _repr_html_(self) -> str:
        """Return the same with a bar, which moves by itself where nothing is counted."""
        counted = f' value="{self._epoch}" max="{self._epochs}"' if self._epochs else ""
        return f"<div><progress{counted}></progress> <code>{escape(repr(self))}</code></div>"

    def _counted(self) -> str:
        return f"{self._epoch}/{self._epochs}" if self._epochs else ""


def _status(progress: "Progress") -> str:
    """Return loss, speed and validation metrics of an epoch."""
    scores = "  ".join(f"{name} {value:.4f}" for name, value in progress.metrics.items())
    return f"loss {progress.loss:.4f}  {progress.samples_per_second / 1e6:.2f} M samples/s  {scores}".rstrip()
