"""Generated data sets that resemble MovieLens.

A generated data set is synthetic: no row is a MovieLens rating. It has the size and the marginal distributions
of MovieLens-20M as published in F. M. Harper and J. A. Konstan, "The MovieLens Datasets: History
and Context", ACM TiiS 5(4), 2015, and in the data set's README (users, items, interactions,
at least 20 ratings a user, 1995-01-09 to 2015-03-31), scaled to whatever size is asked for.

Its latent structure is a mixture of K tastes. User u likes taste k with weight theta_uk, item i
belongs to taste k with weight g_ik, and u's items are drawn one after another, without replacement,
with probability proportional to w_i * sum_k theta_uk g_ik. The popularities w are calibrated so
that the expected item counts follow the target curve. The order in time of a user's items is a
uniform permutation, so a held-out latest item is as predictable as any other.

Every random number is a hash of (seed, user, counter), so the rows depend neither on the number
of threads nor on how users are divided into chunks. (On another CPU or with other library versions,
``exp`` and ``log`` may round differently and change a few rows.)
"""

import itertools
import os
from collections import deque
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import polars as pl
from polars.io.plugins import register_io_source

from fastncf.data.replaced_file import replaced_file
from fastncf.errors import ConfigError, counted
from fastncf.kernels.cpu.alias import fill_alias_table
from fastncf.kernels.cpu.synthetic import (
    RatingColumns,
    SyntheticModel,
    expected_counts,
    fill_hashes,
    fill_normals,
    hash_counter,
    sample_users,
)
from fastncf.processes import require_polars_threads
from fastncf.threads import Task, end_tasks, num_threads, run_ranges

Dialect = Literal["grouplens", "kaggle", "parquet"]
SCHEMA = pl.Schema({"userId": pl.Int32, "movieId": pl.Int32, "rating": pl.Float32, "timestamp": pl.Int64})
"""Columns of the generated data sets."""

_MIN_DEGREE = 20
# Saturated lognormals fitted to MovieLens-20M: user degrees have median 68 and maximum 9,254,
# item counts median 18 and maximum 67,310. A ceiling is a share of the other side's size.
_USER_SIGMA, _USER_CEILING = 1.418, 0.5158
_ITEM_CEILING = 0.4913
# The denser a data set, the flatter its item counts: sigma at the density N / (U * I) of
# MovieLens-20M and of MovieLens-1M, where the median is 123.
_DENSITIES, _ITEM_SIGMAS = (0.0054, 0.0447), (3.1075, 1.565)
_MAX_MOVIE_ID_PER_ITEM = 131_262 / 26_744
_MAX_ID = 2**31 - 1
_TASTES = 16
_ITEM_SHARPNESS = 4.0
_CALIBRATION_USERS = 1024
_CALIBRATION_BLOCK = 64
_CALIBRATION_STEPS = 16
_CHUNK_INTERACTIONS = 1 << 18
# Streams of draws below the seed's key. Python integers would be literals to Numba, which would compile
# `hash_counter` anew for each.
_ITEM_RANKS, _ITEM_TASTES, _ITEM_QUALITY, _ANCHORS, _USER_RANKS, _USERS = np.arange(6)


def _saturated_lognormal(size: int, total: int, low: int, sigma: float, ceiling: float) -> npt.NDArray[np.float64]:
    """Return ascending quantiles (size,) that sum to `total`.

    Each is `low` + x / (1 + x / `ceiling`), where x is lognormal with shape `sigma` and the scale that gives this sum.
    """
    excess = total - low * size
    if excess == 0:
        return np.full(size, float(low))
    normal = NormalDist()
    z = sigma * np.array([normal.inv_cdf((j + 0.5) / size) for j in range(size)])
    lower, upper = -64.0, 64.0
    for _ in range(64):
        mu = 0.5 * (lower + upper)
        x = 1.0 / (np.exp(-mu - z) + 1.0 / ceiling)
        if x.sum() < excess:
            lower = mu
        else:
            upper = mu
    return low + x


def _key(parent: np.uint64, stream: Any) -> np.uint64:
    """Return the key of a stream of draws below another key."""
    # compiled code returns a Python int, which Numba would type by its size when it is passed on
    return np.uint64(hash_counter(parent, stream))


def _permutation(key: np.uint64, size: int) -> npt.NDArray[np.int64]:
    """Return a random permutation of 0 to `size` - 1."""
    hashes = np.empty(size, np.uint64)
    fill_hashes(key, hashes)
    return np.argsort(hashes, kind="stable")


def _normals(key: np.uint64, *shape: int) -> npt.NDArray[np.float64]:
    """Return standard normal numbers of a shape."""
    normals = np.empty(shape)
    fill_normals(key, normals.reshape(-1))
    return normals


def _popularity(
    users_key: np.uint64,
    offsets: npt.NDArray[np.int64],
    targets: npt.NDArray[np.float64],
    item_tastes: npt.NDArray[np.float64],
) -> npt.NDArray[np.float64]:
    """Return the popularities w (I,) with which items are drawn `targets` (I,) times on average.

    Args:
        users_key: key of all draws for users.
        offsets: (U + 1,), bounds of each user's rows.
        targets: (I,), expected number of draws of each item.
        item_tastes: (I, K), g_ik.
    """
    num_interactions = int(offsets[-1])
    # evenly spaced rows choose users in proportion to their degrees, and so to their share of all draws
    rows = (np.arange(_CALIBRATION_USERS) + 0.5) * (num_interactions / _CALIBRATION_USERS)
    users = np.searchsorted(offsets, rows, side="right") - 1
    drawn = targets.sum() / num_interactions
    degrees = np.diff(offsets)[users] * drawn
    shares = targets.sum() / _CALIBRATION_USERS / degrees
    by_taste = np.ascontiguousarray(item_tastes.T)
    popularity = targets / targets.sum()
    rates = degrees * by_taste.shape[0]
    blocks = [slice(j, j + _CALIBRATION_BLOCK) for j in range(0, _CALIBRATION_USERS, _CALIBRATION_BLOCK)]

    counts = np.empty((len(blocks), len(targets)))

    def count(number: int, _: int) -> None:
        block = blocks[number]
        counts[number] = expected_counts(
            users_key,
            users[block],
            degrees[block],
            shares[block],
            popularity,
            by_taste,
            rates[block],
        )

    for _ in range(_CALIBRATION_STEPS):
        run_ranges(count, np.arange(len(blocks) + 1))
        popularity *= targets / counts.sum(axis=0)  # added in the order of the blocks, whichever finishes first
    return popularity


def _build_model(num_users: int, num_items: int, num_interactions: int, seed: int) -> SyntheticModel:
    """Draw everything of a data set but its rows."""
    key = _key(np.uint64(seed), 0)
    users_key = _key(key, _USERS)

    low = min(_MIN_DEGREE, num_interactions // num_users)
    ceiling = min(_USER_CEILING * num_items, num_items - 1 - low)
    curve = _saturated_lognormal(num_users, num_interactions, low, _USER_SIGMA, ceiling)
    degrees = np.diff(np.rint(np.cumsum(curve)).astype(np.int64), prepend=0)
    degrees = degrees[_permutation(_key(key, _USER_RANKS), num_users)]
    offsets = np.concatenate([[0], np.cumsum(degrees)])

    # each item is given to one user in advance, so that it occurs; all other rows are drawn
    anchor_rows = (2 * np.arange(num_items) + 1) * num_interactions // (2 * num_items)
    anchor_offsets = np.searchsorted(anchor_rows, offsets)

    density = num_interactions / (num_users * num_items)
    sigma = float(np.interp(np.log(density), np.log(_DENSITIES), _ITEM_SIGMAS))
    ceiling = max(_ITEM_CEILING, 2 * density) * num_users
    targets = _saturated_lognormal(num_items, num_interactions, 1, sigma, ceiling) - 1
    targets = targets[_permutation(_key(key, _ITEM_RANKS), num_items)]
    item_tastes = np.exp(_ITEM_SHARPNESS * _normals(_key(key, _ITEM_TASTES), num_items, _TASTES))
    item_tastes /= item_tastes.sum(axis=1, keepdims=True)
    popularity = _popularity(users_key, offsets, targets, item_tastes)

    profiles = item_tastes * popularity[:, None]
    profile_sums = profiles.sum(axis=0)
    profiles /= profile_sums
    thresholds = np.empty((_TASTES, num_items), np.uint32)
    aliases = np.empty((_TASTES, num_items), np.int32)
    for k in range(_TASTES):
        fill_alias_table(profiles[:, k].copy(), thresholds[k], aliases[k])

    # MovieLens ids are dense at first and sparse later
    position = np.arange(num_items) / (num_items - 1)
    gaps = round(num_items * _MAX_MOVIE_ID_PER_ITEM) - num_items
    movie_ids = np.arange(1, num_items + 1) + (gaps * position**4).astype(np.int64)
    return SyntheticModel(
        users_key=users_key,
        offsets=offsets,
        anchor_offsets=anchor_offsets,
        anchors=_permutation(_key(key, _ANCHORS), num_items),
        movie_ids=movie_ids.astype(np.int32),
        quality=_normals(_key(key, _ITEM_QUALITY), num_items),
        item_tastes=item_tastes,
        profiles=profiles,
        profile_sums=profile_sums,
        thresholds=thresholds,
        aliases=aliases,
    )


def _rows(model: SyntheticModel, first: int, last: int) -> pl.DataFrame:
    """Return the rows of users `first` to `last` - 1 (from 0)."""
    n = int(model.offsets[last] - model.offsets[first])
    columns = RatingColumns(
        user_id=np.empty(n, np.int32),
        movie_id=np.empty(n, np.int32),
        rating=np.empty(n, np.float32),
        timestamp=np.empty(n, np.int64),
    )
    sample_users(first, last, model, columns)
    return pl.DataFrame(dict(zip(SCHEMA, columns, strict=True)))


def _chunks(model: SyntheticModel, chunk_interactions: int) -> Iterator[pl.DataFrame]:
    """Yield all rows in order, about `chunk_interactions` at a time.

    A chunk for each thread is made ahead of the consumer.
    """
    offsets = model.offsets
    starts = np.arange(0, offsets[-1], chunk_interactions)
    bounds = np.unique(np.append(np.searchsorted(offsets, starts), offsets.size - 1))
    pending: deque[Task[pl.DataFrame]] = deque()
    most = num_threads()
    try:
        for first, last in itertools.pairwise(bounds.tolist()):
            if len(pending) == most:
                yield pending.popleft().result()
            pending.append(Task(partial(_rows, model, first, last)))
        while pending:
            yield pending.popleft().result()
    finally:
        end_tasks(pending)


def _check_size(num_users: int, num_items: int, num_interactions: int, seed: int) -> None:
    """Raise a ConfigError for a data set that cannot be generated."""
    if num_users < 1 or num_items < 1:
        raise ConfigError(f"num_users={num_users}, num_items={num_items}: expected integers of at least 1")
    if num_interactions < max(num_users, 2 * num_items):
        raise ConfigError(
            f"num_interactions={num_interactions}: expected at least {max(num_users, 2 * num_items)}, 1 for each of "
            f"{counted(num_users, 'user')} and 2 for each of {counted(num_items, 'item')}"
        )
    if 2 * num_interactions > num_users * num_items:
        raise ConfigError(
            f"num_interactions={num_interactions}: expected at most {num_users * num_items // 2}, half of the pairs "
            f"of a user and an item"
        )
    largest_item_id = round(num_items * _MAX_MOVIE_ID_PER_ITEM)
    if max(num_users, largest_item_id) > _MAX_ID:
        raise ConfigError(
            f"num_users={num_users}, num_items={num_items}: expected ids of at most {_MAX_ID}, which are "
            f"{num_users} for users and {largest_item_id} for items"
        )
    if not 0 <= seed < 2**64:
        raise ConfigError(f"seed={seed}: expected an integer from 0 to 2**64 - 1")


def synthetic_movielens(
    num_users: int = 138_493,
    num_items: int = 26_744,
    num_interactions: int = 20_000_263,
    *,
    seed: int = 0,
) -> pl.LazyFrame:
    """Return a generated data set that resembles MovieLens-20M, in its size or in any other one.

    Everything but the rows is drawn at once, in O(U + I) time and memory. The rows are generated chunk
    by chunk whenever the frame is collected or sunk, so a sink needs memory for a few chunks only.

    Args:
        num_users: U, the number of users.
        num_items: I, the number of distinct items that occur.
        num_interactions: N, the number of rows.
        seed: selects the data set, in [0, 2**64). Equal arguments give equal rows.

    Returns:
        N rows ordered by (userId, movieId), without repeated pairs, of columns

        - userId, int32: 1 to U; every user has at least min(20, N // U) rows.
        - movieId, int32: I distinct ids with gaps, from 1 to round(I * 131,262 / 26,744).
        - rating, float32: 0.5 to 5.0 in steps of 0.5.
        - timestamp, int64: Unix time in seconds (UTC), from 1995-01-09 to 2015-03-31. Rows of one
          user may tie.

    Raises:
        ConfigError: a size is not positive, N is below U or 2 * I or above U * I / 2, an id is above
            2**31 - 1, or the seed is out of range.
    """
    _check_size(num_users, num_items, num_interactions, seed)
    model = _build_model(num_users, num_items, num_interactions, seed)

    def source(
        with_columns: list[str] | None,
        predicate: pl.Expr | None,
        n_rows: int | None,
        batch_size: int | None,
    ) -> Iterator[pl.DataFrame]:
        left = num_interactions if n_rows is None else n_rows
        for frame in _chunks(model, batch_size or _CHUNK_INTERACTIONS):
            frame = frame.head(left)
            left -= frame.height
            if predicate is not None:
                frame = frame.filter(predicate)
            yield frame if with_columns is None else frame.select(with_columns)
            if left == 0:
                return

    return register_io_source(source, schema=SCHEMA, is_pure=True)


def write_synthetic_movielens(
    path: str | os.PathLike[str],
    num_users: int = 138_493,
    num_items: int = 26_744,
    num_interactions: int = 20_000_263,
    *,
    seed: int = 0,
    dialect: Dialect = "grouplens",
) -> None:
    """Write the rows of `synthetic_movielens` to one file, in memory that does not grow with their number.

    The file appears, or replaces an older one, only when it is complete.

    Args:
        path: the file to write, in a folder that exists.
        num_users: U, see `synthetic_movielens`.
        num_items: I, see `synthetic_movielens`.
        num_interactions: N, see `synthetic_movielens`.
        seed: see `synthetic_movielens`.
        dialect: "grouplens" for the CSV that GroupLens publishes (header
            ``userId,movieId,rating,timestamp``, Unix seconds, no quotes), "kaggle" for the CSV
            with every field and the header quoted and times as ``"2005-04-02 23:53:47"`` (UTC),
            or "parquet" with the dtypes of `synthetic_movielens`.

    Raises:
        ConfigError: the dialect is unknown, or as for `synthetic_movielens`.
        DataNotFoundError: the folder of the file does not exist.
        DataError: the path names something other than a file, or the file cannot be written.
        ForkError: this process lacks the threads of Polars.
    """
    require_polars_threads("writing a data set")
    if not isinstance(dialect, str) or dialect not in get_args(Dialect):
        raise ConfigError(f"dialect={dialect!r:.80}: expected one of {', '.join(get_args(Dialect))}")
    _check_size(num_users, num_items, num_interactions, seed)
    with replaced_file(Path(path)) as partial:
        rows = synthetic_movielens(num_users, num_items, num_interactions, seed=seed)
        if dialect == "parquet":
            rows.sink_parquet(partial)
        elif dialect == "grouplens":
            rows.sink_csv(partial)
        else:
            rows.with_columns(pl.from_epoch("timestamp")).sink_csv(
                partial, quote_style="always", datetime_format="%Y-%m-%d %H:%M:%S"
            )
