"""Top items of a user, and the most similar items of an item, as NumPy arrays of indices."""

import numpy as np
import torch
from torch import Tensor, nn

from fastncf.errors import ConfigError
from fastncf.evaluation.scoring import ChunkedScorer, MemoryBudget, device_of, evaluating
from fastncf.models.scorers import make_scorer

_BYTES_PER_ITEM = 20  # two copies of the score in float32, comparisons, and counts in int32
_BYTES_PER_RESULT = 64  # an item and its score among the best k, also before they are in order


def top_items(
    model: nn.Module, user_ids: np.ndarray, num_items: int, k: int, seen: tuple[np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the k items that each user scores highest, best first, equal scores in the order of the items.

    Args:
        model: scores (user ids, item ids).
        user_ids: (B,) int32.
        num_items: I.
        k: at least 1.
        seen: CSR, (U + 1,) int64 and (N,) int32, of items that are left out, or None.

    Returns:
        The number of items of each user (B,) int64, at most k; items (B, min(k, I)) int64 and their scores, float32.
        Entries of a row beyond that number mean nothing.

    Raises:
        DeviceError: the memory of the model's device runs out.
    """
    device = device_of(model)
    k = min(k, num_items)
    counts = np.full(len(user_ids), num_items, dtype=np.int64)
    if seen is not None:
        counts -= np.diff(seen[0])[user_ids]
    items, scores = np.empty((len(user_ids), k), dtype=np.int64), np.empty((len(user_ids), k), dtype=np.float32)
    with evaluating(model, device):
        chunked = ChunkedScorer(make_scorer(model), device, len(user_ids) * num_items)

        def choose(part: slice) -> None:
            users = user_ids[part]
            found = chunked.catalogue(torch.from_numpy(users).to(device), num_items)
            found = _make_sortable(found.to("cpu", torch.float32, copy=True))
            if seen is not None:
                _leave_out(found.numpy(), users, *seen)
            best, item = _best_columns(found, k)
            items[part], scores[part] = item.numpy(), best.numpy()

        bytes_per_user = chunked.bytes_per_catalogue(num_items) + num_items * _BYTES_PER_ITEM + k * _BYTES_PER_RESULT
        chunked.for_each_chunk(choose, len(user_ids), bytes_per_user)
    return counts.clip(max=k), items, scores


def similar_items(model: nn.Module, item_ids: np.ndarray, num_items: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the items whose vectors have the largest cosine with that of an item, the item itself left out.

    The memory is that of :mod:`fastncf.evaluation.scoring`, plus a copy of all item vectors in float32.

    Args:
        model: has ``item_vectors()``, of at least I rows.
        item_ids: (n,) int32.
        num_items: I; a module of the user's own may have more vectors.
        k: at least 1.

    Returns:
        Items (n, min(k, I - 1)) int64, best first, equal cosines in the order of the items, and cosines, float32.

    Raises:
        ConfigError: the model has no such method.
        DeviceError: the memory of the model's device runs out.
    """
    item_vectors = getattr(model, "item_vectors", None)
    if item_vectors is None:
        raise ConfigError(
            f"{type(model).__name__} has no vectors to compare items by; "
            f"expected a model with item_vectors() -> (I, D), as mf, gmf, mlp and neumf have"
        )
    with evaluating(model, device_of(model)):
        vectors = nn.functional.normalize(item_vectors()[:num_items].float(), dim=1).cpu()
        k = min(k, num_items - 1)
        items, cosines = np.empty((len(item_ids), k), dtype=np.int64), np.empty((len(item_ids), k), dtype=np.float32)

        def choose(part: slice) -> None:
            own = torch.from_numpy(item_ids[part]).long()
            found = _make_sortable(vectors[own] @ vectors.T)
            found[torch.arange(len(own), device=own.device), own] = -torch.inf
            best, item = _best_columns(found, k)
            items[part], cosines[part] = item.numpy(), best.numpy()

        bytes_per_row = num_items * _BYTES_PER_ITEM + k * _BYTES_PER_RESULT + vectors.shape[1] * 4
        MemoryBudget(vectors.device).run(choose, len(item_ids), bytes_per_row)
    return items, cosines


def _make_sortable(scores: Tensor) -> Tensor:
    """Replace NaN and -inf in place by the lowest finite number, so that -inf can mark what is left out."""
    lowest = torch.finfo(scores.dtype).min
    return scores.nan_to_num_(nan=lowest, neginf=lowest, posinf=torch.inf)


def _leave_out(scores: np.ndarray, user_ids: np.ndarray, indptr: np.ndarray, indices: np.ndarray) -> None:
    """Set the scores (B, I) of the items in the CSR rows of users (B,) to -inf."""
    for row, user in enumerate(user_ids):
        scores[row, indices[indptr[user] : indptr[user + 1]]] = -np.inf


def _best_columns(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return the k highest scores (B, k) of each row, best first, and their columns (B, k) int64.

    Equal scores come in the order of the columns, which ``torch.topk`` does not promise.

    Args:
        scores: (B, I), without NaN.
        k: at most I.
    """
    if not k:
        return scores[:, :0], scores.new_empty((len(scores), 0), dtype=torch.int64)
    values, columns = scores.topk(min(k + 1, scores.shape[1]), dim=1)
    columns = columns[:, :k]
    if k < scores.shape[1]:
        rows = (values[:, k - 1] == values[:, k]).nonzero().squeeze(1)  # the last place is open to several columns
        if len(rows):
            columns[rows] = _first_columns(scores[rows], values[rows, k - 1 : k], k)
    columns = columns.sort(dim=1).values
    best, order = scores.gather(1, columns).sort(dim=1, descending=True, stable=True)
    return best, columns.gather(1, order)


def _first_columns(scores: Tensor, lowest: Tensor, k: int) -> Tensor:
    """Return the columns (B, k), in order, of the scores above ``lowest`` and of the first ones that equal it.

    Args:
        scores: (B, I).
        lowest: (B, 1), the k-th highest score of each row.
        k: at most I.
    """
    is_above, is_tied = scores > lowest, scores == lowest
    num_tied = k - is_above.sum(1, keepdim=True, dtype=torch.int32)  # int64 would take twice the memory
    is_best = is_above | (is_tied & (is_tied.cumsum(1, dtype=torch.int32) <= num_tied))
    return is_best.nonzero()[:, 1].view(len(scores), k)
