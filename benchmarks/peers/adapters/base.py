"""Protocol of the adapters. Imports NumPy alone: an adapter imports its library inside of its methods."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.peers.histories import Histories

_USERS_AT_ONCE = 512


class Clock:
    """Processor time that is left for the training."""

    def __init__(self, seconds: float) -> None:
        self._end = time.process_time() + seconds

    def is_over(self, steps_done: int = 0, started: float = 0.0) -> bool:
        """Return whether the time is over, or will be before another step ends that takes as long as those before it.

        Args:
            steps_done: number of epochs so far.
            started: processor time at which they began.
        """
        now = time.process_time()
        step = (now - started) / steps_done if steps_done else 0.0
        return now + step > self._end

    def left(self) -> float:
        """Return the seconds that are left."""
        return max(self._end - time.process_time(), 0.0)

    def extend(self, seconds: float) -> None:
        """Leave out seconds that were not spent on the training."""
        self._end += seconds


class TimeIsOverError(Exception):
    """Ends the training of a library that offers no other way to end it between two epochs."""


class Adapter:
    """A system of the comparison.

    A subclass says how the system prepares the data, fits and answers. It overrides :meth:`catalogue`, or
    :meth:`topk` and :meth:`score` where the library answers these itself.

    Attributes:
        settings: values of the system's settings by name, one of its trials.
        seed: determines what the system draws.
        histories: training interactions.
    """

    histories: Histories

    def __init__(self, settings: dict[str, Any], seed: int) -> None:
        self.settings = settings
        self.seed = seed

    def prepare(self, histories: Histories) -> None:
        """Bring the data into the form that the library takes."""
        self.histories = histories

    def fit(self, clock: Clock) -> str:
        """Train until the training ends or the time is over, and return what was done, such as "20 epochs"."""
        raise NotImplementedError

    def fit_in_steps(self, clock: Clock, after_step: Callable[[], None]) -> str:
        """Do what :meth:`fit` does, and call a function between epochs, which may ask for lists."""
        raise NotImplementedError

    def catalogue(self, users: np.ndarray) -> np.ndarray:
        """Return the scores (n, I) of all items for users (n,)."""
        raise NotImplementedError

    def topk(self, users: np.ndarray, k: int) -> np.ndarray:
        """Return for users (n,) the k unseen items (n, k) with the highest scores, the best first."""
        lists = np.empty((len(users), k), dtype=np.int32)
        for first in range(0, len(users), _USERS_AT_ONCE):
            part = users[first : first + _USERS_AT_ONCE]
            scores = np.array(self.catalogue(part), dtype=np.float32)
            for row, user in enumerate(part):
                scores[row, self.histories.items[slice(*self.histories.indptr[user : user + 2])]] = -np.inf
            best = np.argpartition(-scores, k, axis=1)[:, :k]
            order = np.argsort(-np.take_along_axis(scores, best, axis=1), axis=1, kind="stable")
            best = np.take_along_axis(best, order, axis=1)
            lists[first : first + len(part)] = np.where(np.isneginf(np.take_along_axis(scores, best, axis=1)), -1, best)
        return lists

    def score(self, users: np.ndarray, items: np.ndarray) -> np.ndarray | None:
        """Return the scores (n, C) of users (n,) with items (n, C), or None where the library offers no scores."""
        scores = np.empty(items.shape, dtype=np.float32)
        for first in range(0, len(users), _USERS_AT_ONCE):
            part = slice(first, first + _USERS_AT_ONCE)
            scores[part] = np.take_along_axis(np.asarray(self.catalogue(users[part])), items[part], axis=1)
        return scores
