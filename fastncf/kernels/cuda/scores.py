"""Scores of lists of items by hidden layers on a CUDA device by Triton, from the two halves of the first layer.

The first layer's activations are never written: the halves are added up where the second layer's product wants them.
ReLU follows each product before it is written, and the last layer's activations meet the output's weights instead.

Products are as exact as float32's but for the last bits, on cores that take TF32: either factor is split into what TF32
holds and what it leaves, and of the four products of those the three that matter are summed up, in float32.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

_ROWS = 64
_COLUMNS = 128
_STEP = 32


def score_by_layers(
    user: Tensor, item: Tensor, users: Tensor, items: Tensor, layers: Sequence[tuple[Tensor, Tensor]], output: Tensor
) -> Tensor:
    """Scores of each user's own list of items; everything lies on one device, in rows.

    Args:
        user: (U, H) float32, the users' part of the first layer's sums, its bias included.
        item: (I, H) float32, the items' part.
        users: (B,) int.
        items: (B, C) int.
        layers: weight (G, H) float32 and bias (G,) float32 of each layer after the first, at least one.
        output: (G + 1,) float32, weights and bias of the score.

    Returns:
        (B, C) float32.
    """
    count = items.numel()
    scores = torch.empty(items.shape, dtype=torch.float32, device=user.device)
    below = item
    for number, (weight, bias) in enumerate(layers):
        width, depth = weight.shape
        last = number == len(layers) - 1
        out = scores if last else torch.empty((count, width), dtype=torch.float32, device=user.device)
        _layer[(triton.cdiv(count, _ROWS),)](
            out,
            below,
            user,
            users,
            items,
            weight,
            bias,
            output,
            count,
            items.shape[1],
            DEPTH=depth,
            WIDTH=width,
            ROWS=_ROWS,
            COLUMNS=min(_COLUMNS, max(16, triton.next_power_of_2(width))),
            STEP=_STEP,
            FIRST=number == 0,
            LAST=last,
        )
        below = out
    return scores


@triton.jit(do_not_specialize=["count", "group"])
def _layer(
    out, below, user, users, items, weight, bias, output, count, group, DEPTH: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, FIRST: tl.constexpr, LAST: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    there = at < count
    row, own = at, at
    if FIRST:
        row = tl.load(items + at, mask=there, other=0).to(tl.int64)
        own = tl.load(users + at // group, mask=there, other=0).to(tl.int64)
    score = tl.zeros([ROWS], dtype=tl.float32) + tl.load(output + WIDTH)
    for first in range(0, WIDTH, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        total = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
        for start in range(0, DEPTH, STEP):
            level = start + tl.arange(0, STEP)
            inside = there[:, None] & (level < DEPTH)[None, :]
            left = tl.load(below + row[:, None] * DEPTH + level[None, :], mask=inside, other=0)
            if FIRST:
                left += tl.load(user + own[:, None] * DEPTH + level[None, :], mask=inside, other=0)
                left = tl.where(left < 0, 0.0, left)  # NaN stays NaN, as in torch
            inside = (level < DEPTH)[:, None] & (column < WIDTH)[None, :]
            right = tl.load(weight + column[None, :] * DEPTH + level[:, None], mask=inside, other=0)
            total = tl.dot(left, right, total, input_precision="tf32x3")
        total += tl.load(bias + column, mask=column < WIDTH, other=0)[None, :]
        total = tl.where(total < 0, 0.0, total)
        if LAST:
            score += tl.sum(total * tl.load(output + column, mask=column < WIDTH, other=0)[None, :], 1)
        else:
            inside = there[:, None] & (column < WIDTH)[None, :]
            tl.store(out + at[:, None] * WIDTH + column[None, :], total, mask=inside)
    if LAST:
        tl.store(out + at, score, mask=there)
