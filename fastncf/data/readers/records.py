"""Records of a text, split into fields in Python: slow, for the first rows of a file and for errors."""

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from fastncf.errors import DataError


def open_text(content: Path | bytes) -> IO[bytes]:
    """Open a file, or its content, for reading."""
    return content.open("rb") if isinstance(content, Path) else io.BytesIO(content)


def read_lines(content: Path | bytes, source: str) -> Iterator[str]:
    """Yield the lines of a UTF-8 text with their ends.

    Raises:
        DataError: a line is not UTF-8 text.
    """
    with open_text(content) as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError:
                raise DataError(f"{source}: line {number} is not UTF-8 text; expected UTF-8") from None


def split_records(
    lines: Iterable[str], separator: str, source: str, *, quoted: bool, strict: bool = True
) -> Iterator[tuple[int, list[str]]]:
    """Yield the number of the first line and the fields of every record, blank lines left out.

    Args:
        lines: the text.
        separator: what stands between two fields.
        source: name of the source in messages.
        quoted: whether double quotes enclose fields, which may then hold separators and line ends.
        strict: whether misplaced quotes are an error.

    Raises:
        DataError: a quote is misplaced.
    """
    if not quoted:
        for number, line in enumerate(lines, start=1):
            if stripped := line.rstrip("\r\n"):
                yield number, stripped.split(separator)
        return
    reader = csv.reader(lines, delimiter=separator, strict=strict)
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise DataError(f"{source}: line {number} cannot be split into fields ({error})") from None
        if row:
            yield number, row
