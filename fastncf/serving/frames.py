"""Frames of answers as frames of another library."""

from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from fastncf.config import is_one_of, show
from fastncf.errors import ConfigError, FastNCFError

if TYPE_CHECKING:
    import pandas as pd

Output = Literal["polars", "pandas"]


def require_output(output: Any) -> None:
    """Raise an error unless frames can be returned as those of a library.

    Raises:
        ConfigError: it is neither polars nor pandas.
        FastNCFError: pandas is not installed.
    """
    if not is_one_of(output, ("polars", "pandas")):
        raise ConfigError(f"output={show(output)}: expected one of polars, pandas")
    if output == "pandas":
        try:
            import pandas  # noqa: F401
        except ImportError:
            raise FastNCFError("output='pandas': pandas is not installed; expected pip install pandas") from None


def to_pandas(frame: pl.DataFrame) -> "pd.DataFrame":
    """Return a frame of pandas with the same columns; pyarrow, which polars would use, is not needed.

    Numbers keep their dtypes, text is what pandas makes of strings, a missing text is None, and vectors are arrays.
    """
    import pandas as pd

    columns = {column.name: _values(column) for column in frame.iter_columns()}
    return pd.DataFrame(columns, columns=frame.columns)


def in_library(output: Output, frame: pl.DataFrame) -> "pl.DataFrame | pd.DataFrame":
    """Return a frame as one of a library."""
    return to_pandas(frame) if output == "pandas" else frame


def _values(column: pl.Series) -> Any:
    """Return the values of a column as an array, or as a list where they are text or vectors."""
    if isinstance(column.dtype, pl.Array):
        return list(column.to_numpy())
    return column.to_numpy() if column.dtype.is_numeric() and not column.null_count() else column.to_list()
