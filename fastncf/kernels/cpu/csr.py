"""Grouping, sorting, splitting and merging the rows of a CSR matrix of users and items.

Every kernel works on a range of users (``first_user`` to ``last_user - 1``) or of rows of the input (``start`` to
``stop - 1``) and writes to that range only, so that threads may run it on disjoint ranges. The caller allocates the
outputs. U is the number of users, I the number of items, M the number of rows of the input and N the number of
distinct (user, item) pairs that are kept.
"""

from typing import NamedTuple

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastncf.kernels.cpu.compiling import njit
from fastncf.kernels.cpu.hashing import mix64
from fastncf.rng import GOLDEN

_INSERTION_SORT_LENGTH = 16  # a row of up to so many items is sorted by insertion, a longer one by a bitmap


class UserRows(NamedTuple):
    """Rows of the input, grouped by user.

    Attributes:
        indptr: (U + 1,) int64; the rows of user u are ``indptr[u]`` to ``indptr[u + 1] - 1``.
        item: (M,) int32, item indices; those of one user in the order of the input.
        time: (M,) int64, larger is later.
    """

    indptr: np.ndarray
    item: np.ndarray
    time: np.ndarray


class SplitSource(NamedTuple):
    """Input of :func:`split_rows`.

    Attributes:
        indptr: (U + 1,) int64, see :class:`UserRows`.
        item: (M,) int32, see :class:`UserRows`.
        latest: (U, 2) int32, output of :func:`find_latest`.
        limit: (U,) int64; a user with so many distinct items has no negatives and is not trained on.
    """

    indptr: np.ndarray
    item: np.ndarray
    latest: np.ndarray
    limit: np.ndarray


class SplitTarget(NamedTuple):
    """Output of :func:`split_rows`.

    Attributes:
        items: (M,) int32; the training items of user u, ascending, from ``indptr[u]`` on. What follows them up to
            ``indptr[u + 1]`` has no meaning.
        num_unique: (U,) int64, distinct items of each user.
        num_kept: (U,) int64, training items of each user: 0 for one who is not trained on.
        held_out: (2, U) int32, the test item and the validation item of each user. Only those that are held out are
            written: the caller fills it with -1.
    """

    items: np.ndarray
    num_unique: np.ndarray
    num_kept: np.ndarray
    held_out: np.ndarray


@njit(nogil=True, cache=True)
def count_rows(user, before, start, stop, counts):
    """Add the number of rows of each user to ``counts`` (U,) int64.

    Returns whether the users (M,) int32 ascend from row ``before`` on, which is ``start`` or the row before it.
    """
    ascending = True
    last = user[before] if before < stop else np.int32(0)
    for row in range(start, stop):
        u = user[row]
        counts[u] += 1
        ascending &= last <= u
        last = u
    return ascending


@njit(nogil=True, cache=True)
def group_rows(start, stop, user, item, time, next_row, grouped):
    """Copy each row of the input to the next free row of its user.

    Args:
        start: first row of the input.
        stop: the row after the last one.
        user: (M,) int32.
        item: (M,) int32.
        time: (M,) int64.
        next_row: (U,) int64, the next free row of each user in ``grouped``; it is moved on.
        grouped: :class:`UserRows` whose ``item`` and ``time`` are written.
    """
    grouped_item, grouped_time = grouped.item, grouped.time
    for row in range(start, stop):
        u = np.uint32(user[row])
        position = np.uint64(next_row[u])
        grouped_item[position] = item[row]
        grouped_time[position] = time[row]
        next_row[u] += 1


@njit(nogil=True, cache=True)
def find_latest(first_user, last_user, rows, latest):
    """Write each user's latest item and latest other item to ``latest`` (U, 2) int32, -1 where there is none.

    A repeated item counts at its latest time. Among equal times the first row counts as the latest.
    """
    indptr, item, time = rows.indptr, rows.item, rows.time
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
def order_rows(first, last, users, num_items, rows, indptr, indices, order):
    """Sort the training items of some users by their latest times, oldest first.

    Args:
        first: position in ``users`` of the first user.
        last: position after that of the last user.
        users: int32.
        num_items: I.
        rows: :class:`UserRows`. Its items that are not among the training items are passed over.
        indptr: (U + 1,) int64 of the training CSR.
        indices: (N,) int32 of the training CSR, ascending in each row.
        order: (N,) int32, output: positions within the user's row of the training CSR.
    """
    item, time = rows.item, rows.time
    longest = 0
    for u in users[first:last]:
        longest = max(longest, indptr[u + 1] - indptr[u])
    position_of = np.full(num_items, -1, dtype=np.int32)  # of each training item of a user in its row
    latest_row = np.empty(longest, dtype=np.int64)  # of each training item, -1 before one is found
    times, positions = np.empty((2, longest), dtype=np.int64), np.empty((2, longest), dtype=np.int32)
    for u in users[first:last]:
        kept = indices[indptr[u] : indptr[u + 1]]
        for position in range(len(kept)):
            position_of[kept[position]] = position
            latest_row[position] = -1
        for row in range(rows.indptr[u], rows.indptr[u + 1]):
            position = position_of[item[row]]
            if position >= 0 and (latest_row[position] < 0 or time[row] > time[latest_row[position]]):
                latest_row[position] = row
        count = 0
        for row in range(
            rows.indptr[u + 1] - 1, rows.indptr[u] - 1, -1
        ):  # among equal times the last row is the oldest
            position = position_of[item[row]]
            if position >= 0 and latest_row[position] == row:
                times[0, count], positions[0, count] = time[row], position
                count += 1
        side = _merge_sort(times, positions, count)
        order[indptr[u] : indptr[u + 1]] = positions[side, :count]
        for position in range(len(kept)):
            position_of[kept[position]] = -1


_PLACE_BITS = 20  # of a delay below one place
_DELAY_UNIT = 2.0 ** (_PLACE_BITS - 32)  # of 32 random bits
_RUN = 16  # numbers that are sorted by insertion before they are merged


@njit(nogil=True, cache=True)
def _merge_sort(keys, values, count):
    """Sort keys, and values with them, keeping the order of equal keys.

    ``np.argsort`` takes seconds to compile.

    Args:
        keys: (2, n) int64, those in row 0 are sorted; row 1 is memory.
        values: (2, n) int32, likewise.
        count: number of keys.

    Returns:
        The row that holds the result.
    """
    for start in range(0, count, _RUN):
        for at in range(start + 1, min(start + _RUN, count)):
            key, value, to = keys[0, at], values[0, at], at
            while to > start and keys[0, to - 1] > key:
                keys[0, to], values[0, to] = keys[0, to - 1], values[0, to - 1]
                to -= 1
            keys[0, to], values[0, to] = key, value
    side, width = 0, _RUN
    while width < count:
        other = 1 - side
        for start in range(0, count, 2 * width):
            left, middle, end = start, min(start + width, count), min(start + 2 * width, count)
            right = middle
            for to in range(start, end):
                if left < middle and (right == end or keys[side, left] <= keys[side, right]):
                    keys[other, to], values[other, to] = keys[side, left], values[side, left]
                    left += 1
                else:
                    keys[other, to], values[other, to] = keys[side, right], values[side, right]
                    right += 1
        side, width = other, 2 * width
    return side


@njit(nogil=True, cache=True)
def shuffle_rows(indptr, items, shuffle_key):
    """Shuffle the items of each row of a CSR in place (Durstenfeld 1964), by hashes of their places.

    Args:
        indptr: (U + 1,) int64.
        items: (N,) int32.
        shuffle_key: uint64.
    """
    for u in range(len(indptr) - 1):
        start = indptr[u]
        for at in range(indptr[u + 1] - 1, start, -1):
            bits = mix64(shuffle_key + np.uint64(at) * np.uint64(GOLDEN)) >> np.uint64(32)
            other = start + np.int64(bits * np.uint64(at - start + 1) >> np.uint64(32))
            items[at], items[other] = items[other], items[at]


@njit(nogil=True, cache=True)
def delay_rows(first, last, indptr, values, spans, delay_key, delayed):
    """Delay each value of rows by a random number of places, and write them in the order in which they come then.

    Args:
        first, last: range of rows.
        indptr: (U + 1,) int64.
        values: (N,) int32.
        spans: (U,) float64, places that values of a row are delayed by at most; the number is a hash of the place.
        delay_key: uint64.
        delayed: (N,) int32, written; equal times keep the order of ``values``.
    """
    longest = 0
    for u in range(first, last):
        longest = max(longest, indptr[u + 1] - indptr[u])
    times, moved = np.empty((2, longest), dtype=np.int64), np.empty((2, longest), dtype=np.int32)
    for u in range(first, last):
        start, count = indptr[u], indptr[u + 1] - indptr[u]
        for at in range(count):
            bits = mix64(delay_key + np.uint64(start + at) * np.uint64(GOLDEN)) >> np.uint64(32)
            times[0, at] = (at << _PLACE_BITS) + np.int64(np.float64(bits) * (spans[u] * _DELAY_UNIT))
            moved[0, at] = values[start + at]
        side = _merge_sort(times, moved, count)
        delayed[start : start + count] = moved[side, :count]


@njit(nogil=True, cache=True)
def fill_random_times(user, item, seed_key, time):
    """Write a hash of the seed, the user and the item to ``time`` (M,) int64, from 0 to 2**63 - 1."""
    for row in range(len(user)):
        pair = np.uint64(user[row]) << np.uint64(32) | np.uint64(item[row])
        time[row] = np.int64(mix64(pair * np.uint64(GOLDEN) + seed_key) >> np.uint64(1))


@njit(nogil=True, cache=True)
def split_rows(first_user, last_user, num_items, num_held_out, source, target):
    """Sort each user's items, drop the repeated ones and take the held-out ones out.

    Args:
        first_user: first user of the range.
        last_user: the user after the last one.
        num_items: I.
        num_held_out: 0 to hold out nothing, 1 for a test item (of two distinct items or more), 2 for a validation item
            as well (of three or more).
        source: :class:`SplitSource`.
        target: :class:`SplitTarget`, written.
    """
    indptr, item, latest, limit = source.indptr, source.item, source.latest, source.limit
    items, num_unique, num_kept, held_out = target.items, target.num_unique, target.num_kept, target.held_out
    bits = np.zeros((num_items + 63) >> 6, dtype=np.uint64)
    words = np.zeros((len(bits) + 63) >> 6, dtype=np.uint64)
    for u in range(first_user, last_user):
        start, stop = indptr[u], indptr[u + 1]
        row = items[start:stop]
        count = _sort_unique(item[start:stop], bits, words, row)
        num_unique[u] = count
        num_kept[u] = 0
        if count >= limit[u]:
            continue
        test_item = latest[u, 0] if count >= 2 and num_held_out >= 1 else np.int32(-1)
        validation_item = latest[u, 1] if count >= 3 and num_held_out >= 2 else np.int32(-1)
        held_out[0, u] = test_item
        held_out[1, u] = validation_item
        size = 0
        for position in range(count):
            if row[position] != test_item and row[position] != validation_item:
                row[size] = row[position]
                size += 1
        num_kept[u] = size


@njit(nogil=True, cache=True)
def _sort_unique(item, bits, words, out):
    """Write the distinct items of a row, ascending, to the front of ``out``, and return their number.

    Args:
        item: (n,) int32.
        bits: (ceil(I / 64),) uint64, a bitmap of the items: 0 before and after.
        words: (ceil(len(bits) / 64),) uint64, a bitmap of the words of ``bits`` that are not 0: 0 before and after.
        out: (n,) int32, output.
    """
    ascending = True
    for position in range(len(item)):
        out[position] = item[position]
        ascending &= position == 0 or item[position - 1] < item[position]
    if ascending:
        return len(item)
    if len(item) <= _INSERTION_SORT_LENGTH:
        return _insertion_sort_unique(item, out)
    for one in item:
        word = np.uint32(one) >> np.uint32(6)
        bits[word] |= np.uint64(1) << np.uint64(one & 63)
        words[word >> np.uint32(6)] |= np.uint64(1) << np.uint64(word & np.uint32(63))
    count = 0
    for block in range(len(words)):
        used = words[block]
        words[block] = np.uint64(0)
        while used:
            word = block << 6 | np.int64(lowest_bit(used))
            used &= used - np.uint64(1)
            left = bits[word]
            bits[word] = np.uint64(0)
            while left:
                out[count] = np.int32(word << 6 | np.int64(lowest_bit(left)))
                left &= left - np.uint64(1)
                count += 1
    return count


@njit(inline="always")
def _insertion_sort_unique(item, out):
    """Write the distinct items of a short row, ascending, to the front of ``out``, and return their number."""
    count = 0
    for new in item:
        position = count
        while position > 0 and out[position - 1] > new:
            position -= 1
        if position > 0 and out[position - 1] == new:
            continue
        for later in range(count, position, -1):
            out[later] = out[later - 1]
        out[position] = new
        count += 1
    return count


@intrinsic
def lowest_bit(typingctx, word):
    """Return the position of the lowest set bit of a uint64 that is not 0."""

    def generate(context, builder, signature, arguments):
        return builder.cttz(arguments[0], cgutils.true_bit)

    return types.uint64(types.uint64), generate


@njit(nogil=True, cache=True)
def compact_rows(first_user, last_user, indptr, items, kept_indptr, kept_items):
    """Copy the first items of each user's row to a CSR without gaps.

    Args:
        first_user: first user of the range.
        last_user: the user after the last one.
        indptr: (U + 1,) int64, bounds of the rows of ``items``.
        items: (M,) int32.
        kept_indptr: (U + 1,) int64, bounds of the rows of ``kept_items``.
        kept_items: (N,) int32, output.
    """
    for u in range(first_user, last_user):
        # assigning a slice would compile Numba's error message for shapes that differ, which takes two seconds
        for position in range(kept_indptr[u + 1] - kept_indptr[u]):
            kept_items[kept_indptr[u] + position] = items[indptr[u] + position]


@njit(nogil=True, cache=True)
def merge_rows(first_user, last_user, indptr, indices, extra, merged_indptr, merged):
    """Insert further items into ascending rows.

    Args:
        first_user: first user of the range.
        last_user: the user after the last one.
        indptr: (U + 1,) int64.
        indices: (N,) int32, ascending in each row.
        extra: (E, U) int32, items that the user's row does not hold; -1 for none.
        merged_indptr: (U + 1,) int64, bounds of the rows of ``merged``.
        merged: int32, output.
    """
    for u in range(first_user, last_user):
        end = merged_indptr[u]
        for row in range(indptr[u], indptr[u + 1]):
            merged[end] = indices[row]
            end += 1
        for number in range(len(extra)):
            new = extra[number, u]
            if new < 0:
                continue
            position = end
            while position > merged_indptr[u] and merged[position - 1] > new:
                merged[position] = merged[position - 1]
                position -= 1
            merged[position] = new
            end += 1


class SeenSource(NamedTuple):
    """Items that users have seen, as a split holds them.

    Attributes:
        indptr: (U + 1,) int64; a row without items stands for a user who has seen every item.
        indices: (N,) int32, ascending in each row.
        validation_item, test_item: (U,) int32, items that the user's row does not hold; -1 for none.
        num_items: I.
    """

    indptr: np.ndarray
    indices: np.ndarray
    validation_item: np.ndarray
    test_item: np.ndarray
    num_items: int


@njit(nogil=True, cache=True)
def count_seen(user_ids, source, indptr):
    """Write the bounds of the rows that :func:`gather_seen` fills to ``indptr`` (B + 1,) int64.

    Args:
        user_ids: (B,) int32.
        source: :class:`SeenSource`.
        indptr: output.
    """
    indptr[0] = 0
    for row in range(len(user_ids)):
        user = user_ids[row]
        count = source.indptr[user + 1] - source.indptr[user]
        count += np.int64(source.validation_item[user] >= 0) + np.int64(source.test_item[user] >= 0)
        indptr[row + 1] = indptr[row] + (source.num_items if source.indptr[user + 1] == source.indptr[user] else count)


@njit(nogil=True, cache=True)
def gather_seen(first, last, user_ids, source, indptr, indices):
    """Write the items that each user of a range of rows has seen, ascending.

    Args:
        first, last: range of rows, int64.
        user_ids: (B,) int32.
        source: :class:`SeenSource`.
        indptr: (B + 1,) int64 of :func:`count_seen`.
        indices: int32, output.
    """
    for row in range(first, last):
        user, end = user_ids[row], indptr[row]
        start, stop = source.indptr[user], source.indptr[user + 1]
        if start == stop:
            for item in range(source.num_items):
                indices[end + item] = item
            continue
        for position in range(start, stop):
            indices[end] = source.indices[position]
            end += 1
        for held_out in (source.validation_item[user], source.test_item[user]):
            if held_out < 0:
                continue
            position = end
            while position > indptr[row] and indices[position - 1] > held_out:
                indices[position] = indices[position - 1]
                position -= 1
            indices[position] = held_out
            end += 1


@njit(nogil=True, cache=True)
def seen_rows(user_ids, source):
    """Return what :func:`count_seen` and :func:`gather_seen` write; a call from Python takes some microseconds."""
    indptr = np.empty(len(user_ids) + 1, dtype=np.int64)
    count_seen(user_ids, source, indptr)
    indices = np.empty(indptr[-1], dtype=np.int32)
    gather_seen(0, len(user_ids), user_ids, source, indptr, indices)
    return indptr, indices


class OrderSource(NamedTuple):
    """Rows in the order of their times, and items that are to be merged into them.

    Attributes:
        indptr: (U + 1,) int64.
        indices: (N,) int32, ascending in each row.
        order: (N,) int32, positions within each row from the oldest to the latest.
        later: (E, U) int32, items that follow all of a user's row, the oldest first; -1 for none.
    """

    indptr: np.ndarray
    indices: np.ndarray
    order: np.ndarray
    later: np.ndarray


@njit(nogil=True, cache=True)
def merge_order(first_user, last_user, source, merged_indptr, merged_order):
    """Write the order of rows into which further items were merged by :func:`merge_rows`.

    Args:
        first_user: first user of the range.
        last_user: the user after the last one.
        source: :class:`OrderSource`.
        merged_indptr: (U + 1,) int64, bounds of the rows with the further items.
        merged_order: int32, output: positions within each of these rows from the oldest to the latest.
    """
    for u in range(first_user, last_user):
        start, stop, end = source.indptr[u], source.indptr[u + 1], merged_indptr[u]
        for row in range(start, stop):
            position = source.order[row]
            item, moved = source.indices[start + position], 0
            for one in source.later[:, u]:
                moved += 0 <= one < item
            merged_order[end] = position + moved
            end += 1
        for one in source.later[:, u]:
            if one < 0:
                continue
            position = 0
            for row in range(start, stop):
                position += source.indices[row] < one
            for other in source.later[:, u]:
                position += 0 <= other < one
            merged_order[end] = position
            end += 1
