"""Rows of tables on a CUDA device by Triton: gathered in the dtype of the computation, and dot products of a user's
with those of a list of items, none of which is written to memory.

Gradients are added into the tables with atomic operations, so that the last bits depend on the order of arrival.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE = 2048
_TILES = 4


class Gather(torch.autograd.Function):
    """Rows (..., D) of a float32 table (R, D) in another dtype."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
        out = torch.empty((*rows.shape, table.shape[1]), dtype=dtype, device=table.device)
        rows = rows.contiguous()
        _launch(_gather, rows.numel(), table.shape[1], out, table, rows)
        ctx.save_for_backward(rows)
        ctx.table_shape = table.shape
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        of_table = torch.zeros(ctx.table_shape, device=gradient.device)
        _launch(_scatter, rows.numel(), of_table.shape[1], of_table, gradient.contiguous(), rows)
        return of_table, None, None


class Dot(torch.autograd.Function):
    """Sums (B, C) over D of user vector times item vector times weight.

    Args of ``apply``: user table (U, D) float32, item table (I, D) float32, weight (D,) float32, users (B,) int,
    items (B, C) int.
    """

    @staticmethod
    def forward(ctx: Any, user: Tensor, item: Tensor, weight: Tensor, users: Tensor, items: Tensor) -> Tensor:
        items = items.contiguous()
        out = torch.empty(items.shape, device=user.device)
        columns, rows = _tile(user.shape[1])
        shape = {"GROUP": items.shape[1], "WIDTH": user.shape[1], "COLUMNS": columns, "ROWS": rows}
        _dot[(triton.cdiv(items.numel(), rows),)](out, user, item, weight, users, items, items.numel(), **shape)
        ctx.save_for_backward(user, item, weight, users, items)
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        user, item, weight, users, items = ctx.saved_tensors
        of_user, of_item = torch.zeros_like(user), torch.zeros_like(item)
        columns, rows = _tile(user.shape[1])
        shape = {"GROUP": items.shape[1], "WIDTH": user.shape[1], "COLUMNS": columns, "ROWS": rows, "TILES": _TILES}
        programs = triton.cdiv(len(items), rows * _TILES)
        of_weight = torch.empty((programs, user.shape[1]), device=user.device)
        tables = of_user, of_item, of_weight, gradient.contiguous(), user, item, weight
        _dot_backward[(programs,)](*tables, users, items, len(items), **shape)
        return of_user, of_item, of_weight.sum(0), None, None


def _launch(kernel: Any, count: int, width: int, *tensors: Tensor) -> None:
    columns, rows = _tile(width)
    kernel[(triton.cdiv(count, rows),)](*tensors, count, WIDTH=width, COLUMNS=columns, ROWS=rows)


def _tile(width: int) -> tuple[int, int]:
    """Columns and rows of a tile of rows of some width."""
    columns = triton.next_power_of_2(width)
    return columns, max(1, _TILE // columns)


@triton.jit
def _gather(out, table, rows, count, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)[None, :]
    inside = (at < count)[:, None] & (column < WIDTH)
    row = tl.load(rows + at, mask=at < count, other=0).to(tl.int64)
    value = tl.load(table + row[:, None] * WIDTH + column, mask=inside, other=0)
    tl.store(out + at[:, None] * WIDTH + column, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _scatter(of_table, gradient, rows, count, WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr):
    at = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)[None, :]
    inside = (at < count)[:, None] & (column < WIDTH)
    row = tl.load(rows + at, mask=at < count, other=0).to(tl.int64)
    value = tl.load(gradient + at[:, None] * WIDTH + column, mask=inside, other=0).to(tl.float32)
    tl.atomic_add(of_table + row[:, None] * WIDTH + column, value, mask=inside, sem="relaxed")


@triton.jit
def _dot(
    out, user, item, weight, users, items, count, GROUP: tl.constexpr, WIDTH: tl.constexpr, COLUMNS: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)[None, :]
    inside = (at < count)[:, None] & (column < WIDTH)
    row = tl.load(users + at // GROUP, mask=at < count, other=0).to(tl.int64)
    value = tl.load(user + row[:, None] * WIDTH + column, mask=inside, other=0)
    value *= tl.load(weight + column, mask=column < WIDTH, other=0)
    row = tl.load(items + at, mask=at < count, other=0).to(tl.int64)
    value *= tl.load(item + row[:, None] * WIDTH + column, mask=inside, other=0)
    tl.store(out + at, tl.sum(value, 1), mask=at < count)


@triton.jit
def _dot_backward(
    of_user, of_item, of_weight, gradient, user, item, weight, users, items, count, GROUP: tl.constexpr,
    WIDTH: tl.constexpr, COLUMNS: tl.constexpr, ROWS: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, COLUMNS)
    scale = tl.load(weight + column, mask=column < WIDTH, other=0)[None, :]
    total = tl.zeros([COLUMNS], dtype=tl.float32)
    for tile in range(TILES):
        at = (tl.program_id(0).to(tl.int64) * TILES + tile) * ROWS + tl.arange(0, ROWS)
        inside = (at < count)[:, None] & (column < WIDTH)[None, :]
        row = tl.load(users + at, mask=at < count, other=0).to(tl.int64)
        user_at = row[:, None] * WIDTH + column[None, :]
        own = tl.load(user + user_at, mask=inside, other=0)
        met = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)  # the sum of the items' vectors times their gradients
        for member in range(GROUP):
            row = tl.load(items + at * GROUP + member, mask=at < count, other=0).to(tl.int64)
            item_at = row[:, None] * WIDTH + column[None, :]
            slope = tl.load(gradient + at * GROUP + member, mask=at < count, other=0)[:, None]
            met += tl.load(item + item_at, mask=inside, other=0) * slope
            tl.atomic_add(of_item + item_at, own * scale * slope, mask=inside, sem="relaxed")
        tl.atomic_add(of_user + user_at, met * scale, mask=inside, sem="relaxed")
        total += tl.sum(own * met, 0)
    tl.store(of_weight + tl.program_id(0).to(tl.int64) * WIDTH + column, total, mask=column < WIDTH)
