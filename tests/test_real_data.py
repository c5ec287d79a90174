"""The genuine files, end to end."""

import numpy as np
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
    assert "given test set, 6,040 users (2 of their items unknown to the training data)" in rec.protocol
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


def popularity(train, test, num_items, k):
    """HR, recall and NDCG at k of the most popular items, in the whole catalogue without training items."""
    counts = np.bincount(np.concatenate([*train.values()]), minlength=num_items)
    values, ascending = [], np.sort(counts)
    for user, items in test.items():
        own, left_out = counts[items], counts[np.concatenate([train[user], items])]
        above = num_items - np.searchsorted(ascending, own) - (left_out >= own[:, None]).sum(axis=1)
        ranks = np.sort(above) + np.arange(len(items))
        gains = 1 / np.log2(np.arange(k) + 2)
        hits = ranks[ranks < k]
        values.append((len(hits) > 0, len(hits) / len(items), gains[hits].sum() / gains[: len(items)].sum()))
    return np.mean(values, axis=0)


def lists_of(path):
    lines = (line.split() for line in path.read_text().splitlines())
    return {int(line[0]): np.array(line[1:], dtype=int) for line in lines}


@pytest.mark.parametrize(
    ("names", "k"),
    [
        (("set/ml-1m-lcfn-train.txt", "set/ml-1m-lcfn-test.txt"), 20),
        (("set/gowalla-train.txt", "set/gowalla-test.txt"), 20),
        (("seq/beauty.txt",), 10),
        (("seq/ml-1m-sas.txt",), 10),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) and isinstance(value[0], str) else "",
)
def test_files_of_item_lists(data_dir, names, k):
    """Popularity beside a few lines of NumPy."""
    train = lists_of(data_dir / names[0])
    if len(names) == 2:
        given, test = {"test": data_dir / names[1]}, {u: i for u, i in lists_of(data_dir / names[1]).items() if len(i)}
    else:
        given, test = {}, {u: items[-1:] for u, items in train.items()}
        train = {u: items[:-1] for u, items in train.items()}
    rec = fastncf.fit(
        data_dir / names[0], model="popularity", k=k, full_ranking=True, metrics=["hr", "recall", "ndcg"], **given
    )
    found = [rec.metrics[f"full/{name}@{k}"] for name in ("hr", "recall", "ndcg")]
    # items that stand nowhere else are no items of the catalogue: numbers without a gap are counted from 0
    ids = {item: index for index, item in enumerate(np.unique(np.concatenate([*train.values(), *test.values()])))}
    train, test = ({u: np.array([ids[i] for i in items]) for u, items in part.items()} for part in (train, test))
    np.testing.assert_allclose(found, popularity(train, test, len(ids), k), atol=1e-12)


def test_protocols_on_movielens_1m(data_dir):
    """The latest tenth of each user, the last row first among ties, and all from a date on, beside NumPy."""
    path = data_dir / "ml-1m" / "ratings.dat"
    rows = np.array([line.split("::") for line in path.read_text("latin-1").splitlines()], dtype=np.int64)
    user, item, time = rows[:, 0], np.unique(rows[:, 1], return_inverse=True)[1], rows[:, 3]
    num_items, point = int(item.max()) + 1, 975_628_800  # 2000-12-01 in UTC

    def split_last(amount, turn):
        train, test = {}, {}
        by_time = np.lexsort((turn * np.arange(len(user)), time, user))
        for items in np.split(by_time, np.flatnonzero(np.diff(user[by_time])) + 1):
            size = max(1, int(amount * len(items) + 0.5))
            train[user[items[0]]], test[user[items[0]]] = item[items[:-size]], item[items[-size:]]
        return train, test

    def by_user(chosen):
        rows = np.flatnonzero(chosen)[np.argsort(user[chosen], kind="stable")]
        parts = np.split(rows, np.flatnonzero(np.diff(user[rows])) + 1)
        return {user[part[0]]: item[part] for part in parts}

    def split_at():
        train, later = by_user(time < point), by_user(time >= point)
        return train, {u: items for u, items in later.items() if u in train}

    for settings, (train, test) in (
        ({"ties": "last", "holdout": 0.1}, split_last(0.1, 1)),
        ({"before": "2000-12-01"}, split_at()),
    ):
        rec = fastncf.fit(path, model="popularity", full_ranking=True, metrics=["hr", "recall", "ndcg"], **settings)
        found = [rec.metrics[f"full/{name}@10"] for name in ("hr", "recall", "ndcg")]
        np.testing.assert_allclose(found, popularity(train, test, num_items, 10), atol=1e-12)
