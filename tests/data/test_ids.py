"""Raw ids, their indices, and vocabularies."""

import itertools

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastncf.data.ids import Vocabulary, categories, distinct, find_indices, to_canonical_dtype
from fastncf.errors import DataError

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
        found = find_indices(chunked(asked, pl.Int64, cuts), ids)
        assert found.dtype == np.int32
        assert found.tolist() == [where.get(value, -1) for value in asked]


@pytest.mark.parametrize("kind", [pl.Int32, pl.UInt64])
def test_other_integers(kind):
    values = [7, 0, 2**31 - 1, 7, *([2**64 - 1, 2**63] if kind == pl.UInt64 else [-(2**31)])]
    column = pl.Series(values, dtype=kind)
    ids = distinct(column)
    assert ids.dtype == kind
    assert ids.to_list() == sorted(set(values))
    assert find_indices(column, to_canonical_dtype(ids)).tolist() == [
        sorted(set(values)).index(value) for value in values
    ]


def test_categories_are_those_that_occur():
    kind = pl.Categorical(pl.Categories.random())
    both = pl.Series(["never", "b", "a", "b"]).cast(kind)
    assert sorted(distinct(both.slice(1)).cast(pl.String)) == ["a", "b"]
    assert to_canonical_dtype(both.slice(1)).to_list() == ["b", "a", "b"]
    assert [categories(both)[place] for place in both.to_physical()] == both.to_list()
    assert categories(both.head(0)).to_list() == []


def test_nulls_are_refused():
    with pytest.raises(AssertionError, match="array of floats"):
        distinct(pl.Series([1, None]))


def test_vocabulary_enindices_and_deindices():
    for ids in (["b", "a", "c", "a"], [10, -3, 2**40, 10]):
        column = pl.Series(ids)
        vocabulary = Vocabulary.of([column], "user")
        indices = vocabulary.encode(column)
        assert indices.dtype == np.int32
        assert sorted(set(indices.tolist())) == [0, 1, 2]
        assert vocabulary.decode(indices).to_list() == ids
        assert vocabulary.ids.to_list() == sorted(set(ids))


@pytest.mark.parametrize("ids", [[1, 5, 9], [1, 5, 2**40], ["1", "5", "9"]])
def test_unknown_ids_have_no_index(ids):
    vocabulary = Vocabulary.of([pl.Series(ids)], "user")
    unknown = pl.Series([ids[1], ids[0], 3 if isinstance(ids[0], int) else "3"])
    assert vocabulary.encode(unknown).tolist() == [1, 0, -1]


@pytest.mark.parametrize(
    "raw", [5, np.int64(5), 5.0, "5", [5], (5,), np.array([5]), pl.Series([5]), pd.Series([5]), pd.Series(["5"])]
)
def test_named_ids(raw):
    assert Vocabulary.of([pl.Series([1, 5])], "user").require(raw).tolist() == [1]
    if not isinstance(raw, float):
        assert Vocabulary.of([pl.Series(["1", "5"])], "user").require(raw).tolist() == [1]


@pytest.mark.parametrize("raw", [1.5, None, [5, None], float("nan"), "x", b"x", 2**70, 2**200, [[5]], object()])
def test_ids_of_another_kind(raw):
    with pytest.raises(DataError, match="user ids are integers in the training data; got"):
        Vocabulary.of([pl.Series([1, 5])], "user").require(raw)


def test_unknown_named_id():
    with pytest.raises(DataError, match="user 7 is not in the training data, whose 2 user ids run from 1 to 5"):
        Vocabulary.of([pl.Series([1, 5])], "user").require([5, 7])


@pytest.mark.parametrize("raw", [True, [True, False], {2: 1}])
def test_what_only_looks_like_an_id_is_refused(raw):
    with pytest.raises(DataError, match="user ids are integers in the training data; got "):
        Vocabulary.of([pl.Series([0, 1, 2])], "user").require(raw)
