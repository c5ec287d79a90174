"""Mutated files of all kinds that are read: each is refused in one sentence, or its rows are all accounted for.

``python -m tests.data.readers.campaign SEED COUNT`` tries COUNT files in processes with a limit of memory, and prints
for each one that ends otherwise (an exception that is no ``FastNCFError``, rows that are lost, another reading than
that of a plain reader, a crash, a hang) what it was and the command that reads it again. Then it prints how many files
of each kind were refused and read, and the largest memory of a process.

A file is text, item lists, JSON lines, Parquet or Feather, plain or packed by gzip, bzip2, xz or zstd, in a zip or tar
archive, or one of several files; it is changed before or after it is packed. Some are bombs.
"""

import bz2
import gzip
import io
import lzma
import random
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from fastncf.data.accounts import num_lost
from fastncf.data.ids import Vocabulary
from fastncf.data.interactions import encode_table
from fastncf.data.readers.item_lists import FORMAT as ITEM_LISTS
from fastncf.data.readers.limit import LIMIT_VARIABLE
from fastncf.data.readers.table import Table, read_table
from fastncf.data.split import leave_one_out
from fastncf.errors import MAX_MESSAGE_LENGTH, FastNCFError
from fastncf.train import _counts
from tests import campaigns
from tests.data.readers.mutations import check_table, make_item_lists, make_json_lines, make_text, mutate

MOST_UNPACKED = 8 << 20
"""Bytes that a file may unpack to."""

ENVIRONMENT = {LIMIT_VARIABLE: str(MOST_UNPACKED)}

Source = Path | list[Path] | str


def frame_of(draw: random.Random) -> pl.DataFrame:
    """Return a frame of a few rows, some of which lack a value, repeat others, or have values of odd types."""
    count = draw.randrange(2, 60)
    ids: dict[str, Callable[[], Any]] = {
        "integers": lambda: draw.randrange(20),
        "text": lambda: draw.choice(["ann", "bob", "é", " x", "007", "12.0", "", "NULL"]),
        "large": lambda: draw.randrange(2**62),
        "floats": lambda: draw.choice([1.0, 2.0, 2.5, float("nan"), float("inf"), -0.0]),
        "bytes": lambda: draw.choice([b"a", b"\xff"]),
        "lists": lambda: [1, 2],
        "booleans": lambda: draw.random() < 0.5,
    }
    names, has_missing = [*ids], draw.random() < 0.3

    def column(kinds: list[str]) -> list[Any]:
        make = ids[draw.choice(kinds)]
        return [None if has_missing and draw.random() < 0.05 else make() for _ in range(count)]

    usual = ["integers"] * 24 + ["text"] * 6 + names
    times: list[list[Any]] = [
        [draw.randrange(10**9, 10**9 + 99) for _ in range(count)],
        [f"2001-01-{draw.randrange(1, 32):02}" for _ in range(count)],
        [float(draw.randrange(10**9)) for _ in range(count)],
        [None] * count,
    ]
    return pl.DataFrame(
        {
            "user": column(usual),
            "item": column(usual),
            "rating": [draw.choice([1, 2, 3.5, 5, None]) for _ in range(count)],
            "time": times[draw.choice([0, 0, 0, 0, 1, 2, 3])],
            "note": [draw.choice(["", "a note of some length, longer than a view", None]) for _ in range(count)],
        },
        strict=False,
    )


def _table(draw: random.Random) -> tuple[bytes, str]:
    """Return a sound file of a kind, and the name of the kind."""
    kind = draw.choice(["text", "text", "item lists", "json", "parquet", "parquet", "feather", "feather"])
    if kind == "text":
        return make_text(draw), kind
    if kind == "item lists":
        return make_item_lists(draw), kind
    if kind == "json":
        return make_json_lines(draw), kind
    buffer, frame = io.BytesIO(), frame_of(draw)
    if kind == "parquet":
        compression = draw.choice(["uncompressed", "snappy", "zstd", "gzip", "lz4"])
        frame.write_parquet(buffer, compression=compression, row_group_size=draw.choice([None, 7]))
    else:
        frame.write_ipc(buffer, compression=draw.choice(["uncompressed", "lz4", "zstd"]))
    return buffer.getvalue(), kind


def _bomb(draw: random.Random) -> tuple[bytes, str]:
    """Return a small file that unpacks to more than the limit, and the name of its kind."""
    size = MOST_UNPACKED * draw.choice([2, 3])
    kind = draw.choice(["text bomb", "parquet bomb", "feather bomb"])
    if kind == "text bomb":
        return b"user,item,time\n" + b"1,2,3\n" * (size // 6), kind
    zeros = np.zeros(size // 8, dtype=np.int64)
    frame, buffer = pl.DataFrame({"user": zeros, "item": zeros, "time": zeros}), io.BytesIO()
    if kind == "parquet bomb":
        frame.write_parquet(buffer, compression="zstd")
    else:
        frame.write_ipc(buffer, compression="zstd")
    return buffer.getvalue(), kind


def _change(content: bytes, draw: random.Random) -> bytes:
    """Return bytes with a few changes: a text as text is changed, other files bit by bit, or in their numbers."""
    if draw.random() < 0.3:
        return mutate(content, draw)
    changed = bytearray(content)
    for _ in range(draw.choice([1, 1, 2, 8])):
        if not changed:
            break
        at = draw.randrange(len(changed))
        if draw.random() < 0.5:  # metadata stand at the end, and headers at the begin
            at = draw.choice(
                [max(0, len(changed) - 1 - draw.randrange(700)), min(len(changed) - 1, draw.randrange(80))]
            )
        kind = draw.randrange(5)
        if kind == 0:
            changed[at] ^= 1 << draw.randrange(8)
        elif kind == 1:
            changed[at] = draw.choice([0, 1, 127, 128, 255])
        elif kind == 2:
            number = draw.choice([0, -1, 1 << 31, (1 << 31) - 1, 1 << 40, -(1 << 63), (1 << 63) - 1])
            changed[at : at + 8] = number.to_bytes(9, "little", signed=True)[: len(changed[at : at + 8])]
        elif kind == 3:
            del changed[at : at + draw.choice([1, 4, 100])]
        else:
            changed[at:at] = changed[draw.randrange(len(changed)) :][: draw.choice([1, 4, 100])]
    return bytes(changed)


def _zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, "zstd", asbytes=True))


_PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda content: gzip.compress(content, 1),
    "bzip2": lambda content: bz2.compress(content, 1),
    "xz": lambda content: lzma.compress(content, preset=0),
    "zstd": _zstd,
}


def _archive(content: bytes, draw: random.Random) -> tuple[bytes, str]:
    """Return an archive of a file, perhaps with others beside it or with odd names."""
    name = draw.choice(
        ["ratings.csv", "ratings.csv", "ml-1m/ratings.dat", "../ratings.csv", "/x/u.data", "a\\..\\b", "\n"]
    )
    others = draw.choice([[], [], ["README.txt"], ["ratings.csv"], ["u.data"], ["x" * 200], ["mimetype"]])
    buffer = io.BytesIO()
    if draw.random() < 0.15:
        with tarfile.open(fileobj=buffer, mode=draw.choice(["w", "w:gz"])) as tar:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
        return buffer.getvalue(), "tar"
    packing = draw.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
    with zipfile.ZipFile(buffer, "w", packing) as zipped:
        for member in [name, *others]:
            zipped.writestr(member, content)
    return buffer.getvalue(), "zip"


def make(draw: random.Random, folder: Path) -> tuple[Source, str, bytes | None]:
    """Write a file, or several; return the source, the name of its kind, and the content of a plain text."""
    if draw.random() < 0.15:
        count, paths = draw.randrange(2, 4), []
        kind = draw.choice(["text", "parquet", "mixed"])
        made = random.Random(draw.randrange(1 << 30))
        for number in range(count):
            same = random.Random(draw.randrange(3)) if kind == "text" else made
            content = make_text(same) if kind == "text" else _parquet(made) if kind == "parquet" else _table(made)[0]
            content = _change(content, draw) if draw.random() < 0.3 else content
            paths.append(folder / f"part-{number}.parquet")
            paths[-1].write_bytes(content)
        return draw.choice([paths, folder, f"{folder}/part-*"]), f"several {kind}", None
    is_bomb = draw.random() < 0.02
    content, kind = _bomb(draw) if is_bomb else _table(draw)
    is_plain = kind in ("text", "item lists", "json")
    if not is_bomb and draw.random() < 0.75:
        content = (mutate if is_plain else _change)(content, draw)
    plain = content if is_plain else None
    packing = draw.random()
    if packing < 0.35 or (is_bomb and kind == "text bomb" and packing < 0.9):
        packer = draw.choice([*_PACKERS])
        content, kind = _PACKERS[packer](content), f"{kind} in {packer}"
    elif packing < 0.5:
        content, packer = _archive(content, draw)
        kind, plain = f"{kind} in {packer}", plain if packer == "zip" else None
    if packing < 0.5 and draw.random() < 0.4:
        content, plain = _change(content, draw), None
    path = folder / "ratings"
    path.write_bytes(content)
    return path, kind, plain


def _parquet(draw: random.Random) -> bytes:
    buffer = io.BytesIO()
    frame_of(draw).write_parquet(buffer)
    return buffer.getvalue()


def require_account(table: Table) -> None:
    """Check that each row of a table is kept or counted, and that the counts of a split of it add up as well."""
    assert table.num_rows == table.frame.height + sum(table.left_out.values()), "rows of the table"
    users, items = (Vocabulary.of([table.frame[role]], role) for role in ("user", "item"))
    try:
        interactions = encode_table(table, users, items)
        split = leave_one_out(interactions, random=True, validation=True)
    except FastNCFError as error:
        _require_sentence(error)
        return
    assert num_lost(_counts(interactions, split)) == 0, "rows of the split"


def _require_sentence(error: FastNCFError) -> None:
    assert 0 < len(str(error)) <= MAX_MESSAGE_LENGTH, "length of the message"
    assert "\n" not in str(error), "lines of the message"


def try_one(seed: int, folder: Path) -> str:
    """Make a file and read it; return its kind and whether it was read.

    Raises:
        Exception: what is wrong.
    """
    draw = random.Random(seed)
    source, kind, plain = make(draw, folder)
    options: dict[str, Any] = {"drop_missing": draw.random() < 0.5}
    if draw.random() < 0.2:
        options["min_rating"] = 3
    try:
        table = read_table(source, user=None, item=None, time=None, needs_time=False, **options)
    except FastNCFError as error:
        _require_sentence(error)
        return f"{kind}, refused"
    assert "bomb" not in kind or kind == "text bomb", "a bomb was read"  # text as it stands unpacks to nothing more
    require_account(table)
    has_times = "time" in table.frame.columns or table.source_info["format"] == ITEM_LISTS
    if plain is not None and not any(options.values()) and has_times:
        check_table(plain, table)
    return f"{kind}, read"


if __name__ == "__main__":
    sys.exit(campaigns.main("tests.data.readers.campaign", try_one, ENVIRONMENT))
