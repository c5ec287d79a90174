"""Tables of numbers for a page: as exact as the size of a page allows."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class PackedTables:
    """Vectors of items in a form that a page holds, in one table or several.

    Attributes:
        items: (n,) int64, ascending: the items that are in the page.
        dtype: ``float32``, or ``int16`` or ``int8`` with a scale for each vector.
        data: what the script of the page decodes, for each table.
        num_needed: items that are in the page whatever their interactions.
    """

    items: np.ndarray
    dtype: str
    data: tuple[dict[str, Any], ...]
    num_needed: int = 0

    def describe(self, num_items: int) -> str:
        """Return in a sentence what was left out to keep the page small; empty if nothing was.

        Args:
            num_items: I.
        """
        if self.dtype == "float32":
            return ""
        bits, which = self.dtype.removeprefix("int"), "the vectors are"
        if len(self.items) < num_items:
            which = (
                f"only the {len(self.items):,} of {num_items:,} items with the most interactions are here, with vectors"
            )
            if self.num_needed:
                which = (
                    f"only {len(self.items):,} of {num_items:,} items are here, {self.num_needed:,} that stand for the "
                    f"negatives of the training and those with the most interactions, with vectors"
                )
        return (
            f"To keep this file small, {which} rounded to {bits} bits, so that items with almost equal scores may "
            f"change places."
        )


def pack_tables(
    tables: Sequence[np.ndarray], counts: np.ndarray, max_bytes: int, needed: np.ndarray | None = None
) -> PackedTables:
    """Return vectors in the most exact form that fits a number of bytes.

    Float32 is tried first, then integers of 16 and of 8 bits that are scaled by the largest entry of their vector. If
    8 bits are too many, the items with the most interactions are kept.

    Args:
        tables: (I, D) or (I, V, D) float32 each, finite: a vector of each item, or several.
        counts: (I,) interactions of each item.
        max_bytes: bytes of all vectors, unless the needed items alone have more.
        needed: items that are kept whatever their interactions, repeated ones too, or None.
    """
    num_items = len(counts)
    forms = {
        "float32": sum(4 * table[0].size for table in tables),
        "int16": sum(2 * table[0].size + 4 * (table[0].size // table.shape[-1]) for table in tables),
        "int8": sum(table[0].size + 4 * (table[0].size // table.shape[-1]) for table in tables),
    }
    dtype = next((name for name, size in forms.items() if num_items * size <= max_bytes), "int8")
    is_needed = np.zeros(num_items, dtype=bool)
    is_needed[[] if needed is None else needed] = True
    kept = min(num_items, max(1, int(is_needed.sum()), max_bytes // forms[dtype]))
    items = np.sort(np.lexsort((-counts, ~is_needed))[:kept])
    return PackedTables(items, dtype, tuple(_packed(table[items], dtype) for table in tables), int(is_needed.sum()))


def _packed(vectors: np.ndarray, dtype: str) -> dict[str, Any]:
    """Return vectors (n, D) or (n, V, D) as the script of a page decodes them."""
    dim = vectors.shape[-1]
    chosen = np.ascontiguousarray(vectors, dtype="<f4").reshape(-1, dim)
    data: dict[str, Any] = {"dtype": dtype, "dim": dim, "each": vectors[0].size // dim}
    if dtype == "float32":
        return data | {"values": to_base64(chosen)}
    integers, scale = quantize(chosen, int(dtype.removeprefix("int")))
    return data | {"values": to_base64(integers), "scale": to_base64(scale)}


def quantize(vectors: np.ndarray, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors (n, D) as integers (n, D) of some bits, and scales (n,) float32 to multiply them by."""
    highest = 2 ** (bits - 1) - 1
    scale = (np.abs(vectors).max(axis=1, initial=0) / highest).astype("<f4")
    divisor = np.where(scale > 0, scale, np.float32(1))[:, None]
    integers = np.clip(np.rint(vectors / divisor), -highest, highest).astype(f"<i{bits // 8}")
    return integers, scale


def to_base64(array: np.ndarray) -> str:
    """Return the bytes of an array of little-endian numbers as text."""
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
