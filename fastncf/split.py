"""Leave-one-out: interactions -> sorted CSR for training, a held-out item for validation and for the test."""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from fastncf.errors import DataError
from fastncf.hashing import GOLDEN, Stream, key, mix64
from fastncf.interactions import GivenTest, Interactions
from fastncf.threads import even, num_threads, run_ranges

_FEW = 16  # items of a row up to which insertion sorts them: looking through the bits of words would cost more


@dataclass(frozen=True)
class Split:
    """What is trained on and what is held out.

    Attributes:
        num_items: I, length of the catalogue.
        indptr: (U + 1,) int64; row u of the training CSR is ``indices[indptr[u]:indptr[u + 1]]``.
        indices: (N,) int32, ascending and unique in each row.
        test_item: (U,) int32, -1 where the user has none.
        validation_item: (U,) int32, -1 where the user has none.
        folded: rows that repeated a (user, item) pair and were counted once.
        left_out: users who have touched every item, so that no negative exists: neither trained on nor tested.
        too_short: users with too few interactions to hold one out; they stay in training.
        rule: what is held out: each user's ``latest`` interaction, a ``random`` one, or a ``given`` test set.
        test_candidates: (T, C) int32 given negatives of the users with a test item, -1 as padding, or None.
    """

    num_items: int
    indptr: np.ndarray
    indices: np.ndarray
    test_item: np.ndarray
    validation_item: np.ndarray
    folded: int
    left_out: int
    too_short: int
    rule: Literal["latest", "random", "given"]
    test_candidates: np.ndarray | None = None

    @property
    def num_users(self) -> int:
        return len(self.indptr) - 1

    @property
    def num_interactions(self) -> int:
        """Interactions after folding and before anything was held out, the users left out included."""
        held_out = int((self.test_item >= 0).sum() + (self.validation_item >= 0).sum())
        return len(self.indices) + held_out + self.left_out * self.num_items

    def item_counts(self) -> np.ndarray:
        """(I,) int64: training interactions of each item."""
        return np.bincount(self.indices, minlength=self.num_items)

    def seen(self) -> tuple[np.ndarray, np.ndarray]:
        """(indptr, indices) of everything a user has touched: training and held-out items, sorted in each row."""
        return with_items(self.indptr, self.indices, self.validation_item, self.test_item)


def leave_one_out(
    interactions: Interactions, *, validation: bool = False, random: bool = False, seed: int = 0
) -> Split:
    """Hold out each user's latest interaction, and with ``validation`` the one before it.

    Of a repeated (user, item) pair the latest time stays. Among equal times the first row counts as the latest, as
    ``rank(method="first", ascending=False) == 1`` in pandas says. With ``random`` any interaction is held out,
    drawn with the seed, and no times are needed.

    A test item is held out of two interactions or more, a validation item of three or more.

    Raises:
        DataError: no user has an item left that could serve as a negative, or no user has two interactions.
    """
    time = interactions.time
    if random:
        time = np.empty(len(interactions.user), dtype=np.int64)
        _hashed_time(interactions.user, interactions.item, np.uint64(key(seed, Stream.HELD_OUT)), time)
    elif time is None:
        raise DataError(
            f"{interactions.source}: has no times, so the latest interaction of a user cannot be told; "
            f"choose split='random' to hold out any interaction"
        )
    rows = _split(interactions, time, holdouts=2 if validation else 1)
    test_item, validation_item = rows.held_out
    if not (test_item >= 0).any():
        raise DataError(
            f"{interactions.source}: no user has two different items, so that none can be held out; "
            f"accepted: at least one user with two"
        )
    return Split(
        num_items=len(interactions.items),
        indptr=rows.indptr,
        indices=rows.indices,
        test_item=test_item,
        validation_item=validation_item,
        folded=rows.folded,
        left_out=int(rows.full.sum()),
        too_short=int(((test_item < 0) & ~rows.full).sum()),
        rule="random" if random else "latest",
    )


def by_time(interactions: Interactions, split: Split) -> np.ndarray:
    """When each user came to each item: (N,) int32, places within the user's row of the split, oldest first.

    Times as in :func:`leave_one_out`: the latest of a repeated pair, among equal times the first row is the latest.
    """
    assert interactions.time is not None
    indptr, item, time, _ = group_by_user(interactions.user, interactions.item, interactions.time, split.num_users)
    order = np.empty(len(split.indices), dtype=np.int32)
    run_ranges(lambda a, b: _order_rows(a, b, indptr, item, time, split.indptr, split.indices, order), balanced(indptr))
    return order


def hold_out_another(
    split: Split, order: np.ndarray | None, *, seed: int
) -> tuple[Split, np.ndarray | None, np.ndarray]:
    """Take one more item of each user who has two out of the training, for a choice between settings.

    Args:
        split: N interactions of U users.
        order: (N,) int32 of :func:`by_time`, by which the latest is taken, or None: then any is.
        seed: determines which, without an order.

    Returns:
        The split without them, the order of what is left, and the items (U,) int32, -1 where there is none.
    """
    lengths = np.diff(split.indptr)
    users = np.flatnonzero(lengths >= 2)
    if order is None:
        random = np.random.Generator(np.random.Philox(key=key(seed, Stream.CHOICE)))
        places = random.integers(lengths[users])
    else:
        places = order[split.indptr[users + 1] - 1]
    rows = split.indptr[users] + places
    items = np.full(split.num_users, -1, dtype=np.int32)
    items[users] = split.indices[rows]
    lengths[users] -= 1
    if order is not None:
        order = np.delete(order, split.indptr[users + 1] - 1)
        place = np.zeros(split.num_users, dtype=np.int32)
        place[users] = places
        order -= order > np.repeat(place, lengths)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return replace(split, indptr=indptr, indices=np.delete(split.indices, rows)), order, items


def given_test(interactions: Interactions, test: GivenTest) -> Split:
    """Train on all interactions and test on a test set that is given.

    Raises:
        DataError: a test pair is also in training, or no user has an item left as a negative.
    """
    num_users, num_items = len(interactions.users), len(interactions.items)
    test_item = np.full(num_users, -1, dtype=np.int32)
    test_item[test.user] = test.item
    rows = _split(interactions, np.zeros(len(interactions.user), dtype=np.int64), holdouts=0, test_item=test_item)
    owner = np.repeat(np.arange(num_users, dtype=np.int64), np.diff(rows.indptr))
    pairs = owner * num_items + rows.indices  # ascending
    test_pairs = np.arange(num_users) * num_items + test_item
    at = np.minimum(np.searchsorted(pairs, test_pairs), len(pairs) - 1)
    leaked = np.flatnonzero((test_item >= 0) & (pairs[at] == test_pairs))
    if leaked.size:
        raise DataError(
            f"{test.source}: {leaked.size} of its pairs are also in {interactions.source}, the first is user "
            f"{interactions.users.ids[int(leaked[0])]!r} with item "
            f"{interactions.items.ids[int(test_item[leaked[0]])]!r}; accepted: disjoint files"
        )
    test_item[rows.full] = -1
    candidates = None
    if test.candidates is not None:
        by_user = np.argsort(test.user)
        candidates = test.candidates[by_user[~rows.full[test.user[by_user]]]]
    return Split(
        num_items=num_items,
        indptr=rows.indptr,
        indices=rows.indices,
        test_item=test_item,
        validation_item=rows.held_out[1],
        folded=rows.folded,
        left_out=int(rows.full.sum()),
        too_short=0,
        rule="given",
        test_candidates=candidates,
    )


class _Rows(NamedTuple):
    """Training rows and what was held out of them: CSR, (2, U) int32 test and validation items, (U,) bool left out."""

    indptr: np.ndarray
    indices: np.ndarray
    held_out: np.ndarray
    full: np.ndarray
    folded: int


def _split(interactions: Interactions, time: np.ndarray, holdouts: int, test_item: np.ndarray | None = None) -> _Rows:
    """Sort, fold and hold out; a user whose items and given test item are the whole catalogue gets an empty row."""
    num_users, num_items = len(interactions.users), len(interactions.items)
    indptr, item, _, latest = group_by_user(interactions.user, interactions.item, time, num_users)
    items = np.empty(len(item), dtype=np.int32)
    unique = np.empty(num_users, dtype=np.int64)
    kept = np.empty(num_users, dtype=np.int64)
    held_out = np.full((2, num_users), -1, dtype=np.int32)
    limit = np.full(num_users, num_items, dtype=np.int64)
    if test_item is not None:
        limit -= test_item >= 0
    run_ranges(
        lambda a, b: _split_rows(a, b, indptr, item, latest, num_items, limit, holdouts, items, unique, kept, held_out),
        balanced(indptr),
    )
    full = unique >= limit
    if full.all():
        raise DataError(
            f"{interactions.source}: every user has touched every item ({num_items}), so that no negative exists; "
            f"accepted: data in which some user has not"
        )
    row_ptr = np.zeros(num_users + 1, dtype=np.int64)
    np.cumsum(kept, out=row_ptr[1:])
    indices = np.empty(row_ptr[-1], dtype=np.int32)
    run_ranges(lambda a, b: _compact(a, b, indptr, items, row_ptr, indices), balanced(indptr))
    return _Rows(row_ptr, indices, held_out, full, folded=int(len(item) - unique.sum()))


def group_by_user(
    user: np.ndarray, item: np.ndarray, time: np.ndarray, num_users: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Items by user, in the rows' order in each group, and each user's latest ones; nothing is moved that is in order.

    Args:
        user: (N,) int32.
        item: (N,) int32.
        time: (N,) int64.
        num_users: U.

    Returns:
        indptr (U + 1,) int64, items (N,) int32 and times (N,) int64 by group, and (U, 2) int32: the item of each user's
        latest row and that of the latest row with another item, the first row among equal times; -1 where there is
        none.
    """
    indptr = np.zeros(num_users + 1, dtype=np.int64)
    latest = np.full((num_users, 2), -1, dtype=np.int32)
    bounds = even(len(user), parts_per_thread=1)
    counts = np.zeros((len(bounds) - 1, num_users), dtype=np.int64)
    ordered = np.empty(len(bounds) - 1, dtype=bool)

    def count(part: int, _: int) -> None:
        first, stop = max(bounds[part] - 1, 0), bounds[part + 1]
        ordered[part] = _count(user, first, bounds[part], stop, counts[part])

    run_ranges(count, np.arange(len(bounds)))
    np.cumsum(counts.sum(axis=0), out=indptr[1:])
    if not ordered.all():
        rows, row_times, item, time = item, time, np.empty_like(item), np.empty_like(time)
        places = indptr[:-1] + np.cumsum(counts, axis=0) - counts
        run_ranges(
            lambda part, _: _group(bounds[part], bounds[part + 1], places[part], user, rows, row_times, item, time),
            np.arange(len(bounds)),
        )
    run_ranges(lambda a, b: _find_latest(a, b, indptr, item, time, latest), balanced(indptr))
    return indptr, item, time, latest


def balanced(indptr: np.ndarray, parts_per_thread: int = 4) -> np.ndarray:
    """Bounds of user ranges that hold about the same number of interactions: ascending, from 0 to U."""
    return cut(indptr, parts_per_thread * num_threads())


def cut(indptr: np.ndarray, parts: int) -> np.ndarray:
    """:func:`balanced` for a given number of ranges, where it must not depend on the machine: (parts + 1,)."""
    cuts = np.searchsorted(indptr, np.linspace(0, indptr[-1], parts + 1)[1:-1])
    return np.concatenate([[0], np.minimum(cuts, len(indptr) - 1), [len(indptr) - 1]])


def with_items(indptr: np.ndarray, indices: np.ndarray, *extra: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A CSR with each user's extra items ((U,) int32, -1 for none, not yet in the row) merged in, sorted."""
    counts = np.diff(indptr)
    for item in extra:
        counts = counts + (item >= 0)
    merged_ptr = np.zeros_like(indptr)
    np.cumsum(counts, out=merged_ptr[1:])
    merged = np.empty(merged_ptr[-1], dtype=np.int32)
    stacked = np.stack(extra)
    run_ranges(lambda a, b: _merge(a, b, indptr, indices, stacked, merged_ptr, merged), balanced(indptr))
    return merged_ptr, merged


@njit(nogil=True, cache=True)
def _count(user, before, start, stop, counts):  # type: ignore[no-untyped-def]
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
def _find_latest(first_user, last_user, indptr, item, time, latest):  # type: ignore[no-untyped-def]
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
def _order_rows(first_user, last_user, indptr, item, time, row_ptr, indices, order):  # type: ignore[no-untyped-def]
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
def _earlier(row, other, time):  # type: ignore[no-untyped-def]
    return time[row] < time[other] or (time[row] == time[other] and row > other)


@njit(nogil=True, cache=True)
def _sort_places(places, met, time):  # type: ignore[no-untyped-def]
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
def _group(start, stop, places, user, item, time, grouped_item, grouped_time):  # type: ignore[no-untyped-def]
    """Move a range of rows, each to the next place of its user."""
    for row in range(start, stop):
        u = np.uint32(user[row])
        place = np.uint64(places[u])
        grouped_item[place] = item[row]
        grouped_time[place] = time[row]
        places[u] += 1


@njit(nogil=True, cache=True)
def _hashed_time(user, item, seed_key, time):  # type: ignore[no-untyped-def]
    for row in range(len(user)):
        pair = np.uint64(user[row]) << np.uint64(32) | np.uint64(item[row])
        time[row] = np.int64(mix64(pair * np.uint64(GOLDEN) + seed_key) >> np.uint64(1))


@njit(nogil=True, cache=True)
def _split_rows(  # type: ignore[no-untyped-def]
    first_user, last_user, indptr, item, latest, num_items, limit, holdouts, items, unique, kept, held_out
):
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
def _sort_unique(item, bits, words, out):  # type: ignore[no-untyped-def]
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
def _lowest_bit(typingctx, word):  # type: ignore[no-untyped-def]
    """The place of the lowest set bit of a uint64 that is not 0."""

    def generate(context, builder, signature, arguments):  # type: ignore[no-untyped-def]
        return builder.cttz(arguments[0], cgutils.true_bit)

    return types.uint64(types.uint64), generate


@njit(nogil=True, cache=True)
def _compact(first_user, last_user, indptr, items, row_ptr, indices):  # type: ignore[no-untyped-def]
    for u in range(first_user, last_user):
        for at in range(row_ptr[u + 1] - row_ptr[u]):  # a slice would compile its message for shapes that differ: 2 s
            indices[row_ptr[u] + at] = items[indptr[u] + at]


@njit(nogil=True, cache=True)
def _merge(first_user, last_user, indptr, indices, extra, merged_ptr, merged):  # type: ignore[no-untyped-def]
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
