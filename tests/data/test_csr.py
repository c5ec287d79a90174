"""Rows of a CSR matrix: grouping, merging, and ranges of equal work."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fastncf.data.csr import balanced_ranges, group_by_user, merge_items
from tests.conftest import random_csr


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_merge_items(seed):
    generator = np.random.default_rng(seed)
    indptr, indices = random_csr(generator, 9, 12, max_degree=10)
    free = [sorted(set(range(12)) - set(indices[a:b].tolist())) for a, b in itertools.pairwise(indptr)]
    extra = [np.array([row[at] if generator.random() < 0.7 else -1 for row in free], np.int32) for at in (0, 1)]
    merged_ptr, merged = merge_items(indptr, indices, *extra)
    for u in range(9):
        expected = set(indices[indptr[u] : indptr[u + 1]].tolist()) | {int(e[u]) for e in extra if e[u] >= 0}
        assert merged[merged_ptr[u] : merged_ptr[u + 1]].tolist() == sorted(expected)


def test_grouping_keeps_file_order():
    user = np.random.default_rng(3).integers(0, 7, 100).astype(np.int32)
    item, time = np.arange(100, dtype=np.int32), np.arange(100, 200, dtype=np.int64)
    (indptr, grouped, _), latest = group_by_user(user, item, time, 7)
    np.testing.assert_array_equal(grouped, np.argsort(user, kind="stable"))
    np.testing.assert_array_equal(np.diff(indptr), np.bincount(user, minlength=7))
    np.testing.assert_array_equal(latest[:, 0], grouped[indptr[1:] - 1])


def test_ranges_that_are_in_order_each_but_not_together_are_grouped(monkeypatch):
    monkeypatch.setenv("FASTNCF_NUM_THREADS", "2")
    user, item = np.array([2, 3, 0, 3], dtype=np.int32), np.arange(4, dtype=np.int32)
    (indptr, grouped, _), latest = group_by_user(user, item, np.arange(4), 4)
    assert indptr.tolist() == [0, 1, 1, 2, 4]
    assert grouped.tolist() == [2, 0, 1, 3]
    assert latest.tolist() == [[2, -1], [-1, -1], [0, -1], [3, 1]]


def test_rows_in_user_order_are_not_moved():
    user = np.array([0, 0, 2, 2, 2], dtype=np.int32)
    item, time = np.array([3, 1, 4, 1, 5], dtype=np.int32), np.array([0, 1, 2, 4, 3])
    (indptr, grouped, _), latest = group_by_user(user, item, time, 4)
    assert grouped is item
    assert indptr.tolist() == [0, 2, 2, 5, 5]
    assert latest.tolist() == [[1, 3], [-1, -1], [1, 5], [-1, -1]]


def test_balanced_ranges_cover_every_user_once():
    indptr, _ = random_csr(np.random.default_rng(0), 50, 200)
    bounds = balanced_ranges(indptr)
    assert bounds[0] == 0
    assert bounds[-1] == 50
    assert (np.diff(bounds) >= 0).all()
