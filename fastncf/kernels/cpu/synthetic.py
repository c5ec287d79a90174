"""Draws of the generated data sets of :mod:`fastncf.data.synthetic`, where the model is described.

U is the number of users, I the number of items, K the number of tastes.
"""

import math
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np

from fastncf.kernels.cpu.compiling import njit
from fastncf.kernels.cpu.hashing import mix64
from fastncf.rng import GOLDEN

_USER_SHARPNESS = 3.0  # standard deviation of the logarithms of a user's tastes
_START = int(datetime(1995, 1, 9, tzinfo=UTC).timestamp())
_END = int(datetime(2015, 3, 31, tzinfo=UTC).timestamp())
_USER_TASTES, _DRAWS, _CLOCKS, _GAPS, _ORDER, _NOISE = np.arange(6)  # streams of draws below each user's key
_11, _32 = np.uint64(11), np.uint64(32)
_LOW_32 = np.uint64(0xFFFFFFFF)


class SyntheticModel(NamedTuple):
    """Everything that the rows of a generated data set follow from.

    Attributes:
        users_key: uint64, key of all draws for users.
        offsets: (U + 1,) int64, bounds of each user's rows.
        anchor_offsets: (U + 1,) int64, bounds of each user's part of ``anchors``.
        anchors: (I,) int64, all items in random order: those that a user has for certain, so that every item occurs.
        movie_ids: (I,) int32, ascending.
        quality: (I,) float64, standard normal, raises the ratings of an item.
        item_tastes: (I, K) float64, g_ik; rows sum to 1.
        profiles: (I, K) float64, w_i * g_ik for each taste, scaled so that columns sum to 1.
        profile_sums: (K,) float64, sums of the columns before they were scaled.
        thresholds: (K, I) uint32, alias tables of the profiles.
        aliases: (K, I) int32, alias tables of the profiles.
    """

    users_key: np.uint64
    offsets: np.ndarray
    anchor_offsets: np.ndarray
    anchors: np.ndarray
    movie_ids: np.ndarray
    quality: np.ndarray
    item_tastes: np.ndarray
    profiles: np.ndarray
    profile_sums: np.ndarray
    thresholds: np.ndarray
    aliases: np.ndarray


class RatingColumns(NamedTuple):
    """Columns of n generated rows: user and movie ids (int32), ratings (float32), times (int64, Unix seconds)."""

    user_id: np.ndarray
    movie_id: np.ndarray
    rating: np.ndarray
    timestamp: np.ndarray


@njit(nogil=True, cache=True)
def hash_counter(key: Any, counter: Any) -> Any:
    """Return the uint64 that splitmix64 seeded with `key` gives at `counter`."""
    return mix64(np.uint64(key) + np.uint64(GOLDEN) * np.uint64(counter + 1))


@njit(nogil=True, cache=True)
def _uniform(key: Any, counter: Any) -> float:
    """Return a float64 uniform on the open interval (0, 1)."""
    return (np.float64(hash_counter(key, counter) >> _11) + 0.5) * 2.0**-53


@njit(nogil=True, cache=True)
def _normal(key: Any, counter: Any) -> float:
    """Return a standard normal float64 (Box-Muller)."""
    radius = math.sqrt(-2.0 * math.log(_uniform(key, 2 * counter)))
    return radius * math.cos(2.0 * math.pi * _uniform(key, 2 * counter + 1))


@njit(nogil=True, cache=True)
def fill_hashes(key: Any, out: Any) -> None:
    """Write hashes of a key and the counters from 0 on to `out` (n,) uint64."""
    for j in range(out.size):
        out[j] = hash_counter(key, j)


@njit(nogil=True, cache=True)
def fill_normals(key: Any, out: Any) -> None:
    """Write standard normal numbers to `out` (n,) float64."""
    for j in range(out.size):
        out[j] = _normal(key, j)


@njit(nogil=True, cache=True)
def _fill_tastes(user_key: Any, sharpness: float, out: Any) -> None:
    """Write a user's tastes theta_u, which sum to 1, to `out` (K,) float64."""
    key = hash_counter(user_key, _USER_TASTES)
    total = 0.0
    for k in range(out.size):
        out[k] = math.exp(sharpness * _normal(key, k))
        total += out[k]
    for k in range(out.size):
        out[k] /= total


@njit(nogil=True, cache=True)
def expected_counts(
    users_key: Any,
    users: Any,
    degrees: Any,
    shares: Any,
    popularity: Any,
    item_tastes: Any,
    rates: Any,
) -> Any:
    """Return how many rows of each item are expected, (I,) float64, from a sample of the users.

    Sampling without replacement is a race of exponential clocks: user u has item i if its clock, of rate p_ui, rings
    before the time tau_u, at which the expected number of items is the user's degree.

    Args:
        users_key: uint64.
        users: (S,) int64, the sample.
        degrees: (S,) float64, numbers of items.
        shares: (S,) float64, how many users each of the sample stands for.
        popularity: (I,) float64, w_i.
        item_tastes: (K, I) float64, g_ik, C-contiguous.
        rates: (S,) float64, the tau_u; each call improves them by one Newton step.
    """
    num_tastes, num_items = item_tastes.shape
    counts = np.zeros(num_items)
    theta = np.empty(num_tastes)
    p = np.empty(num_items)
    for s in range(users.size):
        _fill_tastes(hash_counter(users_key, users[s]), _USER_SHARPNESS, theta)
        for i in range(num_items):
            p[i] = 0.0
        for k in range(num_tastes):
            for i in range(num_items):
                p[i] += theta[k] * item_tastes[k, i]
        expected = 0.0
        slope = 0.0
        for i in range(num_items):
            p_ui = p[i] * popularity[i]
            missing = math.exp(-rates[s] * p_ui)
            counts[i] += shares[s] * (1.0 - missing)
            expected += 1.0 - missing
            slope += p_ui * missing
        rates[s] = max(rates[s] + (degrees[s] - expected) / slope, 0.5 * rates[s])
    return counts


@njit(nogil=True, cache=True)
def _kth_smallest(values: Any, k: int) -> float:
    """Return the value that sorting `values` would put at `k`, and reorder them (quickselect)."""
    # np.partition and np.sort take seconds to compile
    low, high = 0, values.size - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] < pivot:
                i += 1
            while values[j] > pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                i += 1
                j -= 1
        if k <= j:
            high = j
        elif k >= i:
            low = i
        else:
            break
    return values[k]


@njit(nogil=True, cache=True)
def _sort(values: Any) -> None:
    """Sort `values` in place (Shell sort)."""
    gap = 1
    while gap < values.size // 3:
        gap = 3 * gap + 1
    while gap > 0:
        for j in range(gap, values.size):
            value = values[j]
            hole = j
            while hole >= gap and values[hole - gap] > value:
                values[hole] = values[hole - gap]
                hole -= gap
            values[hole] = value
        gap //= 3


@njit(nogil=True, cache=True)
def _draw_items(
    user_key: Any, mixture: Any, profiles: Any, thresholds: Any, aliases: Any, taken: Any, out: Any
) -> None:
    """Draw items without replacement, in proportion to `profiles` @ `mixture`, until `out` is full.

    A taste and then an item of its alias table are drawn in O(1), and drawn anew if the item is taken. Once there were
    I / 2 such draws, as for the users with the most items, a race of exponential clocks, which has the same
    distribution, draws the rest.

    Args:
        user_key: uint64.
        mixture: (K,) float64, weights of the tastes.
        profiles: (I, K) float64, see :class:`SyntheticModel`.
        thresholds: (K, I) uint32.
        aliases: (K, I) int32.
        taken: (I,) bool, items that are not drawn; those that are drawn are marked.
        out: (n,) int64, output.
    """
    num_items, num_tastes = profiles.shape
    cumulative = np.empty(num_tastes)
    total = 0.0
    for k in range(num_tastes):
        total += mixture[k]
        cumulative[k] = total
    key = hash_counter(user_key, _DRAWS)
    count = 0
    for draw in range(num_items // 2):
        if count == out.size:
            return
        bits = hash_counter(key, draw)
        x = np.float64(bits >> _32) * 2.0**-32 * total
        k = 0
        while k < num_tastes - 1 and x >= cumulative[k]:
            k += 1
        column = (bits & _LOW_32) * np.uint64(num_items)
        item = np.int64(column >> _32)
        if (column & _LOW_32) >= thresholds[k, item]:
            item = np.int64(aliases[k, item])
        if not taken[item]:
            taken[item] = True
            out[count] = item
            count += 1
    if count == out.size:
        return
    key = hash_counter(user_key, _CLOCKS)
    clocks = np.empty(num_items)
    for i in range(num_items):
        clocks[i] = np.inf
        if not taken[i]:
            rate = 0.0
            for k in range(num_tastes):
                rate += mixture[k] * profiles[i, k]
            clocks[i] = -math.log(_uniform(key, i)) / rate
    last = _kth_smallest(clocks.copy(), out.size - count - 1)
    for i in range(num_items):
        if clocks[i] <= last and count < out.size:
            taken[i] = True
            out[count] = i
            count += 1


@njit(nogil=True, cache=True)
def _fill_times(user_key: Any, start: int, end: int, out: Any) -> None:
    """Write times to `out` (n,) int64 in random order: sessions of ratings, some of them within the same second."""
    key = hash_counter(user_key, _GAPS)
    n = out.size
    out[0] = 0
    for j in range(1, n):
        kind = _uniform(key, 2 * j)
        gap = -math.log(_uniform(key, 2 * j + 1))
        seconds = np.int64(0)
        if kind < 0.01:
            seconds = np.int64(gap * 20 * 86_400)
        elif kind > 0.4:
            seconds = np.int64(1 + gap * 15)
        out[j] = out[j - 1] + seconds
    span = out[n - 1]
    if span > end - start:
        for j in range(n):
            out[j] = np.int64(out[j] * ((end - start) / span))
        span = out[n - 1]
    first = start + np.int64(_uniform(key, 0) * (end - start - span))
    key = hash_counter(user_key, _ORDER)
    for j in range(n - 1, -1, -1):
        other = np.int64(_uniform(key, j) * (j + 1))
        out[j], out[other] = out[other], out[j]
        out[j] += first


@njit(nogil=True, cache=True)
def sample_users(first: int, last: int, model: Any, out: Any) -> None:
    """Write the rows of users `first` to `last` - 1 (from 0), sorted by user and movie id.

    Args:
        first: first user.
        last: the user after the last one.
        model: :class:`SyntheticModel`.
        out: :class:`RatingColumns`, written.
    """
    offsets, anchor_offsets, anchors = model.offsets, model.anchor_offsets, model.anchors
    movie_ids, quality, item_tastes = model.movie_ids, model.quality, model.item_tastes
    profiles, profile_sums = model.profiles, model.profile_sums
    thresholds, aliases = model.thresholds, model.aliases
    user_out, movie_out, rating_out, time_out = out.user_id, out.movie_id, out.rating, out.timestamp
    num_items, num_tastes = profiles.shape
    items = np.empty(num_items, np.int64)
    taken = np.zeros(num_items, np.bool_)
    theta = np.empty(num_tastes)
    mixture = np.empty(num_tastes)
    for user in range(first, last):
        user_key = hash_counter(model.users_key, user)
        begin = offsets[user] - offsets[first]
        n = offsets[user + 1] - offsets[user]
        count = anchor_offsets[user + 1] - anchor_offsets[user]
        for j in range(count):
            items[j] = anchors[anchor_offsets[user] + j]
            taken[items[j]] = True
        _fill_tastes(user_key, _USER_SHARPNESS, theta)
        for k in range(num_tastes):
            mixture[k] = theta[k] * profile_sums[k]
        _draw_items(user_key, mixture, profiles, thresholds, aliases, taken, items[count:n])
        _sort(items[:n])
        _fill_times(user_key, _START, _END, time_out[begin : begin + n])
        key = hash_counter(user_key, _NOISE)
        bias = 3.4 + 0.42 * _normal(key, n)
        for j in range(n):
            i = items[j]
            taken[i] = False
            affinity = 0.0
            for k in range(num_tastes):
                affinity += theta[k] * item_tastes[i, k]
            mean = bias + 0.45 * quality[i] + 0.15 * math.log(num_tastes * affinity)
            halves = round(2.0 * (mean + 0.8 * _normal(key, j)))
            user_out[begin + j] = user + 1
            movie_out[begin + j] = movie_ids[i]
            rating_out[begin + j] = 0.5 * min(max(halves, 1.0), 10.0)
