"""Room in the memory for the rows of a text, before they are read; binary files tell how large they are."""

import os
from pathlib import Path

import numpy as np

from fastncf.data.readers.files import open_content
from fastncf.data.readers.limit import BYTES_OF_INTEGERS, require_rows

_BYTES_OF_TEXT = 85
"""Memory that a row takes at least while it is read and split, if not all its columns are integers."""

_SAMPLES, _SAMPLE_BYTES = 16, 1 << 16


def require_room(source: str, content: Path | bytes) -> None:
    """Check that a text fits into the memory that is available, if all its columns are integers.

    Args:
        source: name of the text in messages.
        content: path of the text, or the text itself.

    Raises:
        InsufficientMemoryError: it does not.
    """
    num_lines = _likely_lines(content)
    require_rows(f"{source}: about {num_lines:,} rows", num_lines * BYTES_OF_INTEGERS)


def require_room_for_text(source: str, num_rows: int) -> None:
    """Check that rows that have a column of something else than integers fit into the memory that is available.

    Raises:
        InsufficientMemoryError: they do not.
    """
    require_rows(f"{source}: {num_rows:,} rows with ids or times that are no integers", num_rows * _BYTES_OF_TEXT)


def _likely_lines(content: Path | bytes) -> int:
    """Return how many lines a text has, by samples that are evenly spaced."""
    with open_content(content) as file:
        size = file.seek(0, os.SEEK_END)
        count = seen = 0
        for start in np.linspace(0, max(0, size - _SAMPLE_BYTES), _SAMPLES, dtype=np.int64).tolist():
            file.seek(start)
            sample = file.read(_SAMPLE_BYTES)
            count, seen = count + sample.count(b"\n"), seen + len(sample)
    return size * count // max(1, seen)
