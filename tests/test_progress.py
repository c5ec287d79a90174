import io
import logging
import sys
import types

import pytest

import fastncf
from fastncf import progress
from fastncf.errors import ConfigError
from tests.conftest import checkerboard

FAST = {"dim": 4, "epochs": 2, "l2": 0.0, "num_negatives": 2}


class Terminal(io.StringIO):
    """A stream that says that it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def terminal(monkeypatch):
    """Makes stderr a terminal; called in a test, since pytest sets stderr between a fixture and its test."""

    def make():
        stream = Terminal()
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        return stream

    return make


@pytest.fixture
def bars(monkeypatch):
    """The bars that are made."""
    made = []

    class Bar(progress._Bar):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(progress, "_Bar", Bar)
    return made


def test_a_fit_shows_a_bar_in_a_terminal(terminal, bars):
    stream = terminal()
    fastncf.fit(checkerboard(), **FAST)
    (bar,) = bars
    (task,) = bar.progress.tasks
    assert (task.completed, task.total, task.description) == (2, 2, "evaluate")
    assert "evaluate" in stream.getvalue()


def test_refit_and_update_show_a_bar_too(terminal, bars):
    stream = terminal()
    rec = fastncf.fit(checkerboard(), **FAST, progress=False)
    assert (bars, stream.getvalue()) == ([], "")
    rec.refit()
    assert len(bars) == 1
    rec.update(checkerboard().head(3), epochs=1)
    assert len(bars) == 2
    rec.update(checkerboard().head(3), epochs=1, progress=False)
    assert len(bars) == 2


def test_nothing_is_shown_where_there_is_no_terminal(capsys, bars):
    fastncf.fit(checkerboard(), **FAST)
    assert bars == []
    assert capsys.readouterr() == ("", "")


@pytest.fixture
def kernel(monkeypatch):
    """Makes the process a kernel of Jupyter, called with the name of its shell; returns what is shown."""

    def make(shell):
        shown = []

        def display(thing, display_id):
            shown.append([(repr(thing), thing._repr_html_())])
            update = lambda changed: shown[-1].append((repr(changed), changed._repr_html_()))  # noqa: E731
            return types.SimpleNamespace(update=update)

        monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=type(shell, (), {})))
        monkeypatch.setitem(sys.modules, "IPython.display", types.SimpleNamespace(display=display))
        return shown

    return make


@pytest.mark.parametrize(("shell", "is_shown"), [("ZMQInteractiveShell", True), ("TerminalInteractiveShell", False)])
def test_a_notebook_shows_one_bar(kernel, capsys, shell, is_shown):
    shown = kernel(shell)
    fastncf.fit(checkerboard(), **FAST, progress=False)
    with pytest.raises(ConfigError, match="did you mean epochs"):
        fastncf.fit(checkerboard(), epoch=2)
    assert shown == []
    fastncf.fit(checkerboard(), **FAST)
    assert len(shown) == is_shown
    for states in shown:
        assert states[0][0].startswith("read")
        assert any("loss" in text for text, _ in states)
        text, html = states[-1]
        assert text.startswith("evaluate  2/2  0:0")
        assert '<progress value="2" max="2">' in html
    assert capsys.readouterr() == ("", "")


def test_a_notebook_says_that_kernels_are_compiled(kernel, monkeypatch):
    def compiling(tell):
        tell()
        return progress.contextmanager(lambda: (yield))()

    monkeypatch.setattr("fastncf.kernels.cpu.compiling.when_compiling", compiling)
    shown = kernel("ZMQInteractiveShell")
    with progress.progress_shown():
        assert progress._COMPILING in shown[0][0][0]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_answer_of_the_callback_counts_beside_a_bar(request, is_terminal):
    if is_terminal:
        request.getfixturevalue("terminal")()
    seen = []

    def stop(news):
        seen.append(news.stage)
        return news.stage == "epoch"

    rec = fastncf.fit(checkerboard(), **FAST | {"epochs": 5}, callback=stop)
    assert len(rec.training_log) == seen.count("epoch") == 1


def test_compilations_are_said(monkeypatch, caplog):
    def compiling(tell):
        tell()
        return progress.contextmanager(lambda: (yield))()

    monkeypatch.setattr("fastncf.kernels.cpu.compiling.when_compiling", compiling)
    with caplog.at_level(logging.INFO, "fastncf"), progress.progress_shown():
        assert "compiling kernels for this machine" in caplog.text
    told = []
    with progress.progress_shown(tell=told.append):
        assert told == [progress._COMPILING]


def test_a_program_without_stderr(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    assert not progress.is_terminal()
    assert fastncf.fit(checkerboard(), **FAST).metrics


def test_the_log_of_the_package_tells_sections_and_epochs(caplog):
    with caplog.at_level(logging.INFO, "fastncf"):
        fastncf.fit(checkerboard(), **FAST, validation=True)
    assert [record.name for record in caplog.records] == ["fastncf"] * len(caplog.records)
    text = [record.getMessage() for record in caplog.records]
    assert [line for line in text if line.endswith("begins")][:2] == ["read begins", "split begins"]
    assert next(line for line in text if line.startswith("epoch 2 of 2: loss ")).count("ndcg@10") == 1


def test_wrong_callbacks_and_flags_are_refused_by_all_that_train():
    rec = fastncf.fit(checkerboard(), **FAST)
    trains = (
        lambda **given: fastncf.fit("nowhere.csv", **given),
        rec.refit,
        lambda **given: rec.update(checkerboard().head(2), epochs=1, **given),
    )
    for train in trains:
        with pytest.raises(ConfigError, match=r"^callback=3: expected a function of one argument"):
            train(callback=3)
        with pytest.raises(ConfigError, match=r"^progress='no': expected True or False$"):
            train(progress="no")
