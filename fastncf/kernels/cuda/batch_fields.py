"""Columns of the batches of a :class:`~fastncf.kernels.cuda.batches.Plan`, as kernels read them."""

import triton.language as tl

from fastncf.kernels.cuda.batches import NUM_FIELDS

_FIRST_WINDOW = tl.constexpr(0)
_NUM_WINDOWS = tl.constexpr(1)
_FIRST_TOKEN = tl.constexpr(2)
_FIRST_POSITION = tl.constexpr(3)
_NUM_POSITIONS = tl.constexpr(4)
_PLAN_POSITION = tl.constexpr(5)
_FIRST_USE = tl.constexpr(6)
_NUM_USES = tl.constexpr(7)
_NUMBER = tl.constexpr(8)
_POSITIONS_BEFORE = tl.constexpr(9)

_NUM_FIELDS = tl.constexpr(NUM_FIELDS)
