"""Run every code block of the Markdown pages, in the order of its page, beside small files of the names that it uses.

The Python blocks of a page share one namespace. In a shell block, ``fastncf`` commands are run, with small sizes for
generated data; for ``make``, ``pip``, ``python`` and ``pytest`` the targets, modules and options must exist. A block
that cannot be run has ``<!-- skip: next "reason" -->`` before it. Blocks of ``text`` are diagrams, and
``tests/container.py`` runs that of a ``dockerfile``.
"""

import importlib.util
import re
import shlex
import shutil
import tomllib
import unittest
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sybil import Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

import fastncf
from fastncf import cli, models
from fastncf.evaluation.metrics import METRICS
from fastncf.models.losses import LOSSES
from fastncf.sampling.distributions import DISTRIBUTIONS

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "benchmarks/RESULTS.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
SIZES = {"--users": "300", "--items": "200", "--interactions": "9000"}


def run_fastncf(arguments: Sequence[str]) -> None:
    """Run a command line in this process; it must end with exit code 0."""
    words = list(arguments)
    if words[0] == "generate":
        for size in SIZES.keys() & set(words):
            at = words.index(size)
            del words[at : at + 2]
        words += [word for size in SIZES.items() for word in size]
    with pytest.raises(SystemExit) as stopped:
        cli.main(words)
    assert not stopped.value.code


def check_make(arguments: Sequence[str]) -> None:
    """Each argument must be a target of the Makefile."""
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert set(arguments) <= set(targets)


def check_pip(arguments: Sequence[str]) -> None:
    """Installed packages must be this project, with extras that it has, its wheel of this version, or what it needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    command, *rest = arguments
    assert command in ("install", "wheel")
    needed = {re.match(r"[\w-]+", one)[0] for one in project["dependencies"]}
    if command == "install" and set(rest) <= needed:
        return
    target = rest[-1]
    assert target in (".", *(f".[{extra}]" for extra in extras), f"dist/fastncf-{fastncf.__version__}-py3-none-any.whl")


def check_python(arguments: Sequence[str]) -> None:
    """The module or the script must exist, and its source must know the options."""
    if arguments[:2] == ["-m", "pytest"]:
        return check_pytest(arguments[2:])
    if arguments[0] == "-m":
        spec = importlib.util.find_spec(arguments[1])
        assert spec is not None, f"no module {arguments[1]}"
        assert spec.origin is not None
        path, rest = Path(spec.origin), arguments[2:]
        path = path.with_name("__main__.py") if spec.submodule_search_locations else path
    else:
        path, rest = ROOT / arguments[0], arguments[1:]
    source = path.read_text(encoding="utf-8")
    assert [word for word in rest if word.startswith("--") and f'"{word}"' not in source] == []
    return None


def check_pytest(arguments: Sequence[str]) -> None:
    """The files and folders must exist."""
    assert [word for word in arguments if not word.startswith("-") and not (ROOT / word).exists()] == []


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "fastncf": run_fastncf,
    "make": check_make,
    "pip": check_pip,
    "python": check_python,
    "pytest": check_pytest,
}


def run_shell(example: Example) -> None:
    """Run or check each command of a shell block."""
    for line in str(example.parsed).replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words:
            COMMANDS[words[0]](words[1:])


NOT_RUN = "text", "yaml", "dockerfile"
"""Languages of blocks that are no code of this project."""

CODE = [PythonCodeBlockParser(), CodeBlockParser(language="sh", evaluator=run_shell)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the pages name: one small generated data set in several formats."""
    folder = tmp_path_factory.mktemp("files")
    for name, dialect in (("ratings.csv", "grouplens"), ("rating.csv", "kaggle")):
        run_fastncf(["generate", str(folder / name), "--dialect", dialect])
    ratings = pl.read_csv(folder / "ratings.csv").sort("userId", "timestamp")
    ratings.write_csv(folder / "u.data", separator="\t", include_header=False)
    is_last = pl.col("userId") != pl.col("userId").shift(-1).fill_null(-1)
    for name, part in (("train", ratings.filter(~is_last)), ("test", ratings.filter(is_last))):
        part.write_csv(folder / f"ml-1m.{name}.rating", separator="\t", include_header=False)
    items = set(ratings["movieId"])
    seen = {user: set(group["movieId"]) for (user,), group in ratings.group_by("userId")}
    lists = [
        "\t".join([f"({user},{item})", *map(str, sorted(items - seen[user])[:20])])
        for user, item in ratings.filter(is_last).select("userId", "movieId").iter_rows()
    ]
    (folder / "ml-1m.test.negative").write_text("\n".join(lists), encoding="utf-8")
    return folder


@pytest.fixture
def restored_tables() -> Iterator[None]:
    """Remove what the pages add to the tables of models, losses, metrics and distributions."""
    for name in models.names():
        models.get(name)  # registers itself now, and only once
    tables: list[dict[str, Any]] = [models._classes, LOSSES, METRICS, DISTRIBUTIONS]
    copies = [dict(table) for table in tables]
    yield
    for table, copy in zip(tables, copies, strict=True):
        table.clear()
        table.update(copy)


@pytest.mark.usefixtures("restored_tables")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_blocks_run(page: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = shutil.copytree(files, tmp_path / "here")
    monkeypatch.chdir(folder)
    for example in Sybil([*CODE, SkipParser()]).parse(page).examples():
        try:
            example.evaluate()
        except unittest.SkipTest:
            continue
        except BaseException as error:
            error.add_note(f"in the code block at {page.relative_to(ROOT)}:{example.line}")
            raise


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_code_block_is_left_out(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    languages = re.findall(r"^ *```(.*)\n(?:.*\n)*? *```$", text, flags=re.MULTILINE)
    assert set(languages) <= {"python", "sh", *NOT_RUN}
    assert 2 * len(languages) == text.count("```")
    assert sum(language not in NOT_RUN for language in languages) == len(list(Sybil(CODE).parse(page).examples()))
    for comment in re.findall(r"<!--+ *skip.*", text):
        assert re.fullmatch(r'<!-- skip: next "[^"]+" -->', comment)
