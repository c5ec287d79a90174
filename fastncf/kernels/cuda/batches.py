"""Tensors of a training batch by batch by softmax over shared negatives: what the kernels of its steps read and write.

Sizes: D is padded with zeros to a width W, a power of two of at least 16. C features, a power of two, or none for sets.
An item has a history vector for each feature, and one where there are none: F vectors. K negatives, I items. ``S``
shares of the negatives in the kernel of the softmax, ``Q`` shares of the positions in that of the negatives' gradients.
"""

from typing import NamedTuple

import torch
from torch import Tensor

BLOCK_TOKENS = 16
"""Tokens of a window that are scanned at once."""

_TILE_NUMBERS = 8192  # of the widest factor of a product
_PROGRAMS = 256  # that share the tiles of a batch, about two for each multiprocessor of large devices

NUM_FIELDS = 10
"""Columns of the batches of a plan."""


class Sizes(NamedTuple):
    """Sizes of a training, the same for all of its batches.

    Attributes:
        num_items: I.
        num_negatives: K.
        width: W.
        hash_width: numbers from one row of a chunk to the next where dropout counts them, D rounded up to 16.
        num_features: C; 0 for sets.
        max_windows, max_tokens, max_positions: in a batch at most.
        precision: of products, as Triton calls it: ``tf32``, or ``tf32x3``, which is nearly as exact as float32.
        dropout: probability that a number of a state is set to 0.
    """

    num_items: int
    num_negatives: int
    width: int
    hash_width: int
    num_features: int
    max_windows: int
    max_tokens: int
    max_positions: int
    precision: str
    dropout: float

    @property
    def num_vectors(self) -> int:
        """F."""
        return max(1, self.num_features)

    @property
    def max_uses(self) -> int:
        """Uses of items in a batch at most."""
        return self.num_negatives + self.max_tokens + self.max_positions

    @property
    def tile_rows(self) -> int:
        """Positions, or negatives, of a tile."""
        most = 64 if self.precision == "tf32" else 32  # three products need more registers
        return max(16, min(most, _TILE_NUMBERS // self.width))

    @property
    def shares(self) -> tuple[int, int, int, int]:
        """S, tiles of negatives in each share; Q, tiles of positions in each share."""
        of_positions = -(-self.max_positions // self.tile_rows)
        of_negatives = -(-self.num_negatives // self.tile_rows)
        return *_divided(of_negatives, of_positions), *_divided(of_positions, of_negatives)


def _divided(tiles: int, others: int) -> tuple[int, int]:
    """Return into how many shares tiles are divided beside ``others`` programs, and the tiles of each."""
    in_share = -(-tiles // min(tiles, -(-_PROGRAMS // others)))
    return -(-tiles // in_share), in_share


class Parameters(NamedTuple):
    """Parameters, their means and their mean squares (Adam's moments), float32 unless said otherwise.

    Attributes:
        inputs: (3, I, F * W): history vectors of each item.
        outputs: (3, I, W): output vector of each item.
        biases: (3, I).
        steps: (I, 2) int32, the steps that an item's history vectors, and its output vector and bias, were last written
            in, from 1; 0 before the first.
        recurrence: (3, 2, C, W): gains, logits of the decays.
        decays: (C, W), sigmoid of their logits; 1 for means.
        is_mean: (C,) int32, whether a feature is a mean or a decaying sum.
    """

    inputs: Tensor
    outputs: Tensor
    biases: Tensor
    steps: Tensor
    recurrence: Tensor
    decays: Tensor
    is_mean: Tensor


class Histories(NamedTuple):
    """Histories, and the windows of an epoch in the order of their visits, see ``batch_plans.Windows`` of the CPU.

    Attributes:
        indptr: (U + 1,) int64.
        items: (N,) int32, the oldest item of each user first, or in the order of an epoch's draws.
        weights: (N,) float32, what the loss of predicting each of ``items`` is multiplied by.
        seen: (N,) int32, the same items in ascending order.
        longest: items of a user at most.
        users: (V,) int32, of each window.
        starts: (V,) int64, in ``items``.
        contexts: (V,) int32.
        tokens: (V + 1,) int64, first token of each window, counted through the epoch; 0 for all where states are fixed.
        positions: (V + 1,) int64, likewise.
    """

    indptr: Tensor
    items: Tensor
    weights: Tensor
    seen: Tensor
    longest: int
    users: Tensor
    starts: Tensor
    contexts: Tensor
    tokens: Tensor
    positions: Tensor


class Plan(NamedTuple):
    """Memory of R batches that follow each other.

    A use of an item is a number: k for a negative, K + token, or K + max_tokens + position for a target.

    Attributes:
        batches: (R, 10) int64: first window, number of windows, first token, first position (all counted through the
            epoch), number of positions, first position in this plan, first use in this plan, number of uses, number of
            the batch in the epoch, and positions of the batch that another process trains and that come before.
        row: (1,) int64, the row of ``batches`` that is next.
        negatives: (R, K) int32.
        masks: (windows, K) int8, whether a negative stands in the history of a window's user.
        windows: (positions,) int32, row of ``masks``.
        targets: (positions,) int32, the item that follows.
        weights: (positions,) float32, of that item.
        use_items: (uses,) int32, ascending in each batch.
        uses: (uses,) int32, ascending for each item of a batch.
    """

    batches: Tensor
    row: Tensor
    negatives: Tensor
    masks: Tensor
    windows: Tensor
    targets: Tensor
    weights: Tensor
    use_items: Tensor
    uses: Tensor


class EpochNumbers(NamedTuple):
    """Numbers of an epoch that kernels read.

    Attributes:
        keys: (2,) int64 of the bits of uint64: of the negatives, and of dropout.
        first_step: (1,) int64, steps before the epoch.
        steps: (B + 1, 6) float32, row n for the step that is n steps behind ``first_step``: learning rate / (1 -
            beta_1 ** step), 1 / sqrt(1 - beta_2 ** step), and the four numbers of ``remaining_update`` in
            :mod:`fastncf.kernels.cpu.lazy_adam`.
        log_sizes: (K,) float32, logarithm of the number of items that a negative is drawn from.
        total: (1,) float64, sum of the losses of the positions.
    """

    keys: Tensor
    first_step: Tensor
    steps: Tensor
    log_sizes: Tensor
    total: Tensor


class Buffers(NamedTuple):
    """Memory of a batch, float32; T, P and V are the most tokens, positions and windows.

    Attributes:
        states: (P, W), after dropout.
        carries: (blocks, C, W), features before each block of tokens.
        positives: (P,), scores of the targets.
        highest, totals: (S, P), maximum of a share's scores, and the sum of their exponentials below it.
        weighted: (S, P, W), sum of the negatives' output vectors, weighted by those exponentials.
        partial_negatives: (Q, K, W), gradients of output vectors.
        partial_biases: (Q, K).
        log_sums: (P,), logarithm of the softmax's denominator, less that of the position's weight: powers of scores
            below it are weighted probabilities.
        coefficients: (P,), gradients of the scores of the targets.
        losses: (P,).
        grad_tokens: (T, F * W), gradients of history vectors.
        partial_recurrence: (V, 2, C, W), gradients of gains and decays.
    """

    states: Tensor
    carries: Tensor
    positives: Tensor
    highest: Tensor
    totals: Tensor
    weighted: Tensor
    partial_negatives: Tensor
    partial_biases: Tensor
    log_sums: Tensor
    coefficients: Tensor
    losses: Tensor
    grad_tokens: Tensor
    partial_recurrence: Tensor


def make_buffers(sizes: Sizes, device: torch.device) -> Buffers:
    """Return memory for the largest batch."""
    width, features, positions = sizes.width, sizes.num_features, sizes.max_positions
    num_shares, _, num_position_shares, _ = sizes.shares

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=device)

    return Buffers(
        states=empty(positions, width),
        carries=empty(sizes.max_tokens // BLOCK_TOKENS + sizes.max_windows, features, width),
        positives=empty(positions),
        highest=empty(num_shares, positions),
        totals=empty(num_shares, positions),
        weighted=empty(num_shares, positions, width),
        partial_negatives=empty(num_position_shares, sizes.num_negatives, width),
        partial_biases=empty(num_position_shares, sizes.num_negatives),
        log_sums=empty(positions),
        coefficients=empty(positions),
        losses=empty(positions),
        grad_tokens=empty(sizes.max_tokens, sizes.num_vectors * width),
        partial_recurrence=empty(sizes.max_windows, 2, features, width),
    )


Batch = tuple[Tensor, Tensor, int]
"""Batches of a plan, the row of the next one, and how many rows behind it a batch is, as all kernels take them."""


class Training(NamedTuple):
    """All that a batch is trained with; all tensors are contiguous and on one device."""

    parameters: Parameters
    histories: Histories
    plan: Plan
    numbers: EpochNumbers
    buffers: Buffers
    sizes: Sizes
