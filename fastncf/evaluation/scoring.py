"""Scores of any number of pairs within one memory budget, for evaluating, recommending and scoring alike.

The budget is :func:`fastncf.device.chunk_bytes`, 16 MiB on a CPU. Pairs are scored in chunks whose bytes, as the
:class:`~fastncf.models.scorers.Scorer` states them, keep to it; where the device runs out of memory all the same, the
budget is halved. Beside results and model the memory is at most

- the budget, plus
- for one user, the scores of the whole list or catalogue and what is done with them (some 20 bytes per item), where
  these alone exceed the budget, plus
- the scorer's tables, which are made only where so many pairs are scored that they save time, and only if they take
  at most 64 budgets (1 GiB on a CPU).

Any budget gives the same results up to rounding in float32: the order of a sum may depend on the size of a chunk.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from fastncf.device import chunk_bytes, device_guard, own_modes, require_device_after_fork, translate_out_of_memory
from fastncf.errors import DeviceError
from fastncf.models.scorers import Scorer, make_scorer
from fastncf.processes import use_one_torch_thread_after_fork

_TABLE_BUDGETS = 64
_BYTES_PER_SCORED_PAIR = 16  # of score_pairs: ids on the device and their score, also as float32 and on the CPU


class MemoryBudget:
    """Memory that one chunk of work may take.

    Attributes:
        device: where the memory is.
        num_bytes: size of the budget.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.num_bytes = chunk_bytes(device)

    def run(
        self, work: Callable[[slice], None], num_rows: int, bytes_per_row: int, smallest: int | None = None
    ) -> None:
        """Call ``work`` for consecutive slices of rows, as many at once as the budget allows, but at least one.

        Args:
            work: does a slice; it is called again for the first half of a slice where it ran out of memory.
            num_rows: number of rows.
            bytes_per_row: what ``work`` takes for a row.
            smallest: bytes of the smallest budget with which ``work`` can do a row; ``bytes_per_row`` where not given.

        Raises:
            DeviceError: the memory does not suffice for one row.
        """
        start = 0
        while start < num_rows:
            rows = min(max(1, self.num_bytes // bytes_per_row), num_rows - start)
            try:
                work(slice(start, start + rows))
            except torch.OutOfMemoryError:
                if rows == 1 and self.num_bytes <= (smallest or bytes_per_row):
                    raise DeviceError(
                        f"{self.device} has no memory left to score one user's items ({bytes_per_row:,} bytes); "
                        f"expected: a device with more free memory, or device='cpu'"
                    ) from None
                self.num_bytes = -(-rows // 2) * bytes_per_row if rows > 1 else min(self.num_bytes, bytes_per_row) // 2
            else:
                start += rows


class ChunkedScorer:
    """A scorer that keeps to a memory budget.

    Args:
        scorer: scores chunks.
        device: where the model is.
        num_pairs: how many pairs are going to be scored. Tables are made where that saves time.

    Attributes:
        budget: what a chunk may take.
    """

    def __init__(self, scorer: Scorer, device: torch.device, num_pairs: int) -> None:
        self._scorer = scorer
        self.budget = MemoryBudget(device)
        if num_pairs >= scorer.table_pairs() and scorer.table_bytes() <= _TABLE_BUDGETS * self.budget.num_bytes:
            scorer.precompute()

    def bytes_per_list(self, length: int) -> int:
        """Return the bytes that a user with a list of C items takes in :meth:`lists`."""
        return self._scorer.user_bytes() + length * self._scorer.list_bytes()

    def bytes_per_catalogue(self, num_items: int) -> int:
        """Return the bytes that a user takes in :meth:`catalogue`."""
        return self._scorer.user_bytes() + num_items * self._scorer.catalogue_bytes()

    def for_each_chunk(self, work: Callable[[slice], None], num_users: int, bytes_per_user: int) -> None:
        """Call ``work``, which calls :meth:`lists` or :meth:`catalogue`, for consecutive slices of users.

        Args:
            work: does a slice.
            num_users: number of users.
            bytes_per_user: what ``work`` takes for a user.

        Raises:
            DeviceError: the memory does not suffice for one user.
        """
        self.budget.run(work, num_users, bytes_per_user, smallest=self.bytes_per_list(1))

    def lists(self, user_ids: Tensor, item_ids: Tensor) -> Tensor:
        """Return scores (B, C) of users (B,) int32 with a list of items each, (B, C) int32.

        Lists that exceed the budget are scored in parts. The result is valid until the next call and not to be written.
        """
        num_users, length = item_ids.shape
        if num_users * self.bytes_per_list(length) <= self.budget.num_bytes:
            return self._scorer.lists(user_ids, item_ids)
        bytes_of_items = self.budget.num_bytes // num_users - self._scorer.user_bytes()
        columns = max(1, bytes_of_items // self._scorer.list_bytes())
        scores, start = None, 0
        for part in item_ids.tensor_split(-(-length // columns), dim=1):  # even parts: tiny ones are rounded otherwise
            found = self._scorer.lists(user_ids, part.contiguous())
            if scores is None:
                scores = found.new_empty(item_ids.shape)
            scores[:, start : start + part.shape[1]] = found
            start += part.shape[1]
        assert scores is not None
        return scores

    def catalogue(self, user_ids: Tensor, num_items: int) -> Tensor:
        """Return scores (B, I) of users (B,) int32 with all items; as :meth:`lists` with all items as the list."""
        if len(user_ids) * self.bytes_per_catalogue(num_items) <= self.budget.num_bytes:
            return self._scorer.catalogue(user_ids, num_items)
        item_ids = torch.arange(num_items, dtype=torch.int32, device=user_ids.device)
        return self.lists(user_ids, item_ids.expand(len(user_ids), -1))


def device_of(model: nn.Module) -> torch.device:
    """Return the device of a module's parameters and buffers; the CPU where it has none."""
    tensors = [*model.parameters(), *model.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


@contextmanager
def evaluating(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Put a model into evaluation mode, without gradients, for the length of a block.

    Raises:
        DeviceError: the memory of the device runs out.
        ForkError: only the parent of this process can use the device.
    """
    require_device_after_fork(device)
    use_one_torch_thread_after_fork()
    was_training = model.training
    model.eval()
    try:
        with own_modes(gradients=False), device_guard(device), translate_out_of_memory(device):
            yield
    finally:
        if was_training:
            model.train()


def score_pairs(model: nn.Module, user_ids: np.ndarray, item_ids: np.ndarray) -> np.ndarray:
    """Return scores (n,) float32 of users (n,) int32 with items (n,) int32.

    Raises:
        DeviceError: the memory of the device runs out.
    """
    device = device_of(model)
    scores = np.empty(len(user_ids), dtype=np.float32)
    with evaluating(model, device):
        chunked = ChunkedScorer(make_scorer(model), device, len(user_ids))

        def score(part: slice) -> None:
            users, items = (torch.from_numpy(ids[part]).to(device) for ids in (user_ids, item_ids))
            scores[part] = chunked.lists(users, items.unsqueeze(-1)).squeeze(-1).float().cpu().numpy()

        chunked.for_each_chunk(score, len(scores), chunked.bytes_per_list(1) + _BYTES_PER_SCORED_PAIR)
    return scores
