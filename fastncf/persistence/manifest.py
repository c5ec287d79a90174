"""Folders of files that belong together: replaced in one step, whatever happens meanwhile, and read with checksums.

A manifest, one JSON object, names the files of the folder with their lengths and their SHA-256. Files of a write have
names that no other write uses. All are written and synchronised before the manifest is replaced by renaming, the only
step that readers see. Then the files that it does not name are removed, unless they belong to a write that is still
running: such a write holds a lock on its draft of the manifest from its first step on. ``docs/formats.md`` describes
the files. What may be written to a folder, and by which names, is a :class:`FolderKind`::

    CHECKPOINT = FolderKind("checkpoint", "checkpoint.json", "checkpoint", roles=("parameters", "state"), format=1)

    require_writable(folder, CHECKPOINT)  # before anything long: nothing of others is there, and the device takes it
    write_files(folder, CHECKPOINT, {"epoch": 3}, {"parameters": {"w": w}, "state": {"step": step}})  # plain; arrays
    description, arrays = read_files(folder, CHECKPOINT)  # {"format": 1, "epoch": 3}; arrays["state"]["step"]

All errors are a :class:`~fastncf.errors.DataError` with a sentence for the user. ``write_files`` returns when the
device has everything; at any moment before, and after a kill, the older content is read, or the new one. Single files
are written by
:func:`fastncf.files.replaced`.
"""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from fastncf import files
from fastncf.errors import DataError, DataNotFoundError
from fastncf.persistence.arrays import encode_arrays, read_arrays
from fastncf.persistence.plain import UnexpectedError, canonical_json, dump_json, parse_json

_DRAFT = "description"
_PROBE_BYTES = 1 << 20
_ATTEMPTS = 100


@dataclass(frozen=True)
class FolderKind:
    """Kind of content of a folder, and the names of its files.

    Attributes:
        noun: what the content is, for messages, such as "model".
        manifest: name of the manifest.
        prefix: begin of the names of the other files, which are ``PREFIX-ROLE-NUMBER.safetensors``, with a number of 16
            hexadecimal digits. The draft of the manifest is ``PREFIX-description-NUMBER.draft``.
        roles: the other files, one for each role.
        format: number of the format that is written.
        former: for each older format that is read as well, the names of its files by role where they have no number
            and no checksums; empty where they have both.
    """

    noun: str
    manifest: str
    prefix: str
    roles: tuple[str, ...]
    format: int
    former: Mapping[int, Mapping[str, str]] = field(default_factory=dict)

    @property
    def as_written(self) -> str:
        """Form that a folder should have, for messages."""
        return f"expected the folder of a {self.noun} as fastncf wrote it, in this version or an older one"

    def name_file(self, role: str, number: str) -> str:
        """Return the name of a file of the write of a number."""
        return f"{self.prefix}-{role}-{number}.{'draft' if role == _DRAFT else 'safetensors'}"

    def match_file(self, name: str) -> re.Match[str] | None:
        """Return the match of a name of this kind, whose groups are the role and the number; None for another name."""
        roles = "|".join(map(re.escape, (*self.roles, _DRAFT)))
        return re.fullmatch(rf"{re.escape(self.prefix)}-({roles})-([0-9a-f]{{16}})\.(?:safetensors|draft)", name)


def write_files(
    directory: str | Path, kind: FolderKind, description: Mapping[str, Any], arrays: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write files to a folder, which holds the older ones or the new ones at every moment, never a mixture.

    Args:
        directory: a new or empty folder, or one with older content of the kind, which is replaced. Links are followed,
            hidden files do not count, and other files beside a manifest stay as they are.
        kind: names of the files.
        description: plain values, as JSON holds them, for the manifest; not ``format``, ``files`` and ``sha256``.
        arrays: for each role arrays by name, or tensors.

    Raises:
        DataError: the folder holds something else, or cannot be written; or the description is not what JSON can
            hold, or an array none of numbers. Older content of the folder is as it was, unless the last synchronisation
            failed: then the new one is there, and the files of the older one as well, since either may be what a loss
            of power leaves.
    """
    try:
        plain = parse_json(dump_json(dict(description)).encode("utf-8"))
    except UnexpectedError as error:
        raise _not_savable(directory, kind, error) from None
    with _prepared(directory, kind) as folder:
        try:
            _replace_content(folder, kind, {"format": kind.format, "files": {}, **plain}, arrays)
        except UnexpectedError as error:
            raise _not_savable(directory, kind, error) from None
        with suppress(OSError):  # leftovers are no reason to fail: the next write removes them
            _remove_leftovers(folder, kind)


def _not_savable(directory: str | Path, kind: FolderKind, error: UnexpectedError) -> DataError:
    """Return the error for what the files cannot hold."""
    return DataError(f"{directory}: the {kind.noun} cannot be saved ({error}); expected arrays and plain values")


def require_writable(directory: str | Path, kind: FolderKind) -> None:
    """Try what :func:`write_files` is going to do in a folder, and leave everything as it was.

    Raises:
        DataError: the folder holds something else, or cannot be written.
    """
    with _prepared(directory, kind, is_trial=True) as folder:
        draft, number = _new_draft(folder, kind)
        target = folder / kind.name_file(kind.roles[0], number)
        try:
            with draft:
                draft.write(bytes(_PROBE_BYTES))
                files.sync_folder(folder)
                draft.move_to(target)
        finally:
            files.remove(draft.path)
            files.remove(target)


def read_files(
    directory: str | Path, kind: FolderKind, *, verify: bool = True
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Read what :func:`write_files` wrote, also while others write.

    Args:
        directory: the folder.
        kind: names of the files.
        verify: whether to compare the SHA-256 of each file with what the manifest states; lengths always are.

    Returns:
        The description, with ``format``; and for each role arrays by name, or tensors where NumPy lacks a dtype of one.

    Raises:
        DataNotFoundError: there is no such folder, or no manifest in it.
        DataError: a file is missing or damaged, or was written by a newer version.
    """
    folder = Path(directory)
    former = None
    for _ in range(_ATTEMPTS):
        content = _read_manifest(folder, kind)
        description, entries = _parse_manifest(folder, kind, content, verify)
        try:
            return description, {
                role: _read_arrays(folder, kind, entry, verify=verify) for role, entry in entries.items()
            }
        except FileNotFoundError as error:  # a write has removed it, and the manifest is a new one
            if content == former:
                _refuse(folder, kind, str(error.filename), "there is no such file")
            former = content
    raise DataError(
        f"{folder}: was replaced by other programs each time it was read; expected a {kind.noun} that is not replaced "
        f"meanwhile"
    )


def _replace_content(
    folder: Path, kind: FolderKind, description: dict[str, Any], arrays: Mapping[str, Mapping[str, Any]]
) -> None:
    """Write all files, and then give the folder to them."""
    draft, number = _new_draft(folder, kind)
    with draft:
        try:
            for role in kind.roles:
                name, content = kind.name_file(role, number), encode_arrays(arrays[role])
                with files.NewFile(folder / name) as file:
                    file.write(content)
                description["files"][role] = {"name": name, "bytes": len(content), "sha256": files.sha256(content)}
            checksum = files.sha256(canonical_json(description))
            draft.write(dump_json(description | {"sha256": checksum}).encode("utf-8"))
            files.sync_folder(folder)
            former = _former_files(folder, kind)
            draft.move_to(folder / kind.manifest)
        except BaseException:
            with suppress(OSError):
                _discard(folder, kind, number)
            raise
    files.sync_folder(folder)
    with suppress(OSError):  # everything is written by now
        for name in former:
            files.remove(folder / name)


def _discard(folder: Path, kind: FolderKind, number: str) -> None:
    """Remove the files of a write that has failed, unless an interrupt came after its last step."""
    content = b""
    with suppress(FileNotFoundError):
        content = files.read(folder / kind.manifest).tobytes()
    if number.encode() not in content:
        for role in (*kind.roles, _DRAFT):
            files.remove(folder / kind.name_file(role, number))


def _remove_leftovers(folder: Path, kind: FolderKind) -> None:
    """Remove the files of writes that were killed, and those that were replaced."""
    found = [match for match in map(kind.match_file, files.names(folder)) if match]
    unused = {number for number in {match[2] for match in found} if _is_over(folder, kind, number)}
    # read last: a write that was over by now has put its number here, unless a later one has replaced it
    content = files.read(folder / kind.manifest).tobytes()
    for match in found:
        if match[2] in unused and match[2].encode() not in content:
            files.remove(folder / match[0])


def _is_over(folder: Path, kind: FolderKind, number: str) -> bool:
    """Return whether the write of a number has ended or was killed, and remove its draft."""
    return files.remove_unused(folder / kind.name_file(_DRAFT, number))


def _former_files(folder: Path, kind: FolderKind) -> tuple[str, ...]:
    """Return the names of the files of an older format, which have no number."""
    try:
        description = parse_json(files.read(folder / kind.manifest).tobytes())
        names = kind.former.get(description["format"], {}) if "model_class" in description else {}
    except (OSError, UnexpectedError, KeyError, TypeError):
        return ()
    return tuple(names.values())


def _new_draft(folder: Path, kind: FolderKind) -> tuple[files.NewFile, str]:
    """Return a new draft of the manifest, locked, and its number, which no other write has."""
    return files.new_file(folder, lambda number: kind.name_file(_DRAFT, number))


@contextmanager
def _prepared(directory: str | Path, kind: FolderKind, *, is_trial: bool = False) -> Iterator[Path]:
    """Make a folder for the block, or find that it may be written; remove what was made if the block is left early.

    Args:
        directory: the folder; links are followed.
        kind: what it may hold.
        is_trial: whether to remove what was made in any case.

    Raises:
        DataError: the folder holds something else, cannot be made, or the block raised an ``OSError``.
    """
    made: list[Path] = []
    is_kept = False
    try:
        folder = Path(os.path.realpath(directory))
        _require_own(folder, kind, directory)
        made = files.make_folders(folder)
        yield folder
        is_kept = not is_trial
    except DataError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = getattr(error, "strerror", None) or str(error)
        shown = str(directory)[:150] + "..." * (len(str(directory)) > 150)
        raise DataError(
            f"{shown}: no {kind.noun} can be saved there ({reason:.100}); expected a folder that can be written, on a "
            f"device with free space"
        ) from None
    finally:
        if not is_kept:
            files.remove_folders(made)


def _require_own(folder: Path, kind: FolderKind, directory: str | Path) -> None:
    """Raise an error if a folder holds something other than what is to be replaced, hidden files apart."""
    if not os.path.lexists(folder):
        return
    is_ours = folder.is_dir()
    if is_ours:
        names = files.names(folder)
        if kind.manifest in names:
            is_ours = _may_be_manifest(folder / kind.manifest)
        else:
            is_ours = all(kind.match_file(name) or name.startswith(".") or name == "lost+found" for name in names)
    if not is_ours:
        raise DataError(
            f"{directory}: exists and holds no fastncf {kind.noun}; expected a new or empty folder, or an existing "
            f"{kind.noun} to replace"
        )


def _may_be_manifest(path: Path) -> bool:
    """Return whether a file is a manifest, perhaps a damaged one; not another program's JSON."""
    if not path.is_file():
        return path.is_symlink()
    try:
        description = parse_json(files.read(path).tobytes())
    except UnexpectedError:
        return True
    return isinstance(description, dict) and "format" in description


def _read_manifest(folder: Path, kind: FolderKind) -> bytes:
    """Return the content of the manifest.

    Raises:
        DataNotFoundError: there is none.
        DataError: it cannot be read.
    """
    try:
        return files.read(folder / kind.manifest).tobytes()
    except (FileNotFoundError, NotADirectoryError):
        raise DataNotFoundError(
            f"{folder}: holds no fastncf {kind.noun} ({_missing(folder, kind)}); expected the folder of a {kind.noun}"
        ) from None
    except (OSError, ValueError, MemoryError) as error:
        _refuse_unreadable(folder, kind, kind.manifest, error)


def _missing(folder: Path, kind: FolderKind) -> str:
    """Return in words why a folder has no manifest."""
    if not folder.exists():
        return "there is no such folder"
    return f"it has no {kind.manifest}" if folder.is_dir() else "it is no folder"


class _Entry(NamedTuple):
    """Name, length and checksum of a file as the manifest states them; None where an older format states none."""

    name: str
    num_bytes: int | None = None
    sha256: str | None = None


def _parse_manifest(
    folder: Path, kind: FolderKind, content: bytes, verify: bool
) -> tuple[dict[str, Any], dict[str, _Entry]]:
    """Return the description without what is said of the files, and what is said of each file."""
    try:
        description = parse_json(content)
        if not isinstance(description, dict):
            raise UnexpectedError("it is no object")
        version, readable = description.get("format"), sorted({*kind.former, kind.format})
        if type(version) is not int or version not in readable:
            raise DataError(
                f"{folder}: has format {version!r:.80}; expected format {readable[0]} to {kind.format}, which this "
                f"version reads"
            )
        if former := kind.former.get(version):
            return description, {role: _Entry(name) for role, name in former.items()}
        checksum = description.pop("sha256", None)
        if verify and checksum != files.sha256(canonical_json(description)):
            raise UnexpectedError("its content does not have the SHA-256 that it states")
        return description, _entries(kind, description.pop("files", None))
    except UnexpectedError as error:
        _refuse(folder, kind, kind.manifest, str(error))


def _entries(kind: FolderKind, stated: Any) -> dict[str, _Entry]:
    """Return what a manifest of the current format says of its files."""
    if not isinstance(stated, dict) or set(stated) != set(kind.roles):
        raise UnexpectedError(f"files names something other than {' and '.join(kind.roles)}")
    entries = {}
    for role, entry in stated.items():
        if not isinstance(entry, dict) or set(entry) != {"name", "bytes", "sha256"}:
            raise UnexpectedError(f"files.{role} has other names than name, bytes and sha256")
        match = kind.match_file(entry["name"]) if isinstance(entry["name"], str) else None
        if match is None or match[1] != role:
            expected = kind.name_file(role, "NUMBER")
            raise UnexpectedError(f"files.{role}.name is {entry['name']!r:.80}; expected {expected}")
        entries[role] = _Entry(entry["name"], entry["bytes"], entry["sha256"])
    return entries


def _read_arrays(folder: Path, kind: FolderKind, entry: _Entry, *, verify: bool) -> dict[str, Any]:
    """Return the arrays of a file, after a check of its length and checksum.

    Raises:
        FileNotFoundError: there is no such file.
        DataError: it cannot be read, or is damaged.
    """
    checksum = hashlib.sha256() if verify and entry.sha256 is not None else None
    arrays, reason = {}, ""
    try:
        with files.OpenFile(folder / entry.name, checksum) as file:
            try:
                arrays = read_arrays(file, file.num_bytes)
            except UnexpectedError as error:
                reason = str(error)
            file.skip_rest()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(error.errno, error.strerror, entry.name) from None
    except (OSError, ValueError, MemoryError) as error:
        _refuse_unreadable(folder, kind, entry.name, error)
    if entry.num_bytes is not None and file.num_read != entry.num_bytes:
        stated = f"{kind.manifest} states {entry.num_bytes!r:.40}"
        reason = f"it has {file.num_read} bytes and {stated}"
    elif checksum is not None and checksum.hexdigest() != entry.sha256:
        reason = f"it does not have the SHA-256 that {kind.manifest} states"
    if reason:
        _refuse(folder, kind, entry.name, reason)
    return arrays


def _refuse(folder: Path, kind: FolderKind, name: str, reason: str) -> NoReturn:
    """Raise an error for a file that cannot be used."""
    raise DataError(f"{folder}: {name} is missing or damaged ({reason:.300}); {kind.as_written}")


def _refuse_unreadable(folder: Path, kind: FolderKind, name: str, error: Exception) -> NoReturn:
    """Raise an error for a file that cannot be read; that of another user is neither missing nor damaged."""
    reason = getattr(error, "strerror", None) or str(error) or "it does not fit the memory"
    if isinstance(error, PermissionError):
        raise DataError(f"{folder}: {name} cannot be read ({reason:.300}); expected files that this user may read")
    _refuse(folder, kind, name, reason)
