"""A whole training step of an MLP with two hidden layers on a CUDA device, by two Triton kernels.

The first gathers a tile of samples, climbs the layers, comes down again and adds all gradients up; no activation is
written to memory. The second is Adam (Kingma and Ba 2015) over all parameters, which lie in one vector, and clears the
gradients for the next step. Matrix products are in TF32, sums in float32. Gradients meet in atomic operations, so that
the last bits depend on the order of arrival.
"""

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 64
_ADAM_BLOCK = 1024


def add_gradients(
    parameters: Tensor,
    gradients: Tensor,
    losses: Tensor,
    order: Tensor,
    user: Tensor,
    positive: Tensor,
    negatives: Tensor,
    step: Tensor,
    offset: int,
    rows: int,
    count: int,
    num_users: int,
    num_items: int,
    dim: int,
    layers: tuple[int, int],
    l2: float,
) -> None:
    """Add the gradients of a batch's mean cross entropy and l2 term, and its summed loss.

    Args:
        parameters: (P,) float32: user vectors (U, D), item vectors (I, D), then weight and bias of each layer.
        gradients: (P,) float32, added to.
        losses: (programs,) float64, added to: one sum for each program.
        order: (N,) int, rows of the CSR.
        user: (N,) int32, the user of each row.
        positive: (N,) int32.
        negatives: (N, K) int32.
        step: (1,) int64, the number of a batch; ``offset`` is added to it.
        offset: added to ``step``.
        rows: rows of the order in a batch.
        count: rows of this one, which may be the last.
        num_users: U.
        num_items: I.
        dim: D.
        layers: widths of the hidden layers.
        l2: weight of the mean squared norms.
    """
    group = 1 + negatives.shape[1]
    _add_gradients[(len(losses),)](
        parameters,
        gradients,
        losses,
        order,
        user,
        positive,
        negatives,
        step,
        offset,
        rows,
        count,
        1 / max(1, count * group),
        2 * l2 / max(1, count * group),
        num_users * dim,
        (num_users + num_items) * dim,
        GROUP=group,
        DIM=dim,
        FIRST=layers[0],
        SECOND=layers[1],
        BLOCK=BLOCK,
        num_warps=8 if dim == 64 else 4,  # what a thread holds of wider tiles would not fit its registers by far
    )


def adam(
    parameters: Tensor, gradients: Tensor, mean: Tensor, square: Tensor, rates: Tensor, step: Tensor, offset: int
) -> None:
    """A step of Adam (betas .9 and .999, epsilon 1e-8), after which the gradients are 0.

    Args:
        parameters: (P,) float32, moved.
        gradients: (P,) float32, cleared.
        mean: (P,) float32, running mean of the gradients.
        square: (P,) float32, running mean of their squares.
        rates: (S, 2) float32: of each step of the epoch, the learning rate over the first bias correction, and the
            root of the second.
        step: (1,) int64, the number of a step; ``offset`` is added to it.
        offset: added to ``step``.
    """
    grid = (triton.cdiv(len(parameters), _ADAM_BLOCK),)
    _adam[grid](parameters, gradients, mean, square, rates, step, offset, len(parameters), BLOCK=_ADAM_BLOCK)


@triton.jit(do_not_specialize=["offset"])
def _adam(parameters, gradients, mean, square, rates, step, offset, count, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < count
    now = rates + 2 * (tl.load(step) + offset)
    rate, root = tl.load(now), tl.load(now + 1)
    gradient = tl.load(gradients + at, mask=inside, other=0)
    first = tl.load(mean + at, mask=inside, other=0)
    second = tl.load(square + at, mask=inside, other=0)
    value = tl.load(parameters + at, mask=inside, other=0)
    first += (gradient - first) * 0.1
    second = second * 0.999 + gradient * gradient * 0.001
    value -= rate * first / (tl.sqrt(second) / root + 1e-8)
    tl.store(mean + at, first, mask=inside)
    tl.store(square + at, second, mask=inside)
    tl.store(parameters + at, value, mask=inside)
    tl.store(gradients + at, tl.zeros([BLOCK], dtype=tl.float32), mask=inside)


@triton.jit(do_not_specialize=["offset", "rows", "count"])
def _add_gradients(
    parameters, gradients, losses, order, users, positive, negatives, step, offset, rows, count, share, decay,
    items_from, layers_from, GROUP: tl.constexpr, DIM: tl.constexpr, FIRST: tl.constexpr, SECOND: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    inputs: tl.constexpr = 2 * DIM
    start = (tl.load(step) + offset) * rows
    column, one, two = tl.arange(0, inputs), tl.arange(0, FIRST), tl.arange(0, SECOND)
    first_at = layers_from + one[:, None] * inputs + column[None, :]  # (FIRST, inputs)
    bias_1_at = layers_from + FIRST * inputs + one
    second_at = layers_from + FIRST * (inputs + 1) + two[:, None] * FIRST + one[None, :]  # (SECOND, FIRST)
    bias_2_at = layers_from + FIRST * (inputs + 1) + SECOND * FIRST + two
    output_at = bias_2_at + SECOND
    bias_3_at = layers_from + FIRST * (inputs + 1) + SECOND * (FIRST + 2)
    first, bias_1 = tl.load(parameters + first_at), tl.load(parameters + bias_1_at)
    second, bias_2 = tl.load(parameters + second_at), tl.load(parameters + bias_2_at)
    output, bias_3 = tl.load(parameters + output_at), tl.load(parameters + bias_3_at)
    of_first = tl.zeros([FIRST, inputs], dtype=tl.float32)
    of_second = tl.zeros([SECOND, FIRST], dtype=tl.float32)
    of_bias_1 = tl.zeros([FIRST], dtype=tl.float32)
    of_bias_2 = tl.zeros([SECOND], dtype=tl.float32)
    of_output = tl.zeros([SECOND], dtype=tl.float32)
    of_bias_3 = tl.zeros([BLOCK], dtype=tl.float32)
    loss = tl.zeros([BLOCK], dtype=tl.float32)
    tile = tl.program_id(0)
    while tile * BLOCK < count * GROUP:
        sample = tile * BLOCK + tl.arange(0, BLOCK)
        inside = sample < count * GROUP
        slot = sample % GROUP
        row = tl.load(order + start + sample // GROUP, mask=inside, other=0).to(tl.int64)
        user = tl.load(users + row, mask=inside, other=0)
        item = tl.load(positive + row, mask=inside & (slot == 0), other=0)
        item += tl.load(negatives + row * (GROUP - 1) + slot - 1, mask=inside & (slot > 0), other=0)
        at = tl.where(
            column[None, :] < DIM,
            user[:, None] * DIM + column[None, :],
            items_from + item[:, None] * DIM + column[None, :] - DIM,
        )
        x = tl.load(parameters + at, mask=inside[:, None], other=0)
        h1 = tl.maximum(tl.dot(x, tl.trans(first)) + bias_1[None, :], 0.0)
        h2 = tl.maximum(tl.dot(h1, tl.trans(second)) + bias_2[None, :], 0.0)
        logit = tl.sum(h2 * output[None, :], 1) + bias_3
        signed = tl.where(slot == 0, -logit, logit)
        entropy = tl.maximum(signed, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(signed)))
        loss += tl.where(inside, entropy, 0.0)
        slope = tl.where(inside, (1.0 / (1.0 + tl.exp(-logit)) - (slot == 0).to(tl.float32)) * share, 0.0)
        of_output += tl.sum(h2 * slope[:, None], 0)
        of_bias_3 += slope
        d2 = tl.where(h2 > 0, slope[:, None] * output[None, :], 0.0)
        of_bias_2 += tl.sum(d2, 0)
        of_second += tl.dot(tl.trans(d2), h1)
        d1 = tl.where(h1 > 0, tl.dot(d2, second), 0.0)
        of_bias_1 += tl.sum(d1, 0)
        of_first += tl.dot(tl.trans(d1), x)
        tl.atomic_add(gradients + at, tl.dot(d1, first) + decay * x, mask=inside[:, None], sem="relaxed")
        tile += tl.num_programs(0)
    tl.atomic_add(gradients + first_at, of_first, sem="relaxed")
    tl.atomic_add(gradients + second_at, of_second, sem="relaxed")
    tl.atomic_add(gradients + bias_1_at, of_bias_1, sem="relaxed")
    tl.atomic_add(gradients + bias_2_at, of_bias_2, sem="relaxed")
    tl.atomic_add(gradients + output_at, of_output, sem="relaxed")
    tl.atomic_add(gradients + bias_3_at, tl.sum(of_bias_3, 0), sem="relaxed")
    mine = losses + tl.program_id(0)
    tl.store(mine, tl.load(mine) + tl.sum(loss, 0))
