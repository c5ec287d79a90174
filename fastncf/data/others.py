"""Users that a model is not trained on: those who are drawn for the test, and those who exist only later."""

from dataclasses import dataclass

import numpy as np

from fastncf.data.csr import Rows
from fastncf.data.ids import Vocabulary


@dataclass(frozen=True, repr=False)
class OtherUsers:
    """V users that a model is not trained on, with items of its catalogue.

    Attributes:
        users: raw ids.
        histories: what is known of each user, the oldest item first; nothing of one who exists only later.
        test: held-out items of each user, the oldest first.
    """

    users: Vocabulary
    histories: Rows
    test: Rows

    @property
    def num_interactions(self) -> int:
        """Number of distinct (user, item) pairs."""
        return len(self.histories.items) + len(self.test.items)

    def tested(self, num_items: int) -> np.ndarray:
        """Return the users (n,) int32 with a history and a held-out item who have not seen every item."""
        seen, held_out = self.histories.lengths, self.test.lengths
        return np.flatnonzero((seen > 0) & (held_out > 0) & (seen + held_out < num_items)).astype(np.int32)

    def all_items(self) -> Rows:
        """Return all items of each user, those of the history first."""
        owner = np.concatenate([self.histories.owner, self.test.owner])
        items = np.concatenate([self.histories.items, self.test.items])
        in_turn = np.argsort(owner, kind="stable")
        return Rows.of(owner[in_turn], items[in_turn], len(self.users))

    def select(self, users: np.ndarray) -> "OtherUsers":
        """Return some of the users, by their indices (n,), ascending."""
        ids = Vocabulary(self.users.decode(users), "user")
        return OtherUsers(ids, self.histories.select(users), self.test.select(users))

    def seen(self) -> Rows:
        """Return all items of each user, ascending."""
        return self.histories.sorted_with(self.test)
