"""Check and time on a CUDA device: results as on the CPU, no waiting inside an epoch, memory, speed.

    python benchmarks/gpu.py [--nvidia PATH]

Needs the package and a CUDA device, and no network. It ends within 8 minutes with a table and one line of JSON, which
are also written to ``benchmarks/results/``. PATH is a checkout of NVIDIA's PyTorch/Recommendation/NCF, whose model is
then trained in the same run. Without a device the script says so and ends with exit code 0.

    python benchmarks/gpu.py --write benchmarks/results/gpu-DATE.json

measures nothing, and writes the table of ``RESULTS.md`` from the JSON of a run.
"""

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import platform
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import polars as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import fastncf
from benchmarks.stages import stage_of
from fastncf import models
from fastncf.config import Config
from fastncf.data.interactions import read_interactions
from fastncf.data.split import Split, leave_one_out, time_order
from fastncf.data.synthetic import synthetic_movielens
from fastncf.device import deterministic
from fastncf.evaluation.candidates import CandidateLists
from fastncf.evaluation.ranking import on_device, rank_candidates, rank_catalogue
from fastncf.kernels.cpu.alias import AliasTable
from fastncf.models.mf import MF
from fastncf.sampling import loader as epoch_module
from fastncf.sampling.distributions import alias_table
from fastncf.sampling.loader import EpochLoader, SamplingSpec
from fastncf.sampling.negatives import sample_candidates, sample_negatives
from fastncf.sampling.permutation import permutation
from fastncf.stage import Stage
from fastncf.trainers.autograd import AutogradTrainer
from fastncf.trainers.cuda_mlp import CUDAMLPTrainer
from fastncf.trainers.cuda_next_item import CUDANextItem
from fastncf.trainers.cuda_other_items import CUDAOtherItems
from fastncf.trainers.loop import STAGES
from fastncf.trainers.next_item import NextItem
from fastncf.trainers.other_items import OtherItems
from fastncf.trainers.sgd import init_factors

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
RESULTS = Path(__file__).parent / "results"
NOTEBOOK = Config.notebook(batch_size=65_536, learning_rate=0.005, shuffle=True, user_fraction=1.0)
NVIDIA = Config(
    model="neumf",
    optimizer="adam",
    history="none",
    dim=64,
    mlp_dim=128,
    layers=(256, 128, 64),
    dropout=0.5,
    num_negatives=4,
    batch_size=1_048_576,
    learning_rate=0.0045,
    schedule="constant",
    l2=0.0,
)
MF_BY_ADAM = Config(optimizer="adam", dim=64)


class Softmax(NamedTuple):
    """A kind of an mf by softmax.

    Attributes:
        label: in the table.
        name: in names of values.
        config: what is asked for.
        on_cuda, on_cpu: its trainers.
    """

    label: str
    name: str
    config: Config
    on_cuda: type[CUDANextItem]
    on_cpu: type[NextItem]


STATES = Softmax("default mf", "states", Config(loss="softmax", history="sequence"), CUDANextItem, NextItem)
SETS = Softmax("mf without an order", "sets", Config(loss="softmax", history="bag"), CUDAOtherItems, OtherItems)
DEFAULT = Config()
LARGE = 8192
"""Rows and columns of large products."""


@dataclass
class Report:
    """Results that are printed as a table and saved as JSON.

    Attributes:
        values: numbers by name.
        rows: label and text of each line of the table.
    """

    values: dict[str, Any] = field(default_factory=dict)
    rows: list[tuple[str, str]] = field(default_factory=list)

    def add(self, label: str, text: str, **values: Any) -> None:
        """Print a line, and keep it with its values."""
        print(f"{label}: {text}", flush=True)
        self.rows.append((label, text))
        self.values |= values

    def table(self) -> str:
        """Return all lines in two columns."""
        width = max(len(label) for label, _ in self.rows)
        return "\n".join(f"{label:<{width}}  {text}" for label, text in self.rows)


def timed(work: Callable[[], object], repeats: int = 3) -> float:
    """Return the median seconds of some work, including the work of the device, after one run to warm up."""
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
    """Measure the most that the device can do: bytes/s of a copy, FLOP/s of a bf16 matrix product."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device=CUDA)
    target = torch.empty_like(source)
    a = torch.randn(8192, 8192, device=CUDA, dtype=torch.bfloat16)
    return {
        "copy_bytes_per_second": 2 * len(source) / timed(lambda: target.copy_(source)),
        "bf16_flop_per_second": 2 * 8192**3 / timed(lambda: a @ a),
    }


@contextmanager
def no_waiting() -> Iterator[None]:
    """Raise an error where the host waits for the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def on_cuda(config: Config, split: Split) -> Stage:
    """Return the settings by which ``config`` is trained on the device."""
    return stage_of(replace(config, device=str(CUDA)), split)


def make_model(split: Split, stage: Stage) -> nn.Module:
    """Return an untrained model on the device."""
    return models.build(stage, split.num_users, split.num_items, split.item_counts()).to(CUDA)


def first_interactions(split: Split, count: int) -> Split:
    """Return the data of the first users, who have about ``count`` interactions."""
    users = int(np.searchsorted(split.indptr, min(count, split.indptr[-1])))
    indptr = split.indptr[: users + 1]
    return replace(
        split,
        indptr=indptr,
        indices=split.indices[: indptr[-1]],
        test_item=split.test_item[:users],
        validation_item=split.validation_item[:users],
    )


def check_draws(split: Split, report: Report) -> None:
    """Check that the device draws the same orders and negatives as the CPU, and time both."""
    for size in (1, 1000, 1_000_003):
        assert torch.equal(permutation(size, 5, CUDA).cpu(), permutation(size, 5, CPU)), f"orders of {size} differ"
    ordered = timed(lambda: permutation(len(split.indices), 5, CUDA))
    report.add("order of an epoch, drawn on the device", f"{ordered * 1e3:.1f} ms", device_order_seconds=ordered)
    out = np.empty((len(split.indices), 4), dtype=np.int32)
    for prefix, label, distribution in (
        ("", "negatives", "uniform"),
        ("weighted_", "negatives by popularity", "popularity"),
    ):
        table = alias_table(distribution, split.item_counts(), 0.75)
        draw = partial(
            sample_negatives,
            *(split.indptr, split.indices, split.num_items, 4),
            seed=3,
            epoch=1,
            out=out,
            alias_table=table,
        )
        cpu = timed(draw)
        with loader_of(split, num_epochs=2, table=table) as loader:
            loader.load(1)
            assert torch.equal(loader.negatives.cpu(), torch.from_numpy(out)), f"{label} differ"
            drawn = timed(lambda: loader.load(1))
        report.add(
            f"order and {label} of an epoch, drawn on the device",
            f"{drawn * 1e3:.1f} ms ({out.size / drawn / 1e9:.2f} G negatives/s)",
            **{f"device_{prefix}draws_seconds": drawn},
        )
        report.add(
            f"{label} of an epoch, drawn by the CPU", f"{cpu * 1e3:.1f} ms", **{f"cpu_{prefix}draws_seconds": cpu}
        )


def loader_of(split: Split, num_epochs: int, table: AliasTable | None = None) -> EpochLoader:
    """Return a loader of shuffled epochs on the device."""
    spec = SamplingSpec(split, 4, seed=3, device=CUDA, shuffle=True, num_epochs=num_epochs, alias_table=table)
    return EpochLoader(spec, batch_size=65_536)


def show_timeline(split: Split, report: Report) -> None:
    """Show when the CPU draws and sends the next epoch while this one trains, without draws on the device."""
    spans: list[tuple[str, float, float]] = []
    origin = time.perf_counter()
    draw = epoch_module.PrefetchSampler.draw

    def noted(source: Any, number: int) -> tuple[Tensor, Tensor]:
        start = time.perf_counter()
        drawn = draw(source, number)
        assert source.stream is not None
        source.stream.synchronize()
        spans.append((f"draw and send {number}", start - origin, time.perf_counter() - origin))
        return drawn

    stage = on_cuda(replace(NOTEBOOK, epochs=3), split)
    with (
        patch.object(epoch_module, "triton_works", lambda device: False),
        patch.object(epoch_module.PrefetchSampler, "draw", noted),
        AutogradTrainer(make_model(split, stage), split, stage) as trainer,
    ):
        for number in range(3):
            start = time.perf_counter()
            assert np.isfinite(float(trainer.epoch(number)))
            spans.append((f"train {number}", start - origin, time.perf_counter() - origin))
    text = "; ".join(f"{name} {start:.2f}-{stop:.2f} s" for name, start, stop in sorted(spans, key=lambda s: s[1]))
    report.add("timeline, drawn by the CPU", text, timeline=spans)


def check_models(frame: pl.DataFrame, report: Report) -> None:
    """Check that CPU and CUDA agree for each model and precision, and that the deterministic mode repeats bits."""
    for name in ("mf", "gmf", "mlp", "neumf"):
        settings: dict[str, Any] = {"model": name, "optimizer": "adam", "epochs": 3, "full_ranking": True}
        theirs = fit_on("cpu", frame, precision="float32", **settings)
        for precision, tolerance in (("float32", 2e-3), ("bfloat16", 2e-2)):
            ours = fit_on("cuda", frame, precision=precision, **settings)
            losses = [
                abs(a["loss"] / b["loss"] - 1) for a, b in zip(ours.training_log, theirs.training_log, strict=True)
            ]
            gap = max(abs(ours.metrics[key] - theirs.metrics[key]) for key in ours.metrics)
            assert max(losses) < tolerance, f"{name}: losses differ by {max(losses):.1e}"
            assert gap < 0.02, f"{name}: metrics differ by {gap:.4f}"
            assert ours.recommend(1).height == 10
            report.add(
                f"{name} in {precision}: CUDA against the CPU in float32",
                f"loss within {max(losses):.1e}, metrics within {gap:.4f}",
                **{f"{name}_{precision}_loss_gap": max(losses), f"{name}_{precision}_metric_gap": gap},
            )
        first, again = (fit_on("cuda", frame, deterministic=True, **settings).model.state_dict() for _ in range(2))
        assert all(torch.equal(first[key], again[key]) for key in first), f"{name}: two deterministic runs differ"
    report.add("deterministic mode", "the same bits twice, for each model")
    for name in ("mlp", "neumf"):
        ours, theirs = (fit_on(device, frame, model=name, full_ranking=True) for device in ("cuda", "cpu"))
        gap = max(abs(ours.metrics[key] - theirs.metrics[key]) for key in ours.metrics)
        assert gap < 0.02, f"{name} by its defaults: metrics differ by {gap:.4f}"
        report.add(
            f"{name} by its defaults: CUDA against the CPU",
            f"metrics within {gap:.4f}, trained in {ours.seconds['train']:.2f} and {theirs.seconds['train']:.2f} s",
            **{f"{name}_default_metric_gap": gap},
        )


def fit_on(device: str, frame: pl.DataFrame, **settings: Any) -> fastncf.Recommender:
    """Return a fit on a device."""
    return fastncf.fit(frame, device=device, **settings)


class Waits(nn.Module):
    """A module whose step cannot be captured as a graph, since it reads a value back."""

    def __init__(self, users: int, items: int) -> None:
        super().__init__()
        self.user, self.item, self.drop = nn.Embedding(users, 8), nn.Embedding(items, 8), nn.Dropout(0.1)

    def forward(self, user_ids: Tensor, item_ids: Tensor) -> Tensor:
        """Return the scores of pairs."""
        product = self.drop(self.user(user_ids) * self.item(item_ids))
        return product.sum(-1) * (2 if float(product.detach().sum()) > 0 else 1)


def check_fused(split: Split, report: Report) -> None:
    """Check that the fused step trains as torch's autograd does, and time it."""
    part = first_interactions(split, 2_000_000)
    losses = {}
    trainers: list[tuple[type[AutogradTrainer] | type[CUDAMLPTrainer], Config]]
    trainers = [(AutogradTrainer, replace(NOTEBOOK, precision="float32")), (CUDAMLPTrainer, NOTEBOOK)]
    for trainer_class, config in trainers:
        stage = on_cuda(config, part)
        own: Any = make_model(part, stage)
        with trainer_class(own, part, stage) as trainer:
            losses[trainer_class] = [float(trainer.epoch(number)) / len(part.indices) for number in range(5)]
    gap = max(abs(a / b - 1) for a, b in zip(*losses.values(), strict=True))
    assert gap < 2e-3, f"losses differ by {gap:.1e}: {losses}"
    report.add("mlp fused against autograd, five epochs", f"loss within {gap:.1e}", fused_loss_gap=gap)
    for label, name, config in (
        ("notebook's mlp", "mlp_fused", NOTEBOOK),
        ("the same with vectors of 64", "mlp_64_fused", replace(NOTEBOOK, dim=64)),
    ):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        stage = on_cuda(config, split)
        model: Any = make_model(split, stage)
        with CUDAMLPTrainer(model, split, stage) as trainer:
            for number in range(3):
                torch.cuda.synchronize()
                start = time.perf_counter()
                total = trainer.epoch(number)
                torch.cuda.synchronize()
                seconds = time.perf_counter() - start
                assert np.isfinite(float(total))
        rate = 5 * len(split.indices) / seconds
        size = sum(parameter.numel() for parameter in model.parameters())
        dim = model.user_embedding.embedding_dim
        moved = rate * (32 * size / stage.batch_size + 3 * 4 * 2 * dim)  # Adam's pass; rows and their gradients
        peak = torch.cuda.max_memory_allocated() - before
        report.add(
            f"{label}, batch 65,536, fused",
            f"{rate / 1e6:.1f} M samples/s, {rate * flops(model) / 1e12:.1f} TFLOP/s, at least {moved / 1e12:.2f} TB/s "
            f"of parameters and rows, peak {peak / 1e9:.2f} GB",
            **{f"{name}_samples_per_second": rate, f"{name}_peak_bytes": peak},
        )
        del model, trainer


def check_states(kind: Softmax, split: Split, order: np.ndarray, report: Report) -> None:
    """Check that an mf is trained by softmax as on the CPU, and that two runs have the same bits.

    In the last of the epochs, states of sets are fixed.
    """
    part, epochs = first_interactions(split, 200_000), 4
    own, config = order[: len(part.indices)], replace(kind.config, epochs=epochs)
    on_cpu = stage_of(replace(config, device="cpu"), part, has_order=True)
    with kind.on_cpu(init_factors(on_cpu, part.num_users, part.num_items), part, on_cpu, own) as trainer:
        expected = [trainer.epoch(number) for number in range(epochs)]
    stage = states_on_cuda(config, part)
    precisions: tuple[tuple[Literal["float32", "bfloat16"], float], ...] = (("float32", 1e-3), ("bfloat16", 1e-2))
    for precision, tolerance in precisions:
        losses, states = [], []
        for _ in range(2):
            with kind.on_cuda(make_mf(part, stage), part, replace(stage, precision=precision), own) as ours:
                losses.append([float(ours.epoch(number)) for number in range(epochs)])
                states.append({name: torch.as_tensor(value).clone() for name, value in ours.state_dict().items()})
        gap = max(abs(a / b - 1) for a, b in zip(losses[0], expected, strict=True))
        assert gap < tolerance, f"losses differ by {gap:.1e}: {losses[0]}, {expected}"
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0]), "two runs differ"
        report.add(
            f"{kind.label} in {precision}: CUDA against the CPU, {epochs} epochs",
            f"loss within {gap:.1e}, the same bits twice",
            **{f"{kind.name}_{precision}_loss_gap": gap},
        )


def make_mf(split: Split, stage: Stage) -> MF:
    """Return an untrained mf on the device."""
    return MF(split.num_users, split.num_items, stage.dim).to(CUDA)


def states_on_cuda(config: Config, split: Split) -> Stage:
    """Return the settings by which an mf of states is trained on the device."""
    return stage_of(replace(config, device=str(CUDA)), split, has_order=True)


def product_seconds(positions: int, negatives: int, width: int) -> float:
    """Return the seconds of the three products that a batch cannot do without, by torch in TF32."""
    states, vectors = (torch.randn(rows, width, device=CUDA) for rows in (positions, negatives))
    scores = torch.empty(positions, negatives, device=CUDA)

    def multiply() -> None:
        for _ in range(100):
            torch.mm(states, vectors.T, out=scores)
            torch.mm(scores, vectors)
            torch.mm(scores.T, states)

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        return timed(multiply) / 100
    finally:
        torch.set_float32_matmul_precision(before)


def time_epochs(trainer: CUDANextItem, first: int) -> float:
    """Return the seconds of the third of three epochs; waiting in the last two is an error.

    Args:
        trainer: has not trained yet.
        first: number of the first of them.
    """
    for number in range(first, first + 3):
        torch.cuda.synchronize()
        start = time.perf_counter()
        with no_waiting() if number > first else nullcontext():  # a graph is captured in the first
            total = trainer.epoch(number)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        assert np.isfinite(float(total))
    return seconds


def time_states(kind: Softmax, split: Split, order: np.ndarray, report: Report) -> None:
    """Time epochs of an mf by softmax and of the fast one on the generated data."""
    whole = product_seconds(LARGE, LARGE, LARGE)
    for label, name, config in (
        (kind.label, kind.name, kind.config),
        ('the same with budget="fast"', f"{kind.name}_fast", replace(kind.config, budget="fast")),
    ):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        stage = states_on_cuda(replace(config, epochs=12), split)
        with kind.on_cuda(make_mf(split, stage), split, stage, order) as trainer:
            seconds, num_positions, phases = time_epochs(trainer, 0), trainer.num_positions, trainer.phases(12)
        negatives = min(stage.num_negatives, split.num_items)
        flop = 6 * num_positions * negatives * stage.dim
        batches = num_positions / stage.batch_size
        same = batches * product_seconds(stage.batch_size, negatives, stage.dim) / seconds
        share = flop / seconds / (6 * LARGE**3 / whole)
        peak = torch.cuda.max_memory_allocated() - before
        report.add(
            f"{label}, {stage.dim} dimensions, {negatives:,} negatives, batch {stage.batch_size:,}",
            f"{num_positions / seconds / 1e6:.2f} M positions/s, {flop / seconds / 1e12:.1f} TFLOP/s: {share:.1%} of "
            f"products of {LARGE:,} in TF32, {same:.1%} of those of a batch; peak {peak / 1e9:.2f} GB",
            **{
                f"{name}_positions_per_second": num_positions / seconds,
                f"{name}_share_of_large_products": share,
                f"{name}_share_of_products": same,
                f"{name}_peak_bytes": peak,
            },
        )
        del trainer
        if len(phases) > 1:
            with kind.on_cuda(make_mf(split, stage), split, stage, order) as trainer:
                rate = num_positions / time_epochs(trainer, phases[0])
            report.add(
                f"{label}, epochs beside fixed states",
                f"{rate / 1e6:.2f} M positions/s",
                **{f"{name}_fixed_positions_per_second": rate},
            )


def check_failures(frame: pl.DataFrame, split: Split, report: Report) -> None:
    """Check that a batch too large for the memory is divided, and that a step that cannot be captured still runs.

    The order matters: after a failed capture torch gives no cached memory back.
    """
    part = first_interactions(split, 2_000_000)
    stage = on_cuda(replace(NVIDIA, epochs=1), part)
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (1 << 30)) / total)
    try:
        with AutogradTrainer(make_model(part, stage), part, stage) as trainer:
            assert np.isfinite(float(trainer.epoch(0)))
            size, whole = trainer.microbatch_size, trainer.loader.interactions_per_batch
            assert size < whole, "a batch fits 1 GB, and was meant not to"
            report.add(
                "NVIDIA's configuration in 1 GB",
                f"microbatches of {size:,} of {whole:,} interactions",
                microbatch_size=size,
            )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    users, items = frame["userId"].n_unique(), frame["movieId"].n_unique()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit_on("cuda", frame, model=Waits(users, items), optimizer="adam", epochs=2)
    reasons = [str(one.message) for one in caught if "cannot be captured" in str(one.message)]
    assert reasons, "a step that reads a value back was captured"
    report.add("a step that cannot be captured", reasons[0])


def flops(model: nn.Module) -> float:
    """Return the floating-point operations per sample of all matrix products, forward and backward, nothing shared."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    return 6.0 * sum(layer.in_features * layer.out_features for layer in layers)


def lists_flop(model: nn.Module, lists: CandidateLists[Tensor]) -> float:
    """Return the floating-point operations of scoring lists when both halves of the first layer are known."""
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    pairs = lists.positives.numel() + lists.negatives.numel()
    return 2.0 * pairs * sum(layer.in_features * layer.out_features for layer in layers[1:])


def activation_bytes(stage: Stage) -> float:
    """Return the bytes per sample of activations that are read or written.

    Each is moved eleven times, the least that the matrix products and one pass each way need.
    """
    return 11 * sum(stage.layers) * (4 if stage.precision == "float32" else 2)


def time_training(split: Split, report: Report) -> None:
    """Time epochs on the generated data and measure their memory; waiting inside them is an error."""
    part = first_interactions(split, 2_000_000)
    for label, config, eager in (
        ("notebook's mlp, batch 65,536, float32, operation by operation", replace(NOTEBOOK, precision="float32"), True),
        ("notebook's mlp, batch 65,536, float32", replace(NOTEBOOK, precision="float32"), False),
        ("notebook's mlp, batch 65,536, bfloat16, deterministic", replace(NOTEBOOK, deterministic=True), False),
        ("notebook's mlp, batch 65,536, bfloat16", NOTEBOOK, False),
        ("NVIDIA's neumf, batch 1,048,576, float32", replace(NVIDIA, precision="float32"), False),
        ("NVIDIA's neumf, batch 1,048,576, bfloat16", NVIDIA, False),
    ):
        trained_on = part if eager else split
        stage = replace(on_cuda(replace(config, epochs=2), trained_on), trainer="autograd")
        seconds, peak, model = run_epochs(trained_on, stage, eager=eager)
        samples = len(trained_on.indices) * (1 + stage.num_negatives)
        rate = samples / seconds
        share = rate * flops(model) / report.values["bf16_flop_per_second"]
        key = "_".join(
            [stage.model, config.precision or "bfloat16"] + ["eager"] * eager + ["deterministic"] * config.deterministic
        )
        report.add(
            label,
            f"{rate / 1e6:.1f} M samples/s, {rate * flops(model) / 1e12:.1f} TFLOP/s ({share:.1%} of the product's), "
            f"at least {rate * activation_bytes(stage) / 1e12:.2f} TB/s of activations, peak {peak / 1e9:.2f} GB",
            **{f"{key}_samples_per_second": rate, f"{key}_peak_bytes": peak},
        )


def run_epochs(split: Split, stage: Stage, *, eager: bool) -> tuple[float, int, nn.Module]:
    """Train two epochs by autograd, and ten more batches in which waiting for the device is an error.

    Returns:
        Seconds of the second epoch, peak memory in bytes, and the model.
    """
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    model = make_model(split, stage)
    with deterministic(stage.deterministic), AutogradTrainer(model, split, stage) as trainer:
        if eager:
            trainer.no_graph_reason = "asked for"
        assert np.isfinite(float(trainer.epoch(0)))
        torch.cuda.synchronize()
        start = time.perf_counter()
        loss = trainer.epoch(1)
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        assert np.isfinite(float(loss)), "the loss is not finite"
        trainer.step.zero_()
        with no_waiting():
            for rows in list(trainer.loader.batch_indices())[:10]:
                is_full = len(rows) == trainer.loader.interactions_per_batch
                if is_full and trainer.no_graph_reason is None:
                    trainer._run_full_batch()
                else:
                    trainer._run_step(rows)
    return seconds, torch.cuda.max_memory_allocated() - before, model


def time_nvidia(split: Split, folder: Path, report: Report) -> None:
    """Time NVIDIA's model in NVIDIA's training loop, with torch's fused Adam instead of apex's."""
    spec = importlib.util.spec_from_file_location("neumf", folder / "neumf.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    size = 1_048_576
    with loader_of(split, num_epochs=1) as loader:
        loader.load(0)
        batch = loader.gather(loader.order[: size // 5])
    users = batch.user.repeat_interleave(5).long()
    items = torch.cat([batch.positive.unsqueeze(1), batch.negatives], 1).reshape(-1).long()
    labels = torch.tensor([1.0, 0, 0, 0, 0], device=CUDA).repeat(len(batch.user)).unsqueeze(1)
    for amp in (False, True):
        model = module.NeuMF(split.num_users, split.num_items, 64, [256, 256, 128, 64], dropout=0.5).to(CUDA)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.0045, betas=(0.25, 0.5), fused=True)
        criterion = nn.BCEWithLogitsLoss(reduction="none")
        scaler = torch.amp.GradScaler(enabled=amp)
        torch.backends.cuda.matmul.allow_tf32 = True

        def steps(
            model: nn.Module = model, optimizer: Any = optimizer, scaler: Any = scaler, amp: bool = amp
        ) -> Tensor:
            for _ in range(5):
                with torch.autocast("cuda", torch.float16, enabled=amp):
                    loss = criterion(model(users, items), labels).float().view(-1).mean()  # noqa: B023
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
                for parameter in model.parameters():
                    parameter.grad = None
            return loss

        rate = 5 * len(users) / timed(steps)
        assert np.isfinite(steps().item()), "the loss is not finite"
        torch.backends.cuda.matmul.allow_tf32 = False
        key = "amp" if amp else "tf32"
        report.add(
            f"NVIDIA's own model and loop, batch 1,048,576, {key}",
            f"{rate / 1e6:.1f} M samples/s",
            **{f"nvidia_{key}_samples_per_second": rate},
        )


def time_loader(split: Split, report: Report) -> None:
    """Time a DataLoader that feeds the same model, on a part of an epoch."""
    model = make_model(split, on_cuda(NOTEBOOK, split))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.001)
    count = 100_000
    rows_of = torch.arange(count)
    data = TensorDataset(rows_of % split.num_users, rows_of % split.num_items, (rows_of % 5 == 0).float())

    def loop() -> None:
        for users, items, labels in DataLoader(data, batch_size=512):
            logits = model(users.to(CUDA), items.to(CUDA))
            loss = nn.functional.binary_cross_entropy_with_logits(logits, labels.to(CUDA))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    rate = count / timed(loop, repeats=1)
    assert all(parameter.isfinite().all() for parameter in model.parameters()), "the parameters are not finite"
    report.add(
        "notebook's mlp behind a DataLoader, batch 512",
        f"{rate / 1e6:.2f} M samples/s",
        loader_samples_per_second=rate,
    )


def time_evaluation(split: Split, report: Report) -> None:
    """Time candidate lists of all users, 1+99 and 1+999, and the full ranking of a tenth of them."""
    users = np.flatnonzero(split.test_item >= 0).astype(np.int32)
    positives = split.test_item[users]
    indptr, indices = split.seen()
    for count in (99, 999):
        negatives = sample_candidates(indptr, indices, split.num_items, users, count, seed_key=1)
        lists = on_device(CandidateLists(users, positives, negatives), CUDA)
        for name, config in (("notebook's mlp", NOTEBOOK), ("mf", MF_BY_ADAM), ("NVIDIA's neumf", NVIDIA)):
            model = make_model(split, on_cuda(config, split))
            ranks = rank_candidates(model, lists)
            part = CandidateLists(lists.users[:500], lists.positives[:500], lists.negatives[:500])
            on_cpu = CandidateLists(part.users.to(CPU), part.positives.to(CPU), part.negatives.to(CPU))
            same = rank_candidates(model.to(CPU), on_cpu)
            assert ((ranks[:500].cpu() - same).abs() <= 1).float().mean() > 0.98, "ranks differ from the CPU's"
            model.to(CUDA)
            seconds = timed(lambda model=model, lists=lists: rank_candidates(model, lists))  # type: ignore[misc]
            report.add(
                f"{name}: {len(users):,} lists of 1+{count}",
                f"{seconds * 1e3:.1f} ms, {lists_flop(model, lists) / seconds / 1e12:.1f} TFLOP/s",
                **{f"{config.model}_evaluate_{count}_seconds": seconds},
            )
    some = len(users) // 10
    args = (torch.from_numpy(users[:some]).to(CUDA), torch.from_numpy(positives[:some]).to(CUDA))
    for name, config in (("notebook's mlp", NOTEBOOK), ("mf", MF_BY_ADAM)):
        model = make_model(split, on_cuda(config, split))
        seconds = timed(
            lambda model=model: rank_catalogue(model, *args, split.indptr, split.indices, split.num_items),  # type: ignore[misc]
            repeats=1,
        )
        report.add(
            f"{name}: full ranking",
            f"{some / seconds:,.0f} users/s",
            **{f"{config.model}_full_ranking_users_per_second": some / seconds},
        )


def whole_run(frame: pl.DataFrame, report: Report) -> None:
    """Time the notebook's mlp from a CSV file to metrics, five epochs.

    Of the two fused runs the second counts, which compiles nothing.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ratings.csv"
        frame.write_csv(path)
        whole_default(path, report)
        for precision in ("float32", "bfloat16", None, None):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            start = time.perf_counter()
            through_torch = patch.object(CUDAMLPTrainer, "why_not", lambda stage, module: "not in this run")
            with nullcontext() if precision is None else through_torch:
                fitted = fastncf.fit(path, config=replace(NOTEBOOK, device=CUDA.type, precision=precision))
            seconds = time.perf_counter() - start
            peak = torch.cuda.max_memory_allocated() - before
            stages = ", ".join(f"{name} {value:.2f}" for name, value in fitted.seconds.items())
            losses = ", ".join(f"{entry['loss']:.4f}" for entry in fitted.training_log)
            report.add(
                f"CSV to metrics, notebook's mlp, 5 epochs, {precision or 'fused'}",
                f"{seconds:.2f} s ({stages}), HR@10 {fitted.metrics['hr@10']:.4f}, NDCG@10 "
                f"{fitted.metrics['ndcg@10']:.4f}, losses {losses}, peak {peak / 1e9:.2f} GB",
                **{
                    f"whole_run_{precision or 'fused'}_seconds": seconds,
                    f"whole_run_{precision or 'fused'}_peak_bytes": peak,
                },
                **{f"whole_run_{precision or 'fused'}_{name}": value for name, value in fitted.metrics.items()},
            )
        code = (
            "import time; start = time.perf_counter(); import fastncf, sys; from benchmarks.gpu import NOTEBOOK; "
            "rec = fastncf.fit(sys.argv[1], config=NOTEBOOK, device=sys.argv[2]); "
            "print(time.perf_counter() - start, *rec.seconds.values())"
        )
        root = Path(__file__).resolve().parents[1]
        run = subprocess.run(
            [sys.executable, "-c", code, str(path), CUDA.type], cwd=root, capture_output=True, text=True, check=True
        )
        whole, *parts = map(float, run.stdout.split())
        stages = ", ".join(f"{name} {value:.2f}" for name, value in zip(STAGES, parts, strict=True))
        report.add(
            "the same in a process of its own, with imports and the start of the device",
            f"{whole:.2f} s ({stages})",
            whole_process_seconds=whole,
        )


def whole_default(path: Path, report: Report) -> None:
    """Time the default model from a CSV file to metrics, and the fast one, each for the second time."""
    for budget in ("best", "best", "fast", "fast"):
        start = time.perf_counter()
        fitted = fastncf.fit(path, config=replace(DEFAULT, device=CUDA.type, budget=budget))
        seconds = time.perf_counter() - start
        stages = ", ".join(f"{name} {value:.2f}" for name, value in fitted.seconds.items())
        key = f"whole_run_default_{budget}"
        report.add(
            f"CSV to metrics, the default model, budget={budget}, trainer {fitted.plan.final.trainer}",
            f"{seconds:.2f} s ({stages}), HR@10 {fitted.metrics['hr@10']:.4f}, NDCG@10 {fitted.metrics['ndcg@10']:.4f}",
            **{f"{key}_seconds": seconds},
            **{f"{key}_{name}": value for name, value in fitted.metrics.items()},
        )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=138_493, help="size of the generated data")
    parser.add_argument("--items", type=int, default=26_744)
    parser.add_argument("--interactions", type=int, default=20_000_263)
    parser.add_argument("--nvidia", type=Path, help="folder of NVIDIA's PyTorch/Recommendation/NCF")
    parser.add_argument(
        "--write",
        type=Path,
        metavar="JSON",
        help="write the table of RESULTS.md from the JSON of a run, and nothing else",
    )
    options = parser.parse_args()
    if options.write:
        from benchmarks.report import PAGE, write_between  # a measurement does without what it imports

        write_between(PAGE, "gpu", "\n".join(lines(json.loads(options.write.read_text(encoding="utf-8")))))
        return
    if CUDA.type == "cuda" and not torch.cuda.is_available():
        print("benchmarks/gpu.py: no CUDA device here, so nothing was checked or measured")
        return
    report = Report(
        {
            "benchmark": "gpu",
            "device": torch.cuda.get_device_name(),
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "triton": version("triton"),
            "cuda": torch.version.cuda,
            "polars": pl.__version__,
            "fastncf": fastncf.__version__,
        }
    )
    best = ceilings()
    report.add("a copy", f"{best['copy_bytes_per_second'] / 1e12:.2f} TB/s, read and written", **best)
    report.add("a bf16 matrix product", f"{best['bf16_flop_per_second'] / 1e12:.0f} TFLOP/s")
    small = synthetic_movielens(options.users // 60, options.items // 20, options.interactions // 200).collect()
    frame = synthetic_movielens(options.users, options.items, options.interactions).collect()
    interactions = read_interactions(frame)
    split = leave_one_out(interactions)
    order = time_order(interactions, split)
    failed = False
    for part in (
        lambda: check_failures(small, split, report),
        lambda: check_draws(split, report),
        lambda: check_models(small, report),
        lambda: check_fused(split, report),
        lambda: check_states(STATES, split, order, report),
        lambda: check_states(SETS, split, order, report),
        lambda: time_states(STATES, split, order, report),
        lambda: time_states(SETS, split, order, report),
        lambda: show_timeline(split, report),
        lambda: time_loader(split, report),
        lambda: time_training(split, report),
        lambda: time_nvidia(split, options.nvidia, report) if options.nvidia else None,
        lambda: time_evaluation(split, report),
        lambda: whole_run(frame, report),
    ):
        try:
            part()
        except Exception:  # the other parts still run
            traceback.print_exc()
            failed = True
    header = f"{report.values['device']}, torch {torch.__version__}, CUDA {torch.version.cuda}"
    header += f", Triton {report.values['triton']}, Python {platform.python_version()}"
    print(header, report.table(), sep="\n")
    print(json.dumps(report.values))
    RESULTS.mkdir(exist_ok=True)
    stem = RESULTS / f"gpu-{report.values['date']}"
    stem.with_suffix(".json").write_text(json.dumps(report.values, indent=2) + "\n")
    stem.with_suffix(".txt").write_text(f"{header}\n{report.table()}\n")
    sys.exit(failed)


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of ``RESULTS.md`` from the JSON of a run."""

    def figure(value: float) -> str:
        return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"

    def millions(*names: str) -> str:
        return ", ".join(f"{figure(found[f'{name}_samples_per_second'] / 1e6)} M" for name in names)

    def ms(kind: str) -> str:
        seconds = [found[f"{name}_evaluate_{kind}_seconds"] for name in ("mf", "mlp", "neumf")]
        return ", ".join(f"{figure(value * 1e3)} ms" for value in seconds)

    def whole(name: str) -> str:
        return (
            f"{found[f'whole_run_{name}_seconds']:.1f} s, {found[f'whole_run_{name}_peak_bytes'] / 1e9:.2f} GB, "
            f"HR@10 {found[f'whole_run_{name}_hr@10']:.4f}, NDCG@10 {found[f'whole_run_{name}_ndcg@10']:.4f}"
        )

    yield (
        f"One run on {found['date']}: {found['device']}, torch {found['torch']}, Triton {found['triton']}, Python "
        f"{found['python']}; a copy moves {found['copy_bytes_per_second'] / 1e12:.2f} TB/s there, a bf16 matrix "
        f"product runs at {found['bf16_flop_per_second'] / 1e12:.0f} TFLOP/s."
    )
    yield ""
    yield "| what | figure |"
    yield "|---|---|"
    yield f"| CSV to metrics, the notebook's `mlp`, 5 epochs, batch 65,536: fused | **{whole('fused')}** |"
    yield f"| the same through torch in bfloat16 | {whole('bfloat16')} |"
    yield f"| the same through torch in float32 | {whole('float32')} |"
    kinds = millions("mlp_fused", "mlp_bfloat16", "mlp_float32", "mlp_float32_eager")
    yield f"| training it, samples/s: fused; graph in bfloat16, in float32; operation by operation | {kinds} |"
    yield f"| the deterministic mode, samples/s | {millions('mlp_bfloat16_deterministic')} |"
    yield f"| the same model behind a DataLoader, batch 512, samples/s | {millions('loader')} |"
    nvidia = f"**{millions('neumf_bfloat16')}**, {millions('neumf_float32')}"
    yield (
        f"| NVIDIA's configuration of NeuMF (f 64, dropout .5, batch 1,048,576), samples/s: bfloat16, float32 | "
        f"{nvidia} |"
    )
    yield (
        f"| NVIDIA's own model and loop in the same run, samples/s: mixed precision, TF32 | "
        f"{millions('nvidia_amp', 'nvidia_tf32')} |"
    )
    yield f"| 138,493 lists of 1 + 99 (13.85 M pairs): `mf`, notebook's `mlp`, NVIDIA's NeuMF | {ms('99')} |"
    yield f"| 138,493 lists of 1 + 999: the same | {ms('999')} |"
    ranked = ", ".join(f"{found[f'{name}_full_ranking_users_per_second']:,.0f}" for name in ("mf", "mlp"))
    yield f"| full ranking, training items left out, users/s: `mf`, notebook's `mlp` | {ranked} |"
    draws = f"{found['device_draws_seconds'] * 1e3:.1f} ms, {found['cpu_draws_seconds'] * 1e3:.1f} ms"
    yield f"| order and 80 M negatives of an epoch: on the device; the negatives by the CPU's cores | {draws} |"
    if "sets_positions_per_second" in found:
        names = "sets", "sets_fixed", "sets_fast", "sets_fast_fixed"
        rates = ", ".join(f"{found[f'{name}_positions_per_second'] / 1e6:.2f} M" for name in names)
        yield f'| the `mf` of data without an order, positions/s: both epochs, with `budget="fast"` | {rates} |'
    if "states_positions_per_second" in found:
        rates = ", ".join(f"{found[f'{name}_positions_per_second'] / 1e6:.2f} M" for name in ("states", "states_fast"))
        shares = ", ".join(f"{found[f'{name}_share_of_large_products']:.1%}" for name in ("states", "states_fast"))
        seconds = ", ".join(f"{found[f'whole_run_default_{budget}_seconds']:.1f} s" for budget in ("best", "fast"))
        yield f'| the default `mf`, positions/s: as it is, with `budget="fast"` | {rates} |'
        yield f"| the same, share of the speed of large products in TF32 | {shares} |"
        yield f"| the same, CSV to metrics | {seconds} |"
    gaps = [max(value for name, value in found.items() if name.endswith(f"{kind}_gap")) for kind in ("loss", "metric")]
    yield f"| CUDA against the CPU, every model and precision: losses, metrics within | {gaps[0]:.0e}, {gaps[1]:.4f} |"


def version(package: str) -> str:
    """Return the version of a package, or ``none`` if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


if __name__ == "__main__":
    main()
