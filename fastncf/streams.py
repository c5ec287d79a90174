"""Standard streams and signals while a command line runs.

Results go to stdout: where that cannot be written, the command fails with an :class:`OutputError`. Notes go to stderr:
where that cannot be written, the command goes on without them, since they are not worth a fit. Characters that the
encoding of a stream lacks are written as escapes.
"""

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any, TextIO

from fastncf.errors import UnusedSettingWarning, short_message

_SECONDS_TO_END = 10.0
"""Seconds that a process may take to end after a signal: more than an interrupted fit takes."""


class OutputError(Exception):
    """The standard output cannot be written.

    Attributes:
        reader_left: whether the other end of a pipe or socket was closed, as ``head`` does when it has seen enough.
    """

    def __init__(self, cause: OSError | ValueError) -> None:
        self.reader_left = isinstance(cause, ConnectionError)
        super().__init__(getattr(cause, "strerror", None) or str(cause))


class Terminated(KeyboardInterrupt):
    """A signal that ends the process has arrived.

    Attributes:
        number: number of the signal.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(f"terminated by {signal.Signals(number).name}")


class _Stream:
    """A text stream with escapes for what its encoding lacks; everything but writing is that of the stream itself."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, with escapes for what the encoding lacks."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        return self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))


class _Results(_Stream):
    """A stream that raises an OutputError where it cannot be written."""

    def write(self, text: str) -> int:
        """Write text."""
        try:
            return super().write(text)
        except (OSError, ValueError) as error:
            raise OutputError(error) from error

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            raise OutputError(error) from error


class _Notes(_Stream):
    """A stream that drops what cannot be written."""

    def write(self, text: str) -> int:
        """Write text."""
        with suppress(OSError, ValueError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        with suppress(OSError, ValueError):
            self._stream.flush()


@contextmanager
def guarded_streams(reworded: Callable[[str], str] = str) -> Iterator[None]:
    """Guard stdout and stderr, as this module describes, within the block; a stream that is None takes everything.

    Warnings are one line on stderr, without the place in the code that raised them.

    Args:
        reworded: returns the text of a warning in the words of the command line.
    """

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        """Print a warning; the parameters are those of ``warnings.showwarning``."""
        print(f"fastncf: warning: {short_message(reworded(str(message)))}", file=sys.stderr)

    results: Any = _Results
    notes: Any = _Notes
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("always", UnusedSettingWarning)
        nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        stack.enter_context(redirect_stdout(results(sys.stdout or nowhere)))
        stack.enter_context(redirect_stderr(notes(sys.stderr or nowhere)))
        warnings.showwarning = show
        yield


@contextmanager
def signals_as_interrupts() -> Iterator[list[int]]:
    """Raise an exception for a signal that ends the process, so that partial files and a hidden cursor do not stay.

    It is :class:`Terminated` for SIGTERM and SIGHUP, and ``KeyboardInterrupt`` for SIGINT. A library may turn it into
    another one, or, where it is raised in a callback, drop it. So the block gets a list of the signals that have
    arrived, and a process that goes on is ended some seconds later.

    Python calls the handlers of signals in the main thread; in another one nothing is changed. A second signal ends the
    process at once. A signal that is ignored, as by ``nohup``, stays ignored.
    """
    former: dict[int, Any] = {}
    arrived: list[int] = []
    deadlines: list[threading.Timer] = []

    def end(number: int, _: object) -> None:
        """Raise the exception; the parameters are those of a signal handler."""
        for other in former:
            signal.signal(other, signal.SIG_DFL)
        arrived.append(number)
        deadline = threading.Timer(_SECONDS_TO_END, os._exit, [128 + number])
        deadline.daemon = True
        deadlines.append(deadline)
        deadline.start()
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated(number)

    if threading.current_thread() is threading.main_thread():
        numbers = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
        handlers = {number: signal.getsignal(number) for number in numbers}
        former = {n: found for n, found in handlers.items() if found in (signal.SIG_DFL, signal.default_int_handler)}
    try:
        for number in former:
            signal.signal(number, end)
        yield arrived
    finally:
        for deadline in deadlines:
            deadline.cancel()
        for number, handler in former.items():
            if signal.getsignal(number) is not signal.SIG_IGN:  # see ignore_signals()
                signal.signal(number, handler)


def ignore_signals() -> None:
    """Ignore signals that end the process, which is about to end by itself.

    To block them would not do: another thread, as of a library, would take them. Only the main thread can change what
    is done with signals; in another one nothing happens.
    """
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)


def open_missing_descriptors() -> None:
    """Open the file descriptors 0, 1 and 2 where the process was started without.

    A file that is opened later would get such a number, and what a library prints would be written into that file.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number is this one


def discard_unwritten() -> None:
    """Discard what is buffered for a standard stream that cannot be written.

    Otherwise the interpreter would try to write it at its end, complain, and exit with a code of its own.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream.fileno())
                os.close(nowhere)
