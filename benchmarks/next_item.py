"""Measure the kernel of softmax over histories: ``python -m benchmarks.next_item``.

The data have the shape of MovieLens-1M, or of ``--users``, ``--items`` and ``--interactions``, and are generated. An
epoch is timed on one thread and on ``--threads`` in turns, and beside each the three products of matrices that it
cannot do without (scores, gradients of states, gradients of negatives) by NumPy's BLAS on as many threads. The losses
of all epochs have to be equal. The last line is JSON.

What a batch moves between the cores is counted, not timed: bytes of the rows of the table and of the buffers that one
phase writes and another reads, and barriers.
"""

import argparse
import json
import os
import time
from statistics import median

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.report import machine
from benchmarks.stages import stage_of
from fastncf.config import Config
from fastncf.data.interactions import read_interactions
from fastncf.data.split import Split, leave_one_out, time_order
from fastncf.data.synthetic import synthetic_movielens
from fastncf.kernels.cpu.next_item import CHUNK, PHASES
from fastncf.threads import VARIABLE
from fastncf.trainers.next_item import NextItem
from fastncf.trainers.sgd import init_factors


def make_trainer(split: Split, order: np.ndarray, options: argparse.Namespace) -> NextItem:
    """Return a new trainer with the default settings, but for those of the options."""
    config = Config(
        loss="softmax",
        device="cpu",
        dim=options.dim,
        num_negatives=options.negatives,
        batch_size=options.batch_size,
        epochs=100,
    )
    stage = stage_of(config, split, has_order=True)
    return NextItem(init_factors(stage, split.num_users, split.num_items), split, stage, order)


def epoch_seconds(trainer: NextItem, number: int, threads: int) -> tuple[float, float]:
    """Return the seconds of an epoch, and its loss."""
    os.environ[VARIABLE] = str(threads)
    start = time.perf_counter()
    loss = trainer.epoch(number)
    return time.perf_counter() - start, loss


def product_seconds(trainer: NextItem, threads: int, batches: int = 50) -> float:
    """Return the seconds that BLAS takes for the products of an epoch, from those of some batches."""
    random = np.random.default_rng(0)
    shape = trainer.stage.batch_size, trainer.num_negatives, trainer.width
    states, negatives = (random.standard_normal((rows, shape[2]), dtype=np.float32) for rows in shape[:2])
    scores, grad_states, grad_negatives = np.empty(shape[:2], np.float32), states.copy(), negatives.copy()
    with threadpool_limits(threads, user_api="blas"):
        for number in range(batches + 5):
            if number == 5:
                start = time.perf_counter()
            np.matmul(states, negatives.T, out=scores)
            np.matmul(scores, negatives, out=grad_states)
            np.matmul(scores.T, states, out=grad_negatives)
        seconds = time.perf_counter() - start
    return seconds / batches * trainer.num_positions / trainer.stage.batch_size


def counted(trainer: NextItem) -> dict[str, float]:
    """Return the barriers and the bytes of a batch of full size, and its floating-point operations."""
    positions, negatives, width = trainer.stage.batch_size, trainer.num_negatives, trainer.width
    features, chunks = len(trainer.is_mean), positions / CHUNK
    tables = (trainer._inputs, positions), (trainer._outputs, negatives + positions)  # a row for each, at most
    per_row = sum(rows * (2 * table.stride + 2 * table.width) for table, rows in tables)  # read, copied, read, written
    per_position = positions * width * 2 * (3 + features)  # states, their gradients, those of tokens: written and read
    per_chunk = chunks * negatives * width * 2
    return {
        "barriers_per_batch": PHASES,
        "megabytes_per_batch": 4 * (per_row + per_position + per_chunk) / 1e6,
        "megaflops_per_batch": 6 * positions * negatives * width / 1e6,
    }


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("users", 6_040), ("items", 3_706), ("interactions", 1_000_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("dim", 128), ("negatives", 1_024), ("batch-size", 1_024), ("threads", 2), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    frame = synthetic_movielens(options.users, options.items, options.interactions, seed=0)
    interactions = read_interactions(frame)
    split = leave_one_out(interactions)
    trainers = {
        threads: make_trainer(split, time_order(interactions, split), options) for threads in (1, options.threads)
    }
    rounds: dict[int, list[tuple[float, float]]] = {threads: [] for threads in trainers}
    for number in range(options.rounds + 1):
        losses = set()
        for threads, trainer in trainers.items():
            seconds, loss = epoch_seconds(trainer, number, threads)
            losses.add(loss)
            if number:  # the first one compiles
                rounds[threads].append((seconds, product_seconds(trainer, threads)))
        assert len(losses) == 1
    one, many = rounds[1], rounds[options.threads]
    found = {
        **machine(),
        "shape": [options.users, options.items, options.interactions],
        "settings": [options.dim, options.negatives, options.batch_size],
        "seconds_per_epoch": {str(threads): median(s for s, _ in found) for threads, found in rounds.items()},
        "speedup": median(a / b for (a, _), (b, _) in zip(one, many, strict=True)),
        "share_of_product_speed": {
            str(threads): median(product / seconds for seconds, product in found) for threads, found in rounds.items()
        },
        "losses_equal": True,
        **counted(trainers[1]),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
