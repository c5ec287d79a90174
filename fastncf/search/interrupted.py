"""A note on where the trials of an interrupted search are. Imports nothing that takes time."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fastncf.errors import FastNCFError, printable

FIRST_BYTES = b'{"op_code"'
"""Begin of a study file: each line of Optuna's journal is an object of JSON."""


@contextmanager
def trials_noted(path: Any) -> Iterator[None]:
    """Add a note on where the trials are to an interrupt that leaves the block, once.

    A library may have made another error of the interrupt. An error of this package is none, and gets no note.

    Args:
        path: study file, or what was given as one; without a file of trials there is no note.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, FastNCFError) and _is_study_file(path):
            note = f"the trials are in {printable(str(path))}, and the same call goes on with them"
            if note not in getattr(error, "__notes__", []):
                error.add_note(note)
        raise


def _is_study_file(path: Any) -> bool:
    """Return whether a path is that of a file with lines of a study."""
    if isinstance(path, str | Path):
        with suppress(OSError, ValueError), open(path, "rb") as file:
            return file.read(len(FIRST_BYTES)) == FIRST_BYTES
    return False
