"""What a trained module is asked for: ranks, scores, best items, similar items; codes in and numpy arrays out."""

import numpy as np
import torch
from torch import Tensor, nn

from fastncf.device import chunk_bytes, device_guard, translate_out_of_memory
from fastncf.errors import ConfigError
from fastncf.evaluation.candidates import CandidateLists
from fastncf.evaluation.ranking import csr_pairs, on_device, rank_candidates, rank_catalogue
from fastncf.models.scorers import score_catalogue, score_lists


def device_of(model: nn.Module) -> torch.device:
    """Where the parameters of a module are."""
    tensors = [*model.parameters(), *model.buffers()]
    return tensors[0].device if tensors else torch.device("cpu")


def rank(model: nn.Module, lists: CandidateLists[np.ndarray]) -> np.ndarray:
    """Rank of each held-out item within its list, (T,) int64 from 0."""
    device = device_of(model)
    with translate_out_of_memory(device):
        return rank_candidates(model, on_device(lists, device)).cpu().numpy()


def rank_full(
    model: nn.Module, lists: CandidateLists[np.ndarray], indptr: np.ndarray, indices: np.ndarray, num_items: int
) -> np.ndarray:
    """Rank of each held-out item among all that its user has not touched before, (T,) int64 from 0.

    Args:
        model: scores (users, items).
        lists: of which users and positives are read.
        indptr, indices: CSR of what is left out, without the positives.
        num_items: I.
    """
    device = device_of(model)
    with translate_out_of_memory(device):
        users, positives, _ = on_device(lists, device)
        return rank_catalogue(model, users, positives, indptr, indices, num_items).cpu().numpy()


@torch.inference_mode()
def top_items(
    model: nn.Module, users: np.ndarray, num_items: int, k: int, seen: tuple[np.ndarray, np.ndarray] | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k items that each user scores highest, best first, equal scores in the order of the items.

    Args:
        model: scores (users, items).
        users: (B,) int32.
        num_items: I.
        k: at least 1.
        seen: CSR, (U + 1,) int64 and (N,) int32, of items that are left out, or None.

    Returns:
        How many items there are for each user (B,) int64, at most k; items (B, min(k, I)) int64 and their scores,
        float32, of which what is beyond that number is of no meaning.
    """
    device = device_of(model)
    model.eval()
    at_once = max(1, chunk_bytes(device) // (16 * num_items))
    k = min(k, num_items)
    count = np.full(len(users), num_items, dtype=np.int64)
    if seen is not None:
        count -= np.diff(seen[0])[users]
    items, scores = np.empty((len(users), k), dtype=np.int64), np.empty((len(users), k), dtype=np.float32)
    for start in range(0, len(users), at_once):
        part = torch.from_numpy(users[start : start + at_once])
        of_all = score_catalogue(model, part.to(device), num_items).float().cpu().clone()
        lowest = torch.finfo(of_all.dtype).min  # above what is left out, so that no seen item takes its place
        of_all.nan_to_num_(nan=lowest, neginf=lowest, posinf=torch.inf)
        if seen is not None:
            indptr, indices = map(torch.from_numpy, seen)
            of_all[csr_pairs(indptr, indices, part)] = -torch.inf
        score, item = _top(of_all, k)
        items[start : start + at_once], scores[start : start + at_once] = item.numpy(), score.numpy()
    return count.clip(max=k), items, scores


def _top(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Sorted stably, so that equal scores come in the order of the items; topk promises no order among them."""
    threshold = scores.topk(k, dim=1).values[:, -1:]
    candidates = torch.where(scores >= threshold, scores, -torch.inf)
    score, item = candidates.sort(dim=1, descending=True, stable=True)
    return score[:, :k], item[:, :k]


@torch.inference_mode()
def most_similar_items(model: nn.Module, items: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The items whose vectors have the largest cosine with that of an item, itself left out.

    Args:
        model: has ``item_vectors() -> (I, D)``.
        items: (n,) int32.
        k: at least 1.

    Returns:
        Items (n, min(k, I - 1)) int64, best first, and cosines, float32.

    Raises:
        ConfigError: the model has no such method.
    """
    item_vectors = getattr(model, "item_vectors", None)
    if item_vectors is None:
        raise ConfigError(
            f"{type(model).__name__} has no vectors to compare items by; "
            f"expected a model with item_vectors() -> (I, D), as mf, gmf, mlp and neumf have"
        )
    vectors = nn.functional.normalize(item_vectors().float(), dim=1).cpu()
    codes = torch.from_numpy(items).long()
    cosine = vectors[codes] @ vectors.T
    cosine[torch.arange(len(codes)), codes] = -torch.inf
    score, item = cosine.topk(min(k, len(vectors) - 1), dim=1)
    return item.numpy(), score.numpy()


@torch.inference_mode()
def score_pairs(model: nn.Module, users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Scores (n,) float32 of users (n,) int32 with items (n,) int32."""
    device = device_of(model)
    model.eval()
    with device_guard(device):
        pairs = torch.from_numpy(users).to(device), torch.from_numpy(items).to(device).unsqueeze(-1)
        return score_lists(model, *pairs).squeeze(-1).float().cpu().numpy()
