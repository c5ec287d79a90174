"""Arrays in the safetensors format, and the checks that they need before compiled code may index with them.

Compiled code checks no index. So an array that is out of range would end the process, or give wrong results.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save

from fastncf.data.csr import Rows, split_ranges
from fastncf.data.split import Split
from fastncf.data.weights import PairWeights
from fastncf.memory import require_torch
from fastncf.persistence.plain import UnexpectedError, parse_json, read_plain

_DTYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "U16": np.uint16,
    "U32": np.uint32,
    "U64": np.uint64,
    "I8": np.int8,
    "I16": np.int16,
    "I32": np.int32,
    "I64": np.int64,
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
}
"""Dtypes of the format that NumPy has."""

_LENGTH_BYTES = 8
"""Bytes of the length of the header, with which a file begins."""

_LINE_BYTES = 64
"""Bytes of a cache line."""

_CHUNK = 1 << 15
"""Numbers that are checked at once, so that checks of large arrays need little memory."""

_NOT_WRITABLE = SafetensorError, TypeError, KeyError, ValueError, AttributeError, RuntimeError
"""Errors that NumPy, torch and safetensors raise for something that is no dense array of numbers."""


def encode_arrays(arrays: Mapping[str, Any]) -> bytes:
    """Return arrays or tensors as the content of a safetensors file; those that share memory are written each.

    Raises:
        UnexpectedError: one of them is no dense array or tensor of numbers.
    """
    dense: dict[str, Any] = {}
    for name, array in arrays.items():
        try:
            dense[name] = array if isinstance(array, np.ndarray) else _dense(array)
        except _NOT_WRITABLE as error:
            raise UnexpectedError(f"{name!r:.80} is no dense tensor of numbers: {str(error)[:200]}") from None
    try:
        if all(isinstance(array, np.ndarray) for array in dense.values()):
            return save({name: np.asarray(array, order="C") for name, array in dense.items()})
        import torch
        from safetensors.torch import save as save_tensors

        return save_tensors({name: torch.as_tensor(array).clone() for name, array in dense.items()})
    except _NOT_WRITABLE as error:
        raise UnexpectedError(f"one of the arrays is not of numbers: {str(error)[:200]}") from None


class Readable(Protocol):
    """Source of arrays, such as a file."""

    def readinto(self, memory: memoryview, /) -> int:
        """Fill bytes of memory, and return their number, which is smaller where there are no more."""


def read_arrays(source: Readable, num_bytes: int) -> dict[str, Any]:
    """Return the arrays of a safetensors file; as tensors where NumPy lacks the dtype of one, such as bfloat16.

    Each array has memory of its own, into which it is read, so that nothing is held twice, and each can be had back by
    itself. It begins at a cache line, as torch's tensors do: the order of sums may depend on that.

    Args:
        source: the file at its begin.
        num_bytes: its length.

    Raises:
        UnexpectedError: the content is not of that format, or has another length.
        OSError: it cannot be read.
        MemoryError: there is too little memory.
        FastNCFError: NumPy lacks a dtype, and torch is not installed.
    """
    try:
        prefix = _read(source, min(_LENGTH_BYTES, num_bytes))
        start = _LENGTH_BYTES + int.from_bytes(prefix, "little")
        if num_bytes < _LENGTH_BYTES or start > num_bytes:
            raise UnexpectedError(f"it has {num_bytes} bytes and a header of {start - _LENGTH_BYTES}")
        described = _read(source, start - _LENGTH_BYTES)
        header = parse_json(bytes(described))
        if not isinstance(header, dict):
            raise UnexpectedError("its header is no object")
        header.pop("__metadata__", None)
        entries = {name: read_plain(_Entry, entry, repr(name)[:80]) for name, entry in header.items()}
        if all(entry.dtype in _DTYPES for entry in entries.values()):
            return _arrays_of(entries, source, num_bytes - start)
        require_torch("a model of numbers that NumPy lacks")
        from safetensors.torch import load

        return load(b"".join([prefix, described, _read(source, num_bytes - start)]))
    except UnexpectedError as error:
        raise UnexpectedError(f"it is no safetensors file: {error!s:.200}") from None
    except _NOT_WRITABLE as error:
        raise UnexpectedError(f"it is no safetensors file: {str(error)[:200]}") from None


def _read(source: Readable, count: int) -> bytearray:
    """Return the next bytes of a source.

    Raises:
        UnexpectedError: there are fewer.
    """
    content = bytearray(count)
    _fill(source, memoryview(content))
    return content


def _fill(source: Readable, memory: memoryview) -> None:
    """Fill memory with the next bytes of a source.

    Raises:
        UnexpectedError: there are fewer.
    """
    found = source.readinto(memory)
    if found < len(memory):
        raise UnexpectedError(f"it ends {len(memory) - found} bytes before the end of an array or of the header")


@dataclass(frozen=True)
class _Entry:
    """An array in the header of a file."""

    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, ...]


def _arrays_of(entries: Mapping[str, _Entry], source: Readable, num_bytes: int) -> dict[str, Any]:
    """Return the arrays of a header, which have to fill the rest of a source one after the other.

    Raises:
        UnexpectedError: they do not.
    """
    ordered, end = sorted(entries.items(), key=lambda item: item[1].data_offsets), 0
    for name, entry in ordered:
        size = math.prod(entry.shape) * np.dtype(_DTYPES[entry.dtype]).itemsize
        if min(entry.shape, default=0) < 0 or entry.data_offsets != (end, end + size) or end + size > num_bytes:
            raise UnexpectedError(f"{name!r:.80} does not lie where the arrays before it end, or is too long")
        end += size
    if end != num_bytes:
        raise UnexpectedError(f"it has {num_bytes} bytes of arrays, and those of its header have {end}")
    arrays: dict[str, Any] = {}
    for name, entry in ordered:
        first, last = entry.data_offsets
        memory = _aligned_bytes(last - first)
        _fill(source, memory.data)
        arrays[name] = memory.view(_DTYPES[entry.dtype]).reshape(entry.shape)
    return arrays


def _aligned_bytes(count: int) -> np.ndarray:
    """Return bytes (count,) with any content that begin at a cache line."""
    memory = np.empty(count + _LINE_BYTES, dtype=np.uint8)
    first = -memory.ctypes.data % _LINE_BYTES
    return memory[first : first + count]


def _dense(tensor: Any) -> Any:
    """Return a tensor on any device as a NumPy array, or as a dense tensor on the CPU where NumPy lacks its dtype."""
    tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
    if str(tensor.layout) != "torch.strided":
        raise TypeError(f"its layout is {tensor.layout}")
    try:
        return tensor.numpy()
    except TypeError:
        return tensor.contiguous()


def require_finite(arrays: Mapping[str, Any]) -> None:
    """Raise an error if an array, a number or a tensor of floats holds NaN or an infinity.

    Args:
        arrays: by name; values of other kinds, such as extra states of modules, are not looked at.

    Raises:
        UnexpectedError: one does.
    """
    for name, array in arrays.items():
        if isinstance(array, np.ndarray | np.generic):
            is_finite = array.dtype.kind != "f" or _is_finite(array.reshape(-1))
        else:
            is_finite = not hasattr(array, "isfinite") or _is_finite(array.detach().reshape(-1))
        if not is_finite:
            raise UnexpectedError(f"{name!r:.80} holds numbers that are not finite")


def _is_finite(numbers: Any) -> bool:
    """Return whether all of some numbers (n,), of an array or of a tensor, are finite."""
    chunks = (numbers[at : at + _CHUNK] for at in range(0, len(numbers), _CHUNK))
    return all(bool((np.isfinite(one) if isinstance(one, np.ndarray) else one.isfinite()).all()) for one in chunks)


def require_split(split: Split, num_users: int) -> None:
    """Raise an error unless all indices of a split are in range and the rows are in order.

    Args:
        split: of which nothing is known but its numbers and text.
        num_users: U.

    Raises:
        UnexpectedError: an array has another shape or dtype, or holds what a split cannot hold.
    """
    num_items, indices, candidates = split.num_items, split.indices, split.test_candidates
    _require_form("indptr", split.indptr, (num_users + 1,), np.int64)
    _require_form("indices", indices, (math.prod(indices.shape),), np.int32)
    _require_rows(split.indptr, indices, num_items)
    for name in ("test_item", "validation_item"):
        held_out = getattr(split, name)
        _require_form(name, held_out, (num_users,), np.int32)
        _require_range(name, held_out, -1, num_items)
        if any(_is_in_row(split.indptr[a : b + 1], indices, held_out[a:b]).any() for a, b in _ranges(split.indptr)):
            raise UnexpectedError(f"{name} holds an item that its user's row of indices holds as well")
    if ((split.test_item >= 0) & (split.test_item == split.validation_item)).any():
        raise UnexpectedError("test_item and validation_item hold the same item of a user")
    if split.test_rows is not None:
        require_apart("test_rows", split.test_rows, Rows(split.indptr, indices), num_items)
        if (split.test_item >= 0).any() or candidates is not None:
            raise UnexpectedError("test_item or test_candidates hold something beside test_rows")
        require_apart("test_rows", split.test_rows, split.validations(), num_items)
    if split.validation_rows is not None:
        require_apart("validation_rows", split.validation_rows, Rows(split.indptr, indices), num_items)
        require_apart("validation_rows", split.validation_rows, split.tests(), num_items)
        if (split.validation_item >= 0).any():
            raise UnexpectedError("validation_item holds something beside validation_rows")
    has_none = np.diff(split.indptr) == 0
    for name, rows in (("test_rows", split.test_rows), ("validation_rows", split.validation_rows)):
        if rows is not None and (rows.lengths[has_none] > 0).any():
            raise UnexpectedError(f"{name} has items of a user without training items")
    if candidates is not None:
        num_lists = int((split.test_item >= 0).sum())
        _require_form("test_candidates", candidates, (num_lists, *(candidates.shape[1:2] or (0,))), np.int32)
        _require_range("test_candidates", candidates, -1, num_items)


def require_weights(weights: PairWeights, split: Split) -> None:
    """Raise an error unless the weights of pairs are in order, finite and at least 0, and not all 0 in a split.

    Raises:
        UnexpectedError: an array has another shape or dtype, or holds what weights cannot hold.
    """
    indptr, indices, values = weights
    _require_form("weight_indptr", indptr, (split.num_users + 1,), np.int64)
    _require_form("weight_indices", indices, (math.prod(indices.shape),), np.int32)
    _require_form("weight_values", values, indices.shape, np.float64)
    _require_rows(indptr, indices, split.num_items)
    if not (np.isfinite(values).all() and (values >= 0).all()):
        raise UnexpectedError("weight_values holds numbers that are not finite or below 0")
    if not len(values) or not weights.of_pairs(split.indptr, split.indices).any():
        raise UnexpectedError("the weights of the training interactions are all 0")


def require_order(order: np.ndarray, indptr: np.ndarray) -> None:
    """Raise an error unless an array holds the positions of each row of a CSR, each once.

    Raises:
        UnexpectedError: it has another shape or dtype, or holds something else.
    """
    _require_form("order", order, (int(indptr[-1]),), np.int32)
    for a, b in _ranges(indptr):
        if not _orders_rows(order[indptr[a] : indptr[b]], indptr[a : b + 1] - indptr[a]):
            raise UnexpectedError("order does not hold the positions of each row, each once")


def _ranges(indptr: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield ranges of users who have, unless a single one has more, at most some :data:`_CHUNK` interactions."""
    by_size = split_ranges(indptr, 1 + int(indptr[-1]) // _CHUNK)
    bounds = np.union1d(by_size, np.arange(0, len(indptr) - 1, _CHUNK)).tolist()
    yield from pairwise(bounds)


def _orders_rows(order: np.ndarray, indptr: np.ndarray) -> bool:
    """Return whether an array (n,) holds the positions of each row of a CSR, each once."""
    lengths = np.diff(indptr)
    is_met = np.zeros(len(order), dtype=np.bool_)
    if bool(((order >= 0) & (order < np.repeat(lengths, lengths))).all()):
        is_met[np.repeat(indptr[:-1], lengths) + order] = True
    return bool(is_met.all())


def require_rows(name: str, rows: Rows, num_users: int, num_items: int) -> None:
    """Raise an error unless rows of items, in any order, are in range and hold no item twice.

    Raises:
        UnexpectedError: an array has another shape or dtype, or holds something else.
    """
    _require_form(f"{name}_indptr", rows.indptr, (num_users + 1,), np.int64)
    _require_form(name, rows.items, (math.prod(rows.items.shape),), np.int32)
    indptr = rows.indptr
    if indptr[0] != 0 or indptr[-1] != len(rows.items) or (indptr[1:] < indptr[:-1]).any():
        raise UnexpectedError(f"{name}_indptr does not ascend from 0 to {len(rows.items)}, the length of {name}")
    _require_range(name, rows.items, 0, num_items)
    if len(np.unique(rows.owner * num_items + rows.items)) < len(rows.items):
        raise UnexpectedError(f"{name} holds an item twice in a row")


def require_apart(name: str, rows: Rows, others: Rows, num_items: int) -> None:
    """Raise an error if rows hold an item that the same user's row of others holds as well.

    Raises:
        UnexpectedError: they do.
    """
    pairs = (one.owner * num_items + one.items for one in (rows, others))
    if np.isin(*pairs).any():
        raise UnexpectedError(f"{name} holds an item that its user's other row holds as well")


def _require_form(name: str, array: np.ndarray, shape: tuple[int, ...], dtype: type) -> None:
    """Raise an error for an array of another shape or dtype, or of another number of dimensions."""
    if array.shape != shape or array.dtype != dtype:
        raise UnexpectedError(
            f"{name} has shape {array.shape} and dtype {array.dtype}; expected {shape} and {np.dtype(dtype)}"
        )


def _require_range(name: str, array: np.ndarray, lowest: int, end: int) -> None:
    """Raise an error if an array holds numbers outside ``lowest`` to ``end`` - 1."""
    if array.size and (int(array.min()) < lowest or int(array.max()) >= end):
        raise UnexpectedError(f"{name} holds {array.min()} to {array.max()}; expected {lowest} to {end - 1}")


def _require_rows(indptr: np.ndarray, indices: np.ndarray, num_items: int) -> None:
    """Raise an error unless a CSR has rows within its length and ascending, distinct items in each row."""
    if indptr[0] != 0 or indptr[-1] != len(indices) or (indptr[1:] < indptr[:-1]).any():
        raise UnexpectedError(f"indptr does not ascend from 0 to {len(indices)}, the length of indices")
    _require_range("indices", indices, 0, num_items)
    for a, b in _ranges(indptr):
        if not _ascend(indices[indptr[a] : indptr[b]], indptr[a : b + 1] - indptr[a]):
            raise UnexpectedError("indices does not ascend in each row")


def _ascend(indices: np.ndarray, indptr: np.ndarray) -> bool:
    """Return whether the items (n,) of each row of a CSR ascend."""
    ascends = indices[1:] > indices[:-1]
    inner = indptr[1:-1]
    ascends[inner[(inner > 0) & (inner < len(indices))] - 1] = True  # from one row to the next
    return bool(ascends.all())


def _is_in_row(indptr: np.ndarray, indices: np.ndarray, item: np.ndarray) -> np.ndarray:
    """Return whether each user's row of a CSR holds an item (U,); a binary search in all rows at once."""
    first, end = indptr[:-1].copy(), indptr[1:].copy()
    for _ in range(int((end - first).max(initial=0)).bit_length()):
        middle = (first + end) // 2
        is_open = first < end
        is_below = is_open & (indices[np.where(is_open, middle, 0)] < item)
        first, end = np.where(is_below, middle + 1, first), np.where(is_open & ~is_below, middle, end)
    found = first < indptr[1:]
    return found & (indices[np.where(found, first, 0)] == item) if len(indices) else found
