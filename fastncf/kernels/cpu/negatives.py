"""Sampling of items that a user has not seen; :mod:`fastncf.sampling.negatives` describes how a draw is made.

A row holds the items that one user has seen, ascending and without repeats. Array indices are unsigned where speed
matters, since Numba would otherwise test each of them for a negative value.
"""

from typing import NamedTuple

import numpy as np

from fastncf.kernels.cpu.alias import AliasTable
from fastncf.kernels.cpu.compiling import njit
from fastncf.kernels.cpu.hashing import hash32, mix64
from fastncf.rng import GOLDEN

ATTEMPTS = 12
"""Number of draws for a position before the unseen items are searched."""

UNIFORM = AliasTable(np.empty(0, dtype=np.uint64), np.empty(0, dtype=np.uint32), np.uint32(0))
"""Stands for the uniform distribution over all items where a kernel takes an alias table."""

_TILE = 2048  # draws whose items and offsets fit the first level of a cache
_MAX_BUCKET_BITS = 11
_32 = np.uint64(32)

# Numba counts references to the arrays in a tuple by locked instructions, which for a row takes longer than its draws.
# It leaves the counting out where a function inlines its calls and uses each array on every path to its end, so that
# sample_row has no branch around the steps before and after its loop.
_inlined = njit(nogil=True, cache=True, forceinline=True)


class SeenItems(NamedTuple):
    """Items that each user has seen, as a CSR.

    Attributes:
        indptr: (U + 1,) int64.
        indices: (N,) int32, ascending and unique in each row.
        num_items: I.
    """

    indptr: np.ndarray
    indices: np.ndarray
    num_items: int


class SamplerScratch(NamedTuple):
    """Memory that one thread needs for the draws of a row; see :func:`make_sampler_scratch`.

    The last three fields are an index of the unseen items, built for a row when the first of its draws needs it. Let
    the unseen items lie end to end, each as long as its probability in units of the alias table, or of length 1 where
    draws are uniform: a number below their total length then determines an unseen item.

    Attributes:
        num_items: I.
        seen_bits: (ceil(I / 32) + 1,) uint32, bitset of the items that the user has seen. Its last word stands for
            item ``32 * ceil(I / 32)``, which is always rejected.
        rejected: (T + 1,) uint32, offsets of the rejected draws in a tile of T draws.
        redraws: (T,) int32, items drawn again for the rejected draws.
        unseen_length: (1,) uint64, total length of the unseen items; 0 while the index is not built.
        bucket_index: (2**B + 1,) int64; before a number in bucket b of 2**B equal buckets lie ``bucket_index[b]`` to
            ``bucket_index[b + 1]`` seen items.
        seen_cumulative: (n + 1,) uint64, running sums of the lengths of the n seen items, from 0; not used where draws
            are uniform.
    """

    num_items: int
    seen_bits: np.ndarray
    rejected: np.ndarray
    redraws: np.ndarray
    unseen_length: np.ndarray
    bucket_index: np.ndarray
    seen_cumulative: np.ndarray


@njit(nogil=True, cache=True)
def sample_rows(first_row, last_row, seen_items, keys, alias_table, num_negatives, out):
    """Draw the negatives of a range of training interactions.

    Args:
        first_row, last_row: range of entries of the CSR, each a training interaction.
        seen_items: :class:`SeenItems`.
        keys: (blocks, ATTEMPTS + 1, 2) uint32, see :func:`fastncf.sampling.negatives.position_keys`.
        alias_table: distribution of the draws over all items, or ``UNIFORM``.
        num_negatives: K.
        out: (N * K,) int32, written from ``first_row * K`` to ``last_row * K``.
    """
    indptr, indices, num_items = seen_items
    longest = np.max(indptr[1:] - indptr[:-1]) if len(alias_table.cumulative) else 0
    scratch = make_sampler_scratch(num_items, longest)
    user = np.searchsorted(indptr, first_row, side="right") - 1
    row = first_row
    while row < last_row:
        start, stop = indptr[user], indptr[user + 1]
        user += 1
        if stop <= row:
            continue
        row_stop = min(stop, last_row)
        begin, end = row * num_negatives, row_stop * num_negatives
        sample_row(begin, indices[start:stop], keys, alias_table, scratch, out[begin:end])
        row = row_stop


@njit(nogil=True, cache=True)
def make_sampler_scratch(num_items, longest):
    """Return the memory for rows of at most ``longest`` items; ``longest`` may be 0 where draws are uniform."""
    words = (num_items + 31) >> 5
    seen_bits = np.zeros(words + 1, dtype=np.uint32)
    seen_bits[words] = np.uint32(1)
    return SamplerScratch(
        num_items,
        seen_bits,
        np.empty(_TILE + 1, dtype=np.uint32),
        np.empty(_TILE, dtype=np.int32),
        np.empty(1, dtype=np.uint64),
        np.empty((1 << _MAX_BUCKET_BITS) + 1, dtype=np.int64),
        np.empty(longest + 1, dtype=np.uint64),
    )


@njit(nogil=True, cache=True)
def sample_row(begin, seen, keys, alias_table, scratch, out):
    """Draw an item that a user has not seen for each of the positions from ``begin``.

    Args:
        begin: first position; what a position draws does not depend on the other positions of a call.
        seen: (n,) int32, ascending; n is less than I unless ``out`` is empty.
        keys: (blocks, ATTEMPTS + 1, 2) uint32, see :func:`fastncf.sampling.negatives.position_keys`.
        alias_table: distribution of the draws over all items, or ``UNIFORM``.
        scratch: :class:`SamplerScratch` for I items.
        out: (number of positions,) int32, written.
    """
    scratch.unseen_length[0] = 0
    dense = is_dense(len(seen), scratch.num_items)
    num_marked = 0 if dense else len(seen)
    _set_all(scratch.seen_bits, seen, num_marked)
    done = 0
    while done < len(out):
        # A tile stays in cache, and within 2**32 positions the keys are constants of a loop that vectorises.
        at = begin + done
        tile = out[done : min(len(out), done + _TILE, (((at >> 32) + 1) << 32) - begin)]
        if dense:
            count = _reject_all(tile, scratch.rejected)
        elif len(alias_table.alias_cells):
            count = _draw_weighted(at, keys, alias_table, scratch, tile)
        else:
            count = _draw_uniform(at, keys, scratch, tile)
        if count:
            _draw_by_search(at, keys, seen, alias_table, scratch, count, tile)
        done += len(tile)
    _clear_all(scratch.seen_bits, len(scratch.seen_bits) - 1, seen, num_marked)


@njit(inline="always")
def is_dense(num_seen, num_items):
    """Return whether finding an unseen item by search costs less than rejecting seen ones."""
    return 4 * num_seen > 3 * num_items


@njit(inline="always")
def _is_set(bits, item):
    """Return whether an item is in a bitset, as 1 or 0."""
    return (bits[np.uint32(item) >> np.uint32(5)] >> (np.uint32(item) & np.uint32(31))) & np.uint32(1)


@njit(inline="always")
def _set(bits, item):
    """Add an item to a bitset."""
    bits[np.uint32(item) >> np.uint32(5)] |= np.uint32(1) << (np.uint32(item) & np.uint32(31))


@_inlined
def _set_all(bits, items, count):
    """Add the first ``count`` items to a bitset."""
    for at in range(count):
        _set(bits, items[at])


@_inlined
def _clear_all(bits, num_words, items, count):
    """Clear the words of the first ``count`` items, or all ``num_words`` words where that is less work."""
    if 8 * count > num_words:
        for word in range(num_words):
            bits[word] = np.uint32(0)
        count = 0
    for at in range(count):
        bits[np.uint32(items[at]) >> np.uint32(5)] = np.uint32(0)


@_inlined
def _draw_uniform(begin, keys, scratch, tile):
    """Draw an item for each position of a tile, again where it was seen, at most ``ATTEMPTS`` times.

    Returns:
        How many positions have an item that the user has seen; their offsets are in front of ``scratch.rejected``.
    """
    seen_bits, rejected, redraws = scratch.seen_bits, scratch.rejected, scratch.redraws
    block, size = begin >> 32, np.uint64(scratch.num_items)
    threshold = _rejection_threshold(size)
    rejected_item = (len(seen_bits) - 1) << 5
    first, second = keys[block, 0, 0], keys[block, 0, 1]
    for offset in range(len(tile)):
        tile[offset] = _scale_hash(begin + offset, first, second, size, threshold, rejected_item)
    count = _collect_rejected(tile, seen_bits, rejected)
    attempt = 1
    while count and attempt < ATTEMPTS:
        first, second = keys[block, attempt, 0], keys[block, attempt, 1]
        for which in range(count):
            redraws[which] = _scale_hash(begin + rejected[which], first, second, size, threshold, rejected_item)
        count = _keep_redraws(count, redraws, seen_bits, rejected, tile)
        attempt += 1
    return count


@njit(nogil=True, cache=True, error_model="numpy")  # else callers would have to handle a division by 0
def _rejection_threshold(size):
    """Return the number below which the lower half of a hash times ``size`` is rejected (Lemire 2019)."""
    return np.uint32((np.uint64(1) << _32) % size)


@njit(inline="always")
def _scale_hash(position, first, second, size, threshold, rejected_item):
    """Return the item that a position draws, or ``rejected_item`` where taking it would favour some items."""
    product = np.uint64(hash32(np.uint32(position), first, second)) * size
    return np.int32(product >> _32) if np.uint32(product) >= threshold else np.int32(rejected_item)


@_inlined
def _draw_weighted(begin, keys, alias_table, scratch, tile):
    """Draw as :func:`_draw_uniform` does, from an alias table.

    Each step of an attempt is a loop of its own: LLVM vectorises the loops without a look-up, and the loads of the
    others overlap. One loop over all steps takes half as long again.
    """
    seen_bits, rejected, redraws = scratch.seen_bits, scratch.rejected, scratch.redraws
    cells, num_bits = alias_table.alias_cells, alias_table.num_bits
    block = begin >> 32
    first, second = keys[block, 0, 0], keys[block, 0, 1]
    for offset in range(len(tile)):
        tile[offset] = np.int32(hash32(np.uint32(begin + offset), first, second))
    _look_up(len(tile), tile, cells, num_bits)
    count = _collect_rejected(tile, seen_bits, rejected)
    attempt = 1
    while count and attempt < ATTEMPTS:
        first, second = keys[block, attempt, 0], keys[block, attempt, 1]
        for which in range(count):
            redraws[which] = np.int32(hash32(np.uint32(begin + rejected[which]), first, second))
        _look_up(count, redraws, cells, num_bits)
        count = _keep_redraws(count, redraws, seen_bits, rejected, tile)
        attempt += 1
    return count


@njit(nogil=True, cache=True)
def _look_up(count, numbers, cells, num_bits):
    """Replace the first ``count`` 32-bit numbers by the items that they draw, see :class:`AliasTable`."""
    low_bits = np.uint32(32) - num_bits
    low_mask = np.uint32((np.uint64(1) << np.uint64(low_bits)) - np.uint64(1))
    item_mask = np.uint32((np.uint64(1) << np.uint64(num_bits)) - np.uint64(1))
    for which in range(count):
        number = np.uint32(numbers[which])
        cell = cells[number >> low_bits]
        own = np.int32(number >> low_bits)
        numbers[which] = own if (number & low_mask) < (cell >> num_bits) else np.int32(cell & item_mask)


@njit(nogil=True, cache=True)
def _collect_rejected(items, seen_bits, rejected):
    """Write the offsets of seen items to the front of ``rejected`` and return their number."""
    count = 0
    for offset in range(len(items)):  # without a branch: each offset is written, and a rejected one is kept
        rejected[np.uint64(count)] = np.uint32(offset)
        count += np.int64(_is_set(seen_bits, items[offset]))
    return count


@_inlined
def _reject_all(tile, rejected):
    """Write all offsets of a tile to ``rejected`` and return their number."""
    for offset in range(len(tile)):
        rejected[offset] = np.uint32(offset)
    return len(tile)


@njit(nogil=True, cache=True)
def _keep_redraws(num_redraws, redraws, seen_bits, rejected, tile):
    """Write what was drawn again for the rejected offsets, and keep the offsets of seen items; return their number."""
    count = 0
    for which in range(num_redraws):
        offset = rejected[np.uint64(which)]
        tile[np.uint64(offset)] = redraws[which]
        rejected[np.uint64(count)] = offset
        count += np.int64(_is_set(seen_bits, redraws[which]))
    return count


@_inlined
def _draw_by_search(begin, keys, seen, alias_table, scratch, count, tile):
    """Draw an unseen item for each of the first ``count`` offsets in ``scratch.rejected``.

    A hash is scaled to a number below the total length of the unseen items, so that its upper bits are the number's
    bucket.
    """
    cumulative, seen_cumulative, bucket_index = alias_table.cumulative, scratch.seen_cumulative, scratch.bucket_index
    if scratch.unseen_length[0] == 0:
        _index_unseen(seen, cumulative, scratch)
    total, shift = scratch.unseen_length[0], np.uint64(32 - _bucket_bits(len(seen)))
    block = begin >> 32
    first, second = keys[block, ATTEMPTS, 0], keys[block, ATTEMPTS, 1]
    threshold = _rejection_threshold(total)
    for offset in scratch.rejected[:count]:
        position = np.uint32(begin + offset)
        hashed = np.uint64(hash32(position, first, second))
        repeat = np.uint32(0)
        while np.uint32(hashed * total) < threshold:
            repeat += np.uint32(1)
            hashed = np.uint64(hash32(position, first, second ^ repeat))
        number, bucket = (hashed * total) >> _32, hashed >> shift
        low, high = bucket_index[bucket], bucket_index[bucket + np.uint64(1)]
        before = _count_seen_before(number, low, high, seen, cumulative, seen_cumulative)
        if len(cumulative) == 0:
            tile[offset] = np.int32(np.int64(number) + before)
        else:
            low = np.int64(seen[before - 1]) + 1 if before else np.int64(0)
            high = np.int64(seen[before]) if before < len(seen) else np.int64(len(cumulative) - 1)
            tile[offset] = _find_item(number + seen_cumulative[before], low, high, cumulative)


@njit(nogil=True, cache=True)
def _index_unseen(seen, cumulative, scratch):
    """Build the index of a row's unseen items in ``scratch``."""
    seen_cumulative, bucket_index = scratch.seen_cumulative, scratch.bucket_index
    total = np.uint64(scratch.num_items - len(seen))
    if len(cumulative):
        seen_total = np.uint64(0)
        for at in range(len(seen)):
            seen_cumulative[at] = seen_total
            seen_total += cumulative[seen[at] + 1] - cumulative[seen[at]]
        seen_cumulative[len(seen)] = seen_total
        total = cumulative[scratch.num_items] - seen_total
    bits = _bucket_bits(len(seen))
    before = 0
    for bucket in range((1 << bits) + 1):
        first = (np.uint64(bucket) * total) >> np.uint64(bits)
        while before < len(seen) and _unseen_before(np.uint64(before), seen, cumulative, seen_cumulative) <= first:
            before += 1
        bucket_index[bucket] = before
    scratch.unseen_length[0] = total


@njit(inline="always")
def _bucket_bits(num_seen):
    """Return B, so that there are at most four seen items for each bucket unless B is at its maximum."""
    bits = 0
    while bits < _MAX_BUCKET_BITS and (4 << bits) < num_seen:
        bits += 1
    return bits


@njit(inline="always")
def _unseen_before(at, seen, cumulative, seen_cumulative):
    """Return the total length of the unseen items before ``seen[at]``."""
    if len(cumulative) == 0:
        return np.uint64(seen[at]) - at
    return cumulative[seen[at]] - seen_cumulative[at]


@njit(nogil=True, cache=True)
def _count_seen_before(number, low, high, seen, cumulative, seen_cumulative):
    """Return how many seen items lie before a number, which are at least ``low`` and at most ``high``."""
    while low < high:
        middle = (low + high) >> 1
        if _unseen_before(np.uint64(middle), seen, cumulative, seen_cumulative) <= np.uint64(number):
            low = middle + 1
        else:
            high = middle
    return low


@njit(nogil=True, cache=True)
def _find_item(number, low, high, cumulative):
    """Return the item from ``low`` and below ``high`` that covers a number where all items lie end to end."""
    while low + 1 < high:
        middle = (low + high) >> 1
        if cumulative[np.uint64(middle)] <= number:
            low = middle
        else:
            high = middle
    return np.int32(low)


@njit(nogil=True, cache=True)
def sample_candidate_rows(first_row, last_row, seen_items, users, seed_key, distinct, out):
    """Draw uniform unseen items for a range of rows; see :func:`fastncf.sampling.negatives.sample_candidates`.

    Args:
        first_row, last_row: range of rows of ``out``.
        seen_items: :class:`SeenItems`.
        users: (T,) int32.
        seed_key: uint64.
        distinct: whether a row holds no item twice.
        out: (T, C) int32, written; a row with fewer than C unseen items gets all of them, and the rest is left alone.
    """
    indptr, indices, num_items = seen_items
    words = (num_items + 31) >> 5
    bits = np.zeros(words, dtype=np.uint32)
    wanted = out.shape[1]
    for row in range(first_row, last_row):
        user = users[row]
        seen = indices[indptr[user] : indptr[user + 1]]
        num_unseen = num_items - len(seen)
        if distinct and num_unseen <= wanted:
            for rank in range(num_unseen):
                out[row, rank] = _unseen_item(rank, seen)
            continue
        _set_all(bits, seen, len(seen))
        counter = np.uint64(user) << _32
        dense = is_dense(len(seen), num_items)
        size = np.uint64(num_unseen if dense else num_items)
        threshold = _rejection_threshold(size)
        drawn = 0
        while drawn < wanted:
            product = (mix64(counter * np.uint64(GOLDEN) + seed_key) >> _32) * size
            counter += np.uint64(1)
            if np.uint32(product) < threshold:
                continue
            item = np.int64(product >> _32)
            if dense:
                item = _unseen_item(item, seen)
            if _is_set(bits, item):
                continue
            if distinct:
                _set(bits, item)
            out[row, drawn] = item
            drawn += 1
        _clear_all(bits, words, seen, len(seen))
        _clear_all(bits, words, out[row], wanted)


@njit(nogil=True, cache=True)
def _unseen_item(rank, seen):
    """Return the unseen item of a rank, counted from 0."""
    return rank + _count_seen_before(rank, 0, len(seen), seen, UNIFORM.cumulative, UNIFORM.cumulative)


class WeightedDraws(NamedTuple):
    """Settings of :func:`sample_weighted_rows`.

    Attributes:
        alias_table: distribution of the draws over all items.
        seed_key: uint64.
        distinct: whether a row holds no item twice.
    """

    alias_table: AliasTable
    seed_key: np.uint64
    distinct: bool


@njit(nogil=True, cache=True)
def sample_weighted_rows(first_row, last_row, seen_items, users, draws, out):
    """Draw unseen items by weight for a range of rows; see :func:`fastncf.sampling.negatives.sample_candidates`.

    Each item is drawn by the probability that it has among the items that may still be drawn. A draw that must not be
    taken is drawn again, up to ``ATTEMPTS`` times; then the items that may be drawn are laid end to end, each as long
    as its probability, and the one that covers a uniform position is taken.

    Args:
        first_row, last_row: range of rows of ``out``.
        seen_items: :class:`SeenItems`.
        users: (T,) int32.
        draws: :class:`WeightedDraws`.
        out: (T, C) int32, written; a row with fewer than C unseen items gets all of them, and the rest is left alone.
    """
    indptr, indices, num_items = seen_items
    table, seed_key, distinct = draws
    cells, num_bits, cumulative = table.alias_cells, np.uint64(table.num_bits), table.cumulative
    low_bits = np.uint64(32) - num_bits
    low_mask = (np.uint64(1) << low_bits) - np.uint64(1)
    item_mask = (np.uint64(1) << num_bits) - np.uint64(1)
    words = (num_items + 31) >> 5
    bits = np.zeros(words, dtype=np.uint32)
    for row in range(first_row, last_row):
        user = users[row]
        seen = indices[indptr[user] : indptr[user + 1]]
        _set_all(bits, seen, len(seen))
        wanted = min(out.shape[1], num_items - len(seen)) if distinct else out.shape[1]
        counter = np.uint64(user) << _32
        for place in range(wanted):
            item = np.int64(-1)
            for _ in range(ATTEMPTS):
                number = mix64(counter * np.uint64(GOLDEN) + seed_key) >> _32
                counter += np.uint64(1)
                cell = np.uint64(cells[number >> low_bits])
                own = (number & low_mask) < (cell >> num_bits)
                item = np.int64(number >> low_bits) if own else np.int64(cell & item_mask)
                if not _is_set(bits, item):
                    break
                item = np.int64(-1)
            if item < 0:
                item = _item_at_weight(mix64(counter * np.uint64(GOLDEN) + seed_key), bits, cumulative)
                counter += np.uint64(1)
            if distinct:
                _set(bits, item)
            out[row, place] = item
        _clear_all(bits, words, seen, len(seen))
        _clear_all(bits, words, out[row], wanted)


@njit(nogil=True, cache=True)
def _item_at_weight(number, bits, cumulative):
    """Return the item whose probability covers a position among those that are not set in a bitmap.

    Args:
        number: uint64, uniform.
        bits: (ceil(I / 32),) uint32.
        cumulative: (I + 1,) uint64 of the alias table, up to 2**32.
    """
    total = np.uint64(0)
    for item in range(len(cumulative) - 1):
        if not _is_set(bits, item):
            total += cumulative[item + 1] - cumulative[item]
    at = (number >> _32) * total >> _32
    for item in range(len(cumulative) - 1):
        if not _is_set(bits, item):
            length = cumulative[item + 1] - cumulative[item]
            if at < length:
                return np.int64(item)
            at -= length
    return np.int64(-1)
