import itertools

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastncf.data.ids import canonical_dtype, categories, distinct, positions

INTEGERS = {
    "narrow": st.integers(-50, 50),
    "wide": st.integers(-(2**63), 2**63 - 1),
    "few of a wide range": st.sampled_from([-(2**63), -5, 0, 3, 10**12, 2**63 - 1]),
}


def chunked(values: list, kind: pl.DataType, cuts: list[int]) -> pl.Series:
    """A column of several chunks, as a streaming read leaves it."""
    bounds = [0, *sorted(cut % (len(values) + 1) for cut in cuts), len(values)]
    parts = [pl.Series(values[a:b], dtype=kind) for a, b in itertools.pairwise(bounds)]
    return pl.concat(parts, rechunk=False)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from(sorted(INTEGERS)), st.lists(st.integers(0, 99), max_size=3))
def test_integers(data, which, cuts):
    values = data.draw(st.lists(INTEGERS[which], min_size=1, max_size=60))
    other = data.draw(st.lists(INTEGERS[which], max_size=60))
    column = chunked(values, pl.Int64, cuts)
    ids = distinct(column)
    assert ids.to_list() == sorted(set(values))
    where = {value: at for at, value in enumerate(ids)}
    for asked in (values, other):
        found = positions(chunked(asked, pl.Int64, cuts), ids)
        assert found.dtype == np.int32
        assert found.tolist() == [where.get(value, -1) for value in asked]


@pytest.mark.parametrize("kind", [pl.Int32, pl.UInt64])
def test_other_integers(kind):
    values = [7, 0, 2**31 - 1, 7, *([2**64 - 1, 2**63] if kind == pl.UInt64 else [-(2**31)])]
    column = pl.Series(values, dtype=kind)
    ids = distinct(column)
    assert ids.dtype == kind
    assert ids.to_list() == sorted(set(values))
    assert positions(column, canonical_dtype(ids)).tolist() == [sorted(set(values)).index(value) for value in values]


def test_categories_are_those_that_occur():
    kind = pl.Categorical(pl.Categories.random())
    both = pl.Series(["never", "b", "a", "b"]).cast(kind)
    assert sorted(distinct(both.slice(1)).cast(pl.String)) == ["a", "b"]
    assert canonical_dtype(both.slice(1)).to_list() == ["b", "a", "b"]
    assert [categories(both)[place] for place in both.to_physical()] == both.to_list()
    assert categories(both.head(0)).to_list() == []


def test_nulls_are_refused():
    with pytest.raises(AssertionError, match="array of floats"):
        distinct(pl.Series([1, None]))
