"""Files of item lists: a line for each user, the user and then all items, as papers on rankings publish their data.

Kang and McAuley's successors write the items of a line in the order of time, He et al. (2020, LightGCN) in none. The
places in the line are taken for times, unless the items of all lines ascend.
"""

import re
from pathlib import Path

import numpy as np
import polars as pl

from fastncf.data.readers.files import open_content
from fastncf.data.readers.options import ReadOptions
from fastncf.data.readers.text import TextTable
from fastncf.errors import DataError

_HEAD_BYTES = 1 << 20
_BOM = b"\xef\xbb\xbf"
FORMAT = "a line for each user: the user, then the items"
_NOT_PLAIN = re.compile(rb"[^0-9 \t\r\n]|(?<![0-9])0[0-9]|[0-9]{19}")
"""Text that cannot stand in such a file: anything but integers in canonical form that 64 bits hold."""


def is_item_lists(content: Path | bytes, options: ReadOptions) -> bool:
    """Return whether a text is a file of item lists, by its first lines.

    They hold integers alone, separated by blanks or tabs, no two begin with the same user, and they differ in length,
    so that they are no table. Beside training data of this form, lines of one length are lists as well.

    Args:
        content: path of the text, or the text itself.
        options: what the caller says of the columns; a name of one, or a rating, tells that it is a table.
    """
    if any(options.names.values()) or options.needs_rating():
        return False
    with open_content(content) as file:
        head = file.read(_HEAD_BYTES)
    if len(head) == _HEAD_BYTES:
        head = head[: head.rfind(b"\n") + 1]
    head = head.removeprefix(_BOM)
    if _NOT_PLAIN.search(head):
        return False
    lines = [line.split() for line in head.split(b"\n") if line.strip()]
    lengths = {len(line) for line in lines}
    users = {line[0] for line in lines}
    has_form = len(users) == len(lines) > 1 and max(lengths, default=0) > 2
    return has_form and (len(lengths) > 1 or options.are_lists)


def read_item_lists(source: str, content: Path | bytes, options: ReadOptions) -> TextTable:
    """Read a file of item lists; see :func:`is_item_lists`.

    Args:
        source: name of the source in messages.
        content: path of the text, or the text itself.
        options: what the caller says of the data.

    Returns:
        Columns user, item and, unless the items of all lines ascend, time: the place of the item in its line from 1.

    Raises:
        DataError: a line holds anything other than integers, a user has two lines, or there are no times and they are
            needed.
    """
    with open_content(content) as file:
        raw = file.read().removeprefix(_BOM)
    if wrong := _NOT_PLAIN.search(raw):
        line = raw[: wrong.start()].count(b"\n")
        shown = raw.split(b"\n", line + 1)[line].decode("utf-8", "replace")
        raise DataError(
            f"{source}: line {line + 1} holds {shown!r:.60}; expected integers, as in the first lines: the user, and "
            f"then the items"
        )
    numbers, line_of = _numbers(raw)
    is_user = np.append(True, line_of[1:] != line_of[:-1])
    starts = np.flatnonzero(is_user)
    place = np.arange(len(numbers)) - np.repeat(starts, np.diff(np.append(starts, len(numbers))))
    users, first = np.unique(numbers[is_user], return_index=True)
    if len(users) < len(starts):
        repeated = np.setdiff1d(np.arange(len(starts)), first)[0]
        raise DataError(
            f"{source}: line {line_of[starts[repeated]] + 1} is a second line of user {numbers[starts[repeated]]}; "
            f"expected one line for each user"
        )
    user = np.repeat(numbers[is_user], np.diff(np.append(starts, len(numbers))) - 1)
    item, place, line_of = (array[~is_user] for array in (numbers, place, line_of))
    columns = {"user": user, "item": item}
    if (item[1:] <= item[:-1])[place[1:] > 1].any():
        columns["time"] = place
    elif options.needs_time:
        raise DataError(
            f"{source}: the items of each line ascend, so that their order tells no times; choose split='random' to "
            f"hold out any interaction"
        )
    if options.before is not None:
        raise no_point_in_time(source, options.before)
    names = {"user": "first of a line", "item": "others of a line", "time": "place in the line"}
    return TextTable(
        pl.DataFrame(columns), {role: names[role] for role in columns}, FORMAT, lambda row: int(line_of[row]) + 1
    )


def no_point_in_time(source: str, before: str) -> DataError:
    """Return the error of a split at a point in time: places in the lines of two users are not comparable."""
    return DataError(
        f"{source}: holds the order of each user's items and no times, which before={before!r:.80} needs; expected "
        f"times, or holdout=0.2 to hold out the latest part of each user's items"
    )


def _numbers(raw: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return all numbers (n,) int64 of a text, and the line from 0 that each stands in, (n,) int64."""
    codes = np.frombuffer(raw, dtype=np.uint8)
    is_digit = codes >= ord("0")  # all else are blanks and ends of lines
    begins = np.flatnonzero(is_digit & ~np.append(False, is_digit[:-1]))
    line_of = np.searchsorted(np.flatnonzero(codes == ord("\n")), begins)
    return np.array(raw.split(), dtype=np.int64), line_of
