"""Popularity, the baseline."""

import torch
from torch import Tensor, nn


class Popularity(nn.Module):
    """An item's score is its number of training interactions: the floor of every comparison. Nothing to train."""

    counts: Tensor

    def __init__(self, counts: Tensor) -> None:
        super().__init__()
        self.register_buffer("counts", counts)  # (I,) float64: float32 would tie counts beyond 2**24

    def forward(self, users: Tensor, items: Tensor) -> Tensor:
        return self.counts[items].expand(torch.broadcast_shapes(users.shape, items.shape))

    def score_catalogue(self, users: Tensor) -> Tensor:
        """Scores (B, I) of all items for ``users`` (B,)."""
        return self.counts.expand(len(users), -1)
