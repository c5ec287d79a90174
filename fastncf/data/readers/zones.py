"""Time zones that are offsets, such as +05:30, in files of Arrow: polars panics at them, and writes to stderr."""

import base64
import os
import re
import struct
from contextlib import suppress
from pathlib import Path

from fastncf.data.readers.files import open_content
from fastncf.data.readers.parquet import read_metadata

_OFFSET = re.compile(rb"\x06\0\0\0([-+]\d\d:\d\d)\0")
"""A text of six characters in a flatbuffer, https://flatbuffers.dev/internals/#strings, that is an offset."""

_KEY_VALUES, _KEY, _VALUE = 5, 1, 2
"""Numbers of the fields of the metadata of Parquet."""


def find_offset(content: Path | bytes, *, is_parquet: bool) -> str | None:
    """Return the first offset that a Parquet or Feather file names as a time zone; None for any other file.

    The schema is that of Arrow; Parquet that Arrow has written holds it in base64 under the key ``ARROW:schema``.
    """
    with suppress(Exception):  # damage is told when the file is read
        schema = _parquet_schema(content) if is_parquet else _footer(content)
        if found := _OFFSET.search(schema):
            return found[1].decode()
    return None


def _parquet_schema(content: Path | bytes) -> bytes:
    """Return the schema of Arrow in a Parquet file, b"" where there is none."""
    entries = read_metadata(content).get(_KEY_VALUES, [])
    return next((base64.b64decode(one[_VALUE]) for one in entries if one[_KEY] == b"ARROW:schema"), b"")


def _footer(content: Path | bytes) -> bytes:
    """Return the footer of a Feather file, which ends with its length and the word ARROW1."""
    with open_content(content) as file:
        end = file.seek(-10, os.SEEK_END)
        (length,) = struct.unpack("<i", file.read(4))
        file.seek(end - length)
        return file.read(length)
