"""Data sets that have a name: the releases of MovieLens, fetched from GroupLens and kept on this machine.

F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History and Context", ACM Transactions on Interactive
Intelligent Systems 5 (4), 2015.
"""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

from platformdirs import user_cache_path

from fastncf import locks
from fastncf.download import RemoteFile, download, is_intact
from fastncf.errors import DataError, DataNotFoundError, printable

ENVIRONMENT = "FASTNCF_DATASETS"
"""Name of the variable with the address of a mirror, or with the folder that is used in place of the cache."""

_SERVER = "https://files.grouplens.org/datasets/movielens"
LICENCE = "for research; no commercial use without GroupLens' permission; cite Harper and Konstan (2015)"
"""Terms of use of MovieLens in short; the address of each release's own is :attr:`Dataset.terms`."""


@dataclass(frozen=True)
class Dataset:
    """A data set that can be fetched by its name.

    Attributes:
        name: the name; the archive is called ``NAME.zip``.
        num_interactions: rows of its ratings.
        num_bytes: length of the archive.
        sha256: SHA-256 of the archive. GroupLens publishes MD5 sums only; these values are those that several
            independent projects recorded beside GroupLens' MD5.
        separator: what separates the fields of its ratings; more than one character stand without a header.
        terms: address of the terms of use.
    """

    name: str
    num_interactions: int
    num_bytes: int
    sha256: str
    separator: str
    terms: str

    @property
    def licence(self) -> str:
        """Return the terms of use in short, and where they stand."""
        return f"{LICENCE}; terms: {self.terms}"


def _movielens(name: str, rows: int, num_bytes: int, sha256: str, separator: str, readme: str) -> Dataset:
    """Return a release of MovieLens."""
    return Dataset(name, rows, num_bytes, sha256, separator, f"{_SERVER}/{name}-README.{readme}")


DATASETS = {
    dataset.name: dataset
    for dataset in (
        _movielens(
            "ml-100k",
            100_000,
            4_924_029,
            "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
            "\t",
            "txt",
        ),
        _movielens(
            "ml-1m",
            1_000_209,
            5_917_549,
            "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
            "::",
            "txt",
        ),
        _movielens(
            "ml-10m",
            10_000_054,
            65_566_137,
            "813c411ccb6122564edfe752e7f80c4dcc5aa25fa94c93622f6877a7ba252862",
            "::",
            "html",
        ),
        _movielens(
            "ml-20m",
            20_000_263,
            198_702_078,
            "96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3",
            ",",
            "html",
        ),
        _movielens(
            "ml-25m",
            25_000_095,
            261_978_986,
            "8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa",
            ",",
            "html",
        ),
        _movielens(
            "ml-32m",
            32_000_204,
            238_950_008,
            "e4a68655d7386b8f95f2f2424b2ff975dfdd15ffd59e0d864a14dca43e99d6ee",
            ",",
            "html",
        ),
    )
}
"""Each data set by its name. The releases that GroupLens changes from time to time, ml-latest, are not among them."""


def find_source(source: str | Path) -> Path:
    """Return the path of a file or folder, or of the archive of a data set, which is fetched if need be.

    What exists on this machine is never taken for the name of a data set.

    Args:
        source: a path, or one of :data:`DATASETS`.

    Raises:
        DataNotFoundError: there is neither such a file nor such a data set, or the server does not have it.
        DataError: the data set cannot be fetched; see :func:`fetch`.
    """
    path = Path(source)
    if os.path.lexists(path):
        return path
    if (name := str(source)) in DATASETS:
        return fetch(name)
    guess = _guess(name)
    if path.name == name and (guess or (_compact(name).startswith("ml") and not path.suffix)):
        raise DataNotFoundError(
            f"{path}: no such file, and no data set of this name;{guess} expected a file or one of "
            f"{', '.join(DATASETS)}"
        )
    return path


def fetch(name: str) -> Path:
    """Return the path of the archive of a data set, which is downloaded unless it is on this machine.

    A file is used only if it has the known SHA-256. The terms of use are printed to stderr where one is downloaded.
    Several processes may ask for the same data set: one of them downloads it, and the others wait.

    Args:
        name: one of :data:`DATASETS`.

    Raises:
        DataNotFoundError: there is no such data set, or the server does not have it.
        DataError: it cannot be downloaded, has another checksum, or cannot be written.
    """
    dataset = _dataset(name)
    server, folder, is_cache = locations()
    path, remote = folder / f"{name}.zip", RemoteFile(f"{server}/{name}.zip", dataset.num_bytes, dataset.sha256)
    if is_intact(path, remote):
        return path
    if not is_cache and os.path.lexists(path):  # a file of the user's own is not replaced
        raise DataError(
            f"{path}: is not the archive of {name}; expected {remote.num_bytes:,} bytes with the SHA-256 "
            f"{remote.sha256}, or no file of this name"
        )
    with _locked(folder, name):
        if not is_intact(path, remote):  # another process may have fetched it meanwhile
            print(printable(f"{name}: {dataset.licence}"), file=sys.stderr)
            try:
                with _progress_line(name, dataset.num_bytes) as on_bytes:
                    download(remote, path, on_bytes)
            except (DataError, DataNotFoundError) as error:
                raise type(error)(
                    f"{name}: {error!s:.330}; {ENVIRONMENT} may name a mirror, or a folder with it"
                ) from None
    return path


def is_cached(name: str) -> bool:
    """Return whether the archive of a data set is on this machine, without looking at its content."""
    return (locations().folder / f"{_dataset(name).name}.zip").is_file()


class Locations(NamedTuple):
    """Source of the archives, and the folder that keeps them.

    Attributes:
        server: address without a slash at its end.
        folder: where they are kept.
        is_cache: whether that is the cache of the platform, and no folder that the user named.
    """

    server: str
    folder: Path
    is_cache: bool


def locations() -> Locations:
    """Return the server or mirror, and the folder of the archives.

    Raises:
        DataError: the variable has an address that is neither http nor https.
    """
    value = os.environ.get(ENVIRONMENT, "")
    if value.startswith(("http://", "https://")):
        return Locations(value.rstrip("/"), _cache(), True)
    if "://" in value:
        raise DataError(f"{ENVIRONMENT}={value:.200}: expected an address that begins with https://, or a folder")
    return Locations(_SERVER, Path(value).expanduser() if value else _cache(), not value)


def _cache() -> Path:
    """Return the folder for data that a program may fetch again, by the convention of the platform.

    Raises:
        DataError: the user has no home.
    """
    folder = user_cache_path("fastncf", appauthor=False) / "datasets"
    if not folder.is_absolute():  # "~" stands for a home that nobody knows
        raise DataError(f"there is no home directory to keep data sets in; expected a folder in {ENVIRONMENT}")
    return folder


def _guess(name: str) -> str:
    """Return the question whether another name of a data set is meant, with a blank before it; or nothing."""
    compact = {_compact(known): known for known in DATASETS}
    meant = get_close_matches(_compact(name), compact, 1, cutoff=0.8)
    return f" did you mean {compact[meant[0]]}?" if meant else ""


def _dataset(name: str) -> Dataset:
    """Return a data set by its name."""
    if not isinstance(name, str) or name not in DATASETS:
        guess = _guess(str(name))
        raise DataNotFoundError(f"{name!r:.80}: no such data set;{guess} expected one of {', '.join(DATASETS)}")
    return DATASETS[name]


@contextmanager
def _locked(folder: Path, name: str) -> Iterator[None]:
    """Keep other processes from fetching a data set into a folder, which is made if need be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock = locks.take(folder / f"{name}.lock")
        except locks.BusyError:
            print(f"{name}: waiting for another process that fetches it", file=sys.stderr)
            lock = locks.take(folder / f"{name}.lock", is_waiting=True)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(
            f"{name}: is not in {folder}, which cannot be written ({reason}); expected a folder that can be written, "
            f"or one with {name}.zip in {ENVIRONMENT}"
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _progress_line(name: str, num_bytes: int) -> Iterator[Callable[[int], object]]:
    """Yield a function that shows on a terminal how many bytes have arrived; elsewhere it does nothing."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return

    def show(count: int) -> None:
        """Write the line anew."""
        print(f"\r{name}: {count / 1e6:,.1f} of {num_bytes / 1e6:,.1f} MB", end="", file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        print(file=sys.stderr)


def _compact(name: str) -> str:
    """Return a name as it is compared with others: in lower case, without punctuation, and with numbers in short.

    ``MovieLens-100K-Dataset``, ``ml_100000`` and ``ml-100k`` become the same.
    """
    letters = "".join(character for character in name.lower() if character.isalnum())
    for word, short in (("movielens", "ml"), ("dataset", ""), ("ratings", ""), ("000000", "m"), ("000", "k")):
        letters = letters.replace(word, short)
    return re.sub(r"(millions?|mio)$", "m", letters)
