"""Compare the training of ``mlp`` and ``neumf`` on a CPU by the kernels, by eager torch, and by the notebook's loops.

    fastncf generate ratings.csv
    python -m benchmarks.mlp_cpu u.data --ratings ratings.csv --write

The kernels and torch train on the generated MovieLens-20M, with tables of its size, on the same batches and in turns.
The kernels train with the notebook's batches of 512 samples and with larger ones, eager torch with several sizes, of
which the best counts. The first epoch of each is not timed: it compiles kernels and touches memory for the first time.
The notebook's loops and the kernels train on ``u.data``, the file of MovieLens-100K, where the quality of the kernels
and of torch is compared as well. With ``--ratings``, the generated data as a file, ``fastncf fit --notebook`` on all
users is timed in a process of its own, and the loops on a share of the users.
"""

import argparse
import itertools
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import nn

from benchmarks import naive
from benchmarks.report import machine, publish, quantity
from benchmarks.stages import stage_of
from fastncf import models
from fastncf.config import Config
from fastncf.data.interactions import read_interactions
from fastncf.data.split import Split, leave_one_out
from fastncf.data.synthetic import synthetic_movielens
from fastncf.evaluation.candidates import CandidateSpec, held_out_lists
from fastncf.evaluation.metrics import metrics
from fastncf.evaluation.ranking import candidate_ranks
from fastncf.kernels.cpu import simd
from fastncf.kernels.cpu.gemm import NONE, Matrix, gemm
from fastncf.kernels.cpu.lazy_adam import stride_of
from fastncf.models.mlp import MLP
from fastncf.models.neumf import NeuMF
from fastncf.rng import Stream
from fastncf.threads import num_threads, run_ranges, run_threads
from fastncf.trainers.autograd import AutogradTrainer
from fastncf.trainers.cpu_mlp import CPUMLPTrainer

NUM_NEGATIVES = 4
USERS, ITEMS, INTERACTIONS = 138_493, 26_744, 20_000_263
SHARE_OF_LOOPS = 0.002
SEEDS, EPOCHS = 5, 5
pointer: Any = simd.pointer  # a function of one array where it is compiled, of two arguments otherwise


@dataclass(frozen=True)
class Case:
    """A model and how it is trained.

    Attributes:
        name: in words.
        settings: of the model.
        kernels: batch sizes of the kernels, in samples.
        torch: batch sizes of eager torch, in samples.
        interactions: interactions in an epoch.
    """

    name: str
    settings: dict[str, Any]
    kernels: tuple[int, ...]
    torch: tuple[int, ...]
    interactions: int


CASES = [
    Case(
        "the notebook's mlp: 8 + 8, 64-32",
        {"model": "mlp", "dim": 8, "layers": (64, 32)},
        (512, 4_096, 65_536),
        (4_096, 16_384, 65_536, 262_144),
        400_000,
    ),
    Case(
        "neumf, 32 + 32 each, 64-32-16",
        {"model": "neumf", "dim": 32, "layers": (64, 32, 16)},
        (512, 4_096, 65_536),
        (16_384, 65_536, 262_144),
        400_000,
    ),
    Case(
        "NVIDIA's neumf: 64 + 128 each, 256-128-64, dropout .5",
        {"model": "neumf", "dim": 64, "mlp_dim": 128, "layers": (256, 128, 64), "dropout": 0.5},
        (4_096, 65_536),
        (4_096, 16_384, 65_536),
        60_000,
    ),
]


def thinned(split: Split, interactions: int) -> Split:
    """Return a split of the same users and items with about ``interactions`` of the interactions, taken evenly."""
    keep = np.zeros(len(split.indices), dtype=bool)
    keep[:: len(split.indices) // interactions] = True
    before = np.concatenate([[0], np.cumsum(keep)])
    none = np.full(split.num_users, -1, dtype=np.int32)
    indptr = before[split.indptr].astype(np.int64)
    return Split(
        split.num_items,
        indptr,
        split.indices[keep],
        none,
        none,
        num_duplicates=0,
        num_users_all_seen=0,
        num_users_too_short=0,
        holdout="given",
    )


def make_trainer(
    side: str, split: Split, settings: dict[str, Any], epochs: int
) -> tuple[nn.Module, CPUMLPTrainer | AutogradTrainer]:
    """Return a model and its trainer before the first epoch; ``side`` is ``kernels`` or ``torch``."""
    config = Config(
        optimizer="adam",
        num_negatives=NUM_NEGATIVES,
        epochs=epochs,
        learning_rate=0.001,
        l2=0.0,
        device="cpu",
        **settings,
    )
    stage = stage_of(config, split)
    model = models.build(stage, split.num_users, split.num_items, split.item_counts())
    assert isinstance(model, MLP | NeuMF)
    return model, CPUMLPTrainer(model, split, stage) if side == "kernels" else AutogradTrainer(model, split, stage)


def compare(case: Case, split: Split, rounds: int) -> dict[str, Any]:
    """Return samples per second of each side and batch size, and operations and bytes per sample of the kernels."""
    data = thinned(split, case.interactions)
    sides = [("kernels", size) for size in case.kernels] + [("torch", size) for size in case.torch]
    rates: dict[tuple[str, int], list[float]] = {side: [] for side in sides}
    losses: dict[tuple[str, int], float] = {}
    with ExitStack() as stack:
        trained: dict[tuple[str, int], CPUMLPTrainer | AutogradTrainer] = {}
        for side, size in sides:
            settings = {**case.settings, "batch_size": size}
            trained[side, size] = make_trainer(side, data, settings, rounds + 1)[1]
            stack.enter_context(trained[side, size])
            losses[side, size] = float(trained[side, size].epoch(0)) / len(data.indices)
        for number in range(1, rounds + 1):
            for which in sides if number % 2 else reversed(sides):
                start = time.perf_counter()
                assert np.isfinite(float(trained[which].epoch(number)))
                seconds = time.perf_counter() - start
                rates[which].append(len(data.indices) * (1 + NUM_NEGATIVES) / seconds)
    for (side, size), loss in losses.items():
        other = losses.get(("torch" if side == "kernels" else "kernels", size), loss)
        assert abs(loss - other) < 0.01 * other, f"{case.name}: {side} {size} has a loss of {loss}, the other {other}"
    return {
        "name": case.name,
        "flop": flop(case.settings),
        "bytes": moved_bytes(case.settings),
        "torch": {str(size): rates["torch", size] for size in case.torch},
        "kernels": {str(size): rates["kernels", size] for size in case.kernels},
    }


def flop(settings: dict[str, Any]) -> float:
    """Return the floating-point operations of the kernels per sample: one product forward, two backward."""
    samples, dim, layers = 1 + NUM_NEGATIVES, settings["dim"], settings["layers"]
    terms = settings.get("mlp_dim", dim) * layers[0] * (1 + 1 / samples)  # the user's half once per interaction
    terms += sum(a * b for a, b in itertools.pairwise(layers)) + layers[-1]
    terms += 2 * dim if settings["model"] == "neumf" else 0
    return 3 * 2 * terms


def moved_bytes(settings: dict[str, Any]) -> float:
    """Return the bytes per sample that are read and written in tables and ids where a batch needs each row once."""
    samples = 1 + NUM_NEGATIVES
    width = settings["dim"]
    if settings["model"] == "neumf":
        width += settings.get("mlp_dim", width)
    ids = 4 * (3 + NUM_NEGATIVES) / samples
    return (1 + 1 / samples) * 2 * 4 * stride_of(width) + ids


@njit(nogil=True)
def _multiply_often(times: int, shape: tuple[int, int, int], x: np.ndarray, y: np.ndarray, z: np.ndarray) -> None:
    """Add ``x @ y`` to ``z`` so many times, with the shape (m, n, k) of :func:`fastncf.kernels.cpu.gemm.gemm`."""
    _, n, k = shape
    c = Matrix(pointer(z), n)
    for _ in range(times):
        gemm(shape, Matrix(pointer(x), k), Matrix(pointer(y), n), c, c, NONE, np.float32(1))


def product_rate(rounds: int = 5) -> float:
    """Return the FLOP/s of the fastest products on all cores, by torch of 2,048 x 2,048 or by the kernel in a cache."""
    a, b = torch.rand(2_048, 2_048), torch.rand(2_048, 2_048)
    (m, n, k), often = (40, 64, 32), 20_000

    def ours(_: int, times: int = often) -> None:
        x, y, z = (np.ones(size, dtype=np.float32) for size in (m * k, k * n, m * n))
        _multiply_often(times, (m, n, k), x, y, z)
        assert (z == 1 + times * k).all()

    ours(0, 1)
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        product = a @ b
        found.append(2 * 2_048**3 / (time.perf_counter() - start))
        assert product.isfinite().all()
        start = time.perf_counter()
        run_threads(ours, num_threads())
        found.append(num_threads() * often * 2 * m * n * k / (time.perf_counter() - start))
    return max(found)


def copy_rate(rounds: int = 5) -> float:
    """Return the bytes per second, read and written, of a copy by all cores."""
    source, to = np.ones(2**26, dtype=np.float32), np.zeros(2**26, dtype=np.float32)
    bounds = np.linspace(0, len(source), num_threads() + 1).astype(np.int64)
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        run_ranges(lambda a, b: np.copyto(to[a:b], source[a:b]), bounds)
        found.append(2 * source.nbytes / (time.perf_counter() - start))
    assert (to == source).all()
    return max(found)


def loops(path: Path, rounds: int) -> dict[str, list[float]]:
    """Return samples per second of drawing and training an epoch of MovieLens-100K by the loops and by the kernels."""
    frame = naive.read(path)
    split = leave_one_out(read_interactions(path))
    found: dict[str, list[float]] = {"loops": [], "kernels": []}
    with make_trainer("kernels", split, notebook(), rounds + 1)[1] as trained:
        assert np.isfinite(float(trained.epoch(0)))
        for number in range(1, rounds + 1):
            start = time.perf_counter()
            assert np.isfinite(float(trained.epoch(number)))
            found["kernels"].append(len(split.indices) * (1 + NUM_NEGATIVES) / (time.perf_counter() - start))
            random = np.random.RandomState(number)
            data = naive.Ratings(frame, 1.0, random)
            _, seconds = naive.train(data, 1, random)
            found["loops"].append(len(data.train) * (1 + NUM_NEGATIVES) / sum(seconds.values()))
    return found


def agreement(path: Path) -> dict[str, list[float]]:
    """Return HR@10 of the notebook's recipe on MovieLens-100K by both sides, from the same parameters and samples."""
    split = leave_one_out(read_interactions(path))
    users = np.flatnonzero(split.test_item >= 0).astype(np.int32)
    found: dict[str, list[float]] = {"kernels": [], "torch": []}
    for seed in range(SEEDS):
        settings = {**notebook(), "seed": seed}
        spec = CandidateSpec(99, distinct=True, seed=seed)
        lists = held_out_lists(split, spec, users, split.test_item[users], Stream.CANDIDATES)
        for side, hits in found.items():
            model, started = make_trainer(side, split, settings, EPOCHS)
            with started as trained:
                for number in range(EPOCHS):
                    trained.epoch(number)
            hits.append(metrics(candidate_ranks(model.eval(), lists), 10)["hr@10"])
    ours, theirs = found.values()
    assert abs(statistics.mean(ours) - statistics.mean(theirs)) < 0.01, f"kernels {ours}, torch {theirs}"
    return found


def notebook() -> dict[str, Any]:
    """Return the settings of the notebook's model and batches."""
    config = Config.notebook()
    return {name: getattr(config, name) for name in ("model", "dim", "layers", "init_std", "batch_size", "shuffle")}


_WHOLE = """
import sys
from fastncf.cli import main
try:
    main(sys.argv[1:])
finally:
    print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


def whole(path: Path) -> dict[str, Any]:
    """Return the seconds and the peak memory of the notebook's recipe on all users, in a process of its own."""
    command = [sys.executable, "-c", _WHOLE, "fit", str(path), "--notebook", "--user-fraction", "1", "--device", "cpu"]
    start = time.perf_counter()
    said, peak = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("VmHWM:")
    seconds = time.perf_counter() - start
    assert "HR@10" in said
    return {"seconds": seconds, "peak": int(peak.split()[0]) * 1024}


def whole_by_loops(path: Path) -> dict[str, Any]:
    """Return the seconds of one epoch of the notebook on a share of the users, and of ranking their lists."""
    random = np.random.RandomState(0)
    data = naive.Ratings(naive.read(path), SHARE_OF_LOOPS, random)
    model, seconds = naive.train(data, 1, random)
    start = time.perf_counter()
    naive.hits(model, naive.candidates(data, random))
    seconds["evaluate"] = time.perf_counter() - start
    return {"positives": len(data.train), "users": len(data.test), **seconds}


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of ``RESULTS.md``."""
    peak, copied = found["product_rate"], found["copy_rate"]
    yield (
        f"One run on {found['date']}: {found['machine']}, torch {found['versions']['torch']}, numba "
        f"{found['versions']['numba']}; medians of {found['rounds']} rounds in turns, the best round in brackets, all "
        f"with tables of the size of MovieLens-20M, K = {NUM_NEGATIVES}. Measured in the same run: matrix products "
        f"{quantity(peak)}FLOP/s, a copy in memory {quantity(copied)}B/s."
    )
    yield ""
    yield (
        "| model | fastncf: batch, samples/s | eager torch at its best batch | ratio | arithmetic, share of the "
        "products' rate | tables and ids, share of the copy's rate |"
    )
    yield "|---|---|---|---|---|---|"
    for case in found["cases"]:
        batch, torch_rates = max(case["torch"].items(), key=lambda side: statistics.median(side[1]))
        theirs, their_best = statistics.median(torch_rates), max(map(max, case["torch"].values()))
        for size, rates in case["kernels"].items():
            rate, best = statistics.median(rates), max(rates)
            ratio = statistics.median(a / b for a, b in zip(rates, torch_rates, strict=True))
            done, bytes_ = rate * case["flop"], rate * case["bytes"]
            yield (
                f"| {case['name']} | {int(size):,}: {quantity(rate)} ({quantity(best)}) | {int(batch):,}: "
                f"{quantity(theirs)} ({quantity(their_best)}) | **{ratio:.1f} x** ({best / their_best:.1f} x) | "
                f"{quantity(done)}FLOP/s, {done / peak:.0%} | {quantity(bytes_)}B/s, {bytes_ / copied:.0%} |"
            )
    yield ""
    yield from _whole_lines(found)


def _whole_lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines on epochs and processes of the notebook's recipe."""
    ours, theirs = (statistics.median(found["loops"][side]) for side in ("kernels", "loops"))
    yield (
        f"- Drawing and training an epoch of the notebook on MovieLens-100K: {quantity(ours)} samples/s, by the "
        f"notebook's loops {quantity(theirs)}: **{ours / theirs:,.0f} x**."
    )
    hits = [found["agreement"][side] for side in ("kernels", "torch")]
    means = [f"{statistics.mean(rates):.4f}"[1:] for rates in hits]
    errors = [f"{statistics.stdev(rates) / SEEDS**0.5:.4f}"[1:] for rates in hits]
    yield (
        f"- The same recipe for {EPOCHS} epochs, {SEEDS} seeds, both sides from the same parameters and samples: HR@10 "
        f"{means[0]} (standard error {errors[0]}) by the kernels, {means[1]} ({errors[1]}) by torch."
    )
    if "whole" in found:
        seconds, part = found["whole"]["seconds"], found["whole_by_loops"]
        epoch, evaluation = part["sample"] + part["train"], part["evaluate"]
        positives = INTERACTIONS - USERS
        total = EPOCHS * epoch * positives / part["positives"] + evaluation * USERS / part["users"]
        yield (
            "- The generated MovieLens-20M from the CSV to the metrics, the notebook's recipe on all users, "
            f"{EPOCHS} epochs of {quantity(positives * (1 + NUM_NEGATIVES))} samples: **{seconds:.0f} s** for the "
            f"whole process, peak memory {found['whole']['peak'] / 1e9:.2f} GB. The notebook's loops took "
            f"{epoch:.1f} s for an epoch on {part['positives']:,} interactions of {part['users']:,} users and "
            f"{evaluation:.1f} s for their lists, which gives {EPOCHS} x {epoch:.1f} s x {positives:,} / "
            f"{part['positives']:,} + {evaluation:.1f} s x {USERS:,} / {part['users']:,} = {total / 3600:.1f} hours, "
            f"{total / seconds:,.0f} times as long."
        )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("small", type=Path, help="u.data of MovieLens-100K")
    parser.add_argument("--ratings", type=Path, help="a file that `fastncf generate` writes")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    frame = synthetic_movielens(USERS, ITEMS, INTERACTIONS).select("userId", "movieId", "timestamp").collect()
    split = leave_one_out(read_interactions(frame))
    found: dict[str, Any] = {**machine(), "rounds": options.rounds, "product_rate": product_rate()}
    found["copy_rate"] = copy_rate()
    found["loops"] = loops(options.small, options.rounds)
    found["agreement"] = agreement(options.small)
    found["cases"] = [compare(case, split, options.rounds) for case in CASES]
    found["product_rate"] = max(found["product_rate"], product_rate())
    if options.ratings:
        found["whole_by_loops"] = whole_by_loops(options.ratings)
        found["whole"] = whole(options.ratings)
    print("\n".join(table(found)))
    if options.write:
        publish("mlp_cpu", found, table(found))


if __name__ == "__main__":
    main()
