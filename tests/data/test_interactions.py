"""Interactions as indices, and a share of their users."""

import numpy as np
import polars as pl
import pytest

import fastncf
from fastncf.data.interactions import draw_users, read_interactions
from fastncf.errors import ConfigError, DataError


@pytest.mark.parametrize(
    "ids",
    [
        [5, 3, 5, -7],
        [0, 2**62, -(2**62), 1],
        [2**64 - 1, 0, 7, 7],
        ["b", "a", "b", "é"],
        ["007", "7", "7", "0"],
    ],
)
def test_ids_are_contiguous_and_come_back(ids):
    data = read_interactions(pl.DataFrame({"user": ids, "item": [1, 1, 2, 3]}), needs_time=False)
    assert data.user.dtype == data.item.dtype == np.int32
    assert sorted(set(data.user.tolist())) == list(range(len(set(ids))))
    assert data.users.decode(data.user).to_list() == ids
    assert data.users.ids.to_list() == sorted(set(ids))
    assert data.users.require(ids).tolist() == data.user.tolist()


@pytest.mark.parametrize(("user", "item", "noun"), [([1, 1], [1, 2], "user"), ([1, 2], ["a", "a"], "item")])
def test_one_id_only(user, item, noun):
    with pytest.raises(DataError, match=f"the frame: column '{noun}' holds only one {noun} .* expected at least two"):
        read_interactions(pl.DataFrame({"user": user, "item": item}), needs_time=False)


def test_share_of_the_users():
    frame = pl.DataFrame({"user": [1, 2, 3, 4] * 3, "item": list(range(12)), "time": list(range(12))})
    data = read_interactions(frame)
    drawn = draw_users(data, 0.5, 1)
    assert len(drawn.users) == 2
    kept = frame.filter(pl.col("user").is_in(drawn.users.ids.to_list()))
    assert drawn.users.decode(drawn.user).to_list() == kept["user"].to_list()
    assert drawn.items.decode(drawn.item).to_list() == kept["item"].to_list()
    assert drawn.time.tolist() == kept["time"].to_list()
    assert len(drawn.items) == 6
    with pytest.raises(ConfigError, match="keeps 1 of 4 users"):
        draw_users(data, 0.25, 1)


def test_draw_users_makes_indices_contiguous_again():
    frame = pl.DataFrame({"user": np.arange(60) // 3, "item": np.arange(60) % 31, "time": np.arange(60)})
    kept = draw_users(read_interactions(frame), 0.4, 7)
    assert len(kept.users) == 8
    assert sorted(set(kept.user.tolist())) == list(range(8))
    assert sorted(set(kept.item.tolist())) == list(range(len(kept.items)))
    rows = set(zip(kept.users.decode(kept.user), kept.items.decode(kept.item), kept.time.tolist(), strict=True))
    assert rows <= set(frame.iter_rows())
    assert len(rows) == 24
    with pytest.raises(ConfigError, match="keeps 1 of 20 users"):
        draw_users(read_interactions(frame), 0.05, 7)


def test_user_fraction_draws_users_with_the_seed():
    data = pl.DataFrame({"user": np.arange(200) // 4, "item": np.arange(200) % 23, "time": np.arange(200)})
    settings = {"model": "popularity", "user_fraction": 0.3}
    first, again, other = (fastncf.fit(data, seed=seed, **settings) for seed in (0, 0, 1))
    assert first.data["users"] == 15
    assert first.users.ids.to_list() == again.users.ids.to_list()
    assert first.users.ids.to_list() != other.users.ids.to_list()
    present = set(first.users.ids.to_list())
    kept = data.filter(pl.col("user").is_in(present))
    assert first.data["interactions"] == kept.height
    assert first.items.ids.to_list() == sorted(set(kept["item"].to_list()))
