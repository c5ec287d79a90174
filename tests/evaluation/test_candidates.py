import numpy as np
import pytest

from fastncf.data.split import leave_one_out
from fastncf.errors import ConfigError
from fastncf.evaluation.candidates import CandidateSpec, held_out_lists, validation_lists
from fastncf.kernels.cpu.alias import AliasTable, make_alias_table
from fastncf.kernels.cpu.negatives import ATTEMPTS
from fastncf.rng import GOLDEN, Stream, mix
from fastncf.sampling.distributions import alias_table
from fastncf.sampling.negatives import sample_candidates
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
    with pytest.raises(
        ConfigError, match=r"no user has two different items beside .* the test; expected some, or validation=False"
    ):
        validation_lists(split, CandidateSpec(5, True, seed=0))


def plain_weighted(
    table: AliasTable, seen: set[int], wanted: int, user: int, seed_key: int, distinct: bool
) -> list[int]:
    """Draw items one at a time, by the numbers that the kernel hashes."""
    units = np.diff(table.cumulative.astype(np.int64)).tolist()
    taken, drawn, counter = set(seen), [], user << 32
    mask = (1 << 64) - 1

    def number() -> int:
        nonlocal counter
        counter += 1
        return mix(((counter - 1) * GOLDEN + seed_key) & mask) >> 32

    for _ in range(min(wanted, len(units) - len(seen)) if distinct else wanted):
        item = next((one for one in (table.item(number()) for _ in range(ATTEMPTS)) if one not in taken), None)
        if item is None:
            left = [one for one in range(len(units)) if one not in taken]
            at = number() * sum(units[one] for one in left) >> 32
            ends = np.cumsum([units[one] for one in left])
            item = left[int(np.searchsorted(ends, at, side="right"))]
        drawn.append(item)
        if distinct:
            taken.add(item)
    return drawn


@pytest.mark.parametrize("distinct", [True, False])
def test_candidates_by_popularity_equal_draws_one_at_a_time(distinct):
    generator = np.random.default_rng(8)
    indptr, indices = random_csr(generator, 20, 30)
    weights = generator.integers(1, 1000, 30) ** 2.0
    table, users = make_alias_table(weights), np.arange(20, dtype=np.int32)
    drawn = sample_candidates(indptr, indices, 30, users, 12, seed_key=5, distinct=distinct, alias_table=table)
    for user in users:
        seen = set(indices[indptr[user] : indptr[user + 1]].tolist())
        expected = plain_weighted(table, seen, 12, int(user), 5, distinct)
        assert drawn[user].tolist() == expected + [-1] * (12 - len(expected))


def test_candidates_by_popularity_are_drawn_as_often_as_items_are_popular():
    """First draws of many users who have seen item 0 follow the shares of the other items."""
    counts = np.array([50, 40, 30, 20, 10, 0])
    users = np.arange(40_000, dtype=np.int32)
    indptr, indices = np.arange(40_001), np.zeros(40_000, dtype=np.int32)
    table = alias_table("popularity", counts, 1.0)
    drawn = sample_candidates(indptr, indices, 6, users, 5, seed_key=3, alias_table=table)
    assert np.array_equal(np.sort(drawn, axis=1), np.tile(np.arange(1, 6), (40_000, 1)))
    shares = np.bincount(drawn[:, 0], minlength=6)[1:] / 40_000
    np.testing.assert_allclose(shares, np.array([40, 30, 20, 10, 1]) / 101, atol=0.012)
    second = np.bincount(drawn[drawn[:, 0] == 1, 1], minlength=6)[2:]
    np.testing.assert_allclose(second / second.sum(), np.array([30, 20, 10, 1]) / 61, atol=0.02)
