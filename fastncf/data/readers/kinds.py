"""Kinds of files, told by their first bytes, and the call that makes a frame of a kind that is not read."""

import json
import re
from typing import NamedTuple

TEXT, JSON_LINES, PARQUET, FEATHER = "text", "JSON lines", "Parquet", "Feather"
GZIP, BZIP2, XZ, ZSTD, ZIP = "gzip", "bzip2", "xz", "zstd", "zip"
PACKED = (GZIP, BZIP2, XZ, ZSTD)
"""Kinds of a file that holds one other file, without its name."""

_MAGIC: tuple[tuple[bytes, str], ...] = (
    (rb"PAR1", PARQUET),
    (rb"ARROW1\0", FEATHER),
    (rb"\x1f\x8b", GZIP),
    (rb"BZh[1-9]1AY&SY", BZIP2),
    (rb"\xfd7zXZ\0", XZ),
    (rb"\x28\xb5\x2f\xfd", ZSTD),
    (rb"PK(\x03\x04|\x05\x06)", ZIP),
)
"""Patterns of the first bytes of the kinds that are read, text and JSON lines aside."""

_MARKS = {  # that of UTF-16 begins as one of UTF-32 does
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_WIDE = "utf-32-le", "utf-32-be", "utf-16-le", "utf-16-be"

HEAD_BYTES = 1 << 12
"""Number of first bytes that tell the kind of a file."""


class ForeignKind(NamedTuple):
    """A kind of file that is not read.

    Attributes:
        noun: what the file is, with its article.
        remedy: the call that makes a frame of it, or another way to get at the rows; empty where there is none.
    """

    noun: str
    remedy: str


def _frame(noun: str, call: str) -> ForeignKind:
    """Return a kind of which a call makes a frame."""
    return ForeignKind(noun, f"pass the frame that {call} makes")


_DOCUMENT = ForeignKind("a text document or a presentation", "save its table as CSV")
_IMAGE = ForeignKind("an image", "pass a file of rows with a user and an item")
_MEDIA = ForeignKind("an audio or video file", "pass a file of rows with a user and an item")
_PROGRAM = ForeignKind("a program or a library", "pass a file of rows with a user and an item")
_LOADED = "polars.DataFrame(json.load(open(PATH)){})"
_DOCUMENTS: tuple[tuple[bytes, str], ...] = (
    (rb"\[\s*\[", _LOADED.format(', orient="row"')),
    (rb"\[", "polars.read_json(PATH)"),
    (rb'\{\s*"schema"\s*:\s*\{', 'pandas.read_json(PATH, orient="table")'),
    (rb'\{\s*"(columns|index)"\s*:\s*\[', 'pandas.read_json(PATH, orient="split")'),
    (rb'\{\s*"\d+"\s*:\s*\{', 'pandas.read_json(PATH, orient="index")'),
    (rb'.*?"(\w+)"\s*:\s*\[\s*\{', _LOADED.format('["{}"]')),
    (rb"\{", "pandas.read_json(PATH)"),
)
"""Patterns of the first bytes of JSON documents, and the call that makes a frame of them: braces stand for a name."""
_SPREADSHEET = _frame("an OpenDocument spreadsheet", "polars.read_ods(PATH)")
_R = ForeignKind("a file of R", "write the table with R's write.csv(table, PATH, row.names = FALSE)")

_FOREIGN: tuple[tuple[bytes, ForeignKind], ...] = (
    (rb"SQLite format 3\0", _frame("an SQLite database", 'polars.read_database("SELECT ...", sqlite3.connect(PATH))')),
    (rb".{8}DUCK.\0\0\0", _frame("a DuckDB database", 'duckdb.connect(PATH).sql("SELECT ...").pl()')),
    (
        rb"(?i:(--\s+)*-- [\w ]{1,40}dump\b|(insert into|create table|pragma foreign_keys|begin transaction)\b)",
        ForeignKind(
            "a dump of SQL statements",
            'run it in a database, and pass the frame that polars.read_database("SELECT ...", CONNECTION) makes',
        ),
    ),
    (rb"PGDMP[\0-\x1f]", ForeignKind("a dump of PostgreSQL", "export the table with COPY ... WITH CSV HEADER")),
    (rb"\xd0\xcf\x11\xe0", _frame("an Excel file of before 2007, or a like document", "polars.read_excel(PATH)")),
    (rb"FEA1\0", _frame("a Feather file of version 1", "pandas.read_feather(PATH)")),
    (rb"\xff\xff\xff\xff", _frame("a stream of Arrow", "polars.read_ipc_stream(PATH)")),
    (rb"Obj\x01", _frame("an Avro file", "polars.read_avro(PATH)")),
    (rb"ORC([\0-\x09]|\n[\0-\x08])", _frame("an ORC file", "pandas.read_orc(PATH)")),
    (rb"PARE", ForeignKind("an encrypted Parquet file", "write it without encryption")),
    (rb"\x89HDF\r\n", _frame("an HDF5 file", "pandas.read_hdf(PATH)")),
    (rb"CDF[\x01\x02\x05]", _frame("a NetCDF file", "xarray.open_dataset(PATH).to_dataframe()")),
    (rb"\x93NUMPY", _frame("a NumPy array", "polars.DataFrame(numpy.load(PATH))")),
    (rb"\x80[\x02-\x05]", _frame("a pickle, which may run any code when it is loaded", "pandas.read_pickle(PATH)")),
    (rb"MATLAB 5\.0 MAT-file", ForeignKind("a MATLAB file", "pass a frame of the arrays of scipy.io.loadmat(PATH)")),
    (rb"%%MatrixMarket ", ForeignKind("a Matrix Market file", "pass a frame of the rows of scipy.io.mmread(PATH)")),
    (rb"<stata_dta>|[\x69-\x73][\x01\x02]\x01\0", _frame("a Stata file", "pandas.read_stata(PATH)")),
    (rb"\$FL[23]@\(#\)", _frame("an SPSS file", "pandas.read_spss(PATH)")),
    (rb"\0{12}\xc2\xea\x81\x60", _frame("a SAS file", "pandas.read_sas(PATH)")),
    (rb"HEADER RECORD\*{7}", _frame("a SAS transport file", "pandas.read_sas(PATH)")),
    (rb"RD[AX][23]\n|X\n\0\0\0", _R),
    (rb"version https://git-lfs\.", ForeignKind("a pointer of Git LFS", "get the file itself with git lfs pull")),
    (rb"%PDF-", ForeignKind("a PDF document", "save its table as CSV")),
    (
        rb"(\xef\xbb\xbf)?\s*[\[(]?\s*\{\s*'",
        _frame(
            "Python code of dictionaries rather than JSON lines", "polars.DataFrame(map(ast.literal_eval, open(PATH)))"
        ),
    ),
    (rb"\{\\rtf", _DOCUMENT),
    (rb".{257}ustar", ForeignKind("a tar archive", "unpack it with tar -xf PATH, and pass the file of rows in it")),
    (rb"\x04\x22\x4d\x18", ForeignKind("a file packed by lz4", "unpack it with lz4 -d PATH")),
    (rb"\x1f\x9d", ForeignKind("a file packed by compress", "unpack it with uncompress PATH")),
    (rb"7z\xbc\xaf\x27\x1c", ForeignKind("a 7z archive", "unpack it with 7z x PATH")),
    (rb"Rar!\x1a\x07", ForeignKind("a RAR archive", "unpack it with unrar x PATH")),
    (rb"\x89PNG\r\n|\xff\xd8\xff|GIF8[79]a.{6}\0|II\*\0|MM\0\*|RIFF.{4}WEBP|BM.{4}\0{4}", _IMAGE),
    (rb"\0\0.{2}ftyp|RIFF.{4}(WAVE|AVI )|OggS\0|ID3[\x02-\x04]\0|fLaC\0", _MEDIA),
    (rb"\x7fELF|MZ.\0", _PROGRAM),
    (rb"\s*<(?i:!doctype html|html|head|body|table)\b", _frame("an HTML page", "pandas.read_html(PATH)[0]")),
    (rb"\s*<(?i:\?xml|!doctype|!--|svg)", _frame("an XML document", "pandas.read_xml(PATH)")),
)
"""Patterns of the first bytes of files that are not read, and what they tell."""

_MEMBERS: tuple[tuple[str, ForeignKind], ...] = (
    (r"xl/workbook\.(xml|bin)", _frame("an Excel workbook", "polars.read_excel(PATH)")),
    (r"(word|ppt)/.*\.xml", _DOCUMENT),
    (r".*\.npy", _frame("an archive of NumPy arrays", "polars.DataFrame(dict(numpy.load(PATH)))")),
    (
        r"([^/]+/)?data\.pkl",
        ForeignKind("a file of torch.save", "pass a frame of the arrays that torch.load(PATH) returns"),
    ),
    (r"META-INF/MANIFEST\.MF", _PROGRAM),
)
"""Patterns of the names in a zip archive that is not meant to be unpacked, and its kind."""


_URL = re.compile(r"((?:jdbc:)?[A-Za-z][A-Za-z0-9+.-]+):/+(.*)", re.DOTALL)
_OF_DATABASES = re.compile(
    r"(postgres|mysql|mariadb|sqlite|mssql|oracle|redshift|clickhouse|duckdb|snowflake|bigquery)"
)


def find_url(path: str) -> tuple[str, ForeignKind] | None:
    """Return the URL that a path is, of which :class:`~pathlib.Path` drops a slash, and its kind; or None."""
    if not (found := _URL.fullmatch(path)):
        return None
    scheme, rest = found.groups()
    slashes = "///" if scheme in ("file", "sqlite", "duckdb") else "//"
    known = scheme.lower().removeprefix("jdbc:")
    if _OF_DATABASES.match(known):
        call = 'polars.read_database_uri("SELECT ...", URL)'
    else:
        endings = {"parquet": r"\.(parquet|pq)\b", "ndjson": r"\.(jsonl|ndjson)\b", "csv": ""}
        reader = next(name for name, ending in endings.items() if re.search(ending, rest))
        # polars asks for ranges of bytes, which plain web servers refuse
        source = "urllib.request.urlopen(URL).read()" if known in ("http", "https", "ftp") else "URL"
        call = f"polars.read_{reader}({source})"
    rest = re.sub(r"^([^/?#@:]*):[^/?#]*@", r"\1:***@", rest)  # a message may go to a log: it holds no password
    return f"{scheme}:{slashes}{rest}", _frame("a URL", call)


def find_kind(head: bytes) -> str | ForeignKind:
    """Return the kind of a file, by its first bytes: at most :data:`HEAD_BYTES` are looked at."""
    head = head[:HEAD_BYTES]
    known: tuple[tuple[bytes, str | ForeignKind], ...] = (*_MAGIC, *_FOREIGN)
    for pattern, kind in known:
        if re.match(pattern, head, re.DOTALL):
            return kind
    return _find_json(head)


def find_archive_kind(members: list[str], mimetype: bytes) -> ForeignKind | None:
    """Return the kind of a zip archive that is a document of some program, or None.

    Args:
        members: the names of its files.
        mimetype: content of its file ``mimetype``, which OpenDocument has; empty where there is none.
    """
    if mimetype.startswith(b"application/vnd.oasis.opendocument"):
        return _SPREADSHEET if b"spreadsheet" in mimetype else _DOCUMENT
    for pattern, kind in _MEMBERS:
        if any(re.fullmatch(pattern, member) for member in members):
            return kind
    return None


def _find_json(head: bytes) -> str | ForeignKind:
    """Return whether text is JSON lines, another form of JSON, or text of another kind.

    The rows of JSON lines are objects, each in a line of its own.
    """
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    lines = [line.strip() for line in text.split(b"\n")]
    if text.startswith(b"["):
        if len(lines) > 1 and _is_json_line(lines[0]) and lines[0] != b"[" and lines[1].startswith(b"["):
            call = 'polars.DataFrame(map(json.loads, open(PATH)), orient="row")'
            return _frame("lines of JSON arrays rather than of objects", call)
        return document_kind(text) if re.match(rb"\[\s*[\[{]", text) or _is_json_line(lines[0]) else TEXT
    if not re.match(rb'\{\s*["}]', text):
        return TEXT
    starts = [line[:1] for line in lines if line][:2]
    return JSON_LINES if _is_json_line(lines[0]) or set(starts) == {b"{"} else document_kind(text)


def document_kind(text: bytes) -> ForeignKind:
    """Return the kind of a JSON document by its first bytes."""
    for pattern, call in _DOCUMENTS:
        if found := re.match(pattern, text, re.DOTALL):
            name = found[1].decode() if found.lastindex else ""
            return _frame("one JSON document rather than JSON lines", call.format(name))
    raise AssertionError("no JSON document")


def _is_json_line(line: bytes) -> bool:
    """Return whether a line is a JSON value of its own, or the beginning of a list alone."""
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return line == b"["
    return True


def find_wide_encoding(head: bytes) -> str | None:
    """Return the encoding of text of two or four bytes a character by its first bytes, or None.

    A mark tells it; without one, text does that is ASCII for the most part.
    """
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return encoding
    head = head[: min(len(head) // 4 * 4, 1 << 10)]
    for encoding in _WIDE if b"\0" in head else ():
        characters = head.decode(encoding, errors="replace")
        num_plain = sum(one.isascii() and (one.isprintable() or one in "\t\r\n") for one in characters)
        if 10 * num_plain > 9 * len(characters):
            return encoding
    return None
