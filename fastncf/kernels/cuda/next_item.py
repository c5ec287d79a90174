"""Training of states that run through histories by softmax, on a CUDA device by Triton.

It computes what :mod:`fastncf.kernels.cpu.next_item` computes, from the same draws: negatives and dropout are hashes of
a position and have the same bits there and here. A batch is eight kernels:

1. Each item that the batch uses catches up with Adam's steps that it has missed (:mod:`fastncf.kernels.cpu.lazy_adam`).
   A dense step would read and write the whole table, which takes longer than everything else in a batch.
2. Windows of histories run forward. The linear recurrence is a scan over a block of tokens by doubling (Kogge and Stone
   1973), and goes from block to block.
3. Softmax: a program takes a tile of positions and a share of the negatives, tile by tile, with a running maximum and
   sum (Milakov and Gimelshein 2018; Dao et al. 2022, "FlashAttention"). The scores are never written; what is written
   is the weighted sum of the negatives' vectors, which is the gradient of the states but for its scale.
4. Gradients of the negatives: the tiles of scores are computed once more.
5. The parts of the softmax are put together for each position.
6. Windows run backward.
7. Update: the first use of each item owns its row, adds up the gradients of all uses in their order, and takes a step
   of Adam. The uses of a batch are sorted by item beforehand.
8. Step of the recurrence's own parameters, and sum of the losses.

There are no atomic operations: a sum has one owner and one order, so that each run on one device gives the same bits.

Sizes: D is padded with zeros to a width W, a power of two of at least 16. C features, a power of two. K negatives, I
items. ``S`` shares of the negatives in kernel 3, ``Q`` shares of the positions in kernel 4.
"""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from fastncf.kernels.cpu.lazy_adam import EXACT_STEPS
from fastncf.kernels.cpu.next_item import CHUNK
from fastncf.kernels.cpu.rows import BETA_1, BETA_2
from fastncf.kernels.cuda.draws import _hash_position, _is_unseen
from fastncf.rng import GOLDEN, MIX_1, MIX_2

BLOCK_TOKENS = 16
"""Tokens of a window that are scanned at once."""

_BLOCK_COLUMNS = 32
_TILE_NUMBERS = 8192  # of the widest factor of a product
_PROGRAMS = 256  # that share the tiles of a batch, about two for each multiprocessor of large devices
_BLOCK_DRAWS = 512
_BLOCK_USES = 8
_BLOCK_WINDOWS = 64
_BLOCK_POSITIONS = 128

NUM_FIELDS = 9
"""Columns of the batches of a plan."""

_FIRST_WINDOW = tl.constexpr(0)
_NUM_WINDOWS = tl.constexpr(1)
_FIRST_TOKEN = tl.constexpr(2)
_FIRST_POSITION = tl.constexpr(3)
_NUM_POSITIONS = tl.constexpr(4)
_PLAN_POSITION = tl.constexpr(5)
_FIRST_USE = tl.constexpr(6)
_NUM_USES = tl.constexpr(7)
_NUMBER = tl.constexpr(8)

_NUM_FIELDS = tl.constexpr(NUM_FIELDS)
_CHUNK = tl.constexpr(CHUNK)
_GOLDEN = tl.constexpr(GOLDEN)
_MIX_1 = tl.constexpr(MIX_1)
_MIX_2 = tl.constexpr(MIX_2)
_MASKED = tl.constexpr(-1e30)
_EPSILON = tl.constexpr(1e-8)
_TINY = tl.constexpr(1e-37)
_BETA_1 = tl.constexpr(BETA_1)
_BETA_2 = tl.constexpr(BETA_2)
_LOG_BETA_1 = tl.constexpr(math.log(BETA_1))
_LOG_BETA_2 = tl.constexpr(math.log(BETA_2))


class Sizes(NamedTuple):
    """Sizes of a training, the same for all of its batches.

    Attributes:
        num_items: I.
        num_negatives: K.
        width: W.
        hash_width: numbers from one row of a chunk to the next where dropout counts them, D rounded up to 16.
        num_features: C.
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
        of_positions = triton.cdiv(self.max_positions, self.tile_rows)
        of_negatives = triton.cdiv(self.num_negatives, self.tile_rows)
        return *_divided(of_negatives, of_positions), *_divided(of_positions, of_negatives)


def _divided(tiles: int, others: int) -> tuple[int, int]:
    """Return into how many shares tiles are divided beside ``others`` programs, and the tiles of each."""
    in_share = triton.cdiv(tiles, min(tiles, triton.cdiv(_PROGRAMS, others)))
    return triton.cdiv(tiles, in_share), in_share


class Parameters(NamedTuple):
    """Parameters, their means and their mean squares (Adam's moments), float32 unless said otherwise.

    Attributes:
        inputs: (3, I, C * W): history vectors of each item, one for each feature.
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
    """Histories, and the windows of an epoch in the order of their visits, see ``Windows`` of the CPU's kernel.

    Attributes:
        indptr: (U + 1,) int64.
        items: (N,) int32, the oldest item of each user first.
        weights: (N,) float32, what the loss of predicting each of ``items`` is multiplied by.
        seen: (N,) int32, the same items in ascending order.
        longest: items of a user at most.
        users: (V,) int32, of each window.
        starts: (V,) int64, in ``items``.
        contexts: (V,) int32.
        tokens: (V + 1,) int64, first token of each window, counted through the epoch.
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
        batches: (R, 9) int64: first window, number of windows, first token, first position (all counted through the
            epoch), number of positions, first position in this plan, first use in this plan, number of uses, number of
            the batch in the epoch.
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
        grad_tokens: (T, C * W), gradients of history vectors.
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
        grad_tokens=empty(sizes.max_tokens, features * width),
        partial_recurrence=empty(sizes.max_windows, 2, features, width),
    )


def draw_shared_negatives(out: Tensor, numbers: EpochNumbers, first_batch: int, num_items: int) -> None:
    """Draw the negatives of batches, one from each of K parts of the catalogue: the bits of the CPU.

    Args:
        out: (R, K) int32, overwritten.
        numbers: has the key.
        first_batch: number in the epoch of the batch of row 0.
        num_items: I, at least K.
    """
    _draw_shared_kernel[(triton.cdiv(out.numel(), _BLOCK_DRAWS),)](
        out, numbers.keys, first_batch, out.numel(), num_items, num_negatives=out.shape[1], BLOCK_SIZE=_BLOCK_DRAWS
    )


def fill_masks(plan: Plan, histories: Histories, rows: Tensor, first_window: int) -> None:
    """Write ``plan.masks`` of windows.

    Args:
        plan: its negatives are read.
        histories: windows and what their users have seen.
        rows: (n,) int32, row of the negatives of each of n windows.
        first_window: the first of them.
    """
    num_negatives = plan.negatives.shape[1]
    _fill_masks_kernel[(len(rows), triton.cdiv(num_negatives, _BLOCK_DRAWS))](
        plan.masks,
        plan.negatives,
        rows,
        histories.users,
        histories.indptr,
        histories.seen,
        first_window,
        histories.longest.bit_length(),
        num_negatives=num_negatives,
        BLOCK_SIZE=_BLOCK_DRAWS,
    )


class Training(NamedTuple):
    """All that a batch is trained with; all tensors are contiguous and on one device."""

    parameters: Parameters
    histories: Histories
    plan: Plan
    numbers: EpochNumbers
    buffers: Buffers
    sizes: Sizes


def train_batch(training: Training, offset: int) -> None:
    """Train the batch that is ``offset`` rows behind ``plan.row``."""
    parameters, plan, numbers, sizes = training.parameters, training.plan, training.numbers, training.sizes
    batch = plan.batches, plan.row, offset
    _catch_up_kernel[(sizes.max_uses,)](
        *batch,
        *(parameters.inputs, parameters.outputs, parameters.biases, parameters.steps, plan.use_items),
        *(numbers.first_step, numbers.steps, sizes.num_items),
        SIZE=sizes.num_features * sizes.width,
        WIDTH=sizes.width,
        LISTED=True,
        EXACT=EXACT_STEPS,
    )
    histories, buffers = training.histories, training.buffers
    windows = histories.starts, histories.contexts, histories.tokens, histories.positions, histories.items
    recurrence = parameters.recurrence, parameters.decays, parameters.is_mean
    # the bits of the CPU, which cuts off the fraction of the threshold
    dropout = numbers.keys, int(sizes.dropout * 2**32), 1 / (1 - sizes.dropout)
    constants = {
        "WIDTH": sizes.width,
        "hash_width": sizes.hash_width,
        "NUM_FEATURES": sizes.num_features,
        "BLOCK_TOKENS": BLOCK_TOKENS,
        "BLOCK_COLUMNS": min(_BLOCK_COLUMNS, sizes.width),
        "DROPOUT": sizes.dropout > 0,
    }
    grid = sizes.max_windows, triton.cdiv(sizes.width, _BLOCK_COLUMNS)
    _forward_kernel[grid](
        *batch, buffers.states, buffers.carries, *windows, parameters.inputs, *recurrence, *dropout, **constants
    )
    _run_softmax(training, batch)
    _backward_kernel[grid](
        *batch,
        *(buffers.grad_tokens, buffers.partial_recurrence, buffers.carries, buffers.log_sums, buffers.coefficients),
        *(buffers.highest, buffers.weighted, plan.targets),
        *windows,
        *(parameters.inputs, parameters.outputs),
        *recurrence,
        *dropout,
        max_positions=sizes.max_positions,
        num_shares=sizes.shares[0],
        **constants,
    )
    _run_updates(training, batch)


def _run_softmax(training: Training, batch: tuple[Tensor, Tensor, int]) -> None:
    """Compute softmax and losses of a batch, and the gradients of its negatives."""
    parameters, plan, buffers, sizes = training.parameters, training.plan, training.buffers, training.sizes
    num_shares, tiles_in_share, num_position_shares, position_tiles = sizes.shares
    tiles = {
        "num_negatives": sizes.num_negatives,
        "WIDTH": sizes.width,
        "TILE_ROWS": sizes.tile_rows,
        "PRECISION": sizes.precision,
        "num_warps": 8,
    }
    negatives = plan.negatives, plan.masks, plan.windows, parameters.outputs, parameters.biases
    _softmax_kernel[(triton.cdiv(sizes.max_positions, sizes.tile_rows), num_shares)](
        *batch,
        *(buffers.positives, buffers.highest, buffers.totals, buffers.weighted, buffers.states, plan.targets),
        *negatives,
        training.numbers.log_sizes,
        TILES_IN_SHARE=tiles_in_share,
        max_positions=sizes.max_positions,
        **tiles,
    )
    _log_sum_kernel[(triton.cdiv(sizes.max_positions, _BLOCK_POSITIONS),)](
        *batch,
        *(buffers.log_sums, buffers.coefficients, buffers.losses, plan.weights),
        *(buffers.positives, buffers.highest, buffers.totals),
        max_positions=sizes.max_positions,
        num_shares=num_shares,
        BLOCK_SIZE=_BLOCK_POSITIONS,
    )
    _negative_gradients_kernel[(triton.cdiv(sizes.num_negatives, sizes.tile_rows), num_position_shares)](
        *batch,
        *(buffers.partial_negatives, buffers.partial_biases, buffers.states, buffers.log_sums),
        *negatives,
        training.numbers.log_sizes,
        TILES_IN_SHARE=position_tiles,
        **tiles,
    )


def _run_updates(training: Training, batch: tuple[Tensor, Tensor, int]) -> None:
    """Add up the gradients of a batch, and take a step of Adam."""
    parameters, plan, numbers = training.parameters, training.plan, training.numbers
    buffers, sizes = training.buffers, training.sizes
    _update_kernel[(sizes.max_uses,)](
        *batch,
        *(parameters.inputs, parameters.outputs, parameters.biases, parameters.steps),
        *(plan.use_items, plan.uses),
        *(buffers.grad_tokens, buffers.states, buffers.coefficients),
        *(buffers.partial_negatives, buffers.partial_biases),
        *(numbers.first_step, numbers.steps, sizes.num_items),
        num_negatives=sizes.num_negatives,
        max_tokens=sizes.max_tokens,
        num_shares=sizes.shares[2],
        SIZE=sizes.num_features * sizes.width,
        WIDTH=sizes.width,
        BLOCK_USES=_BLOCK_USES,
    )
    _recurrence_kernel[(triton.cdiv(sizes.num_features * sizes.width, _BLOCK_COLUMNS),)](
        *batch,
        *(parameters.recurrence, parameters.decays, parameters.is_mean, buffers.partial_recurrence),
        *(numbers.steps, numbers.total, buffers.losses),
        SIZE=sizes.num_features * sizes.width,
        WIDTH=sizes.width,
        BLOCK_WINDOWS=_BLOCK_WINDOWS,
        BLOCK_COLUMNS=_BLOCK_COLUMNS,
        BLOCK_SIZE=1024,
    )


def catch_up_all(parameters: Parameters, numbers: EpochNumbers, sizes: Sizes, num_batches: int) -> None:
    """Bring all rows to the state after an epoch of ``num_batches`` steps."""
    batch = torch.zeros((1, NUM_FIELDS), dtype=torch.int64, device=parameters.steps.device)
    batch[0, _NUMBER.value].fill_(num_batches)
    _catch_up_kernel[(sizes.num_items,)](
        *(batch, batch, 0),
        *(parameters.inputs, parameters.outputs, parameters.biases, parameters.steps, parameters.steps),
        *(numbers.first_step, numbers.steps, sizes.num_items),
        SIZE=sizes.num_features * sizes.width,
        WIDTH=sizes.width,
        LISTED=False,
        EXACT=EXACT_STEPS,
    )


def write_states(out: Tensor, histories: Histories, parameters: Parameters, longest: int) -> None:
    """Write the states of all users after their whole history; 0 for a user without one.

    Args:
        out: (U, D) float32, overwritten.
        histories: of the users.
        parameters: of the recurrence, and history vectors.
        longest: number of the latest items that a state is made of.
    """
    num_features, width = parameters.decays.shape
    _state_kernel[(len(out), triton.cdiv(width, _BLOCK_COLUMNS))](
        *(out, histories.indptr, histories.items),
        *(parameters.inputs, parameters.recurrence, parameters.decays, parameters.is_mean),
        longest,
        dim=out.shape[1],
        WIDTH=width,
        NUM_FEATURES=num_features,
        BLOCK_TOKENS=BLOCK_TOKENS,
        BLOCK_COLUMNS=min(_BLOCK_COLUMNS, width),
    )


@triton.jit
def _mix64(x):
    """Return :func:`fastncf.rng.mix` of uint64 numbers."""
    x = (x ^ (x >> 30)) * _MIX_1
    x = (x ^ (x >> 27)) * _MIX_2
    return x ^ (x >> 31)


@triton.jit(do_not_specialize=["first_batch", "n_draws", "num_items", "num_negatives"])
def _draw_shared_kernel(
    out_ptr, keys_ptr, first_batch, n_draws, num_items, num_negatives, BLOCK_SIZE: tl.constexpr
):  # fmt: skip
    """Draw ``BLOCK_SIZE`` of the ``n_draws`` negatives of ``out`` (R, num_negatives) in each program."""
    at = tl.program_id(0).to(tl.int64) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    k = at % num_negatives
    first, last = k * num_items // num_negatives, (k + 1) * num_items // num_negatives
    place = (at + first_batch.to(tl.int64) * num_negatives).to(tl.uint64)
    bits = _mix64(tl.load(keys_ptr).to(tl.uint64, bitcast=True) + place * _GOLDEN) >> 32
    drawn = (bits * (last - first).to(tl.uint64)) >> 32
    tl.store(out_ptr + at, (first + drawn.to(tl.int64)).to(tl.int32), mask=at < n_draws)


@triton.jit(do_not_specialize=["first_window", "num_halvings", "num_negatives"])
def _fill_masks_kernel(
    masks_ptr, negatives_ptr, rows_ptr, users_ptr, indptr_ptr, seen_ptr, first_window, num_halvings,
    num_negatives, BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    """Write ``BLOCK_SIZE`` masks of one window in each program, see :func:`fill_masks`."""
    window = tl.program_id(0).to(tl.int64)
    k = tl.program_id(1) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    mask = k < num_negatives
    row = tl.load(rows_ptr + window).to(tl.int64)
    user = tl.load(users_ptr + first_window + window)
    start, stop = tl.load(indptr_ptr + user), tl.load(indptr_ptr + user + 1)
    item = tl.load(negatives_ptr + row * num_negatives + k, mask=mask, other=0)
    zeros = tl.zeros([BLOCK_SIZE], dtype=tl.int64)
    is_unseen = _is_unseen(item, zeros + start, zeros + stop, mask, seen_ptr, num_halvings)
    tl.store(masks_ptr + window * num_negatives + k, (~is_unseen).to(tl.int8), mask=mask)


@triton.jit
def _late_steps(value, mean, square, steps_ptr, written_at, gap, is_early, EXACT: tl.constexpr):
    """Return values after ``gap`` steps of Adam without a gradient, and the moments.

    Args:
        value, mean, square: of the step ``written_at``, any shape.
        steps_ptr: see :class:`EpochNumbers`.
        written_at: row of ``steps``.
        gap: int, at least 1.
        is_early: whether the step is one of the first ``EXACT``, whose followers are taken one after the other.
    """
    root = tl.sqrt(square)
    mean_decay = tl.exp(gap.to(tl.float32) * _LOG_BETA_1)
    root_decay = tl.exp(gap.to(tl.float32) * (0.5 * _LOG_BETA_2))
    if is_early:
        step = 1
        while step <= tl.minimum(gap, EXACT):
            at = steps_ptr + 6 * (written_at + step)
            rate = tl.load(at) * tl.exp(step * _LOG_BETA_1)
            correction = tl.load(at + 1) * tl.exp(step * (0.5 * _LOG_BETA_2))
            value -= rate * mean / (correction * root + _EPSILON)
            step += 1
    else:
        at, now = steps_ptr + 6 * written_at, steps_ptr + 6 * (written_at + gap)
        for node in tl.static_range(2, 6, 2):
            value -= tl.load(at + node) * mean / (tl.load(at + node + 1) * root + _EPSILON)
            rate, correction = tl.load(now + node) * mean_decay, tl.load(now + node + 1) * root_decay
            value += rate * mean / (correction * root + _EPSILON)
    return value, mean * mean_decay, square * (root_decay * root_decay)


@triton.jit
def _catch_up(value_ptr, moment, steps_ptr, written_at, gap, is_early, EXACT: tl.constexpr):
    """Bring numbers and their moments, ``moment`` and twice as many numbers further on, to a later step in place.

    The other arguments are those of :func:`_late_steps`.
    """
    mean_ptr, square_ptr = value_ptr + moment, value_ptr + 2 * moment
    value, mean, square = _late_steps(
        tl.load(value_ptr), tl.load(mean_ptr), tl.load(square_ptr), steps_ptr, written_at, gap, is_early, EXACT
    )
    tl.store(value_ptr, value)
    tl.store(mean_ptr, mean)
    tl.store(square_ptr, square)


@triton.jit(do_not_specialize=["offset", "num_items"])
def _catch_up_kernel(
    batches_ptr, row_ptr, offset, inputs_ptr, outputs_ptr, biases_ptr, steps_ptr, use_items_ptr, first_step_ptr,
    step_numbers_ptr, num_items, SIZE: tl.constexpr, WIDTH: tl.constexpr, LISTED: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    """Bring one row in each program to the state before the step of a batch: that of a first use, or row p.

    Tensors as in :class:`Parameters`, :class:`Plan` and :class:`EpochNumbers`. ``SIZE`` is C W. ``LISTED`` says whether
    the rows are those that the batch uses.
    """
    batch_ptr = batches_ptr + (tl.load(row_ptr) + offset) * _NUM_FIELDS
    program = tl.program_id(0).to(tl.int64)
    item = program
    if LISTED:
        if program >= tl.load(batch_ptr + _NUM_USES):
            return
        use_ptr = use_items_ptr + tl.load(batch_ptr + _FIRST_USE) + program
        item = tl.load(use_ptr).to(tl.int64)
        if tl.load(use_ptr - 1, mask=program > 0, other=-1) == item:
            return
    number = tl.load(batch_ptr + _NUMBER)
    now = tl.load(first_step_ptr) + number
    size = num_items.to(tl.int64)
    written = tl.load(steps_ptr + 2 * item).to(tl.int64)
    gap = now - written
    if (written != 0) & (gap != 0):
        input_ptr = inputs_ptr + item * SIZE + tl.arange(0, SIZE)
        _catch_up(input_ptr, size * SIZE, step_numbers_ptr, number - gap, gap, written < EXACT, EXACT)
        tl.store(steps_ptr + 2 * item, now.to(tl.int32))
    written = tl.load(steps_ptr + 2 * item + 1).to(tl.int64)
    gap = now - written
    if (written != 0) & (gap != 0):
        output_ptr = outputs_ptr + item * WIDTH + tl.arange(0, WIDTH)
        _catch_up(output_ptr, size * WIDTH, step_numbers_ptr, number - gap, gap, written < EXACT, EXACT)
        _catch_up(biases_ptr + item, size, step_numbers_ptr, number - gap, gap, written < EXACT, EXACT)
        tl.store(steps_ptr + 2 * item + 1, now.to(tl.int32))


@triton.jit
def _shifted(x, by, BLOCK_TOKENS: tl.constexpr):
    """Return row ``r + by`` of a tile (BLOCK_TOKENS, C, columns) in row r; 0 where there is none."""
    source = tl.arange(0, BLOCK_TOKENS)[:, None, None] + by
    is_row = (source >= 0) & (source < BLOCK_TOKENS)
    index = tl.broadcast_to(tl.where(is_row, source, 0), x.shape)
    return tl.where(is_row, tl.gather(x, index, 0), 0.0)


@triton.jit
def _scan(x, decay, direction: tl.constexpr, BLOCK_TOKENS: tl.constexpr):
    """Return ``y[r] = x[r] + decay * y[r + direction]`` of a tile (BLOCK_TOKENS, C, columns), direction 1 or -1."""
    power = decay[None, :, :]
    for doubling in tl.static_range(0, 8):
        if (1 << doubling) < BLOCK_TOKENS:
            x += power * _shifted(x, direction * (1 << doubling), BLOCK_TOKENS)
            power *= power
    return x


@triton.jit
def _features(items_ptr, inputs_ptr, start, token, count, at, carry, decay, SIZE: tl.constexpr,
              BLOCK_TOKENS: tl.constexpr):  # fmt: skip
    """Return the features (BLOCK_TOKENS, C, columns) after each of a block of tokens.

    Args:
        start: where the tokens' items begin in ``items``.
        token: numbers of the tokens (BLOCK_TOKENS,); those from ``count`` on have vectors of 0.
        at: places (C, columns) in an item's history vectors.
        carry: features (C, columns) before the block.
    """
    is_token = token < count
    item = tl.load(items_ptr + start + token, mask=is_token, other=0).to(tl.int64)
    x_ptr = inputs_ptr + item[:, None, None] * SIZE + at[None, :, :]
    x = tl.load(x_ptr, mask=is_token[:, None, None], other=0)
    is_first = tl.arange(0, BLOCK_TOKENS)[:, None, None] == 0
    return _scan(x + tl.where(is_first, (decay * carry)[None, :, :], 0.0), decay, -1, BLOCK_TOKENS)


@triton.jit
def _row_of(x, row, BLOCK_TOKENS: tl.constexpr):
    """Return a row (C, columns) of a tile (BLOCK_TOKENS, C, columns)."""
    return tl.sum(tl.where(tl.arange(0, BLOCK_TOKENS)[:, None, None] == row, x, 0.0), 0)


@triton.jit
def _weights(token, is_mean):
    """Return what features (tokens, C) are multiplied by after each token: 1, or 1 / number of tokens for a mean."""
    return tl.where(is_mean[None, :] != 0, 1.0 / (token[:, None] + 1).to(tl.float32), 1.0)


@triton.jit
def _is_kept(position, column, keys_ptr, number, threshold, hash_width):
    """Return which numbers (positions, columns) of states dropout keeps: the bits of the CPU.

    Positions of a chunk have a key in common, under which a number's place in the chunk is hashed.
    """
    key = _mix64(tl.load(keys_ptr + 1).to(tl.uint64, bitcast=True) + number.to(tl.uint64) * _GOLDEN)
    key = _mix64(key + (position // _CHUNK).to(tl.uint64) * _GOLDEN)
    low, high = key.to(tl.uint32), (key >> 32).to(tl.uint32)
    place = ((position % _CHUNK)[:, None] * hash_width + column[None, :]).to(tl.uint32)
    return _hash_position(place, low[:, None], high[:, None]) >= threshold.to(tl.uint32)


@triton.jit(do_not_specialize=["offset", "threshold", "hash_width"])
def _forward_kernel(
    batches_ptr, row_ptr, offset, states_ptr, carries_ptr, starts_ptr, contexts_ptr, tokens_ptr, positions_ptr,
    items_ptr, inputs_ptr, recurrence_ptr, decays_ptr, is_mean_ptr, keys_ptr, threshold, scale, WIDTH: tl.constexpr,
    hash_width, NUM_FEATURES: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
    DROPOUT: tl.constexpr,
):  # fmt: skip
    """Write the states of a window, ``BLOCK_COLUMNS`` columns in each program, and the features before each block.

    Tensors as in :class:`Buffers`, :class:`Histories` and :class:`Parameters`.

    Args:
        threshold: a number is dropped if its 32 random bits are below.
        scale: factor of the numbers that are kept.
    """
    batch_ptr = batches_ptr + (tl.load(row_ptr) + offset) * _NUM_FIELDS
    own = tl.program_id(0)
    if own >= tl.load(batch_ptr + _NUM_WINDOWS):
        return
    window = tl.load(batch_ptr + _FIRST_WINDOW) + own
    start, context = tl.load(starts_ptr + window), tl.load(contexts_ptr + window)
    first_token = tl.load(tokens_ptr + window)
    count = (tl.load(tokens_ptr + window + 1) - first_token).to(tl.int32)
    first_position = (tl.load(positions_ptr + window) - tl.load(batch_ptr + _FIRST_POSITION)).to(tl.int32)
    block = ((first_token - tl.load(batch_ptr + _FIRST_TOKEN)) // BLOCK_TOKENS).to(tl.int32) + own
    feature = tl.arange(0, NUM_FEATURES)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    at = feature[:, None] * WIDTH + column[None, :]
    gain, decay, is_mean = tl.load(recurrence_ptr + at), tl.load(decays_ptr + at), tl.load(is_mean_ptr + feature)
    carry = tl.zeros([NUM_FEATURES, BLOCK_COLUMNS], dtype=tl.float32)
    first = 0
    while first < count:
        tl.store(carries_ptr + block * (NUM_FEATURES * WIDTH) + at, carry)
        token = first + tl.arange(0, BLOCK_TOKENS)
        features = _features(
            items_ptr, inputs_ptr, start, token, count, at, carry, decay, NUM_FEATURES * WIDTH, BLOCK_TOKENS
        )  # fmt: skip
        carry = _row_of(features, BLOCK_TOKENS - 1, BLOCK_TOKENS)
        state = tl.sum(_weights(token, is_mean)[:, :, None] * (gain[None, :, :] * features), 1)
        position = first_position + token - context
        if DROPOUT:
            is_kept = _is_kept(position, column, keys_ptr, tl.load(batch_ptr + _NUMBER), threshold, hash_width)
            state = tl.where(is_kept, state * scale, 0.0)
        is_position = (token >= context) & (token < count)
        tl.store(states_ptr + position[:, None] * WIDTH + column[None, :], state, mask=is_position[:, None])
        first += BLOCK_TOKENS
        block += 1


@triton.jit(do_not_specialize=["longest", "dim"])
def _state_kernel(
    out_ptr, indptr_ptr, items_ptr, inputs_ptr, recurrence_ptr, decays_ptr, is_mean_ptr, longest, dim,
    WIDTH: tl.constexpr, NUM_FEATURES: tl.constexpr, BLOCK_TOKENS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Write the state of one user after ``longest`` items at most, ``BLOCK_COLUMNS`` columns in each program.

    Tensors as in :func:`write_states`; ``dim`` is D.
    """
    user = tl.program_id(0).to(tl.int64)
    stop = tl.load(indptr_ptr + user + 1)
    start = tl.maximum(tl.load(indptr_ptr + user), stop - longest)
    count = (stop - start).to(tl.int32)
    feature = tl.arange(0, NUM_FEATURES)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    at = feature[:, None] * WIDTH + column[None, :]
    gain, decay, is_mean = tl.load(recurrence_ptr + at), tl.load(decays_ptr + at), tl.load(is_mean_ptr + feature)
    carry = tl.zeros([NUM_FEATURES, BLOCK_COLUMNS], dtype=tl.float32)
    first = 0
    while first < count:
        token = first + tl.arange(0, BLOCK_TOKENS)
        features = _features(
            items_ptr, inputs_ptr, start, token, count, at, carry, decay, NUM_FEATURES * WIDTH, BLOCK_TOKENS
        )  # fmt: skip
        carry = _row_of(features, tl.minimum(BLOCK_TOKENS, count - first) - 1, BLOCK_TOKENS)
        first += BLOCK_TOKENS
    weight = tl.where(is_mean != 0, 1.0 / tl.maximum(count, 1).to(tl.float32), 1.0)
    state = tl.sum(weight[:, None] * (gain * carry), 0)
    tl.store(out_ptr + user * dim + column, state, mask=column < dim)


@triton.jit
def _negatives(
    row, k, negatives_ptr, outputs_ptr, biases_ptr, log_sizes_ptr, num_negatives, WIDTH: tl.constexpr
):  # fmt: skip
    """Return the output vectors (k, WIDTH) of negatives of a row of the plan, and their biases plus log sizes."""
    is_negative = k < num_negatives
    item = tl.load(negatives_ptr + row * num_negatives + k, mask=is_negative, other=0).to(tl.int64)
    at = item[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    vectors = tl.load(outputs_ptr + at, mask=is_negative[:, None], other=0)
    bias = tl.load(biases_ptr + item, mask=is_negative, other=0)
    return vectors, bias + tl.load(log_sizes_ptr + k, mask=is_negative, other=0)


@triton.jit
def _states(states_ptr, position, is_position, WIDTH: tl.constexpr):
    """Return the states (positions, WIDTH) of a tile; 0 where there is no position."""
    at = position[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    return tl.load(states_ptr + at, mask=is_position[:, None], other=0)


@triton.jit(do_not_specialize=["offset", "num_negatives", "max_positions"])
def _softmax_kernel(
    batches_ptr, row_ptr, offset, positives_ptr, highest_ptr, totals_ptr, weighted_ptr, states_ptr, targets_ptr,
    negatives_ptr, masks_ptr, windows_ptr, outputs_ptr, biases_ptr, log_sizes_ptr, num_negatives, max_positions,
    TILES_IN_SHARE: tl.constexpr, WIDTH: tl.constexpr, TILE_ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute the softmax of a tile of positions over a share of the negatives in each program.

    Tensors as in :class:`Buffers`, :class:`Plan` and :class:`Parameters`. The programs of the first share also write
    the scores of the targets.
    """
    row = tl.load(row_ptr) + offset
    batch_ptr = batches_ptr + row * _NUM_FIELDS
    num_positions = tl.load(batch_ptr + _NUM_POSITIONS)
    position = tl.program_id(0) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    if tl.program_id(0) * TILE_ROWS >= num_positions:
        return
    share = tl.program_id(1)
    is_position = position < num_positions
    plan_position = tl.load(batch_ptr + _PLAN_POSITION) + position
    states = _states(states_ptr, position, is_position, WIDTH)
    window = tl.load(windows_ptr + plan_position, mask=is_position, other=0).to(tl.int64)
    if share == 0:
        item = tl.load(targets_ptr + plan_position, mask=is_position, other=0).to(tl.int64)
        at = item[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
        target = tl.load(outputs_ptr + at, mask=is_position[:, None], other=0)
        score = tl.sum(states * target, 1) + tl.load(biases_ptr + item, mask=is_position, other=0)
        tl.store(positives_ptr + position, score, mask=is_position)
    highest = tl.full([TILE_ROWS], _MASKED, dtype=tl.float32)
    total = tl.zeros([TILE_ROWS], dtype=tl.float32)
    weighted = tl.zeros([TILE_ROWS, WIDTH], dtype=tl.float32)
    for tile in range(TILES_IN_SHARE):
        k = (share * TILES_IN_SHARE + tile) * TILE_ROWS + tl.arange(0, TILE_ROWS)
        vectors, bias = _negatives(row, k, negatives_ptr, outputs_ptr, biases_ptr, log_sizes_ptr, num_negatives, WIDTH)
        is_scored = is_position[:, None] & (k < num_negatives)[None, :]
        mask_at = window[:, None] * num_negatives + k[None, :]
        is_scored = is_scored & (tl.load(masks_ptr + mask_at, mask=is_scored, other=1) == 0)
        scores = tl.dot(states, tl.trans(vectors), input_precision=PRECISION) + bias[None, :]
        scores = tl.where(is_scored, scores, _MASKED)
        above = tl.maximum(highest, tl.max(scores, 1))
        power = tl.where(is_scored, tl.exp(scores - above[:, None]), 0.0)
        shrunk = tl.exp(highest - above)
        total = total * shrunk + tl.sum(power, 1)
        weighted = weighted * shrunk[:, None] + tl.dot(power, vectors, input_precision=PRECISION)
        highest = above
    at = share * max_positions + position
    tl.store(highest_ptr + at, highest, mask=is_position)
    tl.store(totals_ptr + at, total, mask=is_position)
    weighted_at = at[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    tl.store(weighted_ptr + weighted_at, weighted, mask=is_position[:, None])


@triton.jit(do_not_specialize=["offset", "max_positions", "num_shares"])
def _log_sum_kernel(
    batches_ptr, row_ptr, offset, log_sums_ptr, coefficients_ptr, losses_ptr, weights_ptr, positives_ptr, highest_ptr,
    totals_ptr, max_positions, num_shares, BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    """Put the shares of the softmax of ``BLOCK_SIZE`` positions together in each program; tensors as in
    :class:`Buffers` and :class:`Plan`.
    """
    batch_ptr = batches_ptr + (tl.load(row_ptr) + offset) * _NUM_FIELDS
    num_positions = tl.load(batch_ptr + _NUM_POSITIONS)
    position = tl.program_id(0) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    is_position = position < num_positions
    positive = tl.load(positives_ptr + position, mask=is_position, other=0)
    above = positive
    share = 0
    while share < num_shares:
        highest = tl.load(highest_ptr + share * max_positions + position, mask=is_position, other=_MASKED)
        above = tl.maximum(above, highest)
        share += 1
    total = tl.exp(positive - above)
    share = 0
    while share < num_shares:
        at = share * max_positions + position
        highest = tl.load(highest_ptr + at, mask=is_position, other=_MASKED)
        total += tl.load(totals_ptr + at, mask=is_position, other=0) * tl.exp(highest - above)
        share += 1
    plan_position = tl.load(batch_ptr + _PLAN_POSITION) + position
    weight = tl.load(weights_ptr + plan_position, mask=is_position, other=0)
    loss = weight * (tl.log(total) - (positive - above))
    tl.store(log_sums_ptr + position, above + tl.log(total) - tl.log(tl.maximum(weight, _TINY)), mask=is_position)
    scale = weight / tl.maximum(num_positions, 1).to(tl.float32)
    coefficient = (tl.exp(positive - above) / total - 1.0) * scale
    tl.store(coefficients_ptr + position, coefficient, mask=is_position)
    tl.store(losses_ptr + position, loss, mask=is_position)


@triton.jit(do_not_specialize=["offset", "num_negatives"])
def _negative_gradients_kernel(
    batches_ptr, row_ptr, offset, partial_ptr, partial_biases_ptr, states_ptr, log_sums_ptr, negatives_ptr, masks_ptr,
    windows_ptr, outputs_ptr, biases_ptr, log_sizes_ptr, num_negatives,
    TILES_IN_SHARE: tl.constexpr, WIDTH: tl.constexpr, TILE_ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Add up the gradients of a tile of negatives over a share of the positions in each program.

    Tensors as in :class:`Buffers`, :class:`Plan` and :class:`Parameters`.
    """
    row = tl.load(row_ptr) + offset
    batch_ptr = batches_ptr + row * _NUM_FIELDS
    num_positions = tl.load(batch_ptr + _NUM_POSITIONS)
    k = tl.program_id(0) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    share = tl.program_id(1)
    vectors, bias = _negatives(row, k, negatives_ptr, outputs_ptr, biases_ptr, log_sizes_ptr, num_negatives, WIDTH)
    scale = 1.0 / tl.maximum(num_positions, 1).to(tl.float32)
    gradient = tl.zeros([TILE_ROWS, WIDTH], dtype=tl.float32)
    grad_bias = tl.zeros([TILE_ROWS], dtype=tl.float32)
    for tile in range(TILES_IN_SHARE):
        position = (share * TILES_IN_SHARE + tile) * TILE_ROWS + tl.arange(0, TILE_ROWS)
        is_position = position < num_positions
        states = _states(states_ptr, position, is_position, WIDTH)
        log_sum = tl.load(log_sums_ptr + position, mask=is_position, other=0)
        plan_position = tl.load(batch_ptr + _PLAN_POSITION) + position
        window = tl.load(windows_ptr + plan_position, mask=is_position, other=0).to(tl.int64)
        is_scored = is_position[None, :] & (k < num_negatives)[:, None]
        mask_at = window[None, :] * num_negatives + k[:, None]
        is_scored = is_scored & (tl.load(masks_ptr + mask_at, mask=is_scored, other=1) == 0)
        scores = tl.dot(vectors, tl.trans(states), input_precision=PRECISION) + bias[:, None]
        coefficient = tl.exp(tl.where(is_scored, scores, _MASKED) - log_sum[None, :]) * scale
        gradient += tl.dot(coefficient, states, input_precision=PRECISION)
        grad_bias += tl.sum(coefficient, 1)
    at = share * num_negatives + k
    tl.store(partial_biases_ptr + at, grad_bias, mask=k < num_negatives)
    column = tl.arange(0, WIDTH)
    tl.store(partial_ptr + at[:, None] * WIDTH + column[None, :], gradient, mask=(k < num_negatives)[:, None])


@triton.jit
def _grad_states(
    position, plan_position, is_position, column, num_positions, log_sums_ptr, coefficients_ptr, highest_ptr,
    weighted_ptr, targets_ptr, outputs_ptr, max_positions, num_shares, WIDTH: tl.constexpr,
):  # fmt: skip
    """Return the gradients (positions, columns) of states after dropout; 0 where there is no position."""
    log_sum = tl.load(log_sums_ptr + position, mask=is_position, other=0)
    item = tl.load(targets_ptr + plan_position, mask=is_position, other=0).to(tl.int64)
    target_at = item[:, None] * WIDTH + column[None, :]
    coefficient = tl.load(coefficients_ptr + position, mask=is_position, other=0)
    gradient = coefficient[:, None] * tl.load(outputs_ptr + target_at, mask=is_position[:, None], other=0)
    share = 0
    while share < num_shares:
        at = share * max_positions + position
        highest = tl.load(highest_ptr + at, mask=is_position, other=_MASKED)
        weight = tl.exp(highest - log_sum) / num_positions.to(tl.float32)
        weighted_at = at[:, None] * WIDTH + column[None, :]
        gradient += weight[:, None] * tl.load(weighted_ptr + weighted_at, mask=is_position[:, None], other=0)
        share += 1
    return gradient


@triton.jit(do_not_specialize=["offset", "threshold", "max_positions", "num_shares", "hash_width"])
def _backward_kernel(
    batches_ptr, row_ptr, offset, grad_tokens_ptr, partial_ptr, carries_ptr, log_sums_ptr, coefficients_ptr,
    highest_ptr, weighted_ptr, targets_ptr, starts_ptr, contexts_ptr, tokens_ptr, positions_ptr, items_ptr, inputs_ptr,
    outputs_ptr, recurrence_ptr, decays_ptr, is_mean_ptr, keys_ptr, threshold, scale, max_positions,
    num_shares, WIDTH: tl.constexpr, hash_width, NUM_FEATURES: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """Write the gradients of a window's tokens, gains and decays, ``BLOCK_COLUMNS`` columns in each program.

    Tensors as in :class:`Buffers`, :class:`Plan`, :class:`Histories` and :class:`Parameters`; the other arguments as
    for :func:`_forward_kernel`. ``partial`` is ``partial_recurrence``.
    """
    batch_ptr = batches_ptr + (tl.load(row_ptr) + offset) * _NUM_FIELDS
    own = tl.program_id(0)
    if own >= tl.load(batch_ptr + _NUM_WINDOWS):
        return
    window = tl.load(batch_ptr + _FIRST_WINDOW) + own
    start, context = tl.load(starts_ptr + window), tl.load(contexts_ptr + window)
    own_token = (tl.load(tokens_ptr + window) - tl.load(batch_ptr + _FIRST_TOKEN)).to(tl.int32)
    count = (tl.load(tokens_ptr + window + 1) - tl.load(tokens_ptr + window)).to(tl.int32)
    first_position = (tl.load(positions_ptr + window) - tl.load(batch_ptr + _FIRST_POSITION)).to(tl.int32)
    num_positions = tl.load(batch_ptr + _NUM_POSITIONS)
    feature = tl.arange(0, NUM_FEATURES)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    at = feature[:, None] * WIDTH + column[None, :]
    gain, decay, is_mean = tl.load(recurrence_ptr + at), tl.load(decays_ptr + at), tl.load(is_mean_ptr + feature)
    carry = tl.zeros([NUM_FEATURES, BLOCK_COLUMNS], dtype=tl.float32)  # gradient of the features behind a block
    grad_gains = tl.zeros([NUM_FEATURES, BLOCK_COLUMNS], dtype=tl.float32)
    grad_decays = tl.zeros([NUM_FEATURES, BLOCK_COLUMNS], dtype=tl.float32)
    row = tl.arange(0, BLOCK_TOKENS)[:, None, None]
    block = (count - 1) // BLOCK_TOKENS
    while block >= 0:
        carry_at = own_token // BLOCK_TOKENS + own + block
        before_block = tl.load(carries_ptr + carry_at * (NUM_FEATURES * WIDTH) + at)
        token = block * BLOCK_TOKENS + tl.arange(0, BLOCK_TOKENS)
        features = _features(
            items_ptr, inputs_ptr, start, token, count, at, before_block, decay, NUM_FEATURES * WIDTH, BLOCK_TOKENS
        )  # fmt: skip
        position = first_position + token - context
        is_position = (token >= context) & (token < count)
        grad_state = _grad_states(
            position, tl.load(batch_ptr + _PLAN_POSITION) + position, is_position, column, num_positions, log_sums_ptr,
            coefficients_ptr, highest_ptr, weighted_ptr, targets_ptr, outputs_ptr, max_positions, num_shares, WIDTH,
        )  # fmt: skip
        if DROPOUT:
            is_kept = _is_kept(position, column, keys_ptr, tl.load(batch_ptr + _NUMBER), threshold, hash_width)
            grad_state = tl.where(is_kept, grad_state * scale, 0.0)
        by_feature = _weights(token, is_mean)[:, :, None] * grad_state[:, None, :]
        grad_gains += tl.sum(by_feature * features, 0)
        from_behind = tl.where(row == BLOCK_TOKENS - 1, (decay * carry)[None, :, :], 0.0)
        gradient = _scan(by_feature * gain[None, :, :] + from_behind, decay, 1, BLOCK_TOKENS)
        carry = _row_of(gradient, 0, BLOCK_TOKENS)
        before = _shifted(features, -1, BLOCK_TOKENS) + tl.where(row == 0, before_block[None, :, :], 0.0)
        grad_decays += tl.sum(gradient * before, 0)
        to_ptr = grad_tokens_ptr + (own_token + token)[:, None, None] * (NUM_FEATURES * WIDTH) + at[None, :, :]
        tl.store(to_ptr, gradient, mask=(token < count)[:, None, None])
        block -= 1
    partial_ptr += own * (2 * NUM_FEATURES * WIDTH) + at
    tl.store(partial_ptr, grad_gains)
    tl.store(partial_ptr + NUM_FEATURES * WIDTH, grad_decays)


@triton.jit
def _adam(value_ptr, moment, gradient, rate, root_correction):
    """Take a step of Adam (Kingma and Ba 2015) in place, and return the new values.

    Means and mean squares are ``moment`` and twice as many numbers further on.
    """
    mean_ptr, square_ptr = value_ptr + moment, value_ptr + 2 * moment
    mean = tl.load(mean_ptr) * _BETA_1 + gradient * (1 - _BETA_1)
    square = tl.load(square_ptr) * _BETA_2 + gradient * gradient * (1 - _BETA_2)
    value = tl.load(value_ptr) - rate * mean / (root_correction * tl.sqrt(square) + _EPSILON)
    tl.store(mean_ptr, mean)
    tl.store(square_ptr, square)
    tl.store(value_ptr, value)
    return value


@triton.jit(do_not_specialize=["offset", "num_items", "num_negatives", "max_tokens", "num_shares"])
def _update_kernel(
    batches_ptr, row_ptr, offset, inputs_ptr, outputs_ptr, biases_ptr, steps_ptr, use_items_ptr, uses_ptr,
    grad_tokens_ptr, states_ptr, coefficients_ptr, partial_ptr, partial_biases_ptr, first_step_ptr, step_numbers_ptr,
    num_items, num_negatives, max_tokens, num_shares, SIZE: tl.constexpr, WIDTH: tl.constexpr,
    BLOCK_USES: tl.constexpr,
):  # fmt: skip
    """Add up the gradients of an item and take its step, in the program of its first use.

    Tensors as in :class:`Parameters`, :class:`Plan`, :class:`Buffers` and :class:`EpochNumbers`. ``SIZE`` is C W.
    """
    batch_ptr = batches_ptr + (tl.load(row_ptr) + offset) * _NUM_FIELDS
    program = tl.program_id(0)
    num_uses = tl.load(batch_ptr + _NUM_USES)
    if program >= num_uses:
        return
    use_items_ptr += tl.load(batch_ptr + _FIRST_USE)
    uses_ptr += tl.load(batch_ptr + _FIRST_USE)
    item = tl.load(use_items_ptr + program)
    if tl.load(use_items_ptr + program - 1, mask=program > 0, other=-1) == item:
        return
    place, column = tl.arange(0, SIZE), tl.arange(0, WIDTH)
    grad_history = tl.zeros([SIZE], dtype=tl.float32)
    grad_output = tl.zeros([WIDTH], dtype=tl.float32)
    grad_bias = 0.0
    first_use = tl.load(uses_ptr + program)
    num_inputs, num_outputs = 0, (first_use < num_negatives).to(tl.int32)
    if first_use < num_negatives:
        share = 0
        while share < num_shares:
            at = share * num_negatives + first_use
            grad_output += tl.load(partial_ptr + at * WIDTH + column)
            grad_bias += tl.load(partial_biases_ptr + at)
            share += 1
    at = program + tl.arange(0, BLOCK_USES)
    num_own = BLOCK_USES
    while num_own == BLOCK_USES:
        is_own = at < num_uses
        is_own = is_own & (tl.load(use_items_ptr + at, mask=is_own, other=-1) == item)
        num_own = tl.sum(is_own.to(tl.int32), 0)
        token = tl.load(uses_ptr + at, mask=is_own, other=0) - num_negatives
        position = token - max_tokens
        is_token = (token >= 0) & (position < 0)
        num_inputs += tl.sum(is_token.to(tl.int32), 0)
        num_outputs += tl.sum((position >= 0).to(tl.int32), 0)
        token_at = token[:, None] * SIZE + place[None, :]
        grad_history += tl.sum(tl.load(grad_tokens_ptr + token_at, mask=is_token[:, None], other=0), 0)
        coefficient = tl.load(coefficients_ptr + position, mask=position >= 0, other=0)
        state_at = position[:, None] * WIDTH + column[None, :]
        states = tl.load(states_ptr + state_at, mask=(position >= 0)[:, None], other=0)
        grad_output += tl.sum(coefficient[:, None] * states, 0)
        grad_bias += tl.sum(coefficient, 0)
        at += BLOCK_USES
    number = tl.load(batch_ptr + _NUMBER) + 1
    rate, root_correction = tl.load(step_numbers_ptr + 6 * number), tl.load(step_numbers_ptr + 6 * number + 1)
    row, size = item.to(tl.int64), num_items.to(tl.int64)
    step = (tl.load(first_step_ptr) + number).to(tl.int32)
    if num_inputs > 0:
        _adam(inputs_ptr + row * SIZE + place, size * SIZE, grad_history, rate, root_correction)
        tl.store(steps_ptr + 2 * row, step)
    if num_outputs > 0:
        _adam(outputs_ptr + row * WIDTH + column, size * WIDTH, grad_output, rate, root_correction)
        _adam(biases_ptr + item, num_items, grad_bias, rate, root_correction)
        tl.store(steps_ptr + 2 * row + 1, step)


@triton.jit(do_not_specialize=["offset"])
def _recurrence_kernel(
    batches_ptr, row_ptr, offset, recurrence_ptr, decays_ptr, is_mean_ptr, partial_ptr, step_numbers_ptr, total_ptr,
    losses_ptr, SIZE: tl.constexpr, WIDTH: tl.constexpr, BLOCK_WINDOWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    """Take a step of ``BLOCK_COLUMNS`` gains and as many decays in each program; the first adds up the losses.

    Tensors as in :class:`Parameters`, :class:`Buffers` and :class:`EpochNumbers`; ``partial`` is
    ``partial_recurrence`` and ``SIZE`` is C W. A batch without positions takes no step.
    """
    batch_ptr = batches_ptr + (tl.load(row_ptr) + offset) * _NUM_FIELDS
    num_positions, num_windows = tl.load(batch_ptr + _NUM_POSITIONS), tl.load(batch_ptr + _NUM_WINDOWS)
    if num_positions == 0:
        return
    at = tl.program_id(0) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    grad_gains = tl.zeros([BLOCK_COLUMNS], dtype=tl.float32)
    grad_decays = tl.zeros([BLOCK_COLUMNS], dtype=tl.float32)
    first = 0
    while first < num_windows:
        window = first + tl.arange(0, BLOCK_WINDOWS)[:, None]
        from_ptr = partial_ptr + window * (2 * SIZE) + at[None, :]
        grad_gains += tl.sum(tl.load(from_ptr, mask=window < num_windows, other=0), 0)
        grad_decays += tl.sum(tl.load(from_ptr + SIZE, mask=window < num_windows, other=0), 0)
        first += BLOCK_WINDOWS
    number = tl.load(batch_ptr + _NUMBER) + 1
    rate, root_correction = tl.load(step_numbers_ptr + 6 * number), tl.load(step_numbers_ptr + 6 * number + 1)
    decay = tl.load(decays_ptr + at)
    _adam(recurrence_ptr + at, 2 * SIZE, grad_gains, rate, root_correction)
    grad_logits = grad_decays * decay * (1.0 - decay)
    logit = _adam(recurrence_ptr + SIZE + at, 2 * SIZE, grad_logits, rate, root_correction)
    is_mean = tl.load(is_mean_ptr + at // WIDTH) != 0
    tl.store(decays_ptr + at, tl.where(is_mean, 1.0, 1.0 / (1.0 + tl.exp(-logit))))
    if tl.program_id(0) == 0:
        loss = tl.zeros([BLOCK_SIZE], dtype=tl.float64)
        first = 0
        while first < num_positions:
            position = first + tl.arange(0, BLOCK_SIZE)
            loss += tl.load(losses_ptr + position, mask=position < num_positions, other=0).to(tl.float64)
            first += BLOCK_SIZE
        tl.store(total_ptr, tl.load(total_ptr) + tl.sum(loss, 0))
