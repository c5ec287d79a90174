"""Losses by name."""

import torch.nn.functional as F
from torch import Tensor


def bce(positive: Tensor, negatives: Tensor) -> Tensor:
    """Mean binary cross entropy of all samples: positives (B,) labelled 1, negatives (B, K) labelled 0, as logits."""
    total = F.softplus(-positive).sum() + F.softplus(negatives).sum()
    return total / (positive.numel() + negatives.numel())


def bpr(positive: Tensor, negatives: Tensor) -> Tensor:
    """Bayesian personalised ranking (Rendle et al. 2009): mean of -log sigmoid((B, 1) positives - (B, K) negatives)."""
    return F.softplus(negatives - positive.unsqueeze(-1)).mean()


LOSSES = {"bce": bce, "bpr": bpr}
