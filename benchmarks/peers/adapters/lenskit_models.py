"""Models of LensKit (Ekstrand): ALS for implicit feedback, and item-item neighbours."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from benchmarks.peers.adapters.base import Adapter, Clock
from benchmarks.peers.histories import Histories


class _LensKit(Adapter):
    def prepare(self, histories: Histories) -> None:
        """Make the library's data set of a data frame."""
        import pandas as pd
        from lenskit.data import from_interactions_df

        super().prepare(histories)
        frame = pd.DataFrame({"user_id": histories.users(), "item_id": histories.items})
        self.dataset = from_interactions_df(frame)

    def scorer(self, clock: Clock) -> Any:
        """Return the component that scores."""
        raise NotImplementedError

    def done(self) -> str:
        """Return what was trained."""
        raise NotImplementedError

    def fit(self, clock: Clock) -> str:
        """Train the library's pipeline for the best items of a user."""
        from lenskit.pipeline import topn_pipeline

        self.pipeline = topn_pipeline(self.scorer(clock))
        self.pipeline.train(self.dataset)
        return self.done()

    def topk(self, users: np.ndarray, k: int) -> np.ndarray:
        """Return the library's own recommendations."""
        from lenskit import recommend

        lists = np.full((len(users), k), -1, dtype=np.int32)
        for row, user in enumerate(users):
            found = recommend(self.pipeline, int(user), n=k).ids()
            lists[row, : len(found)] = found
        return lists

    def score(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return the library's own scores; items that it does not know get none."""
        from lenskit import score
        from lenskit.data import ItemList

        scores = np.full(items.shape, -np.inf, dtype=np.float32)
        for row, user in enumerate(users):
            distinct, places = np.unique(items[row], return_inverse=True)
            found = np.asarray(score(self.pipeline, int(user), ItemList(item_ids=distinct)).scores(), dtype=np.float32)
            scores[row] = np.nan_to_num(found, nan=-np.inf)[places]
        return scores


class ALS(_LensKit):
    """Alternating least squares (Hu et al. 2008)."""

    def scorer(self, clock: Clock) -> Any:
        """Return the library's scorer, whose epochs do nothing after the time is over."""
        from lenskit.als import ImplicitMFScorer

        self.epochs = 0

        def run_in_time(run: Callable[[], Any]) -> Any:
            if clock.is_over():
                return {}
            self.epochs += 1
            return run()

        class InTime(ImplicitMFScorer):
            """Trains for as long as there is time."""

            def create_trainer(self, data: Any, options: Any) -> Any:
                trainer = super().create_trainer(data, options)
                trainer.train_epoch = partial(run_in_time, trainer.train_epoch)
                return trainer

        return InTime(**self.settings)

    def done(self) -> str:
        """Return the number of epochs."""
        return f"{self.epochs} epochs"


class ItemKNN(_LensKit):
    """Item-item neighbours (Deshpande and Karypis 2004)."""

    def scorer(self, clock: Clock) -> Any:
        """Return the library's scorer."""
        from lenskit.knn import ItemKNNScorer

        return ItemKNNScorer(feedback="implicit", **self.settings)

    def done(self) -> str:
        """Return what was done."""
        return "neighbours found"
