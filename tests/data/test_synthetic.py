import os
from datetime import date
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from fastncf.data import synthetic
from fastncf.data.synthetic import SCHEMA, Dialect, synthetic_movielens, write_synthetic_movielens
from fastncf.errors import DataError, DataNotFoundError
from fastncf.kernels.cpu import synthetic as kernels
from fastncf.kernels.cpu.alias import fill_alias_table

SMALL = (300, 200, 9_000)


@pytest.fixture(scope="module")
def small() -> pl.DataFrame:
    return synthetic_movielens(*SMALL).collect()


def test_counts_are_exact(small: pl.DataFrame) -> None:
    assert small.schema == SCHEMA
    assert small.height == 9_000
    assert small["userId"].unique().sort().to_list() == list(range(1, 301))
    assert small["movieId"].n_unique() == 200
    assert not small.select("userId", "movieId").is_duplicated().any()


def test_degrees_have_a_floor_a_tail_and_a_cap(small: pl.DataFrame) -> None:
    degrees = small["userId"].value_counts()["count"].to_numpy()
    assert degrees.min() == 20
    assert degrees.max() > 2 * np.median(degrees)
    assert degrees.max() < 200


def test_rows_are_ordered_by_user_and_movie_but_not_by_time(small: pl.DataFrame) -> None:
    assert_frame_equal(small, small.sort("userId", "movieId"))
    assert not small.equals(small.sort("userId", "timestamp"))


def test_movie_ids_have_gaps_and_reach_the_last_id(small: pl.DataFrame) -> None:
    assert small["movieId"].min() == 1
    assert small["movieId"].max() == round(200 * 131_262 / 26_744)


def test_ratings_are_halves(small: pl.DataFrame) -> None:
    assert set((2 * small["rating"]).to_list()) == set(range(1, 11))


def test_timestamps_are_bounded_and_tie_within_users(small: pl.DataFrame) -> None:
    assert pl.from_epoch(small["timestamp"]).dt.date().is_between(date(1995, 1, 9), date(2015, 3, 31)).all()
    assert small.select("userId", "timestamp").is_duplicated().any()


def test_item_counts_follow_the_target_curve() -> None:
    frame = synthetic_movielens(2_000, 800, 120_000).collect()
    counts = np.sort(frame["movieId"].value_counts()["count"].to_numpy())
    sigma = np.interp(np.log(0.075), np.log(synthetic._DENSITIES), synthetic._ITEM_SIGMAS)
    target = synthetic._saturated_lognormal(800, 120_000, 1, float(sigma), 0.4913 * 2_000)
    np.testing.assert_allclose(counts[[400, 600, 760, 799]], target[[400, 600, 760, 799]], rtol=0.1)


def test_reference_curves_have_the_published_marginals() -> None:
    degrees = synthetic._saturated_lognormal(138_493, 20_000_263, 20, 1.418, 0.5158 * 26_744)
    assert np.median(degrees) == pytest.approx(68, abs=0.5)
    assert degrees[-1] == pytest.approx(9_254, rel=0.002)
    counts = synthetic._saturated_lognormal(26_744, 20_000_263, 1, 3.1075, 0.4913 * 138_493)
    assert counts[-1] == pytest.approx(67_310, rel=0.002)


def test_seed_selects_the_rows(small: pl.DataFrame) -> None:
    assert_frame_equal(synthetic_movielens(*SMALL, seed=0).collect(), small)
    other = synthetic_movielens(*SMALL, seed=2**64 - 1).collect()
    assert other.height == small.height
    assert not other.equals(small)


def test_rows_do_not_depend_on_threads_or_chunks(small: pl.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    for num_threads, chunk_interactions in [(1, 1), (1, 10**9), (3, 1_000), (8, 77)]:
        monkeypatch.setenv("FASTNCF_NUM_THREADS", str(num_threads))
        model = synthetic._build_model(*SMALL, seed=0)
        frame = pl.concat(synthetic._chunks(model, chunk_interactions))
        assert_frame_equal(frame, small)


def test_lazy_frame_pushes_down(small: pl.DataFrame) -> None:
    lazy = synthetic_movielens(*SMALL)
    assert_frame_equal(lazy.head(5).collect(), small.head(5))
    assert_frame_equal(
        lazy.filter(pl.col("rating") > 4).select("movieId").collect(),
        small.filter(pl.col("rating") > 4).select("movieId"),
    )
    assert lazy.head(0).collect().height == 0


def test_clocks_continue_the_draws() -> None:
    """Draws with rejection, cut short, and the clocks that follow keep to the distribution."""
    num_items = 6
    profile = np.array([0.4, 0.25, 0.15, 0.1, 0.06, 0.04])
    thresholds = np.empty((1, num_items), np.uint32)
    aliases = np.empty((1, num_items), np.int32)
    fill_alias_table(profile, thresholds[0], aliases[0])
    first, second = profile[:, None], profile[None, :]
    pairs = first * second / (1 - first)
    np.fill_diagonal(pairs, 0.0)
    expected = pairs.sum(axis=0) + profile
    counts = np.zeros(num_items)
    for user in range(20_000):
        taken = np.zeros(num_items, np.bool_)
        drawn = np.empty(2, np.int64)
        key = synthetic._key(np.uint64(1), user)
        kernels._draw_items(key, np.ones(1), profile[:, None], thresholds, aliases, taken, drawn)
        assert np.flatnonzero(taken).tolist() == sorted(drawn.tolist())
        counts += taken
    np.testing.assert_allclose(counts / 20_000, expected, atol=0.015)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_every_valid_size_is_met_exactly(data: st.DataObject) -> None:
    num_users = data.draw(st.integers(4, 120))
    num_items = data.draw(st.integers(2, 90))
    low = max(num_users, 2 * num_items)
    num_interactions = data.draw(st.integers(low, max(low, num_users * num_items // 2)))
    frame = synthetic_movielens(num_users, num_items, num_interactions, seed=data.draw(st.integers(0, 9))).collect()
    degrees = frame["userId"].value_counts()["count"].to_numpy()
    assert frame.height == num_interactions
    assert degrees.size == num_users
    assert degrees.min() >= min(20, num_interactions // num_users)
    assert degrees.max() < num_items
    assert frame["movieId"].n_unique() == num_items
    assert not frame.select("userId", "movieId").is_duplicated().any()


def test_dialects_hold_the_same_rows(small: pl.DataFrame, tmp_path: Path) -> None:
    dialects: list[Dialect] = ["grouplens", "kaggle", "parquet"]
    for dialect in dialects:
        write_synthetic_movielens(tmp_path / dialect, *SMALL, dialect=dialect)
    assert sorted(path.name for path in tmp_path.iterdir()) == dialects

    text = (tmp_path / "grouplens").read_text()
    assert text.startswith("userId,movieId,rating,timestamp\n1,")
    assert '"' not in text
    assert_frame_equal(pl.read_csv(tmp_path / "grouplens", schema=SCHEMA), small)

    lines = (tmp_path / "kaggle").read_text().splitlines()
    assert lines[0] == '"userId","movieId","rating","timestamp"'
    assert all(line.count('"') == 8 for line in lines)
    times = pl.col("timestamp").str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="ms")
    kaggle = pl.read_csv(tmp_path / "kaggle", schema={**SCHEMA, "timestamp": pl.String})
    assert_frame_equal(kaggle.with_columns(times.dt.epoch("s")), small)

    assert_frame_equal(pl.read_parquet(tmp_path / "parquet"), small)


def test_write_replaces_only_when_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ratings.csv"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise RuntimeError("stopped")

    with monkeypatch.context() as patched:
        patched.setattr(synthetic, "sample_users", fail)
        with pytest.raises(Exception, match="stopped"):
            write_synthetic_movielens(path, *SMALL)
    assert [p.name for p in tmp_path.iterdir()] == ["ratings.csv"]
    assert path.read_text() == "old"
    write_synthetic_movielens(path, *SMALL)
    assert path.read_text().count("\n") == 9_001


@pytest.mark.parametrize(
    ("size", "seed", "message"),
    [
        ((0, 200, 9_000), 0, "integers of at least 1"),
        ((2**31, 200, 2**32), 0, "ids of at most 2147483647"),
        ((10**6, 5 * 10**8, 10**9), 0, "ids of at most 2147483647"),
        ((300, -1, 9_000), 0, "integers of at least 1"),
        ((300, 200, 299), 0, "at least"),
        ((30, 200, 399), 0, "at least"),
        ((300, 200, 30_001), 0, "at most 30000, half"),
        (SMALL, -1, "seed"),
        (SMALL, 2**64, "seed"),
    ],
)
def test_impossible_arguments(size: tuple[int, int, int], seed: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        synthetic_movielens(*size, seed=seed)


def test_unknown_dialect(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dialect"):
        write_synthetic_movielens(tmp_path / "x", *SMALL, dialect="json")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere/x.csv", "its folder does not exist"),
        ("folder", "is no file"),
        ("pipe", "is no file"),
        ("loop", "cannot be written"),
        ("x" * 300, "cannot be written"),
        ("\udcff.csv", "is not UTF-8"),
    ],
)
def test_a_path_that_cannot_be_written_is_refused_before_the_rows_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.setattr(synthetic, "_build_model", lambda *_: pytest.fail("rows were drawn"))
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    before = set(tmp_path.iterdir())
    with pytest.raises((DataError, DataNotFoundError), match=message):
        write_synthetic_movielens(tmp_path / name, *SMALL)
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), pl.exceptions.ComputeError("no space left"), PermissionError(1, "x")],
)
def test_a_full_disk_leaves_the_older_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fill(_: pl.LazyFrame, path: Path) -> None:
        path.write_text("partial")
        raise error

    monkeypatch.setattr(pl.LazyFrame, "sink_csv", fill)
    (tmp_path / "x.csv").write_text("older")
    with pytest.raises(DataError, match="cannot be written"):
        write_synthetic_movielens(tmp_path / "x.csv", *SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]
    assert (tmp_path / "x.csv").read_text() == "older"


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/x.csv")
    write_synthetic_movielens(tmp_path / "link", *SMALL)
    assert (tmp_path / "link").is_symlink()
    assert pl.read_csv(tmp_path / "folder" / "x.csv").height == SMALL[2]


def _hit_rate(scores: npt.NDArray[np.float64]) -> float:
    """Return HR@10 of `scores` [U, 100], the positive in column 0."""
    return float(((scores[:, 1:] >= scores[:, :1]).sum(axis=1) < 10).mean())


def test_item_neighbours_beat_popularity() -> None:
    """Leave-one-out, latest item against 99 uniform negatives."""
    num_users, num_items = 600, 500
    frame = synthetic_movielens(num_users, num_items, 42_000).with_columns(
        user=pl.col("userId") - 1, item=pl.col("movieId").rank("dense") - 1
    )
    pairs = frame.sort("userId", "timestamp", "movieId").collect()
    users, items = pairs["user"].to_numpy(), pairs["item"].to_numpy()
    latest = np.append(np.flatnonzero(np.diff(users)), users.size - 1)
    train = np.zeros((num_users, num_items))
    train[users, items] = 1.0
    seen = train > 0
    train[np.arange(num_users), items[latest]] = 0.0

    rng = np.random.default_rng(0)
    candidates = np.empty((num_users, 100), np.int64)
    candidates[:, 0] = items[latest]
    for user in range(num_users):
        candidates[user, 1:] = rng.choice(np.flatnonzero(~seen[user]), 99, replace=False)

    popularity = train.sum(axis=0)
    norms = np.sqrt(np.maximum(popularity, 1.0))
    cosine = (train.T @ train) / np.outer(norms, norms)
    np.fill_diagonal(cosine, 0.0)
    neighbours = np.take_along_axis(train @ cosine, candidates, axis=1)
    assert _hit_rate(popularity[candidates]) < 0.7
    assert _hit_rate(neighbours) > _hit_rate(popularity[candidates]) + 0.1
