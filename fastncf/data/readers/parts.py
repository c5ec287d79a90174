"""Columns of one file or frame before their times are checked, and their origin."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import polars as pl

from fastncf.data.readers.checks import ColumnName
from fastncf.data.readers.layout import TextLayout


@dataclass(frozen=True)
class Origin:
    """Origin of a frame of user, item and time columns.

    Attributes:
        source: name of the source in messages.
        format: kind of the source, for people.
        columns: name of the column of each role.
        locate: returns in words where a row of the frame stands in the source.
        layout: the layout of a text with separators, or None.
        num_empty: number of rows without any value, which are not in the frame.
        remedy: end of the messages on missing values.
    """

    source: str
    format: str
    columns: dict[str, str]
    locate: Callable[[int], str] = lambda row: f"row {row + 1}"
    layout: TextLayout | None = None
    num_empty: int = 0
    remedy: str = ""

    def name_column(self, role: str) -> ColumnName:
        """Return the column of a role for messages."""
        return ColumnName(self.source, self.columns[role], self.locate, self.remedy)


class Part(NamedTuple):
    """Rows of one source whose ids are checked.

    Attributes:
        frame: columns ``user`` and ``item`` in canonical form, and perhaps ``time`` and ``clock`` as they were read.
        origin: where they come from.
        left_out: number of rows that were left out on request: ``num_missing`` lacked a value, and ``num_low_rated``
            had a lower rating than asked for.
        num_rows: number of rows of the source, those that were left out included.
        others: users of rows that were left out, in canonical form and perhaps repeated; empty where ids are not looked
            up.
    """

    frame: pl.DataFrame
    origin: Origin
    left_out: dict[str, int]
    num_rows: int
    others: tuple[pl.Series, ...] = ()
