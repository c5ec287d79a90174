"""Compare rows sharded over two processes here and by TorchRec: ``python -m benchmarks.sharded_rows``.

Needs TorchRec, which is no part of the package; ``RESULTS.md`` tells how to install it without CUDA. A table of
``--rows`` vectors is sharded over two processes (gloo, one thread each). In each step either process looks up ``--ids``
distinct rows, half of their square is the loss, and their owners take a step: TorchRec's row-wise shards by
``EmbeddingCollection`` with the Adagrad of its kernels for CPUs, which keep no Adam there, and the rows of
``fastncf.trainers.sharding`` with Adam, which has three numbers for each of Adagrad's two. The sides take turns;
seconds are medians over the steps. ``--write`` writes ``results/sharded_rows.json`` and the table of ``RESULTS.md``.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from benchmarks.report import load_average, machine, publish
from fastncf import distributed
from fastncf.kernels.cpu.lazy_adam import make_schedule
from fastncf.trainers.next_item import make_table
from fastncf.trainers.sharding import ShardedRows, fetch, read_own, send_back, step_own

STEPS = 12


def by_torchrec(num_rows: int, dim: int) -> Callable[[np.ndarray], float]:
    """Return a step of TorchRec on ids (n,), which returns the loss."""
    from torchrec import EmbeddingCollection, EmbeddingConfig, KeyedJaggedTensor
    from torchrec.distributed import DistributedModelParallel, ShardingEnv
    from torchrec.distributed.embedding import EmbeddingCollectionSharder
    from torchrec.distributed.sharding_plan import construct_module_sharding_plan, row_wise
    from torchrec.distributed.types import ShardingPlan
    from torchrec.optim import RowWiseAdagrad
    from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

    config = EmbeddingConfig(name="table", embedding_dim=dim, num_embeddings=num_rows, feature_names=["id"])
    tables = EmbeddingCollection(tables=[config], device=torch.device("meta"))
    apply_optimizer_in_backward(RowWiseAdagrad, tables.parameters(), {"lr": 0.01})
    sharder, group = EmbeddingCollectionSharder(), dist.group.WORLD
    plan = construct_module_sharding_plan(
        tables, {"table": row_wise()}, sharder=sharder, local_size=2, world_size=2, device_type="cpu"
    )
    model = DistributedModelParallel(
        tables,
        env=ShardingEnv.from_process_group(group),
        device=torch.device("cpu"),
        plan=ShardingPlan({"": plan}),
        sharders=[sharder],
    )

    def step(ids: np.ndarray) -> float:
        values = torch.from_numpy(ids.astype(np.int64))
        features = KeyedJaggedTensor.from_lengths_sync(["id"], values, torch.ones(len(ids), dtype=torch.int64))
        loss = model(features)["id"].values().square().sum() / 2
        loss.backward()
        return float(loss.detach())

    return step


def by_sharded_rows(ranks: distributed.Ranks, num_rows: int, dim: int) -> Callable[[np.ndarray], float]:
    """Return a step of this package on ids (n,), which returns the loss."""
    table, schedule = make_table(len(range(ranks.rank, num_rows, ranks.size)), dim), make_schedule(0.001, 0.0)
    table.rows.reshape(-1, table.stride)[:, :dim] = np.random.default_rng(0).normal(size=(1, dim))
    number = 0

    def step(ids: np.ndarray) -> float:
        nonlocal number
        number += 1
        distinct = np.unique(ids)
        used = ShardedRows.of_ids(ranks, torch.from_numpy(distinct))
        rows = used.own.numpy()
        own = read_own(rows, number, table, schedule)
        batch = torch.empty(len(distinct), dim)
        fetch(ranks, [(used, torch.from_numpy(own), batch)])
        gradients = batch.requires_grad_()
        loss = gradients.square().sum() / 2
        loss.backward()
        assert gradients.grad is not None
        sums = np.zeros_like(own)
        send_back(ranks, [(used, torch.from_numpy(sums), gradients.grad)])
        step_own(rows, number, table, schedule, own, sums)
        return float(loss.detach())

    return step


def work(options: argparse.Namespace) -> None:
    """Be one of the processes, and print the seconds of each side as JSON on the first."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    with distributed.together() as ranks:
        assert ranks is not None
        steps = {
            "this package": by_sharded_rows(ranks, options.rows, options.dim),
            "TorchRec": by_torchrec(options.rows, options.dim),
        }
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        random, num_bytes = np.random.default_rng(ranks.rank), 0
        same = random.choice(options.rows, size=options.ids, replace=False).astype(np.int32)
        for name, step in steps.items():
            first, second = step(same), step(same)
            assert 0 < first != second > 0, f"{name}: {first} and then {second}"  # the rows that were written are read
        for _ in range(STEPS):
            ids = random.choice(options.rows, size=options.ids, replace=False).astype(np.int32)
            for name, step in steps.items():
                before = ranks.num_bytes
                ranks.wait()
                begin = time.perf_counter()
                step(ids)
                seconds[name].append(time.perf_counter() - begin)
                num_bytes = max(num_bytes, ranks.num_bytes - before)
        if ranks.rank == 0:
            found = {name: median(times[2:]) for name, times in seconds.items()}
            print(json.dumps({"seconds": found, "bytes": num_bytes, "ratio": ratio(seconds)}))
    dist.destroy_process_group()


def ratio(seconds: dict[str, list[float]]) -> float:
    """Return the median over the steps of TorchRec's seconds over this package's, without the first two steps."""
    own, other = seconds["this package"][2:], seconds["TorchRec"][2:]
    return median(b / a for a, b in zip(own, other, strict=True))


def table(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of ``RESULTS.md``."""
    yield (
        f"One run on {found['date']}: {found['machine']}, load {found['load']:.0f} from all that ran; a table of "
        f"{found['rows']:,} x {found['dim']} over two processes, {found['ids']:,} distinct ids of each in a step."
    )
    yield ""
    yield "| side | seconds per step |"
    yield "|---|---|"
    for name, seconds in found["seconds"].items():
        yield f"| {name} | {seconds:.3f} |"
    yield ""
    yield (
        f"TorchRec's time over this package's, median over the steps: {found['ratio']:.2f}. This package sends "
        f"{found['bytes'] / 1e6:.1f} MB from each process, of which the ids are {4e-6 * found['ids'] / 2:.2f} MB."
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--ids", type=int, default=20_000)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if "RANK" in os.environ:
        work(options)
        return
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    shared = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
    shared |= {"LOCAL_WORLD_SIZE": "2", "FASTNCF_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.sharded_rows", *sys.argv[1:]]
    processes = [
        subprocess.Popen(
            command, env=shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    output, _ = (process.communicate()[0] for process in processes)
    if any(process.returncode for process in processes):
        sys.exit("A process has failed; its message is above.")
    sizes = {"rows": options.rows, "dim": options.dim, "ids": options.ids}
    found = {**machine(), **sizes, **json.loads(output.splitlines()[-1]), "load": load_average()}
    print("\n".join(table(found)))
    if options.write:
        publish("sharded_rows", found, table(found))


if __name__ == "__main__":
    main()
