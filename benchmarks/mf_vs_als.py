"""Compare ``mf`` with implicit's ALS on the same cores, data and lists: ``python -m benchmarks.mf_vs_als RATINGS``.

The test items are those of ``--test`` and ``--candidates`` where they are given, otherwise each user's latest item. ALS
has its best setting on MovieLens-1M (64 factors, alpha 5, regularisation 10, 15 iterations). The seconds are those of
the training, with the data in memory. Each point of a curve is a run of its own with that many epochs or iterations,
since the learning rate of ``mf`` falls to 0 over a run. ``mf`` is trained in two ways: by its default, on histories, in
their order where it tells something; and without histories, which like ALS uses no order. All are run in turns. Needs
``pip install 'fastncf[compare]'``. ``--write NAME`` writes ``results/NAME.json``, ``results/NAME.svg`` and the table of
``RESULTS.md``.
"""

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np

from benchmarks.report import RESULTS, counted, machine, publish, quantity
from benchmarks.stages import stage_of
from fastncf.config import Config
from fastncf.data.given_files import read_with_test
from fastncf.data.interactions import read_interactions
from fastncf.data.order import draw_sample, order_matters
from fastncf.data.split import Split, given_test, leave_one_out, time_order
from fastncf.evaluation.candidates import CandidateLists, CandidateSpec, held_out_lists
from fastncf.evaluation.metrics import metrics
from fastncf.evaluation.ranking import ranks_by_factors
from fastncf.kernels.cpu.factors import Factors
from fastncf.rng import Stream
from fastncf.trainers import get
from fastncf.trainers.sgd import init_factors

ITERATIONS = (1, 2, 3, 5, 8, 15)
BUDGETS: dict[str, dict[int, dict[str, float]]] = {
    "mf": {2: {"learning_rate": 0.15}, 4: {"learning_rate": 0.1}, 6: {"learning_rate": 0.1}, 16: {}},
    "vectors": {
        4: {"learning_rate": 0.15},
        8: {"learning_rate": 0.14},
        12: {"learning_rate": 0.07},
        20: {},
        32: {"l2": 0.003},
    },
}
"""For each number of epochs, the settings that go with it, chosen on validation items."""
LABELS = {"ALS": "implicit's ALS", "mf": "fastncf's mf", "vectors": "fastncf's mf without histories"}


def load(options: argparse.Namespace) -> tuple[Split, np.ndarray | None, CandidateLists[np.ndarray]]:
    """Return the split, the order of its interactions where it tells something, and each user's candidate list."""
    if options.test is not None:
        interactions, test = read_with_test(options.ratings, options.test, options.candidates)
        split = given_test(interactions, test)
    else:
        interactions = read_interactions(options.ratings)
        split = leave_one_out(interactions)
    order: np.ndarray | None = time_order(interactions, split)
    assert order is not None
    if not order_matters(split, order, draw_sample(split, seed=0), seed=0):
        order = None
    users = np.flatnonzero(split.test_item >= 0).astype(np.int32)
    positives = split.test_item[users]
    if split.test_candidates is not None:
        return split, order, CandidateLists(users, positives, split.test_candidates)
    spec = CandidateSpec(99, distinct=True, seed=0)
    return split, order, held_out_lists(split, spec, users, positives, Stream.CANDIDATES)


def train(split: Split, order: np.ndarray | None, name: str, epochs: int, seed: int) -> tuple[Factors, float]:
    """Return the factors after a run of ``epochs``, and the seconds that it took."""
    history: Any = "none" if name == "vectors" else "bag" if order is None else "sequence"
    config = Config(
        optimizer="sgd",
        history=history,
        epochs=epochs,
        seed=seed,
        device="cpu",
        **BUDGETS[name][epochs],  # type: ignore[arg-type]
    )
    stage = stage_of(config, split, has_order=order is not None)
    trainer_class = get(stage.trainer)
    start = time.perf_counter()
    trained = init_factors(stage, split.num_users, split.num_items)
    with trainer_class(trained, split, stage, order if stage.history == "sequence" else None) as trainer:
        for number in range(epochs):
            assert np.isfinite(trainer.epoch(number))
    return trained, time.perf_counter() - start


def interaction_matrix(split: Split) -> Any:
    """Return the training interactions as SciPy's CSR matrix (U, I) of float32 ones, which implicit takes."""
    from scipy.sparse import csr_matrix

    data = np.ones(len(split.indices), dtype=np.float32)
    return csr_matrix((data, split.indices, split.indptr), shape=(split.num_users, split.num_items))


def factors(user: np.ndarray, item: np.ndarray) -> Factors:
    """Return factors of user vectors (U, D) and item vectors (I, D), their biases 0."""
    vectors = (np.ascontiguousarray(table, dtype=np.float32) for table in (user, item))
    return Factors(*vectors, *(np.zeros(len(table), dtype=np.float32) for table in (user, item)))


def als(
    split: Split, seed: int, budgets: Sequence[int] = ITERATIONS, regularization: float = 10, alpha: float = 5
) -> Iterator[tuple[int, Factors, float]]:
    """Yield (iterations, factors, seconds of the fit) for each of ``budgets``, a fit of its own."""
    from implicit.cpu.als import AlternatingLeastSquares

    matrix = interaction_matrix(split)
    for iterations in budgets:
        fitted = AlternatingLeastSquares(
            factors=64, regularization=regularization, alpha=alpha, iterations=iterations, random_state=seed
        )
        start = time.perf_counter()
        fitted.fit(matrix, show_progress=False)
        seconds = time.perf_counter() - start
        yield iterations, factors(fitted.user_factors, fitted.item_factors), seconds


def compare(
    split: Split, order: np.ndarray | None, lists: CandidateLists, seeds: int
) -> dict[str, list[dict[str, Any]]]:
    """Return the points of each curve, each with seconds and metrics of every seed."""
    points: dict[tuple[str, int], dict[str, Any]] = {}

    def note(name: str, budget: int, trained: Factors, seconds: float) -> None:
        point = points.setdefault((name, budget), {"budget": budget, "seconds": [], "hr": [], "ndcg": []})
        found = metrics(ranks_by_factors(trained, lists), 10)
        for kind, value in (("seconds", seconds), ("hr", found["hr@10"]), ("ndcg", found["ndcg@10"])):
            point[kind].append(value)

    for seed in range(seeds):
        for iterations, model, seconds in als(split, seed):
            note("ALS", iterations, model, seconds)
        for name, budgets in BUDGETS.items():
            for epochs in budgets:
                note(name, epochs, *train(split, order, name, epochs, seed))
    return {name: [point for (own, _), point in points.items() if own == name] for name in LABELS}


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of ``RESULTS.md``."""
    yield (
        f"One run on {found['date']}: {found['machine']}, implicit {found['versions']['implicit']}; means of "
        f"{counted(found['seeds'], 'seed')}, median seconds of training."
    )
    yield ""
    yield "| model | seconds | HR@10 | NDCG@10 | samples/s |"
    yield "|---|---|---|---|---|"
    for name, points in found["curves"].items():
        for point in points:
            seconds = float(np.median(point["seconds"]))
            what, rate = counted(point["budget"], "iteration"), ""
            if name != "ALS":
                what = counted(point["budget"], "epoch")
                rate = f"{quantity(found['interactions'] * 9 * point['budget'] / seconds)}"
            quality = f"{np.mean(point['hr']):.4f} | {np.mean(point['ndcg']):.4f}"
            yield f"| {LABELS[name]}, {what} | {seconds:.2f} | {quality} | {rate} |"


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw HR@10 over seconds of training."""
    plt.rcParams.update({"svg.hashsalt": "fastncf", "svg.fonttype": "none"})
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    for name, points in found["curves"].items():
        seconds = [float(np.median(point["seconds"])) for point in points]
        axes.plot(seconds, [float(np.mean(point["hr"])) for point in points], marker="o", label=LABELS[name])
    axes.set_xscale("log")
    axes.set_xlabel(f"seconds of training, {found['machine']}")
    axes.set_ylabel("HR@10")
    axes.set_title(found["data"])
    axes.legend()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ratings")
    parser.add_argument("--test")
    parser.add_argument("--candidates")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", metavar="NAME")
    options = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from threadpoolctl import threadpool_limits

    split, order, lists = load(options)
    with threadpool_limits(1, user_api="blas"):  # implicit asks for it: its own threads call BLAS
        curves = compare(split, order, lists, options.seeds)
    found = {
        "data": options.write or Path(options.ratings).name,
        **machine("implicit"),
        "users": split.num_users,
        "items": split.num_items,
        "interactions": len(split.indices),
        "seeds": options.seeds,
        "curves": curves,
    }
    print("\n".join(table(found)))
    if options.write:
        publish(options.write, found, table(found))
        draw(found, RESULTS / f"{options.write}.svg")


if __name__ == "__main__":
    main()
