"""Recommendations with filters and unknown users, beside a plain reference: all scores, a set of items, a sort."""

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal, assert_series_equal
from torch import nn

import fastncf
from fastncf.errors import ConfigError, DataError, DataNotFoundError
from fastncf.models.mf import MF
from fastncf.serving import answers

USERS, ITEMS = 12, 17


def interactions(is_text: bool) -> pl.DataFrame:
    """Random rows, some of them repeated; user 0 has a single item and user 1 has seen every item."""
    generator = np.random.default_rng(3)
    rows = [(0, 5, 0), *((1, item, item) for item in range(ITEMS))]
    for user in range(2, USERS):
        items = generator.choice(ITEMS, int(generator.integers(3, ITEMS - 2)), replace=False)
        rows += [(user, int(item), time) for time, item in enumerate([*items, items[0]])]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    if is_text:
        return frame.with_columns(pl.format("u-{}", "user").alias("user"), pl.format("i {}", "item").alias("item"))
    return frame.with_columns(pl.col("user") * 7 - 20, pl.col("item") * 3 + 2**40)


@pytest.fixture(scope="module", params=["mf", "gmf"])
def fitted(request) -> dict[bool, fastncf.Recommender]:
    settings = {"dim": 4, "epochs": 2, "num_negatives": 2, "validation": True, "l2": 0.001}
    return {is_text: fastncf.fit(interactions(is_text), model=request.param, **settings) for is_text in (False, True)}


def reference(rec: fastncf.Recommender, data: pl.DataFrame, users: list, k: int, wanted: dict[str, Any]) -> list[tuple]:
    """The rows of an answer, from all scores of a user and the set of items that may be recommended."""
    items = rec.items.ids.to_list()
    counts = dict(zip(items, rec.split.item_counts().tolist(), strict=True))
    rows = []
    for user in users:
        is_known = user in set(rec.users.ids)
        touched = set(data.filter(pl.col("user") == user)["item"]) if is_known else set()
        free = [
            item
            for item in items
            if not (wanted["exclude_seen"] and item in touched)
            and (wanted["items"] is None or item in wanted["items"])
            and item not in wanted["nobody"]
            and (user, item) not in wanted["pairs"]
        ]
        if not free:
            continue
        if is_known:
            found = rec.score([user] * len(free), free)["score"].to_list()
        else:
            found = [float(counts[item]) for item in free]
        order = sorted(range(len(free)), key=lambda at: (-found[at], at))[:k]
        rows += [(user, free[at], found[at], rank) for rank, at in enumerate(order, start=1)]
    return rows


@pytest.mark.filterwarnings("ignore:exclude")
@settings(max_examples=60, deadline=None)
@given(st.data(), st.booleans())
def test_an_answer_equals_the_reference(fitted, data, is_text):
    rec, source = fitted[is_text], interactions(is_text)
    users, items = rec.users.ids.to_list(), rec.items.ids.to_list()
    strangers = ["nobody", "u-99"] if is_text else [3, 10**9]
    asked = data.draw(st.lists(st.sampled_from(users + strangers), max_size=9))
    some_items = st.lists(st.sampled_from([*items, *strangers]), max_size=12)
    pairs = data.draw(st.none() | st.lists(st.tuples(st.sampled_from(users + strangers), st.sampled_from(items))))
    only = data.draw(st.none() | some_items.filter(lambda some: bool(set(some) & set(items))))
    nobody = data.draw(some_items) if pairs is None else []
    exclude_seen, k = data.draw(st.booleans()), data.draw(st.integers(1, ITEMS + 2))
    if pairs is None:
        exclude: Any = nobody
    else:
        exclude = {"user_id": [user for user, _ in pairs], "movieId": [item for _, item in pairs], "why": pairs}
        exclude = pl.DataFrame(exclude, strict=False) if data.draw(st.booleans()) else pd.DataFrame(exclude)
    answer = rec.recommend(asked, k, items=only, exclude=exclude, exclude_seen=exclude_seen, unknown="popular")
    wanted = {"items": only, "nobody": nobody, "pairs": set(pairs or ()), "exclude_seen": exclude_seen}
    expected = pl.DataFrame(reference(rec, source, asked, k, wanted), schema=answer.schema, orient="row")
    assert_frame_equal(answer, expected, abs_tol=1e-5)
    known = [user for user in asked if user not in strangers]
    skipped = rec.recommend(asked, k, items=only, exclude=exclude, exclude_seen=exclude_seen, unknown="skip")
    assert_frame_equal(skipped, answer.filter(pl.col("user").is_in(known)), abs_tol=1e-6)


@pytest.mark.parametrize("is_text", [False, True])
def test_all_users_in_chunks_and_in_a_file_are_the_same(fitted, is_text, monkeypatch, tmp_path):
    rec = fitted[is_text]
    whole = rec.recommend(k=4)
    assert_frame_equal(whole, rec.recommend(rec.users.ids, k=4), check_exact=True)
    assert whole["user"].unique(maintain_order=True).to_list() == [
        user for user in rec.users.ids if user in set(whole["user"])
    ]
    assert whole["user"].n_unique() == USERS - 1  # one has seen every item
    for users_per_chunk in (1, 5):
        monkeypatch.setattr(answers, "_CHUNK_USERS", users_per_chunk)
        assert_frame_equal(rec.recommend(k=4), whole, abs_tol=1e-6)
        for name in ("recs.parquet", "recs.CSV"):
            path = tmp_path / name
            path.write_text("an older file", encoding="utf-8")
            assert rec.recommend(k=4, out=path) == path
            found = pl.read_parquet(path) if name == "recs.parquet" else pl.read_csv(path, schema=whole.schema)
            assert_frame_equal(found, whole, abs_tol=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recs.CSV", "recs.parquet"]


def test_an_empty_answer_has_the_same_columns(fitted, tmp_path):
    rec = fitted[False]
    schema = rec.recommend(1).schema
    assert rec.recommend([], k=3).schema == rec.recommend([5, 6], unknown="skip").schema == schema
    assert not rec.recommend([5, 6], unknown="skip").height
    rec.recommend([], out=tmp_path / "none.parquet")
    assert pl.read_parquet_schema(tmp_path / "none.parquet") == schema


def test_unknown_users_of_another_kind_make_the_column_text(fitted):
    rec = fitted[False]
    assert rec.recommend([1, 5], unknown="popular")["user"].dtype == pl.Int64
    mixed = rec.recommend([1, "x", 2**70], k=1, unknown="popular")
    assert mixed["user"].to_list() == ["1", "x", str(2**70)]


@pytest.mark.parametrize("unknown", ["skip", "popular"])
def test_a_user_without_an_id_does_not_stop_a_batch(fitted, unknown):
    rec = fitted[False]
    expected = rec.recommend([1, 5], unknown=unknown)
    for asked in (
        [None, 1, float("nan"), " ", 5],
        np.array([1, np.nan, 5]),
        pl.Series([1, None, 5]),
        pd.Series([1, None, 5], dtype="Int64"),
        pd.Series([1, pd.NaT, "5"], dtype=object),
        np.ma.array([1, 0, 5], mask=[False, True, False]),
        [1, np.ma.masked, 5],
    ):
        assert_frame_equal(rec.recommend(asked, unknown=unknown), expected)
    assert not rec.recommend([None], unknown=unknown).height
    assert_frame_equal(
        rec.recommend(history=[3, None, 8], unknown=unknown), rec.recommend(history=[3, 8], unknown=unknown)
    )


def test_wrong_requests_are_named(fitted, tmp_path):
    rec = fitted[False]
    with pytest.raises(DataError, match=r"user 5 is not in .* \(2 more are unknown\); .*'skip' or unknown='pop"):
        rec.recommend([1, 5, 6, "x"])
    with pytest.raises(DataError, match=r"user 5 is not in the training data, .* ids run from -20 to 57; expected one"):
        rec.recommend(5)
    with pytest.raises(ConfigError, match="unknown='drop': expected one of error, skip, popular"):
        rec.recommend(1, unknown="drop")
    with pytest.raises(DataError, match="items: none of them is in the training data, whose 17 item ids run from"):
        rec.recommend(1, items=[4, 5])
    with pytest.raises(DataError, match=r"item ids are integers or text; got None$"):
        rec.recommend(1, exclude=[None])
    with pytest.raises(DataError, match=r"user ids are integers or text; got 0\.5 in position 3 of 4"):
        rec.recommend([None, 1, 0.5, 8], unknown="skip")
    with pytest.raises(
        DataError, match=r"user ids are integers or text; got None in position 2 of 2; .* or unknown='sk"
    ):
        rec.recommend([1, None])
    with pytest.raises(DataError, match=r"item ids are integers or text; got '' in position 2 of 3; .* unknown='skip'"):
        rec.recommend(history=[3, "", 5])
    with pytest.raises(DataError, match="history: a set has no order; expected a list"):
        rec.recommend(history={3, 5})
    frame = pl.DataFrame({"user": [1, 8]})
    for table in (frame, frame.lazy(), pd.DataFrame({"user": [1, 8]})):
        name = type(table).__name__
        for unknown in ("error", "popular"):  # the name of a column is no unknown user
            with pytest.raises(DataError, match=f"user ids are integers or text; got a {name}; expected one id or"):
                rec.recommend(table, unknown=unknown)
        with pytest.raises(DataError, match=f"user ids .* got a {name}"):
            rec.similar_users(table)
    with pytest.raises(DataNotFoundError, match="5,6: no such file; expected item ids or the path of a file"):
        rec.recommend(history="5,6")
    with pytest.raises(DataError, match="exclude: cannot be computed"):
        rec.recommend(1, exclude=pl.LazyFrame({"item": ["x"]}).with_columns(pl.col("nothing")))
    with pytest.raises(DataError, match=r"exclude: column 'item' holds 0\.5 in row 2; expected integers or text"):
        rec.recommend(1, exclude=pl.DataFrame({"item": [1.0, 0.5], "user": [1, 1]}))
    with pytest.raises(DataError, match="exclude: column 'user' is empty in row 2; expected integers or text"):
        rec.recommend(1, exclude=pd.DataFrame({"item": [1, 2], "user": ["a", None]}))
    with pytest.raises(DataError, match=r"items: which column is the item\? its columns are user, name; expected"):
        rec.recommend(1, items=pl.DataFrame({"user": [1], "name": ["x"]}))
    for out in ("recs.txt", "recs", 7):
        with pytest.raises(
            ConfigError, match=r"out=.*: expected the path of a file whose name ends in .parquet or .cs"
        ):
            rec.recommend(1, out=out)
    with pytest.raises(DataNotFoundError, match="its folder does not exist"):
        rec.recommend(1, out=tmp_path / "no" / "recs.csv")


@pytest.mark.parametrize(
    "exclude", ["items.csv", [5, 7], ["x"], pl.DataFrame({"item": ["x"]}), pl.DataFrame({"item": ["x"], "user": [1]})]
)
def test_an_exclusion_without_effect_is_said(fitted, exclude):
    rec = fitted[False]
    with pytest.warns(fastncf.UnusedSettingWarning, match="exclude: no effect, since none of its items is") as caught:
        found = rec.recommend(1, exclude=exclude)
    assert caught[0].filename == __file__
    assert_frame_equal(found, rec.recommend(1))
    rec.recommend(1, exclude=[])
    rec.recommend(1, exclude=pl.DataFrame({"item": rec.items.ids.head(1), "user": [10**9]}))  # of another user


def test_an_error_within_an_answer_leaves_the_older_file(fitted, tmp_path, monkeypatch):
    rec, path = fitted[False], tmp_path / "recs.csv"
    path.write_text("older", encoding="utf-8")
    monkeypatch.setattr(answers, "_CHUNK_USERS", 1)
    calls = []

    def fail(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) > 3:
            raise DataError("the fourth fails")
        return top(*arguments)

    ranker = rec._ranker(USERS)
    top = ranker.top
    monkeypatch.setattr(rec, "_ranker", lambda num_users: ranker, raising=False)
    monkeypatch.setattr(ranker, "top", fail)
    with pytest.raises(DataError, match="the fourth fails"):
        rec.recommend(out=path)
    assert [(one.name, one.read_text()) for one in tmp_path.iterdir()] == [("recs.csv", "older")]


@pytest.mark.parametrize("many", [1, 10**6])
@pytest.mark.parametrize("model", ["mf", "gmf", "more rows than items"])
def test_what_is_exposed_as_a_module_answers_as_before(model, many, monkeypatch):
    """For many users the items of a module are arranged first, for few ones torch ranks them."""
    monkeypatch.setattr("fastncf.evaluation.topk._MANY_USERS", many)
    module = MF(USERS + 3, ITEMS + 5, 3) if " " in model else model
    rec = fastncf.fit(interactions(False), model=module, epochs=1, l2=0.001, optimizer="sgd", history="none")
    before = rec.recommend(k=3)
    assert isinstance(rec.model, nn.Module)
    assert_frame_equal(rec.recommend(k=3), before, abs_tol=1e-6)
    with torch.no_grad():
        rec.model.item_embedding.weight.neg_()  # what is changed in place counts at once
    scores = rec.score(rec.users.ids.gather([2] * ITEMS), rec.items.ids)
    best = rec.recommend(rec.users.ids[2], k=ITEMS, exclude_seen=False)
    assert_series_equal(best["score"], scores["score"].sort(descending=True), abs_tol=1e-6, check_names=False)


@pytest.mark.parametrize("value", ["no", 0, None, [True]])
def test_exclude_seen_is_a_truth_value(fitted, value):
    with pytest.raises(ConfigError, match=r"^exclude_seen=.*: expected True or False$"):
        fitted[False].recommend(1, exclude_seen=value)


def test_exclude_seen_may_be_one_of_numpy(fitted):
    rec = fitted[False]
    assert_frame_equal(rec.recommend(1, exclude_seen=np.False_), rec.recommend(1, exclude_seen=False))
