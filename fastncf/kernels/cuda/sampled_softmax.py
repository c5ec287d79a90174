"""Softmax over the shared negatives of a batch, without writing its scores, and its gradients.

A program takes a tile of positions and a share of the negatives, tile by tile, with a running maximum and sum (Milakov
and Gimelshein 2018; Dao et al. 2022, "FlashAttention"). What is written is the weighted sum of the negatives' vectors,
which is the gradient of the states but for its scale. For the gradients of the negatives the tiles of scores are
computed once more.
"""

import triton
import triton.language as tl

from fastncf.kernels.cuda.batch_fields import _NUM_FIELDS, _NUM_POSITIONS, _PLAN_POSITION
from fastncf.kernels.cuda.batches import Batch, Training

_BLOCK_POSITIONS = 128
_BLOCK_LOSSES = 1024

_MASKED = tl.constexpr(-1e30)
_TINY = tl.constexpr(1e-37)


def run_softmax(training: Training, batch: Batch) -> None:
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


def add_losses(training: Training, batch: Batch) -> None:
    """Add the losses of a batch to those of the epoch."""
    _total_kernel[(1,)](*batch, training.numbers.total, training.buffers.losses, BLOCK_SIZE=_BLOCK_LOSSES)


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


@triton.jit
def _add_losses(batch_ptr, total_ptr, losses_ptr, BLOCK_SIZE: tl.constexpr):
    """Add the losses of a batch to ``total`` (1,) float64, in one program."""
    num_positions = tl.load(batch_ptr + _NUM_POSITIONS)
    loss = tl.zeros([BLOCK_SIZE], dtype=tl.float64)
    first = 0
    while first < num_positions:
        position = first + tl.arange(0, BLOCK_SIZE)
        loss += tl.load(losses_ptr + position, mask=position < num_positions, other=0).to(tl.float64)
        first += BLOCK_SIZE
    tl.store(total_ptr, tl.load(total_ptr) + tl.sum(loss, 0))


@triton.jit(do_not_specialize=["offset"])
def _total_kernel(batches_ptr, row_ptr, offset, total_ptr, losses_ptr, BLOCK_SIZE: tl.constexpr):
    """Run :func:`_add_losses`; tensors as in :class:`EpochNumbers` and :class:`Buffers`."""
    _add_losses(batches_ptr + (tl.load(row_ptr) + offset) * _NUM_FIELDS, total_ptr, losses_ptr, BLOCK_SIZE)
