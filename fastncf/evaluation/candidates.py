"""Lists of candidates: a held-out item and the negatives that it is ranked against."""

from typing import Generic, NamedTuple, TypeVar

import numpy as np

from fastncf.config import Config
from fastncf.data.split import Split
from fastncf.errors import ConfigError
from fastncf.evaluation.metrics import MISS
from fastncf.kernels.cpu.factors import Factors
from fastncf.kernels.cpu.ranking import rank_lists
from fastncf.rng import Stream, key
from fastncf.sampling.negatives import sample_candidates

Array = TypeVar("Array")


class CandidateLists(NamedTuple, Generic[Array]):
    """The held-out item of T users and C negatives each, all int32: numpy arrays, or tensors on a device.

    Attributes:
        users: (T,).
        positives: (T,).
        negatives: (T, C), -1 where a list is shorter.
    """

    users: Array
    positives: Array
    negatives: Array


def held_out_lists(
    split: Split, config: Config, users: np.ndarray, positives: np.ndarray, stream: Stream
) -> CandidateLists[np.ndarray]:
    """Draw lists with the seed from what each user touched in neither training, validation nor test."""
    negatives = sample_candidates(
        *split.seen(),
        split.num_items,
        users,
        config.num_candidates,
        seed_key=key(config.seed, stream),
        distinct=config.distinct_candidates,
    )
    return CandidateLists(users, positives, negatives)


def validation_lists(split: Split, config: Config) -> CandidateLists[np.ndarray] | None:
    """Lists of the items that are held out for validation, where there is one.

    Raises:
        ConfigError: no user has an item held out for it.
    """
    if not config.validation:
        return None
    users = np.flatnonzero(split.validation_item >= 0).astype(np.int32)
    if not len(users):
        raise ConfigError("validation=True: no user has three different items; expected some, or validation=False")
    return held_out_lists(split, config, users, split.validation_item[users], Stream.VALIDATION_CANDIDATES)


def ranks_by_factors(factors: Factors, lists: CandidateLists[np.ndarray]) -> np.ndarray:
    """Rank of each held-out item within its list by a matrix factorization, (T,) int64 from 0.

    What :func:`fastncf.evaluation.ranking.rank_candidates` finds for its module, by the same kernel.
    """
    ranks = np.empty(len(lists.users), dtype=np.int64)
    rank_lists(*lists, factors, MISS, ranks)
    return ranks
