"""The losses of the CPU kernels against a plain form in NumPy, and against autograd for every entry of the table."""

import numpy as np
import pytest
import torch
from numba import njit

from fastncf.kernels.cpu.losses import (
    BCE,
    BPR,
    CODES,
    LossBuffers,
    batch_loss_gradients,
    loss_gradients,
    require_code,
    softplus,
)
from fastncf.kernels.cpu.simd import LANES, pointer
from fastncf.models.losses import LOSSES

WITH_KERNEL = [name for name, loss in LOSSES.items() if loss.cpu_kernel is not None]


@njit
def call_softplus(x, multiplicity, loss_sums):
    return softplus(pointer(x), pointer(multiplicity), len(x), pointer(loss_sums))


@njit
def call_loss_gradients(scores, multiplicity, loss_sums, size, loss):
    buffers = LossBuffers(pointer(scores), pointer(multiplicity), pointer(loss_sums), len(scores))
    return loss_gradients(buffers, size, loss)


@njit
def call_batch_loss_gradients(scores, multiplicity, loss_sums, num_interactions, group_size, scale, loss):
    buffers = LossBuffers(pointer(scores), pointer(multiplicity), pointer(loss_sums), len(scores))
    return batch_loss_gradients(buffers, num_interactions, group_size, scale, loss)


def reference(scores: np.ndarray, multiplicity: np.ndarray, loss: int) -> tuple[float, np.ndarray]:
    """Return the loss of one interaction and its gradient, from the formulas of the papers.

    Args:
        scores: (1 + K,) float64, the positive's first.
        multiplicity: (1 + K,) how often each sample counts, 1 for the positive.
        loss: code of the loss.
    """
    positive, negatives, often = scores[0], scores[1:], multiplicity[1:]
    if loss == BCE:  # -log sigmoid(positive) - sum of log (1 - sigmoid(negative)), He et al. 2017, eq. 7
        value = np.logaddexp(0, -positive) + (often * np.logaddexp(0, negatives)).sum()
        return value, np.concatenate([[sigmoid(positive) - 1], often * sigmoid(negatives)])
    if loss == BPR:  # - sum of log sigmoid(positive - negative), Rendle et al. 2009, section 4.1
        value = (often * np.logaddexp(0, negatives - positive)).sum()
        slopes = often * sigmoid(negatives - positive)
        return value, np.concatenate([[-slopes.sum()], slopes])
    raise ValueError(f"no reference for the loss {loss}: write one")


def sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))


def padded(values: np.ndarray, fill: float = 0.0) -> np.ndarray:
    """Return values (n,) as float32 with what fills the lanes up to a multiple of ``LANES`` beyond n."""
    rest = LANES - len(values) % LANES
    return np.concatenate([values, np.full(rest, fill)]).astype(np.float32)


def test_codes_are_those_of_the_table():
    assert {LOSSES[name].cpu_kernel for name in WITH_KERNEL} == set(CODES)
    assert (LOSSES["bce"].cpu_kernel, LOSSES["bpr"].cpu_kernel) == (BCE, BPR)
    assert [require_code(code) for code in CODES] == list(CODES)
    for code in (-1, len(CODES), None):
        with pytest.raises(ValueError, match=rf"loss code {code}: expected one of 0, 1"):
            require_code(code)


@pytest.mark.parametrize("loss", CODES)
@pytest.mark.parametrize("size", [2, 16, 23])
def test_one_interaction_with_repeated_negatives(loss, size):
    random = np.random.default_rng(size)
    exact = 3 * random.standard_normal(size)
    often = np.concatenate([[1], random.integers(1, 4, size - 1)]).astype(float)
    scores, multiplicity, loss_sums = padded(exact, fill=7), padded(often), np.zeros(LANES)
    total = call_loss_gradients(scores, multiplicity, loss_sums, size, loss)
    value, gradients = reference(exact, often, loss)
    np.testing.assert_allclose(scores[:size], gradients, rtol=1e-5, atol=1e-6)
    assert total == pytest.approx(gradients.sum(), rel=1e-5, abs=2e-6)
    assert loss_sums.sum() == pytest.approx(value, rel=1e-5)
    np.testing.assert_array_equal(multiplicity, padded(often))


@pytest.mark.parametrize("loss", CODES)
@pytest.mark.parametrize(("num_interactions", "group_size"), [(1, 2), (5, 4), (3, 16), (2, 9)])
def test_many_interactions_at_once(loss, num_interactions, group_size):
    exact = 3 * np.random.default_rng(group_size).standard_normal((num_interactions, group_size))
    weights = np.arange(num_interactions) / 2 + 1
    scores, multiplicity = padded(exact.reshape(-1), fill=np.nan), np.full(10 * LANES, 5, np.float32)
    multiplicity[: exact.size] = np.repeat(weights, group_size)
    loss_sums = np.zeros(LANES)
    value = call_batch_loss_gradients(
        scores, multiplicity, loss_sums, num_interactions, group_size, np.float32(0.25), loss
    )
    values, gradients = zip(*(reference(one, np.ones(group_size), loss) for one in exact), strict=True)
    expected = 0.25 * weights[:, None] * np.array(gradients)
    np.testing.assert_allclose(scores[: exact.size], expected.reshape(-1), rtol=1e-5, atol=1e-6)
    assert value == pytest.approx(weights @ values, rel=1e-5)
    assert not loss_sums.any()


@pytest.mark.parametrize("name", WITH_KERNEL)
def test_kernels_compute_what_autograd_does(name):
    loss = LOSSES[name]
    exact = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    mean = loss.function(exact[:, 0], exact[:, 1:])
    mean.backward()
    terms = 6 * loss.num_terms(4)
    scores, multiplicity = padded(exact.detach().numpy().reshape(-1)), np.ones(2 * LANES, np.float32)
    value = call_batch_loss_gradients(
        scores, multiplicity, np.zeros(LANES), 6, 5, np.float32(1 / terms), loss.cpu_kernel
    )
    np.testing.assert_allclose(scores[:30], exact.grad.numpy().reshape(-1), rtol=1e-5, atol=1e-7)
    assert value / terms == pytest.approx(float(mean.detach()), rel=1e-5)


def test_softplus_and_its_derivative():
    special = [np.inf, -np.inf, 0.0, -0.0, 1e-30, -200.0]
    x = np.concatenate([np.linspace(-110, 110, 3 * LANES - 6), special]).astype(np.float32)
    multiplicity = np.random.default_rng(0).integers(0, 3, len(x)).astype(np.float32)
    multiplicity[-6] = 1
    derivatives, exact = x.copy(), x.astype(np.float64)
    total = call_softplus(derivatives, multiplicity, np.zeros(LANES))
    np.testing.assert_allclose(derivatives, multiplicity / (1 + np.exp(-exact)), rtol=1e-5, atol=1e-37)
    assert total == pytest.approx(derivatives.sum(), rel=1e-6)
    for number, often in zip(x, multiplicity, strict=True):
        loss_sums, one = np.zeros(LANES), np.zeros(LANES, np.float32)
        one[5] = often
        call_softplus(np.full(LANES, number), one, loss_sums)
        if np.isfinite(number):
            expected = often * np.logaddexp(0, float(number))
            assert loss_sums.sum() == pytest.approx(expected, rel=1e-5, abs=1e-37)
