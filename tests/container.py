"""The steps of the Dockerfile in ``docs/serving.md``, run without Docker: in an empty environment, as another user.

    python -m tests.container --python /usr/bin/python3

``pip`` installs packages, so that it takes a minute or more. The server then runs without a home, in a folder that its
user may not write; run by root, as the user that the Dockerfile names, if that one may run the interpreter.
"""

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl

import fastncf
from tests.servers import application, ask, dockerfile

ROOT = Path(__file__).parents[1]
MOST_BYTES = 500_000_000


def prepare(context: Path) -> None:
    """Write what the Dockerfile copies: the wheel, versions, the application and a model."""
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", context / "dist", ROOT],
        check=True,
    )
    shutil.copy(ROOT / "constraints.txt", context)
    (context / "app.py").write_text(application(), encoding="utf-8")
    rows = [(user, item, item) for user in range(50) for item in range(user % 5, 30, 3)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    fastncf.fit(frame, dim=8, epochs=2, progress=False).save(context / "model")


def may_be_run_by_all(python: str) -> bool:
    """Return whether each user may run an interpreter: one in the home of root, for one, is for root alone."""
    path = Path(python).resolve()
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


class Container:
    """A folder in which the instructions of a Dockerfile are followed.

    Args:
        root: the folder; ``/app`` of the Dockerfile is ``root/app``.
        context: what COPY takes files from.
        python: interpreter of the environment.
    """

    def __init__(self, root: Path, context: Path, python: str) -> None:
        self.root, self.context = root, context
        self.environment = root / "environment"
        subprocess.run([python, "-m", "venv", self.environment], check=True)
        self.variables = {"PATH": f"{self.environment / 'bin'}:/usr/bin:/bin"}
        self.folder, self.user = root, None
        self.serves_all = may_be_run_by_all(python)

    def follow(self, instruction: str, argument: str) -> list[str]:
        """Follow an instruction; return the command of a CMD, and no words otherwise."""
        argument = argument.replace("/app", str(self.root / "app"))
        match instruction:
            case "FROM":
                assert argument.startswith("python:")
            case "WORKDIR":
                self.folder = Path(argument)
                self.folder.mkdir()
            case "COPY":
                *sources, target = argument.split()
                for source in sources:
                    self._copy(self.context / source, self.folder / target)
            case "RUN":
                pip = {name: value for name, value in os.environ.items() if name.startswith(("PIP_", "SSL_"))}
                variables = {**pip, **self.variables}
                subprocess.run(["sh", "-c", argument], cwd=self.folder, env=variables, check=True)
            case "ENV":
                name, _, value = argument.partition("=")
                self.variables[name] = value
            case "USER":
                self.user = int(argument) if os.geteuid() == 0 and self.serves_all else None
            case "CMD":
                return json.loads(argument)
            case _:
                raise ValueError(f"unknown instruction {instruction}")
        return []

    def _copy(self, source: Path, target: Path) -> None:
        """Copy a file into a folder, or a folder to a new name, as COPY does."""
        if source.is_dir():
            shutil.copytree(source, target)
        else:
            shutil.copy(source, target)

    @contextmanager
    def started(self, command: list[str]) -> Iterator[int]:
        """Run the server without a home and without the right to write; yield its port."""
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        words = [word.replace("0.0.0.0:8000", f"127.0.0.1:{port}") for word in command]
        subprocess.run(["chmod", "-R", "a-w,a+rX", self.folder], check=True)
        subprocess.run(["chmod", "-R", "a+rX", self.root], check=True)
        words[0] = str(self.environment / "bin" / words[0])
        account = {} if self.user is None else {"user": self.user, "group": self.user, "extra_groups": []}
        with subprocess.Popen(words, cwd=self.folder, env=self.variables, **account) as server:
            try:
                yield port
            finally:
                server.terminate()


def size_of(environment: Path) -> int:
    """Return the bytes of the packages of an environment, pip apart."""
    out = subprocess.run(["du", "-sk", *environment.glob("lib/*/site-packages/*")], capture_output=True, text=True)
    sizes = {Path(line.split("\t")[1]).name: int(line.split("\t")[0]) for line in out.stdout.splitlines()}
    return 1024 * sum(
        size for name, size in sizes.items() if not name.startswith(("pip", "setuptools", "pkg_resources"))
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="interpreter that the user of the container may run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        root, context = Path(name) / "root", Path(name) / "context"
        os.chmod(name, 0o755)
        for folder in (root, context):
            folder.mkdir()
        prepare(context)
        container = Container(root, context, options.python)
        command: list[str] = []
        for instruction, argument in dockerfile():
            command = container.follow(instruction, argument)
        kernels = sorted(path.name for path in (root / "app" / "kernels").rglob("*") if path.is_file())
        rec = fastncf.load(context / "model")
        with container.started(command) as port:
            found = [ask(port, f"user={user}&k=3") for user in (0, 1, 99)]
        for user, (status, rows) in zip((0, 1, 99), found, strict=True):
            expected = rec.recommend(user, 3, unknown="popular").to_dicts()
            assert status == 200
            assert [row["item"] for row in rows] == [row["item"] for row in expected]
        assert kernels == sorted(path.name for path in (root / "app" / "kernels").rglob("*") if path.is_file())
        assert (
            subprocess.run(
                [container.environment / "bin" / "python", "-c", "import torch"], stderr=subprocess.DEVNULL
            ).returncode
            == 1
        )
        size = size_of(container.environment)
        assert size < MOST_BYTES, size
        print(
            json.dumps({"answers": len(found), "user": container.user, "packages_bytes": size, "kernels": len(kernels)})
        )


if __name__ == "__main__":
    main()
