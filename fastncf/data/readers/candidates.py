"""Lists of candidates in the format of the ``.test.negative`` files of He et al. 2017."""

import re
from pathlib import Path
from typing import Any

import polars as pl

from fastncf.data.readers.checks import first_true
from fastncf.errors import DataError, DataNotFoundError

_EXPECTED_LINE = "(user,item), then the negatives, separated by tabs"
_TEST_ROW = re.compile(r"\(\s*'?(.*?)'?\s*,\s*'?(.*?)'?\s*\)")


def read_candidates(path: Any, user_dtype: pl.DataType, item_dtype: pl.DataType) -> pl.DataFrame:
    """Read lists of negatives from a file.

    Args:
        path: a text file of lines ``(user,item)<tab>negative<tab>negative...`` with raw ids, which may be quoted; blank
            lines are skipped.
        user_dtype: dtype of the user ids in training: Int64, UInt64 or String.
        item_dtype: the same for the items.

    Returns:
        One row for each negative, in the order of the file: user, item (the test row that the list belongs to), line
        (in the file, from 1), negative.

    Raises:
        DataNotFoundError: there is no such file.
        DataError: a line is not as expected.
    """
    numbers: list[int] = []
    keys: list[tuple[str, str]] = []
    negatives: list[list[str]] = []
    for number, raw in enumerate(_read_lines(path), start=1):
        try:
            line = raw.decode().strip()
        except UnicodeDecodeError:
            raise DataError(f"{path}: line {number} is not UTF-8 text; expected lines of {_EXPECTED_LINE}") from None
        if not line:
            continue
        head, *rest = line.split("\t")
        match = _TEST_ROW.fullmatch(head.strip())
        if match is None or not rest:
            raise DataError(f"{path}: line {number} starts with {head!r:.60}; expected {_EXPECTED_LINE}")
        numbers.append(number)
        keys.append((match[1], match[2]))
        negatives.append(rest)
    if not numbers:
        raise DataError(f"{path}: holds no candidate list; expected lines of {_EXPECTED_LINE}")
    lists = pl.DataFrame(
        {"user": [key[0] for key in keys], "item": [key[1] for key in keys], "line": numbers, "negative": negatives}
    ).explode("negative")
    for name, dtype in (("user", user_dtype), ("item", item_dtype), ("negative", item_dtype)):
        lists = lists.with_columns(_cast_ids(lists, name, dtype, path))
    return lists


def _read_lines(path: Any) -> list[bytes]:
    """Return the lines of a file without the mark that some programs put before UTF-8 text."""
    if not isinstance(path, (str, Path)):
        raise DataError(f"candidates: expected the path of a file, got a {type(path).__name__}")
    try:
        return Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        raise DataNotFoundError(f"{path}: no such file") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error!s:.200}); expected a file of lines {_EXPECTED_LINE}") from None


def _cast_ids(lists: pl.DataFrame, name: str, dtype: pl.DataType, path: Any) -> pl.Series:
    """Return a column of text in the dtype of the training ids, or raise an error for the first value that is not."""
    text = lists[name].str.strip_chars()
    cast = text.cast(dtype, strict=False)
    invalid = cast.is_null() | (text == "")
    if invalid.any():
        row = first_true(invalid)
        kind = "text" if dtype == pl.String else "integers"
        raise DataError(
            f"{path}: line {lists['line'][row]} holds the {name} {lists[name][row]!r:.60}; expected ids of the kind "
            f"that the training data hold ({kind})"
        )
    return cast.alias(name)
