"""Tables sharded by rows: row r of a table is kept, and trained, by rank r modulo the number of ranks.

A rank fetches the rows that its part of a batch uses from their owners, and sends their gradients back, which the owner
adds up in pairs of ranks, pairs of pairs, and so on. So no rank holds a table, nor the moments of one; what is read
after an epoch, as by the evaluation, is in files that the processes of a machine share.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from fastncf.data.csr import split_ranges
from fastncf.kernels.cpu.lazy_adam import AdamSchedule, LazyTable, read_rows, step_rows
from fastncf.mapped import empty_shared, is_shared
from fastncf.threads import even_ranges, run_ranges

if TYPE_CHECKING:
    from torch import Tensor

    from fastncf.distributed import Ranks

Indices = TypeVar("Indices", "np.ndarray", "Tensor")

_NUMBERS_AT_ONCE = 4_000_000


class ShardedRows(NamedTuple):
    """Rows of a table that the parts of a batch use, as one rank sees them; all tensors are int64 on one device.

    Attributes:
        own: (n,), own rows that a rank uses, by their numbers in the table of this rank.
        lent: for each rank, which of ``own`` it uses, ascending.
        places: for each rank, the places of this rank's batch that its rows go to.
    """

    own: "Tensor"
    lent: list["Tensor"]
    places: list["Tensor"]

    @classmethod
    def of_slots(cls, ranks: "Ranks", items: np.ndarray, is_used: np.ndarray) -> "ShardedRows":
        """Return the rows of a batch that all ranks have planned.

        Args:
            ranks: the ranks.
            items: (S,) int32, row of each slot of the batch; -1 for none.
            is_used: (ranks, S) bool, whether a rank uses the slot.
        """
        import torch

        owners = np.where(items >= 0, items % ranks.size, -1)
        slots = np.flatnonzero((owners == ranks.rank) & is_used.any(axis=0))
        lent = [np.flatnonzero(used[slots]) for used in is_used]
        places = [np.flatnonzero((owners == rank) & is_used[ranks.rank]) for rank in range(ranks.size)]
        own = torch.from_numpy(items[slots].astype(np.int64) // ranks.size)
        return cls(own, [*map(torch.from_numpy, lent)], [*map(torch.from_numpy, places)])

    @classmethod
    def of_ids(cls, ranks: "Ranks", ids: "Tensor") -> "ShardedRows":
        """Return the rows of a batch of which each rank knows its own part alone, after telling the owners.

        Args:
            ranks: the ranks.
            ids: (n,) int32, ascending, each once: rows that this rank's part uses.
        """
        import torch

        owners = ids % ranks.size
        places = [(owners == rank).nonzero().squeeze(1) for rank in range(ranks.size)]
        sent = [len(place) for place in places]
        counts = torch.tensor(sent, dtype=torch.int32, device=ids.device)
        received = ranks.exchange(counts, [1] * ranks.size, [1] * ranks.size).tolist()
        asked = ranks.exchange(ids[torch.cat(places)], sent, received).long()
        own, which = (asked // ranks.size).unique(return_inverse=True)
        return cls(own, list(which.split(received)), places)


class Users(NamedTuple):
    """Users shared out to ranks in ranges of about as many interactions.

    Attributes:
        bounds: (ranks + 1,) int64, first user of each rank, and U.
        rank: this rank.
        rows: its interactions in the CSR, from the first to before the last.
    """

    bounds: np.ndarray
    rank: int
    rows: tuple[int, int]

    @classmethod
    def of(cls, ranks: "Ranks", indptr: np.ndarray) -> "Users":
        """Share out the users of an ``indptr`` (U + 1,)."""
        bounds = split_ranges(indptr, ranks.size)
        first, last = indptr[bounds[ranks.rank : ranks.rank + 2]].tolist()
        return cls(bounds, ranks.rank, (first, last))

    @property
    def first(self) -> int:
        """First user of this rank."""
        return int(self.bounds[self.rank])

    def of_rank(self, rank: int) -> slice:
        """Return the users of a rank."""
        first, last = self.bounds[rank : rank + 2].tolist()
        return slice(first, last)

    def own(self, indices: Indices) -> Indices:
        """Return those of some interactions, positions in the CSR, that are of users of this rank."""
        return indices[(indices >= self.rows[0]) & (indices < self.rows[1])]


def fetch(ranks: "Ranks", tables: Sequence[tuple[ShardedRows, "Tensor", "Tensor"]]) -> None:
    """Send own rows to the ranks that use them, and write those of other ranks to their places.

    Args:
        ranks: the ranks.
        tables: of each table the rows that are used, the values of the own ones (n, ...), and memory for the batch
            (places, ...), both float32; all numbers of a row are sent.
    """
    packed = [[values[used.lent[rank]] for used, values, _ in tables] for rank in range(ranks.size)]
    targets = [[(memory, used.places[rank]) for used, _, memory in tables] for rank in range(ranks.size)]
    for memory, places, rows in _exchanged(ranks, packed, targets):
        memory[places] = rows


def send_back(ranks: "Ranks", tables: Sequence[tuple[ShardedRows, "Tensor", "Tensor"]]) -> None:
    """Send gradients of rows to their owners, and add those of all ranks as :func:`fastncf.distributed.add_in_pairs`.

    Args:
        ranks: the ranks.
        tables: of each table the rows that are used, sums for the own ones (n, ...), to which is added, and the
            gradients of the batch (places, ...), both float32.
    """
    packed = [[gradients[used.places[rank]] for used, _, gradients in tables] for rank in range(ranks.size)]
    targets = [[(sums, used.lent[rank]) for used, sums, _ in tables] for rank in range(ranks.size)]
    terms: dict[int, list[tuple[Tensor, Tensor]]] = {sums.data_ptr(): [] for _, sums, _ in tables}
    for sums, which, rows in _exchanged(ranks, packed, targets):
        terms[sums.data_ptr()].append((which, rows))
    for _, sums, _ in tables:
        _add_rows(sums, terms[sums.data_ptr()])


def _add_rows(sums: "Tensor", terms: list[tuple["Tensor", "Tensor"]]) -> None:
    """Add rows of all ranks in pairs, and these sums to others.

    Args:
        sums: (n, ...), added to; zeros where the bits are to be those of fewer ranks.
        terms: for each rank which rows it has, each once, and their values.
    """
    if len(terms) <= 2:
        for which, rows in terms:
            sums[which] += rows
        return
    half = 1 << (len(terms) - 1).bit_length() - 1
    _add_rows(sums, terms[:half])
    others = sums.new_zeros(sums.shape)
    _add_rows(others, terms[half:])
    sums += others


def _exchanged(
    ranks: "Ranks", packed: list[list["Tensor"]], targets: list[list[tuple["Tensor", "Tensor"]]]
) -> Iterable[tuple["Tensor", "Tensor", "Tensor"]]:
    """Send parts to each rank, and return those that come from each: the memory that they are for, where, and values.

    Args:
        ranks: the ranks.
        packed: for each rank, the rows that are sent to it.
        targets: for each rank, memory and places of the rows that it sends.
    """
    import torch

    sent = [sum(part.numel() for part in parts) for parts in packed]
    received = [sum(len(places) * memory[0].numel() for memory, places in parts if len(places)) for parts in targets]
    flat = torch.cat([part.reshape(-1) for parts in packed for part in parts])
    values, at = ranks.exchange(flat, sent, received), 0
    for parts in targets:
        for memory, places in parts:
            size = len(places) * memory[:1].numel()
            yield memory, places, values[at : at + size].view(len(places), *memory.shape[1:])
            at += size


def read_own(rows: np.ndarray, step: int, table: LazyTable, schedule: AdamSchedule) -> np.ndarray:
    """Return the values of rows (n,) int64 of this rank before a step, (n, width) float32."""
    values = np.empty((len(rows), table.width), dtype=np.float32)
    flat = values.reshape(-1)
    run_ranges(lambda a, b: read_rows(a, b, rows, step - 1, table, schedule, flat), even_ranges(len(rows), 1))
    return values


def step_own(
    rows: np.ndarray, step: int, table: LazyTable, schedule: AdamSchedule, values: np.ndarray, gradients: np.ndarray
) -> None:
    """Take a step for rows (n,) int64 of this rank; ``values`` before it and ``gradients`` are (n, width) float32."""
    flat = values.reshape(-1), gradients.reshape(-1)
    run_ranges(lambda a, b: step_rows(a, b, rows, step, table, schedule, *flat), even_ranges(len(rows), 1))


def row_shards(ranks: "Ranks") -> Callable[[int], slice]:
    """Return a function from a rank to the rows that it owns."""
    return lambda rank: slice(rank, None, ranks.size)


def collect(ranks: "Ranks", whole: np.ndarray, own: np.ndarray | None, rows_of: Callable[[int], slice]) -> None:
    """Write the rows of all ranks to a table: to memory that the processes of a machine share, or each to its own.

    Args:
        ranks: the ranks, all of which call it, and wait for each other afterwards.
        whole: (R, ...), perhaps of :func:`fastncf.mapped.empty_shared`.
        own: (r, ...), rows of this rank; None where it has written them.
        rows_of: returns the rows of a rank.
    """
    if not is_shared(whole.ctypes.data):
        shared = empty_shared(whole.shape, whole.dtype)
        collect(ranks, shared, whole[rows_of(ranks.rank)] if own is None else own, rows_of)
        whole[...] = shared
        return
    if own is not None:
        whole[rows_of(ranks.rank)] = own
    ranks.wait()
    if ranks.local_size == ranks.size:
        return
    for rank in range(ranks.size):
        rows = whole[rows_of(rank)]
        at_once = max(1, _NUMBERS_AT_ONCE // max(1, rows[:1].size))
        for first in range(0, len(rows), at_once):
            block = np.ascontiguousarray(rows[first : first + at_once])
            ranks.share(block, rank)
            if ranks.local_rank == 0 and not ranks.is_here(rank):
                rows[first : first + at_once] = block
    ranks.wait()


def collected(ranks: "Ranks", own: np.ndarray, num_rows: int, rows_of: Callable[[int], slice]) -> np.ndarray:
    """Return a table of the rows of all ranks, in memory that the processes of a machine share; see :func:`collect`."""
    whole = empty_shared((num_rows, *own.shape[1:]), own.dtype)
    collect(ranks, whole, own, rows_of)
    return whole
