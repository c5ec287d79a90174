"""Which interactions are held out for the test: one description that the fit, its messages and its files share."""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from fastncf.errors import counted

Rule = Literal["latest", "random", "given", "none", "time"]
"""Choice of the held-out interactions, see :class:`Holdout`."""

_SHARE = re.compile(r"\s*(\d{1,2}(?:\.\d+)?)\s*%\s*")


def quantile_of(before: str) -> Fraction | None:
    """Return the share, above 0 and below 1, that text such as ``90%`` stands for; None if it is no share."""
    found = _SHARE.fullmatch(before)
    return Fraction(found[1]) / 100 if found and float(found[1]) > 0 else None


def count_of_share(share: float, number: int) -> int:
    """Return the share of a number as a decimal number says it, rounded to the nearest integer, halves up.

    In floating point 0.29 of 50 are less than 14.5.
    """
    return math.floor(Fraction(repr(float(share))) * number + Fraction(1, 2))


@dataclass(frozen=True, kw_only=True)
class Holdout:
    """Rule by which interactions are held out for the test.

    Attributes:
        rule: ``latest`` or ``random`` interactions of each user; all from a point in ``time`` on; those of a ``given``
            test set; or ``none``.
        amount: for ``latest`` and ``random``: how many of each user, an integer from 1, or a share below 1.
        ties: which row of a file counts as the latest among equal times.
        before: for ``time``: the point, as it was asked for; or text such as ``90%``, the share of all interactions
            that are earlier.
        test_users: None, or how many users are drawn, an integer from 1, or their share, a float below 1. The model is
            trained on the others alone, and ranks what is held out of the drawn ones by their other interactions.
    """

    rule: Rule
    amount: int | float = 1
    ties: Literal["first", "last"] = "first"
    before: str | None = None
    test_users: int | float | None = None

    @property
    def has_several(self) -> bool:
        """Whether a user may have several held-out items."""
        return self.rule in ("time", "given") or self.amount != 1

    def count_of(self, size: int) -> int:
        """Return how many of a user's ``size`` distinct items are held out; one at least is left, and 0 of one item.

        A share is rounded to the nearest integer, halves up, and is 1 at least.
        """
        if size < 2:
            return 0
        wanted = self.amount if isinstance(self.amount, int) else max(1, count_of_share(self.amount, size))
        return min(int(wanted), size - 1)

    def describe(self, num_users_drawn: int = 0) -> str:
        """Return the rule in words.

        Args:
            num_users_drawn: users whom the model is not trained on.
        """
        tie = f", the {self.ties} row among equal times" if self.rule == "latest" else ""
        if self.rule == "given":
            return "given test set"
        if self.rule == "none":
            return "nothing held out"
        if self.rule == "time":
            share = quantile_of(self.before or "")
            if share is not None:
                return f"all interactions held out that are no earlier than {self.before} of them"
            return f"all interactions from {self.before} on held out"
        whose = "each user" if self.test_users is None else "each of them"
        if self.amount == 1:
            latest = "each user's latest interaction" if whose == "each user" else f"the latest interaction of {whose}"
            what = latest if self.rule == "latest" else f"a random interaction of {whose}"
        else:
            size = f"{self.amount:,}" if isinstance(self.amount, int) else f"{100 * self.amount:g} %"
            of_whom = f"of the interactions of {whose}"
            what = f"the latest {size} {of_whom}" if self.rule == "latest" else f"{size} {of_whom}, drawn at random,"
        if self.test_users is not None:
            return f"{counted(num_users_drawn, 'user')} left out of the training, {what} held out{tie}"
        return f"{'leave-one-out, ' if self.amount == 1 else ''}{what} held out{tie}"
