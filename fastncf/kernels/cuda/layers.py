"""Hidden layers on a CUDA device by Triton: bias, ReLU and dropout in one pass forward and one backward.

A layer is ``dropout(relu(x @ weight.T + bias))`` (He et al. 2017, eq. 10; Srivastava et al. 2014). torch's own
operations read and write an activation several times for this and keep a mask beside it. Here no mask is needed, since
what ReLU or dropout set to zero is zero in the output, and the gradient of the bias is summed in the same pass. The
matrix products stay with cuBLAS.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

_QUARTER_SIZE = 512
_TILE_SIZE = 4096
_TILES_PER_PROGRAM = 8


def fused_hidden_layers(layers: Sequence[nn.Linear], user: Tensor, item: Tensor, dropout: float) -> Tensor:
    """Return the activations of ReLU layers over user and item vectors, concatenated; dropout follows each layer.

    Args:
        layers: at least one; the first has D + E inputs.
        user: (B, 1, D) vectors, in the dtype of the computation.
        item: (B, C, E) vectors, in the same dtype.
        dropout: probability that an activation is set to 0, below 1.

    Returns:
        (B, C, H) in the same dtype, where H is the width of the last layer.
    """
    first = layers[0]
    user_weight, item_weight = first.weight.to(user.dtype).split([user.shape[-1], item.shape[-1]], dim=1)
    batch_size, list_length = item.shape[:2]
    seeds = torch.zeros(len(layers), dtype=torch.int64, device=user.device)
    if dropout:
        seeds.random_(2**31)  # drawn on the device, anew each time that a CUDA graph runs
    user_half, item_half = user.reshape(batch_size, -1) @ user_weight.T, item @ item_weight.T
    x: Tensor = _FirstLayer.apply(user_half, item_half, first.bias, seeds[0], dropout)
    x = x.reshape(batch_size * list_length, -1)
    for number, layer in enumerate(layers[1:], start=1):
        x = _NextLayer.apply(x, layer.weight, layer.bias, seeds[number], dropout)
    return x.view(batch_size, list_length, -1)


class _FirstLayer(torch.autograd.Function):
    """Activations (B, C, H) of the first layer.

    Its product is the sum of a half that depends on the user (B, H) and one that depends on the item (B, C, H).
    """

    @staticmethod
    def forward(ctx: Any, user_half: Tensor, item_half: Tensor, bias: Tensor, seed: Tensor, dropout: float) -> Tensor:
        out = torch.empty_like(item_half)
        _activate(out, item_half, bias, seed, dropout, user_half=user_half)
        ctx.save_for_backward(out)
        ctx.dropout = dropout
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        (out,) = ctx.saved_tensors
        grad_item_half = torch.empty_like(out)
        grad_user_half = torch.empty((len(out), out.shape[-1]), dtype=out.dtype, device=out.device)
        grad_bias = torch.empty(out.shape[-1], dtype=torch.float32, device=out.device)
        _activate_backward(grad_item_half, grad_bias, grad_out, out, ctx.dropout, grad_user_half=grad_user_half)
        return grad_user_half, grad_item_half, grad_bias, None, None


class _NextLayer(torch.autograd.Function):
    """Activations (n, H) of a layer over inputs (n, G)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, seed: Tensor, dropout: float) -> Tensor:
        weight = weight.to(x.dtype)
        out = x @ weight.T
        _activate(out, out, bias, seed, dropout)
        ctx.save_for_backward(x, weight, out)
        ctx.dropout = dropout
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, out = ctx.saved_tensors
        grad_product, grad_bias = (
            torch.empty_like(out),
            torch.empty(out.shape[-1], dtype=torch.float32, device=out.device),
        )
        _activate_backward(grad_product, grad_bias, grad_out, out, ctx.dropout)
        return grad_product @ weight, (grad_product.T @ x).float(), grad_bias, None, None


def _activate(
    out: Tensor, x: Tensor, bias: Tensor, seed: Tensor, dropout: float, *, user_half: Tensor | None = None
) -> None:
    """Write ``dropout(relu(x + bias))``, or ``dropout(relu(x + user_half + bias))`` with a users' half.

    Args:
        out: (n, H), or (B, C, H) with a users' half; may be ``x``.
        x: the same shape and dtype.
        bias: (H,) float32.
        seed: () int64 below 2**31, determines the dropout.
        dropout: probability that an activation is set to 0; the others are divided by ``1 - dropout``.
        user_half: (B, H), added to each of a user's C rows.
    """
    _activate_kernel[(triton.cdiv(out.numel(), 4 * _QUARTER_SIZE),)](
        out,
        x,
        x if user_half is None else user_half,
        bias,
        seed,
        out.numel(),
        round(dropout * 2**32),
        1 / (1 - dropout),
        LIST_LENGTH=1 if user_half is None else out.shape[1],
        WIDTH=out.shape[-1],
        HAS_USER=user_half is not None,
        DROPOUT=dropout > 0,
        QUARTER_SIZE=_QUARTER_SIZE,
    )


def _activate_backward(
    grad_x: Tensor,
    grad_bias: Tensor,
    grad_out: Tensor,
    out: Tensor,
    dropout: float,
    *,
    grad_user_half: Tensor | None = None,
) -> None:
    """Write the gradients of the terms that :func:`_activate` adds up.

    Args:
        grad_x: (n, H) or (B, C, H), in the dtype of ``out``, overwritten.
        grad_bias: (H,) float32, overwritten.
        grad_out: the shape of ``out``.
        out: what :func:`_activate` has written.
        dropout: probability that it was given.
        grad_user_half: (B, H) in the dtype of ``out``, overwritten.
    """
    width = out.shape[-1]
    list_length = 1 if grad_user_half is None else out.shape[1]
    num_lists = out.numel() // (width * list_length)
    columns = triton.next_power_of_2(width)
    rows = max(1, _TILE_SIZE // columns)
    num_programs = triton.cdiv(num_lists, rows * _TILES_PER_PROGRAM)
    bias_sums = torch.empty((num_programs, width), dtype=torch.float32, device=out.device)
    _activate_backward_kernel[(num_programs,)](
        grad_x,
        grad_out.contiguous(),
        out,
        grad_x if grad_user_half is None else grad_user_half,
        bias_sums,
        num_lists,
        1 / (1 - dropout),
        LIST_LENGTH=list_length,
        WIDTH=width,
        BLOCK_COLUMNS=columns,
        BLOCK_ROWS=rows,
        NUM_TILES=_TILES_PER_PROGRAM,
        HAS_USER=grad_user_half is not None,
    )
    torch.sum(bias_sums, 0, out=grad_bias)


@triton.jit
def _activate_quarter(
    out_ptr, x_ptr, user_half_ptr, bias_ptr, random, at, n_elements, threshold, scale, LIST_LENGTH: tl.constexpr,
    WIDTH: tl.constexpr, HAS_USER: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    """Write elements ``at`` of the activations, by 32 random bits for each."""
    mask = at < n_elements
    column = at % WIDTH
    value = tl.load(x_ptr + at, mask=mask, other=0).to(tl.float32) + tl.load(bias_ptr + column, mask=mask, other=0)
    if HAS_USER:
        user_at = at // (LIST_LENGTH * WIDTH) * WIDTH + column
        value += tl.load(user_half_ptr + user_at, mask=mask, other=0).to(tl.float32)
    kept = value > 0
    if DROPOUT:
        kept = kept & (random.to(tl.uint32, bitcast=True) >= threshold)
    tl.store(out_ptr + at, tl.where(kept, value * scale, 0.0).to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _activate_kernel(
    out_ptr, x_ptr, user_half_ptr, bias_ptr, seed_ptr, n_elements, threshold, scale, LIST_LENGTH: tl.constexpr,
    WIDTH: tl.constexpr, HAS_USER: tl.constexpr, DROPOUT: tl.constexpr, QUARTER_SIZE: tl.constexpr,
):  # fmt: skip
    """Write four neighbouring runs of ``QUARTER_SIZE`` elements: the generator gives four numbers at a time.

    Tensors as in :func:`_activate`.

    Args:
        n_elements: number of elements of ``out``.
        threshold: an activation is dropped if its 32 random bits are below.
        scale: factor of the activations that are kept.
        LIST_LENGTH: C, number of rows that share a row of ``user_half``.
        WIDTH: H.
        HAS_USER: whether ``user_half`` is read.
        DROPOUT: whether ``seed`` is read.
    """
    at = tl.program_id(0).to(tl.int64) * (4 * QUARTER_SIZE) + tl.arange(0, QUARTER_SIZE)
    random = at, at, at, at
    if DROPOUT:
        random = tl.randint4x(tl.load(seed_ptr), tl.program_id(0) * QUARTER_SIZE + tl.arange(0, QUARTER_SIZE))
    for quarter in tl.static_range(4):
        _activate_quarter(
            out_ptr, x_ptr, user_half_ptr, bias_ptr, random[quarter], at, n_elements, threshold, scale, LIST_LENGTH,
            WIDTH, HAS_USER, DROPOUT,
        )  # fmt: skip
        at += QUARTER_SIZE


@triton.jit
def _activate_backward_kernel(
    grad_x_ptr, grad_out_ptr, out_ptr, grad_user_half_ptr, bias_sums_ptr, n_lists, scale, LIST_LENGTH: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, BLOCK_ROWS: tl.constexpr, NUM_TILES: tl.constexpr,
    HAS_USER: tl.constexpr,
):  # fmt: skip
    """Write the gradients of ``NUM_TILES`` tiles of ``BLOCK_ROWS`` lists by ``BLOCK_COLUMNS`` columns in each program.

    Tensors as in :func:`_activate_backward`. Each program p writes its sum of the bias's gradients to row p of
    ``bias_sums`` (programs, H).

    Args:
        n_lists: B, or n without a users' half.
        scale: factor of the activations that were kept.
        LIST_LENGTH: C, or 1 without a users' half.
        WIDTH: H, at most ``BLOCK_COLUMNS``.
        HAS_USER: whether ``grad_user_half`` is written.
    """
    program = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK_COLUMNS)
    bias_sum = tl.zeros([BLOCK_COLUMNS], dtype=tl.float32)
    for tile in range(NUM_TILES):
        row = (program * NUM_TILES + tile) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        mask = (row < n_lists)[:, None] & (column < WIDTH)[None, :]
        list_sum = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], dtype=tl.float32)
        for slot in range(LIST_LENGTH):
            at = (row * LIST_LENGTH + slot)[:, None] * WIDTH + column[None, :]
            kept = tl.load(out_ptr + at, mask=mask, other=0) > 0
            grad = tl.where(kept, tl.load(grad_out_ptr + at, mask=mask, other=0).to(tl.float32) * scale, 0.0)
            tl.store(grad_x_ptr + at, grad.to(grad_x_ptr.dtype.element_ty), mask=mask)
            list_sum += grad
        if HAS_USER:
            at = row[:, None] * WIDTH + column[None, :]
            tl.store(grad_user_half_ptr + at, list_sum.to(grad_user_half_ptr.dtype.element_ty), mask=mask)
        bias_sum += tl.sum(list_sum, 0)
    tl.store(bias_sums_ptr + program * WIDTH + column, bias_sum, mask=column < WIDTH)
