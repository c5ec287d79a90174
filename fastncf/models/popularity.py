"""Popularity, the baseline."""

from typing import ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from fastncf.models import register
from fastncf.models.scorers import Scorer
from fastncf.stage import Stage


@register("popularity")
class Popularity(nn.Module):
    """Scores equal to the number of an item's training interactions, the same for all users. Nothing is trained.

    Args:
        counts: (I,) float64; float32 would make counts above 2**24 equal that are not.
    """

    broadcasts_ids: ClassVar[bool] = True
    counts: Tensor

    def __init__(self, counts: Tensor) -> None:
        super().__init__()
        self.register_buffer("counts", counts)

    @classmethod
    def build(
        cls,
        stage: Stage,
        num_users: int,
        num_items: int,
        item_counts: np.ndarray | Tensor,
        generator: torch.Generator,
    ) -> Self:
        """Return the model; see :class:`fastncf.models.ModelClass`."""
        return cls(torch.as_tensor(item_counts, device="cpu").double())

    def forward(self, user_ids: Tensor, item_ids: Tensor) -> Tensor:
        """Return scores of the broadcast shape of ``user_ids`` and ``item_ids``."""
        return self.counts[item_ids].expand(torch.broadcast_shapes(user_ids.shape, item_ids.shape))

    def scorer(self) -> Scorer:
        """Return a scorer that looks the counts up."""
        return CountScorer(self.counts)


class CountScorer(Scorer):
    """Scores that depend on the item alone.

    Args:
        counts: (I,) score of each item.
    """

    def __init__(self, counts: Tensor) -> None:
        self.counts = counts

    def lists(self, user_ids: Tensor, item_ids: Tensor) -> Tensor:
        return self.counts.index_select(0, item_ids.reshape(-1)).view(item_ids.shape)

    def catalogue(self, user_ids: Tensor, num_items: int) -> Tensor:
        return self.counts[:num_items].expand(len(user_ids), -1)

    def list_bytes(self) -> int:
        return self.counts.element_size() + 8
