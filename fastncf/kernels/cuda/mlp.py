"""A training step of an MLP with two hidden layers on a CUDA device, by two Triton kernels.

The first kernel gathers a tile of samples, computes their scores (He et al. 2017, eq. 10) and the gradients of the mean
binary cross entropy by backpropagation, and adds them up; no activation is written to memory. The second is Adam
(Kingma and Ba 2015) over all parameters, which lie in one vector, and clears the gradients for the next step. Matrix
products are in TF32, sums in float32, and those of the losses in float64. Gradients are added by atomic operations, so
that the last bits depend on the order in which they arrive.
"""

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

BLOCK_SIZE = 64
"""Samples in a tile."""

INT32_LIMIT = 2**31
"""Smallest number of parameters whose positions are computed in 64 bits."""

_ADAM_BLOCK_SIZE = 1024


class MLPShape(NamedTuple):
    """Sizes of the model.

    Attributes:
        num_users: U.
        num_items: I.
        dim: D, 8, 16, 32 or 64.
        width_1: H1, width of the first hidden layer: 16, 32, 64 or 128.
        width_2: H2, width of the second hidden layer: 16, 32, 64 or 128.
    """

    num_users: int
    num_items: int
    dim: int
    width_1: int
    width_2: int


class StepTensors(NamedTuple):
    """Tensors that the steps of an epoch read and write, on one device: P parameters, N interactions, S steps.

    Attributes:
        parameters: (P,) float32: user vectors (U, D), item vectors (I, D), then weight and bias of the first hidden
            layer (H1, 2D), of the second (H2, H1) and of the output (1, H2).
        gradients: (P,) float32, zeros between two steps.
        exp_avg: (P,) float32, Adam's running mean of the gradients.
        exp_avg_sq: (P,) float32, Adam's running mean of the squared gradients.
        step_sizes: (S, 2) float32: for each step the learning rate divided by the first bias correction, and the square
            root of the second.
        losses: (programs,) float64, sum of the losses of the samples of each program; its length is the number of
            programs that share the work of a step.
        order: (N,) int32 or int64, the order of the interactions.
        users: (N,) int32, the user of each interaction.
        positives: (N,) int32, the item of each interaction.
        negatives: (N, K) int32, sampled negatives of each interaction.
        step: (1,) int64, number of steps of the epoch that are done.
    """

    parameters: Tensor
    gradients: Tensor
    exp_avg: Tensor
    exp_avg_sq: Tensor
    step_sizes: Tensor
    losses: Tensor
    order: Tensor
    users: Tensor
    positives: Tensor
    negatives: Tensor
    step: Tensor


def add_gradients(
    tensors: StepTensors, shape: MLPShape, offset: int, interactions_per_batch: int, num_interactions: int, l2: float
) -> None:
    """Add a batch's gradients to ``tensors.gradients`` and its summed loss to ``tensors.losses``.

    The gradients are those of the mean cross entropy of the batch's samples plus ``l2`` times the mean squared norm of
    their user vectors and that of their item vectors.

    Args:
        tensors: the batch is that of step ``tensors.step + offset``.
        shape: sizes of the model.
        offset: see ``tensors``.
        interactions_per_batch: interactions in each batch before this one.
        num_interactions: interactions in this batch.
        l2: weight of the mean squared norms.
    """
    group_size = 1 + tensors.negatives.shape[1]
    num_samples = max(1, num_interactions * group_size)
    _add_gradients_kernel[(len(tensors.losses),)](
        tensors.parameters,
        tensors.gradients,
        tensors.losses,
        tensors.order,
        tensors.users,
        tensors.positives,
        tensors.negatives,
        tensors.step,
        offset,
        interactions_per_batch,
        num_interactions,
        1 / num_samples,
        2 * l2 / num_samples,
        shape.num_users * shape.dim,
        (shape.num_users + shape.num_items) * shape.dim,
        GROUP_SIZE=group_size,
        DIM=shape.dim,
        WIDTH_1=shape.width_1,
        WIDTH_2=shape.width_2,
        BLOCK_SIZE=BLOCK_SIZE,
        INDEX_64=len(tensors.parameters) >= INT32_LIMIT,
        num_warps=8 if shape.dim == 64 else 4,  # wider tiles would need far more registers than a thread has
    )


def adam_step(tensors: StepTensors, offset: int) -> None:
    """Take a step of Adam with betas .9 and .999 and epsilon 1e-8, and set the gradients to 0.

    Args:
        tensors: the step sizes are those of step ``tensors.step + offset``.
        offset: see ``tensors``.
    """
    num_parameters = len(tensors.parameters)
    _adam_kernel[(triton.cdiv(num_parameters, _ADAM_BLOCK_SIZE),)](
        tensors.parameters,
        tensors.gradients,
        tensors.exp_avg,
        tensors.exp_avg_sq,
        tensors.step_sizes,
        tensors.step,
        offset,
        num_parameters,
        BLOCK_SIZE=_ADAM_BLOCK_SIZE,
        INDEX_64=num_parameters >= INT32_LIMIT,
    )


@triton.jit(do_not_specialize=["offset"])
def _adam_kernel(
    parameters_ptr, gradients_ptr, exp_avg_ptr, exp_avg_sq_ptr, step_sizes_ptr, step_ptr, offset, n_parameters,
    BLOCK_SIZE: tl.constexpr, INDEX_64: tl.constexpr,
):  # fmt: skip
    """Update ``BLOCK_SIZE`` parameters in each program; tensors as in :class:`StepTensors`.

    ``INDEX_64`` says whether positions of parameters need 64 bits.
    """
    program = tl.program_id(0)
    if INDEX_64:
        program = program.to(tl.int64)
    at = program * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
    mask = at < n_parameters
    step_size_ptr = step_sizes_ptr + 2 * (tl.load(step_ptr) + offset)
    step_size, root_correction = tl.load(step_size_ptr), tl.load(step_size_ptr + 1)
    gradient = tl.load(gradients_ptr + at, mask=mask, other=0)
    exp_avg = tl.load(exp_avg_ptr + at, mask=mask, other=0)
    exp_avg_sq = tl.load(exp_avg_sq_ptr + at, mask=mask, other=0)
    value = tl.load(parameters_ptr + at, mask=mask, other=0)
    exp_avg += (gradient - exp_avg) * 0.1
    exp_avg_sq = exp_avg_sq * 0.999 + gradient * gradient * 0.001
    value -= step_size * exp_avg / (tl.sqrt(exp_avg_sq) / root_correction + 1e-8)
    tl.store(exp_avg_ptr + at, exp_avg, mask=mask)
    tl.store(exp_avg_sq_ptr + at, exp_avg_sq, mask=mask)
    tl.store(parameters_ptr + at, value, mask=mask)
    tl.store(gradients_ptr + at, tl.zeros([BLOCK_SIZE], dtype=tl.float32), mask=mask)


@triton.jit
def _vector_positions(
    start, sample, column, mask, order_ptr, users_ptr, positives_ptr, negatives_ptr, items_offset,
    GROUP_SIZE: tl.constexpr, DIM: tl.constexpr, INDEX_64: tl.constexpr,
):  # fmt: skip
    """Return where in ``parameters`` the vectors (BLOCK_SIZE, 2 * DIM) of samples lie: the user's, then the item's."""
    slot = sample % GROUP_SIZE
    row = tl.load(order_ptr + start + sample // GROUP_SIZE, mask=mask, other=0).to(tl.int64)
    user = tl.load(users_ptr + row, mask=mask, other=0)
    item = tl.load(positives_ptr + row, mask=mask & (slot == 0), other=0)
    item += tl.load(negatives_ptr + row * (GROUP_SIZE - 1) + slot - 1, mask=mask & (slot > 0), other=0)
    if INDEX_64:
        user, item = user.to(tl.int64), item.to(tl.int64)
    return tl.where(
        column[None, :] < DIM,
        user[:, None] * DIM + column[None, :],
        items_offset + item[:, None] * DIM + column[None, :] - DIM,
    )


@triton.jit
def _forward(x, weight_1, bias_1, weight_2, bias_2, weight_3, bias_3):
    """Return the activations of both hidden layers, (BLOCK_SIZE, H1) and (BLOCK_SIZE, H2), and the logits."""
    h1 = tl.maximum(tl.dot(x, tl.trans(weight_1)) + bias_1[None, :], 0.0)
    h2 = tl.maximum(tl.dot(h1, tl.trans(weight_2)) + bias_2[None, :], 0.0)
    return h1, h2, tl.sum(h2 * weight_3[None, :], 1) + bias_3


@triton.jit
def _cross_entropy(logit, is_positive):
    """Return the binary cross entropies of samples: softplus of the logit, or of minus the logit of a positive."""
    signed = tl.where(is_positive, -logit, logit)
    return tl.maximum(signed, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(signed)))


@triton.jit
def _cross_entropy_gradient(logit, is_positive):
    """Return the gradients of binary cross entropies with respect to the logits."""
    return 1.0 / (1.0 + tl.exp(-logit)) - is_positive.to(tl.float32)


@triton.jit(do_not_specialize=["offset", "interactions_per_batch", "n_interactions"])
def _add_gradients_kernel(
    parameters_ptr, gradients_ptr, losses_ptr, order_ptr, users_ptr, positives_ptr, negatives_ptr, step_ptr, offset,
    interactions_per_batch, n_interactions, loss_scale, l2_scale, items_offset, layers_offset,
    GROUP_SIZE: tl.constexpr, DIM: tl.constexpr, WIDTH_1: tl.constexpr, WIDTH_2: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, INDEX_64: tl.constexpr,
):  # fmt: skip
    """Add the gradients of a batch, which is divided into tiles of ``BLOCK_SIZE`` samples.

    Program p of n takes tiles p, p + n, p + 2 n and so on. Tensors are those of :class:`StepTensors`.

    Args:
        loss_scale: factor of a sample's cross entropy.
        l2_scale: factor of a vector in its gradient.
        items_offset: where the item vectors begin in ``parameters``, U * D.
        layers_offset: where the layers begin, (U + I) * D.
        GROUP_SIZE: 1 + K, samples of an interaction: the positive, then its negatives.
        DIM: D.
        WIDTH_1: H1.
        WIDTH_2: H2.
        BLOCK_SIZE: samples in a tile.
        INDEX_64: whether positions of parameters need 64 bits.
    """
    num_inputs: tl.constexpr = 2 * DIM
    start = (tl.load(step_ptr) + offset) * interactions_per_batch
    column, unit_1, unit_2 = tl.arange(0, num_inputs), tl.arange(0, WIDTH_1), tl.arange(0, WIDTH_2)
    weight_1_at = layers_offset + unit_1[:, None] * num_inputs + column[None, :]  # (H1, 2D)
    bias_1_at = layers_offset + WIDTH_1 * num_inputs + unit_1
    weight_2_at = layers_offset + WIDTH_1 * (num_inputs + 1) + unit_2[:, None] * WIDTH_1 + unit_1[None, :]  # (H2, H1)
    bias_2_at = layers_offset + WIDTH_1 * (num_inputs + 1) + WIDTH_2 * WIDTH_1 + unit_2
    weight_3_at = bias_2_at + WIDTH_2
    bias_3_at = layers_offset + WIDTH_1 * (num_inputs + 1) + WIDTH_2 * (WIDTH_1 + 2)
    weight_1, bias_1 = tl.load(parameters_ptr + weight_1_at), tl.load(parameters_ptr + bias_1_at)
    weight_2, bias_2 = tl.load(parameters_ptr + weight_2_at), tl.load(parameters_ptr + bias_2_at)
    weight_3, bias_3 = tl.load(parameters_ptr + weight_3_at), tl.load(parameters_ptr + bias_3_at)
    grad_weight_1 = tl.zeros([WIDTH_1, num_inputs], dtype=tl.float32)
    grad_weight_2 = tl.zeros([WIDTH_2, WIDTH_1], dtype=tl.float32)
    grad_bias_1 = tl.zeros([WIDTH_1], dtype=tl.float32)
    grad_bias_2 = tl.zeros([WIDTH_2], dtype=tl.float32)
    grad_weight_3 = tl.zeros([WIDTH_2], dtype=tl.float32)
    grad_bias_3 = tl.zeros([BLOCK_SIZE], dtype=tl.float32)
    loss = tl.zeros([BLOCK_SIZE], dtype=tl.float64)
    tile = tl.program_id(0)
    while tile * BLOCK_SIZE < n_interactions * GROUP_SIZE:
        sample = tile * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
        mask = sample < n_interactions * GROUP_SIZE
        at = _vector_positions(
            start, sample, column, mask, order_ptr, users_ptr, positives_ptr, negatives_ptr, items_offset, GROUP_SIZE,
            DIM, INDEX_64,
        )  # fmt: skip
        x = tl.load(parameters_ptr + at, mask=mask[:, None], other=0)
        h1, h2, logit = _forward(x, weight_1, bias_1, weight_2, bias_2, weight_3, bias_3)
        is_positive = sample % GROUP_SIZE == 0
        loss += tl.where(mask, _cross_entropy(logit, is_positive), 0.0).to(tl.float64)
        grad_logit = tl.where(mask, _cross_entropy_gradient(logit, is_positive) * loss_scale, 0.0)
        grad_weight_3 += tl.sum(h2 * grad_logit[:, None], 0)
        grad_bias_3 += grad_logit
        grad_h2 = tl.where(h2 > 0, grad_logit[:, None] * weight_3[None, :], 0.0)
        grad_bias_2 += tl.sum(grad_h2, 0)
        grad_weight_2 += tl.dot(tl.trans(grad_h2), h1)
        grad_h1 = tl.where(h1 > 0, tl.dot(grad_h2, weight_2), 0.0)
        grad_bias_1 += tl.sum(grad_h1, 0)
        grad_weight_1 += tl.dot(tl.trans(grad_h1), x)
        tl.atomic_add(gradients_ptr + at, tl.dot(grad_h1, weight_1) + l2_scale * x, mask=mask[:, None], sem="relaxed")
        tile += tl.num_programs(0)
    tl.atomic_add(gradients_ptr + weight_1_at, grad_weight_1, sem="relaxed")
    tl.atomic_add(gradients_ptr + weight_2_at, grad_weight_2, sem="relaxed")
    tl.atomic_add(gradients_ptr + bias_1_at, grad_bias_1, sem="relaxed")
    tl.atomic_add(gradients_ptr + bias_2_at, grad_bias_2, sem="relaxed")
    tl.atomic_add(gradients_ptr + weight_3_at, grad_weight_3, sem="relaxed")
    tl.atomic_add(gradients_ptr + bias_3_at, tl.sum(grad_bias_3, 0), sem="relaxed")
    program_loss_ptr = losses_ptr + tl.program_id(0)
    tl.store(program_loss_ptr, tl.load(program_loss_ptr) + tl.sum(loss, 0))
