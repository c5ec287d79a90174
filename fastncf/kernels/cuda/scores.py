"""Scores of lists of items by hidden layers on a CUDA device by Triton, from the two halves of the first layer.

The first layer's product is the sum of a half that depends on the user and one that depends on the item (He et al.
2017, eq. 10). The halves are added where the second layer's product reads them, so that the first layer's activations
are never written. ReLU is applied to each product before it is written, and the last layer's activations are multiplied
by the output's weights instead of being written.

Products are on the cores for TF32 and nearly as exact as in float32: each factor is split into the part that TF32 holds
and the rest, and of the four products of those parts the three that matter are summed in float32 ("3xTF32", as in
CUTLASS).
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK_ROWS = 64
_BLOCK_COLUMNS = 128
_BLOCK_INPUTS = 32


def score_by_layers(
    out: Tensor,
    user_half: Tensor,
    item_half: Tensor,
    users: Tensor,
    items: Tensor,
    layers: Sequence[tuple[Tensor, Tensor]],
    output: Tensor,
) -> None:
    """Write the score of each item in each user's own list; all tensors are contiguous and on one device.

    Args:
        out: (B, C) float32, overwritten.
        user_half: (U, H) float32, the users' part of the first layer's product, its bias included.
        item_half: (I, H) float32, the items' part.
        users: (B,) int.
        items: (B, C) int.
        layers: weight (G, H) float32 and bias (G,) float32 of each layer after the first, at least one.
        output: (G + 1,) float32, weights and bias of the score, where G is the width of the last layer.
    """
    num_rows = items.numel()
    x = item_half
    for number, (weight, bias) in enumerate(layers):
        width, num_inputs = weight.shape
        is_last = number == len(layers) - 1
        result = out if is_last else torch.empty((num_rows, width), dtype=torch.float32, device=out.device)
        _layer_kernel[(triton.cdiv(num_rows, _BLOCK_ROWS),)](
            result,
            x,
            user_half,
            users,
            items,
            weight,
            bias,
            output,
            num_rows,
            items.shape[1],
            NUM_INPUTS=num_inputs,
            WIDTH=width,
            BLOCK_ROWS=_BLOCK_ROWS,
            BLOCK_COLUMNS=min(_BLOCK_COLUMNS, max(16, triton.next_power_of_2(width))),
            BLOCK_INPUTS=_BLOCK_INPUTS,
            IS_FIRST=number == 0,
            IS_LAST=is_last,
        )
        x = result


@triton.jit(do_not_specialize=["n_rows", "list_length"])
def _layer_kernel(
    out_ptr, x_ptr, user_half_ptr, users_ptr, items_ptr, weight_ptr, bias_ptr, output_ptr, n_rows, list_length,
    NUM_INPUTS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr, IS_FIRST: tl.constexpr, IS_LAST: tl.constexpr,
):  # fmt: skip
    """Compute ``BLOCK_ROWS`` rows of a layer in each program, ``BLOCK_COLUMNS`` columns at a time.

    Args:
        out_ptr: (n_rows, WIDTH), or scores (n_rows,) if ``IS_LAST``.
        x_ptr: (n_rows, NUM_INPUTS), or ``item_half`` if ``IS_FIRST``.
        weight_ptr: (WIDTH, NUM_INPUTS).
        bias_ptr: (WIDTH,).
        output_ptr: weights and bias of the score, read if ``IS_LAST``.
        n_rows: B * C.
        list_length: C.
        BLOCK_INPUTS: inputs that a step of the product takes.
        IS_FIRST: whether the input is the ReLU of the sum of the two halves, found by users and items.
        IS_LAST: whether the scores are written, not the activations.
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    row_mask = at < n_rows
    x_row, user = at, at
    if IS_FIRST:
        x_row = tl.load(items_ptr + at, mask=row_mask, other=0).to(tl.int64)
        user = tl.load(users_ptr + at // list_length, mask=row_mask, other=0).to(tl.int64)
    score = tl.zeros([BLOCK_ROWS], dtype=tl.float32) + tl.load(output_ptr + WIDTH)
    for first_column in range(0, WIDTH, BLOCK_COLUMNS):
        column = first_column + tl.arange(0, BLOCK_COLUMNS)
        h = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], dtype=tl.float32)
        for first_input in range(0, NUM_INPUTS, BLOCK_INPUTS):
            input_column = first_input + tl.arange(0, BLOCK_INPUTS)
            mask = row_mask[:, None] & (input_column < NUM_INPUTS)[None, :]
            x = tl.load(x_ptr + x_row[:, None] * NUM_INPUTS + input_column[None, :], mask=mask, other=0)
            if IS_FIRST:
                x += tl.load(user_half_ptr + user[:, None] * NUM_INPUTS + input_column[None, :], mask=mask, other=0)
                x = tl.where(x < 0, 0.0, x)  # NaN stays NaN, as in torch
            mask = (input_column < NUM_INPUTS)[:, None] & (column < WIDTH)[None, :]
            weight = tl.load(weight_ptr + column[None, :] * NUM_INPUTS + input_column[:, None], mask=mask, other=0)
            h = tl.dot(x, weight, h, input_precision="tf32x3")
        h += tl.load(bias_ptr + column, mask=column < WIDTH, other=0)[None, :]
        h = tl.where(h < 0, 0.0, h)
        if IS_LAST:
            score += tl.sum(h * tl.load(output_ptr + column, mask=column < WIDTH, other=0)[None, :], 1)
        else:
            mask = row_mask[:, None] & (column < WIDTH)[None, :]
            tl.store(out_ptr + at[:, None] * WIDTH + column[None, :], h, mask=mask)
    if IS_LAST:
        tl.store(out_ptr + at, score, mask=row_mask)
