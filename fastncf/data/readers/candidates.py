"""Lists of candidates in the format of the ``.test.negative`` files of He et al. 2017."""

from pathlib import Path
from typing import Any

import polars as pl

from fastncf.data.ids import EXPECTED_IDS, canonical_ids, refused_ids
from fastncf.data.readers.checks import first_true
from fastncf.data.readers.files import Purpose, open_content, read_file
from fastncf.data.readers.kinds import TEXT
from fastncf.errors import DataError, type_name

_EXPECTED_LINE = "(user,item), then the negatives, separated by tabs"
_LISTS = Purpose("candidates", (), f"a file of lines {_EXPECTED_LINE}")


def read_candidates(path: Any, encoding: str | None = None) -> pl.DataFrame:
    """Read lists of negatives from a file.

    Args:
        path: a text file of lines ``(user,item)<tab>negative<tab>negative...`` with raw ids, which may be quoted; blank
            lines are skipped.
        encoding: encoding of the file, or None for UTF-8.

    Returns:
        One row for each negative, in the order of the file: user, item (the test row that the list belongs to), line
        (in the file, from 1), negative. Ids are canonical, see :func:`~fastncf.data.ids.canonical_ids`.

    Raises:
        DataNotFoundError: there is no such file.
        DataError: a line is not as expected.
    """
    numbers: list[int] = []
    keys: list[tuple[str, str]] = []
    negatives: list[list[str]] = []
    for number, raw in enumerate(_read_lines(path, encoding), start=1):
        try:
            line = raw.decode().strip()
        except UnicodeDecodeError:
            raise DataError(f"{path}: line {number} is not UTF-8 text; expected lines of {_EXPECTED_LINE}") from None
        if not line:
            continue
        head, *rest = line.split("\t")
        key = _split_head(head.strip())
        if key is None or not rest:
            raise DataError(f"{path}: line {number} starts with {head!r:.60}; expected {_EXPECTED_LINE}")
        numbers.append(number)
        keys.append(key)
        negatives.append(rest)
    if not numbers:
        raise DataError(f"{path}: holds no candidate list; expected lines of {_EXPECTED_LINE}")
    lists = pl.DataFrame(
        {"user": [key[0] for key in keys], "item": [key[1] for key in keys], "line": numbers, "negative": negatives}
    ).explode("negative")
    return lists.with_columns(_checked_ids(lists, name, path) for name in ("user", "item", "negative"))


def _split_head(head: str) -> tuple[str, str] | None:
    """Return the user and the item of ``(user,item)``, which may each be in single quotes; None for other text."""
    user, comma, item = head[1:-1].partition(",")
    if not (head.startswith("(") and head.endswith(")") and comma):
        return None
    return user.strip().removeprefix("'").removesuffix("'"), item.strip().removeprefix("'").removesuffix("'")


def _read_lines(path: Any, encoding: str | None) -> list[bytes]:
    """Return the lines of a file without the mark that some programs put before UTF-8 text."""
    if not isinstance(path, (str, Path)):
        raise DataError(f"candidates: expected the path of a file, got {type_name(path)}")
    source, content, kind = read_file(Path(path), _LISTS, encoding)
    if kind != TEXT:
        raise DataError(f"{source}: is {kind}; expected {_LISTS.expected}")
    with open_content(content) as file:
        return file.read().removeprefix(b"\xef\xbb\xbf").split(b"\n")


def _checked_ids(lists: pl.DataFrame, name: str, path: Any) -> pl.Series:
    """Return a column of text as canonical ids, or raise an error for the first value that is blank."""
    refused = refused_ids(lists[name])
    if refused is not None and refused.any():
        row = first_true(refused)
        raise DataError(
            f"{path}: line {lists['line'][row]} holds the {name} {lists[name][row]!r:.60}; expected {EXPECTED_IDS}"
        )
    return canonical_ids(lists[name])
