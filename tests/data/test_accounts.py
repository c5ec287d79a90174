"""Each row that is read is an interaction or is counted as what was left out."""

import numpy as np
import polars as pl
import pytest

import fastncf
from fastncf import cli
from fastncf.data.accounts import USES, add_counts, describe_rows, num_lost
from tests.conftest import checkerboard
from tests.persistence.saved import BEFORE

FAST = {"model": "mf", "epochs": 1, "dim": 4, "num_candidates": 5, "device": "cpu", "history": "bag", "l2": 0.01}


SETTINGS = [
    {},
    {"user_fraction": 0.5},
    {"split": "random", "validation": True},
    {"holdout": "none"},
    {"holdout": 2, "validation": True},
    {"holdout": 0.3, "split": "random"},
    {"before": "60%"},
    {"before": "60%", "user_fraction": 0.7, "validation": True},
    {"test_users": 0.3, "holdout": 2},
]


def frame_of(generator: np.random.Generator, num_rows: int = 300) -> pl.DataFrame:
    """Return rows of which some repeat others, lack a value, or have a low rating."""
    users, items = generator.integers(0, 30, num_rows), generator.integers(0, 40, num_rows)
    missing = generator.random((3, num_rows)) < 0.03
    columns = {"user": users, "item": items, "time": generator.integers(10**9, 10**9 + 50, num_rows)}
    values = {
        name: [None if lacks else int(value) for value, lacks in zip(column, row, strict=True)]
        for (name, column), row in zip(columns.items(), missing, strict=True)
    }
    return pl.DataFrame(values | {"rating": generator.integers(1, 6, num_rows)})


@pytest.fixture
def generator():
    return np.random.default_rng(0)


@pytest.mark.parametrize("source", ["frame", "files"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_rows_add_up(generator, tmp_path, source, settings):
    frame = frame_of(generator)
    given = frame
    if source == "files":
        given = [tmp_path / "a.csv", tmp_path / "b.csv"]
        frame.head(100).write_csv(given[0])
        frame.tail(200).write_csv(given[1])
        with given[0].open("a") as file:
            file.write("\n\n,,,\n")  # blank lines are no rows, and a row without any value is one
    rec = fastncf.fit(given, drop_missing=True, min_rating=2, **FAST, **settings)
    assert rec.data["num_rows"] == 300 + (source == "files")
    assert num_lost(rec.data) == 0
    is_whole = ~frame.select(pl.any_horizontal(pl.all().is_null())).to_series()
    assert rec.data["num_missing"] == rec.data["num_rows"] - is_whole.sum()
    assert rec.data["num_low_rated"] == (frame.filter(is_whole)["rating"] < 2).sum()
    assert min(rec.data[name] for name in ("num_missing", "num_low_rated", "num_duplicates")) > 0
    assert ("num_of_other_users" in rec.data) == ("user_fraction" in settings)


@pytest.mark.parametrize("fraction", [1.0, 0.5])
def test_rows_of_a_given_test_set_count(fraction):
    train = pl.concat([checkerboard(20, 12, hidden=1).head(90), checkerboard(20, 12, hidden=1).head(5)])
    test = train.select("user", item=pl.col("user") % 2 + 100, time=pl.lit(99)).unique("user")
    train = pl.concat([train, pl.DataFrame({"user": [0, 1], "item": [100, 101], "time": [1, 1]}, schema=train.schema)])
    test = test.filter(pl.col("user") > 1)
    rec = fastncf.fit(train, test=test, user_fraction=fraction, **FAST)
    assert rec.data["num_rows"] == len(train) + len(test)
    assert rec.data["num_duplicates"] == (5 if fraction == 1 else rec.data["num_duplicates"])
    assert num_lost(rec.data) == 0


@pytest.mark.parametrize("epochs", [0, 1])
def test_rows_of_updates_count(generator, epochs):
    rec = fastncf.fit(checkerboard(20, 12), **FAST)
    before = rec.data
    for _ in range(2):
        new = frame_of(generator, 60).drop_nulls().with_columns(pl.col("item") % 14)  # new items, and repeated pairs
        rec.update(new, epochs=epochs, unknown="error" if epochs else "skip")
        assert rec.data["num_rows"] == before["num_rows"] + len(new)
        assert rec.data["num_duplicates"] > before["num_duplicates"]
        assert (rec.data["num_skipped"] > before.get("num_skipped", 0)) == (epochs == 0)
        assert num_lost(rec.data) == 0
        before = rec.data


def test_info_says_what_became_of_the_rows(generator, tmp_path, capsys):
    rec = fastncf.fit(frame_of(generator), drop_missing=True, **FAST)
    rec.save(tmp_path)
    assert describe_rows(rec.data).startswith("300 rows were read: ")
    with pytest.raises(SystemExit):
        cli.main(["info", str(tmp_path)])
    out = capsys.readouterr().out
    assert f"rows:     {describe_rows(rec.data)}\n" in out
    assert f"{rec.data['num_missing']} lack a user, an item or a time" in out
    lost = {**rec.data, "num_missing": 0}
    assert describe_rows(lost).endswith(f", {rec.data['num_missing']} are not accounted for")


def test_models_of_older_versions_do_not_say(capsys):
    rec = fastncf.load(BEFORE / "mf")
    assert num_lost(rec.data) == 0
    with pytest.raises(SystemExit):
        cli.main(["info", str(BEFORE / "mf")])
    assert "rows" not in capsys.readouterr().out
    assert "num_rows" not in add_counts({"interactions": 8, "num_duplicates": 2}, {"num_rows": 7}, 11)


def test_counts_of_an_addition():
    counts = {"num_rows": 10, "interactions": 8, "num_duplicates": 2}
    added = add_counts(counts, {"num_rows": 7, "num_missing": 1, "num_skipped": 2}, 11)
    assert added == {"num_rows": 17, "interactions": 11, "num_duplicates": 3, "num_missing": 1, "num_skipped": 2}
    assert num_lost(added) == 0
    assert num_lost(added | {"num_rows": 18}) == 1
    assert set(added) <= {"num_rows", *USES}
