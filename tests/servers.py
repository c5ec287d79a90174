"""Shared parts of the tests of servers: the application and Dockerfile of ``docs/serving.md``, and requests."""

import json
import re
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import fastncf

PAGE = Path(__file__).parents[1] / "docs" / "serving.md"


def block(language: str, start: str) -> str:
    """Return the code block of the page that begins with some text."""
    blocks = re.findall(
        rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    (found,) = (one for one in blocks if one.startswith(start))
    return found


def application() -> str:
    """Return the source of the application."""
    return block("python", "# app.py\n")


def dockerfile() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their arguments."""
    return [tuple(line.split(" ", 1)) for line in block("dockerfile", "FROM ").splitlines()]


def answer(folder: str, user: int) -> list[dict[str, Any]]:
    """Load a model and ask it; what a process of a pool does, which imports this file."""
    return fastncf.load(Path(folder) / "model").recommend(user, 3).to_dicts()


def ask(port: int, query: str, seconds: float = 600) -> tuple[int, Any]:
    """Return the status and the answer to a request to a server on this machine, which may still be starting."""
    end = time.monotonic() + seconds
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/?{query}", timeout=seconds) as response:
                return response.status, json.load(response)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.05)
