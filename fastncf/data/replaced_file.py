"""Files that polars writes: complete, or not there."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import polars as pl

from fastncf import files
from fastncf.errors import DataError, DataNotFoundError, FastNCFError, first_line


def require_possible(path: Path) -> None:
    """Raise a DataError for a path with a null character, which no system takes."""
    if "\0" in str(path):
        raise DataError(f"{str(path)!r:.200}: its name holds a null character; expected the name of a file or a folder")


@contextmanager
def replaced_file(path: Path, *, is_synced: bool = False) -> Iterator[Path]:
    """Yield the path of an empty file to write, which replaces the file at ``path`` when the block ends without error.

    A link is followed. That the file can be written is tried before the block, which may take long; with ``is_synced``
    the block itself waits until the device has what it wrote.

    Raises:
        DataNotFoundError: the folder does not exist.
        DataError: the path names something other than a file, or writing fails.
    """
    require_possible(path)
    try:
        target = Path(os.path.realpath(path))
        if target.is_symlink():
            raise DataError(f"{path}: cannot be written (a loop of links); expected the name of a file")
        if not target.parent.is_dir():
            raise DataNotFoundError(f"{path}: its folder does not exist; expected the name of a file in one that does")
        if target.exists() and not target.is_file():
            raise DataError(f"{path}: is no file; expected the name of a new file, or of one to replace")
        str(target).encode()  # Polars takes names in UTF-8 alone
        with files.replaced(target, is_synced=is_synced) as draft:
            yield draft
    except FastNCFError:
        raise
    except UnicodeEncodeError:
        raise DataError(f"{path}: its name is not UTF-8; expected a name that is") from None
    except (OSError, pl.exceptions.PolarsError) as error:
        reason = getattr(error, "strerror", None) or first_line(error)
        raise DataError(
            f"{path}: cannot be written ({reason:.200}); expected a folder that can be written, on a disk with space"
        ) from error


@contextmanager
def replaced_files() -> Iterator[Callable[[Path], Path]]:
    """Yield a function from the path of a file to that of an empty one to write, which replaces it when the block ends.

    After an error in the block all of the older files are there. The new ones get their names one after the other, each
    in one step: in that moment a reader, or a kill or a loss of power for good, finds some new files beside older ones.

    Raises:
        DataNotFoundError: a folder does not exist.
        DataError: a path names something other than a file, or writing fails.
    """
    drafts: list[Path] = []

    def draft_of(path: Path) -> Path:
        """Return the path to write to for a file."""
        drafts.append(stack.enter_context(replaced_file(path, is_synced=True)))
        return drafts[-1]

    with ExitStack() as stack:
        yield draft_of
        for draft in drafts:  # before the first name: it may take long, or find that the disk is full
            files.sync_file(draft)
