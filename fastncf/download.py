"""Download of one file whose length and SHA-256 are known: resumed after an interruption, checked before it is used."""

import hashlib
import http.client
import re
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from fastncf import files
from fastncf.errors import DataError, DataNotFoundError

_CHUNK_BYTES = 1 << 20
_TIMEOUT_SECONDS = 30
_MAX_CUTS = 3
"""Number of times in a row that a connection may break without a new byte before the download is given up."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on a server.

    Attributes:
        url: its address, http or https.
        num_bytes: its length.
        sha256: its SHA-256 in hexadecimal digits.
    """

    url: str
    num_bytes: int
    sha256: str


def is_intact(path: Path, remote: RemoteFile) -> bool:
    """Return whether a file exists, can be read, and has the length and the SHA-256 of the remote one."""
    try:
        if path.stat().st_size != remote.num_bytes:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == remote.sha256
    except OSError:
        return False


def download(remote: RemoteFile, target: Path, on_bytes: Callable[[int], object]) -> None:
    """Download a file to a path, in one step as others see it.

    What has arrived is kept beside the target, in a file whose name ends with ``.part``. A later call asks the server
    for the rest of it. A file that was put together in this way and has a wrong checksum is fetched once more, whole,
    since the older part may belong to another version. One process at a time may download to a target.

    Args:
        remote: what to fetch.
        target: where it goes; an older file there is replaced.
        on_bytes: called with the number of bytes that have arrived so far.

    Raises:
        DataNotFoundError: the server does not have the file.
        DataError: the server cannot be reached, the connection broke again and again, the file is another one, or it
            cannot be written.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        is_resumed = _size(part) > 0
        _complete(remote, part, on_bytes)
        if is_resumed and not is_intact(part, remote):
            files.remove(part)
            _complete(remote, part, on_bytes)
        if not is_intact(part, remote):
            files.remove(part)
            raise _wrong_file(remote, "with another SHA-256")
        files.put_in_place(part, target)
    except OSError as error:
        if isinstance(error, DataNotFoundError):
            raise
        raise DataError(
            f"{target}: cannot be written ({error.strerror or error}); expected a writable folder"
        ) from None


def _complete(remote: RemoteFile, part: Path, on_bytes: Callable[[int], object]) -> None:
    """Fetch what a partial file lacks, over as many connections as it takes.

    Raises:
        OSError: the file cannot be written.
        DataNotFoundError, DataError: as for :func:`download`.
    """
    num_cuts = 0
    while (before := _size(part)) != remote.num_bytes:
        if before > remote.num_bytes:
            files.remove(part)
            before = 0
        try:
            _fetch_rest(remote, part, on_bytes)
            reason = "the connection was closed"
        except _ConnectionBrokenError as error:
            reason = str(error)
        num_cuts = 0 if _size(part) > before else num_cuts + 1
        if num_cuts == _MAX_CUTS:
            raise DataError(
                f"{remote.url}: interrupted after {_size(part):,} of {remote.num_bytes:,} bytes ({reason:.150}); "
                f"expected a connection that lasts; the next call goes on from there"
            )


class _ConnectionBrokenError(Exception):
    """The connection broke while the file was sent."""


def _fetch_rest(remote: RemoteFile, part: Path, on_bytes: Callable[[int], object]) -> None:
    """Append what one answer of the server brings to a partial file, which then may still be incomplete.

    Raises:
        OSError: the file cannot be written.
        _ConnectionBrokenError: the connection broke.
        DataNotFoundError, DataError: as for :func:`download`.
    """
    offset = _size(part)
    headers = {"User-Agent": "fastncf", "Accept-Encoding": "identity"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
    with _open(remote, headers) as response:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT or not _starts_at(response, offset):
            offset = 0  # the whole file comes, or a range that nobody asked for
            if response.status != http.HTTPStatus.OK:
                files.remove(part)
                return
        if (length := response.length) is not None and offset + length != remote.num_bytes:
            raise _wrong_file(remote, f"of {offset + length:,} bytes")
        with part.open("r+b" if offset else "wb") as file:
            file.seek(offset)
            while content := _read(response):
                offset += len(content)
                if offset > remote.num_bytes:
                    file.truncate(0)
                    raise _wrong_file(remote, "that is longer")
                file.write(content)
                on_bytes(offset)


def _open(remote: RemoteFile, headers: dict[str, str]) -> http.client.HTTPResponse:
    """Return the server's answer to a request.

    Raises:
        DataNotFoundError: the server does not have the file.
        DataError: the server refused the request, or cannot be reached.
    """
    try:
        request = urllib.request.Request(remote.url, headers=headers)
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and "Range" in headers:
                whole = {name: value for name, value in headers.items() if name != "Range"}
                return _open(remote, whole)
            kind = DataNotFoundError if error.code in (http.HTTPStatus.NOT_FOUND, http.HTTPStatus.GONE) else DataError
            told = next(iter(str(error.reason).splitlines()), "")  # that of a loop of redirections has two lines
            raise kind(f"{remote.url}: the server answered {error.code} {told:.80}") from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise DataError(f"{remote.url}: cannot be reached ({reason!s:.150})") from None
    return response


def _wrong_file(remote: RemoteFile, what: str) -> DataError:
    """Return the error for a server that sends something else."""
    return DataError(
        f"{remote.url}: the server sent a file {what}; expected {remote.num_bytes:,} bytes with the SHA-256 "
        f"{remote.sha256}"
    )


def _starts_at(response: http.client.HTTPResponse, offset: int) -> bool:
    """Return whether the content of a partial answer begins at an offset of the file."""
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return found is not None and int(found[1]) == offset


def _read(response: http.client.HTTPResponse) -> bytes:
    """Return the next bytes of an answer, none at its end.

    Raises:
        _ConnectionBrokenError: the connection broke or is silent.
    """
    try:
        return response.read1(_CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _ConnectionBrokenError(str(error) or type(error).__name__) from None


def _size(path: Path) -> int:
    """Return the length of a file, 0 where there is none."""
    with suppress(FileNotFoundError):
        return path.stat().st_size
    return 0
