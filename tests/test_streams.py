"""Standard streams that cannot be written, are closed or lack characters, and signals."""

import io
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest

import fastncf
from fastncf.__main__ import run
from fastncf.streams import OutputError, Terminated, guarded_streams, signals_as_interrupts

PROGRAM = [sys.executable, "-m", "fastncf"]
FOLDER = Path(fastncf.__file__).parents[1]
needs_full_device = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")


class Broken(io.StringIO):
    """A stream that cannot be written."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, _: str) -> int:
        raise self.error


def process(arguments, **streams) -> subprocess.CompletedProcess:
    """Run a command line in a process of its own, with its stderr as text unless another one is given."""
    return subprocess.run(
        [*PROGRAM, *arguments], cwd=FOLDER, text=True, timeout=60, **{"stderr": subprocess.PIPE, **streams}
    )


def redirected(redirections, *arguments) -> subprocess.CompletedProcess:
    """Run a command line by a shell with redirections of its streams."""
    script = f'exec "$@" {redirections}'
    return subprocess.run(
        ["sh", "-c", script, "sh", *PROGRAM, *arguments], cwd=FOLDER, text=True, timeout=60, capture_output=True
    )


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_a_reader_that_has_left_ends_the_program_without_a_word(kind):
    if kind == "pipe":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        ends = socket.socketpair()
        ends[0].close()
        writer = ends[1].detach()
    done = process(["--help"], stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@needs_full_device
@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_a_full_device_is_one_sentence(arguments):
    done = redirected(">/dev/full", *arguments)
    assert done.returncode == 1
    assert done.stderr == "fastncf: standard output: cannot be written (No space left on device)\n"


@pytest.mark.parametrize("redirections", [">&-", ">&- 2>&- <&-"])
def test_streams_that_are_closed_take_everything(redirections):
    done = redirected(redirections, "--help")
    assert (done.returncode, done.stderr) == (0, "")


@needs_full_device
def test_a_stderr_that_cannot_be_written_leaves_the_exit_code():
    assert redirected("2>/dev/full", "fit").returncode == 2


def test_help_in_an_encoding_without_its_characters():
    done = process(["fit", "--help"], stdout=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert "--learning-rate" in done.stdout


def test_files_do_not_get_the_numbers_of_standard_streams(tmp_path):
    code = f"""
import os
from fastncf.streams import open_missing_descriptors
open_missing_descriptors()
file = os.open({str(tmp_path / "file")!r}, os.O_WRONLY | os.O_CREAT)
os.write(1, b"a library prints")
os.write(file, str(file).encode())
"""
    subprocess.run(["sh", "-c", 'exec "$@" >&- 2>&- <&-', "sh", sys.executable, "-c", code], cwd=FOLDER, check=True)
    assert int((tmp_path / "file").read_text()) > 2


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_what_an_encoding_lacks_is_escaped(monkeypatch, encoding):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding=encoding))
    with guarded_streams():
        print("\u4e2d \udc80")
        sys.stdout.flush()
    expected = "\u4e2d" if encoding == "utf-8" else "\\u4e2d"
    assert raw.getvalue().decode(encoding) == f"{expected} \\udc80\n"


@pytest.mark.parametrize("reason", [OSError(28, "No space left on device"), ValueError("closed"), BrokenPipeError()])
def test_results_that_cannot_be_written_are_an_error_and_notes_are_not(monkeypatch, reason):
    monkeypatch.setattr("sys.stdout", Broken(reason))
    monkeypatch.setattr("sys.stderr", Broken(reason))
    former = sys.stdout
    with guarded_streams():
        print("a note", file=sys.stderr, flush=True)
        with pytest.raises(OutputError) as caught:
            print("a result")
    assert caught.value.reader_left == isinstance(reason, BrokenPipeError)
    assert sys.stdout is former


def test_a_warning_is_one_line_without_escapes_of_terminals(capsys):
    with warnings.catch_warnings(), guarded_streams():
        warnings.simplefilter("always")
        warnings.warn("the setting \x1b[31m\n has no effect", stacklevel=1)
    assert capsys.readouterr().err == "fastncf: warning: the setting \\x1b[31m\\n has no effect\n"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_a_signal_unwinds_the_program(name):
    number = getattr(signal, name)
    former = signal.signal(number, signal.SIG_DFL)  # nohup, which runs the tests in some places, ignores SIGHUP

    def wait_for_signal() -> None:
        with signals_as_interrupts():
            os.kill(os.getpid(), number)
            time.sleep(30)  # is interrupted by the signal

    try:
        with pytest.raises(Terminated, match=name):
            wait_for_signal()
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, former)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_while_the_interpreter_ends_changes_nothing(name):
    code = """
import atexit, sys, time
from fastncf.cli import main

atexit.register(lambda: (print("ending", flush=True), time.sleep(0.3)))
sys.argv = ["fastncf", "datasets"]
main()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as one:
        for line in one.stdout:
            if line == "ending\n":
                one.send_signal(getattr(signal, name))
        assert "Traceback" not in one.stderr.read()
        assert one.wait() == 0


def test_a_signal_that_is_ignored_stays_ignored():
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals_as_interrupts():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, former)


def test_signals_are_left_alone_in_another_thread():
    found = []

    def work() -> None:
        with signals_as_interrupts():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.SIG_DFL]


def test_an_interruption_before_the_command_line_is_ready(monkeypatch, capsys):
    def interrupt() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("fastncf.cli.main", interrupt)
    with pytest.raises(SystemExit) as exit_:
        run()
    assert exit_.value.code == 130
    assert capsys.readouterr().err == "fastncf: interrupted\n"
