"""Models of implicit (Ben Frederickson): ALS, BPR, and item-item neighbours."""

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from benchmarks.peers.adapters.base import Adapter, Clock, TimeIsOverError
from benchmarks.peers.histories import Histories


class _Implicit(Adapter):
    model: Any
    lowest = float(np.finfo(np.float32).min)
    """Score that marks the places for which the library has found no item."""

    def prepare(self, histories: Histories) -> None:
        """Make the sparse matrix (U, I) of ones that implicit takes."""
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # implicit asks for it: its own threads call BLAS
        super().prepare(histories)
        self.matrix = histories.matrix()

    def topk(self, users: np.ndarray, k: int) -> np.ndarray:
        """Return the library's own recommendations."""
        items, scores = self.model.recommend(users, self.matrix[users], N=k, filter_already_liked_items=True)
        lists: np.ndarray = np.where(scores > self.lowest, items, -1)
        return lists


class _Factors(_Implicit):
    def make(self) -> Any:
        """Return the model before its training."""
        raise NotImplementedError

    def fit(self, clock: Clock) -> str:
        """Run iterations until all are done or the time is over."""
        return self.fit_in_steps(clock, lambda: None)

    def fit_in_steps(self, clock: Clock, after_step: Callable[[], None]) -> str:
        """Run iterations until all are done or the time is over: the library calls back after each, and ends none."""
        done = 0

        def after_iteration(*_: Any) -> None:
            nonlocal done
            done += 1
            after_step()
            if clock.is_over():
                raise TimeIsOverError

        self.model = self.make()
        with suppress(TimeIsOverError):
            self.model.fit(self.matrix, show_progress=False, callback=after_iteration)
        return f"{done} iterations"

    def score(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Return the dot products."""
        scores = np.empty(items.shape, dtype=np.float32)
        for row, user in enumerate(users):
            scores[row] = self.model.item_factors[items[row]] @ self.model.user_factors[user]
        return scores


class ALS(_Factors):
    """Alternating least squares (Hu et al. 2008)."""

    def make(self) -> Any:
        """Return the model before its training."""
        from implicit.cpu.als import AlternatingLeastSquares

        return AlternatingLeastSquares(**self.settings, random_state=self.seed)


class BPR(_Factors):
    """Bayesian personalised ranking (Rendle et al. 2009)."""

    def make(self) -> Any:
        """Return the model before its training."""
        from implicit.cpu.bpr import BayesianPersonalizedRanking

        return BayesianPersonalizedRanking(**self.settings, random_state=self.seed)


class ItemKNN(_Implicit):
    """Sums of the similarities to the items of the history, over the K nearest neighbours of each item."""

    lowest = 0.0  # items without a neighbour in the history fill the list, seen ones among them

    def fit(self, clock: Clock) -> str:
        """Find the neighbours."""
        from implicit.nearest_neighbours import BM25Recommender, CosineRecommender, TFIDFRecommender

        models = {"cosine": CosineRecommender, "tfidf": TFIDFRecommender, "bm25": BM25Recommender}
        self.model = models[self.settings["similarity"]](K=self.settings["neighbours"])
        self.model.fit(self.matrix, show_progress=False)
        self.similarity = self.model.similarity.tocsr()
        return "neighbours found"

    def catalogue(self, users: np.ndarray) -> np.ndarray:
        """Return the sums over the histories."""
        scores: np.ndarray = (self.matrix[users] @ self.similarity).toarray()
        return scores
