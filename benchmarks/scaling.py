"""Measure a fit by 1, 2 and 4 processes: ``python -m benchmarks.scaling``.

The data resemble MovieLens in a shape of ``--users``, ``--items`` and ``--interactions``, and are generated. Each
process has one thread. *Strong* scaling trains the same data by more processes; *weak* scaling trains as many times
the users and interactions as there are processes. On a machine with fewer cores than processes, these share the cores.
Seconds are those of the last epoch, before which everything is compiled. The bytes of a step are those that a process
sends; the least are those of the vectors that others need, of the gradients of their vectors, and of gradients of
layers, each number once. The sides take turns, and ``--rounds`` repeats them. ``--write`` writes
``results/scaling.json`` and the table of ``RESULTS.md``; it takes less than 4 minutes on two cores that have nothing
else to do.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import numpy as np

import fastncf
from benchmarks.report import load_average, machine, publish
from fastncf import distributed
from fastncf.data.synthetic import write_synthetic_movielens
from fastncf.launcher import Launched
from fastncf.threads import VARIABLE
from fastncf.trainers import parallel_cpu_mlp, parallel_next_item

SIZES = 1, 2, 4
SETTINGS: dict[str, dict[str, Any]] = {
    "`mf` by softmax": {"loss": "softmax", "history": "sequence", "epochs": 2},
    "`mlp`": {"model": "mlp", "optimizer": "adam", "batch_size": 262_144, "epochs": 2},
}


def train(path: str, name: str) -> None:
    """Fit as one rank, and print seconds, metrics and bytes as JSON on the first; what a launcher starts."""
    epoch_bytes: list[int] = []

    def note(_: fastncf.Progress) -> None:
        ranks = distributed.current()
        epoch_bytes.append(0 if ranks is None else ranks.num_bytes)

    least_bytes = count_least_bytes()
    with Launched() as process:
        fitted = fastncf.fit(path, callback=note, progress=False, device="cpu", **SETTINGS[name])
    stage = fitted.plan.final
    per_step = stage.batch_size if stage.loss == "softmax" else stage.batch_size // (1 + stage.num_negatives)
    steps = stage.epochs * -(-fitted.plan.data.num_interactions // per_step)
    if process.rank == 0:
        found = {
            "seconds": fitted.training_log[-1]["seconds"],
            "ndcg": fitted.metrics["ndcg@10"],
            "trainer": stage.trainer,
        }
        print(json.dumps(found | {"bytes_per_step": epoch_bytes[-1] / steps, "least": sum(least_bytes) / steps}))


def count_least_bytes() -> list[int]:
    """Return a list to which each batch appends the least bytes that this process has to give to the others.

    Each vector that another process uses, each gradient of a vector of another process, and those of what all have.
    """
    least: list[int] = []

    def counting(module: ModuleType, name: str, count_others: Callable[[Any], int]) -> None:
        """Count what a trainer of a module sends in each batch."""
        fetch, trainer = module.fetch, getattr(module, name)
        begin = trainer.__init__
        others: list[int] = []

        def counted(ranks: Any, tables: Any) -> None:
            numbers = others[-1]
            for used, _, memory in tables:
                rows = sum(len(used.lent[r]) + len(used.places[r]) for r in range(ranks.size) if r != ranks.rank)
                numbers += rows * int(np.prod(memory.shape[1:]))
            least.append(4 * numbers)
            fetch(ranks, tables)

        def begun(self: Any, *arguments: Any) -> None:
            begin(self, *arguments)
            others.append(count_others(self))

        module.fetch, trainer.__init__ = counted, begun  # type: ignore[attr-defined]

    counting(parallel_next_item, "ParallelNextItem", lambda trainer: 2 * len(trainer.is_mean) * trainer.stage.dim)
    counting(
        parallel_cpu_mlp,
        "ParallelCPUMLP",
        lambda trainer: sum(p.numel() for name, p in trainer.model.named_parameters() if "embedding" not in name),
    )
    return least


def launch(path: Path, name: str, size: int) -> dict[str, Any]:
    """Return what the first of a number of processes prints."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    words = [*launcher, "-m", "benchmarks.scaling", "--worker", str(path), name]
    environment = os.environ | {VARIABLE: "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the figures of each model: medians over the rounds."""
    shape = options.users, options.items, options.interactions
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = {size: Path(folder, f"{size}.csv") for size in SIZES}
        for size, path in paths.items():
            write_synthetic_movielens(path, size * shape[0], shape[1], size * shape[2], seed=0)
        for name in SETTINGS:
            strong: dict[int, list[dict[str, Any]]] = {size: [] for size in SIZES}
            weak: dict[int, list[dict[str, Any]]] = {size: [] for size in SIZES}
            for _ in range(options.rounds):
                for size in SIZES:
                    strong[size].append(launch(paths[1], name, size))
                    weak[size].append(launch(paths[size], name, size) if size > 1 else strong[1][-1])
            for size in SIZES:
                assert abs(strong[size][0]["ndcg"] - strong[1][0]["ndcg"]) < 1e-3
                row = {
                    "model": f"{name}, trainer {strong[size][0]['trainer']}",
                    "processes": size,
                    "strong": median(a["seconds"] / b["seconds"] for a, b in zip(strong[1], strong[size], strict=True)),
                    "weak": median(a["seconds"] / b["seconds"] for a, b in zip(weak[1], weak[size], strict=True)),
                    "seconds": median(found["seconds"] for found in strong[size]),
                    "bytes_per_step": strong[size][0]["bytes_per_step"],
                    "least": strong[size][0]["least"],
                    "ndcg@10": strong[size][0]["ndcg"],
                }
                rows.append(row)
                print(row, flush=True)
    return rows


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of ``RESULTS.md``."""
    yield (
        f"One run on {found['date']}: {found['machine']}, load {found['load']:.0f} from all that ran; "
        f"{found['interactions']:,} interactions, one thread for each process, rounds: {found['rounds']}."
    )
    yield ""
    yield "| model | processes | seconds per epoch | strong: speed | weak: speed | kB per step | least kB | NDCG@10 |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in found["scaling"]:
        figures = f"{row['seconds']:.1f} | {row['strong']:.2f} | {row['weak']:.2f}"
        yield (
            f"| {row['model']} | {row['processes']} | {figures} | {row['bytes_per_step'] / 1e3:,.0f} "
            f"| {row['least'] / 1e3:,.0f} | {row['ndcg@10']:.4f} |"
        )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=2_000)
    parser.add_argument("--items", type=int, default=3_706)
    parser.add_argument("--interactions", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--worker", nargs=2, metavar=("RATINGS", "MODEL"), help="be one of the processes")
    options = parser.parse_args()
    if options.worker:
        train(*options.worker)
        return
    found = {**machine(), "rounds": options.rounds, "interactions": options.interactions, "scaling": measure(options)}
    found["load"] = load_average()
    print("\n".join(table(found)))
    if options.write:
        publish("scaling", found, table(found))


if __name__ == "__main__":
    main()
