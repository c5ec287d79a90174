"""Splits by other rules than one item of each user: several of each, a point in time, users who are left out.

:func:`make_split` splits by any :class:`~fastncf.data.holdout.Holdout`.
"""

import math
from dataclasses import replace
from fractions import Fraction

import numpy as np

from fastncf.data.csr import Rows
from fastncf.data.given_files import GivenTest
from fastncf.data.holdout import Holdout, count_of_share, quantile_of
from fastncf.data.ids import Vocabulary
from fastncf.data.interactions import Interactions
from fastncf.data.others import OtherUsers
from fastncf.data.readers.item_lists import FORMAT as ITEM_LISTS
from fastncf.data.readers.item_lists import no_point_in_time
from fastncf.data.split import (
    Split,
    given_test,
    hold_nothing_out,
    leave_one_out,
    ordered_items,
    random_times,
    time_order,
)
from fastncf.data.weights import PairWeights
from fastncf.errors import ConfigError, DataError, counted
from fastncf.rng import Stream, key


def make_split(
    interactions: Interactions,
    holdout: Holdout,
    *,
    given: GivenTest | None = None,
    validation: bool = False,
    seed: int = 0,
    needs_test: bool = True,
) -> tuple[Interactions, Split]:
    """Hold interactions out by a rule.

    Args:
        interactions: the data, with times where the rule needs them.
        holdout: the rule.
        given: the test set, for the rule ``given`` alone.
        validation: hold out one more item of each user, the latest of what is trained on; a random one for the rule
            ``random``, and beside a given test set where the training interactions have no times.
        seed: determines the draws.
        needs_test: whether it is an error that no test item can be held out.

    Returns:
        The interactions of the users that are trained on, and the split.

    Raises:
        DataError: the times are missing, nothing can be held out or is left to train on, or its weights are all 0.
        ConfigError: the rule does not fit the data.
    """
    trained_on, split = _hold_out(
        interactions, holdout, given=given, validation=validation, seed=seed, needs_test=needs_test
    )
    return trained_on, split if interactions.weight is None else _with_weights(split, interactions, trained_on)


def _with_weights(split: Split, interactions: Interactions, trained_on: Interactions) -> Split:
    """Return a split with the weights of all interactions of its users, held-out ones included.

    Args:
        split: U users.
        interactions: all rows, with weights.
        trained_on: interactions with the vocabularies of the split.

    Raises:
        DataError: those of the training interactions are all 0.
    """
    assert interactions.weight is not None
    user = trained_on.users.encode(interactions.users.ids)[interactions.user]
    item = trained_on.items.encode(interactions.items.ids)[interactions.item]
    rows = np.flatnonzero((user >= 0) & (item >= 0))
    weights = PairWeights.of_rows(user[rows], item[rows], interactions.weight[rows], split.num_users)
    if not weights.of_pairs(split.indptr, split.indices).any():
        name = interactions.source_info["columns"]["weight"]
        raise DataError(
            f"{interactions.source}: column {name!r:.80} holds no weight above 0 of an interaction that is trained on; "
            f"expected one at least"
        )
    return replace(split, weights=weights)


def _hold_out(
    interactions: Interactions,
    holdout: Holdout,
    *,
    given: GivenTest | None,
    validation: bool,
    seed: int,
    needs_test: bool,
) -> tuple[Interactions, Split]:
    """Return what :func:`make_split` does, without weights."""
    if given is not None:
        split = given_test(interactions, given)
        return interactions, _with_validation(interactions, split, seed) if validation else split
    if holdout.rule == "time":
        return _split_at(interactions, holdout, validation=validation)
    is_random = holdout.rule == "random" or (not needs_test and interactions.time is None)
    if holdout.test_users is not None:
        return _leave_users_out(interactions, holdout, validation=validation, seed=seed)
    if holdout.has_several:
        return interactions, _hold_out_several(interactions, holdout, validation=validation, seed=seed)
    split = leave_one_out(interactions, validation=validation, random=is_random, seed=seed, needs_test=needs_test)
    return interactions, split


def _with_validation(interactions: Interactions, split: Split, seed: int) -> Split:
    """Return a split that holds out one of the training items of each user who has two, for validation.

    Raises:
        DataError: no user has two.
    """
    if interactions.time is None:
        interactions = replace(interactions, time=random_times(interactions, seed))
    users = np.flatnonzero(np.diff(split.indptr) >= 2).astype(np.int32)
    if not users.size:
        raise DataError(
            f"{interactions.source}: no user has two training items, of which validation=True holds one out beside "
            f"test=; expected some, or validation=False"
        )
    last = split.indptr[1:][users] - 1
    places = split.indptr[users] + time_order(interactions, split, users)[last]
    validation_item = np.full(split.num_users, -1, dtype=np.int32)
    validation_item[users] = split.indices[places]
    indptr = split.indptr.copy()
    indptr[1:] -= np.cumsum(validation_item >= 0)
    return replace(split, indptr=indptr, indices=np.delete(split.indices, places), validation_item=validation_item)


def _hold_out_several(
    interactions: Interactions, holdout: Holdout, *, validation: bool, seed: int, whose: str = "user"
) -> Split:
    """Hold out several interactions of each user, the latest or random ones; a message names the users ``whose``."""
    whole, ages = _ages(interactions, holdout, seed)
    sizes = np.diff(whole.indptr)
    counts = np.array([holdout.count_of(size) for size in range(int(sizes.max(initial=0)) + 1)])[sizes]
    if not counts.any():
        raise DataError(
            f"{interactions.source}: no {whose} has two different items, so that none can be held out; "
            f"expected at least one {whose} with two"
        )
    owner = np.repeat(np.arange(whole.num_users), sizes)
    left = (sizes - counts)[owner]
    is_test = ages >= left
    is_validation = (ages == left - 1) & (left >= 2) if validation else np.zeros(len(ages), dtype=np.bool_)
    is_kept = ~is_test & ~is_validation
    validation_item = np.full(whole.num_users, -1, dtype=np.int32)
    validation_item[owner[is_validation]] = whole.indices[is_validation]
    by_age = np.lexsort((ages[is_test], owner[is_test]))
    kept = Rows.of(owner[is_kept], whole.indices[is_kept], whole.num_users)
    return replace(
        whole,
        indptr=kept.indptr,
        indices=kept.items,
        validation_item=validation_item,
        test_rows=Rows.of(owner[is_test], whole.indices[is_test][by_age], whole.num_users),
        num_users_too_short=int((sizes == 1).sum()),
        holdout=holdout.rule,
    )


def _ages(interactions: Interactions, holdout: Holdout, seed: int) -> tuple[Split, np.ndarray]:
    """Return all interactions as a split that holds nothing out, and the place (N,) of each in its user's history.

    Raises:
        DataError: the times are missing, or every user has seen every item.
    """
    if holdout.rule == "random":
        interactions = replace(interactions, time=random_times(interactions, seed))
    elif interactions.time is None:
        raise DataError(
            f"{interactions.source}: has no times, which tell the latest interactions of a user; expected a time "
            f"column, or split='random' to hold out any interactions"
        )
    whole = hold_nothing_out(interactions)
    order = time_order(interactions, whole)
    ages = np.empty(len(order), dtype=np.int64)
    starts = np.repeat(whole.indptr[:-1], np.diff(whole.indptr))
    ages[starts + order] = np.arange(len(order)) - starts
    return whole, ages


def _split_at(interactions: Interactions, holdout: Holdout, *, validation: bool) -> tuple[Interactions, Split]:
    """Train on what is earlier than a point in time, and test on the rest.

    For validation the last part of the earlier interactions is held out as well, so that the training ends where it
    begins. Users who exist only after the training are not trained on; items that do stay in the catalogue.
    """
    time, source = interactions.time, interactions.source
    if time is None:
        raise DataError(f"{source}: has no times; expected a time column beside before={holdout.before!r:.80}")
    if interactions.source_info.get("format") == ITEM_LISTS:
        raise no_point_in_time(source, holdout.before or "")
    point = point_in_time(interactions, holdout)
    is_past = time < point
    if is_past.all() or not is_past.any():
        raise DataError(
            f"{source}: {'no' if is_past.all() else 'every'} interaction is from before={holdout.before!r:.80} on; "
            f"expected a point in time between the first and the latest one"
        )
    if validation:
        is_past = time < _begin_of_validation(time, is_past)
    if not is_past.any():
        raise DataError(
            f"{source}: the interactions before {holdout.before!r:.80} have one time, so that none is earlier than "
            f"those of validation=True; expected a later point in time, or validation=False"
        )
    has_past = np.zeros(len(interactions.users), dtype=np.bool_)
    has_past[interactions.user[is_past]] = True
    kept, new = np.flatnonzero(has_past), np.flatnonzero(~has_past)
    if len(kept) < 2:
        when = "before the items of validation=True, which end at" if validation else "before"
        raise DataError(f"{source}: fewer than two users have interactions {when} {holdout.before!r:.80}; expected two")
    past, later = interactions.of_rows(is_past), interactions.of_rows(~is_past)
    rows = _first_of_pairs(later)
    assert later.time is not None
    user, item, is_test = later.user[rows], later.item[rows], later.time[rows] >= point
    pairs = past.user.astype(np.int64) * len(interactions.items) + past.item
    is_repeated = np.isin(user.astype(np.int64) * len(interactions.items) + item, pairs)
    is_held_out = has_past[user] & ~is_repeated
    tested = is_held_out & is_test
    if not tested.any():
        raise DataError(
            f"{source}: no user with interactions before {holdout.before!r:.80} has a new item from then on; expected "
            f"an earlier point in time"
        )
    number = np.cumsum(has_past) - 1
    test = GivenTest(number[user[tested]].astype(np.int32), item[tested], None, source)
    known = past.keep_users(kept, np.arange(len(interactions.items)))
    validated = is_held_out & ~is_test
    if validation and not validated.any():
        raise DataError(
            f"{source}: no user has a new item in the last part of the interactions before {holdout.before!r:.80}, "
            f"which validation=True holds out; expected some, or validation=False"
        )
    validation_rows = Rows.of(number[user[validated]], item[validated], len(kept)) if validation else None
    split = given_test(known, test, holdout="time", validation=validation_rows)
    num_test_repeated = int((is_repeated & is_test).sum())
    num_duplicates = split.num_duplicates + len(later.user) - len(rows) + int(is_repeated.sum()) - num_test_repeated
    split = replace(split, num_test_repeated=num_test_repeated, num_duplicates=num_duplicates)
    if len(new):
        number = np.cumsum(~has_past) - 1
        is_new = ~has_past[user]
        others = Rows.of(number[user[is_new]], item[is_new], len(new))
        nothing = Rows(np.zeros(len(new) + 1, dtype=np.int64), np.empty(0, dtype=np.int32))
        split = replace(split, others=OtherUsers(Vocabulary(interactions.users.decode(new), "user"), nothing, others))
    return known, split


def _begin_of_validation(time: np.ndarray, is_past: np.ndarray) -> int:
    """Return the time from which on the past is held out: the same share of it as is tested of all, half at most.

    Args:
        time: (M,) int64.
        is_past: (M,) bool, some of them True and some False.
    """
    num_past = int(is_past.sum())
    return _time_after(time[is_past], max(Fraction(num_past, len(time)), Fraction(1, 2)))


def point_in_time(interactions: Interactions, holdout: Holdout) -> int:
    """Return the time that a split at a point in time is made at, as the interactions have times."""
    share = quantile_of(holdout.before or "")
    if share is None:
        assert interactions.before is not None
        return interactions.before
    assert interactions.time is not None
    return _time_after(interactions.time, share)


def _time_after(time: np.ndarray, share: Fraction) -> int:
    """Return the time before which a share of times (M,) lies, as nearly as ties allow, the latest at most."""
    place = min(math.ceil(share * len(time)), len(time) - 1)
    return int(np.partition(time, place)[place])


def _first_of_pairs(interactions: Interactions) -> np.ndarray:
    """Return the first row (n,) of each distinct pair, user by user, a user's in the order of their times."""
    assert interactions.time is not None
    # of equal times the first row is the latest
    rows = np.lexsort((-np.arange(len(interactions.user)), interactions.time, interactions.user))
    user, item = interactions.user[rows], interactions.item[rows]
    first = np.unique(user.astype(np.int64) * len(interactions.items) + item, return_index=True)[1]
    return rows[np.sort(first)]


def _leave_users_out(
    interactions: Interactions, holdout: Holdout, *, validation: bool, seed: int
) -> tuple[Interactions, Split]:
    """Leave some users out of the training, and hold out items of these."""
    num_users, asked = len(interactions.users), holdout.test_users
    assert asked is not None
    count = asked if isinstance(asked, int) else max(1, count_of_share(asked, num_users))
    if num_users - count < 2:
        raise ConfigError(
            f"test_users={asked}: leaves {max(0, num_users - count)} of {counted(num_users, 'user')} to train "
            f"on; expected at least two"
        )
    generator = np.random.Generator(np.random.Philox(key=key(seed, Stream.TEST_USERS)))
    is_drawn = np.zeros(num_users, dtype=np.bool_)
    is_drawn[generator.permutation(num_users)[: int(count)]] = True
    every_item = np.arange(len(interactions.items))
    known = interactions.keep_users(np.flatnonzero(~is_drawn), every_item)
    strangers = interactions.keep_users(np.flatnonzero(is_drawn), every_item)
    several, whose = replace(holdout, test_users=None), f"user of test_users={asked}"
    parts = _hold_out_several(strangers, several, validation=False, seed=seed, whose=whose)
    assert parts.test_rows is not None
    order = time_order(strangers, parts) if holdout.rule == "latest" else None
    histories = Rows(parts.indptr, ordered_items(parts, order))
    split = hold_nothing_out(known)
    if validation:
        split = leave_one_out(known, random=holdout.rule == "random", seed=seed, needs_test=False)
        none = np.full_like(split.test_item, -1)
        split = replace(split, validation_item=split.test_item, test_item=none, num_users_too_short=0)
    return known, replace(
        split,
        others=OtherUsers(strangers.users, histories, parts.test_rows),
        holdout=holdout.rule,
        num_duplicates=split.num_duplicates + parts.num_duplicates,
        num_users_all_seen=split.num_users_all_seen + parts.num_users_all_seen,
    )
