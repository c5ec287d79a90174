"""Lists of candidates: a held-out item and the negatives that it is ranked against."""

from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from fastncf.data.split import Split
from fastncf.errors import ConfigError, counted
from fastncf.memory import require_memory
from fastncf.rng import Stream, key
from fastncf.sampling.distributions import alias_table
from fastncf.sampling.negatives import sample_candidates

Array = TypeVar("Array")


class CandidateLists(NamedTuple, Generic[Array]):
    """Held-out items of T users with C negatives each, all int32: NumPy arrays, or tensors on a device.

    Attributes:
        users: (T,) user ids.
        positives: (T,) item ids.
        negatives: (T, C) item ids; -1 fills a list that is shorter.
    """

    users: Array
    positives: Array
    negatives: Array


@dataclass(frozen=True)
class CandidateSpec:
    """Settings of the draws of a list's negatives.

    Attributes:
        num_candidates: C, negatives in a list.
        distinct: whether they are drawn without replacement.
        seed: determines the draws.
        sampling: name of the distribution of the draws, see :data:`fastncf.sampling.distributions.DISTRIBUTIONS`; the
            exponent of popularity is 1.
    """

    num_candidates: int
    distinct: bool
    seed: int
    sampling: str = "uniform"


def held_out_lists(
    split: Split, spec: CandidateSpec, users: np.ndarray, positives: np.ndarray, stream: Stream
) -> CandidateLists[np.ndarray]:
    """Draw lists from the items that a user has in neither training, validation nor test.

    Args:
        split: what each user has seen.
        spec: how many negatives are drawn, and how.
        users: (T,) int32.
        positives: (T,) int32, the held-out item of each user.
        stream: purpose of the lists; different streams have different draws.

    Raises:
        DataError: one of the users has seen all items.
        InsufficientMemoryError: the lists do not fit into the memory.
    """
    negatives = draw_candidates(split.seen(), split, spec, users, stream)
    return CandidateLists(users, positives, negatives)


def draw_candidates(
    seen: tuple[np.ndarray, np.ndarray],
    training: Split,
    spec: CandidateSpec,
    users: np.ndarray,
    stream: Stream,
) -> np.ndarray:
    """Draw negatives (T, C) int32 from the items that users have not seen, -1 where a list is shorter.

    Args:
        seen: CSR of what each user has seen, (U + 1,) int64 and int32.
        training: the interactions by which items are popular.
        spec: how many negatives are drawn, and how.
        users: (T,) int32.
        stream: purpose of the lists; different streams have different draws.

    Raises:
        DataError: one of the users has seen all items.
        InsufficientMemoryError: the lists do not fit into the memory.
    """
    require_candidate_memory(len(users), spec.num_candidates)
    is_uniform = spec.sampling == "uniform"
    return sample_candidates(
        *seen,
        training.num_items,
        users,
        spec.num_candidates,
        seed_key=key(spec.seed, stream),
        distinct=spec.distinct,
        alias_table=None if is_uniform else alias_table(spec.sampling, training.item_counts(), 1.0),
    )


def require_candidate_memory(num_lists: int, num_candidates: int) -> None:
    """Check that lists of candidates fit into the memory, before they are allocated.

    Args:
        num_lists: T.
        num_candidates: C.

    Raises:
        InsufficientMemoryError: they do not.
    """
    what = f"num_candidates={num_candidates:,} for {counted(num_lists, 'held-out item')}"
    require_memory(what, num_lists * num_candidates * np.dtype(np.int32).itemsize, "a smaller num_candidates")


def validation_lists(split: Split, spec: CandidateSpec) -> CandidateLists[np.ndarray]:
    """Draw lists for the items that are held out for validation, one for each item.

    Raises:
        ConfigError: no user has such an item.
        DataError: one of the users has seen all items.
    """
    rows = split.validations()
    users = rows.owner.astype(np.int32)
    if not len(users):
        raise ConfigError(
            "validation=True: no user has two different items beside those that are held out for the test; expected "
            "some, or validation=False"
        )
    return held_out_lists(split, spec, users, rows.items, Stream.VALIDATION_CANDIDATES)
