"""Leave-one-out, a given test set, the order by time, and one more item held out."""

import dataclasses
import itertools

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastncf.data.given_files import GivenTest
from fastncf.data.ids import Vocabulary
from fastncf.data.interactions import Interactions, read_interactions
from fastncf.data.split import Split, given_test, hold_out_another, leave_one_out, time_order
from fastncf.errors import DataError
from tests.conftest import plain_split, random_csr, random_interactions


def reference(interactions: Interactions) -> tuple[dict[int, int], dict[int, int], dict[int, set[int]]]:
    """Test item, validation item and training items of each user, as the notebook's pandas lines have them."""
    frame = pd.DataFrame({"user": interactions.user, "item": interactions.item, "time": interactions.time})
    latest = frame.groupby(["user", "item"])["time"].rank(method="first", ascending=False) == 1
    frame = frame[latest]
    frame["rank"] = frame.groupby("user")["time"].rank(method="first", ascending=False)
    count = frame.groupby("user")["item"].transform("size")
    test = frame[(frame["rank"] == 1) & (count >= 2)]
    validation = frame[(frame["rank"] == 2) & (count >= 3)]
    items = {int(user): set(group.tolist()) for user, group in frame.groupby("user")["item"]}
    return dict(zip(test.user, test.item, strict=True)), dict(zip(validation.user, validation.item, strict=True)), items


def rows(split: Split) -> list[list[int]]:
    return [split.indices[a:b].tolist() for a, b in zip(split.indptr[:-1], split.indptr[1:], strict=True)]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32), st.booleans(), st.booleans(), st.sampled_from([25, 20_000]), st.sampled_from([9, 40]))
def test_equals_pandas_with_repeats_and_ties(seed, validation, in_order, items, users):
    """Users' rows together and not; a catalogue of one word of bits and one of many; rows longer than few and not."""
    interactions = random_interactions(np.random.default_rng(seed), rows=300, users=users, items=25)
    if in_order:
        order = np.argsort(interactions.user, kind="stable")
        parts = {name: getattr(interactions, name)[order] for name in ("user", "item", "time")}
        interactions = dataclasses.replace(interactions, **parts)
    spread = items // 25
    more = Vocabulary(pl.Series(range(len(interactions.items) * spread)), "item")
    interactions = dataclasses.replace(interactions, item=interactions.item * np.int32(spread), items=more)
    split = leave_one_out(interactions, validation=validation)
    test, second, items = reference(interactions)
    if not validation:
        second = {}
    assert split.num_duplicates == len(interactions.user) - sum(len(row) for row in items.values())
    for user, row in enumerate(rows(split)):
        if len(items[user]) == split.num_items:
            continue
        held_out = {test.get(user), second.get(user)}
        assert split.test_item[user] == test.get(user, -1)
        assert split.validation_item[user] == second.get(user, -1)
        assert row == sorted(items[user] - held_out)


def test_equals_the_notebook_on_real_data_row_by_row(data_dir):
    path = data_dir / "ml-100k" / "u.data"
    frame = pd.read_csv(path, sep="\t", names=["user", "item", "rating", "time"])
    frame["rank_latest"] = frame.groupby(["user"])["time"].rank(method="first", ascending=False)
    test = frame[frame["rank_latest"] == 1]
    train = frame[frame["rank_latest"] != 1].sort_values(["user", "item"])

    interactions = read_interactions(path)
    split = leave_one_out(interactions)
    users = np.flatnonzero(split.test_item >= 0)
    ours = dict(zip(interactions.users.decode(users), interactions.items.decode(split.test_item[users]), strict=True))
    assert ours == dict(zip(test.user, test.item, strict=True))
    owner = np.repeat(np.arange(split.num_users), np.diff(split.indptr))
    assert interactions.users.decode(owner).to_list() == train.user.tolist()
    assert interactions.items.decode(split.indices).to_list() == train.item.tolist()


def test_arrays_have_their_types():
    split = leave_one_out(random_interactions(np.random.default_rng(0)))
    assert split.indptr.dtype == np.int64
    assert split.indices.dtype == np.int32
    assert split.test_item.dtype == np.int32


def frame(*pairs: tuple[str, str], **columns: list[int]) -> Interactions:
    data = pl.DataFrame({"user": [u for u, _ in pairs], "item": [i for _, i in pairs], **columns})
    return read_interactions(data, needs_time="time" in columns)


def test_the_latest_time_of_a_repeated_pair_stays():
    split = leave_one_out(frame(("a", "x"), ("a", "y"), ("a", "x"), ("b", "z"), time=[1, 2, 3, 1]))
    assert split.num_duplicates == 1
    assert split.test_item.tolist() == [0, -1]
    assert split.num_users_too_short == 1
    assert rows(split) == [[1], [2]]


def test_a_user_who_has_seen_every_item_is_left_out():
    interactions = frame(
        ("a", "x"), ("a", "y"), ("b", "x"), ("c", "x"), ("c", "z"), ("a", "z"), time=[1, 2, 3, 1, 2, 3]
    )
    split = leave_one_out(interactions)
    assert split.num_users_all_seen == 1
    assert rows(split) == [[], [0], [0]]
    assert split.test_item.tolist() == [-1, -1, 2]
    assert split.num_interactions == 6


def test_no_negative_anywhere_is_an_error():
    with pytest.raises(DataError, match="every user has seen every item"):
        leave_one_out(frame(("a", "x"), ("a", "y"), ("b", "x"), ("b", "y"), time=[1, 2, 3, 4]))


def test_nothing_to_hold_out_is_an_error():
    with pytest.raises(DataError, match="no user has two different items"):
        leave_one_out(frame(("a", "x"), ("b", "y"), time=[1, 2]))


def test_no_times_need_a_choice():
    interactions = frame(("a", "x"), ("a", "y"), ("b", "z"), ("b", "x"))
    with pytest.raises(DataError, match="split='random'"):
        leave_one_out(interactions)
    assert (leave_one_out(interactions, random=True).test_item >= 0).all()


def test_random_holds_out_any_item_alike():
    pairs = [(f"u{u}", f"i{i}") for u in range(3000) for i in range(5)] + [("last", "i9")]
    interactions = frame(*pairs)
    held_out = leave_one_out(interactions, random=True, seed=1).test_item
    counts = np.bincount(held_out[held_out >= 0], minlength=6)[:5]
    assert counts.sum() == 3000
    assert (abs(counts - 600) < 5 * np.sqrt(600)).all()
    assert (leave_one_out(interactions, random=True, seed=1).test_item == held_out).all()
    assert (leave_one_out(interactions, random=True, seed=2).test_item != held_out).any()


def test_seen_is_training_and_held_out_items_sorted():
    interactions = random_interactions(np.random.default_rng(5))
    split = leave_one_out(interactions, validation=True)
    indptr, indices = split.seen()
    _, _, items = reference(interactions)
    for user in range(split.num_users):
        if len(items[user]) < split.num_items:
            assert indices[indptr[user] : indptr[user + 1]].tolist() == sorted(items[user])


@pytest.mark.parametrize("is_given", [False, True])
def test_seen_is_everything_for_a_user_who_has_seen_every_item(is_given):
    pairs = [("a", "x"), ("b", "x"), ("b", "y"), ("b", "z"), ("c", "x"), ("c", "z"), ("d", "y")]
    test = GivenTest(np.array([1, 2, 0], np.int32), np.array([2, 1, 1], np.int32), None, "test.csv")
    if is_given:
        split = given_test(frame(*pairs[:3], *pairs[4:]), test)
    else:
        split = leave_one_out(frame(*pairs, time=list(range(7))))
    indptr, indices = split.seen()
    assert indptr.dtype == np.int64
    assert indices.dtype == np.int32
    seen = [indices[a:b].tolist() for a, b in itertools.pairwise(indptr)]
    if is_given:
        assert split.num_users_all_seen == 2  # with the test item, b and c have seen everything
    assert seen == [[0, 1] if is_given else [0], [0, 1, 2], [0, 1, 2] if is_given else [0, 2], [1]]


@pytest.mark.parametrize("seed", range(5))
def test_what_some_users_have_seen_are_their_rows_in_any_order(seed, monkeypatch):
    generator = np.random.default_rng(seed)
    interactions = random_interactions(generator, rows=300, users=12, items=9)
    split = leave_one_out(interactions, validation=bool(seed % 2))
    pairs = set(zip(interactions.user.tolist(), interactions.item.tolist(), strict=True))
    users = generator.integers(0, split.num_users, 40).astype(np.int32)
    for few in (0, 100):
        monkeypatch.setattr("fastncf.data.split._FEW_USERS", few)
        indptr, indices = split.seen_by(users)
        for row, user in enumerate(users.tolist()):
            assert indices[indptr[row] : indptr[row + 1]].tolist() == sorted(i for u, i in pairs if u == user)
    indptr, indices = split.seen_by(users[:0])
    assert indptr.tolist() == [0]
    assert not len(indices)


def test_known_items_are_those_with_a_training_interaction():
    split = leave_one_out(frame(("a", "w"), ("a", "x"), ("b", "w"), ("b", "y"), ("c", "w"), time=list(range(5))))
    assert split.is_known().tolist() == [True, False, False]


@pytest.mark.parametrize("threads", ["1", "2", "5"])
def test_same_split_for_any_number_of_threads(monkeypatch, threads):
    interactions = random_interactions(np.random.default_rng(8), rows=5000, users=300, items=90)
    base = leave_one_out(interactions, validation=True)
    monkeypatch.setenv("FASTNCF_NUM_THREADS", threads)
    split = leave_one_out(interactions, validation=True)
    for name in ("indptr", "indices", "test_item", "validation_item"):
        np.testing.assert_array_equal(getattr(split, name), getattr(base, name))


@pytest.mark.parametrize(("validation", "rows", "items"), [(False, 600, 25), (True, 600, 25), (False, 9_000, 900)])
def test_order_by_time_is_that_of_a_sorted_frame(validation, rows, items):
    interactions = random_interactions(np.random.default_rng(11), rows=rows, users=30, items=items)
    split = leave_one_out(interactions, validation=validation)
    order = time_order(interactions, split)
    some = np.array([7, 3], dtype=np.int32)
    part = time_order(interactions, split, some)
    for user in some:
        row = slice(*split.indptr[user : user + 2])
        np.testing.assert_array_equal(part[row], order[row])
    rows = pl.DataFrame({"u": interactions.user, "i": interactions.item, "t": interactions.time}).with_row_index("row")
    rows = rows.sort("t", "row", descending=[False, True])  # the first row among equal times is the latest
    rows = rows.unique(["u", "i"], keep="last", maintain_order=True)
    for user in range(split.num_users):
        items = split.indices[split.indptr[user] : split.indptr[user + 1]]
        expected = [i for i in rows.filter(pl.col("u") == user)["i"].to_list() if i in set(items.tolist())]
        assert items[order[split.indptr[user] : split.indptr[user + 1]]].tolist() == expected


def test_given_test_refuses_pairs_that_are_in_training():
    interactions = frame(("a", "x"), ("a", "y"), ("b", "x"), ("c", "z"), time=[1, 2, 3, 4])
    test = GivenTest(np.array([1], np.int32), np.array([0], np.int32), None, "test.csv")
    with pytest.raises(DataError, match=r"test\.csv: 1 pair is also in the frame, the first is user 'b' with item 'x'"):
        given_test(interactions, test)


def test_given_test_refuses_a_leak_of_a_user_who_is_left_out():
    interactions = frame(("a", "x"), ("a", "y"), ("a", "z"), ("b", "x"), ("c", "z"), time=[1, 2, 3, 4, 5])
    test = GivenTest(np.array([0, 1], np.int32), np.array([1, 2], np.int32), None, "test.csv")
    with pytest.raises(DataError, match=r"test\.csv: 1 pair is also in the frame, the first is user 'a' with item 'y'"):
        given_test(interactions, test)


def test_given_test_needs_a_user_with_an_unseen_item():
    interactions = frame(("a", "x"), ("a", "y"), ("b", "x"), ("c", "z"), time=[1, 2, 3, 4])
    test = GivenTest(np.array([0], np.int32), np.array([2], np.int32), None, "test.csv")
    with pytest.raises(DataError, match=r"test\.csv: each of its users has seen every item \(3\)"):
        given_test(interactions, test)


def test_given_test_leaves_out_a_user_for_whom_no_item_is_left():
    interactions = frame(
        ("a", "x"), ("a", "y"), ("b", "x"), ("c", "z"), ("b", "x"), ("c", "y"), time=[1, 2, 3, 4, 5, 6]
    )
    test = GivenTest(np.array([1, 0], np.int32), np.array([1, 2], np.int32), np.array([[2], [1]], np.int32), "test.csv")
    split = given_test(interactions, test)
    assert (split.num_users_all_seen, split.num_duplicates) == (1, 1)
    assert split.test_item.tolist() == [-1, 1, -1]
    assert split.test_candidates.tolist() == [[2]]
    assert rows(split) == [[], [0], [1, 2]]


def test_given_test_keeps_candidates_with_their_users():
    interactions = frame(("a", "x"), ("b", "y"), ("c", "z"), ("c", "w"), time=[1, 2, 3, 4])
    lists = np.array([[0, 2, 1], [3, -1, 0]], np.int32)
    test = GivenTest(np.array([2, 0], np.int32), np.array([1, 2], np.int32), lists, "t")
    split = given_test(interactions, test)
    assert split.test_item.tolist() == [2, -1, 1]
    assert split.test_candidates.tolist() == [[3, -1, 0], [-1, 2, -1]]
    assert split.num_candidates_seen == 2  # an item of the training and the test item itself


@pytest.mark.parametrize("ordered", [True, False])
def test_another_item_held_out(ordered):
    random = np.random.default_rng()
    split = plain_split(*random_csr(random, 40, 30, 12), 30)
    lengths = np.diff(split.indptr)
    order = np.concatenate([random.permutation(length) for length in lengths]).astype(np.int32)
    part, left, items = hold_out_another(split, order if ordered else None, seed=3)
    for user, (before, after) in enumerate(zip(rows(split), rows(part), strict=True)):
        if len(before) < 2:
            assert (after, items[user]) == (before, -1)
            continue
        assert sorted([*after, items[user]]) == before
        if ordered:
            taken = [before[place] for place in order[split.indptr[user] : split.indptr[user + 1]]]
            assert items[user] == taken[-1]
            assert [after[place] for place in left[part.indptr[user] : part.indptr[user + 1]]] == taken[:-1]
    if not ordered:
        assert left is None
        np.testing.assert_array_equal(hold_out_another(split, None, seed=3)[2], items)
        assert not np.array_equal(hold_out_another(split, None, seed=4)[2], items)
