import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastncf.errors import DataError
from fastncf.kernels.cpu.negatives import ATTEMPTS, UNIFORM, SeenItems, is_dense, sample_rows
from fastncf.rng import GOLDEN, Stream, key, mix
from fastncf.sampling.distributions import alias_table
from fastncf.sampling.negatives import (
    MAX_ITEMS,
    _hash,
    draw_reference,
    position_keys,
    sample_candidates,
    sample_negatives,
    sample_negatives_reference,
)
from tests.conftest import random_csr


def csr(*rows: list[int]) -> tuple[np.ndarray, np.ndarray]:
    indptr = np.cumsum([0, *(len(row) for row in rows)]).astype(np.int64)
    return indptr, np.array([item for row in rows for item in row], dtype=np.int32)


def owners(indptr: np.ndarray) -> np.ndarray:
    return np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 20), st.integers(2, 70), st.integers(1, 6), st.integers(0, 2**40))
def test_equals_the_reference(data_seed, num_users, num_items, num_negatives, seed):
    indptr, indices = random_csr(np.random.default_rng(data_seed), num_users, num_items)
    args = (indptr, indices, num_items, num_negatives)
    fast = sample_negatives(*args, seed=seed, epoch=data_seed % 5)
    assert fast.dtype == np.int32
    assert fast.shape == (len(indices), num_negatives)
    np.testing.assert_array_equal(fast, sample_negatives_reference(*args, seed=seed, epoch=data_seed % 5))


def test_never_a_positive_of_its_own_user():
    generator = np.random.default_rng(1)
    indptr, indices = random_csr(generator, 200, 300)
    negatives = sample_negatives(indptr, indices, 300, 5, seed=1, epoch=0)
    seen = np.zeros((200, 300), dtype=bool)
    seen[owners(indptr), indices] = True
    assert not seen[owners(indptr)[:, None], negatives].any()


def chi_square(counts: np.ndarray) -> float:
    """The statistic in standard deviations from its mean, under uniformity."""
    expected = counts.sum() / len(counts)
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = len(counts) - 1
    return float((statistic - freedom) / np.sqrt(2 * freedom))


@pytest.mark.parametrize("degree", [1, 40, 99, 101, 150, 197], ids="seen={}".format)
def test_uniform_over_the_unseen_items(degree):
    """Light, heavy and extreme users, on both sides of the switch from rejection to rank-select."""
    num_items = 200
    row = np.sort(np.random.default_rng(degree).choice(num_items, degree, replace=False))
    indptr, indices = csr(*[row.tolist()] * (1 + 50_000 // degree))
    draws = sample_negatives(indptr, indices, num_items, 4, seed=7, epoch=0)
    counts = np.bincount(draws.ravel(), minlength=num_items)
    assert counts[row].sum() == 0
    assert abs(chi_square(np.delete(counts, row))) < 5


def test_uniform_where_the_hash_cannot_be_split_evenly():
    """With 3 * 2**30 items a plain multiply-shift of 32 bits would draw every third item twice as often."""
    num_items = 3 * 2**29
    indptr, indices = csr([0] * 0 + list(range(1000)))
    draws = sample_negatives(indptr, indices, num_items, 400, seed=3, epoch=0).ravel()
    counts = np.bincount(draws % 3, minlength=3)
    assert abs(chi_square(counts)) < 5


def test_slots_and_epochs_are_independent():
    indptr, indices = csr(*[[u % 64] for u in range(40_000)])
    first = sample_negatives(indptr, indices, 64, 2, seed=5, epoch=0)
    second = sample_negatives(indptr, indices, 64, 2, seed=5, epoch=1)
    for a, b in ((first[:, 0], first[:, 1]), (first[:, 0], second[:, 0]), (first[:-1, 0], first[1:, 0])):
        pairs = np.bincount(a // 8 * 8 + b // 8, minlength=64)
        assert abs(chi_square(pairs)) < 8  # not quite uniform: each row leaves one item out


def test_first_and_last_item_are_drawn():
    indptr, indices = csr(list(range(1, 9)))
    draws = sample_negatives(indptr, indices, 10, 50, seed=0, epoch=0)
    assert set(np.unique(draws)) == {0, 9}


def test_one_negative_left():
    indptr, indices = csr([0, 1, 2, 3, 5, 6, 7, 8, 9])
    assert (sample_negatives(indptr, indices, 10, 3, seed=0, epoch=4) == 4).all()


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_same_bits_for_any_number_of_threads(monkeypatch, threads):
    indptr, indices = random_csr(np.random.default_rng(2), 50, 1000)
    monkeypatch.setenv("FASTNCF_NUM_THREADS", str(threads))
    drawn = sample_negatives(indptr, indices, 1000, 4, seed=9, epoch=2)
    lists = sample_candidates(indptr, indices, 1000, np.arange(50, dtype=np.int32), 9, seed_key=3)
    monkeypatch.setenv("FASTNCF_NUM_THREADS", "5")
    np.testing.assert_array_equal(drawn, sample_negatives(indptr, indices, 1000, 4, seed=9, epoch=2))
    again = sample_candidates(indptr, indices, 1000, np.arange(50, dtype=np.int32), 9, seed_key=3)
    np.testing.assert_array_equal(lists, again)


def test_epochs_and_seeds_differ():
    indptr, indices = random_csr(np.random.default_rng(3), 20, 500, max_degree=250)
    base = sample_negatives(indptr, indices, 500, 2, seed=1, epoch=0)
    for seed, epoch in ((1, 1), (2, 0)):
        other = sample_negatives(indptr, indices, 500, 2, seed=seed, epoch=epoch)
        assert (base == other).mean() < 0.05


def test_fills_the_array_that_is_given():
    indptr, indices = csr([0, 3], [1])
    out = np.full((3, 2), -5, dtype=np.int32)
    assert sample_negatives(indptr, indices, 6, 2, seed=0, epoch=0, out=out) is out
    assert (out >= 0).all()


@pytest.mark.parametrize("bad", [np.empty((3, 3), np.int32), np.empty((3, 2), np.int64), np.empty((2, 3), np.int32).T])
def test_refuses_an_array_that_does_not_fit(bad):
    indptr, indices = csr([0, 3], [1])
    with pytest.raises(DataError, match=r"C-contiguous int32 array of shape \(3, 2\)"):
        sample_negatives(indptr, indices, 6, 2, seed=0, epoch=0, out=bad)


def test_names_a_user_without_a_negative():
    indptr, indices = csr([0], [0, 1, 2])
    with pytest.raises(DataError, match="user 1 has seen all 3 items"):
        sample_negatives(indptr, indices, 3, 1, seed=0, epoch=0)
    with pytest.raises(DataError, match="user 1 has seen all 3 items"):
        sample_candidates(indptr, indices, 3, np.array([0, 1], np.int32), 1, seed_key=0)


def test_refuses_a_catalogue_beyond_int32():
    indptr, indices = csr([0])
    with pytest.raises(DataError, match="expected at most"):
        sample_negatives(indptr, indices, MAX_ITEMS + 1, 1, seed=0, epoch=0)


def test_positions_beyond_32_bits_have_keys_of_their_own():
    keys = position_keys(4, Stream.NEGATIVES, 0, positions=2**32)
    low = [_hash(position, keys, 0) for position in range(50)]
    high = [_hash(position + 2**32, keys, 0) for position in range(50)]
    assert not set(low) & set(high)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(2, 50), st.integers(1, 4), st.floats(0, 2))
def test_weighted_draws_equal_the_reference(data_seed, num_users, num_items, num_negatives, exponent):
    generator = np.random.default_rng(data_seed)
    indptr, indices = random_csr(generator, num_users, num_items)
    table = alias_table("popularity", generator.integers(0, 10**6, num_items) ** 2, exponent)
    args = (indptr, indices, num_items, num_negatives)
    fast = sample_negatives(*args, seed=data_seed, epoch=1, alias_table=table)
    slow = sample_negatives_reference(*args, seed=data_seed, epoch=1, alias_table=table)
    np.testing.assert_array_equal(fast, slow)


@pytest.mark.parametrize("exponent", [0.0, 0.75, 1.0])
@pytest.mark.parametrize("seen", [5, 90])
def test_weighted_draws_follow_popularity_on_the_unseen_items(exponent, seen):
    """Also for a user who has seen what is drawn most, so that nearly every attempt is rejected."""
    counts = np.arange(100)[::-1] ** 2
    popular = np.arange(seen)
    table = alias_table("popularity", counts, exponent)
    indptr, indices = csr(*[popular.tolist()] * (200_000 // seen))
    draws = sample_negatives(indptr, indices, 100, 1, seed=3, epoch=0, alias_table=table)
    observed = np.bincount(draws.ravel(), minlength=100)
    expected = np.maximum(counts, 1).astype(float) ** exponent
    expected[popular] = 0
    expected *= observed.sum() / expected.sum()
    assert observed[popular].sum() == 0
    often = expected > 5
    statistic = ((observed - expected)[often] ** 2 / expected[often]).sum()
    assert abs(statistic - often.sum()) < 5 * np.sqrt(2 * often.sum())


@pytest.mark.parametrize("exponent", [None, 1.5])
def test_long_rows_equal_the_reference(exponent):
    """Rows of more draws than a tile holds: few, most and nearly all items seen, the popular ones before others."""
    generator = np.random.default_rng()
    counts = generator.integers(1, 10**4, 400)
    by_popularity = np.argsort(-counts)
    table = None if exponent is None else alias_table("popularity", counts, exponent)
    indptr, indices = csr(*(sorted(by_popularity[:degree].tolist()) for degree in (250, 30, 299, 301, 399)))
    args = (indptr, indices, 400, 12)
    fast = sample_negatives(*args, seed=3, epoch=0, alias_table=table)
    np.testing.assert_array_equal(fast, sample_negatives_reference(*args, seed=3, epoch=0, alias_table=table))


def candidates_reference(indptr, indices, num_items, users, num_candidates, seed_key, distinct) -> np.ndarray:
    """Draw as sample_candidates does, one draw at a time in plain Python."""
    out = np.full((len(users), num_candidates), -1, dtype=np.int32)
    for row, user in zip(out, users.tolist(), strict=True):
        seen = set(indices[indptr[user] : indptr[user + 1]].tolist())
        unseen = [item for item in range(num_items) if item not in seen]
        if distinct and len(unseen) <= num_candidates:
            row[: len(unseen)] = unseen
            continue
        pool = unseen if is_dense(len(seen), num_items) else range(num_items)
        counter, drawn = user << 32, []
        while len(drawn) < num_candidates:
            product = (mix((counter * GOLDEN + seed_key) % 2**64) >> 32) * len(pool)
            counter += 1
            if product % 2**32 >= 2**32 % len(pool):
                item = pool[product >> 32]
                if item not in seen and not (distinct and item in drawn):
                    drawn.append(item)
        row[:] = drawn
    return out


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 60), st.integers(1, 30), st.booleans())
def test_candidates_equal_the_reference(data_seed, num_items, wanted, distinct):
    indptr, indices = random_csr(np.random.default_rng(data_seed), 12, num_items)
    users = np.random.default_rng(data_seed).permutation(12)[:7].astype(np.int32)
    args = (indptr, indices, num_items, users, wanted)
    lists = sample_candidates(*args, seed_key=key(data_seed), distinct=distinct)
    np.testing.assert_array_equal(lists, candidates_reference(*args, key(data_seed), distinct))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(2, 60), st.integers(1, 30), st.booleans())
def test_candidates_are_unseen_and_distinct(data_seed, num_items, wanted, distinct):
    indptr, indices = random_csr(np.random.default_rng(data_seed), 12, num_items)
    users = np.random.default_rng(data_seed).permutation(12)[:7].astype(np.int32)
    lists = sample_candidates(indptr, indices, num_items, users, wanted, seed_key=key(data_seed), distinct=distinct)
    for user, row in zip(users, lists, strict=True):
        unseen = set(range(num_items)) - set(indices[indptr[user] : indptr[user + 1]].tolist())
        drawn = row[row >= 0]
        assert set(drawn.tolist()) <= unseen
        assert len(drawn) == (min(wanted, len(unseen)) if distinct else wanted)
        assert not distinct or len(set(drawn.tolist())) == len(drawn)
        assert (row[len(drawn) :] == -1).all()


@pytest.mark.parametrize("distinct", [True, False])
@pytest.mark.parametrize("degree", [3, 30])
def test_candidates_are_uniform(degree, distinct):
    num_items, users = 40, np.zeros(1, dtype=np.int32)
    indptr, indices = csr(sorted(np.random.default_rng(0).choice(num_items, degree, replace=False).tolist()))
    lists = np.stack(
        [
            sample_candidates(indptr, indices, num_items, users, 5, seed_key=key(s), distinct=distinct)[0]
            for s in range(8000)
        ]
    )
    for column in (0, 4):
        counts = np.delete(np.bincount(lists[:, column], minlength=num_items), indices)
        assert abs(chi_square(counts)) < 5
    joint = np.bincount(lists[:, 0] * num_items + lists[:, 1], minlength=num_items**2).reshape(num_items, num_items)
    free = np.delete(np.arange(num_items), indices)
    joint = joint[np.ix_(free, free)]
    counts = joint[~np.eye(len(free), dtype=bool)] if distinct else joint.ravel()
    assert abs(chi_square(counts)) < 5


def test_rows_and_positions_beyond_32_bits(tmp_path):
    """The last user of a CSR of more than 2**31 entries: only its own few of them are read, so the file has holes."""
    num_items, num_negatives = 1000, 3
    stop = 2**31 + 5
    row = np.array([0, 3, 4, 500, 998, 999], dtype=np.int32)
    indptr = np.array([0, stop - len(row), stop], dtype=np.int64)
    indices = np.memmap(tmp_path / "indices", np.int32, "w+", shape=(stop,))
    indices[-len(row) :] = row
    out = np.memmap(tmp_path / "out", np.int32, "w+", shape=(stop * num_negatives,))
    keys = position_keys(4, Stream.NEGATIVES, 0, positions=len(out))
    sample_rows(stop - len(row), stop, SeenItems(indptr, indices, num_items), keys, UNIFORM, num_negatives, out)
    positions = range((stop - len(row)) * num_negatives, len(out))
    assert positions[0] > 2**32
    seen = set(row.tolist())
    unseen = [item for item in range(num_items) if item not in seen]
    expected = [draw_reference(position, keys, ATTEMPTS, num_items, seen, unseen, None) for position in positions]
    np.testing.assert_array_equal(out[positions[0] :], expected)


@pytest.mark.parametrize("num_items", [2**24 + 1, MAX_ITEMS - 1, MAX_ITEMS])
def test_catalogues_up_to_the_edge_of_int32(num_items):
    row = [0, 1, num_items - 2, num_items - 1]
    indptr, indices = csr(row, row)
    draws = sample_negatives(indptr, indices, num_items, 20_000, seed=1, epoch=0)
    assert draws.min() > 1
    assert draws.max() < num_items - 2
    counts = np.bincount(draws.ravel() // (num_items // 64 + 1), minlength=64)
    assert abs(chi_square(counts[:63])) < 5
