"""Losses, as entries of one table.

A loss is a function of the scores of a positive and of its sampled negatives. ``LOSSES`` lists the implementations of
each loss: every loss has one for torch's autograd; some have one in the CPU kernels or in the CUDA kernel of a whole
training step. A trainer that does not implement a loss refuses it, see :meth:`fastncf.trainers.base.Trainer.why_not`.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """One loss and its implementations.

    Attributes:
        function: maps logits of positives (B,) and of their negatives (B, K) to the mean loss of all terms, (). If it
            takes ``weights`` (B,) as well, it multiplies the terms of each interaction by the weight of that. The sum
            over the terms is exact to 1e-9 where it is taken in float64, as by the losses of this module.
        terms: what has a term of its own: each sample, each (positive, negative) pair, or each interaction.
        cpu_kernel: code of the implementation in :mod:`fastncf.kernels.cpu.losses`; None where there is none.
        cuda_kernel: whether :mod:`fastncf.kernels.cuda.mlp` implements the loss.
        largest: greatest magnitude of the mean loss of an epoch; a training with a larger one has diverged.
    """

    function: "Callable[..., Tensor]"
    terms: Literal["sample", "pair", "interaction"]
    cpu_kernel: int | None = None
    cuda_kernel: bool = False
    largest: float = sys.float_info.max

    def num_terms(self, num_negatives: int) -> int:
        """Return the number of terms of one interaction with K negatives: 1 + K samples, K pairs, or 1."""
        return {"sample": 1 + num_negatives, "pair": num_negatives, "interaction": 1}[self.terms]

    def takes_weights(self) -> bool:
        """Return whether the interactions may have weights."""
        return "weights" in signature(self.function).parameters


def bce(positive: "Tensor", negatives: "Tensor", weights: "Tensor | None" = None) -> "Tensor":
    """Return the mean binary cross entropy of positives (B,), labelled 1, and negatives (B, K), labelled 0.

    The terms of interaction b, its positive and its negatives, are multiplied by ``weights[b]``.
    """
    import torch
    from torch.nn.functional import softplus

    count, float64 = positive.numel() + negatives.numel(), torch.float64
    if weights is None:
        return (softplus(-positive).sum(dtype=float64) + softplus(negatives).sum(dtype=float64)) / count
    return (weights * (softplus(-positive) + softplus(negatives).sum(-1, dtype=float64))).sum() / count


def bpr(positive: "Tensor", negatives: "Tensor", weights: "Tensor | None" = None) -> "Tensor":
    """Return the mean of -log sigmoid(positive - negative) over all pairs (Rendle et al. 2009, BPR-Opt).

    The terms of interaction b are multiplied by ``weights[b]``.
    """
    import torch
    from torch.nn.functional import softplus

    losses = softplus(negatives - positive.unsqueeze(-1))
    return (losses if weights is None else weights.unsqueeze(-1) * losses).mean(dtype=torch.float64)


def softmax(positive: "Tensor", negatives: "Tensor", weights: "Tensor | None" = None) -> "Tensor":
    """Return the mean cross entropy of positives (B,) by softmax over each and its negatives (B, K).

    That is sampled softmax (Jean et al. 2015, "On using very large target vocabulary", section 3); uniform draws need
    no correction, which would be the same for all negatives of all interactions. The cross entropy of interaction b is
    multiplied by ``weights[b]``.
    """
    import torch

    losses = torch.logsumexp(torch.cat([positive.unsqueeze(-1), negatives], dim=-1), dim=-1) - positive
    return (losses if weights is None else weights * losses).mean(dtype=torch.float64)


_LARGEST = 1e5  # far beyond what trainings with many negatives and large rates come back from; equal scores have 0.7

LOSSES: dict[str, Loss] = {
    "bce": Loss(bce, terms="sample", cpu_kernel=0, cuda_kernel=True, largest=_LARGEST),
    "bpr": Loss(bpr, terms="pair", cpu_kernel=1, largest=_LARGEST),
    "softmax": Loss(softmax, terms="interaction", largest=_LARGEST),
}
"""Each loss by its name."""
