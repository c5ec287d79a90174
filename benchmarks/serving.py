"""Compare recommending with implicit, on the same factors and cores: ``python -m benchmarks.serving RATINGS...``.

An ``mf`` is fitted to each file. implicit gets the same vectors, with the biases as two further numbers of each, so
that both sides rank by the same scores, and what the user has seen is left out on both sides. One user is asked for as
often as ``--requests`` says, then all users at once; the sides take turns, round by round. Both are called as their
documentation shows: the seconds of fastncf contain ids and a frame, those of implicit the user's row of the matrix, and
its result is arrays of indices. ``parquet`` is a process of its own that
loads the model and writes the answer for all users to a file, and the memory that it takes beyond the loaded model.
The answers of both sides are compared. The last line is JSON. Needs ``pip install 'fastncf[compare]'``. ``--write``
writes ``results/serving.json`` and the table of ``RESULTS.md``.
"""

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import fastncf
from benchmarks.mf_vs_als import interaction_matrix
from benchmarks.report import duration, machine, publish, quantity
from fastncf.kernels.cpu.factors import Factors
from fastncf.recommender import Recommender
from fastncf.threads import num_threads

K = 10
_STREAM = """
import json, re, sys, time
import fastncf

def memory_of(name):
    return int(re.search(name + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024

rec = fastncf.load(sys.argv[1])
rec.recommend(rec.users.ids[0])
open("/proc/self/clear_refs", "w").write("5")  # forgets the peak
before = memory_of("VmRSS")
start = time.perf_counter()
rec.recommend(k=int(sys.argv[3]), out=sys.argv[2])
seconds = time.perf_counter() - start
print(json.dumps([seconds, memory_of("VmHWM") - before]))
"""
"""Program that writes the answer for all users to a file, and prints its seconds and bytes of memory; for Linux."""


def peer(rec: Recommender) -> tuple[Any, Any]:
    """Return implicit's model with the scores of a fitted ``mf``, and what users have seen as SciPy's CSR matrix."""
    from implicit.cpu.als import AlternatingLeastSquares
    from scipy.sparse import csr_matrix

    assert isinstance(rec.trained, Factors)
    user, item, user_bias, item_bias = rec.trained
    model = AlternatingLeastSquares(factors=user.shape[1] + 2, num_threads=num_threads())
    model.user_factors = np.column_stack([user, user_bias, np.ones_like(user_bias)])
    model.item_factors = np.column_stack([item, np.ones_like(item_bias), item_bias])
    indptr, indices = rec.split.seen()
    seen = csr_matrix(
        (np.ones(len(indices), dtype=np.float32), indices, indptr), shape=interaction_matrix(rec.split).shape
    )
    return model, seen


def require_same(rec: Recommender, answer: pl.DataFrame, ids: np.ndarray, scores: np.ndarray) -> float:
    """Check an answer for all users against implicit's, and return the share of places with the same item.

    Args:
        rec: the fitted ``mf``.
        answer: of fastncf; each user has K rows.
        ids: (U, K) items of implicit.
        scores: (U, K) of implicit.
    """
    assert answer.height == ids.size, "a user has fewer items than asked for"
    ours = answer["score"].to_numpy().reshape(ids.shape)
    np.testing.assert_allclose(ours, scores, rtol=1e-4, atol=1e-4)
    same = float((rec.items.require(answer["item"]).reshape(ids.shape) == ids).mean())
    assert same > 0.999, f"only {same:.2%} of the places have the same item"
    return same


def seconds_of(work: Callable[[], Any]) -> tuple[float, Any]:
    """Return the seconds that a call takes, and what it returns."""
    gc.collect()
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def compare(rec: Recommender, folder: Path, rounds: int, requests: int) -> dict[str, Any]:
    """Return the seconds of each round by what was asked and by side, and how far the answers agree."""
    model, seen = peer(rec)
    numbers = np.random.default_rng(0).choice(rec.split.num_users, requests)
    raw = rec.users.decode(numbers).to_list()
    everybody = np.arange(rec.split.num_users)
    seconds: dict[str, dict[str, list[float]]] = {"one": {}, "all": {}, "parquet": {}}
    memory, same = [], 1.0

    def note(what: str, side: str, value: float) -> None:
        seconds[what].setdefault(side, []).append(value)

    for number in range(rounds + 1):  # the first round warms up
        ours, _ = seconds_of(lambda: [rec.recommend(user, K) for user in raw])
        theirs, _ = seconds_of(lambda: [model.recommend(number, seen[number], N=K) for number in numbers])
        all_ours, answer = seconds_of(lambda: rec.recommend(k=K))
        all_theirs, (ids, scores) = seconds_of(lambda: model.recommend(everybody, seen, N=K))
        same = min(same, require_same(rec, answer, ids, scores))
        command = [sys.executable, "-c", _STREAM, str(folder), str(folder.parent / "recs.parquet"), str(K)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        streamed, num_bytes = json.loads(done.stdout)
        assert pl.read_parquet(folder.parent / "recs.parquet").equals(answer), "the file holds another answer"
        if number:
            note("one", "fastncf", ours / requests)
            note("one", "implicit", theirs / requests)
            note("all", "fastncf", all_ours)
            note("all", "implicit", all_theirs)
            note("parquet", "fastncf", streamed)
            memory.append(num_bytes)
    return {"seconds": seconds, "memory": memory, "same": same}


def measure(path: str, rounds: int, requests: int) -> dict[str, Any]:
    """Return the sizes of a file and what :func:`compare` finds on it."""
    with tempfile.TemporaryDirectory() as folder:
        rec = fastncf.fit(path, model="mf", budget="fast", device="cpu")
        rec.save(Path(folder) / "model")
        sizes = {name: rec.data[name] for name in ("users", "items", "interactions")}
        return {"data": Path(path).name, **sizes, **compare(rec, Path(folder) / "model", rounds, requests)}


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of ``RESULTS.md``."""
    yield (
        f"One run on {found['date']}: {found['machine']}, implicit {found['versions']['implicit']}; medians of "
        f"{found['rounds']} rounds, top {K}, what the user has seen left out."
    )
    yield ""
    yield "| interactions, users, items | request | fastncf | implicit | ratio, quartiles |"
    yield "|---|---|---|---|---|"
    for row in found["files"]:
        shape = ", ".join(quantity(row[name]) for name in ("interactions", "users", "items"))
        for what, words in (("one", "one user"), ("all", "all users"), ("parquet", "all users, to Parquet")):
            ours, theirs = row["seconds"][what]["fastncf"], row["seconds"][what].get("implicit")
            if theirs is None:
                extra = f"{max(row['memory']) / 1e6:,.0f} MB beyond the model"
                yield f"| {shape} | {words} | {duration(float(np.median(ours)))}, {extra} | | |"
                continue
            low, high = np.quantile(np.array(theirs) / np.array(ours), [0.25, 0.75])
            sides = " | ".join(duration(float(np.median(side))) for side in (ours, theirs))
            yield f"| {shape} | {words} | {sides} | {low:.1f} to {high:.1f} x |"


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ratings", nargs="+")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="blas"):  # implicit asks for it: its own threads call BLAS
        files = [measure(path, options.rounds, options.requests) for path in options.ratings]
    found = {**machine("implicit"), "rounds": options.rounds, "requests": options.requests, "files": files}
    print("\n".join(table(found)))
    if options.write:
        publish("serving", found, table(found))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
