"""Compiles every Triton kernel for CUDA devices that need not be there.

Run ``python -m tests.kernels.compile_cuda 80 90 100``. Where a kernel would be started, it is compiled to
machine code for each compute capability and not run. Prints a JSON list of [capability, kernel, bytes of shared memory,
registers of a thread, bytes of a thread's stack in memory].
"""

import itertools
import json
import re
import subprocess
import sys
import tempfile
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import triton
from torch import nn
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction

from fastncf.data.split import Split
from fastncf.kernels.cuda.draws import DeviceAliasTable, DeviceCSR, fill_negatives, fill_order
from fastncf.kernels.cuda.layers import fused_hidden_layers
from fastncf.kernels.cuda.mlp import MLPShape, StepTensors, adam_step, add_gradients
from fastncf.kernels.cuda.rows import Dot, Gather
from fastncf.kernels.cuda.scores import score_by_layers
from fastncf.models.mf import MF
from fastncf.trainers.cuda_next_item import CUDANextItem
from fastncf.trainers.cuda_other_items import CUDAOtherItems
from tests.stages import make_stage

DIM, NUM_NEGATIVES = 64, 4


def ints(*shape: int, dtype: torch.dtype = torch.int32) -> torch.Tensor:
    return torch.zeros(shape, dtype=dtype)


def start_all() -> None:
    """Start each kernel in the shapes of the largest models that it is meant for."""
    fill_order(ints(100), 10, 10, [1, 2, 3, 4])
    longs = ints(9, dtype=torch.int64)
    csr = DeviceCSR(ints(8), longs, ints(8), num_items=1000, max_row_length=8)
    for alias_table in (None, DeviceAliasTable(longs, ints(8), 3, longs)):
        fill_negatives(ints(8, NUM_NEGATIVES), csr, ints(1, 13, 2), alias_table)
    table = torch.zeros(10, DIM, requires_grad=True)
    for dtype, dropout in ((torch.float32, 0.0), (torch.bfloat16, 0.5)):
        Gather.apply(table, ints(8, 5), dtype).sum().backward()
        user, item = (torch.zeros(8, n, DIM, dtype=dtype, requires_grad=True) for n in (1, 5))
        layers = [nn.Linear(2 * DIM, 256), nn.Linear(256, 128)]
        fused_hidden_layers(layers, user, item, dropout).sum().backward()
    Dot.apply(table, table, table[0], ints(8), ints(8, 5)).sum().backward()
    for widths in ((256, 128, 64), (64, 32)):
        halves = torch.zeros(10, widths[0])
        weights = [(torch.zeros(b, a), torch.zeros(b)) for a, b in itertools.pairwise(widths)]
        out, items = torch.zeros(8, 100), ints(8, 100)
        score_by_layers(out, halves, halves, ints(8), items, weights, torch.zeros(widths[-1] + 1))
    start_mlp()
    start_next_item()


def start_next_item() -> None:
    """Start the kernels of an epoch of states, and of both kinds of sets', for usual widths and for the widest."""
    indptr, missing = np.array([0, 9, 200]), np.full(2, -1, dtype=np.int32)
    order = np.concatenate([np.arange(9), np.arange(191)]).astype(np.int32)
    split = Split(1000, indptr, order, missing, missing, 0, 0, 0, "latest")
    for dim, changes in ((128, {}), (128, {"precision": "bfloat16", "dropout": 0.3}), (256, {"precision": "bfloat16"})):
        settings = {"dim": dim, "loss": "softmax", "num_negatives": 700, "batch_size": 1000, "epochs": 2, **changes}
        CUDANextItem(MF(2, 1000, dim), split, make_stage(history="sequence", **settings), order).epoch(0)
        if changes:
            sets = CUDAOtherItems(MF(2, 1000, dim), split, make_stage(history="bag", **settings))
            for number in range(2):
                sets.epoch(number)


def start_mlp() -> None:
    """Start the kernels of a whole step, for the smallest and the largest vectors."""
    flat, step = torch.zeros(10_000), ints(1, dtype=torch.int64)
    tensors = StepTensors(
        *(flat, flat, flat, flat, torch.zeros(1, 2), torch.zeros(1).double()),
        *(ints(8), ints(8), ints(8), ints(8, NUM_NEGATIVES), step),
    )
    for dim in (8, 64):
        add_gradients(tensors, MLPShape(10, 10, dim, 64, 32), 0, 8, 8, 0.0)
    adam_step(tensors, 0)
    with patch("fastncf.kernels.cuda.mlp.INT32_LIMIT", 0):  # as with so many parameters that positions need 64 bits
        add_gradients(tensors, MLPShape(10, 10, 64, 64, 32), 0, 8, 8, 0.0)
        adam_step(tensors, 0)


def resources(kernel: Any) -> tuple[int, int, int]:
    """Return the bytes of shared memory of a compiled kernel, the registers of a thread, and the bytes of its stack."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found, usage
    return kernel.metadata.shared, int(found[1]), int(found[2])


def compile_all(capability: int) -> list[tuple[int, str, int, int, int]]:
    """Return what is printed, for one compute capability."""
    compiled = []
    start = JITFunction.run

    def compile_only(self, *args, warmup, **options):  # type: ignore[no-untyped-def]
        kernel = start(self, *args, warmup=True, **options)
        compiled.append((capability, self.fn.__name__, *resources(kernel)))

    device = SimpleNamespace(
        get_current_device=lambda: capability,
        get_current_stream=lambda device: 0,
        get_current_target=lambda: GPUTarget("cuda", capability, 32),
    )
    triton.runtime.driver.set_active(device)
    with patch.object(JITFunction, "run", compile_only):
        start_all()
    return compiled


if __name__ == "__main__":
    print(json.dumps([line for argument in sys.argv[1:] for line in compile_all(int(argument))]))
