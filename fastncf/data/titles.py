"""Titles of items: from a frame, or from a file such as MovieLens' ``u.item``, ``movies.dat`` and ``movies.csv``."""

import csv
import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from fastncf.data.ids import Vocabulary
from fastncf.data.named import find_source
from fastncf.data.readers.checks import ColumnName, check_ids
from fastncf.data.readers.columns import list_columns
from fastncf.data.readers.files import Purpose, open_content, read_file
from fastncf.data.readers.frames import index_named
from fastncf.data.readers.kinds import FEATHER, PARQUET, TEXT
from fastncf.data.readers.names import TITLES, has_name_of, normalize_name
from fastncf.errors import DataError, counted, type_name
from fastncf.processes import require_polars_threads

_TITLES = (
    *("title", "name", "itemtitle", "itemname", "movietitle", "producttitle", "productname", "booktitle"),
    *("trackname", "songname", "artistname", "description"),
)
"""Column names that are recognised for titles, normalized, best first; then those of other languages."""

_EXPECTED = "an item and a title in each row: a frame, CSV, Parquet, u.item, movies.dat, movies.csv, or their archive"
_OF_MOVIELENS = re.compile(r"\d+(::|\|)")
"""Beginning of ``movies.dat`` and ``u.item``."""

_TITLES_FILE = Purpose("titles", ("movies.csv", "movies.dat", "u.item"), _EXPECTED)


class _Rows(NamedTuple):
    """Items and titles of one source.

    Attributes:
        ids: (n,) ids as the source has them.
        titles: (n,) String.
        name: name of the column of the ids, for messages.
    """

    ids: pl.Series
    titles: pl.Series
    name: ColumnName


def read_titles(source: Any, items: Vocabulary) -> pl.Series:
    """Return the title of each item.

    Args:
        source: a polars or pandas frame; the path of a CSV or TSV text in UTF-8 with or without a header, of ``u.item``
            or ``movies.dat``, which may be Latin-1, or of ``movies.csv``, plain, gzip or in a zip archive, or of a
            Parquet file; or the name of a data set, see :mod:`fastncf.datasets`. Columns are found by their names
            (``title``, ``name``); without a header the first one is the item and the second one the title.
        items: vocabulary of I items; titles of others are not used.

    Returns:
        (I,) String, null for an item without a title.

    Raises:
        DataNotFoundError: there is no such file.
        DataError: the source cannot be used: no column of titles, an item with two titles, or none of the items.
        ForkError: this process lacks the threads of Polars.
    """
    require_polars_threads("reading titles")
    rows = _read(source)
    ids = check_ids(rows.ids, rows.name)
    frame = pl.DataFrame({"index": items.encode(ids), "title": rows.titles.str.strip_chars()})
    frame = frame.with_row_index("row").filter((pl.col("index") >= 0) & (pl.col("title") != ""))
    titled = frame.unique("index", keep="first", maintain_order=True)
    if frame.height > titled.height:
        _refuse_second_titles(frame, ids, rows.name)
    if not titled.height:
        raise DataError(
            f"{rows.name.source}: has a title for none of the {counted(len(items), 'item')}, such as "
            f"{items.ids[0]!r:.80}; expected {_EXPECTED}"
        )
    every = pl.DataFrame({"index": range(len(items))}, schema={"index": pl.Int32})
    return every.join(titled, on="index", how="left", maintain_order="left")["title"]


def move_titles(titles: pl.Series, items: Vocabulary, wider: Vocabulary) -> pl.Series:
    """Return the titles of items by the indices of a vocabulary that has further items, which get null.

    Args:
        titles: (I,) String, by the indices of ``items``.
        items: vocabulary of the I items that have had titles.
        wider: vocabulary of these and of others, whose ids may lie between theirs.
    """
    index = pl.Series(items.encode(wider.ids), dtype=pl.Int64)
    return titles.gather(index.set(index < 0, None))


def _refuse_second_titles(frame: pl.DataFrame, ids: pl.Series, name: ColumnName) -> None:
    """Raise an error if an item has two different titles.

    Args:
        frame: columns row, index, title.
        ids: the id of each row.
        name: where the rows stand.
    """
    first = frame.select("row", "title", pl.col("title").first().over("index").alias("first"))
    other = first.filter(pl.col("title") != pl.col("first"))
    if other.height:
        row, title, known = other.row(0)
        raise DataError(
            f"{name.source}: item {ids[row]!r:.80} has a second title in {name.locate(row)}, {title!r:.80} after "
            f"{known!r:.80}; expected one for each item"
        )


def _read(source: Any) -> _Rows:
    """Return the items and titles of a source.

    Raises:
        DataNotFoundError, DataError: as for :func:`read_titles`.
    """
    if isinstance(source, pl.DataFrame | pl.LazyFrame):
        return _of_polars(source.lazy().collect(), "titles")
    if type(source).__module__.partition(".")[0] == "pandas" and hasattr(source, "columns"):
        with index_named(source):
            item, title = _find_columns([str(column) for column in source.columns], "titles")
        columns = [source.iloc[:, position].astype(object) for position in (item, title)]
        ids, texts = (column.where(column.notna(), None).tolist() for column in columns)
        titles = pl.Series([None if text is None else str(text) for text in texts], dtype=pl.String)
        return _Rows(
            pl.Series(ids, dtype=pl.Object), titles, ColumnName("titles", str(source.columns[item]), _locate_row)
        )
    if not isinstance(source, str | Path):
        raise DataError(f"cannot read titles from {type_name(source)}; expected {_EXPECTED}")
    path = find_source(source)
    name, content, kind = read_file(path, _TITLES_FILE)
    if kind == TEXT:
        with open_content(content) as file:
            return _of_text(file.read(), name)
    try:
        return _of_polars({PARQUET: pl.read_parquet, FEATHER: pl.read_ipc}.get(kind, pl.read_ndjson)(content), name)
    except DataError:
        raise
    except (Exception, pl.exceptions.PanicException) as error:  # a damaged file raises errors of many classes
        raise DataError(f"{name}: is damaged ({str(error).partition(chr(10))[0]:.200}); expected {_EXPECTED}") from None


def _locate_row(row: int) -> str:
    """Return in words where a row of a frame stands."""
    return f"row {row + 1}"


def _of_polars(frame: pl.DataFrame, source: str) -> _Rows:
    """Return the items and titles of a polars frame."""
    item, title = _find_columns(frame.columns, source)
    try:
        titles = frame.to_series(title).cast(pl.String)
    except pl.exceptions.PolarsError:
        raise DataError(f"{source}: column {frame.columns[title]!r:.80} holds no text; expected titles") from None
    return _Rows(frame.to_series(item), titles, ColumnName(source, frame.columns[item], _locate_row))


def _of_text(content: bytes, source: str) -> _Rows:
    """Return the items and titles of a text."""
    lines = list(_records(content, source))
    first = lines[0][1]
    has_header = any(_is_item(field) or normalize_name(field) in (*_TITLES, *TITLES) for field in first)
    item, title = _find_columns(first, source) if has_header else (0, 1)
    body = lines[has_header:]
    for number, fields in body:
        if len(fields) <= max(item, title):
            raise DataError(f"{source}: line {number} has {counted(len(fields), 'field')}; expected {_EXPECTED}")
    name = ColumnName(source, first[item] if has_header else "column_1", lambda row: f"line {body[row][0]}")
    ids, titles = (pl.Series([fields[n] for _, fields in body], dtype=pl.String) for n in (item, title))
    return _Rows(ids, titles, name)


def _records(content: bytes, source: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the fields of each record of a text in UTF-8, or in Latin-1 as MovieLens writes it.

    Latin-1 takes any bytes, so that text of another encoding would become other letters.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong_line = content[: error.start].count(b"\n") + 1
        text = content.decode("latin-1")
        if not _OF_MOVIELENS.match(text):
            raise DataError(
                f"{source}: line {wrong_line} is not UTF-8 text; expected UTF-8: convert the file, or pass a frame of "
                f"items and titles"
            ) from None
    if "\0" in text:
        raise DataError(f"{source}: is no text; expected {_EXPECTED}")
    first = text.lstrip().partition("\n")[0]
    found = {separator: first.find(separator) for separator in ("::", "\t", ",", ";", "|") if separator in first}
    if not found:
        raise DataError(f"{source}: its first line is not divided into fields; expected {_EXPECTED}")
    separator = min(found, key=lambda key: found[key])  # an id, which comes first, holds none
    if separator in ("::", "|", "\t"):  # files that do not enclose fields in quotes
        for number, line in enumerate(text.split("\n"), start=1):
            if stripped := line.rstrip("\r"):
                yield number, stripped.split(separator)
        return
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        for fields in reader:
            if fields:
                yield reader.line_num, fields
    except csv.Error as error:
        raise DataError(f"{source}: line {reader.line_num} cannot be split into fields ({error})") from None


def _is_item(column: str) -> bool:
    """Return whether a column may hold the ids of the items by its name."""
    return has_name_of("item", column) or normalize_name(column) == "id"


def _find_columns(columns: list[str], source: str) -> tuple[int, int]:
    """Return the positions of the columns of items and of titles.

    Raises:
        DataError: there is no such column.
    """
    names = [normalize_name(column) for column in columns]
    titles = [names.index(alias) for alias in (*_TITLES, *sorted(TITLES.difference(_TITLES))) if alias in names]
    items = [place for place, column in enumerate(columns) if _is_item(column) and place not in titles[:1]]
    for role, found, name in (("item", items, "item"), ("title", titles, "title")):
        if not found:
            raise DataError(
                f"{source}: which column is the {role}? its columns are {list_columns(columns)}; expected one that is "
                f"called {name}"
            )
    return items[0], titles[0]
