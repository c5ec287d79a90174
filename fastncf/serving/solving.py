"""Vectors and biases of users who were not trained on, solved for against the items as they are."""

from typing import NamedTuple

import numpy as np

from fastncf.data.csr import balanced_ranges
from fastncf.kernels.cpu.encoder import HistoryEncoder
from fastncf.kernels.cpu.newton import add_derivatives, multiply_transposed, product, solve_positive
from fastncf.sampling.distributions import DISTRIBUTIONS
from fastncf.threads import run_ranges

NUM_NEGATIVES = 1_024
"""Items that stand for all negatives of a larger catalogue."""

STEPS = 25
"""Newton's steps at most."""

TOLERANCE = 1e-5
"""Share of the loss that the last step saves at most."""

LEAST_RIDGE = 1e-3
"""Least weight of half of a squared number of a user, and that of a user's bias."""

BLOCK_SCORES = 1 << 14
"""Scores that are computed at a time."""

LARGEST_SCORE = 60.0
"""Scores beyond it have the derivatives of this one."""


class FixedItems(NamedTuple):
    """Items of a matrix factorization, and the negatives of its training.

    Attributes:
        vectors: (I, D) float32.
        bias: (I,) float32.
        num_negatives: K, negatives of an interaction in training.
        l2: weight of the squared norm of a user's vector in the mean loss of an interaction.
        sampled: (S,) int64, items that stand for the negatives.
        shares: (S,) float64, the shares of the negatives that they stand for; their sum is 1.
    """

    vectors: np.ndarray
    bias: np.ndarray
    num_negatives: int
    l2: float
    sampled: np.ndarray
    shares: np.ndarray


def negatives_of(
    name: str, exponent: float, item_counts: np.ndarray, most: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return items that stand for the negatives of a distribution, and their shares, see :class:`FixedItems`.

    All items of a small catalogue do; of a larger one every n-th of the distribution, so that the same model has the
    same ones.

    Args:
        name: of the distribution; uniform where it is not registered any more.
        exponent: of the distribution.
        item_counts: (I,) int64, training interactions of each item.
        most: number of items that stand for a larger catalogue; :data:`NUM_NEGATIVES` where it is not given.
    """
    weights = DISTRIBUTIONS.get(name, DISTRIBUTIONS["uniform"])(item_counts, exponent)
    shares = np.ones(len(item_counts)) if weights is None else np.asarray(weights, dtype=np.float64)
    shares, most = shares / shares.sum(), most or NUM_NEGATIVES
    if len(shares) <= most:
        return np.arange(len(shares)), shares
    places = (np.arange(most) + 0.5) / most
    sampled = np.minimum(np.searchsorted(np.cumsum(shares), places), len(shares) - 1)
    return sampled, np.full(most, 1 / most)


def solve_users(
    fixed: FixedItems, indptr: np.ndarray, items: np.ndarray, encoder: HistoryEncoder | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return vectors (U, D) and biases (U,) float32 of users with the least logistic loss for their histories.

    The loss is what training would minimise for the user with these items, by Newton's method: each item of the history
    is a positive, the negatives have the weights that their draws give them, and l2 counts for each sample.

    Args:
        fixed: the items.
        indptr: (U + 1,) int64.
        items: (N,) int32, the oldest of each history first.
        encoder: what makes a part of the vectors of the histories, so that the rest is solved for; or None.
    """
    vectors = np.zeros((len(indptr) - 1, fixed.vectors.shape[1]), dtype=np.float32)
    bias = np.zeros(len(vectors), dtype=np.float32)
    sampled = _columns(fixed, fixed.sampled)

    def solve(first: int, last: int) -> None:
        """Write the vectors and biases of a range of users."""
        for user in range(first, last):
            history = items[indptr[user] : indptr[user + 1]]
            if len(history):
                whole, before = np.zeros(fixed.vectors.shape[1]), np.zeros((1, fixed.vectors.shape[1]))
                if encoder is not None:
                    whole, before = states_before(encoder, history)
                found = _solve_user(fixed, sampled, history, before)
                vectors[user], bias[user] = whole + found[:-1], found[-1]

    run_ranges(solve, balanced_ranges(indptr))
    return vectors, bias


def states_before(encoder: HistoryEncoder, history: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the state (D,) after a history of n items, and those (n, D) that the training of each item sees.

    An item is left out of a mean, and all later ones are left out of a decaying sum.
    """
    by_feature = encoder.feature_vectors()[history].astype(np.float64)
    by_feature = np.broadcast_to(by_feature, (len(history), *encoder.gains.shape)).swapaxes(0, 1)
    count = len(history)
    whole, before = np.zeros(by_feature.shape[2]), np.zeros(by_feature.shape[1:])
    features = zip(by_feature, encoder.gains, encoder.decays, encoder.is_mean, strict=True)
    for vectors, gain, decay, is_mean in features:
        if is_mean:
            total = vectors.sum(axis=0)
            before += gain * (total - vectors) / max(count - 1, 1)
            whole += gain * total / count
            continue
        recent = np.zeros(vectors.shape[1])
        for place, vector in enumerate(vectors):
            before[place] += gain * recent
            recent = decay * recent + vector
        whole += gain * recent
    return whole, before


def _columns(fixed: FixedItems, items: np.ndarray) -> np.ndarray:
    """Return the vectors of n items, and 1 for the bias of a user, (n, D + 1) float64."""
    return np.column_stack([fixed.vectors[items], np.ones(len(items))]).astype(np.float64)


def _solve_user(fixed: FixedItems, sampled: np.ndarray, history: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Return what is added to the states of a user, a vector and a bias, (D + 1,).

    Args:
        fixed: the items.
        sampled: (S, D + 1), columns of the items that stand for the negatives.
        history: (n,) items.
        before: (n, D) states, one for each item; or (1, D) for all.
    """
    count, per = len(history), len(history) / len(before)
    shares = np.where(np.isin(fixed.sampled, history), 0, fixed.shares)
    shares = fixed.num_negatives * per * shares / max(shares.sum(), np.finfo(np.float64).tiny)
    positive = _columns(fixed, history)
    ridge = np.full(sampled.shape[1], max(2 * fixed.l2 * count * (1 + fixed.num_negatives), LEAST_RIDGE))
    ridge[-1] = LEAST_RIDGE
    scores = (before * positive[:, :-1]).sum(axis=1)[None] + fixed.bias[history]
    others = np.empty((len(before), len(sampled)))
    multiply_transposed(before, sampled, others)
    others += fixed.bias[fixed.sampled]
    return _newton([_Samples(positive, scores, np.ones(count), 1), _Samples(sampled, others, shares, 0)], ridge)


class _Samples(NamedTuple):
    """Items whose scores are ``columns @ user`` plus those of each of P states.

    Attributes:
        columns: (S, D + 1).
        scores: (P, S), of the states.
        weights: (S,), of each score in the loss.
        label: 1 or 0.
    """

    columns: np.ndarray
    scores: np.ndarray
    weights: np.ndarray
    label: int


class _Loss(NamedTuple):
    """Loss of samples for a user, and its derivatives by their scores.

    Attributes:
        value: weighted sum over states and samples.
        gradients: (S,), first derivatives, weighted and summed over the states.
        hessians: (S,), second derivatives, likewise.
    """

    value: float
    gradients: np.ndarray
    hessians: np.ndarray


def _loss_of(samples: _Samples, user: np.ndarray) -> _Loss:
    """Return the logistic loss of samples for a user (D + 1,).

    Some states are computed at a time, whose numbers stay in the cache, and a number that several terms need is
    computed once: ``exp(-abs(score))``.
    """
    own = product(samples.columns, user)
    totals = np.zeros((3, len(own)))
    rows = max(1, BLOCK_SCORES // len(own))
    for first in range(0, len(samples.scores), rows):
        wrong = samples.scores[first : first + rows] + own
        if samples.label:
            np.negative(wrong, out=wrong)  # positive where the label is missed
        decayed = np.minimum(np.abs(wrong), LARGEST_SCORE)
        np.exp(np.negative(decayed, out=decayed), out=decayed)
        divisor = decayed + 1
        totals[0] += np.log(divisor).sum(axis=0)  # log1p and logaddexp take several times as long
        totals[0] += np.maximum(wrong, 0).sum(axis=0)
        shares = np.where(wrong >= 0, 1, decayed)
        shares /= divisor
        totals[1] += shares.sum(axis=0)
        shares *= 1 - shares
        totals[2] += shares.sum(axis=0)
    value, gradients, hessians = totals * samples.weights
    return _Loss(float(value.sum()), -gradients if samples.label else gradients, hessians)


def _newton(samples: list[_Samples], ridge: np.ndarray) -> np.ndarray:
    """Return the minimum (D + 1,) of a weighted logistic loss plus half of the squares weighted by ``ridge``."""

    def losses_of(user: np.ndarray) -> tuple[float, list[_Loss]]:
        found = [_loss_of(one, user) for one in samples]
        return float((ridge * user * user).sum()) / 2 + sum(one.value for one in found), found

    user = np.zeros(len(ridge))
    loss, parts = losses_of(user)
    for _ in range(STEPS):
        gradient, hessian = ridge * user, np.diag(ridge)
        for one, part in zip(samples, parts, strict=True):
            add_derivatives(one.columns, part.gradients, part.hessians, gradient, hessian)
        solve_positive(hessian, gradient)
        step = gradient
        length = 1.0
        new_loss, parts = losses_of(user - step)
        while new_loss > loss and length > 1e-4:
            length /= 2
            new_loss, parts = losses_of(user - length * step)
        user = user - length * step
        if loss - new_loss <= TOLERANCE * abs(loss):
            break
        loss = new_loss
    return user
