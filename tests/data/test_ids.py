"""Raw ids, their indices, and vocabularies."""

import datetime as dt
import itertools
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastncf.data.ids import (
    Vocabulary,
    canonical_ids,
    canonical_text,
    categories,
    distinct,
    find_indices,
    named_ids,
    refused_ids,
    to_canonical_dtype,
)
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
    "raw",
    [
        *(5, 5.0, "5", " 5\t", "5.0", "5.00", [5], (5,), {5}, range(5, 6), Decimal("5.00"), [" 5 "]),
        *(np.int64(5), np.int32(5), np.float16(5), np.float32(5), np.str_("5"), np.array(5), np.array([5])),
        *(np.array(["5.0"], dtype=object), pl.Series([5]), pl.Series([5.0]), pl.Series(["5.0"]), pd.Series([5])),
        *(pl.Series(["5"], dtype=pl.Categorical), pl.Series([Decimal("5.0")]), pl.Series([5], dtype=pl.Object)),
        *(pl.Series([5], dtype=pl.UInt8), pl.Series([5], dtype=pl.UInt64), pd.Series(["5"]), pd.Series([5.0])),
        *(pd.Series(["5"], dtype="category"), pd.Series([5], dtype="Int64"), pd.Index([5])),
        *(torch.tensor(5), torch.tensor([5.0]), np.ma.array([5], mask=[False])),
    ],
    ids=repr,
)
def test_named_ids(raw):
    assert Vocabulary.of([pl.Series([1, 5])], "user").require(raw).tolist() == [1]
    assert Vocabulary.of([pl.Series(["1", "5", "x"])], "user").require(raw).tolist() == [1]
    assert Vocabulary.of([pl.Series([1, 5, 2**63])], "user").require(raw).tolist() == [1]


@pytest.mark.parametrize("known", [[1, 5], ["1", "5", "x"], [1, 2**63]])
@pytest.mark.parametrize(
    "raw",
    [
        *(1.5, None, [5, None], float("nan"), float("inf"), 1e17, b"x", [[5]], object, " ", [], True, [True, False]),
        *({2: 1}, Decimal("0.5"), Decimal("nan"), Decimal("1e999999999"), dt.date(2020, 1, 1), np.array([[5]])),
        *(np.float32(2**24), np.bool_(True), np.datetime64("2020"), pd.NA, pl.Series([1.5]), pl.Series([None])),
        *(pl.Series([True]), pl.Series([[5]]), pl.Series(["5", " "], dtype=pl.Categorical), pd.Series([1, None])),
        *(np.ma.masked, np.ma.array([5, 1], mask=[False, True]), [5, np.ma.masked], torch.tensor(1.5), bytearray(b"5")),
        *(memoryview(b"5"), np.array(np.datetime64("2020-01-01", "ns"))),
    ],
    ids=lambda raw: "memoryview" if isinstance(raw, memoryview) else repr(raw),  # without an address
)
def test_ids_of_another_kind(known, raw):
    vocabulary = Vocabulary.of([pl.Series(known)], "user")
    if isinstance(raw, list) and not raw:
        assert vocabulary.require(raw).tolist() == []
        return
    with pytest.raises(DataError, match="user ids are integers or text; got"):
        vocabulary.require(raw)


@pytest.mark.parametrize(
    ("known", "raw", "shown"),
    [
        ([1, 5], [5, 7], "7"),
        ([1, 5], "x", "'x'"),
        ([1, 5], "05", "'05'"),
        ([1, 5], "+5", "'[+]5'"),
        ([1, 5], 2**70, str(2**70)),
        ([1, 5], -(2**200), str(-(2**200))),
        (["1", "x"], "01", "'01'"),
        (["1", "x"], 7, "7"),
        ([1, 2**63], -1, "-1"),
    ],
)
def test_unknown_named_id(known, raw, shown):
    with pytest.raises(DataError, match=f"user '?{shown}'? is not in the training data, whose 2 user ids run from '?1"):
        Vocabulary.of([pl.Series(known)], "user").require(raw)


CANONICAL = {
    **{"A7": "A7", "12": "12", "12.0": "12", " 12": "12", "12\t": "12", "007": "007", "7": "7", "7.00": "7"},
    **{"07.0": "07.0", "+7": "+7", "-0": "-0", "-0.0": "0", "0.0": "0", "1e3": "1e3", "1.50": "1.50", "é": "é"},
}
"""The canonical text of each spelling."""

SPELLINGS = list(CANONICAL)


@pytest.mark.parametrize("dtype", [pl.String, pl.Categorical, pl.Enum(SPELLINGS)])
def test_ids_are_compared_by_their_canonical_text(dtype):
    column = pl.Series(SPELLINGS).cast(dtype)
    assert not refused_ids(column).any()
    assert canonical_ids(column).to_list() == list(CANONICAL.values())
    vocabulary = Vocabulary.of([canonical_ids(column)], "item")
    assert len(vocabulary) == len(set(CANONICAL.values()))
    assert vocabulary.decode(vocabulary.require(SPELLINGS)).to_list() == list(CANONICAL.values())


@pytest.mark.parametrize(
    ("ids", "dtype", "expected"),
    [
        (["12.0", " 7", "0"], pl.Int64, [12, 7, 0]),
        ([str(2**63), "1"], pl.UInt64, [2**63, 1]),
        ([str(2**63), "-1"], pl.String, [str(2**63), "-1"]),
        ([str(2**70), "1"], pl.String, [str(2**70), "1"]),
        (["12", "A7"], pl.String, ["12", "A7"]),
        ([Decimal("12.00"), Decimal(-3)], pl.Int64, [12, -3]),
        ([12.0, -0.0], pl.Int64, [12, 0]),
    ],
)
@pytest.mark.parametrize("is_category", [False, True])
def test_a_column_of_canonical_integers_is_stored_as_integers(ids, dtype, expected, is_category):
    column = pl.Series(ids)
    if is_category and column.dtype == pl.String:
        column = column.cast(pl.Categorical(pl.Categories.random()))
        unused = pl.Series(["never", *column], dtype=column.dtype).slice(1)  # decided by the categories that occur
        column = unused
    found = canonical_ids(column)
    assert to_canonical_dtype(found).dtype == dtype
    assert found.to_list() == expected


def test_a_vocabulary_of_columns_of_several_kinds():
    integers, text = pl.Series([12, 7], dtype=pl.Int32), pl.Series(["A7", "12"])
    vocabulary = Vocabulary.of([integers, text], "item")
    assert vocabulary.ids.to_list() == ["12", "7", "A7"]
    assert vocabulary.encode(integers).tolist() == [0, 1]
    assert Vocabulary.of([integers, pl.Series([2**63], dtype=pl.UInt64)], "item").ids.to_list() == [7, 12, 2**63]
    negative = Vocabulary.of([pl.Series([-1]), pl.Series([2**63], dtype=pl.UInt64)], "item")
    assert negative.ids.to_list() == ["-1", str(2**63)]
    assert negative.encode(pl.Series([2**63], dtype=pl.UInt64)).tolist() == [1]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.text("07.-+ \t\x1c\x85\u00a0\u2003\u200b\ufeffé٣a", max_size=6) | st.sampled_from(SPELLINGS), min_size=1
    )
)
def test_text_that_a_caller_names_is_read_as_a_column_of_text(values):
    column = pl.Series(values, dtype=pl.String)
    if refused_ids(column).any():
        with pytest.raises(DataError, match="user ids are integers or text; got"):
            named_ids(values, "user")
    else:
        assert named_ids(values, "user") == canonical_text(column).to_list()


@settings(max_examples=100, deadline=None)
@given(st.data(), st.sampled_from(sorted(INTEGERS)), st.booleans())
def test_named_ids_are_found_as_a_column_is(data, which, is_text):
    numbers = st.integers(-(2**65), 2**65) | INTEGERS[which]
    known = pl.Series(data.draw(st.lists(INTEGERS[which], min_size=2, max_size=40)), dtype=pl.Int64)
    if is_text:
        known = pl.concat([known.cast(pl.String), pl.Series(["x"])])
    vocabulary = Vocabulary.of([canonical_ids(known)], "user")
    asked = data.draw(st.lists(st.sampled_from(known.to_list()) | numbers | numbers.map(str), min_size=1, max_size=9))
    where = {str(one): index for index, one in enumerate(vocabulary.ids)}
    expected = [where.get(str(one), -1) for one in asked]
    assert vocabulary.find(named_ids(asked, "user")).tolist() == expected
    assert vocabulary.find(named_ids(asked * len(known), "user")).tolist() == expected * len(known)


def test_unsigned_ids_are_not_rounded_when_they_are_compared():
    high = 2**63 + 2**40 + 1
    vocabulary = Vocabulary.of([pl.Series([5, high], dtype=pl.UInt64)], "user")
    for named in (np.array([high, high + 1, 5], dtype=np.uint64), [high, high + 1, 5], [str(high), str(high + 1), "5"]):
        assert vocabulary.find(named_ids(named, "user")).tolist() == [1, -1, 0]
    assert vocabulary.find(np.array([-5, 5])).tolist() == [-1, 0]
    signed = Vocabulary.of([pl.Series([-1, 5])], "user")
    assert signed.find(np.array([2**64 - 1, 5], dtype=np.uint64)).tolist() == [-1, 1]
