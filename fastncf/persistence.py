"""Folders that hold a saved model: written beside the target and renamed into place, and read back.

A folder holds three files: a description in JSON, the arrays of the data, and the parameters of the model, the latter
two in the safetensors format. Their contents are defined by :mod:`fastncf.recommender`; ``docs/formats.md`` lists it.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from fastncf.errors import DataError, DataNotFoundError

DESCRIPTION, PARAMETERS, DATA = "fastncf.json", "model.safetensors", "data.safetensors"


class Saved(NamedTuple):
    """Contents of a folder.

    Attributes:
        description: plain values, as JSON holds them.
        data: arrays by name.
        parameters: NumPy arrays or tensors by name when it is written, tensors when it is read.
    """

    description: dict[str, Any]
    data: Mapping[str, np.ndarray]
    parameters: Mapping[str, Any]


def write_folder(directory: str | Path, saved: Saved) -> None:
    """Write a folder; a write that fails leaves an older model of the same name as it was.

    Raises:
        DataError: the directory exists and holds something other than a fastncf model, or cannot be made.
    """
    target = Path(directory)
    require_savable(target)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.absolute().parent))
    try:
        _write_files(scratch, saved)
        scratch.chmod(0o755)
        if target.exists():
            old = scratch.with_name(scratch.name + "-old")
            target.rename(old)
            try:
                scratch.rename(target)
            except OSError:
                old.rename(target)
                raise
            shutil.rmtree(old)
        else:
            scratch.rename(target)
    finally:
        if scratch.exists():
            shutil.rmtree(scratch)


def read_folder(directory: str | Path) -> Saved:
    """Read what :func:`write_folder` wrote.

    Raises:
        DataNotFoundError: there is no such folder, or no model in it.
        DataError: a file is missing or damaged.
    """
    from safetensors.torch import load_file as load_tensors

    folder = Path(directory)
    if not (folder / DESCRIPTION).exists():
        raise DataNotFoundError(f"{folder}: holds no fastncf model (no {DESCRIPTION})")
    try:
        description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        return Saved(description, load_file(folder / DATA), load_tensors(folder / PARAMETERS))
    except (json.JSONDecodeError, SafetensorError, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{folder}: a file is missing or damaged ({error})") from None


def require_savable(target: Path) -> None:
    """Make the parent of a folder that a model is to be saved in, and check that nothing else would be replaced.

    Raises:
        DataError: the folder holds something other than a fastncf model, or cannot be made.
    """
    try:
        is_empty = not target.exists() or (target.is_dir() and not any(target.iterdir()))
        if not is_empty and not (target / DESCRIPTION).exists():
            raise DataError(
                f"{target}: exists and holds no fastncf model; expected a new or empty folder, or an existing model to "
                f"replace"
            )
        target.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{target}: cannot be made ({error.strerror}); expected a folder that can be written") from None
    if not os.access(target.absolute().parent, os.W_OK):
        raise DataError(f"{target}: its parent folder cannot be written; expected a folder that can be written")


def _write_files(folder: Path, saved: Saved) -> None:
    """Write the three files; tensors are written without a copy to NumPy, which has no bfloat16."""
    if all(isinstance(array, np.ndarray) for array in saved.parameters.values()):
        save_file(dict(saved.parameters), folder / PARAMETERS)
    else:
        from safetensors.torch import save_file as save_tensors

        save_tensors(
            {name: tensor.cpu().contiguous() for name, tensor in saved.parameters.items()}, folder / PARAMETERS
        )
    save_file({name: np.ascontiguousarray(array) for name, array in saved.data.items()}, folder / DATA)
    with (folder / DESCRIPTION).open("w", encoding="utf-8") as file:
        json.dump(saved.description, file)
        file.flush()
        os.fsync(file.fileno())
