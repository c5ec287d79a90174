"""Data sets by name: the releases of MovieLens.

>>> import fastncf
>>> frame = fastncf.datasets.load("ml-1m")  # doctest: +SKIP
>>> rec = fastncf.fit("ml-1m")              # doctest: +SKIP
"""

from pathlib import Path

import polars as pl

from fastncf.data.named import DATASETS, Dataset, fetch
from fastncf.data.readers.files import read_file

__all__ = ["DATASETS", "Dataset", "fetch", "load"]


def load(name: str) -> pl.DataFrame:
    """Return the ratings of a data set, which is fetched unless it is on this machine; see :func:`fetch`.

    Args:
        name: one of :data:`DATASETS`, such as ``"ml-1m"``.

    Returns:
        Columns user, item (Int32), rating (Float32), time (Int64, seconds since 1970), in the order of the file.

    Raises:
        DataNotFoundError: there is no such data set, or the server does not have it.
        DataError: it cannot be fetched.
    """
    path = fetch(name)
    return _parse(path, DATASETS[name].separator)


def _parse(path: Path, separator: str) -> pl.DataFrame:
    """Return the ratings in an archive whose checksum is right, so that its form is known."""
    content = read_file(path).content
    dtypes = {"user": pl.Int32(), "item": pl.Int32(), "rating": pl.Float32(), "time": pl.Int64()}
    schema: dict[str, pl.DataType] = {}
    for name, dtype in dtypes.items():
        if separator == "::" and schema:
            schema[f"before {name}"] = pl.String()  # polars separates by one character, and finds an empty field here
        schema[name] = dtype
    has_header = separator == ","
    frame = pl.read_csv(content, separator=separator[0], has_header=False, skip_rows=int(has_header), schema=schema)
    return frame.select(list(dtypes))
