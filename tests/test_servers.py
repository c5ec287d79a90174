"""The application of ``docs/serving.md`` under gunicorn, and a model in processes that are started by any method."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest

import fastncf
from tests.conftest import checkerboard
from tests.servers import answer, application, ask, dockerfile

ROOT = Path(fastncf.__file__).parents[1]
needs_gunicorn = pytest.mark.skipif(find_spec("gunicorn") is None, reason="gunicorn is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the application and a saved model."""
    path = tmp_path_factory.mktemp("server")
    fastncf.fit(checkerboard(20, 14, 2), dim=4, epochs=1, num_candidates=5).save(path / "model")
    for user in (0, "nobody"):  # compiles what the workers load
        fastncf.load(path / "model").recommend(user, 3, unknown="popular")
    (path / "app.py").write_text(application(), encoding="utf-8")
    return path


@needs_gunicorn
@pytest.mark.parametrize(
    "flags",
    [["--workers", "2"], ["--workers", "2", "--preload", "--threads", "2"]],
    ids=["each worker loads", "preload"],
)
def test_gunicorn_answers_as_the_model_does(flags, folder):
    rec = fastncf.load(folder / "model")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "--timeout", "600", "--bind", f"127.0.0.1:{port}", *flags, "app:app"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True) as server:
        try:
            users = [*rec.users.ids.to_list()[:6], 4_000_000]
            with ThreadPoolExecutor(4) as pool:
                found = list(pool.map(lambda user: ask(port, f"user={user}&k=3"), users))
            for user, (status, rows) in zip(users, found, strict=True):
                assert status == 200
                assert rows == json.loads(json.dumps(rec.recommend(user, 3, unknown="popular").to_dicts()))
            status, refused = ask(port, "user=1&k=none")
            assert status == 400
            assert "none" in refused["error"]
        finally:
            server.send_signal(signal.SIGTERM)
            _, log = server.communicate(timeout=600)
    assert server.returncode == 0, log
    assert "Traceback" not in log, log


def test_spawned_and_forkserver_processes_answer(folder):
    expected = [answer(str(folder), user) for user in (0, 1)]
    for method in ("spawn", "forkserver") if hasattr(os, "fork") else ("spawn",):
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
            assert list(pool.map(answer, [str(folder)] * 2, (0, 1))) == expected


def test_the_dockerfile_is_short_and_ends_without_privileges():
    names = [name for name, _ in dockerfile()]
    assert len(names) <= 15
    assert names[0] == "FROM"
    assert names[-2:] == ["USER", "CMD"]
