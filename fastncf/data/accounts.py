"""Fate of each row that was read: the counts of a fit, which add up to the rows of its sources."""

from collections.abc import Mapping

from fastncf.errors import counted

ROWS = "num_rows"
"""Name of the number of rows that were read."""

USES = {
    "interactions": ("interaction", "interactions"),
    "num_duplicates": ("repeats a pair of user and item", "repeat a pair of user and item"),
    "num_test_repeated": ("repeats a training pair and is not tested", "repeat a training pair and are not tested"),
    "num_missing": ("lacks a user, an item or a time", "lack a user, an item or a time"),
    "num_low_rated": ("has a rating below the given one", "have a rating below the given one"),
    "num_of_other_users": (
        "is of a user outside the share that was asked for",
        "are of users outside the share that was asked for",
    ),
    "num_skipped": ("has an item that was unknown to an update", "have an item that was unknown to an update"),
}
"""Names of the counts in which each row is counted once, and what the messages say of one row and of several."""


def num_lost(counts: Mapping[str, int]) -> int:
    """Return the number of rows that were read and are in none of the counts; 0 for models of older versions."""
    return counts[ROWS] - sum(counts.get(name, 0) for name in USES) if ROWS in counts else 0


def describe_rows(counts: Mapping[str, int]) -> str:
    """Return in words what became of the rows that were read; empty for a model of an older version."""
    if ROWS not in counts:
        return ""
    parts = [counted(counts[name], *words) for name, words in USES.items() if counts.get(name)]
    if lost := num_lost(counts):
        parts.append(counted(lost, "is not accounted for", "are not accounted for"))
    return f"{counted(counts[ROWS], 'row was', 'rows were')} read: {', '.join(parts)}"


def add_counts(counts: Mapping[str, int], new: Mapping[str, int], num_interactions: int) -> dict[str, int]:
    """Return the counts of rows after others were added to them.

    Args:
        counts: those before.
        new: counts of the new rows that did not become interactions, and their ``num_rows``.
        num_interactions: all distinct pairs of user and item now. What is left of the new rows repeats one.
    """
    added = {name: counts.get(name, 0) + new[name] for name in (ROWS, *USES) if name in new}
    taken = new[ROWS] - sum(new.get(name, 0) for name in USES)
    repeated = counts["num_duplicates"] + taken - (num_interactions - counts["interactions"])
    if ROWS not in counts:  # a model of an older version, which does not say what it was made of
        added.pop(ROWS)
    return {"interactions": num_interactions, "num_duplicates": repeated, **added}
