"""fastncf itself, through its public functions."""

import numpy as np

from benchmarks.peers.adapters.base import Adapter, Clock
from benchmarks.peers.histories import Histories


class FastNCF(Adapter):
    """A fit on all of the given interactions; nothing is held out of them but what the defaults are chosen by."""

    def prepare(self, histories: Histories) -> None:
        """Make a data frame with the places in the histories as times."""
        import polars as pl

        super().prepare(histories)
        self.frame = pl.DataFrame({"user": histories.users(), "item": histories.items, "time": histories.places()})

    def fit(self, clock: Clock) -> str:
        """Fit."""
        import fastncf

        self.model = fastncf.fit(self.frame, holdout="none", progress=False, seed=self.seed, **self.settings)
        return f"{len(self.model.training_log)} epochs, loss {self.model.plan.final.loss}"

    def topk(self, users: np.ndarray, k: int) -> np.ndarray:
        """Return the recommendations."""
        found = self.model.recommend(users, k)
        lists = np.full((self.histories.num_users, k), -1, dtype=np.int32)
        lists[found["user"].to_numpy(), found["rank"].to_numpy() - 1] = found["item"].to_numpy()
        return lists[users]

    def score(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return the scores; items without a training interaction, which the model does not know, get none."""
        scores = np.full(items.shape, -np.inf, dtype=np.float32)
        known = np.bincount(self.histories.items, minlength=self.histories.num_items)[items] > 0
        answers = self.model.score(np.repeat(users, known.sum(axis=1)), items[known])
        scores[known] = answers["score"].to_numpy()
        return scores
