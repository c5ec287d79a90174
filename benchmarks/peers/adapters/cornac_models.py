"""Models of Cornac (Preferred.AI): NeuMF and BPR."""

from contextlib import suppress
from typing import Any

import numpy as np

from benchmarks.peers.adapters.base import Adapter, Clock, TimeIsOverError
from benchmarks.peers.histories import Histories


class _Cornac(Adapter):
    model: Any

    def prepare(self, histories: Histories) -> None:
        """Make the library's data set of (user, item, rating) triples."""
        from cornac.data import Dataset

        super().prepare(histories)
        users, items = histories.users().tolist(), histories.items.tolist()
        self.dataset = Dataset.from_uir(zip(users, items, [1.0] * len(items), strict=True), seed=self.seed)
        self.columns = np.fromiter(self.dataset.iid_map, dtype=np.int64, count=self.dataset.num_items)

    def catalogue(self, users: np.ndarray) -> np.ndarray:
        """Return the library's own scores, a user at a time; items that it does not know get none."""
        scores = np.full((len(users), self.histories.num_items), -np.inf, dtype=np.float32)
        for row, user in enumerate(users):
            scores[row, self.columns] = self.model.score(self.dataset.uid_map[user])
        return scores


class NeuMF(_Cornac):
    """Neural matrix factorization (He et al. 2017), by the library's PyTorch backend."""

    def fit(self, clock: Clock) -> str:
        """Run epochs until all are done or the time is over."""
        from cornac import models

        epochs = 0

        def is_over(*_: Any, **__: Any) -> bool:
            nonlocal epochs
            epochs += 1
            return clock.is_over()

        self.model = models.NeuMF(**self.settings, backend="pytorch", early_stopping={}, verbose=False, seed=self.seed)
        self.model.early_stop = is_over  # the library asks it after each epoch
        self.model.fit(self.dataset)
        return f"{epochs} epochs"


class BPR(_Cornac):
    """Bayesian personalised ranking (Rendle et al. 2009)."""

    def fit(self, clock: Clock) -> str:
        """Run epochs until all are done or the time is over."""
        from cornac import models

        epochs = 0

        class InTime(models.BPR):
            """Trains for as long as there is time."""

            def _fit_sgd(self, *arguments: Any) -> Any:
                nonlocal epochs
                if clock.is_over():
                    raise TimeIsOverError
                epochs += 1
                return super()._fit_sgd(*arguments)

        self.model = InTime(**self.settings, seed=self.seed)  # a seed lets the library use one thread
        with suppress(TimeIsOverError):
            self.model.fit(self.dataset)
        return f"{epochs} epochs"
