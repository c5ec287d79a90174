"""The progress of a fit as a bar."""

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastncf.trainers.loop import Progress


_COMPILING = "compiling kernels for this machine: this takes some seconds, the first time only"


@contextmanager
def progress_shown() -> "Iterator[_Bar | None]":
    """Show a progress bar on a terminal, and say that kernels are compiled where they are; yield the callback."""
    from fastncf.kernels.cpu.compiling import when_compiling

    if not sys.stderr.isatty():  # rich's bar is not imported for nothing
        with when_compiling(lambda: print(_COMPILING, file=sys.stderr)):
            yield None
        return
    with _Bar() as bar, when_compiling(lambda: bar.progress.console.print(_COMPILING)):
        yield bar


class _Bar:
    """A progress bar on stderr with loss, validation metrics and samples/s."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

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

    def __call__(self, progress: "Progress") -> None:
        if progress.stage != "epoch":
            self.progress.update(self.task, description=progress.stage, total=progress.epochs)
            return
        scores = "  ".join(f"{name} {value:.4f}" for name, value in progress.metrics.items())
        line = f"loss {progress.loss:.4f}  {progress.samples_per_second / 1e6:.2f} M samples/s  {scores}"
        self.progress.update(self.task, completed=progress.epoch, status=line)
