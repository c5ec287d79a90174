"""Sorting, splitting and merging the rows of a CSR matrix."""

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from fastncf.kernels.cpu.hashing import mix64
from fastncf.rng import GOLDEN

_FEW = 16  # items of a row up to which insertion sorts them: looking through the bits of words would cost more


@njit(nogil=True, cache=True)
def count_rows(user, before, start, stop, counts):
    """Add up each user's rows from ``start`` on; returns whether those from ``before`` on are in their order."""
    ascending = True
    last = user[before] if before < stop else np.int32(0)
    for row in range(start, stop):
        u = user[row]
        counts[u] += 1
        ascending &= last <= u
        last = u
    return ascending


@njit(nogil=True, cache=True)
def find_latest(first_user, last_user, indptr, item, time, latest):
    """Each user's latest item and the latest other one; a repeated item counts where its latest time stands."""
    for u in range(first_user, last_user):
        first = second = np.int32(-1)
        first_time = second_time = np.int64(0)
        for row in range(indptr[u], indptr[u + 1]):
            if first < 0 or time[row] > first_time:
                if item[row] != first:
                    second, second_time = first, first_time
                first, first_time = item[row], time[row]
            elif item[row] != first and (second < 0 or time[row] > second_time):
                second, second_time = item[row], time[row]
        latest[u, 0] = first
        latest[u, 1] = second


@njit(nogil=True, cache=True)
def order_rows(first_user, last_user, indptr, item, time, row_ptr, indices, order):
    """Places of each user's kept items, sorted by their latest times; rows that were held out have none."""
    longest = 0
    for u in range(first_user, last_user):
        longest = max(longest, row_ptr[u + 1] - row_ptr[u])
    met = np.empty(longest, dtype=np.int64)  # the row that counts, of each kept item
    for u in range(first_user, last_user):
        kept = indices[row_ptr[u] : row_ptr[u + 1]]
        places = order[row_ptr[u] : row_ptr[u + 1]]
        for place in range(len(kept)):
            places[place] = place
            met[place] = -1
        for row in range(indptr[u], indptr[u + 1]):
            place = np.searchsorted(kept, item[row])
            if place < len(kept) and kept[place] == item[row] and (met[place] < 0 or time[row] > time[met[place]]):
                met[place] = row
        _sort_places(places, met, time)


@njit(inline="always")
def _earlier(row, other, time):
    return time[row] < time[other] or (time[row] == time[other] and row > other)


@njit(nogil=True, cache=True)
def _sort_places(places, met, time):
    """Sort by the times of their rows, of equal ones the later row first.

    A heapsort: argsort would be two of them here, and a first run would wait seconds for their compilation.
    """
    root, end = len(places) >> 1, len(places)
    while end > 1:
        if root > 0:
            root -= 1
            moving = places[root]
        else:
            end -= 1
            moving = places[end]
            places[end] = places[0]
        at, child = root, 2 * root + 1
        while child < end:
            if child + 1 < end and _earlier(met[places[child]], met[places[child + 1]], time):
                child += 1
            if not _earlier(met[moving], met[places[child]], time):
                break
            places[at] = places[child]
            at, child = child, 2 * child + 1
        places[at] = moving


@njit(nogil=True, cache=True)
def group_rows(start, stop, places, user, item, time, grouped_item, grouped_time):
    """Move a range of rows, each to the next place of its user."""
    for row in range(start, stop):
        u = np.uint32(user[row])
        place = np.uint64(places[u])
        grouped_item[place] = item[row]
        grouped_time[place] = time[row]
        places[u] += 1


@njit(nogil=True, cache=True)
def hashed_time(user, item, seed_key, time):
    for row in range(len(user)):
        pair = np.uint64(user[row]) << np.uint64(32) | np.uint64(item[row])
        time[row] = np.int64(mix64(pair * np.uint64(GOLDEN) + seed_key) >> np.uint64(1))


@njit(nogil=True, cache=True)
def split_rows(first_user, last_user, indptr, item, latest, num_items, limit, holdouts, items, unique, kept, held_out):
    """For each user: sort, fold repeats, take the held-out items out of the front of the user's range."""
    bits = np.zeros((num_items + 63) >> 6, dtype=np.uint64)
    words = np.zeros((len(bits) + 63) >> 6, dtype=np.uint64)
    for u in range(first_user, last_user):
        start, stop = indptr[u], indptr[u + 1]
        row = items[start:stop]
        count = _sort_unique(item[start:stop], bits, words, row)
        unique[u] = count
        kept[u] = 0
        if count >= limit[u]:
            continue
        first = latest[u, 0] if count >= 2 and holdouts >= 1 else np.int32(-1)
        second = latest[u, 1] if count >= 3 and holdouts >= 2 else np.int32(-1)
        held_out[0, u] = first
        held_out[1, u] = second
        size = 0
        for at in range(count):
            if row[at] != first and row[at] != second:
                row[size] = row[at]
                size += 1
        kept[u] = size


@njit(nogil=True, cache=True)
def _sort_unique(item, bits, words, out):
    """The distinct items of a row, ascending, into the front of ``out``; returns how many there are.

    ``bits`` has a bit for each item and ``words`` one for each word of ``bits``, all unset, before and after.
    """
    ascending = True
    for at in range(len(item)):
        out[at] = item[at]
        ascending &= at == 0 or item[at - 1] < item[at]
    if ascending:
        return len(item)
    count = 0
    if len(item) <= _FEW:
        for new in item:
            at = count
            while at > 0 and out[at - 1] > new:
                at -= 1
            if at > 0 and out[at - 1] == new:
                continue
            for later in range(count, at, -1):
                out[later] = out[later - 1]
            out[at] = new
            count += 1
        return count
    for one in item:
        word = np.uint32(one) >> np.uint32(6)
        bits[word] |= np.uint64(1) << np.uint64(one & 63)
        words[word >> np.uint32(6)] |= np.uint64(1) << np.uint64(word & np.uint32(63))
    for block in range(len(words)):
        used = words[block]
        words[block] = np.uint64(0)
        while used:
            word = block << 6 | np.int64(_lowest_bit(used))
            used &= used - np.uint64(1)
            left = bits[word]
            bits[word] = np.uint64(0)
            while left:
                out[count] = np.int32(word << 6 | np.int64(_lowest_bit(left)))
                left &= left - np.uint64(1)
                count += 1
    return count


@intrinsic
def _lowest_bit(typingctx, word):
    """The place of the lowest set bit of a uint64 that is not 0."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], cgutils.true_bit)

    return types.uint64(types.uint64), generate


@njit(nogil=True, cache=True)
def compact_rows(first_user, last_user, indptr, items, row_ptr, indices):
    for u in range(first_user, last_user):
        for at in range(row_ptr[u + 1] - row_ptr[u]):  # a slice would compile its message for shapes that differ: 2 s
            indices[row_ptr[u] + at] = items[indptr[u] + at]


@njit(nogil=True, cache=True)
def merge_rows(first_user, last_user, indptr, indices, extra, merged_ptr, merged):
    for u in range(first_user, last_user):
        end = merged_ptr[u]
        for at in range(indptr[u], indptr[u + 1]):
            merged[end] = indices[at]
            end += 1
        for which in range(len(extra)):
            new = extra[which, u]
            if new < 0:
                continue
            at = end
            while at > merged_ptr[u] and merged[at - 1] > new:
                merged[at] = merged[at - 1]
                at -= 1
            merged[at] = new
            end += 1
