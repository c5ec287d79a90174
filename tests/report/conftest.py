"""A small model with ids and titles that are meant to break a page."""

from pathlib import Path

import polars as pl
import pytest

import fastncf
from fastncf import Recommender
from tests.conftest import checkerboard

HOSTILE = [
    "</script><script>document.title='broken'</script>",
    '"><img src=x onerror="document.title=\'broken\'">',
    "<!--<script>",
    "a\u2028b\u2029c",
    "tab\there and line\nend",
    "\x1b[31mred",
    "\\u003c/script> & 'quotes' \"too\"",
    "{{7*7}} ${7*7} %s",
    "\u202egnp.exe",
    "日本語 — émoji 🎬",
    "__proto__",
    "constructor",
    " ",
]


def hostile(index: int) -> str:
    return HOSTILE[index] if index < len(HOSTILE) - 1 else f"title {index}"


@pytest.fixture(scope="session")
def frame() -> pl.DataFrame:
    """Interactions whose item ids are hostile text."""
    items = pl.Series([f"{hostile(index)}#{index}" for index in range(40)])
    return checkerboard().with_columns(item=items.gather(checkerboard()["item"]))


@pytest.fixture(scope="session")
def titles(frame: pl.DataFrame) -> pl.DataFrame:
    """Titles of all items but a few."""
    ids = frame["item"].unique().sort()
    return pl.DataFrame({"item": ids, "title": [hostile(index) for index in range(len(ids))]}).slice(0, len(ids) - 3)


@pytest.fixture(scope="session")
def recommender(frame: pl.DataFrame) -> Recommender:
    return fastncf.fit(frame, dim=8, epochs=3, validation=True, seed=3)


@pytest.fixture(scope="session")
def page(recommender: Recommender, titles: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page about the model."""
    return recommender.report(tmp_path_factory.mktemp("report") / "page.html", titles=titles)
