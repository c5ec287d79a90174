"""Kinds of ratings files, and the text in an archive."""

import gzip
import zipfile
from pathlib import Path

from fastncf.errors import DataError, DataNotFoundError

EXPECTED_SOURCES = "CSV or TSV text (plain, gzip or zip), Parquet, a polars or a pandas frame"

PARQUET = b"PAR1"
"""First bytes of a Parquet file."""

_RATINGS_FILES = ("ratings.csv", "rating.csv", "ratings.dat", "u.data")
"""Names of the file with the ratings in an archive of several files, best first."""


def first_bytes(path: Path) -> bytes:
    """Return the first four bytes of a file, which tell its kind.

    Raises:
        DataNotFoundError: there is no such file.
        DataError: the file is empty, is a folder or cannot be read.
    """
    try:
        if path.is_dir():
            entries = ", ".join(sorted(entry.name for entry in path.iterdir())[:8]) or "nothing"
            raise DataError(f"{path}: is a folder ({entries:.200}); expected the path of one file, {EXPECTED_SOURCES}")
        with path.open("rb") as file:
            magic = file.read(4)
    except (FileNotFoundError, NotADirectoryError):
        raise DataNotFoundError(f"{path}: no such file") from None
    except DataError:
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{path!s:.200}: cannot be read ({error!s:.200}); expected {EXPECTED_SOURCES}") from None
    if not magic:
        raise DataError(f"{path}: is empty; expected {EXPECTED_SOURCES}")
    return magic


def unpack(path: Path, magic: bytes) -> tuple[str, Path | bytes]:
    """Return the name for messages and the content of a text file, or of the one in a gzip or zip archive.

    The content of a plain file is its path, so that it need not be held in memory.

    Args:
        path: the file.
        magic: its :func:`first_bytes`.

    Raises:
        DataError: the archive is damaged, or holds several files that may be the ratings.
    """
    try:
        if magic == b"PK\x03\x04":
            member, content = _read_zip(path)
            return f"{path} ({member})", content
        if magic[:2] == b"\x1f\x8b":
            return str(path), gzip.decompress(path.read_bytes())
    except DataError:
        raise
    except Exception as error:  # damaged archives make zipfile raise KeyError, struct.error, OSError and others
        raise DataError(
            f"{path}: the archive is damaged or encrypted ({error!s:.200}); expected {EXPECTED_SOURCES}"
        ) from None
    return str(path), path


def _read_zip(path: Path) -> tuple[str, bytes]:
    """Return the name and the content of the ratings file in an archive, in whichever folder it lies."""
    with zipfile.ZipFile(path) as archive:
        members = [m for m in archive.namelist() if not m.endswith("/") and not m.startswith("__MACOSX")]
        by_name = [[m for m in members if Path(m).name.lower() == name] for name in _RATINGS_FILES]
        candidates = next((matches for matches in by_name if matches), members)
        if len(candidates) == 1:
            return candidates[0], archive.read(candidates[0])
    listed = ", ".join(candidates[:8])
    raise DataError(
        f"{path}: which of its {len(candidates)} files holds the ratings? found {listed:.200}; expected only one named "
        f"{', '.join(_RATINGS_FILES)}, or an archive of a single file"
    )
