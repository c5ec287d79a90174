"""Fields of many characters: ``python -m tests.data.readers.long_fields LENGTH STEP`` reads files that hold one.

Of some 300 fields every STEP-th is tried. Each file is read or refused in one sentence, in a time that grows with the
length and not with its square.
"""

import sys
import tempfile
from pathlib import Path

import polars as pl

from fastncf.data.readers.candidates import read_candidates
from fastncf.errors import MAX_MESSAGE_LENGTH, FastNCFError
from tests.data.readers.conftest import read


def long_fields(length: int) -> list[str]:
    """Return fields of a length at which patterns for numbers, dates, times of day, names and lists may go back."""
    repeated = [
        "1",
        ".",
        "1.",
        " ",
        "\t",
        "(",
        ":",
        "-",
        "2020-",
        "1:",
        "1/",
        "1e1",
        "10 AM",
        "a",
        "0",
        "é",
        "[{",
        "''",
    ]
    starts = ["", "x", "2020-01-01", "2020-01-01 00:00:00.", "2020-01-01T00:00:00+", "1.", "1e", "-", "["]
    fields = [start + unit * (length // len(unit)) + end for unit in repeated for start in starts for end in ("", "x")]
    return [field for field in fields if field.strip()]


def check_file(path: Path, content: str) -> None:
    """Read a file, as a table and as lists of candidates; only the errors of fastncf may come of it."""
    path.write_text(content, encoding="utf-8")
    for reader in (read, read_candidates):
        try:
            reader(path)
        except FastNCFError as error:
            assert len(str(error)) <= MAX_MESSAGE_LENGTH  # noqa: PT017


def main(length: int, step: int) -> None:
    """Put each field in each column, in the header, and alone, below times that are numbers and dates."""
    fields = long_fields(length)[::step]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ratings"
        for number, field in enumerate(fields):
            time = "2020-01-01 10:00:00" if number % 2 else "1112486027"
            for place in range(3):
                row = ["1", "3", time]
                row[place] = field
                check_file(path, f"user,item,time\n1,3,{time}\n2,4,{time}\n" + ",".join(row) + "\n")
            check_file(path, f"user,item,{field}\n1,2,{time}\n3,4,{time}\n")
            check_file(path, f"{field},4,{time}\n1,2,{time}\n")
            check_file(path, f"({field},2)\t{field}\n")
            check_file(path, f'{{"user": "{field}", "item": 1, "time": 2}}\n{{"user": "{field}')
            frame = pl.DataFrame({"user": ["1", field], "item": ["2", "3"], "time": [time, field]})
            try:
                read(frame)
            except FastNCFError as error:
                assert len(str(error)) <= MAX_MESSAGE_LENGTH  # noqa: PT017
    print(f"{len(fields)} fields")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
