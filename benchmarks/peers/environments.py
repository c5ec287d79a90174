"""Environments of the peers: made from PyPI once, each in a folder of its own."""

import json
import re
import subprocess
import sys
import venv
from pathlib import Path

from benchmarks.peers.systems import ENVIRONMENTS, System

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
_INSTALLER = ("pip", "setuptools", "wheel", "_distutils_hack", "pkg_resources")


class EnvironmentFailedError(Exception):
    """An environment could not be made; the message is the last line of the installer."""


def python_of(system: System, folder: Path) -> Path:
    """Return the interpreter that a system runs in, after its environment was made.

    Args:
        system: one of the systems.
        folder: holds the environments.

    Raises:
        EnvironmentFailedError: the packages cannot be installed.
    """
    if system.environment is None:
        return Path(sys.executable)
    place = folder / system.environment
    python = place / "bin" / "python"
    done = place / "installed.txt"
    wanted = "\n".join(ENVIRONMENTS[system.environment])
    if not done.exists() or done.read_text(encoding="utf-8") != wanted:
        venv.create(place, with_pip=True, clear=True)
        command = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        pins = place / "pins.txt"  # torch alone: the peers choose the other versions
        pins.write_text(
            "".join(line for line in CONSTRAINTS.read_text(encoding="utf-8").splitlines(True) if line[:6] == "torch=")
        )
        command += ["--constraint", str(pins), *ENVIRONMENTS[system.environment]]
        found = subprocess.run(command, capture_output=True, text=True)
        if found.returncode:
            raise EnvironmentFailedError((found.stderr.strip().splitlines() or ["pip failed"])[-1])
        done.write_text(wanted, encoding="utf-8")
    return python


def installed_bytes(python: Path) -> int:
    """Return the size of the packages of an environment, without what installs packages."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    place = Path(subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.strip())
    files = (path for path in place.rglob("*") if path.is_file() and not path.is_symlink())
    return sum(
        path.stat().st_size
        for path in files
        if path.relative_to(place).parts[0].split("-")[0] not in _INSTALLER and "__pycache__" not in path.parts
    )


def versions(system: System, python: Path) -> dict[str, str]:
    """Return the versions of the packages that the environment of a system was made for, and of NumPy and torch."""
    names = {re.split(r"[\[=]", package)[0] for package in ENVIRONMENTS.get(system.environment or "", ("fastncf",))}
    code = "import importlib.metadata as m, json; print(json.dumps({d.name: d.version for d in m.distributions()}))"
    found = json.loads(subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout)
    return {name: found[name] for name in sorted(found) if name in names | {"numpy", "torch"}}
