"""Everything that only a CUDA device can show: same results as on the CPU, no waiting inside an epoch, memory, times.

    python benchmarks/gpu.py

Needs the package and a CUDA device, no network; ends in under 8 minutes with one table and one line of JSON, which also
go to benchmarks/results/. Without a device it says so and ends with exit code 0.
"""

import argparse
import datetime
import json
import platform
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import polars as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

import fastncf
from fastncf.config import Config
from fastncf.datasets import twin
from fastncf.epoch import Epochs
from fastncf.evaluate import Lists, rank_candidates, rank_catalogue
from fastncf.interactions import read_interactions
from fastncf.models import build
from fastncf.permutation import permutation
from fastncf.sampler import sample_candidates
from fastncf.split import Split, leave_one_out
from fastncf.train import learning_rate, train_epoch

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
RESULTS = Path(__file__).parent / "results"
NOTEBOOK = Config.notebook(batch_size=65_536, learning_rate=0.005, shuffle=True, user_fraction=1.0)
NVIDIA = Config(
    model="neumf",
    dim=64,
    layers=(256, 256, 128, 64),
    num_negatives=4,
    batch_size=1_048_576,
    learning_rate=0.0045,
    schedule="constant",
    l2=0.0,
).with_recipe("adam", "none")

Rows = list[tuple[str, str]]


def timed(work: Callable[[], object], repeats: int = 3) -> float:
    """Median seconds of some work, the device's own included, after one run to warm up."""
    work()
    seconds = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return float(np.median(seconds))


def ceilings() -> dict[str, float]:
    """What the device can do at best: bytes/s of a copy, FLOP/s of a bf16 matrix product."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device=CUDA)
    target = torch.empty_like(source)
    a = torch.randn(8192, 8192, device=CUDA, dtype=torch.bfloat16)
    return {
        "copy_bytes_per_second": 2 * len(source) / timed(lambda: target.copy_(source)),
        "bf16_flop_per_second": 2 * 8192**3 / timed(lambda: a @ a),
    }


@contextmanager
def no_waiting() -> Iterator[None]:
    """An error for whatever makes the host wait for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def run_epoch(split: Split, config: Config, model: torch.nn.Module, *, strict: bool) -> float:
    """Seconds of one epoch after another that warms up; with ``strict`` any wait inside it is an error."""
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate(config, 0.0), fused=True)
    epochs = Epochs(
        split,
        num_negatives=config.num_negatives,
        batch_size=config.batch_size,
        seed=0,
        device=CUDA,
        shuffle=config.shuffle,
        last=2,
    )
    seconds = 0.0
    with epochs:
        for number in range(2):
            torch.cuda.synchronize()
            start = time.perf_counter()
            batches = epochs.epoch(number)
            first = next(batches)  # the order is drawn with the first batch, between two epochs
            if strict and number:
                with no_waiting():
                    total = train_epoch(model, optimizer, chain([first], batches), config, 0.0, epochs.batches)
            else:
                total = train_epoch(model, optimizer, chain([first], batches), config, 0.0, epochs.batches)
            assert np.isfinite(float(total)), "the loss is not finite"
            seconds = time.perf_counter() - start
    return seconds


def make_model(split: Split, config: Config) -> torch.nn.Module:
    counts = torch.from_numpy(split.item_counts())
    return build(config, split.num_users, split.num_items, counts).to(CUDA)


def fit_on(device: str, frame: pl.DataFrame, **settings: Any) -> fastncf.Recommender:
    """A fit on a device."""
    return fastncf.fit(frame, device=device, **settings)


def check_results(frame: pl.DataFrame, report: dict[str, Any], rows: Rows) -> None:
    """CPU and CUDA agree: the same draws, close losses and metrics, for each model."""
    assert torch.equal(permutation(1_000_000, 5, CUDA).cpu(), permutation(1_000_000, 5, CPU)), "orders differ"
    for name in ("mf", "gmf", "mlp", "neumf"):
        settings: dict[str, Any] = {"model": name, "optimizer": "adam", "epochs": 3, "full_ranking": True}
        ours, theirs = (fit_on(device, frame, **settings) for device in ("cuda", "cpu"))
        losses = [abs(a["loss"] / b["loss"] - 1) for a, b in zip(ours.history, theirs.history, strict=True)]
        gap = max(abs(ours.metrics[key] - theirs.metrics[key]) for key in ours.metrics)
        assert max(losses) < 2e-3, f"{name}: losses differ by {max(losses):.1e}"
        assert gap < 0.02, f"{name}: metrics differ by {gap:.4f}"
        assert ours.recommend(1).height == 10
        report[f"{name}_loss_gap"], report[f"{name}_metric_gap"] = max(losses), gap
        rows.append((f"{name}: CUDA against CPU", f"loss within {max(losses):.1e}, metrics within {gap:.4f}"))


def time_training(split: Split, report: dict[str, Any], rows: Rows) -> None:
    """Epochs on the twin, the waits inside them made errors, and the memory they take."""
    for label, config in (("notebook mlp, batch 65,536", NOTEBOOK), ("NVIDIA neumf, batch 1,048,576", NVIDIA)):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        seconds = run_epoch(split, config, make_model(split, config), strict=True)
        samples = len(split.indices) * (1 + config.num_negatives)
        peak = torch.cuda.max_memory_allocated()
        key = config.model
        report |= {f"{key}_epoch_seconds": seconds, f"{key}_samples_per_second": samples / seconds}
        report[f"{key}_peak_bytes"] = peak
        rows.append((f"{label}: one epoch", f"{seconds:.2f} s, {samples / seconds / 1e6:.1f} M samples/s"))
        rows.append((f"{label}: peak memory", f"{peak / 1e9:.2f} GB"))


def time_loader(split: Split, report: dict[str, Any], rows: Rows) -> None:
    """A DataLoader that feeds the same model, on a part of an epoch."""
    model = make_model(split, NOTEBOOK)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate(NOTEBOOK, 0.0), fused=True)
    count = 100_000
    rows_of = torch.arange(count)
    data = TensorDataset(rows_of % split.num_users, rows_of % split.num_items, (rows_of % 5 == 0).float())

    def loop() -> None:
        for users, items, labels in DataLoader(data, batch_size=512):
            logits = model(users.to(CUDA), items.to(CUDA))
            loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels.to(CUDA))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    rate = count / timed(loop, repeats=1)
    report["loader_samples_per_second"] = rate
    rows.append(("notebook mlp behind a DataLoader, batch 512", f"{rate / 1e6:.2f} M samples/s"))


def time_evaluation(split: Split, report: dict[str, Any], rows: Rows) -> None:
    """Candidate lists of all users, 1+99 and 1+999, and the full ranking of a tenth of them."""
    users = np.flatnonzero(split.test_item >= 0).astype(np.int32)
    positives = split.test_item[users]
    indptr, indices = split.seen()
    for count in (99, 999):
        negatives = sample_candidates(indptr, indices, split.num_items, users, count, seed_key=1)
        lists = Lists.of(users, positives, negatives, CUDA)
        for name, config in (("mlp", NOTEBOOK), ("mf", Config())):
            model = make_model(split, config)
            ranks = rank_candidates(model, lists)
            part = Lists(lists.users[:500], lists.positives[:500], lists.negatives[:500])
            on_cpu = Lists(part.users.to(CPU), part.positives.to(CPU), part.negatives.to(CPU))
            same = rank_candidates(model.to(CPU), on_cpu)
            assert ((ranks[:500].cpu() - same).abs() <= 1).float().mean() > 0.99, "ranks differ from the CPU's"
            model.to(CUDA)
            seconds = timed(lambda model=model, lists=lists: rank_candidates(model, lists))  # type: ignore[misc]
            report[f"{name}_evaluate_{count}_seconds"] = seconds
            rows.append((f"{name}: {len(users):,} lists of 1+{count}", f"{seconds * 1e3:.1f} ms"))
    model, some = make_model(split, Config()), len(users) // 10
    args = (torch.from_numpy(users[:some]).to(CUDA), torch.from_numpy(positives[:some]).to(CUDA))
    seconds = timed(lambda: rank_catalogue(model, *args, split.indptr, split.indices, split.num_items), repeats=1)
    report["mf_full_ranking_users_per_second"] = some / seconds
    rows.append(("mf: full ranking", f"{some / seconds:,.0f} users/s"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=138_493, help="size of the twin")
    parser.add_argument("--items", type=int, default=26_744)
    parser.add_argument("--interactions", type=int, default=20_000_263)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks/gpu.py: no CUDA device here, so nothing was checked or measured")
        return
    rows: Rows = []
    report: dict[str, Any] = {
        "benchmark": "gpu",
        "device": torch.cuda.get_device_name(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "polars": pl.__version__,
        "fastncf": fastncf.__version__,
    }
    report |= ceilings()
    rows.append(("copy", f"{report['copy_bytes_per_second'] / 1e12:.2f} TB/s"))
    rows.append(("bf16 matrix product", f"{report['bf16_flop_per_second'] / 1e12:.0f} TFLOP/s"))
    check_results(twin(options.users // 60, options.items // 20, options.interactions // 200).collect(), report, rows)
    start = time.perf_counter()
    frame = twin(options.users, options.items, options.interactions).collect()
    report["generate_seconds"] = time.perf_counter() - start
    start = time.perf_counter()
    split = leave_one_out(read_interactions(frame))
    report["split_seconds"] = time.perf_counter() - start
    rows.append(("split of the twin", f"{report['split_seconds']:.2f} s"))
    time_training(split, report, rows)
    time_loader(split, report, rows)
    time_evaluation(split, report, rows)
    width = max(len(name) for name, _ in rows)
    table = "\n".join(f"{name:<{width}}  {value}" for name, value in rows)
    header = f"{report['device']}, torch {report['torch']}, CUDA {report['cuda']}, Python {report['python']}"
    print(header, table, sep="\n")
    print(json.dumps(report))
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"gpu-{report['date']}"
    stem.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    stem.with_suffix(".txt").write_text(f"{header}\n{table}\n")


if __name__ == "__main__":
    main()
