"""Mutated text files: each is refused in one sentence, or read as a plain reader reads it.

``python -m tests.data.readers.mutations SEED COUNT`` tries COUNT files and prints how many were refused and read. It
stops at the first one that is neither, and prints the seed that makes this file alone: ``SEED+NUMBER 1``.
"""

import csv
import datetime as dt
import io
import itertools
import json
import random
import re
import sys
import tempfile
from pathlib import Path

import polars as pl

from fastncf.data.readers.item_lists import FORMAT as ITEM_LISTS
from fastncf.data.readers.table import Table
from fastncf.errors import MAX_MESSAGE_LENGTH, FastNCFError
from tests.data.readers.conftest import canonical, read

csv.field_size_limit(1 << 30)

_IDS = {
    "integers": lambda draw: str(draw.randrange(40)),
    "large": lambda draw: str(draw.randrange(2**31 - 3, 2**31 + 3) * draw.choice([1, -1])),
    "huge": lambda draw: str(draw.randrange(2**63 - 3, 2**63 + 3)),
    "text": lambda draw: draw.choice(["ann", "bob", "eve", "é", "B 7", "x-1", "中"]),
    "mixed": lambda draw: draw.choice(["7", "007", "12.0", "12", "A7", "+7", "-0", "1e3", " 7"]),
}
_TIMES = {
    "seconds": lambda draw: str(draw.randrange(9 * 10**8, 10**9)),
    "fractions": lambda draw: f"{draw.randrange(9 * 10**8, 10**9)}.{draw.randrange(10)}",
    "dates": lambda draw: str(dt.date(2001, 1, 1) + dt.timedelta(draw.randrange(4000))),
    "moments": lambda draw: str(dt.datetime(2001, 1, 1) + dt.timedelta(0, draw.randrange(10**8))),
}
_NOTES = ["", "x", "3.5", "two words", 'a "b" c', "a, b", "a\nb", "a;b|c\td", "e: f::g", "'"]
_TOKENS = [
    *("\n", "\r", "\r\n", "\n\n", '"', '""', ",", ";", "\t", "|", "::", " ", "\0", "\x1f", "\x1c", "\u2028", "\ufeff"),
    *("0", "00", "-", "+", ".", "e9", "x", "é", "nan", "1e999", "[", "{", "(", "'", "\\", "user", "#"),
]


def make_text(draw: random.Random) -> bytes:
    """Return a sound text of a few rows in a random dialect."""
    separator = draw.choice([",", ",", "\t", ";", "|", "::", " "])
    columns = draw.choice(
        [["user", "item", "rating", "time"], ["user", "item", "time"], ["time", "item", "note", "user"]]
    )
    quote = separator != "::" and draw.random() < 0.5
    make = {
        "user": _IDS[draw.choice([*_IDS])],
        "item": _IDS[draw.choice([*_IDS])],
        "time": _TIMES[draw.choice([*_TIMES])],
    }
    make |= {"rating": lambda draw: str(draw.randrange(1, 6)), "note": lambda draw: draw.choice(_NOTES)}
    rows = [columns] if draw.random() < 0.7 or columns[0] == "time" else []
    rows += [[make[column](draw) for column in columns] for _ in range(draw.randrange(2, 30))]

    def field(value: str) -> str:
        needs = separator != "::" and any(mark in value for mark in (separator, "\n", '"'))
        if separator == "::" and "\n" in value:
            value = "x"
        return '"' + value.replace('"', '""') + '"' if needs or (quote and draw.random() < 0.8) else value

    newline = draw.choice(["\n", "\n", "\r\n"])
    end = separator if draw.random() < 0.1 else ""
    text = "".join(separator.join(map(field, row)) + end + newline for row in rows)
    return (("\ufeff" if draw.random() < 0.1 else "") + text).encode()


def make_json_lines(draw: random.Random) -> bytes:
    """Return sound JSON lines of a few rows."""
    values = {"user": _IDS[draw.choice([*_IDS])], "item": _IDS[draw.choice([*_IDS])], "time": _TIMES["seconds"]}

    def value(name: str) -> object:
        text = values[name](draw)
        return int(text) if draw.random() < 0.7 and re.fullmatch(r"0|-?[1-9][0-9]*", text) else text

    names = draw.sample([*values], 3)
    rows = [{name: value(name) for name in names} | {"note": draw.choice(_NOTES)} for _ in range(draw.randrange(2, 30))]
    return "".join(json.dumps(row, ensure_ascii=draw.random() < 0.5) + "\n" for row in rows).encode()


def make_item_lists(draw: random.Random) -> bytes:
    """Return a sound text of a line for each user, the user and then all items."""
    separator, lines = draw.choice([" ", "\t", "  "]), []
    for user in draw.sample(range(90), draw.randrange(2, 30)):
        items = draw.sample(range(200), draw.randrange(1, 12))
        lines.append(separator.join(map(str, [user, *(sorted(items) if draw.random() < 0.2 else items)])))
    return ("\n".join(lines) + draw.choice(["", "\n", "\n\n"])).encode()


def mutate(content: bytes, draw: random.Random) -> bytes:
    """Return a text with a few changes of one kind or another."""
    for _ in range(draw.choice([0, 1, 1, 1, 2, 3])):
        at = draw.randrange(len(content) + 1)
        other = draw.randrange(len(content) + 1)
        low, high = min(at, other), max(at, other)
        lines = content.split(b"\n")
        kind = draw.randrange(10)
        if kind <= 2:
            token = draw.choice(_TOKENS).encode()
            content = content[:at] + token + content[at + draw.randrange(2) :]
        elif kind == 3:
            content = content[:at] + bytes([draw.randrange(256)]) + content[at + 1 :]
        elif kind == 4:
            content = content[:low] + content[min(high, low + draw.randrange(1, 9)) :]
        elif kind == 5:
            content = content[:high] + content[low:high] + content[high:]
        elif kind == 6:
            content = content[:at]
        elif kind == 7:
            draw.shuffle(lines)
            content = b"\n".join(lines)
        elif kind == 8:
            line = draw.randrange(len(lines))
            lines[line] += draw.choice(_TOKENS).encode() * draw.choice([1, 2, 1000])
            content = b"\n".join(lines)
        else:
            content = content[:at] + draw.choice(_TOKENS).encode() * draw.choice([100, 20_000, 140_000]) + content[at:]
    return content


def read_plainly(content: bytes, table: Table) -> list[list[list[str]]]:
    """Return the rows of a text by Python's own means: with quotes, and without them, as far as each is possible."""
    layout = table.source_info["format"]
    name = layout.partition("separated by '")[2].partition("'")[0]
    separator = {"tab": "\t", "space": " "}.get(name, name)
    text = content.decode("utf-8-sig")
    readings = []
    if separator != "::":
        try:
            rows = [row for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True) if row]
            readings.append(rows)
        except csv.Error:
            pass
    lines = (line.removesuffix("\r") for line in text.split("\n"))
    readings.append([line.split(separator) for line in lines if line])
    return [rows for rows in readings if _are_even(rows)]


def _are_even(rows: list[list[str]]) -> bool:
    """Return whether all rows have as many fields as the first one, or all but it one more, which is empty."""
    lengths = set(map(len, rows))
    below = rows[1:]
    return len(lengths) == 1 or all(len(row) == len(rows[0]) + 1 and row[-1] == "" for row in below)


def _times_of(texts: list[str]) -> list[object]:
    """Return times by which to compare; none where Python does not read a date that chrono reads."""
    stripped = [text.strip() for text in texts]
    if all(re.fullmatch(r"[-+]?[0-9]+", text) for text in stripped):
        return [int(text) for text in stripped]
    try:
        return [float(text) for text in stripped]
    except ValueError:
        pass
    try:
        return [dt.datetime.fromisoformat(text.replace("/", "-")) for text in stripped]
    except ValueError:
        return []


def _without_quotes(name: str) -> str:
    """Return the name of a column without quotes around it, which are left out even if quotes are not read."""
    return name[1:-1] if len(name) > 1 and name[0] == name[-1] == '"' else name


def _check_json_lines(content: bytes, table: Table) -> None:
    """Compare a table with the lines as Python reads them."""
    lines = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    rows = [json.loads(line) for line in lines if line.strip()]
    for role in ("user", "item"):
        expected = [str(canonical(str(row[table.source_info["columns"][role]]))) for row in rows]
        assert table.frame[role].cast(pl.String).to_list() == expected, role
    times = _times_of([str(row[table.source_info["columns"]["time"]]) for row in rows])
    _compare_times(table, times)


def _compare_times(table: Table, times: list[object]) -> None:
    """Check that the times of a table have the order that they should have."""
    order = sorted(range(len(times)), key=lambda row: times[row])
    kept = table.frame["time"].to_list()
    for row, following in itertools.pairwise(order):
        assert (kept[row] < kept[following]) == (times[row] < times[following]), "order of the times"


def check(content: bytes, path: Path) -> bool:
    """Read a text and return whether it was accepted.

    Raises:
        AssertionError: it is read otherwise than by a plain reader, or the sentence that refuses it is too long.
        Exception: what the reading raised.
    """
    path.write_bytes(content)
    try:
        table = read(path)
    except FastNCFError as error:
        assert str(error).startswith(str(path))  # noqa: PT017
        assert len(str(error)) <= MAX_MESSAGE_LENGTH  # noqa: PT017
        assert re.search("; (expected|name|choose)|name (one|it) with|, name the columns", str(error))  # noqa: PT017
        return False
    check_table(content, table)
    return True


def check_table(content: bytes, table: Table) -> None:
    """Check that a table is what a plain reader reads of a text.

    Raises:
        AssertionError: it is not.
    """
    if table.source_info["format"] == "JSON lines":
        _check_json_lines(content, table)
        return
    if table.source_info["format"] == ITEM_LISTS:
        plain = content.removeprefix(b"\xef\xbb\xbf")
        lines = [list(map(int, line.split())) for line in plain.split(b"\n") if line.strip()]
        assert table.frame.select("user", "item").rows() == [(line[0], item) for line in lines for item in line[1:]]
        return
    readings = read_plainly(content, table)
    assert readings, "no plain reading has the same number of fields in each row"
    rows = readings[0]
    with_header = "with header" in table.source_info["format"]
    names = (
        [_without_quotes(name.strip()) for name in rows[0]]
        if with_header
        else [f"column_{at + 1}" for at in range(len(rows[0]))]
    )
    body = rows[1:] if with_header else rows
    position = {role: names.index(name) for role, name in table.source_info["columns"].items()}
    if len(readings) == 2 and len(readings[0]) != len(readings[1]):
        # without quotes, an id begins with one
        assert any(row[position[role]].strip(" \t").startswith('"') for row in readings[1] for role in position)
    for role in ("user", "item"):
        expected = [str(canonical(row[position[role]])) for row in body]
        assert table.frame[role].cast(pl.String).to_list() == expected, role
    times = _times_of([row[position["time"]] for row in body])
    _compare_times(table, times)


def main(seed: int, count: int) -> None:
    """Try some mutated texts; the number of a file is part of its seed."""
    accepted = 0
    sys.set_int_max_str_digits(0)  # numbers of thousands of digits are compared as well
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ratings"
        for number in range(seed, seed + count):
            draw = random.Random(number)
            content = mutate((make_json_lines if number % 5 == 4 else make_text)(draw), draw)
            try:
                accepted += check(content, path)
            except BaseException:
                print(f"seed {number}: {content[:500]!r}", flush=True)
                raise
    print(f"{count} texts: {count - accepted} refused, {accepted} read")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
