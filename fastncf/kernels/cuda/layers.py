"""Hidden layers on a CUDA device by Triton: bias, ReLU and dropout in one pass each way, the bias's gradient with it.

torch's own operations read and write an activation several times for what is one pass here, and keep a mask beside it.
None is needed: what ReLU or dropout set to zero is zero in the output. The matrix products stay with cuBLAS.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

_QUARTER = 512
_TILE = 4096
_TILES = 8


def climb(hidden: Sequence[nn.Linear], user: Tensor, item: Tensor, dropout: float) -> Tensor:
    """ReLU layers over (user, item) side by side, each followed by dropout.

    Args:
        hidden: the layers.
        user: (B, 1, D) vectors, in the dtype of the computation.
        item: (B, C, E) vectors.
        dropout: probability that an activation is set to 0.

    Returns:
        (B, C, H) activations of the last layer.
    """
    first = hidden[0]
    of_user, of_item = first.weight.to(user.dtype).split([user.shape[-1], item.shape[-1]], dim=1)
    rows, group = item.shape[:2]
    seeds = torch.zeros(len(hidden), dtype=torch.int64, device=user.device)
    if dropout:
        seeds.random_(2**31)  # drawn on the device, anew each time that a CUDA graph runs
    x: Tensor = _Halves.apply(user.reshape(rows, -1) @ of_user.T, item @ of_item.T, first.bias, seeds[0], dropout)
    x = x.reshape(rows * group, -1)
    for number, layer in enumerate(hidden[1:], start=1):
        x = _Layer.apply(x, layer.weight, layer.bias, seeds[number], dropout)
    return x.view(rows, group, -1)


class _Halves(torch.autograd.Function):
    """The first layer's activations (B, C, H) from its two halves: of users (B, H), and of items (B, C, H)."""

    @staticmethod
    def forward(ctx: Any, user: Tensor, item: Tensor, bias: Tensor, seed: Tensor, dropout: float) -> Tensor:
        out = torch.empty_like(item)
        _activate(out, item, bias, seed, dropout, user=user)
        ctx.save_for_backward(out)
        ctx.dropout = dropout
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (out,) = ctx.saved_tensors
        of_user = torch.empty((len(out), out.shape[-1]), dtype=out.dtype, device=out.device)
        of_item, of_bias = _deactivate(gradient, out, ctx.dropout, of_user=of_user)
        return of_user, of_item, of_bias, None, None


class _Layer(torch.autograd.Function):
    """Activations (n, H) of a layer over (n, G)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, seed: Tensor, dropout: float) -> Tensor:
        weight = weight.to(x.dtype)
        out = x @ weight.T
        _activate(out, out, bias, seed, dropout)
        ctx.save_for_backward(x, weight, out)
        ctx.dropout = dropout
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, out = ctx.saved_tensors
        of_sum, of_bias = _deactivate(gradient, out, ctx.dropout)
        return of_sum @ weight, (of_sum.T @ x).float(), of_bias, None, None


def _activate(
    out: Tensor, x: Tensor, bias: Tensor, seed: Tensor, dropout: float, *, user: Tensor | None = None
) -> None:
    """Dropout of ReLU of ``x`` + ``bias``, and + ``user`` where it is given, into ``out``, which may be ``x``."""
    _activate_kernel[(triton.cdiv(out.numel(), 4 * _QUARTER),)](
        out,
        x,
        x if user is None else user,
        bias,
        seed,
        out.numel(),
        round(dropout * 2**32),
        1 / (1 - dropout),
        GROUP=1 if user is None else out.shape[1],
        WIDTH=out.shape[-1],
        HAS_USER=user is not None,
        DROPOUT=dropout > 0,
        QUARTER=_QUARTER,
    )


def _deactivate(
    gradient: Tensor, out: Tensor, dropout: float, *, of_user: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Gradients of what :func:`_activate` added up: of ``x``, and (H,) float32 of the bias; ``of_user`` is filled."""
    gradient = gradient.contiguous()
    of_x = torch.empty_like(out)
    width = out.shape[-1]
    columns = triton.next_power_of_2(width)
    rows = max(1, _TILE // columns)
    group = 1 if of_user is None else out.shape[1]
    count = out.numel() // (width * group)
    programs = triton.cdiv(count, rows * _TILES)
    sums = torch.empty((programs, width), dtype=torch.float32, device=out.device)
    _deactivate_kernel[(programs,)](
        of_x,
        gradient,
        out,
        of_x if of_user is None else of_user,
        sums,
        count,
        1 / (1 - dropout),
        GROUP=group,
        WIDTH=width,
        COLUMNS=columns,
        ROWS=rows,
        TILES=_TILES,
        HAS_USER=of_user is not None,
    )
    return of_x, sums.sum(0)


@triton.jit
def _activate_quarter(
    out, x, user, bias, random, at, total, threshold, scale, GROUP: tl.constexpr, WIDTH: tl.constexpr,
    HAS_USER: tl.constexpr, DROPOUT: tl.constexpr,
):  # fmt: skip
    inside = at < total
    column = at % WIDTH
    value = tl.load(x + at, mask=inside, other=0).to(tl.float32) + tl.load(bias + column, mask=inside, other=0)
    if HAS_USER:
        value += tl.load(user + at // (GROUP * WIDTH) * WIDTH + column, mask=inside, other=0).to(tl.float32)
    kept = value > 0
    if DROPOUT:
        kept = kept & (random.to(tl.uint32, bitcast=True) >= threshold)
    tl.store(out + at, tl.where(kept, value * scale, 0.0).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _activate_kernel(
    out, x, user, bias, seed, total, threshold, scale, GROUP: tl.constexpr, WIDTH: tl.constexpr,
    HAS_USER: tl.constexpr, DROPOUT: tl.constexpr, QUARTER: tl.constexpr,
):  # fmt: skip
    # Four neighbouring runs of elements, since the generator gives four numbers at a time.
    first = tl.program_id(0).to(tl.int64) * (4 * QUARTER) + tl.arange(0, QUARTER)
    r0, r1, r2, r3 = first, first, first, first
    if DROPOUT:
        r0, r1, r2, r3 = tl.randint4x(tl.load(seed), tl.program_id(0) * QUARTER + tl.arange(0, QUARTER))
    _activate_quarter(out, x, user, bias, r0, first, total, threshold, scale, GROUP, WIDTH, HAS_USER, DROPOUT)
    first += QUARTER
    _activate_quarter(out, x, user, bias, r1, first, total, threshold, scale, GROUP, WIDTH, HAS_USER, DROPOUT)
    first += QUARTER
    _activate_quarter(out, x, user, bias, r2, first, total, threshold, scale, GROUP, WIDTH, HAS_USER, DROPOUT)
    first += QUARTER
    _activate_quarter(out, x, user, bias, r3, first, total, threshold, scale, GROUP, WIDTH, HAS_USER, DROPOUT)


@triton.jit
def _deactivate_kernel(
    of_x, gradient, out, of_user, sums, count, scale, GROUP: tl.constexpr, WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr, ROWS: tl.constexpr, TILES: tl.constexpr, HAS_USER: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, COLUMNS)
    total = tl.zeros([COLUMNS], dtype=tl.float32)
    for tile in range(TILES):
        row = (program * TILES + tile) * ROWS + tl.arange(0, ROWS)
        inside = (row < count)[:, None] & (column < WIDTH)[None, :]
        of_group = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
        for member in range(GROUP):
            at = (row * GROUP + member)[:, None] * WIDTH + column[None, :]
            passed = tl.load(out + at, mask=inside, other=0) > 0
            value = tl.where(passed, tl.load(gradient + at, mask=inside, other=0).to(tl.float32) * scale, 0.0)
            tl.store(of_x + at, value.to(of_x.dtype.element_ty), mask=inside)
            of_group += value
        if HAS_USER:
            at = row[:, None] * WIDTH + column[None, :]
            tl.store(of_user + at, of_group.to(of_user.dtype.element_ty), mask=inside)
        total += tl.sum(of_group, 0)
    tl.store(sums + program * WIDTH + column, total, mask=column < WIDTH)
