"""Folders of saved models: replaced in one step, whatever happens meanwhile, and read back with their checksums.

The file ``fastncf.json`` names the two files of arrays that belong to it. Those of a save have names that no other save
uses. All are written and synchronised before ``fastncf.json`` is replaced by renaming, the only step that readers see.
Then the files that it does not name are removed, unless they belong to a save that is still running: such a save holds
a lock on its draft of ``fastncf.json`` from its first step on. ``docs/formats.md`` describes the files.
"""

import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from fastncf import files
from fastncf.errors import DataError, DataNotFoundError
from fastncf.persistence.arrays import decode_arrays, encode_arrays
from fastncf.persistence.plain import UnexpectedError, canonical_json, dump_json, parse_json

DESCRIPTION = "fastncf.json"
FORMAT = 4
READABLE_FORMATS = 1, 2, 3, FORMAT
_FORMATS_WITHOUT_CHECKSUMS = 1, 2

_ROLES = "model", "data"
_FORMER_FILES = {role: f"{role}.safetensors" for role in _ROLES}
"""Names of the files in formats 1 and 2."""

_OWN_FILE = re.compile(r"fastncf-(model|data|description)-([0-9a-f]{16})\.(?:safetensors|draft)")
_PROBE_BYTES = 1 << 20
_ATTEMPTS = 100
_AS_SAVED = "expected a folder as save() wrote it, in this version or an older one"


class Saved(NamedTuple):
    """Contents of a folder.

    Attributes:
        description: plain values, as JSON holds them; with ``format`` when it is read.
        data: arrays by name.
        parameters: arrays by name, or tensors where NumPy lacks their dtype; also any tensors when it is written.
    """

    description: dict[str, Any]
    data: Mapping[str, np.ndarray]
    parameters: Mapping[str, Any]


def write_folder(directory: str | Path, saved: Saved) -> None:
    """Write a model to a folder, which holds the older model or the new one at every moment, never a mixture.

    Raises:
        DataError: the folder holds something other than a fastncf model, or cannot be written. An older model in it
            is as it was, unless the last synchronisation failed: then the new one is there, and the files of the older
            one as well, since either may be what a loss of power leaves.
    """
    try:
        contents = {"model": encode_arrays(saved.parameters), "data": encode_arrays(saved.data)}
        description = parse_json(dump_json(saved.description).encode("utf-8"))
    except UnexpectedError as error:
        raise DataError(f"{directory}: the model cannot be saved ({error}); expected arrays and plain values") from None
    with _prepared(directory) as folder:
        _replace_model(folder, {"format": FORMAT, "files": {}, **description}, contents)
        with suppress(OSError):  # leftovers are no reason to fail: the next save removes them
            _remove_leftovers(folder)


def require_savable(directory: str | Path) -> None:
    """Try what :func:`write_folder` is going to do in a folder, and leave everything as it was.

    Raises:
        DataError: the folder holds something other than a fastncf model, or cannot be written.
    """
    with _prepared(directory, is_trial=True) as folder:
        draft, number = _new_draft(folder)
        target = folder / _file_name("model", number)
        try:
            with draft:
                draft.write(bytes(_PROBE_BYTES))
                files.sync_folder(folder)
                draft.move_to(target)
        finally:
            files.remove(draft.path)
            files.remove(target)


def read_folder(directory: str | Path) -> Saved:
    """Read what :func:`write_folder` wrote, also while others write.

    Raises:
        DataNotFoundError: there is no such folder, or no model in it.
        DataError: a file is missing or damaged, or was written by a newer version.
    """
    folder = Path(directory)
    former = None
    for _ in range(_ATTEMPTS):
        content = _read_file(folder, DESCRIPTION)
        description, entries = _parse_description(folder, content)
        try:
            model, data = (_read_arrays(folder, entries[role]) for role in _ROLES)
        except FileNotFoundError as error:  # a save has removed it, and fastncf.json is a new one
            if content == former:
                _refuse(folder, str(error.filename), "there is no such file")
            former = content
        else:
            return Saved(description, data, model)
    raise DataError(f"{folder}: is replaced by others again and again; expected a model that stays for a moment")


def _replace_model(folder: Path, description: dict[str, Any], contents: dict[str, bytes]) -> None:
    """Write all files of a model, and then give the folder to it."""
    draft, number = _new_draft(folder)
    with draft:
        try:
            for role, content in contents.items():
                name = _file_name(role, number)
                with files.NewFile(folder / name) as file:
                    file.write(content)
                description["files"][role] = {"name": name, "bytes": len(content), "sha256": files.sha256(content)}
            checksum = files.sha256(canonical_json(description))
            draft.write(dump_json(description | {"sha256": checksum}).encode("utf-8"))
            files.sync_folder(folder)
            former = _former_files(folder)
            draft.move_to(folder / DESCRIPTION)
        except BaseException:
            with suppress(OSError):
                _discard(folder, number)
            raise
    files.sync_folder(folder)
    with suppress(OSError):  # the model is saved by now
        for name in former:
            files.remove(folder / name)


def _discard(folder: Path, number: str) -> None:
    """Remove the files of a save that has failed, unless an interrupt came after its last step."""
    content = b""
    with suppress(FileNotFoundError):
        content = files.read(folder / DESCRIPTION)
    if number.encode() not in content:
        for role in (*_ROLES, "description"):
            files.remove(folder / _file_name(role, number))


def _remove_leftovers(folder: Path) -> None:
    """Remove the files of saves that were killed, and those of models that were replaced."""
    found = [match for match in map(_OWN_FILE.fullmatch, files.names(folder)) if match]
    unused = {number for number in {match[2] for match in found} if _is_over(folder, number)}
    # read last: a save that was over by now has put its number here, unless a later one has replaced it
    content = files.read(folder / DESCRIPTION)
    for match in found:
        if match[2] in unused and match[2].encode() not in content:
            files.remove(folder / match[0])


def _is_over(folder: Path, number: str) -> bool:
    """Return whether the save of a number has ended or was killed, and remove its draft."""
    return files.remove_unused(folder / _file_name("description", number))


def _former_files(folder: Path) -> tuple[str, ...]:
    """Return the names of the arrays of a model in an older format, which have no number."""
    try:
        description = parse_json(files.read(folder / DESCRIPTION))
        is_former = description["format"] in _FORMATS_WITHOUT_CHECKSUMS and "model_class" in description
    except (OSError, UnexpectedError, KeyError, TypeError):
        return ()
    return tuple(_FORMER_FILES.values()) if is_former else ()


def _new_draft(folder: Path) -> tuple[files.NewFile, str]:
    """Return a new draft of the description, locked, and its number, which no other save has."""
    for _ in range(_ATTEMPTS):
        number = secrets.token_hex(8)
        with suppress(FileExistsError):
            return files.NewFile(folder / _file_name("description", number)), number
    raise FileExistsError(f"no name is free among {_ATTEMPTS} random ones")


def _file_name(role: str, number: str) -> str:
    """Return the name of a file of the save of a number."""
    return f"fastncf-{role}-{number}.{'draft' if role == 'description' else 'safetensors'}"


@contextmanager
def _prepared(directory: str | Path, *, is_trial: bool = False) -> Iterator[Path]:
    """Make a folder for the block, or find that it may be written; remove what was made if the block is left early.

    Args:
        directory: the folder; links are followed.
        is_trial: whether to remove what was made in any case.

    Raises:
        DataError: the folder holds something else, cannot be made, or the block raised an ``OSError``.
    """
    made: list[Path] = []
    is_kept = False
    try:
        folder = Path(os.path.realpath(directory))
        _require_own(folder, directory)
        made = files.make_folders(folder)
        yield folder
        is_kept = not is_trial
    except DataError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = getattr(error, "strerror", None) or str(error)
        shown = str(directory)[:150] + "..." * (len(str(directory)) > 150)
        raise DataError(
            f"{shown}: no model can be saved there ({reason:.100}); expected a folder that can be written, on a device "
            f"with free space"
        ) from None
    finally:
        if not is_kept:
            files.remove_folders(made)


def _require_own(folder: Path, directory: str | Path) -> None:
    """Raise an error if a folder holds something other than a model, hidden files apart."""
    if not os.path.lexists(folder):
        return
    is_ours = folder.is_dir()
    if is_ours:
        names = files.names(folder)
        if DESCRIPTION in names:
            is_ours = _may_be_description(folder / DESCRIPTION)
        else:
            is_ours = all(_OWN_FILE.fullmatch(name) or name.startswith(".") or name == "lost+found" for name in names)
    if not is_ours:
        raise DataError(
            f"{directory}: exists and holds no fastncf model; expected a new or empty folder, or an existing model to "
            f"replace"
        )


def _may_be_description(path: Path) -> bool:
    """Return whether a file is the description of a model, perhaps a damaged one; not another program's JSON."""
    if not path.is_file():
        return path.is_symlink()
    try:
        description = parse_json(files.read(path))
    except UnexpectedError:
        return True
    return isinstance(description, dict) and "format" in description


def _read_file(folder: Path, name: str) -> bytes:
    """Return the content of a file of a model.

    Raises:
        FileNotFoundError: there is no such file of arrays.
        DataNotFoundError: there is no description.
        DataError: it cannot be read.
    """
    try:
        return files.read(folder / name)
    except (FileNotFoundError, NotADirectoryError) as error:
        if name == DESCRIPTION:
            raise DataNotFoundError(f"{folder}: holds no fastncf model (no {DESCRIPTION})") from None
        raise FileNotFoundError(error.errno, error.strerror, name) from None
    except (OSError, ValueError, MemoryError) as error:
        _refuse(folder, name, getattr(error, "strerror", None) or str(error) or "it does not fit the memory")


class _Entry(NamedTuple):
    """Name, length and checksum of a file as the description states them; None where an older format states none."""

    name: str
    num_bytes: int | None = None
    sha256: str | None = None


def _parse_description(folder: Path, content: bytes) -> tuple[dict[str, Any], dict[str, _Entry]]:
    """Return the description without what is said of the files, and what is said of each file."""
    try:
        description = parse_json(content)
        if not isinstance(description, dict):
            raise UnexpectedError("it is no object")
        version = description.get("format")
        if type(version) is not int or version not in READABLE_FORMATS:
            raise DataError(
                f"{folder}: has format {version!r:.80}; expected format {READABLE_FORMATS[0]} to {FORMAT}, which this "
                f"version reads"
            )
        if version in _FORMATS_WITHOUT_CHECKSUMS:
            return description, {role: _Entry(name) for role, name in _FORMER_FILES.items()}
        checksum = description.pop("sha256", None)
        if checksum != files.sha256(canonical_json(description)):
            raise UnexpectedError("its content does not have the SHA-256 that it states")
        return description, _entries(description.pop("files", None))
    except UnexpectedError as error:
        _refuse(folder, DESCRIPTION, str(error))


def _entries(stated: Any) -> dict[str, _Entry]:
    """Return what a description of the current format says of its files."""
    if not isinstance(stated, dict) or set(stated) != set(_ROLES):
        raise UnexpectedError(f"files names something other than {' and '.join(_ROLES)}")
    entries = {}
    for role, entry in stated.items():
        if not isinstance(entry, dict) or set(entry) != {"name", "bytes", "sha256"}:
            raise UnexpectedError(f"files.{role} has other names than name, bytes and sha256")
        match = _OWN_FILE.fullmatch(entry["name"]) if isinstance(entry["name"], str) else None
        if match is None or match[1] != role:
            raise UnexpectedError(
                f"files.{role}.name is {entry['name']!r:.80}; expected fastncf-{role}-NUMBER.safetensors"
            )
        entries[role] = _Entry(entry["name"], entry["bytes"], entry["sha256"])
    return entries


def _read_arrays(folder: Path, entry: _Entry) -> dict[str, Any]:
    """Return the arrays of a file, after a check of its length and checksum."""
    content = _read_file(folder, entry.name)
    if entry.num_bytes is not None and len(content) != entry.num_bytes:
        _refuse(folder, entry.name, f"it has {len(content)} bytes and {DESCRIPTION} states {entry.num_bytes!r:.40}")
    if entry.sha256 is not None and files.sha256(content) != entry.sha256:
        _refuse(folder, entry.name, f"it does not have the SHA-256 that {DESCRIPTION} states")
    try:
        return decode_arrays(content)
    except UnexpectedError as error:
        _refuse(folder, entry.name, str(error))


def _refuse(folder: Path, name: str, reason: str) -> NoReturn:
    """Raise an error for a file that cannot be used."""
    raise DataError(f"{folder}: {name} is missing or damaged ({reason:.300}); {_AS_SAVED}")
