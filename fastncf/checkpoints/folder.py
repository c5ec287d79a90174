"""Files of a checkpoint: the last snapshot, and what a fit that is finished has found. See ``docs/formats.md``."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastncf import files, locks
from fastncf.errors import DataError, printable
from fastncf.persistence.manifest import FolderKind, read_files, require_writable, write_files
from fastncf.persistence.plain import UnexpectedError, canonical_json, dump_json, parse_json

CHECKPOINT = FolderKind("checkpoint", "fastncf-checkpoint.json", "fastncf-checkpoint", roles=("training",), format=1)
LOCK = ".fastncf-checkpoint.lock"
FINISHED = "fastncf-checkpoint-finished.json"


class Contents(NamedTuple):
    """Contents of a snapshot.

    Attributes:
        values: plain values, as JSON holds them.
        arrays: arrays by name, or tensors where NumPy lacks their dtype; any tensors when it is written.
    """

    values: dict[str, Any]
    arrays: dict[str, Any]


class CheckpointFolder:
    """The folder of one fit, see :func:`open_folder`.

    Attributes:
        path: where it is, as it was given.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def has_snapshot(self) -> bool:
        """Return whether there is a snapshot, perhaps a damaged one."""
        return os.path.lexists(self.path / CHECKPOINT.manifest)

    def write(self, contents: Contents) -> None:
        """Put a snapshot in the place of the one before.

        Raises:
            DataError: it cannot be written; the one before is left as it is.
        """
        write_files(self.path, CHECKPOINT, contents.values, {"training": contents.arrays})

    def read(self) -> Contents | None:
        """Return the snapshot; None where there is none.

        Raises:
            DataError: a file is missing or damaged, or was written by a newer version.
        """
        if not self.has_snapshot():
            return None
        values, arrays = read_files(self.path, CHECKPOINT)
        # each in memory of its own: one that is kept for long does not keep the whole file
        return Contents(values, {name: _copied(array) for name, array in arrays["training"].items()})

    def finish(self, result: dict[str, Any]) -> None:
        """Mark the fit as finished, and keep what it has found beside the snapshot.

        Raises:
            DataError: it cannot be written.
        """
        try:
            checked = {"snapshot": self._snapshot_checksum(), **parse_json(dump_json(result).encode("utf-8"))}
            content = dump_json(checked | {"sha256": files.sha256(canonical_json(checked))})
            with files.replaced(self.path / FINISHED) as draft:
                draft.write_text(content, encoding="utf-8")
        except OSError as error:
            raise _unwritable(self.path, error) from None

    def result(self) -> dict[str, Any] | None:
        """Return what :meth:`finish` kept; None where the fit is not finished, or the file is damaged."""
        with suppress(OSError, UnexpectedError, AttributeError):
            result = parse_json(files.read(self.path / FINISHED).tobytes())
            checksum = result.pop("sha256", None)
            if checksum == files.sha256(canonical_json(result)) and result["snapshot"] == self._snapshot_checksum():
                return dict(result)
        return None

    def _snapshot_checksum(self) -> str:
        """Return the SHA-256 of the manifest of the snapshot."""
        return files.sha256(files.read(self.path / CHECKPOINT.manifest).tobytes())


class SharedFolder(CheckpointFolder):
    """A checkpoint that another process has opened and writes.

    Args:
        path: where it is.
        contents: what that process has read.
        result: what that process has read of a fit that is finished.
    """

    def __init__(self, path: Path, contents: Contents | None, result: dict[str, Any] | None) -> None:
        super().__init__(path)
        self._contents, self._result = contents, result

    def has_snapshot(self) -> bool:
        """Return whether there was a snapshot."""
        return self._contents is not None

    def write(self, contents: Contents) -> None:
        """Leave it to the other process."""

    def read(self) -> Contents | None:
        """Return the snapshot as it was."""
        return self._contents

    def finish(self, result: dict[str, Any]) -> None:
        """Leave it to the other process."""

    def result(self) -> dict[str, Any] | None:
        """Return the result as it was."""
        return self._result


@contextmanager
def open_folder(path: Path) -> Iterator[CheckpointFolder]:
    """Make a folder for checkpoints where there is none, and keep other fits from it within the block.

    Raises:
        DataError: it cannot be made or written, holds something else, or another fit uses it.
    """
    try:
        files.make_folders(path)
        lock = locks.take(path / LOCK)
    except locks.BusyError:
        raise DataError(
            f"{_shown(path)}: another fit uses this checkpoint at the moment; expected another folder, or the end of "
            f"that fit"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        raise _unwritable(path, error) from None
    try:
        require_writable(path, CHECKPOINT)
        yield CheckpointFolder(path)
    finally:
        lock.release()


def _copied(array: Any) -> Any:
    """Return an array or tensor in memory of its own."""
    return array.copy() if isinstance(array, np.ndarray) else array.clone()


def _unwritable(path: Path, error: Exception) -> DataError:
    """Return the error for a folder that cannot be written."""
    reason = getattr(error, "strerror", None) or str(error)
    return DataError(
        f"{_shown(path)}: no checkpoint can be written there ({reason:.100}); expected a folder that can be written, "
        f"on a device with free space"
    )


def _shown(path: Path) -> str:
    """Return a path for a message."""
    return printable(str(path)[:150] + "..." * (len(str(path)) > 150))
