"""The genuine files, end to end."""

import pytest

import fastncf


@pytest.fixture
def paper(data_dir):
    """He et al.'s own split of MovieLens-1M."""
    folder = data_dir / "ml-1m-ncf"
    return {
        "train": folder / "ml-1m.train.rating",
        "test": folder / "ml-1m.test.rating",
        "candidates": folder / "ml-1m.test.negative",
    }


def test_popularity_prints_the_published_figures(paper):
    rec = fastncf.fit(**paper, model="popularity")
    assert round(rec.metrics["hr@10"], 4) == 0.4531
    assert round(rec.metrics["ndcg@10"], 4) == 0.2541
    assert rec.data == {
        "users": 6040,
        "items": 3706,
        "interactions": 1_000_209,
        "num_rows": 1_000_209,
        "num_duplicates": 0,
        "num_users_all_seen": 0,
        "num_users_too_short": 0,
        "num_items_unknown": 2,
        "num_test_items_unknown": 2,
        "num_candidates_unknown": 340,
        "num_candidates_seen": 156,
    }
    assert "given test set, 6040 users (2 of their items unknown to the training data)" in rec.protocol
    assert "1 + 99 given candidates, without 156 that their user has seen, 0.057 % of them unknown" in rec.protocol


@pytest.mark.parametrize(
    ("name", "users", "items", "interactions"),
    [("ml-100k/u.data", 943, 1682, 100_000), ("ml-1m/ratings.dat", 6040, 3706, 1_000_209)],
)
def test_counts_of_the_genuine_files(data_dir, name, users, items, interactions):
    rec = fastncf.fit(data_dir / name, model="popularity")
    assert (rec.data["users"], rec.data["items"], rec.data["interactions"]) == (users, items, interactions)


def test_default_recipe_on_ml_100k(data_dir):
    rec = fastncf.fit(data_dir / "ml-100k" / "u.data")
    assert rec.metrics["hr@10"] >= 0.66
    assert rec.recommend(196, k=10).height == 10
