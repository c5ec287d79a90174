"""New interactions that are added to those of a split."""

from dataclasses import replace

import numpy as np

from fastncf.data.csr import Rows
from fastncf.data.ids import Vocabulary
from fastncf.data.split import Split


def add_interactions(
    split: Split, order: np.ndarray | None, user: np.ndarray, item: np.ndarray, new_index: np.ndarray, num_users: int
) -> tuple[Split, np.ndarray | None]:
    """Return a split in which some users have more interactions, later than their others.

    What was held out of these users is trained on as well, after their other interactions and before the new ones. A
    repeated item counts where it stands last. A user who has now seen every item has no training items.

    Args:
        split: N training interactions of U users.
        order: (N,) int32, positions within each user's row from the oldest to the latest, or None.
        user: (M,) int32, numbers of the users among all old and new ones.
        item: (M,) int32, a user's oldest first.
        new_index: (U,) int32, number of each old user among all.
        num_users: number of all users.

    Returns:
        The split, and the order of its interactions, None where there was none.
    """
    by_number = np.argsort(new_index)
    if (np.diff(by_number) < 0).any():  # as where ids have become text
        split, order, new_index = *_reordered(split, order, by_number), new_index[by_number]
    lengths = np.zeros(num_users, dtype=np.int64)
    lengths[new_index] = np.diff(split.indptr)
    held_out = np.full((2, num_users), -1, dtype=np.int32)
    held_out[:, new_index] = split.validation_item, split.test_item
    has_all = np.zeros(num_users, dtype=np.bool_)
    has_all[new_index] = np.diff(split.indptr) == 0
    user, item = user[~has_all[user]], item[~has_all[user]]
    owner = np.repeat(np.arange(num_users, dtype=np.int32), lengths)
    is_changed = np.zeros(num_users, dtype=np.bool_)
    is_changed[user] = True
    changed = np.flatnonzero(is_changed).astype(np.int32)
    touched = is_changed[owner]
    ages = np.zeros(len(owner), dtype=np.int64)  # place of each interaction in the history of its user
    if order is not None:
        starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        ages[starts + order] = np.arange(len(owner)) - starts
    parts = [(owner[touched], split.indices[touched], ages[touched])]
    for number, taken in enumerate(held_out):
        users = changed[taken[changed] >= 0]
        parts.append((users, taken[users], lengths[users] + number))
    (validated_user, validated), validation_rows = _take_rows(split.validation_rows, new_index, is_changed)
    (test_user, tested), test_rows = _take_rows(split.test_rows, new_index, is_changed)
    latest = (np.concatenate(both) for both in ((validated_user, test_user, user), (validated, tested, item)))
    parts.append((*latest, lengths.max(initial=0) + 2 + np.arange(len(validated) + len(tested) + len(user))))
    owners, items, ages = (np.concatenate(column) for column in zip(*parts, strict=True))
    owners, items, ages = _latest(owners, items, ages, split.num_items)
    counts = np.bincount(owners, minlength=num_users)
    is_full = counts == split.num_items
    owners, items, ages = (column[~is_full[owners]] for column in (owners, items, ages))
    lengths[changed] = np.where(is_full, 0, counts)[changed]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    indices, new_order = np.empty(indptr[-1], dtype=np.int32), None
    place = _places(owners, indptr)
    kept = _places(owner[~touched], indptr)
    indices[kept], indices[place] = split.indices[~touched], items
    if order is not None:
        new_order = np.empty(indptr[-1], dtype=np.int32)
        new_order[kept] = order[~touched]
        new_order[place] = np.lexsort((ages, owners)) - np.searchsorted(owners, owners)
    had_test = held_out[1] >= 0
    held_out[:, changed] = -1
    candidates = split.test_candidates
    return (
        replace(
            split,
            indptr=indptr,
            indices=indices,
            validation_item=held_out[0],
            test_item=held_out[1],
            num_users_all_seen=split.num_users_all_seen + int(is_full.sum()),
            validation_rows=validation_rows,
            test_rows=test_rows,
            test_candidates=None if candidates is None else candidates[held_out[1][had_test] >= 0],
        ),
        new_order,
    )


def _take_rows(
    rows: Rows | None, new_index: np.ndarray, is_changed: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], Rows | None]:
    """Return the held-out items of users who have changed, and those of the others, by the users' new numbers.

    Args:
        rows: held-out items of the old users, a user's oldest first, or None.
        new_index: (U,) int32, ascending, number of each old user among all.
        is_changed: whether each of all users has changed.

    Returns:
        Users (n,) and items (n,); and the rows of all users, None where there were none.
    """
    if rows is None:
        nothing = np.empty(0, dtype=np.int32)
        return (nothing, nothing), None
    user = new_index[rows.owner]
    is_taken = is_changed[user]
    left = Rows.of(user[~is_taken], rows.items[~is_taken], len(is_changed))
    return (user[is_taken], rows.items[is_taken]), left


def renumber_items(
    split: Split, order: np.ndarray | None, new_index: np.ndarray, num_items: int
) -> tuple[Split, np.ndarray | None]:
    """Return a split of a larger catalogue with the same interactions, and their order.

    Args:
        split: N training interactions.
        order: (N,) int32, positions within each user's row from the oldest to the latest, or None.
        new_index: (I,) int32, number of each old item among all.
        num_items: number of all items. A user who had seen every old item has training items, in no known order.
    """
    lengths = np.diff(split.indptr)
    sated = np.flatnonzero(lengths == 0)
    counts = lengths.copy()
    counts[sated] = split.num_items
    indptr = np.concatenate([[0], np.cumsum(counts)])
    owner = np.repeat(np.arange(split.num_users), counts)
    items = np.empty(indptr[-1], dtype=np.int32)
    ages = np.arange(indptr[-1]) - np.repeat(indptr[:-1], counts)
    is_sated = np.isin(owner, sated)
    items[~is_sated], items[is_sated] = split.indices, np.tile(np.arange(split.num_items), len(sated))
    if order is not None:
        of_position = np.empty(len(order), dtype=np.int64)
        of_position[np.repeat(split.indptr[:-1], lengths) + order] = ages[~is_sated]
        ages[~is_sated] = of_position
    items = new_index[items]
    by_item = np.lexsort((items, owner))
    new_order = None
    if order is not None:
        new_order = (np.lexsort((ages[by_item], owner)) - np.repeat(indptr[:-1], counts)).astype(np.int32)

    def renumbered(indices: np.ndarray) -> np.ndarray:
        return np.where(indices >= 0, new_index[indices], np.int32(-1))

    candidates = split.test_candidates
    return (
        replace(
            split,
            num_items=num_items,
            indptr=indptr,
            indices=items[by_item],
            test_item=renumbered(split.test_item),
            validation_item=renumbered(split.validation_item),
            test_rows=_renumbered_rows(split.test_rows, new_index),
            validation_rows=_renumbered_rows(split.validation_rows, new_index),
            others=None
            if split.others is None
            else replace(
                split.others,
                histories=Rows(split.others.histories.indptr, new_index[split.others.histories.items]),
                test=Rows(split.others.test.indptr, new_index[split.others.test.items]),
            ),
            test_candidates=None if candidates is None else renumbered(candidates),
            num_users_all_seen=0,
        ),
        new_order,
    )


def _renumbered_rows(rows: Rows | None, new_index: np.ndarray) -> Rows | None:
    """Return rows of items, if there are any, by their new numbers."""
    return None if rows is None else Rows(rows.indptr, new_index[rows.items])


def join_others(
    split: Split, order: np.ndarray | None, users: Vocabulary
) -> tuple[Split, np.ndarray | None, Vocabulary]:
    """Return a split in which the users that are not trained on are trained on as well, with all of their items.

    Args:
        split: interactions of U users, and other users.
        order: (N,) int32, positions within each user's row from the oldest to the latest, or None.
        users: raw ids of the U users.

    Returns:
        The split, the order of its interactions, None where there was none, and the ids of all users.
    """
    others = split.others
    if others is None:
        return split, order, users
    joined = Vocabulary.of([users.ids, others.users.ids], "user")
    number, rows = joined.encode(others.users.ids), others.all_items()
    user, item = number[rows.owner], rows.items
    new_index, weights = joined.encode(users.ids), split.weights
    split, order = add_interactions(replace(split, others=None), order, user, item, new_index, len(joined))
    if weights is not None:  # those of the other users are not known
        mean = np.full(len(item), weights.values.mean())
        split = replace(split, weights=weights.with_rows(new_index, len(joined), user, item, mean))
    return split, order, joined


def _reordered(split: Split, order: np.ndarray | None, users: np.ndarray) -> tuple[Split, np.ndarray | None]:
    """Return the split whose user j is user ``users[j]``, and the order of its interactions."""
    lengths = np.diff(split.indptr)[users]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    place = np.repeat(split.indptr[users] - indptr[:-1], lengths) + np.arange(indptr[-1])
    candidates = split.test_candidates
    if candidates is not None:
        row = np.cumsum(split.test_item >= 0) - 1  # of each user with a test item
        candidates = candidates[row[users[split.test_item[users] >= 0]]]
    reordered = replace(
        split,
        indptr=indptr,
        indices=split.indices[place],
        test_item=split.test_item[users],
        validation_item=split.validation_item[users],
        test_rows=None if split.test_rows is None else split.test_rows.select(users),
        validation_rows=None if split.validation_rows is None else split.validation_rows.select(users),
        test_candidates=candidates,
    )
    return reordered, None if order is None else order[place]


def _latest(
    user: np.ndarray, item: np.ndarray, age: np.ndarray, num_items: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the distinct pairs (n,) ordered by user and item, each with the greatest of its ages."""
    by_pair = np.lexsort((age, item, user))
    user, item, age = user[by_pair], item[by_pair], age[by_pair]
    pair = user.astype(np.int64) * num_items + item
    is_last = np.append(pair[1:] != pair[:-1], np.ones(min(1, len(pair)), dtype=np.bool_))
    return user[is_last], item[is_last], age[is_last]


def _places(user: np.ndarray, indptr: np.ndarray) -> np.ndarray:
    """Return where rows of users (n,), ascending, go: one after the other from each user's place in ``indptr`` on."""
    return indptr[user] + np.arange(len(user)) - np.searchsorted(user, user)
