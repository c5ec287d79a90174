"""Command line: a thin layer over the Python API. Results go to stdout, progress to stderr."""

import atexit
import gc
import logging
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, NoReturn

from cyclopts import CycloptsError

from fastncf import launcher, rank_variables
from fastncf.cli.app import SettingsFileError, app, option_names
from fastncf.cli.comparing import compare
from fastncf.cli.data import datasets, generate
from fastncf.cli.fitting import fit, plan
from fastncf.cli.messages import as_options, explain
from fastncf.cli.saved import evaluate, export, info, recommend, report, similar, update
from fastncf.cli.tuning import tune
from fastncf.errors import ConfigError, FastNCFError, short_message
from fastncf.memory import require_libraries, translate_exhaustion
from fastncf.streams import (
    OutputError,
    Terminated,
    discard_unwritten,
    guarded_streams,
    ignore_signals,
    open_missing_descriptors,
    signals_as_interrupts,
)

if TYPE_CHECKING:
    from rich.console import Console

for command in (
    fit,
    plan,
    tune,
    evaluate,
    compare,
    recommend,
    similar,
    update,
    info,
    report,
    export,
    generate,
    datasets,
):
    app.command(command)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command line and exit.

    The exit code is 0 when all went well, 1 for an error at run time, 2 for wrong usage, 3 for data, 4 for a device or
    memory, 130 for an interruption, and 128 more than the number of a signal: SIGHUP, SIGTERM, and SIGPIPE where the
    reader of the output has left.

    Args:
        arguments: the words after the name of the program; those of this process where they are not given.
    """
    is_own_process = arguments is None
    tokens = sys.argv[1:] if arguments is None else arguments
    signals: list[int] = []
    with ExitStack() as stack:
        if is_own_process:
            # in a process of its own, the collection of cyclic garbage among imports would take a second
            gc.set_threshold(200_000)
            atexit.register(gc.freeze)
            open_missing_descriptors()
            stack.callback(discard_unwritten)
            signals = stack.enter_context(signals_as_interrupts())
        stack.enter_context(guarded_streams(lambda warning: as_options(warning, option_names(tokens))))
        code = _run(tokens, signals, is_own_process=is_own_process)
    if signals or (code and is_own_process and rank_variables.was_launched()):
        os._exit(code)  # does not wait for threads that are still compiling, or that wait for a rank which has ended
    sys.exit(code)


def _run(tokens: list[str], signals: list[int], *, is_own_process: bool) -> int:
    """Run a command line, print what went wrong as one line to stderr, and return the exit code.

    Args:
        tokens: the words after the name of the program.
        signals: signals that have arrived; whatever error they have led to is an interruption.
        is_own_process: whether the process ends with the command.
    """
    is_debug = "--debug" in tokens
    process: launcher.Launched | None = None
    try:
        tokens = _with_stdin(tokens)
        with translate_exhaustion(tokens[0] if tokens else "fastncf", "smaller data or a smaller model"):
            if tokens and not tokens[0].startswith("-"):
                require_libraries()
            with _notes_shown(tokens), _launched(tokens) as process:
                app(tokens, console=_console(), exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        if is_own_process:
            ignore_signals()  # all is done: one that comes while the interpreter ends would change the exit code
    except (SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # Polars' PanicException is no Exception
        if is_debug and not isinstance(error, CycloptsError | KeyboardInterrupt | OutputError):
            raise
        interrupt = KeyboardInterrupt() if signal.SIGINT in signals else Terminated(signals[0]) if signals else None
        if (lost := launcher.lost_rank(error)) is not None:
            ignore_signals()  # of a launcher, which ends the other ranks; this one ends once the line is printed
        message, code = explain(lost or interrupt or error)
        if message is not None and (interrupt or isinstance(error, KeyboardInterrupt)):
            message = "; ".join([message, *getattr(error, "__notes__", [])])  # how to go on
        if message is not None and isinstance(error, FastNCFError | KeyboardInterrupt):
            message = message if isinstance(error, SettingsFileError) else as_options(message, option_names(tokens))
        if message is not None and _speaks(process, error):
            print(f"fastncf: {short_message(message)}", file=sys.stderr)
        elif process is None and rank_variables.was_launched():
            launcher.wait_for_message()
        return code
    return 0


def _speaks(process: launcher.Launched | None, error: BaseException) -> bool:
    """Return whether this process is the one of several that says what has gone wrong."""
    if process is not None:
        return process.claims_message(error)
    return isinstance(error, launcher.NotJoinedError) or rank_variables.is_first_process()


_INPUTS = ("--users", "--items", "--exclude", "--history", "--test", "--candidates", "--titles", "--config")


def _with_stdin(tokens: list[str]) -> list[str]:
    """Return the words of a command line with the path of the standard input in place of ``-`` where a file is read.

    Raises:
        ConfigError: it stands for several files.
    """
    words, num_read = [], 0
    for last, token in zip([None, *tokens], tokens, strict=False):
        name, is_joined, value = token.partition("=")
        if is_joined:
            is_read = name in _INPUTS and value == "-"
        else:
            is_read = token == "-" and last is not None and (last in _INPUTS or not last.startswith("-"))
        num_read += is_read
        words.append(f"{name}=/dev/stdin" if is_read and is_joined else "/dev/stdin" if is_read else token)
    if num_read > 1:
        raise ConfigError(
            f"-: the standard input stands for {num_read} files; expected one of them, and paths of others"
        )
    return words


@contextmanager
def _notes_shown(tokens: list[str]) -> Iterator[None]:
    """Drop what is written to stderr with --quiet, and show the log of the package with --verbose, in the block."""
    with ExitStack() as stack:
        if not {"--quiet", "-q"}.isdisjoint(tokens):
            stack.enter_context(redirect_stderr(stack.enter_context(open(os.devnull, "w", encoding="utf-8"))))
        if not {"--verbose", "-v"}.isdisjoint(tokens):
            logger, handler = logging.getLogger("fastncf"), logging.StreamHandler(sys.stderr)
            handler.setFormatter(logging.Formatter("fastncf: %(message)s"))
            stack.callback(logger.setLevel, logger.level)
            stack.callback(logger.removeHandler, handler)
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
        yield


@contextmanager
def _launched(tokens: list[str]) -> Iterator[launcher.Launched | None]:
    """Join the processes that torchrun has started, in the block; all but the first print errors alone.

    Raises:
        ConfigError: the command is one that a single process runs.
    """
    if not rank_variables.was_launched() or not {"--help", "-h", "--version"}.isdisjoint(tokens):
        yield None
        return
    if tokens[:1] != ["fit"]:
        raise ConfigError(f"{' '.join(tokens[:1])}: runs in a single process; expected no torchrun, or the command fit")
    with launcher.Launched(_tell) as process, ExitStack() as stack:
        if process.rank > 0:
            nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
        yield process


def _tell(sentence: str) -> None:
    """Print a note."""
    print(f"fastncf: {sentence}", file=sys.stderr)


def _console() -> "Console | None":
    """Return a console of 40 columns where the terminal has fewer: rich hangs on the help where there is one column."""
    if shutil.get_terminal_size().columns >= 40:
        return None  # cyclopts makes one where it is needed
    from rich.console import Console

    return Console(width=40)
