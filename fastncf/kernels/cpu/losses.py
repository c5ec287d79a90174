"""Losses of the CPU kernels and their gradients with respect to scores.

The loss of an interaction is the sum over its samples of ``multiplicity * softplus(margin)``, where ``softplus(x) =
log(1 + exp(x))`` and the margins are functions of the scores: :func:`to_margins` computes them in place, the positive's
first. The derivative of softplus is the sigmoid; :func:`to_gradients` turns the sigmoids of the margins into the
derivatives with respect to the scores.

To add a loss to the CPU kernels, give it the next number here and in :data:`CODES`, add its case to
:func:`to_margins` and :func:`to_gradients`, and name the number as ``cpu_kernel`` in :mod:`fastncf.models.losses`. A
loss whose terms are no softplus also needs an intrinsic beside :func:`softplus`, and a case where that is called.
``tests/kernels/test_losses.py`` compares every entry of that table with autograd. Numba compiles what stands here into
the kernels that use it and keeps those on disk until their own file changes: delete ``fastncf/kernels/cpu/__pycache__``
after a change.

Terms, multiplied by how often they count, are computed in float32, and added up in float64, where a sum of 10^8 of them
is exact to 1e-9.

All memory is given by pointers, see :func:`fastncf.kernels.cpu.simd.pointer`.
"""

from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastncf.kernels.cpu.compiling import njit
from fastncf.kernels.cpu.simd import LANES, VectorBuilder, get, put

BCE, BPR = range(2)
CODES = BCE, BPR
"""Codes of the losses that the CPU kernels compute: binary cross entropy, and Bayesian personalized ranking."""

_ZERO, _ONE = np.float32(0), np.float32(1)


def require_code(code: int | None) -> int:
    """Return the code of a loss.

    Raises:
        ValueError: the CPU kernels have no such loss.
    """
    if code not in CODES:
        raise ValueError(f"loss code {code!r}: expected one of {', '.join(map(str, CODES))}, see {__name__}")
    return code


class LossBuffers(NamedTuple):
    """Scratch memory of losses and gradients; pointers.

    Attributes:
        scores: (P,) float32, scores of samples, replaced by gradients.
        multiplicity: (P,) float32, how often each sample counts: 1 for a positive, 0 behind the last sample.
        loss_sums: (LANES,) float64, the terms of the loss are added to these numbers, see :func:`add_loss_sums`.
        width: P, a multiple of ``LANES``, int64.
    """

    scores: Any
    multiplicity: Any
    loss_sums: Any
    width: int


@njit(inline="always")
def loss_gradients(buffers, size, loss):
    """Replace the scores of one interaction by the derivatives of its loss with respect to them.

    Args:
        buffers: :class:`LossBuffers`; the scores of ``size`` distinct samples, the positive's first.
        size: number of samples, int64.
        loss: code of the loss.

    Returns:
        The sum of the derivatives, each as often as its sample counts: float32.
    """
    to_margins(buffers, 0, size, loss)
    total = softplus(buffers.scores, buffers.multiplicity, buffers.width, buffers.loss_sums)
    return to_gradients(buffers, 0, total, loss)


@njit(inline="always")
def batch_loss_gradients(buffers, num_interactions, group_size, scale, loss):
    """Replace the scores of many interactions by the derivatives of ``scale`` times their loss with respect to them.

    Args:
        buffers: :class:`LossBuffers`; the scores of B groups of 1 + K samples, each with its positive first, and the
            weight of each sample's interaction as its multiplicity.
        num_interactions: B, int64.
        group_size: 1 + K, int64.
        scale: float32, such as 1 / (number of terms in a batch) for the gradient of a mean.
        loss: code of the loss.

    Returns:
        The loss, summed and not scaled: float64.
    """
    samples = num_interactions * group_size
    for s in range(samples, buffers.width):
        put(buffers.multiplicity, s, _ZERO)
        put(buffers.scores, s, _ZERO)
    for first in range(0, samples, group_size):
        to_margins(buffers, first, first + group_size, loss)
    softplus(buffers.scores, buffers.multiplicity, buffers.width, buffers.loss_sums)
    for first in range(0, samples, group_size):
        total = _ZERO
        for s in range(first, first + group_size):
            total += get(buffers.scores, s)
        to_gradients(buffers, first, total, loss)
        for s in range(first, first + group_size):
            put(buffers.scores, s, get(buffers.scores, s) * scale)
    return add_loss_sums(0.0, buffers.loss_sums)


@njit(inline="always")
def to_margins(buffers, first, stop, loss):
    """Replace the scores ``first`` to ``stop`` of an interaction by the arguments of the terms of its loss.

    The terms of ``BCE`` are softplus(-positive) and softplus(negative) for each negative; those of ``BPR`` are
    softplus(negative - positive), so that the positive has no term and multiplicity 0 until :func:`to_gradients`.
    """
    if loss == BPR:
        positive = get(buffers.scores, first)
        for k in range(first + 1, stop):
            put(buffers.scores, k, get(buffers.scores, k) - positive)
        put(buffers.multiplicity, first, _ZERO)
    else:
        put(buffers.scores, first, -get(buffers.scores, first))


@njit(inline="always")
def to_gradients(buffers, first, total, loss):
    """Turn the derivatives of an interaction's terms into those of its loss; return their sum.

    Args:
        buffers: derivatives of the terms with respect to their arguments, in place of the scores.
        first: where the positive is.
        total: sum of the derivatives of the terms.
        loss: code of the loss.
    """
    if loss == BPR:
        put(buffers.scores, first, -total)
        put(buffers.multiplicity, first, _ONE)
        return _ZERO
    positive = -get(buffers.scores, first)
    put(buffers.scores, first, positive)
    return total + positive + positive


@njit(inline="always")
def add_loss_sums(loss, loss_sums):
    """Return ``loss`` (float64) plus the ``LANES`` numbers of ``loss_sums``, which become 0."""
    for lane in range(LANES):
        loss += get(loss_sums, lane)
        put(loss_sums, lane, 0.0)
    return loss


@intrinsic
def softplus(typingctx, x, multiplicity, width, loss_sums):
    """Add ``multiplicity * log(1 + exp(x))`` to ``loss_sums`` by lanes, and replace x by ``multiplicity * sigmoid(x)``.

    x (P,) and multiplicity (P,) float32, loss_sums (LANES,) float64, width P int64, a multiple of LANES. Returns the
    sum of the new x: float32.
    """

    def generate(context, builder, signature, arguments):
        vec = VectorBuilder(context, builder, signature, arguments)
        x, multiplicity, width, loss_sums = vec.arguments
        zero, one, large = vec.constant(0.0), vec.constant(1.0), vec.constant(87.0)
        derivatives = vec.alloca()
        builder.store(zero, derivatives)
        doubles = ir.VectorType(ir.DoubleType(), vec.lanes)
        sums, losses = builder.bitcast(loss_sums, doubles.as_pointer()), cgutils.alloca_once(builder, doubles)
        builder.store(builder.load(sums, align=8), losses)
        with vec.for_each_vector(width) as (at, _):
            number, count = vec.load(x, at), vec.load(multiplicity, at)
            size = vec.select(number, "<", zero, builder.fneg(number), number)
            e = vec.exp(builder.fneg(vec.select(size, "<", large, size, large)))
            value = vec.add(vec.log1p(e), vec.select(number, "<", zero, zero, number))
            term = builder.fpext(builder.fmul(value, count), doubles)
            builder.store(builder.fadd(builder.load(losses), term), losses)
            upper = vec.select(number, ">=", zero, count, builder.fmul(count, e))
            derivative = builder.fdiv(upper, builder.fadd(one, e))
            builder.store(builder.fadd(builder.load(derivatives), derivative), derivatives)
            vec.store(derivative, x, at)
        builder.store(builder.load(losses), sums, align=8)
        return vec.reduce_add(builder.load(derivatives))

    return types.float32(x, multiplicity, width, loss_sums), generate
