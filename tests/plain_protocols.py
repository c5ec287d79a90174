"""Protocols and popularity's metrics in plain Python and NumPy, which share nothing with the package."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from fractions import Fraction

Row = tuple[int, int, int]
"""User, item and time."""


def histories(rows: Sequence[Row], ties: str = "first") -> dict[int, list[int]]:
    """Each user's distinct items, the oldest first; a repeated item counts where it is latest."""
    turn = -1 if ties == "first" else 1
    found: dict[int, dict[int, tuple[int, int]]] = defaultdict(dict)
    for number, (user, item, time) in enumerate(rows):
        at = (time, turn * number)
        found[user][item] = max(found[user].get(item, at), at)
    return {user: sorted(items, key=items.__getitem__) for user, items in found.items()}


def last_items(rows: Sequence[Row], amount: float, ties: str = "first") -> tuple[dict, dict]:
    """Training and test items of each user: the latest n, or a share that is rounded, 1 at least."""
    train, test = {}, {}
    for user, items in histories(rows, ties).items():
        wanted = amount if isinstance(amount, int) else max(1, math.floor(amount * len(items) + 0.5))
        held_out = min(wanted, len(items) - 1)
        train[user], test[user] = items[: len(items) - held_out], items[len(items) - held_out :]
    return train, {user: items for user, items in test.items() if items}


def from_time(rows: Sequence[Row], point: int) -> tuple[dict, dict, set[int]]:
    """Training items before a point in time, new items of known users from then on, and users who exist only then."""
    train, later = defaultdict(set), defaultdict(set)
    for user, item, time in rows:
        (train if time < point else later)[user].add(item)
    test = {user: items - train[user] for user, items in later.items() if user in train}
    return dict(train), {user: items for user, items in test.items() if items}, set(later) - set(train)


def validated_from_time(rows: Sequence[Row], point: int) -> tuple[dict, dict, dict, set[int]]:
    """Training, validation and test items of the users with training items, and the other users.

    The training ends at a time before which the same share of the earlier rows lies as the earlier rows have of all,
    half of them at least.
    """
    times = sorted(time for _, _, time in rows if time < point)
    begin = times[min(math.ceil(max(Fraction(len(times), len(rows)), Fraction(1, 2)) * len(times)), len(times) - 1)]
    train, later, users = from_time([row for row in rows if row[2] < point], begin)
    _, test, _ = from_time(rows, point)
    test = {user: items for user, items in test.items() if user in train}
    return train, later, test, users | {user for user, _, _ in rows} - set(train)


def popularity_metrics(
    counts: Mapping[int, int],
    test: Mapping[int, Sequence[int]],
    rivals: Mapping[int, Sequence[int]],
    k: int,
) -> dict[str, float]:
    """Means over users of metrics of lists that are sorted by counts, in which held-out items lose ties."""
    totals: Counter = Counter()
    for user, items in test.items():
        entries = [(-counts.get(item, 0), 0) for item in rivals[user]] + [(-counts.get(item, 0), 1) for item in items]
        places = [place for place, (_, is_held_out) in enumerate(sorted(entries)) if is_held_out]
        hits = [place for place in places if place < k]
        ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(items))))
        totals["hr"] += len(hits) > 0
        totals["recall"] += len(hits) / len(items)
        totals["precision"] += len(hits) / k
        totals["ndcg"] += sum(1 / math.log2(place + 2) for place in hits) / ideal
        totals["map"] += sum((number + 1) / (place + 1) for number, place in enumerate(hits)) / len(items)
        totals["mrr"] += 1 / (places[0] + 1)
    return {name: total / len(test) for name, total in totals.items()}


def unseen(catalogue: set[int], train: Mapping[int, Sequence[int]], test: Mapping[int, Sequence[int]]) -> dict:
    """The items of the catalogue that each tested user has nowhere."""
    return {user: sorted(catalogue - set(train[user]) - set(items)) for user, items in test.items()}
