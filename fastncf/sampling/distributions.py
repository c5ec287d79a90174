"""How often each item is drawn as a negative."""

import numpy as np

from fastncf.kernels.cpu.alias import AliasTable, fill_alias_cells


def popularity_table(counts: np.ndarray, exponent: float) -> AliasTable:
    """AliasTable ``max(counts, 1) ** exponent`` (Mikolov et al. 2013 use 0.75), rounded to parts of 2**32, none to 0.

    Args:
        counts: (I,) training interactions of each item.
        exponent: 0 draws all items alike, 1 by their popularity.
    """
    wanted = np.maximum(counts, 1).astype(np.float64) ** exponent
    share = wanted / wanted.sum() * ((1 << 32) - len(counts))
    parts = 1 + share.astype(np.uint64)
    rest = (1 << 32) - int(parts.sum())
    parts[np.argsort(share - np.floor(share))[::-1][:rest]] += np.uint64(1)
    mass = np.zeros(len(counts) + 1, dtype=np.uint64)
    np.cumsum(parts, out=mass[1:])
    bits = max(1, (len(counts) - 1).bit_length())
    cells = np.zeros(1 << bits, dtype=np.uint32)
    fill_alias_cells(parts.astype(np.int64), bits, cells)
    return AliasTable(mass, cells, np.uint32(bits))
