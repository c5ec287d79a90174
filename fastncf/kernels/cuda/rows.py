"""Rows of embedding tables on a CUDA device by Triton: lookups in the dtype of the computation, and dot products.

The dot products are those of a user's vector with the vectors of a list of items, weighted by dimension as in GMF (He
et al. 2017, eq. 8-9). The vectors of a list are read and never written. Gradients are added into the tables by atomic
operations, so that the last bits depend on the order in which they arrive.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILE_SIZE = 2048
_TILES_PER_PROGRAM = 4


class Gather(torch.autograd.Function):
    """Rows (..., D) of a table (R, D) float32 in another dtype.

    Args of ``apply``: table (R, D) float32, rows (...) int, dtype of the result.
    """

    @staticmethod
    def forward(ctx: Any, table: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
        out = torch.empty((*rows.shape, table.shape[1]), dtype=dtype, device=table.device)
        rows = rows.contiguous()
        _launch(_gather_kernel, rows.numel(), table.shape[1], out, table, rows)
        ctx.save_for_backward(rows)
        ctx.table_shape = table.shape
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, None, None]:
        (rows,) = ctx.saved_tensors
        grad_table = torch.zeros(ctx.table_shape, dtype=torch.float32, device=grad_out.device)
        _launch(_scatter_kernel, rows.numel(), grad_table.shape[1], grad_table, grad_out.contiguous(), rows)
        return grad_table, None, None


class Dot(torch.autograd.Function):
    """Scores (B, C): sums over D of user vector times item vector times weight.

    Args of ``apply``: user table (U, D) float32, item table (I, D) float32, weight (D,) float32, users (B,) int,
    items (B, C) int.
    """

    @staticmethod
    def forward(
        ctx: Any, user_table: Tensor, item_table: Tensor, weight: Tensor, users: Tensor, items: Tensor
    ) -> Tensor:
        items = items.contiguous()
        out = torch.empty(items.shape, dtype=torch.float32, device=user_table.device)
        columns, rows = _tile_shape(user_table.shape[1])
        _dot_kernel[(triton.cdiv(items.numel(), rows),)](
            *(out, user_table, item_table, weight, users, items, items.numel()),
            LIST_LENGTH=items.shape[1],
            DIM=user_table.shape[1],
            BLOCK_COLUMNS=columns,
            BLOCK_ROWS=rows,
        )
        ctx.save_for_backward(user_table, item_table, weight, users, items)
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        user_table, item_table, weight, users, items = ctx.saved_tensors
        grad_user, grad_item = torch.zeros_like(user_table), torch.zeros_like(item_table)
        columns, rows = _tile_shape(user_table.shape[1])
        num_programs = triton.cdiv(len(items), rows * _TILES_PER_PROGRAM)
        grad_weight = torch.empty((num_programs, user_table.shape[1]), dtype=torch.float32, device=user_table.device)
        _dot_backward_kernel[(num_programs,)](
            *(grad_user, grad_item, grad_weight, grad_out.contiguous()),
            *(user_table, item_table, weight, users, items, len(items)),
            LIST_LENGTH=items.shape[1],
            DIM=user_table.shape[1],
            BLOCK_COLUMNS=columns,
            BLOCK_ROWS=rows,
            NUM_TILES=_TILES_PER_PROGRAM,
        )
        return grad_user, grad_item, grad_weight.sum(0), None, None


def _launch(kernel: Any, num_rows: int, dim: int, *tensors: Tensor) -> None:
    """Start a kernel over ``num_rows`` rows of width ``dim``."""
    columns, rows = _tile_shape(dim)
    kernel[(triton.cdiv(num_rows, rows),)](*tensors, num_rows, DIM=dim, BLOCK_COLUMNS=columns, BLOCK_ROWS=rows)


def _tile_shape(dim: int) -> tuple[int, int]:
    """Return how many columns, a power of 2, and rows a tile of rows of width ``dim`` has."""
    columns = triton.next_power_of_2(dim)
    return columns, max(1, _TILE_SIZE // columns)


@triton.jit
def _gather_kernel(
    out_ptr, table_ptr, rows_ptr, n_rows, DIM: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, BLOCK_ROWS: tl.constexpr
):  # fmt: skip
    """Copy rows of ``table`` (R, DIM) to ``out`` (n_rows, DIM), by their numbers ``rows`` (n_rows,).

    Each program copies a tile of ``BLOCK_ROWS`` rows by ``BLOCK_COLUMNS`` columns, of which ``DIM`` are used.
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.arange(0, BLOCK_COLUMNS)[None, :]
    mask = (at < n_rows)[:, None] & (column < DIM)
    row = tl.load(rows_ptr + at, mask=at < n_rows, other=0).to(tl.int64)
    value = tl.load(table_ptr + row[:, None] * DIM + column, mask=mask, other=0)
    tl.store(out_ptr + at[:, None] * DIM + column, value.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _scatter_kernel(
    grad_table_ptr, grad_out_ptr, rows_ptr, n_rows, DIM: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """Add ``grad_out`` (n_rows, DIM) to rows of ``grad_table`` (R, DIM), by their numbers ``rows`` (n_rows,).

    Each program adds a tile of ``BLOCK_ROWS`` rows by ``BLOCK_COLUMNS`` columns, of which ``DIM`` are used.
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.arange(0, BLOCK_COLUMNS)[None, :]
    mask = (at < n_rows)[:, None] & (column < DIM)
    row = tl.load(rows_ptr + at, mask=at < n_rows, other=0).to(tl.int64)
    value = tl.load(grad_out_ptr + at[:, None] * DIM + column, mask=mask, other=0).to(tl.float32)
    tl.atomic_add(grad_table_ptr + row[:, None] * DIM + column, value, mask=mask, sem="relaxed")


@triton.jit
def _dot_kernel(
    out_ptr, user_table_ptr, item_table_ptr, weight_ptr, users_ptr, items_ptr, n_pairs, LIST_LENGTH: tl.constexpr,
    DIM: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, BLOCK_ROWS: tl.constexpr,
):  # fmt: skip
    """Write the scores ``out`` of ``n_pairs`` = B * C pairs, ``BLOCK_ROWS`` of them in each program.

    Tensors as in :class:`Dot`. ``LIST_LENGTH`` is C and ``DIM`` is D, at most ``BLOCK_COLUMNS``.
    """
    at = tl.program_id(0).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.arange(0, BLOCK_COLUMNS)[None, :]
    mask = (at < n_pairs)[:, None] & (column < DIM)
    row = tl.load(users_ptr + at // LIST_LENGTH, mask=at < n_pairs, other=0).to(tl.int64)
    value = tl.load(user_table_ptr + row[:, None] * DIM + column, mask=mask, other=0)
    value *= tl.load(weight_ptr + column, mask=column < DIM, other=0)
    row = tl.load(items_ptr + at, mask=at < n_pairs, other=0).to(tl.int64)
    value *= tl.load(item_table_ptr + row[:, None] * DIM + column, mask=mask, other=0)
    tl.store(out_ptr + at, tl.sum(value, 1), mask=at < n_pairs)


@triton.jit
def _dot_backward_kernel(
    grad_user_ptr, grad_item_ptr, grad_weight_ptr, grad_out_ptr, user_table_ptr, item_table_ptr, weight_ptr, users_ptr,
    items_ptr, n_lists, LIST_LENGTH: tl.constexpr, DIM: tl.constexpr, BLOCK_COLUMNS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, NUM_TILES: tl.constexpr,
):  # fmt: skip
    """Add the gradients of :class:`Dot`; each program takes ``NUM_TILES`` tiles of ``BLOCK_ROWS`` users with their
    lists.

    Each program p writes its sum of the weight's gradients to row p of ``grad_weight`` (programs, DIM).
    """
    column = tl.arange(0, BLOCK_COLUMNS)
    weight = tl.load(weight_ptr + column, mask=column < DIM, other=0)[None, :]
    weight_sum = tl.zeros([BLOCK_COLUMNS], dtype=tl.float32)
    for tile in range(NUM_TILES):
        at = (tl.program_id(0).to(tl.int64) * NUM_TILES + tile) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        mask = (at < n_lists)[:, None] & (column < DIM)[None, :]
        row = tl.load(users_ptr + at, mask=at < n_lists, other=0).to(tl.int64)
        user_offset = row[:, None] * DIM + column[None, :]
        user = tl.load(user_table_ptr + user_offset, mask=mask, other=0)
        item_sum = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], dtype=tl.float32)  # item vectors times their gradients
        for slot in range(LIST_LENGTH):
            row = tl.load(items_ptr + at * LIST_LENGTH + slot, mask=at < n_lists, other=0).to(tl.int64)
            item_offset = row[:, None] * DIM + column[None, :]
            grad = tl.load(grad_out_ptr + at * LIST_LENGTH + slot, mask=at < n_lists, other=0)[:, None]
            item_sum += tl.load(item_table_ptr + item_offset, mask=mask, other=0) * grad
            tl.atomic_add(grad_item_ptr + item_offset, user * weight * grad, mask=mask, sem="relaxed")
        tl.atomic_add(grad_user_ptr + user_offset, item_sum * weight, mask=mask, sem="relaxed")
        weight_sum += tl.sum(user * item_sum, 0)
    tl.store(grad_weight_ptr + tl.program_id(0).to(tl.int64) * DIM + column, weight_sum, mask=column < DIM)
