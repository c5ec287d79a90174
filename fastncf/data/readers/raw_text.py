"""The bytes of a text: read piece by piece, so that a file need not be held in memory, or taken from memory."""

import itertools
import os
import re
from pathlib import Path

import numpy as np

from fastncf.errors import DataError
from fastncf.kernels.cpu import text as kernel
from fastncf.threads import num_threads, run_ranges

EXPECTED_ENCODING = "UTF-8, or the encoding it was written in, such as encoding='cp1252'"

_BOM = b"\xef\xbb\xbf"
_PREAMBLE = re.compile(rb'(\xef\xbb\xbf)?("?sep=[^\r\n]"?\r?\n)?')
_RANGE_BYTES = 1 << 22
_WINDOW_BYTES = 1 << 12


class RawText:
    """A text in a file or in memory. Positions are offsets in bytes.

    A file is read and not mapped into memory: a file that another program cuts off would end the process.

    Attributes:
        source: name of the source in messages.
        content: path of the text, or the text itself.
        size: number of bytes.
        start: where the text begins, behind the mark that some programs put before UTF-8, and the line ``sep=,`` by
            which Excel tells the separator.
    """

    def __init__(self, source: str, content: Path | bytes) -> None:
        self.source = source
        self.content = content
        self._data = np.frombuffer(content, dtype=np.uint8) if isinstance(content, bytes) else None
        self._state = (0, 0)
        self.size = len(content) if isinstance(content, bytes) else self._open_file()
        preamble = _PREAMBLE.match(self.read(0, min(16, self.size)).tobytes())
        self.start = preamble.end() if preamble is not None else 0
        length = self.size - self.start
        num_ranges = max(1, min(length // 1024, max(length // _RANGE_BYTES, 4 * num_threads())))
        self._even = np.linspace(self.start, self.size, num_ranges + 1).astype(np.int64)

    def _open_file(self) -> int:
        """Remember the state of the file and return its size."""
        found = os.stat(self.content)
        self._state = found.st_size, found.st_mtime_ns
        return found.st_size

    def read(self, start: int, stop: int) -> np.ndarray:
        """Return the bytes (stop - start,) uint8 of a range.

        Raises:
            DataError: the file has changed since it was opened, or cannot be read.
        """
        if self._data is not None:
            return self._data[start:stop]
        data = np.empty(stop - start, dtype=np.uint8)
        try:
            with open(self.content, "rb", buffering=0) as file:
                found = os.fstat(file.fileno())
                file.seek(start)
                view, at = data.data, 0
                while at < len(data) and (count := file.readinto(view[at:])):
                    at += count
        except OSError as error:
            raise DataError(f"{self.source}: cannot be read ({error!s:.200}); expected a file that stays") from None
        if at < len(data) or (found.st_size, found.st_mtime_ns) != self._state:
            raise DataError(f"{self.source}: changed while it was read; expected a file that stays as it is")
        return data

    def decode(self, data: np.ndarray, start: int) -> str:
        """Return bytes that begin at a position as text.

        Raises:
            DataError: they are not UTF-8.
        """
        try:
            return data.tobytes().decode()
        except UnicodeDecodeError as error:
            line = self.line_at(start + error.start)
            raise DataError(f"{self.source}: line {line} is not UTF-8 text; expected {EXPECTED_ENCODING}") from None

    def require_utf8(self) -> None:
        """Raise a DataError that names the first line that is not UTF-8, if there is one."""
        for start, stop in itertools.pairwise(self.ranges(self.start, quoted=False).tolist()):
            self.decode(self.read(start, stop), start)

    def find_mark(self) -> int:
        """Return where the first line begins that a byte order mark stands before, the first line aside, or -1."""
        for start, stop in itertools.pairwise(self.ranges(self.start, quoted=False).tolist()):
            data = b"\n" + self.read(start, stop).tobytes()
            found = data.find(b"\n" + _BOM, 1 if start == self.start else 0)
            if found >= 0:
                return int(start + found)
        return -1

    def line_at(self, position: int) -> int:
        """Return the number of the line, from 1, that holds a position."""
        bounds = np.append(self._even[self._even < position], position)
        bounds[0] = 0
        return 1 + int(self._count(b"\n", bounds).sum())

    def ranges(self, start: int, *, quoted: bool) -> np.ndarray:
        """Return bounds (m + 1,) int64 of ranges of whole records, ascending, from a position to the end.

        Quotes enclose line ends where ``quoted``. What stands behind a misplaced quote may be divided wrongly.
        """
        is_open = np.zeros(len(self._even), dtype=bool)
        if quoted:
            is_open[1:] = np.cumsum(self._count(b'"', self._even)) % 2 == 1
        bounds = self._even.copy()
        for number in range(1, len(bounds) - 1):
            if bounds[number] < bounds[number - 1]:  # within a record that was found to be longer than a range
                bounds[number] = bounds[number - 1]
            else:
                bounds[number] = self._find_record(int(bounds[number]), quoted, bool(is_open[number]))
        bounds[0] = start
        return np.maximum.accumulate(bounds)

    def _find_record(self, position: int, quoted: bool, is_open: bool) -> int:
        """Return where the first record behind a position begins, or the end."""
        size = _WINDOW_BYTES
        while True:
            stop = min(position + size, self.size)
            found = int(kernel.find_record(self.read(position, stop), quoted, is_open))
            if found >= 0 or stop == self.size:
                return position + found if found >= 0 else stop
            size *= 8

    def _count(self, byte: bytes, bounds: np.ndarray) -> np.ndarray:
        """Return how often a byte occurs in each range (m,), given bounds (m + 1,)."""
        counts = np.zeros(len(bounds) - 1, dtype=np.int64)

        def count(number: int, following: int) -> None:
            """Count in one range."""
            counts[number] = kernel.count_byte(self.read(int(bounds[number]), int(bounds[following])), byte[0])

        run_ranges(count, np.arange(len(bounds)))
        return counts
