"""Processes that a launcher has started, and leftovers of one."""

import os
import socket
import subprocess
import sys

import pytest

from fastncf import launcher, rank_variables
from fastncf.errors import ConfigError
from fastncf.threads import num_threads

NAMES = "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"


@pytest.fixture
def variables(monkeypatch):
    """Return a function that sets the variables of a launcher."""
    for name in (*NAMES, "TORCHELASTIC_USE_AGENT_STORE"):
        monkeypatch.delenv(name, raising=False)

    def set_all(**values: str) -> None:
        for name, value in {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", **values}.items():
            monkeypatch.setenv(name, value)

    return set_all


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("WORLD_SIZE", "two", "an integer of at least 1"),
        ("WORLD_SIZE", "", "an integer of at least 1"),
        ("RANK", "2", "an integer from 0 to 1"),
        ("RANK", "-1", "an integer from 0 to 1"),
        ("LOCAL_RANK", "1", "an integer from 0 to 0"),
        ("LOCAL_WORLD_SIZE", "0", "an integer from 1 to 2"),
        ("MASTER_PORT", "65536", "an integer from 1 to 65535"),
        ("MASTER_PORT", "\x1b", "an integer from 1 to 65535"),
    ],
)
def test_wrong_variables_are_named_by_each_process(variables, name, value, expected):
    variables(**{name: value})
    with pytest.raises(ConfigError, match=f"{name}=.* in the environment: expected {expected}"):
        launcher.Launched()
    assert rank_variables.is_first_process()


def test_variables_of_one_process_are_not_read(variables, monkeypatch):
    monkeypatch.delenv("FASTNCF_NUM_THREADS", raising=False)
    variables(WORLD_SIZE="1", LOCAL_WORLD_SIZE="x", RANK="y")
    assert rank_variables.is_first_process()
    assert num_threads() >= 1


def test_only_the_first_of_several_speaks(variables):
    variables(RANK="1")
    assert not rank_variables.is_first_process()


def free_port() -> str:
    """Return a port that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


@pytest.mark.parametrize("rank", ["0", "1"])
def test_leftovers_of_a_launcher_that_is_gone_are_named(variables, monkeypatch, rank):
    monkeypatch.setattr(launcher, "_SECONDS_OF_AN_AGENT", 0.1)
    variables(RANK=rank, MASTER_PORT=free_port(), TORCHELASTIC_USE_AGENT_STORE="True")
    with pytest.raises(launcher.NotJoinedError, match=r"RANK=\d in the environment: nothing answers at 127.0.0.1:\d+"):
        launcher.Launched()


def test_a_first_process_that_does_not_come_is_waited_for_and_named(variables, monkeypatch):
    monkeypatch.setattr(launcher, "_SECONDS_TO_CONNECT", 0.4)
    monkeypatch.setattr(launcher, "_SECONDS_BEFORE_NOTE", 0.1)
    notes = []
    variables(RANK="1", MASTER_PORT=free_port())
    with pytest.raises(launcher.NotJoinedError, match="nothing answers"):
        launcher.Launched(notes.append)
    (note,) = notes
    assert "waiting for the others" in note


def test_others_that_do_not_come_are_counted(variables, monkeypatch):
    monkeypatch.setattr(launcher, "_SECONDS_TO_CONNECT", 1)
    variables(MASTER_PORT=free_port())
    with pytest.raises(launcher.NotJoinedError, match=r"1 of 2 processes .* have come to"):
        launcher.Launched()


def test_a_port_in_use_is_named(variables, monkeypatch):
    monkeypatch.setattr(launcher, "_SECONDS_TO_ANSWER", 0.5)
    with socket.create_server(("", 0)) as server:  # it takes connections and says nothing
        variables(RANK="1", MASTER_PORT=str(server.getsockname()[1]))
        with pytest.raises(launcher.NotJoinedError, match="something else than torchrun"):
            launcher.Launched()


def test_each_process_that_has_not_joined_says_so():
    environment = os.environ | {"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": free_port(), "MASTER_ADDR": "localhost"}
    environment |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    program = "from fastncf import launcher, cli; launcher._SECONDS_OF_AN_AGENT = 0.1; cli.main()"
    command = [sys.executable, "-c", program, "fit", "x.csv"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "nothing answers" in done.stderr
