"""An answer as a file, written chunk by chunk, so that it need not fit the memory."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
from polars.io.plugins import register_io_source

from fastncf.config import show
from fastncf.data.replaced_file import replaced_file
from fastncf.errors import ConfigError
from fastncf.processes import require_polars_threads
from fastncf.serving.answers import Request

FORMATS = ".parquet", ".csv"


def require_format(path: Any) -> Path:
    """Return a path to write an answer to.

    Raises:
        ConfigError: its name ends in none of :data:`FORMATS`.
    """
    if not isinstance(path, str | os.PathLike) or Path(path).suffix.lower() not in FORMATS:
        shown = show(str(path) if isinstance(path, os.PathLike) else path)
        raise ConfigError(f"out={shown}: expected the path of a file whose name ends in {' or '.join(FORMATS)}")
    return Path(path)


def write_answers(request: Request, path: Path) -> None:
    """Write the answer to a request to a file, which appears, or replaces an older one, when it is complete.

    Args:
        request: what is asked for.
        path: see :func:`require_format`.

    Raises:
        ForkError: this process was forked from one that had used Polars.
        DataNotFoundError: the folder of the file does not exist.
        DataError: the path names something other than a file, or the file cannot be written.
    """
    require_polars_threads("writing recommendations")
    answers = request.chunks()
    first = request.frame(next(answers))

    def source(
        with_columns: list[str] | None, predicate: pl.Expr | None, n_rows: int | None, batch_size: int | None
    ) -> Iterator[pl.DataFrame]:
        """Yield all frames; polars asks for no part of them."""
        yield first
        for answer in answers:
            yield request.frame(answer)

    with replaced_file(path) as partial:
        lazy = register_io_source(source, schema=first.schema)
        if path.suffix.lower() == ".parquet":
            lazy.sink_parquet(partial)
        else:
            lazy.sink_csv(partial)
