"""Vectors of users and items as files that other programs read."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fastncf import files
from fastncf.config import show
from fastncf.data.replaced_file import replaced_file, replaced_files, require_possible
from fastncf.errors import ConfigError, DataError
from fastncf.processes import require_polars_threads
from fastncf.serving.onnx_export import SUFFIX as ONNX

_NPZ = ".npz"


def require_target(path: Any) -> Path:
    """Return the path of a file or of a folder to export to.

    Raises:
        ConfigError: its name has another ending.
    """
    if not isinstance(path, str | os.PathLike) or Path(path).suffix.lower() not in (_NPZ, ONNX, ""):
        shown = show(str(path) if isinstance(path, os.PathLike) else path)
        raise ConfigError(
            f"export: {shown}: expected the path of a folder, or of a file whose name ends in {_NPZ} or {ONNX}"
        )
    return Path(path)


def export_vectors(target: Path, users: pl.DataFrame, items: pl.DataFrame) -> list[Path]:
    """Write frames of vectors, and return the paths of the files.

    Args:
        target: a file whose name ends in ``.npz``; or a folder, which is made where it is missing and gets
            ``users.parquet`` and ``items.parquet``. Files that are there are replaced, see
            :func:`~fastncf.data.replaced_file.replaced_files`.
        users: columns user, vector and, where the model has biases, bias.
        items: the same with a column item, and perhaps one of titles.

    Raises:
        ForkError: this process was forked from one that had used Polars, and Parquet is asked for.
        DataNotFoundError: the folder of the file, or that of the folder, does not exist.
        DataError: a file cannot be written.
    """
    if target.suffix:
        with replaced_file(target) as partial, partial.open("wb") as file:
            np.savez(file, **_arrays(users, "user"), **_arrays(items, "item"))
        return [target]
    require_polars_threads("writing Parquet")
    require_possible(target)
    try:
        if target.parent.is_dir() and not target.exists():
            files.make_folders(target)
    except OSError as error:
        raise DataError(f"{target}: cannot be made ({error.strerror}); expected a folder that can be written") from None
    written = [target / "users.parquet", target / "items.parquet"]
    with replaced_files() as draft_of:
        for path, frame in zip(written, (users, items), strict=True):
            frame.write_parquet(draft_of(path))
    return written


def _arrays(frame: pl.DataFrame, noun: str) -> dict[str, Any]:
    """Return the columns of a frame as arrays, by names such as ``item_ids`` and ``item_vectors``."""
    names = {noun: f"{noun}_ids", "vector": f"{noun}_vectors", "bias": f"{noun}_bias", "title": f"{noun}_titles"}
    arrays = {}
    for name in frame.columns:
        column = frame[name]
        if column.dtype == pl.String:  # NumPy's text, which is read without pickle; without the threads of polars
            arrays[names[name]] = np.array([value or "" for value in column.to_list()], dtype=np.str_)
        else:
            arrays[names[name]] = column.to_numpy()
    return arrays
