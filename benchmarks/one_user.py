"""Time the answer for one user with growing catalogues: ``python -m benchmarks.one_user``.

An ``mf`` of drawn vectors is asked for the top 10 of one user after another by ``recommend``. Beside it NumPy does what
is least: a product of the item vectors with the user's, ``argpartition``, and a sort of 10, without ids, filters or a
frame; and implicit is asked as in :mod:`benchmarks.serving` (``pip install 'fastncf[compare]'``). The sides take turns,
50 requests each. Seconds are those of the process, since other programs run on the machine. The answers are compared.
``--write`` writes ``results/one_user.json`` and the table of ``RESULTS.md``.
"""

import argparse
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import polars as pl

import fastncf
from benchmarks.report import duration, machine, publish, quantity
from benchmarks.serving import peer
from fastncf.kernels.cpu.factors import Factors
from fastncf.recommender import Recommender

K = 10
SIZES = ((3_706, 64), (26_744, 64), (26_744, 128), (100_000, 64), (100_000, 128), (300_000, 64), (300_000, 128))
_NUM_USERS = 1000
_TURN = 50


def drawn(num_items: int, dim: int) -> Recommender:
    """Return an ``mf`` whose vectors and biases are drawn from normal distributions."""
    generator = np.random.default_rng(0)
    items = np.concatenate([np.arange(num_items), generator.integers(0, num_items, num_items)])
    users = np.concatenate([np.arange(_NUM_USERS), generator.integers(0, _NUM_USERS, len(items) - _NUM_USERS)])
    frame = pl.DataFrame({"user": users, "item": items})
    settings: dict[str, Any] = {"loss": "bce", "history": "none", "epochs": 1, "dim": dim}
    rec = fastncf.fit(frame, model="mf", holdout=None, device="cpu", progress=False, **settings)
    assert isinstance(rec.trained, Factors)
    for array, deviation in zip(rec.trained, (0.3, 0.3, 0.5, 0.5), strict=True):
        array[:] = generator.normal(0, deviation, array.shape)
    return rec


def plain(rec: Recommender, user: int) -> np.ndarray:
    """Return the items (K,) of a user, best first, what the user has seen included."""
    assert isinstance(rec.trained, Factors)
    scores = rec.trained.item_vectors @ rec.trained.user_vectors[user] + rec.trained.item_bias
    best = np.argpartition(-scores, K)[:K]
    return best[np.argsort(-scores[best])]


def asked_of_peer(model: Any, seen: Any, user: int) -> Any:
    """Return what implicit recommends to a user, as its documentation shows."""
    return model.recommend(user, seen[user], N=K)


def cpu_seconds(work: Callable[[], Any]) -> float:
    """Return the seconds of CPU that a call takes."""
    start = time.process_time_ns()
    work()
    return (time.process_time_ns() - start) / 1e9


def measure(num_items: int, dim: int, requests: int) -> dict[str, Any]:
    """Return the median of the seconds of a request by side."""
    rec = drawn(num_items, dim)
    asked = np.random.default_rng(1).integers(0, _NUM_USERS, requests)
    model, seen = peer(rec)
    seconds: dict[str, list[float]] = {"fastncf": [], "numpy": [], "implicit": []}
    for first in range(0, requests, _TURN):  # one side would otherwise drive the other's numbers out of the cache
        users = asked[first : first + _TURN]
        raw = [rec.users.ids[int(user)] for user in users]
        for one, user in zip(raw, users, strict=True):
            found = rec.items.require(rec.recommend(one, K, exclude_seen=False)["item"])
            assert (found == plain(rec, user)).mean() > 0.8, "other items"  # sums in another order may swap neighbours
        seconds["fastncf"] += [cpu_seconds(functools.partial(rec.recommend, one, K)) for one in raw]
        seconds["numpy"] += [cpu_seconds(functools.partial(plain, rec, user)) for user in users]
        seconds["implicit"] += [cpu_seconds(functools.partial(asked_of_peer, model, seen, user)) for user in users]
    medians = {side: float(np.median(found)) for side, found in seconds.items()}
    return {"items": num_items, "dim": dim, "bytes": num_items * dim * 4, "seconds": medians}


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of ``RESULTS.md``."""
    yield (
        f"One run on {found['date']}: {found['machine']}, implicit {found['versions']['implicit']}, one thread; "
        f"medians of {found['requests']} requests, seconds of CPU."
    )
    yield ""
    yield "| items, dimensions | item vectors | `recommend` | NumPy | implicit |"
    yield "|---|---|---|---|---|"
    for row in found["sizes"]:
        sides = " | ".join(duration(row["seconds"][side]) for side in ("fastncf", "numpy", "implicit"))
        yield f"| {quantity(row['items'])}, {row['dim']} | {row['bytes'] / 1e6:,.1f} MB | {sides} |"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=300)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        rows = [measure(*size, options.requests) for size in SIZES]
    found = {**machine("implicit"), "requests": options.requests, "sizes": rows}
    print("\n".join(table(found)))
    if options.write:
        publish("one_user", found, table(found))


if __name__ == "__main__":
    main()
