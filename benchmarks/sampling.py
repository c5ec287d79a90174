"""The sampler beside the notebook's loop on the MovieLens-20M twin, in one run.

    python -m benchmarks.sampling

The loop is timed on the interactions of the first users alone: more of them would not make it faster.
"""

import argparse
import json
import time
from functools import partial

import numpy as np
import pandas as pd
from numba import njit

from benchmarks import naive
from fastncf.datasets import twin
from fastncf.interactions import read_interactions
from fastncf.sampler import sample_negatives
from fastncf.split import leave_one_out
from fastncf.threads import run_ranges
from fastncf.weights import popularity_weights

NUM_NEGATIVES = 4


def check(indptr: np.ndarray, indices: np.ndarray, negatives: np.ndarray, num_items: int) -> None:
    """Every negative is an item that its own user has not touched, and both ends of the catalogue are drawn."""
    owner = np.repeat(np.arange(len(indptr) - 1, dtype=np.int64), np.diff(indptr))
    positives = owner * num_items + indices
    drawn = np.unique(owner[:, None] * num_items + negatives)
    assert not np.isin(drawn, positives, assume_unique=True).any(), "a positive was drawn"
    assert negatives.min() == 0
    assert negatives.max() == num_items - 1


@njit(nogil=True)
def _hash_range(start, stop, out):  # type: ignore[no-untyped-def]
    for position in range(start, stop):
        x = np.uint32(position) ^ np.uint32(0x9E3779B9)
        x = np.uint32((x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D))
        out[position] = np.int32(np.uint32((x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)) >> np.uint32(1))


def hash_and_write(out: np.ndarray) -> None:
    """The least that any counted sampler does: hash each position and write the result, no test of anything."""
    run_ranges(lambda a, b: _hash_range(a, b, out), np.linspace(0, len(out), 9).astype(np.int64))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=138_493)
    parser.add_argument("--items", type=int, default=26_744)
    parser.add_argument("--interactions", type=int, default=20_000_263)
    parser.add_argument("--naive-rows", type=int, default=50_000, help="interactions that the loop samples for")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    frame = twin(options.users, options.items, options.interactions).select("userId", "movieId", "timestamp").collect()
    split = leave_one_out(read_interactions(frame))
    out = np.empty((len(split.indices), NUM_NEGATIVES), dtype=np.int32)
    sample_negatives(split.indptr, split.indices, split.num_items, NUM_NEGATIVES, seed=0, epoch=0, out=out)
    check(split.indptr, split.indices, out, split.num_items)

    rows = np.arange(options.naive_rows)
    owner = np.searchsorted(split.indptr, rows, side="right") - 1
    train = pd.DataFrame({"userId": owner, "movieId": split.indices[rows]})
    all_items = np.arange(split.num_items)
    weights = popularity_weights(split.item_counts(), 0.75)
    args = (split.indptr, split.indices, split.num_items, NUM_NEGATIVES)
    sample_negatives(*args, seed=0, epoch=0, out=out, weights=weights)
    check(split.indptr, split.indices, out, split.num_items)
    hash_and_write(out.reshape(-1))
    loop_rates: list[float] = []
    rates: list[float] = []
    weighted_rates: list[float] = []
    ceilings: list[float] = []
    for repeat in range(options.repeats):
        start = time.perf_counter()
        triples = naive.sample(train, all_items, NUM_NEGATIVES, np.random.RandomState(repeat))
        loop_rates.append(NUM_NEGATIVES * len(train) / (time.perf_counter() - start))
        assert len(triples) == (1 + NUM_NEGATIVES) * len(train)
        for into, work in (
            (rates, partial(sample_negatives, *args, seed=0, epoch=repeat, out=out)),
            (weighted_rates, partial(sample_negatives, *args, seed=0, epoch=repeat, out=out, weights=weights)),
            (ceilings, partial(hash_and_write, out.reshape(-1))),
        ):
            start = time.perf_counter()
            work()
            into.append(out.size / (time.perf_counter() - start))
        print(
            f"loop {loop_rates[-1] / 1e6:.3f} M/s  sampler {rates[-1] / 1e6:.0f} M/s  "
            f"by popularity {weighted_rates[-1] / 1e6:.0f} M/s  hash and write {ceilings[-1] / 1e6:.0f} M/s"
        )
    ratios = np.array(rates) / np.array(loop_rates)
    print(
        json.dumps(
            {
                "benchmark": "sampling",
                "interactions": len(split.indices),
                "negatives": out.size,
                "naive_per_second": float(np.median(loop_rates)),
                "fastncf_per_second": float(np.median(rates)),
                "popularity_per_second": float(np.median(weighted_rates)),
                "hash_and_write_per_second": float(np.median(ceilings)),
                "share_of_hash_and_write": float(np.median(np.array(rates) / np.array(ceilings))),
                "uniform_over_popularity": float(np.median(np.array(rates) / np.array(weighted_rates))),
                "ratio": float(np.median(ratios)),
                "ratio_min": float(ratios.min()),
            }
        )
    )


if __name__ == "__main__":
    main()
