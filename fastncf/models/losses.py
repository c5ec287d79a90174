"""Losses, as entries of one table.

A loss is a function of the scores of a positive and of its sampled negatives. ``LOSSES`` lists the implementations of
each loss: every loss has one for torch's autograd; some have one in the CPU kernels or in the CUDA kernel of a whole
training step. A trainer that does not implement a loss refuses it, see :meth:`fastncf.trainers.base.Trainer.why_not`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Loss:
    """One loss and its implementations.

    Attributes:
        function: maps logits of positives (B,) and of their negatives (B, K) to the mean loss of all terms, ().
        pairwise: whether a term belongs to a (positive, negative) pair; otherwise each sample has one.
        cpu_kernel: code of the implementation in :mod:`fastncf.kernels.cpu.losses`; None where there is none.
        cuda_kernel: whether :mod:`fastncf.kernels.cuda.mlp` implements the loss.
    """

    function: "Callable[[Tensor, Tensor], Tensor]"
    pairwise: bool
    cpu_kernel: int | None = None
    cuda_kernel: bool = False

    def num_terms(self, num_negatives: int) -> int:
        """Return the number of terms of one interaction with K negatives: K pairs, or 1 + K samples."""
        return num_negatives if self.pairwise else 1 + num_negatives


def bce(positive: "Tensor", negatives: "Tensor") -> "Tensor":
    """Return the mean binary cross entropy of positives (B,), labelled 1, and negatives (B, K), labelled 0."""
    from torch.nn.functional import softplus

    total = softplus(-positive).sum() + softplus(negatives).sum()
    return total / (positive.numel() + negatives.numel())


def bpr(positive: "Tensor", negatives: "Tensor") -> "Tensor":
    """Return the mean of -log sigmoid(positive - negative) over all pairs (Rendle et al. 2009, BPR-Opt)."""
    from torch.nn.functional import softplus

    return softplus(negatives - positive.unsqueeze(-1)).mean()


LOSSES: dict[str, Loss] = {
    "bce": Loss(bce, pairwise=False, cpu_kernel=0, cuda_kernel=True),
    "bpr": Loss(bpr, pairwise=True, cpu_kernel=1),
}
"""Each loss by its name."""
