"""Folders of saved models: the description, the arrays of the data, and the parameters. See ``manifest``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fastncf.persistence.manifest import FolderKind, read_files, require_writable, write_files

FORMAT = 7
_FORMER_FILES = {"model": "model.safetensors", "data": "data.safetensors"}
_FORMER = {1: _FORMER_FILES, 2: _FORMER_FILES, 3: {}, 4: {}, 5: {}, 6: {}}
MODEL = FolderKind("model", "fastncf.json", "fastncf", ("model", "data"), FORMAT, _FORMER)
DESCRIPTION = MODEL.manifest


class Saved(NamedTuple):
    """Contents of a folder.

    Attributes:
        description: plain values, as JSON holds them; with ``format`` when it is read.
        data: arrays by name.
        parameters: arrays by name, or tensors where NumPy lacks their dtype; also any tensors when it is written.
    """

    description: dict[str, Any]
    data: Mapping[str, np.ndarray]
    parameters: Mapping[str, Any]


def write_folder(directory: str | Path, saved: Saved) -> None:
    """Write a model to a folder, which holds the older model or the new one at every moment, never a mixture.

    Raises:
        DataError: as for :func:`~fastncf.persistence.manifest.write_files`.
    """
    write_files(directory, MODEL, saved.description, {"model": saved.parameters, "data": saved.data})


def require_savable(directory: str | Path) -> None:
    """Try what :func:`write_folder` is going to do in a folder, and leave everything as it was.

    Raises:
        DataError: the folder holds something other than a fastncf model, or cannot be written.
    """
    require_writable(directory, MODEL)


def read_folder(directory: str | Path, *, verify: bool = True) -> Saved:
    """Read what :func:`write_folder` wrote, also while others write.

    Args:
        directory: the folder.
        verify: whether to compare the checksums of the files with those of the description.

    Raises:
        DataNotFoundError: there is no such folder, or no model in it.
        DataError: a file is missing or damaged, or was written by a newer version.
    """
    description, arrays = read_files(directory, MODEL, verify=verify)
    return Saved(description, arrays["data"], arrays["model"])
