import numpy as np
import pytest

from fastncf.data.split import leave_one_out
from fastncf.errors import ConfigError
from fastncf.evaluation.candidates import CandidateSpec, held_out_lists, validation_lists
from fastncf.rng import Stream
from tests.conftest import plain_split, random_csr, random_interactions


@pytest.fixture
def split():
    return leave_one_out(random_interactions(np.random.default_rng(1)), validation=True)


@pytest.mark.parametrize("distinct", [False, True])
def test_candidates_are_items_that_the_user_has_nowhere(split, distinct):
    users = np.flatnonzero(split.test_item >= 0).astype(np.int32)
    spec = CandidateSpec(9, distinct, seed=5)
    lists = held_out_lists(split, spec, users, split.test_item[users], Stream.CANDIDATES)
    assert lists.negatives.shape == (len(users), 9)
    indptr, indices = split.seen()
    for user, positive, negatives in zip(*lists, strict=True):
        drawn = negatives[negatives >= 0]
        seen = indices[indptr[user] : indptr[user + 1]]
        assert positive in seen
        assert not set(drawn) & set(seen)
        if distinct:
            assert len(set(drawn)) == len(drawn) == min(9, split.num_items - len(seen))
        else:
            assert len(drawn) == 9


def test_draws_depend_on_the_seed_and_on_what_they_are_for(split):
    users = np.flatnonzero(split.test_item >= 0).astype(np.int32)

    def drawn(seed: int, stream: Stream) -> np.ndarray:
        return held_out_lists(split, CandidateSpec(5, False, seed), users, split.test_item[users], stream).negatives

    first = drawn(0, Stream.CANDIDATES)
    assert np.array_equal(first, drawn(0, Stream.CANDIDATES))
    assert not np.array_equal(first, drawn(1, Stream.CANDIDATES))
    assert not np.array_equal(first, drawn(0, Stream.VALIDATION_CANDIDATES))


def test_validation_lists_are_those_of_the_validation_items(split):
    spec = CandidateSpec(5, True, seed=0)
    lists = validation_lists(split, spec)
    assert np.array_equal(lists.users, np.flatnonzero(split.validation_item >= 0))
    assert np.array_equal(lists.positives, split.validation_item[lists.users])
    expected = held_out_lists(split, spec, lists.users, lists.positives, Stream.VALIDATION_CANDIDATES)
    assert np.array_equal(lists.negatives, expected.negatives)


def test_no_validation_item_at_all_is_said():
    split = plain_split(*random_csr(np.random.default_rng(0), 4, 6), 6)
    with pytest.raises(ConfigError, match=r"no user has three different items; expected some, or validation=False"):
        validation_lists(split, CandidateSpec(5, True, seed=0))
